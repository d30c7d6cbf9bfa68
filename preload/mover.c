/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The mover: a process of its own that shares the workload's memory and
 * nothing else. UFFDIO_MOVE works only inside the caller's address space, so
 * the agent orders here what it can't do itself.
 *
 * Rules, on top of those in shim.h:
 * - It touches its own struct mover, its stack, the gate and the shim's image:
 *   none of these is ever registered. A touch of any other page could wait
 *   for the agent for ever.
 * - It holds a reference to the userfaultfd for the workload's whole life. When
 *   the last reference closes, every evicted page silently reads as zero; with
 *   this one a dead agent means a pause, never corruption (INV-6). So a lost
 *   or senseless agent is no reason to exit: the mover looks for another one
 *   (again.c). These are: the workload has exited or executed another image, or
 *   the agent has said LEAVE.
 * - It keeps the workload's address space alive, so it must notice that the
 *   workload is gone: by its pidfd, and for exec by comparing address spaces.
 * - It maps nothing but another agent's gate, and decides nothing.
 */
#include "preload/shim.h"
#include "uapi/uswap_uapi.h"

/* Between two looks at the workload, which may have executed another image. It mostly does so
   soon, and what it leaves then goes when we have seen it: at first ten times a second, later
   once in an eighth of its age, and each second at least. */
#define LOOK_NSEC 100000000u
#define LOOK_MAX_NSEC 1000000000u
#define LOOK_SHARE 8
#define DROP_NSEC 5000000L /* nothing else came: what was dropped goes */
/* With the workload gone, for the agent to take what is in transit: it may be dying, or
   have no processor. */
#define LINGER_NSEC 5000000000u
#define SEND_WAIT_NSEC 1000000000L
#define OWN_FDS 5

/* ---- the workload's end ---- */

/*
 * After pthread_exit in the main thread its task stays as a zombie without an
 * address space while the other threads run on: that looks like an exec to
 * kcmp. The state letter stands after the last ')' of /proc/PID/stat.
 */
static int main_thread_is_gone(int pid)
{
	char path[32] = "/proc/", digits[12], text[160];
	unsigned int at = 6, n = 0;
	long fd, len;

	while (pid > 0) {
		digits[n++] = (char)('0' + pid % 10);
		pid /= 10;
	}
	while (n)
		path[at++] = digits[--n];
	memcpy(path + at, "/stat", sizeof("/stat"));
	fd = sys_open(path, O_RDONLY);
	if (fd < 0)
		return 1; /* can't tell: stay */
	len = sys_read((int)fd, text, sizeof(text));
	sys_close((int)fd);
	while (len > 0 && text[len - 1] != ')')
		len--;
	if (len <= 0 || (unsigned long)len + 1 >= sizeof(text))
		return 1;
	return text[len + 1] == 'Z' || text[len + 1] == 'X';
}

static int workload_is_gone(const struct mover *m)
{
	struct pollfd p = { .fd = m->pidfd, .events = POLLIN };

	if (sys_ppoll(&p, 1, 0) == 1)
		return 1;
	/* EPERM (made undumpable) and ENOSYS say nothing: the agent looks. */
	return sys_kcmp_vm(m->workload, m->self) > 0 && !main_thread_is_gone(m->workload);
}

/*
 * With the workload gone there is no need to stay, unless pages are in transit:
 * a child forked a moment ago may be to get them, and they go with this address
 * space. The agent has them once it drops them, which takes it no time.
 */
static void exit_if_gone(struct mover *m)
{
	uint64_t now = sys_now();

	if (!m->leave_by && workload_is_gone(m))
		m->leave_by = now + LINGER_NSEC;
	if (m->leave_by && (!m->in_transit || m->sock < 0 || now >= m->leave_by))
		sys_exit_group(0);
}

/* At most ten times a second, however many orders come. */
void mover_look(struct mover *m)
{
	uint64_t now = sys_now();

	if (now < m->next_look)
		return;
	m->next_look = now + LOOK_NSEC;
	exit_if_gone(m);
}

/*
 * Not while pages are away: what is left of the program may touch them, with nobody
 * but the agent to hold the userfaultfd. Nor for a process that only shares the
 * program's memory.
 */
static int may_leave(const struct mover *m, int tid)
{
	return __atomic_load_n(&shim.turn, __ATOMIC_ACQUIRE) == TURN_END && !m->in_transit &&
	       m->gate->away == 1 && sys_tgkill(m->workload, tid, 0) != -ESRCH;
}

/* The bell; or the program reads all that it can read, and has come to it or to the
   trash. */
static void hear_bell(struct mover *m)
{
	struct uffdio_zeropage zero = { .range = { .len = WIRE_PAGE } };
	struct uffd_msg msg;

	if (sys_read(m->trash_uffd, &msg, sizeof(msg)) != (long)sizeof(msg))
		return;
	if (may_leave(m, (int)msg.arg.pagefault.feat.ptid)) {
		shim.attached = 0; /* nor do fork children need a mover */
		sys_exit_group(0);
	}
	zero.range.start = msg.arg.pagefault.address & ~(uint64_t)(WIRE_PAGE - 1);
	if (sys_ioctl(m->trash_uffd, UFFDIO_ZEROPAGE, &zero))
		sys_ioctl(m->trash_uffd, UFFDIO_WAKE, &zero.range); /* it is there, or asked for again */
}

/* ---- the agent's end ---- */

/* Closing tells a living agent that it can't count on this mover any more. */
void mover_hang_up(struct mover *m)
{
	if (m->sock >= 0)
		sys_close(m->sock);
	m->sock = -1;
}

/* Never waits without an eye on the workload: it may exit meanwhile. */
static void send_agent(struct mover *m, const void *packet, size_t size)
{
	struct pollfd p[2] = { { .fd = m->sock, .events = POLLOUT },
			       { .fd = m->pidfd, .events = POLLIN } };
	long n;

	for (;;) {
		n = sys_send(m->sock, packet, size, SYS_MSG_DONTWAIT);
		if (n == (long)size)
			return;
		if (n != -EAGAIN && n != -EINTR)
			break;
		if (m->leave_by)
			p[1].fd = -1;
		sys_ppoll(p, 2, SEND_WAIT_NSEC);
		if (p[1].revents || m->leave_by)
			exit_if_gone(m);
		mover_look(m);
	}
	mover_hang_up(m);
}

void mover_ready(struct mover *m)
{
	struct wire_ready ready = {
		.head = { WIRE_MAGIC, WIRE_VERSION, WIRE_READY },
		.mover = (uint32_t)m->self,
	};

	send_agent(m, &ready, sizeof(ready));
}

void mover_report(struct mover *m)
{
	m->report.head = (struct wire_head){ WIRE_MAGIC, WIRE_VERSION, WIRE_REPORT };
	m->report.seq = m->order.seq;
	m->report.drop_error = m->drop_error;
	m->drop_error = 0;
	send_agent(m, &m->report, sizeof(m->report));
}

void mover_keep_own_fds(const struct mover *m)
{
	int fd[OWN_FDS] = { m->sock, m->uffd, m->trash_uffd, m->event, m->pidfd };
	unsigned int i, k, next = 0;

	for (i = 1; i < OWN_FDS; i++) {
		int one = fd[i];

		for (k = i; k && fd[k - 1] > one; k--)
			fd[k] = fd[k - 1];
		fd[k] = one;
	}
	for (i = 0; i < OWN_FDS; i++) {
		if ((unsigned int)fd[i] > next)
			sys_close_range(next, (unsigned int)fd[i] - 1);
		next = (unsigned int)fd[i] + 1;
	}
	sys_close_range(next, ~0u);
}

/* ---- the loop ---- */

/* The agent has died since it took us in, and the next one does not know whether we
   were told; what came with it is the gate that we have. */
static int is_told_again(const struct mover *m, long size)
{
	return size == (long)sizeof(struct wire_attached) && m->order.head.magic == WIRE_MAGIC &&
	       m->order.head.version == WIRE_VERSION && m->order.head.type == WIRE_ATTACHED;
}

static void take_order(struct mover *m)
{
	long n = sys_recv(m->sock, &m->order, sizeof(m->order), SYS_MSG_DONTWAIT | SYS_MSG_TRUNC);

	if (n == -EAGAIN || n == -EINTR)
		return;
	/* Also 0, its end closed. A bad order is from no agent of ours. */
	if (is_told_again(m, n))
		mover_ready(m);
	else if (order_is_sane(m, n))
		order_obey(m);
	else
		mover_hang_up(m);
}

/* A session and a directory of its own: no terminal, no pinned mount. */
static void settle(struct mover *m)
{
	static const char name[] = "uswap-mover", root[] = "/";
	uint32_t state = MOVER_STARTING;

	m->self = (int)sys_getpid();
	m->born = sys_now();
	sys_call(__NR_setsid, 0, 0, 0, 0, 0);
	sys_call(__NR_chdir, root, 0, 0, 0, 0);
	sys_prctl(PR_SET_NAME, (unsigned long)name, 0);
	/* While they can be had: the workload may become undumpable. */
	m->mem = (int)sys_open("/proc/self/mem", O_RDONLY);
	m->pagemap = (int)sys_open("/proc/self/pagemap", O_RDONLY);
	if (!__atomic_compare_exchange_n(&m->state, &state, MOVER_RUNNING, 0, __ATOMIC_ACQ_REL,
					 __ATOMIC_ACQUIRE))
		sys_exit_group(0);
	sys_futex_wake(&m->state);
}

/* How long to sleep, if nothing happens. */
static long look_interval(const struct mover *m)
{
	uint64_t nsec;

	if (m->dropped) /* so it is between two orders, mostly */
		return DROP_NSEC;
	nsec = (sys_now() - m->born) / LOOK_SHARE;
	if (nsec < LOOK_NSEC || m->sock < 0 || m->leave_by ||
	    __atomic_load_n(&shim.turn, __ATOMIC_RELAXED) == TURN_END)
		return LOOK_NSEC;
	return nsec < LOOK_MAX_NSEC ? (long)nsec : LOOK_MAX_NSEC;
}

/* There is something to read, or nobody to read from, or time (idle). Not if the program
   ends, and waits for us. */
static void work(struct mover *m, int idle)
{
	if (!take_turn(&shim.turn, TURN_MOVER))
		return;
	if (idle)
		mover_drop(m);
	if (m->sock < 0)
		again_try(m);
	else if (m->again)
		again_answer(m);
	else
		take_order(m);
	__atomic_store_n(&shim.turn, TURN_FREE, __ATOMIC_RELEASE);
}

void mover_main(void *mover)
{
	struct mover *m = mover;
	int idle;

	settle(m);
	mover_ready(m);
	for (;;) {
		struct pollfd p[3] = { { .fd = m->pidfd, .events = POLLIN },
				       { .fd = m->sock, .events = POLLIN },
				       { .fd = m->trash_uffd, .events = POLLIN } };

		if (m->leave_by)
			p[0].fd = -1; /* known, and it would not let us sleep */
		if (__atomic_load_n(&shim.turn, __ATOMIC_RELAXED) == TURN_END)
			p[1].fd = -1; /* nor would this: no order is taken now */
		idle = sys_ppoll(p, 3, look_interval(m)) == 0;
		if (p[2].revents)
			hear_bell(m);
		if (p[1].revents || m->sock < 0 || (idle && m->dropped))
			work(m, idle);
		if (p[0].revents || m->leave_by)
			exit_if_gone(m);
		mover_look(m);
	}
}
