/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the agent orders, done by the mover: see mover.c for its rules and
 * wire.h for the words. All of it runs in the mover.
 */
#include "preload/shim.h"
#include "uapi/uswap_uapi.h"

#define GATE_NAP_NSEC 20000L /* between tries, while the owner is inside */
#define GATE_LONG_NAP_NSEC 1000000L
#define GATE_LONG_NSEC 100000000u /* an owner this slow is not serving faults */
#define MARK_SLOW_NSEC 1000000u
#define MARK_REST 100 /* times as long as it took */
#define DROP_TRIES 100
#define EVENT_TRIES 10

/* ---- the gate ---- */

static int gate_try(struct wire_gate *g)
{
	uint32_t expected = WIRE_GATE_FREE;

	if (__atomic_load_n(&g->wanted, __ATOMIC_SEQ_CST))
		return 0;
	return __atomic_compare_exchange_n(&g->word, &expected, WIRE_GATE_MOVER, 0,
					   __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}

/* The agent's socket has hung up; no packet is taken from it. */
static int agent_hung_up(const struct mover *m)
{
	struct pollfd p = { .fd = m->sock, .events = 0 };

	return sys_ppoll(&p, 1, 0) == 1;
}

/* 0 inside; -1 when there is no agent any more to open the gate, 1 when the
   workload is gone meanwhile. */
static int gate_enter(struct mover *m)
{
	uint64_t begin = 0, now;

	while (!gate_try(m->gate)) {
		now = sys_now();
		if (!begin)
			begin = now;
		if (now >= m->next_look && agent_hung_up(m))
			return -1;
		mover_look(m);
		if (m->leave_by)
			return 1;
		sys_nanosleep(now - begin < GATE_LONG_NSEC ? GATE_NAP_NSEC : GATE_LONG_NAP_NSEC);
	}
	m->inside = 1;
	return 0;
}

/*
 * The owner sets wanted and then tries the word once more; we free the word
 * and then look at wanted: sequentially consistent, so that one sees the other.
 */
static void gate_leave(struct mover *m)
{
	uint64_t one = 1;
	unsigned int tries = 0;

	if (!m->inside)
		return;
	m->inside = 0;
	__atomic_store_n(&m->gate->word, WIRE_GATE_FREE, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&m->gate->wanted, __ATOMIC_SEQ_CST))
		/* The owner waits for this alone: an error that may pass is none. */
		while (sys_write(m->event, &one, sizeof(one)) < 0 && tries++ < EVENT_TRIES)
			;
}

static int gate_is_current(const struct mover *m)
{
	return __atomic_load_n(&m->gate->generation, __ATOMIC_ACQUIRE) == m->order.generation;
}

/*
 * A range with holes takes several ioctls (each some 10 us while a thread of
 * the workload runs), but the owner was promised to wait for one: between two
 * it gets its turn. What it then reads may make the rest of the order stale.
 */
static int gate_yield(struct mover *m)
{
	if (!__atomic_load_n(&m->gate->wanted, __ATOMIC_RELAXED))
		return 0;
	gate_leave(m);
	if (gate_enter(m))
		return -1;
	return gate_is_current(m) ? 0 : -1;
}

/* ---- orders ---- */

/*
 * One UFFDIO_MOVE. *done is how many pages went, also on error; a partial one
 * answers EAGAIN, and repeating from there tells the real error.
 */
static long move_pages(int uffd, uint64_t to, uint64_t from, uint64_t pages, uint64_t mode, uint64_t *done)
{
	struct uffdio_move move = { .dst = to, .src = from, .len = pages * WIRE_PAGE, .mode = mode };
	long err = sys_ioctl(uffd, UFFDIO_MOVE, &move);

	if (!err)
		*done = pages;
	else if (err == -EAGAIN && move.move > 0)
		*done = (uint64_t)move.move / WIRE_PAGE;
	else
		*done = 0;
	return err;
}

/*
 * Something in the place of pages that have just gone, which goes whenever the
 * kernel drops what is there: guards and others do so without an event. Where it
 * can't be had, the agent goes without.
 *
 * Unlike MOVE it waits for the program's mmap_lock, and so does who waits for the
 * gate: where that took long and not only once, pages go unmarked for a while.
 */
static enum wire_page mark_pages(struct mover *m, uint64_t from, uint64_t pages)
{
	struct uffdio_writeprotect mark = {
		.range = { .start = from, .len = pages * WIRE_PAGE },
		.mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};
	uint64_t begin, took;
	long err;

	if (!m->order.mark)
		return WIRE_PAGE_DONE;
	begin = sys_now();
	if (begin < m->mark_after)
		return WIRE_PAGE_DONE;
	err = sys_ioctl(m->uffd, UFFDIO_WRITEPROTECT, &mark);
	took = sys_now() - begin;
	if (took < MARK_SLOW_NSEC) {
		m->mark_slow -= m->mark_slow > 0;
	} else if (m->mark_slow) {
		m->mark_after = begin + took * MARK_REST;
	} else {
		m->mark_slow = 2;
	}
	return err ? WIRE_PAGE_DONE : WIRE_PAGE_MARKED;
}

static enum wire_page page_result(long err)
{
	switch (err) {
	case -EBUSY:
		return WIRE_PAGE_BUSY;
	case -ENOENT:
		return WIRE_PAGE_HOLE;
	case -EAGAIN:
		return WIRE_PAGE_STALE;
	case -EEXIST:
		return WIRE_PAGE_OCCUPIED;
	default:
		return WIRE_PAGE_REFUSED;
	}
}

/*
 * Moves pages [at, at + pages) of the order, one range of it. Results go into
 * page[], which holds WIRE_PAGE_STALE for all to begin with. -1: stop, the
 * rest of the order stays stale.
 */
static int move_range(struct mover *m, unsigned int at, uint64_t from, unsigned int pages)
{
	uint64_t to = arena_at(m->arena, ARENA_TRANSIT + m->order.lane * WIRE_BATCH + at);
	uint8_t *page = m->report.page + at, gone = WIRE_PAGE_DONE;
	uint64_t done, i = 0, k;
	long err;

	while (i < pages) {
		if (i && gate_yield(m))
			return -1;
		err = move_pages(m->uffd, to + i * WIRE_PAGE, from + i * WIRE_PAGE, pages - i, 0,
				 &done);
		if (done || err == -EEXIST) /* which may be pages that weren't counted: evict_pull.c */
			m->in_transit |= 1u << m->order.lane;
		if (done)
			gone = (uint8_t)mark_pages(m, from + i * WIRE_PAGE, done);
		for (k = 0; k < done; k++)
			page[i + k] = gone;
		i += done;
		if (!err || done)
			continue;
		if (err == -EAGAIN)
			return -1;
		page[i++] = (uint8_t)page_result(err);
	}
	return 0;
}

static void do_move(struct mover *m)
{
	const struct wire_order *o = &m->order;
	unsigned int i, at = 0;
	int inside;

	memset(m->report.page, WIRE_PAGE_DONE, sizeof(m->report.page));
	for (i = 0; i < o->nr_ranges; i++)
		at += o->range[i].pages;
	memset(m->report.page, WIRE_PAGE_STALE, at);
	inside = gate_enter(m);
	if (inside < 0) {
		mover_hang_up(m);
		return;
	}
	at = 0;
	/* Of a workload that is gone nothing more is taken. */
	for (i = 0; !inside && !m->leave_by && gate_is_current(m) && i < o->nr_ranges; i++) {
		if (i && gate_yield(m))
			break;
		if (move_range(m, at, o->range[i].address, o->range[i].pages))
			break;
		at += o->range[i].pages;
	}
	gate_leave(m);
	mover_report(m);
}

/*
 * Dropped pages leave by way of the trash area, on a userfaultfd that has no
 * events: MADV_DONTNEED on transit itself would wait until the agent has read
 * its EVENT_REMOVE. _LOCKED because transit may have been locked by the
 * program's mlockall, and the plain advice is refused then.
 */
static void empty_trash(uint64_t at, uint64_t pages)
{
	/* If it fails, the next drop finds the trash full. */
	(void)sys_madvise(at, pages * WIRE_PAGE, MADV_DONTNEED_LOCKED);
}

/* The next try may find it free. */
static void clear_the_way(const struct mover *m, long err, uint64_t to)
{
	if (err == -EEXIST) /* filled by mlockall, or not emptied before */
		empty_trash(to, 1);
	else if (err == -EBUSY) /* KSM has merged it: the program allows that for all that it has */
		(void)sys_madvise(arena_at(m->arena, ARENA_TRANSIT), WIRE_TRANSIT_PAGES * WIRE_PAGE,
				  MADV_UNMERGEABLE);
}

static void drop_run(struct mover *m, unsigned int first, unsigned int pages)
{
	uint64_t from = arena_at(m->arena, ARENA_TRANSIT + first);
	uint64_t to = arena_at(m->arena, ARENA_TRASH + first);
	uint64_t i = 0, done;
	unsigned int tries = 0;
	long err;

	while (i < pages) {
		/* No page there is what was asked for: one that was MADV_FREE'd may vanish from
		   transit under memory pressure. */
		err = move_pages(m->trash_uffd, to + i * WIRE_PAGE, from + i * WIRE_PAGE, pages - i,
				 UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES, &done);
		i += done;
		if (done)
			tries = 0;
		if (!err || done)
			continue;
		if (tries++ < DROP_TRIES) {
			clear_the_way(m, err, to + i * WIRE_PAGE);
			continue;
		}
		m->drop_error = (uint32_t)-err;
		i++;
		tries = 0;
	}
	empty_trash(to, pages);
}

/*
 * Lanes that lie together go at one go: each MOVE, and each emptying, makes the
 * processors of the workload forget page table entries, which costs more than the
 * pages. So a DROP is only noted, until there is nothing else to do or the lane is
 * wanted.
 */
static void do_drop(struct mover *m)
{
	m->drop[m->order.lane] |= m->order.drop_mask;
	m->dropped |= 1u << m->order.lane;
	m->in_transit &= ~(1u << m->order.lane);
}

static int is_dropped(const struct mover *m, unsigned int page)
{
	return page < WIRE_TRANSIT_PAGES && m->drop[page / WIRE_BATCH] >> page % WIRE_BATCH & 1;
}

void mover_drop(struct mover *m)
{
	unsigned int i, end;

	for (i = 0; m->dropped && i < WIRE_TRANSIT_PAGES; i = end + 1) {
		for (end = i; is_dropped(m, end);)
			end++;
		if (end > i)
			drop_run(m, i, end - i);
	}
	m->dropped = 0;
	memset(m->drop, 0, sizeof(m->drop));
}

/*
 * Nothing is written where the mappings have changed since: a mover that was stopped
 * would take its own copy of a file's page there. Outside of the gate, since it may
 * wait for a page that the owner is to bring.
 */
static int populate(const struct mover *m, uint64_t from, uint64_t pages)
{
	return gate_is_current(m) && !sys_madvise(from, pages * WIRE_PAGE, MADV_POPULATE_WRITE);
}

/*
 * After a fork the kernel refuses to move a page that was shared until it has
 * been written to, also when the child is long gone; this takes it back.
 */
static void do_populate(struct mover *m)
{
	const struct wire_order *o = &m->order;
	unsigned int i, k, at = 0;
	uint64_t from;

	memset(m->report.page, WIRE_PAGE_DONE, sizeof(m->report.page));
	for (i = 0; i < o->nr_ranges; i++) {
		from = o->range[i].address;
		if (populate(m, from, o->range[i].pages)) {
			at += o->range[i].pages;
			continue;
		}
		/* It doesn't say how far it came. */
		for (k = 0; k < o->range[i].pages; k++, at++)
			if (!populate(m, from + (uint64_t)k * WIRE_PAGE, 1))
				m->report.page[at] = WIRE_PAGE_REFUSED;
	}
	mover_report(m);
}

/* ---- one order ---- */

/* Page aligned, at most a batch in all, and nothing of our own. */
static int ranges_are_sane(const struct mover *m)
{
	const struct wire_order *o = &m->order;
	uint64_t sum = 0, from, end;
	unsigned int i;

	if (o->nr_ranges < 1 || o->nr_ranges > WIRE_BATCH)
		return 0;
	for (i = 0; i < o->nr_ranges; i++) {
		from = o->range[i].address;
		end = from + (uint64_t)o->range[i].pages * WIRE_PAGE;
		sum += o->range[i].pages;
		if (o->range[i].pages < 1 || sum > WIRE_BATCH || from % WIRE_PAGE || end < from ||
		    (from < m->arena + ARENA_BYTES && end > m->arena))
			return 0;
	}
	return 1;
}

int order_is_sane(const struct mover *m, long size)
{
	const struct wire_order *o = &m->order;

	if (size != (long)sizeof(*o) || o->head.magic != WIRE_MAGIC ||
	    o->head.version != WIRE_VERSION || o->head.type != WIRE_ORDER)
		return 0;
	switch (o->op) {
	case WIRE_OP_MOVE:
		return o->lane < WIRE_LANES && ranges_are_sane(m);
	case WIRE_OP_DROP:
		return o->lane < WIRE_LANES;
	case WIRE_OP_POPULATE:
		return ranges_are_sane(m);
	case WIRE_OP_LEAVE:
		return 1;
	default:
		return 0;
	}
}

void order_obey(struct mover *m)
{
	if (m->order.op != WIRE_OP_DROP && (m->order.op != WIRE_OP_MOVE || m->dropped >> m->order.lane & 1))
		mover_drop(m);
	switch (m->order.op) {
	case WIRE_OP_MOVE:
		do_move(m);
		break;
	case WIRE_OP_DROP:
		do_drop(m);
		break;
	case WIRE_OP_POPULATE:
		do_populate(m);
		break;
	default: /* WIRE_OP_LEAVE: fork children need no mover either */
		__atomic_store_n(&shim.attached, 0, __ATOMIC_RELEASE);
		sys_exit_group(0);
	}
}
