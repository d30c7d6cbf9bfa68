/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "engine/private.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <sys/timerfd.h>

#include "common/log.h"
#include "common/util.h"
#include "sys/meminfo.h"

#define BLOBS_MAX ((uint32_t)1 << 28) /* 1 TiB of distinct pages */
#define EVENTS 32
#define LATENCY_FIRST_NS 250.0
#define LATENCY_STEPS 4 /* buckets per doubling */
#define TIMER_SEC 1

static_assert(SESSION_LATENCY_BUCKETS == ENGINE_LATENCY_BUCKETS, "one histogram");

uint64_t engine_latency_bound_ns(unsigned bucket)
{
	return (uint64_t)(LATENCY_FIRST_NS * exp2((double)bucket / LATENCY_STEPS));
}

static int open_epoll(struct engine *e)
{
	struct itimerspec every = { .it_interval = { .tv_sec = TIMER_SEC }, .it_value = { .tv_sec = TIMER_SEC } };
	struct epoll_event mail = { .events = EPOLLIN | EPOLLET, .data.ptr = &e->flow.engine };
	struct epoll_event tick = { .events = EPOLLIN, .data.ptr = &e->timer };

	e->epoll = epoll_create1(EPOLL_CLOEXEC);
	e->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (e->epoll < 0 || e->timer < 0 || timerfd_settime(e->timer, 0, &every, NULL) < 0 ||
	    epoll_ctl(e->epoll, EPOLL_CTL_ADD, e->flow.engine.event, &mail) < 0 ||
	    epoll_ctl(e->epoll, EPOLL_CTL_ADD, e->timer, &tick) < 0)
		return -errno;
	return 0;
}

static int open_flow(struct engine *e)
{
	struct flow *f = &e->flow;
	int r;

	for (unsigned i = 0; i < SESSION_LATENCY_BUCKETS; i++)
		f->latency_bound_ns[i] = engine_latency_bound_ns(i);
	f->next_session_id = 1;
	f->keep_fork = registry_keep_fork;
	f->keep_ctx = e;
	/* Never written, so it is the kernel's one zero page over and over. */
	e->zeros = mmap(NULL, FLOW_WINDOW_MAX * PAGE_BYTES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (e->zeros == MAP_FAILED)
		return -errno;
	(void)madvise(e->zeros, FLOW_WINDOW_MAX * PAGE_BYTES, MADV_NOHUGEPAGE);
	f->zeros = e->zeros;
	r = mailbox_init(&f->worker);
	if (r == 0)
		r = mailbox_init(&f->engine);
	if (r < 0)
		return r;
	f->domains = domain_registry_new();
	f->staging = staging_new(e->settings.staging_bytes);
	f->blobstore = stores_join(e, BLOBS_MAX);
	return f->domains && f->staging && f->blobstore ? 0 : -ENOMEM;
}

/* One user can't fill the store, one process no more than its user. */
static void set_quotas(struct engine *e)
{
	uint64_t capacity = stores_capacity(e);

	e->user_max = e->settings.user_max ? e->settings.user_max : capacity - capacity / 10;
	e->process_max = e->settings.process_max ? e->settings.process_max : e->user_max;
}

/* For the control thread: into the record too. */
void engine_switch(struct session *s, bool enabled, uint64_t limit_bytes)
{
	s->enabled = enabled;
	s->limit_bytes = limit_bytes;
	if (s->record) {
		s->record->disabled = !enabled;
		s->record->limit_bytes = limit_bytes;
	}
}

static int open_kept(struct engine *e)
{
	int r = record_table_open(&e->records);

	if (r == 0)
		r = rings_open(&e->rings);
	if (r == 0)
		r = kept_back(&e->rings, 0, OWNERS_MAX * PAGE_BYTES);
	if (r == 0)
		totals_find(e);
	return r;
}

static int start_threads(struct engine *e)
{
	struct batch *found = NULL;
	unsigned cpus = (unsigned)MAX(get_nprocs(), 1);
	unsigned packers = e->settings.pack_threads ? e->settings.pack_threads : MIN(cpus, 4);
	unsigned helpers = helpers_init(&e->helpers, &e->flow);
	int r;

	e->nr_owners = e->settings.fault_threads ? e->settings.fault_threads : MIN(cpus, 8);
	e->nr_owners = MIN(e->nr_owners, OWNERS_MAX);
	worker_set_policy(&e->worker, &e->settings.policy);
	e->nr_owners = MAX(e->nr_owners, recover_owners(e));
	for (unsigned i = 0; i < e->nr_owners; i++) {
		e->owners[i].owner.index = i;
		e->owners[i].owner.ring = ring_at(&e->rings, i);
		r = owner_open(&e->owners[i].owner, &e->flow, e->settings.compression_level);
		if (r < 0)
			return r;
	}
	r = recover_begin(e, &found);
	for (unsigned i = 0; r == 0 && i < e->nr_owners; i++)
		r = owner_start(&e->owners[i]);
	if (r == 0)
		r = helpers_start(&e->helpers, e, helpers);
	if (r < 0)
		return r;
	r = packers_start(&e->packers, &e->flow, MIN(packers, PACKERS_MAX), e->settings.compression_level);
	if (r < 0)
		return r;
	r = worker_start(&e->worker, &e->packers);
	if (r == 0)
		recover_end(e, found);
	return r;
}

/* Each process takes about ten descriptors. */
static void raise_descriptor_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	limit.rlim_cur = limit.rlim_max;
	(void)setrlimit(RLIMIT_NOFILE, &limit);
}

/* What an agent before this one has left is not ours to give up: it stays as it is,
   for the next one, and this process is to end. */
static struct engine *not_made(struct engine *e)
{
	return e->records.kept.found ? NULL : engine_free(e);
}

struct engine *engine_new(const struct settings *settings, const struct engine_news *news)
{
	struct engine *e = calloc(1, sizeof(*e));
	int r;

	if (!e)
		return NULL;
	e->settings = *settings;
	if (news)
		e->news = *news;
	e->enabled = true;
	e->device = e->epoll = e->timer = -1;
	e->flow.worker.event = e->flow.engine.event = -1;
	e->zeros = MAP_FAILED;
	e->worker.flow = &e->flow;
	e->worker.epoll = -1;
	pthread_mutex_init(&e->worker.lock, NULL);
	e->rings = KEPT_NONE;
	raise_descriptor_limit();
	r = open_kept(e);
	if (r < 0) {
		log_error("what an agent before this one has left can't be read: %s", strerror(-r));
		return not_made(e);
	}
	e->device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (e->device < 0) {
		log_error("/dev/userfaultfd: %s", strerror(errno));
		return not_made(e);
	}
	if (!stores_open(e))
		return not_made(e);
	set_quotas(e);
	r = open_flow(e);
	if (r == 0)
		r = open_epoll(e);
	if (r == 0)
		r = start_threads(e);
	if (r < 0) {
		log_error("cannot start: %s", strerror(-r));
		return not_made(e);
	}
	return e;
}

struct engine *engine_free(struct engine *e)
{
	if (!e)
		return NULL;
	assert(!e->sessions);
	attach_cancel_all(e);
	verify_stop(e);
	worker_stop(&e->worker);
	packers_stop(&e->packers);
	helpers_stop(&e->helpers);
	for (unsigned i = 0; i < e->nr_owners; i++)
		owner_stop(&e->owners[i]);
	blobstore_free(e->flow.blobstore);
	staging_free(e->flow.staging);
	domain_registry_free(e->flow.domains);
	stores_close(e);
	for (unsigned i = 0; i < e->nr_owners; i++)
		owner_free(&e->owners[i]);
	kept_close(&e->rings);
	record_table_close(&e->records);
	mailbox_deinit(&e->flow.worker);
	mailbox_deinit(&e->flow.engine);
	if (e->zeros != MAP_FAILED)
		munmap(e->zeros, FLOW_WINDOW_MAX * PAGE_BYTES);
	safe_close(e->device);
	safe_close(e->timer);
	safe_close(e->epoll);
	pthread_mutex_destroy(&e->worker.lock);
	free(e);
	return NULL;
}

int engine_fd(const struct engine *e)
{
	return e->epoll;
}

void engine_attach(struct engine *e, int connection)
{
	attach_accept(e, connection);
}

static void take_mail(struct engine *e)
{
	struct mail *next;

	for (struct mail *mail = mailbox_take(&e->flow.engine); mail; mail = next) {
		next = mail->next;
		if (mail->kind == MAIL_VERIFIED)
			verify_done(e);
		else if (mail->kind == ORDER_DONE)
			orders_done(e, CONTAINER_OF(mail, struct order, mail));
		else
			registry_notice(e, CONTAINER_OF(mail, struct session, to_engine.mail));
	}
}

static void report_drained(struct engine *e)
{
	if (!e->draining || e->drained || e->sessions || e->nr_ending || e->nr_orders)
		return;
	e->drained = true;
	if (e->news.drained)
		e->news.drained(e->news.ctx);
}

bool engine_is_well(struct engine *e, uint64_t patience_ns)
{
	uint64_t now = now_ns();
	bool well = true;

	for (unsigned i = 0; i < e->nr_owners; i++) {
		struct owner_thread *t = &e->owners[i];
		uint64_t rounds = atomic_load_explicit(&t->rounds, memory_order_relaxed);

		if (rounds != t->rounds_seen || !t->seen_ns) {
			t->rounds_seen = rounds;
			t->seen_ns = now;
		}
		well &= now - t->seen_ns < patience_ns;
	}
	return well;
}

void engine_dispatch(struct engine *e)
{
	struct epoll_event events[EVENTS];
	int n = epoll_wait(e->epoll, events, EVENTS, 0);
	uint64_t ticks;

	/* First what the owners say: a fork child's session is listed before
	   its hello is looked at. */
	take_mail(e);
	for (int i = 0; i < n; i++)
		if (events[i].data.ptr != &e->timer && events[i].data.ptr != &e->flow.engine)
			attach_event(e, events[i].data.ptr);
	if (read(e->timer, &ticks, sizeof(ticks)) > 0) {
		attach_expire(e, now_ns());
		registry_report(e, now_ns());
		registry_keep(e);
	}
	report_drained(e);
}

int engine_set_enabled(struct engine *e, uint64_t id, bool enabled)
{
	struct session *one = id ? registry_find(e, id) : NULL;

	if (id && !one)
		return -ESRCH;
	if (!id)
		e->enabled = enabled;
	for (struct session *s = id ? one : e->sessions; s; s = id ? NULL : s->next) {
		engine_switch(s, enabled, s->limit_bytes);
		if (e->news.process_changed)
			e->news.process_changed(e->news.ctx, s->id);
	}
	return 0;
}

int engine_set_limit(struct engine *e, uint64_t id, uint64_t bytes)
{
	struct session *s = registry_find(e, id);

	if (!s)
		return -ESRCH;
	engine_switch(s, s->enabled, bytes);
	return 0;
}

void engine_reload(struct engine *e, const struct settings *settings)
{
	e->settings.policy = settings->policy;
	worker_set_policy(&e->worker, &settings->policy);
	log_set_level((enum log_level)settings->log_level);
}

void engine_get_drain_memory(struct engine *e, uint64_t *needed, uint64_t *available)
{
	struct engine_stats stats;
	uint64_t machine = meminfo_available();

	engine_get_stats(e, &stats);
	*needed = stats.counters.evicted_bytes;
	*available = machine == UINT64_MAX ? machine : machine + stats.store_used_bytes + stats.staging_bytes;
}

void engine_drain(struct engine *e)
{
	if (e->draining)
		return;
	e->draining = true;
	attach_cancel_all(e);
	for (struct session *s = e->sessions; s; s = s->next)
		notice_send(&session_owner(s)->box, &s->to_owner, SESSION_OWN_DETACH);
	/* With nobody attached it is done at once, told from the next dispatch. */
	{
		struct itimerspec soon = { .it_interval = { .tv_sec = TIMER_SEC }, .it_value = { .tv_nsec = 1 } };

		(void)timerfd_settime(e->timer, 0, &soon, NULL);
	}
}
