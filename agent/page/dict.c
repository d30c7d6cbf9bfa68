/* SPDX-License-Identifier: GPL-2.0-or-later */
#define ZSTD_STATIC_LINKING_ONLY
#include <zstd.h>
#define ZDICT_STATIC_LINKING_ONLY
#include <zdict.h>

#include "page/dict.h"

#include <errno.h>
#include <string.h>

#include "common/kept.h"
#include "common/layout.h"
#include "common/util.h"

#define KEPT_DICTS "dictionaries"

/* Smaller ones are not worth their tables. */
#define DICT_BYTES_MIN 1024
/* Of the match finder's table: half of what zstd takes by itself loses 0.4 % and
   halves what a dictionary weighs. */
#define HASH_LOG 12
#define FAST_LEVEL (-1)

struct dict_table {
	struct kept kept;	/* DICT_MAX times DICT_BYTES */
	_Atomic uint32_t *size; /* of each, in kept.own; 0: none. Written last. */
	int level;
	unsigned count;
	size_t bytes;
	struct dict dicts[DICT_MAX];
};
_Static_assert(DICT_MAX * sizeof(uint32_t) <= KEPT_OWN, "sizes fit into the header");

static void *content_of(const struct dict_table *table, unsigned number)
{
	return (char *)table->kept.base + number * DICT_BYTES;
}

static size_t bytes_of(const struct dict *dict)
{
	return DICT_BYTES + ZSTD_sizeof_DDict(dict->unpack);
}

static void count(struct dict_table *table, const struct dict *dict)
{
	table->count++;
	table->bytes += bytes_of(dict);
}

/* Those of a worker before us. */
static int adopt(struct dict_table *table)
{
	for (unsigned i = 0; i < DICT_MAX; i++) {
		struct dict *dict = &table->dicts[i];
		uint32_t size = atomic_load_explicit(&table->size[i], memory_order_acquire);

		if (!size)
			continue;
		if (size > DICT_BYTES)
			return -EBADMSG;
		dict->unpack = ZSTD_createDDict_byReference(content_of(table, i), size);
		if (!dict->unpack)
			return -ENOMEM;
		count(table, dict);
	}
	return 0;
}

struct dict_table *dict_table_new(int level)
{
	struct dict_table *table = calloc(1, sizeof(*table));
	int r;

	if (!table)
		return NULL;
	table->level = level;
	r = kept_open(&table->kept, KEPT_DICTS, DICT_MAX * DICT_BYTES, LAYOUT_DICTIONARIES);
	if (r == 0) {
		table->size = table->kept.own;
		r = adopt(table);
	}
	if (r < 0) {
		dict_table_free(table);
		errno = -r;
		return NULL;
	}
	return table;
}

struct dict_table *dict_table_free(struct dict_table *table)
{
	if (!table)
		return NULL;
	for (unsigned i = 0; i < DICT_MAX; i++) {
		ZSTD_freeCDict(table->dicts[i].pack);
		ZSTD_freeCDict(table->dicts[i].pack_fast);
		ZSTD_freeDDict(table->dicts[i].unpack);
	}
	if (table->size)
		kept_close(&table->kept);
	free(table);
	return NULL;
}

size_t dict_train(void *content, const void *pages, unsigned n)
{
	/* Tried on heaps: letting the trainer search for better values takes five
	   times as long and gains nothing. */
	const ZDICT_fastCover_params_t params = {
		.k = 200, .d = 8, .f = 18, .accel = 1, .zParams.compressionLevel = 1
	};
	size_t sizes[DICT_SAMPLES], size;

	assert(n && n <= DICT_SAMPLES);
	for (unsigned i = 0; i < n; i++)
		sizes[i] = PAGE_BYTES;
	size = ZDICT_trainFromBuffer_fastCover(content, DICT_BYTES, pages, sizes, n, params);
	return ZDICT_isError(size) || size < DICT_BYTES_MIN ? 0 : size;
}

/* It refers to the content, for which the table stands. */
static ZSTD_CDict *make_pack(const void *content, size_t size, int level, unsigned hash_log)
{
	ZSTD_compressionParameters params = ZSTD_getCParams(level, PAGE_BYTES, 0);

	params.hashLog = MIN(params.hashLog, hash_log);
	return ZSTD_createCDict_advanced(content, size, ZSTD_dlm_byRef, ZSTD_dct_auto, params,
					 ZSTD_defaultCMem);
}

static int free_number(const struct dict_table *table)
{
	for (unsigned i = 0; i < DICT_MAX; i++)
		if (!table->dicts[i].unpack)
			return (int)i;
	return -ENOSPC;
}

int dict_new(struct dict_table *table, const void *content, size_t size)
{
	int number = free_number(table);
	struct dict *dict;
	void *kept;
	int r;

	if (size < DICT_BYTES_MIN || size > DICT_BYTES)
		return -EBADMSG;
	if (number < 0)
		return number;
	r = kept_back(&table->kept, (size_t)number * DICT_BYTES, DICT_BYTES);
	if (r < 0)
		return r;
	dict = &table->dicts[number];
	kept = memcpy(content_of(table, (unsigned)number), content, size);
	dict->unpack = ZSTD_createDDict_byReference(kept, size);
	if (!dict->unpack) {
		dict_free(table, (unsigned)number);
		return -ENOMEM;
	}
	atomic_store_explicit(&dict->uses, 1, memory_order_relaxed);
	atomic_store_explicit(&table->size[number], (uint32_t)size, memory_order_release);
	count(table, dict);
	return number;
}

const void *dict_content(const struct dict_table *table, unsigned number, size_t *size)
{
	*size = number < DICT_MAX ? atomic_load_explicit(&table->size[number], memory_order_acquire) : 0;
	return *size ? content_of(table, number) : NULL;
}

const struct dict *dict_at(const struct dict_table *table, unsigned number)
{
	return number < DICT_MAX && table->dicts[number].unpack ? &table->dicts[number] : NULL;
}

static ZSTD_CDict *make_counted(struct dict_table *table, unsigned number, int level)
{
	ZSTD_CDict *pack = make_pack(content_of(table, number), table->size[number], level, HASH_LOG);

	table->bytes += ZSTD_sizeof_CDict(pack);
	return pack;
}

bool dict_pack_begin(struct dict_table *table, unsigned number, bool hurry)
{
	struct dict *dict = &table->dicts[number];

	if (!dict->pack)
		dict->pack = make_counted(table, number, table->level);
	if (!dict->pack)
		return false;
	if (hurry && !dict->pack_fast)
		atomic_store_explicit(&dict->pack_fast, make_counted(table, number, FAST_LEVEL),
				      memory_order_release);
	dict->idle = false;
	atomic_fetch_add_explicit(&dict->packers, 1, memory_order_relaxed);
	dict_use(table, number);
	return true;
}

void dict_pack_end(struct dict_table *table, unsigned number)
{
	atomic_fetch_sub_explicit(&table->dicts[number].packers, 1, memory_order_release);
	dict_unuse(table, number);
}

static void free_packs(struct dict_table *table, struct dict *dict)
{
	table->bytes -= ZSTD_sizeof_CDict(dict->pack) + ZSTD_sizeof_CDict(dict->pack_fast);
	ZSTD_freeCDict(dict->pack);
	ZSTD_freeCDict(dict->pack_fast);
	dict->pack = NULL;
	dict->pack_fast = NULL;
}

void dict_rest(struct dict_table *table)
{
	for (unsigned i = 0; i < DICT_MAX; i++) {
		struct dict *dict = &table->dicts[i];

		if (!dict->pack || atomic_load_explicit(&dict->packers, memory_order_acquire))
			continue;
		if (dict->idle)
			free_packs(table, dict);
		dict->idle = true;
	}
}

bool dict_harder(const struct dict_table *table, unsigned number, int level, struct dict *out)
{
	size_t size = atomic_load_explicit(&table->size[number], memory_order_acquire);

	out->pack = make_pack(content_of(table, number), size, level, ZSTD_HASHLOG_MAX);
	return out->pack;
}

void dict_harder_free(struct dict *dict)
{
	ZSTD_freeCDict(dict->pack);
	dict->pack = NULL;
}

void dict_use(struct dict_table *table, unsigned number)
{
	assert(number < DICT_MAX);
	atomic_fetch_add_explicit(&table->dicts[number].uses, 1, memory_order_relaxed);
}

void dict_unuse(struct dict_table *table, unsigned number)
{
	uint32_t old;

	assert(number < DICT_MAX);
	old = atomic_fetch_sub_explicit(&table->dicts[number].uses, 1, memory_order_acq_rel);
	assert(old);
	(void)old;
}

int dict_next_unused(const struct dict_table *table, unsigned from)
{
	for (unsigned i = from; i < DICT_MAX; i++)
		if (table->dicts[i].unpack &&
		    !atomic_load_explicit(&table->dicts[i].uses, memory_order_acquire))
			return (int)i;
	return -1;
}

void dict_free(struct dict_table *table, unsigned number)
{
	struct dict *dict = &table->dicts[number];

	assert(!atomic_load_explicit(&dict->uses, memory_order_relaxed));
	free_packs(table, dict);
	if (atomic_exchange(&table->size[number], 0)) {
		table->count--;
		table->bytes -= bytes_of(dict);
	}
	ZSTD_freeDDict(dict->unpack);
	dict->unpack = NULL;
	kept_give_back(&table->kept, number * DICT_BYTES, DICT_BYTES);
}

unsigned dict_count(const struct dict_table *table)
{
	return table->count;
}

size_t dict_table_bytes(const struct dict_table *table)
{
	return table->bytes;
}
