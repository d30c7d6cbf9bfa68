/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * compress_page LEVEL: CPU time of zstd alone on the pages of evicted_fault, the
 * yardstick for what an eviction costs on this machine. Prints "COMPRESS
 * DECOMPRESS RATIO": nanoseconds a page, and bytes in per 1000 bytes out.
 */
#include "touch.h"

#include <zstd.h>

#define PAGES 4096
#define ROUNDS 5

static uint64_t cpu_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int main(int argc, char **argv)
{
	int level = (int)wl_arg(argc, argv, 1, 1);
	ZSTD_CCtx *pack = ZSTD_createCCtx();
	ZSTD_DCtx *unpack = ZSTD_createDCtx();
	size_t room = ZSTD_compressBound(CONTENT_PAGE), total = 0, i, round;
	unsigned char *in = malloc(PAGES * WL_PAGE), *out = malloc(PAGES * room), page[CONTENT_PAGE];
	size_t *size = calloc(PAGES, sizeof(*size));
	uint64_t in_ns[ROUNDS], out_ns[ROUNDS];

	WL_CHECK(pack && unpack && in && out && size, "malloc");
	for (i = 0; i < PAGES; i++)
		touch_content(in + i * WL_PAGE, i);
	for (round = 0; round < ROUNDS; round++) {
		in_ns[round] = cpu_now();
		for (i = 0, total = 0; i < PAGES; i++) {
			size[i] = ZSTD_compressCCtx(pack, out + i * room, room, in + i * WL_PAGE,
						    WL_PAGE, level);
			WL_CHECK(!ZSTD_isError(size[i]), "zstd");
			total += size[i];
		}
		in_ns[round] = (cpu_now() - in_ns[round]) / PAGES;
		out_ns[round] = cpu_now();
		for (i = 0; i < PAGES; i++)
			WL_CHECK(ZSTD_decompressDCtx(unpack, page, WL_PAGE, out + i * room, size[i]) ==
					 WL_PAGE, "zstd");
		out_ns[round] = (cpu_now() - out_ns[round]) / PAGES;
	}
	qsort(in_ns, ROUNDS, sizeof(*in_ns), touch_compare);
	qsort(out_ns, ROUNDS, sizeof(*out_ns), touch_compare);
	printf("%llu %llu %llu\n", (unsigned long long)in_ns[ROUNDS / 2],
	       (unsigned long long)out_ns[ROUNDS / 2],
	       (unsigned long long)(PAGES * WL_PAGE * 1000 / total));
	ZSTD_freeCCtx(pack);
	ZSTD_freeDCtx(unpack);
	free(in);
	free(out);
	free(size);
	return 0;
}
