/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A workload that does what it is told, line by line on standard input, with
 * a range of pages whose every byte is known. First it prints where the range
 * is: "range ADDRESS PAGES". Then:
 *
 *   check         are all bytes as they should be? "good" or "bad PAGE"
 *   fill          write all pages again, with new bytes: "filled"
 *   touch N       read the first word of page N: "touched"
 *   guard N       make page N read-only: "guarded"
 *   forget N      MADV_DONTNEED page N; it must then be zero: "forgotten"
 *   stress N      two threads change and check the range for N ms: "good"/"bad"
 *   fork          a child: "child PID"; "c COMMAND" goes to the child, and
 *                 the child answers
 *   reap          end the child and wait for it: "reaped STATUS"
 *   lockall       mlockall(MCL_CURRENT) and undo: "locked"
 *   lone-thread   the main thread ends, another one goes on: "alone"
 *   exec          become another image that sleeps: no answer
 *   exit N        end
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGES 256u
#define WORDS 512u

static uint64_t (*page)[WORDS];
static uint64_t seed = 1;
static int self_in = 0;
static int child_in = -1;
static pid_t child;
static bool forgotten[PAGES];

static uint64_t word(unsigned int i, unsigned int k)
{
	return (seed * PAGES + i) * 0x9e3779b97f4a7c15ull + k;
}

static void fill(void)
{
	seed++;
	memset(forgotten, 0, sizeof(forgotten));
	for (unsigned int i = 0; i < PAGES; i++)
		for (unsigned int k = 0; k < WORDS; k++)
			page[i][k] = word(i, k);
}

static void check(void)
{
	for (unsigned int i = 0; i < PAGES; i++)
		for (unsigned int k = 0; k < WORDS; k++)
			if (page[i][k] != (forgotten[i] ? 0 : word(i, k))) {
				printf("bad %u\n", i);
				return;
			}
	printf("good\n");
}

/* ---- stress: each thread owns one word of each page ---- */

static atomic_bool stress_stop, stress_bad;

static void *stress_one(void *which)
{
	unsigned int k = (unsigned int)(uintptr_t)which * 64;
	uint64_t mine[PAGES] = { 0 }, random = k + 1;

	for (unsigned int i = 0; i < PAGES; i++)
		mine[i] = page[i][k];
	while (!stress_stop) {
		unsigned int i;

		random = random * 6364136223846793005ull + 1;
		i = (random >> 33) % PAGES;
		if (page[i][k] != mine[i])
			stress_bad = true;
		page[i][k] = ++mine[i];
	}
	for (unsigned int i = 0; i < PAGES; i++)
		if (page[i][k] != mine[i])
			stress_bad = true;
	return NULL;
}

static void stress(unsigned int ms)
{
	struct timespec ts = { ms / 1000, (long)(ms % 1000) * 1000000 };
	pthread_t t[2];

	stress_stop = stress_bad = false;
	for (uintptr_t i = 0; i < 2; i++)
		pthread_create(&t[i], NULL, stress_one, (void *)i);
	nanosleep(&ts, NULL);
	stress_stop = true;
	for (unsigned int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	printf(stress_bad ? "bad\n" : "good\n");
}

/* ---- processes ---- */

static void fork_child(void)
{
	int p[2];

	if (pipe(p))
		exit(1);
	fflush(stdout);
	child = fork();
	if (child) {
		close(p[0]);
		child_in = p[1];
		printf("child %d\n", child);
		return;
	}
	close(p[1]);
	if (child_in >= 0)
		close(child_in);
	child_in = -1;
	self_in = p[0];
}

static void reap(void)
{
	int status = 0;

	close(child_in);
	child_in = -1;
	waitpid(child, &status, 0);
	printf("reaped %x\n", status);
}

static void obey_lines(void);

static void *go_on(void *unused)
{
	struct timespec ts = { 0, 100000000 };

	(void)unused;
	nanosleep(&ts, NULL);
	printf("alone\n");
	fflush(stdout);
	obey_lines();
	exit(0);
}

static void lone_thread(void)
{
	pthread_t t;

	pthread_create(&t, NULL, go_on, NULL);
	pthread_exit(NULL);
}

static void exec_other(void)
{
	unsetenv("LD_PRELOAD");
	execlp("sleep", "sleep", "30", (char *)NULL);
	exit(1);
}

static void lock_all(void)
{
	int err = mlockall(MCL_CURRENT);

	munlockall();
	printf(err ? "not locked\n" : "locked\n");
}

static void guard(unsigned int i)
{
	printf(mprotect(page[i], sizeof(page[i]), PROT_READ) ? "bad\n" : "guarded\n");
}

static void forget(unsigned int i)
{
	printf(madvise(page[i], sizeof(page[i]), MADV_DONTNEED) ? "bad\n" : "forgotten\n");
	forgotten[i] = true;
}

static void obey(char *line)
{
	unsigned int n = 0;
	char *space = strchr(line, ' ');

	if (line[0] == 'c' && line[1] == ' ') {
		dprintf(child_in, "%s\n", line + 2);
		return;
	}
	if (space)
		n = (unsigned int)strtoul(space, NULL, 10) % 65536;
	if (!strcmp(line, "check"))
		check();
	else if (!strcmp(line, "fill"))
		fill(), printf("filled\n");
	else if (!strncmp(line, "touch", 5))
		((volatile uint64_t *)page[n % PAGES])[0], printf("touched\n");
	else if (!strncmp(line, "guard", 5))
		guard(n % PAGES);
	else if (!strncmp(line, "forget", 6))
		forget(n % PAGES);
	else if (!strncmp(line, "stress", 6))
		stress(n);
	else if (!strcmp(line, "fork"))
		fork_child();
	else if (!strcmp(line, "reap"))
		reap();
	else if (!strcmp(line, "lockall"))
		lock_all();
	else if (!strcmp(line, "lone-thread"))
		lone_thread();
	else if (!strcmp(line, "exec"))
		exec_other();
	else if (!strncmp(line, "exit", 4))
		exit((int)n);
	else
		printf("what?\n");
	fflush(stdout);
}

/* By single reads: a fork child must not inherit a buffer. */
static void obey_lines(void)
{
	char line[128];
	size_t n = 0;

	while (read(self_in, line + n, 1) == 1) {
		if (line[n] != '\n') {
			n = n < sizeof(line) - 1 ? n + 1 : n;
			continue;
		}
		line[n] = 0;
		n = 0;
		obey(line);
	}
}

int main(void)
{
	char *at = mmap(NULL, (PAGES + 2) * sizeof(page[0]), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS,
			-1, 0);

	if (at == MAP_FAILED)
		return 1;
	page = (void *)(at + sizeof(page[0]));
	if (mprotect(page, PAGES * sizeof(page[0]), PROT_READ | PROT_WRITE))
		return 1;
	madvise(page, PAGES * sizeof(page[0]), MADV_NOHUGEPAGE);
	fill();
	printf("range %llx %u\n", (unsigned long long)(uintptr_t)page, PAGES);
	fflush(stdout);
	obey_lines();
	return 0;
}
