/* SPDX-License-Identifier: GPL-2.0-or-later */
#define ZSTD_STATIC_LINKING_ONLY
#include <zstd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "page/codec.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "common/util.h"
#include "page/dict.h"

/* Both contexts live in memory of ours: zstd then never allocates, which is
   what lets a fault thread decompress while memory is short. */
struct codec {
	ZSTD_CCtx *cctx;
	ZSTD_DCtx *dctx;
	void *cmem;
	void *dmem;
	ZSTD_CCtx *cluster_cctx; /* zstd's own; NULL until it is needed */
	void *cluster;
	int level;
	bool hurry;
};

/* Without a dictionary, in a hurry; with one, its own pack_fast. */
#define HURRY_LEVEL (-1)
/* zstd calls them ZSTD_lcm_ before 1.5.1, ZSTD_ps_ since. */
#define LITERALS_AUTO 0
#define LITERALS_HUFFMAN 1

/* Of clusters: their frames are read far more often than made. */
#define CLUSTER_LEVEL 3

/* What a page may refer to besides itself: sizes the compressor's tables. */
#define REACH (DICT_BYTES + PAGE_BYTES)

/* Two bytes of header: no content size, checksum or dictionary (0), and the
   window. Then blocks. */
#define CACHE_LINE 64
#define FRAME_HEADER 2
#define BLOCK_HEADER 3
enum block_type { BLOCK_RAW, BLOCK_RLE, BLOCK_COMPRESSED, BLOCK_RESERVED };

/* reach: what is compressed, and what that may refer to. */
static ZSTD_CCtx_params *params_new(int level, int reach)
{
	ZSTD_CCtx_params *params = ZSTD_createCCtxParams();
	size_t r;

	if (!params)
		return NULL;
	r = ZSTD_CCtxParams_init(params, MIN(MAX(level, ZSTD_minCLevel()), ZSTD_maxCLevel()));
	if (!ZSTD_isError(r))
		r = ZSTD_CCtxParams_setParameter(params, ZSTD_c_format, ZSTD_f_zstd1_magicless);
	if (!ZSTD_isError(r))
		r = ZSTD_CCtxParams_setParameter(params, ZSTD_c_contentSizeFlag, 0);
	if (!ZSTD_isError(r))
		r = ZSTD_CCtxParams_setParameter(params, ZSTD_c_checksumFlag, 0);
	if (!ZSTD_isError(r))
		r = ZSTD_CCtxParams_setParameter(params, ZSTD_c_dictIDFlag, 0);
	/* Sizes the estimate only: the size of what is compressed is known. */
	if (!ZSTD_isError(r))
		r = ZSTD_CCtxParams_setParameter(params, ZSTD_c_srcSizeHint, reach);
	if (!ZSTD_isError(r))
		return params;
	ZSTD_freeCCtxParams(params);
	return NULL;
}

static bool compressor_init(struct codec *codec, int level)
{
	ZSTD_CCtx_params *params = params_new(level, REACH);
	size_t size;
	bool ok = false;

	if (!params)
		return false;
	size = ZSTD_estimateCCtxSize_usingCCtxParams(params);
	if (!ZSTD_isError(size) && !posix_memalign(&codec->cmem, 64, size)) {
		codec->cctx = ZSTD_initStaticCCtx(codec->cmem, size);
		ok = codec->cctx && !ZSTD_isError(ZSTD_CCtx_setParametersUsingCCtxParams(
					    codec->cctx, params));
	}
	ZSTD_freeCCtxParams(params);
	return ok;
}

static bool decompressor_init(struct codec *codec)
{
	size_t size = ZSTD_estimateDCtxSize();

	if (posix_memalign(&codec->dmem, 64, size))
		return false;
	codec->dctx = ZSTD_initStaticDCtx(codec->dmem, size);
	return codec->dctx && !ZSTD_isError(ZSTD_DCtx_setParameter(codec->dctx, ZSTD_d_format,
								   ZSTD_f_zstd1_magicless));
}

/* A page there and back, alone and as a difference: faults in the tables, and
   proves the estimate. */
static bool warm_up(struct codec *codec)
{
	_cleanup_free_ unsigned char *page = malloc(3 * PAGE_BYTES);
	unsigned char *base = page + PAGE_BYTES, *frame = base + PAGE_BYTES;
	size_t len;

	if (!page)
		return false;
	for (size_t i = 0; i < PAGE_BYTES; i++) {
		page[i] = (unsigned char)(i % 61 * (i >> 9));
		base[i] = (unsigned char)(i % 59 * (i >> 9));
	}
	len = codec_compress(codec, frame, PAGE_BYTES, page);
	if (!len || codec_decompress(codec, page, frame, len))
		return false;
	len = codec_compress_delta(codec, base, frame, PAGE_BYTES, page);
	return len && !codec_decompress_delta(codec, base, page, frame, len);
}

struct codec *codec_new(int level)
{
	struct codec *codec = calloc(1, sizeof(*codec));

	if (!codec)
		return NULL;
	codec->level = level;
	codec->cluster = malloc(2 * CODEC_CLUSTER * PAGE_BYTES);
	if (codec->cluster && compressor_init(codec, level) && decompressor_init(codec) && warm_up(codec))
		return codec;
	return codec_free(codec);
}

static int level_now(const struct codec *codec)
{
	return codec->hurry ? MIN(codec->level, HURRY_LEVEL) : codec->level;
}

/* Valid values, between frames: zstd has nothing to refuse. */
static void set(struct codec *codec, ZSTD_cParameter parameter, int value)
{
	size_t r = ZSTD_CCtx_setParameter(codec->cctx, parameter, value);

	assert(!ZSTD_isError(r));
	(void)r;
}

void codec_set_hurry(struct codec *codec, bool hurry)
{
	if (hurry == codec->hurry)
		return;
	codec->hurry = hurry;
	set(codec, ZSTD_c_compressionLevel, level_now(codec));
}

bool codec_in_hurry(const struct codec *codec)
{
	return codec->hurry;
}

struct codec *codec_free(struct codec *codec)
{
	if (!codec)
		return NULL;
	ZSTD_freeCCtx(codec->cluster_cctx);
	free(codec->cluster);
	/* static contexts have nothing of their own to free */
	free(codec->cmem);
	free(codec->dmem);
	free(codec);
	return NULL;
}

static size_t compress(struct codec *codec, void *dst, size_t cap, const void *page)
{
	size_t len = ZSTD_compress2(codec->cctx, dst, cap, page, PAGE_BYTES);

	if (!ZSTD_isError(len))
		return len;
	/* A frame that found no room is still begun, and a context in that state
	   refuses to take another dictionary, prefix or level. */
	ZSTD_CCtx_reset(codec->cctx, ZSTD_reset_session_only);
	return 0;
}

/* Levels below 0 look for repeats alone. Text that has none (hex, base64) is written in
   few different bytes, and gets smaller by that. */
static size_t compress_fast(struct codec *codec, void *dst, size_t cap, const void *page)
{
	size_t len = compress(codec, dst, cap, page);

	if (len)
		return len;
	set(codec, ZSTD_c_literalCompressionMode, LITERALS_HUFFMAN);
	len = compress(codec, dst, cap, page);
	set(codec, ZSTD_c_literalCompressionMode, LITERALS_AUTO);
	return len;
}

size_t codec_compress(struct codec *codec, void *dst, size_t cap, const void *page)
{
	if (ZSTD_isError(ZSTD_CCtx_refCDict(codec->cctx, NULL)))
		return 0;
	return level_now(codec) < 0 ? compress_fast(codec, dst, cap, page) : compress(codec, dst, cap, page);
}

size_t codec_compress_dict(struct codec *codec, const struct dict *dict, void *dst, size_t cap,
			   const void *page)
{
	const ZSTD_CDict *fast = codec->hurry ? atomic_load_explicit(&dict->pack_fast, memory_order_acquire) :
						NULL;

	if (ZSTD_isError(ZSTD_CCtx_refCDict(codec->cctx, fast ? fast : dict->pack)))
		return 0;
	return fast ? compress_fast(codec, dst, cap, page) : compress(codec, dst, cap, page);
}

size_t codec_compress_delta(struct codec *codec, const void *base, void *dst, size_t cap,
			    const void *page)
{
	/* for one frame, instead of any other */
	if (ZSTD_isError(ZSTD_CCtx_refPrefix(codec->cctx, base, PAGE_BYTES)))
		return 0;
	return compress(codec, dst, cap, page);
}

bool codec_can_be_base(const void *page)
{
	uint32_t magic;

	/* zstd would take such a prefix for a trained dictionary when it
	   decompresses. */
	memcpy(&magic, page, sizeof(magic));
	return magic != ZSTD_MAGIC_DICTIONARY;
}

/*
 * Exactly one frame of the kind we write? zstd itself would go on into what
 * follows a frame, and look up to 3 bytes past the end of short input.
 */
static bool is_one_frame(const unsigned char *src, size_t len)
{
	size_t at = FRAME_HEADER;

	if (len < FRAME_HEADER || src[0] != 0)
		return false;
	while (len - at >= BLOCK_HEADER) {
		uint32_t head = src[at] | (uint32_t)src[at + 1] << 8 | (uint32_t)src[at + 2] << 16;
		enum block_type type = head >> 1 & 3;
		size_t body = type == BLOCK_RLE ? 1 : head >> 3;

		at += BLOCK_HEADER;
		if (type == BLOCK_RESERVED || body > len - at)
			return false;
		at += body;
		if (head & 1) /* the last block */
			return at == len;
	}
	return false;
}

static bool prepare(const void *src, size_t len)
{
	/* It was put away long ago: fetch its lines together, not one by one. */
	for (size_t at = 0; at < len; at += CACHE_LINE)
		__builtin_prefetch((const char *)src + at);
	return is_one_frame(src, len);
}

static int check_size(size_t size)
{
	return size == PAGE_BYTES ? 0 : -EBADMSG;
}

int codec_decompress(struct codec *codec, void *page, const void *src, size_t len)
{
	if (!prepare(src, len))
		return -EBADMSG;
	return check_size(ZSTD_decompress_usingDDict(codec->dctx, page, PAGE_BYTES, src, len, NULL));
}

int codec_decompress_dict(struct codec *codec, const struct dict *dict, void *page,
			  const void *src, size_t len)
{
	if (!prepare(src, len))
		return -EBADMSG;
	return check_size(ZSTD_decompress_usingDDict(codec->dctx, page, PAGE_BYTES, src, len,
						     dict->unpack));
}

int codec_decompress_delta(struct codec *codec, const void *base, void *page, const void *src,
			   size_t len)
{
	if (!prepare(src, len) || !codec_can_be_base(base))
		return -EBADMSG;
	/* Not by ZSTD_DCtx_refPrefix, which allocates. */
	return check_size(ZSTD_decompress_usingDict(codec->dctx, page, PAGE_BYTES, src, len, base,
						    PAGE_BYTES));
}

/* ---- clusters ---- */

static ZSTD_CCtx *cluster_compressor(void)
{
	ZSTD_CCtx_params *params = params_new(CLUSTER_LEVEL, CODEC_CLUSTER * PAGE_BYTES);
	ZSTD_CCtx *cctx = params ? ZSTD_createCCtx() : NULL;

	if (cctx && ZSTD_isError(ZSTD_CCtx_setParametersUsingCCtxParams(cctx, params))) {
		ZSTD_freeCCtx(cctx);
		cctx = NULL;
	}
	ZSTD_freeCCtxParams(params);
	return cctx;
}

size_t codec_compress_cluster(struct codec *codec, void *dst, size_t cap, const void *pages, unsigned nr)
{
	size_t len;

	assert(nr && nr <= CODEC_CLUSTER);
	if (!codec->cluster_cctx)
		codec->cluster_cctx = cluster_compressor();
	if (!codec->cluster_cctx)
		return 0;
	len = ZSTD_compress2(codec->cluster_cctx, dst, cap, pages, nr * PAGE_BYTES);
	if (!ZSTD_isError(len))
		return len;
	ZSTD_CCtx_reset(codec->cluster_cctx, ZSTD_reset_session_only);
	return 0;
}

int codec_decompress_cluster(struct codec *codec, void *pages, unsigned nr, const void *src, size_t len)
{
	size_t bytes = nr * PAGE_BYTES;

	if (!nr || nr > CODEC_CLUSTER || !prepare(src, len))
		return -EBADMSG;
	return ZSTD_decompress_usingDDict(codec->dctx, pages, bytes, src, len, NULL) == bytes ? 0 : -EBADMSG;
}

void *codec_cluster(const struct codec *codec)
{
	return codec->cluster;
}

bool page_same_filled(const void *page, uint32_t *pattern)
{
	uint32_t word[2];

	/* Equal to itself shifted by 8 bytes, and the first two words equal. */
	memcpy(word, page, sizeof(word));
	if (word[0] != word[1])
		return false;
	if (memcmp(page, (const char *)page + 8, PAGE_BYTES - 8))
		return false;
	*pattern = word[0];
	return true;
}

void page_fill(void *page, uint32_t pattern)
{
	uint64_t word = (uint64_t)pattern << 32 | pattern;
	char *to = page;

	for (size_t i = 0; i < PAGE_BYTES; i += sizeof(word))
		memcpy(to + i, &word, sizeof(word));
}

/*
 * How often the byte values of a part of the page occur, squared and summed:
 * n + n(n-1)/256 for noise on the average, some ten times that for heaps. The
 * part is eight runs, since a page may hold two things; not all of them at the same
 * place of 512 bytes, since records that begin with a key may be as long.
 */
#define PROBE_RUNS 8
#define PROBE_RUN 64
#define PROBE_BYTES (PROBE_RUNS * PROBE_RUN)
#define PROBE_NOISE (PROBE_BYTES + PROBE_BYTES * (PROBE_BYTES - 1) / 256)
#define PROBE_LIMIT (PROBE_NOISE * 9 / 8)

bool page_looks_random(const void *page)
{
	uint16_t count[256] = { 0 };
	unsigned sum = 0;

	/* The sum of squares, one by one: the n-th of its kind adds 2n - 1. It only
	   grows, so most pages need no more than a run or two. */
	for (size_t run = 0; run < PROBE_RUNS && sum < PROBE_LIMIT; run++) {
		const uint8_t *at = (const uint8_t *)page + run * (PAGE_BYTES / PROBE_RUNS) +
				    run * 5 % PROBE_RUNS * PROBE_RUN;

		for (size_t i = 0; i < PROBE_RUN; i++)
			sum += 2u * ++count[at[i]] - 1;
	}
	return sum < PROBE_LIMIT;
}

uint64_t page_hash(const void *page, uint64_t seed)
{
	return XXH3_64bits_withSeed(page, PAGE_BYTES, seed);
}
