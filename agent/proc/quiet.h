/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * quiet: since when has every thread of a process been seen outside of the
 * calls that drop pages?
 *
 * The kernel reports a REMOVE before it zaps, and the zap comes at any time
 * after the report was read, so its pages are barred. MADV_FREE is reported
 * the same way but leaves its pages where they are: no fault of theirs will
 * ever lift the bar. But when each thread has been seen outside of madvise
 * after the report was read, the zap is over, and what is there may leave.
 *
 * A thread that runs shows nothing; one that sleeps or waits for a page shows
 * its system call in /proc/PID/task/TID/syscall. io_uring's workers show none,
 * and may be inside; with one of them in the process nothing is known.
 * (A process that shares the memory without being a thread of it is not seen;
 * the C library makes none but for vfork, whose caller waits in it.)
 *
 * Threads: the evict worker.
 */
#ifndef USWAP_PROC_QUIET_H
#define USWAP_PROC_QUIET_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct quiet_thread {
	pid_t tid;
	uint64_t seen_ns; /* outside, then */
};

struct quiet {
	struct quiet_thread *v; /* sorted by tid */
	size_t nr;
	uint64_t looked_ns; /* when the last look began */
};

void quiet_deinit(struct quiet *q);
/* Looks at all threads (tasks is /proc/PID/task). What was reported, read and
   noted before the time returned is over; 0: nothing is known. */
uint64_t quiet_look(struct quiet *q, int tasks);

#endif
