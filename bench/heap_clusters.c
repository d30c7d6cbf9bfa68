/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * heap_clusters IMAGE...: what frames of 16 pages (64 KiB) would be worth beside
 * frames of one page, for those pages of heap images (heap-images) that have all
 * their 15 neighbours: how much smaller, what a page takes when the whole cluster
 * is read in order, what a fault on one page of it takes, and what is held for
 * what lives after half of the pages came back at random, when a cluster goes
 * only with its last page. Processor time of this thread.
 */
#include "touch.h"

#include <zdict.h>
#include <zstd.h>

#define CLUSTER 16u
#define CLUSTER_BYTES (CLUSTER * WL_PAGE)
#define DICT_SIZE ((size_t)16 << 10)
#define SAMPLES 512u
#define ROUNDS 3

/* The same-filled pages of a cluster count as any other. */
static unsigned char *load(const char *path, size_t *clusters)
{
	int fd = (int)WL_OK(open(path, O_RDONLY | O_CLOEXEC));
	size_t size = (size_t)WL_OK(lseek(fd, 0, SEEK_END));
	const unsigned char *map = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0), *page;
	const uint64_t *vpn;
	unsigned char *to;
	uint64_t nr, i;

	WL_CHECK(map != MAP_FAILED && size > 16 && !memcmp(map, "USWAPIMG", 8), "not an image");
	memcpy(&nr, map + 8, sizeof(nr));
	WL_CHECK(size >= 16 + nr * (8 + WL_PAGE), "the image is too short");
	vpn = (const uint64_t *)(const void *)(map + 16);
	page = map + 16 + nr * 8;
	to = malloc(nr * WL_PAGE);
	WL_CHECK(to, "malloc");
	*clusters = 0;
	for (i = 0; i + CLUSTER <= nr; i++)
		if (vpn[i] % CLUSTER == 0 && vpn[i + CLUSTER - 1] == vpn[i] + CLUSTER - 1)
			memcpy(to + (*clusters)++ * CLUSTER_BYTES, page + i * WL_PAGE, CLUSTER_BYTES);
	close(fd);
	return to;
}

struct way {
	const char *name;
	size_t unit;
	int level;
	bool dict;
};

static const struct way ways[] = {
	{ "4K, dictionary, level 1", WL_PAGE, 1, true },
	{ "4K, dictionary, level 9", WL_PAGE, 9, true },
	{ "64K, level 1", CLUSTER_BYTES, 1, false },
	{ "64K, level 3", CLUSTER_BYTES, 3, false },
	{ "64K, level 9", CLUSTER_BYTES, 9, false },
	{ "64K, dictionary, level 9", CLUSTER_BYTES, 9, true },
};

static ZSTD_CCtx *pack;
static ZSTD_DCtx *unpack;
static unsigned char dict[DICT_SIZE];
static size_t dict_size;

static void train(const unsigned char *in, size_t pages)
{
	size_t sizes[SAMPLES], n = pages < SAMPLES ? pages : SAMPLES, i;
	unsigned char *samples = malloc(n * WL_PAGE);

	WL_CHECK(samples, "malloc");
	for (i = 0; i < n; i++) {
		memcpy(samples + i * WL_PAGE, in + i * (pages / n) * WL_PAGE, WL_PAGE);
		sizes[i] = WL_PAGE;
	}
	dict_size = ZDICT_trainFromBuffer(dict, sizeof(dict), samples, sizes, (unsigned)n);
	WL_CHECK(!ZDICT_isError(dict_size), "no dictionary");
	free(samples);
}

/* Garbage: half of the pages are gone, at random; a unit stays for one page. */
static double held_for_live(const size_t *size, size_t units, size_t per_unit)
{
	double held = 0, live = 0;
	size_t i, k, n;

	for (i = 0; i < units; i++) {
		for (k = 0, n = 0; k < per_unit; k++)
			n += wl_shuffled(i * per_unit + k, units * per_unit, 7) & 1;
		held += n ? (double)size[i] : 0;
		live += (double)size[i] * (double)n / (double)per_unit;
	}
	return live > 0 ? held / live : 0;
}

static void measure(const char *image, const struct way *w, const unsigned char *in, size_t bytes)
{
	size_t units = bytes / w->unit, room = ZSTD_compressBound(w->unit), total = 0, i;
	unsigned char *out = malloc(units * room);
	static unsigned char back[CLUSTER_BYTES];
	size_t *size = calloc(units, sizeof(*size));
	uint64_t in_ns = UINT64_MAX, out_ns = UINT64_MAX, t;
	ZSTD_CDict *cdict = w->dict ? ZSTD_createCDict(dict, dict_size, w->level) : NULL;
	ZSTD_DDict *ddict = w->dict ? ZSTD_createDDict(dict, dict_size) : NULL;
	unsigned round;

	WL_CHECK(out && size, "malloc");
	for (round = 0; round < ROUNDS; round++) {
		t = touch_cpu();
		for (i = 0, total = 0; i < units; i++) {
			size[i] = cdict ? ZSTD_compress_usingCDict(pack, out + i * room, room, in + i * w->unit,
								   w->unit, cdict) :
					  ZSTD_compressCCtx(pack, out + i * room, room, in + i * w->unit,
							    w->unit, w->level);
			WL_CHECK(!ZSTD_isError(size[i]), "zstd");
			total += size[i];
		}
		t = touch_cpu() - t;
		in_ns = t < in_ns ? t : in_ns;
		t = touch_cpu();
		for (i = 0; i < units; i++)
			WL_CHECK(ZSTD_decompress_usingDDict(unpack, back, sizeof(back), out + i * room, size[i],
							    ddict) == w->unit, "zstd");
		t = touch_cpu() - t;
		out_ns = t < out_ns ? t : out_ns;
	}
	printf("%-12s %-26s %7.2f %8.2f %9.2f %9.2f %9.2f\n", image, w->name, (double)bytes / (double)total,
	       (double)in_ns / 1000 / (double)(bytes / WL_PAGE),
	       (double)out_ns / 1000 / (double)(bytes / WL_PAGE), (double)out_ns / 1000 / (double)units,
	       held_for_live(size, units, w->unit / WL_PAGE));
	ZSTD_freeCDict(cdict);
	ZSTD_freeDDict(ddict);
	free(out);
	free(size);
}

int main(int argc, char **argv)
{
	int a;

	if (argc < 2) {
		fputs("usage: heap_clusters IMAGE...\n", stderr);
		return 2;
	}
	pack = ZSTD_createCCtx();
	unpack = ZSTD_createDCtx();
	WL_CHECK(pack && unpack, "zstd");
	printf("%-12s %-26s %7s %8s %9s %9s %9s\n", "heap", "", "ratio", "in us", "out us", "fault us", "held/live");
	for (a = 1; a < argc; a++) {
		const char *name = strrchr(argv[a], '/') ? strrchr(argv[a], '/') + 1 : argv[a];
		size_t clusters, i;
		unsigned char *in = load(argv[a], &clusters);

		train(in, clusters * CLUSTER);
		for (i = 0; i < sizeof(ways) / sizeof(ways[0]); i++)
			measure(name, &ways[i], in, clusters * CLUSTER_BYTES);
		free(in);
	}
	ZSTD_freeCCtx(pack);
	ZSTD_freeDCtx(unpack);
	return 0;
}
