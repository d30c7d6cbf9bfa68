/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Many pages of a slow tier that lie side by side, brought back by one read: its
 * fetches share its buffer, and end one by one. What of it makes a run of pages is
 * placed by one COPY; what is in the way, or damaged, concerns its own page alone.
 */
#include "flow/fetch_private.h"

#include "common/util.h"
#include "proc/gate.h"

#define TOGETHER 16u /* pages in one COPY: whoever waits for the first waits for all to be unpacked */
#define SOON_NS (50 * 1000000ull) /* one that is younger is likely to end soon */

static void window_done(struct store_read *read)
{
	struct window *w = CONTAINER_OF(read, struct window, read.read);

	mailbox_send(w->box, &w->mail);
}

void fetch_window_init(struct window *w, struct mailbox *box, unsigned char *buffer)
{
	w->box = box;
	w->mail.kind = FETCH_WINDOW_DONE;
	w->read.read.buf = buffer;
	w->read.read.done = window_done;
}

void fetch_leave_window(struct owner *o, struct fetch *f)
{
	struct window *w = f->window;

	f->window = NULL;
	if (!w || --w->left || !o->fetches->awaited)
		return;
	o->fetches->awaited = false;
	prefetch_resume(o);
}

void fetch_window_end(struct owner *o, struct window *w)
{
	for (unsigned i = 0; i < w->n; i++)
		fetch_end(o, w->v[i]);
}

bool fetch_window_is_for_nobody(const struct window *w)
{
	for (unsigned i = 0; w->pending && i < w->n; i++)
		if (w->v[i]->session)
			return false;
	return w->pending;
}

/* ---- begin ---- */

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
	blob_id id = fetch_slow_blob(o, slotmap_get(&s->slots, vpn));
	struct fetch *f;
	bool retry;

	if (!id || !blobstore_window_fits(bs, &w->read, id))
		return true;
	f = room_use(o, s, 1) ? fetch_claim(o, s, vpn, false, &retry) : NULL;
	if (!f)
		return false;
	if (!blobstore_window_add(bs, &w->read, &f->read, id)) {
		(void)fetch_disclaim(o, s, f); /* it has moved */
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
		fetch_leave_window(o, f);
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
		soon |= o->now - all->windows[i].start_ns < SOON_NS;
	all->awaited |= soon;
	return soon;
}

/* ---- end ---- */

/* How many of a window, from its i-th on, are one run of pages for one COPY. */
static unsigned run_length(const struct window *w, unsigned i, slot_t *slots)
{
	unsigned max = MIN(w->n - i, TOGETHER), n;

	for (n = 0; n < max; n++) {
		struct fetch *f = w->v[i + n];

		if (!fetch_is_wanted(f, &slots[n]) || f->vpn != w->v[i]->vpn + n ||
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
		fetch_account(o, f[i]);
		fetch_end(o, f[i]);
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
		fetch_end(o, f[0]);
		return 1;
	}
	while (good < n && !(r = fetch_unpack(o, f[good], page + good * PAGE_BYTES)))
		good++;
	for (i = place_run(o, f, slots, good); i < good; i++)
		fetch_look_at(o, f[i], 0, page + i * PAGE_BYTES);
	if (r)
		fetch_look_at(o, f[good++], r, NULL);
	return good;
}

void fetch_take_window(struct owner *o, struct mail *mail)
{
	struct window *w = CONTAINER_OF(mail, struct window, mail);

	w->pending = false;
	for (unsigned i = 0; i < w->n; i++) {
		w->v[i]->pending = false;
		if (w->read.read.result) /* perhaps for one of them: each by itself */
			fetch_read_again(o, w->v[i], 0);
		else
			blobstore_window_take(&w->read, &w->v[i]->read);
	}
	for (unsigned i = 0; !w->read.read.result && i < w->n;)
		i += look_at_run(o, w, i);
}
