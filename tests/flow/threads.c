/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Threads of the workload. A system call is cut where the kernel lets go of its
 * lock: the change itself; queueing its event (later, so that events of two
 * threads come in any order); going on when that was read; and, for madvise,
 * the zap after that.
 *
 * The same code keeps what a touch of each page may find (mm->may).
 */
#include <string.h>

#include "sys/uffd.h"
#include "world.h"

enum { STEP_BEGIN, STEP_QUEUE, STEP_QUEUED, STEP_TAIL, STEP_FAULT };

const char *op_name(unsigned op)
{
	static const char *const names[] = {
		[OP_NONE] = "nothing",	      [OP_READ] = "read",	  [OP_WRITE] = "write",
		[OP_DONTNEED] = "DONTNEED",   [OP_FREE] = "FREE",	  [OP_UNMAP] = "munmap",
		[OP_MAP] = "mmap(MAP_FIXED)", [OP_REMAP] = "mremap away", [OP_DONTUNMAP] = "mremap(DONTUNMAP)",
		[OP_FORK] = "fork",	      [OP_EXIT] = "exit",	  [OP_GUARD] = "GUARD_INSTALL",
		[OP_UNGUARD] = "GUARD_REMOVE", [OP_POPULATE] = "POPULATE_WRITE",
		[OP_WIPE] = "WIPEONFORK", [OP_KEEP] = "KEEPONFORK",
		[OP_SHM] = "shmat over it",   [OP_GROW] = "a neighbour grows into it",
	};

	return names[op];
}

static struct mm *mm_of(const struct thread *t)
{
	return &w.mm[t->mm];
}

/* Nothing of it is left, or states would differ by what was. */
static void finish(struct thread *t)
{
	*t = (struct thread){ .used = t->used, .mm = t->mm };
}

/* ---- what may be found ---- */

static void found(struct thread *t, unsigned page, uint32_t what)
{
	struct mm *mm = mm_of(t);

	if (!(mm->may[page] & what))
		violated("thread %d finds %s (token %d) on page %u of mm %d, and may find %#x only",
			 (int)(t - w.thread), what == MAY_SEGV ? "SIGSEGV" : what == MAY(0) ? "zeros" : "data",
			 what == MAY_SEGV ? -1 : __builtin_ctz(what), page, t->mm, mm->may[page]);
	mm->may[page] = what | (what != MAY_SEGV && (mm->zaps[page] || mm->page[page].lazy) ? MAY(0) : 0);
}

static void set_may(struct mm *mm, unsigned first, unsigned n, uint32_t may)
{
	for (unsigned p = first; p < first + n; p++)
		mm->may[p] = may;
}

/* ---- touching ---- */

static void new_data(struct page *p, unsigned token)
{
	*p = (struct page){ .kind = PAGE_DATA, .token = (uint8_t)token, .frame = w.next_frame++ };
}

/* True: the touch is over. */
static bool touch(struct thread *t)
{
	struct mm *mm = mm_of(t);
	struct page *p = &mm->page[t->page];
	unsigned area = t->page / AREA_PAGES;
	bool write = t->op != OP_READ;

	t->write = write;
	if (!mm->mapped[area] || p->kind == PAGE_GUARD) {
		if (t->op != OP_POPULATE)
			found(t, t->page, MAY_SEGV);
		return true;
	}
	if (p->kind == PAGE_POISON) {
		if (!(w.lost & mm->may[t->page]))
			violated("SIGBUS on page %u of mm %d, whose bytes nobody has damaged", t->page, t->mm);
		return true;
	}
	if (page_is_missing(p)) {
		if (mm->registered[area]) {
			t->step = STEP_FAULT;
			return false;
		}
		*p = (struct page){ .kind = PAGE_ZERO };
	}
	if (!write) {
		found(t, t->page, MAY(p->kind == PAGE_ZERO ? 0 : p->token));
		return true;
	}
	if (t->op == OP_POPULATE) {
		new_data(p, p->kind == PAGE_ZERO ? 0 : p->token);
		return true;
	}
	if (w.next_token == TOKENS)
		violated("the scenario writes more often than there are tokens");
	new_data(p, w.next_token);
	if (mm->zaps[t->page])
		mm->fresh[t->page] |= MAY(w.next_token);
	mm->may[t->page] = MAY(w.next_token++) | (mm->zaps[t->page] ? MAY(0) : 0);
	return true;
}

static void step_touch(struct thread *t)
{
	unsigned area = t->page / AREA_PAGES;

	/* It holds the mapping's lock from finding it registered to being queued, so
	   nobody can unregister it between. (Unmapped it may be: that stands for what
	   no event tells, as shmat over it.) */
	if (t->step == STEP_FAULT && (mm_of(t)->registered[area] || !mm_of(t)->mapped[area])) {
		/* Queued without looking at the page again: harsher than the
		   kernel, and seen with it all the same (EEXIST). */
		t->step = STEP_BEGIN;
		t->seq = w.next_seq++;
		t->blocked = FAULT_QUEUED;
		return;
	}
	if (touch(t))
		finish(t);
}

/* ---- events ---- */

static struct uffd_msg *add_event(struct thread *t, uint8_t event)
{
	struct uffd_msg *m = &t->events[t->nr_events++];

	*m = (struct uffd_msg){ .event = event };
	mm_of(t)->changing++;
	return m;
}

static void add_range_event(struct thread *t, uint8_t event, unsigned page, unsigned n)
{
	struct uffd_msg *m = add_event(t, event);

	m->arg.remove.start = page_address(page);
	m->arg.remove.end = page_address(page) + n * PAGE_BYTES;
}

/* ---- madvise ---- */

/* What was written while the call was under way may count as written after it,
   unless it is there and now dropped. */
static void zap(struct mm *mm, unsigned first, unsigned n)
{
	for (unsigned p = first; p < first + n; p++) {
		if (!mm->mapped[p / AREA_PAGES] || mm->page[p].kind == PAGE_GUARD)
			continue;
		mm->may[p] = MAY(0) | (page_is_missing(&mm->page[p]) ? mm->fresh[p] & mm->may[p] : 0);
		mm->fresh[p] = 0;
		mm->page[p] = (struct page){ 0 };
	}
}

static void set_lazy(struct mm *mm, unsigned first, unsigned n)
{
	for (unsigned p = first; p < first + n; p++)
		if (mm->mapped[p / AREA_PAGES] && mm->page[p].kind == PAGE_DATA) {
			mm->page[p].lazy = true;
			mm->may[p] |= MAY(0);
		}
}

static void end_advice(struct thread *t)
{
	struct mm *mm = mm_of(t);

	for (unsigned p = t->page; p < t->page + t->pages; p++)
		if (mm->zaps[p])
			mm->zaps[p]--;
	if (t->op == OP_DONTNEED)
		zap(mm, t->page, t->pages);
	else
		set_lazy(mm, t->page, t->pages);
	finish(t);
}

/* Beside a fork that has not returned: before it or after, both are right. */
static void may_be_dropped_in_children(const struct thread *t)
{
	for (const struct thread *other = w.thread; other < w.thread + THREADS; other++) {
		struct mm *child = &w.mm[other->child];

		if (!other->used || other->mm != t->mm || other->op != OP_FORK || !other->nr_events)
			continue;
		for (unsigned p = t->page; p < t->page + t->pages; p++)
			if (!(child->may[p] & MAY_SEGV))
				child->may[p] |= MAY(0);
	}
}

static void begin_advice(struct thread *t)
{
	struct mm *mm = mm_of(t);

	for (unsigned p = t->page; p < t->page + t->pages; p++) {
		mm->zaps[p]++;
		if (!(mm->may[p] & MAY_SEGV))
			mm->may[p] |= MAY(0);
	}
	may_be_dropped_in_children(t);
	if (!mm->registered[t->page / AREA_PAGES]) {
		end_advice(t);
		return;
	}
	add_range_event(t, UFFD_EVENT_REMOVE, t->page, t->pages);
	t->step = STEP_QUEUE;
}

/* No event, whatever the kernel's version. */
static void guard(struct thread *t)
{
	struct mm *mm = mm_of(t);

	for (unsigned p = t->page; p < t->page + t->pages; p++) {
		if (!mm->mapped[p / AREA_PAGES])
			continue;
		if (t->op == OP_GUARD) {
			mm->page[p] = (struct page){ .kind = PAGE_GUARD };
			mm->may[p] = MAY_SEGV;
		} else if (mm->page[p].kind == PAGE_GUARD) {
			mm->page[p] = (struct page){ 0 };
			mm->may[p] = MAY(0);
		}
	}
	finish(t);
}

/* Neither has one. */
static void replace_area(struct thread *t, bool there)
{
	struct mm *mm = mm_of(t);
	unsigned area = t->page / AREA_PAGES;

	mm->mapped[area] = mm->registered[area] = mm->grown[area] = there;
	memset(&mm->page[area * AREA_PAGES], 0, AREA_PAGES * sizeof(*mm->page));
	set_may(mm, area * AREA_PAGES, AREA_PAGES, there ? MAY(0) : MAY_SEGV);
	finish(t);
}

/* ---- mappings ---- */

static void unmap_area(struct thread *t, unsigned area)
{
	struct mm *mm = mm_of(t);

	if (mm->mapped[area] && mm->registered[area])
		add_range_event(t, UFFD_EVENT_UNMAP, area * AREA_PAGES, AREA_PAGES);
	mm->mapped[area] = mm->registered[area] = false;
	memset(&mm->page[area * AREA_PAGES], 0, AREA_PAGES * sizeof(*mm->page));
	set_may(mm, area * AREA_PAGES, AREA_PAGES, MAY_SEGV);
}

static void go_on_with_events(struct thread *t)
{
	t->step = STEP_QUEUE;
	if (!t->nr_events)
		finish(t);
}

static void begin_map(struct thread *t)
{
	struct mm *mm = mm_of(t);
	unsigned area = t->page / AREA_PAGES;

	unmap_area(t, area);
	if (t->op == OP_MAP) {
		mm->mapped[area] = true;
		set_may(mm, t->page, AREA_PAGES, MAY(0));
	}
	go_on_with_events(t);
}

/* What is in transit goes with its page. */
static void move_origin(struct mm *mm, unsigned from, unsigned to)
{
	for (unsigned lane = 0; lane < WIRE_LANES; lane++)
		for (unsigned i = 0; i < PAGES; i++)
			if (mm->transit[lane][i].origin == from + 1)
				mm->transit[lane][i].origin = (uint8_t)(to + 1);
}

static void begin_remap(struct thread *t)
{
	struct mm *mm = mm_of(t);
	unsigned area = t->page / AREA_PAGES, other = area == AREA_A ? AREA_B : AREA_A, from = t->page, to = other * AREA_PAGES;
	bool keep = t->op == OP_DONTUNMAP, registered = mm->registered[area];

	if (!mm->mapped[area]) {
		finish(t);
		return;
	}
	unmap_area(t, other); /* its event comes first */
	if (registered) {
		struct uffd_msg *m = add_event(t, UFFD_EVENT_REMAP);

		m->arg.remap.from = page_address(from);
		m->arg.remap.to = page_address(to);
		m->arg.remap.len = AREA_PAGES * PAGE_BYTES;
	}
	memcpy(&mm->page[to], &mm->page[from], AREA_PAGES * sizeof(*mm->page));
	memset(&mm->page[from], 0, AREA_PAGES * sizeof(*mm->page));
	for (unsigned i = 0; i < AREA_PAGES; i++) {
		mm->may[to + i] = mm->may[from + i];
		mm->fresh[to + i] = mm->fresh[from + i];
		move_origin(mm, from + i, to + i);
	}
	mm->mapped[other] = true;
	mm->registered[other] = registered;
	if (keep) {
		set_may(mm, from, AREA_PAGES, MAY(0));
	} else {
		mm->mapped[area] = mm->registered[area] = false;
		if (registered)
			add_range_event(t, UFFD_EVENT_UNMAP, from, AREA_PAGES);
		set_may(mm, from, AREA_PAGES, MAY_SEGV);
	}
	go_on_with_events(t);
}

/* ---- fork ---- */

static bool is_empty(const struct mm *mm, unsigned page)
{
	return mm->page[page].kind == PAGE_NONE || mm->page[page].kind == PAGE_GUARD;
}

static void copy_memory(struct mm *child, struct mm *parent)
{
	for (unsigned p = 0; p < PAGES; p++) {
		if (parent->page[p].kind == PAGE_DATA)
			parent->page[p].shared = true;
		child->page[p] = parent->page[p];
		child->may[p] = parent->may[p];
		if (!parent->wiped[p / AREA_PAGES] || !parent->mapped[p / AREA_PAGES])
			continue;
		child->page[p] = (struct page){ 0 };
		child->may[p] = MAY(0);
	}
	child->untold = parent->untold || (is_empty(parent, 0) && is_empty(parent, 1));
	memcpy(child->wiped, parent->wiped, sizeof(child->wiped));
	memcpy(child->mapped, parent->mapped, sizeof(child->mapped));
	memcpy(child->registered, parent->registered, sizeof(child->registered));
	child->identity_registered = parent->identity_registered;
}

static void begin_fork(struct thread *t)
{
	int child = mm_new(t->mm);

	if (child < 0) {
		finish(t);
		return;
	}
	t->child = (uint8_t)child;
	copy_memory(&w.mm[child], mm_of(t));
	add_event(t, UFFD_EVENT_FORK);
	t->step = STEP_QUEUE;
}

/* Only now the child begins to run: all of its faults are on a descriptor that
   the agent has. */
static void end_fork(struct thread *t)
{
	struct thread *first = &w.thread[THREADS - MMS + t->child];

	*first = (struct thread){ .used = true, .mm = t->child };
	w.mm[t->child].child_ready = true;
	finish(t);
}

/* ---- all of them ---- */

/* What comes without an event and goes again before a mark is set can't be told. Nor
   is a guard kept that is put up where another thread's touch is being answered. */
static bool may_replace(const struct mm *mm, const struct choice *c)
{
	unsigned n = c->pages ? c->pages : AREA_PAGES;

	if (!mm->mapped[c->page / AREA_PAGES] || mm->mover_step == MOVER_MARKS)
		return false;
	for (const struct thread *t = w.thread; t < w.thread + THREADS; t++)
		if (c->op == OP_GUARD && t->used && &w.mm[t->mm] == mm && t->op != OP_NONE &&
		    t->op <= OP_WRITE && t->page >= c->page && t->page < c->page + n)
			return false;
	return true;
}

bool thread_may_start(const struct thread *t, const struct choice *c)
{
	const struct mm *mm = &w.mm[t->mm];

	if (!t->used || t->op != OP_NONE || !mm->users)
		return false;
	switch (c->op) {
	case OP_UNMAP:
	case OP_REMAP:
	case OP_DONTUNMAP:
	case OP_DONTNEED:
	case OP_FREE:
		return mm->mapped[c->page / AREA_PAGES];
	case OP_GUARD:
	case OP_SHM:
		return may_replace(mm, c);
	case OP_WIPE:
	case OP_KEEP: /* of a child that nothing else tells of it is as the flag is when the fork is applied */
		return mm->mapped[c->page / AREA_PAGES] && !w.mm[1].untold && !w.mm[2].untold;
	case OP_GROW:
		return !mm->mapped[c->page / AREA_PAGES];
	case OP_UNGUARD:
		return mm->page[c->page].kind == PAGE_GUARD;
	case OP_FORK:
		for (int i = 0; i < MMS; i++)
			if (!w.mm[i].used)
				return true;
		return false;
	default:
		return true;
	}
}

void thread_start(unsigned i, const struct choice *c)
{
	struct thread *t = &w.thread[i];

	t->op = c->op;
	t->page = c->page;
	t->pages = c->pages ? c->pages : AREA_PAGES;
	t->step = STEP_BEGIN;
	thread_step(i);
}

bool thread_may_step(const struct thread *t)
{
	return t->used && t->op != OP_NONE && (t->blocked == RUNS || t->blocked == EVENT_READ);
}

static void begin(struct thread *t)
{
	switch (t->op) {
	case OP_READ:
	case OP_WRITE:
	case OP_POPULATE:
		step_touch(t);
		break;
	case OP_DONTNEED:
	case OP_FREE:
		begin_advice(t);
		break;
	case OP_GUARD:
	case OP_UNGUARD:
		guard(t);
		break;
	case OP_WIPE:
	case OP_KEEP:
		mm_of(t)->wiped[t->page / AREA_PAGES] = t->op == OP_WIPE;
		finish(t);
		break;
	case OP_SHM:
	case OP_GROW:
		replace_area(t, t->op == OP_GROW);
		break;
	case OP_UNMAP:
	case OP_MAP:
		begin_map(t);
		break;
	case OP_REMAP:
	case OP_DONTUNMAP:
		begin_remap(t);
		break;
	case OP_FORK:
		begin_fork(t);
		break;
	case OP_EXIT:
		mm_exit(t->mm);
		break;
	default:
		break;
	}
}

/* The event was read, and the thread runs again. */
static void after_event(struct thread *t)
{
	t->blocked = RUNS;
	mm_of(t)->changing--;
	if (++t->event < t->nr_events)
		t->step = STEP_QUEUE;
	else if (t->op == OP_FORK)
		end_fork(t);
	else if (t->op == OP_DONTNEED || t->op == OP_FREE)
		t->step = STEP_TAIL;
	else
		finish(t);
}

void thread_step(unsigned i)
{
	struct thread *t = &w.thread[i];

	switch (t->step) {
	case STEP_BEGIN:
		begin(t);
		break;
	case STEP_FAULT:
		step_touch(t);
		break;
	case STEP_QUEUE:
		t->seq = w.next_seq++;
		t->blocked = EVENT_QUEUED;
		t->step = STEP_QUEUED;
		kernel_put_uffd(t->mm); /* if it is closed by now, nobody will read it */
		break;
	case STEP_QUEUED:
		after_event(t);
		break;
	default:
		end_advice(t);
	}
}

void thread_forget(struct thread *t)
{
	struct mm *mm = mm_of(t);

	mm->changing -= t->nr_events - t->event;
	if (t->op == OP_FORK && t->nr_events) {
		struct mm *child = &w.mm[t->child];

		/* A fork that a fatal signal ends makes no process. */
		child->users = child->alive = false;
		child->used = child->session || child->uffd >= 0;
	}
	finish(t);
	t->used = false;
}
