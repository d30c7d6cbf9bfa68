/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * touch: what the two fault benchmarks share, so that both measure the same
 * thing: heap-like pages, random touches of pages that are away, the clock
 * around one read of one byte.
 */
#ifndef USWAP_BENCH_TOUCH_H
#define USWAP_BENCH_TOUCH_H

#include "tests/workloads/workload.h"

/* Objects, integers and text, a third each: about 3 to 1 with zstd. */
static inline void touch_content(unsigned char *page, size_t index)
{
	static const enum content_kind kind[] = { CONTENT_OBJECTS, CONTENT_INTEGERS, CONTENT_TEXT };

	content_page_of(page, content_key(0xbe7c, index, 0), kind[index % 3]);
}

static inline uint64_t touch_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline int touch_compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* One round: up to n random pages of those away; prints "p50 p99 mean count" in
   nanoseconds. A page that somebody brought back in advance isn't touched. */
static inline void touch_round(unsigned char *area, size_t pages, uint64_t *ns, size_t n,
			       uint64_t seed)
{
	int pagemap = (int)WL_OK(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
	size_t i, at, done = 0;
	uint64_t entry, begin, sum = 0;

	for (i = 0; i < pages && done < n; i++) {
		at = wl_shuffled(i, pages, seed);
		WL_CHECK(pread(pagemap, &entry, 8, (off_t)(((uintptr_t)area / WL_PAGE + at) * 8)) ==
				 8, "pagemap");
		if (entry >> 62)
			continue;
		begin = touch_now();
		(void)*(volatile unsigned char *)(area + at * WL_PAGE);
		ns[done++] = touch_now() - begin;
		sum += ns[done - 1];
	}
	close(pagemap);
	if (!done) {
		printf("0 0 0 0\n");
		return;
	}
	qsort(ns, done, sizeof(*ns), touch_compare);
	printf("%llu %llu %llu %zu\n", (unsigned long long)ns[done / 2],
	       (unsigned long long)ns[done * 99 / 100], (unsigned long long)(sum / done), done);
}

#endif
