/* SPDX-License-Identifier: GPL-2.0-or-later */
/* org.uswap1.Process; described in contrib/dbus/org.uswap1.Process.xml. */
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/util.h"
#include "control/private.h"

static const char *const state_names[] = {
	[ENGINE_PROCESS_ACTIVE] = "active",	  [ENGINE_PROCESS_SERVED] = "served",
	[ENGINE_PROCESS_PAUSED] = "paused",	  [ENGINE_PROCESS_RESTORING] = "restoring",
	[ENGINE_PROCESS_LEFT] = "left",
};

const char *process_state_name(enum engine_process_state state)
{
	assert((size_t)state < ARRAY_SIZE(state_names));
	return state_names[state];
}

/* An element may not begin with a digit for all clients: "_7". */
const char *process_path(char path[PROCESS_PATH_MAX], uint64_t id)
{
	snprintf(path, PROCESS_PATH_MAX, PROCESS_PREFIX "/_%" PRIu64, id);
	return path;
}

/* Only the canonical spelling: one object has one path. */
static bool parse_path(const char *path, uint64_t *id)
{
	char canonical[PROCESS_PATH_MAX];

	if (sscanf(path, PROCESS_PREFIX "/_%20" SCNu64, id) != 1)
		return false;
	return strcmp(path, process_path(canonical, *id)) == 0;
}

int process_find(sd_bus *bus, const char *path, const char *interface, void *userdata,
		 void **found, sd_bus_error *error)
{
	struct control *control = userdata;
	struct process_view *view = &control->process;
	uint64_t id;

	if (!parse_path(path, &id) || !control->engine ||
	    engine_get_process(control->engine, id, &view->process) < 0)
		return 0;
	view->control = control;
	view->state = process_state_name(view->process.state);
	*found = view;
	return 1;
}

ssize_t process_snapshot(struct engine *engine, struct engine_process **v)
{
	size_t room = engine_get_processes(engine, NULL, 0);
	size_t n;

	*v = calloc(room ? room : 1, sizeof(**v));
	if (!*v)
		return -ENOMEM;
	n = engine_get_processes(engine, *v, room);
	return (ssize_t)MIN(n, room);
}

int process_enumerate(sd_bus *bus, const char *prefix, void *userdata, char ***nodes,
		      sd_bus_error *error)
{
	struct control *control = userdata;
	_cleanup_free_ struct engine_process *v = NULL;
	ssize_t n = control->engine ? process_snapshot(control->engine, &v) : 0;
	char path[PROCESS_PATH_MAX];
	char **list;

	if (n < 0)
		return (int)n;
	list = calloc((size_t)n + 1, sizeof(*list));
	if (!list)
		return -ENOMEM;
	for (ssize_t i = 0; i < n; i++) {
		list[i] = strdup(process_path(path, v[i].id));
		if (list[i])
			continue;
		while (i-- > 0)
			free(list[i]);
		free(list);
		return -ENOMEM;
	}
	*nodes = list; /* freed by sd-bus */
	return 1;
}

static int get_pid(sd_bus *bus, const char *path, const char *interface, const char *property,
		   sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
	return sd_bus_message_append(reply, "u", (uint32_t) * (const pid_t *)userdata);
}

static int get_enabled(sd_bus *bus, const char *path, const char *interface, const char *property,
		       sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
	const struct process_view *view = userdata;

	return sd_bus_message_append(reply, "b", view->process.state != ENGINE_PROCESS_PAUSED);
}

static int set_enabled(sd_bus *bus, const char *path, const char *interface, const char *property,
		       sd_bus_message *value, void *userdata, sd_bus_error *error)
{
	const struct process_view *view = userdata;
	struct control *control = view->control;
	uint64_t id = view->process.id;
	int enabled, r = property_read(control, value, SD_BUS_TYPE_BOOLEAN, &enabled, error);

	return r < 0 ? r : property_set(control, path, interface, property,
					engine_set_enabled(control->engine, id, enabled), error);
}

static int set_limit(sd_bus *bus, const char *path, const char *interface, const char *property,
		     sd_bus_message *value, void *userdata, sd_bus_error *error)
{
	struct process_view *view =
		CONTAINER_OF(userdata, struct process_view, process.limit_bytes);
	struct control *control = view->control;
	uint64_t id = view->process.id;
	uint64_t bytes;
	int r = property_read(control, value, SD_BUS_TYPE_UINT64, &bytes, error);

	return r < 0 ? r : property_set(control, path, interface, property,
					engine_set_limit(control->engine, id, bytes), error);
}

static int evict(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
	const struct process_view *view = userdata;
	uint64_t id = view->process.id;
	uint64_t bytes;
	int r;

	r = sd_bus_message_read(m, "t", &bytes);
	if (r >= 0)
		r = order_read_options(m, error);
	return r < 0 ? r : order_start(view->control, m, ENGINE_EVICT, id, bytes, error);
}

static int restore(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
	const struct process_view *view = userdata;
	int r = order_read_options(m, error);

	return r < 0 ? r :
		       order_start(view->control, m, ENGINE_RESTORE, view->process.id, 0, error);
}

static int detach(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
	const struct process_view *view = userdata;

	return order_start(view->control, m, ENGINE_DETACH, view->process.id, 0, error);
}

#define OFFSET(member) offsetof(struct process_view, member)
#define CONST(name, type, get, member) \
	SD_BUS_PROPERTY(name, type, get, OFFSET(member), SD_BUS_VTABLE_PROPERTY_CONST)
#define STATE(name, type, get, member) \
	SD_BUS_PROPERTY(name, type, get, OFFSET(member), SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE)
#define COUNTER(name, member) SD_BUS_PROPERTY(name, "t", NULL, OFFSET(process.counters.member), 0)

const sd_bus_vtable process_vtable[] = {
	SD_BUS_VTABLE_START(SD_BUS_VTABLE_UNPRIVILEGED),
	CONST("ID", "t", NULL, process.id),
	/* a fork child's is unknown until it says hello */
	STATE("PID", "u", get_pid, process.pid),
	CONST("UID", "u", NULL, process.uid),
	CONST("ParentPID", "u", get_pid, process.parent_session_pid),
	CONST("AttachTimestampMonotonic", "t", get_usec, process.attached_ns),
	STATE("Command", "s", get_text, process.command),
	SD_BUS_PROPERTY("ControlGroup", "s", get_text, OFFSET(process.cgroup), 0),
	STATE("State", "s", NULL, state),
	STATE("Reason", "s", NULL, process.reason),
	SD_BUS_WRITABLE_PROPERTY("EvictionEnabled", "b", get_enabled, set_enabled, 0,
				 SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
	SD_BUS_WRITABLE_PROPERTY("LimitBytes", "t", NULL, set_limit, OFFSET(process.limit_bytes),
				 SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),

	COUNTER("ResidentBytes", resident_bytes),
	COUNTER("RegisteredBytes", registered_bytes),
	COUNTER("EvictedBytes", evicted_bytes),
	COUNTER("StagedBytes", staged_bytes),
	COUNTER("FillBytes", fill_bytes),
	COUNTER("StoredBytes", stored_bytes),
	COUNTER("PagesOutTotal", pages_out_total),
	COUNTER("PagesInTotal", pages_in_total),
	COUNTER("FaultsTotal", faults_total),
	COUNTER("RefaultsTotal", refaults_total),
	COUNTER("MajorFaultsTotal", major_total),
	COUNTER("ZeroFaultsTotal", zero_total),
	COUNTER("DuplicatePagesTotal", duplicate_pages_total),
	COUNTER("IncompressiblePagesTotal", incompressible_total),
	COUNTER("PrefetchedPagesTotal", prefetched_total),
	COUNTER("PrefetchUsedPagesTotal", prefetch_used_total),
	COUNTER("HelpedPagesTotal", helped_total),
	SD_BUS_PROPERTY("UnpackUSecTotal", "t", get_usec, OFFSET(process.counters.unpack_ns_total), 0),
	COUNTER("BusyPagesTotal", busy_total),
	COUNTER("PoisonedPagesTotal", poisoned_total),
	SD_BUS_PROPERTY("StallUSecTotal", "t", get_usec, OFFSET(process.counters.stall_ns_total), 0),
	SD_BUS_PROPERTY("FaultLatencyHistogram", "a(tt)", get_histogram,
			OFFSET(process.counters.latency), 0),

	SD_BUS_METHOD_WITH_NAMES("Evict", "ta{sv}", SD_BUS_PARAM(bytes) SD_BUS_PARAM(options), "t",
				 SD_BUS_PARAM(evicted), evict, SD_BUS_VTABLE_UNPRIVILEGED),
	SD_BUS_METHOD_WITH_NAMES("Restore", "a{sv}", SD_BUS_PARAM(options), "t",
				 SD_BUS_PARAM(restored), restore, SD_BUS_VTABLE_UNPRIVILEGED),
	SD_BUS_METHOD("Detach", NULL, NULL, detach, SD_BUS_VTABLE_UNPRIVILEGED),
	SD_BUS_VTABLE_END
};
