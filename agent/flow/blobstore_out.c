/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Batches on their way to slow tiers. Several may be, so that a store far away
 * is not waited for between them; they end in the order in which they began.
 *
 * What keeps it safe while one is on its way: its victim is pinned like by a
 * reader, so a location in it means the same blob until the end; the segment it
 * goes to has it pending, so that it can't be given back; and the blobs' own
 * locations change only when the batch is known to be there (blobstore_down.c).
 */
#include <errno.h>
#include <string.h>

#include "common/inject.h"
#include "flow/blobstore_private.h"

#define PAUSE_MIN_NS (NSEC_PER_SEC / 4)
#define PAUSE_MAX_NS (60 * NSEC_PER_SEC)

bool outgoing_init(struct blobstore *bs)
{
	struct mover *m = &bs->mover;

	m->nr_out = 1;
	for (unsigned i = 1; i < bs->nr_tiers; i++)
		if (store_caps(bs->tiers[i].store) & STORE_REMOTE)
			m->nr_out = OUTGOING_MAX;
	m->out = calloc(m->nr_out, sizeof(*m->out));
	for (uint32_t i = 0; m->out && i < m->nr_out; i++) {
		struct outgoing *out = &m->out[i];

		out->bytes = aligned_alloc(STORE_BLOCK, SEALED_BATCH);
		out->frames = calloc(SEALED_RECORDS_MAX, sizeof(*out->frames));
		out->from = calloc(SEALED_RECORDS_MAX, sizeof(*out->from));
		if (!out->bytes || !out->frames || !out->from)
			return false;
	}
	return m->out;
}

/* Those on their way are waited for, and nobody cares: everything goes. */
void outgoing_deinit(struct blobstore *bs)
{
	struct mover *m = &bs->mover;

	for (; m->used_out; m->used_out--, m->first_out = (m->first_out + 1) % m->nr_out) {
		struct outgoing *out = &m->out[m->first_out];

		if (out->n)
			(void)store_write_wait(bs->tiers[out->to].store, &out->write);
	}
	for (uint32_t i = 0; m->out && i < m->nr_out; i++) {
		free(m->out[i].bytes);
		free(m->out[i].frames);
		free(m->out[i].from);
	}
	free(m->out);
	m->out = NULL;
}

void outgoing_rest(struct blobstore *bs)
{
	struct mover *m = &bs->mover;

	for (uint32_t i = 0; m->out_touched && i < m->nr_out; i++)
		memory_give_back(m->out[i].bytes, SEALED_BATCH);
	m->out_touched = false;
}

void tier_note_write(struct tier *t, int r)
{
	t->write_error = r;
	if (!r) {
		t->retry_ns = t->pause_ns = 0;
		return;
	}
	t->pause_ns = t->pause_ns ? MIN(t->pause_ns * 2, PAUSE_MAX_NS) : PAUSE_MIN_NS;
	t->retry_ns = now_ns() + t->pause_ns;
}

/* ---- begin ---- */

/* A place in the domain's open segment of the tier, used up from now on whatever
   becomes of the write. Under the lock. */
static int take_place(struct blobstore *bs, struct outgoing *out)
{
	struct segment *victim = &bs->segments[out->victim], *seg;
	struct domain *domain = bs->tenants[victim->tenant].domain;
	unsigned stream = STREAM_TIER + out->to;
	uint32_t *open;
	int r;

	if (!domain || domain->seed != victim->seed) { /* all has died meanwhile, the domain too */
		out->n = 0;
		return 0;
	}
	open = &bs->tenants[domain->index].open[stream];
	r = *open ? 0 : segment_open(bs, domain, stream, out->collecting);
	if (r)
		return r;
	out->segment = *open - 1;
	seg = &bs->segments[out->segment];
	out->batch = seg->batches++;
	bs->entries[out->segment].batches = out->batch + 1;
	seg->pending++;
	if (out->batch + 1 == SEALED_BATCHES)
		segment_seal(bs, out->segment);
	return 0;
}

static int seal_batch(struct blobstore *bs, struct outgoing *out)
{
	const struct segment *seg = &bs->segments[out->segment];
	struct sealed_header header = { .batch = out->batch,
					.domain = bs->entries[out->segment].uid,
					.serial = seg->serial };
	int r = sealed_write(bs->mover.seal, &header, out->frames, out->n + out->names, out->bytes);

	out->write = (struct store_write){ .segment = place_carrier(seg->place),
					   .offset = out->batch * SEALED_BATCH,
					   .len = (header.used + (uint32_t)STORE_BLOCK - 1) & ~((uint32_t)STORE_BLOCK - 1),
					   .buf = out->bytes };
	return r;
}

bool outgoing_start(struct blobstore *bs)
{
	struct mover *m = &bs->mover;
	struct outgoing *out = outgoing_next(m);
	struct tier *t = &bs->tiers[out->to];
	bool full;
	int r;

	if (out->n)
		share_name(bs, out);
	pthread_mutex_lock(&bs->lock);
	r = out->n ? take_place(bs, out) : 0;
	full = !tier_has_room(t, out->collecting);
	pthread_mutex_unlock(&bs->lock);
	if (r) {
		if (!full) /* which is no failure: what is left stays where it is */
			tier_note_write(t, r);
		return false;
	}
	atomic_fetch_add(&bs->segments[out->victim].readers, 1);
	m->used_out++;
	if (!out->n)
		return true;
	inject(INJECT_BATCH_PLACE);
	m->out_touched = true;
	r = seal_batch(bs, out);
	if (r) {
		out->write.result = r; /* as if written, and failed */
	} else {
		tier_daily_note(t, out->write.len); /* whatever comes of it */
		store_write_start(t->store, &out->write);
	}
	return true;
}

/* ---- end ---- */

/* The blobs are there now. Those that died meanwhile are garbage from the
   start. Under the lock. */
static void change_locations(struct blobstore *bs, const struct outgoing *out)
{
	struct domain *domain = bs->tenants[bs->segments[out->victim].tenant].domain;
	struct segment *seg = &bs->segments[out->segment];

	for (uint32_t i = 0; i < out->n; i++) {
		const struct sealed_frame *f = &out->frames[i];
		uint64_t loc = blob_loc_make(f->kind, out->segment, out->batch * SEALED_BATCH + f->offset, f->len);

		if (!record_is_live(bs, f->id, out->from[i])) {
			seg->fill += record_size(loc);
			bs->tiers[out->to].held += record_size(loc);
			continue;
		}
		segment_count(bs, domain, out->segment, f->kind, record_size(loc));
		blob_move(bs->blobs, f->id, loc);
		inject(INJECT_BATCH_HALF);
		segment_drop(bs, out->from[i]);
	}
}

void outgoing_settle(struct blobstore *bs, uint32_t segment)
{
	const struct mover *m = &bs->mover;
	bool moving = m->victim == segment + 1;

	for (uint32_t i = 0; i < m->used_out; i++)
		moving |= m->out[(m->first_out + i) % m->nr_out].victim == segment;
	bs->segments[segment].moving = moving;
}

/* All that lived in the victim has been looked at. Under the lock. */
static void end_victim(struct blobstore *bs, const struct outgoing *out)
{
	struct segment *seg = &bs->segments[out->victim];

	if (out->abandoned)
		return;
	if (out->unread) {
		seg->unread = atomic_load_explicit(&bs->clock, memory_order_relaxed);
	} else if (seg->state == SEGMENT_SEALED && seg->live) { /* damaged, or not to be moved */
		if (out->collecting)
			seg->walked = true;
		else
			seg->stays = true;
	}
}

/* Under the lock. */
static void abandon_victim(struct blobstore *bs, uint32_t victim)
{
	struct mover *m = &bs->mover;

	for (uint32_t i = 0; i < m->used_out; i++) {
		struct outgoing *other = &m->out[(m->first_out + i) % m->nr_out];

		other->abandoned |= other->victim == victim;
	}
	mover_give_up(bs, victim);
}

/* Under the lock. */
static void arrive(struct blobstore *bs, struct outgoing *out, int r)
{
	struct segment *seg = &bs->segments[out->segment];

	if (!r) {
		inject(INJECT_BATCH_WRITTEN);
		change_locations(bs, out);
	} else if (seg->state == SEGMENT_OPEN) {
		segment_seal(bs, out->segment);
	}
	segment_arrived(bs, out->segment);
	if (r)
		abandon_victim(bs, out->victim);
}

/* What the write came to; `first`: it says how it stands with the tier. */
static int wait_for(struct blobstore *bs, struct outgoing *out, bool first)
{
	struct tier *t = &bs->tiers[out->to];
	int r = store_write_wait(t->store, &out->write);

	if (first)
		tier_note_write(t, r);
	if (!r)
		atomic_fetch_add_explicit(out->collecting ? &t->gc_bytes : &t->in_bytes, out->write.len,
					  memory_order_relaxed);
	return r;
}

static bool finish_one(struct blobstore *bs, bool first)
{
	struct mover *m = &bs->mover;
	struct outgoing *out = &m->out[m->first_out];
	int r = out->n ? wait_for(bs, out, first) : 0;

	pthread_mutex_lock(&bs->lock);
	if (out->n)
		arrive(bs, out, r);
	if (out->last)
		end_victim(bs, out);
	atomic_fetch_sub(&bs->segments[out->victim].readers, 1);
	m->first_out = (m->first_out + 1) % m->nr_out;
	m->used_out--;
	outgoing_settle(bs, out->victim);
	pthread_mutex_unlock(&bs->lock);
	if (out->n && !r)
		share_tell(bs, out);
	return !r;
}

bool outgoing_finish(struct blobstore *bs)
{
	bool good = finish_one(bs, true);

	/* Those behind it were begun before anybody knew: one failure. */
	while (!good && bs->mover.used_out)
		(void)finish_one(bs, false);
	return good;
}

/* One that reads for somebody has the way to itself but for one batch. */
bool outgoing_make_place(struct blobstore *bs)
{
	struct mover *m = &bs->mover;
	bool good = true;

	while (good && m->used_out &&
	       (m->used_out == m->nr_out || store_is_read(bs->tiers[m->to].store)))
		good = outgoing_finish(bs);
	return good;
}
