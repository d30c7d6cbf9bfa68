/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A session's record: what a worker must know of it to go on with it after the
 * death of the one before, in kept memory (common/kept.h). Beside it stand the
 * slots (page/slotmap.h), whose root is named here.
 *
 * What changes with every event (what is registered, which events wait, which
 * generation of orders is good) stands here twice: a change writes the other
 * copy whole and then the one word that says which is good. So at every instant
 * one of them says exactly which events have been applied; the one after that
 * may be half done, and is applied again (record_commit, record_note).
 *
 * Threads: the table (new, free, open) is under its own lock; a record is
 * written by its session's owner, but for what says otherwise.
 */
#ifndef USWAP_PROC_RECORD_H
#define USWAP_PROC_RECORD_H

#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/kept.h"
#include "common/wire.h"
#include "proc/ranges.h"

#define RECORDS_MAX 65536u
#define RECORD_RANGES 16384u /* registered ones that are kept */
#define RECORD_BAG 64u	     /* ... of those moved away from */
#define RECORD_WAITING 64u
#define RECORD_COUNTERS 120u /* room for a session's */

struct session;
struct session_counters;

/* The descriptors that a record names. */
enum record_fd {
	RECORD_UFFD,
	RECORD_MEM,
	RECORD_PAGEMAP,
	RECORD_MOVER,
	RECORD_GATE, /* its memfd */
	RECORD_GATE_EVENT,
	RECORD_STORED, /* those before are given to the service manager too */
	RECORD_PIDFD = RECORD_STORED,
	RECORD_MAPS,
	RECORD_SMAPS,
	RECORD_STATM,
	RECORD_TASKS,
	RECORD_FDS
};

struct record_state {
	uint64_t applied; /* the last event taken, by its number in the owner's ring */
	uint64_t commits;
	uint32_t generation;
	uint32_t barred;
	uint32_t list; /* which of the two of registered ranges */
	uint32_t nr_registered;
	uint32_t nr_vacated;
	uint32_t nr_waiting;
	struct uffd_msg waiting[RECORD_WAITING];
	struct range vacated[RECORD_BAG];
};

struct record {
	_Atomic uint64_t id; /* of the session; 0: free. Written last */
	/* constant, but for a fork child's hello, which sets introduced last */
	uint32_t taken; /* not free, though not published yet */
	uint32_t uid;
	uint32_t owner; /* index of the owner, and of the pool of its slots */
	uint64_t attached_ns;
	uint64_t nonce;
	uint64_t identity;
	uint64_t transit;
	int32_t pid;
	int32_t parent_pid;
	uint64_t started; /* of pid, in ticks since the boot: another one has another */
	struct wire_attach attach;
	_Atomic int32_t fds[RECORD_FDS]; /* plus one; 0: none */
	_Atomic uint32_t introduced;
	/* single words */
	_Atomic uint32_t root;	    /* of the slots */
	_Atomic uint32_t state;	    /* enum session_state */
	_Atomic uint32_t detach;
	_Atomic uint32_t blind; /* its slots were lost: what is missing is poisoned */
	_Atomic uint64_t heir_of;   /* whose transit its LEAVING pages are in; 0: its own */
	_Atomic int32_t mover_pid;  /* worker */
	_Atomic uint32_t disabled;  /* engine */
	_Atomic uint64_t limit_bytes; /* engine */
	/* An event half applied: commits << 8 | which of those waiting << 2 | how far. */
	_Atomic uint64_t note;
	_Atomic uint32_t now; /* which of the states is good */
	uint32_t backed;      /* ranges with memory, in each list */
	struct record_state states[2];
	/* since version 2 */
	uint64_t token;
	uint32_t strange; /* until version 7: what is registered is still to be learnt */
	/* since version 4 */
	uint32_t domain; /* its label */
	uint32_t is_private;
	_Atomic uint32_t stored; /* bits of enum record_fd: the service manager surely has it; engine */
	/* since version 5: engine */
	uint32_t summed; /* it is over, and its counters are in the table's sums */
	/* since version 6: the name by which a fork child's userfaultfd is with the service
	   manager; 0: by the record's own number, as others */
	_Atomic uint32_t fork_name;
	uint64_t counters[RECORD_COUNTERS]; /* as they were told last */
	/* since version 8: never asked of the kernel again, whose "no" might be an error */
	uint32_t marks;
};

struct record_table {
	struct kept kept;
	pthread_mutex_t lock; /* new and free; also */
	uint32_t hint;	      /* where the search for a free one begins */
};

/* 0 or a negative errno, as kept_open. */
int record_table_open(struct record_table *table);
void record_table_close(struct record_table *table);
/* A blank one, not listed yet; NULL: no memory, or too many. */
struct record *record_new(struct record_table *table);
/* Complete: the next worker would find it. */
void record_publish(struct record *record, uint64_t id);
void record_free(struct record_table *table, struct record *record);
/* The first published one from *i on, which moves behind it; NULL: none. */
struct record *record_next(const struct record_table *table, uint32_t *i);
unsigned record_index(const struct record_table *table, const struct record *record);
/* By its place; NULL: none that could be told apart from garbage. */
struct record *record_at(const struct record_table *table, uint32_t i);
/* No session had a higher id: they are names to people and programs, none comes twice. */
uint64_t record_last_id(const struct record_table *table);
/* A name for the descriptor of a fork child, that none had before. Any thread. */
unsigned record_name_fork(struct record_table *table);
/* Another one that hasn't ended and has this descriptor for its userfaultfd. */
bool record_knows_uffd(const struct record_table *table, int fd);

/* What the session has counted, and, once, into the sums of those that are over.
   What was told goes on from there with the next worker, what wasn't may be lost
   with this one. Engine. */
void record_keep_counters(struct session *s);
void record_sum_counters(struct record_table *table, struct session *s);
const struct session_counters *record_sums(const struct record_table *table);

/* What the session's descriptors are, into the record. */
void record_set_fds(struct record *record, const struct session *s);

/* A session made by a fork has said hello: what it brought. */
void record_introduce(struct session *s);

/* The session's events, ranges and generation, as they are now; applied: the
   number of the event just taken, 0: none. A session without a record: nothing. */
void record_commit(struct session *s, uint64_t applied);
/* The session's next event to apply is the i-th that waits, done so far. Void
   with the next commit. */
void record_note(struct session *s, unsigned i, unsigned phase);
/* How far the event was that was being applied when the worker died: its number
   among those waiting in *i and the phase, 0: none was. */
unsigned record_noted(const struct record *record, unsigned *i);
/* Fills the session's side from the record. 0 or -ENOMEM. */
int record_load(struct session *s, struct record *record);

#endif
