/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * have_move: can this machine run the live tests? Exits 0, or 77 after saying
 * why not: /dev/userfaultfd must open and the kernel must offer UFFDIO_MOVE and
 * the fork, remap, remove and unmap events.
 */
#include "workload.h"

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

/* The C library's headers may be older than the kernel that runs. */
#define FEATURE_MOVE (1ull << 16)
#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

static int no(const char *what)
{
	printf("%s: %s\n", what, strerror(errno));
	return 77;
}

int main(void)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = FEATURE_MOVE | UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP |
			    UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP,
	};
	int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC), fd;

	if (device < 0)
		return no("/dev/userfaultfd");
	fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC);
	if (fd < 0)
		return no("USERFAULTFD_IOC_NEW");
	if (ioctl(fd, UFFDIO_API, &api) < 0)
		return no("userfaultfd with UFFD_FEATURE_MOVE and its events");
	return 0;
}
