/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Pages in slow tiers: read without waiting, then made whole again. */
#include <errno.h>
#include <string.h>

#include "flow/blobstore_private.h"
#include "page/sealed.h"

_Static_assert(BLOBSTORE_FETCH_ROOM >= STORE_READ_ROOM(BLOB_LEN_MAX + SEAL_TAG), "the largest frame");

int blobstore_open(struct seal *seal, const struct segment *seg, uint64_t loc, const void *bytes, void *frame)
{
	int r = seal_open_with(seal, seg->key);

	return r ? r : sealed_read_frame(seal, seg->serial, blob_loc_offset(loc), bytes, blob_loc_len(loc), frame);
}

int blobstore_unseal(struct blobstore *bs, struct seal *seal, struct codec *codec, const struct segment *seg,
		     blob_id id, uint64_t loc, const void *bytes, void *page)
{
	unsigned char frame[BLOB_LEN_MAX];
	int r = blobstore_open(seal, seg, loc, bytes, frame);

	return r ? r : decode(bs, codec, id, loc, frame, page);
}

bool blobstore_has_slow(const struct blobstore *bs)
{
	return bs->nr_tiers > 1;
}

struct seal *blobstore_seal_new(const struct blobstore *bs)
{
	return seal_new(&bs->key);
}

bool blobstore_is_slow(struct blobstore *bs, blob_id id)
{
	uint64_t loc;

	if (bs->nr_tiers == 1)
		return false;
	loc = blob_loc(bs->blobs, decode_from(bs, id));
	return place_tier(atomic_load(&bs->segments[blob_loc_segment(loc)].place)) > 0;
}

/* All but the read. Its store; NULL: it is not slow. */
static struct store *prepare(struct blobstore *bs, struct blobstore_fetch *fetch, blob_id id)
{
	blob_id from = decode_from(bs, id);
	struct segment *seg = segment_pin(bs, from, &fetch->loc);
	uint64_t place = atomic_load(&seg->place);

	if (!place_tier(place)) {
		segment_unpin(seg);
		return NULL;
	}
	fetch->id = id;
	fetch->from = from;
	fetch->segment = seg;
	fetch->read.segment = place_carrier(place);
	fetch->read.offset = blob_loc_offset(fetch->loc);
	fetch->read.len = blob_loc_len(fetch->loc) + SEAL_TAG;
	return bs->tiers[place_tier(place)].store;
}

bool blobstore_fetch_start(struct blobstore *bs, struct blobstore_fetch *fetch, blob_id id)
{
	struct store *store = prepare(bs, fetch, id);

	if (store)
		store_read_submit(store, &fetch->read);
	return store;
}

/* What lies between is read for nothing: up to so many times what is wanted. */
#define WINDOW_SPREAD 4u

struct reach {
	uint32_t from, len, bytes;
};

/* With such a one in it too. False: it is not worth being read as one. */
static bool widen(const struct blobstore_window *w, const struct segment *seg, uint64_t loc, struct reach *to)
{
	uint32_t len = blob_loc_len(loc) + SEAL_TAG, from = blob_loc_offset(loc), end = from + len;

	if (w->segment) {
		from = MIN(from, w->read.offset);
		end = MAX(end, w->read.offset + w->read.len);
	}
	*to = (struct reach){ from, end - from, w->bytes + len };
	return (!w->segment || w->segment == seg) && to->len <= BLOBSTORE_WINDOW_BYTES &&
	       to->len <= to->bytes * WINDOW_SPREAD + STORE_BLOCK;
}

bool blobstore_window_fits(struct blobstore *bs, const struct blobstore_window *w, blob_id id)
{
	uint64_t loc = blob_loc(bs->blobs, decode_from(bs, id));
	struct reach to;

	return widen(w, &bs->segments[blob_loc_segment(loc)], loc, &to);
}

bool blobstore_window_add(struct blobstore *bs, struct blobstore_window *w, struct blobstore_fetch *fetch, blob_id id)
{
	struct store *store = prepare(bs, fetch, id);
	struct reach to;

	if (store && widen(w, fetch->segment, fetch->loc, &to)) {
		atomic_store_explicit(&fetch->segment->read_ahead, atomic_load_explicit(&bs->clock, memory_order_relaxed),
				      memory_order_relaxed);
		w->segment = fetch->segment;
		w->bytes = to.bytes;
		w->read.store = store;
		w->read.segment = fetch->read.segment;
		w->read.offset = to.from;
		w->read.len = to.len;
		return true;
	}
	if (store)
		blobstore_fetch_end(fetch);
	return false;
}

void blobstore_window_submit(struct blobstore *bs, struct blobstore_window *w)
{
	(void)bs;
	store_read_submit(w->read.store, &w->read);
}

void blobstore_window_submit_one(const struct blobstore_window *w, struct blobstore_fetch *fetch)
{
	store_read_submit(w->read.store, &fetch->read);
}

void blobstore_window_cancel(struct blobstore_window *w)
{
	store_read_cancel(w->read.store, &w->read);
}

void blobstore_window_take(const struct blobstore_window *w, struct blobstore_fetch *fetch)
{
	fetch->read.result = w->read.result;
	fetch->read.data = (const char *)w->read.data + (fetch->read.offset - w->read.offset);
}

int blobstore_fetch_page(struct blobstore *bs, struct blobstore_fetch *fetch, struct codec *codec,
			 struct seal *seal, void *page)
{
	_Alignas(64) unsigned char base[PAGE_BYTES];
	bool is_delta = fetch->from != fetch->id;
	int r = fetch->read.result;

	if (!r)
		r = blobstore_unseal(bs, seal, codec, fetch->segment, fetch->from, fetch->loc,
				     fetch->read.data, is_delta ? base : page);
	if (!r && is_delta)
		r = decode_delta(bs, codec, fetch->id, base, page);
	return blobstore_check(bs, fetch->id, fetch->segment, page, r);
}

void blobstore_fetch_end(struct blobstore_fetch *fetch)
{
	segment_unpin(fetch->segment);
	fetch->segment = NULL;
}

void blobstore_fetch_cancel(struct blobstore *bs, struct blobstore_fetch *fetch)
{
	(void)bs;
	store_read_cancel(fetch->read.store, &fetch->read);
}
