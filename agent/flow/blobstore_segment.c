/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "flow/blobstore_private.h"

#include <errno.h>
#include <string.h>

/* From this many on, the store's last segment is kept for compaction, without
   which a full store could never tidy up. */
#define SEGMENTS_WITH_RESERVE 4

static int tenants_reserve(struct blobstore *bs, uint32_t index)
{
	uint32_t nr = MAX(index + 1, bs->nr_tenants * 2);
	struct tenant *tenants;

	if (index < bs->nr_tenants)
		return 0;
	tenants = realloc(bs->tenants, nr * sizeof(*tenants));
	if (!tenants)
		return -ENOMEM;
	memset(&tenants[bs->nr_tenants], 0, (nr - bs->nr_tenants) * sizeof(*tenants));
	bs->tenants = tenants;
	bs->nr_tenants = nr;
	return 0;
}

static void make_empty(struct blobstore *bs, uint32_t segment)
{
	struct segment *seg = &bs->segments[segment];

	seg->state = SEGMENT_EMPTY;
	bs->held -= seg->fill; /* no garbage any more, only not given back yet */
	seg->next = bs->empty;
	bs->empty = segment + 1;
	if (bs->victim == segment + 1)
		bs->victim = 0;
}

void segment_seal(struct blobstore *bs, uint32_t segment)
{
	struct segment *seg = &bs->segments[segment];
	struct tenant *tenant = &bs->tenants[seg->tenant];

	assert(seg->state == SEGMENT_OPEN && tenant->open == segment + 1);
	tenant->open = 0;
	seg->state = SEGMENT_SEALED;
	if (!seg->live)
		make_empty(bs, segment);
}

static int segment_open(struct blobstore *bs, const struct domain *domain, bool last)
{
	struct segment *seg;
	uint32_t segment;
	int r;

	if (!last && bs->nr_segments >= SEGMENTS_WITH_RESERVE &&
	    bs->used_segments + 1 >= bs->nr_segments)
		return -ENOSPC;
	r = store_segment_new(bs->store, &segment);
	if (r)
		return r;
	seg = &bs->segments[segment];
	assert(seg->state == SEGMENT_UNUSED && !seg->live);
	seg->seed = domain->seed;
	seg->tenant = domain->index;
	seg->fill = 0;
	seg->walked = false;
	seg->state = SEGMENT_OPEN;
	bs->tenants[domain->index].open = segment + 1;
	bs->used_segments++;
	bs->top_segment = MAX(bs->top_segment, segment + 1);
	return 0;
}

int segment_append(struct blobstore *bs, struct domain *domain, const void *record, uint32_t size,
		   bool last, uint64_t *loc)
{
	struct tenant *tenant;
	struct segment *seg;
	uint32_t segment;
	int r;

	r = tenants_reserve(bs, domain->index);
	if (r)
		return r;
	tenant = &bs->tenants[domain->index];
	assert(!tenant->live || tenant->domain == domain);
	if (tenant->open && bs->segments[tenant->open - 1].fill + size > STORE_SEGMENT)
		segment_seal(bs, tenant->open - 1);
	if (!tenant->open) {
		r = segment_open(bs, domain, last);
		if (r)
			return r;
	}
	segment = tenant->open - 1;
	seg = &bs->segments[segment];
	r = store_write(bs->store, segment, seg->fill, record, size);
	if (r) {
		/* A write that failed may land yet: never other bytes there. */
		segment_seal(bs, segment);
		return r;
	}
	*loc = blob_loc_make(BLOB_ZSTD, segment, seg->fill + (uint32_t)sizeof(struct record),
			     size - (uint32_t)sizeof(struct record));
	tenant->domain = domain;
	tenant->live += size;
	seg->fill += size;
	seg->live += size;
	bs->held += size;
	bs->live += size;
	return 0;
}

void segment_drop(struct blobstore *bs, uint64_t loc)
{
	uint32_t segment = blob_loc_segment(loc), size = record_size(loc);
	struct segment *seg = &bs->segments[segment];
	struct tenant *tenant = &bs->tenants[seg->tenant];

	assert(seg->live >= size && tenant->live >= size && bs->live >= size); /* INV-8 */
	seg->live -= size;
	tenant->live -= size;
	bs->live -= size;
	if (!seg->live && seg->state == SEGMENT_SEALED)
		make_empty(bs, segment);
	if (tenant->live)
		return;
	/* The domain owes nothing any more: no segment, and no pointer. */
	if (tenant->open)
		segment_seal(bs, tenant->open - 1);
	tenant->domain = NULL;
}

/* Off the list, or 0: the rest has readers. */
static uint32_t take_empty(struct blobstore *bs)
{
	uint32_t *at = &bs->empty;
	struct segment *seg;
	uint32_t taken;

	while (*at && atomic_load(&bs->segments[*at - 1].readers))
		at = &bs->segments[*at - 1].next;
	taken = *at;
	if (!taken)
		return 0;
	seg = &bs->segments[taken - 1];
	*at = seg->next;
	assert(seg->state == SEGMENT_EMPTY && !seg->live);
	seg->state = SEGMENT_UNUSED;
	return taken;
}

bool segment_free_empty(struct blobstore *bs)
{
	for (bool freed = false;; freed = true) {
		uint32_t taken;

		pthread_mutex_lock(&bs->lock);
		taken = take_empty(bs);
		pthread_mutex_unlock(&bs->lock);
		if (!taken)
			return freed;
		/* Some 100 us of the kernel's, which no put has to wait for. */
		store_segment_free(bs->store, taken - 1);
		pthread_mutex_lock(&bs->lock);
		bs->used_segments--;
		pthread_mutex_unlock(&bs->lock);
	}
}

const void *segment_bytes(struct blobstore *bs, uint32_t segment, uint32_t offset, uint32_t len,
			  void *buf, int *error)
{
	const void *map = store_map(bs->store, segment, offset, len);

	*error = 0;
	if (map)
		return map;
	*error = store_read(bs->store, segment, offset, buf, len);
	return *error ? NULL : buf;
}
