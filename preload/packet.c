/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Packets of wire.h with descriptors, for the handshake. See shim.h for the
 * rules of code in a foreign process.
 */
#include "preload/shim.h"

struct wire_head packet_head(enum wire_type type)
{
	struct wire_head head = { WIRE_MAGIC, WIRE_VERSION, (uint16_t)type };

	return head;
}

long packet_send(int sock, void *packet, size_t size, const int *fd, unsigned int nr)
{
	union {
		struct sys_cmsghdr head;
		char space[sizeof(struct sys_cmsghdr) + PACKET_FDS * sizeof(int)];
	} control;
	struct iovec iov = { packet, size };
	struct sys_msghdr msg = { .iov = &iov, .iovlen = 1 };
	long n;

	if (nr) {
		control.head.len = sizeof(control.head) + nr * sizeof(int);
		control.head.level = SOL_SOCKET;
		control.head.type = SYS_SCM_RIGHTS;
		memcpy(control.space + sizeof(control.head), fd, nr * sizeof(int));
		msg.control = &control;
		msg.controllen = control.head.len;
	}
	do
		n = sys_sendmsg(sock, &msg);
	while (n == -EINTR); /* SIGSTOP and SIGCONT interrupt a timed wait */
	if (n < 0)
		return n;
	return (size_t)n == size ? 0 : -EPROTO;
}

/* Takes the descriptors out of a control message; how many there were. */
static unsigned int take_fds(const struct sys_msghdr *msg, int *fd)
{
	const struct sys_cmsghdr *head = msg->control;
	unsigned int nr;

	if (msg->controllen < sizeof(*head) || head->level != SOL_SOCKET ||
	    head->type != SYS_SCM_RIGHTS || head->len < sizeof(*head))
		return 0;
	nr = (unsigned int)((head->len - sizeof(*head)) / sizeof(int));
	if (nr > PACKET_FDS)
		nr = PACKET_FDS; /* the buffer holds no more */
	memcpy(fd, head + 1, nr * sizeof(int));
	return nr;
}

/*
 * Receives one packet of exactly this size and type. fd[] gets its `want`
 * descriptors, or all stay -1; a refusal brings none, and the caller sees it
 * by the status. 0 or a negative errno.
 */
long packet_recv(int sock, void *packet, size_t size, enum wire_type type, int *fd,
		 unsigned int want)
{
	char control[sizeof(struct sys_cmsghdr) + PACKET_FDS * sizeof(int)]
		__attribute__((aligned(8)));
	struct iovec iov = { packet, size };
	struct sys_msghdr msg = {
		.iov = &iov, .iovlen = 1, .control = control, .controllen = sizeof(control)
	};
	int got[PACKET_FDS] = { -1, -1, -1, -1 };
	const struct wire_head *head = packet;
	unsigned int nr, i;
	long n;

	do
		n = sys_recvmsg(sock, &msg);
	while (n == -EINTR);
	if (n <= 0)
		return n ? n : -ECONNRESET;
	nr = take_fds(&msg, got);
	if ((size_t)n == size && head->magic == WIRE_MAGIC && head->version == WIRE_VERSION &&
	    head->type == type && !(msg.flags & (SYS_MSG_TRUNC | SYS_MSG_CTRUNC)) &&
	    (nr == want || nr == 0)) {
		for (i = 0; i < nr; i++)
			fd[i] = got[i];
		return 0;
	}
	for (i = 0; i < nr; i++)
		sys_close(got[i]);
	/* Fewer descriptors than were sent: no room in this process's table. */
	return msg.flags & SYS_MSG_CTRUNC ? -EMFILE : -EPROTO;
}
