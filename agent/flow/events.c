/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the workload did to its mappings. Each event is applied before any
 * fault that was read with or after it (INV-4), whole, and may be applied
 * twice (idempotent, FORK aside).
 */
#include "flow/flow.h"

#include <errno.h>
#include <sched.h>
#include <sys/random.h>

#include "common/inject.h"
#include "common/util.h"
#include "proc/record.h"
#include "sys/pagemap.h"

#define LEAF_SLOTS ((uint64_t)512)
#define LOSE_TRIES 10000u
#define BARRED_MAX ((uint64_t)1 << 22) /* pages, 16 GiB of address space */
#define BARRED_USER (4 * BARRED_MAX)   /* ... of all processes of a user: 128 MiB of our memory */
#define AWAY_MASK (FLOW_EVICTED_MASK | 1u << SLOT_LEAVING | 1u << SLOT_POISONED)
#define ANY_MASK (~1u & ((1u << SLOT_STATES) - 1))

static void forget_stored_bytes(struct session *s, uint64_t vpn, uint64_t end)
{
	const unsigned mask = 1u << SLOT_STORED | 1u << SLOT_FETCHING;

	for (; (vpn = slotmap_next(&s->slots, vpn, end, mask)) < end; vpn++)
		flow_account_store(s, -flow_slot_bytes(slotmap_get(&s->slots, vpn)));
}

/* Noting a bar takes 8 bytes a page of our locked memory: neither a program nor all of
   one user's may have us take more of it than for so much. */
static bool may_bar(struct session *s, uint64_t pages)
{
	uint64_t bars = counter_get(&s->slots.count[SLOT_BARRED]);

	return bars + pages <= BARRED_MAX && flow_account_bars(s, bars) + pages <= BARRED_USER;
}

/*
 * Without memory for its slots, what is away of [vpn, vpn + n) can't be told any more.
 * It is lost, at target, and must not be taken for zeros (INV-7): transit's bytes and
 * what was lost before, too.
 */
static void lose(struct owner *o, struct session *s, uint64_t vpn, uint64_t target, uint64_t n)
{
	for (uint64_t v = vpn; (v = slotmap_next(&s->slots, v, vpn + n, AWAY_MASK)) < vpn + n; v++) {
		unsigned tries = 0;

		while (uffd_place_poison(s->fds.uffd, (v - vpn + target) << PAGE_SHIFT) == PLACED_RETRY &&
		       tries++ < LOSE_TRIES)
			sched_yield(); /* until the thread of the event has run */
		if (slot_state(slotmap_get(&s->slots, v)) != SLOT_POISONED)
			session_lost(s, 1, "there was no memory to note where they are");
	}
	s->barred = true;
}

/*
 * [vpn, last) begins or ends inside of a leaf that a fork shares, and there is no node
 * to make it ours. The whole leaf needs none; the rest of it, around [first, last), is
 * lost.
 */
static void clear_leaf(struct owner *o, struct session *s, uint64_t vpn, uint64_t first, uint64_t last)
{
	uint64_t leaf = vpn & ~(LEAF_SLOTS - 1), end = leaf + LEAF_SLOTS;

	if (leaf < first) {
		lose(o, s, leaf, leaf, first - leaf);
		forget_stored_bytes(s, leaf, first);
	}
	if (last < end) {
		lose(o, s, last, last, end - last);
		forget_stored_bytes(s, last, end);
	}
	(void)slotmap_clear(&s->slots, leaf, LEAF_SLOTS, SLOT_NONE, &leaf);
}

/* Sets slots of [start, end) to NONE or BARRED, dropping what we held. */
static void clear(struct owner *o, struct session *s, uint64_t start, uint64_t end, enum slot_state to)
{
	uint64_t vpn = start >> PAGE_SHIFT, last = end >> PAGE_SHIFT;

	if (to == SLOT_BARRED && !may_bar(s, last - vpn)) {
		s->barred = true;
		to = SLOT_NONE;
	}
	forget_stored_bytes(s, vpn, last);
	while (slotmap_clear(&s->slots, vpn, last - vpn, to, &vpn) == -ENOMEM) {
		if (slot_pool_reserve(o->slots, (last - vpn) / LEAF_SLOTS + 8) == 0)
			continue;
		/* The bar can't be noted page by page: then nothing leaves this
		   process any more. */
		s->barred = true;
		if (to == SLOT_NONE)
			clear_leaf(o, s, vpn, start >> PAGE_SHIFT, last);
		to = SLOT_NONE;
	}
}

static void apply_remove(struct owner *o, struct session *s, uint64_t start, uint64_t end)
{
	/* All of it, also where our own list knows of no registration: a part
	   that a mapping has grown by is registered without a word to us. */
	s->slots.bar = (now_ns() >> FLOW_TIME_SHIFT) + 1; /* not o->now: that was before the reading */
	clear(o, s, start, end, SLOT_BARRED);
	uffd_wake(s->fds.uffd, start, end - start);
}

static void apply_unmap(struct owner *o, struct session *s, uint64_t start, uint64_t end, enum event_how how)
{
	struct range old;

	if (how == EVENT_LATE) {
		/* mremap announces REMAP(from, to) and then UNMAP(from); by now
		   something else may be there. */
		(void)ranges_bag_take(&s->vacated, start, end, &old);
	} else {
		clear(o, s, start, end, SLOT_NONE);
		if (ranges_remove(&s->registered, start, end) < 0)
			s->barred = true;
	}
	atomic_store(&s->counters.registered_bytes, ranges_bytes(&s->registered));
	uffd_wake(s->fds.uffd, start, end - start);
}

static bool is_empty(const struct session *s, uint64_t vpn, uint64_t n)
{
	return slotmap_next(&s->slots, vpn, vpn + n, ANY_MASK) == vpn + n;
}

/* What is away can't follow a mapping. */
static void lose_moved(struct owner *o, struct session *s, uint64_t vpn, uint64_t target, uint64_t n)
{
	lose(o, s, vpn, target, n);
	clear(o, s, vpn << PAGE_SHIFT, (vpn + n) << PAGE_SHIFT, SLOT_NONE);
}

/* A mapping may be terabytes of nothing: nodes are made for slots only. */
static void move_slots(struct owner *o, struct session *s, uint64_t vpn, uint64_t target, uint64_t n)
{
	size_t nodes = 8;

	if (is_empty(s, vpn, n) && is_empty(s, target, n))
		return;
	/* In two steps, each of which can be done by halves and again: with the
	   target empty, whatever is there has been moved. */
	if (s->phase < 2) {
		clear(o, s, target << PAGE_SHIFT, (target + n) << PAGE_SHIFT, SLOT_NONE);
		record_note(s, s->applying, 2);
		inject(INJECT_REMAP_CLEARED);
	}
	while (slotmap_merge(&s->slots, vpn, target, n) == -ENOMEM) {
		nodes *= 2;
		if (slot_pool_reserve(o->slots, nodes) == 0)
			continue;
		lose_moved(o, s, vpn, target, n);
		return;
	}
}

static void apply_remap(struct owner *o, struct session *s, uint64_t from, uint64_t to, uint64_t len,
			enum event_how how)
{
	uint64_t vpn = from >> PAGE_SHIFT, n = len >> PAGE_SHIFT, target = to >> PAGE_SHIFT;

	fetch_forget(o, s, vpn, vpn + n);
	move_slots(o, s, vpn, target, n);
	inject(INJECT_REMAP_MOVED);
	for (unsigned i = 0; i < WIRE_TRANSIT_PAGES; i++)
		if (s->transit_vpn[i] >= vpn && s->transit_vpn[i] < vpn + n)
			s->transit_vpn[i] += target - vpn;
	/* The event itself says that the target is registered: slots that are
	   away must never lie outside of the list. */
	if ((how != EVENT_SOURCE_STAYS && ranges_remove(&s->registered, from, from + len) < 0) ||
	    (how == EVENT_LATE && ranges_bag_add(&s->vacated, from, from + len) < 0) ||
	    ranges_add(&s->registered, to, to + len) < 0)
		s->barred = true;
	uffd_wake(s->fds.uffd, from, len);
}

/* The child's LEAVING slots are answered by the parent's batch (evict_stage). */
static void inherit_batch(struct session *child, struct session *parent)
{
	struct session *root = parent->heir_of ? parent->heir_of : parent;

	if (counter_get(&parent->slots.count[SLOT_LEAVING]) == 0)
		return;
	for (unsigned i = 0; i < WIRE_TRANSIT_PAGES; i++)
		child->transit_vpn[i] = parent->transit_vpn[i];
	child->heir_of = root;
	child->next_heir = root->heirs;
	root->heirs = child;
	if (child->record)
		child->record->heir_of = root->id;
}

/* ---- what a fork has wiped ---- */

/*
 * MADV_WIPEONFORK comes without an event, perhaps when pages had left already: the child
 * must see zeros there. A page with a mark says so by itself. For one without, any place
 * of its mapping does where the parent had something, be it a mark: the child has the
 * same, or its mapping was wiped. The flag in smaps is the last resort, for the parent may
 * have changed it since its fork.
 */
struct forked {
	struct owner *owner;
	struct session *child;
	const struct session *parent;
	bool again;	       /* a worker before us may have begun with it */
	struct maps_area area; /* of the parent, that is being looked at; empty: none */
	uint64_t told_at;      /* a place in it that has told something; 0: none yet */
	enum placed told;      /* ... and what */
	bool flags_are_read;   /* into owner->wiped */
};

#define NEAR 64 /* pages */

/* Pages that are away, or about to be, without a mark: [vpn, end), in one mapping. */
static uint64_t next_unmarked(struct forked *f, uint64_t vpn, uint64_t *end)
{
	const struct slotmap *slots = &f->child->slots;
	bool all = !f->child->marks;

	vpn = all ? slotmap_next(slots, vpn, SLOTMAP_VPN_MAX, AWAY_MASK) :
		    slotmap_next_unmarked(slots, vpn, SLOTMAP_VPN_MAX, AWAY_MASK);
	if (vpn << PAGE_SHIFT >= f->area.end && vpn < SLOTMAP_VPN_MAX) {
		(void)maps_find(f->parent->fds.maps, vpn << PAGE_SHIFT, &f->area);
		f->told_at = 0;
	}
	*end = slotmap_run(slots, vpn, f->area.end ? f->area.end >> PAGE_SHIFT : SLOTMAP_VPN_MAX, AWAY_MASK, all);
	return vpn;
}

static bool only_forks_wait(const struct session *s)
{
	for (unsigned i = 0; i < s->nr_waiting; i++)
		if (s->waiting[i].event != UFFD_EVENT_FORK)
			return false;
	return true;
}

/* By the first place of [vpn, end) where the parent has something. PLACED_EXISTS: the child
   has it. PLACED_DONE: it has not. Otherwise nobody can tell. */
static enum placed compare(struct forked *f, uint64_t vpn, uint64_t end)
{
	const struct session_fds *fds = &f->parent->fds;
	uint64_t empty = pagemap_free_run(fds->pagemap, vpn << PAGE_SHIFT, (unsigned)(end - vpn));
	uint64_t address = (vpn + empty) << PAGE_SHIFT;
	enum placed placed;

	/* Nothing has come there since the fork: a touch would wait for us, and it is the same
	   mapping, if it is ours still and none is changing. But guards come without a word,
	   and poison may be of now. */
	if (vpn + empty >= end || pagemap_is_guard(fds->pagemap, address) || !only_forks_wait(f->parent) ||
	    slot_state(slotmap_get(&f->child->slots, vpn + empty)) == SLOT_POISONED ||
	    uffd_is_registered(fds->uffd, address) != 1)
		return PLACED_RETRY;
	placed = uffd_look_for_mark(f->child->fds.uffd, address);
	if (placed == PLACED_DONE) /* zeros are there now, as there should */
		clear(f->owner, f->child, address, address + PAGE_BYTES, SLOT_NONE);
	if (placed == PLACED_DONE || placed == PLACED_EXISTS) {
		f->told_at = vpn + empty;
		f->told = placed;
	}
	return placed;
}

/* PLACED_DONE: [vpn, end) was wiped. PLACED_EXISTS: it was not. */
static enum placed ask_child(struct forked *f, uint64_t vpn, uint64_t end)
{
	uint64_t first = f->area.start >> PAGE_SHIFT, last = f->area.end >> PAGE_SHIFT;
	enum placed below, above;

	/* What that worker has found missing in the child, it has put zeros there. */
	if (f->again || !last)
		return PLACED_RETRY;
	/* there may be a great many of them, between others */
	if (f->told_at && f->told_at + NEAR >= vpn && f->told_at <= end + NEAR)
		return f->told;
	below = compare(f, MAX(first + NEAR, vpn) - NEAR, vpn);
	above = compare(f, vpn, MIN(end + NEAR, last));
	if (below == PLACED_EXISTS || above == PLACED_EXISTS)
		return PLACED_EXISTS;
	return below == PLACED_DONE ? below : above;
}

/* What the flag says now, perhaps of several mappings. */
static void forget_flagged(struct forked *f, uint64_t start, uint64_t end)
{
	struct ranges *wiped = &f->owner->wiped;

	if (!f->flags_are_read && mappings_read_flagged(f->parent->fds.smaps, "wf", wiped) < 0)
		wiped->nr = 0;
	f->flags_are_read = true;
	for (const struct range *r; (r = ranges_after(wiped, start)) && r->start < end; start = r->end)
		clear(f->owner, f->child, MAX(r->start, start), MIN(r->end, end), SLOT_NONE);
}

static void forget_wiped(struct owner *o, struct session *child, const struct session *parent, bool again)
{
	struct forked f = { .owner = o, .child = child, .parent = parent, .again = again };
	/* those on their way out are inherited as well, and may get none */
	uint64_t out = counter_get(&parent->slots.count[SLOT_LEAVING]) +
		       (parent->marks ? parent->slots.unmarked : session_evicted_pages(parent));
	uint64_t vpn, end, left = out + counter_get(&parent->slots.count[SLOT_POISONED]);

	if (parent->fds.smaps < 0 || !out)
		return;
	/* Up to the last of them: there may be a great many others. */
	for (vpn = 0; left && (vpn = next_unmarked(&f, vpn, &end)) < SLOTMAP_VPN_MAX; vpn = end) {
		enum placed told = ask_child(&f, vpn, end);

		if (told == PLACED_DONE)
			clear(o, child, vpn << PAGE_SHIFT, end << PAGE_SHIFT, SLOT_NONE);
		else if (told != PLACED_EXISTS)
			forget_flagged(&f, vpn << PAGE_SHIFT, end << PAGE_SHIFT);
		left -= MIN(left, end - vpn);
	}
}

/* A session that no worker after us would know of can't be had: its descriptor
   would be closed, and what is away would read as zeros. Where there are too many, those
   that can do without us are let go. */
static int make_record(struct owner *o, struct session *parent, struct session *child, const struct uffd_msg *fork)
{
	struct record *record;

	if (!parent->record)
		return 0;
	child->records = parent->records;
	record = child->record = record_new(parent->records);
	if (!record) {
		flow_shed(o);
		return -ENOMEM;
	}
	record->fork_name = event_fork_name(fork);
	child->kept_kinds = (uint32_t)event_fork_is_kept(fork) << RECORD_UFFD;
	record->uid = child->uid;
	record->domain = parent->domain->uid;
	record->is_private = child->user == SESSION_USER_PRIVATE;
	record->owner = o->index;
	record->attached_ns = child->attached_ns;
	record->nonce = child->nonce;
	record->identity = child->identity;
	record->parent_pid = child->parent_pid;
	record->blind = child->blind;
	record->marks = child->marks;
	record->disabled = !child->enabled;
	record_set_fds(record, child);
	child->slots.kept_root = &record->root;
	return 0;
}

void events_keep_forks(struct owner *o, struct session *s, struct uffd_msg *msgs, int nr)
{
	for (int i = 0; i < nr && s->records; i++) {
		unsigned name;

		if (msgs[i].event != UFFD_EVENT_FORK)
			continue;
		inject(INJECT_FORK_READ);
		/* The name first: what is there under it is found by it. */
		name = record_name_fork(s->records);
		event_set_fork_name(&msgs[i], name);
		inject(INJECT_FORK_NAMED);
		if (o->flow->keep_fork && o->flow->keep_fork(o->flow->keep_ctx, s, name, (int)msgs[i].arg.fork.ufd))
			event_set_fork_kept(&msgs[i]);
	}
}

/* What it did itself before its fork could be applied. */
static void inherit_events(struct owner *o, struct session *child, const struct session *parent)
{
	for (unsigned i = 0; i < parent->nr_waiting; i++) {
		struct uffd_msg msg = parent->waiting[i];

		if (!event_is_of_child(&msg) || event_child(&msg) != child->fds.uffd)
			continue;
		msg.reserved3 = 0;
		child->waiting[child->nr_waiting++] = msg;
	}
	o->unquiet |= child->nr_waiting > 0;
}

/* All that may fail. */
static int prepare_child(struct owner *o, struct session *parent, struct session *child, const struct uffd_msg *fork)
{
	int r = inject_is(INJECT_NOMEM) ? -ENOMEM : make_record(o, parent, child, fork);

	if (r == 0)
		r = ranges_copy(&child->registered, &parent->registered);
	if (r == 0)
		r = slot_pool_reserve(o->slots, 64);
	if (r == 0)
		r = flow_watch(o, child);
	if (r < 0)
		return r;
	fetch_forget(o, parent, 0, SLOTMAP_VPN_MAX);
	while (r == 0 && slotmap_fork(&child->slots, &parent->slots) == -ENOMEM)
		r = slot_pool_reserve(o->slots, slot_pool_ready(o->slots) * 2 + 64);
	return r;
}

static struct session *new_child(struct owner *o, struct session *parent, int uffd)
{
	struct session *child = session_new(atomic_fetch_add(&o->flow->next_session_id, 1), parent->uid);

	if (!child)
		return NULL;
	child->keeper = parent->keeper;
	child->fds.uffd = uffd;
	child->owner = o;
	child->parent_pid = parent->pid ? parent->pid : parent->parent_pid;
	child->identity = parent->identity;
	child->filters = parent->filters;
	child->enabled = atomic_load(&parent->enabled);
	child->barred = parent->barred;
	child->marks = parent->marks;
	child->blind = parent->blind;
	/* Else it will have a domain of its own: it may be another user's by then. */
	child->user = atomic_load(&parent->user) == SESSION_USER_SAME ? SESSION_USER_SAME : SESSION_USER_CHANGED;
	if (getrandom(&child->nonce, sizeof(child->nonce), GRND_NONBLOCK) < 0)
		child->nonce = 0; /* then it stays without a mover */
	slotmap_init(&child->slots, o->slots, &flow_slot_refs, child);
	return child;
}

/* It is as if it had never been; its descriptor stays. */
static void undo_child(struct owner *o, struct session *child)
{
	flow_unwatch(o, child);
	child->fds.uffd = -1;
	session_free(child);
}

static void complete_child(struct owner *o, struct session *parent, struct session *child, bool again)
{
	child->domain = domain_ref(parent->domain);
	child->family = parent->family;
	blobstore_family_forked(child->family);
	child->payer = domain_ref(parent->payer);
	flow_account_store(child, (int64_t)counter_get(&parent->counters.stored_bytes));
	atomic_store(&child->counters.registered_bytes, ranges_bytes(&child->registered));
	inherit_batch(child, parent);
	forget_wiped(o, child, parent, again);
	inherit_events(o, child, parent);
	record_commit(child, 0);
	inject(INJECT_FORK_RECORD);
	if (child->record)
		record_publish(child->record, child->id);
	inject(INJECT_FORK_KNOWN);
}

/* False: without memory for its session the fork waits, and with it its parent; closing
   the child's descriptor would give it zeros instead of its data. */
static bool apply_fork(struct owner *o, struct session *parent, const struct uffd_msg *msg)
{
	int uffd = (int)msg->arg.fork.ufd;
	struct session *child;

	/* The worker before us had come that far. */
	if (event_is_again(msg) && record_knows_uffd(parent->records, uffd))
		return true;
	child = new_child(o, parent, uffd);
	if (!child)
		return false;
	if (prepare_child(o, parent, child, msg) < 0) {
		undo_child(o, child);
		return false;
	}
	complete_child(o, parent, child, event_is_again(msg));
	(void)uffd_wake_all(uffd); /* with its events, faults may have been read */
	notice_send(&o->flow->engine, &child->to_engine, SESSION_NEWS_FORKED);
	return true;
}

bool events_apply(struct owner *o, struct session *s, const struct uffd_msg *msg, enum event_how how)
{
	switch (msg->event) {
	case UFFD_EVENT_FORK:
		return apply_fork(o, s, msg);
	case UFFD_EVENT_REMAP:
		apply_remap(o, s, msg->arg.remap.from, msg->arg.remap.to, msg->arg.remap.len, how);
		break;
	case UFFD_EVENT_REMOVE:
		apply_remove(o, s, msg->arg.remove.start, msg->arg.remove.end);
		break;
	case UFFD_EVENT_UNMAP:
		apply_unmap(o, s, msg->arg.remove.start, msg->arg.remove.end, how);
		break;
	default:
		break; /* no other is asked for */
	}
	return true;
}
