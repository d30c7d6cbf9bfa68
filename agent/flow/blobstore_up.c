/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Blobs that others still refer to after one of them has come back from a slow
 * tier are hot: they go up to the first tier, in the background. (A page's own
 * blob needs nothing: it dies as its page comes back, and what is evicted again
 * is put into the first tier.)
 */
#include <errno.h>
#include <string.h>

#include "common/inject.h"
#include "flow/blobstore_private.h"

/* No room is made for what is hot: below this share of the first tier only. */
#define ROOM_PERCENT 70
#define PER_STEP 8

/* Wait-free; what finds its place taken is not wanted enough. */
void blobstore_want(struct blobstore *bs, blob_id id)
{
	uint32_t none = 0;

	if (atomic_compare_exchange_strong_explicit(&bs->wanted[id % WANTED], &none, id, memory_order_relaxed,
						    memory_order_relaxed))
		atomic_store_explicit(&bs->has_wanted, true, memory_order_release);
}

/* A reference to a blob that lives in a slow tier, and the domain that pays for it. */
static struct domain *hold(struct blobstore *bs, blob_id id)
{
	struct domain *domain = NULL;
	const struct segment *seg;
	uint64_t loc;

	pthread_mutex_lock(&bs->lock);
	loc = blob_loc_of_any(bs->blobs, id);
	seg = &bs->segments[blob_loc_segment(loc)];
	if (loc && seg->tier && blob_ref_unless_dead(bs->blobs, id))
		domain = bs->tenants[seg->tenant].domain;
	pthread_mutex_unlock(&bs->lock);
	return domain;
}

static void promote(struct blobstore *bs, struct domain *domain, blob_id id)
{
	uint64_t loc = blob_loc(bs->blobs, id), new_loc;
	struct segment *seg = &bs->segments[blob_loc_segment(loc)];
	unsigned char buf[RECORD_MAX];
	struct record record = record_make(id, blob_loc_kind(loc), blob_loc_len(loc));

	/* Only the mover moves what is in a slow tier, and that is us: it stays where it
	   is. What does not compress is too dear for memory. */
	if (blob_loc_kind(loc) == BLOB_RAW || blob_loc_len(loc) > BLOBSTORE_FRAME_MAX ||
	    mover_read_frame(bs, seg, loc, buf + sizeof(record)))
		return;
	memcpy(buf, &record, sizeof(record));
	pthread_mutex_lock(&bs->lock);
	if (!segment_append(bs, domain, STREAM_NEW, buf, record_size(loc), false, &new_loc)) {
		inject(INJECT_PROMOTED);
		blob_move(bs->blobs, id, new_loc);
		segment_drop(bs, loc);
		bs->promoted_bytes += record_size(loc);
	}
	pthread_mutex_unlock(&bs->lock);
}

static bool has_much_room(struct blobstore *bs)
{
	const struct tier *t = &bs->tiers[0];
	bool has;

	pthread_mutex_lock(&bs->lock);
	has = t->used_segments * 100ull <= t->capacity * (uint64_t)ROOM_PERCENT;
	pthread_mutex_unlock(&bs->lock);
	return has;
}

bool promote_step(struct blobstore *bs)
{
	unsigned done = 0;

	if (!atomic_exchange_explicit(&bs->has_wanted, false, memory_order_acquire))
		return false;
	for (unsigned i = 0; i < WANTED; i++) {
		blob_id id;
		struct domain *domain;

		if (done == PER_STEP) { /* the rest the next time */
			atomic_store_explicit(&bs->has_wanted, true, memory_order_relaxed);
			return true;
		}
		id = atomic_exchange_explicit(&bs->wanted[i], 0, memory_order_relaxed);
		if (!id || !has_much_room(bs))
			continue;
		domain = hold(bs, id);
		if (!domain)
			continue;
		bs->promoting = id;
		promote(bs, domain, id);
		bs->promoting = 0;
		blob_unref(bs->blobs, id);
		done++;
	}
	return false;
}
