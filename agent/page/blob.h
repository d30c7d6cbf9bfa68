/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The table of blobs: 24 bytes for each distinct page we store. A blob's id is
 * its place in the table. It says where the bytes are (a segment and a range
 * in it), what they hash to, and how many refer to it.
 *
 * Life: blob_new gives one reference; the last blob_unref is final and puts
 * the entry on the list of the dead; the owner reaps it there (blob_next_dead),
 * does what its bytes need, and blob_free()s the id.
 *
 * Threads: blob_ref, blob_unref, blob_loc and blob_hash are for any thread that
 * holds a reference and take no lock (INV-2). The others are called under
 * the owner's lock, which fault threads never take.
 */
#ifndef USWAP_PAGE_BLOB_H
#define USWAP_PAGE_BLOB_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BLOB_ID_MAX ((uint32_t)INT32_MAX)

/* ---- a location: kind:9 | segment:20 | offset:22 | len:13, never 0 ---- */
enum blob_kind {
	BLOB_ZSTD = 1,	/* codec.h's frame of one page */
	BLOB_RAW = 2,	/* the page as it is */
	BLOB_DELTA = 3, /* the difference to another blob, which is none itself */
	BLOB_PART = 4,	/* one page of a frame of several; below */
	BLOB_DICT = 8,	/* plus the number of a dictionary (page/dict.h): made with it */
	BLOB_KINDS = 512,
};

#define BLOB_LEN_MAX ((1u << 13) - 1)
#define BLOB_SEGMENTS ((uint32_t)1 << 20)

static inline uint64_t blob_loc_make(unsigned kind, uint32_t segment, uint32_t offset,
				     uint32_t len)
{
	return (uint64_t)kind << 55 | (uint64_t)segment << 35 | (uint64_t)offset << 13 | len;
}

static inline unsigned blob_loc_kind(uint64_t loc)
{
	return (unsigned)(loc >> 55);
}

static inline uint32_t blob_loc_segment(uint64_t loc)
{
	return (uint32_t)(loc >> 35) & ((1u << 20) - 1);
}

static inline uint32_t blob_loc_offset(uint64_t loc)
{
	return (uint32_t)(loc >> 13) & ((1u << 22) - 1);
}

static inline uint32_t blob_loc_len(uint64_t loc)
{
	return (uint32_t)loc & BLOB_LEN_MAX;
}

/* Of a BLOB_PART, the offset is that of the frame it shares, and len is
   index:4 | its share of the frame's bytes:9, in words of 4. */
#define BLOB_PARTS_MAX 16u
#define BLOB_PART_BYTES_MAX (((1u << 9) - 1) * 4)

static inline uint64_t blob_part_loc(uint64_t frame, unsigned index, uint32_t bytes)
{
	return (frame & ~(uint64_t)BLOB_LEN_MAX) | (uint64_t)index << 9 | bytes / 4;
}

/* Equal for the parts of one frame, and for them alone. */
static inline uint64_t blob_part_frame(uint64_t loc)
{
	return loc & ~(uint64_t)BLOB_LEN_MAX;
}

static inline unsigned blob_part_index(uint64_t loc)
{
	return blob_loc_len(loc) >> 9;
}

static inline uint32_t blob_part_bytes(uint64_t loc)
{
	return (blob_loc_len(loc) & ((1u << 9) - 1)) * 4;
}

/* ---- the table ---- */
struct blob_table;

/* For ids up to max; address space only. In the kept file "blobs" (see below for
   one that is found). NULL and errno. */
struct blob_table *blob_table_new(uint32_t max);
struct blob_table *blob_table_free(struct blob_table *table);

/* Any thread that holds a reference. */
void blob_ref(struct blob_table *table, uint32_t id);
void blob_unref(struct blob_table *table, uint32_t id);
uint32_t blob_refs(const struct blob_table *table, uint32_t id);
uint64_t blob_loc(const struct blob_table *table, uint32_t id);
uint64_t blob_hash(const struct blob_table *table, uint32_t id);

/* Under the owner's lock. */

/* A place without a blob yet, or 0 when the table is full. It becomes one, with
   one reference and found by its hash, by blob_publish, or goes back by
   blob_free. */
uint32_t blob_new(struct blob_table *table);
void blob_publish(struct blob_table *table, uint32_t id, uint64_t hash, uint64_t loc);
/* Candidates of one hash, after `after` (0: from the start); 0: no more. Those
   found may be dead. */
uint32_t blob_find(const struct blob_table *table, uint64_t hash, uint32_t after);
/* False for a dead one: its last reference went, and that is final. */
bool blob_ref_unless_dead(struct blob_table *table, uint32_t id);
bool blob_is_dead(const struct blob_table *table, uint32_t id);
/* Of any id, so that what a segment says about itself can be checked; 0 where
   there is no blob. */
uint64_t blob_loc_of_any(const struct blob_table *table, uint32_t id);
/* The bytes are at loc now as well as where they were. */
void blob_move(struct blob_table *table, uint32_t id, uint64_t loc);
/* One dead blob, taken off the list but still in the table; 0: none. */
uint32_t blob_next_dead(struct blob_table *table);
void blob_free(struct blob_table *table, uint32_t id);

/*
 * After the death of the worker before (a table of a kept file that was found):
 * begin; one ref for each slot that names a blob (how many it has now, 0: there
 * is none of that id); end, which calls live for each blob with references and makes all others
 * free, and those that live says no to. drop: it isn't to be had any more.
 *
 * Then blobs may be referred to and read. They are found by their hash, and may
 * be freed, only when all of them are in the index again: recover_index adds the
 * next n; false: that is so.
 */
typedef bool (*blob_live_fn)(void *ctx, uint32_t id, uint64_t loc);
void blob_recover_begin(struct blob_table *table);
uint32_t blob_recover_ref(struct blob_table *table, uint32_t id);
void blob_recover_drop(struct blob_table *table, uint32_t id);
void blob_recover_end(struct blob_table *table, blob_live_fn live, void *ctx);
bool blob_recover_index(struct blob_table *table, uint32_t n);

/*
 * For those who compare counts beside all that goes on: while watched, each
 * reference that is taken or given back, and each blob that comes or goes, marks
 * its id. A count that no mark stands at has been what it is since the watch
 * began. touch: the same for a reference that somebody keeps elsewhere now.
 */
void blob_watch(struct blob_table *table, bool on);
bool blob_was_touched(const struct blob_table *table, uint32_t id);
void blob_touch(struct blob_table *table, uint32_t id);
/* Under the owner's lock: the blob is found by its hash, or its turn has not come
   after a restart. */
bool blob_is_indexed(const struct blob_table *table, uint32_t id);

uint32_t blob_table_top(const struct blob_table *table); /* ids are below */
uint32_t blob_count(const struct blob_table *table); /* published, dead ones in */
size_t blob_table_bytes(const struct blob_table *table); /* memory it takes */

#endif
