/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The dedup index: blobs by hash, chained through their entries. Linear
 * hashing: it grows and shrinks by one bucket at a time, so no put ever waits
 * for a rehash, and costs 4 to 8 bytes a blob.
 *
 * Synchronization: the table owner's lock.
 */
#ifndef USWAP_PAGE_BLOB_INDEX_H
#define USWAP_PAGE_BLOB_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct blob_entry;

struct blob_index {
	uint32_t *buckets; /* max reserved; the first blob's id, 0: none */
	uint32_t max;
	uint32_t nr;
	uint32_t blobs;
	struct blob_entry *entries; /* the table's */
};

bool blob_index_init(struct blob_index *index, struct blob_entry *entries, uint32_t max);
void blob_index_deinit(struct blob_index *index);
/* The newest first: of two with one hash, the one more likely to be whole. */
void blob_index_add(struct blob_index *index, uint32_t id);
void blob_index_remove(struct blob_index *index, uint32_t id);
/* The first id with this hash after `after` (0: from the start), or 0. */
uint32_t blob_index_find(const struct blob_index *index, uint64_t hash, uint32_t after);
size_t blob_index_bytes(const struct blob_index *index);

#endif
