/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The mover of the scripted kernel: what preload/orders.c does, cut where the
 * owner can come in between.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "proc/session.h"
#include "world.h"

void scripted_mover_receive(int i)
{
	struct mm *mm = &w.mm[i];
	ssize_t n;

	while (mm->mover && mm->sock >= 0 && mm->nr_orders < ARRAY_SIZE(mm->orders) &&
	       (n = recv(mm->sock, &mm->orders[mm->nr_orders], sizeof(mm->orders[0]), MSG_DONTWAIT)) > 0) {
		if (n != (ssize_t)sizeof(mm->orders[0]))
			violated("the mover got %zd bytes", n);
		mm->nr_orders++;
	}
}

static void next_order(struct mm *mm)
{
	mm->nr_orders--;
	memmove(mm->orders, mm->orders + 1, mm->nr_orders * sizeof(mm->orders[0]));
	mm->mover_step = MOVER_IDLE;
}

void scripted_mover_exit(int i)
{
	struct mm *mm = &w.mm[i];
	struct thread *t = &w.thread[MOVER_THREAD];

	if (!mm->mover)
		return;
	mm->mover = false;
	mm->mover_step = MOVER_IDLE;
	mm->nr_orders = 0;
	shutdown(mm->sock, SHUT_RDWR); /* a close is put off while somebody reads /proc/PID/fd */
	close(mm->sock);
	mm->sock = -1;
	mm->socket_shut = true;
	if (t->used && t->mm == i)
		thread_forget(t);
	/* A MOVE that was killed has ended, and so has its stay in the gate, or
	   not: the owner must not mind. */
	kernel_put_uffd(i);
	mm_put(i);
}

/* ---- MOVE ---- */

static enum wire_page move_one(struct mm *mm, uint64_t from, unsigned lane, unsigned i)
{
	int p = page_of_address(from);
	struct page *to = &mm->transit[lane][i];
	enum wire_page says;

	if (mm->changing)
		return WIRE_PAGE_STALE;
	if (w.move_says) {
		says = w.move_says;
		w.move_says = 0;
		return says;
	}
	if (p < 0 || !mm->mapped[p / AREA_PAGES])
		return WIRE_PAGE_REFUSED; /* ENOENT is for a hole, this is another */
	if (!mm->registered[p / AREA_PAGES])
		violated("INV-1: page %d is moved out of a mapping that is not registered", p);
	if (mm->page[p].kind == PAGE_NONE)
		return WIRE_PAGE_HOLE;
	if (mm->page[p].kind == PAGE_GUARD || mm->page[p].kind == PAGE_POISON || mm->page[p].kind == PAGE_MARK)
		return WIRE_PAGE_REFUSED;
	if (to->kind != PAGE_NONE)
		return WIRE_PAGE_OCCUPIED;
	if (mm->page[p].shared)
		return WIRE_PAGE_BUSY;
	*to = mm->page[p];
	if (to->kind == PAGE_ZERO)
		*to = (struct page){ .kind = PAGE_DATA, .frame = w.next_frame++ };
	to->origin = (uint8_t)(p + 1);
	mm->page[p] = (struct page){ 0 };
	w.moved++;
	says = w.uncounted;
	w.uncounted = WIRE_PAGE_DONE;
	return says;
}

static void move_all(struct mm *mm, const struct wire_order *o)
{
	unsigned at = 0;
	bool stale = mm->mover_stale || !mm->users;

	for (unsigned r = 0; r < o->nr_ranges; r++)
		for (unsigned k = 0; k < o->range[r].pages; k++, at++) {
			uint64_t from = o->range[r].address + k * PAGE_BYTES;

			mm->results[at] = stale ? WIRE_PAGE_STALE : move_one(mm, from, o->lane, at);
			stale |= mm->results[at] == WIRE_PAGE_STALE;
		}
}

/* Not where an event has come between. */
static void mark_all(struct mm *mm, const struct wire_order *o)
{
	unsigned at = 0;

	for (unsigned r = 0; r < o->nr_ranges; r++)
		for (unsigned k = 0; k < o->range[r].pages; k++, at++) {
			int p = page_of_address(o->range[r].address + k * PAGE_BYTES);

			if (mm->results[at] != WIRE_PAGE_DONE || mm->changing || !mm->registered[p / AREA_PAGES])
				continue;
			if (mm->page[p].kind == PAGE_NONE)
				mm->page[p].kind = PAGE_MARK;
			mm->results[at] = WIRE_PAGE_MARKED;
		}
}

static void send_report(struct mm *mm, const struct wire_order *o)
{
	struct wire_report report = { .head = { WIRE_MAGIC, WIRE_VERSION, WIRE_REPORT }, .seq = o->seq };

	memcpy(report.page, mm->results, sizeof(report.page));
	report.drop_error = mm->drop_error;
	mm->drop_reported |= mm->drop_error;
	mm->drop_error = 0;
	if (send(mm->sock, &report, sizeof(report), MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)sizeof(report))
		mm->reports++;
}

/* In two steps, as it is: the owner may go in and out between them. */
static void leave_gate(struct mm *mm)
{
	mm->session->gate->word = WIRE_GATE_FREE;
	mm->mover_step = MOVER_OUTSIDE;
}

static void tell_owner(struct mm *mm)
{
	if (mm->session->gate->wanted)
		mm->gate_event = true;
	mm->mover_step = MOVER_DONE;
}

/* ---- DROP, POPULATE ---- */

static void drop(struct mm *mm, const struct wire_order *o)
{
	if (w.drop_fails) {
		w.drop_fails = false;
		mm->drop_error = EBUSY;
		return;
	}
	for (unsigned i = 0; i < PAGES; i++)
		if (o->drop_mask >> i & 1)
			mm->transit[o->lane][i] = (struct page){ 0 };
}

/* One page; a touch of one that is away waits for the agent like any other. */
static void populate(int i, struct wire_order *o)
{
	struct mm *mm = &w.mm[i];
	struct thread *t = &w.thread[MOVER_THREAD];
	int page;

	if (o->generation != mm->session->gate->generation) /* the mappings have changed */
		o->nr_ranges = 0;
	page = o->nr_ranges ? page_of_address(o->range[0].address) : -1;
	if (o->nr_ranges) {
		o->nr_ranges--;
		memmove(o->range, o->range + 1, o->nr_ranges * sizeof(o->range[0]));
	}
	if (page >= 0) {
		struct choice touch = { .op = OP_POPULATE, .page = (uint8_t)page, .pages = 1 };

		*t = (struct thread){ .used = true, .mm = (uint8_t)i };
		thread_start(MOVER_THREAD, &touch);
		return;
	}
	memset(mm->results, WIRE_PAGE_DONE, sizeof(mm->results));
	send_report(mm, o);
	next_order(mm);
}

/* ---- steps ---- */

static bool transit_is_empty(const struct mm *mm)
{
	for (unsigned lane = 0; lane < WIRE_LANES; lane++)
		for (unsigned i = 0; i < PAGES; i++)
			if (mm->transit[lane][i].kind != PAGE_NONE)
				return false;
	return true;
}

bool scripted_mover_may_step(const struct mm *mm)
{
	const struct thread *t = &w.thread[MOVER_THREAD];

	if (!mm->mover || (t->used && t->op != OP_NONE && &w.mm[t->mm] == mm))
		return false;
	if (!mm->nr_orders) /* it lingers for what is in transit */
		return !mm->users && transit_is_empty(mm);
	if (mm->mover_step == MOVER_IDLE && mm->orders[0].op == WIRE_OP_MOVE)
		return mm->session->gate->word == WIRE_GATE_FREE && !mm->session->gate->wanted;
	return true;
}

static void step_move(struct mm *mm, const struct wire_order *o)
{
	switch (mm->mover_step) {
	case MOVER_IDLE:
		mm->session->gate->word = WIRE_GATE_MOVER;
		mm->mover_stale = mm->session->gate->generation != o->generation;
		mm->mover_step = MOVER_INSIDE;
		break;
	case MOVER_INSIDE:
		memset(mm->results, 0, sizeof(mm->results));
		move_all(mm, o);
		if (o->mark) {
			mm->mover_step = MOVER_MARKS;
			break;
		}
		leave_gate(mm);
		break;
	case MOVER_MARKS:
		mark_all(mm, o);
		leave_gate(mm);
		break;
	case MOVER_OUTSIDE:
		tell_owner(mm);
		break;
	default:
		send_report(mm, o);
		next_order(mm);
	}
}

void scripted_mover_step(int i)
{
	struct mm *mm = &w.mm[i];
	struct wire_order *o = &mm->orders[0];

	if (!mm->nr_orders) {
		scripted_mover_exit(i);
		return;
	}
	switch (o->op) {
	case WIRE_OP_MOVE:
		step_move(mm, o);
		break;
	case WIRE_OP_DROP:
		drop(mm, o);
		next_order(mm);
		break;
	case WIRE_OP_POPULATE:
		populate(i, o);
		break;
	default:
		scripted_mover_exit(i);
	}
}
