/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Eviction, first step of the owner: register, mark LEAVING, order the move. */
#include "flow/flow.h"

#include <errno.h>
#include <sys/socket.h>

#include "common/inject.h"
#include "common/util.h"
#include "proc/record.h"
#include "sys/pagemap.h"

/* Mappings we register can't merge with neighbours any more; stay far below
   vm.max_map_count, or the program's own mmap fails. */
#define REGISTERED_MAX 8192

/* All but bars: a part that a mapping has grown by is registered without a word
   to us, and a REMOVE in it may still be about to zap. */
static void forget(struct session *s, uint64_t vpn, uint64_t end)
{
	uint64_t done;

	while (vpn < end) {
		uint64_t bar = slotmap_next(&s->slots, vpn, end, 1u << SLOT_BARRED);

		if (bar > vpn)
			slotmap_clear(&s->slots, vpn, bar - vpn, SLOT_NONE, &done);
		for (vpn = bar; vpn < end && slot_state(slotmap_get(&s->slots, vpn)) == SLOT_BARRED;)
			vpn++;
	}
}

/* Nothing of ours can be where nothing was registered; what is there is left
   from an address space that a fork child has not inherited (DONTFORK). */
static void forget_gaps(struct session *s, uint64_t start, uint64_t end)
{
	while (start < end) {
		const struct range *r = ranges_after(&s->registered, start);
		uint64_t gap = r ? MIN(MAX(r->start, start), end) : end;

		if (gap > start)
			forget(s, start >> PAGE_SHIFT, gap >> PAGE_SHIFT);
		start = r ? MAX(r->end, gap) : end;
	}
}

/* It may come to register any of its mappings, and must not find them taken. */
static void leave_to_itself(struct owner *o, struct session *s)
{
	atomic_store(&s->reason, SESSION_REASON_UFFD);
	flow_start_restore(o, s, true);
}

static bool is_whole(const struct session *s, const struct batch *b)
{
	struct maps_area area;

	return maps_find(s->fds.maps, b->map_start, &area) && area.is_plain && area.start == b->map_start &&
	       area.end == b->map_end;
}

/*
 * While REGISTER waited, a mapping that was not registered may have left without a word,
 * and where another lay in part of its place there may be one that still isn't: nothing
 * may be moved out of that. (What is may have merged with its neighbours.)
 */
static bool is_registered_whole(const struct session *s, const struct batch *b)
{
	struct maps_area area;

	return maps_find(s->fds.maps, b->map_start, &area) && area.is_plain && area.start <= b->map_start &&
	       area.end >= b->map_end && uffd_is_registered(s->fds.uffd, b->map_start) == 1;
}

/* One that is torn is beside a part that is ours; what a program has registered itself
   is left to it. */
static bool is_beside_ours(const struct session *s, const struct batch *b)
{
	return ranges_find(&s->registered, b->map_start - 1) || ranges_find(&s->registered, b->map_end);
}

static void look_beside(const struct session *s, const struct batch *b, struct maps_area area[2])
{
	(void)maps_find(s->fds.maps, b->map_start - 1, &area[0]);
	(void)maps_find(s->fds.maps, b->map_end, &area[1]);
}

/*
 * REGISTER waits for the program's mmap_lock, and takes a part of a mapping as well. If
 * ours has gone meanwhile, and another one lies across its ends, that one is torn, and
 * its mremap() would fail: what is beside ours now, and was not before, is the rest of
 * it. To register more is always safe, to undo it is not: pages that are away may have
 * been moved there. (The worker finds what escapes this, proc/mappings.h.)
 */
static void mend(const struct session *s, const struct batch *b, const struct maps_area before[2])
{
	struct maps_area now[2];

	look_beside(s, b, now);
	for (unsigned i = 0; i < 2; i++)
		if (now[i].is_plain && (now[i].start != before[i].start || now[i].end != before[i].end) &&
		    !mappings_is_never(now[i].start, now[i].end, s->attach.never, s->attach.nr_never) &&
		    uffd_is_registered(s->fds.uffd, now[i].start) != 1)
			(void)uffd_register(s->fds.uffd, now[i].start, now[i].end - now[i].start, s->marks);
}

/* False: without memory. Registered and not listed does no harm. Not undone: part of it
   was registered before, and pages of that part may be away. */
static bool put_on_list(struct session *s, const struct batch *b)
{
	if (ranges_cover(&s->registered, b->map_start, b->map_end))
		return true;
	forget_gaps(s, b->map_start, b->map_end);
	if (ranges_add(&s->registered, b->map_start, b->map_end) < 0)
		return false;
	record_commit(s, 0);
	atomic_store(&s->counters.registered_bytes, ranges_bytes(&s->registered));
	return true;
}

static bool register_mapping(struct owner *o, struct session *s, const struct batch *b)
{
	uint64_t len = b->map_end - b->map_start;
	const struct range *known = ranges_after(&s->registered, b->map_start);
	struct maps_area beside[2];
	int r;

	if (s->registered.nr >= REGISTERED_MAX || !is_whole(s, b) || (!b->nr && !is_beside_ours(s, b)))
		return false;
	/* Our list may be wrong: a fork child has not inherited every mapping, and
	   shmat(SHM_REMAP) puts another in its place without a word. It is one
	   mapping, so a look at its first page tells; unless that page was unmapped
	   just now, of which an event will tell. */
	if (known && known->start < b->map_end) {
		r = uffd_is_registered(s->fds.uffd, b->map_start);
		/* What is on the list whole we have registered, but for one whose child it is, and
		   for what was learnt from the kernel (again.c), which goes without marks. */
		if (r > 0 && s->marks && !s->parent_pid &&
		    ranges_cover(&s->registered, b->map_start, b->map_end))
			return true;
		if (r < 0 || (r == 0 && ranges_remove(&s->registered, b->map_start, b->map_end) < 0))
			return false;
	}
	/* Where it isn't certain, the kernel is asked: a page moved out of a mapping that
	   is not registered would be lost. Not for each batch, since it takes the
	   program's mmap_lock for writing. */
	look_beside(s, b, beside);
	r = uffd_register(s->fds.uffd, b->map_start, len, s->marks);
	if (r == -EBUSY)
		leave_to_itself(o, s);
	if (r < 0)
		return false;
	mend(s, b, beside);
	return put_on_list(s, b) && is_registered_whole(s, b);
}

/* MADV_FREE leaves its pages in place, and only the threads tell that it is over
   (proc/quiet.h). */
static slot_t lift_bar(struct session *s, uint64_t vpn, slot_t slot)
{
	slot_t free_slot = slot_make(SLOT_RESIDENT, 0, 0);

	if (slot_state(slot) != SLOT_BARRED || slot_value(slot) == 0 ||
	    slot_value(slot) << FLOW_TIME_SHIFT > atomic_load(&s->outside_ns) ||
	    slotmap_set(&s->slots, vpn, free_slot) < 0)
		return slot;
	return free_slot;
}

/* Keeps the pages that may leave; their slots say so before the order goes. */
static void mark_pages(struct session *s, struct batch *b)
{
	uint64_t now = now_ns();
	uint16_t kept = 0;

	for (uint16_t i = 0; i < b->nr; i++) {
		uint64_t vpn = b->page[i].vpn;
		uint32_t transit = b->lane * WIRE_BATCH + kept;
		slot_t slot = lift_bar(s, vpn, slotmap_get(&s->slots, vpn));

		if (!refault_may_leave(slot, now) &&
		    !((b->forced || b->hard) && slot_state(slot) == SLOT_RESIDENT))
			continue;
		if (slotmap_set(&s->slots, vpn, slot_make(SLOT_LEAVING, slot_flags(slot), transit)) < 0)
			continue;
		s->transit_vpn[transit] = vpn;
		b->page[kept++] = (struct batch_page){
			.vpn = vpn,
			.in_order = slot_state(slot) == SLOT_RESIDENT && slot_value(slot) & SLOT_IN_ORDER,
		};
	}
	b->nr = kept;
}

static void list_ranges(struct wire_order *order, const struct batch *b)
{
	for (uint16_t i = 0; i < b->nr; i++) {
		struct wire_move *last = &order->range[order->nr_ranges];

		if (i && b->page[i].vpn == b->page[i - 1].vpn + 1) {
			last[-1].pages++;
			continue;
		}
		*last = (struct wire_move){ .address = b->page[i].vpn << PAGE_SHIFT, .pages = 1 };
		order->nr_ranges++;
	}
}

/*
 * From here on the batch is the worker's, whatever the peer says and when: it
 * waits for a report, or to be told that there will be none.
 */
static void order_move(struct owner *o, struct session *s, struct batch *b)
{
	struct wire_order order = {
		.head = { WIRE_MAGIC, WIRE_VERSION, WIRE_ORDER },
		.op = WIRE_OP_MOVE,
		.seq = b->seq,
		.generation = s->generation,
		.lane = b->lane,
		.mark = s->marks,
	};

	b->generation = s->generation;
	list_ranges(&order, b);
	inject(INJECT_MARKED);
	atomic_store_explicit(&b->ordered, true, memory_order_release);
	if (send(s->fds.mover, &order, sizeof(order), MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)sizeof(order))
		notice_send(&o->box, &s->to_owner, SESSION_OWN_CHECK); /* no mover */
}

void evict_mark(struct owner *o, struct batch *b)
{
	struct session *s = b->session;

	events_settle_idle(o, s);
	if (session_state(s) != SESSION_ACTIVE || !events_are_settled(s) || s->barred || s->mover_gone ||
	    s->heir_of || (!s->enabled && !b->forced) || uffd_is_changing(s->fds.uffd)) {
		b->nr = 0;
	} else if (!register_mapping(o, s, b)) {
		b->refused = true;
		b->nr = 0;
	} else {
		flow_tell_away(s, b->nr);
		mark_pages(s, b);
	}
	if (b->nr) {
		order_move(o, s, b);
		inject(INJECT_ORDERED);
		return; /* the worker hears from the mover */
	}
	b->mail.kind = BATCH_STAGED;
	mailbox_send(&o->flow->worker, &b->mail);
}
