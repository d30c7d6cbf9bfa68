/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * After a death. Kept are the rows of the segments (where each is, whose, its
 * seed) and the blobs' locations and hashes; everything else is counted anew.
 * No segment is open any more: the dead worker may have written half a record
 * at its end. Runs before there are other threads.
 */
#include "flow/blobstore_private.h"

#include <errno.h>
#include <sys/stat.h>

#include "page/sealed.h"

bool blobstore_is_found(const struct blobstore *bs)
{
	return bs->entries_kept.found;
}

/* Rows are backed from the first on, and never given back. */
static uint32_t entries_backed(const struct blobstore *bs)
{
	struct stat st;
	uint64_t bytes;

	if (fstat(bs->entries_kept.fd, &st) < 0)
		return 0;
	bytes = (uint64_t)st.st_blocks * 512;
	bytes -= MIN(bytes, (uint64_t)PAGE_BYTES); /* the header */
	return (uint32_t)MIN(bytes / sizeof(struct segment_entry), (uint64_t)bs->nr_segments);
}

/* -ENOMEM; -ENOENT: its domain is gone, so nothing in it is anybody's; another
   error: its bytes can't be had. */
static int take_segment(struct blobstore *bs, uint32_t i, struct domain_registry *domains)
{
	const struct segment_entry *entry = &bs->entries[i];
	struct domain *domain = domain_of(domains, entry->uid);
	struct segment *seg = &bs->segments[i];
	uint64_t place = entry->place;
	uint32_t tier = place_tier(place);
	size_t written = tier ? entry->batches * (size_t)SEALED_BATCH : STORE_SEGMENT;
	int r;

	if (!domain)
		return -ENOENT;
	if (written > STORE_SEGMENT || tier >= bs->nr_tiers)
		return -EINVAL;
	r = segment_tenant(bs, domain);
	if (r == 0)
		r = store_segment_adopt(bs->tiers[tier].store, place_carrier(place), written);
	if (r < 0)
		return r;
	bs->tenants[domain->index].domain = domain;
	seg->seed = entry->seed;
	seg->serial = entry->serial;
	seg->borrowed = entry->key.cipher != SEAL_NONE;
	seg->key = seg->borrowed ? &entry->key : &bs->key;
	seg->batches = (uint8_t)entry->batches;
	seg->tenant = domain->index;
	seg->tier = (uint8_t)tier;
	seg->stream = (uint8_t)(tier ? STREAM_TIER + tier : STREAM_NEW);
	seg->state = SEGMENT_SEALED;
	seg->place = place;
	bs->tiers[tier].used_segments++;
	return 0;
}

int blobstore_recover_begin(struct blobstore *bs, struct domain_registry *domains)
{
	int lost = 0;

	bs->top_segment = entries_backed(bs);
	for (uint32_t i = 0; i < bs->top_segment; i++) {
		int r = bs->entries[i].place ? take_segment(bs, i, domains) : 0;

		if (r == -ENOMEM) /* nothing of it is lost */
			return r;
		if (r == 0)
			continue;
		atomic_store(&bs->entries[i].place, 0);
		lost += r != -ENOENT;
	}
	blob_recover_begin(bs->blobs);
	return lost;
}

/* The blob's location, 0 when it can't be had. */
static uint64_t find(const struct blobstore *bs, blob_id id)
{
	uint64_t loc = id <= BLOB_ID_MAX ? blob_loc_of_any(bs->blobs, id) : 0;
	uint32_t segment = blob_loc_segment(loc);

	return loc && segment < bs->top_segment && bs->segments[segment].place ? loc : 0;
}

/* A difference refers to its base, which is none itself. */
static bool ref_base(struct blobstore *bs, blob_id id, uint64_t loc)
{
	unsigned char buf[BLOB_LEN_MAX];
	int error;
	const void *frame = segment_bytes(bs, blob_loc_segment(loc), blob_loc_offset(loc), blob_loc_len(loc),
					  buf, &error);
	blob_id base = frame ? delta_base(frame, blob_loc_len(loc), id) : 0;

	return base && find(bs, base) && blob_recover_ref(bs->blobs, base);
}

size_t blobstore_recover_ref(struct blobstore *bs, blob_id id)
{
	uint64_t loc = find(bs, id);

	if (!loc)
		return 0;
	if (blob_recover_ref(bs->blobs, id) == 1 && blob_loc_kind(loc) == BLOB_DELTA && !ref_base(bs, id, loc)) {
		blob_recover_drop(bs->blobs, id);
		return 0;
	}
	return record_size(loc);
}

static uint32_t end_of(struct blobstore *bs, uint64_t loc)
{
	return blob_loc_kind(loc) == BLOB_PART ? cluster_end(bs, loc) : blob_loc_offset(loc) + blob_loc_len(loc);
}

static bool count_live(void *ctx, uint32_t id, uint64_t loc)
{
	struct blobstore *bs = ctx;
	struct segment *seg = &bs->segments[blob_loc_segment(loc)];
	struct tenant *tenant = &bs->tenants[seg->tenant];
	uint32_t size = record_size(loc);

	(void)id;
	if (blob_loc_kind(loc) == BLOB_DELTA)
		seg->stream = STREAM_DELTA;
	if (blob_loc_kind(loc) == BLOB_RAW) {
		bs->raw_bytes[seg->tier > 0] += size;
		if (!seg->tier)
			seg->stream = STREAM_RAW;
	}
	if (blob_loc_kind(loc) == BLOB_PART)
		seg->stream = STREAM_CLUSTER;
	kind_use(bs, blob_loc_kind(loc));
	seg->live += size;
	seg->fill = seg->borrowed ? seg->live : MAX(seg->fill, MIN(end_of(bs, loc), (uint32_t)STORE_SEGMENT));
	tenant->live += size;
	tier_of(bs, seg)->live += size;
	tier_of(bs, seg)->borrowed += seg->borrowed ? size : 0;
	atomic_fetch_add(&tenant->domain->charged, size);
	return true;
}

static void free_segment(struct blobstore *bs, uint32_t i)
{
	struct segment *seg = &bs->segments[i];

	if (seg->place) {
		atomic_store(&bs->entries[i].place, 0);
		store_segment_free(tier_of(bs, seg)->store, place_carrier(seg->place));
		tier_of(bs, seg)->used_segments--;
	}
	seg->place = 0;
	seg->state = SEGMENT_UNUSED;
	seg->next = bs->unused;
	bs->unused = i + 1;
}

void blobstore_recover_end(struct blobstore *bs)
{
	blob_recover_end(bs->blobs, count_live, bs);
	for (uint32_t i = bs->top_segment; i-- > 0;) {
		struct segment *seg = &bs->segments[i];

		if (!seg->place || (!seg->live && !seg->tier)) {
			free_segment(bs, i);
			continue;
		}
		tier_of(bs, seg)->held += seg->fill;
		/* Of a slow tier: the mover gives it back. Faults, which aren't answered yet, must
		   not wait for a medium. */
		segment_empty_if_done(bs, i);
	}
	for (uint32_t i = 0; i < bs->nr_tenants; i++)
		if (!bs->tenants[i].live)
			bs->tenants[i].domain = NULL;
	for (unsigned i = 0; i < bs->nr_tiers; i++)
		store_adopt_done(bs->tiers[i].store);
}
