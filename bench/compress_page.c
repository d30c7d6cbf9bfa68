/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * compress_page LEVEL [MIB [IMAGE]]: CPU time of zstd alone on the pages of
 * evicted_fault, the yardstick for what an eviction and a restore cost on this
 * machine: by themselves, and with a dictionary that was trained on some of them.
 * Prints "COMPRESS DECOMPRESS RATIO", nanoseconds a page and bytes in per 1000
 * bytes out, for the one and then for the other.
 */
#include "touch.h"

#include <zdict.h>
#include <zstd.h>

#define ROUNDS 5
#define DICT_SIZE ((size_t)16 << 10)
#define SAMPLES 512u

struct bare {
	ZSTD_CCtx *pack;
	ZSTD_DCtx *unpack;
	ZSTD_CDict *pack_dict; /* NULL: none */
	ZSTD_DDict *unpack_dict;
	size_t pages, room, *size;
	unsigned char *in, *out;
	int level;
};

static size_t compress_all(struct bare *b)
{
	size_t total = 0, i;

	for (i = 0; i < b->pages; i++) {
		void *to = b->out + i * b->room;
		const void *from = b->in + i * WL_PAGE;

		b->size[i] = b->pack_dict ?
				     ZSTD_compress_usingCDict(b->pack, to, b->room, from, WL_PAGE, b->pack_dict) :
				     ZSTD_compressCCtx(b->pack, to, b->room, from, WL_PAGE, b->level);
		WL_CHECK(!ZSTD_isError(b->size[i]), "zstd");
		total += b->size[i];
	}
	return total;
}

static void decompress_all(struct bare *b)
{
	unsigned char page[CONTENT_PAGE];
	size_t i;

	for (i = 0; i < b->pages; i++)
		WL_CHECK(ZSTD_decompress_usingDDict(b->unpack, page, WL_PAGE, b->out + i * b->room,
						    b->size[i], b->unpack_dict) == WL_PAGE, "zstd");
}

static void measure(struct bare *b)
{
	uint64_t in_ns[ROUNDS], out_ns[ROUNDS];
	size_t total = 0, round;

	for (round = 0; round < ROUNDS; round++) {
		in_ns[round] = touch_cpu();
		total = compress_all(b);
		in_ns[round] = (touch_cpu() - in_ns[round]) / b->pages;
		out_ns[round] = touch_cpu();
		decompress_all(b);
		out_ns[round] = (touch_cpu() - out_ns[round]) / b->pages;
	}
	qsort(in_ns, ROUNDS, sizeof(*in_ns), touch_compare);
	qsort(out_ns, ROUNDS, sizeof(*out_ns), touch_compare);
	printf("%llu %llu %llu\n", (unsigned long long)in_ns[ROUNDS / 2],
	       (unsigned long long)out_ns[ROUNDS / 2],
	       (unsigned long long)(b->pages * WL_PAGE * 1000 / total));
}

static void train(struct bare *b)
{
	size_t sizes[SAMPLES], n = b->pages < SAMPLES ? b->pages : SAMPLES, size, i;
	unsigned char *samples = malloc(n * WL_PAGE);
	static unsigned char dict[DICT_SIZE];

	WL_CHECK(samples, "malloc");
	for (i = 0; i < n; i++) {
		memcpy(samples + i * WL_PAGE, b->in + i * (b->pages / n) * WL_PAGE, WL_PAGE);
		sizes[i] = WL_PAGE;
	}
	size = ZDICT_trainFromBuffer(dict, sizeof(dict), samples, sizes, (unsigned)n);
	free(samples);
	WL_CHECK(!ZDICT_isError(size), "no dictionary");
	b->pack_dict = ZSTD_createCDict(dict, size, b->level);
	b->unpack_dict = ZSTD_createDDict(dict, size);
	WL_CHECK(b->pack_dict && b->unpack_dict, "zstd");
}

int main(int argc, char **argv)
{
	struct bare b = {
		.pack = ZSTD_createCCtx(),
		.unpack = ZSTD_createDCtx(),
		.room = ZSTD_compressBound(CONTENT_PAGE),
		.level = (int)wl_arg(argc, argv, 1, 1),
		.pages = (size_t)(wl_arg(argc, argv, 2, 16) * 256),
	};
	size_t i;

	if (argc > 3)
		touch_load(argv[3]);
	b.in = malloc(b.pages * WL_PAGE);
	b.out = malloc(b.pages * b.room);
	b.size = calloc(b.pages, sizeof(*b.size));
	WL_CHECK(b.pages && b.pack && b.unpack && b.in && b.out && b.size, "malloc");
	for (i = 0; i < b.pages; i++)
		touch_content(b.in + i * WL_PAGE, i);
	measure(&b);
	train(&b);
	measure(&b);
	ZSTD_freeCDict(b.pack_dict);
	ZSTD_freeDDict(b.unpack_dict);
	ZSTD_freeCCtx(b.pack);
	ZSTD_freeDCtx(b.unpack);
	free(b.in);
	free(b.out);
	free(b.size);
	return 0;
}
