/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "page/slot_pool.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#define STEP_BYTES ((size_t)1 << 20)
#define STEP_NODES ((uint32_t)(STEP_BYTES / NODE_BYTES))

static void *reserve(size_t bytes, int flags, int fd)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags | MAP_NORESERVE, fd, 0);

	if (p == MAP_FAILED)
		return NULL;
	/* Other people's page layout does not belong into a core. */
	madvise(p, bytes, MADV_DONTDUMP);
	return p;
}

struct slot_pool *slot_pool_new(size_t max_bytes)
{
	size_t steps = MAX(max_bytes / STEP_BYTES, (size_t)1);
	struct slot_pool *pool;

	if (steps > UINT32_MAX / STEP_NODES) {
		errno = EINVAL;
		return NULL;
	}
	pool = calloc(1, sizeof(*pool));
	if (!pool)
		return NULL;
	pool->max_nodes = (uint32_t)steps * STEP_NODES;
	pool->used = 1; /* node 0 means none */
	pool->fd = memfd_create("uswap-slots", MFD_CLOEXEC);
	if (pool->fd < 0 || ftruncate(pool->fd, (off_t)(steps * STEP_BYTES)))
		goto fail;
	pool->nodes = reserve(steps * STEP_BYTES, MAP_SHARED, pool->fd);
	if (!pool->nodes)
		goto fail;
	pool->counts = reserve(pool->max_nodes * sizeof(*pool->counts),
			       MAP_PRIVATE | MAP_ANONYMOUS, -1);
	if (!pool->counts)
		goto fail;
	return pool;
fail:
	return slot_pool_free(pool);
}

struct slot_pool *slot_pool_free(struct slot_pool *pool)
{
	int saved = errno;

	if (!pool)
		return NULL;
	if (pool->nodes)
		munmap(pool->nodes, pool->max_nodes * NODE_BYTES);
	if (pool->counts)
		munmap(pool->counts, pool->max_nodes * sizeof(*pool->counts));
	safe_close(pool->fd);
	free(pool);
	errno = saved;
	return NULL;
}

/* One more step of memory, so complete that taking a node never faults. */
static int grow(struct slot_pool *pool)
{
	uint32_t committed = atomic_load_explicit(&pool->committed, memory_order_relaxed);
	uint32_t step = STEP_NODES;
	char *at = (char *)pool->nodes + committed * NODE_BYTES;
	int r;

	if (committed + step > pool->max_nodes)
		return -ENOMEM;
	do {
		r = fallocate(pool->fd, 0, (off_t)(committed * NODE_BYTES), (off_t)STEP_BYTES);
	} while (r && errno == EINTR);
	if (r)
		return -ENOMEM;
	/* Best effort: where the limit forbids it, the engine's mlockall has
	   said so already, and a pool that can be swapped still works. */
	if (mlock(at, STEP_BYTES))
		madvise(at, STEP_BYTES, MADV_POPULATE_WRITE);
	memset(&pool->counts[committed], 0, step * sizeof(*pool->counts));
	if (!committed)
		step--; /* node 0 */
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
