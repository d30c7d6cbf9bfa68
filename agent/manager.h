/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * manager: what the service manager wants of us when it says SIGTERM. A restart
 * and a stop look alike; only its job tells. Threads: the control thread, which
 * may wait a moment for the bus: faults are answered meanwhile.
 */
#ifndef USWAP_MANAGER_H
#define USWAP_MANAGER_H

#include <stdbool.h>
#include <sys/types.h>

enum manager_job {
	MANAGER_UNKNOWN, /* there is none, or it doesn't say */
	MANAGER_STOP,
	MANAGER_SHUTDOWN, /* a stop, since all of the machine stops */
	MANAGER_RESTART,
};

/* pid: the service's main process. */
enum manager_job manager_job(pid_t pid);
/* What it has kept for us, it keeps while we are stopped. */
bool manager_keeps_stopped(pid_t pid);

#endif
