/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The agent's side of wire.h, as small as the shim's tests need it: real
 * userfaultfd, one thread, no policy. Needs root for /dev/userfaultfd.
 *
 *   shim_peer probe                     0 if this kernel can do it, else 77
 *   shim_peer serve SOCKET [HOW]        serves until SIGTERM; HOW is polite,
 *                                       refuse, hang, hang-attach, no-attach,
 *                                       fail-attach or no-nonce
 *   shim_peer run TEST LIB WORKLOAD     runs one scenario with WORKLOAD (the
 *                                       program shim_pages) under LIB
 *
 * Pages that were evicted are kept in plain memory; a fault on a page that we
 * don't have is answered with zeros.
 */
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/wire.h"
#include "uapi/uswap_uapi.h"

#define PAGE ((uint64_t)WIRE_PAGE)
#define TRANSIT_BYTES (WIRE_TRANSIT_PAGES * PAGE)
#define MAX_SESSIONS 1024
#define FEATURES \
	(UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE | \
	 UFFD_FEATURE_EVENT_UNMAP | UFFD_FEATURE_THREAD_ID | UFFD_FEATURE_MOVE | \
	 UFFD_FEATURE_POISON)

struct stored {
	uint64_t address;
	uint8_t *data;
};

enum stage { WAIT_HELLO, WAIT_ATTACH, WAIT_READY, RUNNING };

struct session {
	bool used;
	enum stage stage;
	enum wire_kind kind;
	int sock, uffd, mem, event, gate_fd;
	struct wire_gate *gate;
	pid_t pid, mover;
	uint64_t nonce; /* of a fork child, else 0 */
	struct wire_attach attach;
	struct stored *store;
	unsigned int nr_stored;
	/* The order under way: faults in it wait until its bytes are here. */
	uint64_t leaving;
	unsigned int nr_leaving;
	uint64_t deferred[WIRE_BATCH * 2];
	unsigned int nr_deferred;
	struct wire_report report;
	bool have_report;
	uint32_t seq;
};

static struct session sessions[MAX_SESSIONS];
static int listener = -1, device = -1;
static uint64_t last_nonce = 1000;
static const char *how = "polite";
static volatile sig_atomic_t stop;
static bool serving; /* not a scenario */
static unsigned int served, events, faults_deferred;
static pid_t to_kill; /* the workload's process group, if a test fails */

/* ---- small things ---- */

static void __attribute__((noreturn, format(printf, 1, 2))) die(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	fprintf(stderr, "shim_peer: ");
	vfprintf(stderr, format, ap);
	fprintf(stderr, "\n");
	va_end(ap);
	if (to_kill > 0)
		kill(-to_kill, SIGKILL);
	exit(1);
}

#define CHECK(cond, ...) \
	do { \
		if (!(cond)) { \
			fprintf(stderr, "line %d: %s: ", __LINE__, #cond); \
			die(__VA_ARGS__); \
		} \
	} while (0)

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void nap_ms(unsigned int ms)
{
	struct timespec ts = { ms / 1000, (long)(ms % 1000) * 1000000 };

	nanosleep(&ts, NULL);
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static bool alive(pid_t pid)
{
	char path[64], text[512], *state;
	FILE *f;
	size_t n;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	f = fopen(path, "r");
	if (!f)
		return false;
	n = fread(text, 1, sizeof(text) - 1, f);
	fclose(f);
	text[n] = 0;
	state = strrchr(text, ')');
	return state && state[2] != 'Z' && state[2] != 'X';
}

static bool gone_within(pid_t pid, unsigned int ms)
{
	uint64_t end = now_ms() + ms;

	while (alive(pid) && now_ms() < end)
		nap_ms(2);
	return !alive(pid);
}

/* ---- stored pages ---- */

static struct stored *find_stored(struct session *s, uint64_t address)
{
	for (unsigned int i = 0; i < s->nr_stored; i++)
		if (s->store[i].address == address)
			return &s->store[i];
	return NULL;
}

static void store_page(struct session *s, uint64_t address, const uint8_t *data)
{
	struct stored *p = find_stored(s, address);

	if (!p) {
		s->store = realloc(s->store, (s->nr_stored + 1) * sizeof(*s->store));
		assert(s->store);
		p = &s->store[s->nr_stored++];
		p->address = address;
		p->data = malloc(PAGE);
		assert(p->data);
	}
	memcpy(p->data, data, PAGE);
}

static void forget_page(struct session *s, uint64_t address)
{
	struct stored *p = find_stored(s, address);

	if (!p)
		return;
	free(p->data);
	*p = s->store[--s->nr_stored];
}

static void forget_range(struct session *s, uint64_t from, uint64_t end)
{
	for (unsigned int i = s->nr_stored; i-- > 0;)
		if (s->store[i].address >= from && s->store[i].address < end)
			forget_page(s, s->store[i].address);
}

/* ---- sessions ---- */

static struct session *new_session(void)
{
	for (unsigned int i = 0; i < MAX_SESSIONS; i++) {
		struct session *s = &sessions[i];

		if (s->used)
			continue;
		memset(s, 0, sizeof(*s));
		s->used = true;
		s->sock = s->uffd = s->mem = s->event = s->gate_fd = -1;
		return s;
	}
	die("too many sessions");
}

static void end_session(struct session *s)
{
	forget_range(s, 0, UINT64_MAX);
	free(s->store);
	if (s->gate)
		munmap(s->gate, PAGE);
	close_fd(&s->sock);
	close_fd(&s->uffd);
	close_fd(&s->mem);
	close_fd(&s->event);
	close_fd(&s->gate_fd);
	s->used = false;
}

static struct session *session_of(pid_t pid)
{
	for (unsigned int i = 0; i < MAX_SESSIONS; i++)
		if (sessions[i].used && sessions[i].pid == pid && sessions[i].stage == RUNNING)
			return &sessions[i];
	return NULL;
}

static unsigned int nr_sessions(void)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < MAX_SESSIONS; i++)
		n += sessions[i].used;
	return n;
}

/* ---- the gate, the owner's side ---- */

static void gate_enter(struct session *s)
{
	uint64_t end = now_ms() + 20000, n;

	if (!s->gate)
		return;
	for (unsigned int i = 0;; i++) {
		uint32_t expected = WIRE_GATE_FREE;

		if (__atomic_compare_exchange_n(&s->gate->word, &expected, WIRE_GATE_AGENT, 0,
						__ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
			break;
		if (i < 100)
			continue;
		__atomic_store_n(&s->gate->wanted, 1, __ATOMIC_SEQ_CST);
		if (i % 100 == 0 && __atomic_load_n(&s->gate->word, __ATOMIC_SEQ_CST)) {
			struct pollfd p = { .fd = s->event, .events = POLLIN };

			if (poll(&p, 1, 1000) == 1 && read(s->event, &n, sizeof(n)) < 0)
				die("gate event: %s", strerror(errno));
		}
		CHECK(now_ms() < end, "the mover does not leave the gate");
	}
	__atomic_store_n(&s->gate->wanted, 0, __ATOMIC_SEQ_CST);
}

static void gate_leave(struct session *s)
{
	if (s->gate)
		__atomic_store_n(&s->gate->word, WIRE_GATE_FREE, __ATOMIC_SEQ_CST);
}

/* ---- userfaultfd ---- */

static int uffd_register(int uffd, uint64_t start, uint64_t len)
{
	struct uffdio_register r = { .range = { start, len },
				     .mode = UFFDIO_REGISTER_MODE_MISSING };

	return ioctl(uffd, UFFDIO_REGISTER, &r) ? -errno : 0;
}

static void uffd_wake(int uffd, uint64_t address)
{
	struct uffdio_range r = { address, PAGE };

	ioctl(uffd, UFFDIO_WAKE, &r);
}

/* 0 or a negative errno; EEXIST and ENOENT have been answered with a wake. */
static int place(struct session *s, uint64_t address, const void *data)
{
	struct uffdio_copy c = { .dst = address, .src = (uint64_t)data, .len = PAGE };
	struct uffdio_zeropage z = { .range = { address, PAGE } };
	int err;

	err = data ? ioctl(s->uffd, UFFDIO_COPY, &c) : ioctl(s->uffd, UFFDIO_ZEROPAGE, &z);
	err = err ? -errno : 0;
	if (err == -EEXIST || err == -ENOENT)
		uffd_wake(s->uffd, address);
	return err;
}

static bool in_order(const struct session *s, uint64_t address)
{
	return s->nr_leaving && address >= s->leaving &&
	       address < s->leaving + s->nr_leaving * PAGE;
}

static int serve_fault(struct session *s, uint64_t address)
{
	struct stored *p;
	int err;

	if (in_order(s, address)) {
		CHECK(s->nr_deferred < WIRE_BATCH * 2, "too many faults deferred");
		s->deferred[s->nr_deferred++] = address;
		faults_deferred++;
		return 0;
	}
	if (address == s->attach.identity) {
		uint64_t page[WIRE_PAGE / 8] = { s->nonce };

		return place(s, address, page);
	}
	p = find_stored(s, address);
	err = place(s, address, p ? p->data : NULL);
	if (!err) {
		served++;
		forget_page(s, address);
	}
	return err;
}

/* A fork child: everything the parent has stored is the child's too. */
static void add_child(struct session *parent, int uffd)
{
	struct session *s = new_session();

	s->uffd = uffd;
	s->kind = WIRE_CHILD;
	s->nonce = strcmp(how, "no-nonce") ? ++last_nonce : 0;
	s->attach = parent->attach;
	for (unsigned int i = 0; i < parent->nr_stored; i++)
		store_page(s, parent->store[i].address, parent->store[i].data);
}

static void apply_event(struct session *s, const struct uffd_msg *m)
{
	events++;
	if (s->gate)
		__atomic_add_fetch(&s->gate->generation, 1, __ATOMIC_SEQ_CST);
	switch (m->event) {
	case UFFD_EVENT_FORK:
		add_child(s, (int)m->arg.fork.ufd);
		break;
	case UFFD_EVENT_REMOVE:
	case UFFD_EVENT_UNMAP:
		forget_range(s, m->arg.remove.start, m->arg.remove.end);
		break;
	default: /* no test remaps */
		break;
	}
}

/* Reads and answers all there is; EAGAIN means an event must be read first. */
static void serve_uffd(struct session *s)
{
	struct uffd_msg m[16];
	uint64_t todo[64];
	unsigned int n = 0;
	uint64_t end = now_ms() + 20000;

	gate_enter(s);
	do {
		ssize_t got = read(s->uffd, m, sizeof(m));
		unsigned int kept = 0;

		for (ssize_t i = 0; i < got / (ssize_t)sizeof(m[0]); i++) {
			if (m[i].event != UFFD_EVENT_PAGEFAULT)
				apply_event(s, &m[i]);
			else if (n < 64)
				todo[n++] = m[i].arg.pagefault.address & ~(PAGE - 1);
		}
		for (unsigned int i = 0; i < n; i++)
			if (serve_fault(s, todo[i]) == -EAGAIN)
				todo[kept++] = todo[i];
		n = kept;
		CHECK(now_ms() < end, "a fault can't be served");
	} while (n);
	gate_leave(s);
}

/* ---- packets ---- */

static struct wire_head head_of(enum wire_type type)
{
	return (struct wire_head){ WIRE_MAGIC, WIRE_VERSION, (uint16_t)type };
}

static void send_fds(int sock, const void *packet, size_t size, const int *fd, unsigned int nr)
{
	char control[CMSG_SPACE(3 * sizeof(int))] = { 0 };
	struct iovec iov = { (void *)packet, size };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (nr) {
		struct cmsghdr *c = (void *)control;

		msg.msg_control = control;
		msg.msg_controllen = CMSG_SPACE(nr * sizeof(int));
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(nr * sizeof(int));
		memcpy(CMSG_DATA(c), fd, nr * sizeof(int));
	}
	if (sendmsg(sock, &msg, MSG_NOSIGNAL) < 0)
		fprintf(stderr, "shim_peer: send: %s\n", strerror(errno));
}

static ssize_t recv_fds(int sock, void *packet, size_t size, int *fd, pid_t *pid)
{
	char control[CMSG_SPACE(3 * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
	struct iovec iov = { packet, size };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = control,
			      .msg_controllen = sizeof(control) };
	ssize_t n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);

	fd[0] = fd[1] = fd[2] = -1;
	if (n <= 0)
		return n < 0 && errno == EAGAIN ? -EAGAIN : 0;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
		if (c->cmsg_type == SCM_RIGHTS) {
			memcpy(fd, CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0));
		} else if (c->cmsg_type == SCM_CREDENTIALS) {
			struct ucred cred;

			memcpy(&cred, CMSG_DATA(c), sizeof(cred));
			*pid = cred.pid;
		}
	}
	return n;
}

static void make_gate(struct session *s)
{
	s->gate_fd = memfd_create("gate", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (s->gate_fd < 0 || ftruncate(s->gate_fd, (off_t)PAGE) ||
	    fcntl(s->gate_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		die("gate: %s", strerror(errno));
	s->gate = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, s->gate_fd, 0);
	s->event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (s->gate == MAP_FAILED || s->event < 0)
		die("gate: %s", strerror(errno));
}

/* A child's HELLO goes to the session that its EVENT_FORK has made. */
static struct session *on_hello(struct session *s, const struct wire_hello *h)
{
	struct wire_welcome w = { .head = head_of(WIRE_WELCOME) };
	int fd[2] = { device, -1 };

	if (!strcmp(how, "hang"))
		return s;
	if (!strcmp(how, "refuse")) {
		w.status = WIRE_DENIED;
		send_fds(s->sock, &w, sizeof(w), NULL, 0);
		end_session(s);
		return NULL;
	}
	if (h->kind == WIRE_NEW) {
		s->kind = WIRE_NEW;
		send_fds(s->sock, &w, sizeof(w), fd, 1);
		s->stage = WAIT_ATTACH;
		return s;
	}
	for (unsigned int i = 0; i < MAX_SESSIONS; i++) {
		struct session *c = &sessions[i];

		if (h->kind != WIRE_CHILD || !c->used || c == s || c->nonce != h->nonce || c->sock >= 0)
			continue;
		c->sock = s->sock;
		c->pid = s->pid;
		s->sock = -1;
		end_session(s);
		fd[0] = c->uffd;
		fd[1] = device;
		send_fds(c->sock, &w, sizeof(w), fd, 2);
		c->stage = WAIT_ATTACH;
		return c;
	}
	w.status = WIRE_UNKNOWN;
	send_fds(s->sock, &w, sizeof(w), NULL, 0);
	return s;
}

static void check_never(const struct wire_attach *a)
{
	bool transit = false, identity = false;

	for (unsigned int i = 0; i < a->nr_never && i < WIRE_NEVER_MAX; i++) {
		const struct wire_range *r = &a->never[i];

		CHECK(r->start < r->end && !(r->start % PAGE) && !(r->end % PAGE),
		      "a range to leave alone is no range");
		transit |= r->start <= a->transit && a->transit + TRANSIT_BYTES <= r->end;
		identity |= r->start <= a->identity && a->identity + PAGE <= r->end;
	}
	CHECK(transit && identity, "transit or identity is not to be left alone");
}

static void on_attach(struct session *s, const struct wire_attach *a, const int *fd)
{
	struct wire_attached reply = { .head = head_of(WIRE_ATTACHED), .session = 7 };
	unsigned int first = s->kind == WIRE_NEW ? 1 : 0;
	int gate[2];

	check_never(a);
	s->attach = *a;
	if (s->kind == WIRE_NEW) {
		struct uffdio_api api = { .api = UFFD_API, .features = FEATURES };

		s->uffd = fd[0];
		CHECK(!ioctl(s->uffd, UFFDIO_API, &api), "UFFDIO_API: %s", strerror(errno));
		CHECK(!uffd_register(s->uffd, a->identity, PAGE), "identity");
	}
	s->mem = fd[first];
	close(fd[first + 1]); /* pagemap: no test looks */
	CHECK(!uffd_register(s->uffd, a->transit, TRANSIT_BYTES), "transit");
	if (!strcmp(how, "hang-attach"))
		return;
	if (!strcmp(how, "no-attach")) {
		end_session(s);
		return;
	}
	make_gate(s);
	gate[0] = s->gate_fd;
	gate[1] = s->event;
	reply.status = strcmp(how, "fail-attach") ? WIRE_OK : WIRE_FAILED;
	send_fds(s->sock, &reply, sizeof(reply), gate, reply.status ? 0 : 2);
	s->stage = WAIT_READY;
}

static void serve_sock(struct session *s)
{
	union {
		struct wire_head head;
		struct wire_hello hello;
		struct wire_attach attach;
		struct wire_ready ready;
		struct wire_report report;
	} packet;
	int fd[3];
	pid_t pid = 0;
	ssize_t n = recv_fds(s->sock, &packet, sizeof(packet), fd, &pid);

	if (n == -EAGAIN)
		return;
	if (n == 0) {
		/* A child without a mover is still served; a mover that hangs
		   up is looked at by a scenario, else it has ended. */
		if (s->stage == RUNNING ? !serving : s->kind == WIRE_CHILD)
			close_fd(&s->sock);
		else
			end_session(s);
		return;
	}
	CHECK(packet.head.magic == WIRE_MAGIC && packet.head.version == WIRE_VERSION, "bad head");
	if (packet.head.type == WIRE_HELLO && n == sizeof(packet.hello) && s->stage == WAIT_HELLO) {
		on_hello(s, &packet.hello);
	} else if (packet.head.type == WIRE_ATTACH && n == sizeof(packet.attach) &&
		   s->stage == WAIT_ATTACH) {
		on_attach(s, &packet.attach, fd);
	} else if (packet.head.type == WIRE_READY && n == sizeof(packet.ready) &&
		   s->stage == WAIT_READY) {
		s->mover = pid;
		s->stage = RUNNING;
	} else if (packet.head.type == WIRE_REPORT && n == sizeof(packet.report) &&
		   s->stage == RUNNING) {
		s->report = packet.report;
		s->have_report = true;
	} else {
		die("unexpected packet type %u size %zd at stage %d", packet.head.type, n,
		    s->stage);
	}
}

static void accept_one(void)
{
	struct session *s = new_session();
	struct ucred cred;
	socklen_t len = sizeof(cred);
	int one = 1;

	s->sock = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (s->sock < 0 || getsockopt(s->sock, SOL_SOCKET, SO_PEERCRED, &cred, &len) ||
	    setsockopt(s->sock, SOL_SOCKET, SO_PASSCRED, &one, sizeof(one)))
		die("accept: %s", strerror(errno));
	s->pid = cred.pid;
}

/* One turn of the loop; extra: one more descriptor to wait for, or -1. */
static bool turn(int extra, int timeout_ms)
{
	static struct pollfd p[2 * MAX_SESSIONS + 2];
	static struct session *whose[2 * MAX_SESSIONS + 2];
	unsigned int n = 2;

	p[0] = (struct pollfd){ .fd = listener, .events = POLLIN };
	p[1] = (struct pollfd){ .fd = extra, .events = POLLIN };
	for (unsigned int i = 0; i < MAX_SESSIONS; i++) {
		if (!sessions[i].used)
			continue;
		whose[n] = &sessions[i];
		p[n++] = (struct pollfd){ .fd = sessions[i].uffd, .events = POLLIN };
		whose[n] = &sessions[i];
		p[n++] = (struct pollfd){ .fd = sessions[i].sock, .events = POLLIN };
	}
	if (poll(p, n, timeout_ms) <= 0)
		return false;
	for (unsigned int i = 2; i < n; i++) {
		if (!p[i].revents || !whose[i]->used)
			continue;
		if (p[i].fd == whose[i]->uffd && (p[i].revents & POLLIN))
			serve_uffd(whose[i]);
		else if (p[i].fd == whose[i]->sock)
			serve_sock(whose[i]);
	}
	if (p[0].revents)
		accept_one();
	return p[1].revents;
}

static void run_for(unsigned int ms)
{
	uint64_t end = now_ms() + ms;

	while (now_ms() < end)
		turn(-1, 5);
}

static void listen_at(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };

	device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	CHECK(device >= 0, "/dev/userfaultfd: %s", strerror(errno));
	CHECK(strlen(path) < sizeof(a.sun_path), "socket path too long");
	strcpy(a.sun_path, path);
	unlink(path);
	listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (listener < 0 || bind(listener, (struct sockaddr *)&a, sizeof(a)) || chmod(path, 0666) ||
	    listen(listener, 128))
		die("%s: %s", path, strerror(errno));
}

/* ---- the workload, a shim_pages ---- */

struct workload {
	pid_t pid;
	int in, out;
	uint64_t base;
	unsigned int pages;
	char line[256];
};

static char socket_path[100];

static bool read_line(struct workload *w, unsigned int ms)
{
	uint64_t end = now_ms() + ms;
	size_t n = 0;

	while (now_ms() < end && n < sizeof(w->line) - 1) {
		if (!turn(w->out, 10))
			continue;
		if (read(w->out, w->line + n, 1) != 1)
			break;
		if (w->line[n] == '\n') {
			w->line[n] = 0;
			return true;
		}
		n++;
	}
	w->line[n] = 0;
	return false;
}

static bool tell(struct workload *w, const char *command)
{
	return write(w->in, command, strlen(command)) == (ssize_t)strlen(command) &&
	       write(w->in, "\n", 1) == 1;
}

/* Faults are served meanwhile. */
static void ask(struct workload *w, const char *command, const char *answer)
{
	CHECK(tell(w, command), "%s: %s", command, strerror(errno));
	CHECK(read_line(w, 10000), "%s: no answer", command);
	CHECK(!strcmp(w->line, answer), "%s: %s, not %s", command, w->line, answer);
}

static void spawn_only(struct workload *w, const char *lib, const char *program)
{
	int in[2], out[2];

	CHECK(!pipe2(in, O_CLOEXEC) && !pipe2(out, O_CLOEXEC), "pipe");
	w->pid = fork();
	CHECK(w->pid >= 0, "fork");
	if (!w->pid) {
		setpgid(0, 0);
		dup2(in[0], 0);
		dup2(out[1], 1);
		close_range(3, ~0u, 0);
		setenv("LD_PRELOAD", lib, 1);
		setenv("USWAP_SOCKET", socket_path, 1);
		execl(program, program, (char *)NULL);
		_exit(127);
	}
	to_kill = w->pid;
	setpgid(w->pid, w->pid);
	close(in[0]);
	close(out[1]);
	w->in = in[1];
	w->out = out[0];
}

static struct session *spawn(struct workload *w, const char *lib, const char *program)
{
	struct session *s = NULL;

	spawn_only(w, lib, program);
	CHECK(read_line(w, 10000), "the workload does not start");
	CHECK(sscanf(w->line, "range %" SCNx64 " %u", &w->base, &w->pages) == 2, "%s", w->line);
	for (uint64_t end = now_ms() + 20000; !s && now_ms() < end; turn(-1, 5))
		s = session_of(w->pid);
	CHECK(s, "the workload did not attach");
	CHECK(s->mover > 0 && s->mover != s->pid, "mover %d", s->mover);
	CHECK(!uffd_register(s->uffd, w->base, w->pages * PAGE), "register the workload");
	return s;
}

static void finish(struct workload *w, struct session *s, int expected)
{
	pid_t mover = s->mover;
	int status;

	CHECK(tell(w, "exit 3"), "exit");
	for (uint64_t end = now_ms() + 20000;;) {
		pid_t pid = waitpid(w->pid, &status, WNOHANG);

		if (pid == w->pid)
			break;
		CHECK(now_ms() < end, "the workload does not exit");
		turn(-1, 5);
	}
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == expected, "status %x", status);
	CHECK(gone_within(mover, 10000), "the mover outlives its workload");
	close(w->in);
	close(w->out);
}

/* ---- orders ---- */

static void send_order(struct session *s, struct wire_order *o)
{
	o->head = head_of(WIRE_ORDER);
	o->seq = ++s->seq;
	s->have_report = false;
	CHECK(send(s->sock, o, sizeof(*o), MSG_NOSIGNAL) == sizeof(*o), "order: %s",
	      strerror(errno));
}

static bool await_report(struct session *s, unsigned int ms)
{
	for (uint64_t end = now_ms() + ms; !s->have_report && now_ms() < end;)
		turn(-1, 5);
	if (s->have_report)
		CHECK(s->report.seq == s->seq, "report %u for order %u", s->report.seq, s->seq);
	return s->have_report;
}

static struct wire_order one_range(struct session *s, enum wire_op op, uint64_t address,
				   unsigned int pages, unsigned int lane)
{
	struct wire_order o = { .op = op,
				.generation = s->gate->generation,
				.lane = lane,
				.nr_ranges = 1,
				.range = { { .address = address, .pages = pages } } };

	return o;
}

static void order(struct session *s, struct wire_order *o)
{
	send_order(s, o);
	CHECK(await_report(s, 20000), "no report");
}

static uint64_t transit_of(const struct session *s, unsigned int lane, unsigned int page)
{
	return s->attach.transit + (lane * WIRE_BATCH + page) * PAGE;
}

static void drop(struct session *s, unsigned int lane, uint64_t mask)
{
	struct wire_order o = { .op = WIRE_OP_DROP, .lane = lane, .drop_mask = mask };

	send_order(s, &o);
}

static uint64_t done_mask(const struct session *s)
{
	uint64_t mask = 0;

	for (unsigned int i = 0; i < WIRE_BATCH; i++)
		if (s->report.page[i] == WIRE_PAGE_DONE)
			mask |= 1ull << i;
	return mask;
}

/* Moves, pulls and drops one range; how many pages are stored by it. */
static unsigned int evict(struct session *s, uint64_t address, unsigned int pages,
			  unsigned int lane)
{
	struct wire_order o = one_range(s, WIRE_OP_MOVE, address, pages, lane);
	uint64_t mask = pages < 64 ? (1ull << pages) - 1 : ~0ull;
	unsigned int n = 0, nr;
	uint8_t data[WIRE_PAGE];

	s->leaving = address;
	s->nr_leaving = pages;
	order(s, &o);
	mask &= done_mask(s);
	for (unsigned int i = 0; i < pages; i++) {
		if (!(mask >> i & 1))
			continue;
		CHECK(pread(s->mem, data, PAGE, (off_t)transit_of(s, lane, i)) == (ssize_t)PAGE,
		      "transit page %u: %s", i, strerror(errno));
		store_page(s, address + i * PAGE, data);
		n++;
	}
	if (mask)
		drop(s, lane, mask);
	s->nr_leaving = 0;
	nr = s->nr_deferred;
	s->nr_deferred = 0;
	for (unsigned int i = 0; i < nr; i++)
		while (serve_fault(s, s->deferred[i]) == -EAGAIN)
			serve_uffd(s);
	return n;
}

/* Also a fence: orders are answered in order, so a DROP before it is done. */
static uint32_t drop_error(struct session *s, struct workload *w)
{
	struct wire_order o = one_range(s, WIRE_OP_POPULATE, w->base, 1, 0);

	order(s, &o);
	return s->report.drop_error;
}

static bool transit_has(struct session *s, unsigned int lane, unsigned int page)
{
	uint8_t data[WIRE_PAGE];

	return pread(s->mem, data, PAGE, (off_t)transit_of(s, lane, page)) == (ssize_t)PAGE;
}

#include "shim_scenarios.h"

/* ---- main ---- */

static void on_term(int sig)
{
	(void)sig;
	stop = 1;
}

static int probe(void)
{
	struct uffdio_api api = { .api = UFFD_API, .features = FEATURES };
	int fd;

	if (geteuid()) {
		printf("not root\n");
		return 77;
	}
	device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (device < 0) {
		printf("/dev/userfaultfd: %s\n", strerror(errno));
		return 77;
	}
	fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 || ioctl(fd, UFFDIO_API, &api)) {
		printf("the kernel lacks UFFD_FEATURE_MOVE or another feature\n");
		return 77;
	}
	return 0;
}

static int serve(const char *path)
{
	listen_at(path);
	serving = true;
	while (!stop)
		turn(-1, 1000);
	printf("served %u faults, %u events, %u sessions\n", served, events, nr_sessions());
	unlink(path);
	return 0;
}

int main(int argc, char **argv)
{
	struct sigaction term = { .sa_handler = on_term };

	sigaction(SIGTERM, &term, NULL);
	signal(SIGPIPE, SIG_IGN);
	if (argc == 2 && !strcmp(argv[1], "probe"))
		return probe();
	if (argc >= 3 && !strcmp(argv[1], "serve")) {
		how = argc > 3 ? argv[3] : how;
		return serve(argv[2]);
	}
	if (argc == 5 && !strcmp(argv[1], "run"))
		return run_scenario(argv[2], argv[3], argv[4]);
	fprintf(stderr, "usage: shim_peer probe | serve SOCKET [HOW] | run TEST LIB WORKLOAD\n");
	return 2;
}
