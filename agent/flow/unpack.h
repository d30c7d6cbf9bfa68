/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * unpack: stored pages decompressed and checked ahead of their placing, by threads
 * that help the owner (engine/helpers.c). The owner puts pages that it will place
 * soon into a ring; it and the helpers take them from there one by one, whoever
 * comes first, so that work which no helper has begun is never waited for.
 *
 * Slots are not touched by this. A page in the ring has a reference to its blob, so
 * that the id goes on meaning the same bytes; the owner places them only if the
 * page's slot, at that moment, is still the very same (unpack_bytes). Whatever
 * happens to page, mapping or session meanwhile: the bytes become useless, no more.
 *
 * Threads: all is the owner's but where it says "any". Nothing here allocates or waits
 * once the ring is there (INV-2).
 */
#ifndef USWAP_FLOW_UNPACK_H
#define USWAP_FLOW_UNPACK_H

#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "flow/blobstore.h"
#include "page/slot.h"

struct owner;
struct session;
struct unpack;

#define UNPACK_PAGES 128u /* of a ring */

/* Where helpers sleep. */
struct unpack_pool {
	sem_t work;
	_Atomic unsigned asleep; /* ... and nobody has posted for yet */
	unsigned least;		 /* pages of a window that is worth it */
};

/* NULL on ENOMEM. */
struct unpack *unpack_new(void);
/* No helper uses it any more. */
struct unpack *unpack_free(struct unpack *u, struct blobstore *bs);

/*
 * So that pages from vpn on can be placed: takes pages of [vpn, end) into the ring,
 * and unpacks until `want` of them are ready, or nothing is left that nobody has begun,
 * or that has been enough for one turn (INV-2).
 * Those before vpn are given up. False: the ring is another reader's, or there is
 * none. reader: who reads in order; one at a time.
 */
bool unpack_ahead(struct owner *o, struct session *s, const void *reader, uint64_t vpn, uint64_t end,
		  unsigned want);
/* This page's bytes, if they are there and its slot is still what it was; NULL. Those
   of its neighbours lie beside them but where the ring begins again. */
char *unpack_bytes(const struct owner *o, const struct session *s, uint64_t vpn, slot_t slot);
/* ... or the place that is kept there for a page that was not to be unpacked. */
char *unpack_place(const struct owner *o, const struct session *s, uint64_t vpn, slot_t slot);
/* It was placed from there: counts. */
void unpack_used(struct owner *o, struct session *s, uint64_t vpn);
/* That reader, or all of that session's, reads no more. */
void unpack_drop(struct owner *o, const void *reader);
void unpack_forget(struct owner *o, const struct session *s);
/* Gives back what was dropped while a helper was at it. False: something is left. */
bool unpack_settle(struct owner *o);
void unpack_count(struct owner *o, struct blobstore_references *refs);

/* Any thread: takes the next pages of a ring: how many, from *position on. 0: there
   are none. They must be unpacked then. */
unsigned unpack_claim(struct unpack *u, uint64_t *position);
void unpack_claimed(struct unpack *u, uint64_t position, unsigned n, struct blobstore *bs, struct codec *codec,
		    bool helps);
bool unpack_is_wanted(struct unpack *u); /* there are some */
/* Both. False: there are none. */
bool unpack_work(struct unpack *u, struct blobstore *bs, struct codec *codec, bool helps);

/* Any: a helper that has found nothing in any ring sleeps: about_to_wait, another look, then
   wait, or don't_wait. */
void unpack_about_to_wait(struct unpack_pool *pool);
void unpack_dont_wait(struct unpack_pool *pool);
void unpack_wait(struct unpack_pool *pool);
/* ... all of them go on, n of them. */
void unpack_stop(struct unpack_pool *pool, unsigned n);

#endif
