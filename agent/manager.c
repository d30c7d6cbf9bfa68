/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent/manager.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-bus.h>

#include "common/log.h"

#define SYSTEMD "org.freedesktop.systemd1"
#define PATH "/org/freedesktop/systemd1"
/* Without an answer everything would be restored: a machine that is busy gets time
   for it; faults are served meanwhile. Within the unit's watchdog. */
#define PATIENCE_USEC 9000000

static int open_bus(sd_bus **bus)
{
	int r = sd_bus_open_system(bus);

	return r < 0 ? r : sd_bus_set_method_call_timeout(*bus, PATIENCE_USEC);
}

static int get_unit(sd_bus *bus, pid_t pid, sd_bus_message **reply, const char **path)
{
	int r = sd_bus_call_method(bus, SYSTEMD, PATH, SYSTEMD ".Manager", "GetUnitByPID", NULL, reply, "u",
				   (uint32_t)pid);

	return r < 0 ? r : sd_bus_message_read(*reply, "o", path);
}

static int get_job(sd_bus *bus, pid_t pid, char **type)
{
	sd_bus_message *unit = NULL, *job = NULL;
	const char *path = NULL;
	uint32_t id = 0;
	int r = get_unit(bus, pid, &unit, &path);

	if (r >= 0)
		r = sd_bus_get_property(bus, SYSTEMD, path, SYSTEMD ".Unit", "Job", NULL, &job, "(uo)");
	if (r >= 0)
		r = sd_bus_message_read(job, "(uo)", &id, &path);
	if (r >= 0 && id)
		r = sd_bus_get_property_string(bus, SYSTEMD, path, SYSTEMD ".Job", "JobType", NULL, type);
	sd_bus_message_unref(job);
	sd_bus_message_unref(unit);
	return r;
}

static bool is_going_down(sd_bus *bus)
{
	char *state = NULL;
	bool down = sd_bus_get_property_string(bus, SYSTEMD, PATH, SYSTEMD ".Manager", "SystemState", NULL,
					       &state) >= 0 &&
		    strcmp(state, "stopping") == 0;

	free(state);
	return down;
}

enum manager_job manager_job(pid_t pid)
{
	enum manager_job job = MANAGER_UNKNOWN;
	char *type = NULL;
	sd_bus *bus = NULL;
	int r;

	if (!getenv("NOTIFY_SOCKET"))
		return MANAGER_UNKNOWN;
	r = open_bus(&bus);
	if (r >= 0)
		r = get_job(bus, pid, &type);
	if (r < 0)
		log_warning("the service manager doesn't say whether this is a stop or a restart: %s",
			    strerror(-r));
	else if (type)
		job = strstr(type, "restart") ? MANAGER_RESTART : MANAGER_STOP;
	if (job == MANAGER_STOP && is_going_down(bus))
		job = MANAGER_SHUTDOWN;
	free(type);
	sd_bus_flush_close_unref(bus);
	return job;
}

bool manager_keeps_stopped(pid_t pid)
{
	sd_bus_message *unit = NULL;
	const char *path;
	char *value = NULL;
	sd_bus *bus = NULL;
	bool keeps;
	int r = open_bus(&bus);

	if (r >= 0)
		r = get_unit(bus, pid, &unit, &path);
	if (r >= 0) /* systemd 254 */
		r = sd_bus_get_property_string(bus, SYSTEMD, path, SYSTEMD ".Service", "FileDescriptorStorePreserve",
					       NULL, &value);
	keeps = r >= 0 && strcmp(value, "yes") == 0;
	free(value);
	sd_bus_message_unref(unit);
	sd_bus_flush_close_unref(bus);
	return keeps;
}
