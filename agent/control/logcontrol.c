/* SPDX-License-Identifier: GPL-2.0-or-later */
/* org.freedesktop.LogControl1(5): "systemctl service-log-level". */
#include <stdlib.h>

#include "common/log.h"
#include "control/private.h"

static int get_level(sd_bus *bus, const char *path, const char *interface, const char *property,
		     sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
	return sd_bus_message_append(reply, "s", log_level_name(log_get_level()));
}

static int set_level(sd_bus *bus, const char *path, const char *interface, const char *property,
		     sd_bus_message *value, void *userdata, sd_bus_error *error)
{
	const char *name;
	int level, r;

	r = access_check(userdata, value, error);
	if (r < 0)
		return r;
	r = sd_bus_message_read(value, "s", &name);
	if (r < 0)
		return r;
	level = log_level_from_name(name);
	if (level < 0)
		return sd_bus_error_setf(error, SD_BUS_ERROR_INVALID_ARGS,
					 "Log level \"%s\" is none of err, warning, notice, info "
					 "and debug", name);
	log_set_level((enum log_level)level);
	return 0;
}

static int get_target(sd_bus *bus, const char *path, const char *interface, const char *property,
		      sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
	return sd_bus_message_append(reply, "s", getenv("JOURNAL_STREAM") ? "journal" : "console");
}

static int get_identifier(sd_bus *bus, const char *path, const char *interface,
			  const char *property, sd_bus_message *reply, void *userdata,
			  sd_bus_error *error)
{
	return sd_bus_message_append(reply, "s", "uswap-agent");
}

/* The target can't be changed: LogTarget is read-only here. */
const sd_bus_vtable logcontrol_vtable[] = {
	SD_BUS_VTABLE_START(SD_BUS_VTABLE_UNPRIVILEGED),
	SD_BUS_WRITABLE_PROPERTY("LogLevel", "s", get_level, set_level, 0, 0),
	SD_BUS_PROPERTY("LogTarget", "s", get_target, 0, 0),
	SD_BUS_PROPERTY("SyslogIdentifier", "s", get_identifier, 0, SD_BUS_VTABLE_PROPERTY_CONST),
	SD_BUS_VTABLE_END
};
