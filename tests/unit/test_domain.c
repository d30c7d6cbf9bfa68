/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Domains: who they are, how long they live, what they may take. */
#include <check.h>
#include <pthread.h>
#include <stdlib.h>

#include "common/util.h"
#include "page/domain.h"

static struct domain_registry *reg;

static void setup(void)
{
	reg = domain_registry_new();
	ck_assert_ptr_nonnull(reg);
}

static void teardown(void)
{
	reg = domain_registry_free(reg);
}

START_TEST(test_one_per_uid)
{
	struct domain *a = domain_get(reg, 1000, 100);
	struct domain *b = domain_get(reg, 1001, 200);

	ck_assert_ptr_ne(a, b);
	ck_assert_ptr_eq(domain_get(reg, 1000, 999), a);
	ck_assert_uint_eq(a->uid, 1000);
	ck_assert_uint_eq(a->limit, 100); /* as when it was made */
	ck_assert_uint_eq(b->limit, 200);
	ck_assert_uint_ne(a->index, b->index);
	ck_assert_uint_ne(a->seed, b->seed);
	ck_assert_ptr_eq(domain_ref(b), b);
	domain_unref(reg, a);
	domain_unref(reg, a);
	domain_unref(reg, b);
	domain_unref(reg, b);
	domain_unref(reg, NULL);
	/* all gone: a new one has another seed */
	b = domain_get(reg, 1000, 5);
	ck_assert_uint_eq(b->limit, 5);
	ck_assert_uint_eq(b->index, 0);
	domain_unref(reg, b);
}
END_TEST

START_TEST(test_INV_8_lives_while_charged)
{
	struct domain *a = domain_get(reg, 1000, 100);
	uint64_t seed = a->seed;

	ck_assert(domain_charge(a, 60));
	domain_unref(reg, a);
	ck_assert_ptr_eq(domain_get(reg, 1000, 100), a);
	ck_assert_uint_eq(a->charged, 60);
	ck_assert_uint_eq(a->seed, seed);
	domain_unref(reg, a);
	domain_uncharge(a, 60);
	/* index 0 is still taken by the one that is swept now */
	domain_unref(reg, domain_get(reg, 1001, 100));
	a = domain_get(reg, 1000, 100);
	ck_assert_uint_ne(a->seed, seed);
	domain_unref(reg, a);
}
END_TEST

START_TEST(test_INV_8_limit)
{
	struct domain *a = domain_get(reg, 1000, 100);

	ck_assert(domain_charge(a, 100));
	ck_assert(!domain_charge(a, 1));
	ck_assert(domain_charge(a, 0));
	ck_assert_uint_eq(a->charged, 100);
	domain_uncharge(a, 1);
	ck_assert(!domain_charge(a, 2));
	ck_assert(!domain_charge(a, UINT64_MAX));
	ck_assert(domain_charge(a, 1));
	atomic_store(&a->limit, 50); /* lowered by a reload */
	ck_assert(!domain_charge(a, 1));
	domain_uncharge(a, 60);
	ck_assert(domain_charge(a, 10));
	atomic_store(&a->limit, UINT64_MAX);
	ck_assert(domain_charge(a, (uint64_t)1 << 60));
	domain_uncharge(a, a->charged);
	domain_unref(reg, a);
}
END_TEST

static void *charge_thread(void *arg)
{
	struct domain *domain = arg;

	for (unsigned i = 0; i < 20000; i++) {
		if (domain_charge(domain, 7)) {
			if (atomic_load(&domain->charged) > 10)
				return arg;
			domain_uncharge(domain, 7);
		}
		if (i % 64 == 0)
			domain_unref(reg, domain_get(reg, i % 5, 10));
	}
	return NULL;
}

START_TEST(test_INV_8_threads)
{
	struct domain *domain = domain_get(reg, 1000, 10);
	pthread_t thread[4];
	void *failed;

	for (unsigned i = 0; i < ARRAY_SIZE(thread); i++)
		ck_assert_int_eq(pthread_create(&thread[i], NULL, charge_thread, domain), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(thread); i++) {
		pthread_join(thread[i], &failed);
		ck_assert_ptr_null(failed);
	}
	ck_assert_uint_eq(domain->charged, 0);
	domain_unref(reg, domain);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("domain");
	TCase *tc = tcase_create("domain");
	SRunner *runner;
	int failures;

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, test_one_per_uid);
	tcase_add_test(tc, test_INV_8_lives_while_charged);
	tcase_add_test(tc, test_INV_8_limit);
	tcase_add_test(tc, test_INV_8_threads);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	failures = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
