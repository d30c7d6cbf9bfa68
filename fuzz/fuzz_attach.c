/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The attach protocol: what a stranger sends on the agent's socket, packets and
 * descriptors. Input: for each packet its kind of descriptors (a byte: how many
 * in the upper half, which in the lower), its length (a byte) and its bytes.
 *
 * The peer's pid is made that of a child process: nobody may attach to itself.
 * Sessions are refused where the kernel would register their memory.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "common/fdpass.h"
#include "engine/private.h"
#include "uapi/uswap_uapi.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int __wrap_getsockopt(int fd, int level, int name, void *value, socklen_t *len);
int __real_getsockopt(int fd, int level, int name, void *value, socklen_t *len);

static struct engine engine;
static pid_t peer;

int __wrap_getsockopt(int fd, int level, int name, void *value, socklen_t *len)
{
	int r = __real_getsockopt(fd, level, name, value, len);

	if (r == 0 && level == SOL_SOCKET && name == SO_PEERCRED)
		((struct ucred *)value)->pid = peer;
	return r;
}

static int refuse_register(int fd, uint64_t start, uint64_t len, bool marks)
{
	(void)fd;
	(void)start;
	(void)len;
	(void)marks;
	return -EINVAL;
}

static int take_api(int fd, uint64_t features)
{
	(void)fd;
	(void)features;
	return 0;
}

static const struct uffd_ops ops = { .api = take_api, .register_range = refuse_register };

static void set_up(void)
{
	uffd_ops = &ops;
	peer = fork();
	if (peer == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	engine.epoll = epoll_create1(EPOLL_CLOEXEC);
	engine.device = open("/dev/null", O_RDONLY | O_CLOEXEC);
	engine.settings.max_processes = 100;
	engine.nr_owners = 1;
	engine.owners[0].owner.slots = slot_pool_new((size_t)16 << 20);
	engine.flow.next_session_id = 1;
	if (engine.epoll < 0 || engine.device < 0 || !engine.owners[0].owner.slots)
		abort();
}

static int open_kind(unsigned kind)
{
	switch (kind % 6) {
	case 0:
		return (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	case 1:
		return open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
	case 2:
		return open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	case 3:
		return open("/dev/null", O_RDWR | O_CLOEXEC);
	case 4:
		return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	default:
		return open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	}
}

/* In order from the one asked for: 0 is what an honest shim sends. */
static void send_packet(int sock, unsigned fds_byte, const void *bytes, size_t n)
{
	int fds[FDPASS_MAX];
	unsigned nr = 0;

	for (unsigned i = 0; i < fds_byte >> 4 && nr < FDPASS_MAX; i++) {
		int fd = open_kind((fds_byte & 15) + i);

		if (fd >= 0)
			fds[nr++] = fd;
	}
	(void)fdpass_send(sock, bytes, n, fds, nr);
	for (unsigned i = 0; i < nr; i++)
		close(fds[i]);
}

static void take_answers(int sock)
{
	char packet[256];
	int fds[FDPASS_MAX];
	unsigned nr;
	pid_t from;

	while (fdpass_recv(sock, 0, packet, sizeof(packet), fds, &nr, &from) > 0)
		for (unsigned i = 0; i < nr; i++)
			close(fds[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int pair[2];

	if (!peer)
		set_up();
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		abort();
	attach_accept(&engine, pair[0]);
	for (size_t at = 0; engine.attaching && at + 2 <= size;) {
		size_t n = MIN(data[at + 1], size - at - 2);

		send_packet(pair[1], data[at], data + at + 2, n);
		at += 2 + n;
		attach_event(&engine, engine.attaching);
		take_answers(pair[1]);
	}
	attach_cancel_all(&engine);
	if (engine.attaching || engine.nr_attaching || engine.sessions)
		abort(); /* nothing of it may stay */
	close(pair[1]);
	return 0;
}
