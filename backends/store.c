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
#include <stdatomic.h>
#include <stdbool.h>

#include "common/util.h"

/* A segment's word: in use, and how far it is written (offsets only grow). */
#define SEGMENT_USED (1u << 31)
#define SEGMENT_WRITTEN(word) ((word) & ~SEGMENT_USED)

struct store {
	const struct store_ops *ops;
	void *self;
	uint32_t capacity;
	_Atomic uint32_t *words;
	_Atomic uint64_t segments;
	_Atomic uint64_t written_bytes;
	_Atomic uint64_t read_bytes;
	_Atomic uint64_t errors;
};

static void count(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

static int failed(struct store *store, int r)
{
	count(&store->errors, 1);
	return r;
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
	store->ops->destroy(store->self);
	free(store->words);
	free(store);
	return NULL;
}

int store_segment_new(struct store *store, uint32_t *segment)
{
	int r = store->ops->segment_new(store->self, segment);

	if (r == -ENOSPC)
		return r; /* full is a state, not an error */
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

int store_write(struct store *store, uint32_t segment, size_t offset, const void *buf, size_t len)
{
	uint32_t word = segment_word(store, segment);
	int r;

	if (!(word & SEGMENT_USED) || !len || offset > STORE_SEGMENT ||
	    len > STORE_SEGMENT - offset)
		return failed(store, -EINVAL);
	/* An offset is written at most once. A write that failed may be
	   repeated, with the same bytes. */
	if (offset < SEGMENT_WRITTEN(word))
		return failed(store, -EINVAL);
	r = store->ops->write(store->self, segment, offset, buf, len);
	if (r == -ENOSPC)
		return r;
	if (r)
		return failed(store, r);
	atomic_store_explicit(&store->words[segment], SEGMENT_USED | (uint32_t)(offset + len),
			      memory_order_release);
	count(&store->written_bytes, len);
	return 0;
}

int store_read(struct store *store, uint32_t segment, size_t offset, void *buf, size_t len)
{
	int r;

	if (!is_readable(store, segment, offset, len))
		return failed(store, -EINVAL);
	r = store->ops->read(store->self, segment, offset, buf, len);
	if (r)
		return failed(store, r);
	count(&store->read_bytes, len);
	return 0;
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
		.errors_total = atomic_load_explicit(&store->errors, memory_order_relaxed),
	};
}

const char *store_name(const struct store *store)
{
	return store->ops->name;
}
