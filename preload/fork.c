/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Fork children. A child is served from its first instruction (EVENT_FORK);
 * here it gets a mover of its own, so that its pages can be evicted too. The
 * handler runs in the child's only thread, inside fork(); see shim.h for the
 * rules of code in a foreign process. It takes no lock and calls nobody, so it
 * can't deadlock, and waits for nothing longer than the handshake's timeouts,
 * the identity page aside: that is a page fault like any other.
 *
 * vfork, posix_spawn and raw clone don't come this way. The first two share
 * the parent's memory or execute at once; the last is served, not evicted.
 */
#include "preload/shim.h"

/* The only symbols we ask of the C library. Weak: glibc has the first, musl
   the second, and without either children are served without a mover. */
extern int __register_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void),
			     void *owner) __attribute__((weak));
extern int pthread_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void))
	__attribute__((weak));

/*
 * Which child this is, by the agent's word: the page is empty and registered,
 * so the first read of it asks. 0: it doesn't know, or has left us.
 */
static uint64_t read_nonce(void)
{
	const uint64_t *page = (const void *)(shim.identity + WIRE_PAGE);

	return __atomic_load_n(page, __ATOMIC_ACQUIRE);
}

/* Filters that have come since it attached may kill for what we do (shim.c). */
static int has_new_filters(void)
{
	if (!shim.filters)
		return sys_prctl(PR_GET_SECCOMP, 0, 0) != 0;
	return shim_filters("/proc/self/status") != shim.filters;
}

static void attach_child(uint64_t nonce)
{
	struct outcome ignored = { .step = NULL };
	sys_sigset old = sys_sigmask(SYS_SIGSET_ALL);

	/* The handler of a signal may have forked meanwhile, and this be its child. */
	if (nonce == read_nonce() && !has_new_filters())
		attach(WIRE_CHILD, nonce, &ignored);
	sys_sigmask(old);
}

/* No nonce, no system call: the agent knows of filters that could kill for one. */
static void in_child(void)
{
	uint64_t nonce;

	if (!shim.attached)
		return;
	shim.attached = 0; /* the copy says so of the parent */
	shim.turn = TURN_FREE;
	nonce = read_nonce();
	if (nonce)
		attach_child(nonce);
}

void fork_watch(void)
{
	/* The owner's address only has to be nobody else's (glibc drops the
	   handlers of an object that is unloaded; this one never is). */
	if (__register_atfork)
		__register_atfork(NULL, NULL, in_child, &shim);
	else if (pthread_atfork)
		pthread_atfork(NULL, NULL, in_child);
}
