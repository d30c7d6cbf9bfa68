/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How a page becomes a frame: as the difference to another page, with a
   dictionary, or by itself. And back. */
#include <errno.h>
#include <string.h>

#include "flow/blobstore_private.h"

/* A difference must be worth the second page that a fault has to decompress. */
#define DELTA_FRAME_MAX 1024
/* One page of so many is compressed without the dictionary too, to see what it
   gains. */
#define PROBE_EVERY 64

/* ---- differences ---- */

/* Each bit of either number changes it. */
static uint32_t delta_check(blob_id base, blob_id id)
{
	uint32_t x = base * 0x9e3779b1u ^ (id * 0x85ebca6bu + 0x7f4a7c15u);

	return x ^ x >> 16;
}

blob_id delta_base(const void *frame, uint32_t len, blob_id id)
{
	struct delta delta;

	if (len <= sizeof(delta))
		return 0;
	memcpy(&delta, frame, sizeof(delta));
	return delta.base != id && delta.check == delta_check(delta.base, id) ? delta.base : 0;
}

void encode_name(unsigned char *buf, const struct encoded *e, blob_id id)
{
	struct delta delta = { .base = e->base, .check = delta_check(e->base, id) };

	if (e->kind == BLOB_DELTA)
		memcpy(buf, &delta, sizeof(delta));
}

/* One in a slow tier is none: neither this nor a later fault is to wait for it.
   The base's reference is the blob's if it comes to one, else it goes. */
static bool encode_delta(struct blobstore *bs, struct codec *codec, blob_id base, const void *page,
			 unsigned char *buf, struct encoded *e)
{
	_Alignas(64) unsigned char other[PAGE_BYTES];
	size_t len = 0;

	if (!blobstore_get_now(bs, codec, base, other) && codec_can_be_base(other))
		len = codec_compress_delta(codec, other, buf + sizeof(struct delta), DELTA_FRAME_MAX,
					   page);
	if (!len) {
		blob_unref(bs->blobs, base);
		return false;
	}
	e->kind = BLOB_DELTA;
	e->base = base;
	e->len = (uint32_t)(sizeof(struct delta) + len);
	return true;
}

/* ---- */

static void encode_alone(struct blobstore *bs, struct codec *codec, uint64_t hash, const void *page,
			 unsigned char *buf, struct encoded *e)
{
	unsigned char other[BLOBSTORE_FRAME_MAX];

	if (!e->with_dict) {
		e->kind = BLOB_ZSTD;
		e->len = (uint32_t)codec_compress(codec, buf, BLOBSTORE_FRAME_MAX, page);
		return;
	}
	e->kind = BLOB_DICT + e->dict;
	e->len = (uint32_t)codec_compress_dict(codec, dict_at(bs->dicts, e->dict), buf,
					       BLOBSTORE_FRAME_MAX, page);
	if (hash % PROBE_EVERY == 0)
		e->plain = (uint32_t)codec_compress(codec, other, sizeof(other), page);
}

bool encode(struct blobstore *bs, struct codec *codec, const struct blobstore_source *from,
	    uint64_t hash, const void *page, unsigned char *buf, struct encoded *e)
{
	blob_id base = 0;
	int dict = -1;

	*e = (struct encoded){ .kind = BLOB_ZSTD };
	if (from->family) {
		pthread_mutex_lock(&bs->lock);
		base = family_base(bs, from);
		dict = family_dict(bs, from->family, codec_in_hurry(codec));
		pthread_mutex_unlock(&bs->lock);
	}
	e->with_dict = dict >= 0;
	e->dict = e->with_dict ? (uint32_t)dict : 0;
	if (!base || !encode_delta(bs, codec, base, page, buf, e))
		encode_alone(bs, codec, hash, page, buf, e);
	return e->len > 0;
}

/* What may wait in the first tier: an eighth of it, a segment at least. */
#define RAW_SHARE 8

bool encode_raw(struct blobstore *bs, const struct domain *domain, const void *page, unsigned char *buf,
		struct encoded *e)
{
	uint64_t most = MAX(bs->tiers[0].capacity / RAW_SHARE, 1u) * (uint64_t)STORE_SEGMENT;
	bool can;

	if (bs->nr_tiers == 1) /* as dear as where it is */
		return false;
	pthread_mutex_lock(&bs->lock);
	can = bs->raw_bytes[0] + RECORD_MAX <= most && !segment_tenant(bs, domain) &&
	      mover_has_way_down(bs, domain->index);
	pthread_mutex_unlock(&bs->lock);
	if (!can)
		return false;
	e->kind = BLOB_RAW;
	e->len = PAGE_BYTES;
	memcpy(buf, page, PAGE_BYTES);
	return true;
}

void encode_done(struct blobstore *bs, const struct blobstore_source *from, struct encoded *e,
		 blob_id id)
{
	struct blobstore_encodings *sum = &bs->encodings;

	if (e->with_dict)
		dict_pack_end(bs->dicts, e->dict);
	if (!id) {
		if (e->base)
			blob_unref(bs->blobs, e->base);
		return;
	}
	if (e->kind == BLOB_RAW) {
		sum->raw_pages++;
		return;
	}
	if (e->kind == BLOB_DELTA) {
		sum->delta_pages++;
		sum->delta_bytes += e->len;
		return;
	}
	if (e->with_dict) {
		sum->dict_pages++;
		sum->dict_bytes += e->len;
	} else {
		sum->plain_pages++;
		sum->plain_bytes += e->len;
	}
	if (e->plain)
		sum->dict_saved_bytes += ((int64_t)e->plain - e->len) * PROBE_EVERY;
	if (from->family)
		family_stored(bs, from, e, id);
}

/* ---- back ---- */

/* The frame of a difference lies in the first tier for good, so that this never
   waits. NULL: it is none, or can't be read. */
static const void *delta_frame(struct blobstore *bs, uint64_t loc, void *buf)
{
	int error;

	if (blob_loc_kind(loc) != BLOB_DELTA)
		return NULL;
	return segment_bytes(bs, blob_loc_segment(loc), blob_loc_offset(loc), blob_loc_len(loc), buf, &error);
}

blob_id decode_from(struct blobstore *bs, blob_id id)
{
	unsigned char buf[BLOB_LEN_MAX];
	const void *frame;
	struct segment *seg;
	blob_id base = 0;
	uint64_t loc;

	if (blob_loc_kind(blob_loc(bs->blobs, id)) != BLOB_DELTA) /* never becomes one */
		return id;
	seg = segment_pin(bs, id, &loc);
	frame = delta_frame(bs, loc, buf);
	if (frame)
		base = delta_base(frame, blob_loc_len(loc), id);
	segment_unpin(seg);
	return base ? base : id;
}

int decode_delta(struct blobstore *bs, struct codec *codec, blob_id id, const void *base, void *page)
{
	unsigned char buf[BLOB_LEN_MAX];
	uint64_t loc;
	struct segment *seg = segment_pin(bs, id, &loc);
	const char *frame = delta_frame(bs, loc, buf);
	int r = -EBADMSG;

	if (frame && blob_loc_len(loc) > sizeof(struct delta))
		r = codec_decompress_delta(codec, base, page, frame + sizeof(struct delta),
					   blob_loc_len(loc) - sizeof(struct delta));
	segment_unpin(seg);
	return r;
}

/* The blob's reference keeps its base; the base needs no check of its own, since
   the blob's covers what comes of both. */
static int decode_both(struct blobstore *bs, struct codec *codec, blob_id id, const void *frame,
		       uint32_t len, void *page)
{
	_Alignas(64) unsigned char other[PAGE_BYTES];
	blob_id base = delta_base(frame, len, id);
	struct segment *seg;
	uint64_t loc;
	int r;

	if (!base)
		return -EBADMSG;
	seg = segment_pin(bs, base, &loc);
	r = blob_loc_kind(loc) == BLOB_DELTA ? -EBADMSG : read_page(bs, codec, base, loc, other);
	segment_unpin(seg);
	return r ? r : codec_decompress_delta(codec, other, page, (const char *)frame + sizeof(struct delta),
					      len - sizeof(struct delta));
}

int decode(struct blobstore *bs, struct codec *codec, blob_id id, uint64_t loc, const void *frame,
	   void *page)
{
	unsigned kind = blob_loc_kind(loc);
	uint32_t len = blob_loc_len(loc);
	const struct dict *dict;

	if (kind == BLOB_ZSTD)
		return codec_decompress(codec, page, frame, len);
	if (kind == BLOB_RAW && len == PAGE_BYTES) {
		memcpy(page, frame, PAGE_BYTES);
		return 0;
	}
	if (kind == BLOB_DELTA)
		return decode_both(bs, codec, id, frame, len, page);
	if (kind < BLOB_DICT)
		return -EBADMSG;
	dict = dict_at(bs->dicts, kind - BLOB_DICT);
	return dict ? codec_decompress_dict(codec, dict, page, frame, len) : -EBADMSG;
}
