/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Small things every layer uses: sizes, cleanup attributes, time. */
#ifndef USWAP_UTIL_H
#define USWAP_UTIL_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE_SHIFT 12
#define PAGE_BYTES ((size_t)1 << PAGE_SHIFT)

#define NSEC_PER_SEC 1000000000ull
#define NSEC_PER_USEC 1000ull

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
/* Each argument is evaluated once, and compared in the type that their sum
   would have. The number keeps nested ones apart. */
#define MIN(a, b) MIN_MAX_(<, a, b, __COUNTER__)
#define MAX(a, b) MIN_MAX_(>, a, b, __COUNTER__)
#define MIN_MAX_(op, a, b, n) MIN_MAX_NUMBERED_(op, a, b, n)
#define MIN_MAX_NUMBERED_(op, a, b, n)         \
	({                                     \
		__typeof__((a) + (b)) a_##n = (a); \
		__typeof__((a) + (b)) b_##n = (b); \
		a_##n op b_##n ? a_##n : b_##n;    \
	})
#define CONTAINER_OF(ptr, type, member) \
	((type *)(void *)((char *)(ptr) - offsetof(type, member)))

/* Nanoseconds of CLOCK_MONOTONIC. Any thread; never fails. */
static inline uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

/* Nanoseconds of processor time that the calling thread has had. */
static inline uint64_t thread_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif

/* Whole pages of anonymous memory; they are zeros when touched again, or stay. The agent
   locks its memory, which plain MADV_DONTNEED refuses. */
static inline void memory_give_back(void *at, size_t bytes)
{
	if (madvise(at, bytes, MADV_DONTNEED_LOCKED))
		(void)madvise(at, bytes, MADV_DONTNEED);
}

static inline void cleanup_free(void *p)
{
	free(*(void **)p);
}

static inline void cleanup_close(const int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

#define _cleanup_free_ __attribute__((cleanup(cleanup_free)))
#define _cleanup_close_ __attribute__((cleanup(cleanup_close)))

/* Closes a descriptor unless it is negative; returns -1 to assign back. */
static inline int safe_close(int fd)
{
	if (fd >= 0)
		close(fd);
	return -1;
}

/* Hands a descriptor over: the variable becomes -1. */
static inline int take_fd(int *fd)
{
	int taken = *fd;

	*fd = -1;
	return taken;
}

#endif
