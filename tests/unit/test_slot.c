/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The life of a page: every pair of states against the written machine. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "common/util.h"
#include "page/slot.h"

/* As docs/INVARIANTS.md draws it, independent of the code's table. */
static const char *const steps[SLOT_STATES] = {
	[SLOT_NONE] = "none resident barred leaving",
	[SLOT_RESIDENT] = "none resident barred leaving",
	[SLOT_BARRED] = "none resident barred",
	[SLOT_LEAVING] = "none resident barred leaving staged fill poisoned",
	[SLOT_STAGED] = "none resident barred staged stored fill poisoned",
	[SLOT_FETCHING] = "none resident barred fetching stored clean poisoned",
	[SLOT_STORED] = "none resident barred stored fetching clean poisoned",
	[SLOT_CLEAN] = "none barred leaving",
	[SLOT_FILL] = "none resident barred",
	[SLOT_POISONED] = "none barred",
};

static bool is_listed(const char *list, const char *name)
{
	size_t len = strlen(name);

	for (const char *at = strstr(list, name); at; at = strstr(at + 1, name))
		if ((at == list || at[-1] == ' ') && (at[len] == ' ' || !at[len]))
			return true;
	return false;
}

START_TEST(test_every_pair)
{
	unsigned legal = 0;

	for (unsigned from = 0; from < SLOT_STATES; from++) {
		for (unsigned to = 0; to < SLOT_STATES; to++) {
			bool want = is_listed(steps[from], slot_state_name(to));

			ck_assert_msg(slot_step_is_legal(from, to) == want, "%s -> %s",
				      slot_state_name(from), slot_state_name(to));
			legal += want;
		}
	}
	ck_assert_uint_eq(legal, 47);
}
END_TEST

START_TEST(test_no_such_state)
{
	ck_assert(!slot_step_is_legal(SLOT_STATES, SLOT_NONE));
	ck_assert(!slot_step_is_legal(SLOT_NONE, SLOT_STATES));
	ck_assert(!slot_step_is_legal((enum slot_state)15, (enum slot_state)15));
	ck_assert_str_eq(slot_state_name(SLOT_STATES), "invalid");
}
END_TEST

START_TEST(test_INV_4_remove_and_unmap_strike_anywhere)
{
	for (unsigned from = 0; from < SLOT_STATES; from++) {
		ck_assert(slot_step_is_legal(from, SLOT_NONE));
		ck_assert(slot_step_is_legal(from, SLOT_BARRED));
	}
	/* and a removed page does not leave before our own copy */
	ck_assert(!slot_step_is_legal(SLOT_BARRED, SLOT_LEAVING));
}
END_TEST

START_TEST(test_INV_1_nothing_skips_staging)
{
	for (unsigned from = 0; from < SLOT_STATES; from++)
		if (from != SLOT_STAGED && from != SLOT_FETCHING && from != SLOT_STORED)
			ck_assert(!slot_step_is_legal(from, SLOT_STORED));
}
END_TEST

START_TEST(test_fields)
{
	const uint64_t values[] = { 0, 1, 0xdeadbeef, SLOT_VALUE_MAX };

	for (unsigned state = 0; state < SLOT_STATES; state++) {
		for (unsigned flags = 0; flags < 16; flags++) {
			for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
				slot_t s = slot_make(state, flags, values[i]);

				ck_assert_uint_eq(slot_state(s), state);
				ck_assert_uint_eq(slot_flags(s), flags);
				ck_assert_uint_eq(slot_value(s), values[i]);
			}
		}
	}
	ck_assert_uint_eq(slot_make(SLOT_NONE, 0, 0), 0);
}
END_TEST

START_TEST(test_evicted)
{
	const unsigned evicted = 1u << SLOT_STAGED | 1u << SLOT_FETCHING | 1u << SLOT_STORED |
				 1u << SLOT_FILL;

	for (unsigned state = 0; state < SLOT_STATES; state++)
		ck_assert_int_eq(slot_is_evicted(slot_make(state, 0, 1)), evicted >> state & 1);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("slot");
	TCase *tc = tcase_create("slot");
	SRunner *runner;
	int failures;

	tcase_add_test(tc, test_every_pair);
	tcase_add_test(tc, test_no_such_state);
	tcase_add_test(tc, test_INV_4_remove_and_unmap_strike_anywhere);
	tcase_add_test(tc, test_INV_1_nothing_skips_staging);
	tcase_add_test(tc, test_fields);
	tcase_add_test(tc, test_evicted);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	failures = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
