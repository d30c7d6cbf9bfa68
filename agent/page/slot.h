/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A slot: what the agent knows of one page, in 8 bytes.
 *
 *	state:4 | flags:4 | value:56
 *
 * One aligned atomic store changes a page's state, made only after what it
 * points to is complete (INV-1). Slots are written by the session's owner
 * thread alone; others may load them.
 */
#ifndef USWAP_PAGE_SLOT_H
#define USWAP_PAGE_SLOT_H

#include <stdbool.h>
#include <stdint.h>

typedef uint64_t slot_t;

enum slot_state {		/* value */
	SLOT_NONE = 0,		/* 0. We know nothing: never taken, or gone */
	SLOT_RESIDENT = 1,	/* not a candidate before this time, in units
				   of 2^20 ns of CLOCK_MONOTONIC (0: now), and
				   SLOT_IN_ORDER */
	SLOT_BARRED = 2,	/* seen in a REMOVE that had been read by this time
				   (in units of 2^20 ns, rounded up; 0: unknown);
				   may not leave until our own COPY or ZEROPAGE on
				   it (served-fault rule), or until every thread
				   was seen outside of madvise(2) later */
	SLOT_LEAVING = 3,	/* transit page index; set before the order */
	SLOT_STAGED = 4,	/* staging page index */
	SLOT_FETCHING = 5,	/* as STORED; its bytes are on the way */
	SLOT_STORED = 6,	/* blob id:32, and above it what its process is
				   charged for it, bytes */
	SLOT_CLEAN = 7,		/* blob id; resident, and the blob is kept */
	SLOT_FILL = 8,		/* 32-bit pattern the page repeats */
	SLOT_POISONED = 9,	/* 0. Its bytes are lost: SIGBUS */
	SLOT_STATES
};

/* Flags. A fault arrived while LEAVING: answer it when the step ends. */
#define SLOT_F_WAITING 1u
/* The same bit of a page that is away: there is a mark in its place (sys/uffd.h).
   Without it, the page is zeros now. */
#define SLOT_F_MARKED 1u

/* Of a RESIDENT's value: it came back in a window of pages read in order. */
#define SLOT_IN_ORDER ((uint64_t)1 << 55)

#define SLOT_VALUE_BITS 56
#define SLOT_VALUE_MAX (((uint64_t)1 << SLOT_VALUE_BITS) - 1)

static inline slot_t slot_make(enum slot_state state, unsigned flags, uint64_t value)
{
	return (uint64_t)state << 60 | (uint64_t)(flags & 15) << 56 | (value & SLOT_VALUE_MAX);
}

static inline enum slot_state slot_state(slot_t s)
{
	return (enum slot_state)(s >> 60);
}

static inline unsigned slot_flags(slot_t s)
{
	return (unsigned)(s >> 56) & 15;
}

static inline uint64_t slot_value(slot_t s)
{
	return s & SLOT_VALUE_MAX;
}

/* The page's bytes are with us and not in the workload (or on their way). */
static inline bool slot_is_evicted(slot_t s)
{
	enum slot_state st = slot_state(s);

	return st == SLOT_STAGED || st == SLOT_FETCHING || st == SLOT_STORED || st == SLOT_FILL;
}

static inline bool slot_is_marked(slot_t s)
{
	return slot_is_evicted(s) && (slot_flags(s) & SLOT_F_MARKED);
}

/*
 * Is this step in the life of a page legal? (docs/INVARIANTS.md has the
 * diagram.) Staying in a state with another value is legal for RESIDENT,
 * LEAVING (its WAITING flag), and STAGED, STORED and FETCHING (that lose their mark).
 */
bool slot_step_is_legal(enum slot_state from, enum slot_state to);
const char *slot_state_name(enum slot_state state);

#endif
