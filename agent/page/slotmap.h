/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * slotmap: the slots of one address space, a radix tree of 4 KiB nodes with
 * leaves of 512 slots (one leaf for 2 MiB of address space), indexed by vpn
 * (virtual page number, < SLOTMAP_VPN_MAX).
 *
 * fork shares leaves copy-on-write: both maps hold a reference to a leaf until
 * one of them writes to it and gets its own copy. A shared leaf counts as ONE
 * reference to whatever its slots point to; unsharing it calls refs->get for
 * each slot of the copy.
 *
 * Synchronization: a pool and all maps on it belong to one owner thread. The
 * counters may be read by others.
 */
#ifndef USWAP_PAGE_SLOTMAP_H
#define USWAP_PAGE_SLOTMAP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "page/slot.h"

#define SLOTMAP_VPN_BITS 35 /* 47-bit user addresses */
#define SLOTMAP_VPN_MAX ((uint64_t)1 << SLOTMAP_VPN_BITS)

/* ---- nodes: 4 KiB each, in a kept file (common/kept.h), locked in memory ---- */
struct slot_pool;

/* max_bytes: of address space reserved (memory is taken in steps of 1 MiB as
   needed). name: of the kept file. NULL and errno on failure. */
struct slot_pool *slot_pool_open(const char *name, size_t max_bytes);
struct slot_pool *slot_pool_new(size_t max_bytes);
struct slot_pool *slot_pool_free(struct slot_pool *pool);
/* Makes at least `nodes` free nodes ready. 0 or -ENOMEM. Allocates: not on the
   fault path. slot_pool_ready() says how many are. */
int slot_pool_reserve(struct slot_pool *pool, size_t nodes);
size_t slot_pool_ready(const struct slot_pool *pool);
size_t slot_pool_bytes(const struct slot_pool *pool); /* memory taken */

/* ---- maps ---- */

/* What slots point to is counted by these; called for STAGED, FETCHING,
   STORED and CLEAN slots only. */
struct slot_refs {
	void (*get)(void *ctx, slot_t slot);
	void (*put)(void *ctx, slot_t slot);
	/* It stands elsewhere in the map now; NULL: of no interest. */
	void (*moved)(void *ctx, slot_t slot);
};

struct slotmap {
	struct slot_pool *pool;
	const struct slot_refs *refs;
	void *ctx;
	uint32_t root;			      /* node index, 0: empty */
	_Atomic uint32_t *kept_root;	      /* where it stands too; NULL: nowhere */
	_Atomic uint64_t count[SLOT_STATES]; /* slots by state, NONE unused */
	uint64_t unmarked;		      /* of them, those that are away and not marked */
	uint64_t bar;			      /* the value of slots that become BARRED */
};

void slotmap_init(struct slotmap *map, struct slot_pool *pool, const struct slot_refs *refs,
		  void *ctx);
/* Puts every slot's reference and gives all nodes back. */
void slotmap_deinit(struct slotmap *map);

slot_t slotmap_get(const struct slotmap *map, uint64_t vpn);
/*
 * Sets one slot; asserts slot_step_is_legal. References are the caller's
 * business (the old value's reference becomes the caller's, the new value's
 * reference is given to the map). 0, or -ENOMEM when a node is needed and none
 * is ready (nothing changed). Setting NONE where no leaf is never fails, nor
 * does a change in a leaf that is there and not shared.
 */
int slotmap_set(struct slotmap *map, uint64_t vpn, slot_t slot);
/*
 * Sets n slots from vpn on to NONE or BARRED and puts their references;
 * whole leaves are given back for NONE. 0, or -ENOMEM: then those before
 * *done (a vpn) are changed. For BARRED leaves are made where there are none.
 * LEAVING slots are changed like others; they hold no reference.
 */
int slotmap_clear(struct slotmap *map, uint64_t vpn, uint64_t n, enum slot_state to,
		  uint64_t *done);
/*
 * Moves n slots from one range to another that may overlap it (mremap); what
 * the target held is put first, the source becomes NONE. 0, or -ENOMEM
 * (nothing changed: the nodes needed are counted before).
 */
int slotmap_move(struct slotmap *map, uint64_t from, uint64_t to, uint64_t n);
/* child: initialised and empty, same pool. Shares all leaves. 0 or -ENOMEM
   (child stays empty). */
int slotmap_fork(struct slotmap *child, struct slotmap *parent);
/*
 * The same for what is at the source only: slots that are NONE there leave the
 * target's alone. The ranges don't overlap. Done halfway and once more from the
 * start, it comes to the same.
 */
int slotmap_merge(struct slotmap *map, uint64_t from, uint64_t to, uint64_t n);
/*
 * First vpn in [vpn, end) whose state is in mask (bit 1 << state; NONE not
 * allowed), or end. Missing leaves are skipped whole.
 */
uint64_t slotmap_next(const struct slotmap *map, uint64_t vpn, uint64_t end, unsigned mask);
/* The same of those that are not marked; and where those that follow vpn without a gap
   end, which is so (all: marked or not). */
uint64_t slotmap_next_unmarked(const struct slotmap *map, uint64_t vpn, uint64_t end, unsigned mask);
uint64_t slotmap_run(const struct slotmap *map, uint64_t vpn, uint64_t end, unsigned mask, bool all);

/*
 * Calls see for each slot with a reference in up to `leaves` leaves from vpn on,
 * but for leaves whose nodes are marked in seen (a bit a node, nr nodes), and
 * marks them. Returns where to go on, SLOTMAP_VPN_MAX at the end.
 */
typedef void (*slotmap_count_fn)(void *ctx, slot_t slot);
uint64_t slotmap_count(const struct slotmap *map, uint64_t vpn, unsigned leaves, uint8_t *seen, uint32_t nr,
		       slotmap_count_fn see, void *ctx);
uint32_t slot_pool_nodes(const struct slot_pool *pool); /* numbers are below */

/* ---- after the death of the worker that wrote them ---- */

/* The pool was left by a worker before: nothing in it is counted. */
bool slot_pool_is_found(const struct slot_pool *pool);
/*
 * map: initialised, with the root it had. Calls see for each slot that isn't
 * NONE, first when the leaf is seen for the first time (its slots' references
 * are to be counted then: see slotmap_fork), and sets the slot to what it
 * returns. Links that make no sense are cut; returns how many there were, each
 * of them the loss of at least 2 MiB of slots.
 */
typedef slot_t (*slotmap_see_fn)(void *ctx, uint64_t vpn, slot_t slot, bool first);
uint64_t slotmap_recover(struct slotmap *map, slotmap_see_fn see, void *ctx);
/* All maps of the pool have been recovered: what none of them uses is free. */
void slot_pool_recovered(struct slot_pool *pool);

#endif
