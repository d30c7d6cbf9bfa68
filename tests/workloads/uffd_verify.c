/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * uffd_verify: a program that has a userfaultfd of its own: its faults reach it
 * alone, and before long nothing of its memory is taken any more, so that it can
 * register what it likes.
 */
#include "workload.h"

#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#define PAGES 512
#define OWN_PAGES 64
#define SEED 0x0ffd

static int uffd;

static int open_uffd(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);

	if (fd < 0) {
		wl_say("no userfaultfd here: %s", strerror(errno));
		exit(77);
	}
	WL_OK(ioctl(fd, UFFDIO_API, &api));
	return fd;
}

static int enlist(unsigned char *area, size_t pages)
{
	struct uffdio_register reg = { .range = { (uintptr_t)area, pages * WL_PAGE },
				       .mode = UFFDIO_REGISTER_MODE_MISSING };

	return ioctl(uffd, UFFDIO_REGISTER, &reg) < 0 ? errno : 0;
}

/* Answers its own faults, so many. */
static void *handler(void *arg)
{
	unsigned char page[CONTENT_PAGE];
	unsigned char *area = arg;
	size_t i;

	for (i = 0; i < OWN_PAGES; i++) {
		struct uffd_msg msg;
		struct uffdio_copy copy = { .src = (uintptr_t)page, .len = WL_PAGE };
		size_t at;

		WL_CHECK(read(uffd, &msg, sizeof(msg)) == sizeof(msg), "its own userfaultfd: %s", strerror(errno));
		WL_CHECK(msg.event == UFFD_EVENT_PAGEFAULT, "event %u", msg.event);
		at = (msg.arg.pagefault.address - (uintptr_t)area) / WL_PAGE;
		WL_CHECK(at < OWN_PAGES, "a fault that is not its own");
		content_page(page, content_key(SEED, at, 7));
		copy.dst = (uintptr_t)area + at * WL_PAGE;
		WL_OK(ioctl(uffd, UFFDIO_COPY, &copy));
	}
	return NULL;
}

int main(void)
{
	unsigned char *area = wl_map(PAGES), *own = wl_map(OWN_PAGES);
	double end = wl_now() + 2 * WL_EVICT_SECONDS;
	pthread_t thread;
	size_t i;
	int r;

	uffd = open_uffd();
	wl_fill(area, PAGES, SEED);
	wl_wait_evicted("before", area, PAGES, WL_EVICT_SHARE);
	r = enlist(own, OWN_PAGES);
	WL_CHECK(!r, "new memory can't be registered: %s", strerror(r));
	WL_CHECK(!pthread_create(&thread, NULL, handler, own), "pthread_create");
	for (i = 0; i < OWN_PAGES; i++)
		wl_check_key("its own", own + i * WL_PAGE, content_key(SEED, i, 7), i);
	pthread_join(thread, NULL);
	while ((r = enlist(area, PAGES)) == EBUSY && wl_now() < end)
		wl_sleep_ms(20);
	WL_CHECK(!r, "its memory is still taken: %s", strerror(r));
	WL_CHECK(!wl_absent(area, PAGES), "something is still away");
	wl_verify("after all", area, PAGES, SEED);
	for (i = 0; i < OWN_PAGES; i++)
		wl_check_key("its own, later", own + i * WL_PAGE, content_key(SEED, i, 7), i);
	wl_say("its own userfaultfd had its memory to itself");
	return 0;
}
