/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Dictionaries and differences: pages come back byte for byte whatever becomes
 * of what they were made with, inside one trust domain, and all of it goes when
 * the last page does.
 */
#include <check.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/util.h"
#include "flow/blobstore.h"
#include "flow/blobstore_private.h"
#include "page/dict.h"

#define PAGES 6000u /* enough for a dictionary, and for what it gains to show */

static struct domain_registry *reg;
static struct domain *alice, *bob;
static struct store *store;
static struct blobstore *bs;
static struct codec *codec;

static void setup(void)
{
	codec = codec_new(1);
	reg = domain_registry_new();
	alice = domain_get(reg, 1000, UINT64_MAX);
	bob = domain_get(reg, 1001, UINT64_MAX);
	store = store_memory_new(64 * (uint64_t)STORE_SEGMENT);
	bs = store ? blobstore_new(store, 1u << 20) : NULL;
	ck_assert(codec && alice && bob && bs);
}

/* Nothing is left: no blob, no dictionary, no charge. */
static void teardown(void)
{
	struct blobstore_stats st;

	while (blobstore_work(bs) || blobstore_learn(bs, codec))
		;
	blobstore_get_stats(bs, &st);
	ck_assert_uint_eq(st.blobs, 0);
	ck_assert_uint_eq(st.dicts, 0);
	ck_assert_uint_eq(st.corrupt_total, 0);
	ck_assert_uint_eq(atomic_load(&alice->charged), 0);
	ck_assert_uint_eq(atomic_load(&bob->charged), 0);
	blobstore_free(bs);
	store_close(store);
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

static uint64_t next_random(uint64_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 7;
	*x ^= *x << 17;
	return *x;
}

/* Page number n of a program of some kind: its words in any order, so that
   pages have much in common and are all different. */
static void make_page(unsigned char *page, unsigned kind, uint64_t n)
{
	uint64_t x = (n + 1) * 0x9e3779b97f4a7c15u, words = kind + 77;
	unsigned char word[64][24];

	for (unsigned w = 0; w < 64; w++)
		for (unsigned i = 0; i < 24; i++)
			word[w][i] = (unsigned char)('a' + next_random(&words) % 26);
	for (size_t at = 0; at < PAGE_BYTES; at += 32) {
		memcpy(page + at, word[next_random(&x) % 64], 24);
		memcpy(page + at + 24, &x, 8);
		page[at + 29] = page[at + 30] = page[at + 31] = 0;
	}
}

static blob_id put(struct domain *domain, struct family *family, uint64_t vpn, const void *page)
{
	const struct blobstore_source from = { .domain = domain, .family = family, .vpn = vpn };
	enum blobstore_result r;
	blob_id id;

	r = blobstore_put_from(bs, codec, &from, page, &id);
	ck_assert(r == BLOBSTORE_STORED || r == BLOBSTORE_DUPLICATE);
	return id;
}

static void check(blob_id id, const void *want)
{
	unsigned char page[PAGE_BYTES];

	ck_assert_int_eq(blobstore_get(bs, codec, id, page), 0);
	ck_assert_mem_eq(page, want, PAGE_BYTES);
}

/* Pages [first, first + n) of a kind, with housekeeping as the agent has it. */
static void put_many(struct domain *domain, struct family *family, unsigned kind, unsigned first,
		     unsigned n, blob_id *ids)
{
	unsigned char page[PAGE_BYTES];

	for (unsigned i = 0; i < n; i++) {
		make_page(page, kind, first + i);
		ids[i] = put(domain, family, first + i, page);
		if (i % 64 == 0)
			while (blobstore_learn(bs, codec))
				;
	}
}

static void check_many(unsigned kind, unsigned first, unsigned n, const blob_id *ids)
{
	unsigned char page[PAGE_BYTES];

	for (unsigned i = 0; i < n; i++) {
		make_page(page, kind, first + i);
		check(ids[i], page);
	}
}

static void unref_many(unsigned n, const blob_id *ids)
{
	for (unsigned i = 0; i < n; i++)
		blobstore_unref(bs, ids[i]);
}

static blob_id ids[4 * PAGES];

START_TEST(test_dictionary)
{
	struct family *f = blobstore_family_new(bs, alice);
	struct blobstore_stats st;

	put_many(alice, f, 0, 0, PAGES, ids);
	st = stats();
	ck_assert_uint_eq(st.dicts, 1);
	ck_assert_uint_gt(st.encodings.dict_pages, PAGES / 2);
	ck_assert_int_gt(st.encodings.dict_saved_bytes, 0);
	/* it makes these pages smaller by a fifth or more */
	ck_assert_uint_lt(st.encodings.dict_bytes / st.encodings.dict_pages * 5,
			  st.encodings.plain_bytes / st.encodings.plain_pages * 4);
	check_many(0, 0, PAGES, ids);
	/* nobody has packed for a while: it takes less memory till somebody does */
	for (unsigned i = 0; i < 2; i++) {
		bs->clock += 1000;
		blobstore_learn(bs, codec);
	}
	ck_assert_uint_le(stats().metadata_bytes + (30 << 10), st.metadata_bytes);
	check_many(0, 0, PAGES, ids);
	put_many(alice, f, 0, PAGES, 1, ids + PAGES);
	ck_assert_uint_eq(stats().encodings.dict_pages, st.encodings.dict_pages + 1);
	check_many(0, PAGES, 1, ids + PAGES);
	blobstore_unref(bs, ids[PAGES]);
	/* it lives while a blob uses it, also after its process */
	blobstore_family_unref(f);
	while (blobstore_work(bs) || blobstore_learn(bs, codec))
		;
	ck_assert_uint_eq(stats().dicts, 1);
	check_many(0, 0, PAGES, ids);
	unref_many(PAGES, ids);
}
END_TEST

/* What can wait for the first dictionary, and for the next attempt, is told to, till it is
   there or known not to be worth it. */
START_TEST(test_first_is_waited_for)
{
	struct family *f = blobstore_family_new(bs, alice), *other = blobstore_family_new(bs, alice);
	unsigned char page[PAGE_BYTES];
	unsigned n = 0, waits = 0;

	ck_assert(!blobstore_family_is_learning(NULL));
	for (; n < PAGES && !blobstore_family_is_learning(f); n++) {
		make_page(page, 0, n);
		ids[n] = put(alice, f, n, page);
	}
	ck_assert_uint_lt(n, PAGES);
	ck_assert(!blobstore_family_is_learning(other));
	while (blobstore_learn(bs, codec))
		;
	ck_assert(!blobstore_family_is_learning(f));
	ck_assert_uint_eq(stats().dicts, 1);
	unref_many(n, ids);
	/* pages that have nothing in common: two attempts, and no more */
	for (unsigned i = 0; i < 7 * n; i++) {
		make_page(page, i + 1, i);
		blobstore_unref(bs, put(alice, other, i, page));
		if (i % 64 == 0)
			blobstore_work(bs);
		if (!blobstore_family_is_learning(other))
			continue;
		ck_assert_uint_eq(i + 1, waits++ ? 5 * n : n);
		ck_assert_uint_le(waits, 2);
		while (blobstore_learn(bs, codec))
			;
		ck_assert(!blobstore_family_is_learning(other));
	}
	ck_assert_uint_eq(waits, 2);
	blobstore_family_unref(f);
	blobstore_family_unref(other);
}
END_TEST

/* What a program has first is in part like the rest. The dictionary for that gains enough
   on all of it to stay, and still the one that is better for the rest is found. */
START_TEST(test_first_pages_are_unlike)
{
	struct family *f = blobstore_family_new(bs, alice);
	unsigned char page[PAGE_BYTES], other[PAGE_BYTES];

	put_many(alice, f, 0, 0, PAGES / 2, ids);
	ck_assert_uint_eq(stats().encodings.dicts_trained, 1);
	for (unsigned i = PAGES / 2; i < 3 * PAGES; i++) {
		make_page(page, 0, i);
		make_page(other, 1, i);
		memcpy(page, other, PAGE_BYTES / 2);
		ids[i] = put(alice, f, i, page);
		if (i % 64 == 0)
			while (blobstore_learn(bs, codec))
				;
	}
	ck_assert_uint_eq(stats().encodings.dicts_retired, 0);
	ck_assert_uint_eq(stats().encodings.dicts_trained, 2);
	unref_many(3 * PAGES, ids);
	blobstore_family_unref(f);
}
END_TEST

/* Of the samples for the next one too few can be read: it stays. */
START_TEST(test_samples_that_died)
{
	struct family *f = blobstore_family_new(bs, alice);
	unsigned char page[PAGE_BYTES];
	uint64_t made;

	put_many(alice, f, 0, 0, PAGES, ids);
	ck_assert_uint_eq(stats().encodings.dicts_trained, 1);
	for (unsigned i = PAGES; !blobstore_family_is_learning(f); i++) {
		ck_assert_uint_lt(i, 3 * PAGES);
		make_page(page, 0, i);
		blobstore_unref(bs, put(alice, f, i, page));
		if (i % 64 == 0)
			blobstore_work(bs);
	}
	ck_assert(blobstore_learn(bs, codec));
	ck_assert(!blobstore_family_is_learning(f));
	made = stats().encodings.dict_pages;
	put_many(alice, f, 0, PAGES, 1, ids + PAGES);
	ck_assert_uint_eq(stats().encodings.dict_pages, made + 1);
	unref_many(PAGES + 1, ids);
	blobstore_family_unref(f);
}
END_TEST

/* Frames made in a hurry are no reason to take a dictionary that is no better. */
START_TEST(test_compared_without_hurry)
{
	struct family *f = blobstore_family_new(bs, alice);
	unsigned char page[PAGE_BYTES], words[PAGE_BYTES];

	make_page(words, 0, 0);
	for (unsigned i = 0; i < 3 * PAGES; i++) {
		uint64_t x = (i + 1) * 0x9e3779b97f4a7c15u;

		for (size_t at = 0; at < PAGE_BYTES; at += 8)
			memcpy(page + at, words + next_random(&x) % 512 * 8, 8);
		codec_set_hurry(codec, i > PAGES);
		ids[i] = put(alice, f, i, page);
		if (i % 64 == 0)
			while (blobstore_learn(bs, codec))
				;
		ck_assert(codec_in_hurry(codec) == (i > PAGES));
	}
	ck_assert_uint_gt(stats().encodings.dict_pages, PAGES);
	ck_assert_uint_eq(stats().encodings.dicts_trained, 1);
	unref_many(3 * PAGES, ids);
	blobstore_family_unref(f);
}
END_TEST

START_TEST(test_dictionary_survives_compaction)
{
	struct family *f = blobstore_family_new(bs, alice);

	put_many(alice, f, 0, 0, PAGES, ids);
	for (unsigned i = 0; i < PAGES; i += 2)
		blobstore_unref(bs, ids[i]);
	while (blobstore_work(bs) || blobstore_learn(bs, codec))
		;
	ck_assert_uint_gt(stats().compacted_bytes_total, 0);
	for (unsigned i = 1; i < PAGES; i += 2)
		check_many(0, i, 1, &ids[i]);
	for (unsigned i = 1; i < PAGES; i += 2)
		blobstore_unref(bs, ids[i]);
	blobstore_family_unref(f);
}
END_TEST

/* Two programs of one kind and user share one; another kind has its own; another
   user too, whatever the kind. */
START_TEST(test_who_shares_a_dictionary)
{
	struct family *a = blobstore_family_new(bs, alice), *b = blobstore_family_new(bs, alice);

	put_many(alice, a, 0, 0, PAGES / 2, ids);
	put_many(alice, b, 0, PAGES, PAGES / 2, ids + PAGES);
	ck_assert_uint_eq(stats().dicts, 1);
	blobstore_family_unref(b);
	b = blobstore_family_new(bs, alice);
	put_many(alice, b, 1, 0, PAGES / 2, ids + PAGES / 2);
	ck_assert_uint_eq(stats().dicts, 2);
	blobstore_family_unref(b);
	b = blobstore_family_new(bs, bob);
	put_many(bob, b, 0, 0, PAGES / 2, ids + PAGES + PAGES / 2);
	ck_assert_uint_eq(stats().dicts, 3);
	check_many(1, 0, PAGES / 2, ids + PAGES / 2);
	check_many(0, 0, PAGES / 2, ids + PAGES + PAGES / 2);
	unref_many(2 * PAGES, ids);
	blobstore_family_unref(a);
	blobstore_family_unref(b);
}
END_TEST

/* The program has become another: what gains nothing goes. When that is noticed depends
   on which pages are probed, which the domain's key decides. */
START_TEST(test_retired)
{
	const unsigned after = PAGES / 2, most = ARRAY_SIZE(ids) - after;
	struct family *f = blobstore_family_new(bs, alice);
	struct blobstore_stats st;
	unsigned n = PAGES;

	put_many(alice, f, 0, 0, PAGES, ids);
	ck_assert_uint_eq(stats().encodings.dicts_trained, 1);
	for (; stats().encodings.dicts_trained < 2 && n < most; n++)
		put_many(alice, f, 1, n, 1, ids + n);
	ck_assert_uint_lt(n, most);
	put_many(alice, f, 1, n, after, ids + n);
	st = stats();
	/* the old one's pages still need it, some of the new kind among them */
	ck_assert_uint_eq(st.dicts, st.encodings.dicts_trained);
	check_many(0, 0, PAGES, ids);
	unref_many(n, ids);
	while (blobstore_work(bs) || blobstore_learn(bs, codec))
		;
	ck_assert_uint_lt(stats().dicts, st.dicts);
	check_many(1, n, after, ids + n);
	unref_many(after, ids + n);
	blobstore_family_unref(f);
}
END_TEST

static void change(unsigned char *page, unsigned worker)
{
	for (unsigned i = 0; i < 4; i++)
		page[worker * 101 % 900 + i * 1000] ^= 0x55;
}

/* A page that the children have written to, each elsewhere. */
START_TEST(test_differences)
{
	struct family *f = blobstore_family_new(bs, alice);
	unsigned char page[PAGE_BYTES];
	struct blobstore_stats st;
	const unsigned n = 500;

	for (unsigned i = 0; i < 2; i++)
		blobstore_family_forked(f);
	for (unsigned worker = 0; worker < 3; worker++)
		for (unsigned i = 0; i < n; i++) {
			make_page(page, 0, i);
			if (worker)
				change(page, worker);
			ids[worker * n + i] = put(alice, f, i, page);
		}
	st = stats();
	ck_assert_uint_eq(st.encodings.delta_pages, 2 * n);
	ck_assert_uint_lt(st.encodings.delta_bytes, (uint64_t)2 * n * 100);
	/* In any order: the base goes before those that need it. */
	for (unsigned i = 0; i < n; i++)
		blobstore_unref(bs, ids[i]);
	while (blobstore_work(bs))
		;
	for (unsigned worker = 1; worker < 3; worker++)
		for (unsigned i = 0; i < n; i++) {
			make_page(page, 0, i);
			change(page, worker);
			check(ids[worker * n + i], page);
			blobstore_unref(bs, ids[worker * n + i]);
			while (i % 16 == 0 && blobstore_work(bs))
				;
		}
	for (unsigned i = 0; i < 3; i++)
		blobstore_family_unref(f);
}
END_TEST

/* What is itself a difference is never one's base: a fault decompresses two
   frames at most. */
START_TEST(test_no_chains)
{
	struct family *f = blobstore_family_new(bs, alice);
	unsigned char page[PAGE_BYTES];

	blobstore_family_forked(f);
	make_page(page, 0, 0);
	ids[0] = put(alice, f, 7, page);
	for (unsigned i = 1; i < 40; i++) {
		change(page, i);
		ids[i] = put(alice, f, 7, page);
		for (unsigned k = 0; k <= i; k++) {
			blob_id base = decode_from(bs, ids[k]);

			ck_assert_uint_eq(decode_from(bs, base), base);
		}
		if (i == 20) /* the base's own page is gone, others still differ from it */
			blobstore_unref(bs, ids[0]);
	}
	make_page(page, 0, 0);
	for (unsigned i = 1; i < 40; i++) {
		change(page, i);
		check(ids[i], page);
		blobstore_unref(bs, ids[i]);
	}
	blobstore_family_unref(f);
	blobstore_family_unref(f);
}
END_TEST

/* Compressed again: the same pages, less memory, charged exactly; also with some
   of them gone meanwhile, and differences to them. */
START_TEST(test_compressed_again)
{
	struct family *f = blobstore_family_new(bs, alice);
	struct blobstore_stats before, after;
	unsigned char page[PAGE_BYTES];
	unsigned n = 0;

	put_many(alice, f, 0, 0, PAGES, ids);
	blobstore_family_forked(f);
	make_page(page, 9, 1);
	ids[PAGES] = put(alice, f, PAGES, page);
	page[77] ^= 1;
	ids[PAGES + 1] = put(alice, f, PAGES, page);
	ck_assert_uint_eq(stats().encodings.delta_pages, 1);
	while (blobstore_work(bs))
		;
	before = stats();
	blobstore_recompress(bs); /* off by default */
	ck_assert_uint_eq(stats().encodings.cold_pages, 0);
	blobstore_set_recompress(bs, 1);
	while (blobstore_recompress(bs))
		if (++n % 4 == 0 && n < PAGES)
			blobstore_unref(bs, ids[n / 4]);
	n = MIN(n, PAGES - 1) / 4;
	check_many(0, n + 1, PAGES - n - 1, ids + n + 1);
	check(ids[PAGES + 1], page);
	for (unsigned i = 1; i <= n; i++) { /* n more, so that nothing else is counted */
		make_page(page, 0, i);
		ids[i] = put(alice, f, i, page);
	}
	while (blobstore_work(bs))
		;
	after = stats();
	ck_assert_uint_gt(after.encodings.cold_pages, PAGES / 2);
	ck_assert_uint_lt(after.live_bytes, before.live_bytes);
	ck_assert_uint_eq(atomic_load(&alice->charged), after.live_bytes);
	check_many(0, 0, PAGES, ids);
	unref_many(PAGES + 2, ids);
	blobstore_family_unref(f);
	blobstore_family_unref(f);
}
END_TEST

/* The segment that is being compressed again is emptied and given back meanwhile:
   nothing is looked for in it any more. */
START_TEST(test_compressed_again_and_gone)
{
	struct family *f = blobstore_family_new(bs, alice);

	put_many(alice, f, 0, 0, PAGES, ids);
	while (blobstore_work(bs))
		;
	blobstore_set_recompress(bs, 1);
	ck_assert(blobstore_recompress(bs)); /* a slice of it */
	unref_many(PAGES, ids);
	while (blobstore_work(bs) || blobstore_recompress(bs))
		;
	ck_assert_uint_eq(stats().tier[0].store.errors_total, 0);
	blobstore_family_unref(f);
}
END_TEST

/* zstd would take such a page for a dictionary. */
START_TEST(test_page_that_looks_like_a_dictionary)
{
	static const unsigned char magic[] = { 0x37, 0xa4, 0x30, 0xec };
	struct family *f = blobstore_family_new(bs, alice);
	unsigned char page[PAGE_BYTES];

	blobstore_family_forked(f);
	make_page(page, 0, 0);
	memcpy(page, magic, sizeof(magic));
	ids[0] = put(alice, f, 1, page);
	page[100] ^= 1;
	ids[1] = put(alice, f, 1, page);
	check(ids[1], page);
	page[100] ^= 1;
	check(ids[0], page);
	ck_assert_uint_eq(stats().encodings.delta_pages, 0);
	unref_many(2, ids);
	blobstore_family_unref(f);
	blobstore_family_unref(f);
}
END_TEST

/* Fault threads read, packers put, one of them keeps house, all at once. */
struct reader {
	pthread_t thread;
	struct codec *codec;
	_Atomic bool *stop;
	unsigned bad;
};

static void *read_all(void *arg)
{
	struct reader *r = arg;
	unsigned char page[PAGE_BYTES], want[PAGE_BYTES];

	for (unsigned i = 1; !atomic_load(r->stop); i = (i + 2) % PAGES | 1) {
		make_page(want, 0, i);
		r->bad += blobstore_get(bs, r->codec, ids[i], page) || memcmp(page, want, PAGE_BYTES);
	}
	return NULL;
}

START_TEST(test_reading_beside_it)
{
	struct family *f = blobstore_family_new(bs, alice);
	struct reader reader[2];
	_Atomic bool stop = false;

	put_many(alice, f, 0, 0, PAGES, ids);
	for (unsigned i = 0; i < 2; i++) {
		reader[i] = (struct reader){ .codec = codec_new(1), .stop = &stop };
		ck_assert_ptr_nonnull(reader[i].codec);
		ck_assert_int_eq(pthread_create(&reader[i].thread, NULL, read_all, &reader[i]), 0);
	}
	for (unsigned i = 0; i < PAGES; i += 2)
		blobstore_unref(bs, ids[i]);
	for (unsigned round = 0; round < 4; round++) {
		put_many(alice, f, round, PAGES, PAGES / 2, ids + PAGES);
		unref_many(PAGES / 2, ids + PAGES);
		while (blobstore_work(bs) || blobstore_learn(bs, codec))
			;
	}
	atomic_store(&stop, true);
	for (unsigned i = 0; i < 2; i++) {
		pthread_join(reader[i].thread, NULL);
		ck_assert_uint_eq(reader[i].bad, 0);
		codec_free(reader[i].codec);
	}
	for (unsigned i = 1; i < PAGES; i += 2)
		blobstore_unref(bs, ids[i]);
	blobstore_family_unref(f);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("family");
	TCase *tc = tcase_create("family");
	SRunner *sr;
	int failed;

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, test_dictionary);
	tcase_add_test(tc, test_first_is_waited_for);
	tcase_add_test(tc, test_first_pages_are_unlike);
	tcase_add_test(tc, test_samples_that_died);
	tcase_add_test(tc, test_compared_without_hurry);
	tcase_add_test(tc, test_dictionary_survives_compaction);
	tcase_add_test(tc, test_who_shares_a_dictionary);
	tcase_add_test(tc, test_retired);
	tcase_add_test(tc, test_differences);
	tcase_add_test(tc, test_no_chains);
	tcase_add_test(tc, test_compressed_again);
	tcase_add_test(tc, test_compressed_again_and_gone);
	tcase_add_test(tc, test_page_that_looks_like_a_dictionary);
	tcase_add_test(tc, test_reading_beside_it);
	suite_add_tcase(s, tc);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_ENV);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
