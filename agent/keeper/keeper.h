/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * keeper: the process that is the agent to the outside (its pid is the
 * service's) and does nothing but to have a worker, in a table of descriptors
 * that both share. When the worker dies, every descriptor is still there, also
 * a fork child's that arrived an instant before; a new worker takes over.
 *
 * What a worker finds: the descriptors, their names and the kept memory
 * (common/kept.h). Everything else was the dead worker's own.
 *
 * It waits for signals and nothing else; it allocates nothing, opens nothing,
 * and talks to nobody.
 *
 * For the death of both there is the holder, a third process in the same table, which
 * does nothing but to wait for that. Then it has what they have just read and not given
 * away yet, gives it away, and ends. The service manager must wait for it: SIGTERM does
 * not reach it.
 */
#ifndef USWAP_KEEPER_H
#define USWAP_KEEPER_H

#include <stdbool.h>
#include <sys/types.h>

struct keeper_life {
	unsigned deaths;   /* of workers before this one */
	unsigned in_a_row; /* of them, the last ones that were young and not killed from
			      outside: what they found may be what kills */
};

/* A worker's exit status: it could not take over (no memory, a store that is not
   there); another one is to try, after a pause. */
#define KEEPER_AGAIN 75

/* What a worker does with its life, and its exit status. Signals are blocked, but
   for those that kill. */
typedef int (*keeper_worker_fn)(void *arg, const struct keeper_life *life);

/* What the holder does when keeper and worker are dead, whatever they died of. */
typedef void (*keeper_hand_over_fn)(void *arg);

/*
 * Runs workers until one ends by itself; returns its status. A death by a signal
 * brings a new one, as does KEEPER_AGAIN. SIGTERM, SIGINT and SIGHUP are passed on; a new
 * worker is told again to stop. Single-threaded, with all signals blocked. hand_over NULL:
 * no holder. Where there is one, a worker must not outlive the keeper.
 *
 * Where the kernel doesn't say where the C library keeps its thread's id
 * (PR_GET_TID_ADDRESS), there is no keeper: the worker runs in this process.
 */
int keeper_run(keeper_worker_fn worker, keeper_hand_over_fn hand_over, void *arg);

/* In a worker: it serves, so what it found was good. */
void keeper_settled(void);
/* In a worker: is there a keeper still? */
bool keeper_is_there(void);
/* In a worker: the service's pid. */
pid_t keeper_pid(void);

#endif
