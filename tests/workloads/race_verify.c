/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * race_verify [SECONDS]: threads move, unmap and empty mappings whose pages have
 * left, while others fork. What a child finds mapped must hold its bytes, with
 * the mappings as they were at one instant; the threads verify their own.
 *
 * A ledger says what each mapping holds and what is being done to it. It is
 * copied with the rest: the child's is that of the instant.
 */
#include "workload.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/syscall.h>

#define PAGES 24
#define MOVERS 3
#define UNMAPPERS 2
#define DROPPERS 2
#define THREADS (MOVERS + UNMAPPERS + DROPPERS)
#define FORKERS 2
#define BASE ((uintptr_t)0x2000000000) /* where the kernel puts nothing by itself */
#define APART ((uintptr_t)1 << 26)
#define SEED 0xace

enum phase {
	STABLE,	  /* holds its generation, at `place` */
	CHANGING, /* moved, unmapped or emptied: before it or after */
	FILLING,  /* nothing, or empty, or of the new generation, page by page */
};

static struct ledger {
	_Atomic unsigned phase, place, generation;
} ledger[THREADS];
static double deadline;
static _Atomic unsigned long changes, forks;

static unsigned char *place_of(unsigned t, unsigned place)
{
	return (unsigned char *)(BASE + (2 * t + place) * APART);
}

static uint64_t key_of(unsigned t, unsigned generation, size_t page)
{
	return content_key(SEED + t, page, generation);
}

static void map_and_fill(unsigned t, unsigned generation)
{
	unsigned char *at = place_of(t, ledger[t].place);
	void *got;
	size_t i;

	ledger[t].phase = FILLING;
	got = mmap(at, PAGES * WL_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	WL_CHECK(got == at, "mmap: %s", strerror(errno));
	ledger[t].generation = generation;
	for (i = 0; i < PAGES; i++)
		content_page(at + i * WL_PAGE, key_of(t, generation, i));
	ledger[t].phase = STABLE;
}

static void verify_own(unsigned t)
{
	const unsigned char *at = place_of(t, ledger[t].place);
	size_t i;

	for (i = 0; i < PAGES; i++)
		wl_check_key("its own thread", at + i * WL_PAGE, key_of(t, ledger[t].generation, i), i);
}

static void *mover(void *arg)
{
	unsigned t = (unsigned)(uintptr_t)arg, n;
	uint64_t rng = t;

	for (n = 0; wl_now() < deadline; n++) {
		unsigned char *from = place_of(t, ledger[t].place), *to = place_of(t, !ledger[t].place);

		ledger[t].phase = CHANGING;
		WL_CHECK(mremap(from, PAGES * WL_PAGE, PAGES * WL_PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to,
			 "mremap: %s", strerror(errno));
		ledger[t].place = !ledger[t].place;
		ledger[t].phase = STABLE;
		if (n % 64 == 63)
			verify_own(t);
		if (content_next(&rng) % 16 == 0)
			wl_sleep_ms(20);
	}
	verify_own(t);
	atomic_fetch_add(&changes, n);
	return NULL;
}

static void *unmapper(void *arg)
{
	unsigned t = (unsigned)(uintptr_t)arg, n;
	uint64_t rng = t;

	for (n = 0; wl_now() < deadline; n++) {
		ledger[t].phase = CHANGING;
		WL_OK(munmap(place_of(t, ledger[t].place), PAGES * WL_PAGE));
		map_and_fill(t, n + 2);
		if (content_next(&rng) % 4 == 0)
			wl_sleep_ms(20);
		verify_own(t);
	}
	atomic_fetch_add(&changes, n);
	return NULL;
}

static void *dropper(void *arg)
{
	unsigned t = (unsigned)(uintptr_t)arg, n;
	unsigned char *at = place_of(t, 0);
	uint64_t rng = t;
	size_t i;

	for (n = 0; wl_now() < deadline; n++) {
		ledger[t].phase = CHANGING;
		WL_OK(madvise(at, PAGES * WL_PAGE, MADV_DONTNEED));
		ledger[t].generation++;
		ledger[t].phase = FILLING;
		for (i = 0; i < PAGES; i++)
			content_page(at + i * WL_PAGE, key_of(t, ledger[t].generation, i));
		ledger[t].phase = STABLE;
		if (content_next(&rng) % 4 == 0)
			wl_sleep_ms(20);
		verify_own(t);
	}
	atomic_fetch_add(&changes, n);
	return NULL;
}

/* ---- in a child ---- */

static bool is_mapped(const unsigned char *at)
{
	unsigned char there[PAGES];

	return mincore((void *)(uintptr_t)at, PAGES * WL_PAGE, there) == 0;
}

static bool is_page(const unsigned char *page, uint64_t key)
{
	unsigned char want[CONTENT_PAGE];

	content_page(want, key);
	return !memcmp(page, want, CONTENT_PAGE);
}

static void check_mapping(unsigned t, const unsigned char *at)
{
	unsigned phase = ledger[t].phase, generation = ledger[t].generation;
	bool may_be_empty = phase == FILLING || (phase == CHANGING && t >= MOVERS + UNMAPPERS);
	unsigned halves = phase == FILLING; /* one of them may be half of each */
	size_t i;

	for (i = 0; i < PAGES; i++) {
		const unsigned char *page = at + i * WL_PAGE;

		if (may_be_empty && (wl_is_zero(page) || is_page(page, key_of(t, generation, i))))
			continue;
		if (halves && halves--)
			continue;
		wl_check_key(phase == STABLE ? "child" : "child, beside a change", page,
			     key_of(t, generation, i), i);
	}
}

static void check_child(void)
{
	unsigned t;

	for (t = 0; t < THREADS; t++) {
		bool here = is_mapped(place_of(t, 0)), there = is_mapped(place_of(t, 1));

		WL_CHECK(!(here && there), "child: mapping %u is in two places", t);
		WL_CHECK(here || there || (ledger[t].phase != STABLE && t >= MOVERS && t < MOVERS + UNMAPPERS),
			 "child: mapping %u is nowhere", t);
		if (here || there)
			check_mapping(t, place_of(t, there));
	}
}

static void *forker(void *arg)
{
	unsigned n;

	(void)arg;
	for (n = 0; wl_now() < deadline; n++) {
		/* a child of the C library's has a mover of its own, others have none */
		pid_t pid = n % 8 ? (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) : fork();

		WL_CHECK(pid >= 0, "fork: %s", strerror(errno));
		if (!pid) {
			check_child();
			if (n % 2) /* and changes mappings itself, at once */
				munmap(place_of(0, 0), PAGES * WL_PAGE);
			_exit(9);
		}
		wl_reap("child", pid, WL_EXITED(9));
	}
	atomic_fetch_add(&forks, n);
	return NULL;
}

int main(int argc, char **argv)
{
	void *(*const does[])(void *) = { mover, unmapper, dropper };
	pthread_t thread[THREADS + FORKERS];
	unsigned i;

	for (i = 0; i < THREADS; i++)
		map_and_fill(i, 1);
	for (i = 0; i < THREADS; i++)
		wl_wait_evicted("before the race", place_of(i, 0), PAGES, WL_EVICT_SHARE);
	deadline = wl_now() + wl_arg(argc, argv, 1, 3);
	for (i = 0; i < THREADS + FORKERS; i++)
		WL_CHECK(!pthread_create(&thread[i], NULL,
					 i >= THREADS ? forker : does[(i >= MOVERS) + (i >= MOVERS + UNMAPPERS)],
					 (void *)(uintptr_t)i),
			 "pthread_create");
	for (i = 0; i < THREADS + FORKERS; i++)
		pthread_join(thread[i], NULL);
	wl_say("%lu changes beside %lu forks, all right", changes, forks);
	return 0;
}
