/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/fdpass.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "common/reaper.h"
#include "common/util.h"

#define SCM_MAX 253 /* the kernel's: descriptors in one packet */

int fdpass_send(int sock, const void *packet, size_t size, const int *fds, unsigned nr)
{
	union {
		char buf[CMSG_SPACE(FDPASS_MAX * sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	struct iovec iov = { .iov_base = (void *)(uintptr_t)packet, .iov_len = size };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	assert(nr <= FDPASS_MAX);
	if (nr) {
		struct cmsghdr *c;

		msg.msg_control = control.buf;
		msg.msg_controllen = CMSG_SPACE(nr * sizeof(int));
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(nr * sizeof(int));
		memcpy(CMSG_DATA(c), fds, nr * sizeof(int));
	}
	return sendmsg(sock, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)size ? 0 : -errno;
}

/* True: there was room for all. */
static bool take_control(struct msghdr *msg, uid_t uid, int *fds, unsigned *nr, pid_t *peer)
{
	bool fits = true;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		if (c->cmsg_level != SOL_SOCKET)
			continue;
		if (c->cmsg_type == SCM_RIGHTS) {
			unsigned n = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));

			for (unsigned i = 0; i < n; i++) {
				int fd;

				memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
				if (*nr < FDPASS_MAX) {
					fds[(*nr)++] = fd;
				} else {
					reaper_close_of(uid, fd);
					fits = false;
				}
			}
		} else if (c->cmsg_type == SCM_CREDENTIALS) {
			struct ucred cred;

			memcpy(&cred, CMSG_DATA(c), sizeof(cred));
			*peer = cred.pid;
		}
	}
	return fits;
}

ssize_t fdpass_recv(int sock, uid_t uid, void *packet, size_t room, int *fds, unsigned *nr, pid_t *peer)
{
	/* Room for as many as there can be: those without it the kernel would
	   drop on our behalf, in this thread, and that may wait. */
	union {
		char buf[CMSG_SPACE(SCM_MAX * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
		struct cmsghdr align;
	} control;
	struct iovec iov = { .iov_base = packet, .iov_len = room };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.buf,
			      .msg_controllen = sizeof(control.buf) };
	ssize_t n;

	*nr = 0;
	*peer = 0;
	if (reaper_is_full(uid))
		return -EUSERS;
	n = recvmsg(sock, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (n < 0)
		return -errno;
	if (!take_control(&msg, uid, fds, nr, peer) || msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
		fdpass_close(uid, fds, *nr);
		*nr = 0;
		return -EMSGSIZE;
	}
	return n;
}

void fdpass_close(uid_t uid, int *fds, unsigned nr)
{
	for (unsigned i = 0; i < nr; i++)
		reaper_close_of(uid, take_fd(&fds[i]));
}

bool fdpass_info(int fd, const char *name, char *value, size_t size)
{
	_cleanup_close_ int info = -1;
	char path[64], text[1024];
	size_t length = strlen(name);
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	info = open(path, O_RDONLY | O_CLOEXEC);
	n = info < 0 ? -1 : read(info, text, sizeof(text) - 1);
	text[n > 0 ? n : 0] = '\0';
	for (const char *line = text; *line; line += strcspn(line, "\n") + (strchr(line, '\n') != NULL)) {
		if (strncmp(line, name, length) != 0 || line[length] != ':')
			continue;
		line += length + 1;
		line += strspn(line, " \t");
		snprintf(value, size, "%.*s", (int)strcspn(line, "\n"), line);
		return true;
	}
	return false;
}
