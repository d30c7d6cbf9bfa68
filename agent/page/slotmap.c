/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "page/slotmap.h"

#include <errno.h>
#include <string.h>

#include "page/slot_tree.h"

void slotmap_init(struct slotmap *map, struct slot_pool *pool, const struct slot_refs *refs,
		  void *ctx)
{
	*map = (struct slotmap){ .pool = pool, .refs = refs, .ctx = ctx };
}

void slotmap_deinit(struct slotmap *map)
{
	uint64_t done;
	int r = slotmap_clear(map, 0, SLOTMAP_VPN_MAX, SLOT_NONE, &done);

	assert(!r && !map->root); /* whole leaves need no nodes */
	(void)r;
}

slot_t slotmap_get(const struct slotmap *map, uint64_t vpn)
{
	uint64_t next;
	leaf_ref leaf;

	if (vpn >= SLOTMAP_VPN_MAX)
		return 0;
	leaf = slot_tree_find(map, vpn, &next);
	return leaf ? slot_load(&leaf_slots(map, leaf)[leaf_index(vpn)]) : 0;
}

int slotmap_set(struct slotmap *map, uint64_t vpn, slot_t slot)
{
	slot_t old = slotmap_get(map, vpn);
	leaf_ref leaf;
	uint64_t next;
	int r;

	assert(slot_step_is_legal(slot_state(old), slot_state(slot)));
	assert(slot_state(slot) != SLOT_NONE || !slot); /* a leaf of NONE is all zeros */
	if (old == slot)
		return 0;
	leaf = slot_tree_find(map, vpn, &next);
	r = leaf ? slot_tree_own(map, leaf, 0, 0) : slot_tree_make(map, vpn, &leaf);
	if (r)
		return r;
	slot_count(map, old, -1);
	slot_count(map, slot, 1);
	slot_store(&leaf_slots(map, leaf)[leaf_index(vpn)], slot);
	return 0;
}

/* Slots vpn .. stop-1 of one leaf. */
static int clear_in_leaf(struct slotmap *map, leaf_ref leaf, uint64_t vpn, uint64_t stop,
			 slot_t to)
{
	unsigned lo = leaf_index(vpn);
	unsigned hi = lo + (unsigned)(stop - vpn);
	slot_t *slots = leaf_slots(map, leaf);
	int r;

	if (!to && hi - lo == LEAF_SLOTS) {
		slot_tree_remove(map, vpn);
		return 0;
	}
	if (!to && leaf_is_empty(slots, lo, hi))
		return 0; /* no reason to unshare */
	r = slot_tree_own(map, leaf, lo, hi);
	if (r)
		return r;
	slots = leaf_slots(map, leaf);
	for (unsigned i = lo; i < hi; i++) {
		slot_t old = slots[i];

		slot_count(map, old, -1);
		slot_count(map, to, 1);
		slot_store(&slots[i], to);
		slot_put(map, old);
	}
	if (!to && leaf_is_empty(slots, 0, LEAF_SLOTS))
		slot_tree_remove(map, vpn);
	return 0;
}

int slotmap_clear(struct slotmap *map, uint64_t vpn, uint64_t n, enum slot_state to,
		  uint64_t *done)
{
	uint64_t end = vpn + n;
	int r = 0;

	assert(to == SLOT_NONE || to == SLOT_BARRED);
	assert(end >= vpn && end <= SLOTMAP_VPN_MAX);
	while (vpn < end) {
		uint64_t next;
		leaf_ref leaf = slot_tree_find(map, vpn, &next);

		if (!leaf && to == SLOT_BARRED) {
			r = slot_tree_make(map, vpn, &leaf);
			next = leaf_end(vpn);
		}
		if (leaf && !r)
			r = clear_in_leaf(map, leaf, vpn, MIN(next, end), slot_make(to, 0, to == SLOT_BARRED ? map->bar : 0));
		if (r)
			break;
		vpn = MIN(next, end);
	}
	*done = vpn;
	return r;
}

int slotmap_fork(struct slotmap *child, struct slotmap *parent)
{
	assert(!child->root && child->pool == parent->pool);
	if (slot_pool_ready(parent->pool) < slot_tree_inner_nodes(parent))
		return -ENOMEM;
	slot_tree_set_root(child, slot_tree_share(parent));
	child->unmarked = parent->unmarked;
	for (unsigned i = 0; i < SLOT_STATES; i++)
		atomic_store_explicit(&child->count[i],
				      atomic_load_explicit(&parent->count[i],
							   memory_order_relaxed),
				      memory_order_relaxed);
	return 0;
}

/* all: marked ones, too. */
static inline bool is_in(slot_t slot, unsigned mask, bool all)
{
	return mask >> slot_state(slot) & 1 && (all || !slot_is_marked(slot));
}

static inline uint64_t next_in(const struct slotmap *map, uint64_t vpn, uint64_t end, unsigned mask, bool all)
{
	assert(!(mask & 1u << SLOT_NONE));
	end = MIN(end, SLOTMAP_VPN_MAX);
	while (vpn < end) {
		uint64_t next;
		leaf_ref leaf = slot_tree_find(map, vpn, &next);
		const slot_t *slots = leaf ? leaf_slots(map, leaf) : NULL;

		next = MIN(next, end);
		for (; slots && vpn < next; vpn++)
			if (is_in(slot_load(&slots[leaf_index(vpn)]), mask, all))
				return vpn;
		vpn = next;
	}
	return end;
}

uint64_t slotmap_next(const struct slotmap *map, uint64_t vpn, uint64_t end, unsigned mask)
{
	return next_in(map, vpn, end, mask, true);
}

uint64_t slotmap_next_unmarked(const struct slotmap *map, uint64_t vpn, uint64_t end, unsigned mask)
{
	return next_in(map, vpn, end, mask, false);
}

uint64_t slotmap_run(const struct slotmap *map, uint64_t vpn, uint64_t end, unsigned mask, bool all)
{
	end = MIN(end, SLOTMAP_VPN_MAX);
	while (vpn < end) {
		uint64_t next;
		leaf_ref leaf = slot_tree_find(map, vpn, &next);

		for (next = MIN(next, end); vpn < next; vpn++)
			if (!leaf || !is_in(slot_load(&leaf_slots(map, leaf)[leaf_index(vpn)]), mask, all))
				return vpn;
	}
	return end;
}

static void count_leaf(const slot_t *slots, slotmap_count_fn see, void *ctx)
{
	for (unsigned i = 0; i < LEAF_SLOTS; i++)
		if (slot_has_reference(slot_load(&slots[i])))
			see(ctx, slot_load(&slots[i]));
}

uint64_t slotmap_count(const struct slotmap *map, uint64_t vpn, unsigned leaves, uint8_t *seen, uint32_t nr,
		       slotmap_count_fn see, void *ctx)
{
	while (leaves && vpn < SLOTMAP_VPN_MAX) {
		uint64_t next;
		leaf_ref leaf = slot_tree_find(map, vpn, &next);

		if (leaf && *leaf < nr && !(seen[*leaf / 8] >> *leaf % 8 & 1)) {
			seen[*leaf / 8] |= (uint8_t)(1u << *leaf % 8);
			count_leaf(leaf_slots(map, leaf), see, ctx);
			leaves--;
		}
		vpn = next;
	}
	return vpn;
}

uint32_t slot_pool_nodes(const struct slot_pool *pool)
{
	return atomic_load_explicit(&pool->committed, memory_order_relaxed);
}
