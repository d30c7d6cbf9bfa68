/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * staging: the inactive list. Uncompressed copies of pages that have left
 * their process, in the agent's own memory (a kept file), each counted: by the
 * slots that name it (several after a fork) and by the pack thread while it
 * works on it.
 *
 * When a page has been packed while other slots still name its staging copy,
 * the copy becomes a forwarder: the index lives on, the bytes are in a blob.
 *
 * Threads: alloc and trim by the evict worker alone; page, ref, unref,
 * forward by anyone who holds a reference; tryref by anyone.
 */
#ifndef USWAP_PAGE_STAGING_H
#define USWAP_PAGE_STAGING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct staging;

/* NULL and errno. */
struct staging *staging_new(uint64_t max_bytes);
struct staging *staging_free(struct staging *st);

/* Up to n pages with one reference each; returns how many (fewer: full). */
unsigned staging_alloc(struct staging *st, uint32_t *index, unsigned n);
/* Pages that staging_alloc would give. */
unsigned staging_room(const struct staging *st);
void *staging_page(const struct staging *st, uint32_t index);
/* Changes with every reuse of the index; read it while holding a reference. */
uint32_t staging_generation(const struct staging *st, uint32_t index);
void staging_ref(struct staging *st, uint32_t index);
/* One more reference, if it is still the page of that generation. */
bool staging_tryref(struct staging *st, uint32_t index, uint32_t generation);
/* Gives a reference back. Returns the blob the page was forwarded to when it
   was the last one and there is one, else 0: that blob's reference is then the
   caller's. */
uint32_t staging_unref(struct staging *st, uint32_t index);
/* The bytes are in blob now (whose reference staging takes over); the page's
   memory is given back. Only by the owner thread of all slots that name it. */
void staging_forward(struct staging *st, uint32_t index, uint32_t blob);
/* It could not be packed, and nobody else will try: who names it takes it back.
   Until its last reference goes. As staging_forward(). */
void staging_leave(struct staging *st, uint32_t index);
bool staging_is_left(const struct staging *st, uint32_t index);
/* How many indices are left. */
uint32_t staging_left(const struct staging *st);
/* Somebody besides the caller holds a reference. */
bool staging_is_shared(const struct staging *st, uint32_t index);
/* How many indices are forwarders. */
uint32_t staging_forwarders(const struct staging *st);
/* For those who count: indices are below; the blob that one forwards to, 0 for
   those that don't or that nobody refers to. Any thread, any index. */
uint32_t staging_indices(const struct staging *st);
uint32_t staging_forwarder(const struct staging *st, uint32_t index);
uint32_t staging_forwarded(const struct staging *st, uint32_t index);

/*
 * After the death of the worker before: begin, then one ref for each slot that
 * names a page (and isn't a forwarder's: such a slot is to name the blob from
 * now on), then end, which makes all others free. begin returns how many indices
 * there are; ref returns how many references there are now, 0: it can't be. Pages
 * in transit must find room, however full it is.
 */
void staging_make_room(struct staging *st, unsigned n);
uint32_t staging_recover_begin(struct staging *st);
unsigned staging_recover_ref(struct staging *st, uint32_t index);
uint32_t staging_recover_blob(const struct staging *st, uint32_t index); /* forwarded to */
void staging_recover_end(struct staging *st);

/* Gives the memory of free pages back, all but `keep` of them. (Of the huge page that is
   used first, where there is one, only when none of it is in use.) */
void staging_trim(struct staging *st, unsigned keep);
uint64_t staging_used_bytes(const struct staging *st);	   /* pages in use */
uint64_t staging_resident_bytes(const struct staging *st); /* and those kept free */
uint64_t staging_max_bytes(const struct staging *st);

#endif
