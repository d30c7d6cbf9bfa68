/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "page/staging.h"

#include <errno.h>
#include <stdatomic.h>

#include "common/kept.h"
#include "common/layout.h"
#include "common/util.h"

#define INDEX_NONE UINT32_MAX
#define INDEX_LEFT (UINT32_MAX - 1)

/* Kept, for the sake of the blob: references and lists are derived. */
struct entry {
	_Atomic uint64_t count; /* generation << 32 | references */
	_Atomic uint32_t blob;	/* forwarded to; 0: not */
	uint32_t next;		/* free list; of one in use: INDEX_LEFT, or whatever it was */
};

struct words { /* the entries' file's own */
	_Atomic uint32_t backed; /* entries with memory */
};

struct staging {
	struct kept file;  /* the pages */
	struct kept table; /* the entries */
	uint8_t *pages;
	struct entry *entries;
	uint32_t max_pages; /* with memory */
	uint32_t nr;	    /* indices: twice that, for forwarders */
	uint32_t fresh;	    /* indices from here on were never used */
	uint32_t ready;	    /* worker's own free list, LIFO: warm pages first */
	uint32_t nr_ready;
	uint32_t cold;	    /* free indices without memory */
	/* A huge page, where there is one: used first, and given back when none of it is in use. */
	bool wants_chunk, has_chunk, chunk_is_backed;
	uint32_t chunk;	   /* its free indices */
	uint32_t nr_chunk; /* how many */
	_Atomic uint32_t returned; /* free list that anybody pushes to */
	_Atomic uint32_t used;	   /* with memory, referenced */
	_Atomic uint32_t forwarders;
	_Atomic uint32_t left;
	_Atomic uint32_t idle;	   /* with memory, free */
};

#define BACK_ENTRIES ((uint32_t)4096)
#define CHUNK_FIRST ((uint32_t)((KEPT_HUGE - KEPT_HEADER) / PAGE_BYTES)) /* behind the first in the file */
#define CHUNK_PAGES ((uint32_t)(KEPT_HUGE / PAGE_BYTES))
#define CHUNK_SHARE 4 /* of all of staging, at most */

static int map_all(struct staging *st)
{
	int r = kept_open(&st->file, "staging", (size_t)st->nr << PAGE_SHIFT, LAYOUT_STAGING);

	if (r == 0)
		r = kept_open(&st->table, "staged", st->nr * sizeof(*st->entries), LAYOUT_STAGING);
	if (r < 0)
		return r;
	st->pages = st->file.base;
	st->entries = st->table.base;
	/* As many as before, if it was more: all of them can be named. */
	st->nr = (uint32_t)MIN(st->file.bytes >> PAGE_SHIFT, st->table.bytes / sizeof(*st->entries));
	return 0;
}

struct staging *staging_new(uint64_t max_bytes)
{
	struct staging *st = calloc(1, sizeof(*st));
	int r;

	if (!st)
		return NULL;
	*st = (struct staging){ .file = KEPT_NONE, .table = KEPT_NONE, .ready = INDEX_NONE,
				.cold = INDEX_NONE, .chunk = INDEX_NONE, .returned = INDEX_NONE };
	st->max_pages = (uint32_t)MIN(MAX(max_bytes >> PAGE_SHIFT, 64), UINT32_MAX / 4);
	st->nr = st->max_pages * 2;
	st->wants_chunk = st->max_pages / CHUNK_SHARE >= CHUNK_PAGES;
	r = map_all(st);
	if (r < 0) {
		staging_free(st);
		errno = -r;
		return NULL;
	}
	return st;
}

struct staging *staging_free(struct staging *st)
{
	if (!st)
		return NULL;
	kept_close(&st->table);
	kept_close(&st->file);
	free(st);
	return NULL;
}

static struct words *words(const struct staging *st)
{
	return st->table.own;
}

static void push(struct staging *st, uint32_t *list, uint32_t index)
{
	st->entries[index].next = *list;
	*list = index;
}

static uint32_t pop(struct staging *st, uint32_t *list)
{
	uint32_t index = *list;

	*list = st->entries[index].next;
	return index;
}

static bool is_of_chunk(const struct staging *st, uint32_t index)
{
	return st->has_chunk && index - CHUNK_FIRST < CHUNK_PAGES;
}

static void push_chunk(struct staging *st, uint32_t index)
{
	push(st, &st->chunk, index);
	st->nr_chunk++;
}

static void begin_chunk(struct staging *st)
{
	st->has_chunk = true;
	for (uint32_t i = CHUNK_FIRST + CHUNK_PAGES; i-- > CHUNK_FIRST;)
		push_chunk(st, i);
}

/* False: the kernel has no huge page for it. Then it is as all others. */
static bool back_chunk(struct staging *st)
{
	st->chunk_is_backed = kept_back_huge(&st->file, (size_t)CHUNK_FIRST << PAGE_SHIFT);
	if (st->chunk_is_backed) {
		atomic_fetch_add_explicit(&st->idle, st->nr_chunk, memory_order_relaxed);
		return true;
	}
	while (st->chunk != INDEX_NONE)
		push(st, &st->cold, pop(st, &st->chunk));
	st->has_chunk = false;
	return false;
}

/* An index that was never used, with memory for its entry. */
static uint32_t take_fresh(struct staging *st)
{
	uint32_t backed = words(st)->backed;

	if (st->fresh == CHUNK_FIRST && st->wants_chunk)
		st->fresh += CHUNK_PAGES;
	if (st->fresh == st->nr)
		return INDEX_NONE;
	if (st->fresh == backed) {
		uint32_t more = MIN(BACK_ENTRIES, st->nr - backed);

		if (kept_back(&st->table, backed * sizeof(*st->entries), more * sizeof(*st->entries)) < 0)
			return INDEX_NONE;
		atomic_store_explicit(&words(st)->backed, backed + more, memory_order_release);
		if (!backed && st->wants_chunk)
			begin_chunk(st);
	}
	return st->fresh++;
}

/* Takes over what others have freed. Forwarders come back without memory. */
static void collect(struct staging *st)
{
	uint32_t i = atomic_exchange_explicit(&st->returned, INDEX_NONE, memory_order_acquire);

	while (i != INDEX_NONE) {
		struct entry *e = &st->entries[i];
		uint32_t next = e->next;

		if (is_of_chunk(st, i)) {
			st->idle += !!e->blob; /* it will have some */
			push_chunk(st, i);
		} else {
			st->nr_ready += !e->blob;
			push(st, e->blob ? &st->cold : &st->ready, i);
		}
		e->blob = 0;
		i = next;
	}
}

static uint32_t take_index(struct staging *st)
{
	if (st->chunk != INDEX_NONE && (st->chunk_is_backed || back_chunk(st))) {
		st->nr_chunk--;
		atomic_fetch_sub_explicit(&st->idle, 1, memory_order_relaxed);
		return pop(st, &st->chunk);
	}
	if (st->ready != INDEX_NONE) {
		st->nr_ready--;
		atomic_fetch_sub_explicit(&st->idle, 1, memory_order_relaxed);
		return pop(st, &st->ready);
	}
	return st->cold != INDEX_NONE ? pop(st, &st->cold) : take_fresh(st);
}

unsigned staging_alloc(struct staging *st, uint32_t *index, unsigned n)
{
	unsigned got;

	collect(st);
	for (got = 0; got < n; got++) {
		struct entry *e;

		if (atomic_load_explicit(&st->used, memory_order_relaxed) >= st->max_pages)
			break;
		index[got] = take_index(st);
		if (index[got] == INDEX_NONE)
			break;
		e = &st->entries[index[got]];
		assert((uint32_t)e->count == 0);
		atomic_fetch_add_explicit(&e->count, 1, memory_order_relaxed);
		atomic_fetch_add_explicit(&st->used, 1, memory_order_relaxed);
	}
	return got;
}

unsigned staging_room(const struct staging *st)
{
	uint32_t used = st->used;

	return MIN(st->max_pages - used, st->nr - used - st->forwarders);
}

void *staging_page(const struct staging *st, uint32_t index)
{
	assert(index < st->nr);
	return st->pages + ((size_t)index << PAGE_SHIFT);
}

uint32_t staging_generation(const struct staging *st, uint32_t index)
{
	return (uint32_t)(atomic_load_explicit(&st->entries[index].count, memory_order_relaxed) >> 32);
}

void staging_ref(struct staging *st, uint32_t index)
{
	uint64_t old = atomic_fetch_add_explicit(&st->entries[index].count, 1, memory_order_relaxed);

	assert((uint32_t)old > 0);
	(void)old;
}

bool staging_tryref(struct staging *st, uint32_t index, uint32_t generation)
{
	uint64_t old = atomic_load_explicit(&st->entries[index].count, memory_order_relaxed);

	do {
		if ((uint32_t)old == 0 || (uint32_t)(old >> 32) != generation)
			return false;
	} while (!atomic_compare_exchange_weak_explicit(&st->entries[index].count, &old, old + 1,
							memory_order_acquire, memory_order_relaxed));
	return true;
}

static void push_returned(struct staging *st, uint32_t index)
{
	uint32_t head = atomic_load_explicit(&st->returned, memory_order_relaxed);

	do {
		st->entries[index].next = head;
	} while (!atomic_compare_exchange_weak_explicit(&st->returned, &head, index,
							memory_order_release, memory_order_relaxed));
}

uint32_t staging_unref(struct staging *st, uint32_t index)
{
	struct entry *e = &st->entries[index];
	uint64_t old = atomic_load_explicit(&e->count, memory_order_relaxed);
	uint64_t new;
	uint32_t blob;

	do {
		assert((uint32_t)old > 0);
		/* The last one also starts the next generation, so that a
		   tryref with the old one fails. */
		new = (uint32_t)old == 1 ? ((old >> 32) + 1) << 32 : old - 1;
	} while (!atomic_compare_exchange_weak_explicit(&e->count, &old, new, memory_order_acq_rel,
							memory_order_relaxed));
	if ((uint32_t)new != 0)
		return 0;
	blob = e->blob;
	if (e->next == INDEX_LEFT)
		atomic_fetch_sub_explicit(&st->left, 1, memory_order_relaxed);
	/* On the list first: what staging_room counts must be there to take. */
	push_returned(st, index);
	if (!blob) {
		atomic_fetch_add_explicit(&st->idle, 1, memory_order_relaxed);
		atomic_fetch_sub_explicit(&st->used, 1, memory_order_release);
	} else {
		atomic_fetch_sub_explicit(&st->forwarders, 1, memory_order_release);
	}
	return blob;
}

bool staging_is_shared(const struct staging *st, uint32_t index)
{
	return (uint32_t)atomic_load_explicit(&st->entries[index].count, memory_order_acquire) > 1;
}

static void release_memory(struct staging *st, uint32_t index, uint32_t n)
{
	/* Failing only keeps the memory: the page is rewritten before reuse. */
	kept_give_back(&st->file, (size_t)index << PAGE_SHIFT, (size_t)n << PAGE_SHIFT);
}

void staging_forward(struct staging *st, uint32_t index, uint32_t blob)
{
	struct entry *e = &st->entries[index];

	assert(blob && !e->blob && (uint32_t)e->count > 0);
	/* Named before the bytes go: a worker that starts over finds either. */
	atomic_store_explicit(&e->blob, blob, memory_order_release);
	release_memory(st, index, 1);
	atomic_fetch_add_explicit(&st->forwarders, 1, memory_order_relaxed);
	atomic_fetch_sub_explicit(&st->used, 1, memory_order_relaxed);
}

void staging_leave(struct staging *st, uint32_t index)
{
	struct entry *e = &st->entries[index];

	if (e->next == INDEX_LEFT)
		return;
	e->next = INDEX_LEFT;
	atomic_fetch_add_explicit(&st->left, 1, memory_order_relaxed);
}

bool staging_is_left(const struct staging *st, uint32_t index)
{
	return st->entries[index].next == INDEX_LEFT;
}

uint32_t staging_left(const struct staging *st)
{
	return st->left;
}

uint32_t staging_forwarders(const struct staging *st)
{
	return st->forwarders;
}

uint32_t staging_forwarded(const struct staging *st, uint32_t index)
{
	return st->entries[index].blob;
}

uint32_t staging_indices(const struct staging *st)
{
	return MIN(words(st)->backed, st->nr);
}

uint32_t staging_forwarder(const struct staging *st, uint32_t index)
{
	const struct entry *e = &st->entries[index];

	return (uint32_t)atomic_load(&e->count) ? e->blob : 0;
}

void staging_trim(struct staging *st, unsigned keep)
{
	uint32_t first = 0, n = 0; /* neighbours, which the kernel takes back at one go */

	collect(st);
	if (st->chunk_is_backed && st->nr_chunk == CHUNK_PAGES) {
		release_memory(st, CHUNK_FIRST, CHUNK_PAGES);
		atomic_fetch_sub_explicit(&st->idle, CHUNK_PAGES, memory_order_relaxed);
		st->chunk_is_backed = false;
	}
	while (st->nr_ready > keep) {
		uint32_t i = pop(st, &st->ready);

		st->nr_ready--;
		atomic_fetch_sub_explicit(&st->idle, 1, memory_order_relaxed);
		push(st, &st->cold, i);
		if (n && i != first + n && i + 1 != first) {
			release_memory(st, first, n);
			n = 0;
		}
		first = n ? MIN(first, i) : i;
		n++;
	}
	release_memory(st, first, n);
}

uint64_t staging_used_bytes(const struct staging *st)
{
	return (uint64_t)st->used << PAGE_SHIFT;
}

uint64_t staging_resident_bytes(const struct staging *st)
{
	return ((uint64_t)st->used + st->idle) << PAGE_SHIFT;
}

uint64_t staging_max_bytes(const struct staging *st)
{
	return (uint64_t)st->max_pages << PAGE_SHIFT;
}

/* ---- after a death ---- */

uint32_t staging_recover_begin(struct staging *st)
{
	uint32_t n = MIN(words(st)->backed, st->nr);

	for (uint32_t i = 0; i < n; i++) {
		struct entry *e = &st->entries[i];

		/* Nobody of the next generation is a reader of the last. */
		atomic_store_explicit(&e->count, ((e->count >> 32) + 1) << 32, memory_order_relaxed);
		e->next = INDEX_NONE; /* all are packed again */
	}
	st->fresh = n;
	st->has_chunk = n && st->wants_chunk;
	return n;
}

unsigned staging_recover_ref(struct staging *st, uint32_t index)
{
	struct entry *e;

	if (index >= st->fresh)
		return 0;
	e = &st->entries[index];
	if ((uint32_t)e->count == 0)
		st->used++;
	return (uint32_t)atomic_fetch_add_explicit(&e->count, 1, memory_order_relaxed) + 1;
}

void staging_make_room(struct staging *st, unsigned n)
{
	if (staging_room(st) < n)
		st->max_pages = MIN(st->max_pages + n, st->nr);
}

uint32_t staging_recover_blob(const struct staging *st, uint32_t index)
{
	return index < st->fresh ? st->entries[index].blob : 0;
}

void staging_recover_end(struct staging *st)
{
	uint32_t run = 0; /* free ones before i */

	for (uint32_t i = 0; i <= st->fresh; i++) {
		if (i < st->fresh && (uint32_t)st->entries[i].count == 0) {
			st->entries[i].blob = 0;
			if (is_of_chunk(st, i))
				push_chunk(st, i);
			else
				push(st, &st->cold, i);
			run++;
			continue;
		}
		release_memory(st, i - run, run);
		run = 0;
	}
	/* StagingMax= may have become less. */
	st->max_pages = MAX(st->max_pages, st->used);
}
