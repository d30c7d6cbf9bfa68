/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Clusters: pages that share a frame are blobs like any other. */
#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/util.h"
#include "tests/unit/blobs.h"

#define RUN BLOBSTORE_RUN_MAX
#define SLACK (64u << 10)

static void open_store(unsigned segments)
{
	nr_stores = 1;
	stores[0] = store_memory_new(segments * (uint64_t)STORE_SEGMENT);
	bs = blobstore_new(stores[0], 1u << 20);
	ck_assert_ptr_nonnull(bs);
	ck_assert(!blobstore_takes_runs(bs, codec));
	blobstore_set_clusters(bs, true);
	ck_assert(blobstore_takes_runs(bs, codec));
}

/* Pages number first to first + n - 1, as neighbours. */
static void put_run(struct codec *c, struct domain *domain, uint64_t first, unsigned n, blob_id *id,
		    enum blobstore_result want)
{
	const struct blobstore_source from = { .domain = domain, .vpn = first };
	unsigned char pages[RUN][PAGE_BYTES];
	struct blobstore_put v[RUN];

	for (unsigned i = 0; i < n; i++) {
		make_page(pages[i], first + i);
		v[i].page = pages[i];
	}
	blobstore_put_run(bs, c, &from, v, n);
	for (unsigned i = 0; i < n; i++) {
		ck_assert_int_eq(v[i].result, want);
		ck_assert_uint_ne(v[i].id, 0);
		id[i] = v[i].id;
	}
}

static unsigned get_parts(struct codec *c, const blob_id *id, unsigned n, unsigned char (*to)[PAGE_BYTES])
{
	void *pages[RUN];

	for (unsigned i = 0; i < n; i++)
		pages[i] = to[i];
	return blobstore_get_parts(bs, c, id, n, pages);
}

static void drop(blob_id *id, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		if (id[i])
			blobstore_unref(bs, id[i]);
		id[i] = 0;
	}
}

static void check_pages(const blob_id *id, unsigned n, uint64_t first)
{
	for (unsigned i = 0; i < n; i++)
		if (id[i])
			ck_assert_int_eq(get(codec, id[i], first + i), 0);
}

/* Those that are still there, and what verify finds. */
static void check_all(const blob_id *id, unsigned n, uint64_t first)
{
	struct blobstore_verified v;
	const _Atomic bool stop = false;

	check_pages(id, n, first);
	expect_charges();
	ck_assert_int_eq(blobstore_verify(bs, codec, &stop, &v), 0);
	ck_assert_uint_eq(v.damaged + v.unread + v.wrong_accounts + v.not_found, 0);
	ck_assert_uint_eq(stats().corrupt_total, 0);
}

START_TEST(test_put_get)
{
	unsigned char pages[RUN][PAGE_BYTES], want[PAGE_BYTES];
	blob_id id[2 * RUN], again[RUN], alone[RUN];

	open_store(4);
	put_run(codec, alice, 0, RUN, id, BLOBSTORE_STORED);
	put_run(codec, alice, RUN, 9, id + RUN, BLOBSTORE_STORED);
	ck_assert_uint_eq(stats().encodings.cluster_pages, RUN + 9);
	ck_assert_uint_eq(stats().live_bytes, stats().encodings.cluster_bytes);
	check_all(id, RUN + 9, 0);
	/* once more: each is found, and counted */
	put_run(codec, alice, 0, RUN, again, BLOBSTORE_DUPLICATE);
	ck_assert_mem_eq(again, id, sizeof(again));
	drop(again, RUN);
	/* another user's are his own */
	put_run(codec, bob, 0, RUN, again, BLOBSTORE_STORED);
	ck_assert_uint_gt(bob->charged, 0);
	drop(again, RUN);
	/* too few for a frame of their own */
	put_run(codec, alice, 100, 7, alone, BLOBSTORE_STORED);
	ck_assert_uint_eq(stats().encodings.cluster_pages, 2 * RUN + 9);
	ck_assert(blobstore_is_part(bs, id[0]) && !blobstore_is_part(bs, alone[0]));
	/* together: up to the end of a frame, from anywhere in it, in any order */
	ck_assert_uint_eq(get_parts(codec, id + 3, RUN, pages), RUN - 3);
	for (unsigned i = 3; i < RUN; i++) {
		make_page(want, i);
		ck_assert_mem_eq(pages[i - 3], want, PAGE_BYTES);
	}
	again[0] = id[5];
	again[1] = id[2];
	again[2] = alone[0];
	ck_assert_uint_eq(get_parts(codec, again, 3, pages), 2);
	make_page(want, 2);
	ck_assert_mem_eq(pages[1], want, PAGE_BYTES);
	ck_assert_uint_eq(get_parts(codec, alone, 1, pages), 0);
	drop(alone, 7);
	drop(id, RUN + 9);
	expect_nothing();
}
END_TEST

/* What doesn't compress is not taken along, nor what is there already. */
START_TEST(test_mixed_run)
{
	const struct blobstore_source from = { .domain = alice };
	unsigned char pages[RUN][PAGE_BYTES];
	struct blobstore_put v[RUN];
	blob_id there;

	open_store(4);
	there = put(alice, 3);
	for (unsigned i = 0; i < RUN; i++) {
		make_page(pages[i], i == 5 ? BLOBS_NOISE : i);
		v[i].page = pages[i];
	}
	blobstore_put_run(bs, codec, &from, v, RUN);
	for (unsigned i = 0; i < RUN; i++) {
		ck_assert_int_eq(v[i].result, i == 3 ? BLOBSTORE_DUPLICATE :
						i == 5 ? BLOBSTORE_INCOMPRESSIBLE : BLOBSTORE_STORED);
		if (v[i].id) {
			ck_assert_int_eq(get(codec, v[i].id, i), 0);
			ck_assert(blobstore_is_part(bs, v[i].id) == (i != 3));
			blobstore_unref(bs, v[i].id);
		}
	}
	ck_assert_uint_eq(v[3].id, there);
	blobstore_unref(bs, there);
	expect_nothing();
}
END_TEST

/* What differs little from what a parent has at that address is stored as that. */
START_TEST(test_differences_stay_apart)
{
	struct blobstore_source from = { .domain = alice };
	unsigned char pages[RUN][PAGE_BYTES], page[PAGE_BYTES];
	struct blobstore_put v[RUN];
	blob_id base[RUN];

	open_store(4);
	from.family = blobstore_family_new(bs, alice);
	blobstore_family_forked(from.family);
	for (unsigned i = 0; i < RUN; i++) {
		make_page(pages[i], i);
		from.vpn = i;
		base[i] = 0;
		if (i % 2)
			ck_assert_int_eq(blobstore_put_from(bs, codec, &from, pages[i], &base[i]), BLOBSTORE_STORED);
		pages[i][100] ^= 1;
		v[i].page = pages[i];
	}
	from.vpn = 0;
	blobstore_put_run(bs, codec, &from, v, RUN);
	ck_assert_uint_eq(stats().encodings.delta_pages, RUN / 2);
	ck_assert_uint_eq(stats().encodings.cluster_pages, RUN / 2);
	for (unsigned i = 0; i < RUN; i++) {
		ck_assert_int_eq(v[i].result, BLOBSTORE_STORED);
		ck_assert_int_eq(blobstore_get(bs, codec, v[i].id, page), 0);
		ck_assert_mem_eq(page, pages[i], PAGE_BYTES);
		blobstore_unref(bs, v[i].id);
	}
	drop(base, RUN);
	blobstore_family_unref(from.family);
	blobstore_family_unref(from.family);
	expect_nothing();
}
END_TEST

/* Over the limit nothing is stored, and nothing owed. */
START_TEST(test_INV_8_quota)
{
	blob_id id[RUN];
	const struct blobstore_source from = { .domain = alice };
	unsigned char pages[RUN][PAGE_BYTES];
	struct blobstore_put v[RUN];
	unsigned stored = 0;

	open_store(4);
	put_run(codec, bob, 0, RUN, id, BLOBSTORE_STORED);
	atomic_store(&alice->limit, bob->charged - 1);
	for (unsigned i = 0; i < RUN; i++) {
		make_page(pages[i], i);
		v[i].page = pages[i];
	}
	blobstore_put_run(bs, codec, &from, v, RUN);
	for (unsigned i = 0; i < RUN; i++) { /* one by one, as far as it goes */
		ck_assert(v[i].result == BLOBSTORE_STORED || v[i].result == BLOBSTORE_QUOTA);
		ck_assert(!v[i].id || !blobstore_is_part(bs, v[i].id));
		stored += v[i].id != 0;
		if (v[i].id)
			blobstore_unref(bs, v[i].id);
	}
	ck_assert(stored > 0 && stored < RUN);
	expect_charges();
	drop(id, RUN);
	expect_nothing();
}
END_TEST

/* Garbage goes though pages of each frame live on: half of them, a few, all of some. */
START_TEST(test_collected)
{
	static const unsigned of_16[] = { 13, 8, 2 };
	static blob_id id[200 * RUN];

	open_store(16);
	for (unsigned n = 0; n < ARRAY_SIZE(id); n += RUN)
		put_run(codec, alice, n, RUN, id + n, BLOBSTORE_STORED);
	for (unsigned round = 0; round < ARRAY_SIZE(of_16); round++) {
		for (unsigned n = 0; n < ARRAY_SIZE(id); n++)
			if (n * 7 % RUN >= of_16[round] && n / RUN % 8)
				drop(&id[n], 1);
		work_all();
		ck_assert_uint_gt(stats().compacted_bytes_total, 0);
		ck_assert_uint_le(stats().live_bytes + stats().dead_bytes, stats().live_bytes / 100 * 115 + SLACK);
		check_all(id, ARRAY_SIZE(id), 0);
		/* those with half of their pages left share a frame still */
		ck_assert_int_eq(blobstore_is_part(bs, id[RUN]), of_16[round] >= BLOBSTORE_RUN_MIN);
		ck_assert(blobstore_is_part(bs, id[0]));
	}
	drop(id, ARRAY_SIZE(id));
	expect_nothing();
}
END_TEST

/* The only one, open, and nothing lives in it. */
START_TEST(test_dead_open_segment)
{
	static blob_id id[64 * RUN];
	blob_id other;

	open_store(4);
	other = put(alice, 5000);
	for (unsigned n = 0; n < ARRAY_SIZE(id); n += RUN)
		put_run(codec, alice, n, RUN, id + n, BLOBSTORE_STORED);
	drop(id, ARRAY_SIZE(id));
	work_all();
	ck_assert_uint_eq(stats().live_bytes, blobstore_bytes(bs, other));
	drop(&other, 1);
	expect_nothing();
}
END_TEST

/* A flip anywhere in a cluster, names and frame: right, or known to be wrong. */
START_TEST(test_INV_7_every_byte)
{
	unsigned bytes, wrong = 0;
	unsigned char *at;
	blob_id id[8];

	open_store(4);
	put_run(codec, alice, 0, 8, id, BLOBSTORE_STORED);
	bytes = (unsigned)stats().live_bytes;
	at = (unsigned char *)(uintptr_t)store_map(stores[0], 0, 0, bytes);
	for (unsigned i = 0; i < bytes; i += i < 64 ? 1 : 41) {
		at[i] ^= (unsigned char)(1 << i % 8);
		for (unsigned k = 0; k < 8; k++) {
			int r = get(codec, id[k], k);

			ck_assert(r == 0 || r == -EBADMSG);
			wrong += r != 0;
		}
		at[i] ^= (unsigned char)(1 << i % 8);
	}
	ck_assert_uint_gt(wrong, bytes / 41);
	for (unsigned k = 0; k < 8; k++)
		ck_assert_int_eq(get(codec, id[k], k), 0);
	drop(id, 8);
	expect_nothing();
}
END_TEST

/* ---- all at once ---- */

#define RUNS 24
static struct {
	pthread_spinlock_t lock;
	blob_id id[RUN];
} runs[RUNS];
static _Atomic bool stop;
static _Atomic unsigned failures, got;

static void *getter(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg;
	unsigned char pages[RUN][PAGE_BYTES], want[PAGE_BYTES];
	struct codec *c = codec_new(1);

	while (!atomic_load(&stop)) {
		unsigned r = (unsigned)rand_r(&seed) % RUNS, first = (unsigned)rand_r(&seed) % RUN, n, k;
		blob_id id[RUN];

		pthread_spin_lock(&runs[r].lock);
		for (n = 0; first + n < RUN && runs[r].id[first + n]; n++)
			blobstore_ref(bs, id[n] = runs[r].id[first + n]);
		pthread_spin_unlock(&runs[r].lock);
		k = n ? get_parts(c, id, n, pages) : 0;
		for (unsigned i = 0; i < n; i++) {
			make_page(want, r * RUN + first + i);
			if (i < k ? memcmp(want, pages[i], PAGE_BYTES) : get(c, id[i], r * RUN + first + i))
				failures++;
			blobstore_unref(bs, id[i]);
		}
		got += k;
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

START_TEST(test_collected_beside_gets_and_puts)
{
	pthread_t get_thread[2], work_thread;
	unsigned seed = 7;

	open_store(16);
	for (unsigned r = 0; r < RUNS; r++)
		pthread_spin_init(&runs[r].lock, 0);
	pthread_create(&work_thread, NULL, worker, NULL);
	for (uintptr_t i = 0; i < 2; i++)
		pthread_create(&get_thread[i], NULL, getter, (void *)(i + 1));
	for (unsigned op = 0; op < 12000; op++) {
		unsigned r = (unsigned)rand_r(&seed) % RUNS, first = (unsigned)rand_r(&seed) % RUN;
		blob_id id[RUN] = { 0 };

		/* Part of one goes; or it comes anew, and some of it may be there. */
		if (op % 6 == 0) {
			const struct blobstore_source from = { .domain = alice };
			unsigned char pages[RUN][PAGE_BYTES];
			struct blobstore_put v[RUN];

			for (unsigned i = 0; i < RUN; i++) {
				make_page(pages[i], r * RUN + i);
				v[i].page = pages[i];
			}
			blobstore_put_run(bs, codec, &from, v, RUN);
			for (unsigned i = 0; i < RUN; i++)
				id[i] = v[i].id;
			first = 0;
		}
		pthread_spin_lock(&runs[r].lock);
		for (unsigned i = first; i < RUN; i++) {
			blob_id old = runs[r].id[i];

			runs[r].id[i] = id[i];
			id[i] = old;
		}
		pthread_spin_unlock(&runs[r].lock);
		drop(id, RUN);
	}
	stop = true;
	for (unsigned i = 0; i < 2; i++)
		pthread_join(get_thread[i], NULL);
	pthread_join(work_thread, NULL);
	ck_assert_uint_eq(failures, 0);
	ck_assert_uint_gt(got, 1000);
	ck_assert_uint_gt(stats().compacted_bytes_total, 1u << 20);
	work_all();
	for (unsigned r = 0; r < RUNS; r++)
		check_pages(runs[r].id, RUN, r * RUN);
	check_all(runs[0].id, RUN, 0);
	for (unsigned r = 0; r < RUNS; r++)
		drop(runs[r].id, RUN);
	expect_nothing();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("cluster");
	TCase *tc = tcase_create("cluster");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(tc, blobs_setup, blobs_teardown);
	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, test_put_get);
	tcase_add_test(tc, test_mixed_run);
	tcase_add_test(tc, test_differences_stay_apart);
	tcase_add_test(tc, test_INV_8_quota);
	tcase_add_test(tc, test_collected);
	tcase_add_test(tc, test_dead_open_segment);
	tcase_add_test(tc, test_INV_7_every_byte);
	tcase_add_test(tc, test_collected_beside_gets_and_puts);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
