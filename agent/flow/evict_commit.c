/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Eviction, last step of the owner: the blob is complete, so the slot may
 * name it, and the staging copy goes after that (INV-1). A page that could not
 * be stored is brought back instead.
 *
 * The pack thread holds one staging reference for each page of this step.
 */
#include "flow/flow.h"

#include "common/inject.h"
#include "common/util.h"
#include "proc/gate.h"

#define TAKEN_BACK 64 /* pages of a session at a time: others wait for their faults */

/* Gives the pack thread's reference back. Slots of fork children that still
   name the copy find the blob through it. */
static void release_staging(struct owner *o, struct batch_page *page)
{
	struct flow *flow = o->flow;
	blob_id blob;

	if (page->blob && staging_is_shared(flow->staging, page->value) &&
	    !staging_forwarded(flow->staging, page->value)) {
		blobstore_ref(flow->blobstore, page->blob);
		staging_forward(flow->staging, page->value, page->blob);
	} else if (!page->blob && staging_is_shared(flow->staging, page->value)) {
		staging_leave(flow->staging, page->value);
	}
	blob = staging_unref(flow->staging, page->value);
	if (blob)
		blobstore_unref(flow->blobstore, blob);
}

bool evict_forget_forwarder(struct owner *o, struct session *s, uint64_t vpn)
{
	struct flow *flow = o->flow;
	slot_t slot = slotmap_get(&s->slots, vpn);
	blob_id blob = staging_forwarded(flow->staging, (uint32_t)slot_value(slot));
	size_t bytes;

	if (!blob)
		return true;
	bytes = blobstore_bytes(flow->blobstore, blob);
	if (slotmap_set(&s->slots, vpn, flow_stored_slot(SLOT_STORED, slot_flags(slot), blob, bytes)) < 0)
		return false;
	blobstore_ref(flow->blobstore, blob);
	flow_account_store(s, (int64_t)bytes);
	flow_drop(flow, slot);
	return true;
}

static bool slot_names(slot_t slot, const struct batch_page *page)
{
	return slot_state(slot) == SLOT_STAGED && slot_value(slot) == page->value;
}

static void commit_stored(struct owner *o, struct session *s, struct batch_page *page)
{
	slot_t slot = slotmap_get(&s->slots, page->vpn), stored;
	size_t bytes = blobstore_bytes(o->flow->blobstore, page->blob);

	stored = flow_stored_slot(SLOT_STORED, slot_flags(slot), page->blob, bytes);
	if (slot_names(slot, page) && slotmap_set(&s->slots, page->vpn, stored) == 0) {
		blobstore_ref(o->flow->blobstore, page->blob);
		flow_account_store(s, (int64_t)bytes);
		counter_add(&s->counters.duplicate_total, page->duplicate);
		flow_drop(o->flow, slot);
	}
	release_staging(o, page);
	blobstore_unref(o->flow->blobstore, page->blob);
}

/* True: done with it. False: an event is in the way, again later. */
static bool bring_back(struct owner *o, struct session *s, struct batch_page *page)
{
	slot_t slot;

	/* Somebody of its family has stored it meanwhile? */
	if (slot_names(slotmap_get(&s->slots, page->vpn), page) && !evict_forget_forwarder(o, s, page->vpn))
		return false;
	slot = slotmap_get(&s->slots, page->vpn);
	if (slot_names(slot, page) && session_state(s) < SESSION_CLOSING) {
		if (refault_is_guarded(o, s, page->vpn, slot)) {
			release_staging(o, page);
			return true;
		}
		if (!room_use(o, s, 1))
			return false;
		switch (refault_place(o, s, page->vpn, slot, true)) {
		case PLACED_DONE:
			counter_add(&s->counters.incompressible_total, page->incompressible);
			break;
		case PLACED_EXISTS:
			refault_forget(o, s, page->vpn, slot, SLOT_RESIDENT);
			uffd_wake(s->fds.uffd, page->vpn << PAGE_SHIFT, PAGE_BYTES);
			break;
		case PLACED_GONE:
			refault_forget(o, s, page->vpn, slot, SLOT_NONE);
			uffd_wake(s->fds.uffd, page->vpn << PAGE_SHIFT, PAGE_BYTES);
			break;
		case PLACED_DEAD:
			flow_close(o, s);
			break;
		case PLACED_RETRY:
		case PLACED_NOMEM:
		case PLACED_FAILED:
			return false;
		}
	}
	release_staging(o, page);
	return true;
}

/* The same, from outside of the gate. Nothing is placed in a session that is closed:
   what its gate says, left by a mover that died inside or by the program, is nothing
   to wait for. */
static bool bring_back_gated(struct owner *o, struct session *s, struct batch_page *page)
{
	struct wire_gate *gate = session_state(s) >= SESSION_CLOSING ? NULL : s->gate;
	bool back;

	if (!events_are_settled(s) || !gate_enter(gate))
		return false;
	back = bring_back(o, s, page);
	gate_leave(gate);
	return back;
}

/* False: some pages must wait. */
static bool bring_back_all(struct owner *o, struct session *s, struct batch *b)
{
	bool all = true;

	for (unsigned i = 0; i < b->nr; i++)
		if (b->page[i].result == BATCH_PAGE_KEEP) {
			if (bring_back_gated(o, s, &b->page[i]))
				b->page[i].result = BATCH_PAGE_SKIP;
			else
				all = false;
		}
	return all;
}

/* One that was left when the batch that it shared ended. False: later. */
static bool take_back(struct owner *o, struct session *s, uint64_t vpn, uint32_t index)
{
	struct batch_page page = { .vpn = vpn, .value = index };

	staging_ref(o->flow->staging, index); /* which bring_back() gives back */
	if (bring_back_gated(o, s, &page))
		return session_state(s) < SESSION_CLOSING;
	(void)staging_unref(o->flow->staging, index);
	return false;
}

void evict_settle_staged(struct owner *o, struct session *s)
{
	struct staging *staging = o->flow->staging;
	unsigned slice = TAKEN_BACK;

	for (uint64_t vpn = 0; slice && counter_get(&s->slots.count[SLOT_STAGED]); vpn++) {
		slot_t slot;

		vpn = slotmap_next(&s->slots, vpn, SLOTMAP_VPN_MAX, 1u << SLOT_STAGED);
		if (vpn == SLOTMAP_VPN_MAX || !evict_forget_forwarder(o, s, vpn))
			return;
		slot = slotmap_get(&s->slots, vpn);
		if (slot_state(slot) != SLOT_STAGED || !staging_is_left(staging, (uint32_t)slot_value(slot)))
			continue;
		if (!take_back(o, s, vpn, (uint32_t)slot_value(slot)))
			return;
		slice--;
	}
}

void evict_commit(struct owner *o, struct batch *b)
{
	struct session *s = b->session;

	inject(INJECT_PACKED);
	for (unsigned i = 0; i < b->nr; i++)
		if (b->page[i].result == BATCH_PAGE_STORED) {
			commit_stored(o, s, &b->page[i]);
			b->page[i].result = BATCH_PAGE_SKIP;
			inject(INJECT_COMMIT_HALF);
		}
	if (!bring_back_all(o, s, b)) {
		b->next = o->deferred; /* behind the faults and events to come */
		o->deferred = b;
		return;
	}
	b->mail.kind = BATCH_DONE;
	mailbox_send(&o->flow->worker, &b->mail);
}
