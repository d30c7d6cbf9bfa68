/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Tiers: what does not fit into memory, or is not used, goes down; what is read
 * from there is what was put; a tier that fails loses nothing and stops nobody.
 * The slow tier is memory behind a store that fails by rule.
 */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backends/faulty.h"
#include "common/util.h"
#include "flow/blobstore.h"
#include "page/domain.h"
#include "page/seal.h"

static struct domain_registry *reg;
static struct domain *alice, *bob;
static struct store *stores[3];
static unsigned nr_stores;
static struct blobstore *bs;
static struct codec *codec;
static struct seal *seal;

static void open_tiers(unsigned memory, unsigned slow, unsigned slower)
{
	nr_stores = slower ? 3 : 2;
	stores[0] = store_memory_new(memory * (uint64_t)STORE_SEGMENT);
	stores[1] = store_faulty_new(store_memory_new(slow * (uint64_t)STORE_SEGMENT), false);
	if (slower)
		stores[2] = store_faulty_new(store_memory_new(slower * (uint64_t)STORE_SEGMENT), true);
	bs = blobstore_new_tiers(stores, nr_stores, 1u << 20, NULL, 0);
	ck_assert_ptr_nonnull(bs);
	seal = blobstore_seal_new(bs);
	ck_assert_ptr_nonnull(seal);
}

static void setup(void)
{
	codec = codec_new(1);
	reg = domain_registry_new();
	alice = domain_get(reg, 1000, UINT64_MAX);
	bob = domain_get(reg, 1001, UINT64_MAX);
	ck_assert(codec && alice && bob);
}

static void teardown(void)
{
	struct store_stats st;

	blobstore_free(bs);
	seal_free(seal);
	for (unsigned i = 0; i < nr_stores; i++) {
		store_get_stats(stores[i], &st);
		ck_assert_uint_eq(st.segments, 0);
		ck_assert_uint_eq(st.used_bytes, 0);
		ck_assert_uint_eq(st.error_total[STORE_ERROR_MISUSE], 0);
		store_close(stores[i]);
	}
	domain_unref(reg, alice);
	domain_unref(reg, bob);
	domain_registry_free(reg);
	codec_free(codec);
}

static struct blobstore_stats stats(void)
{
	struct blobstore_stats st;

	blobstore_get_stats(bs, &st);
	return st;
}

/* Page number n: half noise, so that some 2 KiB remain. */
static void make_page(unsigned char *page, uint64_t n)
{
	uint64_t x = n * 0x9e3779b97f4a7c15u + 1;

	for (size_t i = 0; i < PAGE_BYTES; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		page[i] = i % 64 < 28 ? (unsigned char)x : (unsigned char)(n + (i >> 9));
	}
	memcpy(page, &n, sizeof(n));
}

static enum blobstore_result try_put(struct domain *domain, uint64_t n, blob_id *id)
{
	unsigned char page[PAGE_BYTES];

	make_page(page, n);
	return blobstore_put(bs, codec, domain, page, id);
}

static blob_id put(struct domain *domain, uint64_t n)
{
	blob_id id;
	enum blobstore_result r = try_put(domain, n, &id);

	if (r != BLOBSTORE_STORED)
		ck_abort_msg("put of %llu: %d", (unsigned long long)n, r);
	return id;
}

static int get(blob_id id, uint64_t n)
{
	unsigned char page[PAGE_BYTES], want[PAGE_BYTES];
	int r = blobstore_get(bs, codec, id, page);

	make_page(want, n);
	return !r && memcmp(page, want, PAGE_BYTES) ? -EUCLEAN : r;
}

static void done(struct store_read *read)
{
	(void)read;
}

static _Alignas(4096) unsigned char room[BLOBSTORE_FETCH_ROOM];

/* As a fault does it. -EALREADY: not slow. */
static int fetch(blob_id id, uint64_t n)
{
	struct blobstore_fetch f = { .read = { .buf = room, .done = done } };
	unsigned char page[PAGE_BYTES], want[PAGE_BYTES];
	int r;

	if (!blobstore_fetch_start(bs, &f, id))
		return -EALREADY;
	r = blobstore_fetch_page(bs, &f, codec, seal, page);
	blobstore_fetch_end(&f);
	make_page(want, n);
	return !r && memcmp(page, want, PAGE_BYTES) ? -EUCLEAN : r;
}

static void work_all(void)
{
	for (unsigned i = 0; blobstore_work(bs); i++)
		ck_assert_uint_lt(i, 100000);
}

/* INV-8: charges are the bytes that live. */
static void expect_charges(void)
{
	ck_assert_uint_eq(alice->charged + bob->charged, stats().live_bytes);
}

static void expect_nothing(void)
{
	work_all();
	ck_assert_uint_eq(stats().blobs, 0);
	ck_assert_uint_eq(stats().live_bytes, 0);
	ck_assert_uint_eq(stats().dead_bytes, 0);
	ck_assert_uint_eq(alice->charged + bob->charged, 0);
}

#define MANY 12000 /* some 24 MiB */
static blob_id ids[MANY];

static void put_many(unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		ids[i] = put(i % 7 ? alice : bob, i);
}

static void drop_all(void)
{
	for (unsigned i = 0; i < MANY; i++)
		if (ids[i])
			blobstore_unref(bs, ids[i]);
	memset(ids, 0, sizeof(ids));
}

static unsigned expect_all(void)
{
	unsigned slow = 0;

	for (unsigned i = 0; i < MANY; i++) {
		if (!ids[i])
			continue;
		ck_assert_int_eq(get(ids[i], i), 0);
		if (!blobstore_is_slow(bs, ids[i]))
			continue;
		ck_assert_int_eq(fetch(ids[i], i), 0);
		slow++;
	}
	return slow;
}

START_TEST(test_more_than_memory)
{
	unsigned slow;

	open_tiers(4, 20, 0);
	put_many(MANY); /* none is refused */
	expect_charges();
	slow = expect_all();
	ck_assert_uint_gt(slow, MANY / 3);
	ck_assert_uint_gt(stats().tier[1].live_bytes, 8 << 20);
	ck_assert_uint_le(stats().tier[0].store.segments, 4);
	work_all();
	/* below the lower mark: room for what comes */
	ck_assert_uint_le(stats().tier[0].store.segments, 3);
	expect_charges();
	ck_assert_uint_ge(expect_all(), slow);
	ck_assert_uint_eq(stats().corrupt_total, 0);
	/* little more is written than what went down */
	ck_assert_uint_le(stats().tier[1].store.written_bytes_total,
			  stats().tier[1].live_bytes + stats().tier[1].live_bytes / 10 + (1 << 20));
	drop_all();
	expect_nothing();
}
END_TEST

START_TEST(test_full_everywhere)
{
	unsigned stored = 0;
	blob_id id;

	open_tiers(4, 4, 0);
	for (unsigned i = 0; i < MANY; i++) {
		enum blobstore_result r = try_put(alice, i, &id);

		if (r == BLOBSTORE_FULL)
			break;
		ck_assert_int_eq(r, BLOBSTORE_STORED);
		ids[i] = id;
		stored++;
	}
	ck_assert_uint_gt(stored, MANY / 2);
	ck_assert_uint_lt(stored, MANY);
	expect_all();
	expect_charges();
	/* with room again it goes on */
	for (unsigned i = 0; i < 4000; i++) {
		blobstore_unref(bs, ids[i]);
		ids[i] = 0;
	}
	work_all();
	for (unsigned i = 0; i < 2000; i++)
		ids[i] = put(alice, i);
	expect_all();
	drop_all();
	expect_nothing();
}
END_TEST

START_TEST(test_unused_goes_down)
{
	open_tiers(8, 8, 0);
	put_many(1000);
	work_all();
	ck_assert_uint_eq(stats().tier[1].live_bytes, 0);
	blobstore_set_move_down(bs, 1);
	while (blobstore_work(bs) || stats().tier[0].live_bytes)
		usleep(20000);
	ck_assert_uint_eq(expect_all(), 1000);
	expect_charges();
	/* both users' pages, in segments of their own */
	ck_assert_uint_eq(stats().tier[1].store.segments, 2);
	drop_all();
	expect_nothing();
}
END_TEST

/* Through all of three tiers, and the dead don't travel. */
START_TEST(test_three_tiers)
{
	open_tiers(4, 2, 20);
	for (unsigned i = 0; i < MANY; i++) {
		ids[i] = put(alice, i);
		if (i % 8 == 0 && i > 100) {
			blobstore_unref(bs, ids[i - 100]);
			ids[i - 100] = 0;
		}
		if (i % 256 == 0)
			blobstore_work(bs);
	}
	work_all();
	ck_assert_uint_gt(stats().tier[2].live_bytes, 0);
	expect_all();
	expect_charges();
	drop_all();
	expect_nothing();
}
END_TEST

START_TEST(test_garbage_in_a_slow_tier)
{
	struct blobstore_stats st;

	open_tiers(4, 20, 0);
	put_many(MANY);
	blobstore_set_move_down(bs, 1);
	while (blobstore_work(bs) || stats().tier[0].live_bytes)
		usleep(20000);
	/* 70 of 100 die */
	for (unsigned i = 0; i < MANY; i++)
		if (i % 10 < 7) {
			blobstore_unref(bs, ids[i]);
			ids[i] = 0;
		}
	work_all();
	st = stats();
	/* sealed segments hold 60 % life at least, the open ones what they hold */
	ck_assert_uint_le(st.tier[1].dead_bytes, st.tier[1].live_bytes * 2 / 3 + (8 << 20));
	ck_assert_uint_gt(st.tier[1].collected_bytes_total, 0);
	ck_assert_uint_le(st.tier[1].collected_bytes_total, st.tier[1].live_bytes * 12 / 10 + (1 << 20));
	ck_assert_uint_lt(st.tier[1].store.segments, 6);
	expect_all();
	expect_charges();
	drop_all();
	expect_nothing();
}
END_TEST

/* ---- a tier that fails ---- */

/* _i: how a write fails; the page must be there in any case. */
START_TEST(test_writes_that_fail)
{
	static const struct faulty_rule rules[] = {
		{ FAULTY_SEGMENT_NEW, FAULTY_ERROR, -EROFS, 0, 1 },
		{ FAULTY_SEGMENT_NEW, FAULTY_ERROR, -ENOSPC, 0, 1 },
		{ FAULTY_WRITE, FAULTY_ERROR, -EIO, 0, 1 },
		{ FAULTY_WRITE, FAULTY_ERROR, -ENOSPC, 3, 1 },
		{ FAULTY_WRITE, FAULTY_TORN, -EIO, 2, 1 },
		{ FAULTY_WRITE, FAULTY_LANDED, -ETIMEDOUT, 0, 2 }, /* within its tries */
		{ FAULTY_WRITE, FAULTY_TORN, -ETIMEDOUT, 1, 1 },
		{ FAULTY_WRITE, FAULTY_ERROR, -ETIMEDOUT, 0, 3 }, /* beyond them */
		{ FAULTY_WRITE, FAULTY_ERROR, -EACCES, 1, 1 },
	};
	bool survives = _i == 5 || _i == 6;

	open_tiers(8, 20, 0);
	put_many(600);
	store_faulty_add(stores[1], &rules[_i]);
	blobstore_set_move_down(bs, 1);
	usleep(150000);
	work_all();
	ck_assert_int_eq(stats().tier[1].degraded, !survives);
	if (!survives)
		ck_assert_msg(strstr(stats().tier[1].reason, "writing: ") != NULL, "%s", stats().tier[1].reason);
	expect_all();
	expect_charges();
	/* a while later it is tried again */
	while (blobstore_work(bs) || stats().tier[0].live_bytes)
		usleep(20000);
	ck_assert(!stats().tier[1].degraded);
	ck_assert_uint_eq(expect_all(), 600);
	expect_charges();
	ck_assert_uint_eq(stats().corrupt_total, 0);
	drop_all();
	expect_nothing();
}
END_TEST

START_TEST(test_a_failing_tier_is_passed_over)
{
	static const struct faulty_rule rule = { FAULTY_WRITE, FAULTY_ERROR, -EIO, 0, 0 };

	open_tiers(4, 20, 20);
	store_faulty_add(stores[1], &rule);
	put_many(8000); /* none is refused */
	ck_assert_uint_eq(stats().tier[1].live_bytes, 0);
	ck_assert(stats().tier[1].degraded);
	ck_assert_uint_gt(stats().tier[2].live_bytes, 4 << 20);
	ck_assert(!stats().tier[2].degraded);
	expect_all();
	drop_all();
	expect_nothing();
}
END_TEST

START_TEST(test_INV_7_reads_that_fail)
{
	static const struct faulty_rule flip = { FAULTY_READ, FAULTY_FLIP, 0, 0, 1 };
	static const struct faulty_rule error = { FAULTY_READ, FAULTY_ERROR, -EIO, 0, 1 };
	static const struct faulty_rule cut = { FAULTY_READ, FAULTY_SHORT, 0, 0, 1 };

	open_tiers(8, 20, 0);
	put_many(100);
	blobstore_set_move_down(bs, 1);
	while (blobstore_work(bs) || stats().tier[0].live_bytes)
		usleep(20000);
	store_faulty_add(stores[1], &flip);
	ck_assert_int_eq(fetch(ids[5], 5), -EBADMSG);
	ck_assert_uint_eq(stats().tier[1].corrupt_total, 1);
	ck_assert(!stats().tier[1].degraded);
	store_faulty_add(stores[1], &flip);
	ck_assert_int_eq(get(ids[6], 6), -EBADMSG);
	ck_assert_uint_eq(stats().corrupt_total, 2);
	store_faulty_add(stores[1], &error);
	ck_assert_int_eq(fetch(ids[5], 5), -EIO);
	ck_assert(stats().tier[1].degraded);
	ck_assert_str_eq(stats().tier[1].reason, "reading: Input/output error");
	store_faulty_add(stores[1], &cut);
	ck_assert_int_eq(fetch(ids[5], 5), -ENODATA);
	/* nothing was damaged but on the way */
	ck_assert_uint_eq(expect_all(), 100);
	ck_assert_uint_eq(stats().corrupt_total, 2);
	drop_all();
	expect_nothing();
}
END_TEST

/* A segment that is damaged where it lies: garbage collection leaves what it
   can't read where it is, and takes the rest along. */
START_TEST(test_INV_7_damage_is_not_carried_on)
{
	struct faulty_rule flip = { FAULTY_READ, FAULTY_FLIP, 0, 2, 0 };
	unsigned bad = 0;

	open_tiers(8, 20, 0);
	put_many(MANY / 2);
	blobstore_set_move_down(bs, 1);
	while (blobstore_work(bs) || stats().tier[0].live_bytes)
		usleep(20000);
	for (unsigned i = 0; i < MANY / 2; i++)
		if (i % 10 < 7) {
			blobstore_unref(bs, ids[i]);
			ids[i] = 0;
		}
	/* headers too */
	store_faulty_add(stores[1], &flip);
	work_all();
	store_faulty_clear(stores[1]);
	for (unsigned i = 0; i < MANY / 2; i++)
		if (ids[i])
			bad += get(ids[i], i) != 0;
	ck_assert_uint_eq(bad, 0);
	expect_charges();
	drop_all();
	expect_nothing();
}
END_TEST

START_TEST(test_verify)
{
	static const struct faulty_rule flip = { FAULTY_READ, FAULTY_FLIP, 0, 5, 3 };
	static const struct faulty_rule away = { FAULTY_READ, FAULTY_ERROR, -ETIMEDOUT, 2, 2 };
	struct blobstore_verified v;
	_Atomic bool stop = false;

	open_tiers(4, 20, 0);
	put_many(6000);
	for (unsigned i = 0; i < 6000; i += 5) {
		blobstore_unref(bs, ids[i]); /* dead, and not reaped yet */
		ids[i] = 0;
	}
	ck_assert_int_eq(blobstore_verify(bs, codec, &stop, &v), 0);
	ck_assert_uint_eq(v.good, 4800);
	ck_assert_uint_eq(v.damaged + v.unread + v.wrong_accounts, 0);
	work_all();
	store_faulty_add(stores[1], &flip);
	store_faulty_add(stores[1], &away);
	ck_assert_int_eq(blobstore_verify(bs, codec, &stop, &v), 0);
	ck_assert_uint_eq(v.good, 4795);
	ck_assert_uint_eq(v.damaged, 3);
	ck_assert_uint_eq(v.unread, 2);
	ck_assert_uint_eq(v.wrong_accounts, 0);
	stop = true;
	ck_assert_int_eq(blobstore_verify(bs, codec, &stop, &v), -ECANCELED);
	expect_charges();
	drop_all();
	expect_nothing();
}
END_TEST

/* ---- while something is read ---- */

START_TEST(test_a_segment_stays_while_it_is_read)
{
	static const struct faulty_rule hold = { FAULTY_READ, FAULTY_HOLD, 0, 0, 1 };
	struct blobstore_fetch f = { .read = { .buf = room, .done = done } };
	unsigned char page[PAGE_BYTES], want[PAGE_BYTES];

	open_tiers(8, 20, 0);
	put_many(3000);
	blobstore_set_move_down(bs, 1);
	while (blobstore_work(bs) || stats().tier[0].live_bytes)
		usleep(20000);
	store_faulty_add(stores[1], &hold);
	ck_assert(blobstore_fetch_start(bs, &f, ids[17]));
	ck_assert_uint_eq(store_faulty_held(stores[1]), 1);
	/* all but that one go; even it may be moved, what is read stays */
	for (unsigned i = 0; i < 3000; i++)
		if (i != 17) {
			blobstore_unref(bs, ids[i]);
			ids[i] = 0;
		}
	work_all();
	ck_assert_uint_eq(store_faulty_release(stores[1]), 1);
	ck_assert_int_eq(blobstore_fetch_page(bs, &f, codec, seal, page), 0);
	make_page(want, 17);
	ck_assert_mem_eq(page, want, PAGE_BYTES);
	blobstore_fetch_end(&f);
	ck_assert_int_eq(get(ids[17], 17), 0);
	drop_all();
	expect_nothing();
}
END_TEST

START_TEST(test_what_is_hot_comes_up)
{
	open_tiers(8, 20, 0);
	put_many(500);
	blobstore_set_move_down(bs, 1);
	while (blobstore_work(bs) || stats().tier[0].live_bytes)
		usleep(20000);
	blobstore_set_move_down(bs, 0);
	for (unsigned i = 0; i < 20; i++)
		blobstore_want(bs, ids[i]);
	work_all();
	for (unsigned i = 0; i < 500; i++)
		ck_assert_int_eq(blobstore_is_slow(bs, ids[i]), i >= 20);
	ck_assert_int_eq(fetch(ids[3], 3), -EALREADY);
	ck_assert_uint_gt(stats().promoted_bytes_total, 20 * 1000);
	expect_all();
	expect_charges();
	/* one that is dead, and one that never was */
	blobstore_want(bs, ids[30]);
	blobstore_want(bs, 400000);
	drop_all();
	expect_nothing();
}
END_TEST

/* ---- against a model ---- */

START_TEST(test_random_operations)
{
	static uint64_t content[MANY];
	unsigned seed = 4711 + (unsigned)_i;
	uint64_t next = 1;

	open_tiers(4, 8, 8);
	blobstore_set_move_down(bs, _i % 2);
	for (unsigned op = 0; op < 10000; op++) {
		unsigned i = (unsigned)rand_r(&seed) % (MANY / 2), what = (unsigned)rand_r(&seed) % 100;
		struct faulty_rule rule = { .call = what & 1 ? FAULTY_WRITE : FAULTY_SEGMENT_NEW,
					    .kind = what & 2 ? FAULTY_ERROR : FAULTY_LANDED,
					    .error = what & 4 ? -EIO : -ETIMEDOUT,
					    .times = 1 };

		if (what < 50 && !ids[i]) {
			/* now and then a content that is there already */
			content[i] = what < 5 ? content[rand_r(&seed) % (MANY / 2)] : next++;
			if (try_put(alice, content[i], &ids[i]) > BLOBSTORE_DUPLICATE)
				ids[i] = 0;
		} else if (what < 75 && ids[i]) {
			ck_assert_int_eq(get(ids[i], content[i]), 0);
		} else if (what < 90 && ids[i]) {
			blobstore_unref(bs, ids[i]);
			ids[i] = 0;
		} else if (what < 92 && ids[i] && blobstore_is_slow(bs, ids[i])) {
			ck_assert_int_eq(fetch(ids[i], content[i]), 0);
			blobstore_want(bs, ids[i]);
		} else if (what < 99) {
			blobstore_work(bs);
		} else if (rand_r(&seed) % 20 == 0) {
			store_faulty_clear(stores[1]);
			store_faulty_add(stores[1], &rule);
		}
		if (op % 2000 == 0)
			expect_charges();
	}
	for (unsigned i = 0; i < MANY / 2; i++)
		if (ids[i])
			ck_assert_int_eq(get(ids[i], content[i]), 0);
	expect_charges();
	drop_all();
	store_faulty_clear(stores[1]);
	expect_nothing();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("tiers");
	TCase *tc = tcase_create("tiers");
	SRunner *runner;
	int failures;

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, test_more_than_memory);
	tcase_add_test(tc, test_full_everywhere);
	tcase_add_test(tc, test_unused_goes_down);
	tcase_add_test(tc, test_three_tiers);
	tcase_add_test(tc, test_garbage_in_a_slow_tier);
	tcase_add_loop_test(tc, test_writes_that_fail, 0, 9);
	tcase_add_test(tc, test_a_failing_tier_is_passed_over);
	tcase_add_test(tc, test_INV_7_reads_that_fail);
	tcase_add_test(tc, test_INV_7_damage_is_not_carried_on);
	tcase_add_test(tc, test_a_segment_stays_while_it_is_read);
	tcase_add_test(tc, test_verify);
	tcase_add_test(tc, test_what_is_hot_comes_up);
	tcase_add_loop_test(tc, test_random_operations, 0, 2);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	failures = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
