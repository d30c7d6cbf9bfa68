/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Are the blobs' counts right? See blobstore.h, and page/blob.h for why a count
 * without a mark can be compared though nothing stands still.
 */
#include <stdio.h>
#include <string.h>

#include "flow/blobstore_private.h"

#define IDS_PER_HOLD 512 /* of the lock */
#define ROUNDS_WRONG 7 /* the caller waits 1.3 s in all meanwhile: longer than a packer for room */
#define TOLD 4 /* in words */

/* What is known of a blob: nothing, that it is right, or (less one) in how many
   rounds running it was wrong. */
enum { OPEN, RIGHT, WRONG };

struct blobstore_references {
	struct blobstore *bs;
	uint32_t top;
	_Atomic uint32_t *counts;
	uint8_t *known;
	uint64_t open;
};

struct blobstore_references *blobstore_references_new(struct blobstore *bs)
{
	struct blobstore_references *refs = calloc(1, sizeof(*refs));

	if (!refs)
		return NULL;
	pthread_mutex_lock(&bs->lock);
	refs->top = blob_table_top(bs->blobs);
	pthread_mutex_unlock(&bs->lock);
	refs->bs = bs;
	refs->counts = calloc(refs->top + 1, sizeof(*refs->counts));
	refs->known = calloc(refs->top + 1, 1);
	return refs->counts && refs->known ? refs : blobstore_references_free(refs);
}

struct blobstore_references *blobstore_references_free(struct blobstore_references *refs)
{
	if (!refs)
		return NULL;
	blob_watch(refs->bs->blobs, false);
	free(refs->counts);
	free(refs->known);
	free(refs);
	return NULL;
}

void blobstore_references_begin(struct blobstore_references *refs)
{
	for (uint32_t id = 0; id < refs->top; id++)
		atomic_store_explicit(&refs->counts[id], 0, memory_order_relaxed);
	blob_watch(refs->bs->blobs, true);
}

/* Those from top on have come since; they are marked. */
void blobstore_references_add(struct blobstore_references *refs, blob_id id)
{
	if (id < refs->top)
		atomic_fetch_add_explicit(&refs->counts[id], 1, memory_order_relaxed);
}

void blobstore_touch(struct blobstore *bs, blob_id id)
{
	blob_touch(bs->blobs, id);
}

/* ---- under the lock ---- */

static void count_base(struct blobstore_references *refs, blob_id id)
{
	struct blobstore *bs = refs->bs;
	uint64_t loc = blob_loc_of_any(bs->blobs, id);
	unsigned char buf[sizeof(struct delta)];
	const void *frame;
	int error;

	if (!loc || blob_loc_kind(loc) != BLOB_DELTA)
		return;
	frame = segment_bytes(bs, blob_loc_segment(loc), blob_loc_offset(loc), sizeof(buf), buf, &error);
	if (frame)
		blobstore_references_add(refs, delta_base(frame, blob_loc_len(loc), id));
}

static void compare(struct blobstore_references *refs, blob_id id)
{
	struct blob_table *blobs = refs->bs->blobs;
	uint8_t *known = &refs->known[id];
	uint32_t expected = 0;

	if (*known == RIGHT)
		return;
	if (blob_loc_of_any(blobs, id) && !blob_is_dead(blobs, id))
		expected = blob_refs(blobs, id);
	if (blob_was_touched(blobs, id))
		*known = OPEN;
	else if (expected == atomic_load_explicit(&refs->counts[id], memory_order_relaxed))
		*known = RIGHT;
	else if (*known < WRONG + ROUNDS_WRONG - 1)
		*known = *known == OPEN ? WRONG : (uint8_t)(*known + 1);
	refs->open += *known == OPEN || (*known >= WRONG && *known < WRONG + ROUNDS_WRONG - 1);
}

/* ---- */

static void for_all(struct blobstore_references *refs,
		    void (*look)(struct blobstore_references *refs, blob_id id))
{
	for (blob_id id = 1; id < refs->top;) {
		blob_id end = MIN(id + IDS_PER_HOLD, refs->top);

		pthread_mutex_lock(&refs->bs->lock);
		for (; id < end; id++)
			look(refs, id);
		pthread_mutex_unlock(&refs->bs->lock);
	}
}

uint64_t blobstore_references_end(struct blobstore_references *refs)
{
	blob_id promoting = refs->bs->promoting;

	if (promoting)
		blobstore_references_add(refs, promoting);
	for_all(refs, count_base);
	refs->open = 0;
	for_all(refs, compare);
	blob_watch(refs->bs->blobs, false);
	return refs->open;
}

void blobstore_references_report(const struct blobstore_references *refs, struct blobstore_verified *v,
				 char *text, size_t size)
{
	size_t at = 0;

	*text = '\0';
	for (blob_id id = 1; id < refs->top; id++) {
		if (refs->known[id] == RIGHT)
			continue;
		if (refs->known[id] < WRONG + ROUNDS_WRONG - 1) {
			v->unsettled++;
			continue;
		}
		if (v->wrong_references++ < TOLD && at < size)
			at += (size_t)snprintf(text + at, size - at, "%sblob %u counts %u, %u are there",
					       at ? "; " : "", id, blob_refs(refs->bs->blobs, id),
					       refs->counts[id]);
	}
}
