/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * threads_verify [SECONDS] [THREADS]: threads that write while being evicted
 * all the time. Every thread counts in its own words of shared pages and keeps
 * the same counts in a private mirror; all of them add to atomic words; each
 * rewrites private pages of known content. No update may be lost.
 */
#include "workload.h"

#include <pthread.h>
#include <stdatomic.h>

#define SHARED_PAGES 2048
#define PRIVATE_PAGES 512
#define THREADS_MAX 32
#define LINE 128 /* bytes of a page that belong to one thread */
#define BURST 64

struct worker {
	pthread_t thread;
	unsigned index;
	uint64_t updates; /* counted in shared words */
	uint64_t rewrites;
};

static unsigned char *shared;	    /* LINE bytes a thread in each page */
static _Atomic uint64_t *together;  /* one word a page, added to by everybody */
static double deadline;

static uint64_t *own_word(size_t page, unsigned index)
{
	return (uint64_t *)(void *)(shared + page * WL_PAGE + index * LINE);
}

/* Mostly few pages, sometimes any: so that some stay and some leave. */
static size_t pick(uint64_t r, size_t pages)
{
	return (r & 15) ? (r >> 8) % (pages / 16) : (r >> 8) % pages;
}

static void count(struct worker *me, uint64_t *mirror, uint64_t *rng)
{
	size_t page = pick(content_next(rng), SHARED_PAGES);
	uint64_t *word = own_word(page, me->index);

	WL_CHECK(*word == mirror[page], "thread %u, shared page %zu: counter %llu instead of %llu",
		 me->index, page, (unsigned long long)*word, (unsigned long long)mirror[page]);
	(*word)++;
	mirror[page]++;
	me->updates++;
	atomic_fetch_add_explicit(&together[page * WL_PAGE / 8], 1, memory_order_relaxed);
}

static void rewrite(struct worker *me, unsigned char *area, uint64_t *generation, uint64_t *rng)
{
	size_t page = pick(content_next(rng), PRIVATE_PAGES);
	unsigned char *at = area + page * WL_PAGE;

	wl_check_key("private", at, content_key(me->index, page, generation[page]), page);
	content_page(at, content_key(me->index, page, ++generation[page]));
	me->rewrites++;
}

static void *work(void *arg)
{
	struct worker *me = arg;
	size_t mirror_pages = SHARED_PAGES * sizeof(uint64_t) / WL_PAGE, i;
	uint64_t rng = content_mix(me->index), *mirror = (uint64_t *)(void *)wl_map(mirror_pages);
	unsigned char *area = wl_map(PRIVATE_PAGES);
	uint64_t *generation = calloc(PRIVATE_PAGES, sizeof(*generation)), sum = 0;

	WL_CHECK(generation, "calloc");
	for (i = 0; i < PRIVATE_PAGES; i++)
		content_page(area + i * WL_PAGE, content_key(me->index, i, 0));
	do {
		for (i = 0; i < BURST; i++)
			count(me, mirror, &rng);
		rewrite(me, area, generation, &rng);
		if (content_next(&rng) % 16 == 0)
			wl_sleep_ms(3);
	} while (wl_now() < deadline);
	for (i = 0; i < SHARED_PAGES; i++) {
		sum += *own_word(i, me->index);
		WL_CHECK(*own_word(i, me->index) == mirror[i], "thread %u: shared page %zu at the end",
			 me->index, i);
	}
	WL_CHECK(sum == me->updates, "thread %u: %llu updates, %llu counted", me->index,
		 (unsigned long long)me->updates, (unsigned long long)sum);
	for (i = 0; i < PRIVATE_PAGES; i++)
		wl_check_key("private at the end", area + i * WL_PAGE,
			     content_key(me->index, i, generation[i]), i);
	free(generation);
	wl_unmap(area, PRIVATE_PAGES);
	wl_unmap((unsigned char *)mirror, mirror_pages);
	return NULL;
}

int main(int argc, char **argv)
{
	double seconds = wl_arg(argc, argv, 1, 3);
	unsigned threads = (unsigned)wl_arg(argc, argv, 2, 6), i;
	uint64_t updates = 0, rewrites = 0, sum = 0;
	size_t page, away = 0, now;
	struct worker *worker;

	WL_CHECK(threads && threads <= THREADS_MAX - 1, "1 to %d threads", THREADS_MAX - 1);
	shared = wl_map(SHARED_PAGES);
	together = (_Atomic uint64_t *)(void *)(shared + (THREADS_MAX - 1) * LINE);
	memset(shared, 0, SHARED_PAGES * WL_PAGE);
	for (page = 0; page < SHARED_PAGES; page++) /* zeros of a huge page may just vanish */
		shared[(page + 1) * WL_PAGE - 1] = 1;
	worker = calloc(threads, sizeof(*worker));
	WL_CHECK(worker, "calloc");
	wl_wait_evicted("shared", shared, SHARED_PAGES, WL_EVICT_SHARE);
	deadline = wl_now() + seconds;
	for (i = 0; i < threads; i++) {
		worker[i].index = i;
		errno = pthread_create(&worker[i].thread, NULL, work, &worker[i]);
		WL_CHECK(!errno, "pthread_create: %s", strerror(errno));
	}
	while (wl_now() < deadline) {
		now = wl_absent(shared, SHARED_PAGES);
		away = now > away ? now : away;
		wl_sleep_ms(20);
	}
	for (i = 0; i < threads; i++) {
		pthread_join(worker[i].thread, NULL);
		updates += worker[i].updates;
		rewrites += worker[i].rewrites;
	}
	for (page = 0; page < SHARED_PAGES; page++)
		sum += atomic_load(&together[page * WL_PAGE / 8]);
	WL_CHECK(sum == updates, "atomic words add up to %llu, not %llu", (unsigned long long)sum,
		 (unsigned long long)updates);
	wl_say("%u threads, %llu updates, %llu rewrites, none lost; up to %zu shared pages away",
	       threads, (unsigned long long)updates, (unsigned long long)rewrites, away);
	free(worker);
	return 0;
}
