/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "flow/blobstore.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/inject.h"
#include "common/layout.h"
#include "flow/blobstore_private.h"

#define DICT_LEVEL 1 /* what pays: docs/PERFORMANCE.md */

/* What belongs to the table of segments as a whole; kept. */
struct entries_own {
	uint64_t serial; /* the last one given out */
	struct seal_key key;
	struct daily daily[TIERS_MAX];
};
_Static_assert(sizeof(struct entries_own) <= KEPT_OWN, "fits the header");

static bool open_tiers(struct blobstore *bs, struct store *const *stores, unsigned nr)
{
	/* A worker before us has counted what it wrote: the medium knows nothing newer, and may hang. */
	bool counted = kept_version("segments") == LAYOUT_SEGMENTS;

	for (unsigned i = 0; i < nr; i++) {
		struct store_stats stats;

		store_get_stats(stores[i], &stats);
		/* A buffer in front of the largest stores, or one that was larger once, is too much. */
		bs->tiers[i] = (struct tier){ .store = stores[i],
					      .slow = i > 0,
					      .capacity = (uint32_t)MIN(stats.capacity_bytes / STORE_SEGMENT,
									(uint64_t)BLOB_SEGMENTS - bs->nr_segments) };
		bs->nr_segments += bs->tiers[i].capacity;
	}
	bs->nr_tiers = nr;
	bs->segments = calloc(bs->nr_segments, sizeof(*bs->segments));
	if (!bs->segments ||
	    kept_open_since(&bs->entries_kept, "segments", bs->nr_segments * sizeof(struct segment_entry),
			    LAYOUT_SEGMENTS_OLDEST, LAYOUT_SEGMENTS))
		return false;
	bs->entries = bs->entries_kept.base;
	for (unsigned i = 0; i < nr; i++) {
		bs->tiers[i].daily = &((struct entries_own *)bs->entries_kept.own)->daily[i];
		if (!counted)
			tier_daily_load(&bs->tiers[i]);
	}
	return true;
}

/* The key of this boot: of an earlier worker, or a new one. */
static bool open_seal(struct blobstore *bs, const void *secret, size_t len)
{
	struct entries_own *own = bs->entries_kept.own;

	if (bs->nr_tiers == 1)
		return true;
	if (!own->serial && seal_key_make(&own->key, secret, len))
		return false;
	bs->key = own->key;
	bs->seal = seal_new(&bs->key);
	return bs->seal && lookups_init(bs) && mover_init(bs) && share_init(bs, secret, len);
}

/* It is held for less than going to sleep and waking up takes: packers that
   meet at it try for a moment first. */
static void lock_init(pthread_mutex_t *lock)
{
	pthread_mutexattr_t attr;

	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ADAPTIVE_NP);
	pthread_mutex_init(lock, &attr);
	pthread_mutexattr_destroy(&attr);
}

struct blobstore *blobstore_new_tiers(struct store *const *stores, unsigned nr, uint32_t max_blobs,
				      const void *secret, size_t secret_len)
{
	struct blobstore *bs = calloc(1, sizeof(*bs));

	assert(nr >= 1 && nr <= TIERS_MAX);
	if (!bs)
		return NULL;
	bs->entries_kept = KEPT_NONE;
	lock_init(&bs->lock);
	pthread_mutex_init(&bs->seal_lock, NULL);
	pthread_mutex_init(&bs->carry, NULL);
	pthread_mutex_init(&bs->house, NULL);
	room_init(bs);
	bs->cold.number = -1;
	blobstore_tick(bs);
	bs->blobs = blob_table_new(MIN(max_blobs, BLOB_ID_MAX));
	bs->dicts = dict_table_new(DICT_LEVEL);
	if (!bs->blobs || !bs->dicts || !open_tiers(bs, stores, nr) || !open_seal(bs, secret, secret_len))
		return blobstore_free(bs);
	return bs;
}

struct blobstore *blobstore_new(struct store *store, uint32_t max_blobs)
{
	return blobstore_new_tiers(&store, 1, max_blobs, NULL, 0);
}

/* Domains are left alone: they may be gone already. */
struct blobstore *blobstore_free(struct blobstore *bs)
{
	if (!bs)
		return NULL;
	outgoing_deinit(bs); /* while their segments are there */
	for (unsigned i = 0; i < bs->nr_tiers; i++)
		tier_daily_save(&bs->tiers[i]);
	lookups_deinit(bs);
	for (uint32_t i = 0; i < bs->top_segment; i++) {
		uint64_t place = bs->segments[i].place;

		if (place)
			store_segment_free(bs->tiers[place_tier(place)].store, place_carrier(place));
	}
	blob_table_free(bs->blobs);
	share_deinit(bs);
	mover_deinit(bs);
	cold_deinit(bs);
	cluster_deinit(bs);
	dict_table_free(bs->dicts);
	seal_free(bs->seal);
	explicit_bzero(&bs->key, sizeof(bs->key));
	kept_close(&bs->entries_kept);
	pthread_mutex_destroy(&bs->lock);
	pthread_mutex_destroy(&bs->seal_lock);
	pthread_mutex_destroy(&bs->carry);
	pthread_mutex_destroy(&bs->house);
	room_deinit(bs);
	free(bs->segments);
	free(bs->tenants);
	free(bs);
	return NULL;
}

uint64_t blobstore_next_serial(struct blobstore *bs)
{
	struct entries_own *own = bs->entries_kept.own;

	return ++own->serial; /* in kept memory before it is used: never twice */
}

void blobstore_tick(struct blobstore *bs)
{
	atomic_store_explicit(&bs->clock, (uint32_t)(now_ns() >> CLOCK_SHIFT), memory_order_relaxed);
}

void blobstore_set_move_down(struct blobstore *bs, uint64_t ns)
{
	atomic_store_explicit(&bs->move_down_ns, ns, memory_order_relaxed);
}

/* ---- get ---- */

struct segment *segment_pin(struct blobstore *bs, blob_id id, uint64_t *loc)
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
			break;
		atomic_fetch_sub(&seg->readers, 1);
	}
	if (bs->nr_tiers > 1)
		segment_touch(bs, seg);
	return seg;
}

void segment_unpin(struct segment *seg)
{
	atomic_fetch_sub(&seg->readers, 1);
}

/* By those who may wait: packers, housekeeping. */
static int read_slow(struct blobstore *bs, struct codec *codec, uint64_t place, blob_id id, uint64_t loc,
		     void *page)
{
	const struct segment *seg = &bs->segments[blob_loc_segment(loc)];
	unsigned char bytes[BLOB_LEN_MAX + SEAL_TAG];
	int r = store_read(bs->tiers[place_tier(place)].store, place_carrier(place), blob_loc_offset(loc),
			   bytes, blob_loc_len(loc) + SEAL_TAG);

	if (r)
		return r;
	pthread_mutex_lock(&bs->seal_lock);
	r = blobstore_unseal(bs, bs->seal, codec, seg, id, loc, bytes, page);
	pthread_mutex_unlock(&bs->seal_lock);
	return r;
}

int read_page(struct blobstore *bs, struct codec *codec, blob_id id, uint64_t loc, void *page)
{
	unsigned char buf[BLOB_LEN_MAX];
	uint64_t place = atomic_load(&bs->segments[blob_loc_segment(loc)].place);
	uint32_t len = blob_loc_len(loc);
	const void *frame;
	int r;

	if (place_tier(place))
		return read_slow(bs, codec, place, id, loc, page);
	if (blob_loc_kind(loc) == BLOB_PART)
		return cluster_read(bs, codec, loc, page);
	frame = segment_bytes(bs, blob_loc_segment(loc), blob_loc_offset(loc), len, buf, &r);
	return frame ? decode(bs, codec, id, loc, frame, page) : r;
}

int blobstore_check(struct blobstore *bs, blob_id id, const struct segment *seg, const void *page, int r)
{
	struct tier *t = &bs->tiers[seg->tier];

	if (!r && page_hash(page, seg->seed) != blob_hash(bs->blobs, id))
		r = -EBADMSG;
	if (is_damage(r))
		health_corrupt(bs, t, 1);
	if (r == -EBADMSG) {
		return r; /* the medium has answered */
	} else if (!r) {
		if (atomic_load_explicit(&t->read_error_ns, memory_order_relaxed))
			atomic_store_explicit(&t->read_error_ns, 0, memory_order_relaxed);
	} else if (r != -ECANCELED) {
		atomic_store_explicit(&t->read_error, r, memory_order_relaxed);
		atomic_store_explicit(&t->read_error_ns, now_ns(), memory_order_relaxed);
	}
	return r;
}

int blobstore_get(struct blobstore *bs, struct codec *codec, blob_id id, void *page)
{
	uint64_t loc;
	struct segment *seg = segment_pin(bs, id, &loc);
	int r = read_page(bs, codec, id, loc, page);

	r = blobstore_check(bs, id, seg, page, r);
	segment_unpin(seg);
	return r;
}

/* Pinned by where it is now: what is not slow then can't become so under us. */
int blobstore_get_now(struct blobstore *bs, struct codec *codec, blob_id id, void *page)
{
	_Alignas(64) unsigned char base[PAGE_BYTES];
	blob_id from = decode_from(bs, id);
	uint64_t loc;
	struct segment *seg = segment_pin(bs, from, &loc);
	int r = -EAGAIN;

	if (!place_tier(atomic_load(&seg->place))) {
		r = read_page(bs, codec, from, loc, from == id ? page : base);
		if (!r && from != id)
			r = decode_delta(bs, codec, id, base, page);
		r = blobstore_check(bs, id, seg, page, r);
	}
	segment_unpin(seg);
	return r;
}

size_t blobstore_bytes(const struct blobstore *bs, blob_id id)
{
	return record_size(blob_loc(bs->blobs, id));
}

bool blobstore_is_shared(const struct blobstore *bs, blob_id id)
{
	return blob_refs(bs->blobs, id) > 1;
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

#define RECENT 64

/* By who holds the lock. */
static void note_size(struct blobstore *bs, uint32_t size)
{
	uint64_t sizes = atomic_load_explicit(&bs->recent_sizes, memory_order_relaxed);

	atomic_store_explicit(&bs->recent_sizes, sizes - sizes / RECENT + size, memory_order_relaxed);
}

uint64_t blobstore_expect(struct blobstore *bs, uint64_t pages)
{
	uint64_t bytes = pages * (atomic_load_explicit(&bs->recent_sizes, memory_order_relaxed) / RECENT);

	store_expect(bs->tiers[0].store, bytes);
	return bytes;
}

static enum blobstore_result add_locked(struct blobstore *bs, struct domain *domain, uint64_t hash,
					unsigned char *buf, const struct encoded *e, blob_id *id)
{
	struct record record = record_make(0, e->kind, e->len);
	enum stream stream = e->kind == BLOB_DELTA ? STREAM_DELTA :
			     e->kind == BLOB_RAW   ? STREAM_RAW :
						     STREAM_NEW;
	uint64_t loc;
	int r;

	record.id = blob_new(bs->blobs);
	if (!record.id)
		return BLOBSTORE_FULL;
	memcpy(buf, &record, sizeof(record));
	encode_name(buf + sizeof(record), e, record.id);
	r = segment_append(bs, domain, stream, buf, (uint32_t)sizeof(record) + e->len, false, &loc);
	if (r) {
		blob_free(bs->blobs, record.id);
		return r == -ENOSPC ? BLOBSTORE_FULL : BLOBSTORE_ERROR;
	}
	note_size(bs, (uint32_t)sizeof(record) + e->len);
	inject(INJECT_PUT_WRITTEN);
	blob_publish(bs->blobs, record.id, hash, loc);
	*id = record.id;
	return BLOBSTORE_STORED;
}

/* Packers may wait, a little. */
static enum blobstore_result add(struct blobstore *bs, const struct blobstore_source *from, uint64_t hash,
				 unsigned char *buf, struct encoded *e, blob_id *id)
{
	enum blobstore_result result;

	for (unsigned tries = 0;; tries++) {
		pthread_mutex_lock(&bs->lock);
		result = add_locked(bs, from->domain, hash, buf, e, id);
		if (result == BLOBSTORE_STORED)
			encode_done(bs, from, e, *id);
		pthread_mutex_unlock(&bs->lock);
		if (result != BLOBSTORE_FULL || bs->nr_tiers == 1 || tries == 2 || !room_make(bs))
			return result;
	}
}

/* A page that none is equal to. */
enum blobstore_result put_new(struct blobstore *bs, struct codec *codec,
				     const struct blobstore_source *from, uint64_t hash,
				     const void *page, blob_id *id)
{
	enum blobstore_result result = BLOBSTORE_INCOMPRESSIBLE;
	struct encoded e = { .kind = BLOB_RAW };
	unsigned char buf[RECORD_MAX], *frame = buf + sizeof(struct record);
	uint32_t bytes;

	if ((!page_looks_random(page) && encode(bs, codec, from, hash, page, frame, &e)) ||
	    encode_raw(bs, from->domain, page, frame, &e)) {
		bytes = (uint32_t)sizeof(struct record) + e.len;
		/* Charged before it is there: the sum never lags behind (INV-8). */
		result = domain_charge(from->domain, bytes) ? BLOBSTORE_STORED : BLOBSTORE_QUOTA;
	}
	if (result == BLOBSTORE_STORED) {
		result = add(bs, from, hash, buf, &e, id);
		if (result == BLOBSTORE_STORED)
			return result;
		domain_uncharge(from->domain, bytes);
		if (e.kind == BLOB_RAW && result == BLOBSTORE_FULL)
			result = BLOBSTORE_INCOMPRESSIBLE; /* others may still find room */
	}
	pthread_mutex_lock(&bs->lock);
	encode_done(bs, from, &e, 0);
	pthread_mutex_unlock(&bs->lock);
	return result;
}

blob_id put_duplicate(struct blobstore *bs, struct codec *codec, const struct blobstore_source *from,
		      uint64_t hash, const void *page)
{
	blob_id id = find_equal(bs, codec, from->domain, hash, page);

	atomic_fetch_add_explicit(id ? &bs->duplicates : &bs->misses, 1, memory_order_relaxed);
	if (id)
		family_duplicate(bs, from, id);
	return id;
}

enum blobstore_result blobstore_put_from(struct blobstore *bs, struct codec *codec,
					 const struct blobstore_source *from, const void *page,
					 blob_id *id)
{
	uint64_t hash = page_hash(page, from->domain->seed);

	*id = put_duplicate(bs, codec, from, hash, page);
	if (*id)
		return BLOBSTORE_DUPLICATE;
	return put_new(bs, codec, from, hash, page, id);
}

enum blobstore_result blobstore_put(struct blobstore *bs, struct codec *codec,
				    struct domain *domain, const void *page, blob_id *id)
{
	const struct blobstore_source from = { .domain = domain };

	return blobstore_put_from(bs, codec, &from, page, id);
}

static void add_tier_stats(struct blobstore *bs, struct blobstore_stats *stats)
{
	stats->nr_tiers = bs->nr_tiers;
	for (unsigned i = 0; i < bs->nr_tiers; i++) {
		struct blobstore_tier *t = &stats->tier[i];
		struct tier *tier = &bs->tiers[i];

		*t = (struct blobstore_tier){ .name = store_name(tier->store),
					      .live_bytes = tier->live,
					      .dead_bytes = tier->held - tier->live,
					      .moved_in_bytes_total = tier->in_bytes,
					      .collected_bytes_total = tier->gc_bytes,
					      .corrupt_total = tier->corrupt,
					      .borrowed_bytes = tier->borrowed,
					      .borrowed_pages_total = tier->borrowed_pages,
					      .lookups_total = tier->lookups,
					      .lookup_misses_total = tier->lookup_misses,
					      .daily_left_bytes = tier_daily_left(tier, now_ns()) };
		health_describe(tier, t);
		store_get_stats(tier->store, &t->store);
		store_get_status(tier->store, &t->status);
		stats->live_bytes += t->live_bytes;
		stats->dead_bytes += t->dead_bytes;
	}
	stats->store = stats->tier[0].store;
}

void blobstore_get_stats(struct blobstore *bs, struct blobstore_stats *stats)
{
	*stats = (struct blobstore_stats){
		.duplicate_total = atomic_load_explicit(&bs->duplicates, memory_order_relaxed),
		.duplicate_missed_total = bs->misses,
		.duplicate_passed_total = bs->passed_over,
		.collect_ns_total = bs->collect_ns,
		.recompress_ns_total = bs->recompress_ns,
		.corrupt_total = atomic_load_explicit(&bs->corrupt, memory_order_relaxed),
	};
	pthread_mutex_lock(&bs->lock);
	stats->blobs = blob_count(bs->blobs);
	stats->metadata_bytes = blob_table_bytes(bs->blobs) +
				bs->top_segment * (sizeof(struct segment) + sizeof(struct segment_entry)) +
				bs->nr_tenants * sizeof(struct tenant);
	stats->metadata_bytes += dict_table_bytes(bs->dicts) + bs->base_bytes;
	stats->dicts = dict_count(bs->dicts);
	stats->encodings = bs->encodings;
	stats->compacted_bytes_total = bs->compacted_bytes;
	stats->raw_bytes = bs->raw_bytes[1];
	stats->promoted_bytes_total = bs->promoted_bytes;
	add_tier_stats(bs, stats);
	pthread_mutex_unlock(&bs->lock);
}
