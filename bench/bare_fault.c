/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bare_fault MIB FAULTS: the least that a fault served by another process can
 * cost, in the agent's shape: epoll, read, UFFDIO_COPY of a ready page, nobody
 * pinned to a processor. For every line "round" on standard input it touches
 * FAULTS pages that are away and prints "p50 p99 mean count" in nanoseconds; "quit"
 * ends it. And the least that the kernel and the machine take to bring a page back and
 * to take it out: for "alone" it copies all of them itself, sixteen in a run, touches
 * them in order, and moves them to another place, 64 at a time, from where they are
 * read and dropped; prints "COPY TOUCH MOVE count", processor time of a page.
 */
#include "touch.h"

#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "uapi/uswap_uapi.h"

#define MESSAGES 16
#define RUN 16
#define BATCH 64

static int uffd = -1;

static void serve(void)
{
	static unsigned char ready[CONTENT_PAGE] __attribute__((aligned(4096)));
	struct epoll_event event = { .events = EPOLLIN };
	struct uffd_msg message[MESSAGES];
	int epoll = (int)WL_OK(epoll_create1(EPOLL_CLOEXEC));
	ssize_t n, i;

	WL_OK(prctl(PR_SET_PDEATHSIG, SIGKILL));
	touch_content(ready, 0);
	WL_OK(epoll_ctl(epoll, EPOLL_CTL_ADD, uffd, &event));
	for (;;) {
		if (epoll_wait(epoll, &event, 1, -1) <= 0)
			continue;
		n = read(uffd, message, sizeof(message)) / (ssize_t)sizeof(message[0]);
		for (i = 0; i < n; i++) {
			struct uffdio_copy copy = {
				.dst = message[i].arg.pagefault.address & ~(__u64)(WL_PAGE - 1),
				.src = (uintptr_t)ready,
				.len = WL_PAGE,
			};

			if (message[i].event == UFFD_EVENT_PAGEFAULT)
				ioctl(uffd, UFFDIO_COPY, &copy);
		}
	}
}

/* A userfaultfd of our own, served by a child that has no part of our memory. */
static pid_t start(unsigned char *area, size_t pages)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_MOVE };
	struct uffdio_register range = {
		.range = { (uintptr_t)area, pages * WL_PAGE },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	pid_t pid;

	uffd = (int)WL_OK(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
	WL_OK(ioctl(uffd, UFFDIO_API, &api));
	WL_OK(ioctl(uffd, UFFDIO_REGISTER, &range));
	pid = (pid_t)WL_OK(fork());
	if (!pid)
		serve();
	return pid;
}

/* All pages. */
static void copy(unsigned char *area, size_t pages)
{
	static unsigned char ready[RUN * CONTENT_PAGE] __attribute__((aligned(4096)));

	memset(ready, 1, sizeof(ready));
	for (size_t i = 0; i < pages; i += RUN) {
		struct uffdio_copy copy = {
			.dst = (uintptr_t)area + i * WL_PAGE,
			.src = (uintptr_t)ready,
			.len = sizeof(ready),
		};

		WL_OK(ioctl(uffd, UFFDIO_COPY, &copy));
	}
}

static void touch(unsigned char *area, size_t pages)
{
	for (size_t i = 0; i < pages; i++)
		(void)*(volatile unsigned char *)(area + i * WL_PAGE);
}

/* As the agent takes them out, all by one thread. */
static void move(unsigned char *area, size_t pages)
{
	static unsigned char out[BATCH * CONTENT_PAGE] __attribute__((aligned(4096)));
	unsigned char *transit = wl_map(BATCH);
	struct uffdio_register range = {
		.range = { (uintptr_t)transit, sizeof(out) },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	int memory = (int)WL_OK(open("/proc/self/mem", O_RDONLY | O_CLOEXEC));

	WL_OK(ioctl(uffd, UFFDIO_REGISTER, &range));
	for (size_t i = 0; i < pages; i += BATCH) {
		struct uffdio_move move = {
			.dst = (uintptr_t)transit,
			.src = (uintptr_t)area + i * WL_PAGE,
			.len = sizeof(out),
		};

		WL_OK(ioctl(uffd, UFFDIO_MOVE, &move));
		WL_CHECK(pread(memory, out, sizeof(out), (off_t)(uintptr_t)transit) == (ssize_t)sizeof(out), "mem");
		WL_OK(madvise(transit, sizeof(out), MADV_DONTNEED));
	}
	close(memory);
	WL_OK(munmap(transit, sizeof(out)));
}

static void alone(unsigned char *area, size_t pages)
{
	void (*const step[])(unsigned char *, size_t) = { copy, touch, move };
	uint64_t begin;

	for (size_t i = 0; i < sizeof(step) / sizeof(step[0]); i++) {
		begin = touch_cpu();
		step[i](area, pages);
		printf("%llu ", (unsigned long long)((touch_cpu() - begin) / pages));
	}
	printf("%zu\n", pages);
}

int main(int argc, char **argv)
{
	size_t pages = (size_t)(wl_arg(argc, argv, 1, 64) * 256);
	size_t faults = (size_t)wl_arg(argc, argv, 2, 2000), round = 0;
	unsigned char *area = wl_map(pages);
	uint64_t *ns = calloc(faults, sizeof(*ns));
	char line[32];
	pid_t agent;

	WL_CHECK(ns && pages && faults, "nothing to do");
	memset(ns, 1, faults * sizeof(*ns));
	setvbuf(stdout, NULL, _IOLBF, 0);
	agent = start(area, pages);
	printf("ready %d\n", (int)getpid());
	while (fgets(line, sizeof(line), stdin) && strcmp(line, "quit\n")) {
		if (!strcmp(line, "alone\n"))
			alone(area, pages);
		else
			touch_round(area, pages, ns, faults, ++round);
		WL_OK(madvise(area, pages * WL_PAGE, MADV_DONTNEED));
	}
	kill(agent, SIGKILL);
	return 0;
}
