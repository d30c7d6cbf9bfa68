/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Dedup between hosts: two blobstores with a common key over one cluster (a
   directory). What is held once, and what must not be believed. */
#include <check.h>
#include <errno.h>
#include <glob.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/objects.h"
#include "common/util.h"
#include "flow/blobstore.h"
#include "page/domain.h"
#include "page/seal.h"
#include "page/sealed.h"
#include "tests/unit/fake_objects.h"

#define SECRET "a secret of two hosts"
#define PAGES 3000u /* some 6 MiB */

struct host {
	struct domain_registry *domains;
	struct domain *domain;
	struct store *stores[2];
	struct blobstore *bs;
	struct family *family; /* NULL: it makes no dictionary */
	blob_id ids[PAGES];
};

static char dir[64];
static struct fake_cluster *cluster;
static struct codec *codec;
static struct host alpha, beta;

#define UNTIL(condition) \
	while (!(condition)) \
	usleep(2000)

static bool alike; /* pages have much in common: worth a dictionary */

/* Page number n: half noise, half text that all have. */
static void make_alike(unsigned char *page, uint64_t n)
{
	static unsigned char text[64][24];
	uint64_t x = n * 0x9e3779b97f4a7c15u + 1;

	for (unsigned i = 0; i < sizeof(text); i++)
		text[i / 24][i % 24] = (unsigned char)('a' + (i * 2654435761u >> 16) % 26);
	for (size_t at = 0; at < PAGE_BYTES; at += 32) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		memcpy(page + at, text[x % 64], 24);
		memcpy(page + at + 24, &x, 8);
	}
}

/* Page number n: half noise, half text. */
static void make_page(unsigned char *page, uint64_t n)
{
	uint64_t x = n * 0x9e3779b97f4a7c15u + 1;

	if (alike) {
		make_alike(page, n);
		return;
	}

	for (size_t i = 0; i < PAGE_BYTES; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		page[i] = i % 64 < 28 ? (unsigned char)x : (unsigned char)(n + (i >> 9));
	}
}

static enum store_state state(const struct host *h)
{
	struct store_status status;

	store_get_status(h->stores[1], &status);
	return status.state;
}

static void host_start(struct host *h, const char *name, const char *secret, uint32_t uid)
{
	const struct objects_settings settings = {
		.host = name, .where = "pool p", .max_bytes = 16 * STORE_SEGMENT, .timeout_ms = 2000
	};

	memset(h, 0, sizeof(*h));
	h->domains = domain_registry_new();
	if (secret)
		domain_registry_share(h->domains, secret, strlen(secret));
	h->domain = domain_get(h->domains, uid, UINT64_MAX);
	h->stores[0] = store_memory_new(8 * STORE_SEGMENT);
	h->stores[1] = store_objects_new(&fake_ops, fake_client(cluster), &settings);
	ck_assert(h->stores[0] && h->stores[1]);
	UNTIL(state(h) == STORE_UP);
	h->bs = blobstore_new_tiers(h->stores, 2, 1u << 16, secret, secret ? strlen(secret) : 0);
	ck_assert_ptr_nonnull(h->bs);
	blobstore_set_move_down(h->bs, 1);
}

static struct blobstore_stats stats(const struct host *h)
{
	struct blobstore_stats st;

	blobstore_get_stats(h->bs, &st);
	return st;
}

static void drop(struct host *h)
{
	for (unsigned i = 0; i < PAGES; i++)
		if (h->ids[i])
			blobstore_unref(h->bs, h->ids[i]);
	memset(h->ids, 0, sizeof(h->ids));
	while (blobstore_work(h->bs))
		;
}

/* In order: nothing of ours stays. */
static void host_stop(struct host *h)
{
	if (!h->bs)
		return;
	drop(h);
	ck_assert_uint_eq(h->domain->charged, 0);
	blobstore_family_unref(h->family);
	blobstore_free(h->bs);
	store_close(h->stores[1]);
	store_close(h->stores[0]);
	domain_unref(h->domains, h->domain);
	domain_registry_free(h->domains);
	h->bs = NULL;
}

static void setup(void)
{
	alike = false;
	strcpy(dir, "/tmp/uswap-share.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	cluster = fake_new(dir);
	codec = codec_new(1);
}

static void teardown(void)
{
	char command[128];

	host_stop(&alpha);
	host_stop(&beta);
	ck_assert_uint_eq(fake_count(cluster, ""), 0); /* nobody is left, and nothing */
	fake_free(cluster);
	codec_free(codec);
	snprintf(command, sizeof(command), "rm -r %s", dir);
	ck_assert_int_eq(system(command), 0);
}

static void put(struct host *h, unsigned i, uint64_t n)
{
	const struct blobstore_source from = { .domain = h->domain, .family = h->family, .vpn = n };
	unsigned char page[PAGE_BYTES];

	make_page(page, n);
	ck_assert_int_eq(blobstore_put_from(h->bs, codec, &from, page, &h->ids[i]), BLOBSTORE_STORED);
	while (h->family && i % 64 == 0 && blobstore_learn(h->bs, codec))
		;
}

/* All of it goes down. */
static void put_all(struct host *h)
{
	for (unsigned i = 0; i < PAGES; i++)
		put(h, i, i);
	usleep(150000);
	while (blobstore_work(h->bs) || stats(h).tier[0].live_bytes)
		usleep(1000);
	ck_assert_uint_eq(h->domain->charged, stats(h).live_bytes); /* INV-8 */
}

static void expect_all(struct host *h)
{
	unsigned char page[PAGE_BYTES], want[PAGE_BYTES];

	for (unsigned i = 0; i < PAGES; i++) {
		if (!h->ids[i])
			continue;
		ck_assert_int_eq(blobstore_get(h->bs, codec, h->ids[i], page), 0);
		make_page(want, i);
		ck_assert_mem_eq(page, want, PAGE_BYTES);
	}
}

/* Of beta's, with alpha. */
static uint64_t borrowed(const struct host *h)
{
	ck_assert_uint_le(stats(h).tier[1].borrowed_bytes, stats(h).tier[1].live_bytes);
	return stats(h).tier[1].borrowed_bytes;
}

static bool most_is_borrowed(const struct host *h)
{
	return borrowed(h) > stats(h).tier[1].live_bytes / 10 * 9;
}

static void both_start(const char *secret)
{
	host_start(&alpha, "alpha", SECRET, 1000);
	put_all(&alpha);
	host_start(&beta, "beta", secret, 1000);
}

/* ---- */

START_TEST(test_held_once)
{
	uint64_t written;

	both_start(SECRET);
	ck_assert_uint_eq(borrowed(&alpha), 0);
	put_all(&beta);
	ck_assert(most_is_borrowed(&beta));
	written = stats(&beta).tier[1].store.written_bytes_total;
	ck_assert_uint_lt(written, stats(&alpha).tier[1].store.written_bytes_total / 10 + (256 << 10));
	ck_assert_uint_gt(fake_count(cluster, "r.beta."), 0);
	expect_all(&beta);
	/* what beta still has, alpha does not take along */
	host_stop(&alpha);
	ck_assert_uint_gt(fake_count(cluster, "s.alpha."), 0);
	expect_all(&beta);
	drop(&beta);
	UNTIL(fake_count(cluster, "s.") == 0);
	UNTIL(fake_count(cluster, "r.") == 0);
}
END_TEST

/* The owner is collected as dead; its borrower too. */
START_TEST(test_collected)
{
	const char *error = NULL;
	int64_t n;

	both_start(SECRET);
	put_all(&beta);
	do { /* it lives, and may renew its lease in between */
		fake_set_lease(cluster, NULL, 0);
		n = objects_collect(&fake_ops, fake_client(cluster), "alpha", &error);
	} while (n == -EBUSY);
	ck_assert_int_gt(n, 0);
	expect_all(&beta);
	ck_assert_int_ge(objects_collect(&fake_ops, fake_client(cluster), "beta", &error), 0);
	ck_assert_uint_eq(fake_count(cluster, "s."), 0);
	ck_assert_uint_eq(fake_count(cluster, "r."), 0);
}
END_TEST

/* Of every eight pages one is left: then those come home. */
static void copy_few_home(struct host *h)
{
	for (unsigned i = 0; i < PAGES; i++) {
		if (i % 8 == 0)
			continue;
		blobstore_unref(h->bs, h->ids[i]);
		h->ids[i] = 0;
	}
	while (blobstore_work(h->bs) || borrowed(h))
		usleep(1000);
}

/* Few of the pages are left: they come home, and the owner's go. */
START_TEST(test_copied_home)
{
	both_start(SECRET);
	put_all(&beta);
	ck_assert(most_is_borrowed(&beta));
	host_stop(&alpha);
	copy_few_home(&beta);
	UNTIL(fake_count(cluster, "s.alpha.") == 0);
	UNTIL(fake_count(cluster, "r.") == 0);
	ck_assert_uint_gt(stats(&beta).tier[1].collected_bytes_total, 0);
	expect_all(&beta);
}
END_TEST

/* Other users, other keys, no key: strangers. */
START_TEST(test_strangers)
{
	host_start(&alpha, "alpha", SECRET, 1000);
	put_all(&alpha);
	host_start(&beta, "beta", _i == 0 ? "another secret ..." : _i == 1 ? NULL : SECRET, _i == 2 ? 1001 : 1000);
	put_all(&beta);
	ck_assert_uint_eq(borrowed(&beta), 0);
	ck_assert_uint_eq(fake_count(cluster, "r."), 0);
	expect_all(&beta);
}
END_TEST

/* The index says what is not so any more. */
START_TEST(test_stale)
{
	char command[200];

	both_start(SECRET);
	snprintf(command, sizeof(command), _i ? "cd %s && for s in s.alpha.*; do head -c 4194304 /dev/zero >$s; done" :
						"rm %s/s.alpha.*", dir);
	ck_assert_int_eq(system(command), 0);
	put_all(&beta);
	ck_assert_uint_eq(borrowed(&beta), 0);
	expect_all(&beta);
	/* what was there for alpha is beta's now */
	drop(&alpha);
	put_all(&alpha);
	ck_assert(most_is_borrowed(&alpha));
	expect_all(&alpha);
}
END_TEST

/* There when it was looked for, gone when it was to be kept. */
START_TEST(test_gone_in_between)
{
	both_start(SECRET);
	fake_add(cluster, (struct fake_rule){ .call = FAKE_TAG, .error = -ENOENT });
	put_all(&beta);
	ck_assert_uint_eq(borrowed(&beta), 0);
	expect_all(&beta);
	fake_clear(cluster);
	/* what was said of it is taken back */
	UNTIL(fake_count(cluster, "r.") == 0);
}
END_TEST

/* A tag, or what says so, that has landed and nobody knows. */
START_TEST(test_landed_unseen)
{
	both_start(SECRET);
	fake_add(cluster, (struct fake_rule){ .call = _i ? FAKE_PUT : FAKE_TAG, .error = -ETIMEDOUT, .landed = true,
					      .times = 1 });
	put_all(&beta);
	fake_clear(cluster);
	expect_all(&beta);
	drop(&beta);
	host_stop(&alpha);
	UNTIL(fake_count(cluster, "s.") == 0);
	UNTIL(fake_count(cluster, "r.") == 0);
}
END_TEST

/* Tags can't be taken off just now: later, and then once. */
START_TEST(test_untag_fails)
{
	both_start(SECRET);
	put_all(&beta);
	fake_add(cluster, (struct fake_rule){ .call = FAKE_UNTAG, .error = -ETIMEDOUT, .landed = true, .times = 2 });
	drop(&beta);
	UNTIL(fake_count(cluster, "r.") == 0);
	expect_all(&alpha);
	ck_assert_uint_gt(fake_count(cluster, "s.alpha."), 0);
}
END_TEST

/* An index that does not answer: a moment, and then nobody asks for a while. */
START_TEST(test_slow_index)
{
	uint64_t begin;
	unsigned before;

	both_start(SECRET);
	before = fake_calls(cluster, FAKE_INDEX);
	begin = now_ns();
	fake_add(cluster, (struct fake_rule){ .call = FAKE_INDEX, .held = true });
	put_all(&beta);
	ck_assert_uint_eq(borrowed(&beta), 0);
	/* (after a second they are asked again) */
	ck_assert_uint_le(fake_calls(cluster, FAKE_INDEX) - before, 64 * (2 + (now_ns() - begin) / NSEC_PER_SEC));
	fake_clear(cluster);
	expect_all(&beta);
}
END_TEST

/* Each record of a batch gets the frame of the next one: sealed by who has the
   key, right in every point but that the pages are others. */
static void exchange(struct seal *seal, unsigned char *batch)
{
	static unsigned char table[SEALED_BATCH], plain[SEALED_BATCH], out[SEALED_BATCH];
	static struct sealed_frame frames[SEALED_RECORDS_MAX];
	struct sealed_header h;
	struct sealed_record record;
	uint32_t n, at = 0;

	ck_assert_int_eq(sealed_read_header(batch, SEALED_BATCH, &h), 0);
	ck_assert_int_eq(sealed_read_table(seal, seal_key_of(seal), batch, &h, table), 0);
	n = h.nr_records;
	for (uint32_t i = 0; i < n; i++) {
		struct sealed_frame *f = &frames[(i + n - 1) % n];

		sealed_get_record(table, i, &record);
		ck_assert_int_eq(sealed_read_frame(seal, h.serial, h.batch * SEALED_BATCH + record.offset,
						   batch + record.offset, record.len, plain + at), 0);
		f->bytes = plain + at;
		f->len = record.len;
		f->kind = record.kind;
		at += record.len;
		frames[i].hash = record.hash;
		frames[i].id = record.id;
	}
	ck_assert_int_eq(sealed_write(seal, &h, frames, n, out), 0);
	memcpy(batch, out, SEALED_BATCH);
}

static void exchange_all(const char *path)
{
	static unsigned char batch[SEALED_BATCH];
	struct sealed_header h;
	struct seal_key key;
	FILE *f = fopen(path, "r+");

	ck_assert_ptr_nonnull(f);
	for (long at = 0; !fseek(f, at, SEEK_SET) && fread(batch, 1, sizeof(batch), f) > 0; at += SEALED_BATCH) {
		struct seal *seal;

		ck_assert_int_eq(sealed_read_header(batch, sizeof(batch), &h), 0);
		ck_assert_int_eq(seal_key_derive(&key, SECRET, strlen(SECRET), h.key_id), 0);
		seal = seal_new(&key);
		exchange(seal, batch);
		seal_free(seal);
		ck_assert_int_eq(fseek(f, at, SEEK_SET), 0);
		ck_assert_uint_eq(fwrite(batch, 1, (h.used + 4095) & ~4095u, f), (h.used + 4095) & ~4095u);
	}
	fclose(f);
}

/* The same hash and other bytes: only bytes count. */
START_TEST(test_same_hash)
{
	char pattern[100];
	glob_t found;

	both_start(SECRET);
	snprintf(pattern, sizeof(pattern), "%s/s.alpha.*", dir);
	ck_assert_int_eq(glob(pattern, 0, NULL, &found), 0);
	for (size_t i = 0; i < found.gl_pathc; i++)
		exchange_all(found.gl_pathv[i]);
	globfree(&found);
	put_all(&beta);
	ck_assert_uint_gt(fake_calls(cluster, FAKE_READ), 0); /* it has looked */
	ck_assert_uint_eq(borrowed(&beta), 0);
	expect_all(&beta);
}
END_TEST

/* Of the pages that alpha has made with its dictionary. */
static uint64_t with_dict(void)
{
	return stats(&alpha).encodings.dict_pages;
}

static void alpha_with_dictionary(void)
{
	alike = true;
	host_start(&alpha, "alpha", SECRET, 1000);
	alpha.family = blobstore_family_new(alpha.bs, alpha.domain);
	put_all(&alpha);
	ck_assert_uint_eq(stats(&alpha).dicts, 1);
	ck_assert_uint_gt(with_dict(), PAGES / 5);
	host_start(&beta, "beta", SECRET, 1000);
}

/* Pages that one host has made with a dictionary are found by others, who then have
   it too, whatever becomes of it in the pool and of its maker; and told by them. */
START_TEST(test_dictionary)
{
	char command[200];

	alpha_with_dictionary();
	put_all(&beta);
	ck_assert(most_is_borrowed(&beta));
	ck_assert_uint_eq(stats(&beta).encodings.dicts_trained, 0);
	ck_assert_uint_eq(stats(&beta).dicts, 1);
	snprintf(command, sizeof(command), "rm %s/f.*.*", dir);
	ck_assert_int_eq(system(command), 0);
	host_stop(&alpha);
	expect_all(&beta);
	copy_few_home(&beta);
	expect_all(&beta);
}
END_TEST

/* One that is not to be had, or is not what its name says: those pages are stored
   here as well, and nothing else changes. */
START_TEST(test_dictionary_missing)
{
	static const char *const spoil[] = {
		"rm $f",
		"printf eight-is | dd of=$f bs=1 seek=5000 conv=notrunc 2>/dev/null", /* one byte may be right */
	};
	char command[200];

	alpha_with_dictionary();
	snprintf(command, sizeof(command), "cd %s; for f in f.*.????????????????????????????????; do %s || exit; done", dir,
		 spoil[_i]);
	ck_assert_int_eq(system(command), 0);
	put_all(&beta);
	ck_assert_uint_eq(stats(&beta).dicts, 0);
	ck_assert_uint_gt(borrowed(&beta), 0);
	ck_assert_uint_lt(borrowed(&beta), stats(&beta).tier[1].live_bytes - with_dict() * 64);
	expect_all(&beta);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("share");
	TCase *tc = tcase_create("share");
	SRunner *runner;
	int failures;

	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, test_held_once);
	tcase_add_test(tc, test_collected);
	tcase_add_test(tc, test_copied_home);
	tcase_add_loop_test(tc, test_strangers, 0, 3);
	tcase_add_loop_test(tc, test_stale, 0, 2);
	tcase_add_test(tc, test_gone_in_between);
	tcase_add_loop_test(tc, test_landed_unseen, 0, 2);
	tcase_add_test(tc, test_untag_fails);
	tcase_add_test(tc, test_slow_index);
	tcase_add_test(tc, test_same_hash);
	tcase_add_test(tc, test_dictionary);
	tcase_add_loop_test(tc, test_dictionary_missing, 0, 2);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	failures = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
