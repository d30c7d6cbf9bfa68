/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The wrapper around a backend: nothing wrong gets past it. A caller's mistake
 * is refused with -EINVAL and counted as an error, since a wrong write here
 * would be somebody's memory.
 *
 * Synchronization: a segment's word is written by the thread that writes the
 * segment and loaded by any; counters are relaxed.
 */
#include "backends/store.h"

#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "common/util.h"

/* A segment's word: in use, and how far it is written (offsets only grow). */
#define SEGMENT_USED (1u << 31)
#define SEGMENT_WRITTEN(word) ((word) & ~SEGMENT_USED)

#define WRITE_TRIES 3
#define READ_RECENT_NS (20 * 1000000ull)

struct latency {
	_Atomic uint64_t total_ns;
	_Atomic uint64_t bucket[STORE_LATENCY_BUCKETS];
};

struct store {
	const struct store_ops *ops;
	void *self;
	uint32_t capacity;
	uint64_t daily_writes;
	_Atomic uint32_t *words;
	_Atomic uint64_t segments;
	_Atomic uint64_t written_bytes;
	_Atomic uint64_t read_bytes;
	_Atomic uint64_t errors[STORE_ERROR_KINDS];
	_Atomic uint32_t pending; /* reads */
	_Atomic uint32_t writing; /* begun, not waited for */
	_Atomic uint64_t read_ns; /* when one that was submitted last ended */
	struct latency read, write;
};

static void count(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

static enum store_error_kind error_kind(int r)
{
	switch (-r) {
	case ENOSPC:
	case EDQUOT:
		return STORE_ERROR_SPACE;
	case ETIMEDOUT:
	case ECANCELED:
		return STORE_ERROR_TIMEOUT;
	case EACCES:
	case EPERM:
	case EROFS:
		return STORE_ERROR_ACCESS;
	case ENODATA:
	case ENOENT:
		return STORE_ERROR_MISSING;
	case EINVAL:
		return STORE_ERROR_MISUSE;
	default:
		return STORE_ERROR_IO;
	}
}

const char *store_error_name(enum store_error_kind kind)
{
	static const char *const names[STORE_ERROR_KINDS] = {
		[STORE_ERROR_IO] = "io",	     [STORE_ERROR_SPACE] = "space",
		[STORE_ERROR_TIMEOUT] = "timeout",   [STORE_ERROR_ACCESS] = "access",
		[STORE_ERROR_MISSING] = "missing",   [STORE_ERROR_MISUSE] = "misuse",
	};

	return (unsigned)kind < STORE_ERROR_KINDS ? names[kind] : "invalid";
}

static int failed(struct store *store, int r)
{
	count(&store->errors[error_kind(r)], 1);
	return r;
}

/* Memory answers in no time; asking the clock would cost as much. */
static uint64_t start_time(const struct store *store)
{
	return store->ops->caps & STORE_MAPPED ? 0 : now_ns();
}

static void took(struct latency *latency, uint64_t start)
{
	unsigned bucket = 0;
	uint64_t ns;

	if (!start)
		return;
	ns = now_ns() - start;
	while (bucket < STORE_LATENCY_BUCKETS - 1 && ns >> (bucket + 10))
		bucket++;
	count(&latency->total_ns, ns);
	count(&latency->bucket[bucket], 1);
}

static void get_latency(struct latency *from, struct store_latency *to)
{
	to->total_ns = atomic_load_explicit(&from->total_ns, memory_order_relaxed);
	for (unsigned i = 0; i < STORE_LATENCY_BUCKETS; i++) {
		to->bucket[i] = atomic_load_explicit(&from->bucket[i], memory_order_relaxed);
		to->count += to->bucket[i];
	}
}

uint64_t store_latency_quantile_ns(const struct store_latency *latency, double share)
{
	uint64_t sum = 0;

	if (!latency->count)
		return 0;
	for (unsigned i = 0; i < STORE_LATENCY_BUCKETS; i++) {
		sum += latency->bucket[i];
		if ((double)sum >= share * (double)latency->count)
			return (uint64_t)1024 << i;
	}
	return (uint64_t)1024 << (STORE_LATENCY_BUCKETS - 1);
}

struct store *store_new(const struct store_ops *ops, void *self, uint32_t capacity)
{
	struct store *store;

	if (!capacity || capacity > STORE_SEGMENTS_MAX) {
		errno = EINVAL;
		return NULL;
	}
	store = calloc(1, sizeof(*store));
	if (!store)
		return NULL;
	store->words = calloc(capacity, sizeof(*store->words));
	if (!store->words) {
		free(store);
		return NULL;
	}
	store->ops = ops;
	store->self = self;
	store->capacity = capacity;
	return store;
}

struct store *store_close(struct store *store)
{
	if (!store)
		return NULL;
	while (atomic_load(&store->pending)) /* end of the agent, or of a test */
		sched_yield();
	store->ops->destroy(store->self);
	free(store->words);
	free(store);
	return NULL;
}

int store_segment_new(struct store *store, uint32_t *segment)
{
	int r = store->ops->segment_new(store->self, segment);

	if (r)
		return failed(store, r);
	assert(*segment < store->capacity);
	assert(!atomic_load_explicit(&store->words[*segment], memory_order_relaxed));
	atomic_store_explicit(&store->words[*segment], SEGMENT_USED, memory_order_release);
	count(&store->segments, 1);
	return 0;
}

static uint32_t segment_word(struct store *store, uint32_t segment)
{
	if (segment >= store->capacity)
		return 0;
	return atomic_load_explicit(&store->words[segment], memory_order_acquire);
}

/* A range of bytes that were written in a segment that is in use? */
static bool is_readable(struct store *store, uint32_t segment, size_t offset, size_t len)
{
	uint32_t word = segment_word(store, segment);

	return word & SEGMENT_USED && len && offset <= SEGMENT_WRITTEN(word) &&
	       len <= SEGMENT_WRITTEN(word) - offset;
}

/* A place that may be written? An offset is written at most once; a write that
   failed may be repeated, with the same bytes. */
static bool is_writable(struct store *store, uint32_t segment, size_t offset, size_t len)
{
	uint32_t word = segment_word(store, segment);

	return word & SEGMENT_USED && len && offset <= STORE_SEGMENT && len <= STORE_SEGMENT - offset &&
	       offset >= SEGMENT_WRITTEN(word);
}

static int written(struct store *store, uint32_t segment, size_t offset, size_t len, uint64_t start)
{
	took(&store->write, start);
	atomic_store_explicit(&store->words[segment], SEGMENT_USED | (uint32_t)(offset + len),
			      memory_order_release);
	count(&store->written_bytes, len);
	return 0;
}

int store_write(struct store *store, uint32_t segment, size_t offset, const void *buf, size_t len)
{
	uint64_t start;
	int r;

	if (!is_writable(store, segment, offset, len))
		return failed(store, -EINVAL);
	start = start_time(store);
	r = store->ops->write(store->self, segment, offset, buf, len);
	return r ? failed(store, r) : written(store, segment, offset, len, start);
}

void store_write_start(struct store *store, struct store_write *w)
{
	w->start_ns = start_time(store);
	atomic_fetch_add_explicit(&store->writing, 1, memory_order_relaxed);
	w->result = is_writable(store, w->segment, w->offset, w->len) ? 0 : -EINVAL;
	if (!w->result && store->ops->write_start)
		store->ops->write_start(store->self, w);
}

/* As often as there is hope, where the backend does it one by one. */
static int write_now(struct store *store, const struct store_write *w)
{
	int r = -ETIMEDOUT;

	for (unsigned i = 0; r == -ETIMEDOUT && i < WRITE_TRIES; i++) {
		if (i)
			failed(store, r);
		r = store->ops->write(store->self, w->segment, w->offset, w->buf, w->len);
	}
	return r;
}

int store_write_wait(struct store *store, struct store_write *w)
{
	int r = w->result;

	if (!r)
		r = store->ops->write_wait ? store->ops->write_wait(store->self, w) : write_now(store, w);
	atomic_fetch_sub_explicit(&store->writing, 1, memory_order_relaxed);
	return r ? failed(store, r) : written(store, w->segment, w->offset, w->len, w->start_ns);
}

int store_read(struct store *store, uint32_t segment, size_t offset, void *buf, size_t len)
{
	uint64_t start;
	int r;

	if (!is_readable(store, segment, offset, len))
		return failed(store, -EINVAL);
	start = start_time(store);
	r = store->ops->read(store->self, segment, offset, buf, len);
	if (r)
		return failed(store, r);
	took(&store->read, start);
	count(&store->read_bytes, len);
	return 0;
}

void store_read_submit(struct store *store, struct store_read *read)
{
	read->store = store;
	read->start_ns = start_time(store);
	atomic_fetch_add_explicit(&store->pending, 1, memory_order_relaxed);
	if (!is_readable(store, read->segment, read->offset, read->len) || !read->buf ||
	    (uintptr_t)read->buf % STORE_BLOCK)
		store_read_done(read, -EINVAL, NULL);
	else if (store->ops->read_submit)
		store->ops->read_submit(store->self, read);
	else
		store_read_done(read, store->ops->read(store->self, read->segment, read->offset, read->buf, read->len), NULL);
}

void store_read_done(struct store_read *read, int result, const void *data)
{
	struct store *store = read->store;

	read->result = result;
	read->data = data ? data : read->buf;
	if (result) {
		failed(store, result);
	} else {
		took(&store->read, read->start_ns);
		count(&store->read_bytes, read->len);
		atomic_store_explicit(&store->read_ns, read->start_ns ? now_ns() : 0, memory_order_relaxed);
	}
	/* First done, as store_close waits for the count; nobody closes a store
	   from a read's end. */
	read->done(read);
	atomic_fetch_sub_explicit(&store->pending, 1, memory_order_release);
}

bool store_is_read(struct store *store)
{
	uint64_t at = atomic_load_explicit(&store->read_ns, memory_order_relaxed);

	return atomic_load_explicit(&store->pending, memory_order_relaxed) ||
	       (at && now_ns() - at < READ_RECENT_NS);
}

void store_read_cancel(struct store *store, struct store_read *read)
{
	if (store->ops->read_cancel)
		store->ops->read_cancel(store->self, read);
}

const void *store_map(struct store *store, uint32_t segment, size_t offset, size_t len)
{
	if (!store->ops->map)
		return NULL;
	if (!is_readable(store, segment, offset, len)) {
		failed(store, -EINVAL);
		return NULL;
	}
	count(&store->read_bytes, len);
	return store->ops->map(store->self, segment, offset, len);
}

int store_segment_adopt(struct store *store, uint32_t segment, size_t written)
{
	int r;

	if (segment >= store->capacity || segment_word(store, segment) || written > STORE_SEGMENT)
		return failed(store, -EINVAL);
	r = store->ops->segment_adopt ? store->ops->segment_adopt(store->self, segment, (uint32_t)written) : -EOPNOTSUPP;
	if (r)
		return failed(store, r);
	atomic_store_explicit(&store->words[segment], SEGMENT_USED | (uint32_t)written,
			      memory_order_release);
	count(&store->segments, 1);
	return 0;
}

const struct store_share_ops *store_share(const struct store *store)
{
	return store->ops->share;
}

int store_borrow(struct store *store, const char *where, uint32_t *segment)
{
	int r = store->ops->share ? store->ops->share->borrow(store->self, where, segment) : -EOPNOTSUPP;

	if (r)
		return failed(store, r);
	assert(*segment < store->capacity);
	assert(!atomic_load_explicit(&store->words[*segment], memory_order_relaxed));
	/* All of it may be read, nothing written. */
	atomic_store_explicit(&store->words[*segment], SEGMENT_USED | (uint32_t)STORE_SEGMENT,
			      memory_order_release);
	count(&store->segments, 1);
	return 0;
}

void store_publish(struct store *store, uint32_t segment, const struct store_hint *hints, unsigned n)
{
	if (store->ops->share && n && segment_word(store, segment) & SEGMENT_USED)
		store->ops->share->publish(store->self, segment, hints, n);
}

void store_adopt_done(struct store *store)
{
	if (store->ops->adopt_done)
		store->ops->adopt_done(store->self);
}

void store_segment_free(struct store *store, uint32_t segment)
{
	if (!(segment_word(store, segment) & SEGMENT_USED)) {
		failed(store, -EINVAL);
		return;
	}
	/* First here, then there: once the backend has it, it may be given out
	   again by another thread. */
	atomic_store_explicit(&store->words[segment], 0, memory_order_release);
	atomic_fetch_sub_explicit(&store->segments, 1, memory_order_relaxed);
	store->ops->segment_free(store->self, segment);
}

void store_get_stats(struct store *store, struct store_stats *stats)
{
	*stats = (struct store_stats){
		.capacity_bytes = store->capacity * (uint64_t)STORE_SEGMENT,
		.used_bytes = store->ops->used_bytes(store->self),
		.segments = atomic_load_explicit(&store->segments, memory_order_relaxed),
		.written_bytes_total =
			atomic_load_explicit(&store->written_bytes, memory_order_relaxed),
		.read_bytes_total = atomic_load_explicit(&store->read_bytes, memory_order_relaxed),
		.writes_pending = atomic_load_explicit(&store->writing, memory_order_relaxed),
		.reads_pending = atomic_load_explicit(&store->pending, memory_order_relaxed),
	};
	for (unsigned i = 0; i < STORE_ERROR_KINDS; i++) {
		stats->error_total[i] = atomic_load_explicit(&store->errors[i], memory_order_relaxed);
		if (i != STORE_ERROR_SPACE)
			stats->errors_total += stats->error_total[i];
	}
	get_latency(&store->read, &stats->read);
	get_latency(&store->write, &stats->write);
}

const char *store_state_name(enum store_state state)
{
	static const char *const names[] = {
		[STORE_UP] = "up",	   [STORE_CONNECTING] = "connecting",
		[STORE_AWAY] = "away",	   [STORE_FULL] = "full",
		[STORE_DENIED] = "denied", [STORE_GONE] = "gone",
		[STORE_CLASH] = "clash",
	};

	return names[state];
}

void store_get_status(struct store *store, struct store_status *status)
{
	*status = (struct store_status){ .state = STORE_UP };
	if (store->ops->get_status)
		store->ops->get_status(store->self, status);
}

void store_expect(struct store *store, uint64_t bytes)
{
	if (store->ops->expect)
		store->ops->expect(store->self, bytes);
}

int store_probe(struct store *store)
{
	return store->ops->probe ? store->ops->probe(store->self) : -EOPNOTSUPP;
}

int store_get_written(struct store *store, struct store_written *written)
{
	return store->ops->get_written ? store->ops->get_written(store->self, written) : -EOPNOTSUPP;
}

int store_set_written(struct store *store, const struct store_written *written)
{
	return store->ops->set_written ? store->ops->set_written(store->self, written) : -EOPNOTSUPP;
}

const char *store_name(const struct store *store)
{
	return store->ops->name;
}

unsigned store_caps(const struct store *store)
{
	return store->ops->caps;
}

uint64_t store_daily_writes(const struct store *store)
{
	return store->daily_writes;
}

void store_set_daily_writes(struct store *store, uint64_t bytes)
{
	store->daily_writes = bytes;
}

void *store_backend(struct store *store)
{
	return store->self;
}
