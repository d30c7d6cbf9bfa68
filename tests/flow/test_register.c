/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What is registered, when and how much of it: the first step of eviction, and the last
 * one of a restore. The mappings are this process's own, looked at as the agent does;
 * the userfaultfd is scripted. Like the kernel it splits a mapping of which it takes a
 * part, and other mappings may come before it has its lock.
 */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/util.h"
#include "flow/flow.h"
#include "proc/gate.h"
#include "sys/pagemap.h"

#define PAGES 64

static struct flow flow;
static struct owner owner;
static struct session *s;
static struct domain domain;
static struct wire_gate gate;
static struct batch batch;
static int mover; /* its end of the socket */
static char *place;
static struct ranges registered; /* what the kernel has */
static unsigned calls;
static int refusal;
static void (*meanwhile)(void); /* another thread has the lock first */

static uint64_t at(unsigned page)
{
	return (uintptr_t)place + page * PAGE_BYTES;
}

static void map(unsigned first, unsigned end)
{
	ck_assert(mmap(place + first * PAGE_BYTES, (end - first) * PAGE_BYTES, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED);
}

/* A flag that keeps it apart from what is beside it. There may be holes in it. */
static void advise(uint64_t start, uint64_t len, int advice)
{
	ck_assert(madvise((void *)(uintptr_t)start, len, advice) == 0 || errno == ENOMEM);
}

static int fake_register(int fd, uint64_t start, uint64_t len, bool marks)
{
	(void)fd;
	ck_assert(marks);
	calls++;
	if (meanwhile)
		meanwhile();
	meanwhile = NULL;
	if (refusal)
		return refusal;
	advise(start, len, MADV_DONTDUMP);
	return ranges_add(&registered, start, start + len);
}

static int fake_unregister(int fd, uint64_t start, uint64_t len)
{
	(void)fd;
	advise(start, len, MADV_DODUMP);
	return ranges_remove(&registered, start, start + len);
}

static int fake_is_registered(int fd, uint64_t address)
{
	(void)fd;
	return ranges_find(&registered, address) != NULL;
}

static int fake_zero(int fd, uint64_t dst, uint64_t len, int64_t *done)
{
	(void)fd;
	(void)len;
	ck_assert_uint_eq(dst, 0); /* is anything changing? */
	*done = -ENOENT;
	return -ENOENT;
}

static const struct uffd_ops scripted = {
	.register_range = fake_register,
	.unregister = fake_unregister,
	.is_registered = fake_is_registered,
	.zero = fake_zero,
};

static void setup(void)
{
	int pair[2];

	uffd_ops = &scripted;
	flow = (struct flow){ 0 };
	ck_assert_int_eq(mailbox_init(&flow.worker), 0);
	ck_assert_int_eq(mailbox_init(&flow.engine), 0);
	owner = (struct owner){ .flow = &flow, .slots = slot_pool_new((size_t)64 << 20) };
	ck_assert_int_eq(slot_pool_reserve(owner.slots, 64), 0);
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	s = session_new(1, 0);
	s->owner = &owner;
	s->domain = &domain;
	s->marks = true;
	s->enabled = true;
	s->state = SESSION_ACTIVE;
	s->fds.mover = pair[0];
	s->fds.maps = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	gate = (struct wire_gate){ 0 };
	s->gate = &gate;
	mover = pair[1];
	slotmap_init(&s->slots, owner.slots, &flow_slot_refs, s);
	place = mmap(NULL, PAGES * PAGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ck_assert(place != MAP_FAILED);
	calls = 0;
	refusal = 0;
	meanwhile = NULL;
}

static void teardown(void)
{
	slotmap_deinit(&s->slots);
	s->gate = NULL;
	session_free(s);
	slot_pool_free(owner.slots);
	ranges_deinit(&registered);
	mailbox_deinit(&flow.worker);
	mailbox_deinit(&flow.engine);
	close(mover);
	munmap(place, PAGES * PAGE_BYTES);
}

/* The worker's choice: n pages of the mapping. Was the mover told? */
static bool leave(unsigned first, unsigned end, uint16_t n, bool forced)
{
	struct wire_order order;

	batch = (struct batch){
		.session = s,
		.map_start = at(first),
		.map_end = at(end),
		.nr = n,
		.planned = n,
		.forced = forced,
	};
	for (uint16_t i = 0; i < n; i++)
		batch.page[i].vpn = at(first + i) >> PAGE_SHIFT;
	evict_mark(&owner, &batch);
	(void)mailbox_take(&flow.worker);
	slotmap_clear(&s->slots, at(first) >> PAGE_SHIFT, end - first, SLOT_NONE, &(uint64_t){ 0 });
	return recv(mover, &order, sizeof(order), MSG_DONTWAIT) == (ssize_t)sizeof(order);
}

static bool is_registered(unsigned first, unsigned end)
{
	return ranges_cover(&registered, at(first), at(end));
}

/* It takes the program's mmap_lock for writing. */
START_TEST(test_registered_once)
{
	map(8, 16);
	ck_assert(leave(8, 16, 4, false));
	ck_assert(leave(8, 16, 4, false));
	ck_assert_uint_eq(calls, 1);
	ck_assert(is_registered(8, 16) && registered.nr == 1);
	/* another mapping has come in its place, without a word */
	ranges_remove(&registered, at(8), at(16));
	ck_assert(leave(8, 16, 4, false));
	ck_assert_uint_eq(calls, 2);
	/* a fork child's list is its parent's */
	s->parent_pid = 1;
	ck_assert(leave(8, 16, 4, false));
	ck_assert_uint_eq(calls, 3);
}
END_TEST

/* A batch that was planned before leaves nothing behind the order. */
START_TEST(test_switched_off)
{
	map(8, 16);
	s->enabled = false;
	ck_assert(!leave(8, 16, 4, false));
	ck_assert_uint_eq(calls, 0);
	ck_assert_uint_eq(batch.nr, 0);
	ck_assert(!batch.refused);
	ck_assert(leave(8, 16, 4, true)); /* an order of its own */
}
END_TEST

START_TEST(test_is_the_programs_own)
{
	map(8, 16);
	refusal = -EBUSY;
	ck_assert(!leave(8, 16, 4, false));
	ck_assert(batch.refused && batch.nr == 0);
	ck_assert_int_eq(session_state(s), SESSION_RESTORING);
	ck_assert(s->detach);
	ck_assert_str_eq(atomic_load(&s->reason), SESSION_REASON_UFFD);
	ck_assert_uint_eq(s->registered.nr, 0);
}
END_TEST

static void larger(void)
{
	map(4, 20);
}

/* Its place is in the middle of another one by the time that it is registered. */
START_TEST(test_whole_or_not_at_all)
{
	map(8, 16);
	meanwhile = larger;
	leave(8, 16, 4, false);
	ck_assert(is_registered(4, 20) && registered.nr == 1);
}
END_TEST

static void lower(void)
{
	munmap(place + 12 * PAGE_BYTES, 4 * PAGE_BYTES);
	map(4, 12);
}

START_TEST(test_part_of_it_is_another)
{
	map(8, 16);
	meanwhile = lower;
	leave(8, 16, 4, false);
	ck_assert(is_registered(4, 12));
}
END_TEST

/* What was beside it before is a mapping of its own. */
START_TEST(test_left_alone)
{
	map(4, 8);
	advise(at(4), 4 * PAGE_BYTES, MADV_DONTFORK);
	map(8, 16);
	ck_assert(leave(8, 16, 4, false));
	ck_assert(is_registered(8, 16) && registered.nr == 1);
	ck_assert_uint_eq(registered.v[0].start, at(8));
}
END_TEST

static void never_beside(void)
{
	map(32, 40);
}

START_TEST(test_never_is_not_registered)
{
	map(24, 32);
	s->attach.nr_never = 1;
	s->attach.never[0] = (struct wire_range){ at(33), at(34) };
	meanwhile = never_beside;
	leave(24, 32, 4, false);
	ck_assert(is_registered(24, 32) && !is_registered(32, 33));
}
END_TEST

/* Found by the worker: beside what is ours, and like it. */
START_TEST(test_torn)
{
	map(8, 16);
	ck_assert(leave(8, 16, 4, false));
	map(16, 24);
	ck_assert(!leave(16, 24, 0, false));
	ck_assert(is_registered(8, 24));
	ck_assert(!batch.refused);
	map(32, 40);
	ck_assert(!leave(32, 40, 0, false));
	ck_assert(batch.refused && !is_registered(32, 33));
}
END_TEST

/* mremap() tells nobody of what it adds. */
START_TEST(test_grown)
{
	map(8, 16);
	ck_assert(leave(8, 16, 4, false));
	map(16, 24);
	ck_assert_int_eq(fake_register(-1, at(16), 8 * PAGE_BYTES, true), 0);
	flow_start_restore(&owner, s, false);
	for (unsigned i = 0; session_state(s) == SESSION_RESTORING && i < 1000; i++)
		flow_job(&owner, s);
	ck_assert_int_eq(session_state(s), SESSION_ACTIVE);
	ck_assert_uint_eq(s->registered.nr, 0);
	ck_assert_uint_eq(registered.nr, 0);
}
END_TEST

static bool can_ask(void)
{
	int maps = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	struct maps_area area;
	bool can = maps >= 0 && maps_find(maps, (uintptr_t)&area, &area);

	safe_close(maps);
	return can;
}

int main(void)
{
	Suite *suite = suite_create("register");
	TCase *tc = tcase_create("register");
	SRunner *runner = srunner_create(suite);
	int failed;

	if (!can_ask()) {
		printf("1..0 # SKIP this kernel has no PROCMAP_QUERY\n");
		return 77;
	}
	tcase_set_timeout(tc, 120);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, test_registered_once);
	tcase_add_test(tc, test_switched_off);
	tcase_add_test(tc, test_is_the_programs_own);
	tcase_add_test(tc, test_whole_or_not_at_all);
	tcase_add_test(tc, test_part_of_it_is_another);
	tcase_add_test(tc, test_left_alone);
	tcase_add_test(tc, test_never_is_not_registered);
	tcase_add_test(tc, test_torn);
	tcase_add_test(tc, test_grown);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
