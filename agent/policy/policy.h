/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * policy: how much may leave a process now. Pure functions of a snapshot: no
 * state, no clock, no I/O; any thread.
 */
#ifndef USWAP_POLICY_POLICY_H
#define USWAP_POLICY_POLICY_H

#include <stdbool.h>
#include <stdint.h>

struct policy {
	double stall_budget;	 /* share of wall time, 0 .. 1; 1: no brake at all */
	uint64_t min_resident;	 /* bytes */
	uint64_t start_delay_ns;
	uint64_t limit_bytes;	 /* 0: none */
	double limit_share;	 /* of resident + evicted, 0: none */
};

struct policy_facts {
	uint64_t age_ns;	/* since the process attached */
	uint64_t tick_ns;	/* since the last verdict */
	uint64_t resident_bytes;
	uint64_t evicted_bytes;
	uint64_t own_limit_bytes; /* set for this process alone, 0: none */
	double stall_share;	/* of wall time its threads waited for us lately */
	bool store_full;	/* a page found no room a moment ago */
	/* The nearest memory limit of its control groups and what is left below
	   it; a limit of 0: none. */
	uint64_t group_limit_bytes, group_room_bytes;
};

/* Pages that may leave until the next verdict. A resident limit overrides the
   stall budget, a control group that is nearly full StartDelaySec as well;
   nothing overrides MinResident. */
uint64_t policy_quota(const struct policy *policy, const struct policy_facts *facts);

/* Pages that must leave for a restore, or a program that grows, to find room in
   its control group until we look again. */
uint64_t policy_missing_room(const struct policy_facts *facts);

/* The moving average of the stall share over about ten seconds. */
double policy_stall_share(double before, uint64_t stall_ns, uint64_t wall_ns);

#endif
