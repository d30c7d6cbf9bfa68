/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * store_load SPEC: keeps a store busy, writing segments, reading ranges of them
 * and freeing the oldest, and checks every byte that comes back. Obeys its
 * standard input, a line each, an answer each:
 *	state	"state NAME", store_state_name()
 *	reason	"reason TEXT"
 *	oldest	"oldest MS", how long the oldest pending read has waited
 *	reads, writes, lost, failed	"reads N": reads that were right, batches
 *		that were written, reads that ended in an error, writes that did
 *	live	"live N": segments that have bytes
 *	pause, go	no writes, and no frees; again
 *	check	reads all of every live batch: "right N", or "missing N"
 *	drop	frees all segments: "dropped N"
 *	quit	"bye", and exit with 0
 * Says "ready PID" first. A wrong byte ends it with status 1.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "backends/store.h"
#include "common/util.h"

#define BATCH ((uint32_t)64 << 10)
#define BATCHES 16 /* in a segment of ours */
#define SEGMENTS 8
#define READERS 4
#define READ_LEN 2048

struct live {
	pthread_rwlock_t lock; /* readers of its bytes; the writer frees it */
	bool used;
	uint32_t segment;
	uint64_t serial;
	_Atomic uint32_t written; /* batches */
};

static struct store *store;
static struct live live[SEGMENTS];
static atomic_bool paused, stopped;
static _Atomic uint64_t reads, writes, lost, failed;
static pthread_mutex_t writing = PTHREAD_MUTEX_INITIALIZER;

static uint64_t word_of(uint64_t serial, uint32_t offset)
{
	uint64_t x = (serial << 32 | offset) * 0x9e3779b97f4a7c15;

	return x ^ x >> 29;
}

static void fill(unsigned char *buf, uint64_t serial, uint32_t offset, uint32_t len)
{
	for (uint32_t i = 0; i < len; i += 8) {
		uint64_t w = word_of(serial, offset + i);

		memcpy(buf + i, &w, 8);
	}
}

static void check(const unsigned char *buf, uint64_t serial, uint32_t offset, uint32_t len)
{
	for (uint32_t i = 0; i < len; i += 8) {
		uint64_t w = word_of(serial, offset + i);

		if (memcmp(buf + i, &w, 8) == 0)
			continue;
		fprintf(stderr, "store_load: WRONG BYTES, segment %" PRIu64 ", offset %u\n", serial,
			offset + i);
		_exit(1);
	}
}

/* ---- writing and freeing ---- */

static void free_one(struct live *l)
{
	pthread_rwlock_wrlock(&l->lock);
	if (l->used)
		store_segment_free(store, l->segment);
	l->used = false;
	pthread_rwlock_unlock(&l->lock);
}

static bool begin_segment(struct live *l, uint64_t serial)
{
	uint32_t segment;

	if (store_segment_new(store, &segment))
		return false;
	pthread_rwlock_wrlock(&l->lock);
	l->segment = segment;
	l->serial = serial;
	atomic_store(&l->written, 0);
	l->used = true;
	pthread_rwlock_unlock(&l->lock);
	return true;
}

/* One segment; false when there was no room, or a write failed (what was
   acknowledged before stays). */
static bool write_one(struct live *l, uint64_t serial)
{
	static _Alignas(4096) unsigned char buf[BATCH];
	struct store_status status;

	/* what is there stays while it can't be replaced */
	store_get_status(store, &status);
	if (status.state != STORE_UP)
		return false;
	free_one(l);
	if (!begin_segment(l, serial))
		return false;
	for (uint32_t i = 0; i < BATCHES && !atomic_load(&paused); i++) {
		fill(buf, serial, i * BATCH, BATCH);
		if (store_write(store, l->segment, i * BATCH, buf, BATCH)) {
			atomic_fetch_add(&failed, 1);
			return false;
		}
		atomic_fetch_add(&writes, 1);
		atomic_store(&l->written, i + 1);
	}
	return true;
}

static void *write_all(void *arg)
{
	for (uint64_t serial = 1; !atomic_load(&stopped); serial++) {
		bool ok = false;

		pthread_mutex_lock(&writing);
		if (!atomic_load(&paused))
			ok = write_one(&live[serial % SEGMENTS], serial);
		pthread_mutex_unlock(&writing);
		if (!ok)
			usleep(10000);
	}
	return arg;
}

/* ---- reading ---- */

struct waiter {
	struct store_read read;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool ended;
};

static void read_ended(struct store_read *read)
{
	struct waiter *w = CONTAINER_OF(read, struct waiter, read);

	pthread_mutex_lock(&w->lock);
	w->ended = true;
	pthread_cond_signal(&w->changed);
	pthread_mutex_unlock(&w->lock);
}

/* As a fault does it. The live's lock is held. */
static int read_some(const struct live *l, uint32_t offset, uint32_t len)
{
	struct waiter w = { .read = { .segment = l->segment, .offset = offset, .len = len,
				      .done = read_ended } };

	w.read.buf = aligned_alloc(STORE_BLOCK, STORE_READ_ROOM(len));
	assert(w.read.buf);
	pthread_mutex_init(&w.lock, NULL);
	pthread_cond_init(&w.changed, NULL);
	store_read_submit(store, &w.read);
	pthread_mutex_lock(&w.lock);
	while (!w.ended)
		pthread_cond_wait(&w.changed, &w.lock);
	pthread_mutex_unlock(&w.lock);
	if (w.read.result == 0)
		check(w.read.data, l->serial, offset, len);
	free(w.read.buf);
	return w.read.result;
}

static void *read_all(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg;

	while (!atomic_load(&stopped)) {
		struct live *l = &live[(unsigned)rand_r(&seed) % SEGMENTS];
		uint32_t batches;

		pthread_rwlock_rdlock(&l->lock);
		batches = l->used ? atomic_load(&l->written) : 0;
		if (batches) {
			uint32_t offset = (uint32_t)rand_r(&seed) % (batches * BATCH - READ_LEN) & ~7u;
			int r = read_some(l, offset, READ_LEN);

			atomic_fetch_add(r ? &lost : &reads, 1);
		}
		pthread_rwlock_unlock(&l->lock);
		usleep(batches ? 200 : 5000);
	}
	return NULL;
}

/* ---- orders ---- */

static void check_everything(void)
{
	unsigned all = 0, missing = 0;

	for (unsigned i = 0; i < SEGMENTS; i++) {
		pthread_rwlock_rdlock(&live[i].lock);
		for (uint32_t b = 0; live[i].used && b < atomic_load(&live[i].written); b++, all++)
			missing += read_some(&live[i], b * BATCH, BATCH) != 0;
		pthread_rwlock_unlock(&live[i].lock);
	}
	if (missing)
		printf("missing %u\n", missing);
	else
		printf("right %u\n", all);
}

static unsigned count_live(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < SEGMENTS; i++) {
		pthread_rwlock_rdlock(&live[i].lock);
		n += live[i].used && atomic_load(&live[i].written);
		pthread_rwlock_unlock(&live[i].lock);
	}
	return n;
}

static void drop_everything(void)
{
	unsigned n = 0;

	pthread_mutex_lock(&writing);
	for (unsigned i = 0; i < SEGMENTS; i++) {
		n += live[i].used;
		free_one(&live[i]);
	}
	pthread_mutex_unlock(&writing);
	printf("dropped %u\n", n);
}

static void set_paused(bool on)
{
	atomic_store(&paused, on);
	pthread_mutex_lock(&writing); /* what is under way has ended */
	pthread_mutex_unlock(&writing);
	puts(on ? "paused" : "goes");
}

/* False: quit. */
static bool obey(const char *order)
{
	struct store_status status;

	store_get_status(store, &status);
	if (!strcmp(order, "state"))
		printf("state %s\n", store_state_name(status.state));
	else if (!strcmp(order, "reason"))
		printf("reason %s\n", status.reason);
	else if (!strcmp(order, "oldest"))
		printf("oldest %" PRIu64 "\n", status.oldest_read_ns / 1000000);
	else if (!strcmp(order, "reads"))
		printf("reads %" PRIu64 "\n", atomic_load(&reads));
	else if (!strcmp(order, "writes"))
		printf("writes %" PRIu64 "\n", atomic_load(&writes));
	else if (!strcmp(order, "lost"))
		printf("lost %" PRIu64 "\n", atomic_load(&lost));
	else if (!strcmp(order, "failed"))
		printf("failed %" PRIu64 "\n", atomic_load(&failed));
	else if (!strcmp(order, "live"))
		printf("live %u\n", count_live());
	else if (!strcmp(order, "pause") || !strcmp(order, "go"))
		set_paused(order[0] == 'p');
	else if (!strcmp(order, "check"))
		check_everything();
	else if (!strcmp(order, "drop"))
		drop_everything();
	else
		return false;
	return true;
}

int main(int argc, char *argv[])
{
	pthread_t threads[READERS + 1];
	const char *error = NULL;
	char order[64];

	setvbuf(stdout, NULL, _IOLBF, 0);
	store = store_open(argc == 2 ? argv[1] : "", &error);
	if (!store) {
		fprintf(stderr, "store_load: %s\n", error);
		return 2;
	}
	for (unsigned i = 0; i < SEGMENTS; i++)
		pthread_rwlock_init(&live[i].lock, NULL);
	for (unsigned i = 0; i < READERS; i++)
		pthread_create(&threads[i], NULL, read_all, (void *)(uintptr_t)(i + 1));
	pthread_create(&threads[READERS], NULL, write_all, NULL);
	printf("ready %d\n", (int)getpid());
	while (fgets(order, sizeof(order), stdin)) {
		order[strcspn(order, "\n")] = '\0';
		if (!obey(order))
			break;
	}
	atomic_store(&stopped, true);
	for (unsigned i = 0; i <= READERS; i++)
		pthread_join(threads[i], NULL);
	for (unsigned i = 0; i < SEGMENTS; i++)
		free_one(&live[i]);
	store = store_close(store);
	puts("bye");
	return 0;
}
