/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "flow/blobstore.h"

#include <errno.h>
#include <string.h>

#include "flow/blobstore_private.h"

struct blobstore *blobstore_new(struct store *store, uint32_t max_blobs)
{
	struct blobstore *bs = calloc(1, sizeof(*bs));
	struct store_stats stats;

	if (!bs)
		return NULL;
	store_get_stats(store, &stats);
	pthread_mutex_init(&bs->lock, NULL);
	bs->store = store;
	bs->nr_segments = (uint32_t)(stats.capacity_bytes / STORE_SEGMENT);
	bs->segments = calloc(bs->nr_segments, sizeof(*bs->segments));
	bs->blobs = blob_table_new(MIN(max_blobs, BLOB_ID_MAX));
	if (!bs->segments || !bs->blobs)
		return blobstore_free(bs);
	return bs;
}

/* Domains are left alone: they may be gone already. */
struct blobstore *blobstore_free(struct blobstore *bs)
{
	if (!bs)
		return NULL;
	for (uint32_t i = 0; i < bs->top_segment; i++)
		if (bs->segments[i].state != SEGMENT_UNUSED)
			store_segment_free(bs->store, i);
	blob_table_free(bs->blobs);
	pthread_mutex_destroy(&bs->lock);
	free(bs->segments);
	free(bs->tenants);
	free(bs);
	return NULL;
}

/* ---- get ---- */

/* Keeps the segment id lies in from being freed; see blobstore_private.h. */
static struct segment *segment_pin(struct blobstore *bs, blob_id id, uint64_t *loc)
{
	uint64_t now = blob_loc(bs->blobs, id);
	struct segment *seg;

	for (;;) {
		assert(now);
		*loc = now;
		seg = &bs->segments[blob_loc_segment(now)];
		atomic_fetch_add(&seg->readers, 1);
		now = blob_loc(bs->blobs, id);
		if (now == *loc)
			return seg;
		atomic_fetch_sub(&seg->readers, 1);
	}
}

static int read_page(struct blobstore *bs, struct codec *codec, uint64_t loc, void *page)
{
	unsigned char buf[BLOB_LEN_MAX];
	uint32_t len = blob_loc_len(loc);
	const void *frame;
	int r;

	frame = segment_bytes(bs, blob_loc_segment(loc), blob_loc_offset(loc), len, buf, &r);
	return frame ? codec_decompress(codec, page, frame, len) : r;
}

int blobstore_get(struct blobstore *bs, struct codec *codec, blob_id id, void *page)
{
	uint64_t loc, hash = blob_hash(bs->blobs, id);
	struct segment *seg = segment_pin(bs, id, &loc);
	int r = read_page(bs, codec, loc, page);

	if (!r && page_hash(page, seg->seed) != hash)
		r = -EBADMSG;
	atomic_fetch_sub(&seg->readers, 1);
	if (r == -EBADMSG)
		atomic_fetch_add_explicit(&bs->corrupt, 1, memory_order_relaxed);
	return r;
}

size_t blobstore_bytes(const struct blobstore *bs, blob_id id)
{
	return record_size(blob_loc(bs->blobs, id));
}

void blobstore_ref(struct blobstore *bs, blob_id id)
{
	blob_ref(bs->blobs, id);
}

void blobstore_unref(struct blobstore *bs, blob_id id)
{
	blob_unref(bs->blobs, id);
}

/* ---- put ---- */

/* The next blob of domain with this hash, with a reference; the one before
   loses its own. */
static blob_id next_candidate(struct blobstore *bs, const struct domain *domain, uint64_t hash,
			      blob_id before)
{
	blob_id id = before;

	pthread_mutex_lock(&bs->lock);
	while ((id = blob_find(bs->blobs, hash, id))) {
		uint32_t segment = blob_loc_segment(blob_loc(bs->blobs, id));

		if (bs->segments[segment].tenant == domain->index &&
		    blob_ref_unless_dead(bs->blobs, id))
			break;
	}
	pthread_mutex_unlock(&bs->lock);
	if (before)
		blob_unref(bs->blobs, before);
	return id;
}

/* A blob of domain with the very bytes of page, with a reference, or 0. One
   that fails its checksum is as good as none. */
static blob_id find_equal(struct blobstore *bs, struct codec *codec, const struct domain *domain,
			  uint64_t hash, const void *page)
{
	_Alignas(64) unsigned char other[PAGE_BYTES];
	blob_id id = 0;

	while ((id = next_candidate(bs, domain, hash, id)))
		if (!blobstore_get(bs, codec, id, other) && !memcmp(other, page, PAGE_BYTES))
			break;
	return id;
}

static enum blobstore_result add_locked(struct blobstore *bs, struct domain *domain, uint64_t hash,
					unsigned char *buf, uint32_t len, blob_id *id)
{
	struct record record = { .len = (uint16_t)len, .magic = RECORD_MAGIC };
	uint64_t loc;
	int r;

	record.id = blob_new(bs->blobs);
	if (!record.id)
		return BLOBSTORE_FULL;
	memcpy(buf, &record, sizeof(record));
	r = segment_append(bs, domain, buf, (uint32_t)sizeof(record) + len, false, &loc);
	if (r) {
		blob_free(bs->blobs, record.id);
		return r == -ENOSPC ? BLOBSTORE_FULL : BLOBSTORE_ERROR;
	}
	blob_publish(bs->blobs, record.id, hash, loc);
	*id = record.id;
	return BLOBSTORE_STORED;
}

enum blobstore_result blobstore_put(struct blobstore *bs, struct codec *codec,
				    struct domain *domain, const void *page, blob_id *id)
{
	uint64_t hash = page_hash(page, domain->seed);
	unsigned char buf[RECORD_MAX];
	enum blobstore_result result;
	size_t len;

	*id = find_equal(bs, codec, domain, hash, page);
	if (*id) {
		atomic_fetch_add_explicit(&bs->duplicates, 1, memory_order_relaxed);
		return BLOBSTORE_DUPLICATE;
	}
	len = codec_compress(codec, buf + sizeof(struct record), BLOBSTORE_FRAME_MAX, page);
	if (!len)
		return BLOBSTORE_INCOMPRESSIBLE;
	/* Charged before it is there: the sum never lags behind (INV-8). */
	if (!domain_charge(domain, sizeof(struct record) + len))
		return BLOBSTORE_QUOTA;
	pthread_mutex_lock(&bs->lock);
	result = add_locked(bs, domain, hash, buf, (uint32_t)len, id);
	pthread_mutex_unlock(&bs->lock);
	if (result != BLOBSTORE_STORED)
		domain_uncharge(domain, sizeof(struct record) + len);
	return result;
}

void blobstore_get_stats(struct blobstore *bs, struct blobstore_stats *stats)
{
	*stats = (struct blobstore_stats){
		.duplicate_total = atomic_load_explicit(&bs->duplicates, memory_order_relaxed),
		.corrupt_total = atomic_load_explicit(&bs->corrupt, memory_order_relaxed),
	};
	pthread_mutex_lock(&bs->lock);
	stats->blobs = blob_count(bs->blobs);
	stats->live_bytes = bs->live;
	stats->dead_bytes = bs->held - bs->live;
	stats->metadata_bytes = blob_table_bytes(bs->blobs) +
				bs->top_segment * sizeof(struct segment) +
				bs->nr_tenants * sizeof(struct tenant);
	stats->compacted_bytes_total = bs->compacted_bytes;
	pthread_mutex_unlock(&bs->lock);
	store_get_stats(bs->store, &stats->store);
}
