/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * touch: what the fault benchmarks and their yardstick share, so that all measure
 * the same thing: heap-like pages, or those of a heap image (heap-images); random
 * touches of pages that are away, the clock around one read of one byte.
 */
#ifndef USWAP_BENCH_TOUCH_H
#define USWAP_BENCH_TOUCH_H

#include "tests/workloads/workload.h"

static const unsigned char **touch_image; /* its pages */
static size_t touch_nr;

/* The pages of an image but for those that repeat one word. */
static inline void touch_load(const char *path)
{
	int fd = (int)WL_OK(open(path, O_RDONLY | O_CLOEXEC));
	off_t size = (off_t)WL_OK(lseek(fd, 0, SEEK_END));
	const unsigned char *map = mmap(NULL, (size_t)size, PROT_READ, MAP_PRIVATE, fd, 0), *at;
	uint64_t nr, i;

	WL_CHECK(map != MAP_FAILED && size > 16 && !memcmp(map, "USWAPIMG", 8), "not an image");
	memcpy(&nr, map + 8, sizeof(nr));
	WL_CHECK((uint64_t)size >= 16 + nr * (8 + WL_PAGE), "the image is too short");
	touch_image = calloc(nr, sizeof(*touch_image));
	WL_CHECK(touch_image, "calloc");
	for (i = 0, at = map + 16 + nr * 8; i < nr; i++, at += WL_PAGE)
		if (memcmp(at, at + 4, WL_PAGE - 4))
			touch_image[touch_nr++] = at;
	close(fd);
}

/* Objects, integers and text, a third each: about 3 to 1 with zstd. */
static inline void touch_content(unsigned char *page, size_t index)
{
	static const enum content_kind kind[] = { CONTENT_OBJECTS, CONTENT_INTEGERS, CONTENT_TEXT };

	if (touch_nr) {
		WL_CHECK(index < touch_nr, "the image has fewer pages than that");
		memcpy(page, touch_image[index], WL_PAGE);
		return;
	}
	content_page_of(page, content_key(0xbe7c, index, 0), kind[index % 3]);
}

static inline uint64_t touch_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Of this thread. */
static inline uint64_t touch_cpu(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline int touch_compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* Whoever has it: the agent or the kernel's swap. */
static inline int touch_is_out(uint64_t pagemap_entry)
{
	return !(pagemap_entry >> 63);
}

static inline size_t touch_out(const unsigned char *area, size_t pages)
{
	int pagemap = (int)WL_OK(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
	uint64_t *entry = malloc(pages * sizeof(*entry));
	size_t out = 0, i;

	WL_CHECK(entry && pread(pagemap, entry, pages * sizeof(*entry),
				(off_t)((uintptr_t)area / WL_PAGE * sizeof(*entry))) ==
				  (ssize_t)(pages * sizeof(*entry)), "pagemap");
	for (i = 0; i < pages; i++)
		out += (size_t)touch_is_out(entry[i]);
	free(entry);
	close(pagemap);
	return out;
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
		if (!touch_is_out(entry))
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
