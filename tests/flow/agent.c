/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The agent's own code, all of it but the loops of its threads: each part of
 * their rounds is an action. What the control thread does with sessions is done
 * here, after each action.
 */
#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "backends/store.h"
#include "common/reaper.h"
#include "flow/blobstore.h"
#include "page/domain.h"
#include "agent.h"

#define UID 1000

extern const struct uffd_ops uffd_scripted;

struct engine engine;
static struct owner *const owner = &engine.owners[0].owner;
static struct codec *codec;
static struct store *stores[2];
static int empty_dir = -1, smaps = -1, statm = -1;
static struct order orders[2];
static size_t nodes_taken; /* of the slot pool, when nobody is there */

/* ---- what the process's clock and thread library are here ---- */

int __wrap_clock_gettime(clockid_t clock, struct timespec *ts);
int __wrap_sched_yield(void);
int __wrap_sem_clockwait(sem_t *sem, clockid_t clock, const struct timespec *until);
ssize_t __wrap_send(int sock, const void *from, size_t n, int flags);
ssize_t __real_send(int sock, const void *from, size_t n, int flags);
ssize_t __wrap_getrandom(void *to, size_t n, unsigned flags);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
int __wrap_pthread_mutex_lock(pthread_mutex_t *m);
void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
int __real_pthread_mutex_lock(pthread_mutex_t *m);

int __wrap_clock_gettime(clockid_t clock, struct timespec *ts)
{
	(void)clock;
	w.clock_ns += NSEC_PER_USEC;
	*ts = (struct timespec){ .tv_sec = (time_t)(w.clock_ns / NSEC_PER_SEC),
				 .tv_nsec = (long)(w.clock_ns % NSEC_PER_SEC) };
	return 0;
}

int __wrap_sched_yield(void)
{
	return 0; /* who it is for has its turn when the owner's is over */
}

/* Whoever could post has its turn when ours is over, too: what is waited for comes late. */
int __wrap_sem_clockwait(sem_t *sem, clockid_t clock, const struct timespec *until)
{
	(void)clock;
	if (!sem_trywait(sem))
		return 0;
	w.clock_ns = MAX(w.clock_ns, (uint64_t)until->tv_sec * NSEC_PER_SEC + (uint64_t)until->tv_nsec);
	errno = ETIMEDOUT;
	return -1;
}

ssize_t __wrap_getrandom(void *to, size_t n, unsigned flags)
{
	(void)flags;
	memset(to, 0x5a, n);
	return (ssize_t)n;
}

static bool sent; /* something is in a socket */

ssize_t __wrap_send(int sock, const void *from, size_t n, int flags)
{
	sent = true;
	return __real_send(sock, from, n, flags);
}

static void check_fault_path(const char *what)
{
	if (w.in_fault_path && !w.saw_event)
		violated("INV-2: %s while a fault waits", what);
}

void *__wrap_malloc(size_t n)
{
	check_fault_path("malloc");
	if (w.nobatch && n == sizeof(struct batch)) {
		w.nobatch = false;
		return NULL;
	}
	return __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
	check_fault_path("calloc");
	return __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
	check_fault_path("realloc");
	return __real_realloc(p, n);
}

int __wrap_pthread_mutex_lock(pthread_mutex_t *m)
{
	check_fault_path("a mutex is taken");
	return __real_pthread_mutex_lock(m);
}

/* Takes the place of common/reaper.c: no threads here. */
void reaper_close(int fd)
{
	if (fd >= 0)
		close(fd);
}

void reaper_close_of(uid_t uid, int fd)
{
	(void)uid;
	reaper_close(fd);
}

bool reaper_is_full(uid_t uid)
{
	(void)uid;
	return false;
}

/* ---- the scripted store: memory, and errors by order ---- */

#define SEGMENTS 4
static unsigned char *segments;
static bool segment_used[SEGMENTS];

static int scripted_segment_adopt(void *self, uint32_t segment, uint32_t written)
{
	(void)self;
	(void)written;
	segment_used[segment] = true;
	return 0;
}

static int scripted_segment_new(void *self, uint32_t *segment)
{
	(void)self;
	for (*segment = 0; *segment < SEGMENTS; (*segment)++)
		if (!segment_used[*segment]) {
			segment_used[*segment] = true;
			return 0;
		}
	return -ENOSPC;
}

static int scripted_store_write(void *self, uint32_t segment, size_t offset, const void *buf, size_t len)
{
	(void)self;
	if (w.full)
		return -ENOSPC;
	memcpy(segments + segment * STORE_SEGMENT + offset, buf, len);
	return 0;
}

static int scripted_store_read(void *self, uint32_t segment, size_t offset, void *buf, size_t len)
{
	unsigned char damage = 0;

	(void)self;
	/* Another record's, if there is one of that size; else damaged. */
	if (w.corrupt && offset >= len + 16)
		offset -= len + 8;
	else if (w.corrupt)
		damage = 0x10;
	memcpy(buf, segments + segment * STORE_SEGMENT + offset, len);
	((unsigned char *)buf)[len / 2] ^= damage;
	return 0;
}

static const void *scripted_store_map(void *self, uint32_t segment, size_t offset, size_t len)
{
	static unsigned char damaged[65536];

	if (!w.corrupt || len > sizeof(damaged))
		return segments + segment * STORE_SEGMENT + offset;
	scripted_store_read(self, segment, offset, damaged, len);
	return damaged;
}

static void scripted_segment_free(void *self, uint32_t segment)
{
	(void)self;
	segment_used[segment] = false;
}

static uint64_t scripted_used_bytes(void *self)
{
	uint64_t n = 0;

	(void)self;
	for (unsigned i = 0; i < SEGMENTS; i++)
		n += segment_used[i] ? STORE_SEGMENT : 0;
	return n;
}

static void scripted_destroy(void *self)
{
	(void)self; /* the bytes outlive a worker */
}

static const struct store_ops scripted_store = {
	.name = "scripted",
	.caps = STORE_MAPPED,
	.segment_new = scripted_segment_new,
	.segment_adopt = scripted_segment_adopt,
	.write = scripted_store_write,
	.read = scripted_store_read,
	.map = scripted_store_map,
	.segment_free = scripted_segment_free,
	.used_bytes = scripted_used_bytes,
	.destroy = scripted_destroy,
};

/* ---- the slow store: reads end one by one, when the walk wants it ---- */

static unsigned char *slow_segments;
static bool slow_used[SEGMENTS];
static struct {
	struct store_read *read;
	bool cancelled;
} reads[MMS];
static unsigned nr_reads;

static int slow_segment_new(void *self, uint32_t *segment)
{
	(void)self;
	for (*segment = 0; *segment < SEGMENTS; (*segment)++)
		if (!slow_used[*segment]) {
			slow_used[*segment] = true;
			return 0;
		}
	return -ENOSPC;
}

static int slow_write(void *self, uint32_t segment, size_t offset, const void *buf, size_t len)
{
	(void)self;
	memcpy(slow_segments + segment * STORE_SEGMENT + offset, buf, len);
	return 0;
}

static int slow_read(void *self, uint32_t segment, size_t offset, void *buf, size_t len)
{
	(void)self;
	if (w.in_owner)
		violated("INV-2: the owner waits for a slow tier");
	memcpy(buf, slow_segments + segment * STORE_SEGMENT + offset, len);
	if (w.corrupt)
		((unsigned char *)buf)[len / 2] ^= 0x10;
	return 0;
}

static void slow_submit(void *self, struct store_read *read)
{
	(void)self;
	/* as many as there are places in the walk's list; more would wait behind them */
	if (nr_reads == ARRAY_SIZE(reads)) {
		store_read_done(read, -EAGAIN, NULL);
		return;
	}
	reads[nr_reads].cancelled = false;
	reads[nr_reads++].read = read;
}

static void slow_cancel(void *self, struct store_read *read)
{
	(void)self;
	for (unsigned i = 0; i < nr_reads; i++)
		reads[i].cancelled |= reads[i].read == read;
}

static void end_read(unsigned i)
{
	struct store_read *read = reads[i].read;
	int r = reads[i].cancelled ? -ECANCELED : w.read_error;

	memmove(&reads[i], &reads[i + 1], (--nr_reads - i) * sizeof(reads[0]));
	if (r != -ECANCELED)
		w.read_error = 0;
	if (!r)
		r = slow_read(NULL, read->segment, read->offset, read->buf, read->len);
	store_read_done(read, r, read->buf);
}

static void slow_segment_free(void *self, uint32_t segment)
{
	(void)self;
	slow_used[segment] = false;
}

static uint64_t slow_used_bytes(void *self)
{
	uint64_t n = 0;

	(void)self;
	for (unsigned i = 0; i < SEGMENTS; i++)
		n += slow_used[i] ? STORE_SEGMENT : 0;
	return n;
}

static const struct store_ops slow_store = {
	.name = "slow",
	.segment_new = slow_segment_new,
	.write = slow_write,
	.read = slow_read,
	.read_submit = slow_submit,
	.read_cancel = slow_cancel,
	.segment_free = slow_segment_free,
	.used_bytes = slow_used_bytes,
};

void agent_sink(void)
{
	bool in_owner = w.in_owner, in_fault_path = w.in_fault_path;
	struct blobstore_stats stats;

	w.in_owner = w.in_fault_path = false; /* another thread's work */
	blobstore_set_move_down(engine.flow.blobstore, 1);
	for (unsigned i = 0; i < 100; i++) {
		w.clock_ns += NSEC_PER_SEC;
		while (blobstore_work(engine.flow.blobstore))
			;
		blobstore_get_stats(engine.flow.blobstore, &stats);
		if (!stats.tier[0].live_bytes)
			break;
	}
	blobstore_set_move_down(engine.flow.blobstore, 0);
	w.in_owner = in_owner;
	w.in_fault_path = in_fault_path;
}

int __wrap_blobstore_get_now(struct blobstore *bs, struct codec *c, blob_id id, void *page);
int __real_blobstore_get_now(struct blobstore *bs, struct codec *c, blob_id id, void *page);

/* Between its caller's look at the tier and the reading. */
int __wrap_blobstore_get_now(struct blobstore *bs, struct codec *c, blob_id id, void *page)
{
	if (w.sink) {
		w.sink = false;
		agent_sink();
	}
	return __real_blobstore_get_now(bs, c, id, page);
}

/* ---- once in a process ---- */

static void must(bool ok, const char *what)
{
	if (ok)
		return;
	perror(what);
	abort();
}

static int open_empty_dir(void)
{
	char path[] = "/tmp/uswap-flow.XXXXXX";
	int fd;

	must(mkdtemp(path), "mkdtemp");
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	rmdir(path); /* it stays empty for ever */
	return fd;
}

static void open_flow(void)
{
	must(mailbox_init(&engine.flow.worker) == 0 && mailbox_init(&engine.flow.engine) == 0, "mailbox");
	engine.flow.next_session_id = 1;
	engine.flow.backoff_ns = 0; /* what has come back may leave again at once */
	if (!engine.flow.zeros)
		engine.flow.zeros = calloc(FLOW_WINDOW_MAX, PAGE_BYTES);
	engine.flow.domains = domain_registry_new();
	engine.flow.staging = staging_new(256 * PAGE_BYTES);
	engine.flow.blobstore = blobstore_new_tiers(stores, stores[1] ? 2 : 1, 1024, NULL, 0);
	must(engine.flow.zeros && engine.flow.domains && engine.flow.staging && engine.flow.blobstore, "flow");
}

static void open_stores(void)
{
	store_close(stores[0]);
	memset(segment_used, 0, sizeof(segment_used));
	stores[0] = store_new(&scripted_store, NULL, SEGMENTS);
	if (w.scenario->slow && !stores[1])
		stores[1] = store_new(&slow_store, NULL, SEGMENTS);
	must(stores[0] && (stores[1] || !w.scenario->slow), "store");
}

void agent_open_worker(void)
{
	if (crash_is_on())
		crash_open();
	open_stores();
	open_flow();
	engine.helpers.pool.least = w.scenario->aheads;
	if (w.scenario->aheads)
		engine.flow.unpack_pool = &engine.helpers.pool;
	must(owner_open(owner, &engine.flow, -1) == 0, "owner");
	must(packers_start(&engine.packers, &engine.flow, 0, -1) == 0, "packers");
	engine.worker = (struct worker){ .flow = &engine.flow, .packers = &engine.packers, .scan_ns = 1,
					 .policy = { .stall_budget = 1.0 } };
	engine.worker.epoll = epoll_create1(EPOLL_CLOEXEC);
	must(engine.worker.epoll >= 0, "worker");
}

void agent_open(void)
{
	uffd_ops = &uffd_scripted;
	segments = calloc(SEGMENTS, STORE_SEGMENT);
	slow_segments = w.scenario->slow ? calloc(SEGMENTS, STORE_SEGMENT) : NULL;
	must(segments && (slow_segments || !w.scenario->slow), "segments");
	agent_open_worker();
	codec = codec_new(-1);
	empty_dir = open_empty_dir();
	smaps = memfd_create("smaps", MFD_CLOEXEC);
	statm = memfd_create("statm", MFD_CLOEXEC);
	must(codec && empty_dir >= 0 && smaps >= 0 && statm >= 0, "agent");
}

/* ---- one process's /proc ---- */

static void write_smaps(const struct mm *mm)
{
	static char written[1024];
	char text[1024] = "";
	int n = 0;

	for (unsigned a = 0; a < AREAS; a++)
		if (mm->mapped[a])
			n += snprintf(text + n, sizeof(text) - (size_t)n,
				      "%llx-%llx rw-p 00000000 00:00 0 \nLocked: 0 kB\n"
				      "VmFlags: rd wr mr mw me ac%s%s sd \n",
				      AREA_START(a), AREA_START(a) + AREA_PAGES * PAGE_BYTES,
				      mm->registered[a] ? w.scenario->unmarked ? " um" : " um uw" : "",
				      mm->wiped[a] ? " wf" : "");
	if (!strcmp(text, written))
		return;
	strcpy(written, text);
	must(ftruncate(smaps, 0) == 0 && pwrite(smaps, text, (size_t)n, 0) == n, "smaps");
}

int __wrap_mappings_read_flagged(int fd, const char *flag, struct ranges *set);
int __real_mappings_read_flagged(int fd, const char *flag, struct ranges *set);

int __wrap_mappings_read_flagged(int fd, const char *flag, struct ranges *set)
{
	const struct mm *mm = &w.mm[mm_of_fd(fd)];
	const struct session *s = mm->session;

	if (s && !strcmp(flag, "wf") && s->marks && !s->slots.unmarked && !s->slots.count[SLOT_LEAVING])
		violated("INV-2: a fork has smaps read, where marks tell what was wiped");
	write_smaps(mm);
	return __real_mappings_read_flagged(fd, flag, set);
}

static int proc_fd(int of, int mm)
{
	int fd = fcntl(of, F_DUPFD_CLOEXEC, 3);

	mm_bind_fd(fd, mm);
	return fd;
}

static void open_proc(int i, struct session_fds *fds)
{
	int pair[2];

	must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0, "socketpair");
	fds->mem = proc_fd(statm, i);
	fds->pagemap = proc_fd(statm, i);
	fds->maps = proc_fd(statm, i);
	fds->statm = proc_fd(statm, i);
	fds->smaps = proc_fd(smaps, i);
	fds->tasks = proc_fd(empty_dir, i);
	fds->mover = pair[0];
	fds->gate_event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	w.mm[i].sock = pair[1];
	w.mm[i].mover = true;
}

void agent_open_proc(int mm, struct record *record)
{
	record->fds[RECORD_MAPS] = proc_fd(statm, mm) + 1;
	record->fds[RECORD_STATM] = proc_fd(statm, mm) + 1;
	record->fds[RECORD_SMAPS] = proc_fd(smaps, mm) + 1;
	record->fds[RECORD_TASKS] = proc_fd(empty_dir, mm) + 1;
}

/* Also a worker after this one finds it. */
static struct wire_gate *new_gate(struct session_fds *fds)
{
	struct wire_gate *gate;

	fds->gate = memfd_create("gate", MFD_CLOEXEC);
	must(fds->gate >= 0 && ftruncate(fds->gate, PAGE_BYTES) == 0, "memfd");
	gate = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fds->gate, 0);
	must(gate != MAP_FAILED, "gate");
	return gate;
}

/* ---- a run begins ---- */

static void attach_first(void)
{
	int i = mm_new(-1);
	struct mm *mm = &w.mm[i];
	struct session *s = session_new(atomic_fetch_add(&engine.flow.next_session_id, 1), UID);

	must(s, "session");
	mm->uffd = s->fds.uffd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	mm_bind_fd(mm->uffd, i);
	open_proc(i, &s->fds);
	s->owner = owner;
	s->domain = domain_get(engine.flow.domains, UID, UINT64_MAX);
	s->marks = !w.scenario->unmarked;
	s->store_max = UINT64_MAX;
	s->transit = TRANSIT_START;
	s->identity = IDENTITY_START;
	s->gate = new_gate(&s->fds);
	slotmap_init(&s->slots, owner->slots, &flow_slot_refs, s);
	uffd_register(s->fds.uffd, s->transit, WIRE_TRANSIT_PAGES * PAGE_BYTES, false);
	uffd_register(s->fds.uffd, s->identity, PAGE_BYTES, false);
	mm->session = s;
	mm->held = true;
	s->mover_pid = 1;
	if (crash_is_on())
		crash_keep(s);
	notice_send(&owner->box, &s->to_owner, SESSION_OWN_ADD);
	notice_send(&engine.flow.worker, &s->to_worker, SESSION_WORK_ADD);
	owner_take_mail(owner);
	worker_take_mail(&engine.worker);
}

unsigned agent_reserve(void)
{
	unsigned n = 0;

	for (size_t i = 0; i < ARRAY_SIZE(owner->reserve); i++)
		n += owner->reserve[i] >= 0;
	return n;
}

void agent_begin(const struct scenario *s)
{
	static const struct scenario *last;
	char text[64];
	int n = snprintf(text, sizeof(text), "1000 %u 0\n", s->quota);

	if (last != s)
		must(ftruncate(statm, 0) == 0 && pwrite(statm, text, (size_t)n, 0) == n, "statm");
	last = s;
	memset(orders, 0, sizeof(orders));
	for (size_t i = 0; i < ARRAY_SIZE(owner->reserve); i++)
		if (owner->reserve[i] < 0)
			owner->reserve[i] = eventfd(0, EFD_CLOEXEC);
	nodes_taken = (slot_pool_bytes(owner->slots) >> PAGE_SHIFT) - slot_pool_ready(owner->slots);
	attach_first();
}

/* ---- the control thread ---- */

static void forked(struct session *s)
{
	s->domain = domain_get(engine.flow.domains, s->uid, UINT64_MAX);
	s->store_max = UINT64_MAX;
	engine_keep_fds(&engine, s);
	w.mm[mm_of_fd(s->fds.uffd)].session = s;
}

static void adopted(struct session *s)
{
	struct adoption *a = s->adoption;

	s->adoption = NULL;
	if (a->done) {
		s->mover_pid = 1;
		if (s->record)
			s->record->mover_pid = 1;
		notice_send(&engine.flow.worker, &s->to_worker, SESSION_WORK_ADD);
	} else {
		session_close_fds(&a->fds, s->uid);
		munmap(a->gate, PAGE_BYTES);
	}
	free(a);
}

static void bury(struct session *s)
{
	for (int i = 0; i < MMS; i++)
		if (w.mm[i].used && w.mm[i].session == s) {
			w.mm[i].session = NULL;
			w.mm[i].held = false;
			kernel_put_uffd(i);
		}
	engine_forget_fds(&engine, s);
	domains_leave(&engine, s);
	session_free(s);
}

static void take_news(struct session *s)
{
	uint32_t bits = notice_take(&s->to_engine);

	if (bits & SESSION_NEWS_FORKED)
		forked(s);
	if (bits & SESSION_NEWS_ADOPTED)
		adopted(s);
	if (bits & SESSION_NEWS_ENDED)
		notice_send(&owner->box, &s->to_owner, SESSION_OWN_BURY);
	if (bits & SESSION_NEWS_BURIED)
		bury(s);
}

void agent_after(void)
{
	struct mail *next;

	for (struct mail *mail = mailbox_take(&engine.flow.engine); mail; mail = next) {
		next = mail->next;
		if (mail->kind == SESSION_MAIL)
			take_news(CONTAINER_OF(mail, struct session, to_engine.mail));
	}
	for (int i = 0; sent && i < MMS; i++)
		scripted_mover_receive(i);
	sent = false;
}

/* ---- actions ---- */

static struct session *session_at(int mm)
{
	return w.mm[mm].used ? w.mm[mm].session : NULL;
}

static bool may_serve(int i)
{
	const struct session *s = session_at(i);

	if (!s || !s->polled)
		return false;
	return w.mm[i].gate_event || (!s->gate_wait_ns && kernel_readable(i));
}

static bool may_tick(int i)
{
	const struct session *s = session_at(i);

	return s && s->gate && !s->busy && !s->leaving && !s->closed && !s->ended && w.mm[i].users &&
	       session_state(s) == SESSION_ACTIVE && w.ticks < w.scenario->ticks;
}

static bool may_make_room(int i)
{
	const struct session *s = session_at(i);

	if (s && s->salvage_waits)
		return true;
	return s && s->room_asked && s->gate && !s->busy && !s->leaving && !s->closed && !s->ended &&
	       session_state(s) == SESSION_ACTIVE;
}

bool agent_may(const struct action *a)
{
	const struct session *s = a->kind == DO_GONE || a->kind == DO_MESSAGE ? session_at(a->a) : NULL;

	switch (a->kind) {
	case DO_SERVE:
		return may_serve(a->a);
	case DO_MAIL:
		return owner->box.head != NULL;
	case DO_JOBS:
		return owner->jobs != NULL;
	case DO_DEFERRED:
		return owner->deferred != NULL;
	case DO_SETTLE:
		return owner->unquiet;
	case DO_FORGET:
		return staging_forwarders(engine.flow.staging) || staging_left(engine.flow.staging);
	case DO_TICK:
		return may_tick(a->a);
	case DO_WORKER_MAIL:
		return engine.flow.worker.head != NULL;
	case DO_MESSAGE:
		/* ended: out of the worker's epoll set */
		return s && s->gate && !s->ended && (w.mm[a->a].reports || w.mm[a->a].socket_shut);
	case DO_GONE:
		return s && s->gate && !s->ended && !w.mm[a->a].users && !w.mm[a->a].pidfd_seen;
	case DO_ROOM:
		return may_make_room(a->a);
	case DO_PACK:
		return engine.packers.urgent || (engine.packers.head && !w.scenario->grace);
	case DO_FETCH:
		return fetch_has_again(owner);
	case DO_READ:
		return a->a < nr_reads;
	case DO_AHEAD:
		return w.aheads < w.scenario->aheads && session_at(a->a) &&
		       session_state(session_at(a->a)) == SESSION_ACTIVE;
	case DO_HELP:
		return owner->unpack && (w.helping || unpack_is_wanted(owner->unpack));
	default:
		return false;
	}
}

static void serve(int i)
{
	w.mm[i].gate_event = false;
	w.saw_event = session_at(i)->nr_waiting > 0; /* it may be applied now */
	w.in_fault_path = true;
	fault_serve(owner, session_at(i));
	w.in_fault_path = false;
}

static void tick(int i)
{
	struct session *s = session_at(i);

	write_smaps(&w.mm[i]);
	engine.worker.grace_ns = engine.settings.policy.grace_ns = w.scenario->grace ? 1000 * NSEC_PER_SEC : 0;
	s->mappings_ns = 0; /* read anew */
	s->next_tick_ns = s->threads_due_ns = 0;
	w.clock_ns += NSEC_PER_USEC;
	evictor_tick(&engine.worker, s, w.clock_ns);
}

static void take_message(int i)
{
	struct mm *mm = &w.mm[i];

	if (mm->reports)
		mm->reports--;
	else
		mm->socket_shut = false; /* read once, and out of the epoll set */
	evictor_message(&engine.worker, mm->session);
}

static void pack(void)
{
	struct batch *b = packers_take(&engine.packers, UINT64_MAX);

	evict_pack(&engine.flow, codec, b);
	mailbox_send(&session_owner(b->session)->box, &b->mail);
}

/* As one who reads in order has it done, from the first page that is away; what is
   taken in is placed when it is touched, or restored. */
static void take_in(int i)
{
	struct session *s = session_at(i);
	uint64_t vpn = page_address(0) >> PAGE_SHIFT;

	w.aheads++;
	(void)unpack_ahead(owner, s, s, vpn, vpn + AREA_PAGES, 0);
}

/* Others go on between its taking them and its having them. */
static void help(void)
{
	if (!w.helping) {
		w.helping = (uint8_t)unpack_claim(owner->unpack, &w.helping_at);
		return;
	}
	unpack_claimed(owner->unpack, w.helping_at, w.helping, engine.flow.blobstore, codec, true);
	w.helping = 0;
}

static bool is_owners(unsigned kind)
{
	return (kind >= DO_SERVE && kind <= DO_FORGET) || kind == DO_FETCH || kind == DO_AHEAD;
}

/* True: unless it was to die at a point that there is not. */
bool agent_do(const struct action *a)
{
	if (a->b)
		return crash_inside(a, a->b);
	agent_act(a);
	return true;
}

void agent_act(const struct action *a)
{
	w.in_owner = is_owners(a->kind);
	switch (a->kind) {
	case DO_SERVE:
		serve(a->a);
		break;
	case DO_MAIL:
		owner_take_mail(owner);
		break;
	case DO_JOBS:
		owner_run_jobs(owner);
		break;
	case DO_DEFERRED:
		owner_commit_deferred(owner);
		break;
	case DO_SETTLE:
		owner_settle(owner);
		break;
	case DO_FORGET:
		owner_probe(owner);
		break;
	case DO_TICK:
		w.ticks++;
		tick(a->a);
		break;
	case DO_ROOM:
		tick(a->a);
		break;
	case DO_WORKER_MAIL:
		worker_take_mail(&engine.worker);
		break;
	case DO_MESSAGE:
		take_message(a->a);
		break;
	case DO_GONE:
		w.mm[a->a].pidfd_seen = true;
		evictor_leave(&engine.worker, session_at(a->a));
		break;
	case DO_PACK:
		pack();
		break;
	case DO_FETCH:
		w.clock_ns += NSEC_PER_SEC; /* whatever it waits for is over */
		fetch_again(owner, 0);
		break;
	case DO_READ:
		end_read(a->a);
		break;
	case DO_AHEAD:
		take_in(a->a);
		break;
	case DO_HELP:
		help();
		break;
	default:
		break;
	}
	w.in_owner = false;
}

/* ---- trouble ---- */

static void give_order(struct session *s, bool detach)
{
	struct order *order = &orders[detach];

	if (s->restore_order)
		return;
	*order = (struct order){ .kind = 0 };
	atomic_store(&s->restore_order, order);
	notice_send(&owner->box, &s->to_owner, detach ? SESSION_OWN_DETACH : SESSION_OWN_RESTORE);
}

static int child_to_adopt(void)
{
	for (int i = 1; i < MMS; i++) {
		const struct session *s = session_at(i);

		if (s && w.mm[i].users && w.mm[i].child_ready && session_state(s) == SESSION_SERVED &&
		    !s->gate && !s->adoption)
			return i;
	}
	return -1;
}

static void say_hello(int i)
{
	struct session *s = session_at(i);
	struct adoption *a = calloc(1, sizeof(*a));

	must(a, "adoption");
	a->fds = SESSION_FDS_NONE;
	open_proc(i, &a->fds);
	a->attach.transit = TRANSIT_START;
	a->gate = new_gate(&a->fds);
	s->adoption = a;
	notice_send(&owner->box, &s->to_owner, SESSION_OWN_ADOPT);
}

bool agent_may_trouble(enum trouble t)
{
	const struct session *s = session_at(0);

	switch (t) {
	case TROUBLE_MOVER:
		return w.mm[0].mover;
	case TROUBLE_REVOKE:
		return s && s->reporting && s->reporting->ordered;
	case TROUBLE_RESTORE:
	case TROUBLE_DETACH:
		return s && session_state(s) <= SESSION_ACTIVE;
	case TROUBLE_HELLO:
		return child_to_adopt() >= 0;
	case TROUBLE_CRASH:
		return crash_may();
	default:
		return true;
	}
}

static void reclaim(void)
{
	for (int m = 0; m < MMS; m++)
		for (unsigned i = 0; i < PAGES; i++) {
			struct mm *mm = &w.mm[m];

			for (unsigned lane = 0; lane < WIRE_LANES; lane++)
				if (mm->transit[lane][i].lazy)
					mm->transit[lane][i] = (struct page){ 0 };
			if (!mm->page[i].lazy)
				continue;
			mm->page[i] = (struct page){ 0 };
			mm->may[i] = MAY(0);
		}
}

bool agent_trouble(enum trouble t, unsigned again)
{
	switch (t) {
	case TROUBLE_CRASH:
		return crash_now(again);
	case TROUBLE_NOMEM:
		w.nomem = true;
		break;
	case TROUBLE_AGAIN:
		w.again = true;
		break;
	case TROUBLE_HALF_MAP:
		w.half_map = true;
		break;
	case TROUBLE_RECLAIM:
		reclaim();
		break;
	case TROUBLE_MOVER:
		scripted_mover_exit(0);
		break;
	case TROUBLE_REVOKE:
		notice_send(&owner->box, &session_at(0)->to_owner, SESSION_OWN_REVOKE);
		break;
	case TROUBLE_UNREADABLE:
		w.unreadable = true;
		break;
	case TROUBLE_UNWRITABLE:
		w.unwritable = true;
		break;
	case TROUBLE_CORRUPT:
		w.corrupt = true;
		w.lost = ~0u;
		break;
	case TROUBLE_FULL:
		w.full = true;
		break;
	case TROUBLE_EMFILE:
		w.emfile = true;
		break;
	case TROUBLE_HASTE:
		w.haste = true;
		break;
	case TROUBLE_DROP:
		w.drop_fails = true;
		break;
	case TROUBLE_READ_EIO:
		w.read_error = -EIO;
		break;
	case TROUBLE_READ_LATE:
		w.read_error = -ETIMEDOUT;
		break;
	case TROUBLE_READ_LOST:
		w.read_error = -ENODATA;
		if (w.nr_lost_reads++) /* perhaps of the same page, of which one loses nothing */
			w.lost = ~0u;
		break;
	case TROUBLE_SINK:
		w.sink = true;
		break;
	case TROUBLE_UNCOUNTED:
		w.uncounted = WIRE_PAGE_OCCUPIED;
		break;
	case TROUBLE_UNTOLD:
		w.uncounted = WIRE_PAGE_STALE;
		break;
	case TROUBLE_MARKED:
		w.marked = true;
		break;
	case TROUBLE_BEHIND:
		w.behind = true;
		break;
	case TROUBLE_EXISTS:
		w.exists = true;
		break;
	case TROUBLE_DIES:
		w.dies = true;
		break;
	case TROUBLE_REGISTER:
		w.unregistered = true;
		break;
	case TROUBLE_NOBATCH:
		w.nobatch = true;
		break;
	case TROUBLE_MOVE_BUSY:
	case TROUBLE_MOVE_HOLE:
	case TROUBLE_MOVE_STALE:
	case TROUBLE_MOVE_OCCUPIED:
	case TROUBLE_MOVE_REFUSED:
		w.move_says = (uint8_t)(WIRE_PAGE_BUSY + (t - TROUBLE_MOVE_BUSY));
		break;
	case TROUBLE_RESTORE:
	case TROUBLE_DETACH:
		give_order(session_at(0), t == TROUBLE_DETACH);
		break;
	case TROUBLE_HELLO:
		say_hello(child_to_adopt());
		break;
	default:
		break;
	}
	return true;
}

/* ---- a run ends ---- */

static bool anything_left(void)
{
	for (int i = 0; i < MMS; i++)
		if (w.mm[i].used && w.mm[i].session)
			return true;
	return false;
}

static bool anybody_without_mover(void)
{
	for (int i = 0; i < MMS; i++)
		if (w.mm[i].used && w.mm[i].session && !w.mm[i].session->gate)
			return true;
	return false;
}

static void round_of_all(void)
{
	for (int i = 0; i < MMS; i++) {
		for (unsigned kind = DO_SERVE; kind <= DO_HELP; kind++) {
			struct action a = { (uint8_t)kind, (uint8_t)i, 0 };

			if (kind != DO_TICK && kind != DO_AHEAD && agent_may(&a))
				agent_do(&a);
			agent_after();
		}
		while (w.mm[i].used && scripted_mover_may_step(&w.mm[i])) {
			scripted_mover_step(i);
			agent_after();
		}
	}
}

void agent_end(void)
{
	struct blobstore_stats stats;
	uint32_t record = 0;

	for (unsigned n = 0; (anything_left() || nr_reads || owner->box.head) && n < 1000; n++) {
		round_of_all();
		if (n > 20) /* its half second is over */
			for (int i = 0; i < MMS; i++)
				scripted_mover_exit(i);
		/* The end of a process with a mover is told by the mover's; only of
		   others it is asked, a few times a second. */
		if (anybody_without_mover())
			owner_probe(owner);
	}
	if (anything_left())
		violated("a process has ended, and its session stays");
	if (!unpack_settle(owner))
		violated("INV-8: what was to be unpacked is held for nobody");
	while (blobstore_work(engine.flow.blobstore))
		;
	blobstore_get_stats(engine.flow.blobstore, &stats);
	if (stats.blobs || stats.live_bytes)
		violated("INV-8: %llu blobs are held for nobody", (unsigned long long)stats.blobs);
	if (staging_used_bytes(engine.flow.staging) || staging_forwarders(engine.flow.staging) ||
	    staging_left(engine.flow.staging))
		violated("INV-8: staging holds %llu bytes for nobody",
			 (unsigned long long)staging_used_bytes(engine.flow.staging));
	if (crash_is_on() && (record_next(&engine.records, &record) || crash_stored()))
		violated("INV-8: a record or a descriptor is left of nobody");
	if ((slot_pool_bytes(owner->slots) >> PAGE_SHIFT) - slot_pool_ready(owner->slots) != nodes_taken)
		violated("INV-8: nodes of slots are held for nobody");
	if (engine.worker.reserved)
		violated("%llu pages of staging stay reserved", (unsigned long long)engine.worker.reserved);
	if (slot_pool_ready(owner->slots) < 64)
		(void)slot_pool_reserve(owner->slots, 512);
}

/* ---- the state, for explore.c ---- */

struct out {
	unsigned char *at, *end;
};

static void put(struct out *o, const void *from, size_t n)
{
	if (o->at + n > o->end)
		abort();
	memcpy(o->at, from, n);
	o->at += n;
}

#define PUT(o, value)                             \
	do {                                      \
		__typeof__(value) put_ = (value); \
		put(o, &put_, sizeof(put_));      \
	} while (0)

static void put_slot(struct out *o, slot_t slot)
{
	unsigned char page[PAGE_BYTES];
	const void *bytes = NULL;

	PUT(o, (uint8_t)slot_state(slot));
	PUT(o, (uint8_t)(slot_flags(slot) & SLOT_F_WAITING));
	if (slot_state(slot) == SLOT_STAGED && !staging_forwarded(engine.flow.staging, (uint32_t)slot_value(slot)))
		bytes = staging_page(engine.flow.staging, (uint32_t)slot_value(slot));
	else if ((slot_state(slot) == SLOT_STORED || slot_state(slot) == SLOT_FETCHING) && !w.corrupt &&
		 blobstore_get(engine.flow.blobstore, codec, (blob_id)slot_value(slot), page) == 0)
		bytes = page;
	if (bytes)
		PUT(o, (int8_t)token_of(bytes));
	else if (slot_state(slot) == SLOT_FILL || slot_state(slot) == SLOT_LEAVING)
		PUT(o, slot_value(slot));
}

static void put_batch(struct out *o, const struct batch *b)
{
	PUT(o, b->mail.kind);
	PUT(o, b->lane);
	PUT(o, b->nr);
	PUT(o, b->ordered);
	PUT(o, b->moved);
	for (unsigned i = 0; i < b->nr; i++) {
		PUT(o, b->page[i].vpn);
		PUT(o, b->page[i].result);
		if (b->page[i].result == BATCH_PAGE_PULLED)
			PUT(o, (int8_t)token_of(staging_page(engine.flow.staging, b->page[i].value)));
	}
}

static void put_box(struct out *o, struct mailbox *box)
{
	for (struct mail *mail = box->head; mail; mail = mail->next) {
		PUT(o, mail->kind);
		if (mail->kind >= BATCH_MARK && mail->kind <= BATCH_DONE)
			put_batch(o, CONTAINER_OF(mail, struct batch, mail));
	}
}

static void put_ranges(struct out *o, const struct ranges *r)
{
	PUT(o, (uint32_t)r->nr);
	if (r->nr)
		put(o, r->v, r->nr * sizeof(*r->v));
}

static void put_session(struct out *o, const struct session *s)
{
	const bool flags[] = { s->polled, s->gate_wait_ns != 0, s->room_wake_ns != 0, s->wake_all, s->barred, s->detach,
			       s->mover_gone, s->in_job, s->busy, s->leaving, s->closed, s->ended,
			       s->heir_of != NULL, s->heirs != NULL, s->tampered, s->adoption != NULL };

	PUT(o, s->state);
	PUT(o, s->recover);
	PUT(o, s->salvaged);
	put(o, flags, sizeof(flags));
	for (unsigned p = 0; p < PAGES; p++)
		put_slot(o, slotmap_get(&s->slots, page_address(p) >> PAGE_SHIFT));
	PUT(o, s->nr_fetches);
	put_ranges(o, &s->registered);
	put_ranges(o, &s->vacated);
	for (unsigned i = 0; i < s->nr_waiting; i++)
		put(o, &s->waiting[i], sizeof(s->waiting[i]));
	for (unsigned i = 0; i < WIRE_TRANSIT_PAGES; i++)
		if (s->transit_vpn[i]) {
			PUT(o, i);
			PUT(o, s->transit_vpn[i]);
		}
	PUT(o, s->to_owner.bits);
	PUT(o, s->to_worker.bits);
	PUT(o, s->hand);
	PUT(o, s->quota);
	if (s->reporting)
		put_batch(o, s->reporting);
	if (s->gate) {
		PUT(o, s->gate->word);
		PUT(o, s->gate->wanted);
	}
}

/* What is ready of the first process's pages, and is it what their slots say? */
static void put_unpack(struct out *o)
{
	const struct session *s = session_at(0);

	for (unsigned p = 0; p < PAGES && s; p++) {
		slot_t slot = slotmap_get(&s->slots, page_address(p) >> PAGE_SHIFT);
		const void *bytes = unpack_bytes(owner, s, page_address(p) >> PAGE_SHIFT, slot);

		PUT(o, (int8_t)(bytes ? token_of(bytes) : -2));
	}
	PUT(o, unpack_is_wanted(owner->unpack));
}

size_t agent_hash(void *to, size_t room)
{
	struct out o = { to, (unsigned char *)to + room };

	for (int i = 0; i < MMS; i++)
		if (session_at(i))
			put_session(&o, session_at(i));
	PUT(&o, w.aheads);
	PUT(&o, w.helping);
	if (owner->unpack)
		put_unpack(&o);
	put_box(&o, &owner->box);
	put_box(&o, &engine.flow.worker);
	PUT(&o, fetch_has_again(owner));
	for (unsigned i = 0; i < nr_reads; i++) {
		PUT(&o, reads[i].read->offset);
		PUT(&o, reads[i].cancelled);
	}
	for (struct batch *b = owner->deferred; b; b = b->next)
		put_batch(&o, b);
	for (struct batch *b = engine.packers.urgent; b; b = b->next)
		put_batch(&o, b);
	for (struct batch *b = engine.packers.head; b; b = b->next)
		put_batch(&o, b);
	return (size_t)(o.at - (unsigned char *)to);
}
