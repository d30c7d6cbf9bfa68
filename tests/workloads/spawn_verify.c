/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * spawn_verify [ROUNDS]: processes made in every way but plain fork() (that is
 * fork_verify) by a parent whose pages are away: vfork, posix_spawn, system,
 * popen, clone3, children that share the memory (CLONE_VM), one of which
 * outlives its parent, daemon(3), a main thread that ends alone. Every process
 * sees its right bytes and ends with its status.
 * spawn_verify --crowd N: N fork children alive at once, all right.
 */
#include "workload.h"

#include <linux/sched.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#define PAGES 512
#define STACK_BYTES 65536
#define SEED 11

static unsigned char *area;
static unsigned char first_byte;
static unsigned made;

/* The parent's pages leave before each kind of child. */
static void away(const char *what)
{
	wl_wait_evicted(what, area, PAGES, WL_EVICT_SHARE);
	made++;
}

static void self_args(char **argv, char *mode, char *number)
{
	static char name[] = "spawn_verify";

	argv[0] = name;
	argv[1] = mode;
	argv[2] = number;
	argv[3] = NULL;
}

/* Without a call that would change the parent's stack below us. */
static inline bool content_at_zero(void)
{
	return *(volatile unsigned char *)area == first_byte;
}

/* Until it executes, a vfork child runs in the parent's memory. */
static void by_vfork(void)
{
	char mode[] = "--spawned", number[] = "3", *argv[4];
	pid_t pid;

	self_args(argv, mode, number);
	away("before vfork");
	pid = vfork(); /* NOLINT: what is to be tested */
	WL_CHECK(pid >= 0, "vfork: %s", strerror(errno));
	if (!pid) {
		execve("/proc/self/exe", argv, environ);
		_exit(99);
	}
	wl_reap("vfork and exec", pid, WL_EXITED(3));
	away("before a vfork that only ends");
	pid = vfork();
	WL_CHECK(pid >= 0, "vfork: %s", strerror(errno));
	if (!pid)
		_exit(content_at_zero() ? 4 : 5);
	wl_reap("vfork and _exit", pid, WL_EXITED(4));
	wl_verify("parent of a vfork", area, PAGES, SEED);
}

static void by_spawn(void)
{
	char mode[] = "--spawned", number[] = "7", *argv[4];
	char line[64] = "";
	FILE *pipe;
	pid_t pid;

	self_args(argv, mode, number);
	away("before posix_spawn");
	WL_CHECK(!posix_spawn(&pid, "/proc/self/exe", NULL, NULL, argv, environ), "posix_spawn");
	wl_reap("posix_spawn", pid, WL_EXITED(7));
	away("before system");
	WL_CHECK(system("exit 6") == WL_EXITED(6), "system: wrong status");
	away("before popen");
	pipe = popen("echo from a child; exit 2", "r");
	WL_CHECK(pipe && fgets(line, sizeof(line), pipe) && !strcmp(line, "from a child\n"),
		 "popen: read \"%s\"", line);
	WL_CHECK(pclose(pipe) == WL_EXITED(2), "pclose: wrong status");
	wl_verify("parent of spawned ones", area, PAGES, SEED);
}

static long clone3_plain(void)
{
	struct clone_args args = { .exit_signal = SIGCHLD };

	return syscall(SYS_clone3, &args, sizeof(args));
}

/* By the bare system call: no handler of the C library runs in the child, so it
   is served without a mover of its own; a child of it by fork() as well. */
static void by_clone3(void)
{
	pid_t pid, grandchild;

	away("before clone3");
	pid = (pid_t)clone3_plain();
	WL_CHECK(pid >= 0, "clone3: %s", strerror(errno));
	if (!pid) {
		wl_verify("clone3 child", area, PAGES, SEED);
		wl_fill(area, PAGES / 2, SEED + 1);
		grandchild = fork();
		if (!grandchild) {
			wl_verify("fork child of a clone3 child", area, PAGES / 2, SEED + 1);
			_exit(8);
		}
		wl_verify("clone3 child, changed", area, PAGES / 2, SEED + 1);
		wl_reap("fork child of a clone3 child", grandchild, WL_EXITED(8));
		_exit(9);
	}
	wl_verify("parent of a clone3 child", area, PAGES, SEED);
	wl_reap("clone3", pid, WL_EXITED(9));
	wl_verify("parent of an ended clone3 child", area, PAGES, SEED);
}

/* ---- processes in the same memory: raw system calls only ---- */

static _Atomic unsigned shared_state;

/* Reads every page and writes half of them, all of which may be away. */
static int in_shared_memory(void *arg)
{
	uint64_t seed = (uint64_t)(uintptr_t)arg;
	unsigned char want[CONTENT_PAGE];
	size_t i;

	for (i = 0; i < PAGES; i++) {
		content_page(want, content_key(SEED, i, 0));
		if (memcmp(want, area + i * WL_PAGE, WL_PAGE))
			syscall(SYS_exit, 1);
	}
	for (i = 0; i < PAGES; i += 2)
		content_page(area + i * WL_PAGE, content_key(seed, i, 0));
	atomic_store(&shared_state, 1);
	syscall(SYS_exit, 10);
	return 0;
}

static void by_clone_vm(int more_flags)
{
	unsigned char *stack = wl_map(STACK_BYTES / WL_PAGE);
	pid_t pid;
	size_t i;

	atomic_store(&shared_state, 0);
	away("before clone(CLONE_VM)");
	pid = clone(in_shared_memory, stack + STACK_BYTES, CLONE_VM | more_flags | SIGCHLD,
		    (void *)(uintptr_t)(SEED + 2));
	WL_CHECK(pid > 0, "clone(CLONE_VM): %s", strerror(errno));
	wl_reap("clone(CLONE_VM)", pid, WL_EXITED(10));
	WL_CHECK(atomic_load(&shared_state) == 1, "its store is not seen");
	for (i = 0; i < PAGES; i++)
		wl_check_key("shared with a process", area + i * WL_PAGE,
			     content_key(i % 2 ? SEED : SEED + 2, i, 0), i);
	wl_fill(area, PAGES, SEED);
	wl_unmap(stack, STACK_BYTES / WL_PAGE);
}

static int pipe_of_survivor;

/* The process that was started is gone; its memory is not. */
static int survive(void *parent)
{
	struct timespec tick = { 0, 5000000 };
	unsigned char want[CONTENT_PAGE];
	char verdict = 'r';
	size_t i;

	while (syscall(SYS_getppid) == (long)(intptr_t)parent)
		syscall(SYS_nanosleep, &tick, NULL);
	for (i = 0; i < 40; i++) /* the mover leaves, pages come back meanwhile */
		syscall(SYS_nanosleep, &tick, NULL);
	for (i = 0; i < PAGES; i++) {
		content_page(want, content_key(SEED, i, 0));
		if (memcmp(want, area + i * WL_PAGE, WL_PAGE))
			verdict = 'w';
	}
	for (i = 0; i < PAGES; i++)
		content_page(area + i * WL_PAGE, content_key(SEED + 3, i, 0));
	for (i = 0; i < 40; i++)
		syscall(SYS_nanosleep, &tick, NULL);
	for (i = 0; i < PAGES; i++) {
		content_page(want, content_key(SEED + 3, i, 0));
		if (memcmp(want, area + i * WL_PAGE, WL_PAGE))
			verdict = 'W';
	}
	syscall(SYS_write, pipe_of_survivor, &verdict, 1);
	syscall(SYS_exit, 0);
	return 0;
}

static void by_survivor(void)
{
	unsigned char *stack;
	char verdict = 0;
	int fd[2];
	pid_t pid;

	WL_OK(pipe2(fd, O_CLOEXEC));
	away("before a survivor");
	pid = (pid_t)WL_OK(fork());
	if (!pid) {
		close(fd[0]);
		pipe_of_survivor = fd[1];
		wl_fill(area, PAGES, SEED);
		wl_wait_evicted("before it is left behind", area, PAGES, WL_EVICT_SHARE);
		stack = wl_map(STACK_BYTES / WL_PAGE);
		WL_OK(clone(survive, stack + STACK_BYTES, CLONE_VM, (void *)(intptr_t)getpid()));
		_exit(0);
	}
	close(fd[1]);
	wl_reap("parent of a survivor", pid, WL_EXITED(0));
	WL_CHECK(read(fd[0], &verdict, 1) == 1 && verdict == 'r',
		 "what a process left its memory to found it wrong (%c)", verdict ? verdict : '-');
	WL_CHECK(read(fd[0], &verdict, 1) == 0, "the survivor's pipe has not ended");
	close(fd[0]);
}

/* ---- ends ---- */

static void by_daemon(void)
{
	char answer = 0;
	int fd[2];
	pid_t pid;

	WL_OK(pipe2(fd, O_CLOEXEC));
	away("before daemon");
	pid = (pid_t)WL_OK(fork());
	if (!pid) {
		wl_fill(area, PAGES, SEED + 4);
		wl_wait_evicted("before it becomes a daemon", area, PAGES, WL_EVICT_SHARE);
		WL_OK(daemon(0, 1));
		wl_verify("daemon", area, PAGES, SEED + 4);
		wl_wait_evicted("daemon", area, PAGES, WL_EVICT_SHARE);
		wl_verify("daemon, later", area, PAGES, SEED + 4);
		_exit(write(fd[1], "d", 1) != 1);
	}
	close(fd[1]);
	wl_reap("daemon", pid, WL_EXITED(0));
	WL_CHECK(read(fd[0], &answer, 1) == 1 && answer == 'd', "the daemon has not answered");
	WL_CHECK(read(fd[0], &answer, 1) == 0, "the daemon's pipe has not ended");
	close(fd[0]);
}

static void *outlive_main(void *arg)
{
	(void)arg;
	wl_sleep_ms(300); /* long enough for somebody to think it an exec */
	wl_fill(area, PAGES, SEED + 5);
	wl_wait_evicted("without a main thread", area, PAGES, WL_EVICT_SHARE);
	wl_verify("without a main thread", area, PAGES, SEED + 5);
	exit(12);
}

static void by_main_thread(void)
{
	pthread_t thread;
	pid_t pid = (pid_t)WL_OK(fork());

	if (!pid) {
		WL_CHECK(!pthread_create(&thread, NULL, outlive_main, NULL), "pthread_create");
		syscall(SYS_exit, 0); /* of this thread alone */
	}
	wl_reap("a main thread that has ended", pid, WL_EXITED(12));
	made++;
}

/* ---- a crowd ---- */

static int crowd(unsigned n)
{
	pid_t *pid = calloc(n, sizeof(*pid));
	int go[2];
	unsigned i;
	char end;

	WL_CHECK(pid, "no memory");
	WL_OK(pipe2(go, O_CLOEXEC));
	for (i = 0; i < n; i++) {
		if (i % 16 == 0)
			wl_try_evicted(area, PAGES, WL_EVICT_SHARE, 1);
		pid[i] = (pid_t)WL_OK(fork());
		if (!pid[i]) {
			close(go[1]);
			if (read(go[0], &end, 1)) /* ends when all are there */
				_exit(1);
			wl_verify("one of a crowd", area, PAGES, SEED);
			_exit(0);
		}
	}
	close(go[1]);
	for (i = 0; i < n; i++)
		wl_reap("one of a crowd", pid[i], WL_EXITED(0));
	wl_verify("parent of a crowd", area, PAGES, SEED);
	wl_say("%u children at once, all right", n);
	free(pid);
	return 0;
}

static int spawned(int status)
{
	unsigned char *own = wl_map(PAGES);

	wl_fill(own, PAGES, 5);
	wl_try_evicted(own, PAGES, WL_EVICT_SHARE, 0.3);
	wl_verify("spawned", own, PAGES, 5);
	return status;
}

int main(int argc, char **argv)
{
	static void (*const part[])(void) = { by_vfork,	   by_spawn,  by_clone3,
					      by_survivor, by_daemon, by_main_thread };
	unsigned rounds, round;
	size_t i;

	if (argc == 3 && !strcmp(argv[1], "--spawned"))
		return spawned(atoi(argv[2]));
	area = wl_map(PAGES);
	wl_fill(area, PAGES, SEED);
	first_byte = area[0];
	if (argc == 3 && !strcmp(argv[1], "--crowd"))
		return crowd((unsigned)atoi(argv[2]));
	rounds = (unsigned)wl_arg(argc, argv, 1, 1);
	for (round = 0; round < rounds; round++) {
		for (i = 0; i < sizeof(part) / sizeof(part[0]); i++)
			part[i]();
		by_clone_vm(0);
		by_clone_vm(CLONE_VFORK);
		by_clone_vm(CLONE_FILES | CLONE_FS);
	}
	wl_verify("at the end", area, PAGES, SEED);
	wl_say("%u processes in %u rounds, all right", made, rounds);
	return 0;
}
