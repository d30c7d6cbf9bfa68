/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The inside of the object tier, for objects*.c alone.
 *
 * The keeper's view of the cluster, and what follows from it:
 *	CONNECTING	nothing is known yet; reads wait
 *	UP		segments are made and written
 *	AWAY		no answer in time: no new segments, reads wait
 *	FULL		no new segments; reads and removing go on
 *	DENIED		the key, or its rights: no new segments, reads wait
 *	GONE		the pool is not there: no new segments; its bytes are lost
 *	CLASH		another machine holds the lease of our name: no new segments
 * All of them end by themselves when their cause does, but for CLASH.
 */
#ifndef USWAP_BACKENDS_OBJECTS_PRIVATE_H
#define USWAP_BACKENDS_OBJECTS_PRIVATE_H

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

#include "backends/objects.h"
#include "common/kept.h"
#include "common/util.h"

#define READS_MAX 256u	/* under way; further ones queue. librados itself would
			   block a submit from 1024 on */
#define WRITE_TRIES 3	/* of the same bytes at the same place */
#define READ_TRIES_EIO 3
#define HOST_MAX 33

/* A kept table; each word is written by one aligned store. */
struct objects_own {
	uint64_t instance; /* random, never 0 */
	_Atomic uint64_t next_number;
};

#define FOREIGN_MAX 88 /* HOST.INSTANCE.NUMBER, of any host */

struct objects_row {
	_Atomic uint64_t number; /* 0: not in use */
	char foreign[FOREIGN_MAX]; /* borrowed: whose; "": our own. Before number */
};
_Static_assert(sizeof(struct objects_row) == 96, "96 bytes a segment");

enum created {
	CREATED_NOT,
	CREATED_PERHAPS, /* a write that makes it is under way, or may have landed */
	CREATED,
};

enum slot_step { READ_FREE, READ_SENT, READ_RETRY };

/* A read under way, or waiting to be sent again. Under reads.lock. */
struct read_slot {
	struct object_io io;
	struct objects *objects;
	struct store_read *read;
	char name[OBJECT_NAME_MAX];
	uint64_t retry_ns;
	enum slot_step step;
	uint8_t eio;	 /* answers of -EIO so far */
	uint16_t holds;	 /* somebody uses io outside of the lock */
	bool ended;	 /* done has come while somebody held it */
	bool cancelled;	 /* the reader wants it no more */
	bool sending;	 /* whoever submits it sees to what comes meanwhile */
	uint32_t connection; /* the one it was sent on */
};

struct reads {
	pthread_mutex_t lock; /* a few instructions at a time (INV-2) */
	struct read_slot *slots;
	struct store_read *queue, **queue_tail; /* for a slot */
	uint32_t nr_sent;
};

struct pending_write;

/* Writes that have not been sent yet. */
struct writes {
	pthread_mutex_t lock;
	struct pending_write *queue, **queue_tail;
	unsigned under_way; /* operations */
	bool sending;	    /* somebody takes from the queue until it is empty */
};

struct objects {
	const struct objstore_ops *ops;
	void *self;
	char host[HOST_MAX];
	char where[96];
	char cookie[64];
	char prefix[64]; /* "s.HOST.INSTANCE." */
	char lease[48];	 /* "h.HOST" */
	unsigned timeout_ms;
	uint64_t pause_ns; /* before what has failed is tried again */
	uint32_t capacity;

	struct kept kept;
	struct objects_own *own;
	struct objects_row *rows; /* by segment; kept */
	_Atomic uint8_t *created;  /* by segment: enum created */
	_Atomic uint32_t *written; /* by segment: bytes */
	_Atomic uint64_t held_bytes; /* their sum */

	struct reads reads;
	struct writes writes;

	pthread_mutex_t lock; /* all that follows, unless it is atomic */
	pthread_cond_t changed;
	uint32_t *free;	      /* a stack of nr_free segments */
	uint32_t nr_free;
	uint32_t nr_fresh;    /* from here on none was ever used */
	uint32_t *dying;      /* a stack of segments whose object must go */
	uint32_t nr_dying;
	enum store_state state;
	char reason[STORE_REASON];
	bool look;	      /* a read found nothing: is the pool there? */
	bool reconnect;	      /* the connection is no good any more */
	bool stop;	      /* the keeper is to end */
	bool ended;	      /* it has */
	_Atomic bool adopted; /* the first new segment has been asked for */
	_Atomic uint32_t connection; /* counts them */
	pthread_t keeper;
	bool keeper_runs;

	/* the keeper's own */
	uint64_t lease_due_ns, lease_seen_ns, open_due_ns;
	unsigned open_failures;
	unsigned unanswered; /* calls for the lease, in a row */
	bool leased;
	enum store_state told;	   /* logged */
	char **dead;		   /* names of objects to remove: of other instances */
	size_t nr_dead, max_dead;
	bool swept_others, swept_ours;
	uint64_t sweep_due_ns;	   /* again, for the index */
	_Atomic uint64_t sweep_ours_ns; /* anybody's: ours are due; 0: they are not */
	/* of those who share, one thread at a time */
	uint64_t share_rest_ns; /* the index was slow: not asked before */
};

static inline uint64_t objects_number(const struct objects *o, uint32_t segment)
{
	return atomic_load(&o->rows[segment].number);
}

/* objects.c */
/* The object that holds a segment, and of a borrowed one the tag and, with "r."
   in front, the object that says so. */
void objects_name(const struct objects *o, uint32_t segment, char *name);
void objects_tag(const struct objects *o, uint32_t segment, char *tag);
/* A segment without an object; its number is given by objects_use. */
int objects_take(struct objects *o, uint32_t *segment);
void objects_use(struct objects *o, uint32_t segment, const char *foreign);
/* The keeper removes what there is of it. */
void objects_drop(struct objects *o, uint32_t segment);
/* Sets state and reason; wakes the keeper where that is news for it. */
__attribute__((format(printf, 3, 4))) void objects_set_state(struct objects *o,
							     enum store_state state,
							     const char *format, ...);
/* What a failed call says about the cluster. */
void objects_blame(struct objects *o, int error, const char *what);
void objects_blame_read(struct objects *o, int error);
/* What is waited for by semaphore: begun, then ended; with a timeout it is
   cancelled then. The result is as that of done(). */
struct objects_wait {
	sem_t ended;
	_Atomic int result;
};
void objects_begin(struct objects *o, struct object_io *io, struct objects_wait *w);
int objects_end(struct objects *o, struct object_io *io, unsigned timeout_ms);
/* Submits an io and waits for its end; with a timeout cancels it then. */
int objects_io(struct objects *o, struct object_io *io, unsigned timeout_ms);

/* objects_write.c */
void writes_init(struct objects *o);
void writes_deinit(struct objects *o);
int writes_now(void *self, uint32_t segment, size_t offset, const void *buf, size_t len);
void writes_start(void *self, struct store_write *write);
int writes_wait(void *self, struct store_write *write);

/* objects_read.c */
int reads_init(struct objects *o);
void reads_deinit(struct objects *o);
void reads_submit(void *self, struct store_read *read);
void reads_cancel(void *self, struct store_read *read);
/* The keeper: sends again what is due; `all` also what is not, and takes back
   what hangs on an older connection. */
void reads_resend(struct objects *o, uint64_t now, bool all);
/* How long the oldest pending one waits. */
uint64_t reads_oldest_ns(struct objects *o, uint64_t now);
int reads_now(void *self, uint32_t segment, size_t offset, void *buf, size_t len);

/* objects_share.c */
extern const struct store_share_ops objects_share;
/* The index of the epoch, and before; old ones are of no use any more. */
uint64_t objects_epoch(void);
bool objects_is_old_index(const char *name);
/* A name of a segment, as it came from elsewhere. */
bool objects_is_where(const char *where);
/* Undoes a borrowing: takes the tag off, then forgets it. tag: of "r.TAG". */
int objects_give_back(const struct objstore_ops *ops, void *self, const char *foreign, const char *tag);
/* The same by the name of the object that says so. */
int objects_give_back_by(const struct objstore_ops *ops, void *self, const char *name);

/* objects_collect.c: the cookie of a lease that is held to remove what its host has
   left. */
#define OBJECTS_COLLECTING "collecting"

/* objects_keep.c */
/* What is under way now may land unseen: the keeper looks for it, when it can't any
   more. */
void objects_sweep_later(struct objects *o);
void *objects_keeper(void *arg);

#endif
