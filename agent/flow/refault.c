/* SPDX-License-Identifier: GPL-2.0-or-later */
/* An evicted page comes back. */
#include "flow/flow.h"

#include <errno.h>
#include <string.h>

#include "common/inject.h"
#include "common/util.h"
#include "flow/order.h"
#include "sys/pagemap.h"

/*
 * Flags of a slot, above WAITING: how often the page has come back lately
 * (0..6); it rides along while the page is away.
 */
#define HARD_SHIFT 1
#define HARD_MAX 6u

static unsigned hardness(slot_t slot)
{
	return slot_flags(slot) >> HARD_SHIFT;
}

slot_t refault_backoff(const struct owner *o, slot_t before, bool harder)
{
	unsigned hard = hardness(before);
	uint64_t until = o->now + (o->flow->backoff_ns << hard);

	hard = harder ? MIN(hard + 1, HARD_MAX) : hard;
	return slot_make(SLOT_RESIDENT, hard << HARD_SHIFT, until >> FLOW_TIME_SHIFT);
}

bool refault_may_leave(slot_t slot, uint64_t now)
{
	enum slot_state state = slot_state(slot);

	return state == SLOT_NONE ||
	       (state == SLOT_RESIDENT && (slot_value(slot) & ~SLOT_IN_ORDER) <= now >> FLOW_TIME_SHIFT);
}

static void replace(struct owner *o, struct session *s, uint64_t vpn, slot_t slot, slot_t next)
{
	inject(INJECT_PLACED);
	if (slotmap_set(&s->slots, vpn, next) < 0)
		return; /* no node to unshare the leaf: it keeps its reference */
	inject(INJECT_REPLACED);
	if (slot_state(slot) == SLOT_STORED || slot_state(slot) == SLOT_FETCHING)
		flow_account_store(s, -flow_slot_bytes(slot));
	flow_drop(o->flow, slot);
}

void refault_forget(struct owner *o, struct session *s, uint64_t vpn, slot_t slot,
		    enum slot_state to)
{
	replace(o, s, vpn, slot, slot_make(to, 0, 0));
}

bool refault_is_guarded(struct owner *o, struct session *s, uint64_t vpn, slot_t slot)
{
	if (!pagemap_is_guard(s->fds.pagemap, vpn << PAGE_SHIFT))
		return false;
	refault_forget(o, s, vpn, slot, SLOT_NONE);
	return true;
}

/* Its mark is gone, and zeros are there. The worker leaves such mappings alone. */
static void was_emptied(struct owner *o, struct session *s, uint64_t vpn, slot_t slot)
{
	refault_forget(o, s, vpn, slot, SLOT_RESIDENT);
	atomic_store_explicit(&s->emptied, vpn << PAGE_SHIFT, memory_order_relaxed);
}

/* Slots of a session that has no marks don't say so, whoever has written them. */
static bool is_marked(const struct session *s, slot_t slot)
{
	return s->marks && slot_is_marked(slot);
}

/* PLACED_EXISTS: it still is ours to place. */
static enum placed look_for_mark(struct owner *o, struct session *s, uint64_t vpn, slot_t slot)
{
	enum placed placed = PLACED_EXISTS;

	if (is_marked(s, slot))
		placed = uffd_look_for_mark(s->fds.uffd, vpn << PAGE_SHIFT);
	if (placed == PLACED_DONE)
		was_emptied(o, s, vpn, slot);
	return placed;
}

/* The page's bytes, in `to` or elsewhere; NULL when they are lost, or *slow: they
   have just gone to a slow tier. */
static const void *bytes_of(struct owner *o, struct session *s, uint64_t vpn, slot_t slot, void *to, bool *slow)
{
	struct flow *flow = o->flow;
	uint32_t blob = (uint32_t)slot_value(slot);
	const void *ready;
	uint64_t start;
	int r;

	*slow = false;
	if (slot_state(slot) == SLOT_FILL) {
		if (slot_value(slot) == 0)
			return flow->zeros;
		page_fill(to, (uint32_t)slot_value(slot));
		return to;
	}
	if (slot_state(slot) == SLOT_STAGED) {
		uint32_t index = blob;

		blob = staging_forwarded(flow->staging, index);
		if (!blob)
			return staging_page(flow->staging, index);
	}
	ready = unpack_bytes(o, s, vpn, slot);
	if (ready) {
		unpack_used(o, s, vpn);
		return ready;
	}
	start = now_ns();
	r = blobstore_get_now(flow->blobstore, o->codec, blob, to);
	counter_add(&s->counters.unpack_ns_total, now_ns() - start);
	*slow = r == -EAGAIN;
	return r ? NULL : to;
}

static enum placed lose(struct owner *o, struct session *s, uint64_t vpn, slot_t slot)
{
	enum placed placed;

	/* Poison takes the mark away, also where it then can't be placed: another try, or
	   worker, must not take that for a page that was dropped. */
	if (slot_is_marked(slot)) {
		slot &= ~slot_make(SLOT_NONE, SLOT_F_MARKED, 0);
		if (slotmap_set(&s->slots, vpn, slot) < 0)
			return PLACED_RETRY;
	}
	placed = uffd_place_poison(s->fds.uffd, vpn << PAGE_SHIFT);
	if (placed == PLACED_DONE) { /* INV-7: SIGBUS, never wrong bytes */
		refault_forget(o, s, vpn, slot, SLOT_POISONED);
		session_lost(s, 1, "they are not in the store any more, or not as they were");
	}
	return placed;
}

static void came_back(struct owner *o, struct session *s, uint64_t vpn, slot_t slot, bool touched)
{
	if (slot_state(slot) == SLOT_STORED || slot_state(slot) == SLOT_FETCHING)
		counter_add(&s->counters.major_total, 1);
	counter_add(&s->counters.pages_in_total, 1);
	replace(o, s, vpn, slot,
		refault_backoff(o, slot, touched) |
			(touched || session_state(s) == SESSION_RESTORING ? 0 : SLOT_IN_ORDER));
}

/* It is with us, and there at once. */
static bool may_run(struct owner *o, slot_t slot)
{
	return slot_is_evicted(slot) && slot_state(slot) != SLOT_FETCHING && !fetch_is_needed(o, slot);
}

enum placed refault_place(struct owner *o, struct session *s, uint64_t vpn, slot_t slot, bool write)
{
	const void *bytes;
	bool slow;

	assert(slot_is_evicted(slot));
	bytes = bytes_of(o, s, vpn, slot, o->page, &slow);
	/* The next try sees it, and fetches. */
	return slow ? PLACED_RETRY : refault_place_bytes(o, s, vpn, slot, write, bytes);
}

enum placed refault_place_bytes(struct owner *o, struct session *s, uint64_t vpn, slot_t slot, bool write,
				const void *bytes)
{
	uint64_t address = vpn << PAGE_SHIFT;
	enum placed placed;
	unsigned pages = 1;

	/* Zeros are right with or without the mark; to place a page of zeros for a reader
	   would take it away first, for which the kernel may let us wait. */
	if (bytes == o->flow->zeros && !write && !is_marked(s, slot)) {
		placed = uffd_place_zero(s->fds.uffd, address, &pages);
	} else {
		placed = bytes == o->flow->zeros ? PLACED_EXISTS : look_for_mark(o, s, vpn, slot);
		if (placed != PLACED_EXISTS)
			return placed;
		if (!bytes)
			return lose(o, s, vpn, slot);
		placed = uffd_place_copy(s->fds.uffd, address, bytes, &pages);
	}
	if (placed != PLACED_DONE)
		return placed;
	came_back(o, s, vpn, slot, true);
	return PLACED_DONE;
}

/* Those from vpn on that share a frame with the first, unpacked once; 0: it is
   damaged. */
static unsigned parts_of(struct owner *o, struct session *s, uint64_t vpn, slot_t *slots, unsigned max)
{
	blob_id ids[BLOBSTORE_RUN_MAX];
	void *pages[BLOBSTORE_RUN_MAX];
	uint64_t start = now_ns();
	unsigned n = 0;

	for (max = MIN(max, ARRAY_SIZE(ids)); n < max; n++) {
		slots[n] = slotmap_get(&s->slots, vpn + n);
		if (slot_state(slots[n]) != SLOT_STORED || !may_run(o, slots[n]) ||
		    slot_is_marked(slots[n]) != slot_is_marked(slots[0]))
			break;
		ids[n] = flow_slot_blob(slots[n]);
		pages[n] = (char *)o->page + n * PAGE_BYTES;
	}
	n = blobstore_get_parts(o->flow->blobstore, o->codec, ids, n, pages);
	counter_add(&s->counters.unpack_ns_total, now_ns() - start);
	return n;
}

/* How many of n pages, all marked or none of them, are still ours to place. Nobody
   waits for these, so guards may be in their place by now. */
static unsigned placeable(struct owner *o, struct session *s, uint64_t vpn, const slot_t *slots, unsigned n)
{
	unsigned i = 0;

	if (!is_marked(s, slots[0]))
		return pagemap_free_run(s->fds.pagemap, vpn << PAGE_SHIFT, n);
	if (s->fds.pagemap >= 0)
		return pagemap_marked_run(s->fds.pagemap, vpn << PAGE_SHIFT, n);
	while (i < n && look_for_mark(o, s, vpn + i, slots[i]) == PLACED_EXISTS)
		i++;
	return i;
}

unsigned refault_place_together(struct owner *o, struct session *s, uint64_t vpn, const slot_t *slots, unsigned n,
				const void *bytes, bool has_room)
{
	unsigned pages = n ? placeable(o, s, vpn, slots, n) : 0; /* as late as can be */

	if (!pages || (!has_room && !room_use(o, s, pages)) ||
	    uffd_place_copy(s->fds.uffd, vpn << PAGE_SHIFT, bytes, &pages) != PLACED_DONE)
		return 0;
	for (unsigned i = 0; i < pages; i++)
		came_back(o, s, vpn + i, slots[i], false);
	return pages;
}

/* A page's bytes among those that have been unpacked ahead: so that what needs none of
   that, between them, goes with them. */
static char *beside_unpacked(struct owner *o, struct session *s, uint64_t vpn, slot_t slot)
{
	char *to = unpack_place(o, s, vpn, slot);
	const void *bytes;
	bool slow;

	if (!to)
		return unpack_bytes(o, s, vpn, slot);
	bytes = bytes_of(o, s, vpn, slot, to, &slow);
	if (bytes && bytes != to)
		memcpy(to, bytes, PAGE_BYTES);
	return bytes ? to : NULL;
}

/* The first has been. */
static unsigned place_unpacked(struct owner *o, struct session *s, uint64_t vpn, unsigned max)
{
	slot_t slots[FLOW_RUN_MAX];
	char *first = NULL;
	unsigned n;

	for (n = 0; n < MIN(max, FLOW_RUN_MAX); n++) {
		char *bytes;

		slots[n] = slotmap_get(&s->slots, vpn + n);
		if (!may_run(o, slots[n]) || slot_is_marked(slots[n]) != slot_is_marked(slots[0]))
			break;
		bytes = beside_unpacked(o, s, vpn + n, slots[n]);
		if (!bytes || (n && bytes != first + n * PAGE_BYTES))
			break;
		first = n ? first : bytes;
	}
	n = refault_place_together(o, s, vpn, slots, n, first, false);
	for (unsigned i = 0; i < n; i++)
		unpack_used(o, s, vpn + i);
	return n;
}

unsigned refault_place_run(struct owner *o, struct session *s, uint64_t vpn, unsigned max)
{
	slot_t slots[FLOW_RUN_MAX];
	unsigned n;

	if (unpack_bytes(o, s, vpn, slotmap_get(&s->slots, vpn)))
		return place_unpacked(o, s, vpn, max);
	for (n = 0; n < MIN(max, FLOW_RUN_MAX); n++) {
		char *to = (char *)o->page + n * PAGE_BYTES;
		const void *bytes;
		bool slow;

		slots[n] = slotmap_get(&s->slots, vpn + n);
		if (!may_run(o, slots[n]) || slot_is_marked(slots[n]) != slot_is_marked(slots[0]))
			break;
		if (slot_state(slots[n]) == SLOT_STORED && !unpack_bytes(o, s, vpn + n, slots[n]) &&
		    blobstore_is_part(o->flow->blobstore, flow_slot_blob(slots[n]))) {
			/* up to where its frame ends: the next one is for the next run */
			n = n ? n : parts_of(o, s, vpn, slots, max);
			break;
		}
		bytes = bytes_of(o, s, vpn + n, slots[n], to, &slow);
		if (!bytes) /* lost: whoever touches it gets to know (INV-7) */
			break;
		if (bytes != to)
			memcpy(to, bytes, PAGE_BYTES);
	}
	return refault_place_together(o, s, vpn, slots, n, o->page, false);
}
