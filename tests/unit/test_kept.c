/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Memory that outlives the process that wrote it. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/kept.h"
#include "common/layout.h"
#include "common/log.h"
#include "common/util.h"

#define BYTES ((size_t)1 << 30)

static uint64_t blocks(const struct kept *k)
{
	struct stat st;

	ck_assert_int_eq(fstat(k->fd, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

START_TEST(test_plain_without_directory)
{
	struct kept a, b;

	ck_assert_int_eq(kept_open(&a, "one", BYTES, 1), 0);
	ck_assert(!a.found && a.bytes == BYTES && a.own);
	ck_assert_int_eq(kept_back(&a, 0, PAGE_BYTES), 0);
	memset(a.base, 7, PAGE_BYTES);
	ck_assert_int_eq(kept_open(&b, "one", BYTES, 1), 0);
	ck_assert(!b.found);
	ck_assert_int_eq(*(char *)b.own, 0);
	kept_close(&a);
	ck_assert_int_eq(a.fd, -1);
	kept_close(&b);
}
END_TEST

START_TEST(test_memory_is_taken_and_given_back)
{
	struct kept k;

	ck_assert_int_eq(kept_open(&k, "m", BYTES, 1), 0);
	ck_assert_uint_eq(blocks(&k), PAGE_BYTES);
	ck_assert_int_eq(kept_back(&k, 8 * PAGE_BYTES, 4 * PAGE_BYTES), 0);
	ck_assert_uint_eq(blocks(&k), 5 * PAGE_BYTES);
	memset((char *)k.base + 8 * PAGE_BYTES, 7, 4 * PAGE_BYTES);
	kept_give_back(&k, 9 * PAGE_BYTES, PAGE_BYTES);
	ck_assert_uint_eq(blocks(&k), 4 * PAGE_BYTES);
	ck_assert_int_eq(((char *)k.base)[9 * PAGE_BYTES], 0);
	ck_assert_int_eq(((char *)k.base)[10 * PAGE_BYTES], 7);
	kept_close(&k);
}
END_TEST

/* A child that inherits our descriptors is as good as one that shares them,
   since the parent makes the file. */
START_TEST(test_found_by_the_next)
{
	struct kept_directory *dir = kept_directory_new();
	struct kept k;
	pid_t pid;
	int status;

	ck_assert_ptr_nonnull(dir);
	kept_use(dir);
	ck_assert_int_eq(kept_open(&k, "slots0", BYTES, 3), 0);
	ck_assert(!k.found);
	kept_close(&k); /* stays */
	pid = fork();
	if (pid == 0) {
		if (kept_open(&k, "slots0", BYTES, 3) || !k.found || kept_back(&k, 0, PAGE_BYTES))
			_exit(1);
		strcpy(k.base, "written by one that was killed");
		memcpy(k.own, "own", 4);
		kill(getpid(), SIGKILL);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFSIGNALED(status));
	ck_assert_int_eq(kept_open(&k, "slots0", BYTES * 2, 3), 0);
	ck_assert(k.found);
	ck_assert_uint_eq(k.bytes, BYTES * 2); /* has grown */
	ck_assert_str_eq(k.base, "written by one that was killed");
	ck_assert_str_eq(k.own, "own");
	kept_close(&k);
	ck_assert_int_eq(kept_open(&k, "slots0", BYTES, 3), 0);
	ck_assert_uint_eq(k.bytes, BYTES * 2); /* never shrinks */
	kept_close(&k);
}
END_TEST

START_TEST(test_another_version_is_refused)
{
	struct kept k;

	kept_use(kept_directory_new());
	ck_assert_uint_eq(kept_version("v"), 0);
	ck_assert_int_eq(kept_open(&k, "v", BYTES, 2), 0);
	kept_close(&k);
	ck_assert_uint_eq(kept_version("v"), 2);
	ck_assert_int_eq(kept_open(&k, "v", BYTES, 1), -ENOTSUP);
	ck_assert_int_eq(k.fd, -1);
	ck_assert_ptr_null(k.base);
	ck_assert_int_eq(kept_open(&k, "v", BYTES, 2), 0); /* still there */
	ck_assert(k.found);
}
END_TEST

START_TEST(test_what_is_no_file_of_ours_is_refused)
{
	int fd = memfd_create("other", MFD_CLOEXEC);
	char page[PAGE_BYTES] = "something";
	struct kept k;

	kept_use(kept_directory_new());
	ck_assert_int_eq(kept_set_fd("x", fd), 0);
	ck_assert_int_eq(kept_open(&k, "x", BYTES, 1), -EBADMSG);
	ck_assert_int_eq(write(fd, page, sizeof(page)), sizeof(page));
	ck_assert_int_eq(kept_open(&k, "x", BYTES, 1), -EBADMSG);
	/* another file of ours under a wrong name */
	kept_forget_fd("x");
	ck_assert_int_eq(kept_open(&k, "y", BYTES, 1), 0);
	ck_assert_int_eq(kept_set_fd("x", k.fd), 0);
	kept_close(&k);
	ck_assert_int_eq(kept_open(&k, "x", BYTES, 1), -EBADMSG);
}
END_TEST

static void keep(const char *name, uint32_t version)
{
	struct kept k;

	ck_assert_int_eq(kept_open(&k, name, PAGE_BYTES, version), 0);
	kept_close(&k);
}

START_TEST(test_whose_layout_is_not_known)
{
	static const struct {
		const char *name;
		uint32_t version;
		const char *said; /* NULL: it is known */
	} cases[] = {
		{ "sessions", LAYOUT_SESSIONS, NULL },
		{ "sessions", LAYOUT_SESSIONS_OLDEST, NULL },
		{ "sessions", LAYOUT_SESSIONS_OLDEST - 1, "agent too old for this one" },
		{ "sessions", LAYOUT_SESSIONS + 1, "newer agent" },
		{ "slots15", LAYOUT_SLOTS, NULL },
		{ "slots15", LAYOUT_SLOTS + 1, "newer agent" },
		{ "rados.00ff", LAYOUT_OBJECTS, NULL },
		{ "slotsfuture", LAYOUT_SLOTS, "newer agent" }, /* what it is only a newer one knows */
		{ "future", 1, "newer agent" },
	};
	char message[LAYOUT_MESSAGE];

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		kept_use(kept_directory_new());
		ck_assert_int_eq(layout_check(message), 0);
		ck_assert_int_eq(kept_set_fd("attach", 0), 0); /* a socket or the like */
		keep("blobs", LAYOUT_BLOBS);
		keep(cases[i].name, cases[i].version);
		ck_assert_int_eq(layout_check(message), cases[i].said ? -ENOTSUP : 0);
		ck_assert(!cases[i].said || (strstr(message, cases[i].said) && strstr(message, cases[i].name)));
		/* and it has not been touched */
		ck_assert_uint_eq(kept_version(cases[i].name), cases[i].version);
	}
}
END_TEST

START_TEST(test_directory)
{
	const char *name;
	char text[KEPT_NAME];

	kept_use(NULL);
	ck_assert(!kept_has_directory());
	ck_assert_int_eq(kept_fd("a"), -1);
	ck_assert_int_eq(kept_set_fd("a", 1), 0);
	kept_use(kept_directory_new());
	ck_assert(kept_has_directory());
	ck_assert_int_eq(kept_nth_fd(0, &name), -1);
	ck_assert_int_eq(kept_set_fd("a", 0), 0);
	ck_assert_int_eq(kept_set_fd("b", 2), 0);
	ck_assert_int_eq(kept_set_fd("a", 1), 0);
	ck_assert_int_eq(kept_fd("a"), 1);
	ck_assert_int_eq(kept_nth_fd(1, &name), 2);
	ck_assert_str_eq(name, "b");
	ck_assert_int_eq(kept_nth_fd(2, &name), -1);
	kept_forget_fd("a");
	ck_assert_int_eq(kept_fd("a"), -1);
	ck_assert_int_eq(kept_nth_fd(0, &name), 2);
	for (unsigned i = 1; i < KEPT_FILES; i++) {
		snprintf(text, sizeof(text), "n%u", i);
		ck_assert_int_eq(kept_set_fd(text, 1), 0);
	}
	ck_assert_int_eq(kept_set_fd("one too many", 1), -ENOSPC);
	ck_assert_int_eq(kept_set_fd("b", 3), 0);
}
END_TEST

/* The log has no test of its own: what a program calls itself stays in its line. */
START_TEST(test_a_log_line_is_text)
{
	char line[64];
	int ends[2];
	ssize_t n;

	unsetenv("JOURNAL_STREAM");
	ck_assert_int_eq(pipe(ends), 0);
	ck_assert_int_eq(dup2(ends[1], STDERR_FILENO), STDERR_FILENO);
	log_write(LOG_LEVEL_ERR, "(%s)", "a\033[2J\nb\x7f\xc3\xa4");
	n = read(ends[0], line, sizeof(line) - 1);
	ck_assert_int_gt(n, 0);
	line[n] = '\0';
	ck_assert_str_eq(line, "uswap-agent: (a?[2J?b?\xc3\xa4)\n");
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("kept");
	TCase *tc = tcase_create("all");
	SRunner *runner;
	int failed;

	tcase_add_test(tc, test_plain_without_directory);
	tcase_add_test(tc, test_memory_is_taken_and_given_back);
	tcase_add_test(tc, test_found_by_the_next);
	tcase_add_test(tc, test_another_version_is_refused);
	tcase_add_test(tc, test_what_is_no_file_of_ours_is_refused);
	tcase_add_test(tc, test_whose_layout_is_not_known);
	tcase_add_test(tc, test_directory);
	tcase_add_test(tc, test_a_log_line_is_text);
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
