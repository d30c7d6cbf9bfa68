/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A fault thread: waits for its sessions' userfaultfds, gates and mail. */
#include "engine/private.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "common/inject.h"
#include "common/kept.h"
#include "common/util.h"
#include "common/watch.h"
#include "proc/gate.h"
#include "proc/record.h"

#define SLOT_POOL_MAX ((size_t)16 << 30) /* address space; 8 TiB of evicted memory */
#define SLOT_POOL_LOW (OWNER_NODES / 2)
#define EVENTS 64
#define PROBE_MS 250
#define GATE_EVENT ((uintptr_t)1) /* tag of an epoll pointer */

static void owner_recover(struct owner *o, struct session *s);

static void start_serving(struct owner *o, struct session *s)
{
	if (flow_watch(o, s) < 0) {
		atomic_store(&s->reason, "cannot watch its userfaultfd");
		flow_close(o, s);
		return;
	}
	if (s->fds.gate_event >= 0) {
		struct epoll_event event = { .events = EPOLLIN,
					     .data.u64 = (uintptr_t)s | GATE_EVENT };

		/* Without it the mover can't call us back in: then nothing leaves. */
		if (watch_set(o->epoll, EPOLL_CTL_ADD, s->fds.gate_event, event) < 0)
			atomic_store(&s->reason, "cannot watch its gate");
		else if (!s->recover)
			session_set_state(s, SESSION_ACTIVE);
	}
	notice_send(&o->flow->engine, &s->to_engine, SESSION_NEWS_STATE);
	/* Of a recovered one events may wait, which nobody has looked after so far. */
	o->unquiet |= !events_are_quiet(s);
	if (s->recover)
		owner_recover(o, s);
}

/*
 * The worker before us has died. What it had ordered and the mover has not done
 * becomes void by a new generation, which takes the gate; then the evict worker
 * looks into transit for what had been moved. Faults that were read and not
 * answered come again with the wake; they need no gate.
 */
static void owner_recover(struct owner *o, struct session *s)
{
	uint32_t agent = WIRE_GATE_AGENT;

	if (s->ending) {
		flow_close(o, s);
		return;
	}
	if (s->recover == SESSION_RECOVER_WAKE) {
		if (s->gate) /* we were inside */
			__atomic_compare_exchange_n(&s->gate->word, &agent, WIRE_GATE_FREE, false,
						    __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
		if (!uffd_alive(s->fds.uffd)) {
			flow_close(o, s);
			return;
		}
		(void)uffd_wake_all(s->fds.uffd);
		s->recover = SESSION_RECOVER_GATE;
		inject(INJECT_RECOVER_WAKE);
		if (s->fds.mover >= 0)
			notice_send(&o->flow->worker, &s->to_worker, SESSION_WORK_ADD);
	}
	if (!gate_enter(s->gate)) {
		o->unquiet = true; /* the mover is inside: soon again */
		return;
	}
	s->recover = 0;
	s->generation += SESSION_GENERATIONS;
	record_commit(s, 0);
	gate_set_generation(s->gate, s->generation);
	gate_leave(s->gate);
	if (s->fds.mover >= 0)
		notice_send(&o->flow->worker, &s->to_worker, SESSION_WORK_SALVAGE);
	if (session_state(s) == SESSION_RESTORING)
		flow_start_restore(o, s, s->detach);
}

/* A fork child has a mover now. */
void owner_adopt(struct owner *o, struct session *s)
{
	struct adoption *a = s->adoption;
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = (uintptr_t)s | GATE_EVENT };
	int uffd = s->fds.uffd;

	a->done = false;
	if (session_state(s) == SESSION_SERVED && !s->gate &&
	    uffd_register(uffd, a->attach.transit, WIRE_TRANSIT_PAGES * PAGE_BYTES, false) == 0) {
		s->fds = a->fds;
		s->fds.uffd = uffd;
		s->attach = a->attach;
		s->transit = a->attach.transit;
		s->pid = a->pid;
		s->gate = a->gate;
		s->token = a->token;
		gate_set_generation(s->gate, s->generation);
		flow_tell_away(s, 0);
		record_introduce(s);
		inject(INJECT_ADOPTED);
		/* Unheard, the mover would keep its program waiting. */
		if (watch_set(o->epoll, EPOLL_CTL_ADD, s->fds.gate_event, event) == 0)
			session_set_state(s, SESSION_ACTIVE);
		else
			atomic_store(&s->reason, "its gate can't be watched");
		a->done = true;
	}
	notice_send(&o->flow->engine, &s->to_engine, SESSION_NEWS_ADOPTED);
}

/* Its mover has ended, or its process: see what is left. */
static void check(struct owner *o, struct session *s)
{
	s->mover_gone = true;
	notice_send(&o->flow->worker, &s->to_worker,
		    SESSION_WORK_ALONE | (s->recover ? SESSION_WORK_SALVAGE : 0));
	s->recover = SESSION_RECOVERED;
	if (session_state(s) >= SESSION_CLOSING)
		return;
	if (!uffd_alive(s->fds.uffd)) {
		flow_close(o, s);
		return;
	}
	/* Nobody is in the gate any more, whatever it says. */
	if (s->gate)
		gate_leave(s->gate);
	atomic_store(&s->reason, "its mover is gone");
	flow_start_restore(o, s, true);
	fault_serve(o, s); /* what waited for the gate */
}

/*
 * The mover is stopped, or slow beyond reason. While it is outside of the gate
 * a new generation makes its order void: it moves nothing more for it, and what
 * it has moved is in transit, where the worker finds it.
 */
static void void_order(struct owner *o, struct session *s)
{
	if (session_state(s) >= SESSION_CLOSING || !gate_enter(s->gate))
		return; /* asked again */
	gate_set_generation(s->gate, ++s->generation);
	gate_leave(s->gate);
	notice_send(&o->flow->worker, &s->to_worker, SESSION_WORK_ALONE);
}

/* Nothing of it is under way. What it had stays where it is, for those that it has
   been shared with, and for itself. */
static void take_domain(struct session *s)
{
	uint64_t stored = counter_get(&s->counters.stored_bytes);
	struct domain *domain = s->domain, *payer = s->payer;
	struct family *family = s->family;

	flow_account_bars(s, 0);
	s->domain = s->other_domain;
	s->family = s->other_family;
	s->payer = s->other_payer;
	s->other_domain = domain;
	s->other_family = family;
	s->other_payer = payer;
	/* What it has stored counts for the new user from now on; the old one's own domain, if
	   it was that, goes on paying for it as well. */
	if (payer)
		atomic_fetch_sub_explicit(&payer->charged, stored, memory_order_release);
	atomic_fetch_add_explicit(&s->payer->charged, stored, memory_order_release);
	s->uid = s->other_uid;
	/* The user last: with the old one, a worker after us would see the change again. */
	if (s->record) {
		s->record->domain = s->domain->uid;
		s->record->is_private = true;
		s->record->uid = s->uid;
	}
	atomic_store(&s->user, SESSION_USER_PRIVATE);
}

static void handle_notice(struct owner *o, struct session *s)
{
	uint32_t bits = notice_take(&s->to_owner);

	if (bits & SESSION_OWN_ADD)
		start_serving(o, s);
	if (bits & SESSION_OWN_ADOPT)
		owner_adopt(o, s);
	if (bits & SESSION_OWN_DOMAIN)
		take_domain(s);
	if (bits & SESSION_OWN_REVOKE)
		void_order(o, s);
	if (bits & SESSION_OWN_CHECK)
		check(o, s);
	if (bits & SESSION_OWN_WANTED)
		prefetch_page(o, s, atomic_load(&s->wanted_vpn));
	if (bits & (SESSION_OWN_RESTORE | SESSION_OWN_DETACH)) {
		if (session_state(s) >= SESSION_CLOSING)
			order_finish(o->flow, &s->restore_order, -ESRCH);
		else
			flow_start_restore(o, s, bits & SESSION_OWN_DETACH);
	}
	if (bits & SESSION_OWN_BURY)
		notice_send(&o->flow->worker, &s->to_worker, SESSION_WORK_BURY);
}

bool owner_take_mail(struct owner *o)
{
	struct mail *next;

	for (struct mail *mail = mailbox_take(&o->box); mail; mail = next) {
		next = mail->next;
		switch (mail->kind) {
		case BATCH_MARK:
			evict_mark(o, CONTAINER_OF(mail, struct batch, mail));
			break;
		case BATCH_STAGE:
			evict_stage(o, CONTAINER_OF(mail, struct batch, mail));
			break;
		case BATCH_COMMIT:
			evict_commit(o, CONTAINER_OF(mail, struct batch, mail));
			break;
		case FETCH_WINDOW_DONE:
			fetch_take_window(o, mail);
			break;
		case FETCH_DONE:
			fetch_take(o, mail);
			break;
		case COUNT_BEGIN:
			count_take(o, mail);
			break;
		case MAIL_STOP:
			return false;
		default:
			assert(mail->kind == SESSION_MAIL);
			handle_notice(o, CONTAINER_OF(mail, struct session, to_owner.mail));
		}
	}
	return true;
}

void owner_commit_deferred(struct owner *o)
{
	struct batch *b = o->deferred, *next;

	o->deferred = NULL;
	for (; b; b = next) {
		next = b->next;
		evict_commit(o, b);
	}
}

/* Descriptors that are given up when a fork child's finds no room. */
static void keep_reserve(struct owner *o)
{
	for (size_t i = 0; i < ARRAY_SIZE(o->reserve); i++)
		if (o->reserve[i] < 0)
			o->reserve[i] = eventfd(0, EFD_CLOEXEC);
}

int owner_run_jobs(struct owner *o)
{
	struct session *jobs = o->jobs, *next;
	bool moved = false;

	o->jobs = NULL;
	for (struct session *s = jobs; s; s = next) {
		uint64_t before = session_evicted_pages(s) + s->poison_at;

		next = s->next_job;
		if (flow_job(o, s)) {
			s->next_job = o->jobs;
			o->jobs = s;
			moved |= session_state(s) != SESSION_RESTORING || session_evicted_pages(s) + s->poison_at != before;
		} else if (session_state(s) != SESSION_CLOSING) {
			s->in_job = false;
			moved = true;
		}
	}
	return !o->jobs ? PROBE_MS : moved ? 0 : 1;
}

void owner_settle(struct owner *o)
{
	o->unquiet = false;
	for (struct session *s = o->owned; s; s = s->next_owned) {
		if (s->recover)
			owner_recover(o, s);
		events_settle_idle(o, s);
		room_settle(s);
		if (s->gate_wait_ns && gate_is_free(s->gate))
			fault_serve(o, s);
		o->unquiet |= !events_are_quiet(s) || s->gate_wait_ns || s->room_wake_ns;
	}
}

void owner_probe(struct owner *o)
{
	struct session *next;

	for (struct session *s = o->owned; s; s = next) {
		next = s->next_owned;
		flow_tell_away(s, 0);
		if (!s->gate && !uffd_alive(s->fds.uffd))
			flow_close(o, s);
		else if (staging_forwarders(o->flow->staging) || staging_left(o->flow->staging))
			evict_settle_staged(o, s);
	}
}

static void dispatch(struct owner *o, const struct epoll_event *event)
{
	struct session *s = (struct session *)(uintptr_t)(event->data.u64 & ~(uint64_t)GATE_EVENT);
	eventfd_t n;

	if (!s)
		return; /* mail */
	if (event->data.u64 & GATE_EVENT)
		eventfd_read(s->fds.gate_event, &n);
	else if (event->events & (EPOLLERR | EPOLLHUP)) {
		flow_tampered(o, s);
		return;
	}
	fault_serve(o, s);
}

static void *run(void *arg)
{
	struct owner_thread *t = arg;
	struct owner *o = &t->owner;
	struct epoll_event events[EVENTS];
	uint64_t next_probe = 0;
	int wait = PROBE_MS;

	prctl(PR_SET_NAME, "uswap-fault");
	(void)uffd_reader_init();
	for (;;) {
		int n = epoll_wait(o->epoll, events, EVENTS, wait);

		for (int i = 0; i < n; i++)
			dispatch(o, &events[i]);
		o->now = now_ns();
		if (!owner_take_mail(o))
			break;
		wait = owner_run_jobs(o);
		if (prefetch_step(o))
			wait = 0;
		if (count_step(o))
			wait = 0;
		owner_commit_deferred(o);
		if (o->unquiet)
			owner_settle(o);
		if (o->unquiet || o->deferred)
			wait = MIN(wait, 1);
		wait = fetch_again(o, wait);
		if (!unpack_settle(o))
			wait = MIN(wait, 1);
		if (slot_pool_ready(o->slots) < SLOT_POOL_LOW)
			(void)slot_pool_reserve(o->slots, OWNER_NODES);
		atomic_fetch_add_explicit(&t->rounds, 1, memory_order_relaxed);
		if (o->now >= next_probe) {
			owner_probe(o);
			keep_reserve(o);
			next_probe = o->now + PROBE_MS * 1000000ull;
		}
	}
	uffd_reader_deinit();
	return NULL;
}

int owner_open(struct owner *o, struct flow *flow, int level)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLET }; /* mail */
	char name[KEPT_NAME];
	int r;

	o->flow = flow;
	o->epoll = -1;
	memset(o->reserve, -1, sizeof(o->reserve));
	r = mailbox_init(&o->box);
	if (r < 0)
		return r;
	o->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (o->epoll < 0 || epoll_ctl(o->epoll, EPOLL_CTL_ADD, o->box.event, &event) < 0)
		return -errno;
	snprintf(name, sizeof(name), "slots%u", o->index);
	o->slots = slot_pool_open(name, SLOT_POOL_MAX);
	if (!o->slots)
		return -errno;
	if (!o->ring) /* nobody keeps it */
		o->ring = o->own_ring = calloc(1, sizeof(*o->ring));
	o->codec = codec_new(level);
	o->page = aligned_alloc(PAGE_BYTES, FLOW_RUN_MAX * PAGE_BYTES);
	if (!o->ring || !o->codec || !o->page)
		return -ENOMEM;
	/* What is found there has not been counted yet. */
	if (!slot_pool_is_found(o->slots) && slot_pool_reserve(o->slots, OWNER_NODES) < 0)
		return -ENOMEM;
	r = fetch_init(o);
	if (r < 0)
		return r;
	if (flow->unpack_pool) {
		o->unpack = unpack_new();
		if (!o->unpack)
			return -ENOMEM;
	}
	keep_reserve(o);
	return 0;
}

int owner_start(struct owner_thread *t)
{
	int r = slot_pool_reserve(t->owner.slots, OWNER_NODES);

	t->stop.kind = MAIL_STOP;
	if (r == 0)
		r = -pthread_create(&t->thread, NULL, run, t);
	t->started = r == 0;
	return r;
}

void owner_stop(struct owner_thread *t)
{
	struct owner *o = &t->owner;

	if (!o->flow)
		return;
	if (t->started) {
		mailbox_send(&o->box, &t->stop);
		pthread_join(t->thread, NULL);
	}
	fetch_deinit(o);
	o->unpack = unpack_free(o->unpack, o->flow->blobstore);
	for (size_t i = 0; i < ARRAY_SIZE(o->reserve); i++)
		safe_close(o->reserve[i]);
	free(o->own_ring);
	ranges_deinit(&o->wiped);
	free(o->page);
	codec_free(o->codec);
	slot_pool_free(o->slots);
	safe_close(o->epoll);
}

void owner_free(struct owner_thread *t)
{
	if (t->owner.flow)
		mailbox_deinit(&t->owner.box);
}
