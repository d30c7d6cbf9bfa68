/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The inside of a slot pool, for slotmap.c alone: nodes of 4 KiB, numbered
 * from 1 (0 is none), each with a count kept beside it (sharers of a leaf,
 * children of an inner node; derived, so not in the kept file).
 *
 * Synchronization: the pool's owner thread.
 */
#ifndef USWAP_PAGE_SLOT_POOL_H
#define USWAP_PAGE_SLOT_POOL_H

#include "common/kept.h"
#include "common/util.h"
#include "page/slotmap.h"

#define NODE_BYTES ((size_t)4096)
#define LEAF_BITS 9
#define LEAF_SLOTS ((uint64_t)1 << LEAF_BITS)
#define INNER_BITS 10
#define INNER_SLOTS ((uint32_t)1 << INNER_BITS)

union slot_node {
	slot_t slot[LEAF_SLOTS];
	uint32_t child[INNER_SLOTS];
	uint32_t next_free;
};
_Static_assert(sizeof(union slot_node) == NODE_BYTES, "a node is 4 KiB");

struct slot_pool {
	struct kept kept;
	union slot_node *nodes;	    /* max_nodes reserved, the kept file */
	uint32_t *counts;	    /* max_nodes reserved */
	uint32_t max_nodes;
	_Atomic uint32_t committed; /* nodes with memory behind them, node 0 in */
	uint32_t used;		    /* nodes ever given out, node 0 in */
	uint32_t free;		    /* head of the list of returned ones; a link
				       stands in a node that nothing names */
	_Atomic uint32_t ready;
};

/* The kept file's own words. */
struct slot_pool_words {
	_Atomic uint32_t committed;
};

/* A zeroed node with count 1, or 0 when none is ready. */
uint32_t slot_pool_take(struct slot_pool *pool);
void slot_pool_give(struct slot_pool *pool, uint32_t node);

static inline union slot_node *slot_pool_node(const struct slot_pool *pool, uint32_t node)
{
	assert(node && node < pool->used);
	return &pool->nodes[node];
}

#endif
