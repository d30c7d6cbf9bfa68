/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The file store: what is written comes back, room goes back, what is another's
   is left alone, and what is cut off or damaged is said. */
#include <check.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "backends/file.h"
#include "common/crc32c.h"
#include "common/util.h"

static char dir[64], path[128];
static struct store *store;
static _Alignas(4096) unsigned char bytes[256 << 10], back[STORE_READ_ROOM(sizeof(bytes))];

/* In front of the library's: so often the kernel has no memory. */
static _Atomic unsigned no_memory;
struct io_uring;
int io_uring_submit(struct io_uring *ring);
int io_uring_submit(struct io_uring *ring)
{
	int (*real)(struct io_uring *ring);

	if (no_memory) {
		no_memory--;
		return -EAGAIN;
	}
	*(void **)&real = dlsym(RTLD_NEXT, "io_uring_submit");
	return real(ring);
}

static struct store *open_file(const char **error, bool no_uring)
{
	const char *none;

	return store_file_new(&(struct store_file_options){ .path = dir,
							    .bytes = 4 * STORE_SEGMENT,
							    .daily_writes = 4711,
							    .no_uring = no_uring },
			      error ? error : &none);
}

static void setup(void)
{
	/* not /tmp, which may be memory and without direct I/O */
	strcpy(dir, "/var/tmp/uswap-test.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/" FILE_STORE_NAME, dir);
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (unsigned char)(i * 131 + (i >> 12));
}

static void teardown(void)
{
	store = store_close(store);
	unlink(path);
	rmdir(dir);
}

static struct store_stats stats(void)
{
	struct store_stats st;

	store_get_stats(store, &st);
	return st;
}

struct waiting_read {
	struct store_read read;
	_Atomic unsigned done;
};

static void note_done(struct store_read *read)
{
	((struct waiting_read *)read)->done++; /* the first member */
}

static void read_async(uint32_t segment, uint32_t offset, uint32_t len, struct waiting_read *w)
{
	*w = (struct waiting_read){ .read = { .segment = segment,
					      .offset = offset,
					      .len = len,
					      .buf = back,
					      .done = note_done } };
	store_read_submit(store, &w->read);
	while (!w->done)
		sched_yield();
	ck_assert_uint_eq(w->done, 1);
}

/* _i: by threads */
START_TEST(test_write_and_read)
{
	struct waiting_read w;
	uint32_t a, b;

	store = open_file(NULL, _i);
	ck_assert_ptr_nonnull(store);
	ck_assert_uint_eq(store_caps(store), 0);
	ck_assert_uint_eq(store_daily_writes(store), 4711);
	ck_assert_int_eq(store_segment_new(store, &a), 0);
	ck_assert_int_eq(store_segment_new(store, &b), 0);
	ck_assert_int_eq(store_write(store, b, 0, bytes, sizeof(bytes)), 0);
	ck_assert_int_eq(store_write(store, a, 0, bytes + 4096, 8192), 0);
	ck_assert_int_eq(store_write(store, a, 1 << 20, bytes, sizeof(bytes)), 0);
	ck_assert_int_eq(store_write(store, a, STORE_SEGMENT - 4096, bytes, 4096), 0);
	/* any range, over the borders of blocks, to the last byte */
	for (uint32_t at = 4000; at < 9000; at += 777) {
		ck_assert_int_eq(store_read(store, b, at, back, 5000), 0);
		ck_assert_mem_eq(back, bytes + at, 5000);
		memset(back, 0, sizeof(back));
		read_async(b, at, 3000, &w);
		ck_assert_int_eq(w.read.result, 0);
		ck_assert_mem_eq(w.read.data, bytes + at, 3000);
	}
	read_async(a, STORE_SEGMENT - 10, 10, &w);
	ck_assert_int_eq(w.read.result, 0);
	ck_assert_mem_eq(w.read.data, bytes + 4086, 10);
	read_async(a, 1 << 20, sizeof(bytes), &w);
	ck_assert_mem_eq(w.read.data, bytes, sizeof(bytes));
	ck_assert_uint_eq(stats().errors_total, 0);
	ck_assert_uint_gt(stats().read.count, 10);
	ck_assert_uint_eq(stats().write.count, 4);
	/* only blocks go to the disk */
	ck_assert_int_eq(store_write(store, a, (1 << 20) + sizeof(bytes) + 1, bytes, 4096), -EINVAL);
	store_segment_free(store, a);
	store_segment_free(store, b);
}
END_TEST

/* A read that the kernel has not taken ends, and is not done by the next one. */
START_TEST(test_INV_2_no_memory_is_not_waited_for)
{
	struct waiting_read w;
	uint32_t segment;

	store = open_file(NULL, false);
	ck_assert_int_eq(store_segment_new(store, &segment), 0);
	ck_assert_int_eq(store_write(store, segment, 0, bytes, sizeof(bytes)), 0);
	no_memory = 3;
	read_async(segment, 0, 4096, &w);
	ck_assert_int_eq(w.read.result, 0);
	no_memory = UINT_MAX;
	read_async(segment, 0, 4096, &w);
	no_memory = 0;
	if (w.read.result == 0)
		return; /* no io_uring here */
	ck_assert_int_eq(w.read.result, -EAGAIN);
	read_async(segment, 4096, 4096, &w);
	ck_assert_int_eq(w.read.result, 0);
	ck_assert_mem_eq(w.read.data, bytes + 4096, 4096);
	ck_assert_uint_eq(stats().read.count, 2);
}
END_TEST

START_TEST(test_many_at_once)
{
	static struct waiting_read w[700];
	static _Alignas(4096) unsigned char buf[ARRAY_SIZE(w)][8192];
	uint32_t segment;

	store = open_file(NULL, _i);
	ck_assert_int_eq(store_segment_new(store, &segment), 0);
	ck_assert_int_eq(store_write(store, segment, 0, bytes, sizeof(bytes)), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(w); i++) {
		w[i] = (struct waiting_read){ .read = { .segment = segment,
							.offset = i * 300,
							.len = 300,
							.buf = buf[i],
							.done = note_done } };
		store_read_submit(store, &w[i].read);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(w); i++) {
		while (!w[i].done)
			sched_yield();
		ck_assert_int_eq(w[i].read.result, 0);
		ck_assert_mem_eq(w[i].read.data, bytes + i * 300, 300);
	}
}
END_TEST

START_TEST(test_room_goes_back)
{
	uint64_t empty;
	uint32_t segment[4], more;

	store = open_file(NULL, false);
	empty = stats().used_bytes;
	ck_assert_uint_le(empty, 64 << 10);
	for (unsigned i = 0; i < 4; i++)
		ck_assert_int_eq(store_segment_new(store, &segment[i]), 0);
	/* which has not waited for the disk */
	ck_assert_uint_eq(stats().used_bytes, empty);
	ck_assert_int_eq(store_segment_new(store, &more), -ENOSPC);
	for (unsigned i = 0; i < 4; i++)
		ck_assert_int_eq(store_write(store, segment[i], 0, bytes, 4096), 0);
	/* the whole segment is taken at once: a later write can't lack room */
	ck_assert_uint_ge(stats().used_bytes, empty + 4 * STORE_SEGMENT);
	store_segment_free(store, segment[1]);
	ck_assert_uint_lt(stats().used_bytes, empty + 3 * STORE_SEGMENT + (64 << 10));
	ck_assert_int_eq(store_segment_new(store, &more), 0);
	ck_assert_uint_eq(more, segment[1]);
	ck_assert_uint_eq(stats().errors_total, 0);
}
END_TEST

START_TEST(test_truncated)
{
	struct waiting_read w;
	uint32_t segment;

	store = open_file(NULL, _i);
	ck_assert_int_eq(store_segment_new(store, &segment), 0);
	ck_assert_int_eq(store_write(store, segment, 0, bytes, sizeof(bytes)), 0);
	ck_assert_int_eq(truncate(path, (off_t)(FILE_SUPER_BYTES + 8192)), 0);
	ck_assert_int_eq(store_read(store, segment, 8000, back, 192), 0);
	ck_assert_int_eq(store_read(store, segment, 8000, back, 193), -ENODATA);
	ck_assert_int_eq(store_read(store, segment, 100000, back, 10), -ENODATA);
	read_async(segment, 8000, 192, &w);
	ck_assert_int_eq(w.read.result, 0);
	read_async(segment, 8000, 193, &w);
	ck_assert_int_eq(w.read.result, -ENODATA);
	read_async(segment, 100000, 10, &w);
	ck_assert_int_eq(w.read.result, -ENODATA);
	ck_assert_uint_eq(stats().error_total[STORE_ERROR_MISSING], 4);
}
END_TEST

/* ---- whose it is ---- */

static void expect_refusal(const char *says)
{
	const char *error = NULL;

	ck_assert_ptr_null(open_file(&error, false));
	ck_assert_ptr_nonnull(error);
	ck_assert_msg(strstr(error, says) != NULL, "%s", error);
}

/* Changes the superblock, and its checksum too. */
static void edit_super(size_t at, unsigned char flip, bool honest)
{
	int fd = open(path, O_RDWR | O_CREAT, 0600);
	unsigned char super[4096] = "";
	uint32_t crc = 0;

	ck_assert_int_eq(pread(fd, super, sizeof(super), 0), sizeof(super));
	super[at] ^= flip;
	if (honest) {
		memcpy(super + 12, &crc, 4);
		crc = crc32c(0, super, sizeof(super));
		memcpy(super + 12, &crc, 4);
	}
	ck_assert_int_eq(pwrite(fd, super, sizeof(super), 0), sizeof(super));
	close(fd);
}

/* A superblock as a dead agent leaves it behind. */
static void leave_super(void)
{
	unsigned char super[4096];
	int fd;

	store = open_file(NULL, false);
	ck_assert_ptr_nonnull(store);
	fd = open(path, O_RDONLY);
	ck_assert_int_eq(pread(fd, super, sizeof(super), 0), sizeof(super));
	close(fd);
	store = store_close(store);
	fd = open(path, O_RDWR);
	ck_assert_int_eq(pwrite(fd, super, sizeof(super), 0), sizeof(super));
	ck_assert_int_eq(ftruncate(fd, 64 << 20), 0);
	close(fd);
}

START_TEST(test_of_others)
{
	struct stat st;
	int fd;

	leave_super();
	edit_super(16, 1, true); /* the machine */
	expect_refusal("belongs to another machine");
	edit_super(16, 1, true);
	edit_super(8, 3, true);
	expect_refusal("is of version 2, this agent knows version 1 only");
	edit_super(8, 3, true);
	edit_super(50, 1, false);
	expect_refusal("damaged superblock");
	edit_super(50, 1, false);
	edit_super(0, 1, true);
	expect_refusal("something else on it");
	/* nothing of it was touched */
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_int_eq(st.st_size, 64 << 20);
	edit_super(0, 1, true);
	/* an old boot of this machine: emptied */
	edit_super(32, 1, true);
	store = open_file(NULL, false);
	ck_assert_ptr_nonnull(store);
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_int_lt(st.st_size, 1 << 20);
	/* in use */
	expect_refusal("another agent uses it");
	store = store_close(store);
	/* somebody's file of that name */
	fd = open(path, O_RDWR | O_TRUNC | O_CREAT, 0600);
	ck_assert_int_eq(write(fd, "my diary\n", 9), 9);
	close(fd);
	expect_refusal("something else on it");
	/* a file system whose mark comes late (btrfs) */
	fd = open(path, O_RDWR | O_TRUNC);
	ck_assert_int_eq(pwrite(fd, "_BHRfS_M", 8, (64 << 10) + 64), 8);
	close(fd);
	expect_refusal("something else on it");
}
END_TEST

static int look(const char **error)
{
	return file_super_look(&(struct store_file_options){ .path = dir, .bytes = 4 * STORE_SEGMENT }, error);
}

/* By somebody else, an agent before its start or beside it: nothing is made or changed. */
START_TEST(test_look)
{
	const char *error = "";
	struct stat st;

	ck_assert_int_eq(look(&error), 0);
	ck_assert(stat(path, &st) && errno == ENOENT);
	store = open_file(NULL, false);
	ck_assert_ptr_nonnull(store);
	ck_assert_int_eq(look(&error), 0);
	store = store_close(store);
	leave_super();
	ck_assert_int_eq(look(&error), 0);
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_int_eq(st.st_size, 64 << 20);
	edit_super(16, 1, true); /* the machine */
	ck_assert_int_eq(look(&error), -EINVAL);
	ck_assert_msg(strstr(error, "belongs to another machine"), "%s", error);
	ck_assert_int_eq(file_super_look(&(struct store_file_options){ .path = "/none", .bytes = STORE_SEGMENT }, &error),
			 -EINVAL);
}
END_TEST

/* It outlives a stop, a death, another boot; what is torn is not known. */
START_TEST(test_written_lately)
{
	struct store_written w = { .hour_began = 1700000000 }, got;
	int fd;

	for (unsigned i = 0; i < STORE_HOURS; i++)
		w.bytes[i] = i * 1000 + 1;
	store = open_file(NULL, false);
	ck_assert_int_eq(store_get_written(store, &got), -ENODATA);
	ck_assert_int_eq(store_set_written(store, &w), 0);
	store = store_close(store);
	store = open_file(NULL, false);
	ck_assert_ptr_nonnull(store);
	ck_assert_int_eq(store_get_written(store, &got), 0);
	ck_assert_mem_eq(&got, &w, sizeof(w));
	store = store_close(store);
	/* a dead agent's file, of an earlier boot, which is emptied */
	leave_super();
	edit_super(32, 1, true);
	store = open_file(NULL, false);
	ck_assert_ptr_nonnull(store);
	ck_assert_int_eq(store_get_written(store, &got), 0);
	ck_assert_mem_eq(&got, &w, sizeof(w));
	store = store_close(store);
	fd = open(path, O_RDWR);
	ck_assert_int_eq(pwrite(fd, "x", 1, (64 << 10) + 300), 1);
	close(fd);
	store = open_file(NULL, false);
	ck_assert_ptr_nonnull(store);
	ck_assert_int_eq(store_get_written(store, &got), -ENODATA);
}
END_TEST

START_TEST(test_bad_places)
{
	char good[64];
	const char *error = NULL;

	strcpy(good, dir);
	strcpy(dir, "/var/tmp/uswap-no-such-directory");
	expect_refusal("No such file or directory");
	strcpy(dir, "/proc/version");
	expect_refusal("neither a directory nor a block device");
	strcpy(dir, "/proc/self");
	expect_refusal("/proc/self");
	strcpy(dir, good);
	ck_assert_ptr_null(store_file_new(
		&(struct store_file_options){ .path = dir, .bytes = (uint64_t)1 << 42 }, &error));
	ck_assert_msg(strstr(error, "size=4194304M, and there is room for ") != NULL, "%s", error);
	/* what is no file is named, and left alone */
	ck_assert_int_eq(unlink(path), 0);
	ck_assert_int_eq(symlink("/etc/passwd", path), 0); /* it would lead elsewhere */
	expect_refusal(FILE_STORE_NAME " is a symbolic link, not a file");
	ck_assert_int_eq(unlink(path), 0);
	ck_assert_int_eq(mkfifo(path, 0600), 0);
	expect_refusal(FILE_STORE_NAME " is a fifo, not a file");
	ck_assert_int_eq(look(&error), -EINVAL);
	ck_assert_msg(strstr(error, FILE_STORE_NAME " is a fifo") != NULL, "%s", error);
}
END_TEST

START_TEST(test_spec)
{
	static const struct {
		const char *spec, *says;
	} bad[] = {
		{ "file:", "lacks its absolute path" },
		{ "file:x,size=1G", "lacks its absolute path" },
		{ "file:/x", "lacks its size" },
		{ "file:/x,size", "\"size\" is not written as key=value" },
		{ "file:/x,size=", "size= is not a size" },
		{ "file:/x,size=0", "size=0 is not a size" },
		{ "file:/x,size=1Q", "size=1Q is not a size" },
		{ "file:/x,size=1M", "below 4M" },
		{ "file:/x,size=5T", "too large" },
		{ "file:/x,size=1G,colour=red", "\"colour=\" is neither" },
		{ "file:/x,size=1G,daily=much", "daily=much" },
		{ "file:/x,size=1G,daily=100K", "daily= below 1M" },
		{ "file:/x,size=infinity", "size=infinity" },
		{ "file:/x,size=1G,size=2G", "size=2G comes after another" },
		{ "file:/x,daily=infinity,size=1G,daily=2G", "daily=2G comes after another" },
	};
	static const struct {
		const char *spec;
		uint64_t bytes;
	} daily[] = {
		{ "8M,daily=infinity", 0 },
		{ "8M", (uint64_t)16 << 30 },
	};
	const char *error;
	char spec[128];

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		error = NULL;
		ck_assert_ptr_null(store_open(bad[i].spec, &error));
		ck_assert_msg(strstr(error, bad[i].says) != NULL, "%s: %s", bad[i].spec, error);
		ck_assert(!store_check(bad[i].spec, &error));
	}
	snprintf(spec, sizeof(spec), "file:%s,size=8M,daily=1.5G", dir);
	ck_assert(store_check(spec, NULL));
	store = store_open(spec, &error);
	ck_assert_msg(store != NULL, "%s", error);
	ck_assert_uint_eq(stats().capacity_bytes, 8 << 20);
	ck_assert_uint_eq(store_daily_writes(store), (uint64_t)3 << 29);
	for (size_t i = 0; i < ARRAY_SIZE(daily); i++) {
		store = store_close(store);
		snprintf(spec, sizeof(spec), "file:%s,size=%s", dir, daily[i].spec);
		store = store_open(spec, &error);
		ck_assert_msg(store != NULL, "%s", error);
		ck_assert_uint_eq(store_daily_writes(store), daily[i].bytes);
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("file");
	TCase *tc = tcase_create("file");
	SRunner *runner;
	int failures;

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, test_write_and_read, 0, 2);
	tcase_add_test(tc, test_INV_2_no_memory_is_not_waited_for);
	tcase_add_loop_test(tc, test_many_at_once, 0, 2);
	tcase_add_test(tc, test_room_goes_back);
	tcase_add_loop_test(tc, test_truncated, 0, 2);
	tcase_add_test(tc, test_of_others);
	tcase_add_test(tc, test_look);
	tcase_add_test(tc, test_written_lately);
	tcase_add_test(tc, test_bad_places);
	tcase_add_test(tc, test_spec);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	failures = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
