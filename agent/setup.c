/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent/setup.h"

#include <errno.h>
#include <linux/capability.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/log.h"

void setup_signals(void)
{
	static const int open_signals[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP,
					    SIGSYS };
	sigset_t mask;

	sigfillset(&mask);
	for (size_t i = 0; i < sizeof(open_signals) / sizeof(open_signals[0]); i++)
		sigdelset(&mask, open_signals[i]);
	sigprocmask(SIG_SETMASK, &mask, NULL);
	signal(SIGPIPE, SIG_IGN);
}

bool setup_has_capability(int capability)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

	if (syscall(SYS_capget, &header, data) < 0)
		return false;
	return data[CAP_TO_INDEX(capability)].effective & CAP_TO_MASK(capability);
}

bool setup_may_lock(void)
{
	struct rlimit limit;

	return setup_has_capability(CAP_IPC_LOCK) ||
	       (getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_max == RLIM_INFINITY);
}

static void raise_limit(int resource, const char *name)
{
	struct rlimit limit;

	if (getrlimit(resource, &limit) < 0 || limit.rlim_cur == limit.rlim_max)
		return;
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(resource, &limit) < 0)
		log_warning("%s can't be raised: %s", name, strerror(errno));
}

static void forbid_core(void)
{
	/* One byte, not none: the kernel pipes a core of a process with limit 0
	   to a handler such as systemd-coredump, but not one with limit 1. */
	struct rlimit limit = { .rlim_cur = 1, .rlim_max = 1 };
	struct rlimit old;

	if (setrlimit(RLIMIT_CORE, &limit) == 0)
		return;
	if (getrlimit(RLIMIT_CORE, &old) == 0 && old.rlim_max == 0)
		return; /* LimitCORE=0; raising it to 1 isn't allowed */
	limit.rlim_cur = limit.rlim_max = 0;
	if (setrlimit(RLIMIT_CORE, &limit) < 0)
		log_warning("core dumps can't be switched off: %s", strerror(errno));
}

/* jemalloc's; MALLOC_CONF in the environment comes on top of it. What is free goes back by
   munmap: madvise refuses to take what is locked, so the most that was ever used would stay. */
extern const char *malloc_conf;
const char *malloc_conf = "retain:false";

void setup_limits(void)
{
	forbid_core();
	raise_limit(RLIMIT_NOFILE, "the limit of descriptors");
	raise_limit(RLIMIT_MEMLOCK, "the limit of locked memory");
	/* With a limit, MCL_FUTURE would let allocations fail later on. */
	if (!setup_may_lock())
		log_warning("the agent's memory is not locked (LimitMEMLOCK=infinity or "
			    "CAP_IPC_LOCK is missing): under memory pressure its answers may wait "
			    "for swap");
	else if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) < 0)
		log_warning("the agent's memory can't be locked: %s", strerror(errno));
}
