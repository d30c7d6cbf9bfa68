/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/reaper.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include "common/log.h"
#include "common/util.h"

#define CLOSERS_MAX 256u
#define CLOSERS_OWN 17u /* 16 may be stuck until they are kicked, and one works */
#define CLOSERS_USER 4u
/* With more it is full. As many as end at once when a thousand programs of one user
   do; few beside the descriptors that we may have. */
#define QUEUE_USER 8192u
#define SLOW_NS (NSEC_PER_SEC / 8) /* when all do so long, another one comes */
#define STUCK_NS NSEC_PER_SEC
#define QUEUE_FIRST 64u
#define NOBODY ((uid_t)-1) /* our own */
/* What gets a closer out of a wait that can be interrupted. */
#define KICK_SIGNAL (SIGRTMIN + 4)

struct closer {
	pthread_t thread;
	uint64_t since_ns; /* in this close(); 0: idle */
	uid_t uid;
};

struct waiting {
	int fd;
	uid_t uid;
};

static struct {
	pthread_mutex_t lock;
	pthread_cond_t more; /* for idle closers */
	pthread_cond_t look; /* for the keeper */
	struct waiting *queue;
	unsigned size, nr;
	struct closer closer[CLOSERS_MAX];
	unsigned nr_closers, nr_idle;
	bool has_keeper, has_warned;
} reaper = { .lock = PTHREAD_MUTEX_INITIALIZER, .more = PTHREAD_COND_INITIALIZER };

static void on_kick(int signal)
{
	(void)signal;
}

static bool push(uid_t uid, int fd)
{
	if (reaper.nr == reaper.size) {
		unsigned size = reaper.size ? reaper.size * 2 : QUEUE_FIRST;
		struct waiting *queue = realloc(reaper.queue, size * sizeof(*queue));

		if (!queue)
			return false;
		reaper.queue = queue;
		reaper.size = size;
	}
	reaper.queue[reaper.nr++] = (struct waiting){ .fd = fd, .uid = uid };
	return true;
}

/* Threads that have been closing something of that user since before_ns or longer. */
static unsigned closers_of(uid_t uid, uint64_t before_ns)
{
	unsigned n = 0;

	for (unsigned i = 0; i < reaper.nr_closers; i++)
		n += reaper.closer[i].uid == uid && reaper.closer[i].since_ns &&
		     reaper.closer[i].since_ns <= before_ns;
	return n;
}

/* The first in the queue that may have a thread; as many as wait: none. */
static unsigned next_in_queue(void)
{
	uid_t full = NOBODY;
	unsigned i;

	for (i = 0; i < reaper.nr; i++) {
		uid_t uid = reaper.queue[i].uid;

		/* mostly one user's that fill it */
		if (i && uid == full && uid != NOBODY)
			continue;
		if (closers_of(uid, UINT64_MAX) < (uid == NOBODY ? CLOSERS_OWN : CLOSERS_USER))
			break;
		full = uid;
	}
	return i;
}

static struct waiting pop(unsigned i)
{
	struct waiting w = reaper.queue[i];

	memmove(&reaper.queue[i], &reaper.queue[i + 1], (--reaper.nr - i) * sizeof(w));
	return w;
}

/* The peer's wish to linger is none of ours. Anything but a socket refuses. */
static void close_now(int fd)
{
	const struct linger off = { 0 };

	(void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &off, sizeof(off));
	close(fd);
}

static void block_signals(bool may_kick)
{
	sigset_t set;

	sigfillset(&set);
	if (may_kick)
		sigdelset(&set, KICK_SIGNAL);
	pthread_sigmask(SIG_SETMASK, &set, NULL);
}

static void *run_closer(void *arg)
{
	struct closer *c = arg;

	prctl(PR_SET_NAME, "uswap-close");
	block_signals(true);
	pthread_mutex_lock(&reaper.lock);
	for (;;) {
		struct waiting w;
		unsigned i;

		reaper.nr_idle++;
		while ((i = next_in_queue()) == reaper.nr)
			pthread_cond_wait(&reaper.more, &reaper.lock);
		reaper.nr_idle--;
		w = pop(i);
		c->uid = w.uid;
		c->since_ns = now_ns();
		pthread_cond_signal(&reaper.look);
		pthread_mutex_unlock(&reaper.lock);
		close_now(w.fd);
		pthread_mutex_lock(&reaper.lock);
		c->since_ns = 0;
	}
	return NULL;
}

/* Detached, and with all signals blocked from its first instruction on. */
static int start_thread(pthread_t *thread, void *(*run)(void *), void *arg)
{
	sigset_t all, before;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = -pthread_create(thread, NULL, run, arg);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (r == 0)
		pthread_detach(*thread);
	return r;
}

static void add_closer(void)
{
	struct closer *c = &reaper.closer[reaper.nr_closers];

	if (reaper.nr_closers == CLOSERS_MAX)
		return;
	*c = (struct closer){ 0 };
	if (start_thread(&c->thread, run_closer, c) == 0)
		reaper.nr_closers++;
}

static void warn_of(uid_t uid)
{
	if (reaper.has_warned)
		return;
	reaper.has_warned = true;
	if (uid == NOBODY || uid == REAPER_UNKNOWN)
		log_warning("closing connections hangs in %u threads; more have to wait",
			    closers_of(uid, UINT64_MAX));
	else
		log_warning("closing what user %u has sent hangs in %u threads: nothing more is taken from him "
			    "until that is done", uid, CLOSERS_USER);
}

/* Kicks those that hang. True if all are busy for long, so that another one is needed. */
static bool kick_stuck(uint64_t now)
{
	unsigned slow = 0;

	for (unsigned i = 0; i < reaper.nr_closers; i++) {
		struct closer *c = &reaper.closer[i];

		if (!c->since_ns || now - c->since_ns < SLOW_NS)
			continue;
		if (now - c->since_ns >= STUCK_NS)
			pthread_kill(c->thread, KICK_SIGNAL);
		slow++;
	}
	return slow == reaper.nr_closers;
}

static bool is_any_busy(void)
{
	for (unsigned i = 0; i < reaper.nr_closers; i++)
		if (reaper.closer[i].since_ns)
			return true;
	return false;
}

/* Looks after the closers; sleeps while they have nothing to do. */
static void *run_keeper(void *arg)
{
	(void)arg;
	prctl(PR_SET_NAME, "uswap-close");
	pthread_mutex_lock(&reaper.lock);
	for (;;) {
		uint64_t until = now_ns() + SLOW_NS;
		struct timespec ts = { .tv_sec = (time_t)(until / NSEC_PER_SEC),
				       .tv_nsec = (long)(until % NSEC_PER_SEC) };

		if (kick_stuck(now_ns()) && reaper.nr && next_in_queue() < reaper.nr)
			add_closer();
		else if (reaper.nr && next_in_queue() == reaper.nr)
			warn_of(reaper.queue[0].uid);
		if (reaper.nr || is_any_busy())
			pthread_cond_timedwait(&reaper.look, &reaper.lock, &ts);
		else
			pthread_cond_wait(&reaper.look, &reaper.lock);
	}
	return NULL;
}

/* Another try with the next descriptor if there are no threads to be had. */
static void start_keeper(void)
{
	struct sigaction action = { .sa_handler = on_kick };
	pthread_condattr_t attr;
	pthread_t keeper;

	if (reaper.has_keeper)
		return;
	sigaction(KICK_SIGNAL, &action, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&reaper.look, &attr);
	pthread_condattr_destroy(&attr);
	reaper.has_keeper = start_thread(&keeper, run_keeper, NULL) == 0;
}

void reaper_close_of(uid_t uid, int fd)
{
	bool pushed;

	if (fd < 0)
		return;
	pthread_mutex_lock(&reaper.lock);
	start_keeper();
	pushed = push(uid, fd);
	if (pushed && reaper.nr_idle)
		pthread_cond_signal(&reaper.more);
	else
		pthread_cond_signal(&reaper.look);
	pthread_mutex_unlock(&reaper.lock);
	if (!pushed)
		close_now(fd);
}

void reaper_close(int fd)
{
	reaper_close_of(NOBODY, fd);
}

bool reaper_is_full(uid_t uid)
{
	uint64_t now = now_ns();
	unsigned waiting = 0;
	bool full;

	pthread_mutex_lock(&reaper.lock);
	for (unsigned i = 0; i < reaper.nr; i++)
		waiting += reaper.queue[i].uid == uid;
	full = waiting > QUEUE_USER || closers_of(uid, now - STUCK_NS) >= CLOSERS_USER;
	pthread_mutex_unlock(&reaper.lock);
	return full;
}
