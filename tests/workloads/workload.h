/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * workload: what the self-checking programs of this folder share. They know
 * nothing of uswap and must pass without it. Under the test harness
 * WORKLOAD_EVICT=1 says that pages are being taken away: then they wait, within
 * bounds, until that has happened to them, and fail if it never does.
 * WORKLOAD_EVICT=managed says that there may have been no agent when a program
 * started: it looks whether it is managed, says so in a line of the file
 * WORKLOAD_NOTE, and waits only then. Forked ones don't wait at all.
 *
 * WORKLOAD_WHY names a file to which the reason of a failure is added, wherever the
 * error output goes. WORKLOAD_STOP=1 stops a program (SIGSTOP) where it found a wrong byte.
 * Include this first: it asks for GNU extensions.
 */
#ifndef USWAP_TEST_WORKLOAD_H
#define USWAP_TEST_WORKLOAD_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "content.h"

#define WL_PAGE ((size_t)CONTENT_PAGE)
#define WL_EVICT_SHARE 50   /* percent of an area that must be seen to leave */
#define WL_EVICT_SECONDS (30 * wl_time_factor()) /* ... within this time */

/* Limits for what hangs are longer where the harness says so. */
static inline int wl_time_factor(void)
{
	const char *factor = getenv("USWAP_TIME_FACTOR");

	return factor && atoi(factor) > 0 ? atoi(factor) : 1;
}

/* Without stdio's locks and buffers: also for children of threaded parents. */
__attribute__((format(printf, 2, 0))) static inline void wl_line(int fd, const char *format, va_list ap)
{
	char text[512];
	int n, m;

	n = snprintf(text, sizeof(text), "%s[%d]: ", program_invocation_short_name, (int)getpid());
	m = vsnprintf(text + n, sizeof(text) - (size_t)n - 1, format, ap);
	n = n + m < (int)sizeof(text) - 1 ? n + m : (int)sizeof(text) - 2;
	text[n++] = '\n';
	if (write(fd, text, (size_t)n) < 0)
		return;
}

__attribute__((format(printf, 1, 2))) static inline void wl_say(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	wl_line(STDOUT_FILENO, format, ap);
	va_end(ap);
}

__attribute__((format(printf, 1, 2), noreturn)) static inline void wl_fail(const char *format, ...)
{
	const char *why = getenv("WORKLOAD_WHY");
	va_list ap;
	int fd;

	va_start(ap, format);
	wl_line(STDERR_FILENO, format, ap);
	va_end(ap);
	fd = why ? open(why, O_WRONLY | O_APPEND | O_CLOEXEC) : -1;
	if (fd >= 0) {
		va_start(ap, format);
		wl_line(fd, format, ap);
		va_end(ap);
	}
	if (getenv("WORKLOAD_STOP"))
		raise(SIGSTOP);
	_exit(1);
}

#define WL_CHECK(cond, ...)           \
	do {                          \
		if (!(cond))          \
			wl_fail(__VA_ARGS__); \
	} while (0)

/* A system call or library function that must not fail. */
#define WL_OK(call)                                                                         \
	__extension__({                                                                     \
		long wl_ok_ = (long)(call);                                                 \
		if (wl_ok_ == -1)                                                           \
			wl_fail("%s:%d: %s: %s", __FILE__, __LINE__, #call, strerror(errno)); \
		wl_ok_;                                                                     \
	})

static inline double wl_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static inline void wl_sleep_ms(unsigned ms)
{
	struct timespec t = { .tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000 };

	while (nanosleep(&t, &t) < 0 && errno == EINTR)
		continue;
}

/* The n-th command line argument as a number, or a default. */
static inline double wl_arg(int argc, char **argv, int n, double otherwise)
{
	char *end;
	double value;

	if (argc <= n)
		return otherwise;
	value = strtod(argv[n], &end);
	if (end == argv[n] || *end || value < 0) {
		fprintf(stderr, "%s: argument %d is not a number: %s\n", argv[0], n, argv[n]);
		exit(2);
	}
	return value;
}

/* One of its mappings has this flag, with a space before it. */
static inline bool wl_has_flag(const char *flag)
{
	FILE *file = fopen("/proc/self/smaps", "re");
	char line[512];
	bool found = false;

	while (file && !found && fgets(line, sizeof(line), file))
		found = !strncmp(line, "VmFlags:", 8) && strstr(line, flag);
	if (file)
		fclose(file);
	return found;
}

/* Somebody watches its memory by a userfaultfd. */
static inline bool wl_is_watched(void)
{
	return wl_has_flag(" um");
}

static inline bool wl_is_managed(void)
{
	static bool known, managed;
	static pid_t asked;
	const char *note = getenv("WORKLOAD_NOTE");
	FILE *file;

	if (known)
		return managed && asked == getpid();
	known = true;
	asked = getpid();
	managed = wl_is_watched();
	file = note ? fopen(note, "ae") : NULL;
	if (file) {
		fprintf(file, "%s\n", managed ? "managed" : "unmanaged");
		fclose(file);
	}
	return managed;
}

static inline bool wl_evicting(void)
{
	const char *text = getenv("WORKLOAD_EVICT");

	return text && (*text == '1' || (!strcmp(text, "managed") && wl_is_managed()));
}

/* An empty file without a name, opened with these flags besides O_RDWR. */
static inline int wl_scratch_file(int flags)
{
	const char *folder = getenv("TMPDIR");
	char path[256];
	int fd, again;

	snprintf(path, sizeof(path), "%s/uswap-workload.XXXXXX", folder ? folder : "/tmp");
	fd = (int)WL_OK(mkostemp(path, O_CLOEXEC));
	again = open(path, O_RDWR | O_CLOEXEC | flags);
	unlink(path);
	close(fd);
	return again;
}

/* Memory of its own mapping: inaccessible pages stand on both sides. */
static inline unsigned char *wl_map(size_t pages)
{
	size_t bytes = pages * WL_PAGE;
	unsigned char *all = mmap(NULL, bytes + 2 * WL_PAGE, PROT_NONE,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	WL_CHECK(all != MAP_FAILED, "mmap of %zu pages: %s", pages, strerror(errno));
	WL_OK(mprotect(all + WL_PAGE, bytes, PROT_READ | PROT_WRITE));
	return all + WL_PAGE;
}

static inline void wl_unmap(unsigned char *area, size_t pages)
{
	WL_OK(munmap(area - WL_PAGE, (pages + 2) * WL_PAGE));
}

/* New memory in the place of the old: pages that often came back are waited with
   longer before they leave again; these are new ones. */
static inline void wl_renew(unsigned char *area, size_t pages)
{
	void *at = mmap(area, pages * WL_PAGE, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);

	WL_CHECK(at == area, "mmap of %zu pages: %s", pages, strerror(errno));
}

/* Says what is wrong with a page: for whoever has to find out why. */
__attribute__((noreturn, cold)) static inline void
wl_wrong(const char *what, const unsigned char *page, const unsigned char *want, size_t index)
{
	unsigned char found[CONTENT_PAGE];
	unsigned i, first = CONTENT_PAGE, wrong = 0, zero = 0;

	memcpy(found, page, sizeof(found));
	for (i = 0; i < CONTENT_PAGE; i++) {
		zero += !found[i];
		if (found[i] == want[i])
			continue;
		wrong++;
		if (first == CONTENT_PAGE)
			first = i;
	}
	if (first == CONTENT_PAGE)
		wl_fail("%s: page %zu at %p was wrong and is right at a second look", what, index,
			(const void *)page);
	wl_fail("%s: page %zu at %p: %u bytes wrong, first at %u: %02x instead of %02x%s", what,
		index, (const void *)page, wrong, first, found[first], want[first],
		zero == CONTENT_PAGE ? "; the page is all zeros" : "");
}

static inline void wl_check_key(const char *what, const unsigned char *page, uint64_t key,
				size_t index)
{
	unsigned char want[CONTENT_PAGE];

	content_page(want, key);
	if (memcmp(page, want, CONTENT_PAGE))
		wl_wrong(what, page, want, index);
}

static inline bool wl_is_zero(const unsigned char *page)
{
	return !page[0] && !memcmp(page, page + 1, CONTENT_PAGE - 1);
}

static inline void wl_check_zero(const char *what, const unsigned char *page, size_t index)
{
	static const unsigned char zero[CONTENT_PAGE];

	if (!wl_is_zero(page))
		wl_wrong(what, page, zero, index);
}

static inline void wl_check_zeros(const char *what, const unsigned char *area, size_t pages)
{
	size_t i;

	for (i = 0; i < pages; i++)
		wl_check_zero(what, area + i * WL_PAGE, i);
}

static inline void wl_fill(unsigned char *area, size_t pages, uint64_t seed)
{
	size_t i;

	for (i = 0; i < pages; i++)
		content_page(area + i * WL_PAGE, content_key(seed, i, 0));
}

static inline void wl_verify(const char *what, const unsigned char *area, size_t pages,
			     uint64_t seed)
{
	size_t i;

	for (i = 0; i < pages; i++)
		wl_check_key(what, area + i * WL_PAGE, content_key(seed, i, 0), i);
}

/* The i-th of a pseudo-random order of all n pages. */
static inline size_t wl_shuffled(size_t i, size_t n, uint64_t seed)
{
	size_t mask = 1, at = i;
	unsigned round;

	while (mask < n)
		mask <<= 1;
	mask--;
	do { /* each step is a bijection of [0, mask]; leave out what is >= n */
		for (round = 0; round < 3; round++) {
			at = (at * 0x9e3779b1u + (size_t)(seed >> (round * 8))) & mask;
			at ^= at >> 3;
		}
	} while (at >= n);
	return at;
}

/* Of an entry of pagemap: neither memory nor kernel swap; where a page has left
   there may be a mark, which shows as one in swap that is write-protected. */
static inline bool wl_is_absent(uint64_t entry)
{
	return !(entry >> 62) || (entry >> 62 == 1 && (entry >> 57 & 1));
}

/* Pages with neither memory nor kernel swap behind them. */
static inline size_t wl_absent(const void *area, size_t pages)
{
	uint64_t entry[256];
	size_t i, n, absent = 0, first = (size_t)((uintptr_t)area / WL_PAGE);
	int fd = open("/proc/thread-self/pagemap", O_RDONLY | O_CLOEXEC);

	WL_CHECK(fd >= 0, "/proc/self/pagemap: %s", strerror(errno));
	while (pages) {
		n = pages < 256 ? pages : 256;
		WL_CHECK(pread(fd, entry, n * 8, (off_t)(first * 8)) == (ssize_t)(n * 8),
			 "/proc/self/pagemap: short read");
		for (i = 0; i < n; i++)
			absent += wl_is_absent(entry[i]);
		first += n;
		pages -= n;
	}
	close(fd);
	return absent;
}

/*
 * Waits until a share of the pages has left; they must have been filled. A
 * program that isn't being evicted returns at once. Returns how many are away.
 */
static inline size_t wl_wait_evicted(const char *what, const void *area, size_t pages,
				     unsigned percent)
{
	double end = wl_now() + WL_EVICT_SECONDS;
	size_t want = (pages * percent + 99) / 100, absent;

	if (!wl_evicting())
		return 0;
	while ((absent = wl_absent(area, pages)) < want) {
		WL_CHECK(wl_now() < end, "%s: only %zu of %zu pages have left within %d s", what,
			 absent, pages, WL_EVICT_SECONDS);
		wl_sleep_ms(5);
	}
	return absent;
}

/* As above, but it is no failure if they don't leave. */
static inline size_t wl_try_evicted(const void *area, size_t pages, unsigned percent,
				    double seconds)
{
	double end = wl_now() + seconds;
	size_t absent;

	if (!wl_evicting())
		return 0;
	while ((absent = wl_absent(area, pages)) * 100 < pages * percent && wl_now() < end)
		wl_sleep_ms(2);
	return absent;
}

/* Waits for a child, within bounds, and wants this wait status. */
static inline void wl_reap(const char *what, pid_t pid, int want)
{
	double end = wl_now() + 60 * wl_time_factor();
	int status;
	pid_t got;

	while (!(got = waitpid(pid, &status, WNOHANG))) {
		WL_CHECK(wl_now() < end, "%s: child %d has not ended in time", what, (int)pid);
		wl_sleep_ms(1);
	}
	WL_CHECK(got == pid, "%s: waitpid(%d): %s", what, (int)pid, strerror(errno));
	WL_CHECK(status == want, "%s: child %d: wait status %#x instead of %#x", what, (int)pid,
		 (unsigned)status, (unsigned)want);
}

#define WL_EXITED(code) ((code) << 8)

#endif
