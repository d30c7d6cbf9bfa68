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
#include "flow/flow.h"

#include <errno.h>
#include <string.h>

#include "common/util.h"
#include "flow/order.h"
#include "page/seal.h"
#include "proc/gate.h"

#define FETCHES 192
#define FOR_FAULTS 64 /* that restoring and reading ahead leave free */
/* Reads of many pages: those of one stream that are used, are being read, and of
   another one. */
#define WINDOWS 4
#define WINDOW_PAGES 64
#define TOGETHER 16u /* pages in one COPY: whoever waits for the first waits for all to be unpacked */
#define WINDOW_SOON_NS (50 * 1000000ull) /* one that is younger is likely to end soon */
/* A read that failed is tried again after such a time; where the medium says
   that it can't, so often in all. */
#define AGAIN_NS (10 * 1000000ull)
#define AGAIN_LONG_NS (NSEC_PER_SEC / 2)
#define TRIES 3

struct window;

struct fetch {
	struct blobstore_fetch read; /* the first: read.read is what done() gets */
	struct mail mail;
	struct fetches *all;
	struct window *window;	 /* whose bytes it has; NULL: its own */
	struct session *session; /* NULL: ended meanwhile */
	uint64_t vpn;
	uint64_t start_ns;
	uint64_t due_ns; /* not looked at before */
	struct fetch *next; /* free, or to be looked at again */
	unsigned tries;
	bool doubted; /* what was read was wrong, once */
	bool used;
	bool begun;  /* a read is pending, or its result is held */
	bool pending; /* ... the former */
	bool failed; /* to be read again */
	bool demand; /* a thread waits, or did when it began */
};

/* One read for several fetches, which end one by one: its buffer is theirs till
   then. */
struct window {
	struct blobstore_window read; /* the first */
	struct mail mail;
	struct mailbox *box;
	struct fetch *v[WINDOW_PAGES];
	unsigned n, left; /* not ended; 0: it is free */
	uint64_t start_ns;
	bool pending;
};

struct fetches {
	struct mailbox *box;
	struct fetch v[FETCHES];
	struct window windows[WINDOWS];
	struct fetch *free;
	struct fetch *again;
	unsigned nr_free;
	bool starved; /* some session has faults that found none free */
	bool awaited; /* somebody who reads ahead found no window free */
	unsigned char *buffers;
	struct seal *seal;
};

static void fetch_done(struct store_read *read)
{
	struct fetch *f = CONTAINER_OF(read, struct fetch, read.read);

	mailbox_send(f->all->box, &f->mail);
}

static void window_done(struct store_read *read)
{
	struct window *w = CONTAINER_OF(read, struct window, read.read);

	mailbox_send(w->box, &w->mail);
}

static void init_window(struct window *w, struct mailbox *box, unsigned char *buffer)
{
	w->box = box;
	w->mail.kind = FETCH_WINDOW_DONE;
	w->read.read.buf = buffer;
	w->read.read.done = window_done;
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
		init_window(&all->windows[i], &o->box,
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

static void leave_window(struct owner *o, struct fetch *f)
{
	struct window *w = f->window;

	f->window = NULL;
	if (!w || --w->left || !o->fetches->awaited)
		return;
	o->fetches->awaited = false;
	prefetch_resume(o);
}

/* Its read has ended and is of no more use. */
static void end(struct owner *o, struct fetch *f)
{
	blob_id id = f->read.id;

	if (f->begun)
		blobstore_fetch_end(&f->read);
	f->begun = false;
	leave_window(o, f);
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

static blob_id slow_blob(const struct owner *o, slot_t slot)
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
	return o->fetches && slow_blob(o, slot);
}

/* False: it is not slow any more. */
static bool begin(struct owner *o, struct fetch *f)
{
	f->begun = blobstore_fetch_start(o->flow->blobstore, &f->read, f->read.id);
	f->pending = f->begun;
	return f->begun;
}

/* For a page that is slow: its slot is FETCHING from now on, for this fetch, which
   has not begun to read. NULL: none is free, or (*retry) it is not that simple. */
static struct fetch *claim(struct owner *o, struct session *s, uint64_t vpn, bool demand, bool *retry)
{
	slot_t slot = slotmap_get(&s->slots, vpn);
	blob_id id = slow_blob(o, slot);
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

/* It reads nothing: the slot is as it was, and says where the page is. */
static slot_t disclaim(struct owner *o, struct session *s, struct fetch *f)
{
	slot_t slot = slotmap_get(&s->slots, f->vpn);

	slot = slot_make(SLOT_STORED, slot_flags(slot), slot_value(slot));
	(void)slotmap_set(&s->slots, f->vpn, slot); /* its leaf is our own by now */
	end(o, f);
	return slot;
}

enum placed fetch_start(struct owner *o, struct session *s, uint64_t vpn, bool write, bool demand)
{
	bool retry;
	struct fetch *f = claim(o, s, vpn, demand, &retry);

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
	return refault_place(o, s, vpn, disclaim(o, s, f), write);
}

static struct window *free_window(struct fetches *all)
{
	for (unsigned i = 0; i < WINDOWS; i++)
		if (!all->windows[i].left && !all->windows[i].pending)
			return &all->windows[i];
	return NULL;
}

/* One that is at hand, or does not lie near those before, is left to others. False: no
   more can be begun now. */
static bool add_page(struct owner *o, struct session *s, uint64_t vpn, struct window *w)
{
	struct blobstore *bs = o->flow->blobstore;
	blob_id id = slow_blob(o, slotmap_get(&s->slots, vpn));
	struct fetch *f;
	bool retry;

	if (!id || !blobstore_window_fits(bs, &w->read, id))
		return true;
	f = room_use(o, s, 1) ? claim(o, s, vpn, false, &retry) : NULL;
	if (!f)
		return false;
	if (!blobstore_window_add(bs, &w->read, &f->read, id)) {
		(void)disclaim(o, s, f); /* it has moved */
		return true;
	}
	f->begun = f->pending = true;
	f->window = w;
	w->v[w->n++] = f;
	w->left++;
	return true;
}

static void submit(struct owner *o, struct window *w)
{
	struct fetch *f = w->v[0];

	if (w->n == 1) { /* its own buffer will do */
		leave_window(o, f);
		blobstore_window_submit_one(&w->read, &f->read);
		return;
	}
	w->start_ns = o->now;
	w->pending = true;
	blobstore_window_submit(o->flow->blobstore, &w->read);
}

unsigned fetch_ahead(struct owner *o, struct session *s, uint64_t vpn, unsigned max)
{
	struct window *w = o->fetches ? free_window(o->fetches) : NULL;
	uint64_t end = vpn + MIN(max, WINDOW_PAGES);

	if (!w)
		return 0;
	w->n = 0;
	w->read.segment = NULL;
	w->read.bytes = 0;
	while (vpn < end && add_page(o, s, vpn, w))
		vpn = slotmap_next(&s->slots, vpn + 1, end, FLOW_HERE_MASK);
	if (w->n)
		submit(o, w);
	return w->n;
}

bool fetch_ahead_later(struct owner *o)
{
	struct fetches *all = o->fetches;
	bool soon = false;

	if (!all || free_window(all))
		return false;
	for (unsigned i = 0; i < WINDOWS; i++)
		soon |= o->now - all->windows[i].start_ns < WINDOW_SOON_NS;
	all->awaited |= soon;
	return soon;
}

/* ---- end ---- */

/* What the slot is now, if these are its bytes. */
static bool is_wanted(struct fetch *f, slot_t *slot)
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

static void account(struct owner *o, struct fetch *f)
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
		account(o, f);
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
	if (!is_wanted(f, &slot)) {
		end(o, f);
		return;
	}
	if (begin(o, f))
		return;
	back_to_stored(f, slot); /* it has come up: at once, the next time */
	end(o, f);
}

static void read_again(struct owner *o, struct fetch *f, uint64_t due_ns)
{
	blobstore_fetch_end(&f->read);
	leave_window(o, f);
	f->begun = false;
	f->failed = true;
	later(o->fetches, f, due_ns);
}

static int unpack(struct owner *o, struct fetch *f, void *page)
{
	uint64_t start = now_ns();
	int r = blobstore_fetch_page(o->flow->blobstore, &f->read, o->codec, o->fetches->seal, page);

	counter_add(&f->session->counters.unpack_ns_total, now_ns() - start);
	return r;
}

/* r: what unpacking it has come to, and its bytes. */
static void look_at(struct owner *o, struct fetch *f, int r, const void *bytes)
{
	struct session *s = f->session;
	uint64_t wait_ns;
	slot_t slot;
	bool placed;

	if (!is_wanted(f, &slot)) {
		end(o, f);
		return;
	}
	if (r && may_succeed(f, r, &wait_ns)) {
		read_again(o, f, now_ns() + wait_ns);
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
		end(o, f);
	else
		later(o->fetches, f, 0);
}

static void look(struct owner *o, struct fetch *f)
{
	slot_t slot;

	if (is_wanted(f, &slot))
		look_at(o, f, unpack(o, f, o->page), o->page);
	else
		end(o, f);
}

/* How many of a window, from its i-th on, are one run of pages for one COPY. */
static unsigned run_length(const struct window *w, unsigned i, slot_t *slots)
{
	unsigned max = MIN(w->n - i, TOGETHER), n;

	for (n = 0; n < max; n++) {
		struct fetch *f = w->v[i + n];

		if (!is_wanted(f, &slots[n]) || f->vpn != w->v[i]->vpn + n ||
		    slot_is_marked(slots[n]) != slot_is_marked(slots[0]))
			break;
	}
	return n;
}

static unsigned place_run(struct owner *o, struct fetch *const *f, const slot_t *slots, unsigned n)
{
	struct session *s = f[0]->session;
	unsigned placed;

	if (n < 2 || !events_are_settled(s) || !gate_enter(s->gate))
		return 0;
	placed = refault_place_together(o, s, f[0]->vpn, slots, n, o->page, true);
	gate_leave(s->gate);
	for (unsigned i = 0; i < placed; i++) {
		account(o, f[i]);
		end(o, f[i]);
	}
	return placed;
}

/* Those of a window from its i-th on that are one run, or one; how many. What can't be
   placed with others is looked at by itself. */
static unsigned look_at_run(struct owner *o, struct window *w, unsigned i)
{
	struct fetch *const *f = &w->v[i];
	char *page = o->page;
	slot_t slots[TOGETHER];
	unsigned n = run_length(w, i, slots), good = 0;
	int r = 0;

	if (!n) {
		end(o, f[0]);
		return 1;
	}
	while (good < n && !(r = unpack(o, f[good], page + good * PAGE_BYTES)))
		good++;
	for (i = place_run(o, f, slots, good); i < good; i++)
		look_at(o, f[i], 0, page + i * PAGE_BYTES);
	if (r)
		look_at(o, f[good++], r, NULL);
	return good;
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

void fetch_take_window(struct owner *o, struct mail *mail)
{
	struct window *w = CONTAINER_OF(mail, struct window, mail);

	w->pending = false;
	for (unsigned i = 0; i < w->n; i++) {
		w->v[i]->pending = false;
		if (w->read.read.result) /* perhaps for one of them: each by itself */
			read_again(o, w->v[i], 0);
		else
			blobstore_window_take(&w->read, &w->v[i]->read);
	}
	for (unsigned i = 0; !w->read.read.result && i < w->n;)
		i += look_at_run(o, w, i);
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

static bool is_for_nobody(const struct window *w)
{
	for (unsigned i = 0; w->pending && i < w->n; i++)
		if (w->v[i]->session)
			return false;
	return w->pending;
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
		if (is_for_nobody(&o->fetches->windows[i]))
			blobstore_window_cancel(&o->fetches->windows[i].read);
}

static void end_window(struct owner *o, struct window *w)
{
	for (unsigned i = 0; i < w->n; i++)
		end(o, w->v[i]);
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
		end(o, f);
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
				end(o, CONTAINER_OF(mail, struct fetch, mail));
			else if (mail->kind == FETCH_WINDOW_DONE)
				end_window(o, CONTAINER_OF(mail, struct window, mail));
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
