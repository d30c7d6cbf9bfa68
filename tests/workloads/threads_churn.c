/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * threads_churn [SECONDS]: threads that come and go while pages leave: their
 * thread-local storage, deep stacks, own stacks given by the program, key
 * destructors, cancellation, detached ones. Values stay, every join returns.
 */
#include "workload.h"

#include <alloca.h>
#include <pthread.h>
#include <semaphore.h>

#define PAGES 512
#define LIVE 12
#define TLS_BYTES 32768
#define STACK_BYTES (160 * 1024)
#define DEEP_BYTES (96 * 1024)

static __thread unsigned char local[TLS_BYTES];
static unsigned char *area;
static pthread_key_t key;
static unsigned destroyed, detached;
static sem_t detached_ended;

static void pattern_fill(unsigned char *at, size_t bytes, uint64_t seed)
{
	size_t i;

	for (i = 0; i < bytes; i += 8) {
		uint64_t value = content_mix(seed + i / 64);

		memcpy(at + i, &value, 8);
	}
}

static void pattern_check(const char *what, const unsigned char *at, size_t bytes, uint64_t seed)
{
	uint64_t value, found;
	size_t i;

	for (i = 0; i < bytes; i += 8) {
		value = content_mix(seed + i / 64);
		memcpy(&found, at + i, 8);
		WL_CHECK(found == value, "%s at %p: %#llx instead of %#llx", what,
			 (const void *)(at + i), (unsigned long long)found,
			 (unsigned long long)value);
	}
}

static void destroy(void *value)
{
	pattern_check("key's value", value, 4096, (uint64_t)(uintptr_t)value);
	free(value);
	__atomic_add_fetch(&destroyed, 1, __ATOMIC_RELAXED);
}

static void own_key(void)
{
	unsigned char *value = malloc(4096);

	WL_CHECK(value, "malloc");
	pattern_fill(value, 4096, (uint64_t)(uintptr_t)value);
	WL_CHECK(!pthread_setspecific(key, value), "pthread_setspecific");
}

__attribute__((noinline)) static void deep(uint64_t seed, unsigned ms)
{
	unsigned char *here = alloca(DEEP_BYTES);

	pattern_fill(here, DEEP_BYTES, seed + 1);
	wl_sleep_ms(ms);
	pattern_check("stack", here, DEEP_BYTES, seed + 1);
}

static void *live(void *arg)
{
	uint64_t seed = (uint64_t)(uintptr_t)arg << 20;
	size_t page = seed % PAGES, i;

	for (i = 0; i < TLS_BYTES; i++)
		WL_CHECK(!local[i], "new thread-local byte %zu is %02x", i, local[i]);
	pattern_fill(local, TLS_BYTES, seed);
	own_key();
	deep(seed, (unsigned)(content_mix(seed) % 80));
	wl_check_key("shared", area + page * WL_PAGE, content_key(1, page, 0), page);
	pattern_check("thread-local", local, TLS_BYTES, seed);
	return (void *)(uintptr_t)(seed + 5);
}

static void *live_detached(void *arg)
{
	live(arg);
	sem_post(&detached_ended);
	return NULL;
}

static void *wait_to_be_cancelled(void *arg)
{
	own_key();
	for (;;) {
		wl_check_key("shared", area, content_key(1, 0, 0), 0);
		wl_sleep_ms(1000);
	}
	return arg;
}

static pthread_t create(void *(*run)(void *), uintptr_t arg, unsigned char *stack)
{
	pthread_attr_t attr;
	pthread_t thread;

	pthread_attr_init(&attr);
	if (stack)
		WL_CHECK(!pthread_attr_setstack(&attr, stack, STACK_BYTES), "pthread_attr_setstack");
	errno = pthread_create(&thread, &attr, run, (void *)arg);
	WL_CHECK(!errno, "pthread_create: %s", strerror(errno));
	pthread_attr_destroy(&attr);
	return thread;
}

static void round_of_threads(uintptr_t round, unsigned char *stacks)
{
	pthread_t thread[LIVE], cancelled = create(wait_to_be_cancelled, 0, NULL);
	uintptr_t i, base = round * LIVE;
	void *result;

	for (i = 0; i < LIVE; i++)
		thread[i] = create(live, base + i, i % 3 == 0 ? stacks + i * STACK_BYTES : NULL);
	pthread_detach(create(live_detached, base, NULL));
	detached++;
	WL_CHECK(!pthread_cancel(cancelled), "pthread_cancel");
	pthread_join(cancelled, &result);
	WL_CHECK(result == PTHREAD_CANCELED, "not cancelled");
	for (i = 0; i < LIVE; i++) {
		WL_CHECK(!pthread_join(thread[i], &result), "pthread_join");
		WL_CHECK((uintptr_t)result == ((base + i) << 20) + 5, "result of a thread");
	}
}

int main(int argc, char **argv)
{
	double deadline = wl_now() + wl_arg(argc, argv, 1, 3);
	size_t stack_pages = LIVE * STACK_BYTES / WL_PAGE;
	unsigned char *stacks = wl_map(stack_pages);
	uintptr_t round = 0;
	unsigned i;

	area = wl_map(PAGES);
	wl_fill(area, PAGES, 1);
	WL_CHECK(!pthread_key_create(&key, destroy), "pthread_key_create");
	WL_CHECK(!sem_init(&detached_ended, 0, 0), "sem_init");
	pattern_fill(local, TLS_BYTES, 3);
	wl_wait_evicted("shared", area, PAGES, WL_EVICT_SHARE);
	do {
		round_of_threads(++round, stacks);
	} while (wl_now() < deadline);
	for (i = 0; i < detached; i++)
		while (sem_wait(&detached_ended) < 0)
			WL_CHECK(errno == EINTR, "sem_wait: %s", strerror(errno));
	pattern_check("main's thread-local", local, TLS_BYTES, 3);
	wl_verify("shared", area, PAGES, 1);
	WL_CHECK(destroyed >= round * (LIVE + 1), "%u keys destroyed in %u rounds", destroyed,
		 (unsigned)round);
	wl_say("%u rounds, %u threads: all joined, values right", (unsigned)round,
	       (unsigned)round * (LIVE + 2));
	return 0;
}
