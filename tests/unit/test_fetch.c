/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Pages in a slow tier that are read in order, or brought back by an order: what is asked
   of the store for it. The kernel is scripted: what is placed is there. */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backends/faulty.h"
#include "common/util.h"
#include "flow/flow.h"
#include "sys/uffd.h"
#include "tests/unit/blobs.h"

#define FIRST 0x10000ull /* vpn */
#define NR 512u

static struct flow flow;
static struct owner owner;
static struct owner_ring ring;
static struct session session;
static uint64_t touched; /* vpn of the fault to be read; 0: none */
static uint64_t there; /* vpn of a page that is there already; 0: none */
static bool numbered;  /* the n-th page is make_page's n-th */
static unsigned faults, reads, copies;

static int uffd_copy(int fd, uint64_t dst, const void *src, uint64_t len, int64_t *done)
{
	unsigned char want[PAGE_BYTES];

	(void)fd;
	copies++;
	for (*done = 0; (uint64_t)*done < len; *done += PAGE_BYTES) {
		uint64_t vpn = (dst + (uint64_t)*done) >> PAGE_SHIFT;

		if (vpn == there)
			return *done ? -EAGAIN : -EEXIST;
		make_page(want, vpn - FIRST);
		ck_assert(!numbered || memcmp((const char *)src + *done, want, PAGE_BYTES) == 0);
	}
	return 0;
}

static int uffd_zero(int fd, uint64_t dst, uint64_t len, int64_t *done)
{
	(void)fd, (void)dst;
	*done = (int64_t)len;
	return 0;
}

static int uffd_woken(int fd, uint64_t start, uint64_t len)
{
	(void)fd, (void)start, (void)len;
	return 0;
}

static int uffd_let_go(int fd, uint64_t start, uint64_t len)
{
	return uffd_woken(fd, start, len);
}

static int uffd_fault(int fd, struct uffd_msg *msgs, unsigned max)
{
	(void)fd, (void)max;
	if (!touched)
		return 0;
	*msgs = (struct uffd_msg){ .event = UFFD_EVENT_PAGEFAULT, .arg.pagefault.address = touched << PAGE_SHIFT };
	touched = 0;
	return 1;
}

static const struct uffd_ops scripted = { .copy = uffd_copy, .zero = uffd_zero, .wake = uffd_woken, .read = uffd_fault,
					  .unregister = uffd_let_go };

static void count_reads(enum faulty_call call)
{
	reads += call == FAULTY_READ;
}

static void setup(void)
{
	uffd_ops = &scripted;
	blobs_setup();
	nr_stores = 2;
	stores[0] = store_memory_new(8 * (uint64_t)STORE_SEGMENT);
	stores[1] = store_faulty_new(store_memory_new(8 * (uint64_t)STORE_SEGMENT), true);
	bs = blobstore_new_tiers(stores, nr_stores, 1u << 20, NULL, 0);
	ck_assert_ptr_nonnull(bs);
	flow.blobstore = bs;
	flow.zeros = calloc(1, PAGE_BYTES);
	owner = (struct owner){ .flow = &flow, .codec = codec, .ring = &ring, .owned = &session };
	owner.page = malloc(FLOW_RUN_MAX * PAGE_BYTES);
	owner.slots = slot_pool_open("slots", 1u << 24);
	ck_assert(flow.zeros && owner.page && owner.slots && slot_pool_reserve(owner.slots, 64) == 0);
	ck_assert_int_eq(mailbox_init(&owner.box), 0);
	ck_assert_int_eq(mailbox_init(&flow.engine), 0);
	ck_assert_int_eq(mailbox_init(&flow.worker), 0);
	ck_assert_int_eq(fetch_init(&owner), 0);
	session = (struct session){ .owner = &owner, .fds = SESSION_FDS_NONE, .polled = true,
				    .room_pages = SESSION_ROOM_UNLIMITED };
	slotmap_init(&session.slots, owner.slots, &flow_slot_refs, &session);
	ck_assert_int_eq(ranges_add(&session.registered, FIRST << PAGE_SHIFT, (FIRST + NR) << PAGE_SHIFT), 0);
}

static void teardown(void)
{
	store_faulty_release(stores[1]);
	fetch_close(&owner, &session);
	fetch_deinit(&owner);
	prefetch_forget(&owner, &session);
	slotmap_deinit(&session.slots);
	ranges_deinit(&session.registered);
	mailbox_deinit(&owner.box);
	mailbox_deinit(&flow.engine);
	mailbox_deinit(&flow.worker);
	slot_pool_free(owner.slots);
	free(owner.page);
	free((void *)flow.zeros);
	expect_nothing();
	blobs_teardown();
}

static void set(unsigned n, slot_t slot)
{
	ck_assert_int_eq(slotmap_set(&session.slots, FIRST + n, slot), 0);
}

static void set_away(unsigned n, slot_t slot)
{
	set(n, slot_make(SLOT_LEAVING, 0, 0));
	if (slot_state(slot) == SLOT_STORED)
		set(n, slot_make(SLOT_STAGED, 0, 1));
	set(n, slot);
}

static void set_stored(unsigned n, blob_id id)
{
	set_away(n, flow_stored_slot(SLOT_STORED, 0, id, 100));
}

static enum slot_state state(unsigned n)
{
	return slot_state(slotmap_get(&session.slots, FIRST + n));
}

static void all_down(void)
{
	blobstore_set_move_down(bs, 1);
	while (stats().tier[0].live_bytes)
		if (!blobstore_work(bs))
			usleep(20000);
	work_all();
	store_faulty_notice(stores[1], count_reads);
	reads = 0;
}

static void all_stored_in_order(void)
{
	for (unsigned n = 0; n < NR; n++)
		set_stored(n, put(alice, n));
	all_down();
	numbered = true;
}

/* What the owner does between two looks for faults, until there is nothing to do. */
static void turn(void)
{
	struct mail *mail, *next;
	bool more;

	do {
		more = false;
		for (mail = mailbox_take(&owner.box); mail; mail = next, more = true) {
			next = mail->next;
			if (mail->kind == FETCH_DONE)
				fetch_take(&owner, mail);
			else
				fetch_take_window(&owner, mail);
		}
		more |= prefetch_step(&owner);
		more |= fetch_again(&owner, 1000) == 0;
	} while (more);
}

static void touch(unsigned n)
{
	if (state(n) == SLOT_RESIDENT)
		return;
	faults++;
	touched = FIRST + n;
	fault_serve(&owner, &session);
	turn();
	ck_assert_int_eq(state(n), SLOT_RESIDENT);
}

/* Between pages that lie side by side: some that repeat a word, some that do not compress
   and so lie elsewhere, and some that are equal to others. */
START_TEST(test_read_in_order)
{
	uint64_t live, asked;
	blob_id id;

	for (unsigned n = 0; n < NR; n++) {
		if (n % 8 == 3)
			set_away(n, slot_make(SLOT_FILL, 0, n));
		else if (n % 32 != 29)
			set_stored(n, put(alice, n % 16 == 5 ? BLOBS_NOISE + n : n));
	}
	for (unsigned n = 29; n < NR; n += 32) {
		ck_assert_int_eq(try_put(alice, (n + NR / 2) % NR - 1, &id), BLOBSTORE_DUPLICATE);
		set_stored(n, id);
	}
	all_down();
	live = stats().tier[1].live_bytes;
	asked = stats().tier[1].store.read_bytes_total;
	for (unsigned n = 0; n < NR; n++)
		touch(n);
	asked = stats().tier[1].store.read_bytes_total - asked;
	ck_assert_uint_ge(asked, live);
	ck_assert_uint_le(asked, live * 11 / 10);
	/* for 64 pages: two windows, as many pages alone; and the small windows at first */
	ck_assert_uint_le(reads, NR / 64 * 4 + 24);
	ck_assert_uint_le(faults, 16);
}
END_TEST

/* So many reads of two pages each, from page n on, do not end. */
static unsigned hold_all_windows(unsigned n)
{
	static const struct faulty_rule hold = { .call = FAULTY_READ, .kind = FAULTY_HOLD };
	unsigned windows = 0;

	store_faulty_add(stores[1], &hold);
	while (fetch_ahead(&owner, &session, FIRST + n + windows * 8, 2))
		windows++;
	ck_assert_uint_gt(windows, 0);
	ck_assert_uint_eq(store_faulty_held(stores[1]), windows);
	return windows;
}

/* All windows are under way: others wait for one of them, and not for one that hangs. */
START_TEST(test_a_window_is_waited_for)
{
	unsigned windows;

	all_stored_in_order();
	windows = hold_all_windows(0);
	prefetch_note(&owner, &session, FIRST + 100);
	prefetch_note(&owner, &session, FIRST + 101);
	turn();
	ck_assert_int_eq(state(102), SLOT_STORED);
	ck_assert_uint_eq(reads, windows);
	store_faulty_clear(stores[1]);
	ck_assert_uint_eq(store_faulty_release(stores[1]), windows);
	turn();
	ck_assert_int_eq(state(0), SLOT_RESIDENT);
	ck_assert_int_eq(state(102), SLOT_RESIDENT); /* without a touch */
	ck_assert_uint_eq(reads, windows + 1);
	/* they hang */
	ck_assert_uint_eq(hold_all_windows(200), windows);
	owner.now += NSEC_PER_SEC;
	prefetch_note(&owner, &session, FIRST + 300);
	prefetch_note(&owner, &session, FIRST + 301);
	session.room_pages = 1; /* of its control group */
	turn();
	ck_assert_int_eq(state(302), SLOT_FETCHING);
	ck_assert_int_eq(state(303), SLOT_STORED);
	ck_assert(session.room_asked);
}
END_TEST

/* Nobody waits for what an order brings back: many are read together, and more are asked
   for before they have come. Where those that were hang, the others come one by one. */
START_TEST(test_restored)
{
	uint64_t live, asked;
	unsigned windows;

	all_stored_in_order();
	live = stats().tier[1].live_bytes;
	windows = hold_all_windows(0);
	reads = 0;
	asked = stats().tier[1].store.read_bytes_total;
	flow_start_restore(&owner, &session, false);
	ck_assert(flow_job(&owner, &session));
	ck_assert_uint_eq(reads, 0); /* they are to end soon */
	store_faulty_clear(stores[1]);
	ck_assert_uint_eq(store_faulty_release(stores[1]), windows);
	turn();
	ck_assert_uint_eq(hold_all_windows(100), windows);
	reads = 0;
	owner.now += NSEC_PER_SEC;
	ck_assert(flow_job(&owner, &session));
	ck_assert_uint_gt(reads, 1);
	store_faulty_clear(stores[1]);
	store_faulty_release(stores[1]);
	turn();
	reads = 0;
	while (flow_job(&owner, &session))
		turn();
	for (unsigned n = 0; n < NR; n++)
		ck_assert_int_eq(state(n), SLOT_RESIDENT);
	ck_assert_int_eq(session_state(&session), SESSION_SERVED);
	asked = stats().tier[1].store.read_bytes_total - asked;
	ck_assert_uint_le(asked, live * 11 / 10);
	ck_assert_uint_le(reads, NR / 64 * 3);
}
END_TEST

static unsigned not_back(unsigned from)
{
	unsigned left = 0;

	for (unsigned n = from; n < from + 64; n++)
		left += state(n) != SLOT_RESIDENT;
	return left;
}

/* A window comes back by few COPYs. What is in the way of one of them concerns the page
   where it is; so does a frame that was read wrong. */
START_TEST(test_placed_together)
{
	static const struct faulty_rule flip = { .call = FAULTY_READ, .kind = FAULTY_FLIP, .times = 1 };
	unsigned from = 100, hit = 0;

	all_stored_in_order();
	there = FIRST + 20;
	ck_assert_uint_eq(fetch_ahead(&owner, &session, FIRST, 64), 64);
	turn();
	ck_assert_uint_eq(not_back(0), 0);
	ck_assert_uint_eq(counter_get(&session.counters.pages_in_total), 63);
	ck_assert_uint_le(copies, 3 + 1 + 12); /* that one, and who was to go behind it, alone */
	/* the bit may be nobody's, a record's or between two */
	for (; !hit && from + 64 <= NR; from += 64) {
		store_faulty_add(stores[1], &flip);
		ck_assert_uint_eq(fetch_ahead(&owner, &session, FIRST + from, 64), 64);
		turn();
		hit = not_back(from);
		while (not_back(from))
			turn(); /* it is read again */
	}
	ck_assert_uint_eq(hit, 1);
	ck_assert_uint_eq(counter_get(&session.counters.pages_in_total), 63 + from - 100);
}
END_TEST

/* Nor is a page lost where the kernel had no memory for reading it, however often. */
START_TEST(test_INV_7_no_memory_is_no_damage)
{
	static const struct faulty_rule none = { .call = FAULTY_READ, .kind = FAULTY_ERROR, .error = -ENOMEM, .times = 6 };

	all_stored_in_order();
	store_faulty_add(stores[1], &none);
	touched = FIRST;
	fault_serve(&owner, &session);
	while (state(0) == SLOT_FETCHING)
		turn();
	ck_assert_int_eq(state(0), SLOT_RESIDENT);
	ck_assert_uint_eq(reads, 7);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("fetch");
	TCase *tc = tcase_create("fetch");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, test_read_in_order);
	tcase_add_test(tc, test_a_window_is_waited_for);
	tcase_add_test(tc, test_restored);
	tcase_add_test(tc, test_placed_together);
	tcase_add_test(tc, test_INV_7_no_memory_is_no_damage);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
