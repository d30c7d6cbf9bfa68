/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The connection to the message bus: made, lost and made again. The agent
 * works without it, since nothing but the control socket is certain to be
 * there.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/log.h"
#include "control/private.h"

#define RETRY_USEC (5 * 1000000ull)
#define RETRY_NAME_USEC (30 * 1000000ull) /* somebody else has the name */

enum { OWNER_PRIMARY = 1, OWNER_ALREADY = 4 }; /* answers of RequestName */

static void connect_later(struct control *control, uint64_t usec);

/* Says it once, not at every try. */
static void complain(struct control *control, const char *what, const char *why)
{
	if (!control->bus_complained)
		log_warning("%s: %s; trying again from time to time, control.sock works meanwhile",
			    what, why);
	control->bus_complained = true;
}

static struct endpoint *bus_endpoint(struct control *control)
{
	struct endpoint *e = control->endpoints;

	while (e && e->peer)
		e = e->next;
	return e;
}

static void disconnect(struct control *control)
{
	struct endpoint *e = bus_endpoint(control);

	control->name_slot = sd_bus_slot_unref(control->name_slot);
	if (e)
		endpoint_free(e);
}

/* For so long. */
static void give_up(struct control *control, const char *what, const char *why, uint64_t usec)
{
	complain(control, what, why);
	disconnect(control);
	connect_later(control, usec);
}

static int on_name(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
	struct control *control = userdata;
	const sd_bus_error *e = sd_bus_message_get_error(m);
	uint32_t answer = 0;

	if (!e && sd_bus_message_read(m, "u", &answer) >= 0 &&
	    (answer == OWNER_PRIMARY || answer == OWNER_ALREADY)) {
		log_info("%s is ours on the bus", BUS_NAME);
		control->bus_complained = false;
		control->name_slot = sd_bus_slot_unref(control->name_slot);
		return 0;
	}
	give_up(control, "the bus doesn't give us the name " BUS_NAME,
		e ? e->message : "somebody else has it", RETRY_NAME_USEC);
	return 0;
}

static int open_bus(const struct settings *settings, sd_bus **bus)
{
	int r;

	if (!*settings->bus_address)
		return sd_bus_open_system_with_description(bus, "uswap");
	r = sd_bus_new(bus);
	if (r >= 0)
		r = sd_bus_set_description(*bus, "uswap");
	if (r >= 0)
		r = sd_bus_set_address(*bus, settings->bus_address);
	if (r >= 0)
		r = sd_bus_set_bus_client(*bus, true);
	if (r >= 0)
		r = sd_bus_start(*bus);
	if (r < 0)
		*bus = sd_bus_unref(*bus);
	return r;
}

static void connect_now(struct control *control)
{
	struct endpoint *e;
	sd_bus *bus = NULL;
	int r = open_bus(control->settings, &bus);

	if (r >= 0) {
		e = endpoint_new(control, bus, false, 0);
		r = e ? sd_bus_request_name_async(bus, &control->name_slot, BUS_NAME, 0, on_name,
						  control) :
			-errno;
	}
	if (r < 0)
		give_up(control, "no message bus", strerror(-r), RETRY_USEC);
}

static int on_retry(sd_event_source *source, uint64_t usec, void *userdata)
{
	connect_now(userdata);
	return 0;
}

static void connect_later(struct control *control, uint64_t usec)
{
	int r;

	sd_event_source_disable_unref(control->retry);
	control->retry = NULL;
	r = sd_event_add_time_relative(control->event, &control->retry, CLOCK_MONOTONIC, usec, 0,
				       on_retry, control);
	if (r < 0)
		log_error("no timer for the bus: %s", strerror(-r));
}

void bus_start(struct control *control)
{
	if (strcmp(control->settings->bus_address, "none") != 0)
		connect_now(control);
}

void bus_lost(struct control *control)
{
	complain(control, "the message bus", "it has closed the connection");
	control->name_slot = sd_bus_slot_unref(control->name_slot);
	connect_later(control, RETRY_USEC);
}

void bus_hangs(struct control *control)
{
	give_up(control, "the message bus", "it reads nothing any more", RETRY_USEC);
}

void bus_stop(struct control *control)
{
	disconnect(control);
	sd_event_source_disable_unref(control->retry);
	control->retry = NULL;
}
