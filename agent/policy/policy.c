/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "policy/policy.h"

#include "common/util.h"

/* Candidates looked at per second and process at the normal budget of 0.1 %,
   in proportion for others; and the most at any budget below 100 %: 128 MiB/s. */
#define NORMAL_BUDGET 0.001
#define NORMAL_PAGES_PER_SEC 2000.0
#define MAX_PAGES_PER_SEC 32768.0
#define SHARE_WINDOW_NS (10 * NSEC_PER_SEC)
/* Room kept in a control group: a sixteenth of its limit, at least 16 MiB. */
#define ROOM_SHARE 16
#define ROOM_MIN ((uint64_t)16 << 20)

static uint64_t limit_of(const struct policy *p, const struct policy_facts *f)
{
	uint64_t limit = UINT64_MAX;

	if (p->limit_bytes)
		limit = p->limit_bytes;
	if (p->limit_share > 0)
		limit = MIN(limit, (uint64_t)(p->limit_share * (double)(f->resident_bytes + f->evicted_bytes)));
	if (f->own_limit_bytes)
		limit = f->own_limit_bytes;
	return limit;
}

uint64_t policy_missing_room(const struct policy_facts *f)
{
	uint64_t wanted = MAX(f->group_limit_bytes / ROOM_SHARE, ROOM_MIN);

	return f->group_limit_bytes && f->group_room_bytes < wanted ? (wanted - f->group_room_bytes) >> PAGE_SHIFT : 0;
}

uint64_t policy_quota(const struct policy *p, const struct policy_facts *f)
{
	uint64_t spare, limit = limit_of(p, f), over;
	double rate;

	if (f->store_full || f->resident_bytes <= p->min_resident)
		return 0;
	spare = (f->resident_bytes - p->min_resident) >> PAGE_SHIFT;
	if (f->age_ns < p->start_delay_ns)
		return MIN(spare, policy_missing_room(f));
	over = f->resident_bytes > limit ? (f->resident_bytes - limit + PAGE_BYTES - 1) >> PAGE_SHIFT : 0;
	over = MAX(over, policy_missing_room(f));
	if (p->stall_budget >= 1.0)
		return spare;
	rate = MIN(NORMAL_PAGES_PER_SEC * p->stall_budget / NORMAL_BUDGET, MAX_PAGES_PER_SEC);
	if (f->stall_share > p->stall_budget)
		rate = 0;
	return MIN(spare, MAX(over, (uint64_t)(rate * (double)f->tick_ns / (double)NSEC_PER_SEC)));
}

double policy_stall_share(double before, uint64_t stall_ns, uint64_t wall_ns)
{
	double weight;

	if (wall_ns == 0)
		return before;
	weight = (double)wall_ns / (double)(wall_ns + SHARE_WINDOW_NS);
	return before + weight * ((double)stall_ns / (double)wall_ns - before);
}
