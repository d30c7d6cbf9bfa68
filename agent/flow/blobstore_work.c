/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Housekeeping: dead blobs, empty segments, garbage. */
#include "common/inject.h"
#include "flow/blobstore_private.h"

#include <string.h>

/* Per call, and per hold of the lock, which puts wait for: some 2 ms and
   some 100 us. */
#define STEPS_PER_CALL 32
#define RECORDS_PER_STEP 128
#define CLUSTERS_PER_CALL 8
#define INDEX_PER_STEP 2048

/* Garbage bearable: 15 % of what is live, and a little for small stores. */
#define GARBAGE_PERCENT 15
#define GARBAGE_SLACK ((uint64_t)64 << 10)
/* A segment with less is not worth copying the rest. */
#define GARBAGE_OF_SEGMENT 8 /* an eighth */
/* Of the first tier: above, collecting has no time to lose. */
#define TIGHT_PERCENT 80
/* What leaves in BLOBSTORE_EBB_NS, if that is fast. */
#define EBB_SHARE 32 /* a 32nd of what lives */
#define EBB_BYTES (STORE_SEGMENT / 2)

/* ---- dead blobs ---- */

/* A difference's reference to its base. Where the frame is damaged, the base
   stays for ever: better than to drop another's. */
static void drop_base(struct blobstore *bs, blob_id id, uint64_t loc)
{
	unsigned char buf[sizeof(struct delta)];
	blob_id base = 0;
	const void *frame;
	int error;

	frame = segment_bytes(bs, blob_loc_segment(loc), blob_loc_offset(loc), sizeof(buf), buf, &error);
	if (frame)
		base = delta_base(frame, blob_loc_len(loc), id);
	if (base)
		blob_unref(bs->blobs, base);
	else
		health_corrupt(bs, &bs->tiers[0], 1);
}

static bool reap_one(struct blobstore *bs)
{
	uint32_t id = blob_next_dead(bs->blobs);
	struct domain *domain;
	uint64_t loc;

	if (!id)
		return false;
	loc = blob_loc(bs->blobs, id);
	if (blob_loc_kind(loc) == BLOB_DELTA)
		drop_base(bs, id, loc);
	domain = bs->tenants[bs->segments[blob_loc_segment(loc)].tenant].domain;
	assert(domain);
	segment_drop(bs, loc);
	blob_free(bs->blobs, id);
	domain_uncharge(domain, record_size(loc)); /* last: it may be gone now */
	return true;
}

/* ---- compaction ---- */

bool too_much_garbage(const struct blobstore *bs)
{
	const struct tier *t = &bs->tiers[0];

	return t->held - t->live > t->live / 100 * GARBAGE_PERCENT + GARBAGE_SLACK;
}

static bool may_be_victim(const struct blobstore *bs, const struct segment *seg)
{
	if (seg->walked || seg->tier || seg->moving || seg->stream == STREAM_CLUSTER)
		return false;
	/* An open one is sealed for it: not when another can't be opened, or
	   its domain would have none. */
	return seg->state == SEGMENT_SEALED ||
	       (seg->state == SEGMENT_OPEN && bs->tiers[0].used_segments < bs->tiers[0].capacity);
}

/* The poorest segment, as a share of it. */
static bool pick_victim(struct blobstore *bs)
{
	uint64_t best_dead = 1, best_fill = GARBAGE_OF_SEGMENT;
	uint32_t best = 0;

	for (uint32_t i = 0; i < bs->top_segment; i++) {
		const struct segment *seg = &bs->segments[i];
		uint64_t dead = seg->fill - seg->live;

		/* unless dead / fill > best_dead / best_fill */
		if (!may_be_victim(bs, seg) || dead * best_fill <= best_dead * seg->fill)
			continue;
		best_dead = dead;
		best_fill = seg->fill;
		best = i + 1;
	}
	if (!best)
		return false;
	bs->victim = best;
	bs->cursor = 0;
	if (bs->segments[best - 1].state == SEGMENT_OPEN)
		segment_seal(bs, best - 1);
	return true;
}

uint32_t record_read(struct blobstore *bs, uint32_t segment, uint32_t offset, struct record *record,
		     unsigned char *buf)
{
	uint32_t left = bs->segments[segment].fill - offset, size;
	const void *bytes;
	int error;

	if (left < sizeof(*record))
		return 0;
	bytes = segment_bytes(bs, segment, offset, sizeof(*record), buf, &error);
	if (!bytes)
		return 0;
	memcpy(record, bytes, sizeof(*record));
	size = (uint32_t)sizeof(*record) + record->len;
	if (!record_is_valid(record) || size > RECORD_MAX || size > left)
		return 0;
	bytes = segment_bytes(bs, segment, offset, size, buf, &error);
	if (!bytes)
		return 0;
	if (bytes != buf)
		memcpy(buf, bytes, size);
	return size;
}

bool record_is_live(struct blobstore *bs, blob_id id, uint64_t loc)
{
	return blob_loc_of_any(bs->blobs, id) == loc && !blob_is_dead(bs->blobs, id);
}

enum step { STEP_MORE, STEP_DONE, STEP_STUCK };

/* Moves the record at the cursor, if it is live, to its domain's open segment.
   The domain is charged the same for the copy as for the original. */
static enum step move_one(struct blobstore *bs)
{
	uint32_t victim = bs->victim - 1, size;
	struct segment *seg = &bs->segments[victim];
	unsigned char buf[RECORD_MAX];
	struct record record;
	uint64_t loc, new_loc;

	if (bs->cursor >= seg->fill)
		return STEP_DONE;
	size = record_read(bs, victim, bs->cursor, &record, buf);
	if (!size)
		return STEP_DONE; /* damaged: it goes when its last blob does */
	loc = record_loc(&record, victim, bs->cursor + (uint32_t)sizeof(record));
	if (record_is_live(bs, record.id, loc)) {
		if (segment_append(bs, bs->tenants[seg->tenant].domain, seg->stream, buf, size, true,
				   &new_loc))
			return STEP_STUCK;
		inject(INJECT_COMPACT);
		blob_move(bs->blobs, record.id, new_loc);
		segment_drop(bs, loc);
		bs->compacted_bytes += size;
		bs->tiers[0].gc_bytes += size;
	}
	bs->cursor += size;
	/* the last live record gone, segment_drop has ended it */
	return bs->victim ? STEP_MORE : STEP_DONE;
}

/* True: there is more to do, and it can be done. */
static bool compact_step(struct blobstore *bs)
{
	if (!bs->victim && (!too_much_garbage(bs) || !pick_victim(bs)))
		return false;
	for (unsigned i = 0; bs->victim && i < RECORDS_PER_STEP; i++) {
		enum step step = move_one(bs);

		if (step == STEP_STUCK) { /* no room: it may go down instead */
			bs->victim = 0;
			return false;
		}
		if (step == STEP_MORE)
			continue;
		/* What is left has died meanwhile, or is damaged. */
		if (bs->victim)
			bs->segments[bs->victim - 1].walked = true;
		bs->victim = 0;
	}
	return bs->victim || too_much_garbage(bs);
}

/* ---- */

static bool reap_step(struct blobstore *bs)
{
	for (unsigned i = 0; i < RECORDS_PER_STEP; i++)
		if (!reap_one(bs))
			return false;
	return true;
}

void collect_spent(struct blobstore *bs, uint64_t start_ns)
{
	atomic_fetch_add_explicit(&bs->collect_ns, thread_ns() - start_ns, memory_order_relaxed);
}

bool blobstore_tidy(struct blobstore *bs)
{
	bool more = true;

	pthread_mutex_lock(&bs->house);
	blobstore_tick(bs);
	for (unsigned i = 0; more && i < STEPS_PER_CALL; i++) {
		pthread_mutex_lock(&bs->lock);
		/* After a restart blobs that aren't indexed yet can't be freed. */
		more = blob_recover_index(bs->blobs, INDEX_PER_STEP) || reap_step(bs);
		pthread_mutex_unlock(&bs->lock);
		more |= segment_free_empty(bs, 1);
	}
	pthread_mutex_unlock(&bs->house);
	return more;
}

bool blobstore_collect(struct blobstore *bs)
{
	uint64_t start = thread_ns();
	bool more = true;

	pthread_mutex_lock(&bs->house);
	for (unsigned i = 0; more && i < STEPS_PER_CALL; i++) {
		pthread_mutex_lock(&bs->lock);
		more = compact_step(bs);
		pthread_mutex_unlock(&bs->lock);
		if (!more && cluster_collect(bs)) {
			more = true;
			i += STEPS_PER_CALL / CLUSTERS_PER_CALL - 1;
		}
		/* At once: compaction may need it. */
		more |= segment_free_empty(bs, 1);
	}
	pthread_mutex_unlock(&bs->house);
	collect_spent(bs, start);
	return more;
}

bool blobstore_is_tight(struct blobstore *bs)
{
	const struct tier *t = &bs->tiers[0];
	bool tight;

	pthread_mutex_lock(&bs->lock);
	tight = t->used_segments * 100ull > t->capacity * (uint64_t)TIGHT_PERCENT;
	pthread_mutex_unlock(&bs->lock);
	return tight;
}

bool blobstore_is_ebbing(struct blobstore *bs, uint64_t now)
{
	struct ebb *e = &bs->ebb;
	uint64_t live;

	pthread_mutex_lock(&bs->lock);
	live = bs->tiers[0].live;
	pthread_mutex_unlock(&bs->lock);
	if (now - e->looked_ns >= BLOBSTORE_EBB_NS) {
		if (live + MIN(live / EBB_SHARE, EBB_BYTES) >= e->live)
			e->since_ns = 0;
		else if (!e->since_ns)
			e->since_ns = now;
		e->live = live;
		e->looked_ns = now;
	}
	return e->since_ns && now - e->since_ns < NSEC_PER_SEC;
}

bool blobstore_carry(struct blobstore *bs)
{
	bool more;

	if (bs->nr_tiers == 1)
		return false;
	pthread_mutex_lock(&bs->carry);
	blobstore_tick(bs);
	health_probe(bs);
	room_answer(bs);
	more = mover_step(bs);
	more |= promote_step(bs);
	more |= segment_free_empty(bs, bs->nr_tiers);
	pthread_mutex_unlock(&bs->carry);
	return more;
}

bool blobstore_work(struct blobstore *bs)
{
	/* The dead first: they are not worth moving. */
	bool more = blobstore_tidy(bs) || blobstore_collect(bs);

	return blobstore_carry(bs) || more;
}
