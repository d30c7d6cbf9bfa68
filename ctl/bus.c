/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Finding the agent and talking to it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "common/util.h"
#include "common/wire.h"
#include "ctl/ctl.h"

const char *ctl_attach_socket(void)
{
	const char *path = getenv(WIRE_SOCKET_ENV);

	return path && *path ? path : WIRE_SOCKET_DEFAULT;
}

/* Where the agent has room for no more of us it says so before it hangs up. sd-bus reads
   that as -EPERM, unless it can't even write any more. */
static bool was_turned_away(int fd, int r)
{
	char word[8] = "";

	return r == -EPERM || (recv(fd, word, sizeof(word), MSG_DONTWAIT) == sizeof(word) &&
			       memcmp(word, "REJECTED", sizeof(word)) == 0);
}

/* Only then has the agent let us in. One that hangs is waited for as with any call. */
static int start_peer(sd_bus *bus)
{
	uint64_t patience = 0, until, now;
	int r = sd_bus_get_method_call_timeout(bus, &patience);

	until = now_ns() / NSEC_PER_USEC + patience;
	if (r >= 0)
		r = sd_bus_start(bus);
	while (r >= 0 && sd_bus_is_ready(bus) == 0) {
		r = sd_bus_is_open(bus) > 0 ? sd_bus_process(bus, NULL) : -ECONNRESET;
		now = now_ns() / NSEC_PER_USEC;
		if (r == 0 && sd_bus_is_ready(bus) == 0)
			r = now < until ? sd_bus_wait(bus, until - now) : -ETIMEDOUT;
		if (r == -EINTR)
			r = 0;
	}
	return r;
}

static int open_peer(const char *path, sd_bus **bus)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	_cleanup_close_ int same = -1;
	int r;

	if (fd < 0)
		return -errno;
	if (strlen(path) >= sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	strcpy(addr.sun_path, path);
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return -errno;
	r = sd_bus_new(bus);
	if (r < 0)
		return r;
	same = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	r = sd_bus_set_fd(*bus, fd, fd);
	if (r >= 0) {
		take_fd(&fd);
		r = start_peer(*bus);
	}
	if (r < 0)
		*bus = sd_bus_unref(*bus);
	return r < 0 && was_turned_away(same, r) ? -EUSERS : r;
}

/* control.sock beside the attach socket */
static int open_beside(const char *attach, sd_bus **bus)
{
	const char *slash = strrchr(attach, '/');
	char path[sizeof(((struct sockaddr_un *)0)->sun_path) + 16];

	if (!slash)
		return -EINVAL;
	if (snprintf(path, sizeof(path), "%.*s/control.sock", (int)(slash - attach), attach) >=
	    (int)sizeof(path))
		return -ENAMETOOLONG;
	return open_peer(path, bus);
}

static int open_address(const char *address, sd_bus **bus)
{
	int r;

	if (*address == '/')
		return open_peer(address, bus);
	r = sd_bus_new(bus);
	if (r >= 0)
		r = sd_bus_set_address(*bus, address);
	if (r >= 0)
		r = sd_bus_set_bus_client(*bus, true);
	if (r >= 0)
		r = sd_bus_start(*bus);
	if (r < 0)
		*bus = sd_bus_unref(*bus);
	return r;
}

/* Is the name owned? Asking must not start an agent. */
static int has_owner(sd_bus *bus)
{
	sd_bus_message *reply = NULL;
	int owned = 0;
	int r = sd_bus_call_method(bus, "org.freedesktop.DBus", "/org/freedesktop/DBus",
				   "org.freedesktop.DBus", "NameHasOwner", NULL, &reply, "s",
				   BUS_NAME);

	if (r >= 0)
		r = sd_bus_message_read(reply, "b", &owned);
	sd_bus_message_unref(reply);
	return r < 0 ? r : owned;
}

static int open_system(sd_bus **bus)
{
	int r = sd_bus_open_system(bus);

	if (r < 0)
		return r;
	r = has_owner(*bus);
	if (r > 0)
		return 0;
	*bus = sd_bus_flush_close_unref(*bus);
	return r < 0 ? r : -ENXIO;
}

int ctl_connect(struct ctl *ctl)
{
	const char *socket = getenv(WIRE_SOCKET_ENV);
	const char *where = ctl->address;
	int r;

	if (ctl->address) {
		r = open_address(ctl->address, &ctl->bus);
	} else if (socket && *socket) {
		/* names one agent: another one would be the wrong one */
		where = socket;
		r = open_beside(socket, &ctl->bus);
	} else {
		where = "system bus, " WIRE_SOCKET_DEFAULT;
		r = open_system(&ctl->bus);
		if (r < 0)
			r = open_beside(WIRE_SOCKET_DEFAULT, &ctl->bus);
	}
	if (r >= 0)
		return CTL_OK;
	if (r == -EUSERS) {
		ctl_complain("%s: the agent has as many connections of this user, or in all, as it takes", where);
		return CTL_FAILED;
	}
	if (r == -ETIMEDOUT)
		return ctl_error(NULL, r);
	if (r == -EACCES || r == -EPERM) {
		ctl_complain("%s: %s", where, strerror(-r));
		return CTL_FAILED;
	}
	ctl_complain("the agent is not running (%s: %s)", where,
		     r == -ENXIO ? "nobody has the name " BUS_NAME : strerror(-r));
	return CTL_NOT_RUNNING;
}

int ctl_error(const sd_bus_error *error, int r)
{
	static const char *const not_running[] = {
		SD_BUS_ERROR_SERVICE_UNKNOWN,	SD_BUS_ERROR_NAME_HAS_NO_OWNER,
		SD_BUS_ERROR_DISCONNECTED,	SD_BUS_ERROR_NO_REPLY,
		SD_BUS_ERROR_NO_SERVER,
	};

	if (sd_bus_error_has_name(error, BUS_NAME ".NoSuchProcess") ||
	    sd_bus_error_has_name(error, SD_BUS_ERROR_UNKNOWN_OBJECT)) {
		ctl_complain("%s", error->message);
		return CTL_NO_PROCESS;
	}
	for (size_t i = 0; i < ARRAY_SIZE(not_running); i++)
		if (sd_bus_error_has_name(error, not_running[i]))
			r = -ECONNRESET;
	if (r == -ECONNRESET || r == -ENOTCONN || r == -EPIPE) {
		ctl_complain("the agent is not running (any more)");
		return CTL_NOT_RUNNING;
	}
	if (r == -ETIMEDOUT) {
		ctl_complain("the agent does not answer");
		return CTL_FAILED;
	}
	ctl_complain("%s", sd_bus_error_is_set(error) && error->message ? error->message :
									  strerror(abs(r)));
	return CTL_FAILED;
}

sd_bus_message *ctl_call_new(struct ctl *ctl, const char *path, const char *interface,
			     const char *member)
{
	sd_bus_message *m = NULL;
	int r = sd_bus_message_new_method_call(ctl->bus, &m, BUS_NAME, path, interface, member);

	if (r >= 0)
		r = sd_bus_message_set_auto_start(m, 0);
	if (r < 0) {
		ctl_complain("%s: %s", member, strerror(-r));
		return sd_bus_message_unref(m);
	}
	return m;
}

int ctl_call(struct ctl *ctl, sd_bus_message *m, sd_bus_message **reply)
{
	sd_bus_error error = SD_BUS_ERROR_NULL;
	int r = sd_bus_call(ctl->bus, m, 0, &error, reply);
	int code = r < 0 ? ctl_error(&error, r) : CTL_OK;

	sd_bus_message_unref(m);
	sd_bus_error_free(&error);
	return code;
}

int ctl_process_path(struct ctl *ctl, uint32_t pid, char **path)
{
	sd_bus_message *m, *reply = NULL;
	const char *text;
	int code, r;

	m = ctl_call_new(ctl, MANAGER_PATH, MANAGER_INTERFACE, "GetProcessByPID");
	if (!m)
		return CTL_FAILED;
	r = sd_bus_message_append(m, "u", pid);
	if (r < 0) {
		sd_bus_message_unref(m);
		return ctl_error(NULL, r);
	}
	code = ctl_call(ctl, m, &reply);
	if (code != CTL_OK)
		return code;
	r = sd_bus_message_read(reply, "o", &text);
	*path = r < 0 ? NULL : strdup(text);
	sd_bus_message_unref(reply);
	return *path ? CTL_OK : ctl_error(NULL, r < 0 ? r : -ENOMEM);
}
