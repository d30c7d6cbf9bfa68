/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pages in slow tiers come back: a read is submitted, others are served, and
 * what has been read is placed when it comes.
 *
 * A slot (session, vpn) is FETCHING if and only if exactly one fetch of the
 * owner was begun for it and not finished. The fetch holds a reference to the
 * blob of its own, so the id means the same bytes until its end, whatever
 * becomes of the slot; and the blob's segment is pinned.
 *
 * Why every fault is answered once (INV-3) and nothing stale comes (INV-4):
 *  - Who touches a FETCHING page waits for the COPY of its fetch, which wakes
 *    all who wait for that page. A fetch that ends otherwise wakes them.
 *  - REMOVE and UNMAP drop the slot and wake the range, as for any page. The
 *    fetch finds another slot at its end, and places nothing.
 *  - REMAP and FORK first turn the FETCHING slots they carry along back to
 *    STORED (fetch_forget): the new place, or the child, begins fetches of its
 *    own. Those who wait at the old place are woken by the REMAP; those who
 *    wait in the parent get their page, since
 *  - at its end a fetch places its bytes where its slot is FETCHING or STORED
 *    and names the very same blob: such a slot says that these are the page's
 *    bytes now. As for any COPY, the kernel answers EAGAIN while an event is
 *    unread, and then it is done again behind the events.
 *  - A session that is closed lets go of its fetches (fetch_close); they end
 *    without it.
 * The owner never waits (INV-2): fetches are a fixed number with buffers of
 * their own. If none is free, the fault is left unanswered, and when some are
 * free again everybody who waits is woken to fault anew.
 *
 * An owner's, but for fetch_done, which runs anywhere and only hands over.
 */
#include "flow/fetch_private.h"

#include <errno.h>
#include <string.h>

#include "common/util.h"
#include "flow/order.h"
#include "page/seal.h"
#include "proc/gate.h"

#define FOR_FAULTS 64 /* that restoring and reading ahead leave free */
/* A read that failed is tried again after such a time; where the medium says
   that it can't, so often in all. */
#define AGAIN_NS (10 * 1000000ull)
#define AGAIN_LONG_NS (NSEC_PER_SEC / 2)
#define TRIES 3

static void fetch_done(struct store_read *read)
{
	struct fetch *f = CONTAINER_OF(read, struct fetch, read.read);

	mailbox_send(f->all->box, &f->mail);
}

int fetch_init(struct owner *o)
{
	struct fetches *all;

	if (!blobstore_has_slow(o->flow->blobstore))
		return 0;
	all = o->fetches = calloc(1, sizeof(*all));
	if (!all)
		return -ENOMEM;
	all->box = &o->box;
	all->seal = blobstore_seal_new(o->flow->blobstore);
	all->buffers = aligned_alloc(STORE_BLOCK,
				     FETCHES * BLOBSTORE_FETCH_ROOM + WINDOWS * BLOBSTORE_WINDOW_ROOM);
	if (!all->seal || !all->buffers)
		return -ENOMEM;
	for (unsigned i = FETCHES; i--;) {
		struct fetch *f = &all->v[i];

		f->all = all;
		f->mail.kind = FETCH_DONE;
		f->read.read.buf = all->buffers + i * BLOBSTORE_FETCH_ROOM;
		f->read.read.done = fetch_done;
		f->next = all->free;
		all->free = f;
	}
	all->nr_free = FETCHES;
	for (unsigned i = 0; i < WINDOWS; i++)
		fetch_window_init(&all->windows[i], &o->box,
			    all->buffers + FETCHES * BLOBSTORE_FETCH_ROOM + i * BLOBSTORE_WINDOW_ROOM);
	return 0;
}

/* ---- their life ---- */

static struct fetch *take(struct fetches *all, bool demand)
{
	struct fetch *f = all->free;

	if (!f || (!demand && all->nr_free <= FOR_FAULTS))
		return NULL;
	all->free = f->next;
	all->nr_free--;
	f->used = true;
	f->failed = f->doubted = false;
	f->tries = 0;
	return f;
}

/* Those whose faults found none free come again. */
static void feed(struct owner *o)
{
	if (!o->fetches->starved)
		return;
	o->fetches->starved = false;
	for (struct session *s = o->owned; s; s = s->next_owned)
		if (s->starved) {
			s->starved = false;
			uffd_wake_all(s->fds.uffd);
		}
}

static void give(struct owner *o, struct fetch *f)
{
	struct fetches *all = o->fetches;

	f->used = false;
	f->session = NULL;
	f->next = all->free;
	all->free = f;
	all->nr_free++;
	feed(o);
}

void fetch_end(struct owner *o, struct fetch *f)
{
	blob_id id = f->read.id;

	if (f->begun)
		blobstore_fetch_end(&f->read);
	f->begun = false;
	fetch_leave_window(o, f);
	if (f->session)
		f->session->nr_fetches--;
	give(o, f);
	blobstore_unref(o->flow->blobstore, id);
}

static void later(struct fetches *all, struct fetch *f, uint64_t due_ns)
{
	f->due_ns = due_ns;
	f->next = all->again;
	all->again = f;
}

/* ---- begin ---- */

blob_id fetch_slow_blob(const struct owner *o, slot_t slot)
{
	blob_id blob = 0;

	if (slot_state(slot) == SLOT_STORED)
		blob = (blob_id)slot_value(slot);
	else if (slot_state(slot) == SLOT_STAGED)
		blob = staging_forwarded(o->flow->staging, (uint32_t)slot_value(slot));
	return blob && blobstore_is_slow(o->flow->blobstore, blob) ? blob : 0;
}

bool fetch_is_needed(const struct owner *o, slot_t slot)
{
	return o->fetches && fetch_slow_blob(o, slot);
}

/* False: it is not slow any more. */
static bool begin(struct owner *o, struct fetch *f)
{
	f->begun = blobstore_fetch_start(o->flow->blobstore, &f->read, f->read.id);
	f->pending = f->begun;
	return f->begun;
}

struct fetch *fetch_claim(struct owner *o, struct session *s, uint64_t vpn, bool demand, bool *retry)
{
	slot_t slot = slotmap_get(&s->slots, vpn);
	blob_id id = fetch_slow_blob(o, slot);
	struct fetch *f;

	*retry = slot_state(slot) == SLOT_STAGED && !evict_forget_forwarder(o, s, vpn);
	f = *retry ? NULL : take(o->fetches, demand);
	if (!f)
		return NULL;
	slot = slotmap_get(&s->slots, vpn);
	if (slotmap_set(&s->slots, vpn, slot_make(SLOT_FETCHING, slot_flags(slot), slot_value(slot))) < 0) {
		give(o, f);
		*retry = true;
		return NULL;
	}
	f->session = s;
	f->vpn = vpn;
	f->demand = demand;
	f->start_ns = o->now;
	f->read.id = id;
	s->nr_fetches++;
	blobstore_ref(o->flow->blobstore, id);
	return f;
}

slot_t fetch_disclaim(struct owner *o, struct session *s, struct fetch *f)
{
	slot_t slot = slotmap_get(&s->slots, f->vpn);

	slot = slot_make(SLOT_STORED, slot_flags(slot), slot_value(slot));
	(void)slotmap_set(&s->slots, f->vpn, slot); /* its leaf is our own by now */
	fetch_end(o, f);
	return slot;
}

enum placed fetch_start(struct owner *o, struct session *s, uint64_t vpn, bool write, bool demand)
{
	bool retry;
	struct fetch *f = fetch_claim(o, s, vpn, demand, &retry);

	if (retry)
		return PLACED_RETRY;
	if (!f) {
		s->starved |= demand;
		o->fetches->starved |= demand;
		return demand ? PLACED_DONE : PLACED_NOMEM;
	}
	if (begin(o, f))
		return PLACED_DONE;
	/* It has come up meanwhile. */
	return refault_place(o, s, vpn, fetch_disclaim(o, s, f), write);
}

/* ---- end ---- */

bool fetch_is_wanted(struct fetch *f, slot_t *slot)
{
	enum slot_state state;

	if (!f->session || session_state(f->session) >= SESSION_CLOSING)
		return false;
	*slot = slotmap_get(&f->session->slots, f->vpn);
	state = slot_state(*slot);
	return (state == SLOT_FETCHING || state == SLOT_STORED) && flow_slot_blob(*slot) == f->read.id;
}

/* It stays with us; who waits comes again. */
static void back_to_stored(struct fetch *f, slot_t slot)
{
	struct session *s = f->session;

	if (slot_state(slot) == SLOT_FETCHING)
		(void)slotmap_set(&s->slots, f->vpn, slot_make(SLOT_STORED, slot_flags(slot), slot_value(slot)));
	uffd_wake(s->fds.uffd, f->vpn << PAGE_SHIFT, PAGE_BYTES);
}

void fetch_account(struct owner *o, struct fetch *f)
{
	struct session *s = f->session;
	struct order *order = s->restore_order;
	uint64_t ns = now_ns() - f->start_ns;

	if (f->demand) {
		counter_add(&s->counters.refaults_total, 1);
		counter_add(&s->counters.stall_ns_total, ns);
		fault_record_latency(o->flow, s, ns);
	}
	if (session_state(s) == SESSION_RESTORING && order)
		order->bytes += PAGE_BYTES;
	/* Somebody else has it too: hot. */
	if (blobstore_is_shared(o->flow->blobstore, f->read.id))
		blobstore_want(o->flow->blobstore, f->read.id);
}

/* False: again, behind what is in the way. */
static bool place(struct owner *o, struct fetch *f, slot_t slot, const void *bytes)
{
	struct session *s = f->session;
	bool restoring = session_state(s) == SESSION_RESTORING;

	if (!f->demand && refault_is_guarded(o, s, f->vpn, slot)) {
		uffd_wake(s->fds.uffd, f->vpn << PAGE_SHIFT, PAGE_BYTES);
		return true;
	}
	switch (refault_place_bytes(o, s, f->vpn, slot, true, bytes)) {
	case PLACED_DONE:
		fetch_account(o, f);
		return true;
	case PLACED_RETRY:
		return false;
	case PLACED_EXISTS:
		refault_forget(o, s, f->vpn, slot, SLOT_RESIDENT);
		uffd_wake(s->fds.uffd, f->vpn << PAGE_SHIFT, PAGE_BYTES);
		return true;
	case PLACED_GONE:
	case PLACED_FAILED:
		if (restoring) /* as in flow.c: nobody can ever touch it */
			refault_forget(o, s, f->vpn, slot, SLOT_NONE);
		else
			back_to_stored(f, slot);
		uffd_wake(s->fds.uffd, f->vpn << PAGE_SHIFT, PAGE_BYTES);
		return true;
	case PLACED_NOMEM:
		room_none(o, s);
		back_to_stored(f, slot);
		return true;
	case PLACED_DEAD:
		flow_close(o, s);
		return true;
	}
	return true;
}

/* Is there hope that another read succeeds? Then after *ns. */
static bool may_succeed(struct fetch *f, int r, uint64_t *ns)
{
	*ns = AGAIN_LONG_NS;
	switch (-r) {
	case EBADMSG:
	case ENODATA:
	case ENOENT:
	case EINVAL:
		*ns = AGAIN_NS;
		if (f->doubted)
			return false;
		f->doubted = true; /* once more: it may have been the way, not the medium */
		return true;
	case ETIMEDOUT: /* as long as the program lives */
	case ECANCELED:
	case EACCES:
	case EPERM:
		return true;
	case EAGAIN: /* nor does the kernel's lack of memory say anything of the medium */
	case EINTR:
	case ENOMEM:
		*ns = AGAIN_NS;
		return true;
	default:
		break;
	}
	*ns = AGAIN_NS;
	return ++f->tries <= TRIES;
}

/* Again, from where it is by now. */
static void begin_again(struct owner *o, struct fetch *f)
{
	slot_t slot;

	f->failed = false;
	if (!fetch_is_wanted(f, &slot)) {
		fetch_end(o, f);
		return;
	}
	if (begin(o, f))
		return;
	back_to_stored(f, slot); /* it has come up: at once, the next time */
	fetch_end(o, f);
}

void fetch_read_again(struct owner *o, struct fetch *f, uint64_t due_ns)
{
	blobstore_fetch_end(&f->read);
	fetch_leave_window(o, f);
	f->begun = false;
	f->failed = true;
	later(o->fetches, f, due_ns);
}

int fetch_unpack(struct owner *o, struct fetch *f, void *page)
{
	uint64_t start = now_ns();
	int r = blobstore_fetch_page(o->flow->blobstore, &f->read, o->codec, o->fetches->seal, page);

	counter_add(&f->session->counters.unpack_ns_total, now_ns() - start);
	return r;
}

void fetch_look_at(struct owner *o, struct fetch *f, int r, const void *bytes)
{
	struct session *s = f->session;
	uint64_t wait_ns;
	slot_t slot;
	bool placed;

	if (!fetch_is_wanted(f, &slot)) {
		fetch_end(o, f);
		return;
	}
	if (r && may_succeed(f, r, &wait_ns)) {
		fetch_read_again(o, f, now_ns() + wait_ns);
		return;
	}
	if (r)
		bytes = NULL; /* lost */
	if (!events_are_settled(s) || !gate_enter(s->gate)) {
		later(o->fetches, f, 0);
		return;
	}
	placed = place(o, f, slot, bytes); /* its room was taken when it began */
	/* flow_close may have let go of it, but the gate is there till the end. */
	gate_leave(s->gate);
	if (placed)
		fetch_end(o, f);
	else
		later(o->fetches, f, 0);
}

static void look(struct owner *o, struct fetch *f)
{
	slot_t slot;

	if (fetch_is_wanted(f, &slot))
		fetch_look_at(o, f, fetch_unpack(o, f, o->page), o->page);
	else
		fetch_end(o, f);
}

void fetch_take(struct owner *o, struct mail *mail)
{
	struct fetch *f = CONTAINER_OF(mail, struct fetch, mail);

	f->pending = false;
	look(o, f);
}

bool fetch_has_again(const struct owner *o)
{
	return o->fetches && o->fetches->again;
}

int fetch_again(struct owner *o, int wait)
{
	struct fetch *f, *next;
	uint64_t now;

	if (!fetch_has_again(o))
		return wait;
	now = now_ns();
	f = o->fetches->again;
	o->fetches->again = NULL;
	for (; f; f = next) {
		next = f->next;
		if (!f->session || f->due_ns <= now) {
			if (f->failed)
				begin_again(o, f);
			else
				look(o, f);
		} else {
			later(o->fetches, f, f->due_ns);
		}
	}
	if (o->ahead) /* a window has ended */
		return 0;
	return o->fetches->again ? MIN(wait, 1) : wait;
}

/* ---- what happens meanwhile ---- */

void fetch_forget(struct owner *o, struct session *s, uint64_t vpn, uint64_t end_vpn)
{
	for (unsigned i = 0; s->nr_fetches && i < FETCHES; i++) {
		struct fetch *f = &o->fetches->v[i];
		slot_t slot;

		if (!f->used || f->session != s || f->vpn < vpn || f->vpn >= end_vpn)
			continue;
		slot = slotmap_get(&s->slots, f->vpn);
		if (slot_state(slot) == SLOT_FETCHING && flow_slot_blob(slot) == f->read.id)
			(void)slotmap_set(&s->slots, f->vpn,
					  slot_make(SLOT_STORED, slot_flags(slot), slot_value(slot)));
	}
}

void fetch_close(struct owner *o, struct session *s)
{
	for (unsigned i = 0; s->nr_fetches && i < FETCHES; i++) {
		struct fetch *f = &o->fetches->v[i];

		if (!f->used || f->session != s)
			continue;
		s->nr_fetches--;
		f->session = NULL;
		if (f->pending && !f->window)
			blobstore_fetch_cancel(o->flow->blobstore, &f->read);
	}
	for (unsigned i = 0; o->fetches && i < WINDOWS; i++)
		if (fetch_window_is_for_nobody(&o->fetches->windows[i]))
			blobstore_window_cancel(&o->fetches->windows[i].read);
}

/* The thread has ended, so no mail is taken any more: it is counted here. */
void fetch_deinit(struct owner *o)
{
	struct fetches *all = o->fetches;
	struct mail *mail, *next;

	if (!all)
		return;
	for (struct fetch *f = all->again, *more; f; f = more) {
		more = f->next;
		fetch_end(o, f);
	}
	for (unsigned i = 0; i < FETCHES && all->nr_free < FETCHES; i++)
		if (all->v[i].used && all->v[i].pending && !all->v[i].window)
			blobstore_fetch_cancel(o->flow->blobstore, &all->v[i].read);
	for (unsigned i = 0; i < WINDOWS; i++)
		if (all->windows[i].pending)
			blobstore_window_cancel(&all->windows[i].read);
	while (all->free && all->nr_free < FETCHES) {
		for (mail = mailbox_take(&o->box); mail; mail = next) {
			next = mail->next;
			if (mail->kind == FETCH_DONE)
				fetch_end(o, CONTAINER_OF(mail, struct fetch, mail));
			else if (mail->kind == FETCH_WINDOW_DONE)
				fetch_window_end(o, CONTAINER_OF(mail, struct window, mail));
		}
		usleep(1000);
	}
	seal_free(all->seal);
	free(all->buffers);
	free(all);
	o->fetches = NULL;
}

void fetch_count(struct owner *o, struct blobstore_references *refs)
{
	for (unsigned i = 0; o->fetches && i < FETCHES; i++)
		if (o->fetches->v[i].used)
			blobstore_references_add(refs, o->fetches->v[i].read.id);
}
