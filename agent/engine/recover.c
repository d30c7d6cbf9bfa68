/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A worker has died, and this one takes its place: what it finds in kept memory
 * becomes sessions again. Runs in the control thread before there are others,
 * so it may do what only owners may. What is needed to answer faults is done
 * here (counts of references, the events that were read); the dedup index comes
 * with housekeeping, what was in transit by the evict worker.
 *
 * Nothing is guessed. A slot that names what is not there any more, by whatever
 * damage, becomes POISONED: its page is SIGBUS, and the log says how many.
 *
 * Without memory there is no recovery: what is not seen here would be given to
 * others. Nothing has been changed by then that another try would miss, so this
 * worker ends, and the keeper starts the next one until there is memory.
 */
#include "engine/private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/log.h"
#include "common/inject.h"
#include "common/util.h"

struct see { /* of one session's slots */
	struct engine *e;
	struct session *s;
	uint64_t lost;
	uint64_t stored; /* bytes */
	bool orphan;	 /* it waits for the transit of a session that is gone */
	struct batch *batch; /* of staged pages, being filled */
	struct batch **batches;
};

static slot_t lose(struct see *see)
{
	see->lost++;
	return slot_make(SLOT_POISONED, 0, 0);
}

/* A page that waits to be packed goes on waiting, in a batch made anew. */
static void add_to_batch(struct see *see, uint64_t vpn, uint32_t index)
{
	struct batch *b = see->batch;

	if (!b || b->nr == WIRE_BATCH) {
		b = calloc(1, sizeof(*b));
		if (!b)
			return; /* it stays in staging until it is touched */
		b->session = see->s;
		b->next = *see->batches;
		*see->batches = see->batch = b;
		see->s->nr_batches++;
	}
	b->page[b->nr++] = (struct batch_page){
		.vpn = vpn,
		.value = index,
		.generation = staging_generation(see->e->flow.staging, index),
		.result = BATCH_PAGE_PULLED,
	};
}

static slot_t see_stored(struct see *see, slot_t slot, blob_id blob, bool first)
{
	struct blobstore *bs = see->e->flow.blobstore;
	size_t bytes = first ? blobstore_recover_ref(bs, blob) : blobstore_bytes(bs, blob);

	if (!bytes)
		return lose(see);
	see->stored += bytes;
	return flow_stored_slot(SLOT_STORED, slot_flags(slot), blob, bytes);
}

static slot_t see_staged(struct see *see, uint64_t vpn, slot_t slot, bool first)
{
	struct staging *staging = see->e->flow.staging;
	uint32_t index = (uint32_t)slot_value(slot);
	uint32_t blob = staging_recover_blob(staging, index);
	unsigned refs;

	if (blob) /* a forwarder */
		return see_stored(see, slot, blob, first);
	if (!first)
		return slot;
	refs = staging_recover_ref(staging, index);
	if (!refs)
		return lose(see);
	if (refs == 1)
		add_to_batch(see, vpn, index);
	return slot;
}

static slot_t see_leaving(struct see *see, uint64_t vpn, slot_t slot)
{
	uint64_t transit = slot_value(slot);
	struct session *s = see->s, *root = s->heir_of ? s->heir_of : s;

	if (transit >= WIRE_TRANSIT_PAGES || see->orphan)
		return lose(see);
	s->transit_vpn[transit] = vpn;
	root->recover_lanes |= 1u << transit / WIRE_BATCH;
	return slot;
}

static slot_t see_slot(void *ctx, uint64_t vpn, slot_t slot, bool first)
{
	struct see *see = ctx;

	switch (slot_state(slot)) {
	case SLOT_STAGED:
		return see_staged(see, vpn, slot, first);
	case SLOT_STORED:
	case SLOT_FETCHING:
	case SLOT_CLEAN:
		return see_stored(see, slot, (blob_id)slot_value(slot), first);
	case SLOT_LEAVING:
		return see_leaving(see, vpn, slot);
	default:
		return slot;
	}
}

/* ---- sessions ---- */

static int map_gate(struct session *s)
{
	void *page;

	if (s->fds.gate < 0)
		return 0;
	page = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, s->fds.gate, 0);
	if (page == MAP_FAILED)
		return -errno;
	s->gate = page;
	return 0;
}

/* -ENOMEM; another error: it is damaged. */
static int make_session(struct engine *e, struct record *record, struct session **made)
{
	struct session *s = *made = session_new(record->id, record->uid);
	int r;

	if (!s || inject_fails(INJECT_RECOVER_NOMEM))
		return -ENOMEM;
	s->record = record;
	s->records = &e->records;
	s->owner = &e->owners[record->owner].owner;
	slotmap_init(&s->slots, session_owner(s)->slots, &flow_slot_refs, s);
	r = record_load(s, record);
	if (r == 0)
		r = map_gate(s);
	if (r == 0)
		r = domains_rejoin(e, s);
	if (r < 0)
		return r;
	s->store_max = e->process_max;
	s->introduced = record->introduced;
	s->filters = session_read_filters(s->mover_pid, NULL); /* it was made then */
	s->slots.kept_root = &record->root;
	s->slots.root = record->root;
	s->state = (int)record->state;
	if (s->state >= SESSION_CLOSING) { /* nothing of it is needed any more */
		s->slots.root = 0;
		record->root = 0;
		s->state = SESSION_SERVED;
		s->ending = true;
	}
	if (s->introduced && s->state == SESSION_SERVED)
		s->state = SESSION_ACTIVE; /* a fork child's hello was just being taken */
	if (record->strange) {
		again_learn(s);
		record_commit(s, 0);
		record->strange = 0;
	}
	s->recover = SESSION_RECOVER_WAKE;
	s->busy = s->fds.mover >= 0; /* nothing leaves before transit has been looked at */
	atomic_store(&s->counters.registered_bytes, ranges_bytes(&s->registered));
	return 0;
}

/* Its descriptors stay open: it waits, and reads no zeros. What its slots name is
   others' from now on, so no worker after us may follow them. */
static void give_up(struct record *record, int r)
{
	log_error("process %d can't be taken over: %s", (int)record->pid, strerror(-r));
	atomic_store(&record->root, 0);
	atomic_store(&record->blind, 1);
}

static int list_sessions(struct engine *e)
{
	struct record *record;
	uint32_t i = 0;
	int r;

	e->flow.next_session_id = record_last_id(&e->records) + 1;
	while ((record = record_next(&e->records, &i))) {
		struct session *s;

		if (record->owner >= e->nr_owners)
			return -EBADMSG;
		r = make_session(e, record, &s);
		if (r == -ENOMEM)
			return r;
		if (r < 0) {
			give_up(record, r);
			continue;
		}
		s->next = e->sessions;
		e->sessions = s;
		e->nr_sessions++;
	}
	return 0;
}

static void join_family(struct engine *e, struct session *s)
{
	uint64_t id = s->record->heir_of;
	struct session *root = id ? registry_find(e, id) : NULL;

	if (!root)
		return;
	s->heir_of = root;
	s->next_heir = root->heirs;
	root->heirs = s;
}

static void set_blind(struct session *s)
{
	s->blind = true;
	atomic_store(&s->record->blind, 1);
}

static void see_session(struct engine *e, struct session *s, struct batch **batches)
{
	struct see see = { .e = e, .s = s, .batches = batches };
	uint64_t cut;

	see.orphan = s->record->heir_of && !s->heir_of;
	cut = slotmap_recover(&s->slots, see_slot, &see);
	flow_account_store(s, (int64_t)see.stored);
	counter_add(&s->counters.poisoned_total, see.lost);
	s->poisoned_logged = counter_get(&s->counters.poisoned_total);
	if (see.lost)
		log_error("process %d (uid %u): %llu pages were lost with the worker: it gets SIGBUS there",
			  (int)s->pid, s->uid, (unsigned long long)see.lost);
	if (cut) {
		/* Which pages these were can't be known any more: all that is
		   missing must not be taken for zeros. */
		set_blind(s);
		log_error("process %d (uid %u): its slots are damaged in %llu places: where something is "
			  "missing it gets SIGBUS", (int)s->pid, s->uid, (unsigned long long)cut);
	}
}

/* ---- events ---- */

/* Messages that were read, numbered from the ring's base on: those that are not in
   the session's record. child: of a child's that has no session yet, or -1. */
static void recover_messages(struct owner *o, struct session *s, struct uffd_msg *msgs, unsigned nr, int child)
{
	for (unsigned i = 0; i < nr; i++) {
		uint64_t number = o->ring->base + i;

		if (s && !s->ending && msgs[i].event && msgs[i].event != UFFD_EVENT_PAGEFAULT &&
		    number > s->record->states[s->record->now & 1].applied) {
			if (!event_fork_name(&msgs[i])) /* the dead one had not come that far */
				events_keep_forks(o, s, &msgs[i], 1);
			if (child >= 0)
				event_set_child(&msgs[i], child);
			o->event = number;
			events_take(o, s, &msgs[i]);
		}
		msgs[i].event = 0;
	}
}

static void recover_ring(struct engine *e, struct owner *o)
{
	struct owner_ring *ring = o->ring;
	struct session *s = registry_find(e, ring->session);

	recover_messages(o, s, ring->messages, FLOW_MESSAGES, -1);
	recover_messages(o, s, ring->heard, FLOW_HEARD, (int)ring->child - 1);
}

static void recover_events(struct engine *e)
{
	for (unsigned i = 0; i < e->nr_owners; i++) {
		struct owner *o = &e->owners[i].owner;

		o->recovering = true;
		o->now = now_ns();
		(void)slot_pool_reserve(o->slots, OWNER_NODES);
		for (struct session *s = e->sessions; s; s = s->next)
			if (session_owner(s) == o && !s->ending)
				events_recover(o, s);
		recover_ring(e, o);
		o->recovering = false;
	}
}

/* ---- the whole ---- */

static bool damaged;

void engine_expect_damage(void)
{
	damaged = true;
}

/* SIGBUS where something is missing is bad; to wait for ever, or zeros, are worse. */
static void make_blind(struct session *s)
{
	slotmap_init(&s->slots, s->slots.pool, s->slots.refs, s->slots.ctx);
	s->slots.kept_root = &s->record->root;
	atomic_store(&s->record->root, 0);
	set_blind(s);
	s->nr_waiting = 0;
	counter_add(&s->counters.poisoned_total, 1);
	s->poisoned_logged = counter_get(&s->counters.poisoned_total);
	log_error("process %d (uid %u): what is kept of it is damaged: all of its pages that were away are "
		  "lost, it gets SIGBUS there", (int)s->pid, s->uid);
}

static void give_batches(struct engine *e, struct batch *batches)
{
	uint64_t due = now_ns() + e->settings.policy.grace_ns;
	struct batch *next;

	for (struct batch *b = batches; b; b = next) {
		next = b->next;
		b->due_ns = due;
		b->planned = b->nr;
		packers_add(&e->packers, b, e->settings.policy.grace_ns == 0);
	}
}

unsigned recover_owners(const struct engine *e)
{
	struct record *record;
	unsigned owners = 0;
	uint32_t i = 0;

	while ((record = record_next(&e->records, &i)))
		owners = MAX(owners, record->owner + 1);
	return MIN(owners, (unsigned)OWNERS_MAX);
}

int recover_begin(struct engine *e, struct batch **batches)
{
	uint64_t start = now_ns();
	int r, lost;

	*batches = NULL;
	if (!e->records.kept.found)
		return 0;
	r = domain_recover(e->flow.domains, e->user_max);
	if (r < 0)
		return r;
	staging_recover_begin(e->flow.staging);
	lost = blobstore_recover_begin(e->flow.blobstore, e->flow.domains);
	if (lost < 0)
		return lost;
	if (lost)
		log_error("%d segments of the store can't be had any more", lost);
	r = list_sessions(e);
	if (r < 0)
		return r;
	for (struct session *s = e->sessions; s; s = s->next)
		join_family(e, s);
	for (struct session *s = e->sessions; s; s = s->next)
		if (damaged)
			make_blind(s);
		else
			see_session(e, s, batches);
	for (unsigned i = 0; i < e->nr_owners; i++)
		slot_pool_recovered(e->owners[i].owner.slots);
	staging_recover_end(e->flow.staging);
	blobstore_recover_end(e->flow.blobstore);
	inject(INJECT_RECOVER_COUNT);
	if (!damaged)
		recover_events(e);
	inject(INJECT_RECOVER_EVENTS);
	log_info("%u programs taken over in %.1f ms", e->nr_sessions, (double)(now_ns() - start) / 1e6);
	return 0;
}

void recover_end(struct engine *e, struct batch *batches)
{
	for (struct session *s = e->sessions; s; s = s->next) {
		if (s->introduced)
			session_read_names(s);
		/* Whether ATTACHED was sent, or READY read, is not known: a shim takes the
		   first, a mover answers the second. */
		if (s->introduced && !s->mover_pid && s->fds.mover >= 0)
			(void)attach_tell(s, s->fds.mover);
		if (engine_keep_fds(e, s) < 0)
			log_error("process %d: its descriptors have no room in the service manager's store: it is lost "
				  "if the whole agent is killed", (int)s->pid);
		notice_send(&session_owner(s)->box, &s->to_owner, SESSION_OWN_ADD);
	}
	give_batches(e, batches);
}
