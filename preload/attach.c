/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The handshake of wire.h, for a fresh address space (constructor) and for a
 * fork child. Runs in the program's own thread with all signals blocked; see
 * shim.h for the rules of code in a foreign process.
 *
 * At most five descriptors are open at a time, so that a program under a small
 * `ulimit -n` can attach as well; none is left at the end. Order of work: what
 * fails most often (no agent) comes first and costs least.
 */
#include "preload/shim.h"
#include "uapi/uswap_uapi.h"

/* The shim's own image: from the linker, for the ranges never to touch. */
extern const char __ehdr_start[] __attribute__((visibility("hidden")));
extern const char _end[] __attribute__((visibility("hidden")));

#define CUT_TRIES 3
#define CUT_NAP_NSEC 10000000L

struct attempt {
	enum wire_kind kind;
	uint64_t nonce;
	uint64_t arena;
	uint64_t identity; /* made by this attempt: WIRE_NEW only */
	int sock;
	int device;
	int uffd;
	int trash_uffd;
	int event;
	int pidfd;
	int offered; /* ATTACH was sent: the agent may have registered us */
	int kept;    /* the arena must outlive this attempt */
	struct outcome *outcome;
};

static void close_fd(int *fd)
{
	if (*fd >= 0)
		sys_close(*fd);
	*fd = -1;
}

static int failed(struct attempt *a, const char *step, long error)
{
	a->outcome->step = step;
	a->outcome->error = error;
	return -1;
}

/* ---- steps ---- */

/*
 * Where children go to another pid namespace (after unshare(CLONE_NEWPID)),
 * the first child becomes that namespace's init, and its death ends it: the
 * program's next fork would fail. So there we must not clone. Before its first
 * process the link can't even be read.
 */
static int children_stay(void)
{
	char own[64], theirs[64];
	long n, k, i;

	n = sys_readlink("/proc/self/ns/pid", own, sizeof(own));
	k = sys_readlink("/proc/self/ns/pid_for_children", theirs, sizeof(theirs));
	if (n <= 0 || n != k)
		return 0;
	for (i = 0; i < n && own[i] == theirs[i]; i++)
		;
	return i == n;
}

static int connect_agent(struct attempt *a)
{
	struct __kernel_sock_timeval limit = { SHIM_TIMEOUT_SEC, 0 };
	struct sockaddr_un to = { .sun_family = SYS_AF_UNIX };
	long err;

	memcpy(to.sun_path, shim.socket_path, sizeof(to.sun_path));
	a->sock = (int)sys_socket_seqpacket(0);
	if (a->sock < 0)
		return failed(a, "socket", a->sock);
	/* SO_SNDTIMEO bounds connect too, when the agent's backlog is full. */
	sys_setsockopt(a->sock, SO_RCVTIMEO, &limit, sizeof(limit));
	sys_setsockopt(a->sock, SO_SNDTIMEO, &limit, sizeof(limit));
	do
		err = sys_connect(a->sock, &to, sizeof(to));
	while (err == -EINTR);
	if (err)
		return failed(a, "no agent", err);
	if (!children_stay())
		return failed(a, "pid namespace", -EXDEV);
	return 0;
}

static int say_hello(struct attempt *a)
{
	struct wire_hello hello = { .head = packet_head(WIRE_HELLO),
				    .kind = a->kind,
				    .nonce = a->nonce };
	unsigned int want = a->kind == WIRE_CHILD ? 2 : 1;
	struct wire_welcome welcome;
	int fd[PACKET_FDS] = { -1, -1, -1, -1 };
	long err;

	err = packet_send(a->sock, &hello, sizeof(hello), NULL, 0);
	if (!err)
		err = packet_recv(a->sock, &welcome, sizeof(welcome), WIRE_WELCOME, fd, want);
	if (err)
		return failed(a, "hello", err);
	if (a->kind == WIRE_CHILD)
		a->uffd = fd[0];
	a->device = fd[want - 1];
	if (welcome.status != WIRE_OK)
		return failed(a, "refused", (long)welcome.status);
	if (a->device < 0)
		return failed(a, "hello", -EPROTO);
	return 0;
}

static long open_part(uint64_t arena, unsigned int page, unsigned int pages)
{
	return sys_mprotect(arena_at(arena, page), (size_t)pages * WIRE_PAGE,
			    PROT_READ | PROT_WRITE);
}

static int make_arena(struct attempt *a)
{
	long at = sys_mmap_anon(ARENA_BYTES, PROT_NONE);
	uint64_t arena = (uint64_t)at;
	size_t lanes = arena_at(0, ARENA_PAGES - ARENA_TRASH) - WIRE_PAGE;
	long err;

	if (at < 0)
		return failed(a, "arena", at);
	a->arena = arena;
	err = sys_madvise(arena, ARENA_BYTES, MADV_DONTFORK);
	if (!err)
		err = sys_madvise(arena, ARENA_BYTES, MADV_DONTDUMP);
	/* EINVAL where the kernel knows no huge pages: then there are none. */
	sys_madvise(arena_at(arena, ARENA_TRASH), lanes, MADV_NOHUGEPAGE);
	if (!err)
		err = open_part(arena, ARENA_START_STACK, ARENA_START_STACK_PAGES);
	if (!err)
		err = open_part(arena, ARENA_MOVER_STACK, ARENA_MOVER_STACK_PAGES);
	if (!err)
		err = open_part(arena, ARENA_MOVER, 1);
	if (!err)
		err = open_part(arena, ARENA_TRASH, WIRE_TRANSIT_PAGES);
	if (!err)
		err = open_part(arena, ARENA_TRANSIT, WIRE_TRANSIT_PAGES);
	return err ? failed(a, "arena", err) : 0;
}

/*
 * The identity page outlives a fork, empty and still registered: reading it in
 * the child asks the agent which child this is. A fork child has inherited
 * its own. WIPEONFORK keeps the page apart from any neighbour, and gives a
 * grandchild a fresh question instead of its parent's answer.
 */
static int make_identity(struct attempt *a)
{
	long at, err;

	if (a->kind == WIRE_CHILD)
		return 0;
	at = sys_mmap_anon(IDENTITY_BYTES, PROT_NONE);
	if (at < 0)
		return failed(a, "identity page", at);
	a->identity = (uint64_t)at;
	err = sys_madvise(a->identity, IDENTITY_BYTES, MADV_WIPEONFORK);
	if (!err)
		err = sys_madvise(a->identity, IDENTITY_BYTES, MADV_DONTDUMP);
	if (!err)
		err = sys_mprotect(a->identity + WIRE_PAGE, IDENTITY_BYTES - 2 * WIRE_PAGE,
				   PROT_READ | PROT_WRITE);
	return err ? failed(a, "identity page", err) : 0;
}

static uint64_t identity_of(const struct attempt *a)
{
	return a->kind == WIRE_CHILD ? shim.identity : a->identity;
}

static int new_uffd(const struct attempt *a, int flags)
{
	return (int)sys_ioctl(a->device, USERFAULTFD_IOC_NEW,
			      (void *)(uintptr_t)(O_CLOEXEC | O_NONBLOCK | flags));
}

static long register_missing(int uffd, uint64_t start, size_t n)
{
	struct uffdio_register reg = { .range = { start, n }, .mode = UFFDIO_REGISTER_MODE_MISSING };

	return sys_ioctl(uffd, UFFDIO_REGISTER, &reg);
}

/*
 * The trash area's userfaultfd has the bell, too, and is the mover's alone, which may
 * be slow to look: mlockall() walks every mapping of the program, and is not to wait
 * for it. With UFFD_USER_MODE_ONLY such a walk gets an error, which mlockall ignores.
 */
static int make_uffds(struct attempt *a)
{
	struct uffdio_api api = { .api = UFFD_API,
				  .features = UFFD_FEATURE_MOVE | UFFD_FEATURE_THREAD_ID };
	long err;

	if (a->kind == WIRE_NEW)
		a->uffd = new_uffd(a, 0);
	if (a->uffd < 0)
		return failed(a, "userfaultfd", a->uffd);
	a->trash_uffd = new_uffd(a, UFFD_USER_MODE_ONLY);
	if (a->trash_uffd < 0)
		return failed(a, "userfaultfd", a->trash_uffd);
	close_fd(&a->device);
	err = sys_ioctl(a->trash_uffd, UFFDIO_API, &api);
	if (err) /* EINVAL: older than 6.8, no MOVE */
		return failed(a, "UFFD_FEATURE_MOVE", err);
	err = register_missing(a->trash_uffd, arena_at(a->arena, ARENA_TRASH), TRANSIT_BYTES);
	if (!err)
		err = register_missing(a->trash_uffd, bell_of(identity_of(a)), WIRE_PAGE);
	return err ? failed(a, "register", err) : 0;
}

void attach_fill(struct wire_attach *w, uint64_t arena, uint64_t identity)
{
	uint64_t image = (uint64_t)__ehdr_start & ~(uint64_t)(WIRE_PAGE - 1);
	uint64_t end = ((uint64_t)_end + WIRE_PAGE - 1) & ~(uint64_t)(WIRE_PAGE - 1);

	w->head = packet_head(WIRE_ATTACH);
	w->transit = arena_at(arena, ARENA_TRANSIT);
	w->identity = identity + WIRE_PAGE;
	w->nr_never = 3;
	w->never[0] = (struct wire_range){ arena, arena + ARENA_BYTES };
	w->never[1] = (struct wire_range){ identity, identity + IDENTITY_BYTES };
	w->never[2] = (struct wire_range){ image, end };
}

static int offer(struct attempt *a)
{
	struct wire_attach w = { .nr_never = 0 };
	int fd[3];
	unsigned int first = a->kind == WIRE_NEW ? 0 : 1;
	long err;

	fd[0] = a->uffd;
	fd[1] = (int)sys_open("/proc/self/mem", O_RDONLY);
	fd[2] = (int)sys_open("/proc/self/pagemap", O_RDONLY);
	attach_fill(&w, a->arena, identity_of(a));
	if (fd[1] < 0 || fd[2] < 0) {
		err = fd[1] < 0 ? fd[1] : fd[2];
	} else {
		a->offered = 1;
		err = packet_send(a->sock, &w, sizeof(w), fd + first, 3 - first);
	}
	close_fd(&fd[1]);
	close_fd(&fd[2]);
	return err ? failed(a, "/proc/self", err) : 0;
}

static int map_gate(struct attempt *a, int memfd)
{
	uint64_t at = arena_at(a->arena, ARENA_GATE);
	long err;

	/* A shorter file would kill the mover by SIGBUS. */
	if (sys_lseek(memfd, 0, SYS_SEEK_END) < (long)WIRE_PAGE)
		return failed(a, "gate", -EPROTO);
	err = sys_mmap_shared_at(at, WIRE_PAGE, memfd);
	if (err < 0)
		return failed(a, "gate", err);
	err = sys_madvise(at, WIRE_PAGE, MADV_DONTFORK);
	if (!err)
		err = sys_madvise(at, WIRE_PAGE, MADV_DONTDUMP);
	return err ? failed(a, "gate", err) : 0;
}

static int accepted(struct attempt *a)
{
	struct wire_attached attached;
	int fd[PACKET_FDS] = { -1, -1, -1, -1 };
	long err;
	int ret;

	err = packet_recv(a->sock, &attached, sizeof(attached), WIRE_ATTACHED, fd, 2);
	if (err)
		return failed(a, "attach", err);
	a->event = fd[1];
	if (attached.status != WIRE_OK)
		ret = failed(a, "refused", (long)attached.status);
	else if (fd[0] < 0 || fd[1] < 0)
		ret = failed(a, "attach", -EPROTO);
	else
		ret = map_gate(a, fd[0]);
	close_fd(&fd[0]);
	a->outcome->session = attached.session;
	return ret;
}

static int start(struct attempt *a)
{
	struct mover *m = (void *)arena_at(a->arena, ARENA_MOVER);
	int workload = (int)sys_getpid();
	long err;

	a->pidfd = (int)sys_pidfd_open(workload);
	if (a->pidfd < 0)
		return failed(a, "pidfd", a->pidfd);
	m->workload = workload;
	m->sock = a->sock;
	m->uffd = a->uffd;
	m->trash_uffd = a->trash_uffd;
	m->event = a->event;
	m->pidfd = a->pidfd;
	m->arena = a->arena;
	m->gate = (void *)arena_at(a->arena, ARENA_GATE);
	err = mover_start(m);
	if (!err) {
		a->outcome->mover = m->pid;
		return 0;
	}
	a->kept = err == -EINPROGRESS;
	return failed(a, "mover", err);
}

/* ---- the whole ---- */

/*
 * Gives everything back. What the agent may have registered already is a
 * special case: to unmap it could mean to wait for an agent that hangs (its
 * EVENT_UNMAP unread), and to leave it registered would make each fork wait.
 * So it is unregistered, which waits for nobody, and stays mapped: 1 MiB of
 * address space without a page in it.
 */
static void undo(struct attempt *a)
{
	struct uffdio_range transit = { arena_at(a->arena, ARENA_TRANSIT), TRANSIT_BYTES };
	struct uffdio_range identity = { a->identity + WIRE_PAGE, WIRE_PAGE };
	size_t n = ARENA_BYTES;

	close_fd(&a->sock);
	if (a->offered) {
		sys_ioctl(a->uffd, UFFDIO_UNREGISTER, &transit);
		if (a->identity)
			sys_ioctl(a->uffd, UFFDIO_UNREGISTER, &identity);
		n = arena_at(0, ARENA_TRANSIT - 1);
	}
	if (a->arena && !a->kept)
		sys_munmap(a->arena, n);
	if (a->identity && !a->offered)
		sys_munmap(a->identity, IDENTITY_BYTES);
}

static int all_steps(struct attempt *a)
{
	if (connect_agent(a) || say_hello(a) || make_arena(a) || make_identity(a) ||
	    make_uffds(a) || offer(a) || accepted(a))
		return -1;
	return start(a);
}

static int attempt(enum wire_kind kind, uint64_t nonce, struct outcome *outcome)
{
	struct attempt a = { .kind = kind,
			     .nonce = nonce,
			     .sock = -1,
			     .device = -1,
			     .uffd = -1,
			     .trash_uffd = -1,
			     .event = -1,
			     .pidfd = -1,
			     .outcome = outcome };
	int ret = all_steps(&a);

	if (ret) {
		undo(&a);
	} else {
		shim.identity = identity_of(&a);
		shim.attached = 1;
	}
	close_fd(&a.sock);
	close_fd(&a.device);
	close_fd(&a.uffd);
	close_fd(&a.trash_uffd);
	close_fd(&a.event);
	close_fd(&a.pidfd);
	return ret;
}

/*
 * An agent that dies in the middle of it cuts the connection. The next one is
 * there in a moment, or listens no more, which is told at once.
 */
int attach(enum wire_kind kind, uint64_t nonce, struct outcome *outcome)
{
	unsigned int tries;

	for (tries = 1;; tries++) {
		outcome->step = NULL;
		outcome->error = 0;
		if (!attempt(kind, nonce, outcome))
			return 0;
		if (tries == CUT_TRIES || (outcome->error != -ECONNRESET && outcome->error != -EPIPE))
			return -1;
		sys_nanosleep(CUT_NAP_NSEC);
	}
}
