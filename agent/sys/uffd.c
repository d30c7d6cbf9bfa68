/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "sys/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>

#include "common/fdpass.h"
#include "common/util.h"

#define WAKE_TRIES 10
#define LOWEST_MAX ((uint64_t)16 << 20) /* where at the latest programs may begin */

static int kernel_api(int fd, uint64_t features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };

	return ioctl(fd, UFFDIO_API, &api) < 0 ? -errno : 0;
}

static int kernel_register(int fd, uint64_t start, uint64_t len, bool marks)
{
	struct uffdio_register reg = {
		.range = { .start = start, .len = len },
		.mode = UFFDIO_REGISTER_MODE_MISSING | (marks ? UFFDIO_REGISTER_MODE_WP : 0),
	};

	return ioctl(fd, UFFDIO_REGISTER, &reg) < 0 ? -errno : 0;
}

static int kernel_unregister(int fd, uint64_t start, uint64_t len)
{
	struct uffdio_range range = { .start = start, .len = len };

	return ioctl(fd, UFFDIO_UNREGISTER, &range) < 0 ? -errno : 0;
}

static int kernel_copy(int fd, uint64_t dst, const void *src, uint64_t len, int64_t *done)
{
	struct uffdio_copy copy = { .dst = dst, .src = (uintptr_t)src, .len = len };
	int r = ioctl(fd, UFFDIO_COPY, &copy) < 0 ? -errno : 0;

	*done = copy.copy;
	return r;
}

static int kernel_zero(int fd, uint64_t dst, uint64_t len, int64_t *done)
{
	struct uffdio_zeropage zero = { .range = { .start = dst, .len = len } };
	int r = ioctl(fd, UFFDIO_ZEROPAGE, &zero) < 0 ? -errno : 0;

	*done = zero.zeropage;
	return r;
}

/* Whoever is not woken sleeps for ever, so an error that may pass is not taken
   for an answer. */
static int kernel_wake(int fd, uint64_t start, uint64_t len)
{
	struct uffdio_range range = { .start = start, .len = len };

	for (unsigned tries = 0; ioctl(fd, UFFDIO_WAKE, &range) < 0; tries++)
		if ((errno != EAGAIN && errno != EINTR && errno != ENOMEM) || tries == WAKE_TRIES)
			return -errno;
	return 0;
}

static int kernel_poison(int fd, uint64_t start, uint64_t len, int64_t *done)
{
	struct uffdio_poison poison = { .range = { .start = start, .len = len } };
	int r = ioctl(fd, UFFDIO_POISON, &poison) < 0 ? -errno : 0;

	*done = poison.updated;
	return r;
}

/*
 * A read() that must not block, on a descriptor whose O_NONBLOCK a hostile
 * holder may clear between our look and our read: a timer ends it then. It
 * comes again and again until disarmed, since it may be early.
 */
#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif
#define READ_SIGNAL (SIGRTMIN + 3)
#define READ_NS 1000000
#define READ_TRIES 4 /* interrupted by chance, on a machine with too much to do */

static __thread struct {
	timer_t timer;
	bool ready;
} reader;

static void on_timer(int signal)
{
	(void)signal;
}

static int let_signal(int how)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, READ_SIGNAL);
	return -pthread_sigmask(how, &set, NULL);
}

int uffd_reader_init(void)
{
	struct sigaction action = { .sa_handler = on_timer }; /* no SA_RESTART */
	struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = READ_SIGNAL };

	event.sigev_notify_thread_id = (pid_t)syscall(SYS_gettid);
	if (sigaction(READ_SIGNAL, &action, NULL) < 0 ||
	    timer_create(CLOCK_MONOTONIC, &event, &reader.timer) < 0)
		return -errno;
	reader.ready = true;
	return let_signal(SIG_UNBLOCK);
}

void uffd_reader_deinit(void)
{
	if (!reader.ready)
		return;
	reader.ready = false;
	timer_delete(reader.timer);
	(void)let_signal(SIG_BLOCK);
}

static void set_timer(long ns)
{
	const struct itimerspec in = { .it_value.tv_nsec = ns, .it_interval.tv_nsec = ns };

	(void)timer_settime(reader.timer, 0, &in, NULL);
}

/* How often this thread has slept: a read that doesn't block never does. */
static long sleeps(void)
{
	struct rusage usage;

	return getrusage(RUSAGE_THREAD, &usage) < 0 ? 0 : usage.ru_nvcsw;
}

static ssize_t read_bounded(int fd, void *to, size_t size)
{
	long before = sleeps();
	ssize_t n = -1;
	int saved;

	if (!reader.ready)
		goto tampered;
	set_timer(READ_NS);
	for (unsigned i = 0; i < READ_TRIES; i++) {
		int flags = fcntl(fd, F_GETFL);

		if (flags < 0 || !(flags & O_NONBLOCK))
			break;
		n = read(fd, to, size);
		if (n >= 0 || errno != EINTR) {
			saved = errno;
			set_timer(0);
			errno = saved;
			return n;
		}
		if (sleeps() != before)
			break;
	}
	set_timer(0);
tampered:
	errno = EBADFD;
	return -1;
}

static int kernel_read(int fd, struct uffd_msg *msgs, unsigned max)
{
	struct iovec iov = { .iov_base = msgs, .iov_len = max * sizeof(*msgs) };
	/* RWF_NOWAIT and not O_NONBLOCK alone: the workload holds the same open
	   file and could clear that flag to hang this thread. */
	ssize_t n = preadv2(fd, &iov, 1, -1, RWF_NOWAIT);

	/* Descriptors that the kernel made for fork children don't know
	   RWF_NOWAIT (seen on 6.18). */
	if (n < 0 && errno == EOPNOTSUPP)
		n = read_bounded(fd, msgs, iov.iov_len);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	return (int)((size_t)n / sizeof(*msgs));
}

/* CONTINUE is for shared memory: the kernel looks for a registered mapping, and
   then refuses ours, whether a page is there or not (6.18). */
static int kernel_is_registered(int fd, uint64_t address)
{
	struct uffdio_continue arg = {
		.range = { .start = address & ~(PAGE_BYTES - 1), .len = PAGE_BYTES },
		.mode = UFFDIO_CONTINUE_MODE_DONTWAKE,
	};

	if (ioctl(fd, UFFDIO_CONTINUE, &arg) == 0 || errno == EINVAL || errno == EEXIST)
		return 1;
	if (errno != ENOENT)
		return -errno;
	/* The kernel looks for changes first: one that came behind that may have taken away
	   what was there, and its event is not read. */
	return uffd_is_changing(fd) ? -EAGAIN : 0;
}

static int kernel_mark(int fd, uint64_t start, uint64_t len, bool on)
{
	struct uffdio_writeprotect mark = {
		.range = { .start = start, .len = len },
		.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	return ioctl(fd, UFFDIO_WRITEPROTECT, &mark) < 0 ? -errno : 0;
}

const struct uffd_ops uffd_kernel = {
	.api = kernel_api,
	.register_range = kernel_register,
	.unregister = kernel_unregister,
	.copy = kernel_copy,
	.zero = kernel_zero,
	.wake = kernel_wake,
	.poison = kernel_poison,
	.read = kernel_read,
	.is_registered = kernel_is_registered,
	.mark = kernel_mark,
};
const struct uffd_ops *uffd_ops = &uffd_kernel;

int uffd_api(int fd, bool *marks)
{
	int r = uffd_ops->api(fd, UFFD_REQUIRED_FEATURES | UFFD_MARK_FEATURES);

	*marks = r == 0;
	return r == -EINVAL ? uffd_ops->api(fd, UFFD_REQUIRED_FEATURES) : r;
}

/* done: the ioctl's own count, meaningful whenever it is positive. */
static enum placed placed_from(int r, int64_t done, unsigned *pages)
{
	if (done > 0) {
		*pages = (unsigned)((uint64_t)done >> PAGE_SHIFT);
		return PLACED_DONE;
	}
	*pages = 0;
	switch (r) {
	case -EEXIST:
		return PLACED_EXISTS;
	case -EAGAIN:
		return PLACED_RETRY;
	case -ENOENT:
	case -EINVAL:
	case -EFAULT:
		return PLACED_GONE;
	case -ESRCH:
		return PLACED_DEAD;
	case -ENOMEM:
		return PLACED_NOMEM;
	default:
		return PLACED_FAILED;
	}
}

/* The kernel looks the mapping up before it looks for unread events: while one
   is under way, ENOENT may be about a mapping that has just moved (6.18). */
static enum placed unless_changing(int fd, enum placed placed)
{
	return placed == PLACED_GONE && uffd_is_changing(fd) ? PLACED_RETRY : placed;
}

enum placed uffd_place_copy(int fd, uint64_t dst, const void *src, unsigned *pages)
{
	int64_t done = 0;
	int r = uffd_ops->copy(fd, dst, src, (uint64_t)*pages << PAGE_SHIFT, &done);

	return unless_changing(fd, placed_from(r, done, pages));
}

typedef int (*place_fn)(int fd, uint64_t dst, uint64_t len, int64_t *done);

/* What doesn't overwrite a mark: it goes first. Not to be had where nothing is
   registered for marks, and of no meaning for a page that is there. */
static enum placed place_unmarked(place_fn place, int fd, uint64_t dst, unsigned *pages)
{
	uint64_t len = (uint64_t)*pages << PAGE_SHIFT;
	int64_t done = 0;
	int r = place(fd, dst, len, &done);

	if (r == -EEXIST && done <= 0) {
		int gone = uffd_unmark(fd, dst, PAGE_BYTES);

		if (gone == 0)
			r = place(fd, dst, len, &done);
		else if (gone != -ENOENT)
			r = gone; /* an event has come between: no page may be there */
	}
	return unless_changing(fd, placed_from(r, done, pages));
}

enum placed uffd_place_zero(int fd, uint64_t dst, unsigned *pages)
{
	return place_unmarked(uffd_ops->zero, fd, dst, pages);
}

enum placed uffd_place_poison_run(int fd, uint64_t dst, unsigned *pages)
{
	return place_unmarked(uffd_ops->poison, fd, dst, pages);
}

enum placed uffd_look_for_mark(int fd, uint64_t dst)
{
	int64_t done = 0;
	unsigned pages;
	int r = uffd_ops->zero(fd, dst, PAGE_BYTES, &done);

	return unless_changing(fd, placed_from(r, done, &pages));
}

bool uffd_marks_hold(int fd, uint64_t at)
{
	int64_t done = 0;

	return uffd_ops->mark(fd, at, PAGE_BYTES, true) == 0 &&
	       uffd_ops->zero(fd, at, PAGE_BYTES, &done) == -EEXIST && uffd_unmark(fd, at, PAGE_BYTES) == 0;
}

enum placed uffd_place_poison(int fd, uint64_t dst)
{
	unsigned one = 1;

	return uffd_place_poison_run(fd, dst, &one);
}

bool uffd_alive(int fd)
{
	int64_t done = 0;

	/* The first page is never registered (vm.mmap_min_addr, proc/mappings.c), so this
	   changes nothing: ENOENT in a living address space. */
	return uffd_ops->zero(fd, 0, PAGE_BYTES, &done) != -ESRCH;
}

int uffd_wake_all(int fd)
{
	/* The kernel compares addresses only; both ends must be possible ones. The lowest is
	   the machine's affair (vm.mmap_min_addr, and what a security module adds), and there
	   are programs that begin there: so it is felt for, page by page. */
	const uint64_t middle = (uint64_t)1 << 46;
	uint64_t start = 0;
	int r;

	while ((r = uffd_ops->wake(fd, start, middle - start)) == -EINVAL && start < LOWEST_MAX)
		start += PAGE_BYTES;
	return r < 0 ? r : uffd_ops->wake(fd, middle, middle - PAGE_BYTES);
}

bool uffd_is_changing(int fd)
{
	int64_t done = 0;

	return uffd_ops->zero(fd, 0, PAGE_BYTES, &done) == -EAGAIN;
}

bool uffd_is_uffd(int fd)
{
	static const char want[] = "anon_inode:[userfaultfd]";
	char path[64], target[64];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = readlink(path, target, sizeof(target));
	return n == (ssize_t)sizeof(want) - 1 && memcmp(target, want, (size_t)n) == 0;
}

bool uffd_has_features(int fd, uint64_t features)
{
	unsigned long long has = 0;
	char api[128];

	/* "aa:FEATURES:IOCTLS" */
	return fdpass_info(fd, "API", api, sizeof(api)) && sscanf(api, "%*x:%llx:", &has) == 1 &&
	       (has & features) == features;
}
