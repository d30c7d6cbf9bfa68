/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "page/blob.h"

#include <errno.h>

#include "common/kept.h"
#include "common/layout.h"
#include "common/util.h"
#include "page/blob_entry.h"
#include "page/blob_index.h"

/* Entries come in groups of whole pages, so that a group none is used of goes
   back, whatever the order blobs die in. They are kept (common/kept.h) for their
   locations and hashes; all else is derived from them and from the slots. */
#define GROUP_ENTRIES 512u
#define GROUP_BYTES (GROUP_ENTRIES * sizeof(struct blob_entry))
_Static_assert(GROUP_BYTES % 4096 == 0, "a group is whole pages");

/* In one of two lists unless full: of those with used and free entries, or of
   those given back. Group numbers are kept plus one, 0 is none. Its memory is
   there while used or nr_free isn't 0. */
struct group {
	uint16_t used;
	uint16_t nr_free; /* entries in the list below */
	uint32_t free;	  /* id; 0 is never free */
	uint32_t next;
	uint32_t prev;
};

struct words { /* the kept file's own */
	_Atomic uint32_t groups; /* ever touched */
};

struct blob_table {
	struct kept kept;
	struct blob_entry *entries;
	struct group *groups;
	uint32_t max_groups;
	uint32_t fresh;	    /* groups never touched begin here */
	uint32_t partial;   /* head */
	uint32_t given_back; /* head */
	uint32_t resident;  /* groups with memory */
	uint32_t reaping;   /* dead ones taken off the shared list */
	_Atomic uint32_t dead; /* any thread pushes, the owner takes all */
	struct blob_index index;
	_Atomic uint32_t *marks; /* a bit for each id, address space */
	_Atomic bool watched;
	uint32_t unindexed; /* ids from here on will be put into it; 0: all are */
};

static struct words *words(const struct blob_table *table)
{
	return table->kept.own;
}

static size_t marks_bytes(const struct blob_table *table)
{
	return ((size_t)table->max_groups * GROUP_ENTRIES / 8 + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1);
}

struct blob_table *blob_table_new(uint32_t max)
{
	struct blob_table *table;
	int r;

	if (!max || max > BLOB_ID_MAX) {
		errno = EINVAL;
		return NULL;
	}
	table = calloc(1, sizeof(*table));
	if (!table)
		return NULL;
	table->max_groups = max / GROUP_ENTRIES + 1; /* id 0 is one more */
	r = kept_open(&table->kept, "blobs", table->max_groups * GROUP_BYTES, LAYOUT_BLOBS);
	if (r < 0) {
		errno = -r;
		return blob_table_free(table);
	}
	table->entries = table->kept.base;
	table->max_groups = (uint32_t)(table->kept.bytes / GROUP_BYTES);
	table->groups = blob_reserve(table->max_groups * sizeof(struct group));
	table->marks = blob_reserve(marks_bytes(table));
	if (!blob_index_init(&table->index, table->entries, max) || !table->groups || !table->marks)
		return blob_table_free(table);
	return table;
}

struct blob_table *blob_table_free(struct blob_table *table)
{
	if (!table)
		return NULL;
	blob_index_deinit(&table->index);
	if (table->groups)
		munmap(table->groups, table->max_groups * sizeof(struct group));
	if (table->marks)
		munmap((void *)table->marks, marks_bytes(table));
	if (table->kept.base)
		kept_close(&table->kept);
	free(table);
	return NULL;
}

/* ---- references: any thread ---- */

static struct blob_entry *entry_of(const struct blob_table *table, uint32_t id)
{
	assert(id && id / GROUP_ENTRIES < table->max_groups);
	return &table->entries[id];
}

/* After the count has changed: whoever does not see the watch here has changed it
   before the watch began. (Both are sequentially consistent, as it is.) */
void blob_touch(struct blob_table *table, uint32_t id)
{
	if (atomic_load(&table->watched))
		atomic_fetch_or(&table->marks[id / 32], 1u << id % 32);
}

void blob_watch(struct blob_table *table, bool on)
{
	atomic_store(&table->watched, false);
	memory_give_back((void *)table->marks, marks_bytes(table));
	atomic_store(&table->watched, on);
}

bool blob_was_touched(const struct blob_table *table, uint32_t id)
{
	return atomic_load(&table->marks[id / 32]) >> id % 32 & 1;
}

void blob_ref(struct blob_table *table, uint32_t id)
{
	uint32_t old = atomic_fetch_add(&entry_of(table, id)->refs, 1);

	assert(old && old < BLOB_ID_MAX); /* the caller holds one */
	(void)old;
	blob_touch(table, id);
}

void blob_unref(struct blob_table *table, uint32_t id)
{
	struct blob_entry *entry = entry_of(table, id);
	uint32_t old = atomic_fetch_sub(&entry->refs, 1);
	uint32_t head;

	assert(old && !(old & BLOB_DEAD));
	blob_touch(table, id);
	if (old != 1)
		return;
	/* Ours alone now: nobody raises a count of 0. */
	head = atomic_load_explicit(&table->dead, memory_order_relaxed);
	do {
		atomic_store_explicit(&entry->refs, BLOB_DEAD | head, memory_order_relaxed);
	} while (!atomic_compare_exchange_weak_explicit(&table->dead, &head, id,
							memory_order_release,
							memory_order_relaxed));
}

/* seq_cst, as in blob_move: readers of a segment announce themselves and then
   look again where the blob is. */
uint64_t blob_loc(const struct blob_table *table, uint32_t id)
{
	return atomic_load(&entry_of(table, id)->loc);
}

uint32_t blob_refs(const struct blob_table *table, uint32_t id)
{
	return atomic_load_explicit(&entry_of(table, id)->refs, memory_order_relaxed);
}

uint64_t blob_hash(const struct blob_table *table, uint32_t id)
{
	return entry_of(table, id)->hash;
}

/* ---- under the owner's lock ---- */

static void list_push(struct blob_table *table, uint32_t *head, uint32_t g)
{
	struct group *group = &table->groups[g];

	group->prev = 0;
	group->next = *head;
	if (*head)
		table->groups[*head - 1].prev = g + 1;
	*head = g + 1;
}

static void list_remove(struct blob_table *table, uint32_t *head, uint32_t g)
{
	struct group *group = &table->groups[g];

	if (group->next)
		table->groups[group->next - 1].prev = group->prev;
	if (group->prev)
		table->groups[group->prev - 1].next = group->next;
	else
		*head = group->next;
}

static void entry_give(struct blob_table *table, struct group *group, uint32_t id)
{
	table->entries[id].chain = group->free;
	group->free = id;
	group->nr_free++;
}

/* Its entries without a blob are free. */
static void fill_group(struct blob_table *table, uint32_t g)
{
	struct group *group = &table->groups[g];

	for (uint32_t i = GROUP_ENTRIES; i--;) {
		uint32_t id = g * GROUP_ENTRIES + i;

		if (!id) /* 0 is none */
			continue;
		if (atomic_load_explicit(&table->entries[id].loc, memory_order_relaxed))
			group->used++;
		else
			entry_give(table, group, id);
	}
}

/* A group with all entries free, in the partial list. */
static bool add_group(struct blob_table *table)
{
	uint32_t g = table->given_back ? table->given_back - 1 : table->fresh;

	if (g == table->max_groups || kept_back(&table->kept, g * GROUP_BYTES, GROUP_BYTES) < 0)
		return false;
	if (g == table->fresh)
		atomic_store_explicit(&words(table)->groups, ++table->fresh, memory_order_release);
	else
		list_remove(table, &table->given_back, g);
	table->groups[g] = (struct group){ .used = 0 };
	fill_group(table, g);
	list_push(table, &table->partial, g);
	table->resident++;
	return true;
}

uint32_t blob_new(struct blob_table *table)
{
	struct group *group;
	uint32_t id;

	if (!table->partial && !add_group(table))
		return 0;
	group = &table->groups[table->partial - 1];
	id = group->free;
	group->free = table->entries[id].chain;
	group->used++;
	if (!--group->nr_free)
		list_remove(table, &table->partial, table->partial - 1);
	return id;
}

void blob_publish(struct blob_table *table, uint32_t id, uint64_t hash, uint64_t loc)
{
	struct blob_entry *entry = entry_of(table, id);

	assert(loc && !atomic_load_explicit(&entry->loc, memory_order_relaxed));
	entry->hash = hash;
	atomic_store(&entry->loc, loc);
	atomic_store(&entry->refs, 1);
	blob_touch(table, id);
	if (!table->unindexed || id < table->unindexed)
		blob_index_add(&table->index, id);
}

uint32_t blob_find(const struct blob_table *table, uint64_t hash, uint32_t after)
{
	return blob_index_find(&table->index, hash, after);
}

bool blob_ref_unless_dead(struct blob_table *table, uint32_t id)
{
	struct blob_entry *entry = entry_of(table, id);
	uint32_t refs = atomic_load_explicit(&entry->refs, memory_order_relaxed);

	do {
		if (!refs || refs & BLOB_DEAD)
			return false;
		assert(refs < BLOB_ID_MAX);
	} while (!atomic_compare_exchange_weak(&entry->refs, &refs, refs + 1));
	blob_touch(table, id);
	return true;
}

bool blob_is_dead(const struct blob_table *table, uint32_t id)
{
	uint32_t refs = atomic_load_explicit(&entry_of(table, id)->refs, memory_order_relaxed);

	return !refs || refs & BLOB_DEAD;
}

uint64_t blob_loc_of_any(const struct blob_table *table, uint32_t id)
{
	const struct group *group = &table->groups[id / GROUP_ENTRIES];

	/* what was never used, or was given back, isn't there to be read */
	if (!id || id / GROUP_ENTRIES >= table->fresh || !(group->used || group->nr_free))
		return 0;
	return atomic_load_explicit(&table->entries[id].loc, memory_order_relaxed);
}

void blob_move(struct blob_table *table, uint32_t id, uint64_t loc)
{
	assert(loc);
	atomic_store(&entry_of(table, id)->loc, loc);
}

uint32_t blob_next_dead(struct blob_table *table)
{
	uint32_t id = table->reaping;

	/* All at once, so a push never meets a pop: no ABA. */
	if (!id)
		id = atomic_exchange_explicit(&table->dead, 0, memory_order_acquire);
	if (id)
		table->reaping = atomic_load_explicit(&entry_of(table, id)->refs,
						      memory_order_relaxed) &
				 ~BLOB_DEAD;
	return id;
}

void blob_free(struct blob_table *table, uint32_t id)
{
	struct blob_entry *entry = entry_of(table, id);
	uint32_t g = id / GROUP_ENTRIES;
	struct group *group = &table->groups[g];

	assert(blob_is_dead(table, id));
	if (atomic_load_explicit(&entry->loc, memory_order_relaxed)) /* was published */
		blob_index_remove(&table->index, id);
	atomic_store_explicit(&entry->refs, 0, memory_order_relaxed);
	atomic_store_explicit(&entry->loc, 0, memory_order_relaxed);
	blob_touch(table, id);
	if (!group->nr_free)
		list_push(table, &table->partial, g);
	entry_give(table, group, id);
	/* The last group with room stays, else one blob that comes and goes
	   would have us ask the kernel each time. */
	if (--group->used || (table->partial == g + 1 && !group->next))
		return;
	list_remove(table, &table->partial, g);
	kept_give_back(&table->kept, g * GROUP_BYTES, GROUP_BYTES);
	group->nr_free = 0;
	list_push(table, &table->given_back, g);
	table->resident--;
}

bool blob_is_indexed(const struct blob_table *table, uint32_t id)
{
	uint64_t hash = blob_hash(table, id);
	uint32_t at = 0;

	if (table->unindexed && id >= table->unindexed)
		return true;
	do {
		at = blob_index_find(&table->index, hash, at);
	} while (at && at != id);
	return at;
}

uint32_t blob_table_top(const struct blob_table *table)
{
	return table->fresh * GROUP_ENTRIES;
}

uint32_t blob_count(const struct blob_table *table)
{
	return table->index.blobs;
}

size_t blob_table_bytes(const struct blob_table *table)
{
	size_t groups = table->fresh * sizeof(struct group);

	return table->resident * GROUP_BYTES + blob_index_bytes(&table->index) +
	       (groups + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
}

/* ---- after a death ---- */

/* Groups that were given back have no memory; looking would bring it back. */
static uint32_t next_group(const struct blob_table *table, uint32_t g)
{
	off_t at = (off_t)(PAGE_BYTES + g * GROUP_BYTES);
	off_t data = lseek(table->kept.fd, at, SEEK_DATA);

	if (data < 0)
		return table->fresh;
	return MIN((uint32_t)(((size_t)data - PAGE_BYTES) / GROUP_BYTES), table->fresh);
}

void blob_recover_begin(struct blob_table *table)
{
	table->fresh = MIN(words(table)->groups, table->max_groups);
	for (uint32_t g = next_group(table, 0); g < table->fresh; g = next_group(table, g + 1)) {
		struct blob_entry *entry = &table->entries[g * GROUP_ENTRIES];

		table->groups[g].used = 1; /* there */
		for (uint32_t i = 0; i < GROUP_ENTRIES; i++)
			atomic_store_explicit(&entry[i].refs, 0, memory_order_relaxed);
	}
}

uint32_t blob_recover_ref(struct blob_table *table, uint32_t id)
{
	if (!blob_loc_of_any(table, id))
		return 0;
	return atomic_fetch_add_explicit(&table->entries[id].refs, 1, memory_order_relaxed) + 1;
}

void blob_recover_drop(struct blob_table *table, uint32_t id)
{
	struct blob_entry *entry = entry_of(table, id);

	atomic_store_explicit(&entry->refs, 0, memory_order_relaxed);
	atomic_store_explicit(&entry->loc, 0, memory_order_relaxed);
}

static void recover_group(struct blob_table *table, uint32_t g)
{
	struct group *group = &table->groups[g];

	*group = (struct group){ .used = 0 };
	fill_group(table, g);
	if (group->used) {
		table->resident++;
		if (group->nr_free)
			list_push(table, &table->partial, g);
		return;
	}
	kept_give_back(&table->kept, g * GROUP_BYTES, GROUP_BYTES);
	group->nr_free = 0;
	list_push(table, &table->given_back, g);
}

void blob_recover_end(struct blob_table *table, blob_live_fn live, void *ctx)
{
	for (uint32_t g = 0; g < table->fresh; g++) {
		bool there = table->groups[g].used;

		for (uint32_t i = 0; there && i < GROUP_ENTRIES; i++) {
			uint32_t id = g * GROUP_ENTRIES + i;
			struct blob_entry *entry = &table->entries[id];

			if (!id || !entry->loc)
				continue;
			/* Nobody names it: of a put that had come no further, or
			   a slot that was dropped. */
			if (!entry->refs || !live(ctx, id, entry->loc))
				blob_recover_drop(table, id);
		}
		if (there)
			recover_group(table, g);
		else
			list_push(table, &table->given_back, g);
	}
	table->unindexed = table->fresh ? 1 : 0;
}

bool blob_recover_index(struct blob_table *table, uint32_t n)
{
	uint32_t end = table->fresh * GROUP_ENTRIES, id = table->unindexed;

	for (; id && n && id < end; n--, id++)
		if (blob_loc_of_any(table, id))
			blob_index_add(&table->index, id);
	table->unindexed = id < end ? id : 0;
	return table->unindexed;
}
