/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The sealed form: written and read back, the same bits in every build (the
 * golden file), and no flipped bit goes unnoticed.
 *
 * USWAP_GOLDEN=write makes the golden file anew, for a new version only.
 */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc32c.h"
#include "common/util.h"
#include "page/sealed.h"

#define FRAMES 7
#define GOLDEN "tests/golden/segment-v1.bin"

static struct seal *seal;
static unsigned char *batch, *copy;
static struct sealed_frame frames[FRAMES];
static unsigned char content[FRAMES][256];
static struct sealed_header header;

/* All of it known: what is written depends on nothing else. */
static void fill(void)
{
	header = (struct sealed_header){ .batch = 3, .domain = 1000, .serial = 0x1122334455667788 };
	memset(header.machine, 0xa5, sizeof(header.machine));
	for (unsigned i = 0; i < FRAMES; i++) {
		unsigned len = 1 + i * 37;

		for (unsigned k = 0; k < len; k++)
			content[i][k] = (unsigned char)(i * 50 + k * 7);
		frames[i] = (struct sealed_frame){ .hash = 0x0102030405060708u * (i + 1),
						   .id = 100 + i,
						   .kind = (uint16_t)(i % 2 ? 1 : 8 + i),
						   .len = (uint16_t)len,
						   .bytes = content[i] };
	}
}

static void setup(void)
{
	static const uint8_t id[SEAL_ID] = "a known key id.";
	struct seal_key key;

	ck_assert_int_eq(seal_key_derive(&key, "a secret for tests", 18, id), 0);
	seal = seal_new(&key);
	batch = aligned_alloc(4096, SEALED_BATCH);
	copy = aligned_alloc(4096, SEALED_BATCH);
	ck_assert(seal && batch && copy);
	fill();
	ck_assert_int_eq(sealed_write(seal, &header, frames, FRAMES, batch), 0);
}

static void teardown(void)
{
	seal_free(seal);
	free(batch);
	free(copy);
}

/* How many frames can be read from bytes and are what was written; -1: not the
   table. Anything that is read wrongly ends the test. */
static int read_all(const unsigned char *bytes, size_t len)
{
	unsigned char table[FRAMES * SEALED_RECORD], frame[SEALED_FRAME_MAX];
	struct sealed_header h;
	int good = 0;

	if (sealed_read_header(bytes, len, &h) || h.serial != header.serial || h.batch != header.batch ||
	    h.nr_records != FRAMES || len < h.used || sealed_read_table(seal, seal_key_of(seal), bytes, &h, table))
		return -1;
	for (uint32_t i = 0; i < h.nr_records; i++) {
		struct sealed_record r;

		sealed_get_record(table, i, &r);
		ck_assert_uint_eq(r.id, frames[i].id);
		ck_assert_uint_eq(r.hash, frames[i].hash);
		ck_assert_uint_eq(r.kind, frames[i].kind);
		ck_assert_uint_eq(r.len, frames[i].len);
		ck_assert_uint_eq(r.offset, frames[i].offset);
		if (sealed_read_frame(seal, h.serial, h.batch * SEALED_BATCH + r.offset, bytes + r.offset,
				      r.len, frame))
			continue;
		ck_assert_mem_eq(frame, content[i], r.len);
		good++;
	}
	return good;
}

START_TEST(test_crc32c)
{
	static const unsigned char zeros[32], text[] = "123456789";
	unsigned char many[1000];
	uint32_t crc = 0;

	/* RFC 3720 and the usual check value */
	ck_assert_uint_eq(crc32c(0, zeros, sizeof(zeros)), 0x8a9136aa);
	ck_assert_uint_eq(crc32c(0, text, 9), 0xe3069283);
	for (unsigned i = 0; i < sizeof(many); i++)
		many[i] = (unsigned char)(i * i);
	for (unsigned at = 0, n = 1; at < sizeof(many); at += n, n = MIN(n + 3, (unsigned)sizeof(many) - at))
		crc = crc32c(crc, many + at, n);
	ck_assert_uint_eq(crc, crc32c(0, many, sizeof(many)));
}
END_TEST

START_TEST(test_write_and_read)
{
	ck_assert_int_eq(read_all(batch, header.used), FRAMES);
	ck_assert_int_eq(read_all(batch, header.used - 1), -1);
	/* as little as a reader may look at first */
	ck_assert_int_eq(sealed_read_header(batch, SEALED_HEADER, &header), 0);
	ck_assert_int_eq(sealed_read_header(batch, SEALED_HEADER - 1, &header), -EBADMSG);
	batch[4]++;
	ck_assert_int_eq(sealed_read_header(batch, SEALED_HEADER, &header), -EPROTONOSUPPORT);
}
END_TEST

/* The same page sealed twice at two places does not look the same, and neither
   is anything of it in the clear. */
START_TEST(test_nothing_is_seen)
{
	struct sealed_header other = header;

	for (unsigned i = 3; i < FRAMES; i++)
		ck_assert_ptr_null(memmem(batch, header.used, content[i], 16));
	other.serial++;
	ck_assert_int_eq(sealed_write(seal, &other, frames, FRAMES, copy), 0);
	for (unsigned i = 3; i < FRAMES; i++)
		ck_assert_mem_ne(batch + frames[i].offset, copy + frames[i].offset, 16);
	/* the same place, the same bytes: a write that is repeated */
	ck_assert_int_eq(sealed_write(seal, &header, frames, FRAMES, copy), 0);
	ck_assert_mem_eq(batch, copy, header.used);
}
END_TEST

START_TEST(test_golden)
{
	const char *src = getenv("USWAP_SRC"), *write = getenv("USWAP_GOLDEN");
	unsigned char golden[4096];
	char path[512];
	FILE *file;

	snprintf(path, sizeof(path), "%s/" GOLDEN, src ? src : ".");
	if (write && !strcmp(write, "write")) {
		file = fopen(path, "we");
		ck_assert_uint_eq(fwrite(batch, 1, header.used, file), header.used);
		fclose(file);
	}
	file = fopen(path, "re");
	ck_assert_msg(file != NULL, "%s", path);
	ck_assert_uint_eq(fread(golden, 1, sizeof(golden), file), header.used);
	fclose(file);
	ck_assert_mem_eq(golden, batch, header.used);
	ck_assert_int_eq(read_all(golden, header.used), FRAMES);
}
END_TEST

/* INV-7: each bit, one by one. Header and table: the whole batch is refused.
   A frame or its tag: that one alone is lost. Behind the end: nothing. */
START_TEST(test_INV_7_every_flip_is_caught)
{
	uint32_t table_end = sealed_table_end(&header), end = (header.used + 4095) & ~4095u;

	for (uint32_t at = 0; at < end; at++)
		for (unsigned bit = 0; bit < 8; bit++) {
			int good;

			batch[at] ^= (unsigned char)(1u << bit);
			good = read_all(batch, header.used);
			if (good != (at < table_end ? -1 : at < header.used ? FRAMES - 1 : FRAMES))
				ck_abort_msg("bit %u of byte %u: %d frames", bit, at, good);
			batch[at] ^= (unsigned char)(1u << bit);
		}
	ck_assert_int_eq(read_all(batch, header.used), FRAMES);
}
END_TEST

/* A header that is honest about its damage: the checksum is no protection
   against purpose, the tags are. */
START_TEST(test_forged_headers)
{
	for (uint32_t at = 0; at < sealed_table_end(&header); at++) {
		uint32_t crc = 0;

		if (at >= 20 && at < 24)
			continue;
		memcpy(copy, batch, header.used);
		copy[at] ^= 1;
		memcpy(copy + 20, &crc, 4);
		crc = crc32c(0, copy, sealed_table_end(&header));
		memcpy(copy + 20, &crc, 4);
		if (read_all(copy, header.used) != -1)
			ck_abort_msg("byte %u", at);
	}
}
END_TEST

START_TEST(test_torn)
{
	for (uint32_t at = 0; at < header.used; at += 64) {
		memcpy(copy, batch, at);
		memset(copy + at, 0, header.used - at);
		ck_assert_int_lt(read_all(copy, header.used), FRAMES);
	}
}
END_TEST

START_TEST(test_exchanged)
{
	struct sealed_header other = header;
	unsigned char frame[256];

	/* a frame of the same segment at another place */
	ck_assert_int_eq(sealed_read_frame(seal, header.serial, 3 * SEALED_BATCH + frames[4].offset,
					   batch + frames[5].offset, frames[5].len, frame),
			 -EBADMSG);
	/* the same place of another segment */
	ck_assert_int_eq(sealed_read_frame(seal, header.serial + 1, 3 * SEALED_BATCH + frames[5].offset,
					   batch + frames[5].offset, frames[5].len, frame),
			 -EBADMSG);
	/* a batch that was moved to another place of its segment */
	other.batch = 4;
	ck_assert_int_eq(sealed_write(seal, &other, frames, FRAMES, copy), 0);
	ck_assert_int_eq(read_all(copy, header.used), -1);
	ck_assert_int_eq(read_all(batch, header.used), FRAMES);
}
END_TEST

START_TEST(test_keys)
{
	struct seal_key a, b;
	struct seal *other;

	ck_assert_int_eq(seal_key_make(&a, NULL, 0), 0);
	ck_assert_int_eq(seal_key_make(&b, NULL, 0), 0);
	ck_assert_mem_ne(a.key, b.key, SEAL_KEY);
	/* of one secret, but of two boots */
	ck_assert_int_eq(seal_key_make(&a, "0123456789abcdef", 16), 0);
	ck_assert_int_eq(seal_key_make(&b, "0123456789abcdef", 16), 0);
	ck_assert_mem_ne(a.id, b.id, SEAL_ID);
	ck_assert_mem_ne(a.key, b.key, SEAL_KEY);
	/* and again, by its id */
	ck_assert_int_eq(seal_key_derive(&b, "0123456789abcdef", 16, a.id), 0);
	ck_assert_mem_eq(a.key, b.key, SEAL_KEY);
	other = seal_new(&a);
	ck_assert_int_eq(sealed_read_table(other, seal_key_of(other), batch, &header, copy), -EBADMSG);
	seal_free(other);
}
END_TEST

/* Random batches, up to the largest number of frames and the largest frame. */
START_TEST(test_random_batches)
{
	static struct sealed_frame f[SEALED_RECORDS_MAX];
	unsigned char *bytes = malloc(SEALED_BATCH), *table = malloc(SEALED_RECORDS_MAX * SEALED_RECORD);
	unsigned char frame[SEALED_FRAME_MAX];
	unsigned seed = 1;

	for (uint32_t i = 0; i < SEALED_BATCH; i++)
		bytes[i] = (unsigned char)rand_r(&seed);
	for (unsigned round = 0; round < 40; round++) {
		struct sealed_header h = { .batch = round % 16, .serial = round };
		uint32_t n = 0, sum = 0, most = round == 0 ? 1 : 1 + (uint32_t)rand_r(&seed) % SEALED_FRAME_MAX;

		for (;;) {
			uint32_t len = round == 0 ? 1 : 1 + (uint32_t)rand_r(&seed) % most;

			if (n == SEALED_RECORDS_MAX || sealed_size(n + 1, sum + len) > SEALED_BATCH)
				break;
			f[n] = (struct sealed_frame){ .hash = n, .id = n + 1, .kind = 1,
						      .len = (uint16_t)len, .bytes = bytes + sum };
			sum += len;
			n++;
		}
		ck_assert(round || n == SEALED_RECORDS_MAX);
		ck_assert_int_eq(sealed_write(seal, &h, f, n, batch), 0);
		ck_assert_int_eq(sealed_read_header(batch, h.used, &h), 0);
		ck_assert_uint_eq(h.nr_records, n);
		ck_assert_int_eq(sealed_read_table(seal, seal_key_of(seal), batch, &h, table), 0);
		for (uint32_t i = 0; i < n; i += 1 + n / 50) {
			struct sealed_record r;

			sealed_get_record(table, i, &r);
			ck_assert_int_eq(sealed_read_frame(seal, h.serial, h.batch * SEALED_BATCH + r.offset,
							   batch + r.offset, r.len, frame),
					 0);
			ck_assert_mem_eq(frame, f[i].bytes, r.len);
		}
	}
	free(bytes);
	free(table);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("sealed");
	TCase *tc = tcase_create("sealed");
	SRunner *runner;
	int failures;

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, test_crc32c);
	tcase_add_test(tc, test_write_and_read);
	tcase_add_test(tc, test_nothing_is_seen);
	tcase_add_test(tc, test_golden);
	tcase_add_test(tc, test_INV_7_every_flip_is_caught);
	tcase_add_test(tc, test_forged_headers);
	tcase_add_test(tc, test_torn);
	tcase_add_test(tc, test_exchanged);
	tcase_add_test(tc, test_keys);
	tcase_add_test(tc, test_random_batches);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	failures = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
