/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * faulty: a store for tests that passes everything on to another store, but
 * for what rules say: errors, reads that wait until they are released, short
 * reads, flipped bits, writes that land and are reported as timed out.
 *
 * Rules may come from a file (Store=faulty:RULES,STORE; for tests of a whole agent),
 * a line each: CALL KIND [ERRNO [TIMES]], as in "write error EIO 3", "read hold".
 * They hold until the file changes, which ends what is held as well; from then on
 * that they do there is a file RULES.seen.
 *
 * Threads: any. Rules are looked at in the order in which they were added; the
 * first one that matches and still has times left is used up by one.
 */
#ifndef USWAP_BACKENDS_FAULTY_H
#define USWAP_BACKENDS_FAULTY_H

#include "backends/store.h"

enum faulty_call {
	FAULTY_SEGMENT_NEW,
	FAULTY_WRITE,
	FAULTY_READ,
	FAULTY_SEGMENT_FREE, /* can only be noticed */
};

enum faulty_kind {
	FAULTY_ERROR,  /* nothing is done, .error is the answer */
	FAULTY_LANDED, /* writes: done, and .error is the answer */
	FAULTY_TORN,   /* writes: the first half is done, .error is the answer */
	FAULTY_SHORT,  /* reads: the second half is missing, -ENODATA */
	FAULTY_FLIP,   /* reads: one bit of the middle is wrong */
	FAULTY_HOLD,   /* asynchronous reads, writes: until store_faulty_release */
};

struct faulty_rule {
	enum faulty_call call;
	enum faulty_kind kind;
	int error;	/* negative errno */
	unsigned skip;	/* calls that pass before */
	unsigned times; /* 0: for ever */
};

/* Takes over below, which is closed with it. Slow (not mapped) whatever below
   is. `remote` adds STORE_REMOTE. NULL and errno, below is closed then. */
struct store *store_faulty_new(struct store *below, bool remote);
/* Its rules are those in the file from now on, none while it is not there. 0 or
   negative errno. */
int store_faulty_follow(struct store *store, const char *path);
void store_faulty_add(struct store *store, const struct faulty_rule *rule);
/* Called before each call, by who makes it; it may wait. NULL: none. */
void store_faulty_notice(struct store *store, void (*notice)(enum faulty_call call));
/* No rule holds any more; reads that are held go on. */
void store_faulty_clear(struct store *store);
/* Reads that are held now end. Returns how many. */
unsigned store_faulty_release(struct store *store);
unsigned store_faulty_held(struct store *store);

#endif
