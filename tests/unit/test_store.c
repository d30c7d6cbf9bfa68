/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The checking wrapper, the memory store, and Store= as people write it. */
#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backends/faulty.h"
#include "backends/rados_spec.h"
#include "backends/store.h"
#include "common/kept.h"
#include "common/util.h"

static struct store *store;
static unsigned char bytes[8192];

static void setup(void)
{
	store = store_memory_new(4 * STORE_SEGMENT + 4711);
	ck_assert_ptr_nonnull(store);
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (unsigned char)(i * 31 + 7);
}

static void teardown(void)
{
	store = store_close(store);
}

static struct store_stats stats(void)
{
	struct store_stats st;

	store_get_stats(store, &st);
	return st;
}

START_TEST(test_write_read_map)
{
	unsigned char back[8192];
	uint32_t segment;
	const void *map;

	ck_assert_str_eq(store_name(store), "memory");
	ck_assert_int_eq(store_segment_new(store, &segment), 0);
	ck_assert_int_eq(store_write(store, segment, 0, bytes, 100), 0);
	ck_assert_int_eq(store_write(store, segment, 100, bytes + 100, sizeof(bytes) - 100), 0);
	ck_assert_int_eq(store_read(store, segment, 0, back, sizeof(back)), 0);
	ck_assert_mem_eq(back, bytes, sizeof(bytes));
	map = store_map(store, segment, 50, 8000);
	ck_assert_ptr_nonnull(map);
	ck_assert_mem_eq(map, bytes + 50, 8000);
	/* to the last byte, over a gap */
	ck_assert_int_eq(store_write(store, segment, STORE_SEGMENT - 10, bytes, 10), 0);
	ck_assert_int_eq(store_read(store, segment, STORE_SEGMENT - 10, back, 10), 0);
	ck_assert_mem_eq(back, bytes, 10);
	ck_assert_uint_eq(stats().written_bytes_total, 8202);
	ck_assert_uint_eq(stats().read_bytes_total, 8192 + 8000 + 10);
	ck_assert_uint_eq(stats().errors_total, 0);
	store_segment_free(store, segment);
}
END_TEST

START_TEST(test_full)
{
	uint32_t segment[4], more;

	ck_assert_uint_eq(stats().capacity_bytes, 4 * STORE_SEGMENT);
	for (unsigned i = 0; i < 4; i++) {
		ck_assert_int_eq(store_segment_new(store, &segment[i]), 0);
		for (unsigned j = 0; j < i; j++)
			ck_assert_uint_ne(segment[i], segment[j]);
	}
	ck_assert_int_eq(store_segment_new(store, &more), -ENOSPC);
	ck_assert_uint_eq(stats().segments, 4);
	ck_assert_uint_eq(stats().errors_total, 0); /* a state, not an error */
	store_segment_free(store, segment[2]);
	ck_assert_int_eq(store_segment_new(store, &more), 0);
	ck_assert_uint_eq(more, segment[2]);
}
END_TEST

START_TEST(test_INV_8_memory_goes_back)
{
	uint32_t segment;

	ck_assert_uint_eq(stats().used_bytes, 0);
	for (unsigned round = 0; round < 3; round++) {
		ck_assert_int_eq(store_segment_new(store, &segment), 0);
		for (size_t at = 0; at < STORE_SEGMENT; at += sizeof(bytes)) {
			ck_assert_int_eq(store_write(store, segment, at, bytes, sizeof(bytes)), 0);
			/* never much more than was written */
			ck_assert_uint_ge(stats().used_bytes, at + sizeof(bytes));
			ck_assert_uint_le(stats().used_bytes, at + (128u << 10));
		}
		ck_assert_uint_eq(stats().used_bytes, STORE_SEGMENT);
		store_segment_free(store, segment);
		ck_assert_uint_eq(stats().used_bytes, 0);
		ck_assert_uint_eq(stats().segments, 0);
	}
}
END_TEST

/* As the kernel has huge pages or not. Two are written to at a time. */
START_TEST(test_INV_8_large_memory_goes_back)
{
	enum { SEGMENTS = 20 };
	uint64_t written = 0;
	uint32_t segment[SEGMENTS];
	unsigned char back[8192];

	store_close(store);
	store = store_memory_new(SEGMENTS * STORE_SEGMENT);
	ck_assert_ptr_nonnull(store);
	for (unsigned round = 0; round < 2; round++, written = 0) {
		for (unsigned i = 0; i < SEGMENTS; i++)
			ck_assert_int_eq(store_segment_new(store, &segment[i]), 0);
		for (unsigned i = 0; i < SEGMENTS; i += 2)
			for (size_t at = 0; at < STORE_SEGMENT; at += sizeof(bytes)) {
				bytes[0] = (unsigned char)(i + at / sizeof(bytes));
				ck_assert_int_eq(store_write(store, segment[i], at, bytes, sizeof(bytes)), 0);
				ck_assert_int_eq(store_write(store, segment[i + 1], at, bytes, sizeof(bytes)), 0);
				written += 2 * sizeof(bytes);
				ck_assert_uint_ge(stats().used_bytes, written);
				ck_assert_uint_le(stats().used_bytes, written + written / 15 + (128u << 10));
			}
		for (unsigned i = 0; i < SEGMENTS; i++) {
			for (size_t at = 0; at < STORE_SEGMENT; at += sizeof(bytes)) {
				bytes[0] = (unsigned char)((i & ~1u) + at / sizeof(bytes));
				ck_assert_int_eq(store_read(store, segment[i], at, back, sizeof(back)), 0);
				ck_assert_mem_eq(back, bytes, sizeof(bytes));
			}
			store_segment_free(store, segment[i]);
			written -= STORE_SEGMENT;
			ck_assert_uint_eq(stats().used_bytes, written);
		}
	}
}
END_TEST

/* A huge page once as much is to come, as far as the kernel has them. */
START_TEST(test_INV_8_expected_memory)
{
	bool has_huge;
	struct kept kept;
	uint32_t segment;

	ck_assert_int_eq(kept_open(&kept, "huge", 2 * KEPT_HUGE, 1), 0);
	has_huge = kept_back_huge(&kept, KEPT_HUGE - KEPT_HEADER);
	kept_close(&kept);
	ck_assert_int_eq(store_segment_new(store, &segment), 0);
	store_expect(store, KEPT_HUGE - 1);
	ck_assert_int_eq(store_write(store, segment, 0, bytes, sizeof(bytes)), 0);
	ck_assert_uint_le(stats().used_bytes, 128u << 10);
	store_expect(store, KEPT_HUGE);
	do { /* the kernel may be at these very pages, and then it's left alone for a second */
		store_segment_free(store, segment);
		ck_assert_int_eq(store_segment_new(store, &segment), 0);
		ck_assert_int_eq(store_write(store, segment, 0, bytes, sizeof(bytes)), 0);
	} while (has_huge && stats().used_bytes < KEPT_HUGE && !usleep(100000));
	/* The next one is another's, and nothing more is to come. */
	store_expect(store, 0);
	for (size_t at = sizeof(bytes); at < STORE_SEGMENT; at += sizeof(bytes))
		ck_assert_int_eq(store_write(store, segment, at, bytes, sizeof(bytes)), 0);
	ck_assert_int_eq(store_segment_new(store, &segment), 0);
	ck_assert_int_eq(store_write(store, segment, 0, bytes, sizeof(bytes)), 0);
	ck_assert_uint_le(stats().used_bytes, STORE_SEGMENT + (128u << 10));
}
END_TEST

/* Its first segment lies where that version has it. */
START_TEST(test_kept_by_version_1)
{
	struct kept kept;
	char back[8192];

	kept_use(kept_directory_new());
	/* the second one of this process */
	ck_assert_int_eq(kept_open(&kept, "store1", 4 * STORE_SEGMENT, 1), 0);
	ck_assert_int_eq(kept_back(&kept, 2 * STORE_SEGMENT, sizeof(bytes)), 0);
	memcpy((char *)kept.base + 2 * STORE_SEGMENT, bytes, sizeof(bytes));
	kept_close(&kept);
	store_close(store);
	store = store_memory_new(4 * STORE_SEGMENT);
	ck_assert_ptr_nonnull(store);
	ck_assert_uint_gt(kept_version("store1"), 1);
	ck_assert_int_eq(store_segment_adopt(store, 2, STORE_SEGMENT), 0);
	ck_assert_int_eq(store_read(store, 2, 0, back, sizeof(back)), 0);
	ck_assert_mem_eq(back, bytes, sizeof(bytes));
}
END_TEST

START_TEST(test_freed_reads_as_zeros)
{
	static const unsigned char zeros[100];
	const unsigned char *map;
	uint32_t segment;

	ck_assert_int_eq(store_segment_new(store, &segment), 0);
	ck_assert_int_eq(store_write(store, segment, 0, bytes, sizeof(bytes)), 0);
	map = store_map(store, segment, 0, 100);
	ck_assert_mem_eq(map, bytes, 100);
	store_segment_free(store, segment);
	ck_assert_mem_eq(map, zeros, 100);
}
END_TEST

START_TEST(test_mistakes_are_refused)
{
	unsigned char back[64];
	uint32_t segment;
	uint64_t errors = 0;

#define REFUSED(call)                                               \
	do {                                                        \
		ck_assert_int_eq(call, -EINVAL);                    \
		ck_assert_uint_eq(stats().errors_total, ++errors);  \
	} while (0)

	/* no such segment, or none given out */
	REFUSED(store_write(store, 0, 0, bytes, 10));
	REFUSED(store_read(store, 3, 0, back, 10));
	REFUSED(store_write(store, 4, 0, bytes, 10));
	REFUSED(store_read(store, UINT32_MAX, 0, back, 10));
	ck_assert_int_eq(store_segment_new(store, &segment), 0);
	/* outside, nothing, or over the end */
	REFUSED(store_write(store, segment, 0, bytes, 0));
	REFUSED(store_write(store, segment, STORE_SEGMENT, bytes, 1));
	REFUSED(store_write(store, segment, STORE_SEGMENT - 5, bytes, 6));
	REFUSED(store_write(store, segment, SIZE_MAX, bytes, 6));
	REFUSED(store_write(store, segment, 1, bytes, SIZE_MAX));
	/* written twice */
	ck_assert_int_eq(store_write(store, segment, 100, bytes, 50), 0);
	REFUSED(store_write(store, segment, 149, bytes, 10));
	REFUSED(store_write(store, segment, 0, bytes, 10));
	/* not written yet */
	REFUSED(store_read(store, segment, 149, back, 2));
	REFUSED(store_read(store, segment, 150, back, 1));
	REFUSED(store_read(store, segment, 10, back, 0));
	REFUSED(store_read(store, segment, 10, back, SIZE_MAX));
	ck_assert_ptr_null(store_map(store, segment, 150, 1));
	ck_assert_uint_eq(stats().errors_total, ++errors);
	/* freed */
	store_segment_free(store, segment);
	REFUSED(store_read(store, segment, 100, back, 10));
	REFUSED(store_write(store, segment, 200, bytes, 10));
	store_segment_free(store, segment);
	ck_assert_uint_eq(stats().errors_total, ++errors);
	ck_assert_uint_eq(stats().segments, 0);
}
END_TEST

/* ---- a backend that fails ---- */

static int failing_new(void *self, uint32_t *segment)
{
	*segment = 0;
	return *(int *)self;
}

static int failing_write(void *self, uint32_t segment, size_t offset, const void *buf, size_t len)
{
	(void)segment, (void)offset, (void)buf, (void)len;
	return *(int *)self;
}

static int failing_read(void *self, uint32_t segment, size_t offset, void *buf, size_t len)
{
	(void)segment, (void)offset, (void)buf, (void)len;
	return *(int *)self;
}

static void failing_free(void *self, uint32_t segment)
{
	(void)self, (void)segment;
}

static uint64_t failing_used(void *self)
{
	(void)self;
	return 0;
}

static void failing_destroy(void *self)
{
	*(int *)self = 1234;
}

START_TEST(test_errors_are_forwarded)
{
	static const struct store_ops ops = {
		.name = "failing",
		.segment_new = failing_new,
		.write = failing_write,
		.read = failing_read,
		.segment_free = failing_free,
		.used_bytes = failing_used,
		.destroy = failing_destroy,
	};
	struct store_stats st;
	uint32_t segment;
	int error = -EIO;
	struct store *s = store_new(&ops, &error, 1);
	char back[10];

	ck_assert_ptr_nonnull(s);
	ck_assert_int_eq(store_segment_new(s, &segment), -EIO);
	error = 0;
	ck_assert_int_eq(store_segment_new(s, &segment), 0);
	error = -ETIMEDOUT;
	ck_assert_int_eq(store_write(s, segment, 0, bytes, 10), -ETIMEDOUT);
	error = 0;
	/* a failed write may be repeated */
	ck_assert_int_eq(store_write(s, segment, 0, bytes, 10), 0);
	error = -ENOSPC;
	ck_assert_int_eq(store_write(s, segment, 10, bytes, 10), -ENOSPC);
	error = -EBADF;
	ck_assert_int_eq(store_read(s, segment, 0, back, 10), -EBADF);
	ck_assert_ptr_null(store_map(s, segment, 0, 10)); /* no memory store */
	store_get_stats(s, &st);
	ck_assert_uint_eq(st.errors_total, 3);
	ck_assert_uint_eq(st.error_total[STORE_ERROR_SPACE], 1); /* a state */
	ck_assert_uint_eq(st.written_bytes_total, 10);
	ck_assert_uint_eq(st.read_bytes_total, 0);
	ck_assert_ptr_null(store_close(s));
	ck_assert_int_eq(error, 1234);
	ck_assert_ptr_null(store_close(NULL));
	ck_assert_ptr_null(store_new(&ops, &error, 0));
	ck_assert_ptr_null(store_new(&ops, &error, STORE_SEGMENTS_MAX + 1));
}
END_TEST

/* ---- asynchronous reads, on a store that fails by rule ---- */

struct waiting_read {
	struct store_read read;
	unsigned done;
};

static void note_done(struct store_read *read)
{
	((struct waiting_read *)read)->done++; /* the first member */
}

static void submit(struct store *s, uint32_t segment, uint32_t offset, uint32_t len, void *buf,
				  struct waiting_read *w)
{
	*w = (struct waiting_read){ .read = { .segment = segment,
					      .offset = offset,
					      .len = len,
					      .buf = buf,
					      .done = note_done } };
	store_read_submit(s, &w->read);
}

START_TEST(test_reads_end_once)
{
	static _Alignas(4096) unsigned char buf[STORE_READ_ROOM(8192)], buf2[sizeof(buf)];
	struct store *below = store_memory_new(2 * STORE_SEGMENT);
	struct store *s = store_faulty_new(below, true);
	struct waiting_read a, b;
	struct store_stats st;
	uint32_t segment;

	ck_assert_uint_eq(store_caps(store), STORE_MAPPED);
	ck_assert_uint_eq(store_caps(s), STORE_REMOTE);
	ck_assert_int_eq(store_segment_new(s, &segment), 0);
	ck_assert_int_eq(store_write(s, segment, 0, bytes, sizeof(bytes)), 0);
	ck_assert_ptr_null(store_map(s, segment, 0, 1)); /* memory below, slow above */
	submit(s, segment, 100, 3000, buf, &a);
	ck_assert_uint_eq(a.done, 1);
	ck_assert_int_eq(a.read.result, 0);
	ck_assert_mem_eq(a.read.data, bytes + 100, 3000);
	/* mistakes end as well */
	submit(s, segment, 8000, 3000, buf, &a);
	ck_assert_uint_eq(a.done, 1);
	ck_assert_int_eq(a.read.result, -EINVAL);
	submit(s, segment, 0, 30, buf + 1, &a);
	ck_assert_int_eq(a.read.result, -EINVAL);
	/* held, released; cancelled */
	store_faulty_add(s, &(struct faulty_rule){ .call = FAULTY_READ, .kind = FAULTY_HOLD });
	submit(s, segment, 0, 4096, buf, &a);
	submit(s, segment, 4096, 4096, buf2, &b);
	store_get_stats(s, &st);
	ck_assert_uint_eq(st.reads_pending, 2);
	ck_assert_uint_eq(store_faulty_held(s), 2);
	ck_assert_uint_eq(a.done + b.done, 0);
	store_read_cancel(s, &a.read);
	ck_assert_uint_eq(a.done, 1);
	ck_assert_int_eq(a.read.result, -ECANCELED);
	usleep(200000);
	ck_assert_uint_eq(store_faulty_release(s), 1);
	ck_assert_uint_eq(a.done, 1);
	ck_assert_uint_eq(b.done, 1);
	ck_assert_int_eq(b.read.result, 0);
	ck_assert_mem_eq(b.read.data, bytes + 4096, 4096);
	store_get_stats(s, &st);
	ck_assert_uint_eq(st.reads_pending, 0);
	ck_assert_uint_eq(st.error_total[STORE_ERROR_MISUSE], 2);
	ck_assert_uint_eq(st.error_total[STORE_ERROR_TIMEOUT], 1);
	ck_assert_uint_eq(st.read.count, 2);
	/* what it waited for is to be seen */
	ck_assert_uint_ge(store_latency_quantile_ns(&st.read, 1), 200000000);
	ck_assert_uint_ge(st.read.total_ns, 200000000);
	ck_assert_uint_ge(store_latency_quantile_ns(&st.read, 1), store_latency_quantile_ns(&st.read, 0.5));
	ck_assert_uint_gt(store_latency_quantile_ns(&st.read, 0.5), 0);
	store_close(s);
}
END_TEST

START_TEST(test_faults_by_rule)
{
	static _Alignas(4096) unsigned char buf[STORE_READ_ROOM(8192)];
	struct store *s = store_faulty_new(store_memory_new(2 * STORE_SEGMENT), false);
	struct waiting_read a;
	struct store_stats st;
	uint32_t segment;

	store_faulty_add(s, &(struct faulty_rule){ FAULTY_SEGMENT_NEW, FAULTY_ERROR, -EROFS, 0, 1 });
	ck_assert_int_eq(store_segment_new(s, &segment), -EROFS);
	ck_assert_int_eq(store_segment_new(s, &segment), 0);
	store_faulty_add(s, &(struct faulty_rule){ FAULTY_WRITE, FAULTY_LANDED, -ETIMEDOUT, 1, 1 });
	ck_assert_int_eq(store_write(s, segment, 0, bytes, 4096), 0);
	ck_assert_int_eq(store_write(s, segment, 4096, bytes, 4096), -ETIMEDOUT);
	/* what has landed is not to be seen before the same bytes came again */
	ck_assert_int_eq(store_read(s, segment, 4096, buf, 10), -EINVAL);
	ck_assert_int_eq(store_write(s, segment, 4096, bytes, 4096), 0);
	ck_assert_int_eq(store_read(s, segment, 4096, buf, 10), 0);
	store_faulty_add(s, &(struct faulty_rule){ FAULTY_READ, FAULTY_SHORT, 0, 0, 1 });
	store_faulty_add(s, &(struct faulty_rule){ FAULTY_READ, FAULTY_FLIP, 0, 0, 1 });
	store_faulty_add(s, &(struct faulty_rule){ FAULTY_READ, FAULTY_ERROR, -EIO, 0, 2 });
	submit(s, segment, 0, 100, buf, &a);
	ck_assert_int_eq(a.read.result, -ENODATA);
	submit(s, segment, 0, 100, buf, &a);
	ck_assert_int_eq(a.read.result, 0);
	ck_assert_mem_ne(a.read.data, bytes, 100);
	ck_assert_int_eq(store_read(s, segment, 0, buf, 100), -EIO);
	submit(s, segment, 0, 100, buf, &a);
	ck_assert_int_eq(a.read.result, -EIO);
	submit(s, segment, 0, 100, buf, &a);
	ck_assert_mem_eq(a.read.data, bytes, 100);
	store_get_stats(s, &st);
	ck_assert_uint_eq(st.error_total[STORE_ERROR_IO], 2);
	ck_assert_uint_eq(st.error_total[STORE_ERROR_MISSING], 1);
	ck_assert_uint_eq(st.error_total[STORE_ERROR_ACCESS], 1);
	ck_assert_uint_eq(st.error_total[STORE_ERROR_TIMEOUT], 1);
	ck_assert_str_eq(store_error_name(STORE_ERROR_TIMEOUT), "timeout");
	store_close(s);
}
END_TEST

/* ---- threads ---- */

static void *churn(void *arg)
{
	unsigned char fill = (unsigned char)(uintptr_t)arg;
	unsigned char buf[1000], back[1000];

	memset(buf, fill, sizeof(buf));
	for (unsigned round = 0; round < 300; round++) {
		uint32_t segment;

		if (store_segment_new(store, &segment))
			continue;
		for (size_t at = 0; at < 80000; at += sizeof(buf))
			if (store_write(store, segment, at, buf, sizeof(buf)) ||
			    store_read(store, segment, at, back, sizeof(back)) ||
			    memcmp(buf, back, sizeof(buf)))
				return arg;
		store_segment_free(store, segment);
	}
	return NULL;
}

START_TEST(test_threads)
{
	pthread_t thread[5];
	void *failed;

	for (uintptr_t i = 0; i < ARRAY_SIZE(thread); i++)
		ck_assert_int_eq(pthread_create(&thread[i], NULL, churn, (void *)(i + 1)), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(thread); i++) {
		pthread_join(thread[i], &failed);
		ck_assert_ptr_null(failed);
	}
	ck_assert_uint_eq(stats().segments, 0);
	ck_assert_uint_eq(stats().used_bytes, 0);
	ck_assert_uint_eq(stats().errors_total, 0);
}
END_TEST

/* ---- Store= ---- */

static uint64_t capacity_of(const char *spec)
{
	const char *error = NULL;
	struct store *s = store_open(spec, &error);
	struct store_stats st;

	ck_assert_msg(s != NULL, "%s: %s", spec, error);
	store_get_stats(s, &st);
	store_close(s);
	return st.capacity_bytes;
}

START_TEST(test_spec)
{
	uint64_t ram = (uint64_t)sysconf(_SC_PHYS_PAGES) * PAGE_BYTES;

	ck_assert_uint_eq(capacity_of("memory:8M"), (uint64_t)8 << 20);
	ck_assert_uint_eq(capacity_of("memory:8192k"), (uint64_t)8 << 20);
	ck_assert_uint_eq(capacity_of("memory:8388608"), (uint64_t)8 << 20);
	ck_assert_uint_eq(capacity_of("memory:3G"), (uint64_t)3 << 30);
	/* more is more than the thread sanitizer has address space for */
	ck_assert_uint_eq(capacity_of("memory:0.25T"), (uint64_t)1 << 38);
	ck_assert_uint_eq(capacity_of("memory:15M"), 3 * STORE_SEGMENT); /* whole ones */
	ck_assert_uint_le(capacity_of("memory:25%"), ram / 4);
	ck_assert_uint_gt(capacity_of("memory:25%"), ram / 4 - 2 * STORE_SEGMENT);
}
END_TEST

START_TEST(test_spec_errors_name_the_bad_part)
{
	static const struct {
		const char *spec, *says;
	} cases[] = {
		{ "", "no store given" },
		{ "memory", "lacks its size" },
		{ "memory:", "lacks its size" },
		{ "memory:abc", "\"abc\" is not a size" },
		{ "memory:12X", "\"12X\"" },
		{ "memory:12MB", "\"12MB\"" },
		{ "memory:-1G", "\"-1G\"" },
		{ "memory: 1G", "\" 1G\"" },
		{ "memory:1G,foo", "\"1G,foo\"" },
		{ "memory:0", "leaves nothing" },
		{ "memory:0%", "leaves nothing" },
		{ "memory:7M", "leaves nothing" },
		{ "memory:101%", "\"101%\"" },
		{ "memory:5T", "too large" },
		{ "memory:99999999999999999999", "is not a size" },
		{ "memory:16777216T", "is not a size" },
		{ "disk:/var/tmp/x", "store \"disk\" is unknown" },
		{ "mem:1G", "\"mem\" is unknown" },
		{ "memoryx:1G", "\"memoryx\" is unknown" },
	};
	struct rados_spec spec;
	const char *error;

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		error = NULL;
		ck_assert_ptr_null(store_open(cases[i].spec, &error));
		ck_assert_ptr_nonnull(error);
		ck_assert_msg(strstr(error, cases[i].says) != NULL, "%s: %s", cases[i].spec, error);
		error = NULL;
		ck_assert(!store_check(cases[i].spec, &error));
		ck_assert_msg(strstr(error, cases[i].says) != NULL, "%s: %s", cases[i].spec, error);
	}
	ck_assert(store_check("memory:8M", NULL));
	ck_assert(store_is_same("file:/a,size=1G", "file:/a//,size=2G,daily=1G"));
	ck_assert(!store_is_same("file:/a,size=1G", "file:/ab,size=1G"));
	ck_assert(!store_is_same("file:/a,size=1G", "rados:/a"));
	ck_assert(store_is_same("rados:p,size=1G,namespace=n", "rados:p,namespace=n,id=client.x"));
	ck_assert(!store_is_same("rados:p", "rados:p,namespace=n"));
	ck_assert(!rados_spec_parse(&spec, "p,size=1G,id=client.x,size=2G", &error));
	ck_assert_msg(strstr(error, "size=2G comes after another") != NULL, "%s", error);
	ck_assert_uint_eq(store_most_bytes("memory:1.5G"), (uint64_t)3 << 29);
	ck_assert_uint_eq(store_most_bytes("file:/a,daily=1G,size=2G"), (uint64_t)2 << 30);
	ck_assert_uint_eq(store_most_bytes("rados:p,size=3T"), (uint64_t)3 << 40);
	ck_assert_ptr_null(store_open("memory:x", NULL));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("store");
	TCase *tc = tcase_create("store");
	SRunner *runner;
	int failures;

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, test_write_read_map);
	tcase_add_test(tc, test_full);
	tcase_add_test(tc, test_INV_8_memory_goes_back);
	tcase_add_test(tc, test_INV_8_large_memory_goes_back);
	tcase_add_test(tc, test_INV_8_expected_memory);
	tcase_add_test(tc, test_kept_by_version_1);
	tcase_add_test(tc, test_freed_reads_as_zeros);
	tcase_add_test(tc, test_mistakes_are_refused);
	tcase_add_test(tc, test_errors_are_forwarded);
	tcase_add_test(tc, test_reads_end_once);
	tcase_add_test(tc, test_faults_by_rule);
	tcase_add_test(tc, test_threads);
	tcase_add_test(tc, test_spec);
	tcase_add_test(tc, test_spec_errors_name_the_bad_part);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	failures = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
