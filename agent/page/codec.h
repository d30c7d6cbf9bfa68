/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * codec: a page's bytes made small and whole again, with zstd. Frames are
 * magicless, without content size, checksum or dictionary id: the blob table
 * knows all of that.
 *
 * One codec per thread, no locking. Nothing is allocated after codec_new, so
 * codec_decompress may be used on the fault path.
 */
#ifndef USWAP_PAGE_CODEC_H
#define USWAP_PAGE_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct codec;
struct dict; /* page/dict.h */

/* level: a zstd level, negative ones are the fast ones; for frames without a
   dictionary (that has its own). NULL on ENOMEM. */
struct codec *codec_new(int level);
struct codec *codec_free(struct codec *codec);
/* From the next frame on: the fast level, or the one it was made with. Frames are
   a fifth larger then, with a dictionary too, and take two thirds of the time. */
void codec_set_hurry(struct codec *codec, bool hurry);
bool codec_in_hurry(const struct codec *codec);

/* Bytes written to dst, or 0 when the page does not fit into cap (which is how
   an incompressible page shows). page: PAGE_BYTES. */
size_t codec_compress(struct codec *codec, void *dst, size_t cap, const void *page);
/* The same with a dictionary, or as the difference to a base page, which
   codec_can_be_base allows. Only the same one makes the page whole again. */
size_t codec_compress_dict(struct codec *codec, const struct dict *dict, void *dst, size_t cap,
			   const void *page);
size_t codec_compress_delta(struct codec *codec, const void *base, void *dst, size_t cap,
			    const void *page);
bool codec_can_be_base(const void *page);
/* 0, or -EBADMSG unless src is exactly one frame of one page. page is PAGE_BYTES
   and may have been written to in either case. Hostile src is harmless. */
int codec_decompress(struct codec *codec, void *page, const void *src, size_t len);
int codec_decompress_dict(struct codec *codec, const struct dict *dict, void *page,
			  const void *src, size_t len);
int codec_decompress_delta(struct codec *codec, const void *base, void *page, const void *src,
			   size_t len);

/*
 * Several pages that lie one after another, as one frame, by those who may wait
 * for memory. Where 0 comes back they don't fit into cap, or there is none.
 */
#define CODEC_CLUSTER 16u /* pages at most */
size_t codec_compress_cluster(struct codec *codec, void *dst, size_t cap, const void *pages, unsigned nr);
int codec_decompress_cluster(struct codec *codec, void *pages, unsigned nr, const void *src, size_t len);
/* Room for the pages of one, and behind it for its frame. Its owner's only. */
void *codec_cluster(const struct codec *codec);

/* The page repeats one 32-bit word: true, and the word. */
bool page_same_filled(const void *page, uint32_t *pattern);
void page_fill(void *page, uint32_t pattern);
/* A look at a part of the page: encrypted or compressed already, so that trying
   to compress it is in vain. False when in doubt. */
bool page_looks_random(const void *page);
/* XXH3, 64 bit, seeded (the seed keeps trust domains apart). */
uint64_t page_hash(const void *page, uint64_t seed);

#endif
