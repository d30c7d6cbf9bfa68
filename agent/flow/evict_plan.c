/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Eviction, before the first step: which pages next. A clock hand goes round
 * the eligible mappings and takes what is resident; whether a page is really
 * cold, its time in staging shows (second chance).
 */
#include "flow/flow.h"

#include "common/util.h"
#include "sys/pagemap.h"

#define SCANS_MAX 256 /* looks into the page table in one go */

void evict_plan_round(struct session *s)
{
	s->scanned_from = s->hand;
	s->wrapped = false;
}

/* ---- guards ---- */

#define GUARDS_LOOKED_AT 64
#define ADDRESSES_END (((uint64_t)1 << 47) - PAGE_BYTES) /* the kernel knows no more */

static bool is_guarded(const struct session *s, const struct mapping *map)
{
	const struct range *r = ranges_after(&s->guarded, map->start);

	return r && r->start < map->end;
}

/* A stack's own guard is beside what is held anyway. */
static bool holds_a_thread(const struct session *s, const struct mapping *map)
{
	const struct range *r = ranges_after(&s->mappings.held, map->start);

	return r && r->start < map->end;
}

/* True: it is one more. */
static bool leave_alone(struct session *s, uint64_t address)
{
	const struct mapping *map = mappings_after(&s->mappings, address);

	return map && map->start <= address && !is_guarded(s, map) && !holds_a_thread(s, map) &&
	       ranges_add(&s->guarded, map->start, map->end) == 0;
}

bool evict_look_for_guards(struct session *s)
{
	uint64_t emptied = atomic_exchange_explicit(&s->emptied, 0, memory_order_relaxed);
	struct page_region regions[GUARDS_LOOKED_AT];
	bool found = emptied && leave_alone(s, emptied);

	for (uint64_t at = 0; at < ADDRESSES_END;) {
		int n = pagemap_scan_guards(s->fds.pagemap, at, ADDRESSES_END, regions, GUARDS_LOOKED_AT, &at);

		for (int i = 0; i < n; i++)
			found |= leave_alone(s, regions[i].start);
	}
	return found;
}

/* ---- the clock hand ---- */

/* Moves the hand to the next eligible address; *end is where the stretch ends.
   NULL: once round. */
static const struct mapping *next_stretch(struct session *s, uint64_t *end)
{
	for (;;) {
		const struct mapping *map = mappings_after(&s->mappings, s->hand);
		const struct range *held;

		if (map && is_guarded(s, map)) {
			s->hand = map->end;
			continue;
		}
		if (!map) {
			if (s->wrapped)
				return NULL;
			s->wrapped = true;
			s->hand = 0;
			continue;
		}
		s->hand = MAX(s->hand, map->start);
		*end = map->end;
		held = ranges_after(&s->mappings.held, s->hand);
		if (held && held->start <= s->hand) {
			s->hand = held->end;
			continue;
		}
		if (held)
			*end = MIN(*end, held->start);
		if (s->wrapped && s->hand >= s->scanned_from)
			return NULL;
		return map;
	}
}

static void take_regions(struct batch *b, const struct page_region *regions, int nr, unsigned max)
{
	for (int i = 0; i < nr; i++)
		for (uint64_t a = regions[i].start; a < regions[i].end && b->nr < max; a += PAGE_BYTES)
			b->page[b->nr++] = (struct batch_page){ .vpn = a >> PAGE_SHIFT };
}

/* A batch without pages has its mapping registered. */
static bool plan_torn(struct session *s, struct batch *b)
{
	while (s->mappings.torn.nr) {
		const struct range *r = &s->mappings.torn.v[--s->mappings.torn.nr];
		const struct mapping map = { r->start, r->end };

		if (is_guarded(s, &map))
			continue;
		b->map_start = map.start;
		b->map_end = map.end;
		return true;
	}
	return false;
}

bool evict_plan(struct session *s, struct batch *b, unsigned max)
{
	struct page_region regions[WIRE_BATCH];
	const struct mapping *map;
	uint64_t end;

	assert(max > 0 && max <= WIRE_BATCH);
	s->round_open = false;
	if (plan_torn(s, b))
		return true;
	for (unsigned scans = 0; scans < SCANS_MAX; scans++) {
		int n;

		map = next_stretch(s, &end);
		if (!map)
			return false;
		n = pagemap_scan_resident(s->fds.pagemap, s->hand, end, regions, WIRE_BATCH, max, &s->hand);
		if (n < 0)
			return false;
		if (n == 0)
			continue;
		b->map_start = map->start;
		b->map_end = map->end;
		take_regions(b, regions, n, max);
		return true;
	}
	s->round_open = true;
	return false;
}
