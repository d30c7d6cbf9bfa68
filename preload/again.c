/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The agent has gone (killed, with all that kept its descriptors) and the
 * workload lives, perhaps waiting for a page: the mover, which holds the
 * userfaultfd, looks for another agent and introduces the workload to it
 * (WIRE_AGAIN). All of it runs in the mover; see mover.c for its rules.
 *
 * It tries without an end, since the workload may wait as long; once a second
 * in the long run, a connect() to nobody. No step of it blocks, so that the
 * mover goes on looking after its workload meanwhile: an agent that doesn't
 * answer is waited for in the mover's one poll.
 */
#include "preload/shim.h"

#define PAUSE_NSEC 50000000u
#define PAUSE_MAX_NSEC 1000000000u

static void give_up(struct mover *m)
{
	mover_hang_up(m);
	m->again = AGAIN_NO;
}

void again_try(struct mover *m)
{
	struct wire_hello hello = { .head = packet_head(WIRE_HELLO), .kind = WIRE_AGAIN };
	struct sockaddr_un to = { .sun_family = SYS_AF_UNIX };
	uint64_t now = sys_now();

	/* A path that isn't absolute was meant from a directory that we have left. */
	if (m->again == AGAIN_NEVER || now < m->again_at || m->leave_by || shim.socket_path[0] != '/')
		return;
	m->again_pause = m->again_pause ? m->again_pause * 2 : PAUSE_NSEC;
	if (m->again_pause > PAUSE_MAX_NSEC)
		m->again_pause = PAUSE_MAX_NSEC;
	m->again_at = now + m->again_pause;
	m->sock = (int)sys_socket_seqpacket(SYS_SOCK_NONBLOCK);
	if (m->sock < 0)
		return;
	memcpy(to.sun_path, shim.socket_path, sizeof(to.sun_path));
	hello.nonce = m->gate->token;
	if (sys_connect(m->sock, &to, sizeof(to)) || packet_send(m->sock, &hello, sizeof(hello), NULL, 0))
		give_up(m);
	else
		m->again = AGAIN_WELCOME;
}

static int take_welcome(struct mover *m)
{
	struct wire_attach w = { .nr_never = 0 };
	struct wire_welcome welcome;
	int fd[PACKET_FDS] = { m->uffd, m->mem, m->pagemap, m->pidfd };

	if (packet_recv(m->sock, &welcome, sizeof(welcome), WIRE_WELCOME, NULL, 0) ||
	    welcome.status != WIRE_OK || m->mem < 0 || m->pagemap < 0)
		return -1;
	attach_fill(&w, m->arena, shim.identity);
	w.away = m->gate->away;
	return packet_send(m->sock, &w, sizeof(w), fd, PACKET_FDS) ? -1 : 0;
}

/* Over the old one, whose agent is dead: nobody looks into that any more. */
static int map_gate(const struct mover *m, int memfd)
{
	uint64_t at = arena_at(m->arena, ARENA_GATE);

	if (sys_lseek(memfd, 0, SYS_SEEK_END) < (long)WIRE_PAGE ||
	    sys_mmap_shared_at(at, WIRE_PAGE, memfd) < 0)
		return -1;
	sys_madvise(at, WIRE_PAGE, MADV_DONTDUMP);
	return sys_madvise(at, WIRE_PAGE, MADV_DONTFORK) ? -1 : 0;
}

static int take_attached(struct mover *m)
{
	struct wire_attached attached;
	int fd[PACKET_FDS] = { -1, -1, -1, -1 };
	int mapped;

	if (packet_recv(m->sock, &attached, sizeof(attached), WIRE_ATTACHED, fd, 2) ||
	    attached.status != WIRE_OK || fd[0] < 0 || fd[1] < 0)
		return -1;
	mapped = map_gate(m, fd[0]);
	sys_close(fd[0]);
	sys_close(m->event);
	m->event = fd[1];
	m->inside = 0;
	if (!mapped)
		return 0;
	/* It can't be worked for. The agent, which has the userfaultfd by now, sees
	   us hang up, and restores the workload. */
	mover_hang_up(m);
	m->again = AGAIN_NEVER;
	return 0;
}

void again_answer(struct mover *m)
{
	if (m->again == AGAIN_WELCOME) {
		if (take_welcome(m))
			give_up(m);
		else
			m->again = AGAIN_ATTACHED;
		return;
	}
	if (take_attached(m)) {
		give_up(m);
		return;
	}
	if (m->again == AGAIN_NEVER)
		return;
	m->again = AGAIN_NO;
	m->again_at = m->again_pause = 0;
	mover_ready(m);
}
