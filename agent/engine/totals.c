/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The engine's totals go on over the death of a worker: whatever has been told is
 * never taken back. What the stores and packers count, they count for themselves and
 * from zero; each time they are asked, and once a second, the sum with what workers
 * before have told goes into kept memory. So the next one begins there, and only what
 * nobody has seen, of the last second, is not counted. Sessions: proc/record.c.
 *
 * Control thread only.
 */
#include "engine/private.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "common/util.h"

static const size_t of_agent[] = {
	offsetof(struct engine_stats, pack_ns_total),
	offsetof(struct engine_stats, packed_total),
	offsetof(struct engine_stats, plain_total),
	offsetof(struct engine_stats, dictionary_total),
	offsetof(struct engine_stats, dictionary_saved_bytes),
	offsetof(struct engine_stats, delta_total),
	offsetof(struct engine_stats, delta_bytes_total),
	offsetof(struct engine_stats, raw_total),
	offsetof(struct engine_stats, recompressed_total),
	offsetof(struct engine_stats, recompress_saved_bytes),
	offsetof(struct engine_stats, compacted_bytes_total),
	offsetof(struct engine_stats, store_errors_total),
	offsetof(struct engine_stats, attach_refused_total),
	offsetof(struct engine_stats, clustered_total),
	offsetof(struct engine_stats, clustered_bytes_total),
	offsetof(struct engine_stats, recompress_ns_total),
	offsetof(struct engine_stats, collect_ns_total),
	offsetof(struct engine_stats, promoted_bytes_total),
	offsetof(struct engine_stats, dictionaries_trained_total),
	offsetof(struct engine_stats, dictionaries_retired_total),
	offsetof(struct engine_stats, duplicate_missed_total),
	offsetof(struct engine_stats, duplicate_passed_total),
};

static const size_t of_tier[] = {
	offsetof(struct engine_tier, written_bytes_total),
	offsetof(struct engine_tier, read_bytes_total),
	offsetof(struct engine_tier, errors_total),
	offsetof(struct engine_tier, io_errors_total),
	offsetof(struct engine_tier, timeouts_total),
	offsetof(struct engine_tier, access_errors_total),
	offsetof(struct engine_tier, missing_total),
	offsetof(struct engine_tier, misuse_total),
	offsetof(struct engine_tier, full_total),
	offsetof(struct engine_tier, corrupt_total),
	offsetof(struct engine_tier, moved_in_bytes_total),
	offsetof(struct engine_tier, collected_bytes_total),
	offsetof(struct engine_tier, borrowed_pages_total),
	offsetof(struct engine_tier, lookups_total),
	offsetof(struct engine_tier, lookup_misses_total),
};

/* Kept: a new one goes behind the last of its kind, and raises LAYOUT_EVENTS. */
_Static_assert(ARRAY_SIZE(of_agent) <= TOTALS_AGENT && ARRAY_SIZE(of_tier) <= TOTALS_TIER, "there is room");
_Static_assert(sizeof(struct totals) <= KEPT_OWN, "in the header");

static void add(uint64_t *kept, const uint64_t *before, void *now, const size_t *offsets, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		uint64_t *value = (uint64_t *)(void *)((char *)now + offsets[i]);

		*value += before[i];
		kept[i] = *value;
	}
}

void totals_find(struct engine *e)
{
	e->before = *(const struct totals *)e->rings.own;
}

void totals_add(struct engine *e, struct engine_stats *stats)
{
	static const uint64_t none[TOTALS_TIER];
	struct totals *kept = e->rings.own;

	add(kept->agent, e->before.agent, stats, of_agent, ARRAY_SIZE(of_agent));
	for (unsigned i = 0; i < stats->nr_tiers; i++) {
		struct engine_tier *tier = &stats->tiers[i];
		char name[sizeof(kept->tiers[i].name)] = { 0 };
		bool same; /* Store= may have changed */

		snprintf(name, sizeof(name), "%s", tier->name);
		same = memcmp(e->before.tiers[i].name, name, sizeof(name)) == 0;
		memcpy(kept->tiers[i].name, name, sizeof(name));
		add(kept->tiers[i].v, same ? e->before.tiers[i].v : none, tier, of_tier, ARRAY_SIZE(of_tier));
	}
}
