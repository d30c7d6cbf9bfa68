/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The codec: every page comes back, no frame does harm. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/util.h"
#include "page/codec.h"
#include "page/dict.h"

static struct codec *codec;
static unsigned seed;

static void setup(void)
{
	codec = codec_new(1);
	ck_assert_ptr_nonnull(codec);
	seed = 1;
}

static void teardown(void)
{
	codec = codec_free(codec);
}

static void randomise(void *buf, size_t len)
{
	unsigned char *p = buf;

	for (size_t i = 0; i < len; i++)
		p[i] = (unsigned char)(rand_r(&seed) >> 8);
}

static void text(char *page)
{
	size_t at = 0;

	while (at + 64 < PAGE_BYTES)
		at += (size_t)sprintf(page + at, "line %zu of some text, no. %d\n", at,
				      rand_r(&seed) % 1000);
	memset(page + at, ' ', PAGE_BYTES - at);
}

/* Pages of a real program: this one. */
static void *exe_pages(size_t *count)
{
	_cleanup_close_ int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	static unsigned char pages[64 * 4096];
	ssize_t got = read(fd, pages, sizeof(pages));

	ck_assert_int_gt(got, 2 * (ssize_t)PAGE_BYTES);
	*count = (size_t)got / PAGE_BYTES;
	return pages;
}

/* No repeats, but sixteen different bytes. */
static void hex(unsigned char *page)
{
	for (size_t i = 0; i < PAGE_BYTES; i++)
		page[i] = (unsigned char)"0123456789abcdef"[rand_r(&seed) >> 8 & 15];
}

static void round_trip(struct codec *c, const void *page)
{
	unsigned char frame[2 * PAGE_BYTES], back[PAGE_BYTES];
	size_t len = codec_compress(c, frame, sizeof(frame), page);

	ck_assert_uint_gt(len, 0);
	ck_assert_uint_lt(len, PAGE_BYTES + 64);
	memset(back, 0xa5, sizeof(back));
	ck_assert_int_eq(codec_decompress(c, back, frame, len), 0);
	ck_assert_mem_eq(back, page, PAGE_BYTES);
}

START_TEST(test_INV_7_round_trip)
{
	static const int levels[] = { -100, -1, 1, 3, 9, 22, 1000 };
	char page[PAGE_BYTES];
	size_t count;
	const char *exe = exe_pages(&count);

	for (size_t i = 0; i < ARRAY_SIZE(levels); i++) {
		struct codec *c = codec_new(levels[i]);

		ck_assert_ptr_nonnull(c);
		for (size_t p = 0; p < count; p++)
			round_trip(c, exe + p * PAGE_BYTES);
		for (unsigned n = 0; n < 50; n++) {
			text(page);
			round_trip(c, page);
			randomise(page, sizeof(page));
			round_trip(c, page);
			memset(page, 0, sizeof(page) - n * 3);
			round_trip(c, page);
		}
		codec_free(c);
	}
}
END_TEST

/* In a hurry frames are other ones, with a dictionary and without, and read by
   whoever knows nothing of it. */
START_TEST(test_INV_7_hurry)
{
	static unsigned char pages[DICT_SAMPLES * 4096], content[DICT_BYTES];
	unsigned char frame[4][PAGE_BYTES], back[PAGE_BYTES];
	struct dict_table *table = dict_table_new(1);
	const struct dict *dict;
	size_t len[4], bytes;
	int number;

	for (size_t i = 0; i < DICT_SAMPLES; i++)
		text((char *)pages + i * PAGE_BYTES);
	number = dict_new(table, content, dict_train(content, pages, DICT_SAMPLES));
	ck_assert_int_ge(number, 0);
	dict = dict_at(table, (unsigned)number);
	ck_assert(dict_pack_begin(table, (unsigned)number, true));
	for (size_t i = 0; i < 4; i++) {
		codec_set_hurry(codec, i & 1);
		len[i] = i & 2 ? codec_compress_dict(codec, dict, frame[i], PAGE_BYTES, pages) :
				 codec_compress(codec, frame[i], PAGE_BYTES, pages);
		ck_assert_uint_gt(len[i], 0);
		ck_assert_int_eq(i & 2 ? codec_decompress_dict(codec, dict, back, frame[i], len[i]) :
					 codec_decompress(codec, back, frame[i], len[i]), 0);
		ck_assert_mem_eq(back, pages, PAGE_BYTES);
	}
	hex(back);
	ck_assert_uint_gt(codec_compress_dict(codec, dict, pages + PAGE_BYTES, PAGE_BYTES * 5 / 8, back), 0);
	codec_set_hurry(codec, false);
	ck_assert(len[0] != len[1] || memcmp(frame[0], frame[1], len[0]) != 0);
	ck_assert(len[2] != len[3] || memcmp(frame[2], frame[3], len[2]) != 0);
	/* What is packed with stays; what isn't goes, can be read with, and is made again. */
	bytes = dict_table_bytes(table);
	dict_rest(table);
	dict_rest(table);
	dict_pack_end(table, (unsigned)number);
	dict_rest(table);
	ck_assert_uint_eq(dict_table_bytes(table), bytes);
	dict_rest(table);
	ck_assert_uint_le(dict_table_bytes(table), 44 << 10);
	ck_assert_int_eq(codec_decompress_dict(codec, dict, back, frame[2], len[2]), 0);
	ck_assert_mem_eq(back, pages, PAGE_BYTES);
	ck_assert(dict_pack_begin(table, (unsigned)number, false));
	ck_assert_uint_eq(codec_compress_dict(codec, dict, frame[3], PAGE_BYTES, pages), len[2]);
	ck_assert_mem_eq(frame[3], frame[2], len[2]);
	dict_pack_end(table, (unsigned)number);
	dict_unuse(table, (unsigned)number);
	dict_free(table, (unsigned)number);
	dict_table_free(table);
}
END_TEST

START_TEST(test_cap)
{
	unsigned char frame[PAGE_BYTES + 1];
	char page[PAGE_BYTES];
	size_t len;

	randomise(page, sizeof(page));
	ck_assert_uint_eq(codec_compress(codec, frame, 2990, page), 0);
	text(page);
	len = codec_compress(codec, frame, PAGE_BYTES, page);
	ck_assert_uint_gt(len, 0);
	frame[len] = 0x77;
	ck_assert_uint_eq(codec_compress(codec, frame, len - 1, page), 0);
	ck_assert_uint_eq(codec_compress(codec, frame, 1, page), 0);
	ck_assert_uint_eq(codec_compress(codec, frame, 0, page), 0);
	ck_assert_uint_eq(frame[len], 0x77);
	/* and a failure leaves the codec usable */
	round_trip(codec, page);
}
END_TEST

/* The fast levels find that too; with a dictionary: test_INV_7_hurry. */
START_TEST(test_hex)
{
	unsigned char page[PAGE_BYTES], frame[PAGE_BYTES];

	for (int level = -1; level <= 1; level += 2) {
		struct codec *c = codec_new(level);

		codec_set_hurry(c, level > 0);
		hex(page);
		ck_assert_uint_gt(codec_compress(c, frame, PAGE_BYTES * 5 / 8, page), 0);
		round_trip(c, page);
		/* and what follows is made as before */
		randomise(page, sizeof(page));
		ck_assert_uint_eq(codec_compress(c, frame, 2990, page), 0);
		text((char *)page);
		round_trip(c, page);
		codec_free(c);
	}
}
END_TEST

/* A frame that finds no room must not leave its dictionary to the next one, which
   says that it was made with another or with none. */
START_TEST(test_INV_7_no_room_then_another_way)
{
	static unsigned char frame[2 * PAGE_BYTES], content[DICT_BYTES];
	static char pages[DICT_SAMPLES][PAGE_BYTES], page[PAGE_BYTES], back[PAGE_BYTES];
	struct dict_table *table = dict_table_new(1);
	const struct dict *dict;
	size_t len;

	for (unsigned i = 0; i < DICT_SAMPLES; i++)
		text(pages[i]);
	len = dict_train(content, pages, DICT_SAMPLES);
	ck_assert_uint_gt(len, 0);
	dict = dict_at(table, (unsigned)dict_new(table, content, len));
	ck_assert_ptr_nonnull(dict);
	ck_assert(dict_pack_begin(table, 0, false));
	for (unsigned i = 0; i < 64; i++) {
		text(page);
		ck_assert_uint_eq(codec_compress_dict(codec, dict, frame, 40, page), 0);
		len = codec_compress_delta(codec, pages[i], frame, sizeof(frame), page);
		ck_assert_uint_gt(len, 0);
		ck_assert_int_eq(codec_decompress_delta(codec, pages[i], back, frame, len), 0);
		ck_assert_mem_eq(back, page, PAGE_BYTES);
		ck_assert_uint_eq(codec_compress_dict(codec, dict, frame, 40, page), 0);
		round_trip(codec, page);
		ck_assert_uint_eq(codec_compress_delta(codec, pages[i], frame, 20, page), 0);
		len = codec_compress_dict(codec, dict, frame, sizeof(frame), page);
		ck_assert_uint_gt(len, 0);
		ck_assert_int_eq(codec_decompress_dict(codec, dict, back, frame, len), 0);
		ck_assert_mem_eq(back, page, PAGE_BYTES);
		ck_assert_uint_eq(codec_compress_delta(codec, pages[i], frame, 20, page), 0);
		round_trip(codec, page);
	}
	dict_table_free(table);
}
END_TEST

/* 0: the frame is a good one of a page, else -EBADMSG; nothing else, and
   nothing before or behind the page is written. */
static int hostile(const unsigned char *frame, size_t len)
{
	static unsigned char guarded[3 * 4096];
	unsigned char *copy = malloc(len + !len); /* of the exact size, for ASan */
	int r;

	memset(guarded, 0xa5, sizeof(guarded));
	memcpy(copy, frame, len);
	r = codec_decompress(codec, guarded + PAGE_BYTES, copy, len);
	free(copy);
	ck_assert(r == 0 || r == -EBADMSG);
	for (size_t i = 0; i < PAGE_BYTES; i++)
		if (guarded[i] != 0xa5 || guarded[2 * PAGE_BYTES + i] != 0xa5)
			ck_abort_msg("written outside the page");
	return r;
}

START_TEST(test_INV_7_truncated)
{
	unsigned char frame[PAGE_BYTES], page[PAGE_BYTES];
	size_t len;

	text((char *)page);
	len = codec_compress(codec, frame, sizeof(frame), page);
	for (size_t n = 0; n < len; n++)
		ck_assert_int_eq(hostile(frame, n), -EBADMSG);
	ck_assert_int_eq(hostile(frame, len), 0);
}
END_TEST

/* The input may end where the mapping does. */
START_TEST(test_INV_7_nothing_read_past_the_end)
{
	char *map = mmap(NULL, 2 * PAGE_BYTES, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned char frame[PAGE_BYTES], page[PAGE_BYTES];
	size_t len;

	ck_assert_int_eq(munmap(map + PAGE_BYTES, PAGE_BYTES), 0);
	text((char *)page);
	len = codec_compress(codec, frame, sizeof(frame), page);
	for (size_t n = 0; n <= len; n++) {
		char *at = map + PAGE_BYTES - n;

		memcpy(at, frame, n);
		ck_assert_int_eq(codec_decompress(codec, page, at, n), n == len ? 0 : -EBADMSG);
	}
	munmap(map, PAGE_BYTES);
}
END_TEST

START_TEST(test_INV_7_trailing)
{
	unsigned char frame[2 * PAGE_BYTES] = { 0 }, page[PAGE_BYTES];
	size_t len;

	text((char *)page);
	len = codec_compress(codec, frame, PAGE_BYTES, page);
	for (size_t n = 1; n < 16; n++)
		ck_assert_int_eq(hostile(frame, len + n), -EBADMSG);
	/* two frames are not one, whatever they add up to */
	memcpy(frame + len, frame, len);
	ck_assert_int_eq(hostile(frame, 2 * len), -EBADMSG);
}
END_TEST

/* Frames of half a page, of two, of none; and of another kind. */
START_TEST(test_INV_7_wrong_size)
{
	/* header, then one RLE block that is the last: length << 3 | 1 << 1 | 1 */
	static const unsigned sizes[] = { 0, 1, 2048, 4095, 4096, 4097, 8192, 131072 };
	unsigned char frame[2 + 3 + 1] = { 0, 0x10 };

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		unsigned head = sizes[i] << 3 | 1 << 1 | 1;

		frame[2] = (unsigned char)head;
		frame[3] = (unsigned char)(head >> 8);
		frame[4] = (unsigned char)(head >> 16);
		ck_assert_int_eq(hostile(frame, sizeof(frame)),
				 sizes[i] == PAGE_BYTES ? 0 : -EBADMSG);
	}
	ck_assert_int_eq(hostile((const unsigned char *)"\x28\xb5\x2f\xfd", 4), -EBADMSG);
}
END_TEST

START_TEST(test_INV_7_bit_flips_and_noise)
{
	unsigned char frame[PAGE_BYTES], page[PAGE_BYTES];
	size_t len, count;
	const unsigned char *exe = exe_pages(&count);

	for (size_t p = 0; p < MIN(count, (size_t)4); p++) {
		len = codec_compress(codec, frame, sizeof(frame), exe + p * PAGE_BYTES);
		for (size_t bit = 0; len && bit < len * 8; bit += p ? 7 : 1) {
			frame[bit / 8] ^= (unsigned char)(1 << bit % 8);
			hostile(frame, len);
			frame[bit / 8] ^= (unsigned char)(1 << bit % 8);
		}
	}
	for (unsigned n = 0; n < 5000; n++) {
		len = (size_t)rand_r(&seed) % sizeof(frame);
		randomise(frame, len);
		frame[0] = 0; /* else most are refused at once */
		hostile(frame, len);
	}
	text((char *)page);
	round_trip(codec, page);
}
END_TEST

START_TEST(test_same_filled)
{
	static const uint32_t patterns[] = { 0, 1, 0xffffffff, 0x01020304, 0x80000000 };
	unsigned char page[PAGE_BYTES];
	uint32_t pattern = 42;

	for (size_t i = 0; i < ARRAY_SIZE(patterns); i++) {
		page_fill(page, patterns[i]);
		ck_assert(page_same_filled(page, &pattern));
		ck_assert_uint_eq(pattern, patterns[i]);
		for (size_t at = 0; at < PAGE_BYTES; at++) {
			page[at] ^= 0x10;
			if (page_same_filled(page, &pattern))
				ck_abort_msg("byte %zu differs", at);
			page[at] ^= 0x10;
		}
	}
	/* repeats every 8 bytes, but not every 4 */
	for (size_t i = 0; i < PAGE_BYTES; i++)
		page[i] = i & 4 ? 1 : 2;
	ck_assert(!page_same_filled(page, &pattern));
}
END_TEST

/* ---- what is not tried, because it looks like noise ---- */

#define FRAME_ROOM 2990 /* BLOBSTORE_FRAME_MAX: longer ones are not kept */

struct refusals {
	unsigned wrong, of; /* pages that would have been kept */
};

static void see(struct refusals *r, const void *page)
{
	unsigned char frame[FRAME_ROOM];
	uint32_t pattern;

	if (page_same_filled(page, &pattern) || !codec_compress(codec, frame, sizeof(frame), page))
		return;
	r->of++;
	r->wrong += page_looks_random(page);
}

/* What this process has in memory: programs, libraries, heap, stack. */
static void see_memory(struct refusals *r)
{
	_cleanup_close_ int mem = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
	FILE *maps = fopen("/proc/self/maps", "re");
	unsigned long start, end, inode;
	char line[512], page[PAGE_BYTES];

	ck_assert(mem >= 0 && maps);
	while (fgets(line, sizeof(line), maps) && r->of < 20000) {
		bool named = sscanf(line, "%lx-%lx %*s %*s %*s %lu", &start, &end, &inode) == 3 &&
			     (inode || strstr(line, "[heap]") || strstr(line, "[stack]"));

		for (; named && start < end; start += PAGE_BYTES)
			if (pread(mem, page, sizeof(page), (off_t)start) == sizeof(page))
				see(r, page);
	}
	fclose(maps);
}

/* Records of `size` bytes: of each so much noise (a key, a digest), then an address, small
   numbers, and zeros or text. */
static void records(unsigned char *page, size_t size, size_t noise)
{
	size_t at = 0;

	text((char *)page);
	for (; at + size <= PAGE_BYTES; at += size) {
		uint64_t words[2] = { 0x7f3a12000000 + (uint64_t)rand_r(&seed) % (1 << 20) * 16, at / size };

		if (at / size & 1)
			memset(page + at, 0, size);
		randomise(page + at, noise);
		memcpy(page + at + noise, words, MIN(size - noise, sizeof(words)));
	}
}

/* Of 103,780 pages of redis, python and its forks, node, java, gcc and sqlite (bench/heap-images)
   that could be kept one was refused, a table of ascending bytes; here none was. The bound is
   one of a hundred. */
START_TEST(test_noise_is_told_from_heaps)
{
	static const size_t sizes[] = { 24, 48, 64, 96, 200, 512, 1024, 4096 };
	struct refusals memory = { 0 }, made = { 0 };
	unsigned char page[PAGE_BYTES];

	see_memory(&memory);
	ck_assert_uint_gt(memory.of, 200);
	ck_assert_uint_le(memory.wrong * 100, memory.of);
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++)
		for (size_t part = 0; part < 8; part++)
			for (unsigned n = 0; n < 30; n++) {
				records(page, sizes[i], sizes[i] * part / 16);
				see(&made, page);
			}
	ck_assert_uint_gt(made.of, 1000);
	ck_assert_uint_le(made.wrong * 100, made.of);
	for (unsigned n = 0; n < 100; n++) { /* and it is of use */
		randomise(page, sizeof(page));
		ck_assert(page_looks_random(page));
	}
}
END_TEST

START_TEST(test_hash)
{
	unsigned char page[PAGE_BYTES];
	uint64_t hash;

	randomise(page, sizeof(page));
	hash = page_hash(page, 1);
	ck_assert_uint_eq(page_hash(page, 1), hash);
	ck_assert_uint_ne(page_hash(page, 2), hash);
	for (size_t at = 0; at < PAGE_BYTES; at += 13) {
		page[at] ^= 1;
		ck_assert_uint_ne(page_hash(page, 1), hash);
		page[at] ^= 1;
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("codec");
	TCase *tc = tcase_create("codec");
	SRunner *runner;
	int failures;

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, test_INV_7_round_trip);
	tcase_add_test(tc, test_INV_7_hurry);
	tcase_add_test(tc, test_cap);
	tcase_add_test(tc, test_hex);
	tcase_add_test(tc, test_INV_7_no_room_then_another_way);
	tcase_add_test(tc, test_INV_7_truncated);
	tcase_add_test(tc, test_INV_7_nothing_read_past_the_end);
	tcase_add_test(tc, test_INV_7_trailing);
	tcase_add_test(tc, test_INV_7_wrong_size);
	tcase_add_test(tc, test_INV_7_bit_flips_and_noise);
	tcase_add_test(tc, test_same_filled);
	tcase_add_test(tc, test_noise_is_told_from_heaps);
	tcase_add_test(tc, test_hash);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	failures = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
