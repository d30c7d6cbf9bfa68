/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * zero_touch [MIB] [ROUNDS]: first touches inside a mapping of which a part has
 * left already: sequential, reverse, random, strided; read first or written
 * first; by several threads at once. Every first read is zero, every write
 * stays, and what was there before is untouched.
 */
#include "workload.h"

#include <pthread.h>
#include <stdatomic.h>

#define KEPT_PAGES 128 /* at the mapping's start: filled, and away first */
#define SEED 77
#define THREADS 4

enum way { SEQUENTIAL, REVERSE, RANDOM, STRIDED, WAYS };

static unsigned char *area;
static size_t pages; /* behind the kept ones */

static unsigned char *page_at(size_t i)
{
	return area + (KEPT_PAGES + i) * WL_PAGE;
}

static size_t step(enum way way, size_t i)
{
	switch (way) {
	case REVERSE:
		return pages - 1 - i;
	case RANDOM:
		return wl_shuffled(i, pages, SEED);
	case STRIDED: /* columns of eight rows */
		return pages % 8 ? i : i % (pages / 8) * 8 + i / (pages / 8);
	case SEQUENTIAL:
	case WAYS:
		break;
	}
	return i;
}

static void touch(size_t i, bool read_first)
{
	unsigned char *page = page_at(i);
	uint64_t *words = (uint64_t *)(void *)page;

	if (read_first)
		wl_check_zero("first read", page, i);
	words[1] = i + 1;
	WL_CHECK(!words[0] && !words[2] && !words[CONTENT_PAGE / 8 - 1],
		 "page %zu is not zero around the first write", i);
}

static void check_touched(size_t i)
{
	unsigned char want[CONTENT_PAGE] = { 0 };
	uint64_t value = i + 1;

	memcpy(want + 8, &value, sizeof(value));
	if (memcmp(page_at(i), want, CONTENT_PAGE))
		wl_wrong("touched", page_at(i), want, i);
}

static void prepare(void)
{
	area = wl_map(KEPT_PAGES + pages);
	wl_fill(area, KEPT_PAGES, SEED);
	wl_wait_evicted("kept", area, KEPT_PAGES, WL_EVICT_SHARE);
}

static void finish(void)
{
	size_t i;

	wl_try_evicted(page_at(0), pages, WL_EVICT_SHARE, 0.2);
	for (i = 0; i < pages; i++)
		check_touched(i);
	wl_verify("kept", area, KEPT_PAGES, SEED);
	wl_unmap(area, KEPT_PAGES + pages);
}

static void alone(enum way way, bool read_first)
{
	size_t i;

	prepare();
	for (i = 0; i < pages; i++)
		touch(step(way, i), read_first);
	finish();
}

/* All threads meet on the same pages; each has a word of its own in them. */
static void *meet(void *arg)
{
	size_t index = (size_t)(uintptr_t)arg, i;

	for (i = 0; i < pages; i++) {
		uint64_t *words = (uint64_t *)(void *)page_at(step((enum way)(index % WAYS), i));

		WL_CHECK(!words[index + 8], "word of thread %zu is not zero", index);
		words[index + 8] = index + 1;
	}
	return NULL;
}

static void together(void)
{
	pthread_t thread[THREADS];
	uintptr_t t;
	size_t i;

	prepare();
	for (t = 0; t < THREADS; t++)
		WL_CHECK(!pthread_create(&thread[t], NULL, meet, (void *)t), "pthread_create");
	for (t = 0; t < THREADS; t++)
		pthread_join(thread[t], NULL);
	for (i = 0; i < pages; i++) {
		uint64_t *words = (uint64_t *)(void *)page_at(i);

		for (t = 0; t < THREADS; t++) {
			WL_CHECK(words[t + 8] == t + 1, "page %zu: lost the word of thread %zu", i,
				 (size_t)t);
			words[t + 8] = 0;
		}
		words[1] = i + 1;
	}
	finish();
}

/* A part is dropped again and again: windows of zeros must shrink, not grow. */
static void again(void)
{
	size_t i, k;

	prepare();
	for (k = 0; k < 4; k++) {
		for (i = 0; i < pages; i++)
			touch(i, k & 1);
		WL_OK(madvise(page_at(0), pages * WL_PAGE, MADV_DONTNEED));
	}
	for (i = 0; i < pages; i++)
		touch(i, true);
	finish();
}

/* A file is read into pages that were never touched. */
static void by_kernel(void)
{
	int fd = (int)WL_OK(open("/dev/zero", O_RDONLY | O_CLOEXEC));
	size_t i, n;

	prepare();
	for (i = 0; i < pages; i += 64) {
		n = pages - i < 64 ? pages - i : 64;
		WL_CHECK(read(fd, page_at(i), n * WL_PAGE) == (ssize_t)(n * WL_PAGE),
			 "read into untouched pages: %s", strerror(errno));
	}
	for (i = 0; i < pages; i++)
		touch(i, true);
	close(fd);
	finish();
}

int main(int argc, char **argv)
{
	unsigned rounds, round, way;

	pages = (size_t)(wl_arg(argc, argv, 1, 4) * 256);
	rounds = (unsigned)wl_arg(argc, argv, 2, 1);
	WL_CHECK(pages && rounds, "nothing to do");
	for (round = 0; round < rounds; round++) {
		for (way = 0; way < WAYS; way++) {
			alone((enum way)way, false);
			alone((enum way)way, true);
		}
		together();
		again();
		by_kernel();
	}
	wl_say("%zu pages touched first in %d ways, %u rounds: zeros, and nothing lost", pages,
	       2 * WAYS + 3, rounds);
	return 0;
}
