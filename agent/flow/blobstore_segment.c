/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "flow/blobstore_private.h"

#include <errno.h>
#include <string.h>

#include "common/inject.h"

/* From this many on, the store's last segment is kept for compaction, without
   which a full store could never tidy up; and some for other users. */
#define SEGMENTS_WITH_RESERVE 2
#define SEGMENTS_WITH_SHARES 4
#define ROOM_LEAST (64u << 10) /* less is none */

int segment_tenant(struct blobstore *bs, const struct domain *domain)
{
	uint32_t index = domain->index, nr = MAX(index + 1, bs->nr_tenants * 2);
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

bool tier_has_room(const struct tier *t, bool last)
{
	return t->used_segments + (!last && t->capacity >= SEGMENTS_WITH_RESERVE) < t->capacity;
}

static void make_empty(struct blobstore *bs, uint32_t segment)
{
	struct segment *seg = &bs->segments[segment];

	seg->state = SEGMENT_EMPTY;
	tier_of(bs, seg)->held -= seg->fill; /* no garbage any more, only not given back yet */
	seg->next = bs->empty;
	bs->empty = segment + 1;
	if (bs->victim == segment + 1)
		bs->victim = 0;
	if (bs->splitter.victim == segment + 1)
		bs->splitter.victim = 0;
}

void segment_empty_if_done(struct blobstore *bs, uint32_t segment)
{
	const struct segment *seg = &bs->segments[segment];

	if (seg->state == SEGMENT_SEALED && !seg->live && !seg->pending)
		make_empty(bs, segment);
}

void segment_seal(struct blobstore *bs, uint32_t segment)
{
	struct segment *seg = &bs->segments[segment];
	uint32_t *open = &bs->tenants[seg->tenant].open[seg->stream];

	assert(seg->state == SEGMENT_OPEN && *open == segment + 1);
	*open = 0;
	seg->state = SEGMENT_SEALED;
	segment_empty_if_done(bs, segment);
}

void segment_reopen(struct blobstore *bs, uint32_t segment)
{
	struct segment *seg = &bs->segments[segment];
	uint32_t *open = &bs->tenants[seg->tenant].open[seg->stream];

	if (seg->state != SEGMENT_SEALED || !seg->live || *open)
		return;
	seg->state = SEGMENT_OPEN;
	*open = segment + 1;
}

void segment_arrived(struct blobstore *bs, uint32_t segment)
{
	struct segment *seg = &bs->segments[segment];

	assert(seg->pending);
	seg->pending--;
	segment_empty_if_done(bs, segment);
}

/* ---- the table ---- */

static int take_unused(struct blobstore *bs, uint32_t *segment)
{
	if (bs->unused) {
		*segment = bs->unused - 1;
		bs->unused = bs->segments[*segment].next;
		return 0;
	}
	if (bs->top_segment == bs->nr_segments)
		return -ENOSPC;
	if (kept_back(&bs->entries_kept, bs->top_segment * sizeof(struct segment_entry),
		      sizeof(struct segment_entry)))
		return -ENOMEM;
	*segment = bs->top_segment++;
	return 0;
}

static void give_unused(struct blobstore *bs, uint32_t segment)
{
	bs->segments[segment].next = bs->unused;
	bs->unused = segment + 1;
}

/* What a later worker needs, its place last. */
static void write_entry(struct blobstore *bs, uint32_t segment, const struct domain *domain, uint64_t place)
{
	struct segment_entry *entry = &bs->entries[segment];
	struct segment *seg = &bs->segments[segment];

	entry->seed = seg->seed;
	entry->serial = seg->serial;
	entry->uid = domain->uid;
	entry->batches = seg->batches;
	entry->key = seg->borrowed ? *seg->key : (struct seal_key){ .cipher = SEAL_NONE };
	atomic_store_explicit(&entry->place, place, memory_order_release);
	atomic_store(&seg->place, place);
}

/* All that is the same for each, and as it is at first. */
static struct segment *begin(struct blobstore *bs, uint32_t segment, const struct domain *domain, unsigned stream)
{
	struct segment *seg = &bs->segments[segment];

	assert(seg->state == SEGMENT_UNUSED && !seg->live && !seg->pending);
	seg->seed = domain->seed;
	seg->tenant = domain->index;
	seg->tier = (uint8_t)stream_tier(stream);
	seg->stream = (uint8_t)stream;
	seg->fill = 0;
	seg->batches = 0;
	seg->walked = seg->stays = seg->cold = seg->borrowed = seg->moving = false;
	segment_touch(bs, seg);
	tier_of(bs, seg)->used_segments++;
	return seg;
}

/* Bytes that a domain may not have (UserMax=) are of use to others only as segments of
   their own: some stay, a tenth of all at most. With tiers below room can be made. */
static bool leaves_too_few(const struct blobstore *bs, const struct domain *domain)
{
	uint64_t limit = atomic_load_explicit(&domain->limit, memory_order_relaxed);
	uint32_t capacity = bs->tiers[0].capacity, held = 0;

	if (bs->nr_tiers > 1 || capacity < SEGMENTS_WITH_SHARES || limit >= capacity * (uint64_t)STORE_SEGMENT)
		return false;
	for (uint32_t i = 0; i < bs->top_segment; i++)
		held += bs->segments[i].state != SEGMENT_UNUSED && bs->segments[i].tenant == domain->index;
	/* with this one, and the one that is kept for compaction */
	return held + 2 + MAX(MIN(capacity - limit / STORE_SEGMENT, capacity / 10), 1u) > capacity;
}

int segment_open(struct blobstore *bs, const struct domain *domain, unsigned stream, bool last)
{
	uint32_t tier = stream_tier(stream);
	struct tier *t = &bs->tiers[tier];
	struct segment *seg;
	uint32_t segment, carrier;
	int r;

	if (!tier_has_room(t, last) || (!last && leaves_too_few(bs, domain)))
		return -ENOSPC;
	r = take_unused(bs, &segment);
	if (r)
		return r;
	r = store_segment_new(t->store, &carrier);
	if (r) {
		give_unused(bs, segment);
		return r;
	}
	seg = begin(bs, segment, domain, stream);
	seg->serial = t->slow ? blobstore_next_serial(bs) : 0;
	seg->key = &bs->key;
	seg->state = SEGMENT_OPEN;
	write_entry(bs, segment, domain, place_make(tier, carrier));
	bs->tenants[domain->index].open[stream] = segment + 1;
	return 0;
}

uint32_t segment_borrowed(struct blobstore *bs, uint32_t tenant, uint32_t tier, uint32_t carrier,
			  uint64_t serial, const struct seal_key *key)
{
	const struct domain *domain;
	struct segment *seg;
	uint32_t segment;
	int r;

	pthread_mutex_lock(&bs->lock);
	domain = bs->tenants[tenant].domain;
	r = domain ? take_unused(bs, &segment) : -ENOENT;
	if (!r) {
		seg = begin(bs, segment, domain, STREAM_TIER + tier);
		seg->serial = serial;
		seg->key = key;
		seg->batches = SEALED_BATCHES;
		seg->borrowed = true;
		seg->pending = 1; /* until something of ours is in it */
		seg->state = SEGMENT_SEALED;
		write_entry(bs, segment, domain, place_make(tier, carrier));
		seg->key = &bs->entries[segment].key;
	}
	pthread_mutex_unlock(&bs->lock);
	return r ? 0 : segment + 1;
}

/* ---- records ---- */

/* Where no more segments are to be had, streams that may go down together share what they
   have. NULL: it has no room, or some will be made below. */
static uint32_t *shared_open(struct blobstore *bs, const struct domain *domain, enum stream stream, uint32_t size)
{
	uint32_t *open = bs->tenants[domain->index].open;

	if (stream == STREAM_DELTA || stream == STREAM_CLUSTER || mover_has_way_down(bs, domain->index))
		return NULL;
	for (unsigned i = 0; i < STREAM_TIER; i++)
		if (i != STREAM_DELTA && i != STREAM_CLUSTER && open[i] &&
		    bs->segments[open[i] - 1].fill + size <= STORE_SEGMENT)
			return &open[i];
	return NULL;
}

bool blobstore_has_room(struct blobstore *bs, const struct domain *domain)
{
	bool room;

	if (atomic_load_explicit(&domain->charged, memory_order_relaxed) + ROOM_LEAST >
	    atomic_load_explicit(&domain->limit, memory_order_relaxed))
		return false;
	pthread_mutex_lock(&bs->lock);
	room = domain->index >= bs->nr_tenants || mover_has_way_down(bs, domain->index) ||
	       (tier_has_room(&bs->tiers[0], false) && !leaves_too_few(bs, domain)) ||
	       shared_open(bs, domain, STREAM_NEW, ROOM_LEAST);
	pthread_mutex_unlock(&bs->lock);
	return room;
}

int segment_append(struct blobstore *bs, struct domain *domain, enum stream stream,
		   const void *bytes, uint32_t size, bool last, uint64_t *loc)
{
	struct record record;
	struct tenant *tenant;
	struct segment *seg;
	uint32_t segment, *open;
	int r;

	r = segment_tenant(bs, domain);
	if (r)
		return r;
	tenant = &bs->tenants[domain->index];
	open = &tenant->open[stream];
	if (*open && bs->segments[*open - 1].fill + size > STORE_SEGMENT)
		segment_seal(bs, *open - 1);
	if (!*open) {
		r = segment_open(bs, domain, stream, last);
		if (r == -ENOSPC && (open = shared_open(bs, domain, stream, size)))
			r = 0;
		if (r)
			return r;
	}
	segment = *open - 1;
	seg = &bs->segments[segment];
	r = store_write(bs->tiers[0].store, place_carrier(seg->place), seg->fill, bytes, size);
	if (r) {
		/* A write that failed may land yet: never other bytes there. */
		segment_seal(bs, segment);
		return r;
	}
	memcpy(&record, bytes, sizeof(record));
	*loc = record_loc(&record, segment, seg->fill + (uint32_t)sizeof(record));
	segment_count(bs, domain, segment, blob_loc_kind(*loc), size);
	return 0;
}

void segment_count(struct blobstore *bs, struct domain *domain, uint32_t segment, unsigned kind,
		   uint32_t size)
{
	struct tenant *tenant = &bs->tenants[domain->index];
	struct segment *seg = &bs->segments[segment];
	struct tier *tier = tier_of(bs, seg);

	assert(!tenant->live || tenant->domain == domain);
	kind_use(bs, kind);
	if (kind == BLOB_RAW)
		bs->raw_bytes[seg->tier > 0] += size;
	tenant->domain = domain;
	tenant->live += size;
	seg->fill += size;
	seg->live += size;
	tier->held += size;
	tier->live += size;
	tier->borrowed += seg->borrowed ? size : 0;
}

void segment_drop(struct blobstore *bs, uint64_t loc)
{
	uint32_t segment = blob_loc_segment(loc), size = record_size(loc);
	struct segment *seg = &bs->segments[segment];
	struct tenant *tenant = &bs->tenants[seg->tenant];
	struct tier *tier = tier_of(bs, seg);

	assert(seg->live >= size && tenant->live >= size && tier->live >= size); /* INV-8 */
	kind_unuse(bs, blob_loc_kind(loc));
	if (blob_loc_kind(loc) == BLOB_RAW)
		bs->raw_bytes[seg->tier > 0] -= size;
	seg->live -= size;
	tenant->live -= size;
	tier->live -= size;
	tier->borrowed -= seg->borrowed ? size : 0;
	segment_empty_if_done(bs, segment);
	if (tenant->live)
		return;
	/* The domain owes nothing any more: no segment, and no pointer. */
	for (unsigned i = 0; i < NR_STREAMS; i++)
		if (tenant->open[i])
			segment_seal(bs, tenant->open[i] - 1);
	tenant->domain = NULL;
}

/* Off the list, or 0: the rest has readers, or is below the first nr tiers. */
static uint32_t take_empty(struct blobstore *bs, unsigned nr)
{
	uint32_t *at = &bs->empty;
	struct segment *seg;
	uint32_t taken;

	while (*at && (bs->segments[*at - 1].tier >= nr || atomic_load(&bs->segments[*at - 1].readers)))
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

bool segment_free_empty(struct blobstore *bs, unsigned nr)
{
	for (bool freed = false;; freed = true) {
		struct segment *seg;
		uint64_t place;
		uint32_t taken;

		pthread_mutex_lock(&bs->lock);
		taken = take_empty(bs, nr);
		pthread_mutex_unlock(&bs->lock);
		if (!taken)
			return freed;
		seg = &bs->segments[taken - 1];
		place = atomic_load(&seg->place);
		/* Nobody finds it any more, a later worker neither; then it goes. */
		atomic_store(&bs->entries[taken - 1].place, 0);
		atomic_store(&seg->place, 0);
		inject(INJECT_SEGMENT_LEFT);
		/* Some 100 us of the kernel's, which no put has to wait for. */
		store_segment_free(bs->tiers[place_tier(place)].store, place_carrier(place));
		pthread_mutex_lock(&bs->lock);
		bs->tiers[place_tier(place)].used_segments--;
		give_unused(bs, taken - 1);
		pthread_mutex_unlock(&bs->lock);
	}
}

const void *segment_bytes(struct blobstore *bs, uint32_t segment, uint32_t offset, uint32_t len,
			  void *buf, int *error)
{
	uint64_t place = atomic_load(&bs->segments[segment].place);
	struct store *store = bs->tiers[place_tier(place)].store;
	const void *map = store_map(store, place_carrier(place), offset, len);

	*error = 0;
	if (map)
		return map;
	*error = store_read(store, place_carrier(place), offset, buf, len);
	return *error ? NULL : buf;
}
