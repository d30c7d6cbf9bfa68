/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * listener: a listening Unix socket in an event loop. Makes it (or takes one
 * that was passed in), accepts, and pauses when descriptors have run out
 * instead of spinning. Threads: that of the event loop.
 */
#ifndef USWAP_CONTROL_LISTENER_H
#define USWAP_CONTROL_LISTENER_H

#include <systemd/sd-event.h>

struct listener;

/* fd becomes the callee's. */
typedef void (*listener_accept_fn)(void *ctx, int fd);

/*
 * Binds a socket of type (SOCK_STREAM, SOCK_SEQPACKET) at path, for everybody
 * to connect to. The directory is made when it is missing; what is at path is
 * replaced only if it is a socket on which nobody listens. Returns a
 * descriptor, or negative errno: -EADDRINUSE somebody answers there, -EEXIST
 * there is something else than a socket.
 */
int listener_bind(const char *path, int type);

/* fd becomes the listener's, in any case. unlink_path: removed in the end, or
   NULL. NULL and errno. */
struct listener *listener_new(sd_event *event, int fd, const char *unlink_path,
			      listener_accept_fn accept, void *ctx);
struct listener *listener_free(struct listener *listener);

#endif
