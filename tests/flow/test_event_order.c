/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Events of two threads, read in every order the kernel can queue them in, on a
 * scripted kernel. Slots are FILL, whose pattern says where the page was first:
 * in the end it must be found where the mappings put it.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/inject.h"
#include "common/util.h"
#include "flow/flow.h"
#include "proc/record.h"
#include "sys/pagemap.h"

#define A 0x100000ull
#define B 0x200000ull
#define C 0x300000ull
#define X 0x400000ull
#define LEN (4 * PAGE_BYTES)

static struct flow flow;
static struct owner owner;
static struct owner_ring ring;
static struct session *s;
static struct domain domain;
static bool changing; /* the scripted kernel: is an event still to come? */
static unsigned wakes;

static uint64_t missing; /* where a child has nothing */

static int fake_zero(int fd, uint64_t dst, uint64_t len, int64_t *done)
{
	/* uffd_is_changing asks at 0; a page that was placed is there */
	int r = changing ? -EAGAIN : dst && dst == missing ? 0 : dst ? -EEXIST : -ENOENT;

	(void)fd;
	*done = r ? r : (int64_t)len;
	return r;
}

/* What the kernel says is registered in the end. Of nothing it doesn't say: the events
   alone must do. */
static uint64_t registered[4];
static unsigned nr_registered;

static int fake_is_registered(int fd, uint64_t address)
{
	(void)fd;
	for (unsigned i = 0; i < nr_registered; i++)
		if (address - registered[i] < LEN)
			return 1;
	return nr_registered ? 0 : -ENOSYS;
}

/*
 * Threads that touch the pages of A, by page: not read yet, and read; and one
 * that empties B. The kernel hands out faults first, and refuses a COPY until
 * that event was read.
 */
static unsigned unread[LEN / PAGE_BYTES], asleep[LEN / PAGE_BYTES], gone_on;
static bool emptying;

static int fake_wake(int fd, uint64_t start, uint64_t len)
{
	(void)fd;
	for (unsigned page = 0; page < ARRAY_SIZE(unread); page++)
		if (A + page * PAGE_BYTES - start < len) {
			unread[page] += asleep[page];
			asleep[page] = 0;
		}
	wakes++;
	return 0;
}

static int fake_read(int fd, struct uffd_msg *msgs, unsigned max)
{
	unsigned n = 0;

	(void)fd;
	for (unsigned page = 0; page < ARRAY_SIZE(unread); page++)
		while (unread[page] && n < max) {
			msgs[n] = (struct uffd_msg){ .event = UFFD_EVENT_PAGEFAULT };
			msgs[n++].arg.pagefault.address = A + page * PAGE_BYTES;
			unread[page]--;
			asleep[page]++;
		}
	if (emptying && n < max) {
		msgs[n] = (struct uffd_msg){ .event = UFFD_EVENT_REMOVE };
		msgs[n].arg.remove.start = B;
		msgs[n++].arg.remove.end = B + LEN;
		emptying = changing = false;
	}
	return (int)n;
}

static int fake_copy(int fd, uint64_t dst, const void *src, uint64_t len, int64_t *done)
{
	unsigned page = (unsigned)((dst - A) / PAGE_BYTES);

	(void)fd;
	ck_assert_uint_eq(len, PAGE_BYTES);
	ck_assert_uint_eq(*(const uint32_t *)src, dst); /* as put_pages() has it */
	*done = changing ? -EAGAIN : (int64_t)len;
	if (changing)
		return -EAGAIN;
	gone_on += unread[page] + asleep[page];
	unread[page] = asleep[page] = 0;
	return 0;
}

static uint64_t poisoned[16];
static unsigned nr_poisoned;

static int fake_poison(int fd, uint64_t start, uint64_t len, int64_t *done)
{
	(void)fd;
	ck_assert_uint_lt(nr_poisoned, ARRAY_SIZE(poisoned));
	poisoned[nr_poisoned++] = start;
	*done = (int64_t)len;
	return 0;
}

static int fake_mark(int fd, uint64_t start, uint64_t len, bool on)
{
	(void)fd;
	(void)start;
	(void)len;
	(void)on;
	return -ENOENT; /* nothing is registered for marks */
}

static const struct uffd_ops scripted = {
	.zero = fake_zero,
	.read = fake_read,
	.copy = fake_copy,
	.wake = fake_wake,
	.is_registered = fake_is_registered,
	.poison = fake_poison,
	.mark = fake_mark,
};

static void put_pages(uint64_t address)
{
	ck_assert_int_eq(ranges_add(&s->registered, address, address + LEN), 0);
	for (uint64_t a = address; a < address + LEN; a += PAGE_BYTES) {
		slot_t leaving = slot_make(SLOT_LEAVING, 0, 0);

		ck_assert_int_eq(slotmap_set(&s->slots, a >> PAGE_SHIFT, leaving), 0);
		ck_assert_int_eq(slotmap_set(&s->slots, a >> PAGE_SHIFT, slot_make(SLOT_FILL, 0, a)), 0);
	}
}

static void setup(void)
{
	uffd_ops = &scripted;
	nr_poisoned = nr_registered = 0;
	memset(&owner, 0, sizeof(owner));
	owner.flow = &flow;
	memset(&ring, 0, sizeof(ring));
	owner.ring = &ring;
	owner.slots = slot_pool_new((size_t)64 << 20);
	ck_assert_int_eq(slot_pool_reserve(owner.slots, 256), 0);
	s = session_new(1, 0);
	s->owner = &owner;
	memset(&domain, 0, sizeof(domain));
	s->domain = &domain;
	slotmap_init(&s->slots, owner.slots, &flow_slot_refs, s);
	changing = true;
	wakes = 0;
	put_pages(A);
	put_pages(B);
}

static void teardown(void)
{
	slotmap_deinit(&s->slots);
	session_free(s);
	slot_pool_free(owner.slots);
}

static void remap(uint64_t from, uint64_t to)
{
	struct uffd_msg m = { .event = UFFD_EVENT_REMAP };

	m.arg.remap.from = from;
	m.arg.remap.to = to;
	m.arg.remap.len = LEN;
	events_take(&owner, s, &m);
}

static void cut_len(uint8_t event, uint64_t start, uint64_t len)
{
	struct uffd_msg m = { .event = event };

	m.arg.remove.start = start;
	m.arg.remove.end = start + len;
	events_take(&owner, s, &m);
}

static void cut(uint8_t event, uint64_t start)
{
	cut_len(event, start, LEN);
}

static void rest(void)
{
	changing = false;
	events_settle_idle(&owner, s);
	changing = true;
}

#define UNMAP(start) cut(UFFD_EVENT_UNMAP, start)
#define REMOVE(start) cut(UFFD_EVENT_REMOVE, start)

/* The pages that were first at `from` are at `address` now. */
static void holds(uint64_t address, uint64_t from)
{
	for (uint64_t i = 0; i < LEN; i += PAGE_BYTES) {
		slot_t slot = slotmap_get(&s->slots, (address + i) >> PAGE_SHIFT);

		ck_assert_int_eq(slot_state(slot), SLOT_FILL);
		ck_assert_uint_eq(slot_value(slot), from + i);
	}
}

static void is(uint64_t address, enum slot_state state)
{
	for (uint64_t i = 0; i < LEN; i += PAGE_BYTES)
		ck_assert_int_eq(slot_state(slotmap_get(&s->slots, (address + i) >> PAGE_SHIFT)), state);
}

START_TEST(test_INV_4_in_order)
{
	remap(A, X);
	UNMAP(A);
	remap(B, A);
	UNMAP(B);
	holds(A, A); /* nothing is done while an event may be missing */
	holds(B, B);
	rest();
	holds(X, A);
	holds(A, B);
	is(B, SLOT_NONE);
	ck_assert(events_are_quiet(s));
}
END_TEST

/* munmap(A) by one thread, mremap(B, A) by another that is read first. */
START_TEST(test_INV_4_remap_before_the_munmap_it_needs)
{
	remap(B, A);
	UNMAP(B);
	UNMAP(A);
	rest();
	holds(A, B);
	is(B, SLOT_NONE);
}
END_TEST

/* mremap(A, X) by one thread; its UNMAP(A) is late, and another has moved B
   to A by then. */
START_TEST(test_INV_4_late_unmap_of_a_vacated_place)
{
	remap(A, X);
	remap(B, A);
	UNMAP(A);
	UNMAP(B);
	rest();
	holds(A, B);
	holds(X, A);
	UNMAP(A); /* a real one */
	rest();
	is(A, SLOT_NONE);
}
END_TEST

/* Two of them late for one place. */
START_TEST(test_INV_4_two_late_unmaps)
{
	put_pages(C);
	remap(A, X);
	remap(B, A);
	remap(A, X + (uint64_t)16 * LEN);
	remap(C, A);
	UNMAP(A);
	UNMAP(A);
	UNMAP(B);
	UNMAP(C);
	rest();
	holds(X, A);
	holds(X + (uint64_t)16 * LEN, B);
	holds(A, C);
	ck_assert(events_are_quiet(s));
}
END_TEST

START_TEST(test_INV_4_chain_backwards)
{
	put_pages(C);
	remap(C, B);
	remap(B, A);
	remap(A, X);
	UNMAP(C);
	UNMAP(B);
	UNMAP(A);
	rest();
	holds(X, A);
	holds(A, B);
	holds(B, C);
	is(C, SLOT_NONE);
	ck_assert(events_are_quiet(s));
}
END_TEST

/* mremap(A, B) and mremap(B, A), both over what is there: which was first, only
   the number of UNMAPs tells. */
START_TEST(test_INV_4_exchange)
{
	remap(B, A); /* the second */
	UNMAP(B);    /* what mremap(A, B) has overwritten */
	remap(A, B);
	UNMAP(B);
	UNMAP(A);
	rest();
	holds(A, A);
	is(B, SLOT_NONE);
}
END_TEST

/* The kernel has X registered as well, and we don't know: a REGISTER that waited has found
   another mapping there. munmap(X), and mremap(B, X) by another thread, read first. */
START_TEST(test_INV_4_to_where_the_list_has_nothing)
{
	registered[nr_registered++] = A;
	registered[nr_registered++] = X;
	remap(B, X);
	UNMAP(B);
	UNMAP(X);
	rest();
	holds(X, B);
	is(B, SLOT_NONE);
}
END_TEST

/* The same, but X was moved out of the way. */
START_TEST(test_INV_4_from_where_the_list_has_nothing)
{
	registered[nr_registered++] = A;
	registered[nr_registered++] = X;
	registered[nr_registered++] = C;
	remap(B, X);
	UNMAP(B);
	remap(X, C);
	UNMAP(X);
	rest();
	holds(X, B);
	is(C, SLOT_NONE);
}
END_TEST

/* B is moved to C, shrunk there and grown again, for which there is no event: nothing is
   where it has grown, and nothing is at C in this process. */
START_TEST(test_INV_4_moved_shrunk_and_grown)
{
	s->fds.pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	registered[nr_registered++] = A;
	registered[nr_registered++] = C;
	remap(B, C);
	UNMAP(B);
	cut_len(UFFD_EVENT_UNMAP, C + LEN / 2, LEN / 2);
	if (pagemap_free_run(s->fds.pagemap, C, 1)) { /* this kernel can tell */
		rest();
		ck_assert_uint_eq(slot_value(slotmap_get(&s->slots, C >> PAGE_SHIFT)), B);
		ck_assert_int_eq(slot_state(slotmap_get(&s->slots, (C + LEN / 2) >> PAGE_SHIFT)), SLOT_NONE);
	}
	close(s->fds.pagemap);
	s->fds.pagemap = -1;
}
END_TEST

/* munmap() of what the list doesn't have and mremap() to there, read first, beside
   something that might have grown: but a page is there. */
START_TEST(test_INV_4_moved_behind_something)
{
	unsigned char *at = mmap(NULL, 2 * LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ck_assert(at != MAP_FAILED);
	at[LEN + PAGE_BYTES] = 1;
	s->fds.pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	put_pages((uintptr_t)at);
	registered[nr_registered++] = A;
	registered[nr_registered++] = (uintptr_t)at;
	registered[nr_registered++] = (uintptr_t)at + LEN;
	remap(B, (uintptr_t)at + LEN);
	UNMAP(B);
	UNMAP((uintptr_t)at + LEN);
	rest();
	holds((uintptr_t)at + LEN, B);
	munmap(at, 2 * LEN);
	close(s->fds.pagemap);
	s->fds.pagemap = -1;
}
END_TEST

/* A REMOVE of what a REMAP has brought is younger than that. */
START_TEST(test_INV_4_remove_behind_a_remap)
{
	UNMAP(A);
	REMOVE(A);
	remap(B, A);
	UNMAP(B);
	rest();
	is(A, SLOT_BARRED);
	is(B, SLOT_NONE);
}
END_TEST

/* MREMAP_DONTUNMAP leaves A mapped: no UNMAP follows. */
START_TEST(test_dontunmap_keeps_its_source)
{
	remap(A, X);
	rest();
	holds(X, A);
	ck_assert(ranges_cover(&s->registered, A, A + LEN));
	UNMAP(A);
	remap(B, A);
	UNMAP(B);
	rest();
	holds(A, B);
	UNMAP(A);
	rest();
	is(A, SLOT_NONE);
}
END_TEST

/* A list that claims too much must not stop everything. */
START_TEST(test_idle_kernel_ends_the_wait)
{
	remap(B, A);
	events_settle_idle(&owner, s);
	ck_assert(!events_are_settled(s));
	rest();
	ck_assert(events_are_settled(s));
	holds(A, B);
}
END_TEST

/* Never at rest: the list is full at some time, and what belongs to a REMAP that
   was done comes later. */
START_TEST(test_INV_4_never_at_rest)
{
	for (unsigned i = 0; i < SESSION_WAITING_MAX - 2; i++)
		REMOVE(X + i * LEN); /* of nothing */
	remap(A, C);
	remap(B, A);
	REMOVE(X); /* no room: all before it is done */
	holds(C, A);
	holds(A, B);
	UNMAP(A);
	UNMAP(B);
	events_flush(&owner, s);
	holds(C, A);
	holds(A, B);
	ck_assert(!events_are_quiet(s) || s->vacated.nr == 0);
	rest();
	ck_assert(events_are_quiet(s));
	UNMAP(A);
	rest();
	is(A, SLOT_NONE);
}
END_TEST

/* Of a single thread, what follows a REMAP says that no UNMAP will: its source stays
   (MREMAP_DONTUNMAP), and is no reason to turn later events around. */
START_TEST(test_INV_4_dontunmap_never_at_rest)
{
	s->fds.tasks = open("/proc/self/task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_uint_eq(session_read_threads(s), 1);
	remap(A, C);
	for (unsigned i = 1; i < SESSION_WAITING_MAX; i++)
		REMOVE(X + i * LEN); /* of nothing */
	UNMAP(A); /* no room: all before it is done */
	ck_assert(ranges_cover(&s->registered, A, A + LEN));
	remap(B, A);
	events_flush(&owner, s);
	holds(C, A);
	holds(A, B);
	UNMAP(B); /* the REMAP was the last: this may be its own */
	rest();
	holds(A, B);
}
END_TEST

/* ... and of several threads when all is over. */
START_TEST(test_INV_4_dontunmap_at_rest)
{
	registered[0] = A;
	registered[1] = B;
	registered[2] = C;
	nr_registered = 3;
	remap(A, C);
	events_flush(&owner, s);
	ck_assert(!ranges_cover(&s->registered, A, A + LEN));
	rest();
	ck_assert(ranges_cover(&s->registered, A, A + LEN));
	ck_assert(events_are_quiet(s));
}
END_TEST

/* INV-3: faults left unanswered meanwhile are woken when it is over. */
START_TEST(test_INV_3_withheld_faults_are_woken)
{
	UNMAP(A);
	ck_assert(!events_hold_somebody(s));
	s->wake_all = true;
	ck_assert(events_hold_somebody(s));
	wakes = 0;
	rest();
	ck_assert(!s->wake_all);
	ck_assert_uint_ge(wakes, 2); /* of the event, and of all */
}
END_TEST

START_TEST(test_INV_4_remove_bars)
{
	REMOVE(A);
	rest();
	is(A, SLOT_BARRED);
	holds(B, B);
}
END_TEST

/* Noting bars must not take memory without bound. */
/* Neither can all programs of a user together have us note more than so much. */
START_TEST(test_bars_of_a_user)
{
	const uint64_t most = (uint64_t)1 << 24, own = LEN / PAGE_BYTES;

	domain.bars = most - 2 * own; /* of others of his */
	REMOVE(A);
	rest();
	ck_assert_uint_eq(domain.bars, most - 2 * own);
	REMOVE(B);
	rest();
	is(A, SLOT_BARRED);
	is(B, SLOT_BARRED);
	ck_assert_uint_eq(domain.bars, most - own);
	ck_assert(!s->barred);
	REMOVE(X);
	rest();
	is(X, SLOT_NONE);
	ck_assert(s->barred);
	flow_account_bars(s, 0);
	ck_assert_uint_eq(domain.bars, most - 2 * own);
}
END_TEST

START_TEST(test_huge_remove_takes_no_memory)
{
	struct uffd_msg m = { .event = UFFD_EVENT_REMOVE };
	size_t before = slot_pool_bytes(owner.slots);

	m.arg.remove.start = A;
	m.arg.remove.end = A + ((uint64_t)1 << 40);
	events_take(&owner, s, &m);
	rest();
	ck_assert_uint_eq(slot_pool_bytes(owner.slots), before);
	ck_assert(s->barred);
	is(A, SLOT_NONE);
}
END_TEST

START_TEST(test_addresses_out_of_reach)
{
	struct uffd_msg m = { .event = UFFD_EVENT_UNMAP };

	m.arg.remove.start = (uint64_t)1 << 50;
	m.arg.remove.end = ((uint64_t)1 << 50) + LEN;
	events_take(&owner, s, &m);
	remap((uint64_t)1 << 50, A);
	ck_assert(events_are_settled(s));
	holds(A, A);
}
END_TEST

/* More threads than messages are read at a time: their faults are handed out
   again and again, and the event that all wait for would never be. */
START_TEST(test_INV_3_many_faults_hide_no_event)
{
	static char page[PAGE_BYTES];
	const unsigned many = 5 * FLOW_MESSAGES;

	owner.page = page;
	s->polled = true;
	for (unsigned i = 0; i < many; i++)
		unread[i % ARRAY_SIZE(unread)]++;
	emptying = true;
	for (unsigned i = 0; i < 100 && gone_on < many; i++)
		fault_serve(&owner, s);
	ck_assert(!emptying);
	ck_assert_uint_eq(gone_on, many);
	ck_assert(events_are_quiet(s));
}
END_TEST

/* No node is to be had any more. */
static void use_all_memory(struct slotmap *elsewhere)
{
	slotmap_init(elsewhere, owner.slots, &flow_slot_refs, s);
	while (slot_pool_reserve(owner.slots, slot_pool_ready(owner.slots) + 1) == 0)
		;
	for (uint64_t vpn = 0; slot_pool_ready(owner.slots); vpn += 512)
		if (slotmap_set(elsewhere, vpn, slot_make(SLOT_RESIDENT, 0, 1)) < 0)
			(void)slotmap_set(elsewhere, vpn - 1, slot_make(SLOT_RESIDENT, 0, 1));
}

static void poisoned_are(uint64_t first, unsigned n)
{
	ck_assert_uint_eq(nr_poisoned, n);
	for (unsigned i = 0; i < n; i++)
		ck_assert_uint_eq(poisoned[i], first + i * PAGE_BYTES);
	ck_assert(s->barred);
}

/* Half of what shares a leaf with a fork child is dropped: it doesn't come back, and
   the rest, which can't be noted any more, is lost and no zeros. */
START_TEST(test_INV_4_dropped_without_memory)
{
	struct uffd_msg m = { .event = UFFD_EVENT_REMOVE };
	struct slotmap child, elsewhere;

	slotmap_init(&child, owner.slots, &flow_slot_refs, s);
	ck_assert_int_eq(slotmap_fork(&child, &s->slots), 0);
	use_all_memory(&elsewhere);
	m.arg.remove.start = A;
	m.arg.remove.end = A + 2 * PAGE_BYTES;
	events_apply(&owner, s, &m, EVENT_PLAIN);
	is(A, SLOT_NONE);
	holds(B, B);
	poisoned_are(A + 2 * PAGE_BYTES, 2);
	ck_assert_uint_eq(counter_get(&s->counters.poisoned_total), 2);
	ck_assert_int_eq(slot_state(slotmap_get(&child, A >> PAGE_SHIFT)), SLOT_FILL);
	slotmap_deinit(&child);
	slotmap_deinit(&elsewhere);
}
END_TEST

/* What is in transit, or was lost before, can't follow either. */
START_TEST(test_INV_7_moved_without_memory)
{
	struct slotmap elsewhere;
	uint64_t vpn = C >> PAGE_SHIFT;

	ck_assert_int_eq(slotmap_set(&s->slots, vpn, slot_make(SLOT_LEAVING, 0, 0)), 0);
	ck_assert_int_eq(slotmap_set(&s->slots, vpn + 1, slot_make(SLOT_LEAVING, 0, 1)), 0);
	ck_assert_int_eq(slotmap_set(&s->slots, vpn + 1, slot_make(SLOT_POISONED, 0, 0)), 0);
	use_all_memory(&elsewhere);
	remap(C, X);
	rest();
	is(C, SLOT_NONE);
	is(X, SLOT_NONE);
	poisoned_are(X, 2);
	slotmap_deinit(&elsewhere);
}
END_TEST

/* A fork without memory waits as long as there is room for it to wait in. */
START_TEST(test_fork_without_memory)
{
	struct inject_words words = { .how = INJECT_NOMEM };
	struct uffd_msg fork = { .event = UFFD_EVENT_FORK, .arg.fork.ufd = 1000 };

	inject_words = &words;
	events_take(&owner, s, &fork);
	rest();
	ck_assert_uint_eq(s->nr_waiting, 1);
	for (unsigned i = 1; i < SESSION_WAITING_MAX; i++)
		REMOVE(A);
	holds(A, A);
	ck_assert_uint_eq(s->nr_waiting, SESSION_WAITING_MAX);
	REMOVE(B);
	is(A, SLOT_BARRED);
	holds(B, B);
	ck_assert_uint_eq(s->nr_waiting, 1);
	ck_assert_int_eq(ring.lost[0], 1001); /* it isn't closed by a worker after this one */
	ck_assert_int_eq(ring.lost[1], 0);
	inject_words = NULL;
}
END_TEST

static void begin_forks(void)
{
	owner.epoll = epoll_create1(EPOLL_CLOEXEC);
	domain.refs = 1;
	ck_assert_int_eq(mailbox_init(&flow.engine), 0);
}

static void end_forks(void)
{
	mailbox_deinit(&flow.engine);
	close(owner.epoll);
}

/* A fork while nothing is changing; the child is the owner's newest session. */
static struct session *fork_child_of(bool again)
{
	struct uffd_msg fork = { .event = UFFD_EVENT_FORK, .arg.fork.ufd = (uint32_t)eventfd(0, EFD_CLOEXEC) };

	if (again)
		event_set_again(&fork);
	events_take(&owner, s, &fork);
	rest();
	ck_assert_uint_eq(s->nr_waiting, 0);
	ck_assert_ptr_nonnull(owner.owned);
	return owner.owned;
}

static struct session *fork_child(void)
{
	return fork_child_of(false);
}

static void end_child(struct session *child)
{
	flow_unwatch(&owner, child);
	(void)mailbox_take(&flow.engine);
	slotmap_deinit(&child->slots);
	session_free(child);
}

/* A server that works for many users has been another one's itself: its children share
   a trust domain with nobody, also not with each other. */
START_TEST(test_children_of_a_changed_user)
{
	static const struct {
		int parent, child;
	} users[] = {
		{ SESSION_USER_SAME, SESSION_USER_SAME },
		{ SESSION_USER_CHANGED, SESSION_USER_CHANGED },
		{ SESSION_USER_PRIVATE, SESSION_USER_CHANGED },
	};

	begin_forks();
	for (size_t i = 0; i < ARRAY_SIZE(users); i++) {
		struct session *child;

		s->user = users[i].parent;
		child = fork_child();
		ck_assert_int_eq(child->user, users[i].child);
		end_child(child);
	}
	end_forks();
}
END_TEST

/* ---- what a fork has wiped: of memory of this very process ---- */

#define PIECE (LEN / 2)

static struct record_table records = { .kept = KEPT_NONE };

/* Two pieces, the second of which is wiped or not. Where one begins a page is away, where
   the other ends one is there. */
static uint64_t begin_wiped(bool is_wiped)
{
	char *at = mmap(NULL, 2 * PIECE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t vpn = (uint64_t)(uintptr_t)at >> PAGE_SHIFT;

	ck_assert_ptr_ne(at, MAP_FAILED);
	ck_assert_int_eq(madvise(at, PIECE, MADV_DONTDUMP), 0); /* never one with the second */
	ck_assert_int_eq(madvise(at + PIECE, PIECE, is_wiped ? MADV_WIPEONFORK : MADV_KEEPONFORK), 0);
	at[2 * PIECE - 1] = 1;
	for (uint64_t v = vpn + 1; v <= vpn + 2; v++) {
		ck_assert_int_eq(slotmap_set(&s->slots, v, slot_make(SLOT_LEAVING, 0, 0)), 0);
		ck_assert_int_eq(slotmap_set(&s->slots, v, slot_make(SLOT_FILL, 0, 7)), 0);
	}
	begin_forks();
	ck_assert_int_eq(record_table_open(&records), 0);
	s->records = &records;
	s->fds.maps = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	s->fds.smaps = open("/proc/self/smaps", O_RDONLY | O_CLOEXEC);
	s->fds.pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	registered[0] = (uint64_t)(uintptr_t)at;
	nr_registered = 1;
	return registered[0] + PIECE;
}

/* What does the child find at address? */
static enum slot_state end_wiped(uint64_t address, bool again)
{
	struct session *child = fork_child_of(again);
	enum slot_state state = slot_state(slotmap_get(&child->slots, address >> PAGE_SHIFT));

	end_child(child);
	end_forks();
	record_table_close(&records);
	ranges_deinit(&owner.wiped);
	missing = 0;
	return state;
}

START_TEST(test_INV_4_wiped_by_a_fork)
{
	uint64_t at = begin_wiped(_i);

	missing = _i ? at + PIECE - PAGE_BYTES : 0;
	/* The flag is another one by now. */
	ck_assert_int_eq(madvise((void *)(uintptr_t)at, PIECE, _i ? MADV_KEEPONFORK : MADV_WIPEONFORK), 0);
	ck_assert_int_eq(end_wiped(at, false), _i ? SLOT_NONE : SLOT_FILL);
}
END_TEST

/* Another thread has another mapping there by now: it tells nothing. */
START_TEST(test_INV_4_wiped_by_a_fork_and_replaced)
{
	uint64_t at = begin_wiped(false);

	missing = at + PIECE - PAGE_BYTES;
	registered[0] = A;
	ck_assert_int_eq(end_wiped(at, false), SLOT_FILL);
}
END_TEST

/* A worker that died has asked before us: the zeros in the child are its. */
START_TEST(test_INV_4_wiped_by_a_fork_that_is_done_again)
{
	uint64_t at = begin_wiped(true);

	ck_assert_int_eq(end_wiped(at, true), SLOT_NONE);
}
END_TEST

/* What lies before it is not there any more, and has no flag. */
START_TEST(test_INV_4_wiped_by_a_fork_beside_a_hole)
{
	uint64_t at = begin_wiped(true);

	ck_assert_int_eq(munmap((void *)(uintptr_t)(at - PIECE), PIECE), 0);
	registered[0] = A;
	ck_assert_int_eq(end_wiped(at, false), SLOT_NONE);
}
END_TEST

/* Never at rest, and MREMAP_DONTUNMAP before the fork: of what it leaves behind nobody knows
   yet that it stays, and that the child has it says nothing of when the fork was. */
START_TEST(test_INV_4_fork_behind_a_dontunmap)
{
	struct session *parent = s;
	struct uffd_msg fork = { .event = UFFD_EVENT_FORK, .arg.fork.ufd = (uint32_t)eventfd(0, EFD_CLOEXEC) };

	begin_forks();
	registered[0] = A;
	registered[1] = B;
	nr_registered = 2;
	UNMAP(B);
	remap(A, B);
	events_take(&owner, s, &fork);
	while (s->nr_waiting < SESSION_WAITING_MAX)
		REMOVE(X); /* of nothing */
	events_flush(&owner, s);
	holds(B, A);
	ck_assert_ptr_nonnull(owner.owned);
	s = owner.owned;
	holds(B, A);
	end_child(s);
	s = parent;
	end_forks();
}
END_TEST

/* A child that changes something itself is not asked, where there is no room for what
   it would say. */
START_TEST(test_INV_3_no_room_to_hear_a_child)
{
	struct inject_words words = { .how = INJECT_NOMEM };
	struct uffd_msg fork = { .event = UFFD_EVENT_FORK, .arg.fork.ufd = 1000 };

	inject_words = &words;
	events_take(&owner, s, &fork);
	UNMAP(C);
	while (s->nr_waiting < SESSION_WAITING_MAX)
		REMOVE(A);
	rest();
	is(A, SLOT_BARRED);
	is(C, SLOT_NONE);
	holds(B, B);
	inject_words = NULL;
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("event_order");
	TCase *tc = tcase_create("event_order");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_set_timeout(tc, 120);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, test_INV_4_in_order);
	tcase_add_test(tc, test_INV_4_remap_before_the_munmap_it_needs);
	tcase_add_test(tc, test_INV_4_late_unmap_of_a_vacated_place);
	tcase_add_test(tc, test_INV_4_two_late_unmaps);
	tcase_add_test(tc, test_INV_4_chain_backwards);
	tcase_add_test(tc, test_INV_4_exchange);
	tcase_add_test(tc, test_INV_4_to_where_the_list_has_nothing);
	tcase_add_test(tc, test_INV_4_from_where_the_list_has_nothing);
	tcase_add_test(tc, test_INV_4_moved_shrunk_and_grown);
	tcase_add_test(tc, test_INV_4_moved_behind_something);
	tcase_add_test(tc, test_INV_4_remove_behind_a_remap);
	tcase_add_test(tc, test_dontunmap_keeps_its_source);
	tcase_add_test(tc, test_idle_kernel_ends_the_wait);
	tcase_add_test(tc, test_INV_4_never_at_rest);
	tcase_add_test(tc, test_INV_4_dontunmap_never_at_rest);
	tcase_add_test(tc, test_INV_4_dontunmap_at_rest);
	tcase_add_test(tc, test_INV_3_withheld_faults_are_woken);
	tcase_add_test(tc, test_INV_3_many_faults_hide_no_event);
	tcase_add_test(tc, test_INV_4_dropped_without_memory);
	tcase_add_test(tc, test_INV_7_moved_without_memory);
	tcase_add_test(tc, test_INV_4_remove_bars);
	tcase_add_test(tc, test_bars_of_a_user);
	tcase_add_test(tc, test_huge_remove_takes_no_memory);
	tcase_add_test(tc, test_addresses_out_of_reach);
	tcase_add_test(tc, test_fork_without_memory);
	tcase_add_test(tc, test_children_of_a_changed_user);
	tcase_add_test(tc, test_INV_4_fork_behind_a_dontunmap);
	tcase_add_test(tc, test_INV_3_no_room_to_hear_a_child);
	tcase_add_loop_test(tc, test_INV_4_wiped_by_a_fork, 0, 2);
	tcase_add_test(tc, test_INV_4_wiped_by_a_fork_and_replaced);
	tcase_add_test(tc, test_INV_4_wiped_by_a_fork_that_is_done_again);
	tcase_add_test(tc, test_INV_4_wiped_by_a_fork_beside_a_hole);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
