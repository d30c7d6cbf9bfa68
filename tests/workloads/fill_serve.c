/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fill_serve [MIB]: fills memory with known contents and obeys its standard
 * input, a line each, an answer each, so that a test can act in between:
 *	verify	reads and checks every page: "right PAGES"
 *	change	rewrites every third page: "changed PAGES"
 *	absent	"absent PAGES", of those filled
 *	pages	"pages PAGES", how many were filled
 *	rss	"rss KIB", as the kernel says in VmRSS
 *	survey	reads every page, and checks those that can be: "lost PAGES", which
 *		are SIGBUS
 *	fork	a child does what verify does: "right PAGES"
 *	brood	"born 40", children that sleep until it ends
 *	longest	"longest USEC", of the touches by verify and work since it was asked last
 *	lock	mlockall of what is there: "locked ERRNO"
 *	reserve	maps 17 GiB more, with little in it: "reserved PAGES"
 *	drop	MADV_DONTNEED of that: "dropped ERRNO"
 *	scatter	maps many small pieces with nothing in them, below what is filled:
 *		"scattered PIECES"
 *	hold	takes more robust mutexes than are looked at: "held MUTEXES"
 *	work	touches and checks a few pages at random: "right PAGES"
 *	quit	"bye", and exit with 0
 * Says "ready PID" first. With WORKLOAD_KEEP=1 nothing leaves but what it fills: so
 * that it can live without some of that.
 */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "workload.h"

static unsigned char *area;
static size_t pages;
static unsigned *generation;

static double longest;

static void check(const char *what, size_t i)
{
	double begin = wl_now();

	(void)*(volatile unsigned char *)(area + i * WL_PAGE);
	begin = wl_now() - begin;
	longest = begin > longest ? begin : longest;
	wl_check_key(what, area + i * WL_PAGE, content_key(9, i, generation[i]), i);
}

static size_t verify(void)
{
	size_t i;

	for (i = 0; i < pages; i++)
		check("served", i);
	return pages;
}

static double take_longest(void)
{
	double was = longest;

	longest = 0;
	return was;
}

static size_t verify_in_child(void)
{
	pid_t pid = fork();
	int status;

	WL_CHECK(pid >= 0, "fork: %s", strerror(errno));
	if (pid == 0)
		_exit(verify() != pages);
	WL_CHECK(waitpid(pid, &status, 0) == pid && status == 0, "the child has ended with 0x%x", status);
	return pages;
}

/* The shim knows nothing of them, so that they get no mover. */
static size_t brood(void)
{
	size_t n;

	for (n = 0; n < 40; n++) {
		long pid = syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);

		WL_CHECK(pid >= 0, "clone: %s", strerror(errno));
		if (pid)
			continue;
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		while (getppid() != 1)
			pause();
		_exit(0);
	}
	return n;
}

static size_t change(void)
{
	size_t i, n = 0;

	for (i = 0; i < pages; i += 3, n++) {
		wl_check_key("before a change", area + i * WL_PAGE,
			     content_key(9, i, generation[i]), i);
		content_page(area + i * WL_PAGE, content_key(9, i, ++generation[i]));
	}
	return n;
}

/* Data of the program and its libraries, heap: what has a name in maps, and what lies
   right behind that. */
static void keep_the_rest(void)
{
	FILE *file = fopen("/proc/self/maps", "re");
	unsigned long start, end, named_end = 0;
	char line[512], perms[5];
	int name;

	WL_CHECK(file, "/proc/self/maps: %s", strerror(errno));
	while (fgets(line, sizeof(line), file)) {
		WL_CHECK(sscanf(line, "%lx-%lx %4s %*s %*s %*s %n", &start, &end, perms, &name) == 3, "maps: %s", line);
		if (line[name] == '/' || !strncmp(line + name, "[heap]", 6))
			named_end = end;
		else if (start != named_end)
			continue;
		if (!strcmp(perms, "rw-p"))
			WL_CHECK(!mlock((void *)start, end - start), "mlock: %s", strerror(errno));
	}
	fclose(file);
}

static sigjmp_buf at_a_lost_page;

static void on_bus(int sig)
{
	(void)sig;
	siglongjmp(at_a_lost_page, 1);
}

static size_t survey(void)
{
	const struct sigaction catch = { .sa_handler = on_bus };
	struct sigaction before;
	volatile size_t i, lost = 0;

	sigaction(SIGBUS, &catch, &before);
	for (i = 0; i < pages; i++) {
		if (sigsetjmp(at_a_lost_page, 1))
			lost++;
		else
			wl_check_key("surveyed", area + i * WL_PAGE, content_key(9, i, generation[i]), i);
	}
	sigaction(SIGBUS, &before, NULL);
	return lost;
}

static size_t work(void)
{
	static uint64_t rng = 5;
	size_t n, i;

	for (n = 0; n < 64; n++) {
		i = content_next(&rng) % pages;
		check("worked on", i);
	}
	return n;
}

static size_t rss(void)
{
	char line[256];
	size_t kib = 0;
	FILE *file = fopen("/proc/self/status", "re");

	WL_CHECK(file, "/proc/self/status: %s", strerror(errno));
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, "VmRSS: %zu", &kib) == 1)
			break;
	fclose(file);
	WL_CHECK(kib, "no VmRSS");
	return kib;
}

#define RESERVED ((size_t)17 << 30)

static unsigned char *reserved;

static size_t reserve(void)
{
	reserved = mmap(NULL, RESERVED, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	WL_CHECK(reserved != MAP_FAILED, "17 GiB: %s", strerror(errno));
	wl_fill(reserved, 64, 10);
	return 64;
}

#define PIECES ((size_t)2000)

static size_t scatter(void)
{
	unsigned char *piece = mmap(NULL, PIECES * 2 * WL_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	size_t i;

	WL_CHECK(piece != MAP_FAILED && piece < area, "pieces: %p, %s", (void *)piece, strerror(errno));
	for (i = 0; i < PIECES; i++, piece += 2 * WL_PAGE)
		WL_CHECK(!mprotect(piece, WL_PAGE, PROT_READ | PROT_WRITE), "mprotect: %s", strerror(errno));
	return i;
}

static size_t hold(void)
{
	const size_t n = 1100;
	pthread_mutex_t *mutex = calloc(n, sizeof(*mutex));
	pthread_mutexattr_t attr;
	size_t i;

	WL_CHECK(mutex, "calloc");
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
	for (i = 0; i < n; i++) {
		pthread_mutex_init(&mutex[i], &attr);
		WL_CHECK(!pthread_mutex_lock(&mutex[i]), "a mutex");
	}
	return n;
}

static bool obey(const char *line)
{
	if (!strcmp(line, "verify"))
		printf("right %zu\n", verify());
	else if (!strcmp(line, "change"))
		printf("changed %zu\n", change());
	else if (!strcmp(line, "survey"))
		printf("lost %zu\n", survey());
	else if (!strcmp(line, "work"))
		printf("right %zu\n", work());
	else if (!strcmp(line, "fork"))
		printf("right %zu\n", verify_in_child());
	else if (!strcmp(line, "brood"))
		printf("born %zu\n", brood());
	else if (!strcmp(line, "longest"))
		printf("longest %.0f\n", take_longest() * 1e6);
	else if (!strcmp(line, "absent"))
		printf("absent %zu\n", wl_absent(area, pages));
	else if (!strcmp(line, "pages"))
		printf("pages %zu\n", pages);
	else if (!strcmp(line, "lock"))
		printf("locked %d\n", mlockall(MCL_CURRENT) ? errno : 0);
	else if (!strcmp(line, "reserve"))
		printf("reserved %zu\n", reserve());
	else if (!strcmp(line, "drop"))
		printf("dropped %d\n", madvise(reserved, RESERVED, MADV_DONTNEED) ? errno : 0);
	else if (!strcmp(line, "scatter"))
		printf("scattered %zu\n", scatter());
	else if (!strcmp(line, "hold"))
		printf("held %zu\n", hold());
	else if (!strcmp(line, "rss"))
		printf("rss %zu\n", rss());
	else if (!strcmp(line, "quit"))
		return false;
	else
		printf("unknown %s\n", line);
	return true;
}

int main(int argc, char **argv)
{
	char line[64];

	pages = (size_t)(wl_arg(argc, argv, 1, 32) * 256);
	WL_CHECK(pages, "nothing to do");
	setvbuf(stdout, NULL, _IOLBF, 0);
	generation = calloc(pages, sizeof(*generation));
	WL_CHECK(generation, "calloc");
	if (getenv("WORKLOAD_KEEP"))
		keep_the_rest();
	area = wl_map(pages);
	wl_fill(area, pages, 9);
	printf("ready %d\n", (int)getpid());
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = 0;
		if (!obey(line))
			break;
	}
	printf("bye\n");
	return 0;
}
