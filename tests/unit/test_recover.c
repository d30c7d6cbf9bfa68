/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a worker finds of the one before it: slots, staging pages, blobs and
 * records, of which only the kept part is left.
 */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/kept.h"
#include "common/util.h"
#include "page/blob.h"
#include "page/slotmap.h"
#include "page/staging.h"
#include "proc/record.h"
#include "proc/session.h"

#define POOL ((size_t)64 << 20)
#define VPN 0x7f0000ull

static unsigned counted[64]; /* references by value */

static void get(void *ctx, slot_t slot)
{
	(void)ctx;
	counted[slot_value(slot)]++;
}

static void put(void *ctx, slot_t slot)
{
	(void)ctx;
	ck_assert_uint_gt(counted[slot_value(slot)], 0);
	counted[slot_value(slot)]--;
}

static const struct slot_refs refs = { .get = get, .put = put };

static void setup(void)
{
	kept_use(kept_directory_new());
	memset(counted, 0, sizeof(counted));
}

static void set_stored(struct slotmap *map, uint64_t vpn, uint64_t blob)
{
	ck_assert_int_eq(slotmap_set(map, vpn, slot_make(SLOT_LEAVING, 0, 0)), 0);
	ck_assert_int_eq(slotmap_set(map, vpn, slot_make(SLOT_STAGED, 0, blob)), 0);
	ck_assert_int_eq(slotmap_set(map, vpn, slot_make(SLOT_STORED, 0, blob)), 0);
	counted[blob]++;
}

static slot_t see(void *ctx, uint64_t vpn, slot_t slot, bool first)
{
	unsigned *seen = ctx;

	(void)vpn;
	seen[slot_value(slot)]++;
	if (first && slot_state(slot) == SLOT_STORED)
		counted[slot_value(slot)]++;
	return slot;
}

START_TEST(test_slots)
{
	struct slot_pool *pool = slot_pool_new(POOL);
	_Atomic uint32_t root[2] = { 0, 0 };
	struct slotmap map[2];
	unsigned seen[64] = { 0 };

	ck_assert(!slot_pool_is_found(pool));
	ck_assert_int_eq(slot_pool_reserve(pool, 256), 0);
	for (unsigned i = 0; i < 2; i++) {
		slotmap_init(&map[i], pool, &refs, NULL);
		map[i].kept_root = &root[i];
	}
	set_stored(&map[0], VPN, 1);
	set_stored(&map[0], VPN + 512, 2);
	set_stored(&map[0], VPN + 1024, 3);
	ck_assert_int_eq(slotmap_fork(&map[1], &map[0]), 0);
	/* one leaf becomes the child's own: another reference to what is in it */
	ck_assert_int_eq(slotmap_set(&map[1], VPN + 1, slot_make(SLOT_RESIDENT, 0, 7)), 0);
	ck_assert_uint_eq(counted[1], 2);
	ck_assert_uint_ne(root[0], 0);
	ck_assert_uint_ne(root[1], 0);
	slot_pool_free(pool); /* the file stays */

	memset(counted, 0, sizeof(counted));
	pool = slot_pool_new(POOL);
	ck_assert(slot_pool_is_found(pool));
	for (unsigned i = 0; i < 2; i++) {
		slotmap_init(&map[i], pool, &refs, NULL);
		map[i].kept_root = &root[i];
		map[i].root = root[i];
		ck_assert_uint_eq(slotmap_recover(&map[i], see, seen), 0);
	}
	slot_pool_recovered(pool);
	/* seen by both maps, counted once where the leaf is shared */
	ck_assert_uint_eq(seen[1], 2);
	ck_assert_uint_eq(seen[2], 2);
	ck_assert_uint_eq(counted[1], 2);
	ck_assert_uint_eq(counted[2], 1);
	ck_assert_uint_eq(counted[3], 1);
	ck_assert_uint_eq(map[0].count[SLOT_STORED], 3);
	ck_assert_uint_eq(map[1].count[SLOT_STORED], 3);
	ck_assert_uint_eq(slotmap_get(&map[1], VPN + 512), slot_make(SLOT_STORED, 0, 2));
	/* and goes on as if nothing had been */
	ck_assert_int_eq(slotmap_set(&map[1], VPN + 512, slot_make(SLOT_RESIDENT, 0, 0)), 0);
	ck_assert_uint_eq(counted[2], 2);
	put(NULL, slot_make(SLOT_STORED, 0, 2));
	slotmap_deinit(&map[0]);
	slotmap_deinit(&map[1]);
	for (unsigned i = 0; i < 64; i++)
		ck_assert_uint_eq(counted[i], 0);
	ck_assert_uint_eq(root[0] | root[1], 0);
	slot_pool_free(pool);
}
END_TEST

/* Whatever part of a move was done: once more from the start comes to the same. */
START_TEST(test_merge_by_halves)
{
	struct slot_pool *pool = slot_pool_new(POOL);
	struct slotmap map;

	ck_assert_int_eq(slot_pool_reserve(pool, 256), 0);
	slotmap_init(&map, pool, &refs, NULL);
	for (unsigned done = 0; done <= 8; done++) {
		for (unsigned i = 0; i < 8; i++)
			if (i != 5)
				set_stored(&map, VPN + 508 + i, i + 1);
		ck_assert_int_eq(slotmap_merge(&map, VPN + 508, VPN + 4000, done), 0);
		ck_assert_int_eq(slotmap_merge(&map, VPN + 508, VPN + 4000, 8), 0);
		for (unsigned i = 0; i < 8; i++) {
			ck_assert_uint_eq(slotmap_get(&map, VPN + 508 + i), 0);
			ck_assert_uint_eq(slotmap_get(&map, VPN + 4000 + i),
					  i == 5 ? 0 : slot_make(SLOT_STORED, 0, i + 1));
		}
		slotmap_deinit(&map);
	}
	slot_pool_free(pool);
}
END_TEST

START_TEST(test_damaged_slots)
{
	struct slot_pool *pool = slot_pool_new(POOL);
	_Atomic uint32_t root = 0;
	unsigned seen[64] = { 0 };
	struct slotmap map;

	slotmap_init(&map, pool, &refs, NULL);
	map.root = 12345; /* never given out */
	map.kept_root = &root;
	ck_assert_uint_eq(slotmap_recover(&map, see, seen), 1);
	ck_assert_uint_eq(map.root, 0);
	slot_pool_free(pool);
}
END_TEST

START_TEST(test_staging)
{
	struct staging *st = staging_new(128 * PAGE_BYTES);
	uint32_t index[3], generation;

	ck_assert_uint_eq(staging_alloc(st, index, 3), 3);
	for (unsigned i = 0; i < 3; i++)
		memset(staging_page(st, index[i]), (int)(i + 1), PAGE_BYTES);
	staging_ref(st, index[2]);
	staging_forward(st, index[2], 77);
	generation = staging_generation(st, index[0]);
	staging_free(st);

	st = staging_new(64 * PAGE_BYTES); /* less room than before */
	ck_assert_uint_ge(staging_recover_begin(st), 3);
	ck_assert_uint_eq(staging_recover_ref(st, index[0]), 1);
	ck_assert_uint_eq(staging_recover_ref(st, index[0]), 2);
	ck_assert_uint_eq(staging_recover_ref(st, 1u << 30), 0);
	ck_assert_uint_eq(staging_recover_blob(st, index[0]), 0);
	ck_assert_uint_eq(staging_recover_blob(st, index[2]), 77);
	staging_recover_end(st);
	ck_assert_uint_eq(staging_used_bytes(st), PAGE_BYTES);
	ck_assert_int_eq(*(uint8_t *)staging_page(st, index[0]), 1);
	/* a pack thread of the dead worker's batch is none of ours */
	ck_assert(!staging_tryref(st, index[0], generation));
	staging_unref(st, index[0]);
	staging_unref(st, index[0]);
	ck_assert_uint_eq(staging_used_bytes(st), 0);
	staging_free(st);
}
END_TEST

static bool live(void *ctx, uint32_t id, uint64_t loc)
{
	unsigned *n = ctx;

	(void)loc;
	(*n)++;
	return id != 0;
}

START_TEST(test_blobs)
{
	struct blob_table *table = blob_table_new(1u << 20);
	uint32_t id[3], other;
	unsigned n = 0;

	for (unsigned i = 0; i < 3; i++) {
		id[i] = blob_new(table);
		blob_publish(table, id[i], 1000 + i, blob_loc_make(BLOB_ZSTD, 1, i * 64, 50));
	}
	other = blob_new(table); /* of a put that comes no further */
	blob_table_free(table);

	table = blob_table_new(1u << 20);
	blob_recover_begin(table);
	ck_assert_uint_eq(blob_recover_ref(table, id[0]), 1);
	ck_assert_uint_eq(blob_recover_ref(table, id[0]), 2);
	ck_assert_uint_eq(blob_recover_ref(table, id[2]), 1);
	ck_assert_uint_eq(blob_recover_ref(table, other), 0);
	ck_assert_uint_eq(blob_recover_ref(table, 1u << 19), 0);
	blob_recover_end(table, live, &n);
	ck_assert_uint_eq(n, 2);
	ck_assert_uint_eq(blob_loc_of_any(table, id[1]), 0); /* nobody names it */
	/* one that is made before all are in the index is found too, once */
	other = blob_new(table);
	blob_publish(table, other, 1000, blob_loc_make(BLOB_ZSTD, 1, 640, 50));
	while (blob_recover_index(table, 1))
		;
	ck_assert_uint_eq(blob_count(table), 3);
	ck_assert_uint_eq(blob_find(table, 1002, 0), id[2]);
	ck_assert_uint_eq(blob_find(table, 1001, 0), 0);
	blob_unref(table, id[2]);
	ck_assert_uint_eq(blob_next_dead(table), id[2]);
	blob_free(table, id[2]);
	ck_assert_uint_eq(blob_hash(table, id[0]), 1000);
	blob_table_free(table);
}
END_TEST

static struct session *new_session(struct record_table *table, struct record *record)
{
	struct session *s = session_new(9, 1000);

	s->records = table;
	s->record = record;
	return s;
}

static struct session *counting_session(struct record_table *table, uint64_t id, uint64_t faults)
{
	struct record *record = record_new(table);
	struct session *s = session_new(id, 1000);

	s->records = table;
	s->record = record;
	s->counters.faults_total = faults;
	s->counters.stored_bytes = 8;
	s->counters.latency[SESSION_LATENCY_BUCKETS - 1] = 9;
	record_commit(s, 0);
	record_publish(record, id);
	return s;
}

static struct session *take_over(struct record_table *table, uint32_t *at)
{
	struct record *record = record_next(table, at);
	struct session *s = session_new(record->id, 1000);

	s->records = table;
	s->record = record;
	ck_assert_int_eq(record_load(s, record), 0);
	return s;
}

START_TEST(test_counters_go_on)
{
	struct record_table table;
	struct session *s[3];
	uint32_t at = 0;

	ck_assert_int_eq(record_table_open(&table), 0);
	for (unsigned i = 0; i < 3; i++)
		s[i] = counting_session(&table, i + 1, 100);
	record_keep_counters(s[0]);
	s[0]->counters.faults_total = 101; /* which nobody was told */
	/* two are over; the worker dies before either is buried, and before it has
	   noted that the second is in the sums */
	record_sum_counters(&table, s[1]);
	record_sum_counters(&table, s[1]); /* once only */
	record_sum_counters(&table, s[2]);
	s[2]->record->summed = 0;
	ck_assert_uint_eq(record_sums(&table)->faults_total, 200);
	for (unsigned i = 0; i < 3; i++) {
		s[i]->record = NULL;
		session_free(s[i]);
	}
	record_table_close(&table);

	ck_assert_int_eq(record_table_open(&table), 0);
	for (unsigned i = 0; i < 3; i++)
		s[i] = take_over(&table, &at);
	ck_assert_uint_eq(s[0]->counters.faults_total, 100);
	ck_assert_uint_eq(s[0]->counters.latency[SESSION_LATENCY_BUCKETS - 1], 9);
	ck_assert_uint_eq(s[0]->counters.stored_bytes, 0); /* what is stored is counted anew */
	for (unsigned i = 1; i < 3; i++) {
		ck_assert_uint_eq(s[i]->counters.faults_total, 0);
		record_sum_counters(&table, s[i]);
	}
	ck_assert_uint_eq(record_sums(&table)->faults_total, 200);
	record_sum_counters(&table, s[0]);
	ck_assert_uint_eq(record_sums(&table)->faults_total, 300);
	ck_assert_uint_eq(record_sums(&table)->latency[SESSION_LATENCY_BUCKETS - 1], 27);
	ck_assert_uint_eq(record_last_id(&table), 3);
	for (unsigned i = 0; i < 3; i++)
		session_free(s[i]);
	record_table_close(&table);

	/* nobody is left, and no id comes again */
	ck_assert_int_eq(record_table_open(&table), 0);
	ck_assert_uint_eq(record_last_id(&table), 3);
	record_table_close(&table);
}
END_TEST

START_TEST(test_record)
{
	struct record_table table;
	struct record *record;
	struct session *s;
	unsigned i;
	uint32_t at = 0;

	ck_assert_int_eq(record_table_open(&table), 0);
	record = record_new(&table);
	s = new_session(&table, record);
	record->nonce = 55;
	record->marks = true;
	for (i = 0; i < 600; i++) /* more than a page of them */
		ck_assert_int_eq(ranges_add(&s->registered, (2 * i + 1) << 20, (2 * i + 2) << 20), 0);
	ck_assert_int_eq(ranges_bag_add(&s->vacated, 4096, 8192), 0);
	record_commit(s, 0);
	record_publish(record, 9);
	/* an event is taken, and half done */
	s->waiting[s->nr_waiting++] = (struct uffd_msg){ .event = UFFD_EVENT_REMAP };
	record_commit(s, 321);
	record_note(s, 0, 2);
	/* and the other copy may hold anything */
	memset(&record->states[!record->now], 0xee, sizeof(record->states[0]));
	s->record = NULL;
	session_free(s);
	record_table_close(&table);

	ck_assert_int_eq(record_table_open(&table), 0);
	ck_assert(table.kept.found);
	record = record_next(&table, &at);
	ck_assert_ptr_nonnull(record);
	ck_assert_ptr_null(record_next(&table, &at));
	s = new_session(&table, record);
	ck_assert_int_eq(record_load(s, record), 0);
	ck_assert_uint_eq(s->nonce, 55);
	ck_assert(s->marks);
	ck_assert_uint_eq(s->registered.nr, 600);
	ck_assert_uint_eq(s->registered.v[599].end, (uint64_t)1200 << 20);
	ck_assert_uint_eq(s->vacated.nr, 1);
	ck_assert_uint_eq(s->nr_waiting, 1);
	ck_assert_uint_eq(record->states[record->now].applied, 321);
	ck_assert_uint_eq(record_noted(record, &i), 2);
	ck_assert_uint_eq(i, 0);
	/* with the next commit the note is void */
	s->nr_waiting = 0;
	record_commit(s, 0);
	ck_assert_uint_eq(record_noted(record, &i), 0);
	session_free(s);
	at = 0;
	ck_assert_ptr_null(record_next(&table, &at));
	record_table_close(&table);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("recover");
	TCase *tc = tcase_create("all");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(tc, setup, NULL);
	tcase_add_test(tc, test_slots);
	tcase_add_test(tc, test_merge_by_halves);
	tcase_add_test(tc, test_damaged_slots);
	tcase_add_test(tc, test_staging);
	tcase_add_test(tc, test_blobs);
	tcase_add_test(tc, test_record);
	tcase_add_test(tc, test_counters_go_on);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
