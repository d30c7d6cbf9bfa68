/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The object tier's protocol, on a directory: what lands, what is retried, what
   is lost, who may remove. */
#include <check.h>
#include <errno.h>
#include <glob.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>

#include "backends/objects.h"
#include "common/util.h"
#include "tests/unit/fake_objects.h"

#define BATCH ((size_t)64 << 10)

static char dir[64];
static struct fake_cluster *cluster;
static struct store *store;
static _Alignas(4096) unsigned char bytes[BATCH];

static unsigned timeout_ms;

static struct store *open_store(const char *host)
{
	const struct objects_settings settings = {
		.host = host, .where = "pool p", .max_bytes = 8 * STORE_SEGMENT, .timeout_ms = timeout_ms
	};
	struct store *s = store_objects_new(&fake_ops, fake_client(cluster), &settings);

	ck_assert_ptr_nonnull(s);
	return s;
}

static enum store_state state(void)
{
	struct store_status status;

	store_get_status(store, &status);
	if (!status.oldest_read_ns)
		ck_assert_int_eq(status.state == STORE_UP, status.reason[0] == '\0');
	return status.state;
}

static const char *reason(void)
{
	static struct store_status status;

	store_get_status(store, &status);
	return status.reason;
}

/* Polls; Check's own limit ends what never comes. */
#define UNTIL(condition) \
	while (!(condition)) \
	usleep(2000)

static void setup(void)
{
	strcpy(dir, "/tmp/uswap-objects.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	cluster = fake_new(dir);
	timeout_ms = 200;
	store = open_store("me");
	UNTIL(state() == STORE_UP);
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (unsigned char)(i * 31 + (i >> 8));
}

static void teardown(void)
{
	char command[128];

	store = store_close(store);
	fake_free(cluster);
	snprintf(command, sizeof(command), "rm -r %s", dir);
	ck_assert_int_eq(system(command), 0);
}

static uint32_t new_segment(void)
{
	uint32_t segment;

	ck_assert_int_eq(store_segment_new(store, &segment), 0);
	return segment;
}

static uint32_t written_segment(void)
{
	uint32_t segment = new_segment();

	ck_assert_int_eq(store_write(store, segment, 0, bytes, BATCH), 0);
	return segment;
}

/* ---- asynchronous reads ---- */

struct reader {
	struct store_read read;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned ended;
};

static void reader_done(struct store_read *read)
{
	struct reader *r = CONTAINER_OF(read, struct reader, read);

	pthread_mutex_lock(&r->lock);
	r->ended++;
	pthread_cond_signal(&r->changed);
	pthread_mutex_unlock(&r->lock);
}

static void reader_start(struct reader *r, uint32_t segment, uint32_t offset, uint32_t len)
{
	memset(r, 0, sizeof(*r));
	pthread_mutex_init(&r->lock, NULL);
	pthread_cond_init(&r->changed, NULL);
	r->read = (struct store_read){ .segment = segment, .offset = offset, .len = len,
				       .buf = aligned_alloc(4096, STORE_READ_ROOM(len)),
				       .done = reader_done };
	store_read_submit(store, &r->read);
}

static int reader_wait(struct reader *r)
{
	pthread_mutex_lock(&r->lock);
	while (!r->ended)
		pthread_cond_wait(&r->changed, &r->lock);
	ck_assert_uint_eq(r->ended, 1);
	pthread_mutex_unlock(&r->lock);
	if (r->read.result == 0)
		ck_assert_mem_eq(r->read.data, bytes + r->read.offset, r->read.len);
	free(r->read.buf);
	return r->read.result;
}

/* ---- */

START_TEST(test_write_read_free)
{
	unsigned char back[5000];
	uint32_t segment = written_segment();
	struct reader r;

	ck_assert_uint_eq(fake_count(cluster, "s.me."), 1);
	ck_assert_int_eq(store_write(store, segment, BATCH, bytes, BATCH), 0);
	ck_assert_int_eq(store_read(store, segment, 77, back, sizeof(back)), 0);
	ck_assert_mem_eq(back, bytes + 77, sizeof(back));
	reader_start(&r, segment, 4711, 1234);
	ck_assert_int_eq(reader_wait(&r), 0);
	store_segment_free(store, segment);
	UNTIL(fake_count(cluster, "s.") == 0);
	store = store_close(store);
	ck_assert_uint_eq(fake_count(cluster, ""), 0);
}
END_TEST

/* What was never written makes no object, and takes none to remove. */
START_TEST(test_unwritten_segment)
{
	uint32_t segment = new_segment();

	ck_assert_uint_eq(fake_count(cluster, "s."), 0);
	store_segment_free(store, segment);
	ck_assert_uint_eq(fake_calls(cluster, FAKE_UNTAG), 0);
}
END_TEST

START_TEST(test_creation_that_landed_unseen)
{
	uint32_t segment = new_segment();
	unsigned char back[BATCH];

	fake_add(cluster, (struct fake_rule){ .call = FAKE_CREATE, .error = -ETIMEDOUT, .landed = true, .times = 1 });
	ck_assert_int_eq(store_write(store, segment, 0, bytes, BATCH), 0);
	ck_assert_uint_eq(fake_count(cluster, "s.me."), 1);
	ck_assert_int_eq(store_read(store, segment, 0, back, BATCH), 0);
	ck_assert_mem_eq(back, bytes, BATCH);
	store_segment_free(store, segment);
}
END_TEST

START_TEST(test_write_that_landed_unseen)
{
	uint32_t segment = written_segment();
	unsigned char back[BATCH];

	fake_add(cluster, (struct fake_rule){ .call = FAKE_WRITE, .error = -ETIMEDOUT, .landed = true, .times = 2 });
	ck_assert_int_eq(store_write(store, segment, BATCH, bytes, BATCH), 0);
	ck_assert_uint_eq(fake_calls(cluster, FAKE_WRITE), 3);
	ck_assert_int_eq(store_read(store, segment, BATCH, back, BATCH), 0);
	ck_assert_mem_eq(back, bytes, BATCH);
	store_segment_free(store, segment);
}
END_TEST

/* The cluster does not answer: the write fails, nothing new is begun, what is
   there stays, and all of it ends when the cluster is back. */
START_TEST(test_away_and_back)
{
	uint32_t segment = written_segment(), other;
	struct reader r;

	fake_add(cluster, (struct fake_rule){ .call = FAKE_WRITE, .error = -ETIMEDOUT });
	fake_add(cluster, (struct fake_rule){ .call = FAKE_LEASE, .error = -ETIMEDOUT });
	ck_assert_int_eq(store_write(store, segment, BATCH, bytes, BATCH), -ETIMEDOUT);
	ck_assert_int_eq(state(), STORE_AWAY);
	ck_assert_ptr_nonnull(strstr(reason(), "pool p: no answer"));
	ck_assert_int_eq(store_segment_new(store, &other), -ENOSPC);
	/* and a writer does not wait for a time-out that is known to come */
	ck_assert_int_eq(store_write(store, segment, BATCH, bytes, BATCH), -ENOTCONN);
	reader_start(&r, segment, 0, 100);
	ck_assert_int_eq(reader_wait(&r), 0);
	/* perhaps it is the connection: others are tried, and what hangs on this one
	   is asked for again there */
	fake_add(cluster, (struct fake_rule){ .call = FAKE_READ, .held = true, .times = 1 });
	reader_start(&r, segment, 0, 100);
	ck_assert_int_eq(reader_wait(&r), 0);
	UNTIL(fake_calls(cluster, FAKE_OPEN) > 2);
	ck_assert_int_eq(state(), STORE_AWAY);
	fake_clear(cluster);
	UNTIL(state() == STORE_UP);
	ck_assert_int_eq(store_write(store, segment, BATCH, bytes, BATCH), 0);
	store_segment_free(store, segment);
}
END_TEST

START_TEST(test_full)
{
	static const int errors[] = { -ENOSPC, -EDQUOT };
	uint32_t segment = written_segment(), other;

	fake_add(cluster, (struct fake_rule){ .call = FAKE_WRITE, .error = errors[_i] });
	fake_add(cluster, (struct fake_rule){ .call = FAKE_PUT, .error = errors[_i] });
	ck_assert_int_eq(store_write(store, segment, BATCH, bytes, BATCH), errors[_i]);
	ck_assert_int_eq(state(), STORE_FULL);
	ck_assert_ptr_nonnull(strstr(reason(), _i ? "quota" : "full"));
	ck_assert_int_eq(store_segment_new(store, &other), -ENOSPC);
	/* removing is what ends it */
	store_segment_free(store, segment);
	UNTIL(fake_count(cluster, "s.") == 0);
	ck_assert_int_eq(state(), STORE_FULL);
	fake_clear(cluster);
	UNTIL(state() == STORE_UP);
	store_segment_free(store, written_segment());
}
END_TEST

START_TEST(test_lost_bytes_are_lost)
{
	uint32_t segment = written_segment();
	struct reader r;
	char path[256];

	/* truncated: behind its end there is nothing */
	snprintf(path, sizeof(path), "truncate -s 1000 %s/s.me.*", dir);
	ck_assert_int_eq(system(path), 0);
	reader_start(&r, segment, 500, 500);
	ck_assert_int_eq(reader_wait(&r), 0);
	reader_start(&r, segment, 500, 501);
	ck_assert_int_eq(reader_wait(&r), -ENODATA);
	reader_start(&r, segment, 2000, 10);
	ck_assert_int_eq(reader_wait(&r), -ENODATA);
	/* missing */
	snprintf(path, sizeof(path), "rm %s/s.me.*", dir);
	ck_assert_int_eq(system(path), 0);
	reader_start(&r, segment, 0, 10);
	ck_assert_int_eq(reader_wait(&r), -ENOENT);
	/* that one object is gone says nothing of the others */
	UNTIL(state() == STORE_UP);
	store_segment_free(store, segment);
	UNTIL(fake_count(cluster, "s.") == 0);
	store_segment_free(store, written_segment());
}
END_TEST

/* Errors that may pass keep a reader waiting, those that repeat end it. */
START_TEST(test_reads_are_sent_again)
{
	uint32_t segment = written_segment();
	struct reader r;

	fake_add(cluster, (struct fake_rule){ .call = FAKE_READ, .error = -EPERM, .times = 1 });
	fake_add(cluster, (struct fake_rule){ .call = FAKE_READ, .error = -EIO, .times = 2 });
	reader_start(&r, segment, 0, 4096);
	ck_assert_int_eq(reader_wait(&r), 0);
	ck_assert_uint_eq(fake_calls(cluster, FAKE_READ), 4);
	fake_add(cluster, (struct fake_rule){ .call = FAKE_READ, .error = -EIO });
	reader_start(&r, segment, 0, 4096);
	ck_assert_int_eq(reader_wait(&r), -EIO);
	fake_clear(cluster);
	store_segment_free(store, segment);
}
END_TEST

START_TEST(test_reader_gives_up)
{
	uint32_t segment = written_segment();
	struct store_status status;
	struct reader held, waiting;

	fake_add(cluster, (struct fake_rule){ .call = FAKE_READ, .held = true, .times = 1 });
	reader_start(&held, segment, 0, 100);
	/* the rest of the cluster answers: it is said all the same */
	UNTIL(strstr(reason(), "no answer to a read within 0.2 s"));
	ck_assert_int_eq(state(), STORE_UP);
	fake_add(cluster, (struct fake_rule){ .call = FAKE_READ, .error = -EPERM });
	reader_start(&waiting, segment, 0, 100);
	store_get_status(store, &status);
	ck_assert_uint_gt(status.oldest_read_ns, 0);
	store_read_cancel(store, &held.read);
	ck_assert_int_eq(reader_wait(&held), -ECANCELED);
	store_read_cancel(store, &waiting.read);
	ck_assert_int_eq(reader_wait(&waiting), -ECANCELED);
	store_get_status(store, &status);
	ck_assert_uint_eq(status.oldest_read_ns, 0);
	fake_clear(cluster);
	store_segment_free(store, segment);
}
END_TEST

static struct reader hasty;

static void give_up(void)
{
	store_read_cancel(store, &hasty.read);
}

/* After a thread has taken the read for the cluster, and before it is there. */
START_TEST(test_reader_gives_up_at_once)
{
	uint32_t segment = written_segment();

	fake_add(cluster, (struct fake_rule){ .call = FAKE_READ, .held = true, .before = give_up, .times = 1 });
	reader_start(&hasty, segment, 0, 100);
	ck_assert_int_eq(reader_wait(&hasty), -ECANCELED);
	ck_assert_uint_eq(fake_held(cluster), 0);
	store_segment_free(store, segment);
}
END_TEST

/* A clock that has been put back: for those who count by it, time-outs are an hour off. */
int clock_gettime(clockid_t clock, struct timespec *ts)
{
	int r = (int)syscall(SYS_clock_gettime, clock, ts);

	ts->tv_sec += clock == CLOCK_REALTIME ? 3600 : 0;
	return r;
}

START_TEST(test_clock_put_back)
{
	uint32_t segment = written_segment();
	char buf[100];

	fake_add(cluster, (struct fake_rule){ .call = FAKE_READ, .held = true, .times = 1 });
	ck_assert_int_eq(store_read(store, segment, 0, buf, sizeof(buf)), -ETIMEDOUT);
	UNTIL(state() == STORE_UP);
	store_segment_free(store, segment);
}
END_TEST

/* More readers than go out at a time: none is forgotten, queued ones can be
   taken back. */
START_TEST(test_window)
{
	enum { NR = 600 };
	static struct reader r[NR];
	uint32_t segment = written_segment();
	unsigned cancelled = 0;

	fake_add(cluster, (struct fake_rule){ .call = FAKE_READ, .held = true });
	for (unsigned i = 0; i < NR; i++)
		reader_start(&r[i], segment, i, 100);
	ck_assert_uint_eq(fake_held(cluster), 256);
	for (unsigned i = 0; i < NR; i += 7)
		store_read_cancel(store, &r[i].read);
	ck_assert_uint_eq(fake_held(cluster), 256);
	fake_clear(cluster);
	fake_release(cluster);
	for (unsigned i = 0; i < NR; i++)
		cancelled += reader_wait(&r[i]) == -ECANCELED;
	ck_assert_uint_eq(cancelled, (NR + 6) / 7);
	store_segment_free(store, segment);
}
END_TEST

/* Blocklisted: another connection, and what hung on the old one is asked for
   again. */
START_TEST(test_expelled)
{
	uint32_t segment = written_segment();
	struct reader r;

	fake_add(cluster, (struct fake_rule){ .call = FAKE_READ, .held = true, .times = 1 });
	fake_add(cluster, (struct fake_rule){ .call = FAKE_WRITE, .error = -ESHUTDOWN, .times = 1 });
	reader_start(&r, segment, 0, 100);
	ck_assert_int_eq(store_write(store, segment, BATCH, bytes, BATCH), -ESHUTDOWN);
	ck_assert_int_eq(reader_wait(&r), 0);
	ck_assert_uint_eq(fake_calls(cluster, FAKE_OPEN), 2);
	UNTIL(state() == STORE_UP);
	ck_assert_int_eq(store_write(store, segment, BATCH, bytes, BATCH), 0);
	store_segment_free(store, segment);
}
END_TEST

/* ---- several writes at a time ---- */

#define PART ((size_t)8 << 10)
#define PARTS 40

/* Parts of some segments, each with bytes of its own. */
static struct store_write parts[PARTS];
static unsigned char part_bytes[PARTS][PART];

/* They go round the segments. */
static void parts_start(const uint32_t *segments, unsigned nr_segments, unsigned from, unsigned to)
{
	for (unsigned i = from; i < to; i++) {
		memset(part_bytes[i], (int)(i + 1), PART);
		parts[i] = (struct store_write){ .segment = segments[i % nr_segments],
						 .offset = (uint32_t)(i / nr_segments * PART),
						 .len = PART,
						 .buf = part_bytes[i] };
		store_write_start(store, &parts[i]);
	}
}

/* What has been acknowledged is there. */
static int part_wait(unsigned i)
{
	int r = store_write_wait(store, &parts[i]);
	unsigned char back[PART];

	if (r)
		return r;
	ck_assert_int_eq(store_read(store, parts[i].segment, parts[i].offset, back, PART), 0);
	ck_assert_mem_eq(back, part_bytes[i], PART);
	return 0;
}

/* So many operations are under way; what waits for a segment goes as one. */
START_TEST(test_waiting_writes_are_joined)
{
	uint32_t segments[2] = { new_segment(), new_segment() };

	fake_add(cluster, (struct fake_rule){ .call = FAKE_CREATE, .held = true });
	fake_add(cluster, (struct fake_rule){ .call = FAKE_WRITE, .held = true });
	parts_start(segments, 1, 0, 20);
	ck_assert_uint_eq(fake_held(cluster), 4);
	parts_start(segments + 1, 1, 20, 22); /* another one's don't go with it */
	ck_assert_uint_eq(fake_held(cluster), 4);
	fake_clear(cluster);
	fake_release(cluster);
	ck_assert_uint_eq(fake_calls(cluster, FAKE_CREATE), 2);
	ck_assert_uint_eq(fake_calls(cluster, FAKE_WRITE), 4);
	for (unsigned i = 0; i < 22; i++)
		ck_assert_int_eq(part_wait(i), 0);
	store_segment_free(store, segments[0]);
	store_segment_free(store, segments[1]);
}
END_TEST

/* What queued is refused, and that is no answer of the cluster's. */
START_TEST(test_refused_writes_blame_nobody)
{
	uint32_t segment = new_segment();
	int r;

	fake_add(cluster, (struct fake_rule){ .call = FAKE_CREATE, .held = true });
	fake_add(cluster, (struct fake_rule){ .call = FAKE_WRITE, .held = true });
	parts_start(&segment, 1, 0, 6);
	ck_assert_uint_eq(fake_held(cluster), 4);
	fake_add(cluster, (struct fake_rule){ .call = FAKE_LEASE, .error = -EDQUOT });
	UNTIL(state() == STORE_FULL);
	fake_release(cluster);
	for (unsigned i = 0; i < 6; i++) {
		r = store_write_wait(store, &parts[i]);
		ck_assert_int_eq(r, i < 4 ? 0 : -ENOSPC);
		ck_assert_ptr_nonnull(strstr(reason(), "quota"));
	}
	fake_clear(cluster);
	UNTIL(state() == STORE_UP);
	store_segment_free(store, segment);
}
END_TEST

/* A joined write that has timed out, landed or not: its first part is written
   again, at its own place. After that there is hope for the others as soon as the
   keeper says so; which of them, and that the rest fails, is all that is told. */
START_TEST(test_joined_write_that_timed_out)
{
	uint32_t segment = new_segment();
	unsigned good = 0;

	fake_add(cluster, (struct fake_rule){ .call = FAKE_CREATE, .held = true, .times = 1 });
	fake_add(cluster, (struct fake_rule){ .call = FAKE_WRITE, .held = true, .times = 3 });
	parts_start(&segment, 1, 0, 12);
	fake_add(cluster, (struct fake_rule){ .call = FAKE_WRITE, .error = -ETIMEDOUT, .landed = _i, .times = 1 });
	fake_release(cluster);
	ck_assert_uint_eq(fake_calls(cluster, FAKE_WRITE), 4);
	for (unsigned i = 0; i < 12; i++) {
		int r = part_wait(i);

		ck_assert(r == 0 || (i > 4 && r == -ETIMEDOUT));
		good += !r;
	}
	ck_assert_uint_ge(good, 5);
	ck_assert_uint_eq(fake_calls(cluster, FAKE_WRITE), 4 + good - 4);
	UNTIL(state() == STORE_UP);
	store_segment_free(store, segment);
}
END_TEST

/* The creation is lost, those behind it find no object; each comes again. */
START_TEST(test_lost_creation)
{
	uint32_t segment = new_segment();

	fake_add(cluster, (struct fake_rule){ .call = FAKE_CREATE, .error = -ETIMEDOUT, .times = 1 });
	parts_start(&segment, 1, 0, 3);
	for (unsigned i = 0; i < 3; i++)
		ck_assert_int_eq(part_wait(i), 0);
	ck_assert_int_ne(state(), STORE_GONE);
	store_segment_free(store, segment);
	UNTIL(fake_count(cluster, "s.") == 0);
}
END_TEST

static void plant(const char *name)
{
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "w");
	ck_assert_ptr_nonnull(f);
	fclose(f);
}

/* A creation that was given up, and whose segment is gone, lands at last: nothing
   names its object, and so it goes. What is in use stays. */
START_TEST(test_creation_that_lands_at_last)
{
	uint32_t used = written_segment(), segment = new_segment();
	unsigned char back[4096];
	char path[128];
	unsigned removed;
	glob_t found;

	/* its number is the one behind that of the segment in use */
	snprintf(path, sizeof(path), "%s/s.me.*", dir);
	ck_assert_int_eq(glob(path, 0, NULL, &found), 0);
	snprintf(path, sizeof(path), "%s", strrchr(found.gl_pathv[0], '/') + 1);
	globfree(&found);
	path[strlen(path) - 1]++;
	fake_add(cluster, (struct fake_rule){ .call = FAKE_CREATE, .error = -ETIMEDOUT });
	ck_assert_int_eq(store_write(store, segment, 0, bytes, BATCH), -ETIMEDOUT);
	store_segment_free(store, segment);
	fake_clear(cluster);
	removed = fake_calls(cluster, FAKE_UNTAG);
	plant(path); /* before anybody looks for such objects: they do so once */
	UNTIL(fake_calls(cluster, FAKE_UNTAG) > removed && fake_count(cluster, "s.me.") == 1);
	usleep(100000);
	ck_assert_uint_eq(fake_count(cluster, "s.me."), 1);
	ck_assert_int_eq(store_read(store, used, 0, back, sizeof(back)), 0);
	store_segment_free(store, used);
}
END_TEST

/* The pool is deleted with parts under way and waiting: all of them fail. */
START_TEST(test_joined_writes_without_a_pool)
{
	uint32_t segment = new_segment();

	fake_add(cluster, (struct fake_rule){ .call = FAKE_CREATE, .error = -ENOENT });
	fake_add(cluster, (struct fake_rule){ .call = FAKE_WRITE, .error = -ENOENT });
	fake_add(cluster, (struct fake_rule){ .call = FAKE_LEASE, .error = -ENOENT });
	parts_start(&segment, 1, 0, 8);
	for (unsigned i = 0; i < 8; i++)
		ck_assert_int_lt(part_wait(i), 0);
	UNTIL(state() == STORE_GONE);
	fake_clear(cluster);
	UNTIL(state() == STORE_UP);
	store_segment_free(store, segment);
}
END_TEST

static atomic_bool stop_releasing;

static void *release_all(void *arg)
{
	(void)arg;
	while (!atomic_load(&stop_releasing)) {
		usleep(100);
		fake_release(cluster);
	}
	return NULL;
}

/* Whatever goes wrong: what was acknowledged is right, the rest is told. */
START_TEST(test_writes_at_random)
{
	pthread_t releaser;
	uint32_t segments[3] = { new_segment(), new_segment(), new_segment() };
	unsigned begun = 0, waited = 0, good = 0, seed = (unsigned)_i;

	ck_assert_int_eq(pthread_create(&releaser, NULL, release_all, NULL), 0);
	while (waited < PARTS) {
		unsigned dice = (unsigned)rand_r(&seed) % 6;
		enum fake_call call = rand_r(&seed) % 3 ? FAKE_WRITE : FAKE_CREATE;

		if (dice < 3 && begun < PARTS) {
			parts_start(segments, 3, begun, begun + 1);
			begun++;
		} else if (dice == 3) {
			fake_add(cluster, (struct fake_rule){ .call = call, .error = -ETIMEDOUT,
							      .landed = rand_r(&seed) % 2, .times = 1 });
		} else if (dice == 4) {
			fake_add(cluster, (struct fake_rule){ .call = call, .held = true, .times = 1 });
		} else if (waited < begun) {
			good += !part_wait(waited++);
		}
		if (begun == PARTS)
			fake_clear(cluster);
	}
	atomic_store(&stop_releasing, true);
	pthread_join(releaser, NULL);
	ck_assert_uint_gt(good, 0);
}
END_TEST

/* ---- who may remove ---- */

START_TEST(test_earlier_boots_go)
{
	store = store_close(store);
	plant("s.me.0123456789abcdef01234567.0000000000000001");
	plant("s.me.0123456789abcdef01234567.0000000000000002");
	plant("s.you.0123456789abcdef01234567.0000000000000001");
	plant("s.me2.0123456789abcdef01234567.0000000000000001");
	/* whoever had us has died with its lease */
	fake_set_lease(cluster, "earlier", 300);
	store = open_store("me");
	UNTIL(fake_count(cluster, "s.me.") == 0);
	UNTIL(state() == STORE_UP);
	ck_assert_uint_eq(fake_count(cluster, "s.you."), 1);
	ck_assert_uint_eq(fake_count(cluster, "s.me2."), 1);
}
END_TEST

/* Two machines of one id: the second one keeps out for good, also when the
   first is out of reach for longer than its lease. */
START_TEST(test_clash)
{
	uint32_t segment;

	store = store_close(store);
	plant("s.me.0123456789abcdef01234567.0000000000000001");
	fake_set_lease(cluster, "alive", 0);
	store = open_store("me");
	UNTIL(state() == STORE_CLASH);
	ck_assert_ptr_nonnull(strstr(reason(), "alive"));
	ck_assert_ptr_nonnull(strstr(reason(), "host="));
	fake_set_lease(cluster, NULL, 0);
	usleep(500000);
	ck_assert_int_eq(state(), STORE_CLASH);
	ck_assert_int_eq(store_segment_new(store, &segment), -ENOSPC);
	store = store_close(store);
	ck_assert_uint_eq(fake_count(cluster, "s.me."), 1);
}
END_TEST

/* What it left is being removed, or that has been ended half-way: no other machine has
   its name, and it waits. */
START_TEST(test_being_collected)
{
	const char *error = NULL;

	store = store_close(store);
	plant("h.me");
	fake_set_lease(cluster, "collecting", 0);
	store = open_store("me");
	UNTIL(strstr(reason(), "is being removed"));
	usleep(1200000); /* longer than a lease is watched */
	ck_assert_int_eq(state(), STORE_CONNECTING);
	ck_assert_int_eq(objects_collect(&fake_ops, fake_client(cluster), "me", &error), -EBUSY);
	ck_assert_ptr_nonnull(strstr(error, "collected already, by collecting"));
	fake_set_lease(cluster, NULL, 0);
	UNTIL(state() == STORE_UP);
}
END_TEST

START_TEST(test_comes_up_without_a_cluster)
{
	uint32_t segment;

	store = store_close(store);
	fake_add(cluster, (struct fake_rule){ .call = FAKE_OPEN, .error = -EACCES });
	store = open_store("me");
	UNTIL(state() == STORE_DENIED);
	ck_assert_str_eq(reason(), "the fake says Permission denied");
	ck_assert_int_eq(store_segment_new(store, &segment), -ENOSPC);
	fake_clear(cluster);
	UNTIL(state() == STORE_UP);
	store_segment_free(store, written_segment());
}
END_TEST

START_TEST(test_pool_deleted_and_made_again)
{
	uint32_t segment = written_segment();
	struct reader r;
	char command[128];

	snprintf(command, sizeof(command), "rm %s/s.*", dir);
	ck_assert_int_eq(system(command), 0);
	fake_add(cluster, (struct fake_rule){ .call = FAKE_LEASE, .error = -ENOENT });
	fake_add(cluster, (struct fake_rule){ .call = FAKE_OPEN, .error = -ENOENT });
	reader_start(&r, segment, 0, 100);
	ck_assert_int_eq(reader_wait(&r), -ENOENT);
	UNTIL(state() == STORE_GONE);
	fake_clear(cluster);
	UNTIL(state() == STORE_UP);
	store_segment_free(store, segment);
	store_segment_free(store, written_segment());
	UNTIL(fake_count(cluster, "s.") == 0);
}
END_TEST

/* What a host has left that will not come back: nothing while it may be alive,
   nothing before it is expelled, nothing of others. */
START_TEST(test_collecting_a_host)
{
	const char *error = NULL;
	uint32_t segment;

	/* a lease that holds also while our threads have no processor */
	store = store_close(store);
	timeout_ms = 2000;
	store = open_store("me");
	UNTIL(state() == STORE_UP);
	segment = written_segment();
	plant("s.me2.0123456789abcdef01234567.0000000000000001");
	ck_assert_int_eq(objects_collect(&fake_ops, fake_client(cluster), "me", &error), -EBUSY);
	ck_assert_ptr_nonnull(strstr(error, "host me is alive"));
	ck_assert_int_eq(objects_collect(&fake_ops, fake_client(cluster), "m.e", &error), -EINVAL);
	ck_assert_int_eq(objects_collect(&fake_ops, fake_client(cluster), "", &error), -EINVAL);
	/* it dies: it can't renew its lease, nor remove anything */
	fake_add(cluster, (struct fake_rule){ .call = FAKE_LEASE, .error = -ETIMEDOUT });
	UNTIL(state() == STORE_AWAY);
	store_segment_free(store, segment);
	store = store_close(store);
	fake_clear(cluster);
	ck_assert_uint_eq(fake_count(cluster, "s.me."), 1);
	fake_set_lease(cluster, NULL, 0);
	ck_assert_int_eq(objects_collect(&fake_ops, fake_client(cluster), "nobody", &error), -ENOENT);
	fake_add(cluster, (struct fake_rule){ .call = FAKE_EXPEL, .error = -EPERM, .times = 1 });
	ck_assert_int_eq(objects_collect(&fake_ops, fake_client(cluster), "me", &error), -EPERM);
	ck_assert_ptr_nonnull(strstr(error, "osd blocklist"));
	ck_assert_uint_eq(fake_count(cluster, "s.me."), 1);
	ck_assert_int_eq(objects_collect(&fake_ops, fake_client(cluster), "me", &error), 1);
	ck_assert_uint_eq(fake_calls(cluster, FAKE_EXPEL), 2);
	ck_assert_uint_eq(fake_count(cluster, "s.me."), 0);
	ck_assert_uint_eq(fake_count(cluster, "h.me"), 0);
	ck_assert_uint_eq(fake_count(cluster, "s.me2."), 1);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("objects");
	TCase *tc = tcase_create("objects");
	SRunner *runner;
	int failures;

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, test_write_read_free);
	tcase_add_test(tc, test_unwritten_segment);
	tcase_add_test(tc, test_creation_that_landed_unseen);
	tcase_add_test(tc, test_write_that_landed_unseen);
	tcase_add_test(tc, test_away_and_back);
	tcase_add_loop_test(tc, test_full, 0, 2);
	tcase_add_test(tc, test_refused_writes_blame_nobody);
	tcase_add_test(tc, test_lost_bytes_are_lost);
	tcase_add_test(tc, test_reads_are_sent_again);
	tcase_add_test(tc, test_reader_gives_up);
	tcase_add_test(tc, test_reader_gives_up_at_once);
	tcase_add_test(tc, test_clock_put_back);
	tcase_add_test(tc, test_window);
	tcase_add_test(tc, test_expelled);
	tcase_add_test(tc, test_waiting_writes_are_joined);
	tcase_add_loop_test(tc, test_joined_write_that_timed_out, 0, 2);
	tcase_add_test(tc, test_lost_creation);
	tcase_add_test(tc, test_creation_that_lands_at_last);
	tcase_add_test(tc, test_joined_writes_without_a_pool);
	tcase_add_loop_test(tc, test_writes_at_random, 1, 40);
	tcase_add_test(tc, test_earlier_boots_go);
	tcase_add_test(tc, test_clash);
	tcase_add_test(tc, test_being_collected);
	tcase_add_test(tc, test_comes_up_without_a_cluster);
	tcase_add_test(tc, test_pool_deleted_and_made_again);
	tcase_add_test(tc, test_collecting_a_host);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	failures = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
