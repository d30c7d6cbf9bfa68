/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Events in the order in which they happened.
 *
 * The kernel changes the mappings under its lock, drops the lock, and only
 * then queues the event; so events of several threads are read in any order,
 * and an mremap announces itself in up to three. But from before a change until
 * its event was read and its thread has run again, the kernel says so (COPY
 * answers EAGAIN). So what was read waits here until it says nothing of the
 * kind: then no event is missing, and which order of them is possible can be
 * told (event_plan.c).
 *
 * While one waits, the slots don't say what the mappings are: nothing is
 * answered, marked or restored. That costs no fault anything, for its COPY would
 * be refused as long; and the last of those threads is running.
 *
 * A program whose threads are never at rest all at once fills the list. Then
 * the order is made of what is there, and UNMAPs that belong to REMAPs of
 * before are known by s->vacated.
 */
#include "flow/flow.h"

#include <string.h>
#include <unistd.h>

#include "common/inject.h"
#include "common/util.h"
#include "proc/record.h"

#define FORK_PAUSE_USEC 1000
#define FORK_TRIES 100

static void take_out(struct session *s, struct event_plan *plan, unsigned i)
{
	for (unsigned k = 0; plan && k < plan->nr; k++) {
		struct event_step *step = &plan->step[k];

		step->event -= step->event > i;
		if (step->tail != EVENT_NO_TAIL)
			step->tail -= step->tail > i;
	}
	for (s->nr_waiting--; i < s->nr_waiting; i++)
		s->waiting[i] = s->waiting[i + 1];
}

/* Its own events went to the child with its session (events.c). */
static void take_out_child(struct session *s, struct event_plan *plan, int child)
{
	for (unsigned i = 0; i < s->nr_waiting;)
		if (event_is_of_child(&s->waiting[i]) && event_child(&s->waiting[i]) == child)
			take_out(s, plan, i);
		else
			i++;
}

/* phase: how far the worker before us had come with it. It waits until it is
   done, so that another one would do it again. False: it waits on. */
static bool apply(struct owner *o, struct session *s, struct event_plan *plan, struct event_step step,
		  unsigned phase)
{
	struct uffd_msg msg = s->waiting[step.event];

	s->applying = step.event;
	s->phase = phase;
	if (!phase)
		record_note(s, step.event, 1);
	if (!events_apply(o, s, &msg, step.how))
		return false;
	inject(INJECT_EVENT_APPLIED);
	if (step.tail != EVENT_NO_TAIL) /* it is behind, so the other stays where it is */
		take_out(s, plan, step.tail);
	take_out(s, plan, step.event);
	if (msg.event == UFFD_EVENT_FORK)
		take_out_child(s, plan, (int)msg.arg.fork.ufd);
	record_commit(s, 0);
	return true;
}

/* With five levels of page tables a program may have addresses that slotmaps
   don't index. Nothing of ours is there. */
static bool is_in_reach(const struct uffd_msg *msg)
{
	const uint64_t end = SLOTMAP_VPN_MAX << PAGE_SHIFT;

	switch (msg->event) {
	case UFFD_EVENT_REMAP:
		return msg->arg.remap.from + msg->arg.remap.len <= end &&
		       msg->arg.remap.to + msg->arg.remap.len <= end;
	case UFFD_EVENT_REMOVE:
	case UFFD_EVENT_UNMAP:
		return msg->arg.remove.end <= end;
	default:
		return true;
	}
}

/*
 * The child does something itself: what, says how it was. Its threads go on with
 * that. Read into kept memory, as all events are (fault.c: read_messages), under
 * numbers of their own; those read before have all been taken.
 */
static void hear_child(struct owner *o, struct session *s, int child)
{
	struct owner_ring *ring = o->ring;
	unsigned room = SESSION_WAITING_MAX - s->nr_waiting;
	uint64_t base;
	int n;

	if (!room) { /* and nobody brings more of them, as all wait for us */
		events_flush(o, s);
		return;
	}
	base = atomic_load_explicit(&ring->base, memory_order_relaxed) + FLOW_MESSAGES;
	atomic_store_explicit(&ring->session, s->id, memory_order_relaxed);
	atomic_store_explicit(&ring->child, (uint64_t)child + 1, memory_order_relaxed);
	atomic_store_explicit(&ring->base, base, memory_order_release);
	n = uffd_read(child, ring->heard, MIN(room, (unsigned)FLOW_HEARD));
	events_keep_forks(o, s, ring->heard, n);
	inject(INJECT_CHILD_HEARD);
	for (int i = 0; i < n; i++) {
		struct uffd_msg *msg = &ring->heard[i];

		/* faults: all are woken when it has a session */
		if (msg->event == UFFD_EVENT_PAGEFAULT || !is_in_reach(msg))
			continue;
		s->waiting[s->nr_waiting] = *msg;
		event_set_child(&s->waiting[s->nr_waiting++], child);
	}
	record_commit(s, base + FLOW_HEARD);
	memset(ring->heard, 0, sizeof(ring->heard));
	o->unquiet = true;
}

/* Nothing is on its way: what no UNMAP has come of was left as it was (MREMAP_DONTUNMAP). */
static void end_vacated(struct session *s)
{
	for (size_t i = 0; i < s->vacated.nr; i++)
		if (uffd_is_registered(s->fds.uffd, s->vacated.v[i].start) == 1 &&
		    ranges_add(&s->registered, s->vacated.v[i].start, s->vacated.v[i].end) < 0)
			s->barred = true;
	s->vacated.nr = 0;
}

/* False: what waits has to wait on. */
static bool settle(struct owner *o, struct session *s, bool complete)
{
	struct event_plan plan;

	switch (event_plan_make(s, complete, &plan)) {
	case EVENT_ASK_CHILD:
		hear_child(o, s, plan.child);
		return false;
	case EVENT_UNKNOWN:
		return false;
	case EVENT_KNOWN:
		break;
	}
	for (unsigned i = 0; i < plan.nr; i++)
		if (!apply(o, s, &plan, plan.step[i], 0))
			return false;
	assert(!s->nr_waiting);
	if (complete && s->vacated.nr) {
		end_vacated(s);
		record_commit(s, 0);
	}
	if (s->wake_all) {
		s->wake_all = false;
		uffd_wake_all(s->fds.uffd);
	}
	return true;
}

void events_recover(struct owner *o, struct session *s)
{
	unsigned i, phase = s->record ? record_noted(s->record, &i) : 0;

	for (unsigned k = 0; k < s->nr_waiting; k++)
		event_set_again(&s->waiting[k]);
	if (phase) {
		struct event_step step = { .event = (uint8_t)i, .how = EVENT_LATE, .tail = EVENT_NO_TAIL };

		if (s->waiting[i].event == UFFD_EVENT_UNMAP)
			step.how = EVENT_PLAIN;
		(void)apply(o, s, NULL, step, phase);
	}
	o->unquiet |= !events_are_quiet(s);
}

void events_take(struct owner *o, struct session *s, const struct uffd_msg *msg)
{
	struct uffd_msg *last;

	if (!is_in_reach(msg))
		return;
	if (s->nr_waiting == SESSION_WAITING_MAX)
		events_flush(o, s);
	last = &s->waiting[s->nr_waiting++];
	*last = *msg;
	if (o->recovering)
		event_set_again(last);
	record_commit(s, o->event);
	inject(INJECT_EVENT_TAKEN);
	o->unquiet = true;
}

void events_settle_idle(struct owner *o, struct session *s)
{
	if (events_are_quiet(s) || uffd_is_changing(s->fds.uffd))
		return;
	(void)settle(o, s, true);
}

/* Its descriptor stays open, also with a worker after us, so that the child waits. */
static void keep_lost(struct owner *o, int child)
{
	for (unsigned i = 0; i < FLOW_LOST; i++)
		if (!o->ring->lost[i]) {
			o->ring->lost[i] = child + 1;
			return;
		}
}

static void give_up_forks(struct owner *o, struct session *s)
{
	for (unsigned i = 0; i < s->nr_waiting;) {
		int child = (int)s->waiting[i].arg.fork.ufd;

		if (s->waiting[i++].event != UFFD_EVENT_FORK)
			continue;
		keep_lost(o, child);
		take_out(s, NULL, i - 1);
		take_out_child(s, NULL, child);
		i = 0;
	}
	record_commit(s, 0);
}

void events_flush(struct owner *o, struct session *s)
{
	/* A fork without memory has no other place to wait in, and others wait with it. */
	for (unsigned i = 0; s->nr_waiting && !settle(o, s, false) && i < FORK_TRIES; i++)
		usleep(FORK_PAUSE_USEC);
	if (!s->nr_waiting)
		return;
	give_up_forks(o, s);
	if (s->nr_waiting)
		(void)settle(o, s, false);
}

void events_leave_fault(struct owner *o, struct session *s)
{
	s->wake_all = true;
	o->unquiet = true;
}

bool events_hold_somebody(const struct session *s)
{
	if (s->wake_all)
		return true;
	for (unsigned i = 0; i < s->nr_waiting; i++)
		if (s->waiting[i].event == UFFD_EVENT_FORK)
			return true;
	return false;
}
