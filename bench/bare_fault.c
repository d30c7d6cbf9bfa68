/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * bare_fault MIB FAULTS: the least that a fault served by another process can
 * cost, in the agent's shape: epoll, read, UFFDIO_COPY of a ready page, nobody
 * pinned to a processor. For every line "round" on standard input it touches
 * FAULTS pages that are away and prints "p50 p99 mean count" in nanoseconds; for
 * "copy" it copies all of them itself, sixteen in a run, and prints "PAGE 0 0
 * count", processor time of each; "quit" ends it.
 */
#include "touch.h"

#include <linux/userfaultfd.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#define MESSAGES 16
#define RUN 16

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
	struct uffdio_api api = { .api = UFFD_API };
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

static void copy_all(unsigned char *area, size_t pages)
{
	static unsigned char ready[RUN * CONTENT_PAGE] __attribute__((aligned(4096)));
	uint64_t begin;
	size_t i;

	memset(ready, 1, sizeof(ready));
	begin = touch_cpu();
	for (i = 0; i + RUN <= pages; i += RUN) {
		struct uffdio_copy copy = {
			.dst = (uintptr_t)area + i * WL_PAGE,
			.src = (uintptr_t)ready,
			.len = sizeof(ready),
		};

		WL_OK(ioctl(uffd, UFFDIO_COPY, &copy));
	}
	printf("%llu 0 0 %zu\n", (unsigned long long)(i ? (touch_cpu() - begin) / i : 0), i);
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
		if (!strcmp(line, "copy\n"))
			copy_all(area, pages);
		else
			touch_round(area, pages, ns, faults, ++round);
		WL_OK(madvise(area, pages * WL_PAGE, MADV_DONTNEED));
	}
	kill(agent, SIGKILL);
	return 0;
}
