/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "proc/ranges.h"

#include <errno.h>
#include <string.h>

#include "common/util.h"

void ranges_deinit(struct ranges *set)
{
	free(set->v);
	*set = (struct ranges){ 0 };
}

static int make_room(struct ranges *set, size_t nr)
{
	struct range *v;
	size_t room;

	if (nr <= set->room)
		return 0;
	room = MAX(nr, set->room * 2 + 8);
	v = realloc(set->v, room * sizeof(*v));
	if (!v)
		return -ENOMEM;
	set->v = v;
	set->room = room;
	return 0;
}

/* Index of the first range that ends after address. */
static size_t lower(const struct ranges *set, uint64_t address)
{
	size_t lo = 0, hi = set->nr;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (set->v[mid].end <= address)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static void replace(struct ranges *set, size_t at, size_t old, const struct range *with, size_t nr)
{
	memmove(&set->v[at + nr], &set->v[at + old], (set->nr - at - old) * sizeof(*set->v));
	for (size_t i = 0; i < nr; i++)
		set->v[at + i] = with[i];
	set->nr = set->nr - old + nr;
	set->changes++;
}

int ranges_add(struct ranges *set, uint64_t start, uint64_t end)
{
	struct range joined = { start, end };
	size_t first, last;

	if (start >= end)
		return 0;
	if (make_room(set, set->nr + 1) < 0)
		return -ENOMEM;
	/* From start - 1, so that one that ends exactly at start is joined. */
	first = lower(set, start ? start - 1 : 0);
	for (last = first; last < set->nr && set->v[last].start <= end; last++) {
		joined.start = MIN(joined.start, set->v[last].start);
		joined.end = MAX(joined.end, set->v[last].end);
	}
	replace(set, first, last - first, &joined, 1);
	return 0;
}

int ranges_remove(struct ranges *set, uint64_t start, uint64_t end)
{
	struct range rest[2];
	size_t first, last, nr = 0;

	if (start >= end)
		return 0;
	if (make_room(set, set->nr + 1) < 0)
		return -ENOMEM;
	first = lower(set, start);
	for (last = first; last < set->nr && set->v[last].start < end; last++)
		;
	if (first == last)
		return 0;
	if (set->v[first].start < start)
		rest[nr++] = (struct range){ set->v[first].start, start };
	if (set->v[last - 1].end > end)
		rest[nr++] = (struct range){ end, set->v[last - 1].end };
	replace(set, first, last - first, rest, nr);
	return 0;
}

int ranges_copy(struct ranges *to, const struct ranges *from)
{
	if (make_room(to, from->nr) < 0)
		return -ENOMEM;
	if (from->nr)
		memcpy(to->v, from->v, from->nr * sizeof(*to->v));
	to->nr = from->nr;
	to->changes++;
	return 0;
}

const struct range *ranges_after(const struct ranges *set, uint64_t address)
{
	size_t i = lower(set, address);

	return i < set->nr ? &set->v[i] : NULL;
}

const struct range *ranges_find(const struct ranges *set, uint64_t address)
{
	const struct range *r = ranges_after(set, address);

	return r && r->start <= address ? r : NULL;
}

bool ranges_cover(const struct ranges *set, uint64_t start, uint64_t end)
{
	const struct range *r = ranges_find(set, start);

	return r && r->end >= end;
}

uint64_t ranges_bytes(const struct ranges *set)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < set->nr; i++)
		sum += set->v[i].end - set->v[i].start;
	return sum;
}

int ranges_bag_add(struct ranges *bag, uint64_t start, uint64_t end)
{
	if (start >= end)
		return 0;
	if (make_room(bag, bag->nr + 1) < 0)
		return -ENOMEM;
	bag->v[bag->nr++] = (struct range){ start, end };
	return 0;
}

bool ranges_bag_take(struct ranges *bag, uint64_t start, uint64_t end, struct range *taken)
{
	struct range *best = NULL;
	struct range whole;

	if (make_room(bag, bag->nr + 1) < 0) /* for a split */
		return false;
	for (struct range *r = bag->v; r < bag->v + bag->nr; r++)
		if (r->start < end && start < r->end &&
		    (!best || MAX(r->start, start) < MAX(best->start, start)))
			best = r;
	if (!best)
		return false;
	whole = *best;
	*taken = (struct range){ MAX(whole.start, start), MIN(whole.end, end) };
	*best = bag->v[--bag->nr];
	if (whole.start < taken->start)
		bag->v[bag->nr++] = (struct range){ whole.start, taken->start };
	if (taken->end < whole.end)
		bag->v[bag->nr++] = (struct range){ taken->end, whole.end };
	return true;
}
