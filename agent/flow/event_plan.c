/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * In which order have the events happened that were read between two moments
 * of rest?
 *
 * Looked for is the order nearest to that of reading which is possible: what is
 * unmapped, moved or emptied must be there, where something is moved to must be
 * free, each mremap has its UNMAP of the source (or none at all: MREMAP_DONTUNMAP),
 * and in the end that is registered which the kernel says is, and what is away there
 * is what was moved there. A fork's place in it is told by the child: what was
 * registered when it was copied is registered there still, for its own changes wait
 * for us to read them.
 *
 * The address space is cut at the ends of the events' ranges; of the cells
 * between, only whether something is registered there counts. Our list may be
 * wrong (what a mapping has grown by is registered without a word, a REGISTER that
 * waited has found another mapping there, and a fork child does not inherit all),
 * so an order that fits nearly will do.
 *
 * Allocates nothing, and takes a bounded number of steps.
 */
#include "flow/flow.h"

#include <errno.h>
#include <string.h>

#include "common/util.h"
#include "sys/pagemap.h"

#define CELLS (4 * SESSION_WAITING_MAX)
#define NODES_MAX 1024 /* for each cost that is tried */
#define COST_MAX 5    /* contradictions; above, the order of reading must do */
#define PASSED_MAX 64
#define SAMPLES 8     /* pages of a cell that are looked at */
#define DOUBT_WEAK 1u
#define DOUBT_STRONG 2u /* as much as two contradictions */

/* What pagemap has at a page. */
enum look { LOOK_NOT_TAKEN, LOOK_EMPTY, LOOK_MARKED, LOOK_THERE };

/* A page before all that waits was done. */
enum trace { TRACE_OLD, TRACE_NEW, TRACE_EMPTIED };

struct cells {
	uint64_t bit[CELLS / 64];
};

struct span { /* of cells */
	unsigned from, from_end, to, to_end;
};

struct search {
	const struct session *s;
	bool complete;
	unsigned threads; /* that it has; 0: not known, or of no interest */
	unsigned nr_cells;
	uint64_t start[CELLS]; /* where each begins */
	uint64_t face[CELLS];  /* an address in it that tells of it */
	int8_t said[CELLS];    /* by the kernel: registered, not, or not asked yet (-1) */
	int8_t empty[CELLS];   /* likewise, all of it */
	uint8_t look[CELLS][SAMPLES]; /* at pages of it: enum look */
	struct span span[SESSION_WAITING_MAX];
	struct cells asked; /* which of them matter */
	struct cells before;
	struct event_step step[SESSION_WAITING_MAX];
	unsigned nr_steps;
	unsigned limit, nodes;
	unsigned passed, passed_max; /* how often an event is done before one that was read before it */
	bool unknown; /* the kernel can't say now */
};

static bool has(const struct cells *c, unsigned i)
{
	return c->bit[i / 64] >> (i % 64) & 1;
}

static void put(struct cells *c, unsigned i, bool on)
{
	uint64_t bit = (uint64_t)1 << (i % 64);

	c->bit[i / 64] = on ? c->bit[i / 64] | bit : c->bit[i / 64] & ~bit;
}

static bool any(const struct cells *c, unsigned from, unsigned end)
{
	while (from < end && !has(c, from))
		from++;
	return from < end;
}

/* ---- the cells ---- */

static struct range source_of(const struct uffd_msg *msg)
{
	if (msg->event == UFFD_EVENT_REMAP)
		return (struct range){ msg->arg.remap.from, msg->arg.remap.from + msg->arg.remap.len };
	return (struct range){ msg->arg.remove.start, msg->arg.remove.end };
}

static struct range target_of(const struct uffd_msg *msg)
{
	if (msg->event == UFFD_EVENT_REMAP)
		return (struct range){ msg->arg.remap.to, msg->arg.remap.to + msg->arg.remap.len };
	return (struct range){ 0, 0 };
}

static bool is_unit(const struct uffd_msg *msg)
{
	return msg->event != UFFD_EVENT_FORK && !event_is_of_child(msg);
}

static void cut(struct search *q, uint64_t at)
{
	unsigned i = q->nr_cells;

	while (i && q->start[i - 1] >= at)
		i--;
	if (i < q->nr_cells && q->start[i] == at)
		return;
	memmove(&q->start[i + 1], &q->start[i], (q->nr_cells - i) * sizeof(q->start[0]));
	q->start[i] = at;
	q->nr_cells++;
}

/* The cell that begins at or holds address. */
static unsigned cell_at(const struct search *q, uint64_t address)
{
	unsigned i = 0;

	while (i + 1 < q->nr_cells && q->start[i + 1] <= address)
		i++;
	return i;
}

static void set_span(struct search *q, unsigned i)
{
	struct range from = source_of(&q->s->waiting[i]), to = target_of(&q->s->waiting[i]);

	q->span[i] = (struct span){ cell_at(q, from.start), cell_at(q, from.end), 0, 0 };
	if (to.end) {
		q->span[i].to = cell_at(q, to.start);
		q->span[i].to_end = cell_at(q, to.end);
	}
	for (unsigned c = q->span[i].from; c < q->span[i].from_end; c++)
		put(&q->asked, c, true);
	for (unsigned c = q->span[i].to; c < q->span[i].to_end; c++)
		put(&q->asked, c, true);
}

static void look_at_cells(struct search *q)
{
	for (unsigned i = 0; i + 1 < q->nr_cells; i++) {
		const struct range *r = ranges_after(&q->s->registered, q->start[i]);
		bool there = r && r->start < q->start[i + 1];

		put(&q->before, i, there);
		q->face[i] = there ? MAX(r->start, q->start[i]) : q->start[i];
		q->said[i] = q->empty[i] = -1;
	}
}

static uint64_t prepare(struct search *q, const struct session *s, bool complete)
{
	uint64_t units = 0;

	*q = (struct search){ .s = s, .complete = complete, .threads = complete ? 0 : session_read_threads(s) };
	for (unsigned i = 0; i < s->nr_waiting; i++) {
		struct range from = source_of(&s->waiting[i]), to = target_of(&s->waiting[i]);

		if (!is_unit(&s->waiting[i]))
			continue;
		units |= (uint64_t)1 << i;
		cut(q, from.start);
		cut(q, from.end);
		if (to.end) {
			cut(q, to.start);
			cut(q, to.end);
		}
	}
	for (unsigned i = 0; i < s->nr_waiting; i++)
		if (units >> i & 1)
			set_span(q, i);
	look_at_cells(q);
	return units;
}

/* ---- what an event makes of them ---- */

static void clear(struct cells *c, unsigned from, unsigned end)
{
	for (; from < end; from++)
		put(c, from, false);
}

static void move(const struct search *q, unsigned event, struct cells *now, bool source_stays)
{
	const struct span *at = &q->span[event];

	if (!source_stays)
		clear(now, at->from, at->from_end);
	for (unsigned c = at->to; c < at->to_end; c++)
		put(now, c, true); /* what has moved was registered, whatever our list says */
}

static void take_step(const struct search *q, const struct event_step *step, struct cells *now)
{
	const struct span *at = &q->span[step->event];

	switch (q->s->waiting[step->event].event) {
	case UFFD_EVENT_REMAP:
		move(q, step->event, now, step->how == EVENT_SOURCE_STAYS);
		break;
	case UFFD_EVENT_UNMAP:
		if (step->how != EVENT_LATE)
			clear(now, at->from, at->from_end);
		break;
	default:
		break; /* a REMOVE leaves it registered */
	}
}

static bool is_same(struct range a, struct range b)
{
	return a.start == b.start && a.end == b.end;
}

/* How many UNMAPs of r have the steps done in this way, of those read from `first` on? */
static unsigned unmaps_done(const struct search *q, struct range r, enum event_how how, unsigned first)
{
	unsigned n = 0;

	for (const struct event_step *step = q->step; step < q->step + q->nr_steps; step++) {
		const struct uffd_msg *msg = &q->s->waiting[step->event];

		n += step->event >= first && step->how == how && msg->event == UFFD_EVENT_UNMAP &&
		     is_same(r, source_of(msg));
	}
	return n;
}

/* Is the UNMAP that was read behind this REMAP, as its own is, a munmap of before by now? */
static bool has_lost_tail(const struct search *q, unsigned event)
{
	return unmaps_done(q, source_of(&q->s->waiting[event]), EVENT_PLAIN, event + 1);
}

/* How far that contradicts what was there, and what was read. */
static unsigned contradictions(const struct search *q, const struct event_step *step,
			       const struct cells *now)
{
	const struct span *at = &q->span[step->event];

	if (step->how == EVENT_LATE && q->s->waiting[step->event].event == UFFD_EVENT_UNMAP)
		return 0;
	return !any(now, at->from, at->from_end) + any(now, at->to, at->to_end) +
	       (step->how == EVENT_SOURCE_STAYS && has_lost_tail(q, step->event));
}

/*
 * What a mapping has grown by after our events is registered without one. Whoever
 * touches it waits for us: so nothing is there, as is where something was moved to.
 */
static bool is_empty(struct search *q, unsigned c)
{
	uint64_t pages = (q->start[c + 1] - q->start[c]) >> PAGE_SHIFT;
	unsigned n = (unsigned)MIN(pages, (uint64_t)INT32_MAX);

	if (q->empty[c] < 0)
		q->empty[c] = q->s->fds.pagemap >= 0 && pagemap_free_run(q->s->fds.pagemap, q->start[c], n) == n;
	return q->empty[c];
}

static bool is_in(struct range r, uint64_t address)
{
	return address >= r.start && address < r.end;
}

/* Where was the page that the steps have brought to *address? */
static enum trace trace(const struct search *q, uint64_t *address)
{
	for (unsigned i = q->nr_steps; i--;) {
		const struct uffd_msg *msg = &q->s->waiting[q->step[i].event];
		struct range from = source_of(msg), to = target_of(msg);

		if (is_in(to, *address))
			*address += from.start - to.start;
		else if (is_in(from, *address) && msg->event == UFFD_EVENT_REMOVE)
			return TRACE_EMPTIED;
		else if (is_in(from, *address) && (msg->event == UFFD_EVENT_REMAP || q->step[i].how != EVENT_LATE))
			return TRACE_NEW;
	}
	return TRACE_OLD;
}

/* Is something else there than the steps have brought? What was moved is away there as
   well, with the marks it had. */
static unsigned doubt(const struct search *q, uint64_t address, enum look look)
{
	slot_t slot;

	switch (trace(q, &address)) {
	case TRACE_NEW: /* who touches it waits for us */
		return look == LOOK_EMPTY ? 0 : DOUBT_STRONG;
	case TRACE_EMPTIED: /* perhaps not yet, or by MADV_FREE, which leaves it */
		return look == LOOK_EMPTY ? 0 : DOUBT_WEAK;
	case TRACE_OLD:
		break;
	}
	slot = slotmap_get(&q->s->slots, address >> PAGE_SHIFT);
	if (slot_state(slot) == SLOT_LEAVING || slot_state(slot) == SLOT_POISONED)
		return 0;
	if (!slot_is_evicted(slot))
		return look == LOOK_MARKED ? DOUBT_STRONG : 0;
	return look == (slot_is_marked(slot) ? LOOK_MARKED : LOOK_EMPTY) ? 0 : DOUBT_STRONG;
}

static enum look look_at(const struct search *q, uint64_t address)
{
	if (pagemap_free_run(q->s->fds.pagemap, address, 1))
		return LOOK_EMPTY;
	return pagemap_marked_run(q->s->fds.pagemap, address, 1) ? LOOK_MARKED : LOOK_THERE;
}

static unsigned doubt_of_cell(struct search *q, unsigned c)
{
	uint64_t last = ((q->start[c + 1] - q->start[c]) >> PAGE_SHIFT) - 1;
	unsigned samples = (unsigned)MIN(last + 1, SAMPLES), most = 0;

	for (unsigned i = 0; i < samples && most < DOUBT_STRONG; i++) {
		uint64_t address = q->start[c] + (last * i / MAX(samples - 1, 1u) << PAGE_SHIFT);

		if (q->look[c][i] == LOOK_NOT_TAKEN)
			q->look[c][i] = (uint8_t)look_at(q, address);
		most = MAX(most, doubt(q, address, (enum look)q->look[c][i]));
	}
	return most;
}

/* Of what is in the cells; however many are weak, together they are one. */
static unsigned doubts(struct search *q)
{
	unsigned weak = 0, n = 0;

	for (unsigned c = 0; q->s->fds.pagemap >= 0 && c + 1 < q->nr_cells; c++) {
		unsigned d = has(&q->asked, c) && q->said[c] == 1 ? doubt_of_cell(q, c) : 0;

		n += d & DOUBT_STRONG;
		weak |= d & DOUBT_WEAK;
	}
	return n + weak;
}

/* In how many places the kernel says something else than `now`. */
static unsigned mismatches(struct search *q, const struct cells *now)
{
	bool grows = false; /* what ends where the cell begins may have grown into it */
	unsigned n = 0;

	for (unsigned c = 0; c + 1 < q->nr_cells; c++) {
		bool there = has(now, c);
		int r = q->said[c];

		if (!has(&q->asked, c)) {
			grows = there;
			continue;
		}
		if (r < 0) {
			r = uffd_is_registered(q->s->fds.uffd, q->face[c]);
			q->unknown |= r < 0 && r != -ESRCH && r != -ENOSYS;
			if (r < 0) /* nobody is there, or the kernel doesn't tell */
				return n;
			q->said[c] = (int8_t)r;
		}
		grows = there || (grows && r && is_empty(q, c));
		n += r ? !grows : there;
	}
	return n;
}

/* What the kernel says against an order that ends in `now`. It knows; our list may be wrong. */
static unsigned objections(struct search *q, const struct cells *now)
{
	unsigned n;

	if (!q->complete || q->nr_steps < 2 || q->limit > COST_MAX)
		return 0;
	n = DOUBT_STRONG * mismatches(q, now) + doubts(q);
	q->unknown |= uffd_is_changing(q->s->fds.uffd); /* what was seen may be what no event has told yet */
	return n;
}

/* ---- the search ---- */

static bool search(struct search *q, const struct cells *now, uint64_t left, unsigned cost);

static bool overlap(unsigned a, unsigned a_end, unsigned b, unsigned b_end)
{
	return a < b_end && b < a_end;
}

/* Of two orders that differ in two steps next to each other that have no cell in common,
   the one as they were read stands for both. */
static bool is_idle_exchange(const struct search *q, unsigned event)
{
	const struct span *a = &q->span[event], *b;

	if (!q->nr_steps || q->step[q->nr_steps - 1].event < event)
		return false;
	b = &q->span[q->step[q->nr_steps - 1].event];
	return !overlap(a->from, a->from_end, b->from, b->from_end) && !overlap(a->from, a->from_end, b->to, b->to_end) &&
	       !overlap(a->to, a->to_end, b->from, b->from_end) && !overlap(a->to, a->to_end, b->to, b->to_end);
}

static bool try_step(struct search *q, struct event_step step, const struct cells *now, uint64_t left,
		     unsigned cost)
{
	struct cells after = *now;
	unsigned passed;

	left &= ~((uint64_t)1 << step.event);
	if (step.tail != EVENT_NO_TAIL)
		left &= ~((uint64_t)1 << step.tail);
	passed = (unsigned)__builtin_popcountll(left & (((uint64_t)1 << step.event) - 1));
	cost += contradictions(q, &step, now);
	if (q->passed + passed > q->passed_max || cost > q->limit || is_idle_exchange(q, step.event))
		return false;
	take_step(q, &step, &after);
	q->passed += passed;
	q->step[q->nr_steps++] = step;
	if (search(q, &after, left, cost))
		return true;
	q->nr_steps--;
	q->passed -= passed;
	return false;
}

/* The UNMAP of what a REMAP has left: it is read after that. */
static unsigned find_tail(const struct search *q, unsigned event, uint64_t left)
{
	for (unsigned i = event + 1; i < q->s->nr_waiting; i++)
		if ((left >> i & 1) && q->s->waiting[i].event == UFFD_EVENT_UNMAP &&
		    is_same(source_of(&q->s->waiting[event]), source_of(&q->s->waiting[i])))
			return i;
	return EVENT_NO_TAIL;
}

/*
 * May the UNMAP of this REMAP be still to come? Its thread is on the way to that and does
 * nothing else, so of a single thread nothing was read since; of several, each can have one.
 */
static bool may_be_late(const struct search *q, unsigned event)
{
	unsigned behind = 0;

	for (unsigned i = event + 1; q->threads && i < q->s->nr_waiting; i++) {
		const struct uffd_msg *msg = &q->s->waiting[i];

		if (event_is_of_child(msg))
			continue;
		behind += q->threads == 1 ||
			  (msg->event == UFFD_EVENT_REMAP && find_tail(q, i, UINT64_MAX) == EVENT_NO_TAIL);
	}
	return !behind || behind < q->threads;
}

/* Does one of those REMAPs still wait for this UNMAP that were done before? */
static bool is_late(const struct search *q, unsigned event)
{
	struct range r = source_of(&q->s->waiting[event]);
	unsigned n = 0;

	for (size_t i = 0; i < q->s->vacated.nr; i++)
		n += is_same(r, q->s->vacated.v[i]);
	return n > unmaps_done(q, r, EVENT_LATE, 0);
}

static bool try_event(struct search *q, unsigned i, const struct cells *now, uint64_t left, unsigned cost)
{
	const struct uffd_msg *msg = &q->s->waiting[i];
	struct event_step step = { .event = (uint8_t)i, .how = EVENT_PLAIN, .tail = EVENT_NO_TAIL };

	if (msg->event == UFFD_EVENT_REMAP) {
		step.tail = (uint8_t)find_tail(q, i, left);
		if (step.tail != EVENT_NO_TAIL && try_step(q, step, now, left, cost))
			return true;
		step.tail = EVENT_NO_TAIL;
		step.how = !q->complete && may_be_late(q, i) ? EVENT_LATE : EVENT_SOURCE_STAYS;
	} else if (msg->event == UFFD_EVENT_UNMAP && is_late(q, i)) {
		step.how = EVENT_LATE;
		if (try_step(q, step, now, left, cost))
			return true;
		step.how = EVENT_PLAIN;
	}
	return try_step(q, step, now, left, cost);
}

static bool search(struct search *q, const struct cells *now, uint64_t left, unsigned cost)
{
	if (q->unknown || ++q->nodes > NODES_MAX)
		return false;
	if (!left)
		return cost + objections(q, now) <= q->limit && !q->unknown;
	for (uint64_t rest = left; rest; rest &= rest - 1)
		if (try_event(q, (unsigned)__builtin_ctzll(rest), now, left, cost))
			return true;
	return false;
}

static bool find_order(struct search *q, uint64_t units)
{
	for (q->limit = 0; q->limit <= COST_MAX; q->limit++) {
		q->nodes = 0;
		for (q->passed_max = 0; q->passed_max <= PASSED_MAX; q->passed_max += 1 + q->passed_max / 2) {
			q->passed = q->nr_steps = 0;
			if (search(q, &q->before, units, 0))
				return true;
			if (q->unknown)
				return false;
		}
	}
	q->limit = UINT32_MAX; /* the first that is tried: as they were read */
	q->nodes = q->nr_steps = q->passed = 0;
	return search(q, &q->before, units, 0);
}

/* ---- forks ---- */

/* Was address registered in a child when it was copied? Its own changes since
   then are undone: the first that names the address tells. */
static int child_had(const struct session *s, int child, uint64_t address)
{
	for (unsigned i = 0; i < s->nr_waiting; i++) {
		const struct uffd_msg *msg = &s->waiting[i];

		if (msg->event == UFFD_EVENT_FORK || !event_is_of_child(msg) || event_child(msg) != child)
			continue;
		if (is_in(source_of(msg), address))
			return 1;
		if (is_in(target_of(msg), address))
			return 0;
	}
	return uffd_is_registered(child, address);
}

static bool see_child(const struct search *q, int child, struct cells *had)
{
	for (unsigned c = 0; c + 1 < q->nr_cells; c++) {
		int r = has(&q->asked, c) ? child_had(q->s, child, q->face[c]) : 0;

		if (r < 0 && r != -ESRCH)
			return false;
		put(had, c, r > 0);
	}
	return true;
}

static unsigned differences(const struct cells *a, const struct cells *b, const struct cells *sure)
{
	unsigned n = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(a->bit); i++)
		n += (unsigned)__builtin_popcountll((a->bit[i] ^ b->bit[i]) & sure->bit[i]);
	return n;
}

/* Not what a REMAP has left whose UNMAP was not read: there may be none (MREMAP_DONTUNMAP). */
static struct cells sure_cells(const struct search *q)
{
	struct cells sure = q->asked;

	for (const struct event_step *step = q->step; step < q->step + q->nr_steps; step++)
		if (step->how == EVENT_LATE && q->s->waiting[step->event].event == UFFD_EVENT_REMAP)
			clear(&sure, q->span[step->event].from, q->span[step->event].from_end);
	return sure;
}

static bool changes_mappings(const struct search *q)
{
	for (unsigned i = 0; i < q->nr_steps; i++)
		if (q->s->waiting[q->step[i].event].event != UFFD_EVENT_REMOVE)
			return true;
	return false;
}

/* Before which of the steps it was; of several that fit, the one nearest to the
   order of reading. False: the child is changing something. */
static bool place_fork(const struct search *q, unsigned fork, unsigned *place)
{
	struct cells had = { 0 }, now = q->before, sure = sure_cells(q);
	unsigned least = UINT32_MAX, read_at = 0, best_off = 0;
	int child = (int)q->s->waiting[fork].arg.fork.ufd;

	for (unsigned i = 0; i < q->nr_steps; i++)
		read_at += q->step[i].event < fork;
	*place = read_at;
	if (!changes_mappings(q))
		return true;
	if (!see_child(q, child, &had))
		return false;
	for (unsigned k = 0; k <= q->nr_steps; k++) {
		unsigned wrong = differences(&now, &had, &sure);
		unsigned off = k < read_at ? read_at - k : k - read_at;

		if (wrong < least || (wrong == least && off < best_off)) {
			least = wrong;
			best_off = off;
			*place = k;
		}
		if (k < q->nr_steps)
			take_step(q, &q->step[k], &now);
	}
	return true;
}

static void insert(struct event_plan *plan, unsigned at, struct event_step step)
{
	memmove(&plan->step[at + 1], &plan->step[at], (plan->nr - at) * sizeof(plan->step[0]));
	plan->step[at] = step;
	plan->nr++;
}

static enum event_answer add_forks(const struct search *q, struct event_plan *plan)
{
	/* where a fork goes: behind those placed before it */
	unsigned shift[SESSION_WAITING_MAX + 1] = { 0 };

	for (unsigned i = 0; i < q->s->nr_waiting; i++) {
		const struct event_step fork = { .event = (uint8_t)i, .how = EVENT_PLAIN, .tail = EVENT_NO_TAIL };
		const struct uffd_msg *msg = &q->s->waiting[i];
		unsigned place, before = 0;

		if (msg->event != UFFD_EVENT_FORK || event_is_of_child(msg))
			continue;
		if (!place_fork(q, i, &place) && q->complete) {
			plan->child = (int)msg->arg.fork.ufd;
			return EVENT_ASK_CHILD;
		}
		for (unsigned k = 0; k <= place; k++)
			before += shift[k];
		shift[place]++;
		insert(plan, place + before, fork);
	}
	return EVENT_KNOWN;
}

enum event_answer event_plan_make(const struct session *s, bool complete, struct event_plan *plan)
{
	struct search q;
	uint64_t units = prepare(&q, s, complete);

	plan->nr = 0;
	if (units && !find_order(&q, units))
		return EVENT_UNKNOWN;
	memcpy(plan->step, q.step, q.nr_steps * sizeof(q.step[0]));
	plan->nr = q.nr_steps;
	return add_forks(&q, plan);
}
