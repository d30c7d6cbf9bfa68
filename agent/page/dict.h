/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Dictionaries: what the pages of alike processes have in common, trained from
 * some of them (page contents, so a dictionary never leaves the trust domain
 * it comes from), for zstd to refer to.
 *
 * The contents stand in kept memory (common/kept.h): a worker that takes the
 * place of one that has died finds all of them under their numbers, which is
 * what blobs name them by. Everything else is made again from that, and their
 * uses are counted anew by who counts the blobs.
 *
 * What it takes to decompress is there from the start, since a fault can't wait
 * for it. What it takes to compress, more than half as much again, is made when
 * somebody packs and goes when nobody has for a while.
 *
 * Life: dict_new gives one use; a dictionary whose last use is gone is freed by
 * its owner when no reader can be in the middle of decompressing any more.
 *
 * Threads: dict_use, dict_unuse and dict_at are for any thread that holds a
 * use or may rely on somebody else's; the others under the owner's lock.
 */
#ifndef USWAP_PAGE_DICT_H
#define USWAP_PAGE_DICT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DICT_BYTES ((size_t)16 << 10)
#define DICT_MAX 504u
/* Pages to train from, and to test with. Far apart, which counts: four times as many of
   the same stretch gain 0.2 %, for four times the time. */
#define DICT_SAMPLES 160u

struct dict {
	/* zstd's own */
	struct ZSTD_DDict_s *unpack;		  /* constant while used */
	struct ZSTD_CDict_s *pack;		  /* constant between dict_pack_begin and _end */
	_Atomic(struct ZSTD_CDict_s *) pack_fast; /* NULL until somebody was in a hurry */
	_Atomic uint32_t uses;
	_Atomic uint32_t packers;
	bool idle; /* none since dict_rest looked */
};

struct dict_table;

/* level: of the frames made with them. NULL and errno. */
struct dict_table *dict_table_new(int level);
struct dict_table *dict_table_free(struct dict_table *table);

/* Trains one from n pages that lie one after another. Its size, at most
   DICT_BYTES, or 0 when they have nothing in common (or ENOMEM). Takes some
   100 ms. Any thread. */
size_t dict_train(void *content, const void *pages, unsigned n);
/* Its number, with one use, or -ENOSPC or -ENOMEM; -EBADMSG: it is none. */
int dict_new(struct dict_table *table, const void *content, size_t size);
/* What it is made of; NULL: there is none of that number. For who holds a use. */
const void *dict_content(const struct dict_table *table, unsigned number, size_t *size);
/* NULL: there is none of that number. */
const struct dict *dict_at(const struct dict_table *table, unsigned number);
void dict_use(struct dict_table *table, unsigned number);
void dict_unuse(struct dict_table *table, unsigned number);
/* To compress with it, in a hurry (codec_set_hurry) too: a use of it, until
   dict_pack_end, which any thread may call. False: no memory. */
bool dict_pack_begin(struct dict_table *table, unsigned number, bool hurry);
void dict_pack_end(struct dict_table *table, unsigned number);
/* Frees what those need for compressing that nobody has packed with since the call
   before. */
void dict_rest(struct dict_table *table);
/* The same for a harder level: out->pack, for one thread, while the dictionary is
   used. False: no memory. */
bool dict_harder(const struct dict_table *table, unsigned number, int level, struct dict *out);
void dict_harder_free(struct dict *dict);
/* The lowest number from `from` on that nobody uses, or -1. Those are to be
   freed. */
int dict_next_unused(const struct dict_table *table, unsigned from);
void dict_free(struct dict_table *table, unsigned number);

unsigned dict_count(const struct dict_table *table);
size_t dict_table_bytes(const struct dict_table *table); /* memory it takes */

#endif
