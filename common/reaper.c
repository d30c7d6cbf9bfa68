/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/reaper.h"

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include "common/log.h"
#include "common/util.h"

#define CLOSERS_MAX 17u /* 16 may be stuck, and one works */
#define STUCK_NS NSEC_PER_SEC
#define QUEUE_FIRST 64u
/* What gets a closer out of a wait that can be interrupted. */
#define KICK_SIGNAL (SIGRTMIN + 4)

struct closer {
	pthread_t thread;
	uint64_t since_ns; /* in this close(); 0: idle */
};

static struct {
	pthread_mutex_t lock;
	pthread_cond_t more; /* for idle closers */
	pthread_cond_t look; /* for the keeper */
	int *queue;	     /* a ring */
	unsigned size, first, nr;
	struct closer closer[CLOSERS_MAX];
	unsigned nr_closers, nr_idle;
	bool has_keeper, has_warned;
} reaper = { .lock = PTHREAD_MUTEX_INITIALIZER, .more = PTHREAD_COND_INITIALIZER };

static void on_kick(int signal)
{
	(void)signal;
}

static bool push(int fd)
{
	if (reaper.nr == reaper.size) {
		unsigned size = reaper.size ? reaper.size * 2 : QUEUE_FIRST;
		int *queue = malloc(size * sizeof(*queue));

		if (!queue)
			return false;
		for (unsigned i = 0; i < reaper.nr; i++)
			queue[i] = reaper.queue[(reaper.first + i) % reaper.size];
		free(reaper.queue);
		reaper.queue = queue;
		reaper.size = size;
		reaper.first = 0;
	}
	reaper.queue[(reaper.first + reaper.nr++) % reaper.size] = fd;
	return true;
}

static int pop(void)
{
	int fd = reaper.queue[reaper.first];

	reaper.first = (reaper.first + 1) % reaper.size;
	reaper.nr--;
	return fd;
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
		int fd;

		reaper.nr_idle++;
		while (!reaper.nr)
			pthread_cond_wait(&reaper.more, &reaper.lock);
		reaper.nr_idle--;
		fd = pop();
		c->since_ns = now_ns();
		pthread_cond_signal(&reaper.look);
		pthread_mutex_unlock(&reaper.lock);
		close_now(fd);
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

	if (reaper.nr_closers < CLOSERS_MAX) {
		*c = (struct closer){ 0 };
		if (start_thread(&c->thread, run_closer, c) == 0)
			reaper.nr_closers++;
	} else if (!reaper.has_warned) {
		reaper.has_warned = true;
		log_warning("closing descriptors of other processes hangs in %u threads; more have to wait",
			    reaper.nr_closers);
	}
}

/* Kicks those that hang. True if all do, so that another one is needed. */
static bool kick_stuck(uint64_t now)
{
	unsigned stuck = 0;

	for (unsigned i = 0; i < reaper.nr_closers; i++) {
		struct closer *c = &reaper.closer[i];

		if (!c->since_ns || now - c->since_ns < STUCK_NS)
			continue;
		pthread_kill(c->thread, KICK_SIGNAL);
		stuck++;
	}
	return stuck == reaper.nr_closers;
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
		uint64_t until = now_ns() + STUCK_NS / 4;
		struct timespec ts = { .tv_sec = (time_t)(until / NSEC_PER_SEC),
				       .tv_nsec = (long)(until % NSEC_PER_SEC) };

		if (kick_stuck(now_ns()) && reaper.nr)
			add_closer();
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

void reaper_close(int fd)
{
	bool pushed;

	if (fd < 0)
		return;
	pthread_mutex_lock(&reaper.lock);
	start_keeper();
	pushed = push(fd);
	if (pushed && reaper.nr_idle)
		pthread_cond_signal(&reaper.more);
	else
		pthread_cond_signal(&reaper.look);
	pthread_mutex_unlock(&reaper.lock);
	if (!pushed)
		close_now(fd);
}
