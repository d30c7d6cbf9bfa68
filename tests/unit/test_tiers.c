/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Tiers: what does not fit into memory, or is not used, goes down; what is read
 * from there is what was put; a tier that fails loses nothing and stops nobody.
 * The slow tier is memory behind a store that fails by rule.
 */
#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backends/faulty.h"
#include "backends/file.h"
#include "common/kept.h"
#include "common/util.h"
#include "page/seal.h"
#include "tests/unit/blobs.h"

static struct seal *seal;

/* remote: which one is on another machine, so that many batches are under way. */
static void open_tiers_with(unsigned memory, unsigned slow, unsigned slower, unsigned remote)
{
	nr_stores = slower ? 3 : 2;
	stores[0] = store_memory_new(memory * (uint64_t)STORE_SEGMENT);
	stores[1] = store_faulty_new(store_memory_new(slow * (uint64_t)STORE_SEGMENT), remote == 1);
	if (slower)
		stores[2] = store_faulty_new(store_memory_new(slower * (uint64_t)STORE_SEGMENT), remote == 2);
	bs = blobstore_new_tiers(stores, nr_stores, 1u << 20, NULL, 0);
	ck_assert_ptr_nonnull(bs);
	seal = blobstore_seal_new(bs);
	ck_assert_ptr_nonnull(seal);
}

static void open_tiers(unsigned memory, unsigned slow, unsigned slower)
{
	open_tiers_with(memory, slow, slower, 2);
}

static void stop_tiers(void)
{
	seal_free(seal);
	bs = blobstore_free(bs);
	store_close(stores[1]);
	store_close(stores[0]);
}

static void teardown(void)
{
	seal_free(seal);
	blobs_teardown();
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

/* As soon as they have not been used for a moment. */
static void move_all_down(void)
{
	blobstore_set_move_down(bs, 1);
	while (stats().tier[0].live_bytes)
		if (!blobstore_work(bs))
			usleep(20000);
	work_all();
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
		ck_assert_int_eq(get(codec, ids[i], i), 0);
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
	blob_id id, raw;

	open_tiers(4, 3, 0);
	raw = put(alice, BLOBS_NOISE); /* in a segment by itself */
	for (unsigned i = 0; i < MANY; i++) {
		enum blobstore_result r = try_put(alice, i, &id);

		if (r == BLOBSTORE_FULL) {
			work_all();
			r = try_put(alice, i, &id);
		}
		if (r == BLOBSTORE_FULL)
			break;
		ck_assert_int_eq(r, BLOBSTORE_STORED);
		ids[i] = id;
		stored++;
	}
	ck_assert_uint_gt(stored, MANY / 2);
	ck_assert_uint_lt(stored, MANY);
	/* but for the segments that are kept for collecting; and nothing is wrong with it */
	ck_assert_uint_eq(stats().tier[1].store.segments, 2);
	ck_assert_uint_gt(stats().tier[1].live_bytes, 2 * STORE_SEGMENT / 10 * 9);
	ck_assert_uint_eq(stats().tier[0].store.segments, 3);
	ck_assert_uint_gt(stats().tier[0].live_bytes, 3 * STORE_SEGMENT / 10 * 9);
	ck_assert(!blobstore_is_slow(bs, raw));
	ck_assert(!stats().tier[1].degraded);
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
	blobstore_unref(bs, raw);
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
	move_all_down();
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
	open_tiers(4, 3, 20);
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
	/* the one in between has room for what comes, and has not been emptied for that */
	ck_assert_uint_eq(stats().tier[1].store.segments, 1);
	ck_assert_uint_gt(stats().tier[1].store.written_bytes_total, 2 * STORE_SEGMENT);
	expect_all();
	expect_charges();
	drop_all();
	expect_nothing();
}
END_TEST

/* What is on its way to a tier that is full now is not sent to the next one as well. */
START_TEST(test_full_in_the_middle_of_a_segment)
{
	struct blobstore_stats st;

	open_tiers_with(8, 3, 20, 1);
	put_many(MANY / 2);
	move_all_down();
	st = stats();
	ck_assert_uint_gt(st.tier[1].live_bytes, 0);
	ck_assert_uint_le(st.tier[2].moved_in_bytes_total, st.tier[2].live_bytes + st.tier[2].live_bytes / 10);
	expect_all();
	drop_all();
	expect_nothing();
}
END_TEST

START_TEST(test_garbage_in_a_slow_tier)
{
	struct blobstore_stats st;

	open_tiers(4, 20, 0);
	put_many(MANY);
	move_all_down();
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

/* What goes down in small numbers takes a place of a segment each time, and is put together
   when there are no more. */
START_TEST(test_places_of_a_slow_tier)
{
	open_tiers(4, 3, 0);
	for (unsigned i = 0; i < 18; i++) {
		ids[2 * i] = put(alice, 2 * i);
		ids[2 * i + 1] = put(bob, 2 * i + 1);
		move_all_down(); /* it ends */
	}
	ck_assert_uint_gt(stats().tier[1].collected_bytes_total, 0);
	ck_assert_uint_eq(expect_all(), 36);
	expect_charges();
	drop_all();
	expect_nothing();
}
END_TEST

/* Who reads in order goes on: what it has not come to yet is not put together before it
   has been quiet for a while, unless room is short. _i: it is. */
START_TEST(test_no_collecting_where_somebody_reads)
{
	static _Alignas(4096) unsigned char buf[BLOBSTORE_WINDOW_ROOM];
	struct blobstore_window w = { .read = { .buf = buf, .done = done } };
	const unsigned n = 2100; /* more than a segment */
	uint64_t start, collected;

	open_tiers(4, _i ? 3 : 20, 0);
	for (unsigned i = 0; i < n; i++)
		ids[i] = put(alice, i);
	move_all_down();
	ck_assert_uint_eq(stats().tier[1].collected_bytes_total, 0);
	start = now_ns();
	for (unsigned i = 0; i < n; i++) {
		struct blobstore_fetch f;

		if (i % 64 == 0) {
			w.segment = NULL;
			w.bytes = 0;
			ck_assert(blobstore_window_add(bs, &w, &f, ids[i]));
			blobstore_window_submit(bs, &w);
			blobstore_fetch_end(&f);
		}
		if (i % 10 < 7) {
			blobstore_unref(bs, ids[i]);
			ids[i] = 0;
		}
	}
	work_all();
	collected = stats().tier[1].collected_bytes_total;
	if (_i)
		ck_assert_uint_gt(collected, 0);
	else if (now_ns() - start < NSEC_PER_SEC / 2) /* not on a machine that stood still */
		ck_assert_uint_eq(collected, 0);
	while (!stats().tier[1].collected_bytes_total) {
		usleep(20000);
		work_all();
	}
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
	struct faulty_rule rule = rules[_i];
	bool survives = _i == 5 || _i == 6;

	open_tiers(8, 20, 0);
	put_many(600);
	if (!survives)
		rule.times = 0; /* until it is taken away: the tier is tried again */
	store_faulty_add(stores[1], &rule);
	blobstore_set_move_down(bs, 1);
	usleep(150000);
	work_all();
	ck_assert_int_eq(stats().tier[1].degraded, !survives);
	if (!survives)
		ck_assert_msg(strstr(stats().tier[1].reason, "writing: ") != NULL, "%s", stats().tier[1].reason);
	expect_all();
	expect_charges();
	/* a while later it is tried again */
	store_faulty_clear(stores[1]);
	move_all_down();
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
	ck_assert_uint_gt(stats().tier[1].store.errors_total, 0);
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
	move_all_down();
	store_faulty_add(stores[1], &flip);
	ck_assert_int_eq(fetch(ids[5], 5), -EBADMSG);
	ck_assert_uint_eq(stats().tier[1].corrupt_total, 1);
	ck_assert(!stats().tier[1].degraded);
	store_faulty_add(stores[1], &flip);
	ck_assert_int_eq(get(codec, ids[6], 6), -EBADMSG);
	ck_assert_uint_eq(stats().corrupt_total, 2);
	store_faulty_add(stores[1], &error);
	ck_assert_int_eq(fetch(ids[5], 5), -EIO);
	ck_assert(stats().tier[1].degraded);
	ck_assert_str_eq(stats().tier[1].reason, "reading: Input/output error");
	store_faulty_add(stores[1], &cut);
	ck_assert_int_eq(fetch(ids[5], 5), -ENODATA);
	/* nothing was damaged but on the way */
	ck_assert_uint_eq(expect_all(), 100);
	ck_assert_uint_eq(stats().corrupt_total, 3);
	drop_all();
	expect_nothing();
}
END_TEST

/* A segment that is damaged where it lies: garbage collection leaves what it
   can't read where it is, and takes the rest along. */
START_TEST(test_INV_7_damage_is_not_carried_on)
{
	struct faulty_rule flip = { FAULTY_READ, FAULTY_FLIP, 0, 13, 0 };
	struct faulty_rule flip_one = { FAULTY_READ, FAULTY_FLIP, 0, 0, 1 };
	unsigned bad = 0;

	open_tiers(8, 20, 0);
	put_many(MANY / 2);
	move_all_down();
	for (unsigned i = 0; i < MANY / 2; i++)
		if ((i * 2654435761u >> 16) % 10 < 7) {
			blobstore_unref(bs, ids[i]);
			ids[i] = 0;
		}
	/* of twelve batches a frame, since each is read header first (what one rule takes,
	   those behind it don't see); then headers too */
	for (flip_one.skip = 1; flip_one.skip < flip.skip; flip_one.skip++)
		store_faulty_add(stores[1], &flip_one);
	store_faulty_add(stores[1], &flip);
	work_all();
	store_faulty_clear(stores[1]);
	ck_assert_uint_gt(stats().tier[1].corrupt_total, 0); /* told of before anybody touches it */
	ck_assert_uint_eq(stats().tier[1].corrupt_total, stats().corrupt_total);
	for (unsigned i = 0; i < MANY / 2; i++)
		if (ids[i])
			bad += get(codec, ids[i], i) != 0;
	ck_assert_uint_eq(bad, 0);
	expect_charges();
	drop_all();
	expect_nothing();
}
END_TEST

/* What can't be read for a while is collected after that. */
START_TEST(test_collected_when_it_can_be_read)
{
	static const struct faulty_rule error = { FAULTY_READ, FAULTY_ERROR, -EIO, 0, 0 };
	const unsigned n = 2100; /* more than a segment */

	open_tiers(8, 20, 0);
	for (unsigned i = 0; i < n; i++)
		ids[i] = put(alice, i);
	move_all_down();
	store_faulty_add(stores[1], &error);
	for (unsigned i = 0; i < n; i++)
		if (i % 3) {
			blobstore_unref(bs, ids[i]);
			ids[i] = 0;
		}
	work_all(); /* it ends */
	ck_assert_uint_gt(stats().tier[1].store.error_total[STORE_ERROR_IO], 0);
	ck_assert_uint_eq(stats().tier[1].collected_bytes_total, 0);
	ck_assert_uint_eq(stats().corrupt_total, 0);
	store_faulty_clear(stores[1]);
	while (!stats().tier[1].collected_bytes_total) {
		usleep(20000);
		work_all();
	}
	expect_all();
	drop_all();
	expect_nothing();
}
END_TEST

/* All of a batch, where it can't even be told what is in it. */
START_TEST(test_a_lost_batch_is_counted)
{
	struct faulty_rule flip = { FAULTY_READ, FAULTY_FLIP, 0, 0, 1 };
	uint64_t in_it = 0;

	open_tiers(8, 20, 0);
	for (unsigned i = 0; i < MANY / 4; i++)
		ids[i] = put(alice, i);
	move_all_down();
	for (unsigned i = 0; i < MANY / 4; i++)
		if (i % 3) {
			blobstore_unref(bs, ids[i]);
			ids[i] = 0;
		}
	while (blobstore_tidy(bs))
		;
	store_faulty_add(stores[1], &flip); /* the first header that is read */
	work_all();
	in_it = stats().tier[1].corrupt_total;
	ck_assert_uint_gt(in_it, 20);
	ck_assert_uint_lt(in_it, 100); /* some 120 of 2 KiB, of which a third lived */
	ck_assert_uint_eq(in_it, stats().corrupt_total);
	for (unsigned i = 0; i < MANY / 4; i += 3)
		ck_assert_int_eq(get(codec, ids[i], i), 0); /* it was the reading */
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
	ck_assert_uint_eq(v.damaged + v.unread + v.wrong_accounts + v.not_found, 0);
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

static struct blobstore_verified count_references(void (*meanwhile)(void))
{
	struct blobstore_references *refs = blobstore_references_new(bs);
	struct blobstore_verified v = { .good = 0 };
	uint64_t open = 1;
	char text[200];

	for (unsigned round = 0; round < 9 && open; round++) {
		blobstore_references_begin(refs);
		for (unsigned i = 0; i < MANY; i++) {
			if (ids[i])
				blobstore_references_add(refs, ids[i]);
			if (i == MANY / 2 && meanwhile)
				meanwhile();
		}
		open = blobstore_references_end(refs);
	}
	blobstore_references_report(refs, &v, text, sizeof(text));
	ck_assert_int_eq(!*text, !v.wrong_references);
	blobstore_references_free(refs);
	return v;
}

/* Some go, come, are held for a moment, and move: none of it is wrong. */
static void stir(void)
{
	static unsigned next;

	blobstore_ref(bs, ids[1]);
	blobstore_unref(bs, ids[1]);
	for (unsigned n = 0; n < 100; n++, next = (next + 7) % 4900) {
		blobstore_unref(bs, ids[100 + next]);
		ids[100 + next] = put(alice, 20000 + 100 + next);
	}
	blobstore_work(bs);
}

START_TEST(test_references)
{
	struct blobstore_verified v;
	blob_id twin;

	open_tiers(4, 20, 0);
	put_many(6000);
	ck_assert_int_eq(try_put(alice, 9, &twin), BLOBSTORE_DUPLICATE);
	ids[6000] = twin;
	v = count_references(NULL);
	ck_assert_uint_eq(v.wrong_references + v.unsettled, 0);
	v = count_references(stir);
	ck_assert_uint_eq(v.wrong_references, 0);
	ck_assert_uint_ge(v.unsettled, 1); /* 1 is held each time */
	/* one too many, one too few, one for a blob that is dead */
	blobstore_ref(bs, ids[40]);
	ids[6001] = ids[50];
	ck_assert_uint_eq(count_references(stir).wrong_references, 2);
	blobstore_unref(bs, ids[60]);
	ck_assert_uint_eq(count_references(NULL).wrong_references, 3);
	blobstore_unref(bs, ids[40]);
	ids[6001] = ids[60] = 0;
	ck_assert_uint_eq(count_references(NULL).wrong_references, 0);
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
	move_all_down();
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
	ck_assert_int_eq(get(codec, ids[17], 17), 0);
	drop_all();
	expect_nothing();
}
END_TEST

START_TEST(test_what_is_hot_comes_up)
{
	open_tiers(8, 20, 0);
	put_many(500);
	move_all_down();
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

/* What does not compress stays where it is while there is memory only, and goes
   down as it is where there is more. */
START_TEST(test_pages_as_they_are)
{
	unsigned char page[PAGE_BYTES];
	unsigned raw = 0, refused = 0;
	blob_id id;

	open_tiers(16, 20, 0);
	for (unsigned i = 0; i < 4000; i++) {
		enum blobstore_result r = try_put(alice, BLOBS_NOISE + i, &ids[i]);

		/* an eighth of memory at most is lent to them */
		if (r == BLOBSTORE_INCOMPRESSIBLE) {
			ids[i] = 0;
			refused++;
			blobstore_work(bs);
			continue;
		}
		ck_assert_int_eq(r, BLOBSTORE_STORED);
		ck_assert_uint_eq(blobstore_bytes(bs, ids[i]), PAGE_BYTES + 8);
		raw++;
		if (i == 10) /* found again, as any */
			ck_assert_int_eq(try_put(alice, BLOBS_NOISE + 3, &id), BLOBSTORE_DUPLICATE);
		ck_assert_uint_le(stats().tier[0].live_bytes, 2 * STORE_SEGMENT);
	}
	blobstore_unref(bs, id);
	ck_assert_uint_gt(refused, 0);
	ck_assert_uint_gt(raw, 3500);
	ck_assert_uint_eq(stats().encodings.raw_pages, raw);
	work_all(); /* no age, no need for room: they leave all the same */
	ck_assert_uint_lt(stats().tier[0].live_bytes, 4 * 64 * (PAGE_BYTES + 8));
	ck_assert_uint_eq(stats().raw_bytes, stats().tier[1].live_bytes);
	expect_charges();
	for (unsigned i = 0; i < 4000; i++)
		if (ids[i]) {
			ck_assert_int_eq(get(codec, ids[i], BLOBS_NOISE + i), 0);
			if (blobstore_is_slow(bs, ids[i]))
				ck_assert_int_eq(fetch(ids[i], BLOBS_NOISE + i), 0);
		}
	/* too dear for memory, however hot */
	blobstore_want(bs, ids[0]);
	work_all();
	ck_assert(blobstore_is_slow(bs, ids[0]));
	ck_assert_int_eq(blobstore_get_now(bs, codec, ids[0], page), -EAGAIN);
	drop_all();
	expect_nothing();
	ck_assert_uint_eq(stats().raw_bytes, 0);
}
END_TEST

/* The segment that they wait in is used for others, where they can't all leave. */
START_TEST(test_pages_as_they_are_that_stay)
{
	unsigned n;

	open_tiers(4, 2, 0);
	for (n = 0; n < 14 * 63; n++) /* so many batches of 16 */
		ids[n] = put(alice, BLOBS_NOISE + n);
	work_all();
	ck_assert_uint_eq(stats().tier[0].live_bytes, 0);
	for (; n < 14 * 63 + 4000; n++)
		ids[n] = put(alice, n);
	for (; n < 14 * 63 + 4300; n++)
		ids[n] = put(alice, BLOBS_NOISE + n);
	work_all();
	ck_assert_uint_gt(stats().tier[0].dead_bytes, 0); /* a part of them has gone down */
	while (try_put(alice, n, &ids[n]) == BLOBSTORE_STORED)
		ck_assert_uint_lt(++n, MANY - 1);
	ids[n] = 0;
	ck_assert_uint_gt(stats().tier[0].live_bytes + stats().tier[0].dead_bytes, 3 * STORE_SEGMENT / 10 * 9);
	expect_charges();
	drop_all();
	expect_nothing();
}
END_TEST

/* One that looks like noise but isn't costs room, and no more. */
START_TEST(test_refused_without_need)
{
	unsigned char page[PAGE_BYTES], back[PAGE_BYTES];
	struct blobstore_fetch f = { .read = { .buf = room, .done = done } };
	blob_id id;

	make_page(page, BLOBS_NOISE);
	memcpy(page + PAGE_BYTES / 2, page, PAGE_BYTES / 2);
	ck_assert(page_looks_random(page));
	ck_assert_uint_gt(codec_compress(codec, back, PAGE_BYTES * 5 / 8, page), 0);
	open_tiers(8, 20, 0);
	ck_assert_int_eq(blobstore_put(bs, codec, alice, page, &id), BLOBSTORE_STORED);
	ck_assert_uint_eq(blobstore_bytes(bs, id), PAGE_BYTES + 8);
	ck_assert_int_eq(blobstore_get(bs, codec, id, back), 0);
	ck_assert_mem_eq(back, page, PAGE_BYTES);
	move_all_down();
	ck_assert(blobstore_fetch_start(bs, &f, id));
	ck_assert_int_eq(blobstore_fetch_page(bs, &f, codec, seal, back), 0);
	blobstore_fetch_end(&f);
	ck_assert_mem_eq(back, page, PAGE_BYTES);
	blobstore_unref(bs, id);
	expect_nothing();
}
END_TEST

START_TEST(test_pages_as_they_are_need_a_way_down)
{
	static const struct faulty_rule rule = { FAULTY_WRITE, FAULTY_ERROR, -EIO, 0, 0 };
	unsigned raw = 0;

	open_tiers(16, 20, 0);
	store_faulty_add(stores[1], &rule);
	for (unsigned i = 0; i < 1000; i++) {
		raw += try_put(alice, BLOBS_NOISE + i, &ids[i]) == BLOBSTORE_STORED;
		ids[i] = i < raw ? ids[i] : 0;
		blobstore_work(bs);
	}
	ck_assert_uint_lt(raw, 300); /* a first write had to fail */
	for (unsigned i = 0; i < raw; i++)
		ck_assert_int_eq(get(codec, ids[i], BLOBS_NOISE + i), 0);
	drop_all();
	expect_nothing();
}
END_TEST

/* ---- a store that does not answer ---- */

static _Atomic bool hang, hanging, ended;

static void hang_in_writes(enum faulty_call call)
{
	while (call == FAULTY_WRITE && hang) {
		hanging = true;
		usleep(1000);
	}
}

static void wake_nobody(void *ctx)
{
	(void)ctx; /* it looks all the time */
}

static void *carrier(void *arg)
{
	while (!ended)
		if (!blobstore_carry(bs))
			usleep(1000);
	return arg;
}

static void *tidier(void *arg)
{
	while (!ended)
		if (!blobstore_tidy(bs) && !blobstore_collect(bs))
			usleep(1000);
	return arg;
}

/* Who puts gets to know that there is no room, and goes on; with an answer at last
   all is as before. (A put that waits for the write never comes back here.) */
START_TEST(test_puts_do_not_wait_for_a_hanging_store)
{
	unsigned stored = 0, full = 0;
	pthread_t thread;

	open_tiers(4, 20, 0);
	store_faulty_notice(stores[1], hang_in_writes);
	blobstore_set_carrier(bs, wake_nobody, NULL);
	hang = true;
	pthread_create(&thread, NULL, carrier, NULL);
	for (unsigned i = 0; i < MANY; i++) {
		enum blobstore_result r = try_put(alice, i, &ids[i]);

		ck_assert(r == BLOBSTORE_STORED || r == BLOBSTORE_FULL);
		ids[i] = r == BLOBSTORE_STORED ? ids[i] : 0;
		stored += r == BLOBSTORE_STORED;
		full += r == BLOBSTORE_FULL;
	}
	while (!hanging) /* the other thread may be late */
		usleep(1000);
	ck_assert_uint_gt(full, 100);
	ck_assert_uint_gt(stored, 4000);
	expect_all();
	hang = false;
	for (unsigned i = 0; i < MANY; i++)
		while (!ids[i] && try_put(alice, i, &ids[i]) != BLOBSTORE_STORED) {
			ids[i] = 0;
			usleep(1000);
		}
	ended = true;
	pthread_join(thread, NULL);
	expect_all();
	ck_assert_uint_gt(stats().tier[1].live_bytes, 4 << 20);
	blobstore_set_carrier(bs, NULL, NULL);
	drop_all();
	expect_nothing();
}
END_TEST

/* Nor for one that does not read: what may be equal there is passed over, and stored
   again. _i: the read that nobody waits for any more ends, or never does. */
START_TEST(test_puts_do_not_wait_for_a_hanging_read)
{
	struct faulty_rule hold = { .call = FAULTY_READ, .kind = FAULTY_HOLD };
	blob_id again;

	open_tiers(8, 8, 0);
	put_many(200);
	move_all_down();
	ck_assert_int_eq(try_put(bob, 0, &again), BLOBSTORE_DUPLICATE); /* read, and compared */
	ck_assert_uint_eq(again, ids[0]);
	blobstore_unref(bs, again);
	ck_assert_uint_eq(stats().duplicate_passed_total, 0);
	store_faulty_add(stores[1], &hold);
	for (unsigned i = 1; i < 200; i++)
		ids[MANY - i] = put(i % 7 ? alice : bob, i);
	ck_assert_uint_eq(stats().duplicate_passed_total, 199);
	ck_assert_uint_gt(store_faulty_held(stores[1]), 0);
	blobstore_unref(bs, ids[1]); /* its reader has a reference of its own */
	ids[1] = 0;
	for (unsigned i = 1; i < 200; i++)
		ck_assert_int_eq(get(codec, ids[MANY - i], i), 0);
	if (_i == 0)
		ck_assert_uint_gt(store_faulty_release(stores[1]), 0);
	drop_all();
	if (_i == 0)
		expect_nothing();
}
END_TEST

/* While a write hangs, the dead go and memory is put together, also what is part
   of that write; a domain may go as a whole. */
START_TEST(test_a_hanging_store_stops_no_tidying)
{
	struct blobstore_stats st;
	unsigned left = 0;
	pthread_t thread;

	open_tiers(8, 20, 0);
	put_many(6000);
	work_all();
	store_faulty_notice(stores[1], hang_in_writes);
	hang = true;
	blobstore_set_move_down(bs, 1);
	blobstore_set_carrier(bs, wake_nobody, NULL);
	pthread_create(&thread, NULL, carrier, NULL);
	while (!hanging)
		usleep(1000);
	for (unsigned i = 0; i < 6000; i++)
		if (i % 7 == 0 || i % 3) { /* all of bob's, two of three of alice's */
			blobstore_unref(bs, ids[i]);
			ids[i] = 0;
		} else {
			left++;
		}
	while (blobstore_tidy(bs) || blobstore_collect(bs))
		;
	st = stats();
	ck_assert(hanging);
	ck_assert_uint_eq(st.blobs, left);
	ck_assert_uint_eq(st.tier[1].live_bytes, 0);
	ck_assert_uint_eq(bob->charged, 0);
	expect_charges();
	/* but for the victim of the mover */
	ck_assert_uint_le(st.dead_bytes, st.live_bytes * 15 / 100 + 2 * STORE_SEGMENT);
	ck_assert_uint_gt(st.compacted_bytes_total, 1 << 20);
	ck_assert_uint_eq(st.tier[0].collected_bytes_total, st.compacted_bytes_total);
	ck_assert_uint_gt(st.collect_ns_total, 0);
	expect_all();
	hang = false;
	ended = true;
	pthread_join(thread, NULL);
	blobstore_set_carrier(bs, NULL, NULL);
	expect_all();
	drop_all();
	expect_nothing();
}
END_TEST

/* A tier that failed is degraded until it works, though nobody uses it meanwhile. */
START_TEST(test_degraded_until_it_works)
{
	struct faulty_rule write = { .call = FAULTY_WRITE, .kind = FAULTY_ERROR, .error = -EROFS };
	struct faulty_rule read = { .call = FAULTY_READ, .kind = FAULTY_ERROR, .error = -EIO };

	open_tiers(8, 8, 0);
	put_many(1000);
	move_all_down();
	store_faulty_add(stores[1], &read);
	ck_assert_int_eq(fetch(ids[1], 1), -EIO);
	for (unsigned i = 0; i < 130; i++, usleep(10000)) /* it is tried, and fails */
		blobstore_carry(bs);
	ck_assert(stats().tier[1].degraded);
	ck_assert_str_eq(stats().tier[1].reason, "reading: Input/output error");
	store_faulty_clear(stores[1]);
	while (stats().tier[1].degraded)
		blobstore_carry(bs);
	store_faulty_add(stores[1], &write);
	ids[2000] = put(alice, 2000);
	while (!stats().tier[1].degraded)
		blobstore_carry(bs);
	ck_assert_str_eq(stats().tier[1].reason, "writing: Read-only file system");
	blobstore_unref(bs, ids[2000]); /* nothing is left to be written */
	ids[2000] = 0;
	for (unsigned i = 0; i < 130; i++, usleep(10000))
		blobstore_work(bs);
	ck_assert(stats().tier[1].degraded);
	store_faulty_clear(stores[1]);
	while (stats().tier[1].degraded)
		blobstore_carry(bs);
	expect_all();
	drop_all();
	expect_nothing();
}
END_TEST

/* The second tier takes nothing any more, and nothing else is to be done. */
static void work_till_degraded(void)
{
	while (!stats().tier[1].degraded)
		if (!blobstore_work(bs))
			usleep(1000);
	work_all();
}

/* daily= is kept, a worker that follows goes on with what is left; what has not gone
   down stays where it is, and the tier says why. */
START_TEST(test_daily)
{
	const uint64_t most = 2 << 20;
	struct blobstore_tier tier;
	unsigned slow;

	kept_use(kept_directory_new());
	open_tiers(8, 8, 0);
	store_set_daily_writes(stores[1], most);
	ck_assert_uint_eq(stats().tier[1].daily_left_bytes, most);
	put_many(2000); /* 4 MiB */
	blobstore_set_move_down(bs, 1);
	work_till_degraded();
	tier = stats().tier[1];
	ck_assert_str_eq(tier.reason, "what daily= allows has been written in the last 24 hours");
	ck_assert_uint_eq(tier.store.written_bytes_total, most - tier.daily_left_bytes);
	ck_assert_uint_gt(tier.store.written_bytes_total, most / 2);
	slow = expect_all();
	ck_assert_uint_gt(slow, 400);
	ck_assert_uint_lt(slow, 1200);
	drop_all();
	expect_nothing();
	stop_tiers();
	open_tiers(8, 8, 0);
	store_set_daily_writes(stores[1], most);
	ck_assert_uint_eq(stats().tier[1].daily_left_bytes, tier.daily_left_bytes);
	ck_assert(stats().tier[1].degraded);
}
END_TEST

static unsigned nr_frees;

static void count_frees(enum faulty_call call)
{
	nr_frees += call == FAULTY_SEGMENT_FREE;
}

/* What a dead worker had on a slow medium and is nobody's any more is given back, but not
   before faults are answered: the medium may hang. */
START_TEST(test_recovery_waits_for_no_medium)
{
	struct store *dead_stores[2];
	struct blobstore *dead;
	struct seal *dead_seal;

	kept_use(kept_directory_new());
	open_tiers(8, 8, 0);
	put_many(1000);
	move_all_down();
	memcpy(dead_stores, stores, sizeof(dead_stores));
	dead = bs;
	dead_seal = seal;
	domain_uncharge(alice, alice->charged); /* they end with it */
	domain_uncharge(bob, bob->charged);
	open_tiers(8, 8, 0);
	store_faulty_notice(stores[1], count_frees);
	ck_assert_int_eq(blobstore_recover_begin(bs, reg), 0);
	blobstore_recover_end(bs);
	ck_assert_uint_eq(nr_frees, 0);
	ck_assert_uint_eq(stats().tier[1].store.segments, 2);
	ck_assert_uint_eq(stats().tier[1].dead_bytes, 0);
	work_all();
	ck_assert_uint_eq(nr_frees, 2);
	ck_assert_uint_eq(stats().tier[1].store.segments, 0);
	put_many(1000);
	move_all_down();
	ck_assert_uint_eq(expect_all(), 1000);
	drop_all();
	expect_nothing();
	stop_tiers();
	memcpy(stores, dead_stores, sizeof(dead_stores));
	bs = dead;
	seal = dead_seal;
}
END_TEST

static char medium[] = "/var/tmp/uswap-test.XXXXXX";

static void open_file_tier(uint64_t daily)
{
	const char *error;
	const struct store_file_options file = { .path = medium, .bytes = 8 * STORE_SEGMENT, .daily_writes = daily };

	nr_stores = 2;
	stores[0] = store_memory_new(8 * STORE_SEGMENT);
	stores[1] = store_file_new(&file, &error);
	ck_assert_ptr_nonnull(stores[1]);
	bs = blobstore_new_tiers(stores, nr_stores, 1u << 20, NULL, 0);
	ck_assert_ptr_nonnull(bs);
	seal = blobstore_seal_new(bs);
}

/* hours later, by the wall clock, what is left. */
static uint64_t left_after(int64_t hours, uint64_t daily)
{
	struct store_written w;

	ck_assert_int_eq(store_get_written(stores[1], &w), 0);
	w.hour_began -= (uint64_t)(hours * 3600);
	ck_assert_int_eq(store_set_written(stores[1], &w), 0);
	stop_tiers();
	open_file_tier(daily);
	w.hour_began += (uint64_t)(hours * 3600);
	ck_assert_int_eq(store_set_written(stores[1], &w), 0);
	return stats().tier[1].daily_left_bytes;
}

/* The medium itself tells what has been written to it, after a stop, and after a boot:
   uptime begins anew, the wall clock goes on (or is wrong). */
START_TEST(test_daily_outlives_a_stop)
{
	const uint64_t most = 2 << 20;
	char path[128];
	uint64_t left;

	ck_assert_ptr_nonnull(mkdtemp(medium));
	open_file_tier(most);
	put_many(2000); /* 4 MiB */
	blobstore_set_move_down(bs, 1);
	work_till_degraded();
	left = stats().tier[1].daily_left_bytes;
	ck_assert_uint_lt(left, most / 2);
	for (unsigned i = 0; i < 2000; i++)
		ck_assert_int_eq(get(codec, ids[i], i), 0);
	drop_all();
	expect_nothing();
	stop_tiers();
	open_file_tier(most);
	ck_assert_uint_eq(stats().tier[1].daily_left_bytes, left);
	ck_assert(stats().tier[1].degraded);
	ck_assert_uint_eq(left_after(22, most), left); /* an hour of uptime may have begun meanwhile */
	ck_assert_uint_eq(left_after(-100, most), left);
	ck_assert_uint_eq(left_after(26, most), most);
	ck_assert_uint_eq(left_after(1000, most), most);
	/* and is counted on from there */
	ck_assert_uint_eq(left_after(0, most * 2), left + most);
	put_many(500);
	move_all_down();
	ck_assert_uint_lt(stats().tier[1].daily_left_bytes, left + most);
	left = stats().tier[1].daily_left_bytes;
	drop_all();
	expect_nothing();
	stop_tiers();
	open_file_tier(most * 2);
	ck_assert_uint_eq(stats().tier[1].daily_left_bytes, left);
	stop_tiers();
	open_tiers(4, 4, 0);
	snprintf(path, sizeof(path), "%s/" FILE_STORE_NAME, medium);
	unlink(path);
	rmdir(medium);
}
END_TEST

#define PUTTERS 2

struct putter {
	pthread_t thread;
	struct domain *domain;
	unsigned first;
	blob_id ids[MANY / 4];
	unsigned wrong;
};

/* Puts, drops most of it again, reads the rest, all the time. */
static void *put_and_drop(void *arg)
{
	struct putter *p = arg;
	struct codec *c = codec_new(1);
	unsigned char page[PAGE_BYTES];
	unsigned seed = p->first + 1;

	for (unsigned op = 0; op < 30000; op++) {
		unsigned i = (unsigned)rand_r(&seed) % ARRAY_SIZE(p->ids);

		if (!p->ids[i]) {
			make_page(page, p->first + i);
			if (blobstore_put(bs, c, p->domain, page, &p->ids[i]) > BLOBSTORE_DUPLICATE)
				p->ids[i] = 0;
		} else if (rand_r(&seed) % 3) {
			blobstore_unref(bs, p->ids[i]);
			p->ids[i] = 0;
		} else {
			p->wrong += get(c, p->ids[i], p->first + i) != 0;
		}
		if (op % 6000 == 5000) /* the domain owes nothing any more */
			for (i = 0; i < ARRAY_SIZE(p->ids); i++) {
				if (p->ids[i])
					blobstore_unref(bs, p->ids[i]);
				p->ids[i] = 0;
			}
	}
	for (unsigned i = 0; i < ARRAY_SIZE(p->ids); i++)
		p->wrong += p->ids[i] && get(c, p->ids[i], p->first + i) != 0;
	codec_free(c);
	return NULL;
}

/* Garbage is collected in the slow store beside those who put: what lives stays. */
START_TEST(test_garbage_beside_puts)
{
	static struct putter putters[PUTTERS];
	pthread_t thread, other;

	open_tiers(4, 20, 0);
	blobstore_set_move_down(bs, 1);
	blobstore_set_carrier(bs, wake_nobody, NULL);
	pthread_create(&thread, NULL, carrier, NULL);
	pthread_create(&other, NULL, tidier, NULL);
	for (unsigned i = 0; i < PUTTERS; i++) {
		putters[i].first = i * MANY;
		putters[i].domain = i ? bob : alice;
		pthread_create(&putters[i].thread, NULL, put_and_drop, &putters[i]);
	}
	for (unsigned i = 0; i < PUTTERS; i++) {
		pthread_join(putters[i].thread, NULL);
		ck_assert_uint_eq(putters[i].wrong, 0);
	}
	ended = true;
	pthread_join(thread, NULL);
	pthread_join(other, NULL);
	work_all();
	expect_charges();
	ck_assert_uint_gt(stats().tier[1].moved_in_bytes_total, 8 << 20);
	ck_assert_uint_gt(stats().tier[1].collected_bytes_total, 1 << 20);
	for (unsigned i = 0; i < PUTTERS; i++)
		for (unsigned n = 0; n < ARRAY_SIZE(putters[i].ids); n++)
			if (putters[i].ids[n]) {
				ck_assert_int_eq(get(codec, putters[i].ids[n], putters[i].first + n), 0);
				blobstore_unref(bs, putters[i].ids[n]);
			}
	ck_assert_uint_eq(stats().corrupt_total, 0);
	blobstore_set_carrier(bs, NULL, NULL);
	expect_nothing();
}
END_TEST

/* ---- INV-2 ---- */

#define WATCHED 1000

static _Thread_local bool must_not_wait;
static _Atomic bool stop, pause_reader;
static _Atomic unsigned waited, refused, wrong;

static void notice(enum faulty_call call)
{
	waited += must_not_wait && call == FAULTY_READ;
}

static void *reader(void *arg)
{
	struct codec *c = codec_new(1);
	unsigned char page[PAGE_BYTES], want[PAGE_BYTES];

	must_not_wait = true;
	for (unsigned i = 0; !stop; i = (i + 1) % WATCHED) {
		int r = pause_reader ? 0 : blobstore_get_now(bs, c, ids[i], page);

		if (pause_reader) {
			usleep(1000);
			continue;
		}
		make_page(want, i);
		refused += r == -EAGAIN;
		wrong += (r && r != -EAGAIN) || (!r && memcmp(page, want, PAGE_BYTES));
	}
	codec_free(c);
	return arg;
}

/* Whoever must not wait never reads the medium, whatever moves meanwhile. */
START_TEST(test_INV_2_get_now_does_not_wait)
{
	pthread_t thread;

	open_tiers(8, 20, 0);
	store_faulty_notice(stores[1], notice);
	for (unsigned i = 0; i < WATCHED; i++)
		ids[i] = put(alice, i);
	pthread_create(&thread, NULL, reader, NULL);
	for (unsigned round = 0; round < 4; round++) {
		pause_reader = true; /* what is read is not cold */
		blobstore_set_move_down(bs, 1);
		while (!stats().tier[1].live_bytes && !blobstore_work(bs))
			usleep(20000);
		pause_reader = false;
		move_all_down();
		blobstore_set_move_down(bs, 0);
		for (unsigned i = 0; i < WATCHED; i++) {
			blobstore_want(bs, ids[i]);
			if (i % 8 == 0)
				blobstore_work(bs);
		}
		work_all();
	}
	stop = true;
	pthread_join(thread, NULL);
	ck_assert_uint_eq(wrong, 0);
	ck_assert_uint_eq(waited, 0);
	ck_assert_uint_gt(refused, 100);
	ck_assert_uint_gt(stats().promoted_bytes_total, 1 << 20);
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
			content[i] = what < 5 ? content[rand_r(&seed) % (MANY / 2)] :
					      next++ + (what < 15 ? BLOBS_NOISE : 0);
			if (try_put(alice, content[i], &ids[i]) > BLOBSTORE_DUPLICATE)
				ids[i] = 0;
		} else if (what < 75 && ids[i]) {
			ck_assert_int_eq(get(codec, ids[i], content[i]), 0);
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
			ck_assert_int_eq(get(codec, ids[i], content[i]), 0);
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

	tcase_add_checked_fixture(tc, blobs_setup, teardown);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, test_more_than_memory);
	tcase_add_test(tc, test_full_everywhere);
	tcase_add_test(tc, test_unused_goes_down);
	tcase_add_test(tc, test_three_tiers);
	tcase_add_test(tc, test_full_in_the_middle_of_a_segment);
	tcase_add_test(tc, test_garbage_in_a_slow_tier);
	tcase_add_test(tc, test_places_of_a_slow_tier);
	tcase_add_loop_test(tc, test_no_collecting_where_somebody_reads, 0, 2);
	tcase_add_loop_test(tc, test_writes_that_fail, 0, 9);
	tcase_add_test(tc, test_a_failing_tier_is_passed_over);
	tcase_add_test(tc, test_INV_7_reads_that_fail);
	tcase_add_test(tc, test_INV_7_damage_is_not_carried_on);
	tcase_add_test(tc, test_a_segment_stays_while_it_is_read);
	tcase_add_test(tc, test_collected_when_it_can_be_read);
	tcase_add_test(tc, test_a_lost_batch_is_counted);
	tcase_add_test(tc, test_verify);
	tcase_add_test(tc, test_references);
	tcase_add_test(tc, test_what_is_hot_comes_up);
	tcase_add_test(tc, test_pages_as_they_are);
	tcase_add_test(tc, test_pages_as_they_are_that_stay);
	tcase_add_test(tc, test_refused_without_need);
	tcase_add_test(tc, test_pages_as_they_are_need_a_way_down);
	tcase_add_test(tc, test_puts_do_not_wait_for_a_hanging_store);
	tcase_add_loop_test(tc, test_puts_do_not_wait_for_a_hanging_read, 0, 2);
	tcase_add_test(tc, test_a_hanging_store_stops_no_tidying);
	tcase_add_test(tc, test_degraded_until_it_works);
	tcase_add_test(tc, test_daily);
	tcase_add_test(tc, test_recovery_waits_for_no_medium);
	tcase_add_test(tc, test_daily_outlives_a_stop);
	tcase_add_test(tc, test_garbage_beside_puts);
	tcase_add_test(tc, test_INV_2_get_now_does_not_wait);
	tcase_add_loop_test(tc, test_random_operations, 0, 2);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	failures = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
