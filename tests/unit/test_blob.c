/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The table of blobs: ids, references, the index, and giving memory back. */
#include <check.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/util.h"
#include "page/blob.h"

#define MANY 200000u

static struct blob_table *table;
static unsigned seed;

static void setup(void)
{
	table = blob_table_new(MANY);
	ck_assert_ptr_nonnull(table);
	seed = 1;
}

static void teardown(void)
{
	table = blob_table_free(table);
}

static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 31) * 0x9e3779b97f4a7c15u;
	return x ^ x >> 29;
}

static uint64_t loc_of(uint32_t n)
{
	return blob_loc_make(BLOB_ZSTD, n >> 10, n & 1023, n % 2990 + 1);
}

static uint32_t add(uint64_t hash, uint32_t n)
{
	uint32_t id = blob_new(table);

	if (id)
		blob_publish(table, id, hash, loc_of(n));
	return id;
}

static unsigned reap_all(void)
{
	unsigned n = 0;
	uint32_t id;

	for (; (id = blob_next_dead(table)); n++)
		blob_free(table, id);
	return n;
}

START_TEST(test_loc)
{
	uint64_t loc = blob_loc_make(BLOB_ZSTD, (1u << 20) - 1, (1u << 22) - 1, BLOB_LEN_MAX);

	ck_assert_uint_eq(blob_loc_segment(loc), (1u << 20) - 1);
	ck_assert_uint_eq(blob_loc_offset(loc), (1u << 22) - 1);
	ck_assert_uint_eq(blob_loc_len(loc), BLOB_LEN_MAX);
	loc = blob_loc_make(BLOB_ZSTD, 0, 0, 0);
	ck_assert_uint_ne(loc, 0);
	ck_assert_uint_eq(blob_loc_segment(loc) | blob_loc_offset(loc) | blob_loc_len(loc), 0);
}
END_TEST

START_TEST(test_references)
{
	uint32_t id = add(42, 7), other;

	ck_assert_uint_gt(id, 0);
	ck_assert_uint_eq(blob_loc(table, id), loc_of(7));
	ck_assert_uint_eq(blob_hash(table, id), 42);
	blob_ref(table, id);
	ck_assert(blob_ref_unless_dead(table, id));
	blob_unref(table, id);
	blob_unref(table, id);
	ck_assert_uint_eq(blob_next_dead(table), 0);
	ck_assert(!blob_is_dead(table, id));
	blob_unref(table, id);
	/* dead is final, found or not */
	ck_assert(blob_is_dead(table, id));
	ck_assert(!blob_ref_unless_dead(table, id));
	ck_assert_uint_eq(blob_find(table, 42, 0), id);
	/* an equal one is found first */
	other = add(42, 8);
	ck_assert_uint_eq(blob_find(table, 42, 0), other);
	ck_assert_uint_eq(blob_find(table, 42, other), id);
	ck_assert_uint_eq(blob_next_dead(table), id);
	ck_assert_uint_eq(blob_next_dead(table), 0);
	ck_assert_uint_eq(blob_loc(table, id), loc_of(7));
	blob_free(table, id);
	ck_assert_uint_eq(blob_loc_of_any(table, id), 0);
	ck_assert_uint_eq(blob_find(table, 42, 0), other);
	ck_assert_uint_eq(blob_find(table, 42, other), 0);
	blob_move(table, other, loc_of(9));
	ck_assert_uint_eq(blob_loc(table, other), loc_of(9));
	ck_assert_uint_eq(blob_count(table), 1);
}
END_TEST

START_TEST(test_any_id)
{
	ck_assert_uint_eq(blob_loc_of_any(table, 0), 0);
	ck_assert_uint_eq(blob_loc_of_any(table, 1), 0);
	ck_assert_uint_eq(blob_loc_of_any(table, UINT32_MAX), 0);
	ck_assert_uint_eq(blob_loc_of_any(table, add(1, 3)), loc_of(3));
}
END_TEST

START_TEST(test_unpublished_goes_back)
{
	uint32_t id = blob_new(table);

	ck_assert_uint_eq(blob_count(table), 0);
	blob_free(table, id);
	ck_assert_uint_eq(blob_new(table), id);
	blob_free(table, id);
}
END_TEST

START_TEST(test_full)
{
	uint32_t n = 0, last = 0, id;

	while ((id = add(mix(n), n))) {
		last = id;
		n++;
	}
	ck_assert_uint_ge(n, MANY);
	ck_assert_uint_lt(n, MANY + 1024);
	ck_assert_uint_eq(blob_count(table), n);
	blob_unref(table, last);
	ck_assert_uint_eq(blob_new(table), 0); /* not before it is reaped */
	ck_assert_uint_eq(reap_all(), 1);
	ck_assert_uint_eq(blob_new(table), last);
}
END_TEST

/* At most 32 of the 48 bytes a page may cost are the table's and the index's,
   while it grows, while it shrinks, and at the end. */
static void expect_small(void)
{
	ck_assert_uint_le(blob_table_bytes(table), blob_count(table) * (size_t)32 + (64u << 10));
}

START_TEST(test_metadata_is_bounded)
{
	static uint32_t ids[MANY];

	for (unsigned round = 0; round < 2; round++) {
		for (uint32_t n = 0; n < MANY; n++) {
			ids[n] = add(mix(n), n);
			ck_assert_uint_ne(ids[n], 0);
			if (n % 1000 == 0)
				expect_small();
		}
		for (uint32_t n = 0; n < MANY; n++)
			if (blob_find(table, mix(n), 0) != ids[n])
				ck_abort_msg("%u is not found", n);
		/* from the front, then from the back */
		for (uint32_t n = 0; n < MANY; n++) {
			blob_unref(table, ids[round ? MANY - 1 - n : n]);
			if (n % 1000 == 0) {
				reap_all();
				expect_small();
			}
			if (n == MANY / 2 && blob_find(table, mix(MANY / 2 + 10), 0) !=
						     (round ? 0 : ids[MANY / 2 + 10]))
				ck_abort_msg("half way");
		}
		reap_all();
		ck_assert_uint_eq(blob_count(table), 0);
		ck_assert_uint_le(blob_table_bytes(table), 64u << 10);
	}
}
END_TEST

/* Random puts and deaths against an array. Few hashes, so that chains are
   long. */
START_TEST(test_against_model)
{
	static struct {
		uint32_t id, n;
		uint64_t hash;
	} model[5000];
	unsigned used = 0;

	for (uint32_t n = 0; n < 300000; n++) {
		unsigned at = (unsigned)rand_r(&seed) % ARRAY_SIZE(model);
		uint64_t hash = mix((uint64_t)rand_r(&seed) % (_i ? 40000 : 700));
		uint32_t id;

		if (model[at].id) {
			ck_assert(blob_loc(table, model[at].id) == loc_of(model[at].n));
			for (id = blob_find(table, model[at].hash, 0); id && id != model[at].id;)
				id = blob_find(table, model[at].hash, id);
			if (!id)
				ck_abort_msg("not found");
			blob_unref(table, model[at].id);
			model[at].id = 0;
			used--;
		} else {
			model[at].id = add(hash, n);
			model[at].hash = hash;
			model[at].n = n;
			used++;
		}
		if (n % 100 == 0) {
			reap_all();
			ck_assert_uint_eq(blob_count(table), used);
		}
	}
}
END_TEST

/* ---- threads: holders refer and unrefer, one thread makes and reaps ---- */

#define SHARED 64
static _Atomic uint32_t shared[SHARED];
static _Atomic bool stop;

static void *holder(void *arg)
{
	unsigned s = (unsigned)(uintptr_t)arg;

	while (!atomic_load(&stop)) {
		uint32_t id = atomic_exchange(&shared[(unsigned)rand_r(&s) % SHARED], 0);

		if (!id)
			continue;
		blob_ref(table, id);
		if (blob_loc(table, id) != loc_of((uint32_t)blob_hash(table, id) & 0xfffff))
			return arg;
		blob_unref(table, id);
		blob_unref(table, id);
	}
	return NULL;
}

START_TEST(test_threads)
{
	pthread_t thread[3];
	unsigned made = 0, reaped = 0;
	void *failed;

	atomic_store(&stop, false);
	for (uintptr_t i = 0; i < ARRAY_SIZE(thread); i++)
		ck_assert_int_eq(pthread_create(&thread[i], NULL, holder, (void *)(i + 1)), 0);
	for (uint32_t n = 0; n < 100000; n++) {
		uint32_t id = blob_find(table, n & 0xfff, 0), none = 0;

		/* a new one or, as a dedup hit does, an old one */
		if (!id || !blob_ref_unless_dead(table, id)) {
			id = add(n & 0xfff, n & 0xfff);
			made++;
		}
		if (!atomic_compare_exchange_strong(&shared[n % SHARED], &none, id))
			blob_unref(table, id);
		if (n % 50 == 0)
			reaped += reap_all();
	}
	atomic_store(&stop, true);
	for (unsigned i = 0; i < ARRAY_SIZE(thread); i++) {
		pthread_join(thread[i], &failed);
		ck_assert_ptr_null(failed);
	}
	for (unsigned i = 0; i < SHARED; i++) {
		uint32_t id = atomic_exchange(&shared[i], 0);

		if (id)
			blob_unref(table, id);
	}
	reaped += reap_all();
	ck_assert_uint_eq(reaped, made);
	ck_assert_uint_eq(blob_count(table), 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("blob");
	TCase *tc = tcase_create("blob");
	SRunner *runner;
	int failures;

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, test_loc);
	tcase_add_test(tc, test_references);
	tcase_add_test(tc, test_any_id);
	tcase_add_test(tc, test_unpublished_goes_back);
	tcase_add_test(tc, test_full);
	tcase_add_test(tc, test_metadata_is_bounded);
	tcase_add_loop_test(tc, test_against_model, 0, 2);
	tcase_add_test(tc, test_threads);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	failures = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
