/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * blobstore: pages' contents, compressed, deduplicated inside one trust domain
 * and packed into the segments of a store. It joins page/blob.h (the table of
 * blobs, their counts and the dedup index), page/codec.h, page/domain.h (who is
 * charged) and backends/store.h.
 *
 * A blob id is 1 .. 2^31-1; 0 is none. It lives while its reference count is
 * above 0.
 *
 * Threads: get, ref and unref are wait-free (fault threads; INV-2). put, work
 * and learn take locks that fault threads never take (pack threads).
 */
#ifndef USWAP_FLOW_BLOBSTORE_H
#define USWAP_FLOW_BLOBSTORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backends/store.h"
#include "page/codec.h"

struct seal; /* page/seal.h */
struct segment;
struct blobstore;
struct domain; /* page/domain.h: one uid, its dedup seed and its charge */

typedef uint32_t blob_id;

/* A page that does not compress to this or less is not worth keeping in memory. */
#define BLOBSTORE_FRAME_MAX 2990

enum blobstore_result { /* of blobstore_put; each must be handled */
	BLOBSTORE_STORED = 0,
	BLOBSTORE_DUPLICATE,	  /* an equal blob of the domain was there */
	BLOBSTORE_INCOMPRESSIBLE, /* keep it resident: no slow tier can take it as it is */
	BLOBSTORE_QUOTA,	  /* the domain is at its limit */
	BLOBSTORE_FULL,		  /* the store is */
	BLOBSTORE_ERROR,	  /* the store failed; counted */
};

#define BLOBSTORE_TIERS_MAX 5

struct blobstore_tier {
	const char *name;
	uint64_t live_bytes;
	uint64_t dead_bytes;
	uint64_t moved_in_bytes_total;	/* written because they came from above */
	uint64_t collected_bytes_total; /* what was there already, written again */
	uint64_t corrupt_total;		/* gets that failed their check */
	uint64_t borrowed_bytes;	/* of the live ones: in segments of other hosts */
	uint64_t borrowed_pages_total;	/* found there */
	uint64_t lookups_total;		/* pages that the index was asked for */
	uint64_t lookup_misses_total;	/* ... which it had not, or did not say in time */
	/* Passed over at present, or not able to read lately. */
	bool degraded;
	char reason[256]; /* for people; "" when it is not */
	uint64_t daily_left_bytes; /* of daily=; UINT64_MAX: no bound */
	struct store_stats store;
	struct store_status status;
};

/* How pages were encoded, since the start. Bytes are those of the frames. */
struct blobstore_encodings {
	uint64_t plain_pages, plain_bytes;
	uint64_t dict_pages, dict_bytes;
	uint64_t delta_pages, delta_bytes;
	uint64_t raw_pages; /* as they are, for a slow tier */
	uint64_t cluster_pages, cluster_bytes; /* several in a frame */
	int64_t dict_saved_bytes; /* against none; from samples */
	uint64_t dicts_trained, dicts_retired;
	uint64_t cold_pages, cold_saved_bytes; /* compressed again */
};

struct blobstore_stats {
	uint64_t blobs;		  /* distinct pages */
	uint64_t live_bytes;	  /* of their frames and records, in all tiers */
	uint64_t dead_bytes;	  /* garbage in segments */
	uint64_t metadata_bytes;  /* table and index */
	uint64_t duplicate_total; /* puts answered by an equal blob */
	uint64_t duplicate_missed_total; /* ... and not */
	uint64_t duplicate_passed_total; /* blobs with the same hash that were not read for it */
	uint64_t collect_ns_total, recompress_ns_total; /* processor time */
	uint64_t compacted_bytes_total;
	uint64_t raw_bytes; /* of pages as they are, in slow tiers now */
	uint64_t promoted_bytes_total; /* brought up to the first tier */
	uint64_t corrupt_total;	  /* gets that failed their checksum */
	struct store_stats store; /* of the first tier */
	unsigned nr_tiers;
	struct blobstore_tier tier[BLOBSTORE_TIERS_MAX];
	uint32_t dicts;		  /* dictionaries in use */
	struct blobstore_encodings encodings;
};

/* The store stays the caller's. max_blobs bounds the table (address space
   only). NULL on ENOMEM. */
struct blobstore *blobstore_new(struct store *store, uint32_t max_blobs);
/* Several tiers, the fastest first: pages are put into the first and move down
   in the background. secret: what the key of the lower ones is made from, none:
   a random one. */
struct blobstore *blobstore_new_tiers(struct store *const *stores, unsigned nr, uint32_t max_blobs,
				      const void *secret, size_t secret_len);
struct blobstore *blobstore_free(struct blobstore *bs);

/*
 * A process and those forked from it: they share a dictionary, and pages at the
 * same address are stored as differences. new, unref: the control thread;
 * forked (one more reference, for the child): any. All are gone before the
 * blobstore is freed.
 */
struct family;
struct family *blobstore_family_new(struct blobstore *bs, const struct domain *domain);
void blobstore_family_forked(struct family *family);
void blobstore_family_unref(struct family *family);
/* Its first dictionary is being made, by blobstore_learn: what can wait for that is
   better packed after it. For a while only. Any thread. */
bool blobstore_family_is_learning(const struct family *family);

/* Whose page. */
struct blobstore_source {
	struct domain *domain;
	struct family *family; /* of that domain; NULL: neither dictionary nor differences */
	uint64_t vpn;
};

/* Stores page (PAGE_BYTES); *id has one reference for the caller when STORED or
   DUPLICATE. */
enum blobstore_result blobstore_put_from(struct blobstore *bs, struct codec *codec,
					 const struct blobstore_source *from, const void *page,
					 blob_id *id);
/* The same for a page of no family. */
enum blobstore_result blobstore_put(struct blobstore *bs, struct codec *codec,
				    struct domain *domain, const void *page, blob_id *id);
/*
 * The same for n neighbours, from->vpn the first one's, that were last read in order:
 * as one frame, if that is good and they are at least BLOBSTORE_RUN_MIN. While
 * blobstore_takes_runs.
 */
#define BLOBSTORE_RUN_MIN 8u
#define BLOBSTORE_RUN_MAX 16u
struct blobstore_put {
	const void *page;
	enum blobstore_result result;
	blob_id id;
};
/* About so many pages more will be put soon: how many bytes, by those stored lately. Any thread. */
uint64_t blobstore_expect(struct blobstore *bs, uint64_t pages);
bool blobstore_takes_runs(const struct blobstore *bs, const struct codec *codec);
/* Off at first. Before there are other threads. */
void blobstore_set_clusters(struct blobstore *bs, bool on);
void blobstore_put_run(struct blobstore *bs, struct codec *codec, const struct blobstore_source *from,
		       struct blobstore_put *v, unsigned n);
/* The blob shares its frame with others. */
bool blobstore_is_part(const struct blobstore *bs, blob_id id);
/* Of n blobs, to which the caller holds references, how many from the first on are in
   one frame and good: each into its page. 0: the first is none of those, or damaged. */
unsigned blobstore_get_parts(struct blobstore *bs, struct codec *codec, const blob_id *id, unsigned n,
			     void *const *pages);
/* Two of those are in one frame, or were a moment ago. */
bool blobstore_share_frame(const struct blobstore *bs, blob_id a, blob_id b);
/* 0 and the page's bytes, or -EBADMSG when they fail their checksum (INV-7) or
   another negative errno of the store. The caller holds a reference. */
int blobstore_get(struct blobstore *bs, struct codec *codec, blob_id id, void *page);
/* The same for those who must not wait (INV-2): -EAGAIN, and nothing was read,
   when it is in a slow tier, though it may not have been a moment ago. */
int blobstore_get_now(struct blobstore *bs, struct codec *codec, blob_id id, void *page);

/* ---- pages in a slow tier: not waited for ---- */

/* One read, its bytes and what they are for; the owner's of blobstore_fetch. */
struct blobstore_fetch {
	struct store_read read; /* buf and done are the caller's */
	blob_id id;
	blob_id from; /* whose frame is read: its own, or what it is the difference to */
	uint64_t loc;
	struct segment *segment; /* pinned */
};
/* What a fetch's buffer must have. */
#define BLOBSTORE_FETCH_ROOM STORE_READ_ROOM((size_t)8192 + 16)

/* blobstore_get would have to wait. The caller holds a reference. */
bool blobstore_is_slow(struct blobstore *bs, blob_id id);
/*
 * Begins to read id, to which the caller holds a reference until the end.
 * False: it is not slow any more, nothing has begun. Else read.done comes, and
 * the fetch must be taken by blobstore_fetch_page, any number of times, and
 * ended by blobstore_fetch_end.
 */
bool blobstore_fetch_start(struct blobstore *bs, struct blobstore_fetch *fetch, blob_id id);
/*
 * Several that lie near each other by one read. add begins a fetch without a read
 * of its own; false: not this one with those before, nothing has begun. submit,
 * with at least one in it: read.done comes for all; until then, and until each of
 * them has been ended, the window stays as it is.
 */
#define BLOBSTORE_WINDOW_BYTES ((size_t)256 << 10)
#define BLOBSTORE_WINDOW_ROOM STORE_READ_ROOM(BLOBSTORE_WINDOW_BYTES)
struct blobstore_window {
	struct store_read read; /* buf and done are the caller's */
	struct segment *segment; /* NULL: none in it */
	uint32_t bytes;		/* of those in it */
};
bool blobstore_window_add(struct blobstore *bs, struct blobstore_window *window, struct blobstore_fetch *fetch,
			  blob_id id);
/* As add would say, unless id moves meanwhile. */
bool blobstore_window_fits(struct blobstore *bs, const struct blobstore_window *window, blob_id id);
void blobstore_window_submit(struct blobstore *bs, struct blobstore_window *window);
/* ... with the only fetch that is in it, which is one by itself from then on. */
void blobstore_window_submit_one(const struct blobstore_window *window, struct blobstore_fetch *fetch);
void blobstore_window_cancel(struct blobstore_window *window);
/* Once it has been read: a fetch of it has its part. */
void blobstore_window_take(const struct blobstore_window *window, struct blobstore_fetch *fetch);
/* As blobstore_get, from what was read. seal: blobstore_seal_new's. */
int blobstore_fetch_page(struct blobstore *bs, struct blobstore_fetch *fetch, struct codec *codec,
			 struct seal *seal, void *page);
void blobstore_fetch_end(struct blobstore_fetch *fetch);
void blobstore_fetch_cancel(struct blobstore *bs, struct blobstore_fetch *fetch);
/* It was read from a slow tier, and others refer to it still: it should come up,
   in the background. Wait-free. */
void blobstore_want(struct blobstore *bs, blob_id id);
/* Some tier is slow. */
bool blobstore_has_slow(const struct blobstore *bs);
/* For one thread that fetches. NULL on ENOMEM. */
struct seal *blobstore_seal_new(const struct blobstore *bs);

/* Bytes of id's frame and record, for accounting. */
size_t blobstore_bytes(const struct blobstore *bs, blob_id id);
/* Others refer to it too. */
bool blobstore_is_shared(const struct blobstore *bs, blob_id id);
void blobstore_ref(struct blobstore *bs, blob_id id);
void blobstore_unref(struct blobstore *bs, blob_id id);
/*
 * Housekeeping, called by one pack thread at a time, some ms at most: frees
 * what unref left behind, gives empty segments of memory back. True: there is more.
 */
bool blobstore_tidy(struct blobstore *bs);
/*
 * The same, when that has nothing more to do: compacts the poorest segment while held
 * bytes exceed 1.15 of live ones. Whoever calls it sees to how often, unless the
 * store is tight.
 */
bool blobstore_collect(struct blobstore *bs);
bool blobstore_is_tight(struct blobstore *bs);
/* May more than a few pages of this domain find room, as things are? Any thread. */
bool blobstore_has_room(struct blobstore *bs, const struct domain *domain);
/* What lives in memory leaves fast, as where a program reads in order: it would be copied
   for a moment, so collecting waits, for a second in a row at most. now: of CLOCK_MONOTONIC;
   told from the last time it was asked, BLOBSTORE_EBB_NS ago or more. */
#define BLOBSTORE_EBB_NS (50 * 1000000ull)
bool blobstore_is_ebbing(struct blobstore *bs, uint64_t now);
/*
 * What slow tiers need, beside the above: moves segments down, blobs up, collects
 * garbage there. It waits for them, for ever where one does not answer. True: there
 * is more.
 */
bool blobstore_carry(struct blobstore *bs);
/* All of it. */
bool blobstore_work(struct blobstore *bs);
/*
 * blobstore_carry has a thread of its own, which wake (any thread's, at once) calls
 * from its sleep. Then whoever puts waits for the room that it makes, for a second
 * at most, and not again before it goes on: a store below may not answer.
 */
void blobstore_set_carrier(struct blobstore *bs, void (*wake)(void *ctx), void *ctx);
/* More of it, by the same thread, with less haste: trains a dictionary where
   one is due (some 20 ms), frees those that are not used any more. True: there
   was something to do. */
bool blobstore_learn(struct blobstore *bs, struct codec *codec);
struct blobstore_verified {
	uint64_t good;
	uint64_t damaged; /* not what was stored, or not there */
	uint64_t unread;  /* the store does not answer now */
	uint64_t wrong_accounts;
	uint64_t not_found; /* by their hash, that should be */
	uint64_t wrong_references;
	uint64_t unsettled; /* in use all the time, so their references could not be compared */
};
/* Reads all that is stored, which takes its time; -ECANCELED when stop is set.
   A thread of its own. */
int blobstore_verify(struct blobstore *bs, struct codec *codec, const _Atomic bool *stop,
		     struct blobstore_verified *verified);
/*
 * The references that there are, compared with those that blobs count, beside all
 * that goes on. A round: begin; add, by any thread, for each slot and whatever else
 * holds one (staging's forwarders among them; differences it counts itself); end.
 * What has changed in a round is left to the next one; end returns how many blobs
 * it could not say yet whether they are right. A count is wrong that was so, and
 * untouched, in seven rounds; the caller lets some time pass between them, since a
 * page on its way from a packer to its slot has a reference too. top: ids counted
 * are below, NULL on ENOMEM.
 */
struct blobstore_references;
struct blobstore_references *blobstore_references_new(struct blobstore *bs);
struct blobstore_references *blobstore_references_free(struct blobstore_references *refs);
void blobstore_references_begin(struct blobstore_references *refs);
void blobstore_references_add(struct blobstore_references *refs, blob_id id);
uint64_t blobstore_references_end(struct blobstore_references *refs);
/* Adds what has been found, and describes some of what is wrong in text. */
void blobstore_references_report(const struct blobstore_references *refs, struct blobstore_verified *verified,
				 char *text, size_t size);
/* Whoever holds a reference holds it elsewhere now. */
void blobstore_touch(struct blobstore *bs, blob_id id);

/* Pages unused for so long leave the first tier; 0: only to make room. */
void blobstore_set_move_down(struct blobstore *bs, uint64_t ns);
/*
 * After the death of the process that had it: begin takes over the segments that
 * can be had (domains: recovered, see page/domain.h) and says how many can't, or
 * -ENOMEM; ref counts a slot that
 * names id, and returns its bytes, 0 when it is lost; end gives back what nobody
 * has named. Until blobstore_work has had its way, duplicates are not found.
 */
struct domain_registry;
bool blobstore_is_found(const struct blobstore *bs);
int blobstore_recover_begin(struct blobstore *bs, struct domain_registry *domains);
size_t blobstore_recover_ref(struct blobstore *bs, blob_id id);
void blobstore_recover_end(struct blobstore *bs);

/*
 * Pages that have lain for so long (0: none) are compressed again, harder: one
 * slice of some 1.5 ms; whoever calls it sees to how often. True: there is more.
 */
void blobstore_set_recompress(struct blobstore *bs, uint64_t ns);
bool blobstore_recompress(struct blobstore *bs);
void blobstore_get_stats(struct blobstore *bs, struct blobstore_stats *stats);

#endif
