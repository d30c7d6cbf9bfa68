/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Eviction, second step of the owner: the bytes are in staging, the slots say
 * so, and only then transit is dropped (INV-1).
 */
#include "flow/flow.h"

#include <sys/socket.h>

#include "common/inject.h"
#include "common/util.h"
#include "proc/record.h"

static slot_t lost(struct session *s, uint64_t vpn)
{
	switch (uffd_place_poison(s->fds.uffd, vpn << PAGE_SHIFT)) {
	case PLACED_EXISTS: /* in this address space it had not moved */
		return slot_make(SLOT_RESIDENT, 0, 0);
	case PLACED_GONE:
	case PLACED_DEAD:
		return slot_make(SLOT_NONE, 0, 0);
	default: /* if not now, then at the next fault */
		session_lost(s, 1, "they could not be read on their way out");
		return slot_make(SLOT_POISONED, 0, 0);
	}
}

/* The slot of a page that stays where it was. */
static slot_t stays(struct owner *o, struct session *s, const struct batch_page *page, uint64_t vpn,
		    slot_t slot)
{
	switch (page->result) {
	case BATCH_PAGE_BUSY:
	case BATCH_PAGE_REFUSED:
		counter_add(&s->counters.busy_total, 1);
		return refault_backoff(o, slot, true);
	case BATCH_PAGE_LOST: /* INV-7: never zeros in its place */
		return lost(s, vpn);
	default:
		return slot_make(SLOT_RESIDENT, slot_flags(slot) & ~SLOT_F_WAITING, 0);
	}
}

/* One page in one address space: the batch's own, or a child's that was forked
   while the batch was under way. True: it took a staging reference. */
static bool stage_page(struct owner *o, struct session *s, struct batch *b, unsigned i)
{
	const struct batch_page *page = &b->page[i];
	uint32_t transit = b->lane * WIRE_BATCH + i;
	uint64_t vpn = s->transit_vpn[transit];
	unsigned flags;
	slot_t slot, next;
	bool took = false;

	s->transit_vpn[transit] = 0;
	if (!vpn)
		return false;
	slot = slotmap_get(&s->slots, vpn);
	if (slot_state(slot) != SLOT_LEAVING || slot_value(slot) != transit)
		return false; /* removed or unmapped meanwhile: its bytes are dropped (INV-4) */
	/* A child that was forked since it left has its parent's marks. */
	flags = (slot_flags(slot) & ~SLOT_F_WAITING) | (page->marked ? SLOT_F_MARKED : 0);
	if (page->result == BATCH_PAGE_PULLED) {
		next = slot_make(SLOT_STAGED, flags, page->value);
		took = true;
	} else if (page->result == BATCH_PAGE_FILLED) {
		next = slot_make(SLOT_FILL, flags, page->value);
	} else {
		next = stays(o, s, page, vpn, slot);
	}
	if (slotmap_set(&s->slots, vpn, next) < 0)
		abort(); /* evict_stage has reserved the nodes */
	if (slot_is_evicted(next))
		counter_add(&s->counters.pages_out_total, 1);
	/* INV-3: who came meanwhile comes again and finds the slot settled. */
	if (slot_flags(slot) & SLOT_F_WAITING)
		uffd_wake(s->fds.uffd, vpn << PAGE_SHIFT, PAGE_BYTES);
	return took;
}

static void stage_everywhere(struct owner *o, struct batch *b, unsigned i)
{
	struct staging *staging = o->flow->staging;
	bool pulled = b->page[i].result == BATCH_PAGE_PULLED;
	uint32_t index = b->page[i].value;

	/* The pull's own reference goes to nobody: each slot takes one more, and
	   it is given back at the end. */
	for (struct session *s = b->session, *heir = s->heirs; s; s = heir, heir = s ? s->next_heir : NULL) {
		if (pulled)
			staging_ref(staging, index);
		if (!stage_page(o, s, b, i) && pulled)
			(void)staging_unref(staging, index);
	}
	if (pulled)
		(void)staging_unref(staging, index);
}

bool evict_drop(struct session *s, uint32_t lane, uint64_t pages)
{
	struct wire_order order = {
		.head = { WIRE_MAGIC, WIRE_VERSION, WIRE_ORDER },
		.op = WIRE_OP_DROP,
		.lane = lane,
		.drop_mask = pages,
	};

	return s->fds.mover >= 0 &&
	       send(s->fds.mover, &order, sizeof(order), MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)sizeof(order);
}

/* Those that wait for nothing in its transit any more: after a batch, all of them;
   of what is salvaged, those that had something in another lane stay. */
static void release_heirs(struct session *s)
{
	for (struct session **at = &s->heirs; *at;) {
		struct session *heir = *at;

		if (counter_get(&heir->slots.count[SLOT_LEAVING])) {
			at = &heir->next_heir;
			continue;
		}
		*at = heir->next_heir;
		heir->heir_of = NULL;
		if (heir->record)
			heir->record->heir_of = 0;
	}
}

void evict_stage(struct owner *o, struct batch *b)
{
	struct session *s = b->session;
	size_t nodes = b->nr;

	/* Leaves may have been shared by a fork since they were marked. */
	for (struct session *heir = s->heirs; heir; heir = heir->next_heir)
		nodes += b->nr;
	if (slot_pool_reserve(o->slots, nodes) < 0) {
		mailbox_send(&o->box, &b->mail); /* transit keeps the bytes meanwhile */
		return;
	}
	inject(INJECT_PULLED);
	for (unsigned i = 0; i < b->nr; i++) {
		stage_everywhere(o, b, i);
		inject(INJECT_STAGE_HALF);
	}
	release_heirs(s);
	inject(INJECT_STAGED);
	if (b->moved) /* if the mover can't be told, it is dead, or told before the next use */
		(void)evict_drop(s, b->lane, b->moved);
	inject(INJECT_DROPPED);
	b->mail.kind = BATCH_STAGED;
	mailbox_send(&o->flow->worker, &b->mail);
}
