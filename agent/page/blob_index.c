/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "page/blob_index.h"

#include "common/util.h"
#include "page/blob_entry.h"

#define BUCKETS_PER_PAGE (PAGE_BYTES / sizeof(uint32_t))
/* Fewer are not worth the trouble. */
#define BUCKETS_MIN ((uint32_t)BUCKETS_PER_PAGE)

bool blob_index_init(struct blob_index *index, struct blob_entry *entries, uint32_t max)
{
	*index = (struct blob_index){ .max = MAX(max, BUCKETS_MIN), .nr = BUCKETS_MIN };
	index->entries = entries;
	index->buckets = blob_reserve(index->max * sizeof(*index->buckets));
	return index->buckets != NULL;
}

void blob_index_deinit(struct blob_index *index)
{
	if (index->buckets)
		munmap(index->buckets, index->max * sizeof(*index->buckets));
	index->buckets = NULL;
}

/* All ones, and the least that can name nr buckets. */
static uint32_t mask_for(uint32_t nr)
{
	return UINT32_MAX >> __builtin_clz((nr - 1) | 1);
}

/* With nr between two powers of two, the buckets that would lie past nr are
   still one with their lower halves. */
static uint32_t bucket_of(uint64_t hash, uint32_t nr)
{
	uint32_t mask = mask_for(nr);
	uint32_t bucket = (uint32_t)hash & mask;

	return bucket < nr ? bucket : bucket & mask >> 1;
}

static void grow(struct blob_index *index)
{
	uint32_t added = index->nr++;
	uint32_t *at = &index->buckets[added & mask_for(index->nr) >> 1];

	index->buckets[added] = 0;
	while (*at) {
		struct blob_entry *entry = &index->entries[*at];
		uint32_t id = *at;

		if (bucket_of(entry->hash, index->nr) != added) {
			at = &entry->chain;
			continue;
		}
		*at = entry->chain;
		entry->chain = index->buckets[added];
		index->buckets[added] = id;
	}
}

static void shrink(struct blob_index *index)
{
	uint32_t last = index->nr - 1;
	uint32_t *at = &index->buckets[last & mask_for(index->nr) >> 1];

	while (*at)
		at = &index->entries[*at].chain;
	*at = index->buckets[last];
	index->buckets[last] = 0;
	index->nr = last;
	if (last % BUCKETS_PER_PAGE == 0)
		memory_give_back(&index->buckets[last], PAGE_BYTES);
}

void blob_index_add(struct blob_index *index, uint32_t id)
{
	struct blob_entry *entry = &index->entries[id];
	uint32_t *bucket = &index->buckets[bucket_of(entry->hash, index->nr)];

	entry->chain = *bucket;
	*bucket = id;
	index->blobs++;
	if (index->blobs > index->nr && index->nr < index->max)
		grow(index);
}

void blob_index_remove(struct blob_index *index, uint32_t id)
{
	const struct blob_entry *entry = &index->entries[id];
	uint32_t *at = &index->buckets[bucket_of(entry->hash, index->nr)];

	while (*at != id) {
		assert(*at);
		at = &index->entries[*at].chain;
	}
	*at = entry->chain;
	index->blobs--;
	/* Two for each blob that goes, from half empty on: at most 8 bytes for
	   each that stays, and no back and forth. */
	for (unsigned i = 0; i < 2; i++)
		if (index->blobs < index->nr / 2 && index->nr > BUCKETS_MIN)
			shrink(index);
}

uint32_t blob_index_find(const struct blob_index *index, uint64_t hash, uint32_t after)
{
	uint32_t id = after ? index->entries[after].chain :
			      index->buckets[bucket_of(hash, index->nr)];

	while (id && index->entries[id].hash != hash)
		id = index->entries[id].chain;
	return id;
}

size_t blob_index_bytes(const struct blob_index *index)
{
	return (index->nr + BUCKETS_PER_PAGE - 1) / BUCKETS_PER_PAGE * PAGE_BYTES;
}
