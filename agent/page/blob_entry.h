/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The inside of the blob table, for blob*.c alone. */
#ifndef USWAP_PAGE_BLOB_ENTRY_H
#define USWAP_PAGE_BLOB_ENTRY_H

#include <stdatomic.h>
#include <stdint.h>
#include <sys/mman.h>

struct blob_entry {
	/* References; with BLOB_DEAD set, the rest is the next dead id. */
	_Atomic uint32_t refs;
	uint32_t chain; /* in the index; in a group's list of free entries */
	_Atomic uint64_t loc;
	uint64_t hash; /* written before the first reference is given out */
};
_Static_assert(sizeof(struct blob_entry) == 24, "24 bytes a blob");

#define BLOB_DEAD (1u << 31)

/* Anonymous memory of which only what is touched counts; NULL and errno. */
static inline void *blob_reserve(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	madvise(p, bytes, MADV_DONTDUMP);
	return p;
}

#endif
