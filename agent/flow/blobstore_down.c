/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The mover: what has not been used for long goes down a tier, and in slow
 * tiers what still lives in poor segments is put together.
 *
 * The order that makes it safe at every point, also where the agent dies: the
 * batch is written, whole; then the blobs' locations change, one store each;
 * then, with no blob and no reader left in it, the old segment goes. Until its
 * location changes a blob is where it was. A batch whose write failed is never
 * looked at, and its place is not used again (backends/store.h).
 */
#include <errno.h>
#include <string.h>

#include "flow/blobstore_private.h"

/* Tiers are drained from the first mark on, down to the second one. */
#define FULL_PERCENT 80
#define DRAINED_PERCENT 70
/* Garbage in a slow segment: it is worth the writing below so much life. */
#define LIVE_PERCENT 60
/* A write that timed out: the same bytes again, so often. */
#define WRITE_TRIES 3
#define PAUSE_MIN_NS (NSEC_PER_SEC / 4)
#define PAUSE_MAX_NS (60 * NSEC_PER_SEC)
#define DAY_NS (86400 * NSEC_PER_SEC)

bool mover_init(struct blobstore *bs)
{
	struct mover *m = &bs->mover;

	m->raw = malloc(SEALED_BATCH);
	m->out = aligned_alloc(STORE_BLOCK, SEALED_BATCH);
	m->batch = aligned_alloc(STORE_BLOCK, SEALED_BATCH);
	m->table = malloc(SEALED_RECORDS_MAX * SEALED_RECORD);
	m->frames = calloc(SEALED_RECORDS_MAX, sizeof(*m->frames));
	m->from = calloc(SEALED_RECORDS_MAX, sizeof(*m->from));
	m->seal = seal_new(&bs->key);
	return m->raw && m->out && m->batch && m->table && m->frames && m->from && m->seal;
}

void mover_deinit(struct blobstore *bs)
{
	struct mover *m = &bs->mover;

	free(m->raw);
	free(m->out);
	free(m->batch);
	free(m->table);
	free(m->frames);
	free(m->from);
	seal_free(m->seal);
}

/* ---- which tier can take something ---- */

static void refill_budget(struct tier *t, uint64_t now)
{
	double daily = (double)store_daily_writes(t->store);
	/* What may come at once: an hour's share, and two segments at least. */
	int64_t most = (int64_t)MAX(daily / 24, (double)(2 * STORE_SEGMENT)), budget = t->budget;

	if (!t->budget_ns)
		budget = most;
	else
		budget += (int64_t)(daily * (double)(now - t->budget_ns) / (double)DAY_NS);
	t->budget = MIN(budget, most);
	t->budget_ns = now;
}

static bool may_write(struct tier *t, uint64_t now)
{
	struct store_status status;

	store_get_status(t->store, &status);
	if (now < t->retry_ns || status.state != STORE_UP)
		return false;
	if (!store_daily_writes(t->store))
		return true;
	refill_budget(t, now);
	return t->budget >= SEALED_BATCH;
}

/* Room for what comes from above, beside what it needs itself to tidy up. */
static bool has_room(const struct tier *t)
{
	return t->used_segments + 1 < t->capacity || (t->capacity == 1 && !t->used_segments);
}

/* The first tier below `tier` that can take something; 0: none. One that is
   full or fails is passed over. */
static uint32_t tier_below(struct blobstore *bs, uint32_t tier, uint32_t tenant, uint64_t now)
{
	for (uint32_t i = tier + 1; i < bs->nr_tiers; i++)
		if (may_write(&bs->tiers[i], now) &&
		    (has_room(&bs->tiers[i]) || bs->tenants[tenant].open[i]))
			return i;
	return 0;
}

bool mover_has_way_down(struct blobstore *bs, uint32_t tenant)
{
	return tier_below(bs, 0, tenant, now_ns());
}

/* ---- which segment ---- */

/* Differences stay: they are small, and reading one must not wait twice. */
static bool is_movable(const struct blobstore *bs, const struct segment *seg)
{
	return seg->stream != STREAM_DELTA &&
	       (seg->state == SEGMENT_SEALED || seg->state == SEGMENT_OPEN) && seg->live && !seg->stays &&
	       bs->victim != (uint32_t)(seg - bs->segments) + 1;
}

/* The one of a tier that has not been used for longest; sealed ones before
   open ones. 0: none. */
static uint32_t pick_coldest(struct blobstore *bs, uint32_t tier, uint32_t older_than, uint64_t now)
{
	uint32_t best = 0, best_used = 0;
	bool best_open = true;

	for (uint32_t i = 0; i < bs->top_segment; i++) {
		const struct segment *seg = &bs->segments[i];
		uint32_t used = atomic_load_explicit(&seg->used, memory_order_relaxed);
		bool open = seg->state == SEGMENT_OPEN;

		if (seg->tier != tier || !is_movable(bs, seg) || used > older_than ||
		    (best && (open > best_open || (open == best_open && used >= best_used))) ||
		    !tier_below(bs, tier, seg->tenant, now))
			continue;
		best = i + 1;
		best_used = used;
		best_open = open;
	}
	return best;
}

/* Pages as they are leave memory as soon as they fill some batches. */
#define RAW_BYTES (4 * 63 * RECORD_MAX)

static uint32_t pick_raw(struct blobstore *bs, uint64_t now)
{
	for (uint32_t i = 0; bs->raw_bytes[0] && i < bs->top_segment; i++) {
		const struct segment *seg = &bs->segments[i];

		if (!seg->tier && seg->stream == STREAM_RAW && is_movable(bs, seg) &&
		    (seg->state == SEGMENT_SEALED || seg->fill >= RAW_BYTES) && tier_below(bs, 0, seg->tenant, now))
			return i + 1;
	}
	return 0;
}

/* The one of a slow tier with the least life in it, if that is little enough. */
static uint32_t pick_poorest(struct blobstore *bs, uint32_t tier)
{
	uint64_t best_live = 1, best_fill = 1;
	uint32_t best = 0;

	for (uint32_t i = 0; i < bs->top_segment; i++) {
		const struct segment *seg = &bs->segments[i];

		if (seg->tier != tier || seg->state != SEGMENT_SEALED || !seg->live || seg->walked ||
		    seg->live * 100ull > seg->fill * (uint64_t)LIVE_PERCENT)
			continue;
		if (best && seg->live * best_fill >= best_live * seg->fill)
			continue;
		best = i + 1;
		best_live = seg->live;
		best_fill = seg->fill;
	}
	return best;
}

static bool begin(struct blobstore *bs, uint32_t victim, uint32_t to, bool collecting)
{
	struct mover *m = &bs->mover;
	struct segment *seg;

	if (!victim || !to)
		return false;
	seg = &bs->segments[victim - 1];
	if (seg->state == SEGMENT_OPEN)
		segment_seal(bs, victim - 1);
	seg->moving = true;
	m->victim = victim;
	m->to = to;
	m->collecting = collecting;
	m->cursor = m->record = m->nr_records = 0;
	m->left = false;
	return true;
}

static void end(struct blobstore *bs)
{
	struct mover *m = &bs->mover;
	struct segment *seg = &bs->segments[m->victim - 1];

	seg->moving = false;
	if (seg->state == SEGMENT_SEALED && seg->live) { /* damaged, or not to be moved */
		if (m->collecting)
			seg->walked = true;
		else
			seg->stays = true;
	}
	m->victim = 0;
}

static bool is_over(struct tier *t)
{
	uint64_t used = t->used_segments * 100ull;

	t->filling = used > t->capacity * (uint64_t)(t->filling ? DRAINED_PERCENT : FULL_PERCENT);
	return t->filling;
}

static bool begin_down(struct blobstore *bs, uint32_t tier, uint64_t now)
{
	uint64_t age = atomic_load_explicit(&bs->move_down_ns, memory_order_relaxed);
	uint32_t clock = atomic_load_explicit(&bs->clock, memory_order_relaxed), victim = 0;
	uint32_t ticks = (uint32_t)MIN((age >> CLOCK_SHIFT) + 1, (uint64_t)clock);

	if (tier == 0)
		victim = pick_raw(bs, now);
	if (is_over(&bs->tiers[tier]) && !victim)
		victim = pick_coldest(bs, tier, UINT32_MAX, now);
	else if (age && tier == 0 && !victim)
		victim = pick_coldest(bs, tier, clock - ticks, now);
	return victim && begin(bs, victim, tier_below(bs, tier, bs->segments[victim - 1].tenant, now), false);
}

/* Under the lock. */
static bool begin_any(struct blobstore *bs)
{
	uint64_t now = now_ns();

	/* From below: there the room is made for what comes next. */
	for (uint32_t i = bs->nr_tiers; i-- > 0;) {
		if (i + 1 < bs->nr_tiers && begin_down(bs, i, now))
			return true;
		if (i && may_write(&bs->tiers[i], now) && begin(bs, pick_poorest(bs, i), i, true))
			return true;
	}
	return false;
}

/* ---- a batch is put together ---- */

static bool fits(const struct mover *m, uint32_t len)
{
	return m->n < SEALED_RECORDS_MAX && sealed_size(m->n + 1, (uint64_t)m->bytes + len) <= SEALED_BATCH;
}

/* Room for the frame of a blob, which the caller fills; NULL: the batch is
   full. */
static void *take_frame(struct blobstore *bs, blob_id id, uint64_t loc)
{
	struct mover *m = &bs->mover;
	uint32_t len = blob_loc_len(loc);
	unsigned char *at = m->raw + m->bytes;

	if (!fits(m, len))
		return NULL;
	m->frames[m->n] = (struct sealed_frame){ .hash = blob_hash(bs->blobs, id),
						 .id = id,
						 .kind = (uint16_t)blob_loc_kind(loc),
						 .len = (uint16_t)len,
						 .bytes = at };
	m->from[m->n++] = loc;
	m->bytes += len;
	return at;
}

static void untake_frame(struct mover *m)
{
	m->bytes -= m->frames[--m->n].len;
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
		if (!size) {
			m->left = true;
			return true; /* damaged: it goes when its last blob does */
		}
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

/* The victim's next batch and its table. No lock: it is sealed, and stays. */
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
		r = sealed_read_table(m->seal, m->batch, &header, m->table);
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
		if (sealed_read_frame(m->seal, seg->serial, offset, m->batch + record.offset, record.len, to)) {
			untake_frame(m); /* whoever touches it gets to know (INV-7) */
			m->left = true;
		}
	}
	return true;
}

/* True: all of the victim was looked at. */
static bool gather_sealed(struct blobstore *bs)
{
	struct mover *m = &bs->mover;
	struct segment *seg = &bs->segments[m->victim - 1];
	bool ended;

	while (m->cursor < seg->batches) {
		if (!m->nr_records && read_batch(bs))
			m->left = true;
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

static bool gather(struct blobstore *bs)
{
	bool ended;

	if (bs->segments[bs->mover.victim - 1].tier)
		return gather_sealed(bs);
	pthread_mutex_lock(&bs->lock);
	ended = gather_records(bs);
	pthread_mutex_unlock(&bs->lock);
	return ended;
}

/* ---- a batch is written ---- */

static void note_write(struct tier *t, int r, uint32_t bytes)
{
	t->write_error = r;
	if (!r) {
		t->retry_ns = t->pause_ns = 0;
		if (store_daily_writes(t->store))
			t->budget -= bytes;
		return;
	}
	t->pause_ns = t->pause_ns ? MIN(t->pause_ns * 2, PAUSE_MAX_NS) : PAUSE_MIN_NS;
	t->retry_ns = now_ns() + t->pause_ns;
}

/* The domain's open segment in the tier the batch goes to, plus one. Under the
   lock. */
static int open_segment(struct blobstore *bs, const struct domain *domain, uint32_t *segment)
{
	struct mover *m = &bs->mover;
	uint32_t *open = &bs->tenants[domain->index].open[STREAM_TIER + m->to];
	int r = *open ? 0 : segment_open(bs, domain, STREAM_TIER + m->to, m->collecting);

	if (!r)
		*segment = *open - 1;
	return r;
}

static int write_batch(struct blobstore *bs, const struct domain *domain, uint32_t segment, uint32_t batch)
{
	struct mover *m = &bs->mover;
	struct segment *seg = &bs->segments[segment];
	struct sealed_header header = { .batch = batch, .domain = domain->uid, .serial = seg->serial };
	int r = sealed_write(m->seal, &header, m->frames, m->n, m->out);
	size_t bytes = (header.used + STORE_BLOCK - 1) & ~(STORE_BLOCK - 1);

	if (r)
		return r;
	for (unsigned tries = 0; tries < WRITE_TRIES; tries++) {
		/* A timeout does not say whether it has landed: only the very
		   same bytes may follow. */
		r = store_write(bs->tiers[m->to].store, place_carrier(seg->place), batch * SEALED_BATCH, m->out,
				bytes);
		if (r != -ETIMEDOUT)
			break;
	}
	note_write(&bs->tiers[m->to], r, (uint32_t)bytes);
	if (!r)
		atomic_fetch_add_explicit(m->collecting ? &bs->tiers[m->to].gc_bytes : &bs->tiers[m->to].in_bytes,
					  bytes, memory_order_relaxed);
	return r;
}

/* The blobs are there now. Those that died meanwhile are garbage from the
   start. Under the lock. */
static void change_locations(struct blobstore *bs, struct domain *domain, uint32_t segment, uint32_t batch)
{
	struct mover *m = &bs->mover;
	struct segment *seg = &bs->segments[segment];

	for (uint32_t i = 0; i < m->n; i++) {
		const struct sealed_frame *f = &m->frames[i];
		uint64_t loc = blob_loc_make(f->kind, segment, batch * SEALED_BATCH + f->offset, f->len);

		if (!record_is_live(bs, f->id, m->from[i])) {
			seg->fill += record_size(loc);
			bs->tiers[m->to].held += record_size(loc);
			continue;
		}
		segment_count(bs, domain, segment, f->kind, record_size(loc));
		blob_move(bs->blobs, f->id, loc);
		segment_drop(bs, m->from[i]);
	}
}

/* False: it could not be written; everything is where it was. */
static bool flush(struct blobstore *bs)
{
	struct mover *m = &bs->mover;
	struct domain *domain;
	uint32_t segment = 0, batch = 0;
	int r;

	if (!m->n)
		return true;
	pthread_mutex_lock(&bs->lock);
	domain = bs->tenants[bs->segments[m->victim - 1].tenant].domain;
	assert(domain); /* the victim has live bytes, and only we reap */
	r = open_segment(bs, domain, &segment);
	if (!r) {
		/* This place is used up, whatever becomes of the write. */
		batch = bs->segments[segment].batches++;
		bs->entries[segment].batches = batch + 1;
	} else {
		note_write(&bs->tiers[m->to], r, 0);
	}
	pthread_mutex_unlock(&bs->lock);
	if (!r)
		r = write_batch(bs, domain, segment, batch);
	else
		segment = UINT32_MAX;
	pthread_mutex_lock(&bs->lock);
	if (!r)
		change_locations(bs, domain, segment, batch);
	if (segment != UINT32_MAX && (r || batch + 1 == SEALED_BATCHES))
		segment_seal(bs, segment);
	pthread_mutex_unlock(&bs->lock);
	m->n = m->bytes = 0;
	return !r;
}

/* ---- */

static bool move_batch(struct blobstore *bs)
{
	struct mover *m = &bs->mover;
	bool ended;

	m->n = m->bytes = 0;
	ended = gather(bs);
	if (!flush(bs)) {
		/* Not this segment's fault: it is tried again, perhaps elsewhere. */
		pthread_mutex_lock(&bs->lock);
		if (m->victim)
			bs->segments[m->victim - 1].moving = false;
		m->victim = 0;
		pthread_mutex_unlock(&bs->lock);
		return false;
	}
	pthread_mutex_lock(&bs->lock);
	if (ended && m->victim) /* else the last blob has left it */
		end(bs);
	pthread_mutex_unlock(&bs->lock);
	return true;
}

bool mover_step(struct blobstore *bs)
{
	bool begun = bs->mover.victim != 0;

	if (!begun) {
		pthread_mutex_lock(&bs->lock);
		begun = begin_any(bs);
		pthread_mutex_unlock(&bs->lock);
	}
	return begun && move_batch(bs);
}

/* The first tier has no room; then the mover's victim is one of it, if any can
   be. */
static bool begin_making_room(struct blobstore *bs)
{
	const struct tier *t = &bs->tiers[0];
	uint64_t now = now_ns();
	uint32_t victim;
	bool needed;

	pthread_mutex_lock(&bs->lock);
	needed = t->used_segments + 1 >= t->capacity;
	if (needed && !bs->mover.victim) {
		victim = pick_coldest(bs, 0, UINT32_MAX, now);
		if (victim)
			(void)begin(bs, victim, tier_below(bs, 0, bs->segments[victim - 1].tenant, now), false);
	}
	pthread_mutex_unlock(&bs->lock);
	return needed;
}

bool mover_make_room(struct blobstore *bs)
{
	/* Somebody else may have made some while we waited for the house. */
	segment_free_empty(bs);
	for (unsigned failed = 0; begin_making_room(bs);) {
		if (!bs->mover.victim)
			return false;
		/* One that fails is passed over the next time. */
		if (!move_batch(bs) && ++failed == bs->nr_tiers)
			return false;
		segment_free_empty(bs);
	}
	return true;
}
