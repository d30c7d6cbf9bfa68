/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * mappings: which parts of a process's address space may leave it, read from
 * /proc/PID/smaps (for its VmFlags) and the list of its threads.
 *
 * Threads: the evict worker; before it knows the process, whoever makes its session.
 */
#ifndef USWAP_PROC_MAPPINGS_H
#define USWAP_PROC_MAPPINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/wire.h"
#include "proc/ranges.h"

struct mapping {
	uint64_t start; /* the whole mapping: it is registered whole or not at all */
	uint64_t end;
};

struct mappings {
	struct mapping *v; /* eligible ones, sorted */
	size_t nr, room;
	struct ranges held; /* parts of them that hold thread control blocks, stacks, mutexes */
	/* A bag of those to be registered: but for that, each is as another beside it, of
	   which the kernel would have made one mapping. */
	struct ranges torn;
	uint64_t missing; /* a page that ought to be held, but is away; 0: none */
	uint64_t locked_bytes; /* of all mappings: a sign of mlockall */
	bool has_uffd; /* the program has registered some with a userfaultfd of its own */
	bool is_asked; /* somebody wants to know which of its pages are written */
};

void mappings_deinit(struct mappings *m);
/*
 * Reads smaps anew. Eligible: private, anonymous, readable, writable, not
 * executable, not [stack] or another special one, none of the flags that keep
 * it out (locked, io, pfn, dontfork, dontdump, wipeonfork, hugetlb, mergeable),
 * not overlapping one of the ranges never to touch.
 * 0 or negative errno; on error the list is empty.
 */
int mappings_read(struct mappings *m, int smaps, const struct wire_range *never, unsigned nr_never);
/* [start, end) has something of the ranges never to touch. */
bool mappings_is_never(uint64_t start, uint64_t end, const struct wire_range *never, unsigned nr);
/*
 * The ranges of all mappings with one VmFlag, "wf" say, into set (which is
 * emptied first). Any thread. 0 or negative errno.
 */
int mappings_read_flagged(int smaps, const char *flag, struct ranges *set);
/*
 * Reads anew which pages belong to threads: their control blocks (found by
 * get_robust_list, which points into them), stacks, and the robust mutexes that
 * they hold. The kernel writes to those words when a thread dies and can't wait
 * for us then, so they must not be missing. A mutex may have been taken while its
 * page left: that page is m->missing, and should be brought back.
 * 0 or negative errno: then nothing may leave. -E2BIG: the threads' lists name more
 * than MAPPINGS_MUTEXES_MAX; they are the program's to write, and may go in circles.
 */
#define MAPPINGS_MUTEXES_MAX 1024u
int mappings_read_threads(struct mappings *m, int mem, int tasks, pid_t pid);

/* The first eligible mapping that ends after address, or NULL. */
const struct mapping *mappings_after(const struct mappings *m, uint64_t address);

#endif
