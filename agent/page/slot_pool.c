/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "page/slot_pool.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "common/layout.h"

#define STEP_BYTES ((size_t)1 << 20)
#define STEP_NODES ((uint32_t)(STEP_BYTES / NODE_BYTES))

static struct slot_pool_words *words(const struct slot_pool *pool)
{
	return pool->kept.own;
}

struct slot_pool *slot_pool_new(size_t max_bytes)
{
	return slot_pool_open("slots", max_bytes);
}

struct slot_pool *slot_pool_open(const char *name, size_t max_bytes)
{
	size_t steps = MAX(max_bytes / STEP_BYTES, (size_t)1);
	struct slot_pool *pool;
	void *counts;
	int r;

	if (steps > UINT32_MAX / STEP_NODES) {
		errno = EINVAL;
		return NULL;
	}
	pool = calloc(1, sizeof(*pool));
	if (!pool)
		return NULL;
	pool->used = 1; /* node 0 means none */
	r = kept_open(&pool->kept, name, steps * STEP_BYTES, LAYOUT_SLOTS);
	if (r < 0) {
		free(pool);
		errno = -r;
		return NULL;
	}
	pool->nodes = pool->kept.base;
	pool->max_nodes = (uint32_t)(MIN(pool->kept.bytes, (size_t)UINT32_MAX) / STEP_BYTES) * STEP_NODES;
	counts = mmap(NULL, pool->max_nodes * sizeof(*pool->counts), PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (counts == MAP_FAILED)
		return slot_pool_free(pool);
	pool->counts = counts;
	/* Other people's page layout does not belong into a core. */
	madvise(counts, pool->max_nodes * sizeof(*pool->counts), MADV_DONTDUMP);
	atomic_init(&pool->committed, MIN(words(pool)->committed, pool->max_nodes));
	return pool;
}

struct slot_pool *slot_pool_free(struct slot_pool *pool)
{
	int saved = errno;

	if (!pool)
		return NULL;
	if (pool->counts)
		munmap(pool->counts, pool->max_nodes * sizeof(*pool->counts));
	kept_close(&pool->kept);
	free(pool);
	errno = saved;
	return NULL;
}

bool slot_pool_is_found(const struct slot_pool *pool)
{
	return pool->kept.found;
}

void slot_pool_recovered(struct slot_pool *pool)
{
	uint32_t committed = atomic_load_explicit(&pool->committed, memory_order_relaxed);
	uint32_t last = committed;

	while (last > 1 && !pool->counts[last - 1])
		last--;
	pool->used = MAX(last, 1u);
	pool->free = 0;
	atomic_store_explicit(&pool->ready, committed ? committed - pool->used : 0, memory_order_relaxed);
	for (uint32_t node = pool->used; node-- > 1;)
		if (!pool->counts[node])
			slot_pool_give(pool, node);
}

/* One more step of memory, so complete that taking a node never faults. */
static int grow(struct slot_pool *pool)
{
	uint32_t committed = atomic_load_explicit(&pool->committed, memory_order_relaxed);
	uint32_t step = STEP_NODES;
	char *at = (char *)pool->nodes + committed * NODE_BYTES;

	if (committed + step > pool->max_nodes)
		return -ENOMEM;
	if (kept_back(&pool->kept, committed * NODE_BYTES, STEP_BYTES) < 0)
		return -ENOMEM;
	/* Best effort: where the limit forbids it, the engine's mlockall has
	   said so already, and a pool that can be swapped still works. */
	if (mlock(at, STEP_BYTES))
		madvise(at, STEP_BYTES, MADV_POPULATE_WRITE);
	memset(&pool->counts[committed], 0, step * sizeof(*pool->counts));
	if (!committed)
		step--; /* node 0 */
	atomic_store_explicit(&words(pool)->committed, committed + STEP_NODES, memory_order_release);
	atomic_store_explicit(&pool->committed, committed + STEP_NODES, memory_order_relaxed);
	atomic_fetch_add_explicit(&pool->ready, step, memory_order_relaxed);
	return 0;
}

int slot_pool_reserve(struct slot_pool *pool, size_t nodes)
{
	while (slot_pool_ready(pool) < nodes) {
		int r = grow(pool);

		if (r)
			return r;
	}
	return 0;
}

size_t slot_pool_ready(const struct slot_pool *pool)
{
	return atomic_load_explicit(&pool->ready, memory_order_relaxed);
}

size_t slot_pool_bytes(const struct slot_pool *pool)
{
	return atomic_load_explicit(&pool->committed, memory_order_relaxed) * NODE_BYTES;
}

uint32_t slot_pool_take(struct slot_pool *pool)
{
	uint32_t node = pool->free;

	if (!slot_pool_ready(pool))
		return 0;
	if (node)
		pool->free = pool->nodes[node].next_free;
	else
		node = pool->used++;
	assert(node < atomic_load_explicit(&pool->committed, memory_order_relaxed));
	assert(!pool->counts[node]);
	atomic_fetch_sub_explicit(&pool->ready, 1, memory_order_relaxed);
	memset(&pool->nodes[node], 0, NODE_BYTES);
	pool->counts[node] = 1;
	return node;
}

void slot_pool_give(struct slot_pool *pool, uint32_t node)
{
	assert(node && node < pool->used);
	pool->counts[node] = 0;
	pool->nodes[node].next_free = pool->free;
	pool->free = node;
	atomic_fetch_add_explicit(&pool->ready, 1, memory_order_relaxed);
}
