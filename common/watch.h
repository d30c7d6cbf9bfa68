/* SPDX-License-Identifier: GPL-2.0-or-later */
/* epoll_ctl for descriptors without which somebody would wait for ever: an
   error that may pass is not taken for an answer. Any thread. */
#ifndef USWAP_COMMON_WATCH_H
#define USWAP_COMMON_WATCH_H

#include <errno.h>
#include <sys/epoll.h>

#define WATCH_TRIES 10

/* 0 or negative errno. */
static inline int watch_set(int epoll, int op, int fd, struct epoll_event event)
{
	for (unsigned tries = 0; epoll_ctl(epoll, op, fd, &event) < 0; tries++)
		if ((errno != ENOMEM && errno != EINTR && errno != EAGAIN) || tries == WATCH_TRIES)
			return -errno;
	return 0;
}

#endif
