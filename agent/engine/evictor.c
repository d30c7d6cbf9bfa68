/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The worker's part for one session: when may how much leave, and the batch
 * that is under way. One batch at a time is between marking and staging.
 */
#include "engine/private.h"

#include <errno.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "common/fdpass.h"
#include "common/inject.h"
#include "common/util.h"
#include "proc/gate.h"
#include "sys/pagemap.h"

#define MAPPINGS_MAX_AGE_NS (5 * NSEC_PER_SEC)
#define MAPPINGS_COST_SHARE 20 /* reading smaps, or all threads, may take 1/20 of the time */
#define ANSWER_NS (2 * NSEC_PER_SEC) /* a mover that takes longer is stopped */
#define SLOW_NS (10 * NSEC_PER_SEC)  /* ... and left in peace for a while */
#define KCMP_NS (100 * 1000000ull)
#define ORDER_ROUNDS 16u
/* Batches on their way of a session whose pages are packed at once: few enough to
   stay in the processor's caches. More when so few are left. */
#define AT_ONCE_MAX 8u
#define AT_ONCE_LOW 3u
#define BUSY_NS 1000000ull	     /* a look that is due, when a batch is under way */
#define ORDER_PAUSE_NS 1000000ull /* until there may be room in staging again */

static void send_to_owner(struct batch *b, enum batch_step step)
{
	b->mail.kind = step;
	mailbox_send(&session_owner(b->session)->box, &b->mail);
}

static void let_go(struct session *s, const char *reason)
{
	atomic_store(&s->reason, reason);
	notice_send(&session_owner(s)->box, &s->to_owner, SESSION_OWN_DETACH);
}

/* A mutex was taken while its page left: the page is asked for, and nothing more
   leaves until it was looked for again; once for each page, so that one that
   can't come holds nothing up. 1: one is on its way, or negative errno. */
static int read_threads(struct session *s)
{
	uint64_t before = atomic_load(&s->wanted_vpn), missing, begin = now_ns(), now;
	int r = mappings_read_threads(&s->mappings, s->fds.mem, s->fds.tasks, s->pid);

	now = now_ns();
	s->threads_due_ns = now + (now - begin) * MAPPINGS_COST_SHARE;
	if (r == -E2BIG)
		s->slow_until_ns = now + SLOW_NS;
	if (r < 0)
		return r;
	missing = s->mappings.missing >> PAGE_SHIFT;
	atomic_store(&s->wanted_vpn, missing);
	if (missing)
		notice_send(&session_owner(s)->box, &s->to_owner, SESSION_OWN_WANTED);
	return missing && missing != before;
}

/* Which mappings, which thread blocks: anew when it is time. */
static int refresh_mappings(struct worker *w, struct session *s, uint64_t now)
{
	uint64_t age = now - s->mappings_ns;

	if (!s->mappings_ns || age > MAPPINGS_MAX_AGE_NS ||
	    (age >= w->scan_ns && age > s->mappings_cost_ns * MAPPINGS_COST_SHARE)) {
		now = now_ns();
		s->mappings_locked = session_read_locked(s, NULL);
		if (mappings_read(&s->mappings, s->fds.smaps, s->attach.never, s->attach.nr_never) < 0)
			return -EIO;
		s->mappings_ns = now_ns();
		s->mappings_cost_ns = s->mappings_ns - now;
		if ((s->mappings.has_uffd || s->mappings.is_asked) && session_state(s) == SESSION_ACTIVE) {
			let_go(s, s->mappings.has_uffd ? SESSION_REASON_UFFD : SESSION_REASON_ASKED);
			return -EBUSY;
		}
	}
	return read_threads(s);
}

/* Are the MADV_FREEs over by which pages are barred? */
static void look_at_threads(struct worker *w, struct session *s)
{
	uint64_t begin = now_ns();

	if (begin < s->quiet_due_ns || counter_get(&s->slots.count[SLOT_BARRED]) == 0)
		return;
	s->outside_ns = quiet_look(&s->quiet, s->fds.tasks);
	s->quiet_due_ns = now_ns() + MAX(w->scan_ns, (now_ns() - begin) * MAPPINGS_COST_SHARE);
}

static void look_for_guards(struct worker *w, struct session *s)
{
	uint64_t begin = now_ns();

	if (begin < s->guards_due_ns || !session_evicted_pages(s) || session_state(s) != SESSION_ACTIVE)
		return;
	if (evict_look_for_guards(s))
		notice_send(&session_owner(s)->box, &s->to_owner, SESSION_OWN_RESTORE);
	s->guards_due_ns = now_ns() + MAX(w->scan_ns, (now_ns() - begin) * MAPPINGS_COST_SHARE);
}

/* It was us who were held up: the report lies there. */
static bool has_answered(const struct session *s)
{
	struct pollfd socket = { .fd = s->fds.mover, .events = POLLIN };

	return poll(&socket, 1, 0) > 0;
}

/* What an order has moved and what has not come back since, touched or
   incompressible: only that is out. */
static uint64_t order_bytes(const struct session *s, const struct order *order)
{
	uint64_t back = counter_get(&s->counters.pages_in_total) - order->returned_before;

	return order->bytes - MIN(order->bytes, back << PAGE_SHIFT);
}

/* It has had a second chance: who ordered is not to wait for as long as it is stopped. */
static void look_at_order(struct worker *w, struct session *s, uint64_t now)
{
	struct order *order = s->evict_order;

	if (!order)
		return;
	if (!order->late_ns)
		order->late_ns = now;
	if (now - order->late_ns < SLOW_NS)
		return;
	order->bytes = order_bytes(s, order);
	order_finish(w->flow, &s->evict_order, order->bytes ? 0 : -EBUSY);
}

/* One that hangs inside of a MOVE holds the gate, and so its program's faults: that
   only who may kill it can end. */
static void look_for_the_mover(struct worker *w, struct session *s, uint64_t now)
{
	bool late = s->reporting && s->reporting->ordered && now - s->reporting->ordered_ns > ANSWER_NS &&
		    !has_answered(s);

	s->mover_hangs = late && !gate_is_free(s->gate);
	if (!late)
		return;
	s->slow_until_ns = now + SLOW_NS;
	look_at_order(w, s, now);
	notice_send(&session_owner(s)->box, &s->to_owner, SESSION_OWN_REVOKE);
}

/* Nothing leaves for as long as its program wants: whoever ordered is not to wait for that. */
static void end_order(struct session *s)
{
	struct order *order = s->evict_order;

	if (order)
		order->exhausted = order->scanned = true;
}

/* One that has stopped for a moment goes on, but not as another order's. */
static void begin_round(struct session *s)
{
	struct order *order = s->evict_order;

	if (!s->round_open || (order && !order->begun))
		evict_plan_round(s);
	if (order)
		order->begun = true;
}

void evictor_tick(struct worker *w, struct session *s, uint64_t now)
{
	int r;

	s->next_tick_ns = now + MIN(w->scan_ns, 250 * 1000000ull);
	if (s->salvage_waits) {
		evictor_salvage(w, s);
		return;
	}
	look_for_the_mover(w, s, now);
	if (s->closed || s->leaving || s->mover_pid == 0)
		return;
	if (now - s->last_kcmp_ns > KCMP_NS) {
		s->last_kcmp_ns = now;
		if (session_has_execed(s)) {
			evictor_leave(w, s);
			return;
		}
	}
	if (s->busy && s->room_asked)
		s->next_tick_ns = now + BUSY_NS;
	if (s->busy || now < s->slow_until_ns || now < s->threads_due_ns)
		return;
	look_for_guards(w, s);
	if (s->mappings.missing && read_threads(s) > 0) {
		s->next_tick_ns = now + BUSY_NS;
		return;
	}
	if (now - s->last_tick_ns < w->scan_ns && !s->evict_order && !s->room_asked)
		return;
	quota_set(w, s, now);
	if (!s->quota && !s->forced)
		return;
	r = refresh_mappings(w, s, now);
	if (r) {
		s->quota = 0;
		if (r == -E2BIG)
			end_order(s);
		if (r < 0)
			evictor_check_order(w, s);
		else
			s->next_tick_ns = now + BUSY_NS;
		return;
	}
	look_at_threads(w, s);
	if (s->forced)
		packers_hurry(w->packers, s);
	begin_round(s);
	evictor_next(w, s);
}

static uint64_t order_wants(const struct session *s, const struct order *order)
{
	uint64_t out = order_bytes(s, order);

	return order->target ? (order->target - MIN(order->target, out) + PAGE_BYTES - 1) >> PAGE_SHIFT
			     : UINT64_MAX;
}

/* Of so many pages, what its order wants yet; without one, all. */
static uint64_t wanted(const struct session *s, uint64_t pages)
{
	return s->forced && s->evict_order ? MIN(pages, order_wants(s, s->evict_order)) : pages;
}

/* What leaves is packed at once. */
static bool is_packed_at_once(const struct worker *w, const struct session *s)
{
	return s->forced || w->grace_ns == 0;
}

/* The store is told what is to come, of what is packed at once. */
static void expect(struct worker *w, const struct session *s, uint64_t to_leave)
{
	if (is_packed_at_once(w, s))
		(void)blobstore_expect(w->flow->blobstore, wanted(s, to_leave) + s->nr_batches * WIRE_BATCH);
}

/* How many pages the next batch may have. */
static unsigned batch_room(const struct worker *w, const struct session *s)
{
	const struct staging *st = w->flow->staging;
	uint64_t room = staging_room(st), left = room - MIN(room, w->reserved);
	uint64_t want = s->forced ? WIRE_BATCH : MIN(s->quota, WIRE_BATCH);

	if (is_packed_at_once(w, s) && s->nr_batches >= AT_ONCE_MAX)
		return 0;
	return (unsigned)MIN(wanted(s, want), left);
}

/* Nothing leaves a process that has changed its user before it has a domain of its
   own. (What was on its way before it was seen is still deduplicated as before.) */
static bool has_changed_user(struct worker *w, struct session *s)
{
	if (s->user == SESSION_USER_SAME) {
		s->user = SESSION_USER_CHANGED;
		s->user_told = false;
	}
	if (s->user == SESSION_USER_CHANGED && !s->nr_batches && !s->user_told) {
		s->user_told = true;
		notice_send(&w->flow->engine, &s->to_engine, SESSION_NEWS_USER);
	}
	return s->user == SESSION_USER_CHANGED;
}

/* mlockall locks transit too, so that the kernel has not refused what an order has
   moved since. Nothing else locks it. */
static bool is_all_locked(struct session *s)
{
	struct ranges locked = { 0 };
	bool all = mappings_read_flagged(s->fds.smaps, "lo", &locked) == 0 &&
		   ranges_find(&locked, s->transit);

	ranges_deinit(&locked);
	return all;
}

/*
 * mlock or mlockall since the mappings were read: then the list of what may
 * leave is wrong, and what has left meanwhile comes back. A round may be long:
 * threads begin meanwhile, on stacks that were ordinary memory.
 */
static bool has_changed(struct worker *w, struct session *s)
{
	bool user;
	uint64_t locked = session_read_locked(s, &user);

	if (locked >= s->mappings_locked + WIRE_TRANSIT_PAGES * PAGE_BYTES && is_all_locked(s))
		notice_send(&session_owner(s)->box, &s->to_owner, SESSION_OWN_RESTORE);
	if ((user || s->user == SESSION_USER_CHANGED) && s->user != SESSION_USER_PRIVATE && has_changed_user(w, s))
		return true;
	if (locked != s->mappings_locked)
		s->mappings_ns = 0; /* read again at the next tick */
	return locked != s->mappings_locked || (now_ns() >= s->threads_due_ns && read_threads(s));
}

/* What a DROP that could not be sent has left there must not be taken for new pages
   (evict_pull.c). Another one goes before the order: they are obeyed in turn. */
static bool has_lane(struct session *s, uint32_t lane)
{
	uint64_t start = s->transit + (uint64_t)lane * WIRE_BATCH * PAGE_BYTES;

	return pagemap_free_run(s->fds.pagemap, start, WIRE_BATCH) == WIRE_BATCH || evict_drop(s, lane, UINT64_MAX);
}

void evictor_next(struct worker *w, struct session *s)
{
	/* Also where no more is to leave: what has just left may be locked by now. */
	bool shut = s->closed || s->leaving || has_changed(w, s) || now_ns() < s->slow_until_ns;
	unsigned max = shut ? 0 : batch_room(w, s);
	uint32_t seq = session_next_seq(s->seq);
	struct batch *b = max && has_lane(s, seq % WIRE_LANES) ? worker_take_batch(w) : NULL;

	if (b && evict_plan(s, b, max)) {
		b->session = s;
		b->planned = b->nr;
		b->ordered_ns = now_ns();
		w->reserved += b->planned;
		b->seq = s->seq = seq;
		b->lane = b->seq % WIRE_LANES;
		b->forced = s->forced;
		b->hard = s->hard_pressed;
		s->busy = true;
		s->reporting = b;
		s->nr_batches++;
		expect(w, s, s->to_leave);
		send_to_owner(b, BATCH_MARK);
		return;
	}
	expect(w, s, b ? 0 : s->to_leave);
	if (b)
		worker_reuse(w, b);
	if (s->evict_order && s->forced) {
		struct order *order = s->evict_order;

		/* No room in staging is no end: the packers are making it. Nor are many
		   mappings with nothing in them. */
		order->exhausted = (b && !s->round_open) || s->leaving || s->closed;
		order->scanned = order->exhausted || order_wants(s, order) == 0;
	}
	s->quota = 0;
	evictor_check_order(w, s);
}

/* Pages that the kernel still counts as shared after a fork, though the other
   side is gone, become ours again by a write: ask for it, if nothing has changed. */
static void populate(struct session *s, const struct batch *b)
{
	struct wire_order order = { .head = { WIRE_MAGIC, WIRE_VERSION, WIRE_ORDER },
				    .op = WIRE_OP_POPULATE, .seq = 0, .generation = b->generation };

	for (unsigned i = 0; i < b->nr; i++) {
		uint64_t address = b->page[i].vpn << PAGE_SHIFT;

		if (b->page[i].result == BATCH_PAGE_BUSY && pagemap_is_exclusive(s->fds.pagemap, address))
			order.range[order.nr_ranges++] = (struct wire_move){ .address = address, .pages = 1 };
	}
	if (order.nr_ranges)
		(void)send(s->fds.mover, &order, sizeof(order), MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* No batch is between marking and staging any more. */
static void go_on(struct worker *w, struct session *s)
{
	if (s->leaving)
		evictor_leave(w, s);
	if (s->closed)
		worker_end_session(w, s);
	else
		evictor_next(w, s);
}

static bool is_lane_used(const struct session *s, uint32_t lane)
{
	for (uint32_t i = lane * WIRE_BATCH; i < (lane + 1) * WIRE_BATCH; i++)
		if (s->recover_lanes >> lane & 1 ||
		    pagemap_is_populated(s->fds.pagemap, s->transit + (uint64_t)i * PAGE_BYTES))
			return true;
	return false;
}

void evictor_salvage(struct worker *w, struct session *s)
{
	struct batch *b;

	while (s->salvaged < WIRE_LANES && !is_lane_used(s, s->salvaged))
		s->salvaged++;
	b = s->salvaged < WIRE_LANES ? worker_take_batch(w) : NULL;
	s->busy = s->salvaged < WIRE_LANES;
	s->salvage_waits = s->busy && !b;
	if (!b) {
		/* What is in a lane that nobody has looked at would be dropped by the next
		   batch that takes it: without memory the next tick tries again. */
		if (!s->busy)
			go_on(w, s);
		return;
	}
	b->session = s;
	b->salvage = true;
	b->nr = b->planned = WIRE_BATCH;
	b->lane = s->salvaged++;
	s->nr_batches++;
	/* beside what batches on their way have been promised */
	staging_make_room(w->flow->staging, (unsigned)w->reserved + WIRE_BATCH);
	w->reserved += b->planned;
	evict_salvage(w->flow, b);
	inject(INJECT_RECOVER_SALVAGE);
	send_to_owner(b, BATCH_STAGE);
}

void evictor_returned(struct worker *w, struct batch *b)
{
	struct session *s = b->session;
	struct order *order = s->evict_order;
	uint64_t out = 0;
	bool pulled = false;

	s->busy = b->salvage;
	s->reporting = NULL;
	w->reserved -= b->planned; /* they are taken or not needed */
	for (unsigned i = 0; i < b->nr; i++) {
		pulled |= b->page[i].result == BATCH_PAGE_PULLED;
		out += b->page[i].result == BATCH_PAGE_PULLED || b->page[i].result == BATCH_PAGE_FILLED;
	}
	s->quota -= MIN(s->quota, b->planned);
	s->to_leave -= MIN(s->to_leave, b->planned);
	if (b->refused && b->planned)
		s->hand = MAX(s->hand, b->map_end);
	if (order && b->forced)
		order->bytes += out << PAGE_SHIFT;
	if (order && out)
		order->late_ns = 0;
	s->left_since += out;
	if (s->room_limit)
		room_give(s, out);
	if (!s->closed && !s->leaving)
		populate(s, b);
	if (pulled) {
		b->due_ns = now_ns() + w->grace_ns;
		packers_add(w->packers, b, b->forced || s->closed || w->grace_ns == 0);
	} else {
		s->nr_batches--;
		worker_reuse(w, b);
	}
	if (s->busy) {
		evictor_salvage(w, s);
		return;
	}
	go_on(w, s);
}

static void finish_order(struct worker *w, struct session *s, struct order *order)
{
	bool full = quota_is_store_full(s, now_ns());

	order->bytes = order_bytes(s, order);
	staging_trim(w->flow->staging, 0);
	order_finish(w->flow, &s->evict_order, order->bytes == 0 && full ? -ENOSPC : 0);
}

void evictor_check_order(struct worker *w, struct session *s)
{
	struct order *order = s->evict_order;

	if (!order || s->busy)
		return;
	if (order->scanned && s->nr_batches == 0) {
		/* Some came back when packed: others in their place, if there
		   are any. */
		if (order->exhausted || order_wants(s, order) == 0 || ++order->rounds == ORDER_ROUNDS) {
			finish_order(w, s, order);
			return;
		}
		order->scanned = false;
	}
	if (order->scanned || s->leaving || s->closed || s->nr_batches > AT_ONCE_LOW)
		return; /* the next batch that is done comes here too */
	s->next_tick_ns = now_ns() + ORDER_PAUSE_NS;
	w->next_due_ns = MIN(w->next_due_ns, s->next_tick_ns);
}

void evictor_done(struct worker *w, struct session *s)
{
	const struct order *order;

	s->nr_batches--;
	evictor_check_order(w, s);
	order = s->evict_order;
	if (order && !order->scanned && s->nr_batches == AT_ONCE_LOW)
		s->next_tick_ns = w->next_due_ns = 0; /* the packers will soon have nothing */
}

/* The process has gone, or left this address space: the mover is told, unless
   pages are on their way. */
void evictor_leave(struct worker *w, struct session *s)
{
	struct wire_order leave = { .head = { WIRE_MAGIC, WIRE_VERSION, WIRE_ORDER },
				    .op = WIRE_OP_LEAVE };

	(void)w;
	s->leaving = true;
	room_set(s, 0, SESSION_ROOM_UNLIMITED, true); /* nobody looks any more */
	if (!s->busy && s->fds.mover >= 0)
		(void)send(s->fds.mover, &leave, sizeof(leave), MSG_DONTWAIT | MSG_NOSIGNAL);
}

/*
 * The mover is dead, and the owner knows and orders nothing more; or the owner
 * has made its order void. A batch that was ordered is in transit or not:
 * nothing moves any more, so looking tells. One that was not comes back by
 * itself.
 */
void evictor_alone(struct worker *w, struct session *s)
{
	struct batch *b = s->reporting;

	if (!b || !atomic_load_explicit(&b->ordered, memory_order_acquire))
		return;
	s->reporting = NULL;
	evict_salvage(w->flow, b);
	send_to_owner(b, BATCH_STAGE);
}

static void lost_mover(struct worker *w, struct session *s)
{
	epoll_ctl(w->epoll, EPOLL_CTL_DEL, s->fds.mover, NULL);
	s->leaving = true;
	room_set(s, 0, SESSION_ROOM_UNLIMITED, true);
	notice_send(&session_owner(s)->box, &s->to_owner, SESSION_OWN_CHECK);
}

void evictor_message(struct worker *w, struct session *s)
{
	union {
		struct wire_head head;
		struct wire_ready ready;
		struct wire_report report;
	} packet;
	int fds[FDPASS_MAX];
	unsigned nr;
	pid_t peer;
	ssize_t n = fdpass_recv(s->fds.mover, s->uid, &packet, sizeof(packet), fds, &nr, &peer);
	struct batch *b = s->reporting;

	fdpass_close(s->uid, fds, nr);
	if (n == -EAGAIN || n == -EINTR)
		return;
	if (n < (ssize_t)sizeof(packet.head) || packet.head.magic != WIRE_MAGIC ||
	    packet.head.version != WIRE_VERSION) {
		lost_mover(w, s); /* gone, or something no mover says */
	} else if (packet.head.type == WIRE_READY && n == sizeof(packet.ready) && !s->mover_pid) {
		s->mover_pid = peer;
		if (s->record)
			s->record->mover_pid = peer;
		s->next_tick_ns = 0;
		w->next_due_ns = 0;
	} else if (packet.head.type == WIRE_REPORT && n == sizeof(packet.report)) {
		/* Old pages in a lane must not be taken for new ones. */
		if (packet.report.drop_error)
			let_go(s, "its transit area can't be emptied");
		/* Of a POPULATE; or from a peer that answers before it was asked. */
		if (!b || packet.report.seq != b->seq ||
		    !atomic_load_explicit(&b->ordered, memory_order_acquire))
			return;
		s->reporting = NULL;
		evict_pull(w->flow, b, &packet.report);
		send_to_owner(b, BATCH_STAGE);
	}
}
