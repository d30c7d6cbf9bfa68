/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/unit/blobs.h"

#include <check.h>
#include <errno.h>
#include <string.h>

#include "common/util.h"

struct domain_registry *reg;
struct domain *alice, *bob;
struct store *stores[3];
unsigned nr_stores;
struct blobstore *bs;
struct codec *codec;

void blobs_setup(void)
{
	codec = codec_new(1);
	reg = domain_registry_new();
	alice = domain_get(reg, 1000, UINT64_MAX);
	bob = domain_get(reg, 1001, UINT64_MAX);
	ck_assert(codec && alice && bob);
}

void blobs_teardown(void)
{
	struct store_stats st;

	blobstore_free(bs);
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

struct blobstore_stats stats(void)
{
	struct blobstore_stats st;

	blobstore_get_stats(bs, &st);
	return st;
}

void make_page(unsigned char *page, uint64_t n)
{
	uint64_t x = n * 0x9e3779b97f4a7c15u + 1;
	unsigned noise = n < BLOBS_NOISE ? 28 : 64;

	for (size_t i = 0; i < PAGE_BYTES; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		page[i] = i % 64 < noise ? (unsigned char)x : (unsigned char)(n + (i >> 9));
	}
	memcpy(page, &n, sizeof(n));
}

enum blobstore_result try_put(struct domain *domain, uint64_t n, blob_id *id)
{
	unsigned char page[PAGE_BYTES];

	make_page(page, n);
	return blobstore_put(bs, codec, domain, page, id);
}

blob_id put(struct domain *domain, uint64_t n)
{
	blob_id id;
	enum blobstore_result r = try_put(domain, n, &id);

	if (r != BLOBSTORE_STORED)
		ck_abort_msg("put of %llu: %d", (unsigned long long)n, r);
	return id;
}

int get(struct codec *c, blob_id id, uint64_t n)
{
	unsigned char page[PAGE_BYTES], want[PAGE_BYTES];
	int r = blobstore_get(bs, c, id, page);

	make_page(want, n);
	return !r && memcmp(page, want, PAGE_BYTES) ? -EUCLEAN : r;
}

void work_all(void)
{
	for (unsigned i = 0; blobstore_work(bs); i++)
		ck_assert_uint_lt(i, 100000);
}

void expect_charges(void)
{
	ck_assert_uint_eq(alice->charged + bob->charged, stats().live_bytes);
}

void expect_nothing(void)
{
	struct blobstore_stats st;

	work_all();
	st = stats();
	ck_assert_uint_eq(st.blobs, 0);
	ck_assert_uint_eq(st.live_bytes, 0);
	ck_assert_uint_eq(st.dead_bytes, 0);
	ck_assert_uint_eq(alice->charged, 0);
	ck_assert_uint_eq(bob->charged, 0);
}
