/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * exec_verify [ROUNDS]: ends and new beginnings of programs whose pages have
 * left: chains of exec, from threads too; failed exec; exit by main, by another
 * thread, by the last thread; killed, aborted, crashed; descriptors closed,
 * other user, not dumpable. Exit statuses are what they should be, pipes end.
 */
#include "workload.h"

#include <poll.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#define PAGES 384
#define CHAIN 4
#define SELF "/proc/self/exe"

static unsigned char *area;

static void fill_and_leave(uint64_t seed)
{
	area = wl_map(PAGES);
	wl_fill(area, PAGES, seed);
	wl_try_evicted(area, PAGES, WL_EVICT_SHARE, 0.5);
}

static void exec_self(const char *what, unsigned left)
{
	char mode[32], number[32];
	char name[] = "exec_verify";
	char *argv[] = { name, mode, number, NULL };

	snprintf(mode, sizeof(mode), "--%s", what);
	snprintf(number, sizeof(number), "%u", left);
	execv(SELF, argv);
	wl_fail("exec: %s", strerror(errno));
}

static void *exec_from_thread(void *arg)
{
	exec_self("chain", (unsigned)(uintptr_t)arg);
	return NULL;
}

static void *pause_for_ever(void *arg)
{
	for (;;)
		wl_sleep_ms(1000);
	return arg;
}

/* One link: known pid, own memory, then the next one, every other from a thread. */
static int link_of_chain(unsigned left)
{
	pthread_t thread;

	fill_and_leave(left);
	wl_verify("link of a chain", area, PAGES, left);
	if (!left)
		return 42;
	wl_try_evicted(area, PAGES, WL_EVICT_SHARE, 0.3);
	if (left % 2)
		exec_self("chain", left - 1);
	pthread_create(&thread, NULL, pause_for_ever, NULL);
	pthread_create(&thread, NULL, exec_from_thread, (void *)(uintptr_t)(left - 1));
	pause_for_ever(NULL);
	return 1;
}

static void end_chain(void)
{
	exec_self("chain", CHAIN);
}

static void end_failed_exec(void)
{
	char name[] = "nothing";
	char *argv[] = { name, NULL };

	fill_and_leave(1);
	WL_CHECK(execv("/nonexistent/program", argv) < 0 && errno == ENOENT, "exec of nothing");
	WL_CHECK(execv("/proc/self/maps", argv) < 0, "exec of a text");
	wl_verify("after a failed exec", area, PAGES, 1);
	exit(42);
}

static void *verify_for_ever(void *arg)
{
	for (;;)
		wl_verify("beside an end", area, PAGES, (uint64_t)(uintptr_t)arg);
	return NULL;
}

static void *end_process(void *arg)
{
	wl_sleep_ms(20);
	exit((int)(uintptr_t)arg);
}

static void *verify_once(void *arg)
{
	wl_sleep_ms(50);
	wl_verify("last thread", area, PAGES, (uint64_t)(uintptr_t)arg);
	return NULL;
}

static void start(void *(*run)(void *), uintptr_t arg)
{
	pthread_t thread;

	WL_CHECK(!pthread_create(&thread, NULL, run, (void *)arg), "pthread_create");
}

static void end_from_thread(void)
{
	fill_and_leave(2);
	start(verify_for_ever, 2);
	start(end_process, 42);
	pause_for_ever(NULL);
}

static void end_last_thread(void)
{
	fill_and_leave(3);
	start(verify_once, 3);
	pthread_exit(NULL);
}

static void end_at_once(void)
{
	fill_and_leave(4);
	start(verify_for_ever, 4);
	start(verify_for_ever, 4);
	wl_sleep_ms(20);
	_exit(42);
}

static void end_killed(void)
{
	fill_and_leave(5);
	start(verify_for_ever, 5);
	kill(getpid(), SIGKILL);
	pause_for_ever(NULL);
}

static void no_core(void)
{
	struct rlimit none = { 0, 0 };

	setrlimit(RLIMIT_CORE, &none);
}

static void end_aborted(void)
{
	no_core();
	fill_and_leave(6);
	abort();
}

static void end_crashed(void)
{
	no_core();
	fill_and_leave(7);
	WL_OK(mprotect(area, WL_PAGE, PROT_READ));
	*(volatile unsigned char *)area = 1;
}

static void end_descriptors_closed(void)
{
	WL_OK(syscall(SYS_close_range, 3, ~0u, 0));
	fill_and_leave(8);
	WL_OK(syscall(SYS_close_range, 3, ~0u, 0));
	wl_verify("all descriptors closed", area, PAGES, 8);
	wl_try_evicted(area, PAGES, WL_EVICT_SHARE, 0.3);
	wl_verify("all descriptors closed, later", area, PAGES, 8);
	exit(42);
}

static void end_other_user(void)
{
	fill_and_leave(9);
	if (!getuid()) {
		WL_OK(setresgid(65534, 65534, 65534));
		WL_OK(setresuid(65534, 65534, 65534));
	}
	wl_verify("as another user", area, PAGES, 9);
	WL_OK(prctl(PR_SET_DUMPABLE, 0));
	wl_sleep_ms(wl_evicting() ? 200 : 0);
	wl_verify("not dumpable", area, PAGES, 9);
	exit(42);
}

static const struct ending {
	const char *name;
	void (*run)(void);
	int status; /* wait status */
} endings[] = {
	{ "exec chain", end_chain, WL_EXITED(42) },
	{ "failed exec", end_failed_exec, WL_EXITED(42) },
	{ "exit from a thread", end_from_thread, WL_EXITED(42) },
	{ "last thread ends", end_last_thread, WL_EXITED(0) },
	{ "_exit beside threads", end_at_once, WL_EXITED(42) },
	{ "killed", end_killed, SIGKILL },
	{ "aborted", end_aborted, SIGABRT },
	{ "crashed", end_crashed, SIGSEGV },
	{ "descriptors closed", end_descriptors_closed, WL_EXITED(42) },
	{ "other user", end_other_user, WL_EXITED(42) },
};
#define ENDINGS (sizeof(endings) / sizeof(endings[0]))

/* Both as a fork child and as a program started anew; its pipe must end. */
static void run(size_t n, bool anew)
{
	struct pollfd end;
	int fd[2];
	pid_t pid;

	WL_OK(pipe2(fd, 0));
	pid = (pid_t)WL_OK(fork());
	if (!pid) {
		close(fd[0]);
		if (anew)
			exec_self("ending", (unsigned)n);
		endings[n].run();
		wl_fail("%s: still here", endings[n].name);
	}
	close(fd[1]);
	wl_reap(endings[n].name, pid, endings[n].status);
	end.fd = fd[0];
	end.events = POLLIN;
	WL_CHECK(poll(&end, 1, 30000) == 1 && end.revents == POLLHUP,
		 "%s: its pipe has not ended (somebody still holds it)", endings[n].name);
	close(fd[0]);
	errno = 0;
	WL_CHECK(waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD, "%s: a child is left",
		 endings[n].name);
}

/* A daemon outlives its parent and reports through a pipe. */
static void daemonize(void)
{
	int fd[2];
	char answer = 0;
	pid_t pid;

	WL_OK(pipe2(fd, O_CLOEXEC));
	pid = (pid_t)WL_OK(fork());
	if (!pid) {
		fill_and_leave(20);
		WL_OK(setsid());
		pid = (pid_t)WL_OK(fork());
		if (pid)
			_exit(0);
		wl_sleep_ms(50);
		wl_verify("daemon", area, PAGES, 20);
		WL_CHECK(write(fd[1], "d", 1) == 1, "write");
		_exit(0);
	}
	close(fd[1]);
	wl_reap("parent of a daemon", pid, WL_EXITED(0));
	WL_CHECK(read(fd[0], &answer, 1) == 1 && answer == 'd', "the daemon has not answered");
	WL_CHECK(read(fd[0], &answer, 1) == 0, "the daemon's pipe has not ended");
	close(fd[0]);
}

int main(int argc, char **argv)
{
	unsigned rounds, round;
	size_t n;

	if (argc == 3 && !strcmp(argv[1], "--chain"))
		return link_of_chain((unsigned)wl_arg(argc, argv, 2, 0));
	if (argc == 3 && !strcmp(argv[1], "--ending")) {
		endings[(size_t)wl_arg(argc, argv, 2, 0)].run();
		wl_fail("still here");
	}
	rounds = (unsigned)wl_arg(argc, argv, 1, 1);
	fill_and_leave(30);
	for (round = 0; round < rounds; round++) {
		for (n = 0; n < ENDINGS; n++) {
			run(n, false);
			run(n, true);
		}
		daemonize();
	}
	wl_verify("first process", area, PAGES, 30);
	wl_say("%zu kinds of ends in %u rounds: statuses, pipes and contents right", ENDINGS + 1,
	       rounds);
	return 0;
}
