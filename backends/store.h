/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A store carries segments: STORE_SEGMENT bytes, written once at explicit
 * offsets, read by range, freed whole. It knows nothing of pages, blobs or
 * processes. Every call goes through the store_*() wrapper, which checks
 * arguments and states (an offset is written at most once, a freed segment is
 * never touched) and counts; backends implement struct store_ops.
 *
 * Threads: any, concurrently; a segment is written by one thread at a time.
 * Errors are negative errno, forwarded unchanged: -ENOSPC full, -EIO, ...
 */
#ifndef USWAP_BACKENDS_STORE_H
#define USWAP_BACKENDS_STORE_H

#include <stddef.h>
#include <stdint.h>

#define STORE_SEGMENT ((size_t)4 << 20)
#define STORE_SEGMENTS_MAX ((uint32_t)1 << 20) /* 4 TiB a store */

struct store;

struct store_stats {
	uint64_t capacity_bytes; /* whole segments the store may hold */
	uint64_t used_bytes;	 /* memory or disk really taken */
	uint64_t segments;
	uint64_t written_bytes_total;
	uint64_t read_bytes_total;
	uint64_t errors_total;
};

struct store_ops {
	const char *name;
	int (*segment_new)(void *self, uint32_t *segment); /* 0, -ENOSPC, ... */
	int (*write)(void *self, uint32_t segment, size_t offset, const void *buf, size_t len);
	int (*read)(void *self, uint32_t segment, size_t offset, void *buf, size_t len);
	/* Memory stores only, else NULL: where the bytes are. The address stays
	   mapped for the store's life; after segment_free it reads as zeros. */
	const void *(*map)(void *self, uint32_t segment, size_t offset, size_t len);
	void (*segment_free)(void *self, uint32_t segment);
	uint64_t (*used_bytes)(void *self);
	void (*destroy)(void *self);
};

/* Memory: segments in one memfd of at most max_bytes (rounded down to whole
   segments, at least one). NULL and errno. */
struct store *store_memory_new(uint64_t max_bytes);

/*
 * From a configuration value, "memory:SIZE" (SIZE as in uswap.conf(5)); NULL,
 * and *error a message for people that names the bad part (static or to be
 * freed by nobody), when it can't be.
 */
struct store *store_open(const char *spec, const char **error);
struct store *store_close(struct store *store);

int store_segment_new(struct store *store, uint32_t *segment);
int store_write(struct store *store, uint32_t segment, size_t offset, const void *buf, size_t len);
int store_read(struct store *store, uint32_t segment, size_t offset, void *buf, size_t len);
const void *store_map(struct store *store, uint32_t segment, size_t offset, size_t len);
void store_segment_free(struct store *store, uint32_t segment);
void store_get_stats(struct store *store, struct store_stats *stats);
const char *store_name(const struct store *store);

/* Only for backends. capacity in segments. */
struct store *store_new(const struct store_ops *ops, void *self, uint32_t capacity);

#endif
