/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The evict worker: one thread that plans what leaves, for all sessions. */
#include "engine/private.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include "common/util.h"
#include "common/watch.h"

#define EVENTS 64
#define PIDFD_EVENT ((uintptr_t)1) /* tag of an epoll pointer */
#define IDLE_NS (250 * 1000000ull)
#define TRIM_NS NSEC_PER_SEC
#define TRIM_KEEP 256u /* staging pages kept warm */

struct batch *worker_take_batch(struct worker *w)
{
	struct batch *b = w->free_batches;

	if (b)
		w->free_batches = b->next;
	else
		b = malloc(sizeof(*b)); /* first use; later ones come from the list */
	if (b)
		memset(b, 0, sizeof(*b));
	return b;
}

void worker_reuse(struct worker *w, struct batch *b)
{
	b->next = w->free_batches;
	w->free_batches = b;
}

static int watch(struct worker *w, int fd, struct session *s, uintptr_t tag)
{
	struct epoll_event event = { .events = EPOLLIN, .data.u64 = (uintptr_t)s | tag };

	return fd < 0 ? 0 : watch_set(w->epoll, EPOLL_CTL_ADD, fd, event);
}

static void add_session(struct worker *w, struct session *s)
{
	s->next_worked = w->sessions;
	w->sessions = s;
	if (watch(w, s->fds.mover, s, 0) < 0 || watch(w, s->fds.pidfd, s, PIDFD_EVENT) < 0) {
		/* Its reports would not be heard. */
		s->leaving = true;
		notice_send(&session_owner(s)->box, &s->to_owner, SESSION_OWN_CHECK);
	}
	s->last_tick_ns = now_ns();
	w->next_due_ns = 0;
}

/* The owner has ended it: when the last batch is back, nobody but the engine
   knows it any more. */
void worker_end_session(struct worker *w, struct session *s)
{
	struct session **at;

	if (!s->closed || s->nr_batches || s->salvage_waits || s->ended)
		return;
	s->ended = true;
	for (at = &w->sessions; *at && *at != s; at = &(*at)->next_worked)
		;
	if (*at)
		*at = s->next_worked;
	if (s->fds.mover >= 0)
		epoll_ctl(w->epoll, EPOLL_CTL_DEL, s->fds.mover, NULL);
	if (s->fds.pidfd >= 0)
		epoll_ctl(w->epoll, EPOLL_CTL_DEL, s->fds.pidfd, NULL);
	order_finish(w->flow, &s->evict_order, -ESRCH);
	notice_send(&w->flow->engine, &s->to_engine, SESSION_NEWS_ENDED);
}

static void handle_notice(struct worker *w, struct session *s)
{
	uint32_t bits = notice_take(&s->to_worker);

	/* It may have ended before its mover was known. */
	if (bits & SESSION_WORK_ADD && !s->ended)
		add_session(w, s);
	if (bits & SESSION_WORK_ALONE)
		evictor_alone(w, s);
	if (bits & SESSION_WORK_SALVAGE)
		evictor_salvage(w, s);
	if (bits & SESSION_WORK_ORDER && s->ended) {
		order_finish(w->flow, &s->evict_order, -ESRCH);
	} else if (bits & SESSION_WORK_ORDER) {
		s->next_tick_ns = 0;
		w->next_due_ns = 0;
	}
	if (bits & SESSION_WORK_ROOM) {
		s->room_due_ns = 0;
		s->next_tick_ns = 0;
		w->next_due_ns = 0;
	}
	if (bits & SESSION_WORK_CLOSED) {
		s->closed = true;
		packers_hurry(w->packers, s);
		worker_end_session(w, s);
	}
	if (bits & SESSION_WORK_BURY)
		notice_send(&w->flow->engine, &s->to_engine, SESSION_NEWS_BURIED);
}

static void take_policy(struct worker *w)
{
	struct settings_policy p;

	pthread_mutex_lock(&w->lock);
	p = w->wanted;
	pthread_mutex_unlock(&w->lock);
	w->policy = (struct policy){
		.stall_budget = p.stall_budget,
		.min_resident = p.min_resident,
		.start_delay_ns = p.start_delay_ns,
		.limit_bytes = p.limit_bytes,
		.limit_share = p.limit_share,
	};
	w->scan_ns = p.scan_ns;
	w->grace_ns = p.grace_ns;
	w->next_due_ns = 0;
	for (struct session *s = w->sessions; s; s = s->next_worked)
		s->next_tick_ns = 0;
}

void worker_take_mail(struct worker *w)
{
	struct mail *next;

	for (struct mail *mail = mailbox_take(&w->flow->worker); mail; mail = next) {
		struct batch *b = CONTAINER_OF(mail, struct batch, mail);
		struct session *s;

		next = mail->next;
		switch (mail->kind) {
		case BATCH_STAGED:
			evictor_returned(w, b);
			break;
		case BATCH_DONE:
			s = b->session;
			worker_reuse(w, b);
			evictor_done(w, s);
			worker_end_session(w, s);
			break;
		case MAIL_POLICY:
			take_policy(w);
			break;
		case MAIL_STOP:
			w->stopping = true;
			break;
		default:
			assert(mail->kind == SESSION_MAIL);
			handle_notice(w, CONTAINER_OF(mail, struct session, to_worker.mail));
		}
	}
}

static void dispatch(struct worker *w, const struct epoll_event *event)
{
	struct session *s = (struct session *)(uintptr_t)(event->data.u64 & ~(uint64_t)PIDFD_EVENT);

	if (!s)
		return; /* mail */
	if (event->data.u64 & PIDFD_EVENT) {
		epoll_ctl(w->epoll, EPOLL_CTL_DEL, s->fds.pidfd, NULL);
		evictor_leave(w, s);
	} else {
		evictor_message(w, s);
	}
}

static void tick_all(struct worker *w, uint64_t now)
{
	if (now >= w->next_trim_ns) {
		staging_trim(w->flow->staging, TRIM_KEEP);
		w->next_trim_ns = now + TRIM_NS;
	}
	if (now < w->next_due_ns)
		return;
	w->next_due_ns = now + IDLE_NS;
	for (struct session *s = w->sessions; s; s = s->next_worked) {
		if (now >= s->next_tick_ns)
			evictor_tick(w, s, now);
		w->next_due_ns = MIN(w->next_due_ns, s->next_tick_ns);
	}
}

static void *run(void *arg)
{
	struct worker *w = arg;
	struct epoll_event events[EVENTS];

	prctl(PR_SET_NAME, "uswap-evict");
	while (!w->stopping) {
		uint64_t now = now_ns();
		uint64_t wait = w->next_due_ns > now ? w->next_due_ns - now : 0;
		struct timespec ts = { .tv_sec = 0, .tv_nsec = (long)MIN(wait, IDLE_NS) };
		int n = epoll_pwait2(w->epoll, events, EVENTS, &ts, NULL);

		for (int i = 0; i < n; i++)
			dispatch(w, &events[i]);
		worker_take_mail(w);
		tick_all(w, now_ns());
	}
	return NULL;
}

int worker_start(struct worker *w, struct packers *packers)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLET }; /* mail */
	int r;

	w->packers = packers;
	w->stop.kind = MAIL_STOP;
	w->changed.kind = MAIL_POLICY;
	take_policy(w);
	w->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (w->epoll < 0 || epoll_ctl(w->epoll, EPOLL_CTL_ADD, w->flow->worker.event, &event) < 0)
		return -errno;
	r = -pthread_create(&w->thread, NULL, run, w);
	w->started = r == 0;
	return r;
}

void worker_set_policy(struct worker *w, const struct settings_policy *policy)
{
	pthread_mutex_lock(&w->lock);
	w->wanted = *policy;
	pthread_mutex_unlock(&w->lock);
	atomic_store(&w->flow->backoff_ns, policy->grace_ns / 2);
	if (w->started)
		mailbox_send(&w->flow->worker, &w->changed);
}

void worker_stop(struct worker *w)
{
	if (w->started) {
		mailbox_send(&w->flow->worker, &w->stop);
		pthread_join(w->thread, NULL);
	}
	while (w->free_batches) {
		struct batch *b = w->free_batches;

		w->free_batches = b->next;
		free(b);
	}
	safe_close(w->epoll);
}
