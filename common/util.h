/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Small things every layer uses: sizes, cleanup attributes, time. */
#ifndef USWAP_UTIL_H
#define USWAP_UTIL_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define PAGE_SHIFT 12
#define PAGE_BYTES ((size_t)1 << PAGE_SHIFT)

#define NSEC_PER_SEC 1000000000ull
#define NSEC_PER_USEC 1000ull

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
/* Each argument is evaluated once, and compared in the type that their sum
   would have. */
#define MIN(a, b)                                   \
	({                                          \
		__typeof__((a) + (b)) min_a_ = (a); \
		__typeof__((a) + (b)) min_b_ = (b); \
		min_a_ < min_b_ ? min_a_ : min_b_;  \
	})
#define MAX(a, b)                                   \
	({                                          \
		__typeof__((a) + (b)) max_a_ = (a); \
		__typeof__((a) + (b)) max_b_ = (b); \
		max_a_ > max_b_ ? max_a_ : max_b_;  \
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
