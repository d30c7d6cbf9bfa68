/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The blobstore on a memory store: what is put comes back or says why not,
 * what it costs is charged, and memory goes back.
 */
#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/util.h"
#include "tests/unit/blobs.h"

#define RECORD 8

static void open_store(unsigned segments)
{
	nr_stores = 1;
	stores[0] = store_memory_new(segments * (uint64_t)STORE_SEGMENT);
	ck_assert_ptr_nonnull(stores[0]);
	bs = blobstore_new(stores[0], 1u << 20);
	ck_assert_ptr_nonnull(bs);
}

START_TEST(test_put_get)
{
	blob_id id[200];
	uint64_t bytes = 0;

	open_store(4);
	for (unsigned n = 0; n < ARRAY_SIZE(id); n++) {
		id[n] = put(alice, n);
		ck_assert_uint_gt(id[n], 0);
		ck_assert_uint_le(blobstore_bytes(bs, id[n]), RECORD + BLOBSTORE_FRAME_MAX);
		bytes += blobstore_bytes(bs, id[n]);
	}
	ck_assert_uint_eq(stats().blobs, ARRAY_SIZE(id));
	ck_assert_uint_eq(stats().live_bytes, bytes);
	ck_assert_uint_eq(stats().dead_bytes, 0);
	for (unsigned n = 0; n < ARRAY_SIZE(id); n++)
		ck_assert_int_eq(get(codec, id[n], n), 0);
	for (unsigned n = 0; n < ARRAY_SIZE(id); n++)
		blobstore_unref(bs, id[n]);
	expect_nothing();
}
END_TEST

/* Pages to come are as large as those that have come. */
START_TEST(test_expected)
{
	blob_id id[400];
	uint64_t mean;

	open_store(4);
	ck_assert_uint_eq(blobstore_expect(bs, 1000), 0); /* nothing is known yet */
	for (unsigned n = 0; n < ARRAY_SIZE(id); n++)
		id[n] = put(alice, n);
	mean = stats().live_bytes / ARRAY_SIZE(id);
	ck_assert_uint_gt(blobstore_expect(bs, 1000), mean * 900);
	ck_assert_uint_lt(blobstore_expect(bs, 1000), mean * 1100);
	ck_assert_uint_eq(blobstore_expect(bs, 0), 0);
	for (unsigned n = 0; n < ARRAY_SIZE(id); n++)
		blobstore_unref(bs, id[n]);
	expect_nothing();
}
END_TEST

START_TEST(test_incompressible)
{
	unsigned char page[PAGE_BYTES];
	unsigned seed = 1;
	blob_id id;

	open_store(4);
	for (size_t i = 0; i < PAGE_BYTES; i++)
		page[i] = (unsigned char)(rand_r(&seed) >> 8);
	ck_assert_int_eq(blobstore_put(bs, codec, alice, page, &id), BLOBSTORE_INCOMPRESSIBLE);
	expect_nothing();
}
END_TEST

START_TEST(test_dedup_inside_and_not_across_domains)
{
	unsigned char page[PAGE_BYTES];
	blob_id first, again, others, bobs;

	open_store(4);
	make_page(page, 5);
	ck_assert_int_eq(blobstore_put(bs, codec, alice, page, &first), BLOBSTORE_STORED);
	ck_assert_int_eq(blobstore_put(bs, codec, alice, page, &again), BLOBSTORE_DUPLICATE);
	ck_assert_uint_eq(again, first);
	ck_assert_uint_eq(alice->charged, blobstore_bytes(bs, first)); /* once */
	ck_assert_int_eq(blobstore_put(bs, codec, bob, page, &others), BLOBSTORE_STORED);
	ck_assert_uint_ne(others, first);
	ck_assert_uint_eq(stats().duplicate_total, 1);
	ck_assert_uint_eq(stats().blobs, 2);
	expect_charges();
	/* even when both hash alike */
	bob->seed = alice->seed;
	make_page(page, 6);
	ck_assert_int_eq(blobstore_put(bs, codec, alice, page, &again), BLOBSTORE_STORED);
	ck_assert_int_eq(blobstore_put(bs, codec, bob, page, &bobs), BLOBSTORE_STORED);
	ck_assert_uint_ne(again, bobs);
	ck_assert_int_eq(get(codec, again, 6), 0);
	blobstore_unref(bs, again);
	blobstore_unref(bs, bobs);
	/* one reference of two */
	blobstore_unref(bs, first);
	work_all();
	ck_assert_int_eq(get(codec, first, 5), 0);
	blobstore_unref(bs, first);
	/* dead, if not reaped yet: no dedup to it */
	make_page(page, 5);
	ck_assert_int_eq(blobstore_put(bs, codec, alice, page, &again), BLOBSTORE_STORED);
	ck_assert_uint_ne(again, first);
	blobstore_unref(bs, again);
	blobstore_unref(bs, others);
	expect_nothing();
}
END_TEST

START_TEST(test_INV_8_charges)
{
	static blob_id id[3000];
	unsigned seed = 3;

	open_store(16);
	for (unsigned n = 0; n < ARRAY_SIZE(id); n++) {
		id[n] = put(n % 3 ? alice : bob, n);
		if (n % 100 == 0)
			expect_charges();
	}
	for (unsigned i = 0; i < 20000; i++) {
		unsigned n = (unsigned)rand_r(&seed) % ARRAY_SIZE(id);

		if (id[n]) {
			blobstore_unref(bs, id[n]);
			id[n] = 0;
		} else {
			id[n] = put(n % 3 ? alice : bob, n);
		}
		if (i % 50 == 0)
			blobstore_work(bs);
		if (i % 500 == 0)
			expect_charges();
	}
	for (unsigned n = 0; n < ARRAY_SIZE(id); n++) {
		if (!id[n])
			continue;
		ck_assert_int_eq(get(codec, id[n], n), 0);
		if (n % 3 == 0) {
			blobstore_unref(bs, id[n]);
			id[n] = 0;
		}
	}
	/* bob is gone, alice is not */
	work_all();
	ck_assert_uint_eq(bob->charged, 0);
	ck_assert_uint_gt(alice->charged, 0);
	expect_charges();
	for (unsigned n = 0; n < ARRAY_SIZE(id); n++)
		if (id[n])
			blobstore_unref(bs, id[n]);
	expect_nothing();
}
END_TEST

/* A domain may go the moment its last byte does; nothing touches it later. */
START_TEST(test_INV_8_domains_come_and_go)
{
	open_store(8);
	for (unsigned round = 0; round < 200; round++) {
		struct domain *d = domain_get(reg, 2000 + round % 7, UINT64_MAX);
		blob_id a = put(d, round), b = put(d, round + 1000);

		domain_unref(reg, d);
		blobstore_unref(bs, a);
		if (round % 2)
			blobstore_work(bs);
		ck_assert_int_eq(get(codec, b, round + 1000), 0);
		blobstore_unref(bs, b);
		if (round % 3)
			blobstore_work(bs);
	}
	expect_nothing();
}
END_TEST

START_TEST(test_memory_goes_back)
{
	static blob_id id[20000];
	struct blobstore_stats st;
	uint64_t full;

	open_store(32);
	for (unsigned n = 0; n < ARRAY_SIZE(id); n++)
		id[n] = put(alice, n);
	st = stats();
	full = st.store.used_bytes;
	ck_assert_uint_le(st.metadata_bytes, st.blobs * 32 + (64u << 10));
	ck_assert_uint_gt(full, 30u << 20);
	/* half of them, at random, then half of the rest */
	for (unsigned half = 1; half < 4; half++) {
		for (unsigned n = 0; n < ARRAY_SIZE(id); n++) {
			if (!id[n] || (n * 2654435761u >> (10 + half) & 1))
				continue;
			blobstore_unref(bs, id[n]);
			id[n] = 0;
		}
		work_all();
		st = stats();
		ck_assert_uint_gt(st.compacted_bytes_total, 0);
		ck_assert_uint_le(st.live_bytes + st.dead_bytes,
				  st.live_bytes / 100 * 115 + (64u << 10));
		/* really: what the memfd takes */
		ck_assert_uint_le(st.store.used_bytes, st.live_bytes / 100 * 115 + (192u << 10));
		/* entries can't move, so those between survivors stay */
		ck_assert_uint_le(st.metadata_bytes,
				  ARRAY_SIZE(id) * 24 + st.blobs * 8 + (64u << 10));
		expect_charges();
	}
	for (unsigned n = 0; n < ARRAY_SIZE(id); n++) {
		if (!id[n])
			continue;
		ck_assert_int_eq(get(codec, id[n], n), 0);
		blobstore_unref(bs, id[n]);
	}
	expect_nothing();
	ck_assert_uint_le(stats().metadata_bytes, 64u << 10);
}
END_TEST

/* A process ends, whose pages lay together: its segments go, and little is copied
   for it. */
START_TEST(test_what_lay_together_goes_without_compaction)
{
	static blob_id one[6000], other[6000];
	uint64_t before;

	open_store(32);
	for (unsigned n = 0; n < ARRAY_SIZE(one); n++)
		one[n] = put(alice, n);
	for (unsigned n = 0; n < ARRAY_SIZE(other); n++)
		other[n] = put(alice, 100000 + n);
	before = stats().store.used_bytes;
	for (unsigned n = 0; n < ARRAY_SIZE(one); n++)
		blobstore_unref(bs, one[n]);
	work_all();
	/* one segment was of both */
	ck_assert_uint_le(stats().compacted_bytes_total, STORE_SEGMENT);
	ck_assert_uint_le(stats().store.used_bytes, before * 60 / 100);
	for (unsigned n = 0; n < ARRAY_SIZE(other); n++) {
		ck_assert_int_eq(get(codec, other[n], 100000 + n), 0);
		blobstore_unref(bs, other[n]);
	}
	expect_nothing();
}
END_TEST

/* A lone open segment is given back as well. */
START_TEST(test_mostly_dead_open_segment)
{
	static blob_id id[1000];

	open_store(8);
	for (unsigned n = 0; n < ARRAY_SIZE(id); n++)
		id[n] = put(alice, n);
	for (unsigned n = 0; n + 10 < ARRAY_SIZE(id); n++)
		blobstore_unref(bs, id[n]);
	work_all();
	ck_assert_uint_le(stats().store.used_bytes, 128u << 10);
	for (unsigned n = ARRAY_SIZE(id) - 10; n < ARRAY_SIZE(id); n++) {
		ck_assert_int_eq(get(codec, id[n], n), 0);
		blobstore_unref(bs, id[n]);
	}
	expect_nothing();
}
END_TEST

/* While pages leave fast nothing is collected, for a second at most. */
START_TEST(test_garbage_waits_while_pages_leave)
{
	static blob_id id[6000];
	unsigned n = 0, looks = 0;
	uint64_t now = NSEC_PER_SEC;

	open_store(32);
	for (unsigned i = 0; i < ARRAY_SIZE(id); i++)
		id[i] = put(alice, i);
	ck_assert(!blobstore_is_ebbing(bs, now));
	for (bool ebbs = true; ebbs; looks++) {
		for (unsigned end = n + ARRAY_SIZE(id) / 30; n < end; n++)
			blobstore_unref(bs, id[n]);
		while (blobstore_tidy(bs))
			;
		/* too early to tell is as before */
		ck_assert_int_eq(blobstore_is_ebbing(bs, now + BLOBSTORE_EBB_NS - 1), looks > 0);
		now += BLOBSTORE_EBB_NS;
		ebbs = blobstore_is_ebbing(bs, now);
	}
	ck_assert_uint_eq(looks, NSEC_PER_SEC / BLOBSTORE_EBB_NS + 1);
	/* it is another ebb when it has been calm */
	blobstore_unref(bs, id[n++]);
	ck_assert(!blobstore_is_ebbing(bs, now += BLOBSTORE_EBB_NS));
	for (; n < ARRAY_SIZE(id); n++)
		blobstore_unref(bs, id[n]);
	while (blobstore_tidy(bs))
		;
	ck_assert(blobstore_is_ebbing(bs, now += BLOBSTORE_EBB_NS));
	ck_assert(!blobstore_is_ebbing(bs, now + BLOBSTORE_EBB_NS));
	expect_nothing();
}
END_TEST

START_TEST(test_INV_8_quota)
{
	unsigned char page[PAGE_BYTES];
	blob_id a = 0, b;

	open_store(4);
	atomic_store(&alice->limit, 5000);
	a = put(alice, 1);
	b = put(alice, 2);
	make_page(page, 3);
	ck_assert_int_eq(blobstore_put(bs, codec, alice, page, &(blob_id){ 0 }), BLOBSTORE_QUOTA);
	expect_charges();
	ck_assert_uint_le(alice->charged, 5000);
	/* a duplicate costs nothing; another user has his own */
	make_page(page, 2);
	ck_assert_int_eq(blobstore_put(bs, codec, alice, page, &b), BLOBSTORE_DUPLICATE);
	blobstore_unref(bs, b);
	blobstore_unref(bs, put(bob, 3));
	blobstore_unref(bs, a);
	work_all();
	blobstore_unref(bs, put(alice, 3));
	blobstore_unref(bs, b);
	expect_nothing();
}
END_TEST

/* A limit below all leaves others segments to put it in. */
START_TEST(test_INV_8_room_for_others)
{
	static blob_id ids[16000];
	unsigned n = 0;

	open_store(6);
	atomic_store(&alice->limit, 6 * (uint64_t)STORE_SEGMENT * 9 / 10);
	while (n < ARRAY_SIZE(ids) && try_put(alice, n, &ids[n]) == BLOBSTORE_STORED)
		n++;
	ck_assert_uint_gt(n, 6000);
	ck_assert_uint_lt(n, ARRAY_SIZE(ids));
	ids[n] = put(bob, n);
	work_all();
	for (unsigned i = 0; i <= n; i++)
		blobstore_unref(bs, ids[i]);
	expect_nothing();
}
END_TEST

START_TEST(test_full)
{
	static blob_id id[40000];
	static const unsigned sizes[] = { 1, 2, 3, 8 };
	const unsigned segments = sizes[_i];
	enum blobstore_result r;
	unsigned n, after;
	unsigned char page[PAGE_BYTES];

	open_store(segments);
	ck_assert(blobstore_has_room(bs, alice));
	for (n = 0;; n++) {
		make_page(page, n);
		r = blobstore_put(bs, codec, alice, page, &id[n]);
		if (r != BLOBSTORE_STORED)
			break;
	}
	ck_assert_int_eq(r, BLOBSTORE_FULL);
	ck_assert(!blobstore_has_room(bs, alice));
	ck_assert_uint_ge(stats().store.used_bytes,
			  (segments > 1 ? segments - 1 : 1) * STORE_SEGMENT - (64u << 10));
	expect_charges();
	for (unsigned i = 0; i < n; i += 97)
		ck_assert_int_eq(get(codec, id[i], i), 0);
	/* full of garbage: the store tidies up, though it is full */
	for (unsigned i = 0; i < n; i += 2)
		blobstore_unref(bs, id[i]);
	work_all();
	ck_assert_int_eq(blobstore_has_room(bs, alice), segments > 1);
	for (after = 0; segments > 1 && after < n / 3; after++)
		id[2 * after] = put(alice, 100000 + after);
	for (unsigned i = 0; i < n; i++) {
		if (i % 2 == 0 && i / 2 >= after)
			continue;
		ck_assert_int_eq(get(codec, id[i], i % 2 ? i : 100000 + i / 2), 0);
		blobstore_unref(bs, id[i]);
	}
	expect_nothing();
	blobstore_unref(bs, put(alice, 1));
	expect_nothing();
}
END_TEST

static void flip(uint32_t segment, size_t offset, unsigned bit)
{
	const void *at = store_map(stores[0], segment, offset, 1);
	unsigned char *byte = (unsigned char *)(uintptr_t)at;

	*byte ^= (unsigned char)(1u << bit);
}

START_TEST(test_INV_7_corrupt_frame)
{
	blob_id id, other, again;
	unsigned char page[PAGE_BYTES];
	uint64_t corrupt = 0;
	size_t len;

	open_store(4);
	id = put(alice, 1);
	other = put(alice, 2);
	len = blobstore_bytes(bs, id) - RECORD;
	/* the first blob of the first segment: its frame starts at 8 */
	for (size_t at = 0; at < len; at += 3) {
		flip(0, RECORD + at, at % 8);
		if (get(codec, id, 1))
			ck_assert_uint_eq(stats().corrupt_total, ++corrupt);
		flip(0, RECORD + at, at % 8);
	}
	/* zstd has a few bits without meaning: the page then comes out whole */
	ck_assert_uint_ge(corrupt, len / 3 - 2);
	ck_assert_int_eq(get(codec, id, 1), 0);
	/* no dedup to a damaged one, but a new blob */
	flip(0, RECORD + len / 2, 3);
	ck_assert_int_eq(get(codec, id, 1), -EBADMSG);
	make_page(page, 1);
	ck_assert_int_eq(blobstore_put(bs, codec, alice, page, &again), BLOBSTORE_STORED);
	ck_assert_int_eq(get(codec, again, 1), 0);
	ck_assert_int_eq(get(codec, other, 2), 0);
	blobstore_unref(bs, id);
	blobstore_unref(bs, other);
	blobstore_unref(bs, again);
	expect_nothing();
}
END_TEST

/* Frames of another page, whole in themselves, are no better. */
START_TEST(test_INV_7_frame_of_another_page)
{
	blob_id first, second;
	size_t len;
	unsigned char *a, *b;

	open_store(4);
	first = put(alice, 0x1000);
	len = blobstore_bytes(bs, first);
	for (uint64_t n = 0x1001;; n++) { /* one of the same length */
		second = put(alice, n);
		if (blobstore_bytes(bs, second) == len)
			break;
		ck_assert_uint_lt(n, 0x2000);
	}
	a = (unsigned char *)(uintptr_t)store_map(stores[0], 0, RECORD, 1);
	b = a + stats().live_bytes - len;
	ck_assert_mem_ne(a, b, len - RECORD);
	memcpy(a, b, len - RECORD);
	ck_assert_int_eq(blobstore_get(bs, codec, first, (unsigned char[PAGE_BYTES]){ 0 }),
			 -EBADMSG);
	blobstore_free(bs); /* with blobs left: all segments go back */
	bs = blobstore_new(stores[0], 1000);
}
END_TEST

START_TEST(test_INV_7_damaged_records_do_not_stop_the_rest)
{
	static blob_id id[6000];
	unsigned lost = 0;

	open_store(8);
	for (unsigned n = 0; n < ARRAY_SIZE(id); n++)
		id[n] = put(alice, n);
	/* the header of the first record: compaction can't walk that segment */
	flip(0, 6, 0);
	for (unsigned n = 0; n < ARRAY_SIZE(id); n++)
		if (n % 4)
			blobstore_unref(bs, id[n]);
	work_all();
	for (unsigned n = 0; n < ARRAY_SIZE(id); n += 4) {
		if (get(codec, id[n], n))
			lost++;
		blobstore_unref(bs, id[n]);
	}
	ck_assert_uint_eq(lost, 0); /* the frames were whole */
	ck_assert_uint_gt(stats().compacted_bytes_total, 0);
	expect_nothing();
}
END_TEST

/* ---- a store that reads by copying, and fails at will ---- */

struct plain {
	unsigned char *bytes;
	uint32_t nr;
	int write_error, read_error;
};

static int plain_new(void *self, uint32_t *segment)
{
	struct plain *p = self;

	if (p->nr == 4)
		return -ENOSPC;
	*segment = p->nr++;
	return 0;
}

static int plain_write(void *self, uint32_t segment, size_t offset, const void *buf, size_t len)
{
	struct plain *p = self;

	if (p->write_error)
		return p->write_error;
	memcpy(p->bytes + segment * STORE_SEGMENT + offset, buf, len);
	return 0;
}

static int plain_read(void *self, uint32_t segment, size_t offset, void *buf, size_t len)
{
	struct plain *p = self;

	if (p->read_error)
		return p->read_error;
	memcpy(buf, p->bytes + segment * STORE_SEGMENT + offset, len);
	return 0;
}

static void plain_free(void *self, uint32_t segment)
{
	(void)self, (void)segment;
}

static uint64_t plain_used(void *self)
{
	(void)self;
	return 0;
}

static void plain_destroy(void *self)
{
	(void)self;
}

START_TEST(test_store_errors)
{
	static const struct store_ops ops = {
		.name = "plain",
		.segment_new = plain_new,
		.write = plain_write,
		.read = plain_read,
		.segment_free = plain_free,
		.used_bytes = plain_used,
		.destroy = plain_destroy,
	};
	struct plain plain = { .bytes = malloc(4 * STORE_SEGMENT) };
	struct store *slow = store_new(&ops, &plain, 4);
	unsigned char page[PAGE_BYTES];
	blob_id id, none;

	open_store(1); /* for teardown */
	blobstore_free(bs);
	bs = blobstore_new(slow, 1000);
	id = put(alice, 1);
	ck_assert_int_eq(get(codec, id, 1), 0);
	plain.read_error = -EIO;
	ck_assert_int_eq(get(codec, id, 1), -EIO);
	ck_assert_uint_eq(stats().corrupt_total, 0);
	plain.read_error = 0;
	ck_assert_int_eq(get(codec, id, 1), 0);
	make_page(page, 2);
	plain.write_error = -EIO;
	ck_assert_int_eq(blobstore_put(bs, codec, alice, page, &none), BLOBSTORE_ERROR);
	expect_charges();
	plain.write_error = -ENOSPC;
	ck_assert_int_eq(blobstore_put(bs, codec, alice, page, &none), BLOBSTORE_FULL);
	expect_charges();
	ck_assert_uint_eq(stats().blobs, 1);
	plain.write_error = 0;
	/* what failed is never written again elsewhere in that segment */
	blobstore_unref(bs, put(alice, 2));
	ck_assert_int_eq(get(codec, id, 1), 0);
	blobstore_unref(bs, id);
	work_all();
	ck_assert_uint_eq(stats().blobs, 0);
	ck_assert_uint_eq(alice->charged, 0);
	blobstore_free(bs);
	bs = NULL;
	store_close(slow);
	free(plain.bytes);
}
END_TEST

/* ---- threads ---- */

#define PAGES 6000
#define PUTTERS 2
#define GETTERS 2

struct shared_page {
	pthread_spinlock_t lock;
	blob_id id;
};

static struct shared_page pages[PAGES];
static _Atomic bool stop;
static _Atomic unsigned failures;
static _Atomic uint64_t got;

/* Takes a reference as a slot's owner would, and reads. */
static void *getter(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg;
	struct codec *c = codec_new(1);

	while (!atomic_load(&stop)) {
		unsigned n = (unsigned)rand_r(&seed) % PAGES;
		blob_id id;

		pthread_spin_lock(&pages[n].lock);
		id = pages[n].id;
		if (id)
			blobstore_ref(bs, id);
		pthread_spin_unlock(&pages[n].lock);
		if (!id)
			continue;
		for (unsigned i = 0; i < 3; i++)
			if (get(c, id, n % (PAGES / 2)))
				atomic_fetch_add(&failures, 1);
		blobstore_unref(bs, id);
		atomic_fetch_add(&got, 3);
	}
	codec_free(c);
	return NULL;
}

/* Two numbers have the same content, so there are duplicates as well. */
static void *putter(void *arg)
{
	unsigned seed = 100 + (unsigned)(uintptr_t)arg;
	struct codec *c = codec_new(1);
	unsigned char page[PAGE_BYTES];

	for (unsigned i = 0; i < 40000; i++) {
		/* in waves: many die together */
		unsigned n = (unsigned)rand_r(&seed) % (i / 4000 % 2 ? PAGES : PAGES / 3);
		blob_id id = 0, old;

		make_page(page, n % (PAGES / 2));
		if (rand_r(&seed) % 3 &&
		    blobstore_put(bs, c, n % 2 ? alice : bob, page, &id) > BLOBSTORE_DUPLICATE)
			atomic_fetch_add(&failures, 1);
		pthread_spin_lock(&pages[n].lock);
		old = pages[n].id;
		pages[n].id = id;
		pthread_spin_unlock(&pages[n].lock);
		if (old)
			blobstore_unref(bs, old);
	}
	codec_free(c);
	return NULL;
}

static void *worker(void *arg)
{
	while (!atomic_load(&stop))
		if (!blobstore_work(bs))
			usleep(200);
	return arg;
}

START_TEST(test_compaction_beside_gets_and_puts)
{
	pthread_t put_thread[PUTTERS], get_thread[GETTERS], work_thread;

	open_store(16);
	atomic_store(&stop, false);
	for (unsigned n = 0; n < PAGES; n++)
		pthread_spin_init(&pages[n].lock, 0);
	pthread_create(&work_thread, NULL, worker, NULL);
	for (uintptr_t i = 0; i < GETTERS; i++)
		pthread_create(&get_thread[i], NULL, getter, (void *)(i + 1));
	for (uintptr_t i = 0; i < PUTTERS; i++)
		pthread_create(&put_thread[i], NULL, putter, (void *)(i + 1));
	for (unsigned i = 0; i < PUTTERS; i++)
		pthread_join(put_thread[i], NULL);
	atomic_store(&stop, true);
	for (unsigned i = 0; i < GETTERS; i++)
		pthread_join(get_thread[i], NULL);
	pthread_join(work_thread, NULL);

	ck_assert_uint_eq(failures, 0);
	ck_assert_uint_gt(got, 1000);
	ck_assert_uint_gt(stats().compacted_bytes_total, 1u << 20);
	ck_assert_uint_gt(stats().duplicate_total, 100);
	ck_assert_uint_eq(stats().corrupt_total, 0);
	work_all();
	expect_charges();
	for (unsigned n = 0; n < PAGES; n++) {
		if (!pages[n].id)
			continue;
		ck_assert_int_eq(get(codec, pages[n].id, n % (PAGES / 2)), 0);
		blobstore_unref(bs, pages[n].id);
	}
	expect_nothing();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("blobstore");
	TCase *tc = tcase_create("blobstore");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(tc, blobs_setup, blobs_teardown);
	tcase_set_timeout(tc, 180);
	tcase_add_test(tc, test_put_get);
	tcase_add_test(tc, test_expected);
	tcase_add_test(tc, test_incompressible);
	tcase_add_test(tc, test_dedup_inside_and_not_across_domains);
	tcase_add_test(tc, test_INV_8_charges);
	tcase_add_test(tc, test_INV_8_domains_come_and_go);
	tcase_add_test(tc, test_memory_goes_back);
	tcase_add_test(tc, test_what_lay_together_goes_without_compaction);
	tcase_add_test(tc, test_mostly_dead_open_segment);
	tcase_add_test(tc, test_garbage_waits_while_pages_leave);
	tcase_add_test(tc, test_INV_8_quota);
	tcase_add_test(tc, test_INV_8_room_for_others);
	tcase_add_loop_test(tc, test_full, 0, 4);
	tcase_add_test(tc, test_INV_7_corrupt_frame);
	tcase_add_test(tc, test_INV_7_frame_of_another_page);
	tcase_add_test(tc, test_INV_7_damaged_records_do_not_stop_the_rest);
	tcase_add_test(tc, test_store_errors);
	tcase_add_test(tc, test_compaction_beside_gets_and_puts);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
