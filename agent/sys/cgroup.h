/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The memory limits of the control groups a process is in, of either version:
 * how much it may still take before the kernel kills somebody there. Files that
 * nobody uses are dropped by the kernel before that, so they count as room; those
 * in use are dropped as well, but somebody will read them again.
 *
 * Any thread; opens and reads files, so never on the fault path.
 */
#ifndef USWAP_SYS_CGROUP_H
#define USWAP_SYS_CGROUP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct cgroup_room {
	uint64_t limit; /* bytes, of the group that is nearest to its limit */
	uint64_t room;	/* bytes below it */
	uint64_t last;	/* bytes, where files in use have gone as well: the least of all groups */
};

/* False: no limit applies, or none can be known. */
bool cgroup_read_room(pid_t pid, struct cgroup_room *room);

/* The same for the text of /proc/PID/cgroup and the place where the groups of
   version 2 are mounted; those of version 1 are below it in "memory". */
bool cgroup_find_room(const char *text, const char *mount, struct cgroup_room *room);

/* A number that no other group has or had: of the group the process is in, 0 for the
   outermost one. False: it can't be told. */
bool cgroup_read_id(pid_t pid, uint64_t *id);

#endif
