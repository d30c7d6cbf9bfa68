/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * An owner's references to blobs, counted in slices between faults. What changes
 * meanwhile is marked (page/blob.h: blob_watch), and whoever compares leaves out
 * what is marked. So each reference that stays must be met once:
 *  - a slot that moves marks its blob (slot_refs.moved);
 *  - a leaf that several sessions share counts once, by its node;
 *  - a leaf may be left to a session that was forked meanwhile, so sessions are
 *    walked in order of id, the youngest last, those that close among them.
 */
#include "flow/flow.h"

#include "common/util.h"

#define LEAVES_PER_SLICE 16 /* some 20 us */

static void see(void *ctx, slot_t slot)
{
	if (slot_state(slot) != SLOT_STAGED) /* a forwarder's reference is staging's */
		blobstore_references_add(ctx, flow_slot_blob(slot));
}

static struct session *next_session(struct owner *o, uint64_t from)
{
	struct session *next = NULL;

	for (struct session *s = o->owned; s; s = s->next_owned)
		if (s->id >= from && (!next || s->id < next->id))
			next = s;
	for (struct session *s = o->jobs; s; s = s->next_job)
		if (s->id >= from && (!next || s->id < next->id))
			next = s;
	return next;
}

void count_take(struct owner *o, struct mail *mail)
{
	o->count = CONTAINER_OF(mail, struct count, mail);
	fetch_count(o, o->count->refs);
	unpack_count(o, o->count->refs);
}

bool count_step(struct owner *o)
{
	struct count *c = o->count;
	struct session *s;

	if (!c)
		return false;
	s = next_session(o, c->session);
	if (!s) {
		o->count = NULL;
		c->done(c);
		return false;
	}
	if (s->id != c->session)
		c->vpn = 0;
	c->vpn = slotmap_count(&s->slots, c->vpn, LEAVES_PER_SLICE, c->seen, c->nr, see, c->refs);
	c->session = s->id;
	if (c->vpn == SLOTMAP_VPN_MAX) {
		c->session++;
		c->vpn = 0;
	}
	return true;
}
