/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * mremap_verify [SECONDS]: mappings whose pages have left are moved, grown,
 * shrunk, moved over others, split and emptied by MREMAP_DONTUNMAP, also while
 * threads use their own. Contents follow; what is new or given up is zero. What
 * the agent has registered in part is not so for long.
 */
#include "workload.h"

#include <pthread.h>

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

#define PAGES 512
#define THREADS 3
#define THREAD_PAGES 96

static double deadline;
/* Held while a hole is open that must not be taken by another thread. */
static pthread_mutex_t room = PTHREAD_MUTEX_INITIALIZER;

/* An unused place, for MREMAP_FIXED. */
static unsigned char *place(size_t pages)
{
	void *at;

	pthread_mutex_lock(&room);
	at = mmap(NULL, pages * WL_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pthread_mutex_unlock(&room);
	WL_CHECK(at != MAP_FAILED, "mmap: %s", strerror(errno));
	return at;
}

static unsigned char *remap(const char *what, void *from, size_t pages, size_t to_pages, int flags,
			    void *to)
{
	void *at = mremap(from, pages * WL_PAGE, to_pages * WL_PAGE, flags, to);

	WL_CHECK(at != MAP_FAILED, "%s: mremap: %s", what, strerror(errno));
	return at;
}

static unsigned char *plain(size_t pages)
{
	void *at = mmap(NULL, pages * WL_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			-1, 0);

	WL_CHECK(at != MAP_FAILED, "mmap: %s", strerror(errno));
	return at;
}

static void drop(void *area, size_t pages)
{
	WL_OK(munmap(area, pages * WL_PAGE));
}

/* wait: whether it must be seen that pages left; else only for a moment. */
static void away(const char *what, unsigned char *area, size_t pages, bool wait)
{
	if (wait)
		wl_wait_evicted(what, area, pages, WL_EVICT_SHARE);
	else
		wl_try_evicted(area, pages, WL_EVICT_SHARE, 0.2);
}

static void move(uint64_t seed, bool wait)
{
	unsigned char *area = plain(PAGES), *at;
	unsigned i;

	wl_fill(area, PAGES, seed);
	for (i = 0; i < 3; i++) {
		away("before a move", area, PAGES, wait);
		at = remap("move", area, PAGES, PAGES, MREMAP_MAYMOVE | MREMAP_FIXED, place(PAGES));
		WL_CHECK(at != area, "not moved");
		area = at;
		if (i == 1)
			away("after a move", area, PAGES, wait);
		wl_verify("moved", area, PAGES, seed);
	}
	drop(area, PAGES);
}

static void grow(uint64_t seed, bool wait)
{
	unsigned char *area = plain(PAGES / 4);

	wl_fill(area, PAGES / 4, seed);
	away("before growing", area, PAGES / 4, wait);
	area = remap("grow", area, PAGES / 4, PAGES, MREMAP_MAYMOVE, NULL);
	wl_check_zeros("grown part", area + PAGES / 4 * WL_PAGE, PAGES * 3 / 4);
	wl_verify("before the grown part", area, PAGES / 4, seed);
	wl_fill(area, PAGES, seed + 1);
	away("after growing", area, PAGES, wait);
	wl_verify("grown", area, PAGES, seed + 1);
	drop(area, PAGES);
}

/* Growing in place: the room behind is made free first. */
static void grow_in_place(uint64_t seed, bool wait)
{
	unsigned char *area = place(PAGES), *at;

	drop(area + PAGES / 2 * WL_PAGE, PAGES / 2);
	WL_OK(mprotect(area, PAGES / 2 * WL_PAGE, PROT_READ | PROT_WRITE));
	wl_fill(area, PAGES / 2, seed);
	away("before growing in place", area, PAGES / 2, wait);
	at = mremap(area, PAGES / 2 * WL_PAGE, PAGES * WL_PAGE, 0);
	if (at == MAP_FAILED) { /* somebody else took the room */
		WL_CHECK(errno == ENOMEM, "growing in place: %s", strerror(errno));
		wl_verify("not grown", area, PAGES / 2, seed);
		drop(area, PAGES / 2);
		return;
	}
	wl_check_zeros("grown in place", area + PAGES / 2 * WL_PAGE, PAGES / 2);
	wl_verify("before what grew in place", area, PAGES / 2, seed);
	drop(area, PAGES);
}

static void shrink(uint64_t seed, bool wait)
{
	unsigned char *area = plain(PAGES);

	wl_fill(area, PAGES, seed);
	away("before shrinking", area, PAGES, wait);
	area = remap("shrink", area, PAGES, PAGES / 2, 0, NULL);
	area = remap("grow again", area, PAGES / 2, PAGES, MREMAP_MAYMOVE, NULL);
	wl_check_zeros("grown again", area + PAGES / 2 * WL_PAGE, PAGES / 2);
	away("after growing again", area, PAGES / 2, wait);
	wl_verify("shrunk and grown", area, PAGES / 2, seed);
	wl_check_zeros("grown again, later", area + PAGES / 2 * WL_PAGE, PAGES / 2);
	drop(area, PAGES);
}

/* Over a mapping whose pages have left too: those are gone for good. */
static void over(uint64_t seed, bool wait)
{
	unsigned char *area = plain(PAGES), *other = plain(PAGES);

	wl_fill(area, PAGES, seed);
	wl_fill(other, PAGES, seed + 1);
	away("before moving over", area, PAGES, wait);
	away("before being moved over", other, PAGES, wait);
	remap("over", area, PAGES / 2, PAGES / 2, MREMAP_MAYMOVE | MREMAP_FIXED,
	      other + PAGES / 4 * WL_PAGE);
	wl_verify("moved over", other + PAGES / 4 * WL_PAGE, PAGES / 2, seed);
	wl_verify("before what was moved over", other, PAGES / 4, seed + 1);
	for (size_t i = PAGES * 3 / 4; i < PAGES; i++)
		wl_check_key("behind what was moved over", other + i * WL_PAGE,
			     content_key(seed + 1, i, 0), i);
	for (size_t i = PAGES / 2; i < PAGES; i++)
		wl_check_key("left behind", area + i * WL_PAGE, content_key(seed, i, 0), i);
	drop(area + PAGES / 2 * WL_PAGE, PAGES / 2);
	drop(other, PAGES);
}

/* The middle goes elsewhere and comes back; the hole is filled meanwhile. */
static void middle(uint64_t seed, bool wait)
{
	unsigned char *area = plain(PAGES), *gone = place(PAGES / 2);
	unsigned char *hole = area + PAGES / 4 * WL_PAGE;

	wl_fill(area, PAGES, seed);
	away("before taking the middle", area, PAGES, wait);
	pthread_mutex_lock(&room);
	remap("middle", hole, PAGES / 2, PAGES / 2, MREMAP_MAYMOVE | MREMAP_FIXED, gone);
	WL_CHECK(mmap(hole, PAGES / 2 * WL_PAGE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == hole,
		 "mmap: %s", strerror(errno));
	pthread_mutex_unlock(&room);
	wl_check_zeros("hole", hole, PAGES / 2);
	wl_fill(hole, PAGES / 2, seed + 1);
	away("hole", hole, PAGES / 2, wait);
	remap("back", gone, PAGES / 2, PAGES / 2, MREMAP_MAYMOVE | MREMAP_FIXED, hole);
	wl_verify("middle back in place", area, PAGES, seed);
	drop(area, PAGES);
}

static void dontunmap(uint64_t seed, bool wait)
{
	unsigned char *area = plain(PAGES), *at;

	wl_fill(area, PAGES, seed);
	away("before DONTUNMAP", area, PAGES, wait);
	at = mremap(area, PAGES * WL_PAGE, PAGES * WL_PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
	if (at == MAP_FAILED) {
		WL_CHECK(errno == EINVAL, "DONTUNMAP: %s", strerror(errno));
		drop(area, PAGES);
		return;
	}
	wl_check_zeros("old place after DONTUNMAP", area, PAGES / 2);
	wl_verify("new place after DONTUNMAP", at, PAGES, seed);
	wl_check_zeros("old place after DONTUNMAP, behind", area + PAGES / 2 * WL_PAGE, PAGES / 2);
	wl_fill(area, PAGES, seed + 1);
	away("old place after DONTUNMAP", area, PAGES, wait);
	wl_verify("new place after DONTUNMAP, later", at, PAGES, seed);
	wl_verify("old place after DONTUNMAP, refilled", area, PAGES, seed + 1);
	drop(area, PAGES);
	drop(at, PAGES);
}

/* The C library's own use of mremap. */
static void reallocate(uint64_t seed, bool wait)
{
	size_t pages = 64, more;
	unsigned char *block = malloc(pages * WL_PAGE), *first;

	WL_CHECK(block, "malloc");
	wl_fill(block, pages, seed);
	for (more = 96; more <= PAGES; more = more * 3 / 2) {
		first = block + (WL_PAGE - (uintptr_t)block % WL_PAGE) % WL_PAGE;
		away("before realloc", first, pages - 1, wait);
		block = realloc(block, more * WL_PAGE);
		WL_CHECK(block, "realloc");
		wl_verify("reallocated", block, pages, seed);
		wl_fill(block, more, seed);
		pages = more;
	}
	block = realloc(block, 16 * WL_PAGE);
	WL_CHECK(block, "realloc");
	wl_verify("made smaller", block, 16, seed);
	free(block);
}

/* The kernel moves a mapping whole, and refuses one of which a part is registered. */
static unsigned char *remap_whole(const char *what, unsigned char *area, size_t pages)
{
	double end = wl_now() + WL_EVICT_SECONDS;
	void *at;

	while ((at = mremap(area, pages * WL_PAGE, 2 * pages * WL_PAGE, MREMAP_MAYMOVE)) == MAP_FAILED) {
		WL_CHECK(errno == EFAULT, "%s: mremap: %s", what, strerror(errno));
		WL_CHECK(wl_now() < end, "%s: it stays registered in part", what);
		wl_sleep_ms(5);
	}
	return at;
}

/* Of a mapping that is made in two steps nothing but the first part ever leaves. */
static void made_in_steps(uint64_t seed)
{
	unsigned char *area = place(PAGES);

	WL_OK(mprotect(area, PAGES / 2 * WL_PAGE, PROT_READ | PROT_WRITE));
	wl_fill(area, PAGES / 2, seed);
	away("before its second half is there", area, PAGES / 2, true);
	WL_OK(mprotect(area, PAGES * WL_PAGE, PROT_READ | PROT_WRITE));
	area = remap_whole("made in steps", area, PAGES);
	wl_verify("made in steps", area, PAGES / 2, seed);
	wl_check_zeros("made in steps", area + PAGES / 2 * WL_PAGE, PAGES * 3 / 2);
	drop(area, 2 * PAGES);
}

/* A guard has the agent bring everything back and let go of it: also of what the
   mapping has grown by. */
static void grown_and_let_go(uint64_t seed)
{
	unsigned char *area = place(PAGES);
	double end = wl_now() + WL_EVICT_SECONDS;

	drop(area + PAGES / 2 * WL_PAGE, PAGES / 2);
	WL_OK(mprotect(area, PAGES / 2 * WL_PAGE, PROT_READ | PROT_WRITE));
	wl_fill(area, PAGES / 2, seed);
	away("before growing", area, PAGES / 2, true);
	WL_CHECK(mremap(area, PAGES / 2 * WL_PAGE, PAGES * WL_PAGE, 0) == area, "mremap: %s", strerror(errno));
	if (madvise(area, WL_PAGE, MADV_GUARD_INSTALL) == 0) { /* since Linux 6.13 */
		while (wl_evicting() && wl_absent(area + WL_PAGE, PAGES / 2 - 1)) {
			WL_CHECK(wl_now() < end, "beside a guard: pages stay away");
			wl_sleep_ms(5);
		}
		area = remap_whole("grown, and let go", area, PAGES);
		for (size_t i = 1; i < PAGES / 2; i++)
			wl_check_key("grown, and let go", area + i * WL_PAGE, content_key(seed, i, 0), i);
		drop(area + PAGES * WL_PAGE, PAGES);
	}
	drop(area, PAGES);
}

static void (*const part[])(uint64_t, bool) = { move, grow,   grow_in_place, shrink,
						over, middle, dontunmap,     reallocate };
#define PARTS (sizeof(part) / sizeof(part[0]))

/* What was just mapped isn't registered, and moves without a word to the agent. */
static unsigned char *filled(size_t pages, uint64_t seed)
{
	unsigned char *area;

	pthread_mutex_lock(&room);
	area = plain(pages);
	pthread_mutex_unlock(&room);
	wl_fill(area, pages, seed);
	return area;
}

static void *mover(void *arg)
{
	uint64_t seed = (uint64_t)(uintptr_t)arg << 32, rng = seed;
	uintptr_t moves = 0;
	unsigned char *area = filled(THREAD_PAGES, seed);

	while (wl_now() < deadline) {
		if (content_next(&rng) % 4 == 0) {
			wl_verify("thread, given up", area, THREAD_PAGES, seed);
			drop(area, THREAD_PAGES);
			area = filled(THREAD_PAGES, seed);
		}
		area = remap("thread", area, THREAD_PAGES, THREAD_PAGES,
			     MREMAP_MAYMOVE | MREMAP_FIXED, place(THREAD_PAGES));
		if (content_next(&rng) % 2)
			wl_sleep_ms(content_next(&rng) % 50);
		if (content_next(&rng) % 2)
			wl_verify("thread", area, THREAD_PAGES, seed);
		moves++;
	}
	wl_verify("thread at the end", area, THREAD_PAGES, seed);
	drop(area, THREAD_PAGES);
	return (void *)moves;
}

int main(int argc, char **argv)
{
	pthread_t thread[THREADS];
	uint64_t rounds = 0, moves = 0;
	uintptr_t i;
	void *count;

	deadline = wl_now() + wl_arg(argc, argv, 1, 3);
	for (i = 0; i < PARTS; i++)
		part[i](i + 1, true);
	made_in_steps(PARTS + 1);
	grown_and_let_go(PARTS + 2);
	for (i = 0; i < THREADS; i++)
		WL_CHECK(!pthread_create(&thread[i], NULL, mover, (void *)(i + 1)),
			 "pthread_create");
	do {
		part[rounds % PARTS](rounds, false);
	} while (++rounds < PARTS || wl_now() < deadline);
	for (i = 0; i < THREADS; i++) {
		pthread_join(thread[i], &count);
		moves += (uintptr_t)count;
	}
	wl_say("%llu rounds beside %llu moves by threads, all right", (unsigned long long)rounds,
	       (unsigned long long)moves);
	return 0;
}
