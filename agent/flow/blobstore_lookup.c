/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Is a page there already? What has its hash is read and compared, byte by byte.
 *
 * No packer waits for a slow store longer than WAIT_NS. A read that takes longer goes
 * on by itself, with a reference to its blob, and for PAUSE_NS nothing is read from
 * slow tiers for this. What may have been equal there is stored a second time.
 */
#include <errno.h>
#include <semaphore.h>
#include <string.h>
#include <time.h>

#include "flow/blobstore_private.h"

#define WAIT_NS (NSEC_PER_SEC / 10)
#define PAUSE_NS NSEC_PER_SEC
/* Reads at a time, those included that nobody waits for any more. */
#define LOOKUPS 8

enum lookup_state { LOOKUP_FREE, LOOKUP_WAITED_FOR, LOOKUP_ENDED, LOOKUP_LEFT };

struct lookup {
	struct blobstore_fetch fetch;
	struct blobstore *bs;
	sem_t end;
	_Atomic int state;
};

struct lookups {
	struct lookup v[LOOKUPS];
	_Atomic uint64_t not_before_ns;
	unsigned char *buffers;
};

static void give(struct lookup *l)
{
	atomic_store_explicit(&l->state, LOOKUP_FREE, memory_order_release);
}

/* Any thread's. */
static void done(struct store_read *read)
{
	struct lookup *l = CONTAINER_OF(read, struct lookup, fetch.read);
	int state = LOOKUP_WAITED_FOR;

	if (atomic_compare_exchange_strong(&l->state, &state, LOOKUP_ENDED)) {
		sem_post(&l->end);
		return;
	}
	blobstore_fetch_end(&l->fetch);
	blob_unref(l->bs->blobs, l->fetch.id);
	give(l);
}

bool lookups_init(struct blobstore *bs)
{
	struct lookups *all = bs->lookups = calloc(1, sizeof(*all));

	if (!all)
		return false;
	all->buffers = aligned_alloc(STORE_BLOCK, LOOKUPS * BLOBSTORE_FETCH_ROOM);
	for (unsigned i = 0; i < LOOKUPS; i++) {
		struct lookup *l = &all->v[i];

		l->bs = bs;
		sem_init(&l->end, 0, 0);
		l->fetch.read.buf = all->buffers + i * BLOBSTORE_FETCH_ROOM;
		l->fetch.read.done = done;
	}
	return all->buffers;
}

void lookups_deinit(struct blobstore *bs)
{
	struct lookups *all = bs->lookups;

	for (unsigned i = 0; all && i < LOOKUPS; i++) {
		struct lookup *l = &all->v[i];

		if (l->state == LOOKUP_LEFT)
			blobstore_fetch_cancel(bs, &l->fetch);
		while (l->state != LOOKUP_FREE)
			usleep(1000);
		sem_destroy(&l->end);
	}
	if (all)
		free(all->buffers);
	free(all);
	bs->lookups = NULL;
}

static struct lookup *take(struct blobstore *bs)
{
	for (unsigned i = 0; i < LOOKUPS; i++) {
		struct lookup *l = &bs->lookups->v[i];
		int state = LOOKUP_FREE;

		if (atomic_compare_exchange_strong(&l->state, &state, LOOKUP_WAITED_FOR))
			return l;
	}
	return NULL;
}

/* False: it is left to itself. */
static bool wait_for(struct lookup *l)
{
	uint64_t until = now_ns() + WAIT_NS;
	struct timespec ts = { .tv_sec = (time_t)(until / NSEC_PER_SEC), .tv_nsec = (long)(until % NSEC_PER_SEC) };
	int state = LOOKUP_WAITED_FOR, r;

	while ((r = sem_clockwait(&l->end, CLOCK_MONOTONIC, &ts)) && errno == EINTR)
		;
	if (!r)
		return true;
	if (atomic_compare_exchange_strong(&l->state, &state, LOOKUP_LEFT)) {
		atomic_store_explicit(&l->bs->lookups->not_before_ns, now_ns() + PAUSE_NS, memory_order_relaxed);
		return false;
	}
	while (sem_wait(&l->end)) /* at this very moment */
		;
	return true;
}

/* As blobstore_get, of what is in a slow tier, to which the caller has a reference.
   -EAGAIN: not in the time that there is. */
static int read_in_time(struct blobstore *bs, struct codec *codec, blob_id id, void *page)
{
	struct lookup *l = NULL;
	int r;

	if (now_ns() >= atomic_load_explicit(&bs->lookups->not_before_ns, memory_order_relaxed))
		l = take(bs);
	if (!l)
		return -EAGAIN;
	blob_ref(bs->blobs, id);
	if (!blobstore_fetch_start(bs, &l->fetch, id)) {
		r = blobstore_get_now(bs, codec, id, page); /* it has come up */
	} else if (!wait_for(l)) {
		return -EAGAIN;
	} else {
		pthread_mutex_lock(&bs->seal_lock);
		r = blobstore_fetch_page(bs, &l->fetch, codec, bs->seal, page);
		pthread_mutex_unlock(&bs->seal_lock);
		blobstore_fetch_end(&l->fetch);
	}
	blob_unref(bs->blobs, id);
	give(l);
	return r;
}

/* Another machine may not answer for long, nor a disk that holds the mover up. */
static bool may_hang(const struct blobstore *bs, blob_id id)
{
	uint64_t place = atomic_load(&bs->segments[blob_loc_segment(blob_loc(bs->blobs, id))].place);

	return place_tier(place) &&
	       (bs->no_answer || store_caps(bs->tiers[place_tier(place)].store) & STORE_REMOTE);
}

/* The next blob of domain with this hash, with a reference; the one before
   loses its own. */
static blob_id next_candidate(struct blobstore *bs, const struct domain *domain, uint64_t hash, blob_id before)
{
	blob_id id = before;

	pthread_mutex_lock(&bs->lock);
	while ((id = blob_find(bs->blobs, hash, id)))
		if (bs->segments[blob_loc_segment(blob_loc(bs->blobs, id))].tenant == domain->index &&
		    blob_ref_unless_dead(bs->blobs, id))
			break;
	pthread_mutex_unlock(&bs->lock);
	if (before)
		blob_unref(bs->blobs, before);
	return id;
}

/* The page of a candidate. */
static int look_at(struct blobstore *bs, struct codec *codec, blob_id id, void *page)
{
	int r = blobstore_get_now(bs, codec, id, page);

	if (r != -EAGAIN)
		return r;
	if (!may_hang(bs, decode_from(bs, id)))
		r = read_in_time(bs, codec, id, page);
	if (r == -EAGAIN)
		atomic_fetch_add_explicit(&bs->passed_over, 1, memory_order_relaxed);
	return r;
}

blob_id find_equal(struct blobstore *bs, struct codec *codec, const struct domain *domain, uint64_t hash,
		   const void *page)
{
	_Alignas(64) unsigned char other[PAGE_BYTES];
	blob_id id = 0;

	while ((id = next_candidate(bs, domain, hash, id)))
		if (!look_at(bs, codec, id, other) && !memcmp(other, page, PAGE_BYTES))
			break;
	return id;
}
