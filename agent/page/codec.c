/* SPDX-License-Identifier: GPL-2.0-or-later */
#define ZSTD_STATIC_LINKING_ONLY
#include <zstd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "page/codec.h"

#include <errno.h>
#include <string.h>

#include "common/util.h"

/* Both contexts live in memory of ours: zstd then never allocates, which is
   what lets a fault thread decompress while memory is short. */
struct codec {
	ZSTD_CCtx *cctx;
	ZSTD_DCtx *dctx;
	void *cmem;
	void *dmem;
};

/* Two bytes of header: no content size, checksum or dictionary (0), and the
   window. Then blocks. */
#define CACHE_LINE 64
#define FRAME_HEADER 2
#define BLOCK_HEADER 3
enum block_type { BLOCK_RAW, BLOCK_RLE, BLOCK_COMPRESSED, BLOCK_RESERVED };

static ZSTD_CCtx_params *params_new(int level)
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
	/* Sizes the tables (and the estimate) for one page. */
	if (!ZSTD_isError(r))
		r = ZSTD_CCtxParams_setParameter(params, ZSTD_c_srcSizeHint, PAGE_BYTES);
	if (!ZSTD_isError(r))
		return params;
	ZSTD_freeCCtxParams(params);
	return NULL;
}

static bool compressor_init(struct codec *codec, int level)
{
	ZSTD_CCtx_params *params = params_new(level);
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

/* A page there and back: faults in the tables, and proves the estimate. */
static bool warm_up(struct codec *codec)
{
	_cleanup_free_ unsigned char *page = malloc(2 * PAGE_BYTES);
	size_t len;

	if (!page)
		return false;
	for (size_t i = 0; i < PAGE_BYTES; i++)
		page[i] = (unsigned char)(i % 61 * (i >> 9));
	len = codec_compress(codec, page + PAGE_BYTES, PAGE_BYTES, page);
	return len && !codec_decompress(codec, page, page + PAGE_BYTES, len);
}

struct codec *codec_new(int level)
{
	struct codec *codec = calloc(1, sizeof(*codec));

	if (!codec)
		return NULL;
	if (compressor_init(codec, level) && decompressor_init(codec) && warm_up(codec))
		return codec;
	return codec_free(codec);
}

struct codec *codec_free(struct codec *codec)
{
	if (!codec)
		return NULL;
	/* static contexts have nothing of their own to free */
	free(codec->cmem);
	free(codec->dmem);
	free(codec);
	return NULL;
}

size_t codec_compress(struct codec *codec, void *dst, size_t cap, const void *page)
{
	size_t len = ZSTD_compress2(codec->cctx, dst, cap, page, PAGE_BYTES);

	return ZSTD_isError(len) ? 0 : len;
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

int codec_decompress(struct codec *codec, void *page, const void *src, size_t len)
{
	/* It was put away long ago: fetch its lines together, not one by one. */
	for (size_t at = 0; at < len; at += CACHE_LINE)
		__builtin_prefetch((const char *)src + at);
	if (!is_one_frame(src, len))
		return -EBADMSG;
	if (ZSTD_decompressDCtx(codec->dctx, page, PAGE_BYTES, src, len) != PAGE_BYTES)
		return -EBADMSG;
	return 0;
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

uint64_t page_hash(const void *page, uint64_t seed)
{
	return XXH3_64bits_withSeed(page, PAGE_BYTES, seed);
}
