/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What has lain in the first tier for long is compressed again, harder, while
 * there is nothing else to do: whole segments, their records one after another
 * into the domain's segment of cold ones. A page that gains nothing moves as it
 * is, so that the old segment goes. Differences are small and stay.
 *
 * A blob keeps its id, and reading one takes no longer than before: the same
 * dictionary, other matches. Under the house lock, since it moves blobs.
 */
#include "flow/blobstore_private.h"

#include <string.h>

#define COLD_LEVEL 9
#define RECORDS_PER_SLICE 16 /* some 1.5 ms */
/* Segments with less are left to compaction. */
#define LIVE_MIN ((uint32_t)64 << 10)

void blobstore_set_recompress(struct blobstore *bs, uint64_t ns)
{
	atomic_store_explicit(&bs->cold.age_ns, ns, memory_order_relaxed);
}

/* ---- under the lock ---- */

static bool is_due(const struct blobstore *bs, const struct segment *seg, uint32_t ticks)
{
	uint32_t clock = atomic_load_explicit(&bs->clock, memory_order_relaxed);

	return (seg->state == SEGMENT_SEALED || seg->state == SEGMENT_OPEN) && !seg->tier &&
	       seg->stream == STREAM_NEW && seg->live >= LIVE_MIN && !seg->walked && !seg->moving &&
	       !seg->cold && bs->victim != (uint32_t)(seg - bs->segments) + 1 &&
	       clock - atomic_load_explicit(&seg->used, memory_order_relaxed) >= ticks;
}

/* Room for the new before the old one goes. */
static bool has_room(const struct blobstore *bs)
{
	return bs->tiers[0].used_segments + 2 < bs->tiers[0].capacity;
}

static bool pick(struct blobstore *bs)
{
	uint64_t age = atomic_load_explicit(&bs->cold.age_ns, memory_order_relaxed);

	if (!age || !has_room(bs))
		return false;
	for (uint32_t i = 0; i < bs->top_segment; i++) {
		struct segment *seg = &bs->segments[i];

		if (!is_due(bs, seg, (uint32_t)MIN(age >> CLOCK_SHIFT, (uint64_t)INT32_MAX)))
			continue;
		if (seg->state == SEGMENT_OPEN)
			segment_seal(bs, i);
		seg->cold = true; /* once, whatever comes of it */
		bs->cold.victim = i + 1;
		bs->cold.cursor = 0;
		return true;
	}
	return false;
}

static void forget_dict(struct blobstore *bs)
{
	struct cold *cold = &bs->cold;

	if (cold->number >= 0)
		dict_unuse(bs->dicts, (unsigned)cold->number);
	dict_harder_free(&cold->dict);
	cold->number = -1;
}

/* The dictionary of the last record that had one, or of a family of the domain.
   A use of it is held as long as it is remembered. False, for lack of memory: the record
   needs one that nobody holds, so it can't be read without the lock. */
static bool choose_dict(struct blobstore *bs, unsigned kind)
{
	struct cold *cold = &bs->cold;
	uint32_t tenant = bs->segments[cold->victim - 1].tenant;
	int number = kind >= BLOB_DICT ? (int)(kind - BLOB_DICT) : cold->number;

	if (number < 0)
		number = family_any_dict(bs, tenant);
	if (number < 0 || number == cold->number)
		return true;
	forget_dict(bs);
	if (!dict_harder(bs->dicts, (unsigned)number, COLD_LEVEL, &cold->dict))
		return kind < BLOB_DICT;
	dict_use(bs->dicts, (unsigned)number);
	cold->number = number;
	return true;
}

/* The next live record, header and frame, in buf; 0: none is left. */
static uint64_t next_record(struct blobstore *bs, struct record *record, unsigned char *buf)
{
	struct cold *cold = &bs->cold;
	uint32_t victim = cold->victim - 1;
	const struct segment *seg = &bs->segments[victim];

	/* It may have been emptied, given back, and used anew, since the last slice. */
	while (seg->cold && seg->state == SEGMENT_SEALED && cold->cursor < seg->fill) {
		uint32_t size = record_read(bs, victim, cold->cursor, record, buf);
		uint64_t loc;

		if (!size)
			return 0; /* damaged */
		loc = record_loc(record, victim, cold->cursor + (uint32_t)sizeof(*record));
		cold->cursor += size;
		if (record_is_live(bs, record->id, loc))
			return choose_dict(bs, blob_loc_kind(loc)) ? loc : 0;
	}
	return 0;
}

static bool move(struct blobstore *bs, uint64_t loc, const struct record *record, unsigned char *buf)
{
	struct domain *domain = bs->tenants[bs->segments[blob_loc_segment(loc)].tenant].domain;
	uint32_t size = (uint32_t)sizeof(*record) + record->len, before = record_size(loc);
	uint64_t new_loc;

	memcpy(buf, record, sizeof(*record));
	if (segment_append(bs, domain, STREAM_COLD, buf, size, false, &new_loc))
		return false;
	blob_move(bs->blobs, record->id, new_loc);
	segment_drop(bs, loc);
	domain_uncharge(domain, before - size);
	bs->encodings.cold_pages += size < before;
	bs->encodings.cold_saved_bytes += before - size;
	bs->tiers[0].gc_bytes += size;
	return true;
}

/* ---- */

/* The record with a frame made harder, if that is shorter. */
static void recompress(struct blobstore *bs, uint64_t loc, struct record *record, unsigned char *buf)
{
	unsigned char page[PAGE_BYTES], frame[BLOBSTORE_FRAME_MAX];
	struct cold *cold = &bs->cold;
	unsigned kind = cold->number < 0 ? BLOB_ZSTD : BLOB_DICT + (unsigned)cold->number;
	size_t len, cap;

	if (decode(bs, cold->codec, record->id, loc, buf + sizeof(*record), page))
		return; /* whoever touches it gets to know (INV-7) */
	cap = MIN((size_t)record->len, sizeof(frame));
	len = cold->number < 0 ? codec_compress(cold->codec, frame, cap, page) :
				 codec_compress_dict(cold->codec, &cold->dict, frame, cap, page);
	if (!len || len >= record->len)
		return;
	*record = record_make(record->id, kind, (uint32_t)len);
	memcpy(buf + sizeof(*record), frame, len);
}

/* False: this victim is done, or there is no room for it. */
static bool recompress_next(struct blobstore *bs)
{
	unsigned char buf[RECORD_MAX];
	struct record record;
	bool moved = true;
	uint64_t loc;

	pthread_mutex_lock(&bs->lock);
	loc = next_record(bs, &record, buf);
	pthread_mutex_unlock(&bs->lock);
	if (!loc)
		return false;
	recompress(bs, loc, &record, buf);
	pthread_mutex_lock(&bs->lock);
	if (record_is_live(bs, record.id, loc))
		moved = move(bs, loc, &record, buf);
	pthread_mutex_unlock(&bs->lock);
	return moved;
}

static bool slice(struct blobstore *bs)
{
	struct cold *cold = &bs->cold;

	if (!cold->codec)
		cold->codec = codec_new(COLD_LEVEL);
	if (!cold->codec)
		return false;
	pthread_mutex_lock(&bs->lock);
	if (!cold->victim && !pick(bs))
		forget_dict(bs);
	pthread_mutex_unlock(&bs->lock);
	for (unsigned i = 0; cold->victim && i < RECORDS_PER_SLICE; i++)
		if (!recompress_next(bs))
			cold->victim = 0;
	return cold->victim || cold->number >= 0;
}

bool blobstore_recompress(struct blobstore *bs)
{
	uint64_t start;
	bool more;

	if (!atomic_load_explicit(&bs->cold.age_ns, memory_order_relaxed))
		return false;
	if (pthread_mutex_trylock(&bs->house)) /* it can wait, a packer can't */
		return false;
	start = thread_ns();
	blobstore_tick(bs);
	more = slice(bs);
	more |= segment_free_empty(bs, 1);
	pthread_mutex_unlock(&bs->house);
	atomic_fetch_add_explicit(&bs->recompress_ns, thread_ns() - start, memory_order_relaxed);
	return more;
}

void cold_deinit(struct blobstore *bs)
{
	dict_harder_free(&bs->cold.dict);
	codec_free(bs->cold.codec);
}
