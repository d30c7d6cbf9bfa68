/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The inside of a blobstore, for blobstore*.c alone.
 *
 * Each domain appends to one open segment of its own, so that pages that die
 * together lie together. A segment is a row of records, each with its frame
 * behind it. It goes OPEN -> SEALED -> EMPTY (no live bytes) -> UNUSED (given
 * back to the store).
 *
 * Why a get needs no lock. A blob's bytes may be moved by compaction, and the
 * segment they left be freed and used again, at any moment. A reader
 *	1. loads the blob's location, 2. raises `readers` of that segment, and
 *	3. loads the location again: if it changed, lowers `readers`, starts over.
 * The freer
 *	a. stores the new location of each blob that moves away (those that
 *	   stayed are dead: nobody holds a reference to read them by), then
 *	b. loads `readers`, and keeps the segment while it isn't 0.
 * 2, 3, a and b are sequentially consistent. If 3 saw the old location, then 2
 * came before a, and so b sees the reader. If b saw no reader, then 2 comes
 * after a, and 3 sees the new location; such a late reader touched nothing but
 * the counter. So between 3 and lowering the counter the bytes are neither
 * punched out nor written to, and a location that is "the same again" (moved
 * away and back into the segment's next use) is right as well: 3 says that the
 * blob lies there now, and from 3 on the segment stays. Retries are as many as
 * compactions of this very blob in between: in practice none or one.
 */
#ifndef USWAP_FLOW_BLOBSTORE_PRIVATE_H
#define USWAP_FLOW_BLOBSTORE_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "common/util.h"
#include "flow/blobstore.h"
#include "page/blob.h"
#include "page/domain.h"

/* Before each frame, so that a segment can be walked. */
struct record {
	uint32_t id;
	uint16_t len; /* of the frame */
	uint16_t magic;
};
_Static_assert(sizeof(struct record) == 8, "8 bytes a record");
#define RECORD_MAGIC 0xb10b
#define RECORD_MAX (sizeof(struct record) + BLOBSTORE_FRAME_MAX)

enum segment_state { SEGMENT_UNUSED, SEGMENT_OPEN, SEGMENT_SEALED, SEGMENT_EMPTY };

/* Guarded by the lock but for readers, and seed, which is constant while any
   blob lies in the segment. */
struct segment {
	uint64_t seed;	  /* the domain's */
	_Atomic uint32_t readers;
	uint32_t tenant;  /* the domain's index */
	uint32_t fill;	  /* bytes appended */
	uint32_t live;	  /* of them, of blobs that are not reaped */
	uint32_t next;	  /* EMPTY: the list, plus one */
	uint8_t state;
	bool walked;	  /* compacted; what is left can't be moved */
};

/* What one domain has here. Guarded by the lock. */
struct tenant {
	struct domain *domain; /* NULL while nothing is live */
	uint64_t live;
	uint32_t open;	       /* segment plus one */
};

struct blobstore {
	struct store *store;
	struct blob_table *blobs;
	struct segment *segments;
	uint32_t nr_segments;	/* the store's capacity */

	/* Guards what follows and the blob table. Never taken by fault
	   threads (INV-2). */
	pthread_mutex_t lock;
	uint32_t used_segments;
	uint32_t top_segment;	/* those from here on were never used */
	struct tenant *tenants; /* by domain index */
	uint32_t nr_tenants;
	uint64_t held;		/* bytes in segments that are not EMPTY */
	uint64_t live;		/* of them, of blobs that are not reaped */
	uint32_t empty;		/* list of EMPTY segments, plus one */
	uint32_t victim;	/* being compacted, plus one */
	uint32_t cursor;	/* how far */
	uint64_t compacted_bytes;

	_Atomic uint64_t duplicates;
	_Atomic uint64_t corrupt;
};

/* ---- blobstore_segment.c; under the lock ---- */

/*
 * Appends a record of size bytes to the domain's open segment and counts it as
 * live. `last` allows to use the store's last free segment, kept for
 * compaction. 0 or the store's error.
 */
int segment_append(struct blobstore *bs, struct domain *domain, const void *record, uint32_t size,
		   bool last, uint64_t *loc);
/* The record at loc is no longer live. The domain may be gone after the
   uncharge that must follow. */
void segment_drop(struct blobstore *bs, uint64_t loc);
void segment_seal(struct blobstore *bs, uint32_t segment);
/* Gives EMPTY segments without readers back; true if there were any. Takes the
   lock itself. */
bool segment_free_empty(struct blobstore *bs);

/* Bytes of a segment: the store's own if it maps them, else read into buf;
   NULL and -errno in *error. No lock needed, but a reason why they stay. */
const void *segment_bytes(struct blobstore *bs, uint32_t segment, uint32_t offset, uint32_t len,
			  void *buf, int *error);

static inline uint32_t record_size(uint64_t loc)
{
	return (uint32_t)sizeof(struct record) + blob_loc_len(loc);
}

#endif
