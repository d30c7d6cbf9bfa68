/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Calls that are answered when the engine has done what was asked. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "control/private.h"

static const struct {
	int status;
	const char *name;
	const char *text;
} errors[] = {
	{ -ESRCH, ERROR_NO_SUCH_PROCESS, "No such process is attached" },
	{ -ENOSPC, ERROR_STORE_FULL, "The store is full" },
	{ -EBUSY, ERROR_BUSY, "The process can't be evicted now; see State and Reason" },
	{ -EALREADY, ERROR_BUSY, "A program has an order under way already, and was passed over" },
	{ -ENOMEM, ERROR_NO_MEMORY, "There is no memory for all of it: in a program's control group, or for the agent" },
	{ -ECANCELED, ERROR_STOPPING, "The agent is stopping" },
};

int order_error(int status, sd_bus_error *error)
{
	for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++)
		if (errors[i].status == status)
			return sd_bus_error_set(error, errors[i].name, errors[i].text);
	return sd_bus_error_set_errno(error, status);
}

/* flag: the only one that is known, or NULL. */
static int read_options(sd_bus_message *m, const char *flag, bool *value, sd_bus_error *error)
{
	const char *name;
	int set = 0, r = sd_bus_message_enter_container(m, 'a', "{sv}");

	if (r < 0)
		return r;
	while ((r = sd_bus_message_enter_container(m, 'e', "sv")) > 0) {
		r = sd_bus_message_read(m, "s", &name);
		if (r < 0)
			return r;
		if (!flag || strcmp(name, flag) != 0)
			return sd_bus_error_setf(error, SD_BUS_ERROR_INVALID_ARGS,
						 "Unknown option \"%s\"", name);
		r = sd_bus_message_read(m, "v", "b", &set);
		if (r >= 0)
			r = sd_bus_message_exit_container(m);
		if (r < 0)
			return r;
		*value = set;
	}
	return r < 0 ? r : sd_bus_message_exit_container(m);
}

int order_read_options(sd_bus_message *m, sd_bus_error *error)
{
	return read_options(m, NULL, NULL, error);
}

int order_read_drain_options(sd_bus_message *m, bool *leave, sd_bus_error *error)
{
	*leave = false;
	return read_options(m, "leave", leave, error);
}

static void unlink_order(struct order *order)
{
	struct order **p = &order->control->orders;

	while (*p != order)
		p = &(*p)->next;
	*p = order->next;
}

void order_free(struct order *order)
{
	unlink_order(order);
	sd_bus_message_unref(order->call);
	free(order);
}

static int reply(const struct order *order, int status, uint64_t bytes)
{
	sd_bus_error error = SD_BUS_ERROR_NULL;
	int r;

	if (status == 0 && order->kind == ENGINE_DETACH)
		return sd_bus_reply_method_return(order->call, NULL);
	if (status == 0)
		return sd_bus_reply_method_return(order->call, "t", bytes);
	order_error(status, &error);
	if (bytes)
		r = sd_bus_reply_method_errorf(order->call, error.name,
					       "%s (after %" PRIu64 " bytes)", error.message,
					       bytes);
	else
		r = sd_bus_reply_method_error(order->call, &error);
	sd_bus_error_free(&error);
	return r;
}

static void on_done(void *arg, int status, uint64_t bytes)
{
	struct order *order = arg;
	int r = reply(order, status, bytes);

	/* a caller that has hung up meanwhile is no error */
	if (r < 0 && r != -ENOTCONN && r != -ECONNRESET)
		log_warning("answering %s failed: %s", sd_bus_message_get_member(order->call),
			    strerror(-r));
	order_free(order);
}

struct order *order_new(struct control *control, sd_bus_message *call)
{
	struct order *order = calloc(1, sizeof(*order));

	if (!order)
		return NULL;
	order->control = control;
	order->next = control->orders;
	order->call = sd_bus_message_ref(call);
	control->orders = order;
	return order;
}

int order_start(struct control *control, sd_bus_message *call, enum engine_order kind, uint64_t id,
		uint64_t bytes, sd_bus_error *error)
{
	struct order *order;
	int r = access_check(control, call, error);

	if (r < 0)
		return r;
	order = order_new(control, call);
	if (!order)
		return -ENOMEM;
	order->kind = kind;
	r = engine_order(control->engine, kind, id, bytes, on_done, order);
	if (r < 0) {
		order_free(order);
		return order_error(r, error);
	}
	return 1; /* answered later */
}

int order_drain(struct control *control, sd_bus_message *call, bool leave, sd_bus_error *error)
{
	char message[CONTROL_MESSAGE] = "";
	struct engine_stats stats;
	struct order *order;
	int r = access_check(control, call, error);

	if (r < 0)
		return r;
	engine_get_stats(control->engine, &stats);
	order = order_new(control, call);
	if (!order)
		return -ENOMEM;
	order->drain = true;
	order->before = stats.counters.evicted_bytes;
	r = control->hooks.drain(control->hooks.ctx, leave, message);
	if (r < 0) {
		order_free(order);
		return sd_bus_error_set(error, r == -EOPNOTSUPP ? SD_BUS_ERROR_NOT_SUPPORTED : ERROR_NO_MEMORY,
					message);
	}
	if (leave) {
		on_done(order, 0, 0);
		return sd_bus_flush(sd_bus_message_get_bus(call)) < 0 ? -EIO : 1;
	}
	return 1; /* answered later */
}

void order_drained(struct control *control)
{
	struct order *next;

	for (struct order *order = control->orders; order; order = next) {
		next = order->next;
		if (order->drain)
			on_done(order, 0, order->before);
	}
}

void order_finish_failed(struct order *order, int status)
{
	on_done(order, status, 0);
}

void order_cancel_all(struct control *control)
{
	if (control->engine)
		engine_verify_forget(control->engine);
	while (control->orders)
		on_done(control->orders, -ECANCELED, 0);
}
