/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Prefetch: where refaults run in order, the pages behind them are brought back
 * before they are touched, in windows that grow as long as the touches go on.
 *
 * The touched page has been answered before any of it, and the rest is done a
 * chunk each turn of the owner, between looks at other faults. Only pages that
 * are with us are placed (the slots say so): never one that we did not take.
 *
 * Where there are helpers (unpack.h) they decompress what lies ahead in a long window.
 * It is not let end then: one page of its last quarter is left away, as a tripwire,
 * and who has come that far has the next window begun while there is still work.
 *
 * The kernel has no accessed bit to tell what was of use. What can be told is
 * that a stream went on past a window: its pages count as used then.
 */
#include "flow/flow.h"

#include "common/util.h"
#include "proc/gate.h"

#define WINDOW_MIN 4u
#define WINDOW_MAX 64u
#define WINDOW_LONG 256u /* where nearly all were of use: a round trip for each */
#define CHUNK 16u /* pages in one COPY: some 90 us with their decompression */
#define CHUNK_HELPED 32u /* ... where half of it is another's work */
/* The next touch may be so far behind a window: what lies between was never
   away. A stream begins with two touches side by side. */
#define SLACK 16u
/* How often windows were of use lately, of 256; below, they stay small. */
#define SCORE_STEP 8
#define SCORE_POOR 64
#define SCORE_FAIR 128
#define SCORE_GOOD 224
#define WINDOW_FAIR 16u
#define LEAD 4 /* a tripwire is so many parts of a window before its end */

static void put_on_list(struct owner *o, struct session *s)
{
	if (s->in_ahead)
		return;
	s->in_ahead = true;
	s->next_ahead = o->ahead;
	o->ahead = s;
}

void prefetch_forget(struct owner *o, struct session *s)
{
	struct session **at;

	unpack_forget(o, s);
	if (!s->in_ahead)
		return;
	for (at = &o->ahead; *at != s; at = &(*at)->next_ahead)
		;
	*at = s->next_ahead;
	s->in_ahead = false;
}

static unsigned window_max(const struct session *s)
{
	return s->ahead_score < SCORE_POOR ? WINDOW_MIN :
	       s->ahead_score < SCORE_FAIR ? WINDOW_FAIR :
	       s->ahead_score < SCORE_GOOD ? WINDOW_MAX : WINDOW_LONG;
}

static void look_ahead(struct owner *o, struct session *s, struct ahead_stream *t, uint64_t vpn, unsigned pages)
{
	const struct range *r = ranges_find(&s->registered, vpn << PAGE_SHIFT);

	t->to = r ? MIN(vpn + pages, r->end >> PAGE_SHIFT) : vpn;
	t->at = t->trap && t->at > vpn && t->at < t->to ? t->at : vpn; /* that far it is done */
	t->next = t->to;
	t->trap = 0;
	put_on_list(o, s);
}

/* Helpers are worth their wakening. */
static bool is_long(const struct owner *o, const struct ahead_stream *t)
{
	return o->unpack && t->window >= o->flow->unpack_pool->least;
}

static void set_trap(struct owner *o, struct session *s, struct ahead_stream *t)
{
	uint64_t from = MAX(t->at, t->to - MIN(t->window / LEAD, t->to));
	uint64_t vpn = slotmap_next(&s->slots, from, t->to, FLOW_HERE_MASK);

	if (!is_long(o, t) || vpn >= t->to || fetch_is_needed(o, slotmap_get(&s->slots, vpn)))
		return;
	t->trap = t->next = vpn;
}

static void open_window(struct owner *o, struct session *s, struct ahead_stream *t, uint64_t vpn)
{
	unsigned ahead;

	counter_add(&s->counters.prefetch_used_total, t->placed);
	if (t->placed)
		s->ahead_score += (256 - s->ahead_score) / SCORE_STEP;
	t->placed = 0;
	t->window = MIN(MAX(t->window * 2, WINDOW_MIN), window_max(s));
	/* Far away, two reads at a time: one is used while the other comes. */
	ahead = t->window >= WINDOW_MAX && fetch_is_needed(o, slotmap_get(&s->slots, vpn + 1)) ?
			2 * WINDOW_MAX : t->window;
	look_ahead(o, s, t, vpn + 1, ahead);
	if (ahead == t->window)
		set_trap(o, s, t);
}

/* The one who reads has come to what is still on its way: the next one is asked
   for, too. */
void prefetch_wait(struct owner *o, struct session *s, uint64_t vpn)
{
	for (unsigned i = 0; i < SESSION_STREAMS; i++) {
		struct ahead_stream *t = &s->ahead[i];

		if (t->window < WINDOW_MAX || vpn >= t->next || t->next - vpn > WINDOW_MAX || t->at < t->to)
			continue;
		t->used = ++s->ahead_clock;
		look_ahead(o, s, t, t->next, WINDOW_MAX);
		return;
	}
}

static bool goes_on(const struct ahead_stream *t, uint64_t vpn)
{
	uint64_t slack = t->window ? SLACK : 1;

	return t->next && (vpn - t->next < slack || vpn - t->to < slack);
}

bool prefetch_whole(struct owner *o, struct session *s, uint64_t vpn, slot_t slot)
{
	unsigned n = 0;

	if (slot_state(slot) != SLOT_STORED || (!blobstore_is_part(o->flow->blobstore, flow_slot_blob(slot)) &&
						!unpack_bytes(o, s, vpn, slot)))
		return false;
	for (unsigned i = 0; i < SESSION_STREAMS && !n; i++) {
		struct ahead_stream *t = &s->ahead[i];

		if (!(vpn >= t->at && vpn < t->to) && !goes_on(t, vpn))
			continue;
		n = refault_place_run(o, s, vpn, CHUNK_HELPED);
		if (!n)
			break;
		t->placed += n - 1;
		counter_add(&s->counters.prefetched_total, n - 1);
	}
	return n;
}

void prefetch_note(struct owner *o, struct session *s, uint64_t vpn)
{
	struct ahead_stream *oldest = &s->ahead[0];

	s->ahead_clock++;
	for (unsigned i = 0; i < SESSION_STREAMS; i++) {
		struct ahead_stream *t = &s->ahead[i];

		if (goes_on(t, vpn)) {
			t->used = s->ahead_clock;
			open_window(o, s, t, vpn);
			return;
		}
		if (vpn >= t->at && vpn < t->to) {
			/* Faster than we are: the rest is on its way. */
			t->at = vpn + 1;
			t->used = s->ahead_clock;
			return;
		}
		if (t->used < oldest->used)
			oldest = t;
	}
	if (oldest->placed) /* nobody went on past that window */
		s->ahead_score -= s->ahead_score / SCORE_STEP;
	unpack_drop(o, oldest);
	*oldest = (struct ahead_stream){ .next = vpn + 1, .used = s->ahead_clock };
}

void prefetch_page(struct owner *o, struct session *s, uint64_t vpn)
{
	struct ahead_stream *t = &s->ahead[0];

	if (session_state(s) >= SESSION_RESTORING || !slot_is_evicted(slotmap_get(&s->slots, vpn)))
		return;
	for (unsigned i = 1; i < SESSION_STREAMS; i++)
		if (s->ahead[i].used < t->used)
			t = &s->ahead[i];
	unpack_drop(o, t);
	*t = (struct ahead_stream){ .at = vpn, .to = vpn + 1, .used = s->ahead_clock };
	put_on_list(o, s);
}

/* Those in a slow tier are asked for, and come when they come; those between them that
   are not, or lie elsewhere there, are left to the next chunk. *later: none can be now,
   but prefetch_resume will come. */
static unsigned fetch_chunk(struct owner *o, struct session *s, uint64_t vpn, unsigned max, bool *later)
{
	unsigned n = fetch_ahead(o, s, vpn, max);

	*later = !n && fetch_ahead_later(o);
	if (n || *later)
		return n;
	/* no such read will be free soon: some of them, one by one */
	max = MIN(max, CHUNK);
	while (n < max && fetch_is_needed(o, slotmap_get(&s->slots, vpn + n)) && room_use(o, s, 1) &&
	       fetch_start(o, s, vpn + n, false, false) == PLACED_DONE)
		n++;
	return n;
}

void prefetch_resume(struct owner *o)
{
	for (struct session *s = o->owned; s; s = s->next_owned)
		for (unsigned i = 0; i < SESSION_STREAMS; i++)
			if (s->ahead[i].at < s->ahead[i].to)
				put_on_list(o, s);
}

/* One chunk. False: this stream's window is done. */
static bool place_chunk(struct owner *o, struct session *s, struct ahead_stream *t)
{
	bool later = false;
	uint64_t end;
	unsigned n;

	t->at = slotmap_next(&s->slots, t->at, t->to, FLOW_HERE_MASK);
	if (t->at == t->trap)
		t->at = slotmap_next(&s->slots, t->at + 1, t->to, FLOW_HERE_MASK);
	if (t->at >= t->to)
		return false;
	end = t->at < t->trap ? t->trap : t->to;
	n = (unsigned)MIN(end - t->at, CHUNK);
	if (is_long(o, t) && unpack_ahead(o, s, t, t->at, t->to, (unsigned)MIN(end - t->at, CHUNK_HELPED)) &&
	    unpack_bytes(o, s, t->at, slotmap_get(&s->slots, t->at)))
		n = (unsigned)MIN(end - t->at, FLOW_RUN_MAX); /* all that is ready; the rest isn't waited for */
	n = refault_place_run(o, s, t->at, n);
	t->at += n;
	if (!n)
		n = fetch_chunk(o, s, t->at, (unsigned)(end - t->at), &later); /* they are FETCHING now */
	t->placed += n;
	counter_add(&s->counters.prefetched_total, n);
	/* What hinders it (an event, no room) is no reason to try again: a touch
	   will. */
	if (!n && !later)
		t->to = t->next = t->at;
	return n && t->at < t->to;
}

/* The same; what is ready for it is of no use any more when it is done. */
static bool go_on(struct owner *o, struct session *s, struct ahead_stream *t)
{
	if (t->at < t->to && place_chunk(o, s, t))
		return true;
	unpack_drop(o, t);
	return false;
}

/* True: there is more to do. */
static bool step(struct owner *o, struct session *s)
{
	bool more = false;

	if (session_state(s) >= SESSION_RESTORING || !events_are_settled(s) || !gate_enter(s->gate)) {
		for (unsigned i = 0; i < SESSION_STREAMS; i++)
			s->ahead[i].to = s->ahead[i].at;
		return false;
	}
	for (unsigned i = 0; i < SESSION_STREAMS; i++)
		more |= go_on(o, s, &s->ahead[i]);
	gate_leave(s->gate);
	return more;
}

bool prefetch_step(struct owner *o)
{
	struct session *next;

	for (struct session *s = o->ahead; s; s = next) {
		next = s->next_ahead;
		if (!step(o, s))
			prefetch_forget(o, s);
	}
	return o->ahead;
}
