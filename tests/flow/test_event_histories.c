/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Every short history of what several threads do to three mappings, and every order in
 * which the kernel can queue the events of it: in the end each page must be found where
 * the mappings put it.
 *
 * A mapping has one user at a time, as in any program that knows what it moves: nobody
 * takes hold of it before the call of another thread that made it has returned. But a
 * place that a call has freed may be used again at once, before that call's event is
 * queued.
 */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/util.h"
#include "flow/flow.h"
#include "sys/pagemap.h"

#define AREA_PAGES 3
#define AREA_BYTES (AREA_PAGES * PAGE_BYTES)
#define START(area) (0x100000 + (area) * AREA_BYTES) /* each begins where another ends */

enum { A, B, C, AREAS, NEW, NOTHING };
enum call_kind { CALL_UNMAP, CALL_REMAP, CALL_DONTUNMAP, CALL_GROW, CALL_DONTNEED, CALL_KINDS };

struct call {
	enum call_kind kind;
	unsigned from, to;
	struct uffd_msg event[3];
	unsigned nr, read; /* events there are, and those that have been read */
};

struct history {
	unsigned holds[AREAS]; /* the area whose pages are there, NEW or NOTHING */
	struct call call[4];
	unsigned nr_calls;
	struct uffd_msg read[12];
	unsigned nr_read;
};

static struct flow flow;
static struct owner owner;
static struct owner_ring ring;
static struct domain domain;
static struct session *s;
static const struct history *now; /* the kernel's side of it */
static bool changing, changes_when_seen;
static unsigned before, calls_max;
static uint64_t histories;

/* Which pages are away tells one area's from another's; or not. */
static const bool apart[AREAS][AREA_PAGES] = { { true, true, false }, { true, false, true }, { true, true, true } };
static bool alike;

static bool is_away(unsigned area, unsigned page)
{
	return alike || apart[area][page];
}

/* ---- the kernel ---- */

static unsigned holds(uint64_t address)
{
	uint64_t area = (address - START(0)) / AREA_BYTES;

	return address < START(0) || area >= AREAS ? NOTHING : now->holds[area];
}

static bool fake_is_away(uint64_t address)
{
	return is_away(holds(address), (address - START(0)) / PAGE_BYTES % AREA_PAGES);
}

unsigned __wrap_pagemap_free_run(int pagemap, uint64_t start, unsigned n);
unsigned __wrap_pagemap_marked_run(int pagemap, uint64_t start, unsigned n);

unsigned __wrap_pagemap_free_run(int pagemap, uint64_t start, unsigned n)
{
	unsigned free = 0;

	(void)pagemap;
	changing |= changes_when_seen;
	while (free < n && holds(start + free * PAGE_BYTES) >= AREAS)
		free++;
	return free;
}

unsigned __wrap_pagemap_marked_run(int pagemap, uint64_t start, unsigned n)
{
	unsigned marked = 0;

	(void)pagemap;
	while (marked < n && holds(start + marked * PAGE_BYTES) < AREAS && fake_is_away(start + marked * PAGE_BYTES))
		marked++;
	return marked;
}

static int fake_zero(int fd, uint64_t dst, uint64_t len, int64_t *done)
{
	(void)fd;
	(void)dst;
	(void)len;
	return (int)(*done = changing ? -EAGAIN : -ENOENT);
}

static int fake_is_registered(int fd, uint64_t address)
{
	(void)fd;
	return holds(address) != NOTHING;
}

static int fake_wake(int fd, uint64_t start, uint64_t len)
{
	(void)fd;
	(void)start;
	(void)len;
	return 0;
}

static const struct uffd_ops scripted = { .zero = fake_zero, .wake = fake_wake, .is_registered = fake_is_registered };

/* ---- what became of it ---- */

static uint64_t vpn_of(unsigned area, unsigned page)
{
	return (START(area) >> PAGE_SHIFT) + page;
}

/* Costs less than ck_assert(), of which each is noted. */
static void must(bool is)
{
	if (!is)
		ck_abort();
}

/* The pattern that a page repeats says which it was first. */
static void set_up_area(unsigned area)
{
	must(ranges_add(&s->registered, START(area), START(area) + AREA_BYTES) == 0);
	for (unsigned p = 0; p < AREA_PAGES; p++) {
		if (!is_away(area, p))
			continue;
		must(slotmap_set(&s->slots, vpn_of(area, p), slot_make(SLOT_LEAVING, 0, 0)) == 0);
		must(slotmap_set(&s->slots, vpn_of(area, p),
				 slot_make(SLOT_FILL, SLOT_F_MARKED, vpn_of(area, p))) == 0);
	}
}

static bool is_right(unsigned area)
{
	for (unsigned p = 0; p < AREA_PAGES; p++) {
		slot_t slot = slotmap_get(&s->slots, vpn_of(area, p));
		unsigned from = now->holds[area];

		if (from < AREAS && is_away(from, p) ? slot_state(slot) != SLOT_FILL || slot_value(slot) != vpn_of(from, p) :
						       slot_state(slot) != SLOT_NONE && slot_state(slot) != SLOT_BARRED)
			return false;
	}
	return true;
}

static void append(char *text, const char *word, unsigned from, unsigned to)
{
	sprintf(text + strlen(text), " %s %c", word, 'A' + from);
	if (to < AREAS)
		sprintf(text + strlen(text), "->%c", 'A' + to);
}

static const char *told(const struct history *h)
{
	static const char *const names[] = { "munmap", "mremap", "mremap(DONTUNMAP)", "grown:", "DONTNEED" };
	static char text[512];

	strcpy(text, "done:");
	for (unsigned i = 0; i < h->nr_calls; i++)
		append(text, names[h->call[i].kind], h->call[i].from, h->call[i].to);
	strcat(text, "; read:");
	for (unsigned i = 0; i < h->nr_read; i++)
		if (h->read[i].event == UFFD_EVENT_REMAP)
			append(text, "REMAP", (unsigned)((h->read[i].arg.remap.from - START(0)) / AREA_BYTES),
			       (unsigned)((h->read[i].arg.remap.to - START(0)) / AREA_BYTES));
		else
			append(text, h->read[i].event == UFFD_EVENT_UNMAP ? "UNMAP" : "REMOVE",
			       (unsigned)((h->read[i].arg.remove.start - START(0)) / AREA_BYTES), NOTHING);
	return text;
}

static void set_up_session(const struct history *h)
{
	now = h;
	s = session_new(1, 0);
	s->owner = &owner;
	s->domain = &domain;
	s->fds.pagemap = 0;
	slotmap_init(&s->slots, owner.slots, &flow_slot_refs, s);
	for (unsigned area = 0; area < AREAS; area++)
		if (before >> area & 1)
			set_up_area(area);
	for (unsigned i = 0; i < h->nr_read; i++)
		events_take(&owner, s, &h->read[i]);
}

static void tear_down_session(void)
{
	s->fds.pagemap = -1;
	slotmap_deinit(&s->slots);
	session_free(s);
}

static void check_history(const struct history *h)
{
	histories++;
	set_up_session(h);
	events_settle_idle(&owner, s);
	must(events_are_quiet(s));
	for (unsigned area = 0; area < AREAS; area++)
		if (!is_right(area))
			ck_abort_msg("%c is wrong. %s", 'A' + area, told(h));
	tear_down_session();
}

/* ---- the program ---- */

static void add_cut(struct call *c, uint8_t event, unsigned area)
{
	struct uffd_msg *m = &c->event[c->nr++];

	m->event = event;
	m->arg.remove.start = START(area);
	m->arg.remove.end = START(area) + AREA_BYTES;
}

static void add_remap(struct call *c, unsigned from, unsigned to)
{
	struct uffd_msg *m = &c->event[c->nr++];

	m->event = UFFD_EVENT_REMAP;
	m->arg.remap.from = START(from);
	m->arg.remap.to = START(to);
	m->arg.remap.len = AREA_BYTES;
}

/* Has a call made the mapping there that hasn't returned? */
static bool is_in_use(const struct history *h, unsigned area)
{
	for (const struct call *c = h->call; c < h->call + h->nr_calls; c++)
		if (c->read < c->nr && c->kind != CALL_UNMAP &&
		    (c->to == area || ((c->kind == CALL_DONTUNMAP || c->kind == CALL_DONTNEED) && c->from == area)))
			return true;
	return false;
}

static bool may_call(const struct history *h, enum call_kind kind, unsigned from, unsigned to)
{
	if (is_in_use(h, from) || (to < AREAS && is_in_use(h, to)))
		return false;
	if (kind == CALL_UNMAP || kind == CALL_DONTNEED)
		return h->holds[from] != NOTHING && to == NOTHING;
	if (kind == CALL_DONTUNMAP && h->holds[from] == NEW) /* it leaves what it takes: nothing tells */
		return false;
	if (kind == CALL_GROW) /* `from`, into what is free behind it */
		return h->holds[from] != NOTHING && to == from + 1 && to < AREAS && h->holds[to] == NOTHING;
	return h->holds[from] != NOTHING && to < AREAS && to != from;
}

/* What the kernel does at once, and the events that it will queue. */
static void call(struct history *h, enum call_kind kind, unsigned from, unsigned to)
{
	struct call *c = &h->call[h->nr_calls++];

	*c = (struct call){ .kind = kind, .from = from, .to = to };
	if (kind == CALL_GROW) {
		h->holds[to] = NEW;
		return;
	}
	if (kind == CALL_DONTNEED) {
		add_cut(c, UFFD_EVENT_REMOVE, from);
		h->holds[from] = NEW;
		return;
	}
	if (kind != CALL_UNMAP) {
		if (h->holds[to] != NOTHING)
			add_cut(c, UFFD_EVENT_UNMAP, to);
		add_remap(c, from, to);
		h->holds[to] = h->holds[from];
	}
	if (kind != CALL_DONTUNMAP)
		add_cut(c, UFFD_EVENT_UNMAP, from);
	h->holds[from] = kind == CALL_DONTUNMAP ? NEW : NOTHING;
}

static void walk(const struct history *h);

static void walk_calls(const struct history *h)
{
	for (unsigned i = 0; i < CALL_KINDS * AREAS * (NOTHING + 1); i++) {
		enum call_kind kind = i % CALL_KINDS;
		unsigned from = i / CALL_KINDS % AREAS, to = i / CALL_KINDS / AREAS;
		struct history next = *h;

		if (!may_call(h, kind, from, to))
			continue;
		call(&next, kind, from, to);
		walk(&next);
	}
}

/* A call is begun by a thread that is in none: there are always enough of them. */
static void walk(const struct history *h)
{
	bool ended = true;

	for (unsigned i = 0; i < h->nr_calls; i++) {
		struct history next = *h;
		struct call *c = &next.call[i];

		if (c->read == c->nr)
			continue;
		ended = false;
		next.read[next.nr_read++] = c->event[c->read++];
		walk(&next);
	}
	if (h->nr_calls < calls_max)
		walk_calls(h);
	else if (ended)
		check_history(h);
}

static void walk_from(unsigned areas, unsigned calls)
{
	struct history h = { 0 };

	before = areas;
	calls_max = calls;
	for (unsigned area = 0; area < AREAS; area++)
		h.holds[area] = before >> area & 1 ? area : NOTHING;
	walk(&h);
}

static void setup(void)
{
	uffd_ops = &scripted;
	owner.flow = &flow;
	owner.ring = &ring;
	owner.slots = slot_pool_new((size_t)64 << 20);
	ck_assert_int_eq(slot_pool_reserve(owner.slots, 256), 0);
	histories = 0;
}

static void teardown(void)
{
	slot_pool_free(owner.slots);
}

START_TEST(test_INV_4_two_calls)
{
	alike = true;
	walk_from((unsigned)_i, 2);
	ck_assert_uint_gt(histories, 10);
}
END_TEST

START_TEST(test_INV_4_three_calls)
{
	alike = false;
	walk_from((unsigned)_i, 3);
	ck_assert_uint_gt(histories, 100);
}
END_TEST

/* Another change begins while pagemap is read, so that it may show what no event has told. */
START_TEST(test_INV_4_changes_while_looked_at)
{
	struct history h = { .holds = { A, NOTHING, NOTHING } };

	before = 1;
	call(&h, CALL_REMAP, A, B);
	call(&h, CALL_REMAP, B, C);
	for (struct call *c = h.call; c < h.call + h.nr_calls; c++)
		while (c->read < c->nr)
			h.read[h.nr_read++] = c->event[c->read++];
	set_up_session(&h);
	changes_when_seen = true;
	events_settle_idle(&owner, s);
	ck_assert(changing);
	ck_assert(!events_are_settled(s));
	changing = changes_when_seen = false;
	events_settle_idle(&owner, s);
	ck_assert(events_are_quiet(s));
	ck_assert(is_right(C));
	tear_down_session();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("event_histories");
	TCase *tc = tcase_create("event_histories");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_set_timeout(tc, 120);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_loop_test(tc, test_INV_4_two_calls, 1, 1 << AREAS);
	tcase_add_loop_test(tc, test_INV_4_three_calls, 1, 1 << AREAS);
	tcase_add_test(tc, test_INV_4_changes_while_looked_at);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
