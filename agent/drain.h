/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * drain: the agent's ordinary end. Every page of every program is restored,
 * the programs are let go, and the event loop is left. It doesn't begin while
 * the machine has no memory for all those pages: programs would be killed for
 * want of it. Progress goes to the service manager, whose patience is extended
 * as long as there is any.
 *
 * Threads: the control thread.
 */
#ifndef USWAP_DRAIN_H
#define USWAP_DRAIN_H

#include <stdbool.h>
#include <stdint.h>
#include <systemd/sd-event.h>

struct control;
struct engine;

struct drain {
	sd_event *event;
	struct engine *engine;
	struct control *control;
	void (*begun)(void *ctx); /* no more programs are let in */
	void (*leave)(void *ctx); /* ends this process, with the programs waiting */
	void *ctx;
	/* private to drain.c */
	sd_event_source *timer;
	bool wanted;	   /* it begins as soon as there is memory */
	uint64_t leave_ns; /* ... and is given up then; 0: never */
	bool under_way;
	uint64_t left;	   /* evicted bytes, at the last tick */
	uint64_t moved_ns; /* when that last became less */
};

#define DRAIN_MESSAGE 512 /* as CONTROL_MESSAGE */

/* Begins, or goes on. 0, or -ENOMEM and what is missing; nothing has changed then. */
int drain_start(struct drain *drain, char *message);
/*
 * SIGTERM: begins now or, having said what is missing, when there is memory; the
 * service manager waits as long. When the machine goes down, programs that wait for
 * their pages are killed in the end whatever we do: so those that the manager knows
 * are served while it ends them, and then the rest is left.
 */
void drain_when_possible(struct drain *drain, bool going_down);
/* Begins when there is nothing to be drained. */
void drain_if_idle(struct drain *drain);
/* The engine has restored everything: leaves the loop. */
void drain_done(struct drain *drain);
void drain_deinit(struct drain *drain);

#endif
