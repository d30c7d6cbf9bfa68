/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the mover takes from its victim into the next batch (blobstore_down.c): the
 * frames of what lives, from records in memory, from sealed batches, or, where the
 * segment is another host's, one by one.
 */
#include <errno.h>
#include <string.h>

#include "flow/blobstore_private.h"

#define IDS_PER_STEP 4096 /* and per hold of the lock */

static bool fits(struct mover *m, uint32_t len)
{
	uint32_t n = outgoing_next(m)->n + m->nr_names;

	return n < SEALED_RECORDS_MAX &&
	       sealed_size(n + 1, (uint64_t)m->bytes + m->nr_names * STORE_KEY + len) <= SEALED_BATCH;
}

/* Room for the frame of a blob, which the caller fills; NULL: the batch is
   full. */
static void *take_frame(struct blobstore *bs, blob_id id, uint64_t loc)
{
	struct mover *m = &bs->mover;
	struct outgoing *out = outgoing_next(m);
	uint32_t len = blob_loc_len(loc);
	unsigned char *at = m->raw + m->bytes;

	if (!fits(m, len))
		return NULL;
	out->frames[out->n] = (struct sealed_frame){ .hash = blob_hash(bs->blobs, id),
						 .id = id,
						 .kind = (uint16_t)blob_loc_kind(loc),
						 .len = (uint16_t)len,
						 .bytes = at };
	out->from[out->n++] = loc;
	m->bytes += len;
	return at;
}

static void untake_frame(struct mover *m)
{
	struct outgoing *out = outgoing_next(m);

	m->bytes -= out->frames[--out->n].len;
}

/* From the memory form. True: the segment's end. Under the lock. */
static bool gather_records(struct blobstore *bs)
{
	struct mover *m = &bs->mover;
	uint32_t victim = m->victim - 1, size;
	unsigned char buf[RECORD_MAX];
	struct record record;
	uint64_t loc;
	void *to;

	while (m->cursor < bs->segments[victim].fill) {
		size = record_read(bs, victim, m->cursor, &record, buf);
		if (!size)
			return true; /* damaged: it goes when its last blob does */
		loc = record_loc(&record, victim, m->cursor + (uint32_t)sizeof(record));
		if (record_is_live(bs, record.id, loc)) {
			to = take_frame(bs, record.id, loc);
			if (!to)
				return false;
			memcpy(to, buf + sizeof(record), record.len);
		}
		m->cursor += size;
	}
	return true;
}

/* The victim's next batch and its table. No lock: it is pinned, so it stays. */
static int read_batch(struct blobstore *bs)
{
	struct mover *m = &bs->mover;
	struct segment *seg = &bs->segments[m->victim - 1];
	struct store *store = bs->tiers[seg->tier].store;
	uint32_t carrier = place_carrier(seg->place), at = m->cursor * SEALED_BATCH;
	struct sealed_header header;
	int r = store_read(store, carrier, at, m->batch, SEALED_HEADER);

	m->record = m->nr_records = 0;
	if (!r)
		r = sealed_read_header(m->batch, SEALED_HEADER, &header);
	if (!r && (header.serial != seg->serial || header.batch != m->cursor))
		r = -EBADMSG;
	if (!r)
		r = store_read(store, carrier, at, m->batch, header.used);
	if (!r)
		r = sealed_read_header(m->batch, header.used, &header);
	if (!r)
		r = sealed_read_table(m->seal, seg->key, m->batch, &header, m->table);
	if (!r)
		m->nr_records = header.nr_records;
	return r;
}

/* From the sealed form, the batch that was read. True: its end. Under the
   lock. */
static bool gather_batch(struct blobstore *bs)
{
	struct mover *m = &bs->mover;
	struct segment *seg = &bs->segments[m->victim - 1];

	for (; m->record < m->nr_records; m->record++) {
		struct sealed_record record;
		uint32_t offset;
		uint64_t loc;
		void *to;

		sealed_get_record(m->table, m->record, &record);
		offset = m->cursor * SEALED_BATCH + record.offset;
		loc = blob_loc_make(record.kind, m->victim - 1, offset, record.len);
		if (!record_is_live(bs, record.id, loc))
			continue;
		to = take_frame(bs, record.id, loc);
		if (!to)
			return false;
		if (blobstore_open(m->seal, seg, loc, m->batch + record.offset, to)) {
			untake_frame(m); /* whoever touches it gets to know (INV-7) */
			health_corrupt(bs, tier_of(bs, seg), 1);
		}
	}
	return true;
}

/* Where a blob lives in the victim; 0: it doesn't. Under the lock. */
static uint64_t loc_in_victim(const struct blobstore *bs, uint32_t id)
{
	uint64_t loc = blob_loc_of_any(bs->blobs, id);

	return loc && blob_loc_segment(loc) == bs->mover.victim - 1 && !blob_is_dead(bs->blobs, id) ? loc : 0;
}

/* The batch at the cursor can't be read, for r. If it never can, what lives in it is lost:
   whoever touches it gets to know (INV-7). */
static void note_unread(struct blobstore *bs, int r)
{
	uint32_t id = 1, top;
	uint64_t n = 0;

	if (!is_damage(r)) {
		bs->mover.unread = true;
		return;
	}
	do {
		pthread_mutex_lock(&bs->lock);
		top = blob_table_top(bs->blobs);
		for (uint32_t end = MIN(top, id + IDS_PER_STEP); id < end; id++) {
			uint64_t loc = loc_in_victim(bs, id);

			n += loc && blob_loc_offset(loc) / SEALED_BATCH == bs->mover.cursor;
		}
		pthread_mutex_unlock(&bs->lock);
	} while (id < top);
	health_corrupt(bs, tier_of(bs, &bs->segments[bs->mover.victim - 1]), n);
}

/* True: all of the victim was looked at. */
static bool gather_sealed(struct blobstore *bs)
{
	struct mover *m = &bs->mover;
	struct segment *seg = &bs->segments[m->victim - 1];
	bool ended;

	while (m->cursor < seg->batches) {
		int r = m->nr_records ? 0 : read_batch(bs);

		if (r)
			note_unread(bs, r);
		pthread_mutex_lock(&bs->lock);
		ended = gather_batch(bs);
		pthread_mutex_unlock(&bs->lock);
		if (!ended)
			return false;
		m->nr_records = 0;
		m->cursor++;
	}
	return true;
}

int mover_read_frame(struct blobstore *bs, const struct segment *seg, uint64_t loc, void *frame)
{
	unsigned char bytes[BLOB_LEN_MAX + SEAL_TAG];
	int r = store_read(bs->tiers[seg->tier].store, place_carrier(seg->place), blob_loc_offset(loc), bytes,
			   blob_loc_len(loc) + SEAL_TAG);

	return r ? r : blobstore_open(bs->mover.seal, seg, loc, bytes, frame);
}

/* The next of our blobs in a borrowed segment, whose records know them by other
   numbers. 0: none. */
static uint64_t next_borrowed(struct blobstore *bs, void **to)
{
	struct mover *m = &bs->mover;
	uint64_t found = 0;
	uint32_t top;

	pthread_mutex_lock(&bs->lock);
	top = blob_table_top(bs->blobs);
	for (; m->cursor < top && !found; m->cursor++) {
		found = loc_in_victim(bs, m->cursor);
		if (!found)
			continue;
		*to = take_frame(bs, m->cursor, found);
		if (!*to)
			break;
	}
	pthread_mutex_unlock(&bs->lock);
	return found;
}

static bool gather_borrowed(struct blobstore *bs)
{
	struct mover *m = &bs->mover;
	uint64_t loc;
	void *to;

	m->cursor = MAX(m->cursor, 1u);
	while ((loc = next_borrowed(bs, &to))) {
		const struct segment *seg = &bs->segments[m->victim - 1];
		int r;

		if (!to)
			return false;
		r = mover_read_frame(bs, seg, loc, to);
		if (r) {
			untake_frame(m); /* whoever touches it gets to know (INV-7) */
			health_corrupt(bs, tier_of(bs, seg), is_damage(r));
			m->unread |= !is_damage(r);
		}
	}
	return true;
}

bool mover_gather(struct blobstore *bs)
{
	const struct segment *seg = &bs->segments[bs->mover.victim - 1];
	bool ended = true;

	pthread_mutex_lock(&bs->lock);
	if (seg->state == SEGMENT_SEALED && !seg->tier)
		ended = gather_records(bs);
	else if (seg->state == SEGMENT_SEALED)
		ended = false;
	pthread_mutex_unlock(&bs->lock);
	if (ended || !seg->tier) /* all of it has died meanwhile, or it has been looked at */
		return ended;
	return seg->borrowed ? gather_borrowed(bs) : gather_sealed(bs);
}
