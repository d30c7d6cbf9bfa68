/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * flow: what happens to pages, one file a step. This header holds what the
 * steps share: the owner (one fault thread and all that only it may touch) and
 * the flow (what all threads share). The engine makes both and runs the
 * threads.
 *
 * The owner's functions run in its thread. They allocate nothing, log nothing
 * and wait for nobody while they answer faults (INV-2).
 */
#ifndef USWAP_FLOW_FLOW_H
#define USWAP_FLOW_FLOW_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/mailbox.h"
#include "flow/batch.h"
#include "flow/blobstore.h"
#include "flow/unpack.h"
#include "page/codec.h"
#include "page/domain.h"
#include "page/slotmap.h"
#include "page/staging.h"
#include "proc/session.h"
#include "sys/uffd.h"

#define FLOW_WINDOW_MAX 512 /* pages of zeros at a time */
#define FLOW_MESSAGES 64    /* read at a time */
#define FLOW_HEARD 8	    /* ... of a fork child without a session */
#define FLOW_LOST 64	    /* children without a session, of one owner */
#define FLOW_RUN_MAX 64	    /* evicted pages placed by one COPY */

#define FLOW_LOST_BEFORE "what was known of them is lost with an agent before"
#define FLOW_TIME_SHIFT 20  /* the values of RESIDENT and BARRED slots count 2^20 ns */

/* States in which a page's bytes are with us; FETCHING: and being read for it already. */
#define FLOW_HERE_MASK (1u << SLOT_STAGED | 1u << SLOT_STORED | 1u << SLOT_FILL)
#define FLOW_EVICTED_MASK (FLOW_HERE_MASK | 1u << SLOT_FETCHING)

struct flow {
	struct blobstore *blobstore;
	struct staging *staging;
	struct domain_registry *domains;
	struct mailbox worker; /* BATCH_STAGED, BATCH_DONE, notices */
	struct mailbox engine; /* notices, orders */
	_Atomic uint64_t next_session_id;
	_Atomic uint64_t pack_ns; /* processor time of the pack threads */
	_Atomic uint64_t packed;  /* pages it was spent on */
	_Atomic uint64_t backoff_ns; /* after a refault, doubled each time */
	const void *zeros;	     /* FLOW_WINDOW_MAX pages that read as zero */
	uint64_t latency_bound_ns[SESSION_LATENCY_BUCKETS];
	/* A fork child's descriptor has just been read: into safe keeping with it, under a
	   name of its own. False: not now. NULL: there is none. Owners; waits for nobody. */
	bool (*keep_fork)(void *ctx, const struct session *parent, unsigned name, int uffd);
	void *keep_ctx;
	struct unpack_pool *unpack_pool; /* NULL: nobody helps */
};

/* What an owner reads into, kept: a worker that starts over finds the events
   that the dead one has read and not applied. */
struct owner_ring {
	_Atomic uint64_t session; /* whose messages these are */
	_Atomic uint64_t base;	  /* number of the first */
	struct uffd_msg messages[FLOW_MESSAGES];
	/* since version 3: what a child says whose fork that session has still to apply */
	_Atomic uint64_t child; /* its userfaultfd, plus one */
	struct uffd_msg heard[FLOW_HEARD];
	/* since version 5: userfaultfds, plus one, of children whose fork was given up. With
	   them closed the children would read zeros; so they wait. */
	_Atomic int lost[FLOW_LOST];
};

struct owner {
	struct flow *flow;
	unsigned index;
	struct mailbox box; /* batches, notices */
	struct slot_pool *slots;
	struct codec *codec;
	int epoll;
	void *page; /* FLOW_RUN_MAX pages: what is being restored */
	struct owner_ring *ring, *own_ring;
	uint64_t event; /* number of the one that is being taken; 0: it has none */
	bool recovering; /* events are done again, some of them by halves */
	struct ranges wiped;
	struct session *owned; /* all that are not closed */
	bool unquiet;	       /* some session's events are not all in */
	struct batch *deferred; /* commits that must wait a little */
	struct session *jobs;  /* restoring or closing, a slice each turn */
	struct fetches *fetches; /* fetch.c; NULL: no tier is slow */
	struct session *ahead; /* with pages to prefetch, a chunk each turn */
	struct unpack *unpack; /* unpack.c: of those, what is ready; NULL: nobody helps */
	int reserve[8];	       /* descriptors kept free for fork children */
	struct count *count;   /* count.c; NULL: none is under way */
	uint64_t now;	       /* a moment ago: as of the last message read or mail taken */
};

static inline struct owner *session_owner(const struct session *s)
{
	return s->owner;
}

/* What slotmaps count (flow.c). */
extern const struct slot_refs flow_slot_refs;
/* Drops the reference a slot's value held. */
void flow_drop(struct flow *flow, slot_t slot);
/* Stops serving: unlinks from its family, then drops references by slices. */
void flow_close(struct owner *o, struct session *s);
/* One slice of restoring or closing; false when that job has ended. */
bool flow_job(struct owner *o, struct session *s);
void flow_start_restore(struct owner *o, struct session *s, bool detach);
/* What the gate says of its pages, with so many more that are about to leave. */
void flow_tell_away(struct session *s, uint64_t more);
/* Descriptors have run out, and a fork waits for one: children that have no
   mover, the oldest first, get everything back and are let go. */
void flow_shed(struct owner *o);
/* Begins to poll a session's userfaultfd. 0 or negative errno. */
int flow_watch(struct owner *o, struct session *s);
void flow_unwatch(struct owner *o, struct session *s);
/* Somebody cleared O_NONBLOCK on its userfaultfd: the kernel doesn't tell us
   of faults any more. Everything goes back, and it is let go. */
void flow_tampered(struct owner *o, struct session *s);

/* event_order.c: an event as it is read; it waits until all those are read that
   may have happened before it. The generation is the caller's. */
void events_take(struct owner *o, struct session *s, const struct uffd_msg *msg);
/* If the kernel has no event on its way, what waits is applied. */
void events_settle_idle(struct owner *o, struct session *s);
/* Applies what waits, whatever may be missing. */
void events_flush(struct owner *o, struct session *s);
/* A fault that was read is left unanswered: a wake of all answers it (INV-3) when
   no change of mappings is under way any more. */
void events_leave_fault(struct owner *o, struct session *s);
/* Somebody waits for what waits: a fault, or a fork child. */
bool events_hold_somebody(const struct session *s);
/* Slots and mappings agree: no event waits. */
static inline bool events_are_settled(const struct session *s)
{
	return s->nr_waiting == 0;
}
/* ... none is known to be still on its way, and no fault was left for later. */
static inline bool events_are_quiet(const struct session *s)
{
	return s->nr_waiting == 0 && s->vacated.nr == 0 && !s->wake_all;
}
/* After the death of the worker before: the event that it was applying, and those
   that can be applied. */
void events_recover(struct owner *o, struct session *s);
/* events.c: applies one event. */
enum event_how {
	EVENT_PLAIN,	    /* REMAP: its source is unmapped, as its UNMAP says or will */
	EVENT_SOURCE_STAYS, /* REMAP: it has none (MREMAP_DONTUNMAP) */
	EVENT_LATE, /* REMAP: that is still to come; UNMAP: that of a REMAP before, done */
};
/* False: there is no memory for a fork child now; nothing has changed. */
bool events_apply(struct owner *o, struct session *s, const struct uffd_msg *msg, enum event_how how);

/* event_plan.c: the order of the events that wait. */
#define EVENT_NO_TAIL UINT8_MAX
struct event_step {
	uint8_t event; /* which of those waiting */
	uint8_t how;   /* enum event_how */
	uint8_t tail;  /* the UNMAP that is done with it */
};
struct event_plan {
	unsigned nr;
	struct event_step step[SESSION_WAITING_MAX];
	int child;
};
enum event_answer {
	EVENT_KNOWN,
	EVENT_UNKNOWN,	 /* something changes again: later */
	EVENT_ASK_CHILD, /* the fork child plan->child changes something: its events tell */
};
/* complete: none is on its way. If not, the order is always known. */
enum event_answer event_plan_make(const struct session *s, bool complete, struct event_plan *plan);

/* Events that wait have marks of ours, in fields that the kernel leaves 0: whose they
   are, if not the session's but those of a child whose fork waits too; that they were
   taken before a death of the worker; and, of a FORK, the name by which the child's
   descriptor goes into safe keeping, and whether this worker has given it. */
#define EVENT_FORK_KEPT ((uint64_t)1 << 32)

static inline bool event_is_of_child(const struct uffd_msg *msg)
{
	return msg->reserved3;
}

static inline int event_child(const struct uffd_msg *msg)
{
	return (int)msg->reserved3 - 1;
}

static inline void event_set_child(struct uffd_msg *msg, int uffd)
{
	msg->reserved3 = (uint32_t)uffd + 1;
}

static inline bool event_is_again(const struct uffd_msg *msg)
{
	return msg->reserved1;
}

static inline void event_set_again(struct uffd_msg *msg)
{
	msg->reserved1 = 1;
	if (msg->event == UFFD_EVENT_FORK) /* whether it has arrived is not known */
		msg->arg.reserved.reserved2 &= ~EVENT_FORK_KEPT;
}

static inline unsigned event_fork_name(const struct uffd_msg *msg)
{
	return (unsigned)msg->arg.reserved.reserved2;
}

static inline void event_set_fork_name(struct uffd_msg *msg, unsigned name)
{
	msg->arg.reserved.reserved2 = name;
}

static inline bool event_fork_is_kept(const struct uffd_msg *msg)
{
	return msg->arg.reserved.reserved2 & EVENT_FORK_KEPT;
}

static inline void event_set_fork_kept(struct uffd_msg *msg)
{
	msg->arg.reserved.reserved2 |= EVENT_FORK_KEPT;
}

/* events.c: messages that have just been read: until a fork child's descriptor is in
   safe keeping it is the keeper's alone. */
void events_keep_forks(struct owner *o, struct session *s, struct uffd_msg *msgs, int nr);

/* fault.c: reads and answers what is pending; called when the session's
   userfaultfd, or its gate's eventfd, is readable. */
void fault_serve(struct owner *o, struct session *s);

void fault_record_latency(const struct flow *flow, struct session *s, uint64_t ns);

/* refault.c */
/* Places an evicted page (STAGED, STORED, FILL); on success the slot is
   RESIDENT and its reference dropped. */
enum placed refault_place(struct owner *o, struct session *s, uint64_t vpn, slot_t slot, bool write);
/* The same for up to max (FLOW_RUN_MAX) pages that lie one after another, by one
   COPY. How many were placed, from the first one on; 0: no word of the reason. */
unsigned refault_place_run(struct owner *o, struct session *s, uint64_t vpn, unsigned max);
/* ... whose bytes lie one after another: n pages that nobody waits for, all marked or none of
   them. has_room: room_use has been asked for them. */
unsigned refault_place_together(struct owner *o, struct session *s, uint64_t vpn, const slot_t *slots, unsigned n,
				const void *bytes, bool has_room);
/* The page could not be placed for good (gone, there already): forgets ours. */
void refault_forget(struct owner *o, struct session *s, uint64_t vpn, slot_t slot,
		    enum slot_state to);
/* For pages that nobody waits for: there is a guard in its place by now
   (MADV_GUARD_INSTALL, of which no event tells), so its bytes have been dropped. */
bool refault_is_guarded(struct owner *o, struct session *s, uint64_t vpn, slot_t slot);
/* ... with the page's bytes at hand; NULL: they are lost. */
enum placed refault_place_bytes(struct owner *o, struct session *s, uint64_t vpn, slot_t slot, bool write,
				const void *bytes);
/* RESIDENT, and not a candidate for a while: each time twice as long. */
slot_t refault_backoff(const struct owner *o, slot_t before, bool harder);
bool refault_may_leave(slot_t slot, uint64_t now);

/* fetch.c, fetch_window.c: pages in slow tiers */
#define FETCH_DONE 150 /* mail.kind: to fetch_take */
#define FETCH_WINDOW_DONE 159 /* to fetch_take_window */
/* 0 or -ENOMEM; deinit takes what a failed init has left, and what is pending. */
int fetch_init(struct owner *o);
void fetch_deinit(struct owner *o);
/* refault_place would have to wait for a medium. */
bool fetch_is_needed(const struct owner *o, slot_t slot);
/* Begins to fetch such a page. PLACED_DONE: it is, or will be, answered. demand:
   a thread waits for it; else PLACED_NOMEM when there is much to do already. */
enum placed fetch_start(struct owner *o, struct session *s, uint64_t vpn, bool write, bool demand);
/* Nobody waits for these, vpn and among max behind it: those that lie near vpn's are
   read together, whatever is between them. How many have begun. */
unsigned fetch_ahead(struct owner *o, struct session *s, uint64_t vpn, unsigned max);
/* None could be, for all such reads are under way, but prefetch_resume comes soon. */
bool fetch_ahead_later(struct owner *o);
void fetch_take(struct owner *o, struct mail *mail);
void fetch_take_window(struct owner *o, struct mail *mail);
/* What had to wait; returns how long to sleep at most, in ms, at most wait. */
int fetch_again(struct owner *o, int wait);
bool fetch_has_again(const struct owner *o);
/* Slots of [vpn, end) are FETCHING no more: they are carried elsewhere. */
void fetch_forget(struct owner *o, struct session *s, uint64_t vpn, uint64_t end);
void fetch_close(struct owner *o, struct session *s);

/* How many references slots hold, blob by blob. */
void fetch_count(struct owner *o, struct blobstore_references *refs);

/* count.c: the owner's slots and fetches, counted for who verifies the store. */
#define COUNT_BEGIN 151 /* mail.kind: to count_take */
struct count {
	struct mail mail;
	struct blobstore_references *refs;
	uint64_t session, vpn; /* where it is */
	uint8_t *seen;	       /* leaves: a bit for each of nr nodes */
	uint32_t nr;
	void (*done)(struct count *count); /* hands over; the owner's no more */
};
void count_take(struct owner *o, struct mail *mail);
/* One slice; false: there is nothing (more) to count. */
bool count_step(struct owner *o);

/* prefetch.c */
/* A touch of an evicted page was answered. */
void prefetch_note(struct owner *o, struct session *s, uint64_t vpn);
/* A touch, in order, of one that shares its frame: answered, with those of the frame
   that follow. False: not so, or it can't be. */
bool prefetch_whole(struct owner *o, struct session *s, uint64_t vpn, slot_t slot);
/* This page is to come back, if it is away, though nobody has touched it. */
void prefetch_page(struct owner *o, struct session *s, uint64_t vpn);
/* A page that is on its way was touched. */
void prefetch_wait(struct owner *o, struct session *s, uint64_t vpn);
/* What had to wait for a read to end goes on. */
void prefetch_resume(struct owner *o);
/* One chunk for each session; true: there is more. */
bool prefetch_step(struct owner *o);
void prefetch_forget(struct owner *o, struct session *s);

/* room.c */
/* May so many pages be placed now? False: there is no room. The owner. */
bool room_use(struct owner *o, struct session *s, unsigned pages);
/* The same for a fault: false while the worker is making room, as if the kernel
   had said ENOMEM; true when it can't or takes too long. */
bool room_take(struct owner *o, struct session *s, unsigned pages);
/* The kernel has said ENOMEM. The owner. */
void room_none(struct owner *o, struct session *s);
/* A fault is left unanswered: a wake of all, in a moment, lets it try again. At
   once, thread and owner would keep busy who is to make the room. The owner. */
void room_wait(struct owner *o, struct session *s);
void room_settle(struct session *s);
/* The worker's new figure, and whether none will be made. `before` was left when
   it looked: what has been placed since counts against the new figure. */
int64_t room_left(const struct session *s);
void room_set(struct session *s, int64_t before, int64_t pages, bool vain);
/* So many pages have left. */
void room_give(struct session *s, uint64_t pages);

/* evict_mark.c, evict_stage.c, evict_commit.c: the owner's steps. */
void evict_mark(struct owner *o, struct batch *b);
void evict_stage(struct owner *o, struct batch *b);
/* Has the mover empty pages (bit i: page i) of a lane. False: it can't be told. */
bool evict_drop(struct session *s, uint32_t lane, uint64_t pages);
void evict_commit(struct owner *o, struct batch *b);

/* evict_plan.c: the worker's. */
/* Starts a new round of the clock hand. */
void evict_plan_round(struct session *s);
/* Fills b with up to max resident pages of one mapping, as old as the hand
   knows; with none, of a mapping that only is to be registered. False: there are none
   left in this round; or, s->round_open, so much was empty that the rest is for the next call. */
bool evict_plan(struct session *s, struct batch *b, unsigned max);

/*
 * MADV_GUARD_INSTALL drops pages without an event. Mappings in which guards are
 * seen, or pages that have lost their marks, are left alone from then on. True: there is one more; what is away of it has to
 * come back, or is to be dropped where a guard is.
 */
bool evict_look_for_guards(struct session *s);

/* evict_commit.c: slots that still name a forwarder name its blob from now on,
   so that its index is free again; those that name what was left in staging take it
   back. Now and then, for each session. */
void evict_settle_staged(struct owner *o, struct session *s);
/* One forwarder. False: no node for it now. */
bool evict_forget_forwarder(struct owner *o, struct session *s, uint64_t vpn);

/* evict_pull.c: the worker's. */
/* Takes the mover's report on b. */
void evict_pull(struct flow *flow, struct batch *b, const struct wire_report *report);
/* The same without a report: the mover is dead. Looks into transit. */
void evict_salvage(struct flow *flow, struct batch *b);

/* evict_pack.c: pack threads', several at a time too: returns when there is no page that nobody
   has begun. */
void evict_pack(struct flow *flow, struct codec *codec, struct batch *b);
bool evict_pack_is_wanted(struct batch *b); /* there is one */
/* Its process, or user, has as much in the store as it may. Not while the user is changing. */
bool evict_is_at_limit(const struct session *s);

/* The value of a STORED or FETCHING slot: the blob's id, and above it what its
   process is charged, which stays though the blob may become smaller. */
static inline slot_t flow_stored_slot(enum slot_state state, unsigned flags, blob_id blob, size_t bytes)
{
	return slot_make(state, flags, (uint64_t)bytes << 32 | blob);
}

static inline blob_id flow_slot_blob(slot_t slot)
{
	return (blob_id)slot_value(slot);
}

static inline int64_t flow_slot_bytes(slot_t slot)
{
	return (int64_t)(slot_value(slot) >> 32);
}

static inline void flow_account_store(struct session *s, int64_t bytes)
{
	counter_add(&s->counters.stored_bytes, (uint64_t)bytes);
	if (s->payer)
		atomic_fetch_add_explicit(&s->payer->charged, (uint64_t)bytes, memory_order_release);
}

/* So many pages of the session are barred: into its user's account. How many those of
   all his are. Owner. */
static inline uint64_t flow_account_bars(struct session *s, uint64_t bars)
{
	struct domain *account = s->payer ? s->payer : s->domain;
	uint64_t more = bars - s->bars_told;

	s->bars_told = bars;
	return atomic_fetch_add_explicit(&account->bars, more, memory_order_relaxed) + more;
}

#endif
