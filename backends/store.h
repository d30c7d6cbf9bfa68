/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A store carries segments: STORE_SEGMENT bytes, written once at explicit
 * offsets, read by range, freed whole. It knows nothing of pages, blobs or
 * processes. Every call goes through the store_*() wrapper, which checks
 * arguments and states (an offset is written at most once, a freed segment is
 * never touched), counts and takes the time; backends implement struct
 * store_ops.
 *
 * Threads: any, concurrently; a segment is written by one thread at a time.
 * Errors are negative errno, forwarded unchanged. Of them, callers tell apart:
 *	-ENOSPC, -EDQUOT    full: a state, not an error; reads and frees work
 *	-ETIMEDOUT	    of a write: it may have landed or land yet. Only the
 *			    same bytes may be written there again
 *	-ENODATA, -ENOENT   of a read: the bytes are not there (any more)
 *	-EINVAL		    a mistake of the caller's
 *	others		    the medium or the way to it fails
 */
#ifndef USWAP_BACKENDS_STORE_H
#define USWAP_BACKENDS_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STORE_SEGMENT ((size_t)4 << 20)
#define STORE_SEGMENTS_MAX ((uint32_t)1 << 20) /* 4 TiB: a store, and all of Store= together */

/* Of so many bytes, but no more than a store can have. */
static inline uint64_t store_part_of(uint64_t bytes, double share)
{
	const uint64_t most = STORE_SEGMENTS_MAX * (uint64_t)STORE_SEGMENT;
	uint64_t part = (uint64_t)((double)bytes * share);

	return part < most ? part : most;
}

/* A direct read takes whole blocks: up to so much before and after the range
   asked for. Buffers of reads and writes lie on such a border. */
#define STORE_BLOCK ((size_t)4096)
#define STORE_READ_ROOM(len) ((((len) + STORE_BLOCK - 1) & ~(STORE_BLOCK - 1)) + STORE_BLOCK)

struct store;

enum store_caps {
	/* map() answers, and what it shows is as good as memory. A store without
	   it is slow: fault threads read from it by store_read_submit only. */
	STORE_MAPPED = 1 << 0,
	/* On another machine. A read may take for ever, and what is written can
	   be seen by others. */
	STORE_REMOTE = 1 << 1,
};

/* Errors by what can be done about them. */
enum store_error_kind {
	STORE_ERROR_IO,	     /* -EIO and what has no line of its own */
	STORE_ERROR_SPACE,   /* -ENOSPC, -EDQUOT: counted, though no error */
	STORE_ERROR_TIMEOUT, /* -ETIMEDOUT, -ECANCELED */
	STORE_ERROR_ACCESS,  /* -EACCES, -EPERM, -EROFS */
	STORE_ERROR_MISSING, /* -ENODATA, -ENOENT */
	STORE_ERROR_MISUSE,  /* -EINVAL */
	STORE_ERROR_KINDS
};
const char *store_error_name(enum store_error_kind kind);

/* Bucket i counts calls that took less than 2^(i+10) ns, the last one the
   rest (over half a minute). */
#define STORE_LATENCY_BUCKETS 26

struct store_latency {
	uint64_t count;
	uint64_t total_ns;
	uint64_t bucket[STORE_LATENCY_BUCKETS];
};
/* The bound that a share (0..1) of the calls kept; 0: there were none. */
uint64_t store_latency_quantile_ns(const struct store_latency *latency, double share);

struct store_stats {
	uint64_t capacity_bytes; /* whole segments the store may hold */
	uint64_t used_bytes;	 /* memory or disk really taken */
	uint64_t segments;
	uint64_t written_bytes_total;
	uint64_t read_bytes_total;
	uint64_t errors_total; /* all kinds but STORE_ERROR_SPACE */
	uint64_t error_total[STORE_ERROR_KINDS];
	uint32_t reads_pending; /* submitted, not done */
	uint32_t writes_pending; /* begun, not waited for */
	struct store_latency read, write; /* of slow stores */
};

/* How it stands with a store that can be away. */
enum store_state {
	STORE_UP,
	STORE_CONNECTING, /* nothing is known yet */
	STORE_AWAY,	  /* no answer in time */
	STORE_FULL,	  /* reading and freeing go on */
	STORE_DENIED,	  /* we may not */
	STORE_GONE,	  /* what held our bytes is not there any more */
	STORE_CLASH,	  /* another machine goes by our name */
	STORE_STATES
};
const char *store_state_name(enum store_state state);

#define STORE_REASON 192

struct store_status {
	enum store_state state;
	char reason[STORE_REASON]; /* for people; up: "", but for what hangs all the same */
	uint64_t oldest_read_ns;   /* how long the oldest pending read has waited */
};

/*
 * One asynchronous read, embedded in what it is for. The caller fills the first
 * part and leaves all of it alone until done() has been called: exactly once,
 * by any thread (also by the submitting one before store_read_submit returns).
 * done() must only hand over: no lock that a reader might hold, no I/O, no
 * store call.
 */
struct store_read {
	uint32_t segment;
	uint32_t offset;
	uint32_t len;
	void *buf; /* STORE_READ_ROOM(len) bytes, on a border of STORE_BLOCK */
	void (*done)(struct store_read *read);
	/* set when done is called */
	int result;	  /* 0 or negative errno; never a part of the bytes */
	const void *data; /* len bytes, somewhere in buf */

	/* the wrapper's */
	struct store *store;
	uint64_t start_ns;
	/* the backend's, from submit until it calls store_read_done */
	struct store_read *next;
	uintptr_t private[2];
};

/*
 * One write that is waited for later, so that several are under way at a time.
 * Embedded in what it is for; all of it and the bytes stay as they are from
 * store_write_start until store_write_wait, both by one thread at a time, which
 * waits for those of one segment in the order in which they began.
 */
struct store_write {
	uint32_t segment;
	uint32_t offset;
	uint32_t len;
	const void *buf;

	/* the wrapper's */
	uint64_t start_ns;
	int result; /* other than 0: it has ended already */
	/* the backend's */
	void *private;
};

/*
 * What has been written to a medium lately, so that what is bound by a day (daily=)
 * outlives whoever counts it.
 */
#define STORE_HOURS 25
struct store_written {
	uint64_t hour_began; /* the last one: seconds of the wall clock */
	uint64_t bytes[STORE_HOURS]; /* in that hour, in the one before, ... */
};

/*
 * Sharing between hosts. An index, common to all who use the place, says where
 * pages may be that are like ours; a segment of another host can be borrowed: it
 * is read like our own, never written, and stays until it is freed here, whatever
 * becomes of its owner. The index only hints: what it says may be wrong, out of
 * date or not there, and is told to nobody but who asks.
 */
#define STORE_KEY 16   /* of the index: whose pages these are is in it */
#define STORE_WHERE 96 /* names a segment, of any host */

struct store_hint {
	unsigned char key[STORE_KEY];
	char where[STORE_WHERE]; /* "": not found */
	uint32_t number;	 /* the user's: which part of it */
};

/* All of it waits, for half a second at most, and is for threads that may; one
   at a time. */
struct store_share_ops {
	void (*publish)(void *self, uint32_t segment, const struct store_hint *hints, unsigned n);
	/* Fills in where and number. */
	void (*find)(void *self, struct store_hint *hints, unsigned n);
	/* It was wrong. */
	void (*forget)(void *self, const struct store_hint *hint);
	/* Bytes of a segment that need not be ours: how many, or negative errno. */
	int (*read)(void *self, const char *where, size_t offset, void *buf, size_t len);
	int (*borrow)(void *self, const char *where, uint32_t *segment);
	/* Something small under a key, for all; there for a week at least, unless the
	   place is given up. get: how many bytes, or negative errno. */
	int (*put)(void *self, const unsigned char *key, const void *buf, size_t len);
	int (*get)(void *self, const unsigned char *key, void *buf, size_t len);
};

struct store_ops {
	const char *name;
	unsigned caps; /* enum store_caps */
	/* Waits for no medium and no peer: it is called under locks. 0, -ENOSPC, ... */
	int (*segment_new)(void *self, uint32_t *segment);
	/* All of it or an error; after one, the same bytes may come again. */
	int (*write)(void *self, uint32_t segment, size_t offset, const void *buf, size_t len);
	/* About so many bytes more will come soon. Any thread, at any time; NULL: no use. */
	void (*expect)(void *self, uint64_t bytes);
	/* Both or none. start waits for no answer; wait ends it, and has by then
	   repeated it as often as there is hope. None: written when waited for. */
	void (*write_start)(void *self, struct store_write *write);
	int (*write_wait)(void *self, struct store_write *write);
	int (*read)(void *self, uint32_t segment, size_t offset, void *buf, size_t len);
	/* Memory stores only, else NULL: where the bytes are. The address stays
	   mapped for the store's life; after segment_free it reads as zeros. */
	const void *(*map)(void *self, uint32_t segment, size_t offset, size_t len);
	/*
	 * Starts a read and returns; waits for no medium and no peer. Ends in
	 * exactly one store_read_done(). NULL: the wrapper reads at once with
	 * read(), which is right for memory only.
	 */
	void (*read_submit)(void *self, struct store_read *read);
	/* The reader has no use for it any more; it may end early, with
	   -ECANCELED, and must end. NULL: reads end soon by themselves. */
	void (*read_cancel)(void *self, struct store_read *read);
	/* The segment was in use when another process of ours had the store:
	   it is again (restart of the agent). 0 or negative errno; NULL: can't. */
	int (*segment_adopt)(void *self, uint32_t segment, uint32_t written);
	/* No more are adopted: what else that process had is garbage. NULL: none. */
	void (*adopt_done)(void *self);
	void (*segment_free)(void *self, uint32_t segment);
	uint64_t (*used_bytes)(void *self);
	/* NULL: nobody else uses the place. */
	const struct store_share_ops *share;
	/* Could something be written now? Tries, and changes nothing. Waits for the
	   medium. 0 or negative errno; NULL: that can't be told. */
	int (*probe)(void *self);
	/* Kept on the medium, also when the store is closed. 0 or negative errno
	   (get: -ENODATA where nothing is known); NULL: it has no place for that. */
	int (*get_written)(void *self, struct store_written *written);
	int (*set_written)(void *self, const struct store_written *written);
	/* NULL: always up. */
	void (*get_status)(void *self, struct store_status *status);
	/* No read is pending by then. */
	void (*destroy)(void *self);
};

/* Memory: segments in one memfd of at most max_bytes (rounded down to whole
   segments, at least one). NULL and errno. */
struct store *store_memory_new(uint64_t max_bytes);

/*
 * One word of Store= (uswap.conf(5)): "memory:SIZE", "file:PATH,size=SIZE",
 * "rados:POOL...". store_check looks at the words alone; both name the bad part
 * in *error (a text of the calling thread, good until its next call here).
 */
bool store_check(const char *spec, const char **error);
struct store *store_open(const char *spec, const char **error);
/* What a word that store_check has found good may hold. */
uint64_t store_most_bytes(const char *spec);
/* Both would be in one place, and each take it for its own. */
bool store_is_same(const char *spec, const char *other);
/* Could it be opened, by somebody else? Takes nothing over and changes nothing, where
   the kind of store can tell so. 0, or negative errno and *error; but for -EINVAL, it
   may work later. */
int store_look(const char *spec, const char **error);
/* Store= holds several: the next word of *list, which moves on. False: none. */
bool store_next_word(const char **list, char *word, size_t size);
/* Waits for reads that are pending. NULL is fine; returns NULL. */
struct store *store_close(struct store *store);

/* What follows "rados:", with and without librados (rados.c, rados_stub.c). */
bool store_rados_check(const char *text, const char **error);
struct store *store_rados_open(const char *text, const char **error);
int store_rados_look(const char *text, const char **error);
/* Removes what a host has left there that will not come back; blocks. spec: a
   word of Store=. How many segments, or a negative errno and *error. */
int64_t store_collect_host(const char *spec, const char *host, const char **error);
int64_t store_rados_collect(const char *text, const char *host, const char **error);

int store_segment_new(struct store *store, uint32_t *segment);
int store_write(struct store *store, uint32_t segment, size_t offset, const void *buf, size_t len);
/* About so many bytes more will come soon: a hint. */
void store_expect(struct store *store, uint64_t bytes);
void store_write_start(struct store *store, struct store_write *write);
/* A write that timed out is repeated here: no other may take its place. */
int store_write_wait(struct store *store, struct store_write *write);
/* Somebody waits for a read, or did a moment ago: who writes in the background
   should leave it room. */
bool store_is_read(struct store *store);
int store_read(struct store *store, uint32_t segment, size_t offset, void *buf, size_t len);
const void *store_map(struct store *store, uint32_t segment, size_t offset, size_t len);
void store_read_submit(struct store *store, struct store_read *read);
void store_read_cancel(struct store *store, struct store_read *read);
/* written: how far the segment was. 0, or negative errno: its bytes are lost. */
int store_segment_adopt(struct store *store, uint32_t segment, size_t written);
void store_adopt_done(struct store *store);
void store_segment_free(struct store *store, uint32_t segment);
/* NULL, or what to call with store_backend; but borrow and publish so: */
const struct store_share_ops *store_share(const struct store *store);
int store_borrow(struct store *store, const char *where, uint32_t *segment);
void store_publish(struct store *store, uint32_t segment, const struct store_hint *hints, unsigned n);
void store_get_stats(struct store *store, struct store_stats *stats);
void store_get_status(struct store *store, struct store_status *status);
/* As in store_ops; -EOPNOTSUPP: can't be told. Not counted. */
int store_probe(struct store *store);
/* The same; -EOPNOTSUPP: it has no place for that. One thread at a time. */
int store_get_written(struct store *store, struct store_written *written);
int store_set_written(struct store *store, const struct store_written *written);
const char *store_name(const struct store *store);
unsigned store_caps(const struct store *store);
/* Bytes that may be written a day, 0: any number. Told to those who write in
   the background; the store itself does not enforce it. */
uint64_t store_daily_writes(const struct store *store);

void *store_backend(struct store *store); /* what its ops call self */

/* ---- only for backends ---- */

/* capacity in segments. NULL and errno. */
struct store *store_new(const struct store_ops *ops, void *self, uint32_t capacity);
void store_set_daily_writes(struct store *store, uint64_t bytes);
/* Ends a read; read is the caller's again. data: NULL for buf. */
void store_read_done(struct store_read *read, int result, const void *data);
/* One message per thread: the caller of store_open frees nothing. */
__attribute__((format(printf, 2, 3))) struct store *store_refuse(const char **error,
								  const char *format, ...);
/* Bytes: digits with K, M, G, T or nothing behind them. */
bool store_parse_size(const char *text, uint64_t *bytes);

#endif
