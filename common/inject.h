/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Fault injection: named points at which a test has the worker killed, as by
 * kill -9. Off, and one load and branch, unless USWAP_INJECT names a file when
 * the agent starts; the test writes into that file (16 bytes: which point, how
 * often to pass it first, how often it was hit, and what else, enum inject_how;
 * tests/live/test_crash.sh, tests/systemd/test_unit.sh), and the keeper and all workers
 * share it.
 *
 * Any thread.
 */
#ifndef USWAP_COMMON_INJECT_H
#define USWAP_COMMON_INJECT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum inject_point { /* numbered for the tests: append only */
	INJECT_NONE = 0,
	INJECT_MARKED,	     /* slots are LEAVING, the order is not given */
	INJECT_ORDERED,	     /* the order is given */
	INJECT_PULLED,	     /* pages are in staging, slots still LEAVING */
	INJECT_STAGE_HALF,   /* some slots of the batch are STAGED */
	INJECT_STAGED,	     /* all of them, transit is not dropped */
	INJECT_DROPPED,	     /* ... and the drop is ordered */
	INJECT_PACKED,	     /* blobs are stored, slots still STAGED */
	INJECT_COMMIT_HALF,  /* some slots are STORED */
	INJECT_PUT_WRITTEN,  /* bytes are in the segment, the blob is not published */
	INJECT_PLACED,	     /* a page was placed, its slot still names the copy */
	INJECT_REPLACED,     /* the slot is RESIDENT, the copy still counted */
	INJECT_EVENT_READ,   /* events were read, none is taken */
	INJECT_EVENT_TAKEN,  /* one is taken, not applied */
	INJECT_EVENT_APPLIED, /* ... applied, not committed */
	INJECT_REMAP_CLEARED, /* the target of a move is empty, nothing is moved */
	INJECT_REMAP_MOVED,  /* its slots are moved */
	INJECT_FORK_RECORD,  /* a child's record is written, not published */
	INJECT_FORK_KNOWN,   /* ... published; its event is not over */
	INJECT_ADOPTED,	     /* a fork child's hello is in its record */
	INJECT_ATTACH,	     /* a session's record is published, the shim not told */
	INJECT_RESTORED,     /* everything of a session is restored, not unregistered */
	INJECT_CLOSING,	     /* a session is over, its slots half dropped */
	INJECT_COMPACT,	     /* a blob's copy is written, the blob still points to the first */
	INJECT_RECOVER_COUNT, /* a new worker has counted, nothing is served */
	INJECT_RECOVER_EVENTS, /* ... has applied the events */
	INJECT_RECOVER_WAKE, /* ... has woken, old orders are still good */
	INJECT_RECOVER_SALVAGE, /* ... has pulled what was in transit */
	INJECT_BATCH_PLACE,  /* a batch's place in a lower store is used up, nothing is there */
	INJECT_BATCH_WRITTEN, /* the batch is there, its blobs are still above */
	INJECT_BATCH_HALF,   /* some of them are in it */
	INJECT_SEGMENT_LEFT, /* the table has forgotten a segment, its bytes are there */
	INJECT_PROMOTED,     /* a blob's copy is above, the blob still points below */
	INJECT_RECOVER_NOMEM, /* not killed: there is no memory to take a session over */
	INJECT_CHILD_HEARD,  /* events of a child were read whose fork is not applied */
	INJECT_FORK_READ,    /* a fork child's descriptor was read, it has no name */
	INJECT_FORK_NAMED,   /* ... and nobody else has it */
	INJECT_POINTS
};

enum inject_how { /* bits */
	INJECT_KEEPER = 1, /* the keeper goes first */
	INJECT_HANG = 2,   /* nobody does, the thread stops there for ever */
	INJECT_BUSY = 4,   /* the service manager takes nothing at once */
	INJECT_NOMEM = 8,  /* there is no memory for fork children */
};

struct inject_words {
	_Atomic uint32_t point;
	_Atomic uint32_t pass;
	_Atomic uint32_t hits;
	_Atomic uint32_t how;
};

extern struct inject_words *inject_words; /* NULL: off */

/* Reads USWAP_INJECT; before there are other threads. */
void inject_init(void);
void inject_hit(enum inject_point point);
/* True: what comes next is to fail. */
bool inject_fails(enum inject_point point);

static inline bool inject_is(enum inject_how how)
{
	return __builtin_expect(inject_words != NULL, 0) && inject_words->how & how;
}

static inline void inject(enum inject_point point)
{
	if (__builtin_expect(inject_words != NULL, 0))
		inject_hit(point);
}

#endif
