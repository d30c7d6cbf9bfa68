/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * control.sock: D-Bus without a bus. Everybody may connect and read, so what
 * one user can take of our descriptors and memory is bounded.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <systemd/sd-id128.h>

#include "common/kept.h"
#include "common/log.h"
#include "common/reaper.h"
#include "common/util.h"
#include "control/private.h"

#define PEERS_MAX 256
#define PEERS_PER_USER 8
/* An agent before us may be dying: until then nobody can ask us. */
#define TAKEN_USEC 1000000

/* Root is never locked out by the others. */
static bool room_for(const struct control *control, uid_t uid)
{
	unsigned all = 0, same = 0;

	for (const struct endpoint *e = control->endpoints; e; e = e->next) {
		if (!e->peer || e->uid == 0)
			continue;
		all++;
		same += e->uid == uid;
	}
	return uid == 0 || (all < PEERS_MAX && same < PEERS_PER_USER);
}

static int on_connected(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
	endpoint_look_again(userdata);
	return 0;
}

static int look_when_connected(struct endpoint *endpoint)
{
	return sd_bus_match_signal(endpoint->bus, NULL, "org.freedesktop.DBus.Local",
				   "/org/freedesktop/DBus/Local", "org.freedesktop.DBus.Local",
				   "Connected", on_connected, endpoint);
}

/* fd becomes the bus's, in any case. */
static int open_peer(int fd, sd_bus **bus)
{
	sd_id128_t id;
	int r = sd_id128_randomize(&id);

	if (r >= 0)
		r = sd_bus_new(bus);
	if (r >= 0)
		r = sd_bus_set_description(*bus, "peer");
	if (r >= 0)
		r = sd_bus_set_fd(*bus, fd, fd);
	if (r < 0) {
		close(fd);
		return r;
	}
	r = sd_bus_set_server(*bus, true, id);
	if (r >= 0)
		r = sd_bus_set_sender(*bus, BUS_NAME);
	if (r >= 0)
		r = sd_bus_set_connected_signal(*bus, true);
	return r < 0 ? r : sd_bus_start(*bus);
}

/* By the words that D-Bus has for who is not let in: hung up on without any, a client takes
   us for dead. sd-bus looks at none of them before there is one for each line it sends. */
static void turn_away(int fd)
{
	static const char words[] = "REJECTED\r\nERROR\r\nERROR\r\n";

	(void)send(fd, words, sizeof(words) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
	reaper_close(fd);
}

static void on_peer(void *ctx, int fd)
{
	struct control *control = ctx;
	struct endpoint *endpoint;
	sd_bus *bus = NULL;
	struct ucred cred;
	socklen_t size = sizeof(cred);
	int r;

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &size) < 0 ||
	    !room_for(control, cred.uid)) {
		turn_away(fd);
		return;
	}
	r = open_peer(fd, &bus);
	if (r < 0) {
		sd_bus_unref(bus);
	} else {
		endpoint = endpoint_new(control, bus, true, cred.uid);
		r = endpoint ? look_when_connected(endpoint) : -errno;
	}
	if (r < 0)
		log_debug("a connection to control.sock failed: %s", strerror(-r));
}

static int listen_on(struct control *control, int fd, const char *unlink_path)
{
	control->listener = listener_new(control->event, fd, unlink_path, on_peer, control);
	return control->listener ? 0 : -errno;
}

static int listen_here(struct control *control)
{
	/* A worker before us may have made it. */
	int fd = kept_fd(CONTROL_SOCKET_KEPT);

	if (fd < 0)
		fd = listener_bind(control->path, SOCK_STREAM);
	if (fd < 0)
		return fd;
	(void)kept_set_fd(CONTROL_SOCKET_KEPT, fd);
	return listen_on(control, fd, control->path);
}

static int on_taken(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct control *control = userdata;
	int r = listen_here(control);

	if (r < 0 && sd_event_source_set_time_relative(source, TAKEN_USEC) >= 0)
		return sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
	control->taken = sd_event_source_disable_unref(source);
	return 0;
}

int peer_start(struct control *control, const char *path, int fd)
{
	int r;

	control->path = path;
	if (fd >= 0)
		return listen_on(control, fd, NULL);
	r = listen_here(control);
	if (r < 0) {
		log_error("%s: %s", path, strerror(-r));
		(void)sd_event_add_time_relative(control->event, &control->taken, CLOCK_MONOTONIC, TAKEN_USEC, 0,
						 on_taken, control);
	}
	return r;
}
