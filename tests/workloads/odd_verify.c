/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * odd_verify [PART]...: what programs seldom do to memory that has left. Each
 * part runs in a child of its own; one that this machine doesn't allow without
 * uswap either says so.
 */
#include "parts.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/ipc.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <linux/futex.h>

#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#define SYS_MSEAL 462 /* newer than many headers */

#define PAGES 256
#define BYTES (PAGES * WL_PAGE)

static unsigned char *area;

static void fill(const char *what, uint64_t seed)
{
	area = wl_map(PAGES);
	wl_fill(area, PAGES, seed);
	wl_wait_evicted(what, area, PAGES, 90);
}

/* New memory where something else was: zeros, then what is written. */
static void fresh_here(const char *what, uint64_t seed)
{
	size_t i;

	for (i = 0; i < PAGES; i += 2)
		content_page(area + i * WL_PAGE, content_key(seed, i, 0));
	wl_try_evicted(area, PAGES, 100, 0.5);
	for (i = 0; i < PAGES; i++) {
		if (i % 2)
			wl_check_zero(what, area + i * WL_PAGE, i);
		else
			wl_check_key(what, area + i * WL_PAGE, content_key(seed, i, 0), i);
	}
}

/* ---- mappings that come and go without a word ---- */

/* Shared memory over it: the kernel tells a pager nothing of that. */
static int shm_over(void)
{
	int id = shmget(IPC_PRIVATE, BYTES, IPC_CREAT | 0600);

	if (id < 0)
		return PART_SKIPPED;
	fill("before shared memory over it", 1);
	WL_CHECK(shmat(id, area, SHM_REMAP) == area, "shmat: %s", strerror(errno));
	WL_OK(shmctl(id, IPC_RMID, NULL));
	wl_check_zeros("shared memory", area, PAGES);
	wl_fill(area, PAGES, 2);
	wl_sleep_ms(wl_evicting() ? 200 : 0);
	wl_verify("shared memory", area, PAGES, 2);
	WL_OK(shmdt(area));
	wl_renew(area, PAGES);
	fresh_here("where shared memory was", 3);
	return PART_RIGHT;
}

/* A name makes another mapping of it, in smaps too. */
static int named(void)
{
	fill("before it is named", 5);
	if (prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, area + 64 * WL_PAGE, 64 * WL_PAGE, "cache"))
		return PART_SKIPPED;
	wl_verify("named", area, PAGES, 5);
	wl_wait_evicted("named", area, PAGES, 90);
	wl_verify("named, later", area, PAGES, 5);
	return PART_RIGHT;
}

/* Sealed: its mapping can't change any more, its pages come and go. */
static int sealed(void)
{
	fill("before it is sealed", 7);
	if (syscall(SYS_MSEAL, area, BYTES, 0))
		return PART_SKIPPED;
	wl_verify("sealed", area, PAGES, 7);
	wl_fill(area, PAGES, 8);
	wl_wait_evicted("sealed", area, PAGES, 90);
	wl_verify("sealed, later", area, PAGES, 8);
	WL_CHECK(munmap(area, BYTES) < 0 && errno == EPERM, "munmap of what is sealed");
	return PART_RIGHT;
}

/* Huge pages to be made at once of what is away in part, which the kernel refuses. */
static int collapse(void)
{
	size_t huge = 512 * WL_PAGE, pages = 3 * 512;
	unsigned char *at = wl_map(pages), *aligned;
	unsigned i, refused = 0;

	aligned = (unsigned char *)(((uintptr_t)at + huge - 1) & ~(huge - 1));
	wl_fill(at, pages, 9);
	for (i = 0; i < 4; i++) {
		wl_wait_evicted("before huge pages are made of it", at, pages, 30 * i);
		refused += madvise(aligned, huge, MADV_COLLAPSE) < 0;
		wl_verify("huge pages made at once", at, pages, 9);
	}
	wl_wait_evicted("after huge pages were made of it", at, pages, 90);
	wl_verify("small pages again", at, pages, 9);
	return refused == 4 && !wl_evicting() ? PART_SKIPPED : PART_RIGHT;
}

/* Which pages are written is asked of the kernel, which may not be able to tell: all
   come back and stay, since one that is away has no such bit. */
static int asked_for_writes(void)
{
	int file = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
	double end = wl_now() + WL_EVICT_SECONDS;
	uint64_t entry[PAGES];
	unsigned i;

	if (file < 0 || !wl_has_flag(" sd"))
		return PART_SKIPPED;
	fill("before it is asked", 10);
	WL_CHECK(write(file, "4", 1) == 1, "clear_refs: %s", strerror(errno));
	while (wl_evicting() && wl_absent(area, PAGES)) {
		WL_CHECK(wl_now() < end, "%zu pages don't come back", wl_absent(area, PAGES));
		wl_sleep_ms(5);
	}
	wl_fill(area, PAGES, 11);
	wl_sleep_ms(wl_evicting() ? 200 : 0);
	close(file);
	file = (int)WL_OK(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
	WL_CHECK(pread(file, entry, sizeof(entry), (off_t)((uintptr_t)area / WL_PAGE * 8)) == (ssize_t)sizeof(entry),
		 "pagemap: %s", strerror(errno));
	close(file);
	for (i = 0; i < PAGES; i++)
		WL_CHECK(entry[i] >> 55 & 1, "page %u doesn't show as written: %#lx", i, (unsigned long)entry[i]);
	wl_verify("asked for writes", area, PAGES, 11);
	return PART_RIGHT;
}

/* A protection key that forbids the program its own pages. */
static int keyed(void)
{
	int key = pkey_alloc(0, PKEY_DISABLE_ACCESS);

	if (key < 0)
		return PART_SKIPPED;
	fill("before it has a key", 11);
	WL_OK(pkey_mprotect(area, BYTES, PROT_READ | PROT_WRITE, key));
	wl_sleep_ms(wl_evicting() ? 200 : 0);
	WL_OK(pkey_set(key, 0));
	wl_verify("with a key", area, PAGES, 11);
	wl_fill(area, PAGES, 12);
	WL_OK(pkey_set(key, PKEY_DISABLE_ACCESS));
	wl_wait_evicted("with a key", area, PAGES, 90);
	WL_OK(pkey_set(key, 0));
	wl_verify("with a key, later", area, PAGES, 12);
	return PART_RIGHT;
}

/* ---- words that the kernel writes ---- */

#define MUTEXES 128

static pthread_mutex_t *mutex_of(unsigned i)
{
	return (pthread_mutex_t *)(void *)(area + i * 2 * WL_PAGE);
}

static unsigned mutexes_away(void)
{
	unsigned i, away = 0;

	for (i = 0; i < MUTEXES; i++)
		away += wl_absent(mutex_of(i), 1) != 0;
	return away;
}

/* Some of them are taken in the instant in which their pages leave: these are back
   after a while, and all of them stay. */
static void *die_with_them(void *arg)
{
	double end = wl_now() + WL_EVICT_SECONDS;
	unsigned i, quiet = 0;

	for (i = 0; i < MUTEXES; i++) {
		WL_CHECK(!pthread_mutex_lock(mutex_of(i)), "pthread_mutex_lock");
		if (i % 4 == 0)
			wl_sleep_ms(wl_evicting() ? 2 : 0);
	}
	while (wl_evicting() && quiet < 10) {
		WL_CHECK(wl_now() < end, "%u mutexes that are held are away", mutexes_away());
		quiet = mutexes_away() ? 0 : quiet + 1;
		wl_sleep_ms(50);
	}
	return arg;
}

/* Whoever holds robust mutexes dies, after a time in which all memory leaves but
   those. */
static int robust(void)
{
	struct timespec until;
	pthread_mutexattr_t attr;
	pthread_t thread;
	unsigned round, i;
	int r;

	area = wl_map(PAGES);
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
	for (round = 0; round < 2; round++) {
		wl_renew(area, PAGES);
		wl_fill(area, PAGES, 13);
		if (round)
			pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT);
		for (i = 0; i < MUTEXES; i++)
			WL_CHECK(!pthread_mutex_init(mutex_of(i), &attr), "pthread_mutex_init");
		wl_wait_evicted("with mutexes in it", area, PAGES, 90);
		WL_CHECK(!pthread_create(&thread, NULL, die_with_them, NULL), "pthread_create");
		pthread_join(thread, NULL);
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_sec += 20;
		for (i = 0; i < MUTEXES; i++) {
			r = pthread_mutex_timedlock(mutex_of(i), &until);
			WL_CHECK(r == EOWNERDEAD, "mutex %u, whose owner has died: %s", i, strerror(r));
			WL_CHECK(!pthread_mutex_consistent(mutex_of(i)) &&
					 !pthread_mutex_unlock(mutex_of(i)) &&
					 !pthread_mutex_destroy(mutex_of(i)),
				 "mutex %u, made consistent", i);
		}
		for (i = 1; i < PAGES; i += 2)
			wl_check_key("beside robust mutexes", area + i * WL_PAGE, content_key(13, i, 0), i);
	}
	return PART_RIGHT;
}

/* The C library leaves rseq alone; its area lies in memory that may leave. The
   kernel writes it on its way back to the program. */
static int rseq_elsewhere(void)
{
	struct rseq_area {
		uint32_t cpu_id_start, cpu_id;
		uint64_t rseq_cs;
		uint32_t flags, more[3];
	} __attribute__((aligned(32))) *rseq;
	unsigned i;

	fill("before rseq", 15);
	rseq = (void *)area;
	memset(rseq, 0, WL_PAGE);
	wl_try_evicted(area, 1, 100, 1);
	if (syscall(SYS_rseq, rseq, sizeof(*rseq), 0, 0x53053053))
		return PART_SKIPPED;
	for (i = 0; i < 100; i++) {
		wl_sleep_ms(wl_evicting() ? 5 : 0);
		WL_CHECK(rseq->cpu_id < 4096, "cpu %u", rseq->cpu_id);
		if (i % 10 == 0)
			sched_yield();
	}
	WL_OK(syscall(SYS_rseq, rseq, sizeof(*rseq), 1, 0x53053053));
	wl_wait_evicted("after rseq", area, PAGES, 90);
	for (i = 1; i < PAGES; i++)
		wl_check_key("beside rseq", area + i * WL_PAGE, content_key(15, i, 0), i);
	return PART_RIGHT;
}

static int rseq(void)
{
	char name[] = "odd_verify", part[] = "--rseq";
	char *argv[] = { name, part, NULL };

	WL_OK(setenv("GLIBC_TUNABLES", "glibc.pthread.rseq=0", 1));
	execv("/proc/self/exe", argv);
	return 1;
}

static int end_at_once(void *arg)
{
	(void)arg;
	syscall(SYS_exit, 11);
	return 0;
}

static long futex(uint32_t *word, int op, uint32_t value, const void *more, uint32_t *second)
{
	return syscall(SYS_futex, word, op, value, more, second, FUTEX_OP(FUTEX_OP_SET, 3, FUTEX_OP_CMP_EQ, 2));
}

/* The kernel writes these without asking anybody: locked, they are there (libuswap(7)). */
static int locked_words(void)
{
	const struct timespec soon = { 0, 10000000 };
	double end = wl_now() + WL_EVICT_SECONDS;
	unsigned char *stack = wl_map(16);
	uint32_t *word;
	unsigned i;
	pid_t pid;

	fill("before words are locked", 27);
	WL_OK(mlock(area, WL_PAGE));
	word = (uint32_t *)(void *)area;
	for (i = 0; i < 8; i++) {
		wl_wait_evicted("beside locked words", area + WL_PAGE, PAGES - 1, 90);
		word[0] = 1;
		pid = (pid_t)WL_OK(clone(end_at_once, stack + 16 * WL_PAGE, CLONE_VM | CLONE_CHILD_CLEARTID | SIGCHLD,
					 NULL, NULL, NULL, &word[0]));
		while (__atomic_load_n(&word[0], __ATOMIC_ACQUIRE)) {
			WL_CHECK(wl_now() < end, "the word of a process that has ended is still set");
			futex(&word[0], FUTEX_WAIT, 1, &soon, NULL);
		}
		wl_reap("whose word is cleared", pid, WL_EXITED(11));
		word[1] = word[2] = 0;
		WL_OK(futex(&word[1], FUTEX_LOCK_PI, 0, NULL, NULL));
		WL_CHECK(word[1] == (uint32_t)getpid(), "FUTEX_LOCK_PI: the word is %u", word[1]);
		WL_OK(futex(&word[1], FUTEX_UNLOCK_PI, 0, NULL, NULL));
		WL_OK(futex(&word[1], FUTEX_TRYLOCK_PI, 0, NULL, NULL));
		WL_OK(futex(&word[1], FUTEX_UNLOCK_PI, 0, NULL, NULL));
		WL_OK(futex(&word[1], FUTEX_WAKE_OP, 1, NULL, &word[2]));
		WL_CHECK(word[2] == 3, "FUTEX_WAKE_OP: the word is %u", word[2]);
	}
	for (i = 1; i < PAGES; i++)
		wl_check_key("beside locked words", area + i * WL_PAGE, content_key(27, i, 0), i);
	return PART_RIGHT;
}

/* ---- processes ---- */

/* A vfork child makes vfork children, all of them in one memory. */
static int chain(unsigned depth)
{
	unsigned char want[CONTENT_PAGE];
	size_t page = depth * 16 + 3;
	int status;
	pid_t pid;

	content_page(want, content_key(17, page, 0));
	if (memcmp(want, area + page * WL_PAGE, WL_PAGE))
		return 99;
	if (depth == 6)
		return 20;
	pid = vfork(); /* NOLINT: what is to be tested */
	if (pid < 0)
		return 98;
	if (!pid)
		_exit(chain(depth + 1));
	if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		return 97;
	return WEXITSTATUS(status) + 1;
}

static int vfork_chain(void)
{
	unsigned i;
	int r;

	fill("before a chain of vforks", 17);
	for (i = 0; i < 4; i++) {
		wl_wait_evicted("before a chain of vforks", area, PAGES, 90);
		r = chain(0);
		WL_CHECK(r == 26, "chain of vforks: %d", r);
	}
	wl_verify("after vforks", area, PAGES, 17);
	return PART_RIGHT;
}

static volatile sig_atomic_t forks, forks_failed;

static void fork_now(int number)
{
	int status, before = errno;
	pid_t pid = fork();

	(void)number;
	if (!pid) {
		wl_verify("forked by a handler", area, PAGES, 19);
		_exit(3);
	}
	forks_failed += pid < 0 || waitpid(pid, &status, 0) != pid || status != WL_EXITED(3);
	forks++;
	errno = before;
}

/* A signal that comes while a page is awaited; its handler forks. */
static int fork_in_handler(void)
{
	struct sigaction action = { .sa_handler = fork_now };
	struct itimerval every = { { 0, 20000 }, { 0, 20000 } }, never = { { 0, 0 }, { 0, 0 } };
	double end;

	fill("before forks by a handler", 19);
	WL_OK(sigaction(SIGALRM, &action, NULL));
	WL_OK(setitimer(ITIMER_REAL, &every, NULL));
	end = wl_now() + WL_EVICT_SECONDS;
	while (forks < 8) {
		WL_CHECK(wl_now() < end, "only %d forks in %d s", (int)forks, WL_EVICT_SECONDS);
		wl_try_evicted(area, PAGES, 50, 0.05);
		wl_verify("beside forks by a handler", area, PAGES, 19);
	}
	WL_OK(setitimer(ITIMER_REAL, &never, NULL));
	WL_CHECK(!forks_failed, "%d of %d forks by a handler have failed", (int)forks_failed, (int)forks);
	return PART_RIGHT;
}

static _Atomic bool churning;

static void *churn(void *arg)
{
	int fd;

	while (atomic_load(&churning)) {
		for (fd = 3; fd < 64; fd++)
			if (fd != *(int *)arg)
				dup2(0, fd);
		syscall(SYS_close_range, 3, 63, 0);
	}
	return NULL;
}

/* Somebody closes and takes every descriptor all the time. */
static int descriptors(void)
{
	int none = -1;
	pthread_t thread;
	unsigned i;
	pid_t pid;

	fill("before descriptors are churned", 21);
	atomic_store(&churning, true);
	WL_CHECK(!pthread_create(&thread, NULL, churn, &none), "pthread_create");
	for (i = 0; i < 10; i++) {
		pid = (pid_t)WL_OK(fork());
		if (!pid) {
			wl_verify("child of a churner", area, PAGES, 21);
			wl_fill(area, PAGES, 22);
			wl_try_evicted(area, PAGES, 50, 0.2);
			wl_verify("child of a churner, changed", area, PAGES, 22);
			_exit(5);
		}
		wl_sleep_ms(wl_evicting() ? 20 : 0);
		wl_verify("beside a churner", area, PAGES, 21);
		wl_reap("child of a churner", pid, WL_EXITED(5));
	}
	atomic_store(&churning, false);
	pthread_join(thread, NULL);
	return PART_RIGHT;
}

/* A child without room for a mover of its own is served, and its children. */
static int no_room(void)
{
	struct rlimit limit;
	unsigned long pages = 0;
	pid_t pid, grandchild;
	FILE *f;

	fill("before there is no room", 23);
	f = fopen("/proc/self/statm", "re");
	WL_CHECK(f && fscanf(f, "%lu", &pages) == 1, "statm");
	fclose(f);
	limit.rlim_cur = limit.rlim_max = (pages + 20) * WL_PAGE;
	WL_OK(setrlimit(RLIMIT_AS, &limit));
	wl_wait_evicted("without room", area, PAGES, 90);
	pid = (pid_t)WL_OK(fork());
	if (!pid) {
		wl_verify("child without room", area, PAGES, 23);
		wl_fill(area, PAGES / 2, 24);
		grandchild = (pid_t)WL_OK(fork());
		if (!grandchild) {
			wl_verify("grandchild without room", area, PAGES / 2, 24);
			_exit(6);
		}
		wl_reap("grandchild without room", grandchild, WL_EXITED(6));
		wl_verify("child without room, changed", area, PAGES / 2, 24);
		_exit(7);
	}
	wl_verify("without room", area, PAGES, 23);
	wl_reap("child without room", pid, WL_EXITED(7));
	return PART_RIGHT;
}

/* What it reads of its own memory as a file is right, or an error. */
static int own_memory(void)
{
	unsigned char want[CONTENT_PAGE], found[CONTENT_PAGE];
	int fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
	unsigned errors = 0;
	size_t i;

	if (fd < 0)
		return PART_SKIPPED;
	fill("before it is read as a file", 25);
	for (i = 0; i < PAGES; i++) {
		content_page(want, content_key(25, i, 0));
		if (pread(fd, found, WL_PAGE, (off_t)(uintptr_t)(area + i * WL_PAGE)) != (ssize_t)WL_PAGE) {
			WL_CHECK(errno == EIO, "/proc/self/mem: %s", strerror(errno));
			errors++;
		} else if (memcmp(found, want, WL_PAGE)) {
			wl_wrong("read as a file", found, want, i);
		}
	}
	content_page(want, content_key(26, 5, 0));
	i = pwrite(fd, want, WL_PAGE, (off_t)(uintptr_t)(area + 5 * WL_PAGE)) == (ssize_t)WL_PAGE ? 26 : 25;
	wl_check_key("written as a file, or not", area + 5 * WL_PAGE, content_key(i, 5, 0), 5);
	wl_say("own memory as a file: %u of %d pages are errors", errors, PAGES);
	return PART_RIGHT;
}

/* As a collector of garbage may: all that it has, what the shim has made among it. */
static int read_all(void)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	unsigned long at, end, pages = 0;
	char line[512];

	if (!maps)
		return PART_SKIPPED;
	fill("before all is read", 27);
	while (fgets(line, sizeof(line), maps)) {
		if (sscanf(line, "%lx-%lx", &at, &end) != 2 || !strstr(line, " rw"))
			continue;
		for (; at < end; at += WL_PAGE, pages++)
			(void)*(volatile unsigned char *)at;
	}
	fclose(maps);
	wl_verify("all is read", area, PAGES, 27);
	WL_CHECK(pages > PAGES, "%lu pages", pages);
	return PART_RIGHT;
}

/* ---- the lowest addresses there are ---- */

static atomic_bool at_rest;

static void *change_mappings(void *arg)
{
	unsigned char *other = wl_map(16);
	unsigned i;

	(void)arg;
	wl_fill(other, 16, 28);
	wl_wait_evicted("beside low memory", other, 16, 50);
	for (i = 0; !atomic_load(&at_rest); i++) {
		WL_OK(madvise(other + i % 16 * WL_PAGE, WL_PAGE, MADV_DONTNEED));
		other[i % 16 * WL_PAGE] = 1;
	}
	return NULL;
}

/* Some programs begin there (Wine). Faults that are put off, since mappings change, are
   woken all at once: these too. */
static int low(void)
{
	unsigned char *at = NULL, *end = (unsigned char *)(1ul << 20);
	pthread_t thread[2];
	double until;
	size_t i;

	do
		at += WL_PAGE;
	while (at + BYTES / 2 < end && mmap(at, BYTES / 2, PROT_READ | PROT_WRITE,
					   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != at);
	if (at + BYTES / 2 >= end)
		return PART_SKIPPED;
	wl_fill(at, PAGES / 2, 29);
	wl_wait_evicted("low memory", at, PAGES / 2, 90);
	for (i = 0; i < 2; i++)
		WL_CHECK(!pthread_create(&thread[i], NULL, change_mappings, NULL), "no thread");
	until = wl_now() + (wl_evicting() ? 1.0 : 0.1);
	alarm((unsigned)(20 * wl_time_factor())); /* a touch that is never answered */
	do {
		wl_verify("low memory", at, PAGES / 2, 29);
		wl_try_evicted(at, PAGES / 2, 20, 0.1);
	} while (wl_now() < until);
	alarm(0);
	atomic_store(&at_rest, true);
	for (i = 0; i < 2; i++)
		WL_CHECK(!pthread_join(thread[i], NULL), "pthread_join");
	return PART_RIGHT;
}

static const struct part parts[] = {
	{ "shm_over", shm_over },
	{ "named", named },
	{ "sealed", sealed },
	{ "collapse", collapse },
	{ "asked_for_writes", asked_for_writes },
	{ "keyed", keyed },
	{ "robust", robust },
	{ "rseq", rseq },
	{ "locked_words", locked_words },
	{ "vfork_chain", vfork_chain },
	{ "fork_in_handler", fork_in_handler },
	{ "descriptors", descriptors },
	{ "no_room", no_room },
	{ "own_memory", own_memory },
	{ "read_all", read_all },
	{ "low", low },
};

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "--rseq"))
		return rseq_elsewhere();
	return parts_main(parts, sizeof(parts) / sizeof(parts[0]), argc, argv);
}
