/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A batch: up to 64 pages of one mapping on their way out. The same object
 * goes through every step; at each moment exactly one thread has it:
 *
 *   worker  plans it (evict_plan)            -> owner
 *   owner   marks the slots LEAVING, gives
 *           the mover its order (evict_mark) -> mover, by the session's socket
 *   worker  reads the REPORT, pulls the pages
 *           into staging (evict_pull)        -> owner
 *   owner   sets the slots STAGED or FILL,
 *           has transit dropped (evict_stage) -> worker
 *   worker  queues it for its grace time     -> a pack thread
 *   pack    hashes, deduplicates, compresses
 *           what is still there (evict_pack;
 *           with slow stores several threads,
 *           each another few of its pages) -> owner
 *   owner   sets the slots STORED
 *           (evict_commit)                   -> worker, which reuses it
 *
 * A batch that a step empties goes straight back to the worker.
 */
#ifndef USWAP_FLOW_BATCH_H
#define USWAP_FLOW_BATCH_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/mailbox.h"
#include "common/wire.h"

enum batch_step { /* mail.kind */
	BATCH_MARK = 100,   /* to the owner */
	BATCH_STAGE,	    /* to the owner */
	BATCH_COMMIT,	    /* to the owner */
	BATCH_STAGED,	    /* to the worker: nr pages await packing, may be 0 */
	BATCH_DONE,	    /* to the worker: reuse it */
};

enum batch_result {
	BATCH_PAGE_NONE = 0, /* nothing has become of it: as before */
	BATCH_PAGE_PULLED,   /* value: staging index */
	BATCH_PAGE_FILLED,   /* value: pattern */
	BATCH_PAGE_BUSY,     /* shared or pinned */
	BATCH_PAGE_LOST,     /* it was moved, and its bytes can't be read */
	BATCH_PAGE_HOLE,     /* no page was there */
	BATCH_PAGE_REFUSED,  /* the mapping can't be moved from */
	BATCH_PAGE_SKIP,     /* pack: touched meanwhile, nothing to do */
	BATCH_PAGE_STORED,   /* pack: blob is set, we hold a staging reference */
	BATCH_PAGE_KEEP,     /* pack: not worth or not able to be stored, bring it back */
};

struct batch_page {
	uint64_t vpn;
	uint32_t value;
	uint32_t generation; /* of the staging page */
	uint32_t blob;
	uint8_t result; /* enum batch_result */
	bool in_order; /* as it last came back (SLOT_IN_ORDER) */
	bool duplicate;
	bool incompressible;
	bool marked; /* until it is staged: there is a mark in its place */
};

struct session;

struct batch {
	struct mail mail;
	struct session *session;
	struct batch *next;	/* worker's free list, pack queue */
	uint64_t map_start;	/* the mapping, registered whole */
	uint64_t map_end;
	uint64_t ordered_ns;	/* when it was planned; the mover answers in no time */
	uint64_t due_ns;	/* not packed before */
	uint32_t seq;
	uint32_t lane;
	uint32_t generation;	/* of the order to move it */
	uint16_t nr;		/* pages */
	uint16_t planned;	/* of those the worker had chosen */
	bool forced;		/* by order: skips back-off and grace */
	bool hard;		/* no room in its control group: skips back-off */
	bool salvage;		/* what a dead worker has left in a lane */
	bool refused;		/* the mapping could not be registered */
	_Atomic bool ordered;	/* the mover was told: set by the owner as the last thing
				   it does with the batch before the worker may have it */
	_Atomic unsigned begun; /* pages that pack threads have taken upon themselves */
	unsigned packers;	/* ... who are at it; under the queue's lock */
	uint64_t moved;		/* bit i: page i is in transit */
	struct batch_page page[WIRE_BATCH];
};

#endif
