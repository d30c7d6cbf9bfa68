/* SPDX-License-Identifier: GPL-2.0-or-later */
/* proc: sets of ranges against a model, and packets of a hostile peer. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "common/util.h"
#include "proc/gate.h"
#include "proc/handshake.h"
#include "proc/mappings.h"
#include "proc/quiet.h"
#include "proc/ranges.h"
#include "proc/session.h"
#include "sys/cgroup.h"
#include "sys/pagemap.h"

#define PAGES 96

static void compare(const struct ranges *set, const bool *model)
{
	unsigned wrong = 0, touching = 0; /* an assertion each would take seconds */
	uint64_t bytes = 0;

	for (unsigned i = 0; i < PAGES; i++) {
		wrong += (ranges_find(set, i * PAGE_BYTES) != NULL) != model[i];
		bytes += model[i] * PAGE_BYTES;
	}
	for (size_t i = 1; i < set->nr; i++) /* disjoint, not even adjacent */
		touching += set->v[i - 1].end >= set->v[i].start;
	ck_assert_msg(!wrong && !touching && ranges_bytes(set) == bytes,
		      "%u pages wrong, %u ranges touch, %llu bytes instead of %llu", wrong, touching,
		      (unsigned long long)ranges_bytes(set), (unsigned long long)bytes);
}

/* What is locked is known at once, not at the next look at the mappings. */
START_TEST(test_locked_bytes)
{
	struct session *s = session_new(1, 0);
	void *page = mmap(NULL, 4 * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t before;

	ck_assert(s && page != MAP_FAILED);
	ck_assert_uint_eq(session_read_locked(s, NULL), 0); /* no process yet */
	s->pid = getpid();
	before = session_read_locked(s, NULL);
	/* sanitizers make mlock() do nothing */
	ck_assert_int_eq(syscall(SYS_mlock, page, 4 * PAGE_BYTES), 0);
	ck_assert_uint_eq(session_read_locked(s, NULL), before + 4 * PAGE_BYTES);
	munmap(page, 4 * PAGE_BYTES);
	ck_assert_uint_eq(session_read_locked(s, NULL), before);
	session_free(s);
}
END_TEST

/* One user of the four is another's: it is seen. */
START_TEST(test_changed_user)
{
	struct session *s = session_new(1, getuid());
	bool changed;
	uid_t uid;

	s->pid = getpid();
	(void)session_read_locked(s, &changed);
	ck_assert(!changed);
	ck_assert_int_eq(session_read_user(s, &uid), 0);
	ck_assert_uint_eq(uid, geteuid());
	s->uid = getuid() + 1;
	(void)session_read_locked(s, &changed);
	ck_assert(changed);
	if (getuid() == 0) { /* in a child of Check's: nobody else is affected */
		s->uid = 0;
		ck_assert_int_eq(setresuid(0, 65534, 0), 0);
		(void)session_read_locked(s, &changed);
		ck_assert(changed);
		ck_assert_int_eq(setresuid(0, 0, 0), 0);
	}
	session_free(s);
}
END_TEST

START_TEST(test_ranges_against_model)
{
	struct ranges set = { 0 }, copy = { 0 };
	bool model[PAGES] = { false };

	srand(7);
	for (int round = 0; round < 20000; round++) {
		unsigned a = (unsigned)rand() % PAGES, b = a + (unsigned)rand() % (PAGES - a);
		bool add = rand() & 1;

		if (add)
			ck_assert_int_eq(ranges_add(&set, a * PAGE_BYTES, b * PAGE_BYTES), 0);
		else
			ck_assert_int_eq(ranges_remove(&set, a * PAGE_BYTES, b * PAGE_BYTES), 0);
		for (unsigned i = a; i < b; i++)
			model[i] = add;
		compare(&set, model);
		if (a < b)
			ck_assert_int_eq(ranges_cover(&set, a * PAGE_BYTES, b * PAGE_BYTES),
					 memchr(&model[a], 0, b - a) == NULL);
	}
	ck_assert_int_eq(ranges_copy(&copy, &set), 0);
	compare(&copy, model);
	ranges_deinit(&copy);
	ranges_deinit(&set);
}
END_TEST

static struct wire_attach good_attach(void)
{
	struct wire_attach m = {
		.head = { WIRE_MAGIC, WIRE_VERSION, WIRE_ATTACH },
		.transit = 0x7f0000100000,
		.identity = 0x7f0000200000,
		.nr_never = 2,
		.never = { { 0x7f0000100000, 0x7f0000200000 }, { 0x7f0000200000, 0x7f0000201000 } },
	};

	return m;
}

START_TEST(test_attach_good)
{
	struct wire_attach m = good_attach();

	ck_assert(handshake_is_attach(&m, sizeof(m)));
}
END_TEST

START_TEST(test_attach_hostile)
{
	struct wire_attach m;

#define REFUSED(change)                                                  \
	do {                                                             \
		m = good_attach();                                       \
		change;                                                  \
		ck_assert_msg(!handshake_is_attach(&m, sizeof(m)), #change); \
	} while (0)
	REFUSED(m.head.magic++);
	REFUSED(m.head.version++);
	REFUSED(m.head.type = WIRE_HELLO);
	REFUSED(m.nr_never = WIRE_NEVER_MAX + 1);
	REFUSED(m.nr_never = UINT32_MAX);
	REFUSED(m.nr_never = 1);
	REFUSED(m.transit += 1);
	REFUSED(m.transit += WIRE_PAGE);
	REFUSED(m.transit = UINT64_MAX - WIRE_PAGE + 1);
	REFUSED(m.transit = 0);
	REFUSED(m.identity += 8);
	REFUSED(m.identity = UINT64_MAX);
	REFUSED(m.identity = 0x7f0000300000);
	REFUSED(m.never[0].end = m.never[0].start);
	REFUSED(m.never[0].start = m.never[0].end + WIRE_PAGE);
	REFUSED(m.never[1].end = UINT64_MAX);
	REFUSED(m.never[1].end = (uint64_t)1 << 48);
	m = good_attach();
	for (size_t size = 0; size < sizeof(m); size++)
		ck_assert(!handshake_is_attach(&m, size));
	ck_assert(!handshake_is_attach(&m, sizeof(m) + 1));
}
END_TEST

START_TEST(test_hello)
{
	struct wire_hello m = { .head = { WIRE_MAGIC, WIRE_VERSION, WIRE_HELLO }, .kind = WIRE_NEW };

	ck_assert(handshake_is_hello(&m, sizeof(m)));
	m.head.version = 99; /* answered with "unsupported", so well formed */
	ck_assert(handshake_is_hello(&m, sizeof(m)));
	m.kind = WIRE_AGAIN;
	ck_assert(handshake_is_hello(&m, sizeof(m)));
	m.kind = 4;
	ck_assert(!handshake_is_hello(&m, sizeof(m)));
	m.kind = WIRE_CHILD;
	ck_assert(!handshake_is_hello(&m, sizeof(m) - 1));
	m.head.magic = 0;
	ck_assert(!handshake_is_hello(&m, sizeof(m)));
}
END_TEST

/* INV-2: a mover inside, or nonsense in the word, ends the wait in bounded time
   and leaves the request to be told. */
START_TEST(test_INV_2_gate_gives_up)
{
	struct wire_gate gate = { .word = WIRE_GATE_MOVER };

	ck_assert(!gate_enter(&gate));
	ck_assert_uint_eq(gate.wanted, 1);
	gate.word = 0xdeadbeef;
	ck_assert(!gate_enter(&gate));
	gate.word = WIRE_GATE_FREE;
	ck_assert(gate_enter(&gate));
	ck_assert_uint_eq(gate.word, WIRE_GATE_AGENT);
	gate_leave(&gate);
	ck_assert_uint_eq(gate.word, WIRE_GATE_FREE);
	ck_assert_uint_eq(gate.wanted, 0);
	ck_assert(gate_enter(NULL));
}
END_TEST

START_TEST(test_mappings_of_smaps)
{
	static const char smaps[] =
		"00000000-00010000 rw-p 00000000 00:00 0 \nVmFlags: rd wr mr mw me ac \n"
		"00010000-00020000 rw-p 00000000 00:00 0 \nVmFlags: rd wr mr mw me ac \n"
		"55d000000000-55d000001000 rw-p 00000000 00:00 0   [heap]\nLocked: 0 kB\nVmFlags: rd wr mr mw me ac \n"
		"7f0000000000-7f0000100000 rw-p 00000000 00:00 0 \nVmFlags: rd wr mr mw me ac \n"
		"7f0000100000-7f0000200000 rw-p 00000000 00:00 0 \nLocked: 8 kB\nVmFlags: rd wr mr mw me lo ac \n"
		"7f0000200000-7f0000300000 rw-s 00000000 00:01 99 /dev/zero (deleted)\nVmFlags: rd wr sh ac \n"
		"7f0000300000-7f0000400000 r--p 00000000 00:00 0 \nVmFlags: rd mr mw me ac \n"
		"7f0000400000-7f0000500000 rw-p 00001000 08:01 42 /usr/lib/x.so\nVmFlags: rd wr mr mw me ac \n"
		"7f0000500000-7f0000600000 rw-p 00000000 00:00 0 \nVmFlags: rd wr mr mw me dc ac \n"
		"7f0000600000-7f0000700000 rw-p 00000000 00:00 0 \nVmFlags: rd wr mr mw me dd ac \n"
		"7f0000700000-7f0000800000 rw-p 00000000 00:00 0 \nAnonymous:           0 kB\nVmFlags: rd wr mr mw me wf ac \n"
		"7f0000800000-7f0000900000 rw-p 00000000 00:00 0  [anon:arena]\nVmFlags: rd wr mr mw me ac um \n"
		"7f0000900000-7f0000a00000 rwxp 00000000 00:00 0 \nVmFlags: rd wr ex mr mw me ac \n"
		"7f0000a00000-7f0000b00000 rw-p 00000000 00:00 0 \nVmFlags: rd wr mr mw me ac \n"
		"7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0  [stack]\nVmFlags: rd wr mr mw me gd ac \n";
	const struct wire_range never = { 0x7f0000a80000, 0x7f0000a81000 };
	static const uint64_t want[] = { 0x10000, 0x55d000000000, 0x7f0000000000, 0x7f0000800000 };
	struct ranges flagged = { 0 };
	struct mappings m = { 0 };
	FILE *f = tmpfile();

	ck_assert_uint_eq(fwrite(smaps, 1, sizeof(smaps) - 1, f), sizeof(smaps) - 1);
	fflush(f);
	ck_assert_int_eq(mappings_read(&m, fileno(f), &never, 1), 0);
	ck_assert_uint_eq(m.nr, ARRAY_SIZE(want));
	for (size_t i = 0; i < m.nr; i++)
		ck_assert_uint_eq(m.v[i].start, want[i]);
	ck_assert_uint_eq(m.locked_bytes, 8 << 10);
	ck_assert(!m.is_asked); /* none has "sd": no such kernel */
	ck_assert_ptr_eq(mappings_after(&m, 0x7f0000100000), &m.v[3]);
	ck_assert_ptr_null(mappings_after(&m, 0x7f0000900000));
	ck_assert_int_eq(mappings_read_flagged(fileno(f), "wf", &flagged), 0);
	ck_assert_uint_eq(flagged.nr, 1);
	ck_assert_uint_eq(flagged.v[0].start, 0x7f0000700000);
	ck_assert_uint_eq(flagged.v[0].end, 0x7f0000800000);
	ranges_deinit(&flagged);
	mappings_deinit(&m);
	fclose(f);
}
END_TEST

/* Mappings that differ in nothing but that one is registered. */
START_TEST(test_torn_mappings)
{
#define LINE(start, end, perms, name, flags) \
	start "-" end " " perms " 00000000 00:00 0 " name "\nVmFlags: " flags " \n"
	static const char smaps[] =
		LINE("7f0000000000", "7f0000100000", "rw-p", "", "rd wr mr mw me ac sd")
		LINE("7f0000100000", "7f0000200000", "rw-p", "", "rd wr mr mw me ac um uw")
		LINE("7f0000200000", "7f0000300000", "rw-p", "", "rd wr mr mw me ac sd")
		LINE("7f0000300000", "7f0000400000", "rw-p", "", "rd wr mr mw me ac um uw sd")
		LINE("7f0000400000", "7f0000500000", "r--p", "", "rd mr mw me ac")
		LINE("7f0000500000", "7f0000600000", "rw-p", "", "rd wr mr mw me ac um")
		LINE("7f0000600000", "7f0000700000", "rw-p", "", "rd wr mr mw me ac dd")
		LINE("7f0000800000", "7f0000900000", "rw-p", "", "rd wr mr mw me ac")
		LINE("7f0000a00000", "7f0000b00000", "rw-p", "", "rd wr mr mw me ac")
		LINE("7f0000b00000", "7f0000c00000", "rw-p", "", "rd wr mr mw me ac um")
		LINE("7f0000c00000", "7f0000d00000", "rw-p", "", "rd wr mr mw me lo ac um")
		LINE("7f0000d00000", "7f0000e00000", "rw-p", "", "rd wr mr mw me lo ac");
	const struct wire_range never = { 0x7f0000a80000, 0x7f0000a81000 };
	static const uint64_t want[] = { 0x7f0000000000, 0x7f0000200000, 0x7f0000200000, 0x7f0000d00000 };
	struct mappings m = { 0 };
	FILE *f = tmpfile();

	ck_assert_uint_eq(fwrite(smaps, 1, sizeof(smaps) - 1, f), sizeof(smaps) - 1);
	fflush(f);
	for (unsigned round = 0; round < 2; round++) {
		ck_assert_int_eq(mappings_read(&m, fileno(f), &never, 1), 0);
		ck_assert_uint_eq(m.torn.nr, ARRAY_SIZE(want));
		ck_assert(m.is_asked); /* not all of them have "sd" */
		for (size_t i = 0; i < m.torn.nr; i++) {
			ck_assert_uint_eq(m.torn.v[i].start, want[i]);
			ck_assert_uint_eq(m.torn.v[i].end, want[i] + 0x100000);
		}
	}
	mappings_deinit(&m);
	fclose(f);
}
END_TEST

/* nr mutexes side by side that this thread says it holds, the last leading back to
   the first, or to the end of the list. */
static int read_threads(struct mappings *m, unsigned nr, bool endless)
{
	struct robust_list_head *head = mmap(NULL, 64 * PAGE_BYTES, PROT_READ | PROT_WRITE,
					     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int mem = open("/proc/self/mem", O_RDONLY), tasks = open("/proc/self/task", O_RDONLY | O_DIRECTORY);
	struct robust_list *entry = (struct robust_list *)(head + 1);
	struct mapping map = { (uintptr_t)head, (uintptr_t)head + 64 * PAGE_BYTES };
	struct robust_list_head *old;
	size_t len;
	int r;

	ck_assert(head != MAP_FAILED && mem >= 0 && tasks >= 0 && nr * sizeof(*entry) < 60 * PAGE_BYTES);
	for (unsigned i = 0; i < nr; i++)
		entry[i].next = i + 1 < nr ? &entry[i + 1] : endless ? entry : &head->list;
	head->list.next = entry;
	*m = (struct mappings){ .v = &map, .nr = 1 };
	ck_assert_int_eq(syscall(SYS_get_robust_list, 0, &old, &len), 0);
	ck_assert_int_eq(syscall(SYS_set_robust_list, head, sizeof(*head)), 0);
	r = mappings_read_threads(m, mem, tasks, 0);
	ck_assert_int_eq(syscall(SYS_set_robust_list, old, len), 0);
	munmap(head, 64 * PAGE_BYTES);
	close(mem);
	close(tasks);
	return r;
}

/* The list is the program's: it may be as long as it likes, and without an end. */
START_TEST(test_robust_mutexes_are_bounded)
{
	struct mappings m;

	ck_assert_int_eq(read_threads(&m, MAPPINGS_MUTEXES_MAX, false), 0);
	ck_assert_uint_ge(ranges_bytes(&m.held), MAPPINGS_MUTEXES_MAX * sizeof(struct robust_list));
	ck_assert_uint_eq(m.missing, 0);
	ranges_deinit(&m.held);
	ck_assert_int_eq(read_threads(&m, MAPPINGS_MUTEXES_MAX + 1, false), -E2BIG);
	ranges_deinit(&m.held);
	ck_assert_int_eq(read_threads(&m, 3, true), -E2BIG);
	ranges_deinit(&m.held);
}
END_TEST

static void *sleep_for_ever(void *arg)
{
	for (;;)
		pause();
	return arg;
}

/* Threads that sleep outside of madvise; one look sees all of them. */
START_TEST(test_quiet_threads)
{
	struct quiet quiet = { 0 };
	uint64_t begin = now_ns(), since = 0;
	char path[64];
	pid_t child = fork();
	int tasks;

	if (child == 0) {
		pthread_t thread;

		for (int i = 0; i < 3; i++)
			if (pthread_create(&thread, NULL, sleep_for_ever, NULL))
				_exit(1);
		sleep_for_ever(NULL);
	}
	ck_assert_int_gt(child, 0);
	snprintf(path, sizeof(path), "/proc/%d/task", (int)child);
	tasks = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_ge(tasks, 0);
	while ((since < begin || quiet.nr < 4) && now_ns() - begin < 60000000000ull) {
		usleep(1000); /* until all of them are asleep */
		since = quiet_look(&quiet, tasks);
	}
	ck_assert_uint_ge(since, begin);
	ck_assert_uint_ge(quiet.nr, 4); /* a sanitizer has threads, too */
	kill(child, SIGKILL);
	ck_assert_int_eq(waitpid(child, NULL, 0), child);
	ck_assert_uint_eq(quiet_look(&quiet, tasks), 0);
	close(tasks);
	quiet_deinit(&quiet);
}
END_TEST

static char groups[] = "/tmp/uswap-groups-XXXXXX";

static void make(const char *group)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", groups, group);
	ck_assert_int_eq(mkdir(path, 0700), 0);
}

static void put(const char *name, const char *text)
{
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", groups, name);
	f = fopen(path, "w");

	ck_assert_ptr_nonnull(f);
	ck_assert(fputs(text, f) >= 0 && fclose(f) == 0);
}

/* The outer group is nearer to its limit; files that nobody uses are room. */
START_TEST(test_room_of_groups)
{
	struct cgroup_room room;
	char command[64];

	ck_assert_ptr_nonnull(mkdtemp(groups));
	make("a");
	make("a/b");
	put("a/memory.max", "1000000\n");
	put("a/memory.current", "900000\n");
	put("a/memory.stat", "anon 5\ninactive_file 30000\nactive_file 700000\nunevictable 0\n");
	put("a/b/memory.max", "max\n");
	put("a/b/memory.current", "800000\n");
	ck_assert(cgroup_find_room("0::/a/b\n", groups, &room));
	ck_assert_uint_eq(room.limit, 1000000);
	ck_assert_uint_eq(room.room, 130000);
	ck_assert_uint_eq(room.last, 830000);
	put("a/b/memory.max", "850000\n");
	ck_assert(cgroup_find_room("0::/a/b\n", groups, &room));
	ck_assert_uint_eq(room.limit, 850000);
	ck_assert_uint_eq(room.room, 50000);
	ck_assert_uint_eq(room.last, 50000);
	put("a/memory.max", "880000\n");
	put("a/b/memory.max", "840000\n");
	put("a/b/memory.current", "200000\n");
	ck_assert(cgroup_find_room("0::/a/b\n", groups, &room)); /* nearest by one, last by the other */
	ck_assert_uint_eq(room.room, 10000);
	ck_assert_uint_eq(room.last, 640000);
	ck_assert(!cgroup_find_room("0::/../a\n", groups, &room));
	ck_assert(!cgroup_find_room("0::/\n", groups, &room));
	/* version 1 */
	make("memory");
	make("memory/c");
	put("memory/c/memory.limit_in_bytes", "2000000\n");
	put("memory/c/memory.usage_in_bytes", "2000000\n");
	put("memory/c/memory.stat", "active_file 1\ntotal_inactive_file 100\ntotal_active_file 200\n");
	ck_assert(cgroup_find_room("5:cpu:/x\n4:memory:/c\n0::/\n", groups, &room));
	ck_assert_uint_eq(room.room, 100);
	ck_assert_uint_eq(room.last, 300);
	snprintf(command, sizeof(command), "rm -r %s", groups);
	ck_assert_int_eq(system(command), 0);
}
END_TEST

/* From pages of our own, into neighbours and others, up to what is missing there or
   can't be written here. */
START_TEST(test_pages_are_read)
{
	static const unsigned char to[] = { 0, 1, 2, 5, 7, 6, 10, 11 }; /* 3 and more: not all neighbours */
	const unsigned n = ARRAY_SIZE(to);
	char *from = mmap(NULL, 32 * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *area = from + 16 * PAGE_BYTES;
	int mem = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
	void *pages[8];

	ck_assert(from != MAP_FAILED && mem >= 0);
	for (unsigned i = 0; i < n; i++) {
		memset(from + i * PAGE_BYTES, (int)i + 1, PAGE_BYTES);
		pages[i] = area + to[i] * PAGE_BYTES;
	}
	for (unsigned bad = 0; bad <= n; bad++) { /* none at last */
		char *page = bad < n ? pages[bad] : from;
		int got;

		memset(area, 0, 16 * PAGE_BYTES);
		if (bad < n)
			ck_assert_int_eq(mprotect(page, PAGE_BYTES, PROT_NONE), 0);
		for (unsigned i = 0; i < n; i += (unsigned)got) {
			got = mem_read_pages(mem, (uintptr_t)from + i * PAGE_BYTES, &pages[i], n - i);
			if (i == bad) {
				ck_assert_int_eq(got, -EFAULT);
				got = 1;
				continue;
			}
			ck_assert_int_gt(got, 0);
			ck_assert(i > bad || i + (unsigned)got <= bad);
		}
		ck_assert_int_eq(mprotect(page, PAGE_BYTES, PROT_READ | PROT_WRITE), 0);
		for (unsigned i = 0; i < n; i++) {
			const char *at = pages[i];
			int want = i == bad ? 0 : (int)i + 1;

			ck_assert(at[0] == want && at[PAGE_BYTES - 1] == want);
		}
	}
	ck_assert_int_eq(munmap(from + 2 * PAGE_BYTES, PAGE_BYTES), 0);
	ck_assert_int_eq(mem_read_pages(mem, (uintptr_t)from, pages, n), 2);
	ck_assert_int_eq(mem_read_pages(mem, (uintptr_t)from + 2 * PAGE_BYTES, pages, n - 2), 0);
	close(mem);
	munmap(from, 32 * PAGE_BYTES);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("proc");
	TCase *tc = tcase_create("proc");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, test_quiet_threads);
	tcase_add_test(tc, test_locked_bytes);
	tcase_add_test(tc, test_room_of_groups);
	tcase_add_test(tc, test_changed_user);
	tcase_add_test(tc, test_ranges_against_model);
	tcase_add_test(tc, test_attach_good);
	tcase_add_test(tc, test_attach_hostile);
	tcase_add_test(tc, test_hello);
	tcase_add_test(tc, test_INV_2_gate_gives_up);
	tcase_add_test(tc, test_mappings_of_smaps);
	tcase_add_test(tc, test_torn_mappings);
	tcase_add_test(tc, test_pages_are_read);
	tcase_add_test(tc, test_robust_mutexes_are_bounded);
	suite_add_tcase(suite, tc);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
