/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * control: the D-Bus service org.uswap1. The same objects on the message bus
 * and on every connection to control.sock, which needs no bus:
 *
 *   /org/uswap1                      org.uswap1.Manager, ObjectManager
 *   /org/uswap1/process/_ID          org.uswap1.Process
 *   /org/freedesktop/LogControl1     org.freedesktop.LogControl1
 *
 * Everybody may read; acting needs root, the agent's own user or
 * CAP_SYS_ADMIN (access.c). A bus that isn't there is tried again every few
 * seconds. Threads: all of it belongs to the control thread.
 */
#ifndef USWAP_CONTROL_H
#define USWAP_CONTROL_H

#include <stddef.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "engine/engine.h"

struct control;

#define CONTROL_MESSAGE 512

struct control_hooks {
	/* Reads the configuration again. 0, or negative errno and what is
	   wrong (CONTROL_MESSAGE bytes). */
	int (*reload)(void *ctx, char *message);
	/* Begins to stop; control_drained() when all is restored. leave: ends at once,
	   and leaves all as it is to the next agent. 0, or negative errno and why not
	   (CONTROL_MESSAGE bytes). */
	int (*drain)(void *ctx, bool leave, char *message);
	void *ctx;
};

enum control_state {
	CONTROL_RUNNING,
	CONTROL_DRAINING,
};

/* settings stay the caller's, who may change them before control_reloaded().
   NULL and errno. */
struct control *control_new(sd_event *event, const struct settings *settings,
			    const struct control_hooks *hooks);
/*
 * Opens for callers: control.sock at path (or on fd, a listening socket that
 * becomes control's, if fd is not negative) and the bus. path stays the
 * caller's. 0 or negative errno, after logging why; a socket that can't be made
 * is tried again each second, a bus that doesn't answer is no error.
 */
int control_start(struct control *control, struct engine *engine, const char *path, int fd);
/* After engine_free(). Calls still waiting are answered with Stopping. */
struct control *control_free(struct control *control);

/* News, to be signalled on all connections. */
void control_process_new(struct control *control, uint64_t id);
void control_process_gone(struct control *control, uint64_t id);
void control_process_changed(struct control *control, uint64_t id);
void control_set_state(struct control *control, enum control_state state);
void control_reloaded(struct control *control);
/* Everything is restored: answers those who wait for it. */
void control_drained(struct control *control);

#endif
