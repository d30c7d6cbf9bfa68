/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The sealed form of a segment, as it lies in files and RADOS objects: 16
 * batches of at most 256 KiB, each written once, whole, at its own place.
 * docs/STORE-FORMAT.md is the reference; this is its only reader and writer.
 *
 *	header (128 bytes) | table: a record for each frame | frames, each with
 *	its tag behind it
 *
 * The table is encrypted like a frame. Records say which blob a frame is (the
 * id it has in the blob table, its hash), never whose or where in a process.
 *
 * No I/O, no allocation, no locks.
 */
#ifndef USWAP_PAGE_SEALED_H
#define USWAP_PAGE_SEALED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "page/seal.h"

#define SEALED_VERSION 1
#define SEALED_BATCHES 16
#define SEALED_BATCH ((uint32_t)256 << 10)
#define SEALED_HEADER 128u
#define SEALED_RECORD 24u
#define SEALED_FRAME_MIN 1u
#define SEALED_FRAME_MAX 8175u /* with its tag, a location's len */
/* Records that a batch can have: each has a frame of a byte at least. */
#define SEALED_RECORDS_MAX \
	((SEALED_BATCH - SEALED_HEADER) / (SEALED_RECORD + SEALED_FRAME_MIN + SEAL_TAG))

struct sealed_header {
	uint16_t version;
	uint8_t cipher;
	uint32_t nr_records;
	uint32_t used;	 /* bytes, header in */
	uint32_t batch;	 /* its number in the segment */
	uint32_t domain; /* uid of the trust domain */
	uint64_t serial; /* of the segment: unique under its key */
	uint8_t key_id[SEAL_ID];
	uint8_t machine[16];
	uint8_t table_tag[SEAL_TAG];
};

/* Kinds of records that are no blob's; their id is 0. */
enum {
	SEALED_DICT_NAME = 5,  /* hash: a kind; the frame names its dictionary, for other hosts */
	SEALED_DICT_PIECE = 6, /* of a dictionary, which has a batch of its own */
};

struct sealed_record {
	uint64_t hash; /* of the page, seeded */
	uint32_t id;   /* blob */
	uint32_t offset; /* of its frame, from the batch's start */
	uint16_t len;  /* of the frame, without its tag */
	uint16_t kind; /* enum blob_kind, or those above */
};

/* ---- writing ---- */

struct sealed_frame {
	uint64_t hash;
	uint32_t id;
	uint16_t kind;
	uint16_t len;
	const void *bytes;
	uint32_t offset; /* set by sealed_write */
};

/* Bytes that n frames of so many bytes in all take as a batch. */
static inline uint64_t sealed_size(uint32_t n, uint64_t frame_bytes)
{
	return SEALED_HEADER + (uint64_t)n * (SEALED_RECORD + SEAL_TAG) + frame_bytes;
}

/*
 * Makes a batch of frames in to (SEALED_BATCH bytes; zeros behind its end up to
 * the next 4096). header: batch, domain, serial and machine are given, the rest
 * is set. They must fit. 0 or a negative errno of seal.h.
 */
int sealed_write(struct seal *seal, struct sealed_header *header, struct sealed_frame *frames,
		 uint32_t n, void *to);

/* ---- reading ---- */

/*
 * The header of a batch of which len bytes are there. 0, -EBADMSG (not such a
 * thing, torn, damaged) or -EPROTONOSUPPORT (another version). The table's
 * checksum is checked when all of it is there (len >= what sealed_table_end
 * says), else only the header's form.
 */
int sealed_read_header(const void *bytes, size_t len, struct sealed_header *header);
static inline uint32_t sealed_table_end(const struct sealed_header *header)
{
	return SEALED_HEADER + header->nr_records * SEALED_RECORD;
}
/*
 * Decrypts the table, by that key, into table (nr_records * SEALED_RECORD bytes) and checks
 * that every record lies where a frame may lie, in order. bytes: at least
 * sealed_table_end of them. 0 or -EBADMSG.
 */
int sealed_read_table(struct seal *seal, const struct seal_key *key, const void *bytes,
		      const struct sealed_header *header, void *table);
/* Record i of a table that sealed_read_table has checked. */
void sealed_get_record(const void *table, uint32_t i, struct sealed_record *record);
/*
 * A frame and its tag (len + SEAL_TAG bytes at bytes), which lie at offset of
 * the segment, into frame (len bytes). 0 or -EBADMSG.
 */
int sealed_read_frame(struct seal *seal, uint64_t serial, uint32_t offset, const void *bytes,
		      uint32_t len, void *frame);

#endif
