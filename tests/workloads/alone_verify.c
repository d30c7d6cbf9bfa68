/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * alone_verify: memory that must never leave, beside some that does: locked,
 * shared, of files, executable, read-only, a thread's stack and control block,
 * not for children, not for core files, merged by KSM, pinned by io_uring. While
 * two generations of ordinary pages leave and come back, all of it stays, and is
 * right. (With a userfaultfd of its own: uffd_verify.)
 * alone_verify --lockall: what is away comes back by mlockall and stays, with
 * MCL_ONFAULT when it is touched.
 */
#include "workload.h"

#include <linux/io_uring.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#define PAGES 64
#define AREAS 32
#define ORDINARY 512
#define BATCH 64 /* pages that may be leaving at one moment */

struct kept {
	const char *name;
	unsigned char *at;
	size_t pages;
};

static struct kept kept[AREAS];
static unsigned nr_kept;
static unsigned char *ordinary;

static unsigned char *keep(const char *name, unsigned char *at, size_t pages, bool fill)
{
	WL_CHECK(nr_kept < AREAS, "more areas");
	if (fill)
		wl_fill(at, pages, nr_kept);
	kept[nr_kept++] = (struct kept){ .name = name, .at = at, .pages = pages };
	return at;
}

/* Filled and away first; then something is done to it that brings it back or
   lets it stay away, but lets no more of it leave. */
static unsigned char *keep_later(const char *name)
{
	unsigned char *at = keep(name, wl_map(PAGES), PAGES, true);

	wl_wait_evicted(name, at, PAGES, WL_EVICT_SHARE);
	return at;
}

static unsigned char *map_fd(int fd, int flags)
{
	void *at = mmap(NULL, PAGES * WL_PAGE, PROT_READ | PROT_WRITE, flags, fd, 0);

	WL_CHECK(at != MAP_FAILED, "mmap: %s", strerror(errno));
	return at;
}

static void files(void)
{
	char path[] = "/tmp/uswap-alone.XXXXXX";
	int mem = (int)WL_OK(memfd_create("alone", MFD_CLOEXEC)), file = (int)WL_OK(mkstemp(path));

	unlink(path);
	WL_OK(ftruncate(mem, 2 * PAGES * (off_t)WL_PAGE));
	WL_OK(ftruncate(file, PAGES * (off_t)WL_PAGE));
	keep("shared, anonymous", map_fd(-1, MAP_SHARED | MAP_ANONYMOUS), PAGES, true);
	keep("shared memfd", map_fd(mem, MAP_SHARED), PAGES, true);
	keep("shared file", map_fd(file, MAP_SHARED), PAGES, true);
	keep("private memfd, written", map_fd(mem, MAP_PRIVATE), PAGES, true);
	keep("private file, written", map_fd(file, MAP_PRIVATE), PAGES, true);
	close(mem);
	close(file);
}

static void protections(void)
{
	static const unsigned char code[] = { 0xb8, 0x2a, 0, 0, 0, 0xc3 }; /* return 42 */
	unsigned char *at;
	size_t i;

	at = keep("writable and executable", wl_map(PAGES), PAGES, true);
	WL_OK(mprotect(at, PAGES * WL_PAGE, PROT_READ | PROT_WRITE | PROT_EXEC));
	at = keep("read-only", wl_map(PAGES), PAGES, true);
	WL_OK(mprotect(at, PAGES * WL_PAGE, PROT_READ));
	at = wl_map(PAGES);
	for (i = 0; i < PAGES; i++)
		memcpy(at + i * WL_PAGE, code, sizeof(code));
	WL_OK(mprotect(at, PAGES * WL_PAGE, PROT_READ | PROT_EXEC));
	for (i = 0; i < PAGES; i++) {
		int (*run)(void);

		memcpy(&run, &(void *){ at + i * WL_PAGE }, sizeof(run));
		WL_CHECK(run() == 42, "code does not run");
	}
}

static void advices(void)
{
	unsigned char *at;

	at = keep("DONTFORK", wl_map(PAGES), PAGES, true);
	WL_OK(madvise(at, PAGES * WL_PAGE, MADV_DONTFORK));
	at = keep("DONTDUMP", wl_map(PAGES), PAGES, true);
	WL_OK(madvise(at, PAGES * WL_PAGE, MADV_DONTDUMP));
	at = keep("WIPEONFORK", wl_map(PAGES), PAGES, true);
	WL_OK(madvise(at, PAGES * WL_PAGE, MADV_WIPEONFORK));
	at = keep("MERGEABLE", wl_map(PAGES), PAGES, true);
	if (madvise(at, PAGES * WL_PAGE, MADV_MERGEABLE)) {
		WL_CHECK(errno == EINVAL, "MERGEABLE: %s", strerror(errno));
		nr_kept--;
	}
}

static void locks(void)
{
	unsigned char *at = keep("locked", wl_map(PAGES), PAGES, true);

	WL_OK(mlock(at, PAGES * WL_PAGE));
	at = keep_later("locked when it was away");
	WL_OK(mlock(at, PAGES * WL_PAGE));
	WL_CHECK(wl_absent(at, PAGES) == 0, "locked pages are away");
	at = keep("locked on fault", wl_map(PAGES), PAGES, true);
	WL_OK(mlock2(at, PAGES * WL_PAGE, MLOCK_ONFAULT));
}

/* ---- io_uring, by its system calls ---- */

static unsigned char *pinned;
static int ring = -1;

/* Every other page of an area is a fixed buffer: those stay, the others not. */
static void fixed_buffers(void)
{
	struct io_uring_params params = { .flags = 0 };
	struct iovec buffer[PAGES / 2];
	size_t i;

	pinned = wl_map(PAGES);
	wl_fill(pinned, PAGES, 1000);
	wl_wait_evicted("before it is a buffer", pinned, PAGES, WL_EVICT_SHARE);
	ring = (int)syscall(SYS_io_uring_setup, 4, &params);
	if (ring < 0) {
		wl_say("no io_uring: %s", strerror(errno));
		return;
	}
	for (i = 0; i < PAGES / 2; i++)
		buffer[i] = (struct iovec){ pinned + 2 * i * WL_PAGE, WL_PAGE };
	WL_OK(syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, buffer, PAGES / 2));
}

static void check_pinned(void)
{
	size_t i;

	if (ring >= 0)
		for (i = 0; i < PAGES; i += 2)
			WL_CHECK(!wl_absent(pinned + i * WL_PAGE, 1), "page %zu of a fixed buffer is away", i);
	wl_verify("fixed buffers and between", pinned, PAGES, 1000);
}

/* ---- threads ---- */

static pthread_barrier_t met;
static unsigned char *_Atomic deep;

static void check_stack(const volatile unsigned char *local, size_t size)
{
	for (size_t i = 0; i < size; i++)
		WL_CHECK(local[i] == (unsigned char)(i * 7), "a stack has changed at %zu", i);
}

/* Once before it is known as a thread its stack may leave. */
static void *sleeper(void *arg)
{
	volatile unsigned char local[16 * CONTENT_PAGE];
	size_t i;

	for (i = 0; i < sizeof(local); i++)
		local[i] = (unsigned char)(i * 7);
	deep = (unsigned char *)(uintptr_t)local;
	pthread_barrier_wait(&met);
	pthread_barrier_wait(&met);
	check_stack(local, sizeof(local));
	pthread_barrier_wait(&met);
	pthread_barrier_wait(&met);
	check_stack(local, sizeof(local));
	return arg;
}

/* ---- the whole ---- */

static void check_kept(const char *when)
{
	unsigned i;

	for (i = 0; i < nr_kept; i++)
		WL_CHECK(!wl_evicting() || wl_absent(kept[i].at, kept[i].pages) == 0,
			 "%s: %zu of %zu pages of \"%s\" are away", when,
			 wl_absent(kept[i].at, kept[i].pages), kept[i].pages, kept[i].name);
}

static void verify_kept(void)
{
	unsigned i;

	for (i = 0; i < nr_kept; i++)
		wl_verify(kept[i].name, kept[i].at, kept[i].pages, i);
}

static size_t kept_away(void)
{
	size_t away = 0;
	unsigned i;

	for (i = 0; i < nr_kept; i++)
		away += wl_absent(kept[i].at, kept[i].pages);
	return away;
}

/* Some have left before they became what they are, or before that was seen. */
static void settle(void)
{
	double end = wl_now() + WL_EVICT_SECONDS;
	unsigned calm = 0;

	do {
		WL_CHECK(wl_now() < end, "others leave again and again: %zu pages", kept_away());
		verify_kept();
		wl_verify("ordinary pages", ordinary, ORDINARY, 500);
		wl_wait_evicted("ordinary pages, at first", ordinary, ORDINARY, 90);
		calm = kept_away() ? 0 : calm + 1;
	} while (wl_evicting() && calm < 2);
}

/*
 * mlockall brings back what is away. The one batch that was leaving at that moment
 * may still leave, and that may take its time; it comes back untouched. Nothing else.
 */
static void check_locked(const unsigned char *more)
{
	double end = wl_now() + WL_EVICT_SECONDS;
	size_t away;

	do {
		while ((away = wl_absent(ordinary, ORDINARY))) {
			WL_CHECK(away <= BATCH, "%zu of %u locked pages are away after mlockall", away, ORDINARY);
			WL_CHECK(wl_now() < end, "%zu locked pages stay away", away);
			wl_sleep_ms(5);
		}
		wl_sleep_ms(wl_evicting() ? 1500 : 0);
	} while (wl_absent(ordinary, ORDINARY));
	away = wl_absent(more, ORDINARY);
	WL_CHECK(away == 0, "%zu pages locked from the start have left", away);
	wl_verify("locked by mlockall", ordinary, ORDINARY, 500);
}

static int locked_all(void)
{
	static const int how[] = { 0, MCL_ONFAULT };
	unsigned char *more;
	unsigned i;

	for (i = 0; i < 2; i++) {
		wl_wait_evicted("before mlockall", ordinary, ORDINARY, WL_EVICT_SHARE);
		if (mlockall(MCL_CURRENT | MCL_FUTURE | how[i])) {
			wl_say("mlockall: %s", strerror(errno));
			return 77;
		}
		more = wl_map(ORDINARY);
		wl_fill(more, ORDINARY, 501);
		if (how[i]) /* what is away is locked when it is touched */
			wl_verify("locked on fault", ordinary, ORDINARY, 500);
		check_locked(more);
		wl_verify("locked from the start", more, ORDINARY, 501);
		WL_OK(munlockall());
		wl_wait_evicted("after munlockall", ordinary, ORDINARY, WL_EVICT_SHARE);
		wl_verify("after munlockall", ordinary, ORDINARY, 500);
	}
	wl_say("mlockall brings all back and keeps it");
	return 0;
}

int main(int argc, char **argv)
{
	pthread_t thread;
	unsigned round, i;

	ordinary = wl_map(ORDINARY);
	wl_fill(ordinary, ORDINARY, 500);
	if (argc == 2 && !strcmp(argv[1], "--lockall"))
		return locked_all();
	files();
	protections();
	advices();
	locks();
	fixed_buffers();
	WL_CHECK(!pthread_barrier_init(&met, NULL, 2), "barrier");
	WL_CHECK(!pthread_create(&thread, NULL, sleeper, NULL), "pthread_create");
	pthread_barrier_wait(&met);
	settle();
	for (round = 0; round < 3; round++) {
		wl_wait_evicted("ordinary pages", ordinary, ORDINARY, 90);
		check_kept("others have left");
		WL_CHECK(!round || !wl_evicting() || !wl_absent(deep, 15), "pages of a thread's stack are away");
		for (i = 0; !round && i < 2; i++) /* it looks at its stack */
			pthread_barrier_wait(&met);
		wl_verify("ordinary pages", ordinary, ORDINARY, 500);
		check_pinned();
	}
	pthread_barrier_wait(&met);
	pthread_join(thread, NULL);
	check_kept("at the end");
	verify_kept();
	wl_say("%u kinds of memory stayed and are right", nr_kept + 2);
	return 0;
}
