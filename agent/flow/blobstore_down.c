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
#include "flow/blobstore_private.h"

/* Tiers are drained from the first mark on, down to the second one. */
#define FULL_PERCENT 80
#define DRAINED_PERCENT 70
/* Garbage in a slow segment: it is worth the writing below so much life. */
#define LIVE_PERCENT 60
/* ... and, while there is room, where nobody has read in order for so long: what lives
   there is about to leave. */
#define READING_TICKS ((uint32_t)(NSEC_PER_SEC >> CLOCK_SHIFT))
/* What could not be read is left alone for so long. */
#define UNREAD_TICKS ((uint32_t)(2 * NSEC_PER_SEC >> CLOCK_SHIFT))
/* Of what we once had of a borrowed one: below, it is copied home and given back.
   Its owner may need it, and as long as that is so it costs nothing. */
#define BORROWED_PERCENT 25
/* Of one processor, for garbage in slow tiers while there is room. */
#define COLLECT_PERCENT 25

bool mover_init(struct blobstore *bs)
{
	struct mover *m = &bs->mover;

	m->raw = malloc(SEALED_BATCH);
	m->batch = aligned_alloc(STORE_BLOCK, SEALED_BATCH);
	m->table = malloc(SEALED_RECORDS_MAX * SEALED_RECORD);
	m->seal = seal_new(&bs->key);
	return m->raw && m->batch && m->table && m->seal && outgoing_init(bs);
}

void mover_deinit(struct blobstore *bs)
{
	struct mover *m = &bs->mover;

	outgoing_deinit(bs);
	free(m->raw);
	free(m->batch);
	free(m->table);
	seal_free(m->seal);
}

/* ---- which tier can take something ---- */

static bool may_write(struct tier *t, uint64_t now)
{
	struct store_status status;

	store_get_status(t->store, &status);
	return now >= t->retry_ns && status.state == STORE_UP && tier_daily_left(t, now) >= SEALED_BATCH;
}

/* A domain's open segment there is filled up, also when it can have no other. */
static bool has_room(const struct blobstore *bs, uint32_t tier, uint32_t tenant, bool last)
{
	return bs->tenants[tenant].open[STREAM_TIER + tier] || tier_has_room(&bs->tiers[tier], last);
}

/* The first tier below `tier` that can take something; 0: none. One that is
   full or fails is passed over. */
static uint32_t tier_below(struct blobstore *bs, uint32_t tier, uint32_t tenant, uint64_t now)
{
	for (uint32_t i = tier + 1; i < bs->nr_tiers; i++)
		if (may_write(&bs->tiers[i], now) && has_room(bs, i, tenant, false))
			return i;
	return 0;
}

bool mover_has_way_down(struct blobstore *bs, uint32_t tenant)
{
	return tier_below(bs, 0, tenant, now_ns());
}

/* ---- which segment ---- */

static uint32_t ticks_since(const struct blobstore *bs, uint32_t then)
{
	return atomic_load_explicit(&bs->clock, memory_order_relaxed) - then;
}

/* Differences stay: they are small, and reading one must not wait twice. So do
   clusters, of a worker before us that had no other tier. */
static bool is_movable(const struct blobstore *bs, const struct segment *seg)
{
	return seg->stream != STREAM_DELTA && seg->stream != STREAM_CLUSTER &&
	       (seg->state == SEGMENT_SEALED || seg->state == SEGMENT_OPEN) && seg->live && !seg->stays &&
	       !seg->moving && !seg->pending && !seg->borrowed && ticks_since(bs, seg->unread) >= UNREAD_TICKS &&
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

static bool is_being_read(const struct blobstore *bs, const struct segment *seg)
{
	return ticks_since(bs, atomic_load_explicit(&seg->read_ahead, memory_order_relaxed)) < READING_TICKS;
}

/* The one of a slow tier with the least life in it, if that is little enough: of what was
   written, or, where room is short, of what it could hold, for each batch has taken a whole place. */
static uint32_t pick_poorest(struct blobstore *bs, uint32_t tier, bool tight)
{
	uint64_t best_live = 1, best_size = 1;
	uint32_t best = 0;

	tight |= !tier_has_room(&bs->tiers[tier], false);
	for (uint32_t i = 0; i < bs->top_segment; i++) {
		const struct segment *seg = &bs->segments[i];
		uint64_t size = tight && !seg->borrowed ? STORE_SEGMENT : seg->fill;

		if (seg->tier != tier || seg->state != SEGMENT_SEALED || !seg->live || seg->walked ||
		    seg->moving || seg->pending || (!tight && is_being_read(bs, seg)) ||
		    ticks_since(bs, seg->unread) < UNREAD_TICKS || !has_room(bs, tier, seg->tenant, true) ||
		    seg->live * 100ull > size * (seg->borrowed ? BORROWED_PERCENT : LIVE_PERCENT))
			continue;
		if (best && seg->live * best_size >= best_live * size)
			continue;
		best = i + 1;
		best_live = seg->live;
		best_size = size;
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
	m->was_open = seg->state == SEGMENT_OPEN;
	if (m->was_open)
		segment_seal(bs, victim - 1);
	seg->moving = true;
	atomic_fetch_add(&seg->readers, 1);
	m->victim = victim;
	m->to = to;
	m->collecting = collecting;
	m->cursor = m->record = m->nr_records = 0;
	m->unread = false;
	return true;
}

/* Segments of a tier that are gone when their last batch has arrived. */
static uint32_t leaving(const struct blobstore *bs, const struct tier *t)
{
	const struct mover *m = &bs->mover;
	uint32_t n = 0;

	for (uint32_t i = 0; i < m->used_out; i++) {
		const struct outgoing *out = &m->out[(m->first_out + i) % m->nr_out];

		n += out->last && &bs->tiers[bs->segments[out->victim].tier] == t;
	}
	return n;
}

static bool is_over(const struct blobstore *bs, struct tier *t)
{
	uint32_t used = t->used_segments - leaving(bs, t);

	/* One of few segments can take nothing more before its mark, and is not to keep for ever
	   what came first; of one or two, nothing would be left in it. */
	t->filling = used * 100ull > t->capacity * (uint64_t)(t->filling ? DRAINED_PERCENT : FULL_PERCENT) ||
		     (t->slow && t->capacity > 2 && used + 1 >= t->capacity);
	return t->filling;
}

static bool begin_down(struct blobstore *bs, uint32_t tier, bool over, uint64_t now)
{
	uint64_t age = atomic_load_explicit(&bs->move_down_ns, memory_order_relaxed);
	uint32_t clock = atomic_load_explicit(&bs->clock, memory_order_relaxed), victim = 0;
	uint32_t ticks = (uint32_t)MIN((age >> CLOCK_SHIFT) + 1, (uint64_t)clock);

	if (tier == 0)
		victim = pick_raw(bs, now);
	if (over && !victim)
		victim = pick_coldest(bs, tier, UINT32_MAX, now);
	else if (age && tier == 0 && !victim)
		victim = pick_coldest(bs, tier, clock - ticks, now);
	return victim && begin(bs, victim, tier_below(bs, tier, bs->segments[victim - 1].tenant, now), false);
}

/* Where the carrier has a thread of its own it leaves the processor to others. */
static bool may_collect(const struct blobstore *bs, struct tier *t, bool over, uint64_t now)
{
	return may_write(t, now) && (!bs->wake || over || now >= bs->mover.collect_due_ns);
}

/* Under the lock. */
static bool begin_any(struct blobstore *bs)
{
	uint64_t now = now_ns();

	/* From below: there the room is made for what comes next. */
	for (uint32_t i = bs->nr_tiers; i-- > 0;) {
		bool over = is_over(bs, &bs->tiers[i]);

		if (i + 1 < bs->nr_tiers && begin_down(bs, i, over, now))
			return true;
		if (i && may_collect(bs, &bs->tiers[i], over, now) &&
		    begin(bs, pick_poorest(bs, i, over), i, true))
			return true;
	}
	return false;
}

/* ---- */

void mover_give_up(struct blobstore *bs, uint32_t victim)
{
	struct mover *m = &bs->mover;

	if (m->victim == victim + 1) {
		if (m->was_open)
			segment_reopen(bs, victim);
		mover_let_go(bs);
	}
	outgoing_settle(bs, victim);
}

/* Not this segment's fault: it is tried again, perhaps elsewhere. */
static void give_up_victim(struct blobstore *bs)
{
	struct mover *m = &bs->mover;

	pthread_mutex_lock(&bs->lock);
	if (m->victim)
		mover_give_up(bs, m->victim - 1);
	pthread_mutex_unlock(&bs->lock);
}

/* One more batch on its way. False: it, or one before it, failed. */
static bool move_batch(struct blobstore *bs)
{
	struct mover *m = &bs->mover;
	struct outgoing *out;

	if (!outgoing_make_place(bs) || tier_daily_left(&bs->tiers[m->to], now_ns()) < SEALED_BATCH) {
		give_up_victim(bs);
		return false;
	}
	if (!m->victim) /* one before it failed, and all of it was given up */
		return true;
	out = outgoing_next(m);
	*out = (struct outgoing){ .bytes = out->bytes, .frames = out->frames, .from = out->from,
				  .victim = m->victim - 1, .to = (uint8_t)m->to, .collecting = m->collecting };
	m->bytes = 0;
	/* What other hosts have makes room for more. */
	for (uint32_t n = 0; !out->last && sealed_size(out->n, m->bytes) < SEALED_BATCH / 2; n = out->n) {
		out->last = mover_gather(bs);
		out->unread = m->unread;
		share_frames(bs, out, n);
	}
	if (!outgoing_start(bs)) {
		give_up_victim(bs);
		return false;
	}
	if (out->last) {
		pthread_mutex_lock(&bs->lock);
		mover_let_go(bs); /* the batch holds it */
		pthread_mutex_unlock(&bs->lock);
	}
	return true;
}

static bool collect_batch(struct blobstore *bs)
{
	struct mover *m = &bs->mover;
	uint64_t start = thread_ns(), spent;
	bool moved = move_batch(bs);

	spent = thread_ns() - start;
	collect_spent(bs, start);
	m->collect_due_ns = MAX(m->collect_due_ns, now_ns()) + spent * (100 / COLLECT_PERCENT - 1);
	return moved;
}

bool mover_step(struct blobstore *bs)
{
	struct mover *m = &bs->mover;

	if (!m->victim) {
		pthread_mutex_lock(&bs->lock);
		(void)begin_any(bs);
		pthread_mutex_unlock(&bs->lock);
	}
	if (m->victim)
		return m->collecting ? collect_batch(bs) : move_batch(bs);
	if (m->used_out)
		return outgoing_finish(bs);
	outgoing_rest(bs);
	return false;
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
	/* What is on its way may be enough. */
	if (needed && !bs->mover.victim && !bs->mover.used_out) {
		victim = pick_coldest(bs, 0, UINT32_MAX, now);
		if (victim)
			(void)begin(bs, victim, tier_below(bs, 0, bs->segments[victim - 1].tenant, now), false);
	}
	pthread_mutex_unlock(&bs->lock);
	return needed;
}

bool mover_make_room(struct blobstore *bs)
{
	/* What has died may be enough, or somebody has made some while we waited. */
	(void)(blobstore_tidy(bs) || blobstore_collect(bs));
	segment_free_empty(bs, bs->nr_tiers);
	for (unsigned failed = 0; begin_making_room(bs);) {
		bool done;
		if (bs->mover.victim)
			done = move_batch(bs);
		else if (bs->mover.used_out)
			done = outgoing_finish(bs);
		else
			return false;
		/* One that fails is passed over the next time. */
		if (!done && ++failed == bs->nr_tiers)
			return false;
		segment_free_empty(bs, bs->nr_tiers);
	}
	return true;
}
