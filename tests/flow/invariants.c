/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What must be true after every action (docs/INVARIANTS.md).
 *
 * INV-1 and INV-4 together: of each page that the workload could touch now,
 * the bytes it would be given are known, and are among those it may find.
 */
#include "engine/private.h"
#include "page/domain.h"
#include "agent.h"
#include "world.h"

static const struct flow *flow_of(const struct session *s)
{
	return session_owner(s)->flow;
}

void check_placing(int i, int page, unsigned token)
{
	struct mm *mm = &w.mm[i];

	if (mm->page[page].kind == PAGE_GUARD)
		violated("a guard page is overwritten: page %d of mm %d", page, i);
	if (!mm->users)
		return;
	if (token == TOKENS) {
		if (!(mm->may[page] & w.lost))
			violated("INV-7: page %d of mm %d is poisoned, and its bytes are not lost", page, i);
		return;
	}
	if (!(mm->may[page] & MAY(token)))
		violated("%s: token %u is placed on page %d of mm %d, which may hold %#x only",
			 token ? "INV-4" : "INV-1", token, page, i, mm->may[page]);
	w.refaulted += token != 0;
}

/* ---- where a page's bytes are ---- */

/* A page on its way out: in transit, of this process or of the one it was
   forked from, or still where it was. */
static void check_leaving(const struct mm *mm, unsigned p, const struct session *s, slot_t slot)
{
	const struct session *mover = s->heir_of ? s->heir_of : s;
	uint64_t i = slot_value(slot);

	for (int m = 0; m < MMS; m++) {
		const struct page *t = &w.mm[m].transit[i / WIRE_BATCH % WIRE_LANES][i % WIRE_BATCH % PAGES];

		if (!w.mm[m].used || w.mm[m].session != mover)
			continue;
		if (t->kind == PAGE_DATA && (mm->may[p] & MAY(t->token)))
			return;
		/* Vanished there, after MADV_FREE; or its process has. */
		if ((mm->may[p] & MAY(0)) || !w.mm[m].alive || w.unreadable || (mm->may[p] & w.lost))
			return;
	}
	violated("INV-1: page %u is LEAVING, and its bytes are nowhere", p);
}

static void check_away(const struct mm *mm, unsigned p, const struct session *s, slot_t slot)
{
	const struct flow *flow = flow_of(s);
	uint32_t value = (uint32_t)slot_value(slot);
	int token = -1;

	if (slot_is_marked(slot) && mm->page[p].kind == PAGE_NONE) /* it was dropped: zeros */
		slot = 0;
	switch (slot_state(slot)) {
	case SLOT_LEAVING:
		check_leaving(mm, p, s, slot);
		return;
	case SLOT_POISONED:
		if (!(mm->may[p] & w.lost))
			violated("INV-7: the slot of page %u is POISONED, and its bytes are not lost", p);
		return;
	case SLOT_STAGED:
		if (staging_forwarded(flow->staging, value))
			return; /* read when it is touched */
		token = token_of(staging_page(flow->staging, value));
		break;
	case SLOT_STORED:
	case SLOT_FETCHING:
		return; /* the same */
	case SLOT_FILL:
		for (int i = 0; i < TOKENS && token < 0; i++)
			if (*(const uint32_t *)token_page((unsigned)i) == value)
				token = i;
		break;
	default:
		token = 0; /* we know nothing of it, so zeros will be given */
	}
	if (token < 0 || !(mm->may[p] & MAY(token)))
		violated("INV-1: page %u is missing, its slot is %s with token %d, and it may hold %#x only", p,
			 slot_state_name(slot_state(slot)), token, mm->may[p]);
}

static bool is_settled(const struct mm *mm, const struct session *s)
{
	return !mm->changing && events_are_settled(s) && session_state(s) < SESSION_CLOSING;
}

/* But for what a neighbour has grown by, of which it is not told. */
static void check_ranges(const struct mm *mm, const struct session *s)
{
	for (unsigned a = 0; a < AREAS; a++)
		if (mm->mapped[a] && mm->registered[a] && !mm->grown[a] && !ranges_find(&s->registered, AREA_START(a)))
			violated("INV-5: area %u is registered, and not on the list", a);
}

static void check_pages(const struct mm *mm, const struct session *s)
{
	for (unsigned p = 0; p < PAGES; p++) {
		const struct page *page = &mm->page[p];

		if (!mm->mapped[p / AREA_PAGES])
			continue;
		if (page->kind == PAGE_DATA && !(mm->may[p] & MAY(page->token)))
			violated("page %u holds token %d, and may hold %#x only", p, page->token, mm->may[p]);
		if (page_is_missing(page) && mm->registered[p / AREA_PAGES])
			check_away(mm, p, s, slotmap_get(&s->slots, page_address(p) >> PAGE_SHIFT));
	}
}

/* ---- counts ---- */

static void check_counts(const struct session *s)
{
	uint64_t count[SLOT_STATES] = { 0 }, bytes = 0;

	for (unsigned p = 0; p < PAGES; p++) {
		slot_t slot = slotmap_get(&s->slots, page_address(p) >> PAGE_SHIFT);

		count[slot_state(slot)]++;
		if (slot_state(slot) == SLOT_STORED || slot_state(slot) == SLOT_FETCHING)
			bytes += (uint64_t)flow_slot_bytes(slot);
	}
	for (unsigned i = 1; i < SLOT_STATES; i++)
		if (count[i] != counter_get(&s->slots.count[i]))
			violated("INV-8: %llu slots are counted as %s, there are %llu",
				 (unsigned long long)counter_get(&s->slots.count[i]),
				 slot_state_name(i), (unsigned long long)count[i]);
	if (session_state(s) < SESSION_CLOSING && bytes != counter_get(&s->counters.stored_bytes))
		violated("INV-8: %llu stored bytes are counted, there are %llu",
			 (unsigned long long)counter_get(&s->counters.stored_bytes),
			 (unsigned long long)bytes);
}

static void check_charges(const struct session *s)
{
	struct blobstore_stats stats;

	blobstore_get_stats(flow_of(s)->blobstore, &stats);
	if (s->domain && s->domain->charged != stats.live_bytes)
		violated("INV-8: %llu bytes are charged, %llu are live",
			 (unsigned long long)s->domain->charged, (unsigned long long)stats.live_bytes);
}

/* INV-3: a thread whose message was read and that still sleeps, sleeps for a
   reason that ends with a wake. */
static void check_sleepers(int i, const struct session *s)
{
	for (const struct thread *t = w.thread; t < w.thread + THREADS; t++) {
		slot_t slot;

		if (!t->used || t->mm != i || t->blocked != FAULT_READ || s->wake_all || s->room_wake_ns ||
		    s->recover == SESSION_RECOVER_WAKE) /* found by a new worker, which wakes all */
			continue;
		slot = slotmap_get(&s->slots, page_address(t->page) >> PAGE_SHIFT);
		if (slot_state(slot) == SLOT_STORED && s->nr_fetches)
			continue; /* carried along by a REMAP or FORK: its fetch places it yet (fetch.c) */
		if (slot_state(slot) != SLOT_FETCHING && slot_state(slot) != SLOT_LEAVING)
			violated("INV-3: the fault of thread %d on page %u was read, and it was not woken",
				 (int)(t - w.thread), t->page);
		if (slot_state(slot) == SLOT_LEAVING && !(slot_flags(slot) & SLOT_F_WAITING))
			violated("INV-3: nobody remembers that thread %d waits for page %u",
				 (int)(t - w.thread), t->page);
	}
}

void check_step(void)
{
	for (int i = 0; i < MMS; i++) {
		struct mm *mm = &w.mm[i];
		const struct session *s = mm->used ? mm->session : NULL;

		if (!s)
			continue;
		check_counts(s);
		check_charges(s);
		if (!mm->alive || !mm->users)
			continue;
		check_sleepers(i, s);
		if (is_settled(mm, s)) {
			check_pages(mm, s);
			check_ranges(mm, s);
		}
		if (session_state(s) == SESSION_CLOSED)
			for (unsigned p = 0; p < PAGES; p++)
				if (mm->registered[p / AREA_PAGES])
					violated("INV-6: let go of a living process that is registered");
	}
}

void check_end(void)
{
	for (int i = 0; i < MMS; i++)
		if (w.mm[i].drop_reported && w.mm[i].users && w.mm[i].mover && w.mm[i].session &&
		    session_state(w.mm[i].session) == SESSION_ACTIVE)
			violated("INV-1: transit of mm %d has old pages in it, and is used on", i);
	for (const struct thread *t = w.thread; t < w.thread + THREADS; t++)
		if (t->used && t->op != OP_NONE)
			violated("INV-3: thread %d waits for ever (%s of page %u, mm %d)",
				 (int)(t - w.thread), op_name(t->op), t->page, t->mm);
	if (!w.scenario->grace && staging_used_bytes(engine.flow.staging))
		violated("INV-8: %llu bytes stay in staging, and nobody packs them",
			 (unsigned long long)staging_used_bytes(engine.flow.staging));
}
