/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of control/ share. */
#ifndef USWAP_CONTROL_PRIVATE_H
/* The name of control.sock, for a worker after us. */
#define CONTROL_SOCKET_KEPT "control.own"
#define USWAP_CONTROL_PRIVATE_H

#include <stdbool.h>
#include <sys/types.h>
#include <systemd/sd-bus.h>
#include <systemd/sd-event.h>

#include "control/control.h"
#include "control/listener.h"

#define BUS_NAME "org.uswap1"
#define MANAGER_PATH "/org/uswap1"
#define MANAGER_INTERFACE "org.uswap1.Manager"
#define PROCESS_PREFIX "/org/uswap1/process"
#define PROCESS_INTERFACE "org.uswap1.Process"
#define PROCESS_PATH_MAX 64

#define ERROR_NO_SUCH_PROCESS "org.uswap1.NoSuchProcess"
#define ERROR_STORE_FULL "org.uswap1.StoreFull"
#define ERROR_BUSY "org.uswap1.Busy"
#define ERROR_STOPPING "org.uswap1.Stopping"
#define ERROR_CONFIG "org.uswap1.BadConfiguration"
#define ERROR_NO_MEMORY "org.uswap1.NoMemory"

/*
 * What the property tables point into: filled by the find function once per
 * call, so that one GetAll is one snapshot.
 */
struct manager_view {
	struct control *control; /* first: userdata of methods */
	const char *version;
	const char *state;
	struct settings_policy policy;
	struct engine_stats stats;
};

struct process_view {
	struct control *control;
	const char *state;
	struct engine_process process;
};

/* What a peer has sent, as far as it is with its sd-bus. */
struct peer_input {
	unsigned lines;		/* of the handshake */
	unsigned char head[16]; /* of the next message */
	unsigned nr_head;
	uint32_t rest; /* of the message under way */
};

/* One connection: the bus, or somebody at control.sock. */
struct endpoint {
	struct control *control;
	struct endpoint *next;
	sd_bus *bus;
	bool peer; /* at control.sock */
	uid_t uid; /* of the peer */
	sd_event_source *look_again;
	sd_event_source *input; /* of a peer; what is looked at goes into near, which sd-bus reads from */
	int near;
	bool held; /* input is off */
	struct peer_input in;
};

/* A call that waits for the engine. */
struct order {
	struct control *control;
	struct order *next;
	sd_bus_message *call;
	enum engine_order kind;
	bool drain;	 /* for the end, not for an order of the engine */
	bool verify;	 /* for engine_verify */
	uint64_t before; /* drain: evicted bytes when it began */
};

struct order *order_new(struct control *control, sd_bus_message *call);
void order_free(struct order *order);
/* Answers with an error, and frees. */
void order_finish_failed(struct order *order, int status);
/* verify.c */
int verify_start(struct control *control, sd_bus_message *call, sd_bus_error *error);

struct control {
	sd_event *event;
	struct engine *engine; /* NULL after engine_free */
	const struct settings *settings;
	struct control_hooks hooks;
	enum control_state state;

	struct endpoint *endpoints;
	struct order *orders;

	struct listener *listener; /* control.sock */
	const char *path;	   /* ... and where it is */
	sd_event_source *round;	   /* after each of the loop's */
	sd_event_source *taken;	   /* control.sock: the next try, while somebody else has it */
	sd_event_source *retry;	   /* bus: the next try to connect */
	sd_bus_slot *name_slot;	   /* bus: RequestName under way */
	bool bus_complained;	   /* bus: said once that it isn't there */

	struct manager_view manager;
	struct process_view process;
};

/* control.c */
/* bus becomes the endpoint's, in any case. NULL and errno. */
struct endpoint *endpoint_new(struct control *control, sd_bus *bus, bool peer, uid_t uid);
void endpoint_free(struct endpoint *endpoint);
/* At what its sd-bus has read and not processed. */
void endpoint_look_again(struct endpoint *endpoint);
struct endpoint *endpoint_find(struct control *control, sd_bus *bus);
/* One property, to all connections; sd-bus doesn't do it after a Set. */
void control_property_changed(struct control *control, const char *path, const char *interface,
			      const char *name);

/* bus.c, peer.c */
void bus_start(struct control *control);
void bus_stop(struct control *control);
/* The endpoint is gone; for the bus: connect again later. */
void bus_lost(struct control *control);
/* It doesn't read: the endpoint goes, as above. */
void bus_hangs(struct control *control);
/* It may be done by now with what it had of a peer's. */
void peer_go_on(struct endpoint *endpoint);
int peer_start(struct control *control, const char *path, int fd);

/* access.c: 0, or a negative errno with error set. */
int access_check(struct control *control, sd_bus_message *m, sd_bus_error *error);

/* order.c */
int order_start(struct control *control, sd_bus_message *call, enum engine_order kind, uint64_t id,
		uint64_t bytes, sd_bus_error *error);
/* Begins to stop the agent; answered by order_drained. */
int order_drain(struct control *control, sd_bus_message *call, bool leave, sd_bus_error *error);
void order_drained(struct control *control);
/* A negative errno of the engine's as one of ours; returns it. */
int order_error(int status, sd_bus_error *error);
/* Skips a{sv}; there are no options yet, so each is an error. */
int order_read_options(sd_bus_message *m, sd_bus_error *error);
/* ... of Drain */
int order_read_drain_options(sd_bus_message *m, bool *leave, sd_bus_error *error);
/* Answers all that still wait; the engine is gone. */
void order_cancel_all(struct control *control);

/* properties.c: getters that both interfaces use; userdata is the field. Setters begin with
   the first, if the caller may, and return the second, once the engine has had the value:
   0, or a negative errno with error set. */
int property_read(struct control *control, sd_bus_message *value, char type, void *into,
		  sd_bus_error *error);
int property_set(struct control *control, const char *path, const char *interface,
		 const char *property, int status, sd_bus_error *error);
int get_usec(sd_bus *bus, const char *path, const char *interface, const char *property,
	     sd_bus_message *reply, void *userdata, sd_bus_error *error);
int get_text(sd_bus *bus, const char *path, const char *interface, const char *property,
	     sd_bus_message *reply, void *userdata, sd_bus_error *error);
int get_histogram(sd_bus *bus, const char *path, const char *interface, const char *property,
		  sd_bus_message *reply, void *userdata, sd_bus_error *error);
/* text with what isn't UTF-8, or not printable, replaced by '?'. */
int append_text(sd_bus_message *m, const char *text);
/* "name" and a variant, as an entry of a{sv}. */
int append_entry(sd_bus_message *m, const char *name, const char *type, const void *value);

/* manager.c, process.c, logcontrol.c */
extern const sd_bus_vtable manager_vtable[];
extern const sd_bus_vtable process_vtable[];
extern const sd_bus_vtable logcontrol_vtable[];
int manager_find(sd_bus *bus, const char *path, const char *interface, void *userdata,
		 void **found, sd_bus_error *error);
int process_find(sd_bus *bus, const char *path, const char *interface, void *userdata,
		 void **found, sd_bus_error *error);
int process_enumerate(sd_bus *bus, const char *prefix, void *userdata, char ***nodes,
		      sd_bus_error *error);
const char *process_path(char path[PROCESS_PATH_MAX], uint64_t id);
const char *process_state_name(enum engine_process_state state);
/* All processes; the caller frees *v. Negative errno or how many. */
ssize_t process_snapshot(struct engine *engine, struct engine_process **v);

#endif
