/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Starts the mover. Runs in the program's thread, then for an instant in another
 * one and in an intermediate process; see shim.h for the rules of code in a foreign
 * process.
 *
 * The other thread has a table of descriptors of its own, and lets go of all in it
 * that the mover doesn't need before it clones. Were that done later, by the mover,
 * the descriptors of a program that is killed in this instant would outlive it: the
 * end of a pipe, by which somebody sees whether it lives. A thread dies with its
 * process, and nobody is told of the process's end before.
 *
 * Double clone: the intermediate is reaped here (exit signal 0, so no SIGCHLD,
 * and wait4 with __WALL), the mover then belongs to init. A direct child would
 * be left as a zombie to the image that the program executes next.
 *
 * The mover: no CLONE_FILES, CLONE_FS, CLONE_SIGHAND, CLONE_THREAD: the program's own
 * unshare(), setns(), seccomp filter, close_range() and descriptors never meet
 * the mover's. CLONE_UNTRACED: a debugger of the program sees no stranger.
 */
#include "preload/shim.h"

#define TASK_FLAGS (CLONE_VM | CLONE_UNTRACED) /* and exit signal 0 */
#define THREAD_FLAGS (TASK_FLAGS | CLONE_SIGHAND | CLONE_THREAD)
#define THREAD_NAP_NSEC 1000000L

static void *stack_top(const struct mover *m, unsigned int page, unsigned int pages)
{
	return (void *)arena_at(m->arena, page + pages);
}

static void clone_mover(struct mover *m)
{
	m->pid = (int)sys_clone_task(TASK_FLAGS,
				     stack_top(m, ARENA_MOVER_STACK, ARENA_MOVER_STACK_PAGES),
				     mover_main, m);
}

static void intermediate(void *mover)
{
	clone_mover(mover);
	sys_exit_group(0);
}

/*
 * An orphan's new parent is the next subreaper above it, or init. Where that
 * is the program itself, an orphaned mover would become its child like any
 * other, and waitpid(-1) would never say ECHILD again. There the mover stays a
 * direct child: with exit signal 0 plain waits don't see it. (Known residue:
 * if such a program executes another, its mover stays a zombie there; and the
 * movers of its descendants are orphans like any other when those end, so a
 * plain wait reaps one unknown pid for each.)
 */
static int adopts_orphans(void)
{
	int subreaper = 0;

	sys_prctl(PR_GET_CHILD_SUBREAPER, (unsigned long)&subreaper, 0);
	return subreaper || sys_getpid() == 1;
}

static void clone_twice(struct mover *m)
{
	long pid, ret;

	pid = sys_clone_task(TASK_FLAGS, stack_top(m, ARENA_START_STACK, ARENA_START_STACK_PAGES / 2),
			     intermediate, m);
	if (pid < 0) {
		m->pid = (int)pid;
		return;
	}
	do
		ret = sys_wait_any_kind((int)pid);
	while (ret == -EINTR);
}

static void in_thread(void *mover)
{
	struct mover *m = mover;

	mover_keep_own_fds(m);
	if (adopts_orphans())
		clone_mover(m);
	else
		clone_twice(m);
	__atomic_store_n(&m->cloned, 1, __ATOMIC_RELEASE);
	sys_futex_wake(&m->cloned);
	sys_exit();
}

/* Until it isn't there any more: what a program may do next, a process with two
   threads may not (unshare(CLONE_NEWUSER)). 1: that could not be asked; it has done
   all it has to do. */
static long clone_in_thread(struct mover *m)
{
	long tid = sys_clone_task(THREAD_FLAGS, stack_top(m, ARENA_START_STACK, ARENA_START_STACK_PAGES),
				  in_thread, m);
	long err;

	if (tid < 0)
		return tid;
	while ((err = sys_tgkill(m->workload, (int)tid, 0)) != -ESRCH) {
		if (!__atomic_load_n(&m->cloned, __ATOMIC_ACQUIRE))
			sys_futex_wait(&m->cloned, 0, THREAD_NAP_NSEC);
		else if (err)
			return 1;
		else
			sys_call(__NR_sched_yield, 0, 0, 0, 0, 0);
	}
	return 0;
}

/* It stands on its own feet, with files of its own open. */
static int became_ready(struct mover *m)
{
	uint64_t end = sys_now() + SHIM_TIMEOUT_NSEC;
	uint32_t state = MOVER_STARTING;

	while (__atomic_load_n(&m->state, __ATOMIC_ACQUIRE) == state && sys_now() < end)
		sys_futex_wait(&m->state, state, SHIM_TIMEOUT_NSEC);
	return !__atomic_compare_exchange_n(&m->state, &state, MOVER_ABANDONED, 0, __ATOMIC_ACQ_REL,
					    __ATOMIC_ACQUIRE);
}

long mover_start(struct mover *m)
{
	long err;

	m->pid = 0;
	err = clone_in_thread(m);
	if (err < 0)
		return err;
	if (m->pid <= 0 && err)
		return -EINPROGRESS; /* the thread may be on its stack yet */
	if (m->pid <= 0)
		return m->pid ? m->pid : -EAGAIN;
	/* Killed or stopped in the first instant: it may still need its stack,
	   and will leave as soon as it sees that it was abandoned. */
	return became_ready(m) ? 0 : -EINPROGRESS;
}
