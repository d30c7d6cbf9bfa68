/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * mremap: slots go from one range to another, in chunks that lie in one leaf
 * at either end. Like memmove, the direction is chosen so that what is
 * overwritten has been moved before.
 */
#include "page/slot_tree.h"

#include <errno.h>

struct move {
	uint64_t from;
	uint64_t to;
	uint64_t n;
	bool backward;
	bool merge; /* what is NONE at the source leaves the target alone */
};

/* Cuts the next chunk off. */
static struct move cut_chunk(struct move *left)
{
	struct move chunk = *left;

	if (left->backward) {
		uint64_t last_from = left->from + left->n - 1;
		uint64_t last_to = left->to + left->n - 1;
		uint64_t room = MIN(leaf_index(last_from), leaf_index(last_to)) + 1;

		chunk.n = MIN(left->n, room);
		left->n -= chunk.n;
		chunk.from += left->n;
		chunk.to += left->n;
	} else {
		uint64_t room = LEAF_SLOTS - MAX(leaf_index(left->from), leaf_index(left->to));

		chunk.n = MIN(left->n, room);
		left->n -= chunk.n;
		left->from += chunk.n;
		left->to += chunk.n;
	}
	return chunk;
}

/* The chunk's source leaf, or NULL when there is nothing to move. */
static leaf_ref source_of(const struct slotmap *map, const struct move *chunk)
{
	unsigned lo = leaf_index(chunk->from);
	uint64_t next;
	leaf_ref leaf = slot_tree_find(map, chunk->from, &next);

	if (!leaf || leaf_is_empty(leaf_slots(map, leaf), lo, lo + (unsigned)chunk->n))
		return NULL;
	return leaf;
}

/* The most nodes a move can take: copies of shared leaves at both ends, new
   leaves at the target, and the inner nodes over them. */
static uint64_t nodes_needed(const struct slotmap *map, struct move left)
{
	uint64_t last_from = UINT64_MAX, last_to = UINT64_MAX, nodes;
	uint64_t first = left.to, last = left.to + left.n - 1;

	nodes = 1 + (last >> (LEAF_BITS + INNER_BITS)) - (first >> (LEAF_BITS + INNER_BITS)) + 1 +
		(last >> (LEAF_BITS + 2 * INNER_BITS)) - (first >> (LEAF_BITS + 2 * INNER_BITS)) + 1;
	while (left.n) {
		struct move chunk = cut_chunk(&left);
		leaf_ref source = source_of(map, &chunk);
		uint64_t next;
		leaf_ref target = slot_tree_find(map, chunk.to, &next);

		if (source && leaf_is_shared(map, source) && leaf_end(chunk.from) != last_from) {
			last_from = leaf_end(chunk.from);
			nodes++;
		}
		if ((target ? leaf_is_shared(map, target) : source != NULL) &&
		    leaf_end(chunk.to) != last_to) {
			last_to = leaf_end(chunk.to);
			nodes++;
		}
	}
	return nodes;
}

static void move_slot(struct slotmap *map, slot_t *from, slot_t *to)
{
	slot_t old = *to;

	slot_count(map, old, -1);
	slot_store(to, *from);
	slot_store(from, 0);
	slot_put(map, old);
	if (map->refs->moved && slot_has_reference(*to))
		map->refs->moved(map->ctx, *to);
}

static int move_chunk(struct slotmap *map, const struct move *chunk)
{
	unsigned lo = leaf_index(chunk->to), hi = chunk->merge ? lo : lo + (unsigned)chunk->n;
	leaf_ref source = source_of(map, chunk);
	leaf_ref target;
	slot_t *from, *to;
	uint64_t done;
	int r;

	if (!source && chunk->merge)
		return 0;
	if (!source)
		return slotmap_clear(map, chunk->to, chunk->n, SLOT_NONE, &done);
	r = slot_tree_own(map, source, 0, 0);
	if (!r)
		r = slot_tree_make(map, chunk->to, &target);
	if (!r)
		r = slot_tree_own(map, target, lo, hi);
	if (r)
		return r;
	from = &leaf_slots(map, source)[leaf_index(chunk->from)];
	to = &leaf_slots(map, target)[lo];
	for (uint64_t i = 0; i < chunk->n; i++) {
		uint64_t at = chunk->backward ? chunk->n - 1 - i : i;

		if (!chunk->merge || from[at])
			move_slot(map, &from[at], &to[at]);
	}
	return 0;
}

static void prune(struct slotmap *map, uint64_t vpn, uint64_t end)
{
	while (vpn < end) {
		uint64_t next;
		leaf_ref leaf = slot_tree_find(map, vpn, &next);

		if (leaf && leaf_is_empty(leaf_slots(map, leaf), 0, LEAF_SLOTS))
			slot_tree_remove(map, vpn);
		vpn = next;
	}
}

static int move_all(struct slotmap *map, struct move left)
{
	uint64_t from = left.from, n = left.n;

	assert(from + n >= from && from + n <= SLOTMAP_VPN_MAX);
	assert(left.to + n >= left.to && left.to + n <= SLOTMAP_VPN_MAX);
	if (!n || from == left.to)
		return 0;
	if (slot_pool_ready(map->pool) < nodes_needed(map, left))
		return -ENOMEM;
	while (left.n) {
		struct move chunk = cut_chunk(&left);
		int r = move_chunk(map, &chunk);

		assert(!r); /* counted before */
		(void)r;
	}
	prune(map, from, from + n);
	return 0;
}

int slotmap_move(struct slotmap *map, uint64_t from, uint64_t to, uint64_t n)
{
	return move_all(map, (struct move){ .from = from, .to = to, .n = n, .backward = to > from });
}

int slotmap_merge(struct slotmap *map, uint64_t from, uint64_t to, uint64_t n)
{
	assert(from + n <= to || to + n <= from);
	return move_all(map, (struct move){ .from = from, .to = to, .n = n, .merge = true });
}
