/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The engine's inside: its threads and what they share. Included by
 * agent/engine/ only.
 *
 * Threads and what they have:
 *   control   struct engine: the list of sessions, handshakes, orders, news
 *   owners    struct owner_thread: fault handling; see flow/flow.h
 *   worker    struct worker: plans evictions, talks with the movers
 *   packers   struct packers: the queue of staged batches, under its mutex
 */
#ifndef USWAP_ENGINE_PRIVATE_H
#define USWAP_ENGINE_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "engine/engine.h"
#include "flow/flow.h"
#include "flow/order.h"
#include "policy/policy.h"
#include "common/kept.h"
#include "common/layout.h"
#include "common/util.h"
#include "proc/record.h"
#include "proc/session.h"

#define OWNERS_MAX 16
#define ENGINE_KEY_MAX 4096 /* of KeyFile='s bytes */
#define OWNER_NODES 192u /* of slots, ready where it begins: its pool's first step, 1 MiB */
#define PACKERS_MAX 16

enum { /* mail.kind beside those of batches and orders */
	MAIL_STOP = 2,
	MAIL_VERIFIED = 4, /* to the engine: verify_done */
	MAIL_POLICY = 3, /* to the worker: engine->policy has changed */
};

struct owner_thread {
	struct owner owner;
	pthread_t thread;
	bool started;
	struct mail stop;
	_Atomic uint64_t rounds; /* of its loop */
	uint64_t rounds_seen, seen_ns; /* engine: and when they had become more */
};

struct packers {
	struct flow *flow;
	pthread_mutex_t lock; /* all below */
	pthread_cond_t more;
	struct batch *head, **tail;   /* by due time */
	struct batch *urgent;	      /* now */
	struct batch *shared;	      /* taken last, of which there may be more to pack; with slow stores */
	uint64_t house_due_ns;
	uint64_t cold_due_ns, collect_due_ns; /* under housekeeping */
	bool stop;
	bool held_back; /* some wait for a dictionary */
	unsigned nr_waiting; /* for more */
	pthread_mutex_t housekeeping; /* one at a time */
	pthread_t threads[PACKERS_MAX];
	unsigned nr;
	int level;
	/* Where there are slow stores: what may have to wait for one of them has a
	   thread of its own. */
	pthread_t carrier;
	bool has_carrier;
	pthread_cond_t need; /* of room, or its end; under lock */
	bool needed;
};

/* Threads that unpack ahead of the owners (flow/unpack.h). */
#define HELPERS_MAX 2
struct helpers {
	struct flow *flow;
	struct unpack_pool pool;
	struct unpack *rings[OWNERS_MAX];
	unsigned nr_rings;
	int level;
	_Atomic bool stop;
	pthread_t threads[HELPERS_MAX];
	unsigned nr;
};

struct worker {
	struct flow *flow;
	struct packers *packers;
	int epoll;
	struct session *sessions;
	struct batch *free_batches;
	uint64_t reserved; /* staging pages for batches that are not pulled yet */
	uint64_t next_due_ns;
	struct mail stop, changed;
	bool stopping;
	pthread_t thread;
	bool started;
	struct policy policy; /* own copy */
	uint64_t scan_ns, grace_ns;
	uint64_t next_trim_ns;
	uint64_t own_due_ns; /* when to look at the agent's control group again */
	bool own_full;	     /* it has no room for more pages */
	/* handed over with MAIL_POLICY */
	pthread_mutex_t lock;
	struct settings_policy wanted;
};

/* A connection in the middle of its handshake. */
struct attaching;

/* A fork child's hello, on its way through the owner. */
struct adoption {
	struct attaching *connection; /* NULL when it has gone meanwhile */
	struct session_fds fds;
	struct wire_attach attach;
	struct wire_gate *gate;
	uint64_t token;
	pid_t pid;
	bool done; /* the owner took it */
};

/* The engine's totals, as they are kept; in which order, says totals.c. */
#define TOTALS_AGENT 24
#define TOTALS_TIER 20
struct totals {
	uint64_t agent[TOTALS_AGENT];
	struct {
		char name[16];
		uint64_t v[TOTALS_TIER];
	} tiers[ENGINE_TIERS];
};

struct engine {
	struct settings settings;
	struct engine_news news;
	struct store *stores[SETTINGS_STORES + 1]; /* the fastest first */
	unsigned nr_stores;
	unsigned char secret[ENGINE_KEY_MAX]; /* of KeyFile=, from stores_open until stores_join */
	ssize_t secret_len; /* 0: there is none */
	struct flow flow;
	struct record_table records;
	struct kept rings;
	void *zeros;
	struct owner_thread owners[OWNERS_MAX];
	unsigned nr_owners;
	unsigned next_owner;
	struct worker worker;
	struct packers packers;
	struct helpers helpers;
	int epoll;  /* engine_fd */
	int timer;
	int device; /* /dev/userfaultfd */
	struct session *sessions; /* newest first */
	uint32_t nr_sessions;
	uint32_t nr_ending; /* unlisted, not freed yet */
	struct attaching *attaching;
	unsigned nr_attaching;
	uint64_t attach_refused;
	uint64_t nr_orders; /* not finished */
	struct verification *verification; /* verify.c; NULL: none is under way */
	struct totals before; /* what workers before this one have told */
	bool enabled;
	uint64_t full_logged_ns;
	uint64_t safe_due_ns; /* when to ask again whether descriptors are safe */
	uint64_t unkept_due_ns; /* when to say again that one has no room */
	bool draining, drained;
	uint64_t user_max, process_max;
};

/* owner.c */
int owner_start(struct owner_thread *t);
void owner_stop(struct owner_thread *t);
/* When stores have no thread any more: one may be waking an owner still whose read
   it has ended. */
void owner_free(struct owner_thread *t);
void owner_adopt(struct owner *o, struct session *s);
/* All but the thread; owner_stop undoes it. index and ring are the caller's to set
   (a ring that is NULL becomes one that isn't kept). 0 or negative errno. */
int owner_open(struct owner *o, struct flow *flow, int level);
/* What the thread does each time round, after the faults; one by one for a test
   that schedules it. */
/* False: stop. */
bool owner_take_mail(struct owner *o);
/* One slice of each job. Returns how long to sleep at most, in ms. */
int owner_run_jobs(struct owner *o);
void owner_commit_deferred(struct owner *o);
/* Sessions whose events are not all in are looked at again soon. */
void owner_settle(struct owner *o);
/* Processes without a mover end without a sign: looks whether they are there. */
void owner_probe(struct owner *o);

/* worker.c */
int worker_start(struct worker *w, struct packers *packers);
void worker_set_policy(struct worker *w, const struct settings_policy *policy);
void worker_stop(struct worker *w);
void worker_take_mail(struct worker *w);
/* quota.c: what may leave a program before the next look, and whether an order
   for it goes on: s->quota, s->forced, and the room in its control group. */
void quota_set(struct worker *w, struct session *s, uint64_t now);
/* No store has had room for its pages of late. */
bool quota_is_store_full(const struct session *s, uint64_t now);

/* evictor.c: the worker's per-session part */
void evictor_tick(struct worker *w, struct session *s, uint64_t now);
void evictor_next(struct worker *w, struct session *s);
void evictor_returned(struct worker *w, struct batch *b);
void evictor_message(struct worker *w, struct session *s);
/* One of its batches has been packed. */
void evictor_done(struct worker *w, struct session *s);
void evictor_check_order(struct worker *w, struct session *s);
void evictor_alone(struct worker *w, struct session *s);
/* Looks for what a dead worker's batches have left in transit, lane by lane. */
void evictor_salvage(struct worker *w, struct session *s);
void evictor_leave(struct worker *w, struct session *s);
void worker_end_session(struct worker *w, struct session *s);
void worker_reuse(struct worker *w, struct batch *b);
struct batch *worker_take_batch(struct worker *w);

/* packer.c */
int packers_start(struct packers *p, struct flow *flow, unsigned nr, int level);
void packers_stop(struct packers *p);
void packers_add(struct packers *p, struct batch *b, bool urgent);
/* The next batch to pack, or NULL. */
struct batch *packers_take(struct packers *p, uint64_t now);
/* Packs what is queued of a session without waiting for its grace time. */
void packers_hurry(struct packers *p, const struct session *s);

/* helper.c */
/* How many there are to be: none where there is one processor. Before owners are
   opened. */
unsigned helpers_init(struct helpers *h, struct flow *flow);
/* For owners that are open. 0 or negative errno; stop takes what a failed start left. */
int helpers_start(struct helpers *h, struct engine *e, unsigned nr);
void helpers_stop(struct helpers *h);

/* attach.c */
void attach_accept(struct engine *e, int connection);
void attach_event(struct engine *e, struct attaching *a);
void attach_expire(struct engine *e, uint64_t now);
void attach_adopted(struct engine *e, struct session *s);
void attach_cancel_all(struct engine *e);
/* ATTACHED, with the gate and its event. 0 or negative errno. */
int attach_tell(const struct session *s, int sock);
/* The process behind a pidfd has not ended. */
bool attach_is_running(int pidfd);

/* again.c: movers whose agent has gone */
/* There is a session of that token. */
bool again_is_known(const struct engine *e, uint64_t token);
/* A session made for such a mover, with the descriptors and the ATTACH it has sent:
   whose it is by the pidfd it has passed, and what can be known of it. 0 or negative
   errno. */
int again_fill(struct session *s, int passed);
/* Now that the files of that process are open: are they its? Takes *passed in the place
   of the peer's own pidfd. 0 or negative errno. */
int again_vouch(const struct session *s, pid_t mover, int *passed, int *pidfd);
/* What is registered of it; before anybody serves it. */
void again_learn(struct session *s);
/* Says what has become of it. */
void again_report(struct session *s);

/* recover.c: what a dead worker has left */
/* How many owners it had sessions for. */
unsigned recover_owners(const struct engine *e);
/* Before there are other threads. 0 or negative errno. */
int recover_begin(struct engine *e, struct batch **batches);
/* The threads are there. */
void recover_end(struct engine *e, struct batch *batches);
static inline int rings_open(struct kept *rings)
{
	return kept_open_since(rings, "events", OWNERS_MAX * PAGE_BYTES, LAYOUT_EVENTS_OLDEST, LAYOUT_EVENTS);
}
_Static_assert(sizeof(struct owner_ring) <= PAGE_BYTES, "one page each");
static inline struct owner_ring *ring_at(const struct kept *rings, unsigned i)
{
	return (struct owner_ring *)(void *)((char *)rings->base + i * PAGE_BYTES);
}

/* descriptors.c: what a record's i-th descriptor is called outside, with *number. */
char descriptors_name(const struct record_table *records, const struct record *record, unsigned i, unsigned *number);

/* registry.c: the list of sessions */
void registry_add(struct engine *e, struct session *s);
bool registry_keep_fork(void *ctx, const struct session *parent, unsigned name, int uffd); /* flow->keep_fork */
void registry_notice(struct engine *e, struct session *s);
/* Logs what the threads that must not log have counted. */
void registry_report(struct engine *e, uint64_t now);
struct session *registry_find(struct engine *e, uint64_t id);
/* What has been counted, and whose descriptors are safe, for the next worker; now and
   then. */
void registry_keep(struct engine *e);

/* totals.c */
/* What workers before this one have told of the engine's totals. */
void totals_find(struct engine *e);
/* The same, with this one's; kept for the next. */
void totals_add(struct engine *e, struct engine_stats *stats);

/* domains.c: a session's trust domain, family and account. 0 or -ENOMEM. */
int domains_join(struct engine *e, struct session *s);
/* ... after a death, as its record says */
int domains_rejoin(struct engine *e, struct session *s);
/* It has changed its user, and nothing of it is under way. */
void domains_part(struct engine *e, struct session *s);
/* Nobody uses the session any more. */
void domains_leave(struct engine *e, struct session *s);

/* stores.c: what Store= and KeyFile= say */
/* False after logging why. */
bool stores_open(struct engine *e);
void stores_close(struct engine *e);
struct blobstore *stores_join(struct engine *e, uint32_t max_blobs);
uint64_t stores_capacity(const struct engine *e);

/* Gives the session's descriptors into safe keeping, those that are not there yet.
   0 or -ENOSPC. */
int engine_keep_fds(struct engine *e, struct session *s);
/* ... and out of it, before its record is another's. */
void engine_forget_fds(struct engine *e, struct session *s);
/* engine.c: what people have set for a process */
void engine_switch(struct session *s, bool enabled, uint64_t limit_bytes);

/* verify.c */
void verify_done(struct engine *e);
void verify_stop(struct engine *e);

/* order.c */
void orders_done(struct engine *e, struct order *order);

#endif
