/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * hostile_peer SOCKET [SECONDS]: does to the agent's attach socket what no shim
 * does: wrong, short, long and endless packets, wrong descriptors, too many of
 * them, connections by the hundred, an end at each step, a gate that is never
 * left, a mover that lies, descriptors whose closing waits, a userfaultfd whose
 * O_NONBLOCK comes and goes. Every step runs in a child that is killed if the
 * agent leaves it waiting. Exits 0 when all steps were done and the agent still
 * takes connections; whether it is well is for the test to find out.
 */
#include "workload.h"

#include <linux/userfaultfd.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>

#include "common/wire.h"
#include "fuse_hang.h"

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

#define STEP_MS 30000
#define FDS_MAX 253
#define CROWD 300
#define LINGERING 24 /* more than the agent has threads to close them */
#define TOGGLE_SECONDS 1.8

static struct sockaddr_un address = { .sun_family = AF_UNIX };

/* ---- transport ---------------------------------------------------------- */

static int connect_agent(void)
{
	int fd = (int)WL_OK(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));

	if (!connect(fd, (struct sockaddr *)&address, sizeof(address)))
		return fd;
	close(fd);
	return -1;
}

/* Errors don't matter here: the agent may have closed already. */
static void post(int fd, const void *bytes, size_t size, const int *fds, unsigned nr_fds)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * FDS_MAX)];
	} control;
	struct iovec iov = { .iov_base = (void *)(uintptr_t)bytes, .iov_len = size };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct cmsghdr *head;

	if (nr_fds) {
		memset(&control, 0, sizeof(control));
		message.msg_control = control.bytes;
		message.msg_controllen = CMSG_SPACE(sizeof(int) * nr_fds);
		head = CMSG_FIRSTHDR(&message);
		head->cmsg_level = SOL_SOCKET;
		head->cmsg_type = SCM_RIGHTS;
		head->cmsg_len = CMSG_LEN(sizeof(int) * nr_fds);
		memcpy(CMSG_DATA(head), fds, sizeof(int) * nr_fds);
	}
	if (sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		return;
}

/* The answer's size, 0 at its end; up to two descriptors, -1 if none. */
static size_t answer(int fd, void *bytes, size_t size, int fds[2])
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * 4)];
	} control;
	struct iovec iov = { .iov_base = bytes, .iov_len = size };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes,
				  .msg_controllen = sizeof(control.bytes) };
	struct pollfd wait = { .fd = fd, .events = POLLIN };
	struct cmsghdr *head;
	ssize_t n;

	fds[0] = fds[1] = -1;
	if (poll(&wait, 1, 20000) <= 0)
		return 0;
	n = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
	if (n <= 0)
		return 0;
	head = CMSG_FIRSTHDR(&message);
	if (head && head->cmsg_type == SCM_RIGHTS) {
		n = (ssize_t)((head->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(fds, CMSG_DATA(head), sizeof(int) * (size_t)(n > 2 ? 2 : n));
		n = 1;
	}
	return (size_t)n;
}

static struct wire_head head_of(enum wire_type type)
{
	struct wire_head head = { .magic = WIRE_MAGIC, .version = WIRE_VERSION };

	head.type = (uint16_t)type;
	return head;
}

static void hello(int fd)
{
	struct wire_hello packet = { .head = head_of(WIRE_HELLO), .kind = WIRE_NEW };

	post(fd, &packet, sizeof(packet), NULL, 0);
}

/* As far as WELCOME: the device the agent gives, or -1. */
static int welcomed(int fd)
{
	struct wire_welcome packet;
	int fds[2];

	hello(fd);
	answer(fd, &packet, sizeof(packet), fds);
	return fds[0];
}

/* ---- a session that looks right ------------------------------------------ */

struct session {
	int fd;
	int uffd, mem, pagemap;
	int gate, event;
	struct wire_gate *words;
	unsigned char *transit, *identity;
	struct wire_attach attach;
};

/* Of this process, by a connection that is welcome. */
static bool session_fill(struct session *s, int fd, int device)
{
	memset(s, 0, sizeof(*s));
	s->fd = fd;
	if (device < 0)
		return false;
	s->uffd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	close(device);
	s->mem = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
	s->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	s->transit = wl_map(WIRE_TRANSIT_PAGES);
	s->identity = wl_map(1);
	madvise(s->transit, WIRE_TRANSIT_PAGES * WL_PAGE, MADV_DONTFORK);
	madvise(s->identity, WL_PAGE, MADV_WIPEONFORK);
	s->attach.head = head_of(WIRE_ATTACH);
	s->attach.transit = (uintptr_t)s->transit;
	s->attach.identity = (uintptr_t)s->identity;
	s->attach.nr_never = 2;
	s->attach.never[0].start = (uintptr_t)s->transit;
	s->attach.never[0].end = (uintptr_t)s->transit + WIRE_TRANSIT_PAGES * WL_PAGE;
	s->attach.never[1].start = (uintptr_t)s->identity;
	s->attach.never[1].end = (uintptr_t)s->identity + WL_PAGE;
	return s->uffd >= 0;
}

static bool session_prepare(struct session *s)
{
	int fd = connect_agent();

	return session_fill(s, fd, fd < 0 ? -1 : welcomed(fd));
}

static void session_post(struct session *s)
{
	int fds[3] = { s->uffd, s->mem, s->pagemap };

	post(s->fd, &s->attach, sizeof(s->attach), fds, 3);
}

static bool session_attach(struct session *s)
{
	struct wire_attached packet;
	int fds[2];

	if (!session_prepare(s))
		return false;
	session_post(s);
	answer(s->fd, &packet, sizeof(packet), fds);
	s->gate = fds[0];
	s->event = fds[1];
	if (s->gate < 0)
		return false;
	s->words = mmap(NULL, WL_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, s->gate, 0);
	return s->words != MAP_FAILED;
}

static void session_ready(struct session *s)
{
	struct wire_ready packet = { .head = head_of(WIRE_READY), .mover = (uint32_t)getpid() };

	post(s->fd, &packet, sizeof(packet), NULL, 0);
}

/* ---- steps --------------------------------------------------------------- */

static uint64_t rng;

static uint64_t rand64(void)
{
	return content_next(&rng);
}

static void step_connect_only(void)
{
	unsigned i;

	for (i = 0; i < 200; i++)
		close(connect_agent());
}

static void step_noise(void)
{
	static unsigned char bytes[65536];
	unsigned i;
	size_t size;
	int fd;

	for (i = 0; i < 100; i++) {
		fd = connect_agent();
		for (size = 0; size + 8 <= sizeof(bytes); size += 8) {
			uint64_t r = rand64();

			memcpy(bytes + size, &r, sizeof(r));
		}
		post(fd, bytes, i % 3 ? rand64() % 300 : rand64() % sizeof(bytes), NULL, 0);
		post(fd, bytes, rand64() % 64, NULL, 0);
		close(fd);
	}
}

/* Everything near a HELLO, each byte of its head wrong once, each length. */
static void step_hello_damaged(void)
{
	unsigned char bytes[256];
	struct wire_hello packet = { .head = head_of(WIRE_HELLO), .kind = WIRE_NEW };
	struct wire_welcome reply;
	int fd, fds[2];
	size_t i;

	for (i = 0; i < sizeof(packet) + 16; i++) {
		memset(bytes, 0, sizeof(bytes));
		memcpy(bytes, &packet, sizeof(packet));
		fd = connect_agent();
		post(fd, bytes, i, NULL, 0); /* short, right, long */
		close(fd);
		fd = connect_agent();
		bytes[i % sizeof(packet)] ^= (unsigned char)(1 + rand64() % 255);
		post(fd, bytes, sizeof(packet), NULL, 0);
		answer(fd, &reply, sizeof(reply), fds);
		close(fds[0]);
		close(fds[1]);
		close(fd);
	}
}

/* A fork child that nobody knows, and packets that come at the wrong time. */
static void step_wrong_order(void)
{
	static unsigned char bytes[sizeof(struct wire_order)];
	struct wire_hello packet = { .head = head_of(WIRE_HELLO), .kind = WIRE_CHILD };
	struct wire_head head;
	unsigned type;
	int fd, device;

	for (type = 0; type < 10; type++) {
		fd = connect_agent();
		packet.nonce = rand64();
		post(fd, &packet, sizeof(packet), NULL, 0);
		close(fd);
		fd = connect_agent();
		device = type & 1 ? welcomed(fd) : -1;
		head = head_of((enum wire_type)type);
		memcpy(bytes, &head, sizeof(head));
		post(fd, bytes, sizeof(struct wire_hello), NULL, 0);
		post(fd, bytes, sizeof(struct wire_attach), NULL, 0);
		post(fd, bytes, sizeof(bytes), NULL, 0);
		close(device);
		close(fd);
	}
}

static void open_strange(int fds[8])
{
	int ends[2] = { -1, -1 };

	fds[0] = open("/dev/null", O_RDWR | O_CLOEXEC);
	fds[1] = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	fds[2] = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	fds[3] = epoll_create1(EPOLL_CLOEXEC);
	if (pipe2(ends, O_CLOEXEC) < 0)
		ends[0] = ends[1] = -1;
	fds[4] = ends[0];
	fds[5] = ends[1];
	fds[6] = memfd_create("strange", MFD_CLOEXEC);
	fds[7] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

/* ATTACH with all kinds and numbers of descriptors that are not ours. */
static void step_strange_descriptors(void)
{
	int strange[8], fds[FDS_MAX], nr[] = { 0, 1, 2, 3, 4, 16, FDS_MAX };
	struct session s;
	size_t i, k;

	open_strange(strange);
	for (i = 0; i < 7; i++) {
		if (!session_prepare(&s))
			continue;
		for (k = 0; k < FDS_MAX; k++)
			fds[k] = strange[(i + k) % 8];
		post(s.fd, &s.attach, sizeof(s.attach), fds, (unsigned)nr[i]);
		close(s.fd);
	}
	for (i = 0; i < 8 * 3; i++) { /* one of three is wrong */
		if (!session_prepare(&s))
			continue;
		fds[0] = s.uffd;
		fds[1] = s.mem;
		fds[2] = s.pagemap;
		fds[i % 3] = strange[i / 3];
		post(s.fd, &s.attach, sizeof(s.attach), fds, 3);
		wl_sleep_ms(5);
		close(s.fd);
	}
}

/* Somebody else's memory, a used userfaultfd, another process's one. */
static void step_foreign_descriptors(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct session s, other;
	unsigned i;

	for (i = 0; i < 5; i++) {
		if (!session_prepare(&s) || !session_prepare(&other))
			return;
		if (i == 0)
			s.mem = open("/proc/1/mem", O_RDONLY | O_CLOEXEC);
		else if (i == 1)
			s.pagemap = open("/proc/1/pagemap", O_RDONLY | O_CLOEXEC);
		else if (i == 2)
			s.mem = open("/proc/self/mem", O_RDWR | O_CLOEXEC);
		else if (i == 3)
			ioctl(s.uffd, UFFDIO_API, &api);
		else
			s.mem = s.pagemap;
		session_post(&s);
		session_ready(&s);
		wl_sleep_ms(20);
		/* the same userfaultfd for two sessions */
		other.uffd = s.uffd;
		session_post(&other);
		session_ready(&other);
		wl_sleep_ms(20);
		close(s.fd);
		close(other.fd);
	}
}

static void step_attach_damaged(void)
{
	static const uint64_t bad[] = { 0,
					1,
					4096,
					0x123,
					1ull << 47,
					~0ull,
					~0ull << 12,
					0xffff800000000000ull };
	struct session s;
	size_t i;

	for (i = 0; i < 40; i++) {
		if (!session_prepare(&s))
			return;
		if (i < 8)
			s.attach.transit = bad[i];
		else if (i < 16)
			s.attach.identity = bad[i - 8];
		else if (i < 24)
			s.attach.nr_never = i % 2 ? (uint32_t)rand64() : WIRE_NEVER_MAX + (uint32_t)i - 16;
		else if (i < 32)
			s.attach.never[0].end = bad[i - 24];
		else
			((unsigned char *)&s.attach)[rand64() % sizeof(s.attach)] ^= 0x81;
		session_post(&s);
		session_ready(&s);
		wl_sleep_ms(10);
		close(s.fd);
	}
	for (i = 0; i < sizeof(s.attach); i += 13) { /* short */
		int fds[3];

		if (!session_prepare(&s))
			return;
		fds[0] = s.uffd;
		fds[1] = s.mem;
		fds[2] = s.pagemap;
		post(s.fd, &s.attach, i, fds, 3);
		close(s.fd);
	}
}

/* Leaves at each step of a right handshake. */
static void step_leave_early(void)
{
	struct session s;
	unsigned i;
	int fd;

	for (i = 0; i < 20; i++) {
		fd = connect_agent();
		hello(fd);
		close(fd);
		fd = connect_agent();
		close(welcomed(fd));
		close(fd);
		if (session_prepare(&s)) {
			session_post(&s);
			close(s.fd);
		}
		if (session_attach(&s))
			close(s.fd);
		if (session_attach(&s)) {
			session_ready(&s);
			if (i & 1)
				wl_sleep_ms(10);
			close(s.fd);
		}
	}
}

/* The memory it attached, gone while the agent works with it. */
static void step_pull_the_rug(void)
{
	struct session s;
	unsigned char *area;

	if (!session_attach(&s))
		return;
	session_ready(&s);
	area = wl_map(256);
	wl_fill(area, 256, 1);
	wl_sleep_ms(200);
	munmap(s.transit, WIRE_TRANSIT_PAGES * WL_PAGE);
	munmap(s.identity, WL_PAGE);
	close(s.uffd);
	wl_sleep_ms(200);
	wl_unmap(area, 256);
}

static void step_gate(void)
{
	struct session s;
	unsigned char *area;
	unsigned i;

	if (!session_attach(&s))
		return;
	WL_CHECK(ftruncate(s.gate, 0) < 0, "the gate can be cut off");
	WL_CHECK(ftruncate(s.gate, 65536) < 0, "the gate can be made longer");
	fallocate(s.gate, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)WL_PAGE);
	session_ready(&s);
	area = wl_map(256);
	wl_fill(area, 256, 1);
	for (i = 0; i < 200; i++) {
		s.words->word = i < 20 ? WIRE_GATE_MOVER : (uint32_t)rand64();
		s.words->wanted = (uint32_t)rand64();
		s.words->generation = (uint32_t)rand64();
		wl_sleep_ms(i < 20 ? 50 : 2);
	}
	memset(s.words, 0xff, WL_PAGE);
	wl_sleep_ms(100);
}

/* Says that it has moved pages, and has not; or something else entirely. */
static void lie(struct session *s, unsigned kind)
{
	static struct wire_order order;
	struct wire_report report;
	double end = wl_now() + 0.7;
	struct pollfd wait = { .fd = s->fd, .events = POLLIN };

	while (wl_now() < end) {
		if (poll(&wait, 1, 50) > 0 &&
		    recv(s->fd, &order, sizeof(order), 0) < (ssize_t)offsetof(struct wire_order, range))
			return;
		memset(&report, kind == 0 ? WIRE_PAGE_DONE : kind == 1 ? 0xee : WIRE_PAGE_BUSY,
		       sizeof(report));
		report.head = head_of(kind == 4 ? WIRE_READY : WIRE_REPORT);
		report.seq = kind == 3 ? (uint32_t)rand64() : order.seq;
		report.drop_error = 0;
		post(s->fd, &report, kind == 2 ? sizeof(report) - 1 : sizeof(report), NULL, 0);
		if (kind == 1)
			post(s->fd, &report, sizeof(report), NULL, 0);
	}
}

static void step_lying_mover(void)
{
	struct session s;
	unsigned kind;
	unsigned char *area = wl_map(1024);

	wl_fill(area, 1024, 1);
	for (kind = 0; kind < 5; kind++) {
		if (!session_attach(&s))
			return;
		session_ready(&s);
		session_ready(&s);
		lie(&s, kind);
		close(s.fd);
	}
}

/* Sends without end and reads nothing. */
static void step_flood(void)
{
	struct session s;
	struct wire_report report = { .head = head_of(WIRE_REPORT) };
	int strange[8], fds[FDS_MAX];
	double end;
	size_t i;

	if (!session_attach(&s))
		return;
	session_ready(&s);
	open_strange(strange);
	for (i = 0; i < FDS_MAX; i++)
		fds[i] = strange[i % 8];
	for (end = wl_now() + 0.5; wl_now() < end;) {
		report.seq++;
		post(s.fd, &report, sizeof(report), fds, FDS_MAX);
	}
}

/* Holds as many connections as it may get, at different steps. */
static void step_crowd(void)
{
	struct rlimit limit = { CROWD * 4, CROWD * 4 };
	unsigned i;
	int fd;

	setrlimit(RLIMIT_NOFILE, &limit);
	for (i = 0; i < CROWD; i++) {
		fd = connect_agent();
		if (i % 3 == 1)
			hello(fd);
	}
	wl_sleep_ms(500);
}

static void check_control(const char *after)
{
	int fd = connect_agent(), device = welcomed(fd);

	WL_CHECK(device >= 0, "no welcome any more after %s", after);
	close(device);
	close(fd);
}

/* The evict worker gives orders. */
static void check_worker(const char *after)
{
	unsigned char *area = wl_map(256);
	struct session s;
	struct pollfd wait = { .events = POLLIN };

	WL_CHECK(session_attach(&s), "no session any more after %s", after);
	close(s.uffd); /* or munmap() waits for somebody to read of it when the agent has let go */
	wl_fill(area, 256, 1);
	session_ready(&s);
	wait.fd = s.fd;
	WL_CHECK(poll(&wait, 1, 20000) > 0, "no orders any more after %s", after);
	close(s.fd);
	wl_unmap(area, 256);
}

/* One process, again and again. */
static unsigned attach_often(unsigned tries)
{
	struct session s;
	unsigned n = 0;

	while (tries--)
		n += session_attach(&s);
	return n;
}

static void step_often(void)
{
	unsigned n = attach_often(24);

	WL_CHECK(n >= 1 && n <= 16, "one process is attached %u times", n);
	check_control("one process that attaches again and again");
}

/* As another user: says how often it is attached, and stays. */
static void attach_as_nobody(int say)
{
	unsigned n;

	WL_OK(setresuid(65431, 65431, 65431));
	WL_OK(prctl(PR_SET_DUMPABLE, 1)); /* or its files are root's */
	n = attach_often(14);
	WL_CHECK(write(say, &n, sizeof(n)) == sizeof(n), "write");
	pause();
	_exit(0);
}

/* One user takes all he gets, and others still find room. */
static void step_share(void)
{
	unsigned max = getenv("HOSTILE_MAX") ? (unsigned)atoi(getenv("HOSTILE_MAX")) : 0, n, sum = 0;
	struct session s;
	pid_t pid[8];
	int ends[2];

	if (geteuid() || !max)
		return;
	WL_OK(pipe2(ends, O_CLOEXEC));
	for (unsigned i = 0; i < 8; i++) {
		pid[i] = (pid_t)WL_OK(fork());
		if (!pid[i])
			attach_as_nobody(ends[1]);
		WL_CHECK(read(ends[0], &n, sizeof(n)) == sizeof(n), "read");
		sum += n;
	}
	WL_CHECK(sum > max / 2 && sum <= max - max / 8, "one user is attached %u times of %u", sum, max);
	WL_CHECK(session_attach(&s), "no room for others beside one user");
	for (unsigned i = 0; i < 8; i++)
		kill(pid[i], SIGKILL);
}

/* ---- closing that waits --------------------------------------------------- */

/* Whose last close() waits until what it has sent was read: never. */
static int lingering(void)
{
	static const char bytes[65536];
	static int listener = -1;
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct linger linger = { 1, 3600 };
	socklen_t len = sizeof(in);
	int fd = (int)WL_OK(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));

	if (listener < 0) {
		listener = (int)WL_OK(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
		WL_OK(bind(listener, (struct sockaddr *)&in, sizeof(in)));
		WL_OK(listen(listener, LINGERING * 8));
	}
	WL_OK(getsockname(listener, (struct sockaddr *)&in, &len));
	WL_OK(connect(fd, (struct sockaddr *)&in, sizeof(in)));
	WL_OK(accept(listener, NULL, NULL)); /* until this process ends */
	while (send(fd, bytes, sizeof(bytes), MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
		continue;
	WL_OK(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)));
	return fd;
}

static void on_alarm(int signal)
{
	(void)signal;
}

/* If the agent has not taken it, or is done with it already, the last close()
   is ours. A signal ends that wait. */
static void close_own(int fd)
{
	struct sigaction action = { .sa_handler = on_alarm };
	struct itimerval soon = { .it_value.tv_usec = 50000 }, never = { 0 };

	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &soon, NULL);
	close(fd);
	setitimer(ITIMER_REAL, &never, NULL);
}

/* Posts nr descriptors of which the last lingers, by now the agent's alone. */
static void post_lingering(int fd, const void *bytes, size_t size, unsigned nr)
{
	int null = (int)WL_OK(open("/dev/null", O_RDONLY | O_CLOEXEC)), fds[FDS_MAX];
	unsigned i;

	for (i = 0; i < nr; i++)
		fds[i] = null;
	fds[nr - 1] = lingering();
	post(fd, bytes, size, fds, nr);
	close_own(fds[nr - 1]);
	close(null);
}

/* The same inside of a socket's queue, which nobody reads. */
static int lingering_inside(void)
{
	int ends[2];

	WL_OK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends));
	post_lingering(ends[0], "x", 1, 1);
	close(ends[0]);
	return ends[1];
}

/* Says that it is the mover of a process whose agent has gone. */
struct again {
	struct session *s;
	int uffd, pidfd;
	uint64_t token;
	uint32_t away;
	bool taken;
};

static int again_inside(void *arg)
{
	struct again *a = arg;
	struct wire_hello packet = { .head = head_of(WIRE_HELLO), .kind = WIRE_AGAIN, .nonce = a->token };
	struct wire_welcome reply;
	struct wire_attached attached;
	int fd = connect_agent(), fds[4] = { a->uffd, a->s->mem, a->s->pagemap, a->pidfd }, got[2];

	post(fd, &packet, sizeof(packet), NULL, 0);
	if (!answer(fd, &reply, sizeof(reply), got))
		return 0;
	a->s->attach.away = a->away;
	post(fd, &a->s->attach, sizeof(a->s->attach), fds, 4);
	(void)answer(fd, &attached, sizeof(attached), got);
	a->taken = got[0] >= 0;
	if (a->taken && rand64() % 2) { /* half of them say no more */
		a->s->fd = fd;
		session_ready(a->s);
	}
	return 0;
}

/* By a process that shares this one's memory, as movers do, or by this one itself. */
static bool again(struct session *s, int uffd, int pidfd, uint64_t token, uint32_t away, bool shared)
{
	static _Alignas(16) char stack[65536];
	struct again a = { .s = s, .uffd = uffd, .pidfd = pidfd, .token = token, .away = away };
	pid_t pid;

	if (shared) {
		pid = (pid_t)WL_OK(clone(again_inside, stack + sizeof(stack), CLONE_VM | CLONE_FILES | CLONE_VFORK | SIGCHLD, &a));
		WL_CHECK(waitpid(pid, NULL, 0) == pid, "waitpid");
	} else {
		again_inside(&a);
	}
	return a.taken;
}

/* It is not, its process is another, its agent is there; then one that is. */
static void step_again(void)
{
	struct session s, other;
	int own = (int)WL_OK(syscall(SYS_pidfd_open, getpid(), 0)), null = open("/dev/null", O_RDONLY);
	int parent = (int)WL_OK(syscall(SYS_pidfd_open, getppid(), 0));
	unsigned i;

	if (!session_attach(&s) || !session_prepare(&other))
		return;
	again(&s, s.uffd, own, s.words->token, 1, true);
	again(&s, null, own, rand64(), 1, true);
	WL_CHECK(!again(&s, s.uffd, parent, rand64(), 1, true) && !again(&s, s.uffd, null, rand64(), 1, true),
		 "taken for the mover of another process");
	WL_CHECK(!again(&s, other.uffd, own, rand64(), 1, true), "taken without an API");
	WL_CHECK(!again(&s, s.uffd, own, rand64(), 1, false), "a process has vouched for itself");
	for (i = 0; i < 8; i++)
		WL_CHECK(again(&s, s.uffd, own, rand64(), (uint32_t)(rand64() % 3), true), "a mover is refused");
	check_control("movers that are none");
	check_worker("movers that are none");
}

/* In a process that shares the descriptors: connects, and then executes a program
   that runs with more rights. */
struct more {
	const char *program;
	int sock, device;
};

static int exec_for_more(void *arg)
{
	struct more *more = arg;

	more->sock = connect_agent();
	more->device = more->sock < 0 ? -1 : welcomed(more->sock);
	execl(more->program, "sleep", "10", (char *)NULL);
	return 1;
}

/* The connection is of one process, all else is of another. */
static void exec_more(const char *program)
{
	static _Alignas(16) char stack[65536];
	struct more more = { .program = program };
	struct wire_attached packet;
	struct stat st = { .st_uid = 1 };
	struct session s;
	char path[32];
	int got[2];
	pid_t pid;

	if (!program || !*program || !geteuid())
		return;
	pid = (pid_t)WL_OK(clone(exec_for_more, stack + sizeof(stack), CLONE_VM | CLONE_FILES | CLONE_VFORK | SIGCHLD, &more));
	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	/* vfork is over a moment before the new program has its rights. */
	for (unsigned i = 0; i < 20000 && !stat(path, &st) && st.st_uid; i++)
		wl_sleep_ms(1);
	WL_CHECK(!st.st_uid, "it has no more rights");
	WL_CHECK(session_fill(&s, more.sock, more.device), "not welcome");
	session_post(&s);
	packet.status = WIRE_OK;
	WL_CHECK(answer(s.fd, &packet, sizeof(packet), got) && packet.status != WIRE_OK && got[0] < 0,
		 "taken for a program that runs with more rights");
}

static void step_exec_setuid(void)
{
	exec_more(getenv("HOSTILE_SETUID"));
}

static void step_exec_setgid(void)
{
	exec_more(getenv("HOSTILE_SETGID"));
}

static void step_lingering_control(void)
{
	struct wire_hello packet = { .head = head_of(WIRE_HELLO), .kind = WIRE_NEW };
	struct session s;
	int fds[3];

	post_lingering(connect_agent(), &packet, sizeof(packet), 1);
	check_control("HELLO with a lingering socket");
	post_lingering(connect_agent(), &packet, sizeof(packet), 16);
	post_lingering(connect_agent(), &packet, sizeof(packet), FDS_MAX);
	post_lingering(connect_agent(), &packet, 3, 2);
	check_control("too many descriptors, the last a lingering socket");
	if (!session_prepare(&s))
		return;
	fds[0] = s.uffd;
	fds[1] = s.mem;
	fds[2] = lingering();
	post(s.fd, &s.attach, sizeof(s.attach), fds, 3);
	close_own(fds[2]);
	check_control("ATTACH with a lingering socket");
}

static void step_lingering_unread(void)
{
	struct wire_hello packet = { .head = head_of(WIRE_HELLO), .kind = 77 };
	int fd = connect_agent(), inside;

	post(fd, &packet, sizeof(packet), NULL, 0);
	post_lingering(fd, &packet, sizeof(packet), 1);
	fd = connect_agent();
	hello(fd);
	post_lingering(fd, &packet, sizeof(packet), 1);
	post_lingering(fd, &packet, sizeof(packet), 1);
	close_own(fd);
	inside = lingering_inside();
	fd = connect_agent();
	post(fd, &packet, sizeof(packet), &inside, 1);
	close_own(inside);
	check_control("lingering sockets that were never received");
	check_worker("lingering sockets that were never received");
}

static void step_lingering_worker(void)
{
	struct wire_ready packet = { .head = head_of(WIRE_READY), .mover = 1 };
	struct session s, other;

	if (!session_attach(&s) || !session_attach(&other))
		return;
	post_lingering(s.fd, &packet, sizeof(packet), 1);
	post_lingering(s.fd, &packet, sizeof(packet), 200);
	session_ready(&other);
	post_lingering(other.fd, &packet, sizeof(packet), 1);
	close_own(other.fd);
	check_worker("READY with a lingering socket");
	check_control("READY with a lingering socket");
}

/* As many as the agent has threads for that, and more. */
static void step_lingering_many(void)
{
	struct wire_hello packet = { .head = head_of(WIRE_HELLO), .kind = WIRE_NEW };
	int fd, inside;
	unsigned i;

	for (i = 0; i < LINGERING; i++) {
		fd = connect_agent();
		inside = lingering_inside();
		post(fd, &packet, sizeof(packet), &inside, 1);
		close_own(inside);
		close(fd);
	}
	check_control("many lingering sockets");
	check_worker("many lingering sockets");
}

/* ---- O_NONBLOCK that comes and goes ---------------------------------------- */

static void toggle(int uffd)
{
	unsigned i, k;

	for (i = 0; i < 200; i++) {
		fcntl(uffd, F_SETFL, 0);
		fcntl(uffd, F_SETFL, O_NONBLOCK);
		for (k = 0; k < (i * 7 & 31); k++)
			__asm__ volatile("" ::: "memory");
	}
}

/* A fork child as the agent knows it: faults, so that the agent asks for more
   without being told of any, and then toggles the flag. Nothing comes any more
   that would end a read that blocks. Ends when it is killed. */
static void toggled_child(const struct session *s, unsigned char *area, unsigned pages)
{
	struct wire_hello packet = { .head = head_of(WIRE_HELLO), .kind = WIRE_CHILD };
	struct wire_welcome reply;
	int fd = connect_agent(), fds[2];
	unsigned i;

	packet.nonce = *(volatile uint64_t *)(void *)s->identity;
	post(fd, &packet, sizeof(packet), NULL, 0);
	answer(fd, &reply, sizeof(reply), fds);
	if (fds[1] >= 0) { /* its userfaultfd, and the device */
		for (i = 0; i < 200; i++)
			area[i * 7919ull % pages * WL_PAGE] = 1;
		toggle(fds[0]);
	}
	pause();
	_exit(0);
}

static void step_toggle(void)
{
	const unsigned pages = 65536;
	unsigned char *area = wl_map(pages);
	struct uffdio_register reg = { .range = { (uintptr_t)area, pages * WL_PAGE },
				       .mode = UFFDIO_REGISTER_MODE_MISSING };
	double end = wl_now() + TOGGLE_SECONDS;
	struct session s;
	pid_t pid;

	if (!session_attach(&s))
		return;
	WL_OK(ioctl(s.uffd, UFFDIO_REGISTER, &reg));
	while (wl_now() < end) {
		pid = (pid_t)WL_OK(fork());
		if (!pid)
			toggled_child(&s, area, pages);
		wl_sleep_ms(15);
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
	}
	check_control("a userfaultfd whose flag was toggled");
}

/* ---- files whose server does not answer ------------------------------------- */

static bool is_welcome(void)
{
	int fd = connect_agent(), device = fd < 0 ? -1 : welcomed(fd);

	close(device);
	close(fd);
	return device >= 0;
}

/* Sends nr descriptors of one such file in the place of its memory's, as a user of
   whom the agent knows nothing; then waits for what the agent thinks of him. */
static void send_hanging(int file, unsigned nr, int say)
{
	struct session s;
	int fds[FDS_MAX];
	double end = wl_now() + 20 * wl_time_factor();
	char yes = 1;

	WL_OK(setresuid(65533, 65533, 65533));
	for (unsigned i = 0; i < nr; i++)
		fds[i] = file;
	for (unsigned i = 0; i < 3; i++) {
		WL_CHECK(session_prepare(&s), "not welcome yet");
		post(s.fd, &s.attach, sizeof(s.attach), fds, i ? nr : 3);
	}
	while (is_welcome() && wl_now() < end)
		wl_sleep_ms(50);
	WL_CHECK(wl_now() < end, "what is closed for one user has no end");
	WL_CHECK(write(say, &yes, 1) == 1, "write");
	for (end = wl_now() + 20 * wl_time_factor(); !is_welcome() && wl_now() < end;)
		wl_sleep_ms(50);
	WL_CHECK(wl_now() < end, "not welcome again when all is closed");
	_exit(0);
}

/* What others send is closed as ever. */
static void check_closing(void)
{
	struct session s;
	struct pollfd wait;
	int ends[2], fds[3];

	WL_OK(pipe2(ends, O_CLOEXEC));
	WL_CHECK(session_prepare(&s), "not welcome beside another user");
	fds[0] = fds[1] = fds[2] = ends[1];
	post(s.fd, &s.attach, sizeof(s.attach), fds, 3);
	close(ends[1]);
	wait = (struct pollfd){ .fd = ends[0], .events = POLLIN };
	WL_CHECK(poll(&wait, 1, 15000 * wl_time_factor()) == 1 && wait.revents & POLLHUP, "nothing is closed any more");
	close(s.fd);
	close(ends[0]);
}

static void step_fuse_closing(void)
{
	struct fuse_hang f;
	int ends[2], status, file;
	char yes;
	pid_t pid;

	if (!fuse_hang_start(&f))
		return;
	file = fuse_hang_open(&f);
	WL_OK(pipe2(ends, O_CLOEXEC));
	pid = (pid_t)WL_OK(fork());
	if (!pid)
		send_hanging(file, 60, ends[1]);
	close(file);
	close(ends[1]);
	WL_CHECK(read(ends[0], &yes, 1) == 1, "the other user has failed");
	check_closing();
	check_worker("files whose closing hangs");
	fuse_hang_end(&f);
	WL_CHECK(waitpid(pid, &status, 0) == pid && !status, "the other user: status %d", status);
}

static const struct step {
	const char *name;
	void (*run)(void);
	unsigned ms; /* 0: STEP_MS, and it may take longer */
} steps[] = {
	{ "connections closed at once", step_connect_only, 0 },
	{ "noise", step_noise, 0 },
	{ "damaged HELLO", step_hello_damaged, 0 },
	{ "packets in wrong order", step_wrong_order, 0 },
	{ "strange descriptors", step_strange_descriptors, 0 },
	{ "others' descriptors", step_foreign_descriptors, 0 },
	{ "movers without an agent", step_again, 0 },
	{ "exec of a program with more rights", step_exec_setuid, 0 },
	{ "exec of a program with a group's rights", step_exec_setgid, 0 },
	{ "damaged ATTACH", step_attach_damaged, 0 },
	{ "left at each step", step_leave_early, 0 },
	{ "attached memory unmapped", step_pull_the_rug, 0 },
	{ "gate held and damaged", step_gate, 0 },
	{ "a mover that lies", step_lying_mover, 0 },
	{ "flood of reports and descriptors", step_flood, 0 },
	{ "crowd of connections", step_crowd, 0 },
	{ "attached again and again", step_often, 0 },
	{ "a user's share of all sessions", step_share, 0 },
	{ "lingering sockets in handshakes", step_lingering_control, 0 },
	{ "lingering sockets, never received", step_lingering_unread, 0 },
	{ "lingering sockets from a mover", step_lingering_worker, 0 },
	{ "many lingering sockets", step_lingering_many, 0 },
	{ "O_NONBLOCK toggled by a fork child", step_toggle, 0 },
	{ "files whose closing hangs", step_fuse_closing, 60000 },
};
#define STEPS (sizeof(steps) / sizeof(steps[0]))

/* In a child: it may be left hanging by its own lies, and is killed then. */
static void run(const struct step *step, unsigned round)
{
	double end = wl_now() + (double)(step->ms ? step->ms : STEP_MS) / 1000 * wl_time_factor();
	bool killed = false;
	pid_t pid = (pid_t)WL_OK(fork());
	int status;

	if (!pid) {
		rng = content_mix(round + (uint64_t)(step - steps));
		signal(SIGPIPE, SIG_IGN);
		step->run();
		_exit(0);
	}
	while (!waitpid(pid, &status, WNOHANG)) {
		if (!killed && wl_now() > end) {
			kill(pid, SIGKILL);
			killed = true;
		}
		WL_CHECK(wl_now() < end + 30, "%s: child %d can't be killed", step->name, (int)pid);
		wl_sleep_ms(2);
	}
	wl_say("%s: %s", step->name,
	       killed			 ? "killed, was left waiting" :
	       WIFEXITED(status) && !WEXITSTATUS(status) ? "done" :
							   "ended by the agent or its own doing");
	WL_CHECK(!killed || !step->ms, "%s: has not come to its end", step->name);
	WL_CHECK(killed || !WIFEXITED(status) || !WEXITSTATUS(status), "%s: exit status %d",
		 step->name, WEXITSTATUS(status));
}

int main(int argc, char **argv)
{
	double end;
	unsigned round = 0;
	size_t i;
	int fd;

	WL_CHECK(argc >= 2 && strlen(argv[1]) < sizeof(address.sun_path),
		 "usage: hostile_peer SOCKET [SECONDS]");
	WL_CHECK(!getenv("LD_PRELOAD"), "not to be run under the shim");
	strcpy(address.sun_path, argv[1]);
	end = wl_now() + wl_arg(argc, argv, 2, 0);
	do {
		for (i = 0; i < STEPS; i++)
			run(&steps[i], round);
		round++;
	} while (wl_now() < end);
	fd = connect_agent();
	WL_CHECK(fd >= 0, "the agent takes no connections any more: %s", strerror(errno));
	close(fd);
	wl_say("%zu steps, %u rounds; the agent still listens", STEPS, round);
	return 0;
}
