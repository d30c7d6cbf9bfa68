/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "page/slot_tree.h"

#include <errno.h>
#include <string.h>

/* Where a vpn's index into the inner node of each depth begins; the top one
   uses 6 of its 10 bits. */
#define DEPTHS 3
static const unsigned shifts[DEPTHS] = {
	LEAF_BITS + 2 * INNER_BITS,
	LEAF_BITS + INNER_BITS,
	LEAF_BITS,
};
_Static_assert(LEAF_BITS + 3 * INNER_BITS >= SLOTMAP_VPN_BITS, "three levels are enough");

static uint32_t *child_of(const struct slotmap *map, uint32_t node, unsigned depth, uint64_t vpn)
{
	return &slot_pool_node(map->pool, node)->child[vpn >> shifts[depth] & (INNER_SLOTS - 1)];
}

bool leaf_is_empty(const slot_t *slots, unsigned lo, unsigned hi)
{
	for (unsigned i = lo; i < hi; i++)
		if (slots[i])
			return false;
	return true;
}

leaf_ref slot_tree_find(const struct slotmap *map, uint64_t vpn, uint64_t *next)
{
	uint32_t *child = NULL;
	uint32_t node = map->root;

	*next = SLOTMAP_VPN_MAX;
	for (unsigned depth = 0; node && depth < DEPTHS; depth++) {
		*next = ((vpn >> shifts[depth]) + 1) << shifts[depth];
		child = child_of(map, node, depth, vpn);
		node = *child;
	}
	return node ? child : NULL;
}

/* A new inner node has no children yet. */
static uint32_t take_inner(struct slot_pool *pool)
{
	uint32_t node = slot_pool_take(pool);

	assert(node); /* counted by the caller */
	pool->counts[node] = 0;
	return node;
}

static unsigned missing_nodes(const struct slotmap *map, uint64_t vpn)
{
	unsigned depth = 0;
	uint32_t node = map->root;

	while (node && depth < DEPTHS)
		node = *child_of(map, node, depth++, vpn);
	return node ? 0 : DEPTHS + 1 - depth;
}

int slot_tree_make(struct slotmap *map, uint64_t vpn, leaf_ref *leaf)
{
	struct slot_pool *pool = map->pool;
	uint32_t *child = NULL;
	uint32_t node;

	assert(vpn < SLOTMAP_VPN_MAX);
	if (slot_pool_ready(pool) < missing_nodes(map, vpn))
		return -ENOMEM;
	if (!map->root)
		slot_tree_set_root(map, take_inner(pool));
	node = map->root;
	for (unsigned depth = 0; depth < DEPTHS; depth++) {
		child = child_of(map, node, depth, vpn);
		if (!*child) {
			child_store(child, depth + 1 < DEPTHS ? take_inner(pool) : slot_pool_take(pool));
			pool->counts[node]++;
		}
		node = *child;
	}
	*leaf = child;
	return 0;
}

int slot_tree_own(struct slotmap *map, leaf_ref leaf, unsigned lo, unsigned hi)
{
	const slot_t *from = leaf_slots(map, leaf);
	uint32_t copy;
	slot_t *to;

	if (!leaf_is_shared(map, leaf))
		return 0;
	copy = slot_pool_take(map->pool);
	if (!copy)
		return -ENOMEM;
	to = slot_pool_node(map->pool, copy)->slot;
	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		if (i >= lo && i < hi) {
			slot_count(map, from[i], -1);
			continue;
		}
		if (slot_has_reference(from[i]))
			map->refs->get(map->ctx, from[i]);
		slot_store(&to[i], from[i]);
	}
	map->pool->counts[*leaf]--;
	child_store(leaf, copy);
	return 0;
}

/* The sharers, if any, keep the leaf and the references of its slots. True:
   there are none, and it is to be given back. */
static bool drop_leaf(struct slotmap *map, uint32_t leaf)
{
	struct slot_pool *pool = map->pool;
	slot_t *slots = slot_pool_node(pool, leaf)->slot;
	bool last = pool->counts[leaf] == 1;

	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		slot_t old = slots[i];

		slot_count(map, old, -1);
		if (last) {
			slot_store(&slots[i], 0);
			slot_put(map, old);
		}
	}
	if (!last)
		pool->counts[leaf]--;
	return last;
}

/* A node is unlinked before it is given back: the link of the free list stands
   in it, and a worker that starts over must not take it for slots. */
void slot_tree_remove(struct slotmap *map, uint64_t vpn)
{
	struct slot_pool *pool = map->pool;
	uint32_t *child[DEPTHS];
	uint32_t inner[DEPTHS];
	uint32_t node = map->root;
	bool give;

	for (unsigned depth = 0; depth < DEPTHS; depth++) {
		inner[depth] = node;
		child[depth] = child_of(map, node, depth, vpn);
		node = *child[depth];
	}
	give = drop_leaf(map, node);
	for (unsigned depth = DEPTHS; depth--;) {
		child_store(child[depth], 0);
		if (give)
			slot_pool_give(pool, node);
		node = inner[depth];
		if (--pool->counts[node])
			return;
		give = true;
	}
	slot_tree_set_root(map, 0);
	slot_pool_give(pool, node);
}

static uint32_t inner_nodes(const struct slot_pool *pool, uint32_t node, unsigned depth)
{
	const uint32_t *child = slot_pool_node(pool, node)->child;
	uint32_t n = 1;

	if (depth + 1 == DEPTHS)
		return n;
	for (unsigned i = 0; i < INNER_SLOTS; i++)
		if (child[i])
			n += inner_nodes(pool, child[i], depth + 1);
	return n;
}

uint32_t slot_tree_inner_nodes(const struct slotmap *map)
{
	return map->root ? inner_nodes(map->pool, map->root, 0) : 0;
}

static uint32_t share(struct slot_pool *pool, uint32_t node, unsigned depth)
{
	const uint32_t *from = slot_pool_node(pool, node)->child;
	uint32_t copy = take_inner(pool);
	uint32_t *to = slot_pool_node(pool, copy)->child;

	for (unsigned i = 0; i < INNER_SLOTS; i++) {
		if (!from[i])
			continue;
		if (depth + 1 < DEPTHS) {
			to[i] = share(pool, from[i], depth + 1);
		} else {
			to[i] = from[i];
			pool->counts[from[i]]++;
		}
	}
	pool->counts[copy] = pool->counts[node];
	return copy;
}

uint32_t slot_tree_share(struct slotmap *map)
{
	return map->root ? share(map->pool, map->root, 0) : 0;
}

/* ---- after a death ---- */

struct walk {
	struct slotmap *map;
	slotmap_see_fn see;
	void *ctx;
	uint64_t cut;
};

static void see_leaf(struct walk *w, uint32_t node, uint64_t vpn)
{
	slot_t *slots = w->map->pool->nodes[node].slot;
	bool first = w->map->pool->counts[node]++ == 0;

	for (unsigned i = 0; i < LEAF_SLOTS; i++) {
		slot_t old = slots[i], slot;

		if (!old)
			continue;
		if (slot_state(old) >= SLOT_STATES) {
			w->cut++;
			slot = slot_make(SLOT_POISONED, 0, 0);
		} else {
			slot = w->see(w->ctx, vpn + i, old, first);
		}
		if (slot != old)
			slot_store(&slots[i], slot);
		slot_count(w->map, slot, 1);
	}
}

/* An inner node has one parent, unless what we find is damaged. */
static bool may_be_child(const struct slot_pool *pool, uint32_t node, bool leaf)
{
	return node < pool->committed && (leaf || !pool->counts[node]);
}

static void see_inner(struct walk *w, uint32_t node, unsigned depth, uint64_t vpn)
{
	struct slot_pool *pool = w->map->pool;
	uint32_t *child = pool->nodes[node].child;
	uint32_t children = 0;

	/* Not to be taken for free or for another's child meanwhile. */
	pool->counts[node] = UINT32_MAX;
	for (unsigned i = 0; i < INNER_SLOTS; i++) {
		uint64_t at = vpn + ((uint64_t)i << shifts[depth]);
		bool leaf = depth + 1 == DEPTHS;

		if (!child[i])
			continue;
		if (!may_be_child(pool, child[i], leaf) || at >= SLOTMAP_VPN_MAX) {
			child_store(&child[i], 0);
			w->cut++;
			continue;
		}
		if (leaf)
			see_leaf(w, child[i], at);
		else
			see_inner(w, child[i], depth + 1, at);
		/* The dead worker may have made it and come no further. */
		if (pool->counts[child[i]])
			children++;
		else
			child_store(&child[i], 0);
	}
	pool->counts[node] = children;
}

uint64_t slotmap_recover(struct slotmap *map, slotmap_see_fn see, void *ctx)
{
	struct walk w = { .map = map, .see = see, .ctx = ctx };

	if (!map->root)
		return 0;
	if (!may_be_child(map->pool, map->root, false)) {
		slot_tree_set_root(map, 0);
		return 1;
	}
	see_inner(&w, map->root, 0, 0);
	if (!map->pool->counts[map->root])
		slot_tree_set_root(map, 0);
	return w.cut;
}
