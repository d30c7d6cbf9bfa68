/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Handshakes with shims (common/wire.h). Everything that comes from the socket
 * is hostile until checked; a connection that breaks the protocol is closed,
 * and nothing of it stays.
 */
#include "engine/private.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "common/fdpass.h"
#include "common/log.h"
#include "common/reaper.h"
#include "common/inject.h"
#include "common/util.h"
#include "proc/gate.h"
#include "proc/handshake.h"
#include "sys/pagemap.h"
#include "sys/uffd.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif
#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83
#endif

#define HANDSHAKE_NS (5 * NSEC_PER_SEC)
#define ATTACHING_MAX 128u
#define ATTACHING_PER_UID 32u
#define FDS_PER_SESSION 12u
#define FDS_PER_CHILD 2u /* that has not said hello */
/* After an exec the session before is there for a moment still, and movers come again. */
#define SESSIONS_PER_PROCESS 16u

enum attaching_step { WANT_HELLO, WANT_ATTACH, WANT_OWNER };

struct attaching {
	int sock;
	int pidfd;
	enum attaching_step step;
	struct ucred peer;
	uint64_t deadline_ns;
	enum wire_kind kind;
	uint64_t child; /* session id of a fork child, 0: a new one */
	struct adoption *adoption; /* the owner has it; it points back here */
	struct attaching *next;
};

static void drop(struct engine *e, struct attaching *a)
{
	struct attaching **at;

	for (at = &e->attaching; *at != a; at = &(*at)->next)
		;
	*at = a->next;
	e->nr_attaching--;
	if (a->adoption)
		a->adoption->connection = NULL;
	if (a->sock >= 0) {
		epoll_ctl(e->epoll, EPOLL_CTL_DEL, a->sock, NULL);
		/* The peer sees the end now, whenever the closing is done. What
		   went to the owner may live on as the mover's. */
		if (a->step != WANT_OWNER)
			shutdown(a->sock, SHUT_RDWR);
		/* What the peer has sent and nobody has read goes with it. */
		reaper_close(a->sock);
	}
	safe_close(a->pidfd);
	free(a);
}

static bool is_allowed(const struct engine *e, uid_t uid)
{
	if (!e->settings.nr_allow_uid)
		return true;
	for (unsigned i = 0; i < e->settings.nr_allow_uid; i++)
		if (e->settings.allow_uid[i] == uid)
			return true;
	return false;
}

/* What an eighth of is kept for others, as long as nobody has vouched for that user. */
static bool has_share(const struct engine *e, uid_t uid, unsigned has)
{
	unsigned max = e->settings.max_processes;

	return has < max - max / 8 || uid == 0 || (e->settings.nr_allow_uid && is_allowed(e, uid));
}

/*
 * Fork children come without being asked, so until they say hello they count for their
 * own user only: he can't keep others out with them.
 */
static bool has_room(const struct engine *e, uid_t uid)
{
	unsigned attaching = 0, introduced = 0, same = 0;
	struct rlimit limit;

	for (struct attaching *a = e->attaching; a; a = a->next)
		attaching += a->peer.uid == uid;
	for (struct session *s = e->sessions; s; s = s->next) {
		introduced += s->introduced;
		same += s->uid == uid;
	}
	if (e->nr_attaching >= ATTACHING_MAX || attaching >= ATTACHING_PER_UID ||
	    introduced >= e->settings.max_processes || !has_share(e, uid, same + attaching))
		return false;
	/* Half of the descriptors stay for fork children. */
	return getrlimit(RLIMIT_NOFILE, &limit) < 0 ||
	       (uint64_t)(introduced + e->nr_attaching + 1) * FDS_PER_SESSION +
			       (uint64_t)(e->nr_sessions - introduced) * FDS_PER_CHILD <
		       limit.rlim_cur / 2;
}

static int peer_pidfd(int sock, pid_t pid)
{
	int fd = -1;
	socklen_t len = sizeof(fd);

	if (getsockopt(sock, SOL_SOCKET, SO_PEERPIDFD, &fd, &len) == 0 && fd >= 0)
		return fd;
	return (int)syscall(SYS_pidfd_open, pid, 0); /* before Linux 6.5 */
}

void attach_accept(struct engine *e, int sock)
{
	struct attaching *a = calloc(1, sizeof(*a));
	struct epoll_event event = { .events = EPOLLIN, .data.ptr = a };
	socklen_t len = sizeof(a->peer);
	int one = 1;

	if (!a || getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &a->peer, &len) < 0 ||
	    reaper_is_full(a->peer.uid) || !has_room(e, a->peer.uid) ||
	    setsockopt(sock, SOL_SOCKET, SO_PASSCRED, &one, sizeof(one)) < 0 ||
	    epoll_ctl(e->epoll, EPOLL_CTL_ADD, sock, &event) < 0) {
		e->attach_refused++;
		shutdown(sock, SHUT_RDWR);
		reaper_close(sock);
		free(a);
		return;
	}
	a->sock = sock;
	a->pidfd = peer_pidfd(sock, a->peer.pid);
	a->deadline_ns = now_ns() + HANDSHAKE_NS;
	a->next = e->attaching;
	e->attaching = a;
	e->nr_attaching++;
}

void attach_expire(struct engine *e, uint64_t now)
{
	struct attaching *next;

	for (struct attaching *a = e->attaching; a; a = next) {
		next = a->next;
		if (now >= a->deadline_ns)
			drop(e, a);
	}
}

void attach_cancel_all(struct engine *e)
{
	while (e->attaching)
		drop(e, e->attaching);
}

static struct session *find_child(struct engine *e, const struct wire_hello *hello, uid_t uid)
{
	for (struct session *s = e->sessions; s; s = s->next)
		if (hello->nonce && s->nonce == hello->nonce && s->uid == uid && !s->introduced && !s->adoption &&
		    session_state(s) == SESSION_SERVED)
			return s;
	return NULL;
}

static struct log_limit refusals; /* anybody may ask, as often as he likes */

/* A program that the agent waits for must not wait for the agent. */
static bool is_needed_here(const struct engine *e, pid_t pid)
{
	char name[NAME_MAX + 1], word[sizeof(name) + 2];

	session_program_name(pid, name, sizeof(name));
	snprintf(word, sizeof(word), " %s ", name);
	if (strcmp(name, "uswap-agent") != 0 && (!*name || !strstr(e->settings.never_attach, word)))
		return false;
	log_limited(&refusals, LOG_LEVEL_INFO, "process %d (%s) is not served: NeverAttach=", (int)pid, name);
	return true;
}

/* Descriptors come with ATTACH alone: neither HELLO nor a mover has any, nor has one
   who is refused. Linux before 6.16 takes them always. */
static void take_rights(int sock, int yes)
{
	(void)setsockopt(sock, SOL_SOCKET, SO_PASSRIGHTS, &yes, sizeof(yes));
}

/* The next step if welcome, else the connection is done. */
static bool take_hello(struct engine *e, struct attaching *a, const struct wire_hello *hello)
{
	struct wire_welcome welcome = { .head = { WIRE_MAGIC, WIRE_VERSION, WIRE_WELCOME } };
	struct session *child = NULL;
	int fds[2];
	unsigned nr = 0;

	if (hello->head.version != WIRE_VERSION)
		welcome.status = WIRE_UNSUPPORTED;
	else if (e->draining)
		welcome.status = WIRE_STOPPING;
	else if (!is_allowed(e, a->peer.uid) || a->peer.pid == getpid())
		welcome.status = WIRE_DENIED;
	else if (is_needed_here(e, a->peer.pid))
		welcome.status = WIRE_NEVER;
	else if (hello->kind == WIRE_CHILD && !(child = find_child(e, hello, a->peer.uid)))
		welcome.status = WIRE_UNKNOWN;
	else if (hello->kind == WIRE_AGAIN && again_is_known(e, hello->nonce))
		welcome.status = WIRE_UNKNOWN; /* still, or already: it has hung up too early */
	if (welcome.status == WIRE_OK) {
		if (child)
			fds[nr++] = child->fds.uffd;
		if (hello->kind != WIRE_AGAIN)
			fds[nr++] = e->device;
		a->kind = hello->kind;
		a->child = child ? child->id : 0;
		a->step = WANT_ATTACH;
		take_rights(a->sock, true);
	} else {
		e->attach_refused++;
	}
	return fdpass_send(a->sock, &welcome, sizeof(welcome), fds, nr) == 0 && welcome.status == WIRE_OK;
}

/* The gate page and its event. Sealed, so that the peer can't take the memory
   away under us; it may write nonsense, which only delays itself. */
static int make_gate(struct wire_gate **gate, int *event, uint64_t *token)
{
	int fd = memfd_create("uswap-gate", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	void *page = MAP_FAILED;

	*event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fd >= 0 && *event >= 0 && ftruncate(fd, (off_t)PAGE_BYTES) == 0 &&
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
		page = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (page == MAP_FAILED) {
		*event = safe_close(*event);
		safe_close(fd);
		return -ENOMEM;
	}
	*gate = page;
	if (getrandom(token, sizeof(*token), GRND_NONBLOCK) != (ssize_t)sizeof(*token))
		*token = 0; /* then the next agent knows it by no name */
	(*gate)->token = *token;
	return fd;
}

int attach_tell(const struct session *s, int sock)
{
	struct wire_attached m = { .head = { WIRE_MAGIC, WIRE_VERSION, WIRE_ATTACHED },
				   .session = (uint32_t)s->id };
	int fds[2] = { s->fds.gate, s->fds.gate_event };

	return fdpass_send(sock, &m, sizeof(m), fds, 2);
}

static void refuse(struct engine *e, const struct attaching *a, enum wire_status status, const char *why)
{
	struct wire_attached m = { .head = { WIRE_MAGIC, WIRE_VERSION, WIRE_ATTACHED }, .status = status };

	e->attach_refused++;
	log_limited(&refusals, LOG_LEVEL_INFO, "process %d (uid %u) could not attach: %s", (int)a->peer.pid,
		    a->peer.uid, why);
	(void)fdpass_send(a->sock, &m, sizeof(m), NULL, 0);
}

bool attach_is_running(int pidfd)
{
	struct pollfd p = { .fd = pidfd, .events = POLLIN };

	return pidfd >= 0 && poll(&p, 1, 0) == 0;
}

/* From here on a worker after us would know of it. The connection becomes the
   mover's when the peer has its answer. */
static int make_record(struct engine *e, struct session *s, const struct attaching *a)
{
	struct record *record;

	s->records = &e->records;
	record = s->record = record_new(s->records);
	if (!record)
		return -ENOMEM;
	record->uid = s->uid;
	record->domain = s->domain->uid;
	record->owner = session_owner(s)->index;
	record->attached_ns = s->attached_ns;
	record->identity = s->identity;
	record->disabled = !s->enabled;
	record->blind = s->blind;
	record->marks = s->marks;
	record->state = SESSION_ACTIVE;
	s->slots.kept_root = &record->root;
	record_introduce(s);
	atomic_store(&record->fds[RECORD_MOVER], a->sock + 1);
	atomic_store(&record->fds[RECORD_PIDFD], a->pidfd + 1);
	record_commit(s, 0);
	record_publish(record, s->id);
	inject(INJECT_ATTACH);
	return engine_keep_fds(e, s);
}

/* Each of them costs, and one process has one address space. */
static bool is_there_often(const struct engine *e, pid_t pid)
{
	unsigned n = 0;

	for (const struct session *s = e->sessions; s; s = s->next)
		n += s->introduced && s->pid == pid;
	return n >= SESSIONS_PER_PROCESS;
}

/* What a session needs of its connection. */
static int fill_session(struct engine *e, struct session *s, struct attaching *a, int *fds,
			const struct wire_attach *m)
{
	int gate, r;

	s->fds.uffd = take_fd(&fds[0]);
	s->fds.mem = take_fd(&fds[1]);
	s->fds.pagemap = take_fd(&fds[2]);
	s->pid = a->peer.pid;
	s->filters = session_read_filters(s->pid, NULL);
	s->transit = m->transit;
	s->identity = m->identity;
	s->attach = *m;
	s->store_max = e->process_max;
	s->enabled = e->enabled;
	s->owner = &e->owners[e->next_owner++ % e->nr_owners].owner;
	slotmap_init(&s->slots, session_owner(s)->slots, &flow_slot_refs, s);
	if (a->kind == WIRE_AGAIN)
		r = again_fill(s, fds[3]);
	else
		r = uffd_api(s->fds.uffd, &s->marks);
	if (r == 0)
		r = uffd_register(s->fds.uffd, m->transit, WIRE_TRANSIT_PAGES * PAGE_BYTES, false);
	if (r == 0)
		r = uffd_register(s->fds.uffd, m->identity, PAGE_BYTES, s->marks);
	if (r == 0)
		s->marks = s->marks && uffd_marks_hold(s->fds.uffd, m->identity);
	if (r == 0)
		r = session_open_proc(s->pid, &s->fds);
	/* Only now is it certain whose files these are: the pid may have gone
	   to another process meanwhile, or to another program. */
	if (r == 0 && a->kind == WIRE_AGAIN)
		r = again_vouch(s, a->peer.pid, &fds[3], &a->pidfd);
	if (r == 0 && !attach_is_running(a->pidfd))
		r = -ESRCH;
	if (r == 0 && a->kind != WIRE_AGAIN && !session_runs_as(s->pid, s->uid))
		r = -EPERM;
	if (r == 0 && is_there_often(e, s->pid))
		r = -EUSERS;
	if (r < 0)
		return r;
	if (a->kind == WIRE_AGAIN)
		again_learn(s);
	gate = make_gate(&s->gate, &s->fds.gate_event, &s->token);
	if (gate < 0)
		return gate;
	s->fds.gate = gate;
	flow_tell_away(s, 0);
	r = domains_join(e, s);
	if (r == 0)
		r = make_record(e, s, a);
	return r < 0 ? r : attach_tell(s, a->sock);
}

/* After an exec the program is still the same process to people: what they
   have set for it stays. */
static void inherit_switches(const struct engine *e, struct session *s)
{
	for (const struct session *old = e->sessions; old; old = old->next)
		if (old->introduced && old->pid == s->pid) {
			engine_switch(s, old->enabled, old->limit_bytes);
			return;
		}
}

static void make_session(struct engine *e, struct attaching *a, int *fds, const struct wire_attach *m)
{
	struct session *s = session_new(atomic_fetch_add(&e->flow.next_session_id, 1), a->peer.uid);
	bool again = a->kind == WIRE_AGAIN;
	int r = s ? fill_session(e, s, a, fds, m) : -ENOMEM;

	if (r < 0) {
		refuse(e, a, r == -EINVAL ? WIRE_UNSUPPORTED : r == -ENOSPC || r == -EUSERS ? WIRE_LIMIT : WIRE_FAILED,
		       r == -EUSERS ? "it is attached too often already" :
		       r == -ENOSPC ? "no room for its descriptors in the service manager's store "
				      "(FileDescriptorStoreMax=, LimitNOFILE=)" :
				      strerror(-r));
		if (!s)
			return;
		/* Or the next to get its record would find them under its own names. */
		engine_forget_fds(e, s);
		domains_leave(e, s);
		session_free(s);
		return;
	}
	epoll_ctl(e->epoll, EPOLL_CTL_DEL, a->sock, NULL);
	take_rights(a->sock, false);
	s->fds.mover = take_fd(&a->sock);
	s->fds.pidfd = take_fd(&a->pidfd);
	inherit_switches(e, s);
	s->introduced = true;
	registry_add(e, s);
	if (again)
		again_report(s);
	notice_send(&session_owner(s)->box, &s->to_owner, SESSION_OWN_ADD);
	if (!again) /* else the owner does it in time */
		notice_send(&e->flow.worker, &s->to_worker, SESSION_WORK_ADD);
}

/* A fork child: its owner has to agree, since it is serving it already. */
static bool ask_owner(struct engine *e, struct attaching *a, int *fds, const struct wire_attach *m)
{
	struct session *s = registry_find(e, a->child);
	struct adoption *adoption = s && !s->adoption ? calloc(1, sizeof(*adoption)) : NULL;

	if (!adoption)
		return false;
	adoption->fds = SESSION_FDS_NONE;
	/* The socket is duplicated: the answer goes out by the connection. */
	adoption->fds.mover = fcntl(a->sock, F_DUPFD_CLOEXEC, 0);
	if (adoption->fds.mover >= 0 && session_open_proc(a->peer.pid, &adoption->fds) == 0 &&
	    attach_is_running(a->pidfd) && session_runs_as(a->peer.pid, a->peer.uid))
		adoption->fds.gate = make_gate(&adoption->gate, &adoption->fds.gate_event, &adoption->token);
	if (adoption->fds.gate < 0) {
		session_close_fds(&adoption->fds, a->peer.uid);
		free(adoption);
		return false;
	}
	adoption->fds.mem = take_fd(&fds[0]);
	adoption->fds.pagemap = take_fd(&fds[1]);
	adoption->fds.pidfd = take_fd(&a->pidfd);
	adoption->attach = *m;
	adoption->pid = a->peer.pid;
	adoption->connection = a;
	a->adoption = adoption;
	epoll_ctl(e->epoll, EPOLL_CTL_DEL, a->sock, NULL);
	take_rights(a->sock, false);
	a->step = WANT_OWNER;
	s->adoption = adoption;
	notice_send(&session_owner(s)->box, &s->to_owner, SESSION_OWN_ADOPT);
	return true;
}

void attach_adopted(struct engine *e, struct session *s)
{
	struct adoption *a = s->adoption;
	struct attaching *c = a->connection;

	s->adoption = NULL;
	if (c)
		c->adoption = NULL;
	if (a->done) {
		/* Without an answer the child has no mover; its socket's end
		   then tells the worker so. */
		if (c)
			(void)attach_tell(s, c->sock);
		if (engine_keep_fds(e, s) < 0) /* not safe: nothing may leave */
			notice_send(&session_owner(s)->box, &s->to_owner, SESSION_OWN_DETACH);
		notice_send(&e->flow.worker, &s->to_worker, SESSION_WORK_ADD);
		s->introduced = true;
		session_read_names(s);
		if (e->news.process_changed)
			e->news.process_changed(e->news.ctx, s->id);
	} else {
		session_close_fds(&a->fds, s->uid);
		munmap(a->gate, PAGE_BYTES);
		if (c)
			refuse(e, c, WIRE_FAILED, "its session ended meanwhile");
	}
	free(a);
	if (c)
		drop(e, c);
}

/* True: the connection goes on. */
static bool take_attach(struct engine *e, struct attaching *a, int *fds, unsigned nr,
			const struct wire_attach *m)
{
	unsigned want = a->kind == WIRE_CHILD ? 2 : a->kind == WIRE_AGAIN ? 4 : 3;
	int *proc = a->child ? fds : fds + 1;

	if (nr != want || !proc_fd_is(proc[0], "mem") ||
	    !proc_fd_is(proc[1], "pagemap") || (!a->child && !uffd_is_uffd(fds[0]))) {
		refuse(e, a, WIRE_FAILED, "malformed ATTACH");
		return false;
	}
	if (e->draining) {
		refuse(e, a, WIRE_STOPPING, "the agent is stopping");
		return false;
	}
	if (a->child) {
		if (ask_owner(e, a, fds, m))
			return true;
		refuse(e, a, WIRE_FAILED, "no such fork child any more");
		return false;
	}
	make_session(e, a, fds, m);
	return false;
}

void attach_event(struct engine *e, struct attaching *a)
{
	union {
		struct wire_hello hello;
		struct wire_attach attach;
	} m;
	int fds[FDPASS_MAX];
	unsigned nr;
	pid_t sender;
	ssize_t n = fdpass_recv(a->sock, a->peer.uid, &m, sizeof(m), fds, &nr, &sender);
	bool go_on = false;

	if (n == -EAGAIN || n == -EINTR)
		return;
	if (a->step == WANT_HELLO && n > 0 && nr == 0 && handshake_is_hello(&m, (size_t)n))
		go_on = take_hello(e, a, &m.hello);
	else if (a->step == WANT_ATTACH && n > 0 && handshake_is_attach(&m, (size_t)n))
		go_on = take_attach(e, a, fds, nr, &m.attach);
	else if (n != 0)
		e->attach_refused++;
	fdpass_close(a->peer.uid, fds, nr);
	if (!go_on)
		drop(e, a);
}
