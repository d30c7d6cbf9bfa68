/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Manager.Verify: answered when the store has been walked. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "control/private.h"

static int reply(sd_bus_message *call, const struct engine_verified *v)
{
	sd_bus_message *m = NULL;
	int r = sd_bus_message_new_method_return(call, &m);

	if (r >= 0)
		r = sd_bus_message_open_container(m, 'a', "{sv}");
	if (r >= 0)
		r = append_entry(m, "GoodPages", "t", &v->good);
	if (r >= 0)
		r = append_entry(m, "DamagedPages", "t", &v->damaged);
	if (r >= 0)
		r = append_entry(m, "UnreadPages", "t", &v->unread);
	if (r >= 0)
		r = append_entry(m, "WrongAccounts", "t", &v->wrong_accounts);
	if (r >= 0)
		r = append_entry(m, "WrongReferences", "t", &v->wrong_references);
	if (r >= 0)
		r = append_entry(m, "NotFoundPages", "t", &v->not_found);
	if (r >= 0)
		r = append_entry(m, "UnsettledPages", "t", &v->unsettled);
	if (r >= 0)
		r = sd_bus_message_close_container(m);
	if (r >= 0)
		r = sd_bus_message_send(m);
	sd_bus_message_unref(m);
	return r;
}

static void on_verified(void *arg, int status, const struct engine_verified *v)
{
	struct order *order = arg;
	int r;

	if (status < 0) {
		order_finish_failed(order, status);
		return;
	}
	r = reply(order->call, v);
	if (r < 0 && r != -ENOTCONN && r != -ECONNRESET)
		log_warning("answering Verify failed: %s", strerror(-r));
	order_free(order);
}

int verify_start(struct control *control, sd_bus_message *call, sd_bus_error *error)
{
	struct order *order;
	int r = order_read_options(call, error);

	if (r >= 0)
		r = access_check(control, call, error);
	if (r < 0)
		return r;
	order = order_new(control, call);
	if (!order)
		return -ENOMEM;
	order->verify = true;
	r = engine_verify(control->engine, on_verified, order);
	if (r < 0) {
		order_free(order);
		return r == -EBUSY ? sd_bus_error_set(error, ERROR_BUSY, "It is being verified already") : r;
	}
	return 1; /* answered later */
}
