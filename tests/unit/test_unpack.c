/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Pages unpacked ahead: an owner, helpers, and slots that change between them. */
#include <check.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "common/util.h"
#include "flow/flow.h"
#include "tests/unit/blobs.h"

#define FIRST 0x10000ull /* vpn */
#define NR 400u
#define HELPERS 2

static struct unpack_pool pool;
static struct flow flow;
static struct owner owner;
static struct session session, other;
static blob_id ids[NR];
static _Atomic bool stop;
static pthread_t threads[HELPERS];

static void setup(void)
{
	blobs_setup();
	nr_stores = 1;
	stores[0] = store_memory_new(8 * (uint64_t)STORE_SEGMENT);
	bs = blobstore_new(stores[0], 1u << 20);
	ck_assert_ptr_nonnull(bs);
	blobstore_set_clusters(bs, true);
	memset(&pool, 0, sizeof(pool));
	ck_assert_int_eq(sem_init(&pool.work, 0, 0), 0);
	flow.blobstore = bs;
	flow.unpack_pool = &pool;
	owner = (struct owner){ .flow = &flow, .codec = codec, .unpack = unpack_new() };
	owner.slots = slot_pool_open("slots", 1u << 24);
	ck_assert(owner.unpack && owner.slots && slot_pool_reserve(owner.slots, 64) == 0);
	session = (struct session){ .owner = &owner };
	other = (struct session){ .owner = &owner };
	slotmap_init(&session.slots, owner.slots, &flow_slot_refs, &session);
	slotmap_init(&other.slots, owner.slots, &flow_slot_refs, &other);
	atomic_store(&stop, false);
}

static void teardown(void)
{
	slotmap_deinit(&session.slots);
	slotmap_deinit(&other.slots);
	unpack_forget(&owner, &session);
	unpack_forget(&owner, &other);
	ck_assert(unpack_settle(&owner));
	owner.unpack = unpack_free(owner.unpack, bs);
	slot_pool_free(owner.slots);
	sem_destroy(&pool.work);
	work_all();
	expect_nothing();
	blobs_teardown();
}

static void set(struct session *s, unsigned n, slot_t slot)
{
	ck_assert_int_eq(slotmap_set(&s->slots, FIRST + n, slot), 0);
}

/* By the steps that there are. */
static void set_stored(struct session *s, unsigned n, blob_id id, unsigned flags)
{
	ids[n] = id;
	set(s, n, SLOT_NONE);
	set(s, n, slot_make(SLOT_LEAVING, 0, 0));
	set(s, n, slot_make(SLOT_STAGED, 0, 1));
	set(s, n, flow_stored_slot(SLOT_STORED, flags, id, 100));
}

/* Page n at FIRST + n. */
static void store(struct session *s, unsigned n)
{
	set_stored(s, n, put(alice, n), 0);
}

/* The slot's reference goes. */
static void drop(struct session *s, unsigned n)
{
	slot_t slot = slotmap_get(&s->slots, FIRST + n);

	set(s, n, SLOT_NONE);
	flow_drop(&flow, slot);
}

static const char *bytes(struct session *s, unsigned n)
{
	return unpack_bytes(&owner, s, FIRST + n, slotmap_get(&s->slots, FIRST + n));
}

static void expect_page(struct session *s, unsigned n, uint64_t content)
{
	unsigned char want[PAGE_BYTES];

	make_page(want, content);
	ck_assert_ptr_nonnull(bytes(s, n));
	ck_assert_mem_eq(bytes(s, n), want, PAGE_BYTES);
}

static bool ahead(struct session *s, unsigned n, unsigned end, unsigned want)
{
	return unpack_ahead(&owner, s, s, FIRST + n, FIRST + end, want);
}

START_TEST(test_INV_1_only_what_the_slot_says)
{
	for (unsigned n = 0; n < 8; n++)
		store(&session, n);
	drop(&session, 2); /* away no more */
	ck_assert(ahead(&session, 0, 8, 8));
	expect_page(&session, 0, 0);
	expect_page(&session, 7, 7);
	ck_assert_ptr_null(bytes(&session, 2));
	ck_assert_ptr_nonnull(unpack_place(&owner, &session, FIRST + 2, SLOT_NONE));
	ck_assert_ptr_null(unpack_bytes(&owner, &session, FIRST + 8, SLOT_NONE));
	ck_assert_ptr_null(unpack_bytes(&owner, &session, FIRST - 1, SLOT_NONE));
	/* nobody else's, though the slot be the same */
	ck_assert_ptr_null(unpack_bytes(&owner, &other, FIRST, slotmap_get(&session.slots, FIRST)));
	ck_assert(!ahead(&other, 0, 8, 8) || bytes(&session, 0) == NULL);
	ck_assert(ahead(&session, 0, 8, 8));
	/* another page there, or the same one once more, but marked */
	drop(&session, 0);
	set_stored(&session, 0, put(alice, 77), 0);
	ck_assert_ptr_null(bytes(&session, 0));
	set_stored(&session, 1, ids[1], SLOT_F_MARKED);
	ck_assert_ptr_null(bytes(&session, 1));
	expect_page(&session, 3, 3);
	/* what lies before the next look is given up */
	ck_assert(ahead(&session, 4, 8, 4));
	ck_assert_ptr_null(bytes(&session, 3));
	expect_page(&session, 4, 4);
	for (unsigned n = 0; n < 8; n++)
		if (n != 2)
			drop(&session, n);
	/* the ring has a reference: the bytes are still what they were, and nobody's */
	ck_assert_ptr_null(bytes(&session, 4));
	work_all();
	ck_assert_uint_eq(stats().blobs, 4);
	unpack_drop(&owner, &session);
	work_all();
	ck_assert_uint_eq(stats().blobs, 0);
}
END_TEST

START_TEST(test_INV_2_what_is_begun_elsewhere_is_not_waited_for)
{
	uint64_t at;

	for (unsigned n = 0; n < 8; n++)
		store(&session, n);
	ck_assert(ahead(&session, 0, 8, 0));
	ck_assert_uint_eq(unpack_claim(owner.unpack, &at), 1); /* a helper, slow */
	ck_assert(ahead(&session, 0, 8, 8));
	ck_assert_ptr_null(bytes(&session, 0));
	expect_page(&session, 1, 1);
	expect_page(&session, 7, 7);
	for (unsigned n = 0; n < 8; n++)
		drop(&session, n);
	/* nor when all of it is in vain; but its blob stays until it is done */
	unpack_forget(&owner, &session);
	ck_assert(!unpack_settle(&owner));
	ck_assert(!ahead(&other, 0, 8, 8));
	work_all();
	ck_assert_uint_eq(stats().blobs, 8);
	unpack_claimed(owner.unpack, at, 1, bs, codec, true);
	ck_assert(unpack_settle(&owner));
	work_all();
	ck_assert_uint_eq(stats().blobs, 0);
	ck_assert(!unpack_is_wanted(owner.unpack));
}
END_TEST

/* A place without a page may be another's as soon as it is passed over: nobody is to
   look into it then. */
START_TEST(test_INV_7_what_is_not_there_is_not_claimed)
{
	unsigned claims = 0;
	uint64_t at;

	for (unsigned n = 0; n < 8; n++)
		if (n % 4)
			store(&session, n);
	ck_assert(ahead(&session, 0, 9, 0));
	for (; unpack_claim(owner.unpack, &at); claims++)
		unpack_claimed(owner.unpack, at, 1, bs, codec, false);
	ck_assert_uint_eq(claims, 6);
	ck_assert(!unpack_is_wanted(owner.unpack));
	expect_page(&session, 7, 7);
	for (unsigned n = 0; n < 8; n++)
		drop(&session, n);
}
END_TEST

START_TEST(test_ring)
{
	for (unsigned n = 0; n < NR; n++)
		if (n % 7)
			store(&session, n);
	for (unsigned n = 0; n < NR; n += 16) {
		ck_assert(ahead(&session, n, NR, 16));
		for (unsigned i = n; i < MIN(n + 16, NR); i++)
			if (i % 7)
				expect_page(&session, i, i);
	}
	ck_assert_uint_eq(session.counters.helped_total, 0);
	for (unsigned n = 0; n < NR; n++)
		if (n % 7)
			drop(&session, n);
}
END_TEST

START_TEST(test_frames)
{
	const struct blobstore_source from = { .domain = alice };
	unsigned char pages[BLOBSTORE_RUN_MAX][PAGE_BYTES];
	struct blobstore_put v[BLOBSTORE_RUN_MAX];
	unsigned begun = 0;
	uint64_t at;

	for (unsigned n = 0; n < 160; n += BLOBSTORE_RUN_MAX) {
		for (unsigned i = 0; i < BLOBSTORE_RUN_MAX; i++) {
			make_page(pages[i], n + i);
			v[i].page = pages[i];
		}
		blobstore_put_run(bs, codec, &from, v, BLOBSTORE_RUN_MAX);
		for (unsigned i = 0; i < BLOBSTORE_RUN_MAX; i++)
			set_stored(&session, n + i, v[i].id, 0);
	}
	/* a frame is one piece of work, wherever the ring begins */
	for (unsigned n = 5; n < 160; n += 11) {
		ck_assert(ahead(&session, n, 160, 11));
		for (unsigned i = n; i < MIN(n + 11, 160u); i++)
			expect_page(&session, i, i);
	}
	unpack_drop(&owner, &session);
	ck_assert(ahead(&session, 3, 160, 0));
	while ((begun = unpack_claim(owner.unpack, &at)) > 1)
		unpack_claimed(owner.unpack, at, begun, bs, codec, false);
	ck_assert_uint_eq(begun, 0);
	for (unsigned n = 0; n < 160; n++)
		drop(&session, n);
}
END_TEST

static void *help(void *arg)
{
	struct codec *c = codec_new(1);

	(void)arg;
	while (!atomic_load(&stop)) {
		if (unpack_work(owner.unpack, bs, c, true))
			continue;
		unpack_about_to_wait(&pool);
		if (unpack_is_wanted(owner.unpack) || atomic_load(&stop))
			unpack_dont_wait(&pool);
		else
			unpack_wait(&pool);
	}
	codec_free(c);
	return NULL;
}

/* Housekeeping frees what has died. */
static void *keep_house(void *arg)
{
	(void)arg;
	while (!atomic_load(&stop))
		if (!blobstore_work(bs))
			sched_yield();
	return NULL;
}

/* That content may be there already. */
static void put_again(struct session *s, unsigned n, uint64_t content)
{
	blob_id id;

	ck_assert_int_le(try_put(alice, content, &id), BLOBSTORE_DUPLICATE);
	set_stored(s, n, id, 0);
}

START_TEST(test_helpers_beside_changes)
{
	unsigned seed = 7, found = 0;
	pthread_t house;

	for (unsigned i = 0; i < HELPERS; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, help, NULL), 0);
	ck_assert_int_eq(pthread_create(&house, NULL, keep_house, NULL), 0);
	for (unsigned round = 0; round < 150 || (!session.counters.helped_total && round < 100000); round++) {
		uint64_t content[48];
		unsigned nr = 16 + (unsigned)rand_r(&seed) % 33;

		for (unsigned n = 0; n < nr; n++) {
			content[n] = (unsigned)rand_r(&seed) % 64;
			if (rand_r(&seed) % 4) /* others are not away: nothing to unpack */
				put_again(&session, n, content[n]);
		}
		for (unsigned n = 0; n < nr; n += 8) {
			unsigned changed = n + (unsigned)rand_r(&seed) % 8, i;

			(void)ahead(&session, n, nr, 4); /* not while a helper is at what was dropped */
			if (changed < nr && rand_r(&seed) % 2) { /* it was touched, and has left again */
				drop(&session, changed);
				content[changed] = (unsigned)rand_r(&seed) % 64;
				put_again(&session, changed, content[changed]);
			}
			for (i = n; i < MIN(n + 8, nr); i++)
				if (bytes(&session, i)) {
					expect_page(&session, i, content[i]);
					unpack_used(&owner, &session, FIRST + i);
					found++;
				}
			if (rand_r(&seed) % 16 == 0)
				break; /* it reads no further */
		}
		unpack_drop(&owner, &session);
		for (unsigned n = 0; n < nr; n++)
			drop(&session, n);
	}
	ck_assert_uint_gt(found, 0);
	ck_assert_uint_gt(session.counters.helped_total, 0);
	atomic_store(&stop, true);
	unpack_stop(&pool, HELPERS);
	for (unsigned i = 0; i < HELPERS; i++)
		pthread_join(threads[i], NULL);
	pthread_join(house, NULL);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("unpack");
	TCase *tc = tcase_create("unpack");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, test_INV_1_only_what_the_slot_says);
	tcase_add_test(tc, test_INV_2_what_is_begun_elsewhere_is_not_waited_for);
	tcase_add_test(tc, test_INV_7_what_is_not_there_is_not_claimed);
	tcase_add_test(tc, test_ring);
	tcase_add_test(tc, test_frames);
	tcase_add_test(tc, test_helpers_beside_changes);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
