/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Events in the order in which they happened.
 *
 * The kernel changes the mappings under its lock, drops the lock, and only
 * then queues the event; so events of two threads may be read in the wrong
 * order. One that moves a mapping onto addresses which, to our knowledge, are
 * still in use (REMAP C to A, while the REMAP A to B or the munmap of A that
 * must have come before is not read yet) waits here until they are free.
 * Applied at once it would drop what belongs to B.
 *
 * While one waits, the slots don't say what the mappings are: no fault is
 * answered, nothing is marked or restored. The missing event's thread is
 * running and about to queue it, so that is short. If the kernel says that no
 * change is under way, our list was wrong (a fork child knows ranges that it
 * has not inherited), and what waits is applied.
 */
#include "flow/flow.h"

#include "common/inject.h"
#include "common/util.h"
#include "proc/record.h"

static bool is_registered(const struct session *s, uint64_t start, uint64_t end)
{
	const struct range *r = ranges_after(&s->registered, start);

	return r && r->start < end;
}

/* Does msg touch the source of a REMAP that waits, or drop from its target?
   Then it is younger than that. (An UNMAP of the target is what is awaited.) */
static bool is_behind(const struct uffd_msg *msg, const struct uffd_msg *remap)
{
	uint64_t from = remap->arg.remap.from, to = remap->arg.remap.to, len = remap->arg.remap.len;
	uint64_t start, end;

	if (msg->event == UFFD_EVENT_REMAP) {
		start = msg->arg.remap.from;
		end = start + msg->arg.remap.len;
	} else {
		start = msg->arg.remove.start;
		end = msg->arg.remove.end;
	}
	if (start < from + len && from < end)
		return true;
	return msg->event == UFFD_EVENT_REMOVE && start < to + len && to < end;
}

static bool must_wait(const struct session *s, unsigned i)
{
	const struct uffd_msg *msg = &s->waiting[i];

	if (msg->event == UFFD_EVENT_FORK) /* the child has the mappings as they are now */
		return i > 0;
	for (unsigned j = 0; j < i; j++)
		if (s->waiting[j].event == UFFD_EVENT_FORK ||
		    (s->waiting[j].event == UFFD_EVENT_REMAP && is_behind(msg, &s->waiting[j])))
			return true;
	return msg->event == UFFD_EVENT_REMAP &&
	       is_registered(s, msg->arg.remap.to, msg->arg.remap.to + msg->arg.remap.len);
}

static void take_out(struct session *s, unsigned i)
{
	for (s->nr_waiting--; i < s->nr_waiting; i++)
		s->waiting[i] = s->waiting[i + 1];
}

/* phase: how far the worker before us had come with it. It waits until it is
   done, so that another one would do it again. */
static void apply(struct owner *o, struct session *s, unsigned i, unsigned phase)
{
	struct uffd_msg msg = s->waiting[i];

	s->applying = i;
	s->phase = phase;
	if (!phase)
		record_note(s, i, 1);
	events_apply(o, s, &msg);
	inject(INJECT_EVENT_APPLIED);
	take_out(s, i);
	record_commit(s, 0);
}

/* Applies what can be applied, oldest first, until nothing changes. */
static void settle(struct owner *o, struct session *s)
{
	for (unsigned i = 0; i < s->nr_waiting;) {
		if (must_wait(s, i)) {
			i++;
			continue;
		}
		apply(o, s, i, 0);
		i = 0;
	}
	if (s->nr_waiting || !s->wake_all)
		return;
	s->wake_all = false;
	uffd_wake_all(s->fds.uffd);
}

static void force_first(struct owner *o, struct session *s)
{
	apply(o, s, 0, 0);
	settle(o, s);
}

void events_recover(struct owner *o, struct session *s)
{
	unsigned i, phase = s->record ? record_noted(s->record, &i) : 0;

	if (phase)
		apply(o, s, i, phase);
	settle(o, s);
	o->unquiet |= !events_are_quiet(s);
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

void events_take(struct owner *o, struct session *s, const struct uffd_msg *msg)
{
	if (!is_in_reach(msg))
		return;
	if (s->nr_waiting == SESSION_WAITING_MAX)
		force_first(o, s);
	s->waiting[s->nr_waiting++] = *msg;
	record_commit(s, o->event);
	inject(INJECT_EVENT_TAKEN);
	settle(o, s);
	o->unquiet |= !events_are_quiet(s);
}

void events_settle_idle(struct owner *o, struct session *s)
{
	if (events_are_quiet(s) || uffd_is_changing(s->fds.uffd))
		return;
	if (s->nr_waiting) {
		force_first(o, s);
		return;
	}
	/* No event is on its way, so no UNMAP of a vacated range either: they
	   were left mapped (MREMAP_DONTUNMAP). */
	s->vacated.nr = 0;
	s->superseded.nr = 0;
	record_commit(s, 0);
}
