/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "keeper/keeper.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/log.h"
#include "common/util.h"

#ifndef PR_GET_TID_ADDRESS
#define PR_GET_TID_ADDRESS 40
#endif

/* A worker that dies before it serves, again and again, is not started faster
   than this. */
#define PATIENCE 3u
#define PAUSE_NS 10000000L
#define PAUSE_MAX_NS 500000000L
#define YOUNG_NS (5 * NSEC_PER_SEC)

#define DYING_NS 1000000L /* between looks whether the worker is dead */
#define DYING_MAX 20000u /* looks */

/* Shared with the worker and the holder. */
struct shared {
	_Atomic bool settled;
	pid_t worker, holder; /* 0: none. Set by the kernel, before they run */
};

static struct shared *shared;
static pid_t keeper; /* in a worker: its parent */

void keeper_settled(void)
{
	if (shared)
		atomic_store(&shared->settled, true);
}

bool keeper_is_there(void)
{
	return keeper && getppid() == keeper;
}

pid_t keeper_pid(void)
{
	return keeper ? keeper : getpid();
}

/*
 * fork() with a table of descriptors in common. The C library knows nothing of
 * it, so the child's thread id, which it keeps in its own memory and locks
 * mutexes by, is set by the kernel, in the place that set_tid_address() was
 * told. This process has one thread, so that nobody holds a lock that the child
 * would wait for.
 */
static pid_t start_process(pid_t *told, pid_t *tid)
{
	return (pid_t)syscall(SYS_clone,
			      CLONE_FILES | CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | SIGCHLD,
			      NULL, told, tid, NULL);
}

/* ---- the holder ---- */

static void wait_for_the_keeper(pid_t parent)
{
	sigset_t all, died;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL); /* those that kill as well: the watchdog's */
	sigemptyset(&died);
	sigaddset(&died, SIGUSR1);
	prctl(PR_SET_PDEATHSIG, SIGUSR1);
	while (getppid() == parent)
		sigwaitinfo(&died, NULL);
}

/* Whose number may be another's by now, at worst: then it is not waited for for long. */
static void wait_for_the_worker(void)
{
	const struct timespec ts = { 0, DYING_NS };

	for (unsigned i = 0; shared->worker && kill(shared->worker, 0) == 0 && i < DYING_MAX; i++)
		nanosleep(&ts, NULL);
}

struct holder {
	keeper_hand_over_fn hand_over; /* NULL: there is none */
	void *arg;
	pid_t *tid;
};

static void start_holder(const struct holder *h)
{
	pid_t self = getpid(), pid;

	if (!h->hand_over)
		return;
	shared->holder = 0;
	pid = start_process(&shared->holder, h->tid);
	if (pid < 0)
		log_error("no holder: %s", strerror(errno));
	if (pid)
		return;
	prctl(PR_SET_NAME, "uswap-holder");
	wait_for_the_keeper(self);
	wait_for_the_worker();
	h->hand_over(h->arg);
	_exit(EXIT_SUCCESS);
}

/* ---- the keeper ---- */

static void pause_before(unsigned in_a_row)
{
	struct timespec ts = { 0, PAUSE_NS };

	if (in_a_row < PATIENCE)
		return;
	for (unsigned i = PATIENCE; i < in_a_row && ts.tv_nsec < PAUSE_MAX_NS; i++)
		ts.tv_nsec = MIN(ts.tv_nsec * 2, PAUSE_MAX_NS);
	nanosleep(&ts, NULL);
}

/* Until the worker has ended; passes signals on. Returns its wait status. */
static int watch(pid_t worker, const struct holder *holder, int *stop)
{
	sigset_t blocked;
	int status;

	/* Not those that kill, as the watchdog's: waiting for one would swallow it. */
	sigprocmask(SIG_BLOCK, NULL, &blocked);
	for (;;) {
		int signal = sigwaitinfo(&blocked, NULL);

		/* First: one that comes as the worker dies is for the next. */
		if (signal == SIGTERM || signal == SIGINT)
			*stop = signal;
		/* Before the worker: the deaths of both may be one signal. */
		if (shared->holder && waitpid(shared->holder, NULL, WNOHANG) == shared->holder)
			start_holder(holder);
		if (waitpid(worker, &status, WNOHANG) == worker) {
			shared->worker = 0;
			return status;
		}
		if (signal == SIGTERM || signal == SIGINT || signal == SIGHUP)
			kill(worker, signal);
	}
}

static int run_worker(keeper_worker_fn worker, void *arg, const struct keeper_life *life, pid_t parent)
{
	keeper = parent;
	return worker(arg, life);
}

int keeper_run(keeper_worker_fn worker, keeper_hand_over_fn hand_over, void *arg)
{
	struct holder holder = { .hand_over = hand_over, .arg = arg };
	struct keeper_life life = { 0 };
	pid_t self = getpid(), pid, *tid = NULL;
	unsigned vain = 0; /* in a row */
	uint64_t started;
	int status, stop = 0;

	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED || prctl(PR_GET_TID_ADDRESS, &tid) < 0 || !tid) {
		log_warning("no keeper: %s; programs will wait for pages if the agent is killed",
			    strerror(errno));
		shared = NULL;
		return worker(arg, &life);
	}
	holder.tid = tid;
	for (;;) {
		if (!shared->holder) /* the first time, or there was no process to be had */
			start_holder(&holder);
		pause_before(MAX(life.in_a_row, vain ? vain + PATIENCE : 0));
		shared->settled = false;
		started = now_ns();
		pid = start_process(&shared->worker, tid);
		if (pid == 0)
			exit(run_worker(worker, arg, &life, self));
		if (pid < 0) {
			/* Memory or processes are short; programs wait, so try. */
			log_error("no new worker: %s", strerror(errno));
			life.in_a_row = MAX(life.in_a_row + 1, PATIENCE);
			continue;
		}
		if (stop)
			kill(pid, stop);
		status = watch(pid, &holder, &stop);
		if (WIFEXITED(status) && WEXITSTATUS(status) != KEEPER_AGAIN)
			return WEXITSTATUS(status);
		life.deaths++;
		vain = WIFEXITED(status) ? vain + 1 : 0;
		if (vain)
			continue;
		/* A kill from outside says nothing about what the worker found. */
		if (WTERMSIG(status) == SIGKILL || now_ns() - started > YOUNG_NS)
			life.in_a_row = shared->settled ? 0 : life.in_a_row;
		else
			life.in_a_row++;
		log_error("the worker was killed by signal %d (%s)", WTERMSIG(status),
			  strsignal(WTERMSIG(status)));
	}
}
