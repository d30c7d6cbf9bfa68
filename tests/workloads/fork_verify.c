/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fork_verify [SECONDS [PARTS]]: children of a parent whose pages have left. Child
 * and parent verify and change their own copies at once; many children at a time;
 * children that are killed; fork from a program with busy threads; vfork and
 * posix_spawn with exec; a bare clone; grandchildren. Or the first PARTS of this.
 */
#include "workload.h"

#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <stdatomic.h>
#include <sys/syscall.h>

#define PAGES 1536
#define SEED 0xf0f0
#define DEPTH 4
#define STORM 24
#define THREADS 3
#define THREAD_PAGES 64
#define SPAWNED_PAGES 512

static unsigned char *area;
static uint16_t *generation; /* of each page, in this process */
static const char *self;
static atomic_bool threads_stop;
static unsigned children;

static void verify(const char *what, size_t step, size_t from)
{
	size_t i;

	for (i = from; i < PAGES; i += step)
		wl_check_key(what, area + i * WL_PAGE, content_key(SEED, i, generation[i]), i);
}

static void verify_shuffled(const char *what, uint64_t seed)
{
	size_t i, at;

	for (i = 0; i < PAGES; i++) {
		at = wl_shuffled(i, PAGES, seed);
		wl_check_key(what, area + at * WL_PAGE, content_key(SEED, at, generation[at]), at);
	}
}

/* mark keeps the processes' versions apart. */
static void change(size_t step, size_t from, unsigned mark)
{
	size_t i;

	for (i = from; i < PAGES; i += step) {
		generation[i] = (uint16_t)(generation[i] * 7 + mark);
		content_page(area + i * WL_PAGE, content_key(SEED, i, generation[i]));
	}
}

static pid_t start(void)
{
	pid_t pid = fork();

	WL_CHECK(pid >= 0, "fork: %s", strerror(errno));
	children++;
	return pid;
}

static void once(void)
{
	pid_t pid;

	wl_wait_evicted("before fork", area, PAGES, WL_EVICT_SHARE);
	pid = start();
	if (!pid) {
		change(3, 0, 11);
		verify_shuffled("child", 1);
		change(2, 1, 12);
		verify("child, changed", 1, 0);
		_exit(7);
	}
	change(5, 2, 21);
	verify_shuffled("parent of one child", 2);
	wl_reap("child", pid, WL_EXITED(7));
	verify("parent, child gone", 1, 0);
}

/* Every process of the line goes on changing while its child lives. */
static void descend(unsigned depth)
{
	char what[32];
	pid_t pid;

	snprintf(what, sizeof(what), "generation %u", depth);
	verify_shuffled(what, depth);
	if (depth == DEPTH)
		_exit(0);
	change(4, depth % 4, 31 + depth);
	pid = start();
	if (!pid)
		descend(depth + 1);
	change(3, depth % 3, 41 + depth);
	verify(what, 1, 0);
	wl_reap(what, pid, WL_EXITED(0));
	verify(what, 1, 0);
	if (depth)
		_exit(0);
}

static void line(void)
{
	wl_try_evicted(area, PAGES, WL_EVICT_SHARE, 0.5);
	descend(0);
	children += DEPTH - 1;
}

static void storm(void)
{
	pid_t pid[STORM];
	unsigned i;

	wl_try_evicted(area, PAGES, WL_EVICT_SHARE, 0.5);
	for (i = 0; i < STORM; i++) {
		pid[i] = start();
		if (!pid[i]) {
			change(STORM, i, 51 + i);
			verify("child of a storm", 1 + i % 3, i % 3);
			_exit((int)i);
		}
		change(STORM * 2, i, 52);
	}
	verify("parent of a storm", 1, 0);
	for (i = 0; i < STORM; i++)
		wl_reap("child of a storm", pid[i], WL_EXITED((int)i));
	verify("parent after a storm", 1, 0);
}

static void killed(void)
{
	pid_t pid = start(), empty;

	if (!pid) {
		for (;;)
			verify_shuffled("child to be killed", 3);
	}
	empty = start();
	if (!empty)
		_exit(0);
	wl_reap("child that exits at once", empty, WL_EXITED(0));
	verify("parent of a child to be killed", 2, 0);
	WL_OK(kill(pid, SIGKILL));
	wl_reap("child to be killed", pid, SIGKILL);
	verify("parent of a killed child", 2, 1);
}

static void *rewriter(void *arg)
{
	unsigned char *mine = wl_map(THREAD_PAGES);
	uint64_t seed = (uint64_t)(uintptr_t)arg, rng = seed;
	uint32_t version[THREAD_PAGES] = { 0 };

	wl_fill(mine, THREAD_PAGES, seed);
	while (!atomic_load(&threads_stop)) {
		size_t i = content_next(&rng) % THREAD_PAGES;

		wl_check_key("thread beside forks", mine + i * WL_PAGE,
			     content_key(seed, i, version[i]), i);
		content_page(mine + i * WL_PAGE, content_key(seed, i, ++version[i]));
		if (i == 0)
			wl_sleep_ms(1);
	}
	wl_unmap(mine, THREAD_PAGES);
	return NULL;
}

static void *forker(void *arg)
{
	pid_t pid;
	unsigned i;

	(void)arg;
	for (i = 0; i < 8; i++) {
		pid = start();
		if (!pid) {
			verify_shuffled("child of a thread", i);
			change(2, 0, 61);
			verify("child of a thread, changed", 1, 0);
			_exit(3);
		}
		wl_reap("child of a thread", pid, WL_EXITED(3));
	}
	return NULL;
}

static void threaded(void)
{
	pthread_t busy[THREADS], fork_thread;
	uintptr_t i;

	atomic_store(&threads_stop, false);
	for (i = 0; i < THREADS; i++)
		WL_CHECK(!pthread_create(&busy[i], NULL, rewriter, (void *)(i + 1)),
			 "pthread_create");
	wl_try_evicted(area, PAGES, WL_EVICT_SHARE, 0.5);
	WL_CHECK(!pthread_create(&fork_thread, NULL, forker, NULL), "pthread_create");
	verify_shuffled("beside a forking thread", 4);
	pthread_join(fork_thread, NULL);
	atomic_store(&threads_stop, true);
	for (i = 0; i < THREADS; i++)
		pthread_join(busy[i], NULL);
	verify("parent with threads", 1, 0);
}

static void exec_children(void)
{
	char *const argv[] = { (char *)(uintptr_t)self, (char *)(uintptr_t)"--spawned", NULL };
	pid_t pid;

	wl_try_evicted(area, PAGES, WL_EVICT_SHARE, 0.5);
	pid = vfork();
	if (!pid) {
		execv(self, argv);
		_exit(127);
	}
	WL_CHECK(pid > 0, "vfork: %s", strerror(errno));
	wl_reap("vfork and exec", pid, WL_EXITED(5));
	errno = posix_spawn(&pid, self, NULL, NULL, argv, environ);
	WL_CHECK(!errno, "posix_spawn: %s", strerror(errno));
	wl_reap("posix_spawn", pid, WL_EXITED(5));
	children += 2;
	verify("parent of an exec", 1, 0);
}

/* Past the C library: no atfork handler sees it. */
static void bare_clone(void)
{
	pid_t pid;

	wl_try_evicted(area, PAGES, WL_EVICT_SHARE, 0.5);
	pid = (pid_t)syscall(SYS_clone, (unsigned long)SIGCHLD, 0ul, NULL, NULL, 0ul);
	WL_CHECK(pid >= 0, "clone: %s", strerror(errno));
	if (!pid) {
		verify_shuffled("child of a bare clone", 5);
		change(3, 1, 71);
		verify("child of a bare clone, changed", 1, 0);
		_exit(9);
	}
	children++;
	change(7, 3, 72);
	verify("parent of a bare clone", 1, 0);
	wl_reap("bare clone", pid, WL_EXITED(9));
}

/* A child with memory of its own, which may leave as well. */
static void grown_child(void)
{
	pid_t pid = start();

	if (!pid) {
		unsigned char *own = wl_map(SPAWNED_PAGES);

		wl_fill(own, SPAWNED_PAGES, 99);
		wl_try_evicted(own, SPAWNED_PAGES, WL_EVICT_SHARE, 0.3);
		wl_verify("child's own memory", own, SPAWNED_PAGES, 99);
		verify("child with own memory", 1, 0);
		_exit(0);
	}
	wl_reap("child with own memory", pid, WL_EXITED(0));
	verify("parent of a child with own memory", 1, 0);
}

static int spawned(void)
{
	unsigned char *own = wl_map(SPAWNED_PAGES);

	wl_fill(own, SPAWNED_PAGES, 5);
	wl_try_evicted(own, SPAWNED_PAGES, WL_EVICT_SHARE, 0.3);
	wl_verify("spawned", own, SPAWNED_PAGES, 5);
	return 5;
}

int main(int argc, char **argv)
{
	static void (*const part[])(void) = { once,	     storm,	 killed,      threaded,
					      exec_children, bare_clone, grown_child, line };
	size_t parts = sizeof(part) / sizeof(part[0]);
	double end;
	unsigned rounds = 0;
	size_t i;

	if (argc == 2 && !strcmp(argv[1], "--spawned"))
		return spawned();
	self = "/proc/self/exe";
	end = wl_now() + wl_arg(argc, argv, 1, 3);
	parts = (size_t)wl_arg(argc, argv, 2, (double)parts);
	area = wl_map(PAGES);
	generation = (uint16_t *)(void *)wl_map(1);
	wl_fill(area, PAGES, SEED);
	do {
		for (i = 0; i < parts; i++) {
			part[i]();
			verify("between the parts", 1, 0);
		}
		rounds++;
	} while (wl_now() < end);
	wl_say("%u rounds, %u children, all copies right", rounds, children);
	return 0;
}
