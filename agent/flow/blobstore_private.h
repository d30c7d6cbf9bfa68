/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The inside of a blobstore, for blobstore*.c alone.
 *
 * Tiers, the fastest first. Pages are put into the first one. Its segments have
 * the form of a row of records, each with its frame behind it; in the others
 * they have the sealed form (page/sealed.h).
 *
 * Segments are the blobstore's own: a blob's location names an entry of the
 * segment table, which says in which tier its bytes are and in which of the
 * carrier's segments (its place). Each domain appends to one open segment of
 * its own in each tier, so that pages that die together lie together. A segment
 * goes OPEN -> SEALED -> EMPTY (no live bytes) -> UNUSED (given back).
 *
 * What a blob costs (record_size) is the same in every form, so that charges
 * (INV-8) and the accounts of processes don't change when it moves.
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

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#include "common/kept.h"
#include "common/util.h"
#include "flow/blobstore.h"
#include "page/blob.h"
#include "page/dict.h"
#include "page/domain.h"
#include "page/sealed.h"

/* Before each frame of the memory form, so that a segment can be walked. */
struct record {
	uint32_t id;
	uint16_t len;	/* of the frame */
	uint16_t magic; /* 7 bits of it, and the kind in the lower 9 */
};
_Static_assert(sizeof(struct record) == 8, "8 bytes a record");
#define RECORD_MAGIC (0x5b << 9)
#define RECORD_KIND (BLOB_KINDS - 1)

static inline struct record record_make(uint32_t id, unsigned kind, uint32_t len)
{
	return (struct record){ .id = id,
				.len = (uint16_t)len,
				.magic = (uint16_t)(RECORD_MAGIC | kind) };
}

static inline bool record_is_valid(const struct record *record)
{
	return (record->magic & ~RECORD_KIND) == RECORD_MAGIC && record->len;
}

/* Where its frame is, if the frame lies at offset of the segment. */
static inline uint64_t record_loc(const struct record *record, uint32_t segment, uint32_t offset)
{
	unsigned kind = record->magic & RECORD_KIND;

	/* of a cluster: what its parts' locations begin with */
	return blob_loc_make(kind, segment, offset, kind == BLOB_PART ? 0 : record->len);
}

#define RECORD_MAX (sizeof(struct record) + PAGE_BYTES) /* of a page as it is */

/* Before the frame of a difference. */
struct delta {
	uint32_t base;  /* id; the blob has a reference to it */
	uint32_t check; /* of base and the blob's own id: a wrong base is worse than none */
};

enum segment_state { SEGMENT_UNUSED, SEGMENT_OPEN, SEGMENT_SEALED, SEGMENT_EMPTY };

/*
 * Where a segment is: used:1 | tier | carrier's segment:32; 0: nowhere. Kept
 * memory (a later worker finds it), written last: what it names is complete.
 */
#define PLACE_USED ((uint64_t)1 << 63)

static inline uint64_t place_make(uint32_t tier, uint32_t carrier)
{
	return PLACE_USED | (uint64_t)tier << 32 | carrier;
}

static inline uint32_t place_tier(uint64_t place)
{
	return (uint32_t)(place >> 32) & 0xff;
}

static inline uint32_t place_carrier(uint64_t place)
{
	return (uint32_t)place;
}

/* A row of the segment table, kept: all that can't be derived. */
struct segment_entry {
	_Atomic uint64_t place;
	uint64_t seed;	  /* the domain's */
	uint64_t serial;  /* of a sealed one, unique under the key */
	uint32_t uid;	  /* the domain's */
	uint32_t batches; /* of a sealed one: places of batches used up */
	struct seal_key key; /* of one borrowed from another host; else zeros */
};
_Static_assert(sizeof(struct segment_entry) == 88, "88 bytes a segment");

/* Derived: rebuilt from the entries, the blob table and its locations. Guarded
   by the lock but for readers, place, used, and seed and serial, which are
   constant while any blob lies in the segment. */
struct segment {
	_Atomic uint64_t place; /* as in the entry */
	uint64_t seed;
	uint64_t serial;
	const struct seal_key *key; /* the blobstore's, or of the entry */
	_Atomic uint32_t readers;
	_Atomic uint32_t used; /* by the clock: written, or last read */
	_Atomic uint32_t read_ahead; /* ... the latter by who reads in order */
	uint32_t unread;  /* ... when the mover last could not read some of it */
	uint32_t tenant;  /* the domain's index */
	uint32_t fill;	  /* bytes appended, as record_size counts */
	uint32_t live;	  /* of them, of blobs that are not reaped */
	uint32_t next;	  /* EMPTY, UNUSED: the list, plus one */
	uint8_t state;
	uint8_t tier;
	uint8_t batches;
	uint8_t pending;  /* batches on their way into it */
	uint8_t stream;
	bool cold;	  /* being compressed again, or has been */
	bool walked;	  /* compacted; what is left can't be moved */
	bool moving;	  /* the mover's victim */
	bool stays;	  /* the mover could not move all of it down */
	bool borrowed;	  /* another host's */
};

#define TIERS_MAX BLOBSTORE_TIERS_MAX
#define WANTED 64
#define CLOCK_SHIFT 26 /* ticks of 67 ms */

/* Segments that a domain has open at a time: those of a stream lie together, as long as
   there is room for that. */
enum stream {
	STREAM_NEW,
	STREAM_DELTA, /* differences: small, and stay in the first tier */
	STREAM_COLD,  /* compressed again */
	STREAM_RAW,   /* pages as they are, on their way to a slow tier */
	STREAM_CLUSTER, /* read in order; they stay in the first tier */
	STREAM_TIER,  /* plus the tier, for those below the first */
	NR_STREAMS = STREAM_TIER + TIERS_MAX,
};

static inline uint32_t stream_tier(unsigned stream)
{
	return stream > STREAM_TIER ? stream - STREAM_TIER : 0;
}

/* What one domain has here. Guarded by the lock. */
struct tenant {
	struct domain *domain; /* NULL while nothing is live */
	uint64_t live;
	uint32_t open[NR_STREAMS]; /* segment plus one */
};

/* What was written to a tier in the last day, by hours of the machine's uptime; kept.
   The one that runs and 24 before, so that no day can have more than daily=. */
#define DAILY_HOURS 25
struct daily {
	_Atomic uint64_t hour; /* the last one with something in it */
	_Atomic uint64_t bytes[DAILY_HOURS];
};

/* Guarded by the lock, but for what is const, and what is the mover's. */
struct tier {
	struct store *store; /* const */
	bool slow;	     /* const: not the first, so of the sealed form */
	uint32_t capacity;   /* const */
	uint32_t used_segments;
	uint64_t held;	     /* bytes in segments that are not EMPTY */
	uint64_t live;	     /* of them, of blobs that are not reaped */
	uint64_t borrowed;   /* of those, in segments of other hosts */
	uint64_t borrowed_pages; /* ever */
	_Atomic uint64_t lookups, lookup_misses; /* ... */
	/* the mover's */
	bool filling;		/* over its mark: until it is below the lower one */
	_Atomic uint64_t retry_ns; /* it failed, or is full: not written to before */
	uint64_t pause_ns;	   /* ... and how long that was */
	_Atomic int write_error;   /* the last one, 0: the last write went well */
	struct daily *daily;	   /* written by the mover alone */
	uint64_t unsaved_bytes, saved_ns; /* ... since the medium knows it */
	/* any thread's */
	_Atomic uint64_t in_bytes, gc_bytes; /* written: from above, what was there already */
	_Atomic uint64_t corrupt;  /* gets that failed their check */
	_Atomic int read_error;	   /* the last one */
	_Atomic uint64_t read_error_ns; /* when; 0: the last read went well */
	uint64_t probe_ns;	   /* the mover's: not tried before */
	uint32_t probe_segment;	   /* ... the next one to try */
};

/* A batch on its way to a slow tier. Until it is there its blobs are where they
   were; its victim is pinned, its place counted as pending. The carry lock's. */
struct outgoing {
	unsigned char *bytes;
	struct sealed_frame *frames;
	uint64_t *from; /* their locations */
	uint32_t n;
	uint32_t names; /* frames behind them, which are no pages (blobstore_share.c) */
	struct store_write write;
	uint32_t victim;
	uint32_t segment, batch; /* where to */
	uint8_t to;		 /* tier */
	bool collecting;
	bool last;	/* of its victim */
	bool unread;	/* ... some of which could not be read, for the time being */
	bool abandoned; /* a batch of the same victim failed */
};
/* More than the store has under way (backends/objects_write.c), so that what
   waits there can be joined. */
#define OUTGOING_MAX 80

/*
 * The mover: takes what lives in one segment, batch by batch, to another tier
 * or (garbage collection) to a better segment of the same one. The carry lock's.
 */
struct mover {
	uint32_t victim;  /* segment plus one, pinned like by a reader; 0: none */
	uint32_t to;	  /* tier */
	uint32_t cursor;  /* memory form: byte; sealed form: batch */
	uint32_t record;  /* sealed form: the next one of that batch */
	bool collecting;  /* garbage, not room */
	bool was_open;	  /* the victim */
	bool unread;	  /* some can't be read for the time being */
	uint64_t collect_due_ns; /* garbage is not looked for before, while there is room */
	/* a batch of the victim, read; sealed form */
	unsigned char *batch;
	unsigned char *table;
	uint32_t nr_records;
	/* the batch that is being put together: its frames' bytes; the rest is
	   in the ring's next place */
	unsigned char *raw;
	uint32_t bytes;
	uint32_t nr_names; /* room that each batch leaves for them */
	struct outgoing *out; /* a ring of nr_out */
	uint32_t nr_out, first_out, used_out;
	bool out_touched; /* since outgoing_rest */
	struct seal *seal;
};

/* How fast it leaves the first tier. The housekeeper's. */
struct ebb {
	uint64_t looked_ns, live; /* when last, and what lived then */
	uint64_t since_ns;	  /* it is fast since; 0: it isn't */
};

/* What is being compressed again. The house lock's. */
struct cold {
	_Atomic uint64_t age_ns;
	uint32_t victim;     /* plus one */
	uint32_t cursor;
	int number;	     /* of the dictionary, with a use; -1: none */
	struct dict dict;    /* the same, for a harder level */
	struct codec *codec; /* made when first needed */
};

/* The segment of clusters that is being collected. The house lock's, and the lock's. */
struct splitter {
	uint32_t victim; /* plus one */
	uint32_t cursor;
	struct codec *codec; /* made when first needed */
};

struct blobstore {
	bool clusters; /* Clusters= */
	struct tier tiers[TIERS_MAX]; /* const but for their accounts */
	unsigned nr_tiers;
	struct blob_table *blobs;
	struct kept entries_kept;
	struct segment_entry *entries;
	struct segment *segments;
	uint32_t nr_segments;	/* of all tiers together */
	struct seal_key key;
	struct seal *seal;	/* for those who may wait for its lock */
	pthread_mutex_t seal_lock;
	/* One mover at a time: what may have to wait for a slow store; taken before
	   `house`. */
	pthread_mutex_t carry;
	/* One housekeeper at a time, who waits for nobody; taken before `lock`. */
	pthread_mutex_t house;
	/* Those who put, waiting for the mover. */
	pthread_mutex_t room_lock;
	pthread_cond_t room_made;
	void (*wake)(void *ctx); /* NULL: they make room themselves */
	void *wake_ctx;
	bool room_wanted, room_was_made;
	uint64_t room_rounds;
	_Atomic bool no_answer; /* it did not come in time */
	struct mover mover;
	struct share *share; /* with other hosts; NULL: nothing */
	struct lookups *lookups; /* NULL: there is no slow tier */
	_Atomic uint64_t move_down_ns; /* unused for so long: down; 0: only for room */
	_Atomic uint32_t wanted[WANTED]; /* blobs to be brought up; 0: none */
	_Atomic bool has_wanted;
	_Atomic uint64_t recent_sizes; /* of pages stored lately: their mean, times RECENT */
	_Atomic blob_id promoting; /* with a reference */
	uint64_t promoted_bytes;

	/* Guards what follows and the blob table. Never taken by fault
	   threads (INV-2). */
	pthread_mutex_t lock;
	uint32_t top_segment;	/* those from here on were never used */
	uint32_t unused;	/* list of UNUSED segments below, plus one */
	struct tenant *tenants; /* by domain index */
	uint32_t nr_tenants;
	uint32_t empty;		/* list of EMPTY segments, plus one */
	uint32_t victim;	/* being compacted, plus one */
	uint32_t cursor;	/* how far */
	uint64_t compacted_bytes;
	uint64_t raw_bytes[2]; /* of pages as they are: in the first tier, below it */
	struct family *families; /* all */
	uint64_t base_bytes;	 /* of their lists of bases */
	struct dict_table *dicts;
	uint32_t dict_unused;	 /* number plus one of one that nobody uses */
	uint32_t dict_checked;	 /* ... and the segments seen without readers since */
	uint32_t dict_rested;	 /* when dict_rest was called last, by the clock; housekeeping */

	struct ebb ebb;
	struct cold cold;
	struct splitter splitter;

	_Atomic uint32_t clock; /* a moment ago, in ticks */
	_Atomic uint64_t duplicates;
	_Atomic uint64_t misses;      /* pages that none was equal to */
	_Atomic uint64_t passed_over; /* perhaps equal ones that were not read for it */
	_Atomic uint64_t collect_ns, recompress_ns; /* processor time */
	_Atomic uint64_t corrupt;
	struct blobstore_encodings encodings; /* guarded by the lock */
};

/* ---- blobstore.c ---- */

/* Keeps the segment id lies in from being freed; see above. */
struct segment *segment_pin(struct blobstore *bs, blob_id id, uint64_t *loc);
void segment_unpin(struct segment *seg);
/* What was stored is not there any more, and won't be. */
static inline bool is_damage(int r)
{
	return r == -EBADMSG || r == -ENODATA || r == -ENOENT;
}
/* r, or -EBADMSG and counted if page is not what id was (INV-7). */
int blobstore_check(struct blobstore *bs, blob_id id, const struct segment *seg, const void *page, int r);
/* A serial number that was never given out under this key. */
uint64_t blobstore_next_serial(struct blobstore *bs);
/* Takes the time for the clock. */
void blobstore_tick(struct blobstore *bs);
/* The thread's processor time since then went into collecting garbage. */
void collect_spent(struct blobstore *bs, uint64_t start_ns);

static inline void segment_touch(struct blobstore *bs, struct segment *seg)
{
	uint32_t now = atomic_load_explicit(&bs->clock, memory_order_relaxed);

	if (atomic_load_explicit(&seg->used, memory_order_relaxed) != now)
		atomic_store_explicit(&seg->used, now, memory_order_relaxed);
}

/* A blob of the domain with the very bytes of page, with a reference; 0: there is
   none. Else put_new makes one. */
blob_id put_duplicate(struct blobstore *bs, struct codec *codec, const struct blobstore_source *from,
		      uint64_t hash, const void *page);
enum blobstore_result put_new(struct blobstore *bs, struct codec *codec, const struct blobstore_source *from,
			      uint64_t hash, const void *page, blob_id *id);

/* ---- blobstore_lookup.c ---- */

bool lookups_init(struct blobstore *bs);
/* Waits for reads that nobody waited for. */
void lookups_deinit(struct blobstore *bs);
/* A blob of domain with the very bytes of page, with a reference, or 0. One
   that fails its checksum is as good as none. Waits, but not long. */
blob_id find_equal(struct blobstore *bs, struct codec *codec, const struct domain *domain, uint64_t hash,
		   const void *page);

/* ---- blobstore_cluster.c ---- */

/* The page of a BLOB_PART, whose segment is pinned; not checked against its hash. 0,
   -EBADMSG or an error of the store. */
int cluster_read(struct blobstore *bs, struct codec *codec, uint64_t loc, void *page);
/* Where the cluster at loc ends in its segment. */
uint32_t cluster_end(struct blobstore *bs, uint64_t loc);
/* Of the poorest segment, while there is too much garbage: one cluster (some 300 us).
   False: there is nothing to do. Under the house lock. */
bool cluster_collect(struct blobstore *bs);
void cluster_deinit(struct blobstore *bs);

/* ---- blobstore_fetch.c ---- */

/* A frame and its tag, as read from a sealed segment: decrypted into frame. */
int blobstore_open(struct seal *seal, const struct segment *seg, uint64_t loc, const void *bytes, void *frame);
/* ... and decompressed. */
int blobstore_unseal(struct blobstore *bs, struct seal *seal, struct codec *codec, const struct segment *seg,
		     blob_id id, uint64_t loc, const void *bytes, void *page);

/* ---- blobstore_encode.c: how a page becomes a frame, and back ---- */

struct encoded {
	unsigned kind;
	uint32_t len;
	blob_id base;	/* BLOB_DELTA: with a reference for the blob; else 0 */
	bool with_dict; /* it is packed with until encode_done */
	uint32_t dict;
	uint32_t plain; /* bytes without a dictionary, where that was tried too; 0: not */
};

/* The frame in buf, which has room for BLOBSTORE_FRAME_MAX bytes. False: it does
   not compress. encode_done must follow in either case. */
bool encode(struct blobstore *bs, struct codec *codec, const struct blobstore_source *from,
	    uint64_t hash, const void *page, unsigned char *buf, struct encoded *e);
/* Under the lock: the blob has become id (which is its base's other end), or
   nothing (0). */
void encode_done(struct blobstore *bs, const struct blobstore_source *from, struct encoded *e,
		 blob_id id);
/* The page as it is, where encode has failed or was not worth trying, if a slow
   tier can take it soon. */
bool encode_raw(struct blobstore *bs, const struct domain *domain, const void *page, unsigned char *buf,
		struct encoded *e);
/* The blob's number goes into the frame of a difference. Under the lock. */
void encode_name(unsigned char *buf, const struct encoded *e, blob_id id);
/* The page at loc, whose segment is pinned; not checked against its hash. */
int read_page(struct blobstore *bs, struct codec *codec, blob_id id, uint64_t loc, void *page);
/* The same from its frame. 0 or -EBADMSG or an error of the store. */
int decode(struct blobstore *bs, struct codec *codec, blob_id id, uint64_t loc, const void *frame,
	   void *page);
/* The blob that a reader of id needs the frame of: id, or what it is the
   difference to. */
blob_id decode_from(struct blobstore *bs, blob_id id);
/* A difference from its base's page. 0 or -EBADMSG. */
int decode_delta(struct blobstore *bs, struct codec *codec, blob_id id, const void *base, void *page);
/* The blob that id is the difference to, 0 where that can't be told. */
blob_id delta_base(const void *frame, uint32_t len, blob_id id);

/* ---- blobstore_family.c ---- */

/* Under the lock: what to make a page's frame from. The dictionary's number (the
   caller is to end packing with it), or -1; a blob to differ from, or 0 (a
   reference is the caller's). */
int family_dict(struct blobstore *bs, const struct family *family, bool hurry);
blob_id family_base(struct blobstore *bs, const struct blobstore_source *from);
/* Under the lock: a page has become this blob, by itself (no difference). */
void family_stored(struct blobstore *bs, const struct blobstore_source *from,
		   const struct encoded *e, blob_id id);
/* Takes the lock itself: the page was there already, as this blob. */
void family_duplicate(struct blobstore *bs, const struct blobstore_source *from, blob_id id);
/* Under the lock: the dictionary of some family of that domain, -1: none has one. */
int family_any_dict(const struct blobstore *bs, uint32_t domain);
/* Under the lock: a blob of this kind is there, is there no more. */
void kind_use(struct blobstore *bs, unsigned kind);
void kind_unuse(struct blobstore *bs, unsigned kind);

/* ---- blobstore_room.c ---- */

void room_init(struct blobstore *bs);
void room_deinit(struct blobstore *bs);
/* For whoever has found the first tier full. True: there may be room now. */
bool room_make(struct blobstore *bs);
/* The mover has come round. Under the carry lock. */
void room_answer(struct blobstore *bs);

/* ---- blobstore_down.c; under the carry lock ---- */

bool mover_init(struct blobstore *bs);
void mover_deinit(struct blobstore *bs);
/* There is a lower tier that takes what comes from a domain in the first one.
   Under the lock. */
bool mover_has_way_down(struct blobstore *bs, uint32_t tenant);
/* One batch of what has to move. True: there is more to do. */
bool mover_step(struct blobstore *bs);
/* Makes room in the first tier, whatever its marks say: at least one segment.
   False: it can't. */
bool mover_make_room(struct blobstore *bs);
/* It has no victim any more. Under both locks. */
static inline void mover_let_go(struct blobstore *bs)
{
	if (bs->mover.victim)
		atomic_fetch_sub(&bs->segments[bs->mover.victim - 1].readers, 1);
	bs->mover.victim = 0;
}
/* The victim, or one before it, could not be moved: it is begun anew from what is left then. Under
   both locks. */
void mover_give_up(struct blobstore *bs, uint32_t victim);

/* ---- blobstore_gather.c; under the carry lock ---- */

/* Into the next batch, as much of the victim as it takes. True: that was all of it. */
bool mover_gather(struct blobstore *bs);
/* One frame, read and decrypted; waits. */
int mover_read_frame(struct blobstore *bs, const struct segment *seg, uint64_t loc, void *frame);

/* ---- blobstore_out.c; under the carry lock ---- */

bool outgoing_init(struct blobstore *bs);
/* Waits for those on their way; may be repeated. */
void outgoing_deinit(struct blobstore *bs);
/* Nothing is on its way, nor has to be: gives back the buffers' memory. */
void outgoing_rest(struct blobstore *bs);
/* Where the next batch is put together. */
static inline struct outgoing *outgoing_next(struct mover *m)
{
	return &m->out[(m->first_out + m->used_out) % m->nr_out];
}
/* Sends the batch that has been put together on its way. False: it could not be
   begun; everything is where it was. */
bool outgoing_start(struct blobstore *bs);
/* Waits until another one may be begun. False: one failed. */
bool outgoing_make_place(struct blobstore *bs);
/* The segment may be the mover's victim again, unless it is, or some of it is on its way:
   what is, must not be written a second time. Under both locks. */
void outgoing_settle(struct blobstore *bs, uint32_t segment);
/* Waits for the oldest one. False: it failed; none is on its way then. */
bool outgoing_finish(struct blobstore *bs);
/* The mover has tried, at r: whether the tier takes something. */
void tier_note_write(struct tier *t, int r);

/* ---- blobstore_daily.c ---- */

/* What daily= leaves for now; UINT64_MAX: any number. Any thread. */
uint64_t tier_daily_left(const struct tier *t, uint64_t now);
/* So much is written. Under the carry lock. */
void tier_daily_note(struct tier *t, uint64_t bytes);
/* From the medium, and to it: before there are other threads, and after them. */
void tier_daily_load(struct tier *t);
void tier_daily_save(struct tier *t);

/* ---- blobstore_share.c; under the carry lock ---- */

/* secret: of KeyFile=; none: nothing is shared. False on ENOMEM. */
bool share_init(struct blobstore *bs, const void *secret, size_t len);
void share_deinit(struct blobstore *bs);
/* Of the frames in out from `from` on, those that other hosts have stored are
   taken from there, and leave it. */
void share_frames(struct blobstore *bs, struct outgoing *out, uint32_t from);
/* Puts frames behind those of a batch, for others to understand it. */
void share_name(struct blobstore *bs, struct outgoing *out);
/* The batch is there: others may have it. */
void share_tell(struct blobstore *bs, const struct outgoing *out);

/* ---- blobstore_segment.c ---- */

/* A row for a segment that was borrowed, with what its batches say of it; plus
   one, 0: no room, or the domain owes nothing any more. Takes the lock itself. */
uint32_t segment_borrowed(struct blobstore *bs, uint32_t tenant, uint32_t tier, uint32_t carrier,
			  uint64_t serial, const struct seal_key *key);
/* A batch is not on its way into it any more. Under the lock. */
void segment_arrived(struct blobstore *bs, uint32_t segment);

/* ---- blobstore_cold.c ---- */

void cold_deinit(struct blobstore *bs);

/* ---- blobstore_up.c ---- */

/* Brings up what blobstore_want has asked for; under the carry lock. True: there is
   more. */
bool promote_step(struct blobstore *bs);

/* ---- blobstore_health.c ---- */

/* What is wrong with a tier, into t. Under the lock. */
void health_describe(struct tier *tier, struct blobstore_tier *t);
/* Tries whether what failed works again: a tier comes back though nobody uses it.
   Under the carry lock. */
void health_probe(struct blobstore *bs);
/* n pages of a tier were found damaged, or gone. */
void health_corrupt(struct blobstore *bs, struct tier *tier, uint64_t n);

/* ---- blobstore_work.c ---- */

/* A record of the memory form at offset, header and frame, in buf; its size, 0
   when it makes no sense. */
uint32_t record_read(struct blobstore *bs, uint32_t segment, uint32_t offset, struct record *record,
		     unsigned char *buf);
/* More than is bearable in the first tier. Under the lock. */
bool too_much_garbage(const struct blobstore *bs);
/* The blob still lives at loc. Under the lock. */
bool record_is_live(struct blobstore *bs, blob_id id, uint64_t loc);

/* ---- blobstore_segment.c; under the lock ---- */

/* Makes sure that the domain has its row. 0 or -ENOMEM. */
int segment_tenant(struct blobstore *bs, const struct domain *domain);
/* It can have one more segment; see segment_open for `last`. */
bool tier_has_room(const struct tier *t, bool last);
/*
 * A new open segment of the domain for a stream, in its tier. `last` allows to
 * use the store's last free segment, kept for compaction. 0 or the store's error.
 */
int segment_open(struct blobstore *bs, const struct domain *domain, unsigned stream, bool last);
/*
 * Appends a record, size bytes with its frame, to the domain's open segment of that stream, one
 * of the first tier, and counts it as live. 0 or the store's error.
 */
int segment_append(struct blobstore *bs, struct domain *domain, enum stream stream,
		   const void *bytes, uint32_t size, bool last, uint64_t *loc);
/* size bytes more of the segment are in use, by a blob of that kind. The domain
   owes them. */
void segment_count(struct blobstore *bs, struct domain *domain, uint32_t segment, unsigned kind,
		   uint32_t size);
/* The record at loc is no longer live. The domain may be gone after the
   uncharge that must follow. */
void segment_drop(struct blobstore *bs, uint64_t loc);
void segment_seal(struct blobstore *bs, uint32_t segment);
/* Sealed, and nothing lives in it: it waits to be given back (segment_free_empty). */
void segment_empty_if_done(struct blobstore *bs, uint32_t segment);
/* It was sealed for the mover, which has given it up: what is left of its room is used, if nothing
   else of its stream is open. */
void segment_reopen(struct blobstore *bs, uint32_t segment);
/* Gives EMPTY segments without readers back, those of the first nr tiers; true if
   there were any. Takes the lock itself; below the first tier it may have to wait. */
bool segment_free_empty(struct blobstore *bs, unsigned nr);

/* Bytes of a segment: the store's own if it maps them, else read into buf;
   NULL and -errno in *error. No lock needed, but a reason why they stay. */
const void *segment_bytes(struct blobstore *bs, uint32_t segment, uint32_t offset, uint32_t len,
			  void *buf, int *error);

static inline struct tier *tier_of(struct blobstore *bs, const struct segment *seg)
{
	return &bs->tiers[seg->tier];
}

/* What a blob takes up in its segment. */
static inline uint32_t record_size(uint64_t loc)
{
	if (blob_loc_kind(loc) == BLOB_PART)
		return blob_part_bytes(loc);
	return (uint32_t)sizeof(struct record) + blob_loc_len(loc);
}

#endif
