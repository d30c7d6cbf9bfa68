/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * uffd: the userfaultfd calls the agent makes on a forwarded descriptor, and
 * the contract of their results. Behind struct uffd_ops, so that a scripted
 * kernel can stand in.
 *
 * Event order and retry (established by experiment on Linux 6.18, and read in
 * fs/userfaultfd.c):
 *  - a read returns all pending page faults before events, so a batch of
 *    messages is applied events first (INV-4);
 *  - an event is completed by being READ; what it announces (the zap of a
 *    REMOVE) happens after that;
 *  - from before the change until the announcing thread has run again, COPY,
 *    ZEROPAGE and MOVE answer EAGAIN: read events, look the page up again,
 *    then retry; never repeat the same call blindly;
 *  - EEXIST does not prove that the faulting thread was woken: WAKE;
 *  - ENOENT: no such registered mapping: WAKE, the thread gets its SIGSEGV. But
 *    it may come before EAGAIN would: with a change under way it means retry;
 *  - ESRCH: the address space is gone.
 *
 * Marks. Where a page has been moved away, the mover write-protects the empty
 * entry (UFFD_FEATURE_WP_UNPOPULATED), which leaves something there. Found out on
 * 6.18: a touch of it is a missing fault like any other; COPY overwrites it,
 * ZEROPAGE and POISON say EEXIST, MOVE from it EFAULT; mprotect, mremap, fork,
 * MADV_FREE, COLD and PAGEOUT keep it, unregistering takes it away (looking at each
 * page that is there: 30 ms a GiB; without marks it does not), and so does
 * everything that drops what is there: MADV_DONTNEED, munmap, and without an event
 * to us MADV_GUARD_INSTALL and shmat(SHM_REMAP). So a page of ours without its
 * mark has been dropped behind our back, and is zeros.
 *
 * Threads: the owner of the session. Nothing here allocates or blocks.
 */
#ifndef USWAP_SYS_UFFD_H
#define USWAP_SYS_UFFD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "uapi/uswap_uapi.h"

enum placed { /* each must be handled by the caller */
	PLACED_DONE = 0,
	PLACED_EXISTS, /* a page is there already; the waiter needs a WAKE */
	PLACED_RETRY,  /* an event is unread or unfinished */
	PLACED_GONE,   /* not mapped, or not ours any more; the waiter needs a WAKE */
	PLACED_DEAD,   /* the address space is gone */
	PLACED_NOMEM,  /* the target's memory cgroup is at its limit */
	PLACED_FAILED, /* anything else: a defect, or a hostile descriptor */
};

#define UFFD_REQUIRED_FEATURES                                                         \
	((uint64_t)(UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP |                \
		    UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP |              \
		    UFFD_FEATURE_THREAD_ID | UFFD_FEATURE_MOVE | UFFD_FEATURE_POISON))

/* What marks need; a kernel may be without. */
#define UFFD_MARK_FEATURES ((uint64_t)(UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_UNPOPULATED))

struct uffd_ops {
	int (*api)(int fd, uint64_t features);
	int (*register_range)(int fd, uint64_t start, uint64_t len, bool marks);
	int (*unregister)(int fd, uint64_t start, uint64_t len);
	int (*copy)(int fd, uint64_t dst, const void *src, uint64_t len, int64_t *done);
	int (*zero)(int fd, uint64_t dst, uint64_t len, int64_t *done);
	int (*wake)(int fd, uint64_t start, uint64_t len);
	int (*poison)(int fd, uint64_t start, uint64_t len, int64_t *done);
	int (*read)(int fd, struct uffd_msg *msgs, unsigned max);
	int (*is_registered)(int fd, uint64_t address);
	int (*mark)(int fd, uint64_t start, uint64_t len, bool on);
};

extern const struct uffd_ops uffd_kernel;
/* What the functions below call; &uffd_kernel unless a test has replaced it
   before any thread was started. */
extern const struct uffd_ops *uffd_ops;

/* With UFFD_REQUIRED_FEATURES, and for marks where it can be. 0 or negative errno. */
int uffd_api(int fd, bool *marks);

/* marks: pages of it can be marked. Again: nothing is lost. */
static inline int uffd_register(int fd, uint64_t start, uint64_t len, bool marks)
{
	return uffd_ops->register_range(fd, start, len, marks);
}

/* Marks go; of pages that are there, the write protection. Wakes. Seldom: unlike the
   others it waits for the program's mmap_lock. */
static inline int uffd_unmark(int fd, uint64_t start, uint64_t len)
{
	return uffd_ops->mark(fd, start, len, false);
}

static inline int uffd_unregister(int fd, uint64_t start, uint64_t len)
{
	return uffd_ops->unregister(fd, start, len);
}

static inline int uffd_wake(int fd, uint64_t start, uint64_t len)
{
	return uffd_ops->wake(fd, start, len);
}

/* Everybody who waits on this userfaultfd, wherever. */
int uffd_wake_all(int fd);

/* Each thread that reads: what it needs to get out of a read in spite of a
   hostile holder of the same open file. 0 or negative errno; without it, fork
   children's descriptors can't be read. */
int uffd_reader_init(void);
void uffd_reader_deinit(void);

/* Messages read (0: none pending), or negative errno; -EBADFD: somebody has
   cleared O_NONBLOCK. Whatever a hostile holder of the same open file does to
   its flags, this takes a few ms at most. */
static inline int uffd_read(int fd, struct uffd_msg *msgs, unsigned max)
{
	return uffd_ops->read(fd, msgs, max);
}

/*
 * Places pages at dst and wakes their waiters. *pages is what was really
 * placed: with PLACED_DONE at least one and perhaps fewer than asked.
 */
enum placed uffd_place_copy(int fd, uint64_t dst, const void *src, unsigned *pages);
enum placed uffd_place_zero(int fd, uint64_t dst, unsigned *pages);
enum placed uffd_place_poison(int fd, uint64_t dst);
enum placed uffd_place_poison_run(int fd, uint64_t dst, unsigned *pages);

/*
 * Is a page of ours, that was marked when it left, still marked? PLACED_EXISTS: yes
 * (or a page is there). PLACED_DONE: no, it was dropped, and zeros are there now.
 * Nothing can come between the look and the zeros, as it could with /proc.
 */
enum placed uffd_look_for_mark(int fd, uint64_t dst);

/*
 * Do marks hold what is said of them above, with this kernel? at: an empty page that is
 * registered for them. False also where it can't be told now; zeros may be there then.
 */
bool uffd_marks_hold(int fd, uint64_t at);

/* Is the address space still there? Asks with a ZEROPAGE at an address that is
   never mapped. */
bool uffd_alive(int fd);

/* Is the page at address in a mapping that is registered? 1 or 0; -EAGAIN with a
   change under way, or another negative errno. Changes nothing. */
static inline int uffd_is_registered(int fd, uint64_t address)
{
	return uffd_ops->is_registered(fd, address);
}

/* A change of mappings is under way: an event is unread, or its thread has not
   run again yet. */
bool uffd_is_changing(int fd);

/* These features were asked for when its API was; of a userfaultfd that had an
   agent before us. */
bool uffd_has_features(int fd, uint64_t features);
/* fd is a userfaultfd (and not, say, a pipe that a hostile peer sent). */
bool uffd_is_uffd(int fd);

#endif
