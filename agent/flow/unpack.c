/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Positions only grow; pages of one reader lie at positions one after another, in
 * the order of their addresses, whether there is something to unpack or not:
 *
 *	head <= at <= tail	owner: those before head are free; before at, given up or
 *				placed, so free as soon as nobody is at them
 *	claimed <= tail		those before it belong, each, to the thread that moved
 *				`claimed` past them, until it says that they are done
 */
#include "flow/flow.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/util.h"

#define MASK (UNPACK_PAGES - 1)
#define CACHE_LINE 64
#define OWN 16u /* pages that the owner does itself, at most, before it looks at faults */

enum { PENDING, GOOD, BAD };
#define NOTHING 0

struct entry {
	slot_t slot; /* as it was when it was taken in */
	blob_id id;  /* with a reference; 0: there is nothing to unpack */
	/* Claimed together, from here on: the pages of one frame; NOTHING: there is nothing
	   to unpack, so that its place may be another page's as soon as it is claimed. */
	_Atomic uint8_t unit;
	_Atomic uint8_t state;
	bool helped; /* with the rest, by who claimed it, before its state */
	uint32_t ns;
};

struct unpack {
	struct session *session;
	const void *reader; /* NULL: nobody's */
	uint64_t base; /* vpn of position 0, if it had one */
	uint64_t head, at;
	unsigned char *bytes;
	_Alignas(CACHE_LINE) _Atomic uint64_t tail;
	_Alignas(CACHE_LINE) _Atomic uint64_t claimed;
	_Alignas(CACHE_LINE) struct entry entries[UNPACK_PAGES];
};

_Static_assert((UNPACK_PAGES & MASK) == 0, "a power of two");

static struct entry *entry_at(struct unpack *u, uint64_t position)
{
	return &u->entries[position & MASK];
}

static unsigned char *bytes_at(struct unpack *u, uint64_t position)
{
	return u->bytes + (position & MASK) * PAGE_BYTES;
}

static uint64_t tail_of(const struct unpack *u)
{
	return atomic_load_explicit(&u->tail, memory_order_relaxed); /* the owner's own */
}

struct unpack *unpack_new(void)
{
	struct unpack *u = aligned_alloc(CACHE_LINE, sizeof(*u));

	if (!u)
		return NULL;
	memset(u, 0, sizeof(*u));
	u->bytes = aligned_alloc(PAGE_BYTES, UNPACK_PAGES * PAGE_BYTES);
	return u->bytes ? u : unpack_free(u, NULL);
}

struct unpack *unpack_free(struct unpack *u, struct blobstore *bs)
{
	if (!u)
		return NULL;
	for (; u->head < tail_of(u); u->head++)
		if (entry_at(u, u->head)->id)
			blobstore_unref(bs, entry_at(u, u->head)->id);
	free(u->bytes);
	free(u);
	return NULL;
}

/* ---- any thread ---- */

static void end_entry(struct entry *e, bool good)
{
	atomic_store_explicit(&e->state, good ? GOOD : BAD, memory_order_release);
}

static void unpack_one(struct unpack *u, uint64_t position, struct blobstore *bs, struct codec *codec, bool helps)
{
	struct entry *e = entry_at(u, position);
	uint64_t start = now_ns();
	int r = blobstore_get_now(bs, codec, e->id, bytes_at(u, position));

	e->helped = helps;
	e->ns = (uint32_t)MIN(now_ns() - start, UINT32_MAX);
	end_entry(e, r == 0); /* if not, whoever places the page gets to know why */
}

static void unpack_frame(struct unpack *u, uint64_t position, unsigned n, struct blobstore *bs, struct codec *codec,
			 bool helps)
{
	blob_id ids[BLOBSTORE_RUN_MAX];
	void *pages[BLOBSTORE_RUN_MAX];
	uint64_t start = now_ns(), ns;
	unsigned good;

	for (unsigned i = 0; i < n; i++) {
		ids[i] = entry_at(u, position + i)->id;
		pages[i] = bytes_at(u, position + i);
	}
	good = blobstore_get_parts(bs, codec, ids, n, pages);
	ns = now_ns() - start;
	for (unsigned i = 0; i < n; i++) {
		struct entry *e = entry_at(u, position + i);

		e->helped = helps;
		e->ns = (uint32_t)MIN(ns / n, UINT32_MAX);
		end_entry(e, i < good);
	}
}

unsigned unpack_claim(struct unpack *u, uint64_t *position)
{
	uint64_t at = atomic_load(&u->claimed);
	unsigned n;

	do {
		if (at >= atomic_load(&u->tail))
			return 0;
		/* Another page's, if `at` is not where they are any more. */
		n = atomic_load_explicit(&entry_at(u, at)->unit, memory_order_relaxed);
		if (n != NOTHING && atomic_compare_exchange_weak(&u->claimed, &at, at + n))
			break;
		/* Passed over: not touched any more, whoever does it. */
		if (n == NOTHING && atomic_compare_exchange_weak(&u->claimed, &at, at + 1))
			at++;
	} while (true);
	*position = at;
	return n;
}

bool unpack_is_wanted(struct unpack *u)
{
	return atomic_load(&u->claimed) < atomic_load(&u->tail);
}

void unpack_claimed(struct unpack *u, uint64_t position, unsigned n, struct blobstore *bs, struct codec *codec,
		    bool helps)
{
	if (n > 1)
		unpack_frame(u, position, n, bs, codec, helps);
	else
		unpack_one(u, position, bs, codec, helps);
}

bool unpack_work(struct unpack *u, struct blobstore *bs, struct codec *codec, bool helps)
{
	uint64_t position;
	unsigned n = unpack_claim(u, &position);

	if (n)
		unpack_claimed(u, position, n, bs, codec, helps);
	return n;
}

void unpack_about_to_wait(struct unpack_pool *pool)
{
	atomic_fetch_add(&pool->asleep, 1);
}

/* One who sleeps is no more said to. False: there is none. */
static bool take_sleeper(struct unpack_pool *pool)
{
	unsigned asleep = atomic_load(&pool->asleep);

	while (asleep && !atomic_compare_exchange_weak(&pool->asleep, &asleep, asleep - 1))
		;
	return asleep;
}

void unpack_wait(struct unpack_pool *pool)
{
	while (sem_wait(&pool->work) && errno == EINTR)
		;
}

void unpack_dont_wait(struct unpack_pool *pool)
{
	if (!take_sleeper(pool))
		unpack_wait(pool); /* somebody has posted for us */
}

void unpack_stop(struct unpack_pool *pool, unsigned n)
{
	while (n--)
		sem_post(&pool->work);
}

/* ---- the owner ---- */

/* What nobody has begun before that position, nobody begins any more. */
static void give_up(struct unpack *u, uint64_t position)
{
	uint64_t from = atomic_load(&u->claimed);

	while (from < position && !atomic_compare_exchange_weak(&u->claimed, &from, position))
		;
	for (; from < position; from++)
		end_entry(entry_at(u, from), false);
	u->at = position;
}

static void reap(struct unpack *u, struct blobstore *bs)
{
	for (; u->head < u->at; u->head++) {
		struct entry *e = entry_at(u, u->head);

		if (!e->id)
			continue;
		if (atomic_load_explicit(&e->state, memory_order_acquire) == PENDING)
			return;
		blobstore_unref(bs, e->id);
	}
}

static bool is_empty(const struct unpack *u)
{
	return u->head == tail_of(u);
}

/* How many pages from vpn on, the first of which can be unpacked, come in one frame. */
static unsigned frame_pages(struct owner *o, struct session *s, uint64_t vpn, uint64_t end, blob_id first)
{
	struct blobstore *bs = o->flow->blobstore;
	unsigned n = 1;

	if (!blobstore_is_part(bs, first))
		return 1;
	for (; n < BLOBSTORE_RUN_MAX && vpn + n < end; n++) {
		slot_t slot = slotmap_get(&s->slots, vpn + n);

		if (slot_state(slot) != SLOT_STORED || !blobstore_share_frame(bs, first, flow_slot_blob(slot)))
			break;
	}
	return n;
}

static void take_in_one(struct blobstore *bs, struct entry *e, slot_t slot, blob_id id, unsigned unit)
{
	e->slot = slot;
	e->id = id;
	if (id)
		blobstore_ref(bs, id);
	atomic_store_explicit(&e->unit, id ? (uint8_t)unit : NOTHING, memory_order_relaxed);
	atomic_store_explicit(&e->state, id ? PENDING : BAD, memory_order_relaxed);
}

static void take_in(struct owner *o, struct session *s, uint64_t end)
{
	struct blobstore *bs = o->flow->blobstore;
	struct unpack *u = o->unpack;
	uint64_t tail = tail_of(u);

	while (tail - u->head < UNPACK_PAGES && u->base + tail < end) {
		slot_t slot = slotmap_get(&s->slots, u->base + tail);
		blob_id id = slot_state(slot) == SLOT_STORED ? flow_slot_blob(slot) : 0;
		unsigned n;

		if (id && blobstore_is_slow(bs, id))
			id = 0;
		n = id ? frame_pages(o, s, u->base + tail, end, id) : 1;
		if (n > UNPACK_PAGES - (tail - u->head))
			break; /* in two parts it would be unpacked twice */
		take_in_one(bs, entry_at(u, tail++), slot, id, n);
		while (--n) {
			slot = slotmap_get(&s->slots, u->base + tail);
			take_in_one(bs, entry_at(u, tail++), slot, flow_slot_blob(slot), n);
		}
	}
	if (tail == tail_of(u))
		return;
	atomic_store(&u->tail, tail);
	if (take_sleeper(o->flow->unpack_pool))
		sem_post(&o->flow->unpack_pool->work);
}

/* From vpn on it is his. */
static bool begin(struct owner *o, struct session *s, const void *reader, uint64_t vpn)
{
	struct unpack *u = o->unpack;
	bool goes_on = u->session == s && u->reader == reader && vpn >= u->base + u->at &&
		       vpn <= u->base + tail_of(u);

	if (goes_on) {
		give_up(u, vpn - u->base);
		reap(u, o->flow->blobstore);
		return true;
	}
	if (u->reader == reader)
		unpack_drop(o, reader);
	if (!unpack_settle(o))
		return false;
	u->session = s;
	u->reader = reader;
	u->base = vpn - tail_of(u);
	return true;
}

/* How many from vpn on need not be waited for. */
static unsigned ready(struct unpack *u, uint64_t vpn, unsigned max)
{
	uint64_t at = vpn - u->base;
	unsigned n = 0;

	while (n < max && at + n < tail_of(u) &&
	       (!entry_at(u, at + n)->id ||
		atomic_load_explicit(&entry_at(u, at + n)->state, memory_order_relaxed) != PENDING))
		n++;
	return n;
}

bool unpack_ahead(struct owner *o, struct session *s, const void *reader, uint64_t vpn, uint64_t end, unsigned want)
{
	struct unpack *u = o->unpack;
	uint64_t position;
	unsigned n;

	if (!u || !begin(o, s, reader, vpn))
		return false;
	take_in(o, s, end);
	for (unsigned done = 0; done < MIN(want, OWN) && ready(u, vpn, want) < want; done += n) {
		n = unpack_claim(u, &position);
		if (!n)
			break;
		unpack_claimed(u, position, n, o->flow->blobstore, o->codec, false);
	}
	return true;
}

static struct entry *find(const struct owner *o, const struct session *s, uint64_t vpn, slot_t slot, uint64_t *position)
{
	struct unpack *u = o->unpack;
	struct entry *e;

	if (!u || u->session != s || !u->reader)
		return NULL;
	*position = vpn - u->base;
	if (*position < u->at || *position >= tail_of(u))
		return NULL;
	e = entry_at(u, *position);
	return e->slot == slot || !e->id ? e : NULL;
}

char *unpack_bytes(const struct owner *o, const struct session *s, uint64_t vpn, slot_t slot)
{
	uint64_t position;
	struct entry *e = find(o, s, vpn, slot, &position);

	if (!e || !e->id || atomic_load_explicit(&e->state, memory_order_acquire) != GOOD)
		return NULL;
	return (char *)bytes_at(o->unpack, position);
}

char *unpack_place(const struct owner *o, const struct session *s, uint64_t vpn, slot_t slot)
{
	uint64_t position;
	struct entry *e = find(o, s, vpn, slot, &position);

	return e && !e->id ? (char *)bytes_at(o->unpack, position) : NULL;
}

void unpack_used(struct owner *o, struct session *s, uint64_t vpn)
{
	const struct entry *e = entry_at(o->unpack, vpn - o->unpack->base);

	if (!e->id)
		return;
	counter_add(&s->counters.unpack_ns_total, e->ns);
	counter_add(&s->counters.helped_total, e->helped);
}

void unpack_drop(struct owner *o, const void *reader)
{
	struct unpack *u = o->unpack;

	if (!u || !u->reader || u->reader != reader)
		return;
	u->reader = NULL;
	u->session = NULL;
	give_up(u, tail_of(u));
	(void)unpack_settle(o);
}

void unpack_forget(struct owner *o, const struct session *s)
{
	if (o->unpack && o->unpack->session == s)
		unpack_drop(o, o->unpack->reader);
}

bool unpack_settle(struct owner *o)
{
	if (o->unpack)
		reap(o->unpack, o->flow->blobstore);
	return !o->unpack || is_empty(o->unpack);
}

void unpack_count(struct owner *o, struct blobstore_references *refs)
{
	struct unpack *u = o->unpack;

	for (uint64_t i = u ? u->head : 0; u && i < tail_of(u); i++)
		if (entry_at(u, i)->id)
			blobstore_references_add(refs, entry_at(u, i)->id);
}
