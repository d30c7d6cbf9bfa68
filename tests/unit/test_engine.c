/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Of the engine: a mover that doesn't answer, as the worker sees it and as is told of it;
   what a new worker closes; how hard pack threads compress. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backends/faulty.h"
#include "common/util.h"
#include "engine/private.h"
#include "flow/order.h"
#include "tests/unit/blobs.h"

static struct engine engine;
static struct owner owner;
static struct batch batch;
static struct wire_gate gate;
static struct session *s;
static int mover; /* its end of the socket */

static void setup(void)
{
	int pair[2];

	memset(&engine, 0, sizeof(engine));
	memset(&owner, 0, sizeof(owner));
	memset(&gate, 0, sizeof(gate));
	owner.flow = &engine.flow;
	ck_assert_int_eq(mailbox_init(&owner.box), 0);
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	s = session_new(1, 0);
	s->owner = &owner;
	s->state = SESSION_ACTIVE;
	s->enabled = true;
	s->fds.mover = pair[0];
	s->gate = &gate;
	mover = pair[1];
	batch = (struct batch){ .session = s, .ordered_ns = now_ns() };
	batch.ordered = true;
	s->reporting = &batch;
	engine.sessions = s;
	engine.nr_sessions = 1;
}

static void teardown(void)
{
	s->gate = NULL;
	session_free(s);
	mailbox_deinit(&owner.box);
	close(mover);
}

/* So many seconds after its order. Is the order taken back? */
static bool tick(unsigned seconds)
{
	evictor_tick(&engine.worker, s, batch.ordered_ns + seconds * NSEC_PER_SEC);
	(void)mailbox_take(&owner.box);
	return notice_take(&s->to_owner) & SESSION_OWN_REVOKE;
}

static const char *reason(void)
{
	struct engine_process process;

	ck_assert_uint_eq(engine_get_processes(&engine, &process, 1), 1);
	return process.reason;
}

START_TEST(test_hangs_in_the_gate)
{
	gate.word = WIRE_GATE_MOVER;
	ck_assert(!tick(1));
	ck_assert_str_eq(reason(), "");
	ck_assert(tick(3));
	ck_assert(strstr(reason(), "hangs"));
	registry_report(&engine, now_ns());
	ck_assert(s->hang_logged);
	gate.word = WIRE_GATE_FREE; /* it was only slow */
	ck_assert(tick(4));
	ck_assert_str_eq(reason(), "");
	registry_report(&engine, now_ns());
	ck_assert(!s->hang_logged);
}
END_TEST

/* It was us who were held up. */
START_TEST(test_has_answered)
{
	gate.word = WIRE_GATE_MOVER;
	ck_assert_int_eq(send(mover, "report", 6, 0), 6);
	ck_assert(!tick(3));
	ck_assert_str_eq(reason(), "");
}
END_TEST

/* Nor does who has ordered wait for longer than until it has been tried once more. */
START_TEST(test_order_to_a_mover_that_is_stopped)
{
	struct order order = { .bytes = _i ? PAGE_BYTES : 0 };

	engine.worker.flow = &engine.flow;
	ck_assert_int_eq(mailbox_init(&engine.flow.engine), 0);
	atomic_store(&s->evict_order, &order);
	ck_assert(tick(3));
	ck_assert(tick(12));
	ck_assert_ptr_eq(s->evict_order, &order);
	ck_assert(tick(14));
	ck_assert_ptr_null(s->evict_order);
	ck_assert_ptr_eq(mailbox_take(&engine.flow.engine), &order.mail);
	ck_assert_int_eq(order.status, _i ? 0 : -EBUSY);
	mailbox_deinit(&engine.flow.engine);
}
END_TEST

static bool is_open(int fd)
{
	return fcntl(fd, F_GETFD) >= 0;
}

/* 0: a stray was closed, and what is named was not. */
static int start_over(void)
{
	int stray = eventfd(0, EFD_CLOEXEC), child = eventfd(0, EFD_CLOEXEC), lost = eventfd(0, EFD_CLOEXEC);
	struct record_table records = { .kept = KEPT_NONE };
	struct kept rings;

	kept_use(kept_directory_new());
	if (record_table_open(&records) < 0 || rings_open(&rings) < 0 ||
	    kept_back(&rings, 0, OWNERS_MAX * PAGE_BYTES) < 0)
		return 2;
	ring_at(&rings, 1)->messages[3] = (struct uffd_msg){ .event = UFFD_EVENT_FORK, .arg.fork.ufd = (uint32_t)child };
	ring_at(&rings, 2)->lost[5] = lost + 1;
	record_table_close(&records);
	kept_close(&rings);
	engine_close_strays();
	for (unsigned i = 0; i < 10000 && is_open(stray); i++) /* another thread does it */
		usleep(1000);
	return is_open(stray) ? 3 : !is_open(child) ? 4 : !is_open(lost) ? 5 : 0;
}

/* In a process of its own: Check's descriptors are strays, too. */
START_TEST(test_INV_6_lost_forks_are_no_strays)
{
	pid_t pid = fork();
	int status;

	if (pid == 0)
		_exit(start_over());
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
}
END_TEST

#define STAGED 64u
#define CALM_LEVEL 3

/* Text, so that levels differ. */
static void write_text(char *page, unsigned n)
{
	size_t at = 0;

	while (at + 64 < PAGE_BYTES)
		at += (size_t)sprintf(page + at, "line %zu of page %u, which has %zu more; ", at * 7919 % 1000, n, at % 31);
	memset(page + at, ' ', PAGE_BYTES - at);
}

static size_t length_at(int level, const void *page)
{
	unsigned char frame[PAGE_BYTES];
	struct codec *c = codec_new(MAX(level, 1));
	size_t len;

	codec_set_hurry(c, level < 1);
	len = codec_compress(c, frame, sizeof(frame), page);
	codec_free(c);
	return len;
}

/* What its frame has, of one that is packed while so many are in staging. */
static size_t pack_among(struct packers *packers, unsigned staged, const void *page)
{
	struct staging *st = engine.flow.staging;
	uint32_t index[STAGED];
	struct batch b = { .session = s, .nr = 1 };
	size_t len;

	ck_assert_uint_eq(staging_alloc(st, index, staged), staged);
	memcpy(staging_page(st, index[0]), page, PAGE_BYTES);
	b.page[0] = (struct batch_page){ .result = BATCH_PAGE_PULLED, .value = index[0],
					 .generation = staging_generation(st, index[0]) };
	packers_add(packers, &b, true);
	while (!mailbox_take(&owner.box))
		usleep(1000);
	ck_assert_int_eq(b.page[0].result, BATCH_PAGE_STORED);
	len = blobstore_bytes(bs, b.page[0].blob);
	blobstore_unref(bs, b.page[0].blob);
	staging_unref(st, index[0]); /* the packer's */
	for (unsigned i = 0; i < staged; i++)
		staging_unref(st, index[i]);
	return len;
}

/* Staging more than three quarters full: a faster level is chosen, and the other one
   again when it isn't. */
START_TEST(test_packs_in_a_hurry_while_staging_is_full)
{
	struct packers packers = { .flow = NULL };
	char page[3][PAGE_BYTES];
	size_t len[3], record;

	blobs_setup();
	nr_stores = 1;
	stores[0] = store_memory_new(8 * (uint64_t)STORE_SEGMENT);
	bs = blobstore_new(stores[0], 1u << 20);
	engine.flow.blobstore = bs;
	engine.flow.staging = staging_new(STAGED * PAGE_BYTES);
	ck_assert(bs && engine.flow.staging);
	s->domain = alice;
	s->store_max = UINT64_MAX;
	ck_assert_int_eq(packers_start(&packers, &engine.flow, 1, CALM_LEVEL), 0);
	for (unsigned i = 0; i < 3; i++) {
		write_text(page[i], i);
		len[i] = pack_among(&packers, i == 1 ? STAGED * 7 / 8 : 1, page[i]);
	}
	packers_stop(&packers);
	record = len[0] - length_at(CALM_LEVEL, page[0]); /* what comes before each frame */
	ck_assert_uint_lt(record, 64);
	ck_assert_uint_eq(len[1], length_at(0, page[1]) + record);
	ck_assert_uint_ne(len[1], length_at(CALM_LEVEL, page[1]) + record);
	ck_assert_uint_eq(len[2], length_at(CALM_LEVEL, page[2]) + record);
	engine.flow.staging = staging_free(engine.flow.staging);
	expect_nothing();
	blobs_teardown();
}
END_TEST

/* Pages of its own content each; they are held twice, as by their slots too. */
static void stage(struct batch *b, struct staging *st, unsigned first)
{
	uint32_t index[WIRE_BATCH];

	*b = (struct batch){ .session = s, .nr = WIRE_BATCH };
	ck_assert_uint_eq(staging_alloc(st, index, WIRE_BATCH), WIRE_BATCH);
	for (unsigned i = 0; i < WIRE_BATCH; i++) {
		make_page((unsigned char *)staging_page(st, index[i]), first + i);
		b->page[i] = (struct batch_page){ .result = BATCH_PAGE_PULLED, .value = index[i],
						  .generation = staging_generation(st, index[i]) };
	}
}

static unsigned unstage(struct batch *b, struct staging *st, unsigned first, blob_id before)
{
	unsigned behind = 0;

	for (unsigned i = 0; i < WIRE_BATCH; i++) {
		ck_assert_int_eq(b->page[i].result, BATCH_PAGE_STORED);
		ck_assert_int_eq(get(codec, b->page[i].blob, first + i), 0);
		behind += b->page[i].blob > before;
		blobstore_unref(bs, b->page[i].blob);
		staging_unref(st, b->page[i].value); /* the packer's */
		staging_unref(st, b->page[i].value);
	}
	return behind;
}

/* Several threads have a batch packed once, and all of it has been begun before any of
   the next: with a slow store, whose reads are of what lies side by side. */
START_TEST(test_packers_share_a_batch)
{
	struct packers packers = { .flow = NULL };
	struct batch both[2];
	blob_id first = UINT32_MAX;
	struct staging *st;

	blobs_setup();
	nr_stores = 2;
	stores[0] = store_memory_new(8 * (uint64_t)STORE_SEGMENT);
	stores[1] = store_faulty_new(store_memory_new(8 * (uint64_t)STORE_SEGMENT), true);
	bs = blobstore_new_tiers(stores, nr_stores, 1u << 20, NULL, 0);
	engine.flow.blobstore = bs;
	engine.flow.staging = st = staging_new(4 * WIRE_BATCH * PAGE_BYTES);
	ck_assert(bs && st);
	s->domain = alice;
	s->store_max = UINT64_MAX;
	stage(&both[0], st, 0);
	stage(&both[1], st, WIRE_BATCH);
	ck_assert_int_eq(packers_start(&packers, &engine.flow, 2, CALM_LEVEL), 0);
	packers_add(&packers, &both[0], false);
	packers_add(&packers, &both[1], false);
	for (unsigned n = 0; n < 2; usleep(1000))
		for (struct mail *mail = mailbox_take(&owner.box); mail; mail = mail->next, n++)
			ck_assert_int_eq(mail->kind, BATCH_COMMIT);
	packers_stop(&packers);
	for (unsigned i = 0; i < WIRE_BATCH; i++)
		first = MIN(first, both[1].page[i].blob);
	ck_assert_uint_le(unstage(&both[0], st, 0, first), 8); /* the share of the other thread */
	unstage(&both[1], st, WIRE_BATCH, 0);
	engine.flow.staging = staging_free(st);
	expect_nothing();
	blobs_teardown();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("engine");
	TCase *tc = tcase_create("engine");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, test_hangs_in_the_gate);
	tcase_add_test(tc, test_has_answered);
	tcase_add_loop_test(tc, test_order_to_a_mover_that_is_stopped, 0, 2);
	tcase_add_test(tc, test_INV_6_lost_forks_are_no_strays);
	tcase_add_test(tc, test_packers_share_a_batch);
	tcase_add_test(tc, test_packs_in_a_hurry_while_staging_is_full);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
