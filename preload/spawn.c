/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Starts the mover. Runs in the program's thread, then for an instant in an
 * intermediate process; see shim.h for the rules of code in a foreign process.
 *
 * Double clone: the intermediate is reaped here (exit signal 0, so no SIGCHLD,
 * and wait4 with __WALL), the mover then belongs to init. A direct child would
 * be left as a zombie to the image that the program executes next.
 *
 * No CLONE_FILES, CLONE_FS, CLONE_SIGHAND, CLONE_THREAD: the program's own
 * unshare(), setns(), seccomp filter, close_range() and descriptors never meet
 * the mover's. CLONE_UNTRACED: a debugger of the program sees no stranger.
 */
#include "preload/shim.h"

#define TASK_FLAGS (CLONE_VM | CLONE_UNTRACED) /* and exit signal 0 */

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

static long clone_twice(struct mover *m)
{
	long pid, ret;

	pid = sys_clone_task(TASK_FLAGS, stack_top(m, ARENA_START_STACK, ARENA_START_STACK_PAGES),
			     intermediate, m);
	if (pid < 0)
		return pid;
	do
		ret = sys_wait_any_kind((int)pid);
	while (ret == -EINTR);
	return 0;
}

/*
 * The program goes on only when the mover has let go of its copies of the
 * program's descriptors: else a pipe's reader could wait for the mover's copy.
 */
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
	m->pid = 0;
	if (adopts_orphans()) {
		clone_mover(m);
	} else {
		long err = clone_twice(m);

		if (err)
			return err;
	}
	if (m->pid < 0)
		return m->pid;
	/* Killed or stopped in the first instant: it may still need its stack,
	   and will leave as soon as it sees that it was abandoned. */
	return became_ready(m) ? 0 : -EINPROGRESS;
}
