/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "common/kept.h"
#include "common/util.h"
#include "page/staging.h"

#define PAGES 128

START_TEST(test_full_and_back)
{
	struct staging *st = staging_new(PAGES * PAGE_BYTES);
	uint32_t index[PAGES + 1];
	unsigned kept = 0;

	ck_assert_uint_eq(staging_alloc(st, index, PAGES + 1), PAGES);
	ck_assert_uint_eq(staging_used_bytes(st), PAGES * PAGE_BYTES);
	for (unsigned i = 0; i < PAGES; i++)
		memset(staging_page(st, index[i]), (int)i + 1, PAGE_BYTES);
	for (unsigned i = 0; i < PAGES; i++)
		ck_assert_int_eq(*(uint8_t *)staging_page(st, index[i]), (int)i + 1);
	/* ups, downs and leaps */
	for (unsigned i = 0; i < PAGES; i++)
		ck_assert_uint_eq(staging_unref(st, index[i < 64 ? i : i < 96 ? 159 - i : 96 + (i * 5 & 31)]), 0);
	ck_assert_uint_eq(staging_used_bytes(st), 0);
	ck_assert_uint_eq(staging_resident_bytes(st), PAGES * PAGE_BYTES);
	staging_trim(st, 10);
	ck_assert_uint_eq(staging_resident_bytes(st), 10 * PAGE_BYTES);
	for (unsigned i = 0; i < PAGES; i++) /* what is given back reads as zeros */
		kept += *(uint8_t *)staging_page(st, index[i]) != 0;
	ck_assert_uint_eq(kept, 10);
	ck_assert_uint_eq(staging_alloc(st, index, PAGES), PAGES);
	for (unsigned i = 0; i < PAGES; i++)
		staging_unref(st, index[i]);
	staging_free(st);
}
END_TEST

/* A pack thread that comes late must not get the page's next life. */
START_TEST(test_tryref_of_reused_page_fails)
{
	struct staging *st = staging_new(PAGES * PAGE_BYTES);
	uint32_t a, b, generation;

	ck_assert_uint_eq(staging_alloc(st, &a, 1), 1);
	generation = staging_generation(st, a);
	ck_assert(staging_tryref(st, a, generation));
	ck_assert(staging_is_shared(st, a));
	staging_unref(st, a);
	ck_assert(!staging_is_shared(st, a));
	staging_unref(st, a);
	ck_assert(!staging_tryref(st, a, generation));
	ck_assert_uint_eq(staging_alloc(st, &b, 1), 1);
	ck_assert_uint_eq(a, b);
	ck_assert(!staging_tryref(st, b, generation));
	ck_assert(staging_tryref(st, b, staging_generation(st, b)));
	staging_unref(st, b);
	staging_unref(st, b);
	staging_free(st);
}
END_TEST

START_TEST(test_forwarder_keeps_index_not_memory)
{
	struct staging *st = staging_new(PAGES * PAGE_BYTES);
	uint32_t a;

	ck_assert_uint_eq(staging_alloc(st, &a, 1), 1);
	memset(staging_page(st, a), 1, PAGE_BYTES);
	staging_ref(st, a);
	staging_forward(st, a, 77);
	ck_assert_uint_eq(staging_forwarded(st, a), 77);
	ck_assert_uint_eq(staging_used_bytes(st), 0);
	ck_assert_uint_eq(*(uint8_t *)staging_page(st, a), 0); /* punched */
	ck_assert_uint_eq(staging_unref(st, a), 0);
	ck_assert_uint_eq(staging_unref(st, a), 77); /* the last one gets it */
	ck_assert_uint_eq(staging_alloc(st, &a, 1), 1);
	ck_assert_uint_eq(staging_forwarded(st, a), 0);
	staging_unref(st, a);
	staging_free(st);
}
END_TEST

/* Pages of the huge one first, as the kernel has them or not, and all of it goes back. */
START_TEST(test_huge_page)
{
	enum { MAX = 4096, OUT = 600 };
	static uint32_t index[MAX + 1];
	struct staging *st;

	kept_use(kept_directory_new());
	st = staging_new(MAX * PAGE_BYTES);
	for (unsigned round = 0; round < 3; round++) {
		ck_assert_uint_eq(staging_alloc(st, index, OUT), OUT);
		for (unsigned i = 0; i < OUT; i++)
			memset(staging_page(st, index[i]), (int)(i & 63) + 1, PAGE_BYTES);
		for (unsigned i = 0; i < OUT; i++)
			ck_assert_int_eq(*(uint8_t *)staging_page(st, index[i]), (int)(i & 63) + 1);
		ck_assert_uint_eq(staging_resident_bytes(st), OUT * PAGE_BYTES);
		/* One of its pages holds it, one that was forwarded, too. */
		staging_ref(st, index[300]);
		staging_forward(st, index[300], 77);
		for (unsigned i = 0; i < OUT; i++)
			ck_assert_uint_eq(staging_unref(st, index[i]), 0);
		staging_trim(st, 0);
		ck_assert_uint_le(staging_resident_bytes(st), 512 * PAGE_BYTES);
		ck_assert_uint_eq(staging_unref(st, index[300]), 77);
		staging_trim(st, 0);
		ck_assert_uint_eq(staging_used_bytes(st), 0);
		ck_assert_uint_eq(staging_resident_bytes(st), 0);
		for (unsigned i = 0; i < OUT; i++)
			ck_assert_int_eq(*(uint8_t *)staging_page(st, index[i]), 0);
	}
	/* None is lost, and none is there twice. */
	ck_assert_uint_eq(staging_alloc(st, index, MAX + 1), MAX);
	for (unsigned i = 0; i < MAX; i++)
		memcpy(staging_page(st, index[i]), &i, sizeof(i));
	for (unsigned i = 0; i < MAX; i++)
		ck_assert_mem_eq(staging_page(st, index[i]), &i, sizeof(i));
	/* A worker that starts over finds some of it in use. */
	staging_free(st);
	st = staging_new(MAX * PAGE_BYTES);
	ck_assert_uint_ge(staging_recover_begin(st), MAX);
	for (unsigned i = 100; i < 200; i++)
		ck_assert_uint_eq(staging_recover_ref(st, index[i]), 1);
	staging_recover_end(st);
	ck_assert_uint_eq(staging_used_bytes(st), 100 * PAGE_BYTES);
	for (uint32_t i = 100; i < 200; i++)
		ck_assert_mem_eq(staging_page(st, index[i]), &i, sizeof(i));
	ck_assert_uint_eq(staging_alloc(st, index, 100), 100);
	for (uint32_t i = 100; i < 200; i++) /* what it found is as it was */
		ck_assert_mem_eq(staging_page(st, index[i]), &i, sizeof(i));
	ck_assert_uint_le(staging_resident_bytes(st), (512 + 200) * PAGE_BYTES);
	staging_free(st);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("staging");
	TCase *tc = tcase_create("staging");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_test(tc, test_full_and_back);
	tcase_add_test(tc, test_tryref_of_reused_page_fails);
	tcase_add_test(tc, test_forwarder_keeps_index_not_memory);
	tcase_add_test(tc, test_huge_page);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
