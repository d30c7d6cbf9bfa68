/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * slotmap against a model: plain arrays, and a reference count per object. An
 * object is what a STAGED, FETCHING, STORED or CLEAN slot's value names.
 */
#include <check.h>
#include <signal.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/util.h"
#include "page/slotmap.h"

#define OBJECTS 4096
#define MAPS 4
/* A window of slots, over a boundary of inner nodes as well as of leaves. */
#define WINDOW 2600
#define BASE ((((uint64_t)5 << 29) | ((uint64_t)7 << 19)) - 1300)

static int64_t references[OBJECTS];
static struct slot_pool *pool;

/* ck_assert is too slow for what runs a million times. */
#define EXPECT(condition)                         \
	do {                                      \
		if (!(condition))                 \
			ck_abort_msg(#condition); \
	} while (0)

static bool is_counted(slot_t slot)
{
	switch (slot_state(slot)) {
	case SLOT_STAGED:
	case SLOT_FETCHING:
	case SLOT_STORED:
	case SLOT_CLEAN:
		return true;
	default:
		return false;
	}
}

static void ref_get(void *ctx, slot_t slot)
{
	EXPECT(ctx == references);
	EXPECT(is_counted(slot));
	EXPECT(references[slot_value(slot)] > 0);
	references[slot_value(slot)]++;
}

static void ref_put(void *ctx, slot_t slot)
{
	EXPECT(ctx == references);
	EXPECT(is_counted(slot));
	EXPECT(references[slot_value(slot)] > 0);
	references[slot_value(slot)]--;
}

static const struct slot_refs refs = { .get = ref_get, .put = ref_put };

static void setup(void)
{
	memset(references, 0, sizeof(references));
	pool = slot_pool_new((size_t)64 << 20);
	ck_assert_ptr_nonnull(pool);
}

static void teardown(void)
{
	pool = slot_pool_free(pool);
}

static void new_map(struct slotmap *map)
{
	slotmap_init(map, pool, &refs, references);
}

static slot_t stored(uint64_t object)
{
	references[object]++;
	return slot_make(SLOT_STORED, 0, object);
}

/* NONE -> ... -> STORED, the legal way; the object's reference is the map's. */
static int store_at(struct slotmap *map, uint64_t vpn, uint64_t object)
{
	int r = slotmap_set(map, vpn, slot_make(SLOT_LEAVING, 0, 3));

	if (r)
		return r;
	references[object]++;
	r = slotmap_set(map, vpn, slot_make(SLOT_STAGED, 0, object));
	ck_assert_int_eq(r, 0);
	r = slotmap_set(map, vpn, slot_make(SLOT_STORED, 0, object));
	ck_assert_int_eq(r, 0);
	return 0;
}

static void expect_no_references(void)
{
	for (unsigned i = 0; i < OBJECTS; i++)
		ck_assert_msg(references[i] == 0, "object %u: %ld", i, (long)references[i]);
}

START_TEST(test_empty)
{
	struct slotmap map;
	uint64_t done;

	new_map(&map);
	ck_assert_uint_eq(slotmap_get(&map, 0), 0);
	ck_assert_uint_eq(slotmap_get(&map, SLOTMAP_VPN_MAX - 1), 0);
	ck_assert_uint_eq(slotmap_get(&map, UINT64_MAX), 0);
	ck_assert_uint_eq(slotmap_next(&map, 0, SLOTMAP_VPN_MAX, 1u << SLOT_STORED),
			  SLOTMAP_VPN_MAX);
	/* with no node ready */
	ck_assert_uint_eq(slot_pool_ready(pool), 0);
	ck_assert_int_eq(slotmap_set(&map, 17, 0), 0);
	ck_assert_int_eq(slotmap_set(&map, 17, slot_make(SLOT_RESIDENT, 0, 0)), -ENOMEM);
	ck_assert_int_eq(slotmap_clear(&map, 0, SLOTMAP_VPN_MAX, SLOT_NONE, &done), 0);
	ck_assert_uint_eq(done, SLOTMAP_VPN_MAX);
	ck_assert_int_eq(slotmap_clear(&map, 9, 4, SLOT_BARRED, &done), -ENOMEM);
	ck_assert_uint_eq(done, 9);
	slotmap_deinit(&map);
}
END_TEST

START_TEST(test_pool)
{
	struct slotmap map;
	size_t ready;

	ck_assert_uint_eq(slot_pool_bytes(pool), 0);
	ck_assert_int_eq(slot_pool_reserve(pool, 10), 0);
	ready = slot_pool_ready(pool);
	ck_assert_uint_ge(ready, 10);
	ck_assert_uint_eq(slot_pool_bytes(pool), (size_t)1 << 20);
	ck_assert_int_eq(slot_pool_reserve(pool, 10), 0);
	ck_assert_uint_eq(slot_pool_ready(pool), ready);
	ck_assert_int_eq(slot_pool_reserve(pool, (size_t)64 << 20), -ENOMEM);
	ck_assert_uint_eq(slot_pool_bytes(pool), (size_t)64 << 20);
	ready = slot_pool_ready(pool);
	ck_assert_uint_eq(ready, ((size_t)64 << 8) - 1);
	new_map(&map);
	ck_assert_int_eq(slotmap_set(&map, SLOTMAP_VPN_MAX - 1, slot_make(SLOT_RESIDENT, 0, 5)), 0);
	ck_assert_uint_eq(slot_pool_ready(pool), ready - 4);
	ck_assert_uint_eq(slotmap_get(&map, SLOTMAP_VPN_MAX - 1), slot_make(SLOT_RESIDENT, 0, 5));
	slotmap_deinit(&map);
	ck_assert_uint_eq(slot_pool_ready(pool), ready);
}
END_TEST

START_TEST(test_fork_copies_on_write)
{
	struct slotmap parent, child;
	size_t ready;
	uint64_t done;

	ck_assert_int_eq(slot_pool_reserve(pool, 100), 0);
	ready = slot_pool_ready(pool);
	new_map(&parent);
	new_map(&child);
	ck_assert_int_eq(store_at(&parent, BASE, 1), 0);
	ck_assert_int_eq(store_at(&parent, BASE + 1, 2), 0);
	ck_assert_int_eq(slotmap_fork(&child, &parent), 0);
	ck_assert_uint_eq(slotmap_get(&child, BASE), slotmap_get(&parent, BASE));
	ck_assert_uint_eq(child.count[SLOT_STORED], 2);
	ck_assert_int_eq(references[1], 1); /* one for both */
	ck_assert_uint_eq(slot_pool_ready(pool), ready - 7);

	/* what would change nothing, unshares nothing */
	ck_assert_int_eq(slotmap_clear(&child, BASE + 9, 3, SLOT_NONE, &done), 0);
	ck_assert_uint_eq(slot_pool_ready(pool), ready - 7);

	ck_assert_int_eq(slotmap_set(&child, BASE, slot_make(SLOT_RESIDENT, 0, 0)), 0);
	ck_assert_int_eq(references[1], 2); /* the old one is ours now */
	ck_assert_int_eq(references[2], 2);
	references[1]--;
	ck_assert_uint_eq(slot_state(slotmap_get(&parent, BASE)), SLOT_STORED);
	ck_assert_uint_eq(slot_pool_ready(pool), ready - 8);

	slotmap_deinit(&parent);
	ck_assert_int_eq(references[1], 0);
	ck_assert_int_eq(references[2], 1);
	slotmap_deinit(&child);
	expect_no_references();
	ck_assert_uint_eq(slot_pool_ready(pool), ready);
}
END_TEST

/* Whoever leaves first, the other keeps the leaf and its references. */
START_TEST(test_sharers_leave)
{
	struct slotmap parent, child;
	uint64_t done;

	ck_assert_int_eq(slot_pool_reserve(pool, 100), 0);
	for (unsigned way = 0; way < 4; way++) {
		struct slotmap *first = way & 1 ? &parent : &child;
		struct slotmap *other = way & 1 ? &child : &parent;

		new_map(&parent);
		new_map(&child);
		ck_assert_int_eq(store_at(&parent, BASE, 1), 0);
		ck_assert_int_eq(slotmap_fork(&child, &parent), 0);
		if (way & 2)
			slotmap_clear(first, BASE - 512, 1024, SLOT_NONE, &done);
		else
			slotmap_deinit(first);
		ck_assert_int_eq(references[1], 1);
		ck_assert_uint_eq(slotmap_get(first, BASE), 0);
		ck_assert_uint_eq(first->count[SLOT_STORED], 0);
		ck_assert_uint_eq(slotmap_get(other, BASE), slot_make(SLOT_STORED, 0, 1));
		slotmap_deinit(other);
		expect_no_references();
		slotmap_deinit(first);
	}
}
END_TEST

/* With one node more each time: nothing happens until all of it can. */
START_TEST(test_move_without_nodes)
{
	const uint64_t to = BASE + 700;
	struct slotmap parent, child, filler;
	uint64_t done, n = 0;
	int r;

	ck_assert_int_eq(slot_pool_reserve(pool, 1), 0);
	new_map(&parent);
	new_map(&child);
	new_map(&filler);
	for (uint64_t i = 0; i < 2000; i++)
		ck_assert_int_eq(store_at(&parent, BASE + i, i), 0);
	ck_assert_int_eq(slotmap_fork(&child, &parent), 0);
	ck_assert_int_eq(slotmap_clear(&filler, 0, 512 * 600, SLOT_BARRED, &done), -ENOMEM);
	while ((r = slotmap_move(&child, BASE, to, 2000))) {
		ck_assert_int_eq(r, -ENOMEM);
		for (uint64_t i = 0; i < 2000; i += 50)
			EXPECT(slotmap_get(&child, BASE + i) == slot_make(SLOT_STORED, 0, i));
		ck_assert_int_eq(references[100], 1);
		ck_assert_int_eq(slotmap_clear(&filler, 512 * n++, 512, SLOT_NONE, &done), 0);
	}
	ck_assert_uint_ge(n, 6);
	ck_assert_uint_le(n, 16);
	for (uint64_t i = 0; i < 2000; i++) {
		EXPECT(slotmap_get(&child, to + i) == slot_make(SLOT_STORED, 0, i));
		EXPECT(slotmap_get(&parent, BASE + i) == slot_make(SLOT_STORED, 0, i));
		EXPECT(references[i] == 2);
	}
	slotmap_deinit(&parent);
	slotmap_deinit(&child);
	slotmap_deinit(&filler);
	expect_no_references();
}
END_TEST

START_TEST(test_fork_without_nodes)
{
	struct slotmap parent, child, filler;
	uint64_t done;

	ck_assert_int_eq(slot_pool_reserve(pool, 1), 0);
	new_map(&parent);
	new_map(&child);
	new_map(&filler);
	ck_assert_int_eq(store_at(&parent, BASE, 1), 0);
	ck_assert_int_eq(slotmap_clear(&filler, 0, 512 * 600, SLOT_BARRED, &done), -ENOMEM);
	ck_assert_uint_eq(done % 512, 0);
	ck_assert_uint_eq(filler.count[SLOT_BARRED], done);
	ck_assert_uint_eq(slot_pool_ready(pool), 0);
	ck_assert_int_eq(slotmap_fork(&child, &parent), -ENOMEM);
	ck_assert_uint_eq(child.count[SLOT_STORED], 0);
	ck_assert_uint_eq(slotmap_get(&child, BASE), 0);

	/* enough to share, too few to write */
	ck_assert_int_eq(slotmap_clear(&filler, 0, 3 * 512, SLOT_NONE, &done), 0);
	ck_assert_int_eq(slotmap_fork(&child, &parent), 0);
	ck_assert_int_eq(slotmap_set(&child, BASE, slot_make(SLOT_RESIDENT, 0, 0)), -ENOMEM);
	ck_assert_int_eq(slotmap_move(&child, BASE, BASE + 100000, 1), -ENOMEM);
	ck_assert_uint_eq(slotmap_get(&child, BASE), slotmap_get(&parent, BASE));
	/* a leaf of one's own needs none */
	slotmap_deinit(&child);
	ck_assert_int_eq(slotmap_set(&parent, BASE + 1, slot_make(SLOT_RESIDENT, 0, 0)), 0);
	slotmap_deinit(&parent);
	slotmap_deinit(&filler);
	expect_no_references();
}
END_TEST

START_TEST(test_move_overlaps)
{
	static const int64_t distances[] = { 1, -1, 100, -100, 512, -512, 700, -700 };
	struct slotmap map;
	uint64_t done;

	ck_assert_int_eq(slot_pool_reserve(pool, 100), 0);
	new_map(&map);
	for (size_t d = 0; d < ARRAY_SIZE(distances); d++) {
		uint64_t to = BASE + 800 + (uint64_t)distances[d];

		for (uint64_t i = 0; i < 1000; i++)
			ck_assert_int_eq(store_at(&map, BASE + 800 + i, i), 0);
		ck_assert_int_eq(slotmap_move(&map, BASE + 800, to, 1000), 0);
		for (uint64_t i = 0; i < 1000; i++) {
			ck_assert_uint_eq(slotmap_get(&map, to + i), slot_make(SLOT_STORED, 0, i));
			ck_assert_int_eq(references[i], 1);
		}
		ck_assert_uint_eq(map.count[SLOT_STORED], 1000);
		ck_assert_int_eq(slotmap_clear(&map, BASE, WINDOW, SLOT_NONE, &done), 0);
		expect_no_references();
	}
	slotmap_deinit(&map);
}
END_TEST

/* ---- random operations ---- */

struct model {
	struct slotmap map;
	bool live;
	slot_t slot[WINDOW];
};

static struct model models[MAPS];
static unsigned seed;

static uint64_t pick(uint64_t n)
{
	return (uint64_t)rand_r(&seed) % n;
}

static void model_set(struct model *m)
{
	uint64_t i = pick(WINDOW);
	enum slot_state from = slot_state(m->slot[i]);
	enum slot_state to = (enum slot_state)pick(SLOT_STATES);
	slot_t old = m->slot[i], slot;

	if (!slot_step_is_legal(from, to))
		return;
	slot = slot_make(to, to == SLOT_LEAVING || slot_is_evicted(slot_make(to, 0, 0)) ? (unsigned)pick(2) : 0,
			 to == SLOT_NONE ? 0 : pick(OBJECTS));
	if (is_counted(slot))
		references[slot_value(slot)]++;
	if (slotmap_set(&m->map, BASE + i, slot)) {
		if (is_counted(slot))
			references[slot_value(slot)]--;
		return;
	}
	if (is_counted(old))
		ref_put(references, old);
	m->slot[i] = slot;
}

static void model_clear(struct model *m)
{
	uint64_t first = pick(WINDOW), n = pick(WINDOW - first + 1), done;
	enum slot_state to = pick(2) ? SLOT_NONE : SLOT_BARRED;
	int r = slotmap_clear(&m->map, BASE + first, n, to, &done);

	ck_assert(r == 0 || r == -ENOMEM);
	ck_assert(r || done == BASE + first + n);
	for (uint64_t i = first; BASE + i < done; i++)
		m->slot[i] = slot_make(to, 0, 0);
}

static void model_move(struct model *m)
{
	static slot_t moved[WINDOW];
	uint64_t n = 1 + pick(pick(4) ? 300 : WINDOW);
	uint64_t from = pick(WINDOW - n + 1), to = pick(WINDOW - n + 1);

	if (slotmap_move(&m->map, BASE + from, BASE + to, n))
		return;
	memcpy(moved, &m->slot[from], n * sizeof(slot_t));
	memset(&m->slot[from], 0, n * sizeof(slot_t));
	memcpy(&m->slot[to], moved, n * sizeof(slot_t));
}

static void model_fork_or_exit(struct model *m)
{
	struct model *other = &models[pick(MAPS)];

	if (other == m)
		return;
	if (other->live) {
		slotmap_deinit(&other->map);
		for (unsigned i = 0; i < SLOT_STATES; i++)
			ck_assert_uint_eq(other->map.count[i], 0);
		other->live = false;
		return;
	}
	new_map(&other->map);
	if (slotmap_fork(&other->map, &m->map))
		return;
	memcpy(other->slot, m->slot, sizeof(m->slot));
	other->live = true;
}

/* The runs of those in mask; all: marked or not. */
static void model_check_runs(const struct model *m, unsigned mask, bool all)
{
	uint64_t at, end = BASE;

	for (uint64_t vpn = BASE; vpn < BASE + WINDOW; vpn++) {
		slot_t slot = m->slot[vpn - BASE];
		bool is_in = mask >> slot_state(slot) & 1 && (all || !slot_is_marked(slot));

		if (is_in && vpn >= end) {
			at = all ? slotmap_next(&m->map, end, BASE + WINDOW, mask) :
				   slotmap_next_unmarked(&m->map, end, BASE + WINDOW, mask);
			EXPECT(at == vpn);
			end = slotmap_run(&m->map, vpn, BASE + WINDOW, mask, all);
		}
		EXPECT(is_in == (vpn < end));
	}
}

static void model_check(const struct model *m)
{
	uint64_t counts[SLOT_STATES] = { 0 }, unmarked = 0;
	const unsigned mask = 1u << SLOT_STORED | 1u << SLOT_CLEAN;
	uint64_t at = BASE;

	for (uint64_t i = 0; i < WINDOW; i++) {
		EXPECT(slotmap_get(&m->map, BASE + i) == m->slot[i]);
		counts[slot_state(m->slot[i])]++;
		unmarked += slot_is_evicted(m->slot[i]) && !slot_is_marked(m->slot[i]);
		if (!(mask >> slot_state(m->slot[i]) & 1))
			continue;
		at = slotmap_next(&m->map, at, BASE + WINDOW, mask);
		EXPECT(at++ == BASE + i);
	}
	ck_assert_uint_eq(slotmap_next(&m->map, at, BASE + WINDOW, mask), BASE + WINDOW);
	for (unsigned i = 1; i < SLOT_STATES; i++)
		ck_assert_uint_eq(m->map.count[i], counts[i]);
	ck_assert_uint_eq(m->map.unmarked, unmarked);
	for (int all = 0; all < 2; all++)
		model_check_runs(m, 1u << SLOT_STAGED | 1u << SLOT_STORED | 1u << SLOT_LEAVING, all);
}

/* An object that any map names is referenced, at most once per naming slot. */
static void check_references(void)
{
	static int64_t named[OBJECTS];

	memset(named, 0, sizeof(named));
	for (unsigned m = 0; m < MAPS; m++)
		for (uint64_t i = 0; models[m].live && i < WINDOW; i++)
			if (is_counted(models[m].slot[i]))
				named[slot_value(models[m].slot[i])]++;
	for (unsigned i = 0; i < OBJECTS; i++) {
		EXPECT(references[i] <= named[i]);
		EXPECT((references[i] > 0) == (named[i] > 0));
	}
}

static void random_operations(unsigned rounds, bool scarce)
{
	struct slotmap filler;
	uint64_t done;
	size_t ready;

	memset(models, 0, sizeof(models));
	ck_assert_int_eq(slot_pool_reserve(pool, 200), 0);
	ready = slot_pool_ready(pool);
	new_map(&filler);
	if (scarce) /* leave some 30 nodes, so that -ENOMEM comes often */
		ck_assert_int_eq(slotmap_clear(&filler, 0, 512 * (ready - 33), SLOT_BARRED, &done),
				 0);
	new_map(&models[0].map);
	models[0].live = true;
	for (unsigned round = 0; round < rounds; round++) {
		struct model *m = &models[pick(MAPS)];

		if (!m->live)
			continue;
		switch (pick(12)) {
		case 0:
			model_fork_or_exit(m);
			break;
		case 1:
			model_clear(m);
			break;
		case 2:
			model_move(m);
			break;
		default:
			for (uint64_t i = pick(40); i--;)
				model_set(m);
		}
		if (round % 16 == 0) {
			model_check(m);
			check_references();
		}
	}
	for (unsigned m = 0; m < MAPS; m++) {
		if (!models[m].live)
			continue;
		model_check(&models[m]);
		slotmap_deinit(&models[m].map);
	}
	slotmap_deinit(&filler);
	expect_no_references();
	ck_assert_uint_eq(slot_pool_ready(pool), ready);
}

START_TEST(test_against_model)
{
	seed = (unsigned)_i + 1;
	random_operations(1500, _i % 2);
}
END_TEST

START_TEST(test_illegal_step_aborts)
{
	struct slotmap map;

	ck_assert_int_eq(slot_pool_reserve(pool, 10), 0);
	new_map(&map);
	slotmap_set(&map, 1, stored(1));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("slotmap");
	TCase *tc = tcase_create("slotmap");
	SRunner *runner;
	int failures;

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, test_empty);
	tcase_add_test(tc, test_pool);
	tcase_add_test(tc, test_fork_copies_on_write);
	tcase_add_test(tc, test_sharers_leave);
	tcase_add_test(tc, test_fork_without_nodes);
	tcase_add_test(tc, test_move_without_nodes);
	tcase_add_test(tc, test_move_overlaps);
	tcase_add_loop_test(tc, test_against_model, 0, 8);
	tcase_add_test_raise_signal(tc, test_illegal_step_aborts, SIGABRT);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	failures = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
