/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent/manager.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-bus.h>
#include <systemd/sd-daemon.h>

#include "common/log.h"
#include "common/util.h"

#define SYSTEMD "org.freedesktop.systemd1"
#define PATH "/org/freedesktop/systemd1"
/* For all answers together. Without them everything would be restored: a machine that
   is busy gets time for it; faults are served meanwhile. Within the unit's watchdog. */
#define PATIENCE_USEC 9000000

/* What is asked of it in one go. */
struct manager {
	sd_bus *bus;
	uint64_t until_usec;
};

static uint64_t now_usec(void)
{
	return now_ns() / 1000;
}

static int manager_open(struct manager *m)
{
	*m = (struct manager){ .until_usec = now_usec() + PATIENCE_USEC };
	return sd_bus_open_system(&m->bus);
}

/* The next call ends in what is left of the patience. */
static int may_ask(const struct manager *m)
{
	uint64_t now = now_usec();

	return now < m->until_usec ? sd_bus_set_method_call_timeout(m->bus, m->until_usec - now) : -ETIMEDOUT;
}

static int get_unit(const struct manager *m, pid_t pid, sd_bus_message **reply, const char **path)
{
	int r = may_ask(m);

	if (r >= 0)
		r = sd_bus_call_method(m->bus, SYSTEMD, PATH, SYSTEMD ".Manager", "GetUnitByPID", NULL, reply,
				       "u", (uint32_t)pid);
	return r < 0 ? r : sd_bus_message_read(*reply, "o", path);
}

/* *value is the caller's to free. */
static int get_string(const struct manager *m, const char *path, const char *interface, const char *property,
		      char **value)
{
	int r = may_ask(m);

	return r < 0 ? r : sd_bus_get_property_string(m->bus, SYSTEMD, path, interface, property, NULL, value);
}

static int get_job(const struct manager *m, pid_t pid, char **type)
{
	sd_bus_message *unit = NULL, *job = NULL;
	const char *path = NULL;
	uint32_t id = 0;
	int r = get_unit(m, pid, &unit, &path);

	if (r >= 0)
		r = may_ask(m);
	if (r >= 0)
		r = sd_bus_get_property(m->bus, SYSTEMD, path, SYSTEMD ".Unit", "Job", NULL, &job, "(uo)");
	if (r >= 0)
		r = sd_bus_message_read(job, "(uo)", &id, &path);
	if (r >= 0 && id)
		r = get_string(m, path, SYSTEMD ".Job", "JobType", type);
	sd_bus_message_unref(job);
	sd_bus_message_unref(unit);
	return r;
}

static bool is_going_down(const struct manager *m)
{
	char *state = NULL;
	bool down = get_string(m, PATH, SYSTEMD ".Manager", "SystemState", &state) >= 0 &&
		    strcmp(state, "stopping") == 0;

	free(state);
	return down;
}

enum manager_job manager_job(pid_t pid)
{
	enum manager_job job = MANAGER_UNKNOWN;
	char *type = NULL;
	struct manager m;
	int r;

	if (!getenv("NOTIFY_SOCKET"))
		return MANAGER_UNKNOWN;
	/* However short TimeoutStopSec= is: no more than that is asked for here. */
	sd_notifyf(false, "EXTEND_TIMEOUT_USEC=%u", PATIENCE_USEC + 1000000);
	r = manager_open(&m);
	if (r >= 0)
		r = get_job(&m, pid, &type);
	if (r < 0)
		log_warning("the service manager doesn't say whether this is a stop or a restart: %s",
			    strerror(-r));
	else if (type)
		job = strstr(type, "restart") ? MANAGER_RESTART : MANAGER_STOP;
	if (job == MANAGER_STOP && is_going_down(&m))
		job = MANAGER_SHUTDOWN;
	free(type);
	sd_bus_flush_close_unref(m.bus);
	return job;
}

bool manager_keeps_stopped(pid_t pid)
{
	sd_bus_message *unit = NULL;
	const char *path;
	char *value = NULL;
	struct manager m;
	bool keeps;
	int r = manager_open(&m);

	if (r >= 0)
		r = get_unit(&m, pid, &unit, &path);
	if (r >= 0) /* systemd 254 */
		r = get_string(&m, path, SYSTEMD ".Service", "FileDescriptorStorePreserve", &value);
	keeps = r >= 0 && strcmp(value, "yes") == 0;
	free(value);
	sd_bus_message_unref(unit);
	sd_bus_flush_close_unref(m.bus);
	return keeps;
}
