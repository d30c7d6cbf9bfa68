/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The memory form of segments against docs/STORE-FORMAT.md: a later agent reads what an
 * earlier one has left in kept memory. USWAP_GOLDEN=write makes the golden file anew, for
 * a new version only.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/util.h"
#include "flow/blobstore_private.h"
#include "page/codec.h"
#include "tests/unit/blobs.h"

#define GOLDEN "tests/golden/memory-v1.bin"
#define PARTS 2u /* of its cluster */
#define CLUSTER_BYTES (8 + 8 + 4 * PARTS + 2 + 4 * PARTS + 6)

static unsigned char form[8192];
static uint32_t used;

/* Numbers are little-endian. */
static void number(uint64_t value, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i++, value >>= 8)
		form[used++] = (unsigned char)value;
}

static void begin(uint32_t id, unsigned kind, uint32_t len)
{
	number(id, 4);
	number(len, 2);
	number(0x5b << 9 | kind, 2);
}

/* Pages of one byte each, as every zstd reads them: blocks that repeat it. */
static uint32_t frame(char byte, unsigned pages)
{
	number(0, 1);	    /* no size, checksum or dictionary */
	number(2 << 3, 1); /* a window of 4 KiB */
	for (unsigned i = 0; i < pages; i++) {
		number(PAGE_BYTES << 3 | 1 << 1 | (i + 1 == pages), 3);
		number((uint64_t)byte + i, 1);
	}
	return 2 + 4 * pages;
}

/* As the document says, each record of it by hand. */
static void write_form(void)
{
	used = 0;
	begin(1, 1, 6);
	frame('A', 1);
	begin(2, 3, 8 + 6); /* to blob 1 */
	number(1, 4);
	number(0x15157c4f, 4);
	frame('B', 1);
	begin(3, 4, CLUSTER_BYTES - 8); /* blobs 3 and 4 */
	number(2 + 4 * PARTS, 4);
	number(PARTS, 4);
	number(3, 4);
	number(4, 4);
	frame('C', PARTS);
	number(0, 6);
	begin(5, 2, PAGE_BYTES);
	for (unsigned i = 0; i < PAGE_BYTES; i++)
		number(i * 7 ^ i >> 8, 1);
}

static void open_store(void)
{
	nr_stores = 1;
	stores[0] = store_memory_new(8 * (uint64_t)STORE_SEGMENT);
	bs = blobstore_new(stores[0], 1u << 20);
	ck_assert_ptr_nonnull(bs);
}

START_TEST(test_golden)
{
	const char *src = getenv("USWAP_SRC"), *write = getenv("USWAP_GOLDEN");
	unsigned char golden[sizeof(form)];
	char path[512];
	FILE *file;

	write_form();
	snprintf(path, sizeof(path), "%s/" GOLDEN, src ? src : ".");
	if (write && !strcmp(write, "write")) {
		file = fopen(path, "we");
		ck_assert_uint_eq(fwrite(form, 1, used, file), used);
		fclose(file);
	}
	file = fopen(path, "re");
	ck_assert_msg(file != NULL, "%s", path);
	ck_assert_uint_eq(fread(golden, 1, sizeof(golden), file), used);
	fclose(file);
	ck_assert_mem_eq(golden, form, used);
}
END_TEST

/* A blob of the record at *at, whose location is what record_loc makes of it. */
static void put_record(uint32_t *at, unsigned parts)
{
	uint32_t size = 8 + (form[*at + 4] | (uint32_t)form[*at + 5] << 8);
	unsigned char page[PAGE_BYTES];
	uint64_t loc;

	ck_assert_int_eq(segment_append(bs, alice, STREAM_NEW, form + *at, size, false, &loc), 0);
	ck_assert_uint_eq(blob_loc_offset(loc), *at + 8);
	for (unsigned i = 0; i < parts; i++) {
		blob_id id = blob_new(bs->blobs);

		if (id < 5)
			memset(page, "ABCD"[id - 1], PAGE_BYTES);
		else
			memcpy(page, form + *at + 8, PAGE_BYTES);
		blob_publish(bs->blobs, id, page_hash(page, alice->seed),
			     parts > 1 ? blob_part_loc(loc, i, size / parts) : loc);
		ck_assert(domain_charge(alice, size / parts));
	}
	*at += size;
}

START_TEST(test_golden_is_read)
{
	unsigned char page[PAGE_BYTES], buf[RECORD_MAX];
	uint32_t at = 0, nr = 0, size;
	struct record record;

	write_form();
	open_store();
	put_record(&at, 1);
	put_record(&at, 1);
	put_record(&at, PARTS);
	put_record(&at, 1);
	ck_assert_uint_eq(at, used);
	blobstore_ref(bs, 1); /* the difference's */
	for (blob_id id = 1; id <= 5; id++) {
		ck_assert_int_eq(blobstore_get(bs, codec, id, page), 0);
		ck_assert_int_eq(page[17], id < 5 ? (int)"ABCD"[id - 1] : 17 * 7);
	}
	/* as housekeeping goes through it */
	for (at = 0; at < used; at += size, nr++) {
		size = record_read(bs, 0, at, &record, buf);
		ck_assert_uint_gt(size, 0);
		ck_assert_mem_eq(buf, form + at, size);
	}
	ck_assert_uint_eq(at, used);
	ck_assert_uint_eq(nr, 4);
	for (blob_id id = 1; id <= 5; id++)
		blobstore_unref(bs, id);
	expect_nothing(); /* the base too: the difference has said whose it was */
}
END_TEST

/* What is written: the numbers before frames, byte by byte; these are zstd's. */
static void expect_form(blob_id id, uint64_t loc, unsigned kind, uint32_t len)
{
	used = 0;
	begin(id, kind, len);
	ck_assert_mem_eq(store_map(stores[0], place_carrier(bs->segments[blob_loc_segment(loc)].place),
				   blob_loc_offset(loc) - 8, 8), form, 8);
}

START_TEST(test_written)
{
	const struct blobstore_source from = { .domain = alice };
	unsigned char pages[BLOBSTORE_RUN_MAX][PAGE_BYTES];
	struct blobstore_put v[BLOBSTORE_RUN_MAX];
	const unsigned char *cluster;
	blob_id id;
	uint64_t loc;

	open_store();
	id = put(alice, 100);
	loc = blob_loc(bs->blobs, id);
	expect_form(id, loc, 1, blob_loc_len(loc));
	blobstore_unref(bs, id);
	blobstore_set_clusters(bs, true);
	for (unsigned i = 0; i < BLOBSTORE_RUN_MAX; i++) {
		make_page(pages[i], i);
		v[i].page = pages[i];
	}
	blobstore_put_run(bs, codec, &from, v, BLOBSTORE_RUN_MAX);
	loc = blob_loc(bs->blobs, v[0].id);
	expect_form(v[0].id, loc, 4, BLOBSTORE_RUN_MAX * blob_part_bytes(loc) - 8);
	cluster = store_map(stores[0], place_carrier(bs->segments[blob_loc_segment(loc)].place), blob_loc_offset(loc),
			    8 + 4 * BLOBSTORE_RUN_MAX);
	used = 4;
	number(BLOBSTORE_RUN_MAX, 4);
	for (unsigned i = 0; i < BLOBSTORE_RUN_MAX; i++)
		number(v[i].id, 4);
	ck_assert_mem_eq(cluster + 4, form + 4, used - 4);
	for (unsigned i = 0; i < BLOBSTORE_RUN_MAX; i++)
		blobstore_unref(bs, v[i].id);
	/* a difference: whose, and a check of both */
	encode_name(form, &(struct encoded){ .kind = BLOB_DELTA, .base = 1 }, 2);
	memcpy(pages[0], form, 8);
	used = 0;
	number(1, 4);
	number(0x15157c4f, 4);
	ck_assert_mem_eq(pages[0], form, 8);
	expect_nothing();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("form");
	TCase *tc = tcase_create("form");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(tc, blobs_setup, blobs_teardown);
	tcase_add_test(tc, test_golden);
	tcase_add_test(tc, test_golden_is_read);
	tcase_add_test(tc, test_written);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
