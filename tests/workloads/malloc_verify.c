/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * malloc_verify [SECONDS] [THREADS]: malloc, calloc, realloc and free of blocks
 * from bytes to a MiB, from all threads, also each other's; every block is
 * verified when it is given up, calloc'd ones are zero when they are new.
 */
#include "workload.h"

#include <malloc.h>
#include <pthread.h>

#define THREADS_MAX 16
#define BLOCKS 512
#define BIG (1 << 20)

struct block {
	pthread_mutex_t lock;
	unsigned char *at;
	size_t size;
	uint64_t key;
};

static struct block block[BLOCKS];
static double deadline;
static size_t most_away;

static void fill(struct block *b, uint64_t key)
{
	uint64_t state = key;
	size_t i;

	b->key = key;
	for (i = 0; i < b->size; i++) {
		if (i % 64 == 0)
			state = content_mix(key + i);
		b->at[i] = (unsigned char)(state >> (i & 24));
	}
}

static void check(const char *what, const unsigned char *at, size_t size, uint64_t key)
{
	uint64_t state = key;
	size_t i;

	for (i = 0; i < size; i++) {
		if (i % 64 == 0)
			state = content_mix(key + i);
		WL_CHECK(at[i] == (unsigned char)(state >> (i & 24)),
			 "%s: byte %zu of %zu at %p is %02x", what, i, size, (const void *)&at[i],
			 at[i]);
	}
}

static size_t pick_size(uint64_t *rng)
{
	uint64_t r = content_next(rng);

	if (r % 16 == 0)
		return 1 + (r >> 8) % BIG;
	if (r % 4 == 0)
		return 1 + (r >> 8) % 65536;
	return 1 + (r >> 8) % 1024;
}

static void renew(struct block *b, uint64_t *rng)
{
	size_t i;

	if (b->at)
		check("freed", b->at, b->size, b->key);
	free(b->at);
	b->size = pick_size(rng);
	if (content_next(rng) % 4) {
		b->at = malloc(b->size);
		WL_CHECK(b->at, "malloc(%zu)", b->size);
	} else {
		b->at = calloc(1, b->size);
		WL_CHECK(b->at, "calloc(%zu)", b->size);
		for (i = 0; i < b->size; i++)
			WL_CHECK(!b->at[i], "calloc: byte %zu of %zu is %02x", i, b->size,
				 b->at[i]);
	}
	fill(b, content_next(rng));
}

static void resize(struct block *b, uint64_t *rng)
{
	size_t size = pick_size(rng), kept = size < b->size ? size : b->size;
	unsigned char *at = realloc(b->at, size);

	WL_CHECK(at, "realloc(%zu)", size);
	check("reallocated", at, kept, b->key);
	b->at = at;
	b->size = size;
	fill(b, content_next(rng));
}

static void *work(void *arg)
{
	uint64_t rng = (uint64_t)(uintptr_t)arg;
	uintptr_t steps = 0;

	while (wl_now() < deadline) {
		struct block *b = &block[content_next(&rng) % BLOCKS];

		pthread_mutex_lock(&b->lock);
		if (!b->at || content_next(&rng) % 2)
			renew(b, &rng);
		else
			resize(b, &rng);
		pthread_mutex_unlock(&b->lock);
		if (++steps % 64 == 0)
			wl_sleep_ms(content_next(&rng) % 40);
		if (content_next(&rng) % 1024 == 0)
			malloc_trim(0);
	}
	return (void *)steps;
}

/* How much of the big blocks is away: only seen, nothing depends on it. */
static void look(void)
{
	size_t i, away = 0;

	for (i = 0; i < BLOCKS; i++) {
		struct block *b = &block[i];

		pthread_mutex_lock(&b->lock);
		if (b->size >= 16 * WL_PAGE)
			away += wl_absent(b->at, b->size / WL_PAGE);
		pthread_mutex_unlock(&b->lock);
	}
	most_away = away > most_away ? away : most_away;
}

int main(int argc, char **argv)
{
	unsigned threads = (unsigned)wl_arg(argc, argv, 2, 4), i;
	pthread_t thread[THREADS_MAX];
	uint64_t steps = 0;
	void *count;

	WL_CHECK(threads && threads <= THREADS_MAX, "1 to %d threads", THREADS_MAX);
	deadline = wl_now() + wl_arg(argc, argv, 1, 3);
	for (i = 0; i < BLOCKS; i++)
		pthread_mutex_init(&block[i].lock, NULL);
	for (i = 0; i < threads; i++)
		WL_CHECK(!pthread_create(&thread[i], NULL, work, (void *)(uintptr_t)(i + 1)),
			 "pthread_create");
	while (wl_now() < deadline) {
		wl_sleep_ms(50);
		look();
	}
	for (i = 0; i < threads; i++) {
		pthread_join(thread[i], &count);
		steps += (uintptr_t)count;
	}
	for (i = 0; i < BLOCKS; i++) {
		if (block[i].at)
			check("left over", block[i].at, block[i].size, block[i].key);
		free(block[i].at);
	}
	wl_say("%llu blocks made and verified by %u threads; up to %zu pages away",
	       (unsigned long long)steps, threads, most_away);
	return 0;
}
