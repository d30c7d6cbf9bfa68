/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The life of a session in its owner: watched, restored, closed. */
#include "flow/flow.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "common/inject.h"
#include "common/util.h"
#include "common/watch.h"
#include "flow/order.h"
#include "proc/gate.h"
#include "proc/record.h"
#include "sys/pagemap.h"

#define RESTORE_SLICE 32	  /* pages between two looks at other faults */
#define POISON_RUN 64u		  /* pages of one ioctl */
#define CLOSE_SLICE (64u * 512u) /* pages of address space */
#define UNREGISTER_NS 1000000ull /* others wait for their faults */
#define STUCK_NS (5 * NSEC_PER_SEC)
#define SHED 8u /* processes at a time */

#define ANY_MASK (~1u & ((1u << SLOT_STATES) - 1))

static void slot_get_ref(void *ctx, slot_t slot)
{
	struct flow *flow = session_owner(ctx)->flow;

	if (slot_state(slot) == SLOT_STAGED)
		staging_ref(flow->staging, (uint32_t)slot_value(slot));
	else
		blobstore_ref(flow->blobstore, (blob_id)slot_value(slot));
}

static void slot_put_ref(void *ctx, slot_t slot)
{
	flow_drop(session_owner(ctx)->flow, slot);
}

static void slot_moved(void *ctx, slot_t slot)
{
	if (slot_state(slot) != SLOT_STAGED)
		blobstore_touch(session_owner(ctx)->flow->blobstore, flow_slot_blob(slot));
}

const struct slot_refs flow_slot_refs = { .get = slot_get_ref, .put = slot_put_ref, .moved = slot_moved };

void flow_drop(struct flow *flow, slot_t slot)
{
	blob_id blob = 0;

	switch (slot_state(slot)) {
	case SLOT_STAGED:
		blob = staging_unref(flow->staging, (uint32_t)slot_value(slot));
		break;
	case SLOT_STORED:
	case SLOT_FETCHING:
	case SLOT_CLEAN:
		blob = (blob_id)slot_value(slot);
		break;
	default:
		break;
	}
	if (blob)
		blobstore_unref(flow->blobstore, blob);
}

int flow_watch(struct owner *o, struct session *s)
{
	struct epoll_event event = { .events = EPOLLIN, .data.ptr = s };
	int r;

	assert(!s->polled);
	r = watch_set(o->epoll, EPOLL_CTL_ADD, s->fds.uffd, event);
	if (r < 0)
		return r;
	s->polled = true;
	s->next_owned = o->owned;
	o->owned = s;
	return 0;
}

void flow_unwatch(struct owner *o, struct session *s)
{
	struct session **at;

	if (!s->polled)
		return;
	epoll_ctl(o->epoll, EPOLL_CTL_DEL, s->fds.uffd, NULL);
	if (s->fds.gate_event >= 0)
		epoll_ctl(o->epoll, EPOLL_CTL_DEL, s->fds.gate_event, NULL);
	for (at = &o->owned; *at != s; at = &(*at)->next_owned)
		;
	*at = s->next_owned;
	s->polled = false;
	prefetch_forget(o, s);
}

static void leave_family(struct session *s)
{
	struct session **at;

	if (!s->heir_of)
		return;
	for (at = &s->heir_of->heirs; *at != s; at = &(*at)->next_heir)
		;
	*at = s->next_heir;
	s->heir_of = NULL;
}

static void add_job(struct owner *o, struct session *s)
{
	if (s->in_job)
		return;
	s->in_job = true;
	s->next_job = o->jobs;
	o->jobs = s;
}

void flow_close(struct owner *o, struct session *s)
{
	if (session_state(s) >= SESSION_CLOSING)
		return;
	events_flush(o, s); /* children live on */
	session_set_state(s, SESSION_CLOSING);
	inject(INJECT_CLOSING);
	fetch_close(o, s);
	unpack_forget(o, s);
	flow_unwatch(o, s);
	leave_family(s);
	/* Its transit, which nobody has looked through yet, may be what fork children
	   wait for: it goes when that is done. */
	if (s->recover && s->heirs)
		notice_send(&o->flow->worker, &s->to_worker, SESSION_WORK_SALVAGE);
	s->recover = SESSION_RECOVERED;
	order_finish(o->flow, &s->restore_order, s->detach ? 0 : -ESRCH);
	s->restore_vpn = 0;
	add_job(o, s);
}

void flow_start_restore(struct owner *o, struct session *s, bool detach)
{
	if (session_state(s) >= SESSION_CLOSING)
		return;
	s->detach |= detach;
	session_set_state(s, SESSION_RESTORING);
	s->restore_vpn = 0;
	s->poison_at = 0;
	add_job(o, s);
	notice_send(&o->flow->engine, &s->to_engine, SESSION_NEWS_STATE);
}

void flow_tell_away(struct session *s, uint64_t more)
{
	if (s->blind) /* what it has lost is in no slot */
		gate_set_unknown(s->gate);
	else
		gate_set_away(s->gate, more + session_evicted_pages(s) + counter_get(&s->slots.count[SLOT_LEAVING]) +
					counter_get(&s->slots.count[SLOT_POISONED]));
}

void flow_tampered(struct owner *o, struct session *s)
{
	s->tampered = true;
	s->stuck_ns = 0;
	atomic_store(&s->reason, "its userfaultfd was tampered with");
	events_flush(o, s);
	flow_unwatch(o, s);
	flow_start_restore(o, s, true);
}

void flow_shed(struct owner *o)
{
	struct session *oldest[SHED] = { NULL };
	unsigned n = 0;

	for (struct session *s = o->owned; s; s = s->next_owned) /* newest first */
		if (session_state(s) == SESSION_SERVED && !s->gate)
			oldest[n++ % SHED] = s;
	for (unsigned i = 0; i < MIN(n, SHED); i++) {
		atomic_store(&oldest[i]->reason, "its descriptor was needed for a fork");
		flow_start_restore(o, oldest[i], true);
	}
}

static bool job_close(struct owner *o, struct session *s)
{
	uint64_t vpn = slotmap_next(&s->slots, s->restore_vpn, SLOTMAP_VPN_MAX, ANY_MASK), done;

	if (vpn < SLOTMAP_VPN_MAX) {
		s->restore_vpn = MIN((vpn | 511) + 1 + CLOSE_SLICE, SLOTMAP_VPN_MAX);
		slotmap_clear(&s->slots, vpn & ~511ull, s->restore_vpn - (vpn & ~511ull), SLOT_NONE,
			      &done);
		return true;
	}
	slotmap_deinit(&s->slots);
	flow_account_store(s, -(int64_t)counter_get(&s->counters.stored_bytes));
	flow_account_bars(s, 0);
	session_set_state(s, SESSION_CLOSED);
	notice_send(&o->flow->worker, &s->to_worker, SESSION_WORK_CLOSED);
	return false;
}

/* A mapping that has grown in place is registered to its end, without a word to us:
   let go of in part it would be two, and its mremap() fail. */
static void unregister_whole(const struct session *s, const struct range *r)
{
	struct maps_area first = { 0 }, last = { 0 };
	uint64_t start = r->start, end = r->end;

	if (s->fds.maps >= 0 && maps_find(s->fds.maps, start, &first))
		start = MIN(start, first.start);
	if (s->fds.maps >= 0 && maps_find(s->fds.maps, end - 1, &last))
		end = MAX(end, last.end);
	if (uffd_unregister(s->fds.uffd, start, end - start) < 0 && end - start > r->end - r->start)
		uffd_unregister(s->fds.uffd, r->start, r->end - r->start); /* something else lies there by now */
}

/* With nothing away, nothing need be registered: first touches cost no message
   then, and debuggers can read what was never touched. What was registered for marks
   takes the kernel 30 ms a GiB that is there (sys/uffd.h), so others have their turn
   between two. True: that's all. */
static bool unregister_some(struct session *s)
{
	uint64_t begin = now_ns();

	for (size_t i = s->registered.nr; i-- > 0 && now_ns() - begin < UNREGISTER_NS; s->registered.nr = i)
		unregister_whole(s, &s->registered.v[i]);
	s->registered.changes++;
	record_commit(s, 0);
	atomic_store(&s->counters.registered_bytes, ranges_bytes(&s->registered));
	return s->registered.nr == 0;
}

/* Everything is back: let go of the process, or go on as before. */
static bool end_restore(struct owner *o, struct session *s)
{
	struct wire_order leave = { .head = { WIRE_MAGIC, WIRE_VERSION, WIRE_ORDER },
				    .op = WIRE_OP_LEAVE };

	if (!unregister_some(s))
		return true; /* jobs come round */
	if (!s->detach) {
		session_set_state(s, s->gate ? SESSION_ACTIVE : SESSION_SERVED);
		order_finish(o->flow, &s->restore_order, 0);
		notice_send(&o->flow->engine, &s->to_engine, SESSION_NEWS_STATE);
		return false;
	}
	inject(INJECT_RESTORED);
	uffd_unregister(s->fds.uffd, s->transit, WIRE_TRANSIT_PAGES * PAGE_BYTES);
	uffd_unregister(s->fds.uffd, s->identity, PAGE_BYTES);
	/* A mover that can't be told goes with its process; it holds nothing
	   that is missing any more. */
	if (s->fds.mover >= 0)
		(void)send(s->fds.mover, &leave, sizeof(leave), MSG_DONTWAIT | MSG_NOSIGNAL);
	s->in_job = false; /* closing is a job of its own */
	flow_close(o, s);
	return false;
}

/* No room in its control group. An order ends there, short of its aim; who is
   to be let go has to wait, as he would be killed for going on. */
static bool stop_restore(struct owner *o, struct session *s)
{
	if (s->detach)
		return false;
	s->in_job = false;
	s->state = s->gate ? SESSION_ACTIVE : SESSION_SERVED;
	order_finish(o->flow, &s->restore_order, -ENOMEM);
	notice_send(&o->flow->engine, &s->to_engine, SESSION_NEWS_STATE);
	return false;
}

/* Begins to read it from its slow tier, and with it those that lie near it there. False:
   the slice must end here. */
static bool restore_slow(struct owner *o, struct session *s, uint64_t vpn)
{
	if (fetch_ahead(o, s, vpn, UINT32_MAX)) /* they take their room themselves */
		return true;
	if (fetch_ahead_later(o))
		return false;
	if (!room_use(o, s, 1))
		return stop_restore(o, s);
	return fetch_start(o, s, vpn, false, false) == PLACED_DONE;
}

/* False: the slice must end here. */
static bool restore_page(struct owner *o, struct session *s, uint64_t vpn)
{
	slot_t slot = slotmap_get(&s->slots, vpn);
	struct order *order = s->restore_order;

	if (refault_is_guarded(o, s, vpn, slot))
		return true;
	if (fetch_is_needed(o, slot))
		return restore_slow(o, s, vpn);
	if (!room_use(o, s, 1))
		return stop_restore(o, s);
	switch (refault_place(o, s, vpn, slot, false)) {
	case PLACED_DONE:
		if (order)
			order->bytes += PAGE_BYTES;
		return true;
	case PLACED_EXISTS:
		uffd_wake(s->fds.uffd, vpn << PAGE_SHIFT, PAGE_BYTES);
		refault_forget(o, s, vpn, slot, SLOT_RESIDENT);
		return true;
	case PLACED_GONE:
	case PLACED_FAILED:
		/* No registered mapping there and no event unread: nobody can
		   ever touch it. */
		uffd_wake(s->fds.uffd, vpn << PAGE_SHIFT, PAGE_BYTES);
		refault_forget(o, s, vpn, slot, SLOT_NONE);
		return true;
	case PLACED_DEAD:
		s->in_job = false;
		flow_close(o, s);
		return false;
	case PLACED_NOMEM:
		room_none(o, s);
		return stop_restore(o, s);
	case PLACED_RETRY:
		return false;
	}
	return false;
}

/* The next pages that are missing and lost, from s->poison_at on; 0: there are none. */
static unsigned next_lost(struct session *s)
{
	const struct range *r;
	uint64_t vpn;

	if (!s->blind) {
		vpn = slotmap_next(&s->slots, s->poison_at >> PAGE_SHIFT, SLOTMAP_VPN_MAX, 1u << SLOT_POISONED);
		s->poison_at = vpn << PAGE_SHIFT;
		return vpn < SLOTMAP_VPN_MAX;
	}
	r = ranges_after(&s->registered, s->poison_at);
	if (!r)
		return 0;
	s->poison_at = MAX(s->poison_at, r->start);
	return (unsigned)MIN((r->end - s->poison_at) >> PAGE_SHIFT, POISON_RUN);
}

/*
 * What is lost must not become zeros when nobody is asked any more (INV-7): of a
 * blind session that is all that is missing, of others the pages whose slots say so
 * and that nobody has touched since. Inside. True: that is done.
 */
static bool poison_lost(struct owner *o, struct session *s)
{
	unsigned asked, pages, most = POISON_RUN;

	for (unsigned i = 0; i < RESTORE_SLICE; i++) {
		asked = pages = MIN(next_lost(s), most);
		if (!asked)
			return true;
		most = POISON_RUN;
		switch (uffd_place_poison_run(s->fds.uffd, s->poison_at, &pages)) {
		case PLACED_DONE:
			if (s->blind)
				session_lost(s, pages, FLOW_LOST_BEFORE);
			s->poison_at += (uint64_t)pages << PAGE_SHIFT;
			break;
		case PLACED_GONE: /* across the border of two mappings, or nothing is there */
			most = MAX(asked / 2, 1u);
			s->poison_at += asked == 1 ? PAGE_BYTES : 0;
			break;
		case PLACED_EXISTS:
			s->poison_at += PAGE_BYTES;
			break;
		case PLACED_DEAD:
			s->in_job = false;
			flow_close(o, s);
			return false;
		case PLACED_NOMEM:
		case PLACED_FAILED:
		case PLACED_RETRY:
			return false; /* jobs come round */
		}
	}
	return false;
}

/* Its events are not read any more, so COPY may answer EAGAIN for ever: what
   doesn't get back in time is lost to it, by its own doing. */
static bool is_stuck(struct session *s)
{
	uint64_t left = session_evicted_pages(s) + counter_get(&s->slots.count[SLOT_LEAVING]);
	uint64_t now = now_ns();

	if (!s->tampered)
		return false;
	if (!s->stuck_ns || left != s->stuck_left) {
		s->stuck_ns = now;
		s->stuck_left = left;
	}
	return now - s->stuck_ns >= STUCK_NS;
}

static void restore_slice(struct owner *o, struct session *s)
{
	struct order *order = s->restore_order;

	for (unsigned i = 0, n; i < RESTORE_SLICE; i += MAX(n, 1)) {
		s->restore_vpn = slotmap_next(&s->slots, s->restore_vpn, SLOTMAP_VPN_MAX, FLOW_HERE_MASK);
		if (s->restore_vpn == SLOTMAP_VPN_MAX)
			break;
		(void)unpack_ahead(o, s, s, s->restore_vpn, s->restore_vpn + UNPACK_PAGES, RESTORE_SLICE - i);
		n = refault_place_run(o, s, s->restore_vpn, RESTORE_SLICE - i);
		if (n && order)
			order->bytes += (uint64_t)n << PAGE_SHIFT;
		if (!n && !restore_page(o, s, s->restore_vpn))
			break;
	}
}

/* Nothing of it is with us, or on its way to us (INV-1). */
static bool is_back(const struct session *s)
{
	return !session_evicted_pages(s) && !counter_get(&s->slots.count[SLOT_LEAVING]);
}

static bool job_restore(struct owner *o, struct session *s)
{
	bool is_done = false;

	if (is_stuck(s)) {
		s->in_job = false; /* closing is a job of its own */
		flow_close(o, s);
		return false;
	}
	if (!events_are_settled(s) || !gate_enter(s->gate))
		return true; /* jobs come round */
	if (!is_back(s))
		restore_slice(o, s);
	if (session_state(s) == SESSION_RESTORING && is_back(s))
		is_done = poison_lost(o, s);
	gate_leave(s->gate);
	if (is_back(s) || session_state(s) != SESSION_RESTORING)
		unpack_drop(o, s);
	/* From the start again: what was on its way out has come by now, or will. */
	if (s->restore_vpn == SLOTMAP_VPN_MAX)
		s->restore_vpn = 0;
	return is_done ? end_restore(o, s) : session_state(s) == SESSION_RESTORING;
}

bool flow_job(struct owner *o, struct session *s)
{
	switch (session_state(s)) {
	case SESSION_RESTORING:
		return job_restore(o, s);
	case SESSION_CLOSING:
		return job_close(o, s);
	default:
		return false;
	}
}
