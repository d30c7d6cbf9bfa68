/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The scripted kernel: what agent/sys asks of a real one. Userfaultfd calls go
 * in through uffd_ops; pagemap and mem take the place of agent/sys/pagemap.c
 * when this test is linked.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

#include "sys/cgroup.h"
#include "sys/pagemap.h"
#include "sys/uffd.h"
#include "world.h"

struct world w;
static int8_t fd_mm[FD_MAX];

/* ---- content ---- */

static _Alignas(4096) unsigned char pages[TOKENS][4096];

enum token_kind token_kind(unsigned token)
{
	if (w.scenario && (w.scenario->noise || (w.scenario->mixed && token % 2)))
		return TOKEN_NOISE;
	if (w.scenario && w.scenario->fill)
		return TOKEN_FILL;
	return TOKEN_TEXT;
}

static void make_page(unsigned token)
{
	uint32_t x = token * 2654435761u + 1, word = 0x01010101u * token;
	enum token_kind kind = token_kind(token);

	for (unsigned i = 0; token && i < PAGE_BYTES; i++) {
		x = x * 1664525u + 1013904223u;
		pages[token][i] = kind == TOKEN_NOISE ? (unsigned char)(x >> 24) :
				  kind == TOKEN_FILL  ? ((unsigned char *)&word)[i % 4] :
				  i < 8 ? (unsigned char)(token + i) : (unsigned char)(i / 64 + token);
	}
}

const void *token_page(unsigned token)
{
	return pages[token];
}

int token_of(const void *page)
{
	for (int i = 0; i < TOKENS; i++)
		if (!memcmp(page, pages[i], 8))
			return memcmp(page, pages[i], PAGE_BYTES) ? -1 : i;
	return -1;
}

/* ---- address spaces ---- */

uint64_t page_address(unsigned page)
{
	return AREA_START(page / AREA_PAGES) + page % AREA_PAGES * PAGE_BYTES;
}

int page_of_address(uint64_t address)
{
	for (unsigned i = 0; i < PAGES; i++)
		if ((address & ~(PAGE_BYTES - 1)) == page_address(i))
			return (int)i;
	return -1;
}

void kernel_reset(void)
{
	static const struct scenario *made_for;
	static uint64_t runs;

	if (made_for != w.scenario)
		for (unsigned i = 0; i < TOKENS; i++)
			make_page(i);
	made_for = w.scenario;
	memset(fd_mm, -1, sizeof(fd_mm));
	w.next_token = w.next_frame = 1;
	w.clock_ns = ++runs * 10000 * NSEC_PER_SEC; /* the blobstore outlives a run */
}

void mm_bind_fd(int fd, int mm)
{
	if (fd < 0 || fd >= FD_MAX)
		abort();
	fd_mm[fd] = (int8_t)mm;
}

int mm_at_fd(int fd)
{
	return fd < 0 || fd >= FD_MAX ? -1 : fd_mm[fd];
}

int mm_of_fd(int fd)
{
	int mm = mm_at_fd(fd);

	if (mm < 0)
		violated("a call on descriptor %d, which is no userfaultfd", fd);
	return mm;
}

int mm_new(int parent)
{
	for (int i = 0; i < MMS; i++)
		if (!w.mm[i].used) {
			w.mm[i] = (struct mm){ .used = true, .alive = true, .users = true,
					       .parent = parent, .uffd = -1, .mem = -1,
					       .pagemap = -1, .sock = -1 };
			return i;
		}
	return -1;
}

unsigned frame_users(unsigned frame)
{
	unsigned n = 0;

	for (int m = 0; m < MMS; m++)
		for (unsigned i = 0; w.mm[m].alive && i < PAGES; i++) {
			n += w.mm[m].page[i].kind == PAGE_DATA && w.mm[m].page[i].frame == frame;
			for (unsigned lane = 0; lane < WIRE_LANES; lane++)
				n += w.mm[m].transit[lane][i].kind == PAGE_DATA &&
				     w.mm[m].transit[lane][i].frame == frame;
		}
	return n;
}

void mm_put(int i)
{
	struct mm *mm = &w.mm[i];

	if (mm->users || mm->mover)
		return;
	mm->alive = false;
	memset(mm->page, 0, sizeof(mm->page));
	memset(mm->transit, 0, sizeof(mm->transit));
}

void mm_exit(int i)
{
	for (struct thread *t = w.thread; t < w.thread + THREADS; t++)
		if (t->used && t->mm == i && t != &w.thread[MOVER_THREAD])
			thread_forget(t);
	w.mm[i].users = false;
	mm_put(i);
}

/* ---- the queue of a userfaultfd ---- */

static struct thread *next_queued(int mm, enum blocked what)
{
	struct thread *first = NULL;

	for (struct thread *t = w.thread; t < w.thread + THREADS; t++)
		if (t->used && t->mm == mm && t->blocked == what && (!first || t->seq < first->seq))
			first = t;
	return first;
}

bool kernel_readable(int mm)
{
	return next_queued(mm, FAULT_QUEUED) || next_queued(mm, EVENT_QUEUED);
}

static struct uffd_msg fault_message(const struct thread *t)
{
	struct uffd_msg m = { .event = UFFD_EVENT_PAGEFAULT };

	m.arg.pagefault.address = page_address(t->page) + 8;
	m.arg.pagefault.flags = t->write ? UFFD_PAGEFAULT_FLAG_WRITE : 0;
	return m;
}

/* The child's descriptor comes into being when its event is read. */
static int open_child(int child)
{
	int fd;

	if (w.emfile && agent_reserve())
		return -EMFILE;
	w.emfile = false;
	fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	w.mm[child].uffd = fd;
	w.mm[child].held = true;
	mm_bind_fd(fd, child);
	return fd;
}

static void run_in_haste(int mm)
{
	if (!w.haste)
		return;
	for (unsigned t = 0; t < THREADS; t++)
		while (w.thread[t].used && w.thread[t].mm == mm && w.thread[t].nr_events &&
		       w.thread[t].event == w.thread[t].nr_events - 1 && thread_may_step(&w.thread[t]) &&
		       w.thread[t].blocked == EVENT_READ) {
			thread_step(t);
			while (w.thread[t].op != OP_NONE && thread_may_step(&w.thread[t]))
				thread_step(t);
			w.haste = false;
		}
}

static int scripted_read(int fd, struct uffd_msg *msgs, unsigned max)
{
	int mm = mm_of_fd(fd);
	unsigned n = 0;
	struct thread *t;

	while (n < max && (t = next_queued(mm, FAULT_QUEUED))) { /* faults come first */
		msgs[n++] = fault_message(t);
		t->blocked = FAULT_READ;
	}
	while (n < max && (t = next_queued(mm, EVENT_QUEUED))) {
		msgs[n] = t->events[t->event];
		if (msgs[n].event == UFFD_EVENT_FORK) {
			int child = open_child(t->child);

			if (child < 0)
				return n ? (int)n : child;
			msgs[n].arg.fork.ufd = (uint32_t)child;
		}
		n++;
		w.saw_event = true;
		t->blocked = EVENT_READ; /* completed by being read */
	}
	run_in_haste(mm);
	return (int)n;
}

void wake_range(int mm, uint64_t start, uint64_t end)
{
	for (struct thread *t = w.thread; t < w.thread + THREADS; t++)
		if (t->used && t->mm == mm && (t->blocked == FAULT_QUEUED || t->blocked == FAULT_READ) &&
		    page_address(t->page) >= start && page_address(t->page) < end)
			t->blocked = RUNS;
}

/* The last reference has been closed: nothing is registered any more, and
   nobody waits. */
void kernel_put_uffd(int mm)
{
	if (w.mm[mm].held || w.mm[mm].mover)
		return;
	for (struct thread *t = w.thread; t < w.thread + THREADS; t++) {
		if (!t->used || t->mm != mm || t->blocked == RUNS)
			continue;
		if (t->op == OP_FORK && t->blocked == EVENT_QUEUED)
			memset(w.mm[t->child].registered, 0, sizeof(w.mm[t->child].registered));
		t->blocked = t->blocked == EVENT_QUEUED ? EVENT_READ : RUNS;
	}
	for (unsigned p = 0; p < PAGES; p++)
		if (w.mm[mm].users && w.mm[mm].registered[p / AREA_PAGES] &&
		    page_is_missing(&w.mm[mm].page[p]) && !(w.mm[mm].may[p] & MAY(0)))
			violated("INV-6: nobody holds the userfaultfd of mm %d, whose page %u is away", mm, p);
	memset(w.mm[mm].registered, 0, sizeof(w.mm[mm].registered));
}

/* ---- ioctls ---- */

static int scripted_wake(int fd, uint64_t start, uint64_t len)
{
	if (!len || start % PAGE_BYTES || len % PAGE_BYTES)
		return -EINVAL;
	wake_range(mm_of_fd(fd), start, start + len);
	return 0;
}

static int scripted_register(int fd, uint64_t start, uint64_t len, bool marks)
{
	struct mm *mm = &w.mm[mm_of_fd(fd)];

	if (marks != (start < TRANSIT_START && !w.scenario->unmarked))
		violated("%#llx is registered for marks, or isn't", (unsigned long long)start);
	if (start == TRANSIT_START) {
		mm->transit_registered = true;
		return 0;
	}
	if (start == IDENTITY_START) {
		mm->identity_registered = true;
		return 0;
	}
	for (unsigned a = 0; a < AREAS; a++)
		if (start == AREA_START(a) && len == AREA_PAGES * PAGE_BYTES) {
			if (!mm->alive || !mm->mapped[a] || w.unregistered) {
				w.unregistered = false;
				return -ENOMEM;
			}
			mm->registered[a] = true;
			return 0;
		}
	violated("INV-5: REGISTER of %#llx+%#llx, which is no whole mapping", (unsigned long long)start,
		 (unsigned long long)len);
}

static int scripted_unregister(int fd, uint64_t start, uint64_t len)
{
	int i = mm_of_fd(fd);
	struct mm *mm = &w.mm[i];

	if (!mm->alive)
		return -ENOMEM;
	for (unsigned a = 0; a < AREAS; a++) {
		if (start > AREA_START(a) || start + len <= AREA_START(a) || !mm->registered[a])
			continue;
		mm->registered[a] = false;
		for (unsigned p = a * AREA_PAGES; p < (a + 1) * AREA_PAGES; p++) {
			if (mm->page[p].kind == PAGE_MARK)
				mm->page[p].kind = PAGE_NONE;
			if (mm->users && mm->page[p].kind == PAGE_NONE && !(mm->may[p] & MAY(0)))
				violated("INV-1: page %u is let go of while its bytes are away", p);
		}
	}
	wake_range(i, start, start + len);
	return 0;
}

/* 0, or why nothing of that kind can be placed at address. */
static int can_place(int i, uint64_t address, unsigned kind, int *page)
{
	struct mm *mm = &w.mm[i];

	*page = page_of_address(address);
	if (*page < 0 || !mm->mapped[*page / AREA_PAGES] || !mm->registered[*page / AREA_PAGES])
		return -ENOENT;
	switch (mm->page[*page].kind) {
	case PAGE_NONE:
		return 0;
	case PAGE_MARK:
	case PAGE_GUARD: /* COPY puts a page in its place */
		return kind == PAGE_DATA ? 0 : -EEXIST;
	default:
		return -EEXIST;
	}
}

/* A change of mappings begins between the ioctl's two looks at it. */
static void begin_change(int mm)
{
	const struct scenario *s = w.scenario;

	for (unsigned t = 0; t < s->threads && w.half_map && w.ops < s->ops; t++)
		for (unsigned c = 0; c < ARRAY_SIZE(s->choices) && w.half_map; c++)
			if (w.thread[t].mm == mm && s->choices[c].op >= OP_UNMAP && s->choices[c].op <= OP_FORK &&
			    thread_may_start(&w.thread[t], &s->choices[c])) {
				w.half_map = false;
				w.ops++;
				thread_start(t, &s->choices[c]);
			}
}

static int enter_placing(int mm, uint64_t dst)
{
	if (w.mm[mm].changing)
		return -EAGAIN;
	if (dst && w.dies) {
		w.dies = false;
		mm_exit(mm);
		scripted_mover_exit(mm);
	}
	if (!w.mm[mm].alive)
		return -ESRCH;
	if (dst && w.again) {
		w.again = false;
		return -EAGAIN;
	}
	if (dst && w.nomem) {
		w.nomem = false;
		return -ENOMEM;
	}
	return 0;
}

static int place(int fd, uint64_t dst, const char *src, uint64_t len, struct page what, int64_t *done)
{
	int i = mm_of_fd(fd), r = enter_placing(i, dst), page;
	struct mm *mm = &w.mm[i];

	*done = r;
	if (r)
		return r;
	for (uint64_t at = 0; at < len; at += PAGE_BYTES) {
		if (dst && at == len - PAGE_BYTES) /* the first of several is there */
			begin_change(i);
		r = can_place(i, dst + at, what.kind, &page);
		if (!r && mm->changing)
			r = -EAGAIN;
		if (r) {
			*done = at ? (int64_t)at : r;
			if (at)
				wake_range(i, dst, dst + at);
			return at ? -EAGAIN : r;
		}
		if (src && token_of(src + at) < 0)
			violated("INV-7: bytes that nobody wrote are placed on page %d", page);
		if (src)
			what.token = (uint8_t)token_of(src + at);
		check_placing(i, page, what.kind == PAGE_POISON ? TOKENS : what.token);
		what.frame = w.next_frame++;
		mm->page[page] = what;
		w.placed++;
	}
	if (dst && len == PAGE_BYTES && w.exists) {
		w.exists = false;
		*done = -EEXIST;
		return -EEXIST;
	}
	*done = (int64_t)len;
	wake_range(i, dst, dst + len);
	return 0;
}

static int scripted_copy(int fd, uint64_t dst, const void *src, uint64_t len, int64_t *done)
{
	return place(fd, dst, src, len, (struct page){ .kind = PAGE_DATA }, done);
}

static int scripted_zero(int fd, uint64_t dst, uint64_t len, int64_t *done)
{
	return place(fd, dst, NULL, len, (struct page){ .kind = PAGE_ZERO }, done);
}

static int scripted_poison(int fd, uint64_t start, uint64_t len, int64_t *done)
{
	return place(fd, start, NULL, len, (struct page){ .kind = PAGE_POISON }, done);
}

static int scripted_mark(int fd, uint64_t start, uint64_t len, bool on)
{
	int i = mm_of_fd(fd), page = page_of_address(start), r = enter_placing(i, start);
	struct mm *mm = &w.mm[i];

	if (r)
		return r;
	if (page < 0 || len != PAGE_BYTES || !mm->mapped[page / AREA_PAGES] ||
	    !mm->registered[page / AREA_PAGES] || w.scenario->unmarked)
		return -ENOENT;
	if (w.marked) {
		w.marked = false;
		return -EAGAIN;
	}
	if (on)
		violated("the agent marks page %d", page);
	if (mm->page[page].kind == PAGE_MARK)
		mm->page[page] = (struct page){ 0 };
	wake_range(i, start, start + len);
	w.again |= w.behind;
	w.behind = false;
	return 0;
}

static int scripted_is_registered(int fd, uint64_t address)
{
	const struct mm *mm = &w.mm[mm_of_fd(fd)];
	int page = page_of_address(address);

	if (mm->changing)
		return -EAGAIN;
	if (!mm->alive)
		return -ESRCH;
	return page >= 0 && mm->mapped[page / AREA_PAGES] && mm->registered[page / AREA_PAGES];
}

static int scripted_api(int fd, uint64_t features)
{
	(void)fd;
	(void)features;
	return 0;
}

const struct uffd_ops uffd_scripted = {
	.api = scripted_api,
	.register_range = scripted_register,
	.unregister = scripted_unregister,
	.copy = scripted_copy,
	.zero = scripted_zero,
	.wake = scripted_wake,
	.poison = scripted_poison,
	.read = scripted_read,
	.is_registered = scripted_is_registered,
	.mark = scripted_mark,
};

/* ---- agent/sys/pagemap.h ---- */

int pagemap_scan_resident(int pagemap, uint64_t start, uint64_t end, struct page_region *regions,
			  unsigned nr, uint64_t max_pages, uint64_t *next)
{
	const struct mm *mm = &w.mm[mm_of_fd(pagemap)];
	uint64_t left = max_pages;
	unsigned n = 0;

	*next = end;
	for (unsigned p = 0; p < PAGES; p++) {
		uint64_t at = page_address(p);

		if (at < start || at >= end || mm->page[p].kind != PAGE_DATA)
			continue;
		if (!left || (n == nr && regions[n - 1].end != at)) {
			*next = at;
			break;
		}
		left--;
		if (n && regions[n - 1].end == at)
			regions[n - 1].end += PAGE_BYTES;
		else
			regions[n++] = (struct page_region){ .start = at, .end = at + PAGE_BYTES };
		if (!left)
			*next = at + PAGE_BYTES;
	}
	return (int)n;
}

static struct page *transit_page(struct mm *mm, uint64_t address)
{
	static struct page none; /* batches are smaller here than a lane */
	uint64_t i = (address - TRANSIT_START) >> PAGE_SHIFT;

	if (address < TRANSIT_START || i >= WIRE_TRANSIT_PAGES)
		violated("a page of transit was asked for that is none: %#llx",
			 (unsigned long long)address);
	return i % WIRE_BATCH < PAGES ? &mm->transit[i / WIRE_BATCH][i % WIRE_BATCH] : &none;
}

unsigned pagemap_empty_run(int pagemap, uint64_t start, unsigned max)
{
	struct mm *mm = &w.mm[mm_of_fd(pagemap)];

	for (unsigned n = 1; n < max; n++) {
		uint64_t address = start + n * PAGE_BYTES;
		int p = page_of_address(address);

		if ((p >= 0 && mm->page[p].kind != PAGE_NONE) ||
		    (address >= TRANSIT_START && address < IDENTITY_START && transit_page(mm, address)->kind != PAGE_NONE))
			return n;
	}
	return max;
}

int pagemap_scan_guards(int pagemap, uint64_t start, uint64_t end, struct page_region *regions,
			unsigned nr, uint64_t *next)
{
	const struct mm *mm = &w.mm[mm_of_fd(pagemap)];
	unsigned n = 0;

	*next = end;
	for (unsigned p = 0; p < PAGES && n < nr; p++)
		if (mm->page[p].kind == PAGE_GUARD && page_address(p) >= start && page_address(p) < end)
			regions[n++] = (struct page_region){ .start = page_address(p),
							     .end = page_address(p) + PAGE_BYTES };
	return (int)n;
}

bool pagemap_is_guard(int pagemap, uint64_t address)
{
	int p = page_of_address(address);

	return pagemap >= 0 && p >= 0 && w.mm[mm_of_fd(pagemap)].page[p].kind == PAGE_GUARD;
}

unsigned pagemap_free_run(int pagemap, uint64_t start, unsigned n)
{
	return pagemap < 0 ? n : pagemap_empty_run(pagemap, start - PAGE_BYTES, n + 1) - 1;
}

unsigned pagemap_marked_run(int pagemap, uint64_t start, unsigned n)
{
	const struct mm *mm = &w.mm[mm_of_fd(pagemap)];

	for (unsigned i = 0; i < n; i++) {
		int p = page_of_address(start + i * PAGE_BYTES);

		if (p < 0 || mm->page[p].kind != PAGE_MARK)
			return i;
	}
	return n;
}

bool pagemap_is_exclusive(int pagemap, uint64_t address)
{
	const struct mm *mm = &w.mm[mm_of_fd(pagemap)];
	int p = page_of_address(address);

	return p >= 0 && mm->page[p].kind == PAGE_DATA && frame_users(mm->page[p].frame) == 1;
}

bool pagemap_is_populated(int pagemap, uint64_t address)
{
	struct mm *mm = &w.mm[mm_of_fd(pagemap)];

	return mm->alive && transit_page(mm, address)->kind == PAGE_DATA;
}

bool maps_find(int maps, uint64_t address, struct maps_area *area)
{
	const struct mm *mm = &w.mm[mm_of_fd(maps)];
	int p = page_of_address(address);

	*area = (struct maps_area){ 0 };
	if (!mm->alive || p < 0 || !mm->mapped[p / AREA_PAGES])
		return false;
	area->start = AREA_START(p / AREA_PAGES);
	area->end = area->start + AREA_PAGES * PAGE_BYTES;
	area->is_plain = true;
	return true;
}

int mem_read_pages(int mem, uint64_t address, void *const *to, unsigned n)
{
	struct mm *mm = &w.mm[mm_of_fd(mem)];

	if (!mm->alive)
		return -ESRCH;
	for (unsigned i = 0; i < n; i++) {
		struct page *p = transit_page(mm, address + i * PAGE_BYTES);

		if (p->kind != PAGE_DATA)
			return (int)i;
		if ((w.unreadable || w.unwritable) && i)
			return (int)i;
		if (w.unwritable) {
			w.unwritable = false;
			return -EFAULT;
		}
		if (w.unreadable) {
			w.unreadable = false;
			w.lost |= MAY(p->token);
			return 0;
		}
		memcpy(to[i], token_page(p->token), PAGE_BYTES);
	}
	return (int)n;
}

bool proc_fd_is(int fd, const char *name)
{
	(void)fd;
	(void)name;
	return true;
}

/* ---- agent/sys/cgroup.h ---- */

bool cgroup_read_room(pid_t pid, struct cgroup_room *room)
{
	(void)pid;
	(void)room;
	return false; /* no limit */
}

bool cgroup_read_id(pid_t pid, uint64_t *id)
{
	(void)pid;
	(void)id;
	return false; /* domains are by user */
}
