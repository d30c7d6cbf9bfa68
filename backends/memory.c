/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The memory store: segments are ranges of one kept file (common/kept.h), mapped
 * whole. Freed segments are punched out, so the memory goes back at once.
 *
 * Synchronization: lock guards the list of free segments; a segment's struct
 * backing belongs to the thread that writes it.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "backends/store.h"
#include "common/kept.h"
#include "common/layout.h"
#include "common/util.h"

/* Memory is taken in these steps and by fallocate: writing into a hole of the
   mapping would answer a lack of memory with SIGBUS instead of an errno. */
#define BACKING_STEP ((size_t)64 << 10)
/* Or in huge pages, as long as those that writing has not passed are such a part of all,
   or it is soon to pass them. */
#define AHEAD_SHARE 16
/* They are left alone for a while when there was none, or the kernel had to look for long. */
#define HUGE_SLOW_NS (4 * 1000000ull)
#define HUGE_PAUSE_NS NSEC_PER_SEC

/* In the kept file's header. */
struct words {
	uint64_t start; /* of the first segment, in what is behind the header */
};
#define START (KEPT_HUGE - KEPT_HEADER)

struct backing {
	uint32_t bytes; /* of the segment, from its start, with memory behind them */
	bool is_ahead;	/* the last of it is a huge page that is written to */
};

struct memory {
	struct kept kept;
	char *base;
	uint64_t start;
	uint32_t capacity;
	struct backing *backing; /* of each segment */
	_Atomic uint64_t backed;   /* bytes, of what this process has written */
	_Atomic uint32_t nr_ahead; /* segments where it is_ahead */
	_Atomic uint64_t expected; /* bytes to come */
	_Atomic uint64_t not_before_ns;
	pthread_mutex_t lock;
	uint32_t *free;	   /* a stack of nr_free segments */
	uint32_t nr_free;  /* guarded by lock */
	uint32_t nr_fresh; /* never used are capacity - nr_fresh; by lock */
};

static int memory_segment_new(void *self, uint32_t *segment)
{
	struct memory *mem = self;
	int r = 0;

	pthread_mutex_lock(&mem->lock);
	if (mem->nr_free)
		*segment = mem->free[--mem->nr_free];
	else if (mem->nr_fresh < mem->capacity)
		*segment = mem->nr_fresh++;
	else
		r = -ENOSPC;
	pthread_mutex_unlock(&mem->lock);
	return r;
}

static size_t segment_start(const struct memory *mem, uint32_t segment)
{
	return mem->start + segment * STORE_SEGMENT;
}

/* Counts what a segment has behind it now. */
static void note(struct memory *mem, struct backing *b, size_t bytes, bool is_ahead)
{
	mem->backed += bytes - b->bytes;
	mem->nr_ahead += (uint32_t)is_ahead - b->is_ahead;
	*b = (struct backing){ .bytes = (uint32_t)bytes, .is_ahead = is_ahead };
}

/* Two threads at a time may take one more than that. */
static bool back_huge(struct memory *mem, uint32_t segment, size_t end)
{
	const struct backing *b = &mem->backing[segment];
	size_t ahead = (mem->nr_ahead - b->is_ahead + 1) * KEPT_HUGE;
	uint64_t start, ns;
	bool backed;

	if (b->bytes % KEPT_HUGE || end - b->bytes > KEPT_HUGE ||
	    (ahead * AHEAD_SHARE > mem->backed && ahead > mem->expected))
		return false;
	start = now_ns();
	if (start < mem->not_before_ns)
		return false;
	backed = kept_back_huge(&mem->kept, segment_start(mem, segment) + b->bytes);
	ns = now_ns() - start;
	if (!backed || ns > HUGE_SLOW_NS)
		mem->not_before_ns = start + ns + HUGE_PAUSE_NS;
	return backed;
}

static int back(struct memory *mem, uint32_t segment, size_t end)
{
	struct backing *b = &mem->backing[segment];
	size_t from = segment_start(mem, segment) + b->bytes;
	size_t to = MIN((end + BACKING_STEP - 1) & ~(BACKING_STEP - 1), STORE_SEGMENT);
	int r;

	if (b->is_ahead && end > STORE_SEGMENT - BACKING_STEP) /* so much may stay empty when it is sealed */
		note(mem, b, b->bytes, false);
	if (end <= b->bytes)
		return 0;
	if (back_huge(mem, segment, end)) {
		note(mem, b, b->bytes + KEPT_HUGE, true);
		return 0;
	}
	r = kept_back(&mem->kept, from, to - b->bytes);
	if (r)
		return r;
	/* Sixteen faults at once; where that can't be, one by one. */
	(void)madvise(mem->base + from, to - b->bytes, MADV_POPULATE_WRITE);
	note(mem, b, to, false);
	return 0;
}

static int memory_write(void *self, uint32_t segment, size_t offset, const void *buf, size_t len)
{
	struct memory *mem = self;
	int r = back(mem, segment, offset + len);

	if (r)
		return r;
	memcpy(mem->base + segment_start(mem, segment) + offset, buf, len);
	return 0;
}

static void memory_expect(void *self, uint64_t bytes)
{
	struct memory *mem = self;

	atomic_store_explicit(&mem->expected, bytes, memory_order_relaxed);
}

static const void *memory_map(void *self, uint32_t segment, size_t offset, size_t len)
{
	struct memory *mem = self;

	(void)len;
	return mem->base + segment_start(mem, segment) + offset;
}

static int memory_read(void *self, uint32_t segment, size_t offset, void *buf, size_t len)
{
	memcpy(buf, memory_map(self, segment, offset, len), len);
	return 0;
}

static void memory_segment_free(void *self, uint32_t segment)
{
	struct memory *mem = self;

	/* Can't fail on a memfd of ours; if it did, the memory would stay taken
	   until the segment is used again, and used_bytes would show it. */
	kept_give_back(&mem->kept, segment_start(mem, segment), STORE_SEGMENT);
	note(mem, &mem->backing[segment], 0, false);
	pthread_mutex_lock(&mem->lock);
	assert(mem->nr_free < mem->capacity);
	mem->free[mem->nr_free++] = segment;
	pthread_mutex_unlock(&mem->lock);
}

static uint64_t memory_used_bytes(void *self)
{
	struct memory *mem = self;
	struct stat st;

	/* Without the kept file's header. */
	return fstat(mem->kept.fd, &st) ? 0 : (uint64_t)st.st_blocks * 512 - KEPT_HEADER;
}

static void memory_destroy(void *self)
{
	struct memory *mem = self;

	kept_close(&mem->kept);
	pthread_mutex_destroy(&mem->lock);
	free(mem->backing);
	free(mem->free);
	free(mem);
}

/* Those in between stay free: they may be adopted later. */
static int memory_segment_adopt(void *self, uint32_t segment, uint32_t written)
{
	struct memory *mem = self;
	int r = -EEXIST;

	(void)written;
	pthread_mutex_lock(&mem->lock);
	if (segment >= mem->capacity) {
		r = -ERANGE;
	} else if (segment >= mem->nr_fresh) {
		while (mem->nr_fresh < segment)
			mem->free[mem->nr_free++] = mem->nr_fresh++;
		mem->nr_fresh++;
		r = 0;
	} else {
		for (uint32_t i = mem->nr_free; r && i-- > 0;)
			if (mem->free[i] == segment) {
				mem->free[i] = mem->free[--mem->nr_free];
				r = 0;
			}
	}
	pthread_mutex_unlock(&mem->lock);
	return r;
}

/* What the process before us had taken and nobody has adopted goes back. */
static void memory_adopt_done(void *self)
{
	struct memory *mem = self;

	for (uint32_t i = 0; i < mem->nr_free; i++)
		kept_give_back(&mem->kept, segment_start(mem, mem->free[i]), STORE_SEGMENT);
	kept_give_back(&mem->kept, segment_start(mem, mem->nr_fresh),
		       (mem->capacity - mem->nr_fresh) * STORE_SEGMENT);
}

static const struct store_ops memory_ops = {
	.name = "memory",
	.caps = STORE_MAPPED,
	.segment_new = memory_segment_new,
	.write = memory_write,
	.expect = memory_expect,
	.read = memory_read,
	.map = memory_map,
	.segment_adopt = memory_segment_adopt,
	.adopt_done = memory_adopt_done,
	.segment_free = memory_segment_free,
	.used_bytes = memory_used_bytes,
	.destroy = memory_destroy,
};

/* Memory stores find their files by the order they are opened in. */
static bool memory_init(struct memory *mem)
{
	static _Atomic unsigned opened;
	char name[KEPT_NAME];
	struct words *words;
	int r;

	snprintf(name, sizeof(name), "store%u", atomic_fetch_add(&opened, 1));
	/* as far into it as makes segments begin with a huge page */
	r = kept_open_since(&mem->kept, name, START + mem->capacity * STORE_SEGMENT, LAYOUT_MEMORY_OLDEST, LAYOUT_MEMORY);
	if (r < 0) {
		errno = -r;
		return false;
	}
	words = mem->kept.own;
	if (!mem->kept.found)
		words->start = START;
	mem->start = words->start;
	/* All that is there can be adopted. */
	mem->capacity = (uint32_t)MIN((mem->kept.bytes - mem->start) / STORE_SEGMENT, (size_t)STORE_SEGMENTS_MAX);
	mem->base = mem->kept.base;
	mem->backing = calloc(mem->capacity, sizeof(*mem->backing));
	mem->free = calloc(mem->capacity, sizeof(*mem->free));
	return mem->backing && mem->free;
}

struct store *store_memory_new(uint64_t max_bytes)
{
	uint64_t segments = MAX(max_bytes / STORE_SEGMENT, (uint64_t)1);
	struct store *store = NULL;
	struct memory *mem;
	int saved;

	if (segments > STORE_SEGMENTS_MAX) {
		errno = EINVAL;
		return NULL;
	}
	mem = calloc(1, sizeof(*mem));
	if (!mem)
		return NULL;
	mem->kept = KEPT_NONE;
	mem->capacity = (uint32_t)segments;
	pthread_mutex_init(&mem->lock, NULL);
	if (memory_init(mem))
		store = store_new(&memory_ops, mem, mem->capacity);
	if (store)
		return store;
	saved = errno;
	memory_destroy(mem);
	errno = saved;
	return NULL;
}
