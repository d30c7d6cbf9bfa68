/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * rados_bare CONF POOL: librados and nothing else, to compare with. For every
 * line on standard input:
 *	read LEN N	N reads of LEN bytes at random places in 16 objects of
 *			4 MiB, one after the other: "p50 p99 mean N", ns
 *	write N		N new objects of 4 MiB, four at a time: "ns 0 0 bytes"; and
 *			removes them, outside of that time
 *	quit		removes what it has written, and ends
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "backends/rados_library.h"
#include "bench/touch.h"

#define OBJECT ((size_t)4 << 20)
#define OBJECTS 16
#define DEPTH 4
#define READS_MAX 100000

static const struct rados_library *lib;
static rados_t cluster;
static rados_ioctx_t io;
static char *bytes;
static unsigned written; /* objects */

static void need(int r, const char *what)
{
	if (r >= 0)
		return;
	fprintf(stderr, "rados_bare: %s: %s\n", what, strerror(-r));
	exit(1);
}

static const char *name_of(unsigned i)
{
	static char name[32];

	snprintf(name, sizeof(name), "bare.%u", i);
	return name;
}

static uint64_t write_objects(unsigned n)
{
	uint64_t begin = touch_now();
	void *completion[DEPTH] = { NULL };

	for (unsigned i = 0; i < n + DEPTH; i++) {
		void **c = &completion[i % DEPTH];
		rados_write_op_t op;

		if (*c) {
			while (!lib->rados_aio_is_complete(*c))
				lib->rados_aio_wait_for_complete(*c);
			need(lib->rados_aio_get_return_value(*c), "write");
			lib->rados_aio_release(*c);
			*c = NULL;
		}
		if (i >= n)
			continue;
		need(lib->rados_aio_create_completion2(NULL, NULL, c), "completion");
		op = lib->rados_create_write_op();
		lib->rados_write_op_write(op, bytes, OBJECT, 0);
		need(lib->rados_aio_write_op_operate(op, io, *c, name_of(written++), NULL, 0), "write");
		lib->rados_release_write_op(op);
	}
	return touch_now() - begin;
}

static void remove_objects(unsigned down_to)
{
	while (written > down_to)
		lib->rados_remove(io, name_of(--written));
}

static void read_ranges(size_t len, size_t n)
{
	static uint64_t ns[READS_MAX], rng = 7;
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++) {
		uint64_t at, begin;

		rng = rng * 6364136223846793005 + 1442695040888963407;
		at = (rng >> 20) % (OBJECT - len);
		begin = touch_now();
		need(lib->rados_read(io, name_of(rng >> 60), bytes, len, at), "read");
		ns[i] = touch_now() - begin;
		sum += ns[i];
	}
	qsort(ns, n, sizeof(ns[0]), touch_compare);
	printf("%" PRIu64 " %" PRIu64 " %" PRIu64 " %zu\n", ns[n / 2], ns[n * 99 / 100], sum / n, n);
}

int main(int argc, char *argv[])
{
	const char *error = NULL;
	char line[64];
	size_t len, n;

	lib = argc == 3 ? rados_library_load(&error) : NULL;
	if (!lib) {
		fprintf(stderr, "rados_bare: %s\n", error ? error : "rados_bare CONF POOL");
		return 2;
	}
	bytes = malloc(OBJECT);
	for (size_t i = 0; i < OBJECT; i++)
		bytes[i] = (char)(i * i >> 7);
	need(lib->rados_create2(&cluster, "ceph", "client.admin", 0), "create");
	need(lib->rados_conf_read_file(cluster, argv[1]), argv[1]);
	need(lib->rados_connect(cluster), "connect");
	need(lib->rados_ioctx_create(cluster, argv[2], &io), argv[2]);
	setvbuf(stdout, NULL, _IOLBF, 0);
	(void)write_objects(OBJECTS);
	printf("ready %d\n", (int)getpid());
	while (fgets(line, sizeof(line), stdin) && strcmp(line, "quit\n")) {
		if (sscanf(line, "read %zu %zu", &len, &n) == 2 && len < OBJECT && n && n < READS_MAX)
			read_ranges(len, n);
		else if (sscanf(line, "write %zu", &n) == 1 && n) {
			uint64_t ns = write_objects((unsigned)n);

			remove_objects(OBJECTS);
			printf("%" PRIu64 " 0 0 %zu\n", ns, n * OBJECT);
		} else {
			break;
		}
	}
	remove_objects(0);
	lib->rados_ioctx_destroy(io);
	lib->rados_shutdown(cluster);
	return 0;
}
