/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <check.h>
#include <stdlib.h>

#include "common/util.h"
#include "policy/policy.h"

#define MIB ((uint64_t)1 << 20)

static const struct policy normal = {
	.stall_budget = 0.001,
	.min_resident = 32 * MIB,
	.start_delay_ns = 60 * NSEC_PER_SEC,
};
static const struct policy_facts grown = {
	.age_ns = 100 * NSEC_PER_SEC,
	.tick_ns = NSEC_PER_SEC,
	.resident_bytes = 512 * MIB,
};

START_TEST(test_normal_rate)
{
	struct policy_facts f = grown;

	ck_assert_uint_eq(policy_quota(&normal, &f), 2000);
	f.tick_ns = NSEC_PER_SEC / 2;
	ck_assert_uint_eq(policy_quota(&normal, &f), 1000);
}
END_TEST

START_TEST(test_left_alone)
{
	struct policy_facts f = grown;

	f.age_ns = 59 * NSEC_PER_SEC;
	ck_assert_uint_eq(policy_quota(&normal, &f), 0);
	f = grown;
	f.resident_bytes = 32 * MIB;
	ck_assert_uint_eq(policy_quota(&normal, &f), 0);
	f.resident_bytes = 32 * MIB + 3 * PAGE_BYTES; /* never below MinResident */
	ck_assert_uint_eq(policy_quota(&normal, &f), 3);
	f = grown;
	f.store_full = true;
	ck_assert_uint_eq(policy_quota(&normal, &f), 0);
}
END_TEST

START_TEST(test_stall_budget_brakes)
{
	struct policy_facts f = grown;

	f.stall_share = 0.0011;
	ck_assert_uint_eq(policy_quota(&normal, &f), 0);
	f.stall_share = 0.0009;
	ck_assert_uint_gt(policy_quota(&normal, &f), 0);
}
END_TEST

/* A group that is nearly full overrides age and budget, not MinResident. */
START_TEST(test_group_is_kept_roomy)
{
	struct policy_facts f = grown;

	f.stall_share = 1;
	f.group_limit_bytes = 600 * MIB; /* a sixteenth: 37.5 MiB */
	f.group_room_bytes = 38 * MIB;
	ck_assert_uint_eq(policy_quota(&normal, &f), 0);
	f.group_room_bytes = 30 * MIB;
	ck_assert_uint_eq(policy_quota(&normal, &f), 7 * 256 + 128);
	f.age_ns = 0;
	ck_assert_uint_eq(policy_quota(&normal, &f), 7 * 256 + 128);
	f.group_limit_bytes = 64 * MIB; /* at least 16 MiB */
	f.group_room_bytes = 0;
	ck_assert_uint_eq(policy_quota(&normal, &f), 16 * 256);
	f.resident_bytes = 33 * MIB;
	ck_assert_uint_eq(policy_quota(&normal, &f), 256);
	f.store_full = true;
	ck_assert_uint_eq(policy_quota(&normal, &f), 0);
}
END_TEST

START_TEST(test_full_budget_takes_all)
{
	struct policy p = { .stall_budget = 1.0 };
	struct policy_facts f = grown;

	f.stall_share = 4.0;
	ck_assert_uint_eq(policy_quota(&p, &f), 512 * MIB / PAGE_BYTES);
}
END_TEST

START_TEST(test_limit_overrides_budget)
{
	struct policy p = normal;
	struct policy_facts f = grown;

	f.stall_share = 0.5;
	p.limit_bytes = 500 * MIB;
	ck_assert_uint_eq(policy_quota(&p, &f), 12 * MIB / PAGE_BYTES);
	f.own_limit_bytes = 510 * MIB;
	ck_assert_uint_eq(policy_quota(&p, &f), 2 * MIB / PAGE_BYTES);
	f.own_limit_bytes = 0;
	p.limit_bytes = 0;
	p.limit_share = 0.5;
	f.evicted_bytes = 256 * MIB; /* half of 768 MiB may stay: 128 over */
	ck_assert_uint_eq(policy_quota(&p, &f), 128 * MIB / PAGE_BYTES);
	p.limit_share = 0;
	p.limit_bytes = 8 * MIB; /* below MinResident, which holds */
	ck_assert_uint_eq(policy_quota(&p, &f), (512 - 32) * MIB / PAGE_BYTES);
}
END_TEST

START_TEST(test_stall_share_average)
{
	double share = 0;

	ck_assert(policy_stall_share(0.25, 1, 0) >= 0.25);
	for (int i = 0; i < 1000; i++)
		share = policy_stall_share(share, NSEC_PER_SEC / 10, NSEC_PER_SEC);
	ck_assert_double_eq_tol(share, 0.1, 1e-6);
	share = policy_stall_share(share, 0, 10 * NSEC_PER_SEC);
	ck_assert_double_eq_tol(share, 0.05, 1e-6);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("policy");
	TCase *tc = tcase_create("policy");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_test(tc, test_normal_rate);
	tcase_add_test(tc, test_left_alone);
	tcase_add_test(tc, test_stall_budget_brakes);
	tcase_add_test(tc, test_group_is_kept_roomy);
	tcase_add_test(tc, test_full_budget_takes_all);
	tcase_add_test(tc, test_limit_overrides_budget);
	tcase_add_test(tc, test_stall_share_average);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
