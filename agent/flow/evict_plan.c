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

/* Moves the hand to the next eligible address; *end is where the stretch ends.
   NULL: once round. */
static const struct mapping *next_stretch(struct session *s, uint64_t *end)
{
	for (;;) {
		const struct mapping *map = mappings_after(&s->mappings, s->hand);
		const struct range *held;

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

bool evict_plan(struct session *s, struct batch *b, unsigned max)
{
	struct page_region regions[WIRE_BATCH];
	const struct mapping *map;
	uint64_t end;

	assert(max > 0 && max <= WIRE_BATCH);
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
	return false;
}
