/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A session: one address space that the agent serves.
 *
 * Who may touch what:
 *  - "const" fields are set before the session is known to any thread but the
 *    creating one (a fork child's hello sets its part later, by the owner);
 *  - "owner": the one fault thread that owns the session reads its userfaultfd
 *    and issues COPY, ZEROPAGE, POISON, WAKE, REGISTER and UNREGISTER; it alone
 *    writes slots. Fork families share an owner, since they share leaves;
 *  - "worker": the evict worker, which plans and pulls batches;
 *  - "engine": the control thread;
 *  - counters are written by the thread named, read by all.
 *
 * Life: created by the control thread (attach) or the owner (fork); ended by
 * the owner (SESSION_CLOSED), then by the worker once its last batch is back,
 * then unlisted and freed by the control thread after the owner has confirmed
 * that no mail for it is left.
 */
#ifndef USWAP_PROC_SESSION_H
#define USWAP_PROC_SESSION_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/mailbox.h"
#include "common/wire.h"
#include "page/domain.h"
#include "page/slotmap.h"
#include "proc/mappings.h"
#include "proc/quiet.h"
#include "proc/ranges.h"
#include "sys/uffd.h"

#define SESSION_LATENCY_BUCKETS 96

/* Mail whose content is a set of bits: sending again before it was read only
   adds to the set, so it needs no memory and is never queued twice. */
struct notice {
	struct mail mail;
	_Atomic uint32_t bits;
};

static inline void notice_send(struct mailbox *box, struct notice *notice, uint32_t bits)
{
	if (atomic_fetch_or(&notice->bits, bits) == 0)
		mailbox_send(box, &notice->mail);
}

static inline uint32_t notice_take(struct notice *notice)
{
	return atomic_exchange(&notice->bits, 0);
}

#define SESSION_MAIL 1u /* mail.kind of notices */

enum session_state {
	SESSION_SERVED = 0, /* no mover (yet): faults are served, nothing leaves */
	SESSION_ACTIVE,	    /* pages may leave */
	SESSION_RESTORING,  /* everything is coming back, then unregistered */
	SESSION_CLOSING,    /* references are being dropped, a slice at a time */
	SESSION_CLOSED,
};

enum session_recover {
	SESSION_RECOVERED = 0,
	SESSION_RECOVER_WAKE, /* whoever waits is to come again */
	SESSION_RECOVER_GATE, /* old orders are to be made void */
};

enum { /* notices to the owner */
	SESSION_OWN_ADD = 1 << 0,     /* start serving */
	SESSION_OWN_CHECK = 1 << 1,   /* mover or process gone: is the address space? */
	SESSION_OWN_RESTORE = 1 << 2, /* bring everything back, stay attached */
	SESSION_OWN_DETACH = 1 << 3,  /* bring everything back and let go */
	SESSION_OWN_ADOPT = 1 << 4,   /* a fork child said hello: session->adoption */
	SESSION_OWN_REVOKE = 1 << 6,  /* the mover doesn't answer: take its order back */
	SESSION_OWN_WANTED = 1 << 7,  /* bring session->wanted_vpn back */
	SESSION_OWN_DOMAIN = 1 << 8,  /* other_domain is to be its own */
	SESSION_OWN_BURY = 1 << 5,    /* unlisted: confirm that this was the last notice */
};
enum { /* notices to the worker */
	SESSION_WORK_ADD = 1 << 0,   /* poll the mover's socket */
	SESSION_WORK_CLOSED = 1 << 1, /* the owner has ended it */
	SESSION_WORK_ORDER = 1 << 2, /* session->evict_order was set */
	SESSION_WORK_ALONE = 1 << 3, /* the owner knows that the mover is dead */
	SESSION_WORK_BURY = 1 << 4,
	SESSION_WORK_ROOM = 1 << 5, /* its control group is nearly full */
	SESSION_WORK_SALVAGE = 1 << 6, /* a dead worker's batch may be in transit */
};
enum { /* notices to the engine */
	SESSION_NEWS_FORKED = 1 << 0, /* made by a fork: to be listed */
	SESSION_NEWS_STATE = 1 << 1,
	SESSION_NEWS_ADOPTED = 1 << 2,
	SESSION_NEWS_USER = 1 << 5,   /* it is another user's: a domain of its own */
	SESSION_NEWS_ENDED = 1 << 3,  /* nobody but the engine knows it any more */
	SESSION_NEWS_BURIED = 1 << 4,
};

/* Kept, in this order, but for the first two (proc/record.c): a new one goes behind
   the last, and raises LAYOUT_SESSIONS. */
struct session_counters { /* owner unless said */
	_Atomic uint64_t stored_bytes;
	_Atomic uint64_t registered_bytes;
	_Atomic uint64_t pages_out_total;
	_Atomic uint64_t pages_in_total;
	_Atomic uint64_t faults_total;
	_Atomic uint64_t refaults_total;
	_Atomic uint64_t major_total;
	_Atomic uint64_t unpack_ns_total;
	_Atomic uint64_t prefetched_total;
	_Atomic uint64_t prefetch_used_total;
	_Atomic uint64_t zero_total;
	_Atomic uint64_t duplicate_total;
	_Atomic uint64_t incompressible_total;
	_Atomic uint64_t busy_total;
	_Atomic uint64_t poisoned_total;
	_Atomic uint64_t stall_ns_total;
	_Atomic uint64_t latency[SESSION_LATENCY_BUCKETS];
	_Atomic uint64_t helped_total;
};

/* Counters with one writer need no atomic read-modify-write. */
static inline void counter_add(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
			      memory_order_relaxed);
}

static inline uint64_t counter_get(const _Atomic uint64_t *counter)
{
	return atomic_load_explicit((_Atomic uint64_t *)(uintptr_t)counter, memory_order_relaxed);
}

/* First touches that run in order get windows that grow (owner). */
#define SESSION_WAITING_MAX 64
#define SESSION_STREAMS 4
struct touch_stream {
	uint64_t next; /* vpn that would continue it */
	uint32_t window;
	uint32_t used;
};

/* Refaults that run in order are answered ahead (owner; flow/prefetch.c). */
struct ahead_stream {
	uint64_t next;	 /* vpn that would continue it; 0: none */
	uint64_t at, to; /* what is still to be placed */
	uint32_t window;
	uint32_t placed; /* pages of this window */
	uint32_t used;
	uint64_t trap; /* left away to be touched; 0: none */
};

/* What a process passed and the agent opened for it; -1 where not. */
struct session_fds {
	int uffd;
	int mem;
	int pagemap;
	int maps;
	int smaps;
	int statm;
	int tasks;
	int pidfd;
	int mover; /* the session's socket */
	int gate; /* the memfd of its page, for a worker after us */
	int gate_event;
};

#define SESSION_FDS_NONE ((struct session_fds){ -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1 })

struct batch;
struct order;
struct record;
struct record_table;

#define SESSION_ROOM_UNLIMITED INT64_MAX
#define SESSION_REASON_UFFD "it uses userfaultfd itself"
#define SESSION_REASON_ASKED "somebody asks which of its pages are written (clear_refs)"

/*
 * A process that changes its user has a trust domain of its own from then on. The
 * worker sees it, lets nothing leave any more and, with nothing under way, tells
 * the engine, which makes the domain; the owner takes it over.
 */
enum session_user { SESSION_USER_SAME, SESSION_USER_CHANGED, SESSION_USER_PRIVATE };

/* A new worker raises the generation by so many: more than the one before it can
   have without a commit. */
#define SESSION_GENERATIONS 65536u

struct session {
	/* const */
	struct record *record; /* NULL: not kept (tests) */
	struct record_table *records;
	uint64_t id;
	uid_t keeper; /* in whose share of the service manager's store its descriptors are */
	/* These change once at most: see enum session_user. */
	_Atomic uid_t uid;
	struct domain *domain;
	struct family *family; /* of the flow layer: it and those forked from it */
	struct domain *other_domain; /* to come, or had before */
	uid_t other_uid;	     /* of the one to come */
	struct family *other_family;
	struct domain *payer; /* its user's account, where its domain is not the user's; or NULL */
	struct domain *other_payer;
	_Atomic int user;
	void *owner; /* struct owner of the flow layer */
	uint64_t attached_ns;
	uint64_t nonce; /* by which a fork child says who it is; 0: none */
	uint64_t token; /* by which its mover does, to an agent after us; 0: none */
	uint64_t identity;
	pid_t parent_pid;
	int filters; /* seccomp filters when it, or who has forked it, attached; -1: not known */
	uint64_t store_max; /* stored bytes it may have */

	/* const for sessions of the constructor, set by ADOPT for fork children */
	pid_t pid;
	struct session_fds fds;
	struct wire_gate *gate;
	uint64_t transit;
	struct wire_attach attach; /* ranges never to touch */

	/* owner */
	struct slotmap slots;
	struct ranges registered;
	struct ranges vacated;	 /* bag: moved away from; their UNMAP is still to come */
	uint64_t registered_kept; /* registered.changes as of the record */
	uint32_t generation;
	uint64_t transit_vpn[WIRE_TRANSIT_PAGES]; /* who is on the way there; 0: nobody */
	struct session *heir_of; /* forked while that session's batch was under way */
	struct session *heirs;
	struct session *next_heir;
	struct touch_stream streams[SESSION_STREAMS];
	uint32_t stream_clock;
	struct ahead_stream ahead[SESSION_STREAMS];
	uint32_t ahead_clock;
	uint32_t ahead_score; /* of 256: how often a window was of use lately */
	bool in_ahead;
	struct session *next_ahead; /* owner's list of those with something to place */
	bool ending;		 /* found when it was over, and is only to be closed */
	_Atomic uint64_t emptied; /* a page that was dropped behind our back; worker takes it */
	bool marks;		 /* pages that leave can be marked (sys/uffd.h); as in the record */
	bool blind;		 /* its slots are lost: what is missing is poisoned */
	int recover;		 /* enum session_recover: found by a new worker, and */
	bool polled;		 /* its userfaultfd is in the owner's epoll */
	uint64_t gate_wait_ns;	 /* since when the mover is inside; 0: not */
	uint64_t served_ns;	 /* when the last fault was answered */
	uint8_t follows;	 /* how often in a row the next one was there by then */
	struct uffd_msg waiting[SESSION_WAITING_MAX]; /* events, as they were read */
	unsigned nr_waiting;
	unsigned applying;	 /* which of them is being applied */
	unsigned phase;		 /* ... and how far it had come, when it is done again */
	bool wake_all;		 /* faults were left unanswered meanwhile */
	_Atomic bool barred;	 /* a REMOVE could not be noted: nothing leaves any more */
	uint64_t bars_told;	 /* of its BARRED slots, as counted in its user's account */
	uint64_t restore_vpn;	 /* how far the restoring has come */
	uint64_t poison_at;	 /* ... and then the poisoning, by address */
	bool detach;		 /* let go when restored */
	bool tampered;		 /* its events can't be read any more */
	uint64_t stuck_ns, stuck_left; /* ... and since when so many pages wait */
	uint32_t nr_fetches;	 /* reads from slow stores for it (flow/fetch.c) */
	bool starved;		 /* some of its faults found none free */
	bool mover_gone;
	uint64_t room_wait_ns;	 /* since when a page waits for room; 0: none does */
	uint64_t room_wake_ns;	 /* when those that wait for it are to try again; 0: none is */
	struct session *next_job; /* owner's list of restoring and closing ones */
	bool in_job;
	struct session *next_owned;

	/* worker */
	_Atomic uint64_t wanted_vpn; /* for the owner: a page that must not be away */
	struct mappings mappings;
	uint64_t mappings_ns, mappings_cost_ns, threads_due_ns;
	uint64_t mappings_locked; /* VmLck before they were read */
	struct ranges guarded;	 /* mappings seen with guards in them */
	uint64_t guards_due_ns;	 /* no look for such before */
	uint64_t hand;		 /* where the scan goes on, byte address */
	uint64_t scanned_from;	 /* where this round began */
	bool wrapped;
	bool round_open; /* so much was empty that the hand has stopped for a moment */
	bool busy;		 /* a batch is between marking and staging */
	bool leaving;		 /* the process is gone: tell the mover when idle */
	uint32_t salvaged;	 /* lanes of transit looked through after a death */
	bool salvage_waits;	 /* for memory; busy until then */
	uint32_t recover_lanes;	 /* of them, those in which slots say that pages are */
	struct batch *reporting; /* of it, the one whose REPORT is awaited */
	uint64_t quota;		 /* pages that may still leave in this tick */
	bool forced;		 /* ... whatever the budget says */
	uint64_t to_leave;	 /* ... and will, if nothing stands in the way */
	uint64_t next_tick_ns;
	uint64_t last_stall_ns, last_tick_ns;
	double stall_share;	 /* moving average */
	uint32_t nr_batches;	 /* of this session, anywhere */
	bool user_told;		 /* the engine, that it is another user's */
	uint32_t seq;		 /* of the last order; session_next_seq */
	bool closed;		 /* by the owner */
	bool ended;		 /* the engine was told */
	uint64_t last_kcmp_ns;
	uint64_t slow_until_ns;	 /* its mover didn't answer, or it costs too much: no orders before */
	uint64_t room_due_ns;	 /* when to look at its control group again */
	bool hard_pressed;	 /* pages leave that came back only lately */
	uint64_t left_since;	 /* pages that have left since the last quota */
	uint64_t room_limit, room_bytes; /* what it said; 0: no limit */
	struct session *next_worked;
	_Atomic pid_t mover_pid; /* 0: not ready yet */

	struct quiet quiet;
	uint64_t quiet_due_ns;	 /* no look at the threads before */

	/* shared */
	_Atomic uint64_t outside_ns; /* bars of before are lifted; worker */
	_Atomic int state; /* enum session_state; written by the owner */
	_Atomic bool enabled; /* eviction by policy; engine */
	_Atomic uint64_t limit_bytes; /* resident limit; engine; 0: policy's */
	_Atomic uint64_t store_full_ns; /* when a page last found no room; pack threads */
	/* Pages that may be placed before its control group is full: set by the
	   worker, used up by the owner, who has asked for a new look or not. */
	_Atomic int64_t room_pages;
	_Atomic bool room_asked;
	_Atomic bool mover_hangs; /* inside of the gate, for long; worker */
	_Atomic bool room_vain; /* nothing may leave to make room; worker */
	_Atomic(const char *) reason;
	_Atomic(const char *) lost_why; /* of those last counted as poisoned */
	_Atomic(struct order *) evict_order;
	_Atomic(struct order *) restore_order;
	struct adoption *adoption; /* engine, then owner, then engine */
	struct notice to_owner;
	struct notice to_worker;
	struct notice to_engine;
	struct session_counters counters;

	/* engine */
	struct session *next;
	bool introduced; /* its hello is through: pid and descriptors may be read */
	uint32_t kept_kinds; /* of its descriptors, those with the service manager; a fork
				child's at first the owner's */
	uint64_t poisoned_logged;
	bool hang_logged;
	char command[64];
	char cgroup[256];
};

/* NULL on ENOMEM. All descriptors -1, state SERVED. */
struct session *session_new(uint64_t id, uid_t uid);
/* Closes the descriptors and frees; the slots must be empty by then. */
struct session *session_free(struct session *s);

/* Owner; into the record too. */
void session_set_state(struct session *s, enum session_state state);

/* Pages are lost, and why: for the log, which others write. Owner. */
static inline void session_lost(struct session *s, unsigned pages, const char *why)
{
	s->lost_why = why;
	counter_add(&s->counters.poisoned_total, pages);
}

static inline enum session_state session_state(const struct session *s)
{
	return (enum session_state)s->state;
}

/*
 * Orders are numbered, and the mover's report says the number. The upper half is of
 * this worker alone, so that a report of an order given by the one that died, which
 * may come at any time, is not taken for the answer to one of ours: pages that have
 * stayed then would be taken for moved, or the other way round. 0 is of POPULATE.
 */
static inline uint32_t session_first_seq(uint32_t generation)
{
	return (generation / SESSION_GENERATIONS + 1) << 16;
}

static inline uint32_t session_next_seq(uint32_t seq)
{
	return (seq & 0xffff) == 0xffff ? (seq & ~0xffffu) + 1 : seq + 1;
}

/* Opens what /proc tells of a process: maps, smaps, statm and tasks. 0 or
   negative errno, when some may be open already. */
int session_open_proc(pid_t pid, struct session_fds *fds);
/* When a process was started, in ticks since the boot; 0: it can't be known. */
uint64_t session_started(pid_t pid);
/* Closes all that are open; those that can block, by the reaper, as that user's. */
void session_close_fds(const struct session_fds *fds, uid_t uid);
/* Pages that are with us: STAGED + FILL + STORED (+ FETCHING). Any thread. */
uint64_t session_evicted_pages(const struct session *s);
/* RSS in bytes by /proc/PID/statm; 0 when it can't be read. anonymous, if not NULL: how
   much of it is no file's. Any thread. */
uint64_t session_read_resident(const struct session *s, uint64_t *anonymous);
/* How many threads it has; 0 when it can't be read. Any thread. */
unsigned session_read_threads(const struct session *s);
/* Its effective user. 0 or -ESRCH. */
int session_read_user(const struct session *s, uid_t *uid);
/* Bytes that the process has locked (VmLck); 0 when it can't be read. changed, if not
   NULL: one of its users is not the one it came with. Worker. */
uint64_t session_read_locked(const struct session *s, bool *changed);
/* The mover runs in another address space than the process by now: an exec.
   Worker. */
bool session_has_execed(const struct session *s);
/* Its program has not been executed with more rights, by a set-user-ID or set-group-ID
   bit or capabilities of its file: such a one has AT_SECURE for its life, and is never
   one of ours, since nothing is preloaded for it. Also where that can't be told: the
   service isn't root. Any thread. */
bool session_is_plain(pid_t pid);
/* The process runs as that user, and its program is plain, or where that can't be told,
   all its user and group ids are one, and it has no capabilities of its own. Any thread. */
bool session_runs_as(pid_t pid, uid_t uid);
/* A mover, of that user alone, and another process are known to have one address
   space; one whose main thread has ended shows none, then it must be of him. Any thread. */
bool session_is_shared(pid_t pid, pid_t mover, uid_t uid);
/* How many seccomp filters are in force for a thread, and in *parent, if not NULL, whose
   child it is; -1: it can't be known. Any thread. */
int session_read_filters(pid_t tid, pid_t *parent);
/* A fork child, whose number in its own namespace this is, is known to have more of them than
   its parent had when that attached. Owner. */
bool session_is_confined(const struct session *s, pid_t tid);
/* comm and cgroup; engine. */
void session_read_names(struct session *s);
/* The file that pid executes, without its folder; "" when it can't be known. */
void session_program_name(pid_t pid, char *name, size_t size);

#endif
