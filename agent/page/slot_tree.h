/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The tree under a slotmap, for slotmap*.c alone: three levels of inner nodes,
 * then leaves that several maps may share until one of them writes.
 *
 * Synchronization: the pool's owner thread.
 */
#ifndef USWAP_PAGE_SLOT_TREE_H
#define USWAP_PAGE_SLOT_TREE_H

#include "page/slot_pool.h"

/* A leaf as its parent holds it. The pointer stays good until a leaf of this
   map is removed. */
typedef uint32_t *leaf_ref;

static inline unsigned leaf_index(uint64_t vpn)
{
	return (unsigned)(vpn & (LEAF_SLOTS - 1));
}

static inline uint64_t leaf_end(uint64_t vpn)
{
	return (vpn | (LEAF_SLOTS - 1)) + 1;
}

static inline slot_t *leaf_slots(const struct slotmap *map, leaf_ref leaf)
{
	return slot_pool_node(map->pool, *leaf)->slot;
}

static inline bool leaf_is_shared(const struct slotmap *map, leaf_ref leaf)
{
	return map->pool->counts[*leaf] > 1;
}

static inline slot_t slot_load(const slot_t *slot)
{
	return __atomic_load_n(slot, __ATOMIC_ACQUIRE);
}

/* After what the slot points to is complete: INV-1. */
static inline void slot_store(slot_t *slot, slot_t value)
{
	__atomic_store_n(slot, value, __ATOMIC_RELEASE);
}

/* The root too is named by one store, in the kept record of the session. */
static inline void slot_tree_set_root(struct slotmap *map, uint32_t node)
{
	map->root = node;
	if (map->kept_root)
		atomic_store_explicit(map->kept_root, node, memory_order_release);
}

/* The store that names a node; what is in it is complete. */
static inline void child_store(uint32_t *child, uint32_t node)
{
	__atomic_store_n(child, node, __ATOMIC_RELEASE);
}

bool leaf_is_empty(const slot_t *slots, unsigned lo, unsigned hi);

/* The leaf that holds vpn, or NULL; *next is where another leaf may begin. */
leaf_ref slot_tree_find(const struct slotmap *map, uint64_t vpn, uint64_t *next);
/* The same, made if need be. 0, or -ENOMEM and nothing changed. */
int slot_tree_make(struct slotmap *map, uint64_t vpn, leaf_ref *leaf);
/*
 * Makes a shared leaf the map's own. Slots lo .. hi-1, which the caller is
 * about to overwrite, become NONE: their reference stays with the sharers.
 * 0, or -ENOMEM and nothing changed.
 */
int slot_tree_own(struct slotmap *map, leaf_ref leaf, unsigned lo, unsigned hi);
/* Takes vpn's leaf, which must be there, out of the map, its slots uncounted
   and their references put. */
void slot_tree_remove(struct slotmap *map, uint64_t vpn);
/* Inner nodes of the tree; a copy of it that shares all leaves (the nodes
   must be ready). */
uint32_t slot_tree_inner_nodes(const struct slotmap *map);
uint32_t slot_tree_share(struct slotmap *map);

/* Single writer: no need for a locked instruction. */
static inline void slot_count(struct slotmap *map, slot_t slot, int n)
{
	_Atomic uint64_t *count = &map->count[slot_state(slot)];
	uint64_t value = atomic_load_explicit(count, memory_order_relaxed);

	if (slot_state(slot) == SLOT_NONE)
		return;
	if (slot_is_evicted(slot) && !slot_is_marked(slot))
		map->unmarked += (uint64_t)(int64_t)n;
	assert(n >= 0 || value);
	atomic_store_explicit(count, value + (uint64_t)(int64_t)n, memory_order_relaxed);
}

static inline bool slot_has_reference(slot_t slot)
{
	const unsigned counted = 1u << SLOT_STAGED | 1u << SLOT_FETCHING | 1u << SLOT_STORED |
				 1u << SLOT_CLEAN;

	return counted >> slot_state(slot) & 1;
}

static inline void slot_put(struct slotmap *map, slot_t slot)
{
	if (slot_has_reference(slot))
		map->refs->put(map->ctx, slot);
}

#endif
