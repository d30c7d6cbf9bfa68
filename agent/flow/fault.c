/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Page faults: read, answered. The hottest path of the agent. */
#include "flow/flow.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "common/inject.h"
#include "common/util.h"
#include "common/watch.h"
#include "proc/gate.h"
#include "sys/pagemap.h"

#define SETTLE_WAITS 100 /* tries before others get their turn */
/* The kernel hands out events behind faults: those of many threads that wait for
   an event must not fill the buffer, for it would never be read. */
#define AGAIN_MAX (FLOW_MESSAGES / 2)
#define ROUNDS 8 /* reads in a row before others get their turn */
/* ... of which so many follow one that was answered (below), before who waits in epoll. */
#define FOLLOW_ROUNDS 3
#define SOON_NS 3000u /* we have not slept meanwhile */
#define FOLLOWS_LIKELY 2 /* times in a row */

/* States in which a page may be given zeros: it is not with us. */
#define NOT_OURS(state) \
	((state) == SLOT_NONE || (state) == SLOT_RESIDENT || (state) == SLOT_BARRED)
#define OURS_MASK                                                                             \
	(1u << SLOT_LEAVING | 1u << SLOT_STAGED | 1u << SLOT_FETCHING | 1u << SLOT_STORED |    \
	 1u << SLOT_CLEAN | 1u << SLOT_FILL | 1u << SLOT_POISONED)

void fault_record_latency(const struct flow *flow, struct session *s, uint64_t ns)
{
	unsigned lo = 0, hi = SESSION_LATENCY_BUCKETS - 1;

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		if (flow->latency_bound_ns[mid] < ns)
			lo = mid + 1;
		else
			hi = mid;
	}
	counter_add(&s->counters.latency[lo], 1);
}

/* A window for a first touch at vpn: one page, or twice the last one where
   touches run in order. */
static unsigned stream_window(struct session *s, uint64_t vpn)
{
	struct touch_stream *oldest = &s->streams[0];

	s->stream_clock++;
	for (unsigned i = 0; i < SESSION_STREAMS; i++) {
		struct touch_stream *t = &s->streams[i];

		if (t->next == vpn) {
			t->window = MIN(t->window * 2, FLOW_WINDOW_MAX);
			t->used = s->stream_clock;
			return t->window;
		}
		if (t->used < oldest->used)
			oldest = t;
	}
	*oldest = (struct touch_stream){ .next = vpn + 1, .window = 1, .used = s->stream_clock };
	return 1;
}

static void stream_advance(struct session *s, uint64_t vpn, unsigned pages)
{
	for (unsigned i = 0; i < SESSION_STREAMS; i++)
		if (s->streams[i].window && s->streams[i].used == s->stream_clock)
			s->streams[i].next = vpn + pages;
}

/* How many pages from vpn on may be given zeros together: inside one
   registered range, none of ours, nothing there (guard pages!). */
static unsigned zero_window(struct session *s, uint64_t vpn)
{
	const struct range *r = ranges_find(&s->registered, vpn << PAGE_SHIFT);
	uint64_t end;
	unsigned n;

	if (!r)
		return 1;
	n = stream_window(s, vpn);
	if (n == 1 || s->fds.pagemap < 0)
		return 1;
	end = MIN(vpn + n, r->end >> PAGE_SHIFT);
	end = slotmap_next(&s->slots, vpn, end, OURS_MASK);
	return pagemap_empty_run(s->fds.pagemap, vpn << PAGE_SHIFT, (unsigned)(end - vpn));
}

static enum placed place_zeros(struct owner *o, struct session *s, uint64_t vpn, bool write,
			       unsigned *pages)
{
	if (write)
		return uffd_place_copy(s->fds.uffd, vpn << PAGE_SHIFT, o->flow->zeros, pages);
	return uffd_place_zero(s->fds.uffd, vpn << PAGE_SHIFT, pages);
}

static enum placed zero_touch(struct owner *o, struct session *s, uint64_t vpn, bool write)
{
	unsigned pages = zero_window(s, vpn);
	bool is_window = pages > 1;
	enum placed placed;

	if (!room_take(o, s, pages))
		return PLACED_NOMEM;
	placed = place_zeros(o, s, vpn, write, &pages);
	if (placed == PLACED_GONE && is_window) {
		/* The window crosses the border of two mappings that lie side by
		   side (other protection); the page itself may well be there. */
		pages = 1;
		placed = place_zeros(o, s, vpn, write, &pages);
	}
	if (placed != PLACED_DONE)
		return placed;
	counter_add(&s->counters.zero_total, 1);
	stream_advance(s, vpn, pages);
	/* Served-fault rule: our own copy on that very page lifts the bar. */
	for (uint64_t v = vpn; (v = slotmap_next(&s->slots, v, vpn + pages, 1u << SLOT_BARRED)) < vpn + pages;)
		if (slotmap_set(&s->slots, v, slot_make(SLOT_RESIDENT, 0, 0)) < 0)
			break;
	return PLACED_DONE;
}

/* A fork child learns by this page which session it is; or nothing, if a filter could
   kill it for the calls that it would make then. */
static enum placed give_identity(struct owner *o, struct session *s, pid_t tid)
{
	unsigned pages = 1;

	memset(o->page, 0, PAGE_BYTES);
	if (!session_is_confined(s, tid))
		memcpy(o->page, &s->nonce, sizeof(s->nonce));
	return uffd_place_copy(s->fds.uffd, s->identity, o->page, &pages);
}

static enum placed answer(struct owner *o, struct session *s, uint64_t vpn, bool write, pid_t tid)
{
	enum placed placed;
	unsigned one = 1;
	slot_t slot;

	if (vpn >= SLOTMAP_VPN_MAX) /* out of our reach, so nothing of ours */
		return place_zeros(o, s, vpn, write, &one);
	slot = slotmap_get(&s->slots, vpn);

	if (!events_are_settled(s)) {
		events_leave_fault(o, s);
		return PLACED_DONE;
	}
	switch (slot_state(slot)) {
	case SLOT_FETCHING: /* its COPY wakes all who wait (fetch.c) */
		prefetch_wait(o, s, vpn);
		return PLACED_DONE;
	case SLOT_LEAVING:
		/* The step under way ends with an answer (INV-3). */
		if (slotmap_set(&s->slots, vpn, slot | slot_make(SLOT_NONE, SLOT_F_WAITING, 0)) < 0)
			return PLACED_RETRY;
		return PLACED_DONE;
	case SLOT_STAGED:
	case SLOT_STORED:
	case SLOT_FILL:
		if (!room_take(o, s, 1))
			return PLACED_NOMEM;
		if (fetch_is_needed(o, slot)) { /* counted when it has come */
			placed = fetch_start(o, s, vpn, write, true);
		} else {
			counter_add(&s->counters.refaults_total, 1);
			placed = prefetch_whole(o, s, vpn, slot) ? PLACED_DONE :
				 slotmap_get(&s->slots, vpn) != slot ? PLACED_EXISTS : /* zeros, as it was dropped */
								       refault_place(o, s, vpn, slot, write);
		}
		if (placed == PLACED_DONE)
			prefetch_note(o, s, vpn);
		return placed;
	case SLOT_POISONED:
		return uffd_place_poison(s->fds.uffd, vpn << PAGE_SHIFT);
	default:
		break;
	}
	if (vpn == s->identity >> PAGE_SHIFT)
		return give_identity(o, s, tid);
	if (s->blind && slot_state(slot) == SLOT_NONE) {
		placed = uffd_place_poison(s->fds.uffd, vpn << PAGE_SHIFT);
		if (placed == PLACED_DONE)
			session_lost(s, 1, FLOW_LOST_BEFORE);
		return placed;
	}
	return zero_touch(o, s, vpn, write);
}

/* False: again, behind the events that must be read first. */
static bool answer_message(struct owner *o, struct session *s, const struct uffd_msg *msg,
			   uint64_t start)
{
	uint64_t vpn = msg->arg.pagefault.address >> PAGE_SHIFT;
	bool write = msg->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WRITE;
	uint64_t before = counter_get(&s->counters.refaults_total);
	enum placed placed;
	slot_t slot;
	uint64_t ns;

	/* A page was there. If it has left meanwhile, the mark there is a new one. */
	if ((msg->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP) &&
	    !(OURS_MASK >> slot_state(slotmap_get(&s->slots, vpn)) & 1)) {
		(void)uffd_unmark(s->fds.uffd, vpn << PAGE_SHIFT, PAGE_BYTES);
		placed = PLACED_GONE;
	} else {
		placed = answer(o, s, vpn, write, (pid_t)msg->arg.pagefault.feat.ptid);
	}

	switch (placed) {
	case PLACED_RETRY:
		return false;
	case PLACED_EXISTS:
		slot = slotmap_get(&s->slots, vpn);
		if (slot_is_evicted(slot)) /* what is there has come after us */
			refault_forget(o, s, vpn, slot, SLOT_RESIDENT);
		uffd_wake(s->fds.uffd, vpn << PAGE_SHIFT, PAGE_BYTES);
		break;
	case PLACED_NOMEM:
		room_none(o, s);
		room_wait(o, s);
		break;
	case PLACED_GONE:
	case PLACED_FAILED:
		/* The thread tries again and gets its SIGSEGV; nothing of ours is
		   dropped. */
		uffd_wake(s->fds.uffd, vpn << PAGE_SHIFT, PAGE_BYTES);
		break;
	case PLACED_DEAD:
		flow_close(o, s);
		break;
	case PLACED_DONE:
		break;
	}
	s->served_ns = now_ns();
	ns = s->served_ns - start;
	counter_add(&s->counters.faults_total, 1);
	counter_add(&s->counters.stall_ns_total, ns);
	if (counter_get(&s->counters.refaults_total) != before)
		fault_record_latency(o->flow, s, ns);
	return true;
}

/* Events first (INV-4), then faults; those that must wait for further events
   are moved to the front. Returns their number. */
static unsigned answer_all(struct owner *o, struct session *s, unsigned first, unsigned nr,
			   uint64_t start)
{
	struct uffd_msg *m = o->ring->messages;
	unsigned again = 0;

	for (unsigned i = first; i < nr; i++) {
		if (m[i].event == UFFD_EVENT_PAGEFAULT)
			continue;
		inject(INJECT_EVENT_READ);
		o->event = atomic_load_explicit(&o->ring->base, memory_order_relaxed) + i;
		events_take(o, s, &m[i]);
		m[i].event = 0; /* taken: not to be found again */
		gate_set_generation(s->gate, ++s->generation);
	}
	if (!events_are_quiet(s))
		events_settle_idle(o, s);
	for (unsigned i = 0; i < nr && session_state(s) < SESSION_CLOSING; i++) {
		if (m[i].event != UFFD_EVENT_PAGEFAULT || answer_message(o, s, &m[i], start))
			continue;
		if (again < AGAIN_MAX)
			m[again++] = m[i];
		else
			events_leave_fault(o, s);
	}
	return again;
}

/* A fork child's descriptor found no room in our table: make some, once. */
static bool make_room(struct owner *o)
{
	bool made = false;

	for (size_t i = 0; i < ARRAY_SIZE(o->reserve); i++) {
		made |= o->reserve[i] >= 0;
		o->reserve[i] = safe_close(o->reserve[i]);
	}
	return made;
}

/*
 * Straight into kept memory. An event is over for the kernel once it is read, so
 * at no time may it be known to this process alone: what is in the ring and not
 * taken yet, a worker after us takes. Faults it may forget: it wakes everybody.
 */
static int read_messages(struct owner *o, struct session *s, unsigned from)
{
	struct owner_ring *ring = o->ring;
	uint64_t base = atomic_load_explicit(&ring->base, memory_order_relaxed) + FLOW_MESSAGES;
	int n;

	atomic_store_explicit(&ring->session, s->id, memory_order_relaxed);
	atomic_store_explicit(&ring->base, base, memory_order_release);
	n = uffd_read(s->fds.uffd, ring->messages + from, FLOW_MESSAGES - from);
	events_keep_forks(o, s, ring->messages + from, n);
	return n;
}

/*
 * On a processor that it shares with us a program goes on while its page is placed, and
 * by the time we do there is its next fault: to read once more then saves the way through
 * epoll. Where it has one of its own, that call would be for nothing. So, what was it lately?
 */
static bool is_likely_to_follow(const struct session *s)
{
	return s->follows == FOLLOWS_LIKELY;
}

static void note_follows(struct session *s, bool does)
{
	s->follows = does ? MIN(s->follows + 1, FOLLOWS_LIKELY) : 0;
}

static void serve_inside(struct owner *o, struct session *s)
{
	unsigned again = 0, waits = 0;
	bool follows = false;

	for (unsigned round = 0; round < ROUNDS && session_state(s) < SESSION_CLOSING; round++) {
		uint64_t start = o->now = follows ? s->served_ns : now_ns();
		int n = read_messages(o, s, again);

		if (follows)
			note_follows(s, n > 0);
		else if (!round && start - s->served_ns < SOON_NS)
			note_follows(s, true);
		follows = false;

		if (n == -EMFILE) {
			if (make_room(o))
				continue;
			flow_shed(o); /* the event stays; it is read when there is room */
		}
		if (n == -EBADFD) {
			flow_tampered(o, s);
			break;
		}
		if (n <= 0 && again && uffd_is_changing(s->fds.uffd)) {
			/* A COPY would be refused again: unpacked for it is later. */
			sched_yield();
			round -= waits++ < SETTLE_WAITS;
			continue;
		}
		if (n <= 0 && events_hold_somebody(s)) {
			sched_yield(); /* to the thread whose event was read or is missing */
			round -= waits++ < SETTLE_WAITS;
		} else if (n <= 0 && again == 0) {
			return;
		}
		again = answer_all(o, s, again, again + (unsigned)MAX(n, 0), start);
		if (again == 0 && n < FLOW_MESSAGES / 2 && !events_hold_somebody(s)) {
			follows = s->served_ns >= start && round < FOLLOW_ROUNDS && is_likely_to_follow(s);
			if (!follows)
				return;
		}
	}
	/* INV-3: a wake ends a message too; the thread comes back with a new
	   one, by when the one that changes the mappings has run. */
	for (unsigned i = 0; i < again && session_state(s) < SESSION_CLOSING; i++)
		uffd_wake(s->fds.uffd, o->ring->messages[i].arg.pagefault.address & ~(PAGE_BYTES - 1), PAGE_BYTES);
}

static void set_armed(struct owner *o, struct session *s, bool armed)
{
	struct epoll_event event = { .events = armed ? EPOLLIN : 0, .data.ptr = s };

	(void)watch_set(o->epoll, EPOLL_CTL_MOD, s->fds.uffd, event);
}

void fault_serve(struct owner *o, struct session *s)
{
	if (!s->polled)
		return;
	if (!gate_enter_soon(s->gate)) {
		/* The mover wakes us through the eventfd when it is out, unless somebody
		   of ours goes in and out just before it looks (owner_settle()). */
		if (!s->gate_wait_ns) {
			s->gate_wait_ns = now_ns();
			set_armed(o, s, false);
		}
		o->unquiet = true;
		return;
	}
	serve_inside(o, s);
	gate_leave(s->gate);
	if (s->gate_wait_ns && s->polled)
		set_armed(o, s, true);
	s->gate_wait_ns = 0;
}
