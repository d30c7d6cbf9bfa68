/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "control/control.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/kept.h"
#include "common/log.h"
#include "common/util.h"
#include "control/private.h"

/* Signals that a user who doesn't read may let pile up, over all of his connections (root's
   are not counted). Of answers, which are large, peer.c keeps one for each. */
#define UNREAD_MAX 4096
#define UNREAD_FEW 64 /* of nobody too many */
/* ... and the message bus: twice what all programs together are news for at once. */
#define UNREAD_BUS_MAX 32768

struct control *control_new(sd_event *event, const struct settings *settings,
			    const struct control_hooks *hooks)
{
	struct control *control = calloc(1, sizeof(*control));

	if (!control)
		return NULL;
	*control = (struct control){ .event = sd_event_ref(event),
				     .settings = settings,
				     .hooks = *hooks };
	return control;
}

/* Until there is nothing more: one message at a time, with the others' between them, or who
   never stops sending would be the only one who is heard. */
static int on_look_again(sd_event_source *source, void *userdata)
{
	struct endpoint *endpoint = userdata;
	struct control *control = endpoint->control;
	sd_bus *bus = sd_bus_ref(endpoint->bus); /* processing may end the endpoint */
	bool more;

	endpoint->look_again = sd_event_source_unref(source);
	more = sd_bus_process(bus, NULL) > 0;
	if (more && endpoint_find(control, bus) == endpoint)
		endpoint_look_again(endpoint);
	sd_bus_unref(bus);
	return 0;
}

/* With a source of its own each time: sd-event takes the one that has been pending for
   longest, and one that is set again counts from its first time. */
void endpoint_look_again(struct endpoint *endpoint)
{
	if (!endpoint->look_again &&
	    sd_event_add_defer(endpoint->control->event, &endpoint->look_again, on_look_again, endpoint) < 0)
		log_debug("a client may wait for its answer until it sends more");
}

/* What sd-bus has read and not processed it only comes back to by a timer, which it sets
   anew in every round: in one that others are always ready in, never. */
static int on_round(sd_event_source *source, void *userdata)
{
	const struct control *control = userdata;
	uint64_t n;

	for (struct endpoint *e = control->endpoints; e; e = e->next) {
		if (sd_bus_get_n_queued_read(e->bus, &n) >= 0 && n)
			endpoint_look_again(e);
		peer_go_on(e);
	}
	return 0;
}

int control_start(struct control *control, struct engine *engine, const char *path, int fd)
{
	int r;

	assert(!control->engine);
	control->engine = engine;
	r = sd_event_add_post(control->event, &control->round, on_round, control);
	if (r < 0) /* nobody would hear a second call */
		log_error("%s: %s", path, strerror(-r));
	else
		r = peer_start(control, path, fd);
	bus_start(control);
	return r;
}

struct control *control_free(struct control *control)
{
	if (!control)
		return NULL;
	control->engine = NULL;
	order_cancel_all(control);
	kept_forget_fd(CONTROL_SOCKET_KEPT);
	sd_event_source_disable_unref(control->taken);
	sd_event_source_disable_unref(control->round);
	listener_free(control->listener);
	bus_stop(control);
	while (control->endpoints)
		endpoint_free(control->endpoints);
	sd_event_unref(control->event);
	free(control);
	return NULL;
}

static int on_disconnected(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
	struct endpoint *endpoint = userdata;
	struct control *control = endpoint->control;
	bool peer = endpoint->peer;

	endpoint_free(endpoint);
	if (!peer)
		bus_lost(control);
	return 0;
}

static bool is_unread(const struct endpoint *e, uint64_t max)
{
	uint64_t unread;

	return sd_bus_get_n_queued_write(e->bus, &unread) >= 0 && unread > max;
}

/* What is for each of a user's connections. */
static uint64_t share_of_unread(const struct endpoint *one)
{
	uint64_t same = 0;

	for (const struct endpoint *e = one->control->endpoints; e; e = e->next)
		same += e->peer && e->uid == one->uid;
	return one->uid == 0 ? UNREAD_MAX : UNREAD_MAX / MAX(same, 1u);
}

static void drop_unread(struct endpoint *e)
{
	static struct log_limit limit;

	log_limited(&limit, LOG_LEVEL_WARNING, "a client of uid %u at control.sock doesn't read: dropped", (unsigned)e->uid);
	endpoint_free(e);
}

static int add_objects(struct endpoint *endpoint)
{
	struct control *control = endpoint->control;
	sd_bus *bus = endpoint->bus;
	int r;

	r = sd_bus_add_fallback_vtable(bus, NULL, MANAGER_PATH, MANAGER_INTERFACE, manager_vtable,
				       manager_find, control);
	if (r >= 0)
		r = sd_bus_add_fallback_vtable(bus, NULL, PROCESS_PREFIX, PROCESS_INTERFACE,
					       process_vtable, process_find, control);
	if (r >= 0)
		r = sd_bus_add_node_enumerator(bus, NULL, PROCESS_PREFIX, process_enumerate,
					       control);
	if (r >= 0)
		r = sd_bus_add_object_manager(bus, NULL, MANAGER_PATH);
	if (r >= 0)
		r = sd_bus_add_object_vtable(bus, NULL, "/org/freedesktop/LogControl1",
					     "org.freedesktop.LogControl1", logcontrol_vtable,
					     control);
	if (r >= 0)
		r = sd_bus_match_signal(bus, NULL, "org.freedesktop.DBus.Local",
					"/org/freedesktop/DBus/Local", "org.freedesktop.DBus.Local",
					"Disconnected", on_disconnected, endpoint);
	if (r >= 0)
		r = sd_bus_attach_event(bus, control->event, SD_EVENT_PRIORITY_NORMAL);
	return r;
}

struct endpoint *endpoint_new(struct control *control, sd_bus *bus, bool peer, uid_t uid)
{
	struct endpoint *endpoint = calloc(1, sizeof(*endpoint));
	int r;

	if (!endpoint) {
		sd_bus_close_unref(bus);
		errno = ENOMEM;
		return NULL;
	}
	*endpoint = (struct endpoint){
		.control = control, .next = control->endpoints, .bus = bus, .peer = peer, .uid = uid, .near = -1
	};
	control->endpoints = endpoint;
	r = add_objects(endpoint);
	if (r < 0) {
		endpoint_free(endpoint);
		errno = -r;
		return NULL;
	}
	return endpoint;
}

void endpoint_free(struct endpoint *endpoint)
{
	struct endpoint **p = &endpoint->control->endpoints;

	while (*p != endpoint)
		p = &(*p)->next;
	*p = endpoint->next;
	sd_event_source_disable_unref(endpoint->look_again);
	sd_event_source_disable_unref(endpoint->input);
	safe_close(endpoint->near);
	sd_bus_detach_event(endpoint->bus);
	sd_bus_close_unref(endpoint->bus);
	free(endpoint);
}

struct endpoint *endpoint_find(struct control *control, sd_bus *bus)
{
	struct endpoint *e = control->endpoints;

	while (e && e->bus != bus)
		e = e->next;
	return e;
}

typedef int (*emit_fn)(sd_bus *bus, const char *path, const void *arg);

/* To all that are connected; those who don't read are dropped. */
static void broadcast(struct control *control, emit_fn emit, const char *path, const void *arg)
{
	struct endpoint *e, *next;

	for (e = control->endpoints; e; e = next) {
		next = e->next;
		if (sd_bus_is_ready(e->bus) <= 0)
			continue;
		if (!is_unread(e, UNREAD_FEW) || !is_unread(e, e->peer ? share_of_unread(e) : UNREAD_BUS_MAX))
			emit(e->bus, path, arg);
		else if (e->peer)
			drop_unread(e);
		else
			bus_hangs(control);
	}
}

static int emit_added(sd_bus *bus, const char *path, const void *arg)
{
	return sd_bus_emit_interfaces_added(bus, path, PROCESS_INTERFACE, NULL);
}

static int emit_removed(sd_bus *bus, const char *path, const void *arg)
{
	return sd_bus_emit_interfaces_removed(bus, path, PROCESS_INTERFACE, NULL);
}

static int emit_process(sd_bus *bus, const char *path, const void *arg)
{
	return sd_bus_emit_properties_changed(bus, path, PROCESS_INTERFACE, "PID", "Command",
					      "State", "Reason", "EvictionEnabled", NULL);
}

static int emit_policy(sd_bus *bus, const char *path, const void *arg)
{
	return sd_bus_emit_properties_changed(bus, path, MANAGER_INTERFACE, "ScanUSec", "GraceUSec",
					      "StallBudget", "MinResidentBytes", "StartDelayUSec",
					      "LimitBytes", "LimitShare", NULL);
}

struct property {
	const char *interface, *name;
};

static int emit_property(sd_bus *bus, const char *path, const void *arg)
{
	const struct property *p = arg;

	return sd_bus_emit_properties_changed(bus, path, p->interface, p->name, NULL);
}

void control_property_changed(struct control *control, const char *path, const char *interface,
			      const char *name)
{
	const struct property p = { .interface = interface, .name = name };

	broadcast(control, emit_property, path, &p);
}

static void manager_changed(struct control *control, const char *name)
{
	control_property_changed(control, MANAGER_PATH, MANAGER_INTERFACE, name);
}

void control_process_new(struct control *control, uint64_t id)
{
	char path[PROCESS_PATH_MAX];

	broadcast(control, emit_added, process_path(path, id), NULL);
	manager_changed(control, "NProcesses");
}

void control_process_gone(struct control *control, uint64_t id)
{
	char path[PROCESS_PATH_MAX];

	broadcast(control, emit_removed, process_path(path, id), NULL);
	manager_changed(control, "NProcesses");
}

void control_process_changed(struct control *control, uint64_t id)
{
	char path[PROCESS_PATH_MAX];

	broadcast(control, emit_process, process_path(path, id), NULL);
}

void control_set_state(struct control *control, enum control_state state)
{
	if (control->state == state)
		return;
	control->state = state;
	manager_changed(control, "State");
}

void control_drained(struct control *control)
{
	order_drained(control);
}

void control_reloaded(struct control *control)
{
	broadcast(control, emit_policy, MANAGER_PATH, NULL);
}
