/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * munmap_verify [SECONDS]: new mappings over pages that have left are zero, in
 * whole and in part, by munmap, by MAP_FIXED and by the break going down and
 * up; mprotect keeps contents and its faults arrive; an unmapped page is a
 * SIGSEGV and not a wait.
 */
#include "workload.h"

#include <pthread.h>
#include <setjmp.h>

#define PAGES 512
#define THREADS 4
#define THREAD_PAGES 64
#define BREAK_PAGES 256

static double deadline;
static sigjmp_buf landing;

static unsigned char *map_at(void *at, size_t pages, int protection)
{
	void *got = mmap(at, pages * WL_PAGE, protection,
			 MAP_PRIVATE | MAP_ANONYMOUS | (at ? MAP_FIXED : 0), -1, 0);

	WL_CHECK(got != MAP_FAILED, "mmap: %s", strerror(errno));
	return got;
}

static void keyed(const char *what, const unsigned char *area, size_t from, size_t to, uint64_t seed)
{
	size_t i;

	for (i = from; i < to; i++)
		wl_check_key(what, area + i * WL_PAGE, content_key(seed, i, 0), i);
}

static void on_segv(int signal)
{
	(void)signal;
	siglongjmp(landing, 1);
}

static bool faults(volatile unsigned char *at, bool write)
{
	if (sigsetjmp(landing, 1))
		return true;
	if (write)
		*at = 1;
	else
		(void)*at;
	return false;
}

static void away(const char *what, unsigned char *area, size_t pages, bool wait)
{
	if (wait)
		wl_wait_evicted(what, area, pages, WL_EVICT_SHARE);
	else
		wl_try_evicted(area, pages, WL_EVICT_SHARE, 0.2);
}

static void whole(uint64_t seed, bool wait)
{
	unsigned char *area = map_at(NULL, PAGES, PROT_READ | PROT_WRITE);

	wl_fill(area, PAGES, seed);
	away("before munmap", area, PAGES, wait);
	WL_OK(munmap(area, PAGES * WL_PAGE));
	WL_CHECK(faults(area, false) && faults(area + (PAGES - 1) * WL_PAGE, true),
		 "no SIGSEGV where nothing is mapped");
	map_at(area, PAGES, PROT_READ | PROT_WRITE);
	wl_check_zeros("mapped again", area, PAGES / 2);
	wl_fill(area, PAGES / 2, seed + 1);
	away("mapped again", area, PAGES / 2, wait);
	wl_check_zeros("mapped again, later", area + PAGES / 2 * WL_PAGE, PAGES / 2);
	keyed("mapped again", area, 0, PAGES / 2, seed + 1);
	WL_OK(munmap(area, PAGES * WL_PAGE));
}

static void pieces(uint64_t seed, bool wait)
{
	unsigned char *area = map_at(NULL, PAGES, PROT_READ | PROT_WRITE);
	size_t i;

	wl_fill(area, PAGES, seed);
	away("before unmapping pieces", area, PAGES, wait);
	for (i = 16; i < PAGES; i += 64) {
		WL_OK(munmap(area + i * WL_PAGE, 16 * WL_PAGE));
		map_at(area + (i + 16) * WL_PAGE, 16, PROT_READ | PROT_WRITE);
	}
	for (i = 16; i < PAGES; i += 64) {
		WL_CHECK(faults(area + i * WL_PAGE, false), "no SIGSEGV in a hole");
		keyed("before a hole", area, i - 16, i, seed);
		wl_check_zeros("mapped over", area + (i + 16) * WL_PAGE, 16);
		keyed("behind what was mapped over", area, i + 32, i + 48, seed);
	}
	for (i = 16; i < PAGES; i += 64)
		map_at(area + i * WL_PAGE, 16, PROT_READ | PROT_WRITE);
	for (i = 16; i < PAGES; i += 64)
		wl_check_zeros("hole mapped again", area + i * WL_PAGE, 16);
	WL_OK(munmap(area, PAGES * WL_PAGE));
}

static void protect(uint64_t seed, bool wait)
{
	unsigned char *area = map_at(NULL, PAGES, PROT_READ | PROT_WRITE);
	size_t quarter = PAGES / 4 * WL_PAGE;

	wl_fill(area, PAGES, seed);
	away("before mprotect", area, PAGES, wait);
	WL_OK(mprotect(area + quarter, quarter, PROT_READ));
	WL_OK(mprotect(area + 2 * quarter, quarter, PROT_NONE));
	keyed("read-only", area, PAGES / 4, PAGES / 2, seed);
	WL_CHECK(faults(area + quarter + 8, true), "read-only, but written");
	WL_CHECK(faults(area + 2 * quarter, false), "inaccessible, but read");
	keyed("before the protected part", area, 0, PAGES / 4, seed);
	keyed("behind the protected part", area, PAGES * 3 / 4, PAGES, seed);
	WL_OK(mprotect(area + quarter, 2 * quarter, PROT_READ | PROT_WRITE));
	away("after mprotect", area, PAGES, wait);
	keyed("accessible again", area, 0, PAGES, seed);
	WL_OK(mprotect(area, PAGES * WL_PAGE, PROT_READ | PROT_EXEC));
	keyed("executable", area, 0, PAGES, seed);
	WL_OK(munmap(area, PAGES * WL_PAGE));
}

/* Nothing here may allocate between the two ends of the break. */
static void breaks(uint64_t seed, bool wait)
{
	unsigned char *end = sbrk(0), *area;
	size_t align = (WL_PAGE - (uintptr_t)end % WL_PAGE) % WL_PAGE;

	WL_CHECK(sbrk((intptr_t)(align + BREAK_PAGES * WL_PAGE)) == end, "sbrk");
	area = end + align;
	wl_check_zeros("new break", area, BREAK_PAGES);
	wl_fill(area, BREAK_PAGES, seed);
	away("before the break goes down", area, BREAK_PAGES, wait);
	WL_CHECK(sbrk(-(intptr_t)(BREAK_PAGES / 2 * WL_PAGE)) != (void *)-1, "sbrk down");
	keyed("below the break", area, 0, BREAK_PAGES / 2, seed);
	WL_CHECK(faults(area + BREAK_PAGES / 2 * WL_PAGE, false), "no SIGSEGV above the break");
	WL_CHECK(sbrk((intptr_t)(BREAK_PAGES / 2 * WL_PAGE)) != (void *)-1, "sbrk up");
	wl_check_zeros("break up again", area + BREAK_PAGES / 2 * WL_PAGE, BREAK_PAGES / 2);
	keyed("below the old break", area, 0, BREAK_PAGES / 2, seed);
	WL_CHECK(sbrk(-(intptr_t)(align + BREAK_PAGES * WL_PAGE)) != (void *)-1, "sbrk back");
}

static void (*const part[])(uint64_t, bool) = { whole, pieces, protect, breaks };
#define PARTS (sizeof(part) / sizeof(part[0]))

/* Map, fill, unmap or map over, at one place, beside others that do the same.
   Nobody else maps meanwhile: what was unmapped is still free a moment later. */
static void *cycle(void *arg)
{
	unsigned char *area = arg;
	uint64_t seed = (uint64_t)(uintptr_t)arg, rng = seed;
	uintptr_t cycles = 0;

	while (wl_now() < deadline) {
		if (content_next(&rng) % 2) {
			WL_OK(munmap(area, THREAD_PAGES * WL_PAGE));
			map_at(area, THREAD_PAGES, PROT_NONE);
		}
		map_at(area, THREAD_PAGES, PROT_READ | PROT_WRITE);
		if (content_next(&rng) % 2)
			wl_check_zeros("fresh in a thread", area, THREAD_PAGES);
		wl_fill(area, THREAD_PAGES, ++seed);
		if (content_next(&rng) % 2)
			wl_sleep_ms(content_next(&rng) % 60);
		wl_verify("cycle of a thread", area, THREAD_PAGES, seed);
		cycles++;
	}
	return (void *)cycles;
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = on_segv };
	pthread_t thread[THREADS];
	uint64_t rounds = 0, cycles = 0;
	unsigned char *arena;
	size_t i;
	void *count;

	WL_OK(sigaction(SIGSEGV, &action, NULL));
	deadline = wl_now() + wl_arg(argc, argv, 1, 3);
	for (i = 0; i < PARTS; i++)
		part[i](i + 1, true);
	arena = map_at(NULL, THREADS * THREAD_PAGES, PROT_NONE);
	for (i = 0; i < THREADS; i++)
		WL_CHECK(!pthread_create(&thread[i], NULL, cycle,
					 arena + i * THREAD_PAGES * WL_PAGE),
			 "pthread_create");
	for (i = 0; i < THREADS; i++) {
		pthread_join(thread[i], &count);
		cycles += (uintptr_t)count;
	}
	deadline = wl_now() + 1;
	do {
		part[rounds % PARTS](rounds, false);
	} while (++rounds < PARTS || wl_now() < deadline);
	wl_say("%zu parts, %llu cycles by threads, %llu rounds, all right", PARTS,
	       (unsigned long long)cycles, (unsigned long long)rounds);
	return 0;
}
