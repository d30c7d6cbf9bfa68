/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Orders of the control layer: given to one session or to all, and counted
   until the last one has been carried out. */
#include "engine/private.h"

#include <errno.h>

#include "common/util.h"

struct order_group {
	engine_done_fn done;
	void *arg;
	uint32_t open;
	bool all; /* one process that has ended meanwhile, or can't be evicted, is no failure of it */
	int status;
	uint64_t bytes;
};

static void finish_group(struct engine *e, struct order_group *group)
{
	if (--group->open)
		return;
	group->done(group->arg, group->status, group->bytes);
	e->nr_orders--;
	free(group);
}

void orders_done(struct engine *e, struct order *order)
{
	struct order_group *group = order->group;

	group->bytes += order->bytes;
	if (e->draining && order->status == -ESRCH)
		order->status = -ECANCELED;
	if (order->status < 0 && group->status == 0 &&
	    !(group->all && (order->status == -ESRCH || order->status == -EBUSY)))
		group->status = order->status;
	free(order);
	finish_group(e, group);
}

static bool is_evictable(const struct session *s)
{
	return session_state(s) == SESSION_ACTIVE && s->mover_pid;
}

static int give_evict(struct engine *e, struct session *s, struct order *order)
{
	struct order *none = NULL;

	if (!is_evictable(s))
		return -EBUSY;
	order->returned_before = counter_get(&s->counters.pages_in_total);
	if (!atomic_compare_exchange_strong(&s->evict_order, &none, order))
		return -EALREADY;
	notice_send(&e->flow.worker, &s->to_worker, SESSION_WORK_ORDER);
	return 0;
}

static int give_restore(struct session *s, struct order *order, uint32_t bit)
{
	struct order *none = NULL;

	if (!atomic_compare_exchange_strong(&s->restore_order, &none, order))
		return -EALREADY;
	notice_send(&session_owner(s)->box, &s->to_owner, bit);
	return 0;
}

static int give(struct engine *e, struct session *s, enum engine_order kind, uint64_t bytes,
		struct order_group *group)
{
	struct order *order = calloc(1, sizeof(*order));
	int r;

	if (!order)
		return -ENOMEM;
	order->kind = (int)kind;
	order->target = bytes;
	order->group = group;
	if (kind == ENGINE_EVICT)
		r = give_evict(e, s, order);
	else
		r = give_restore(s, order, kind == ENGINE_RESTORE ? SESSION_OWN_RESTORE : SESSION_OWN_DETACH);
	if (r < 0)
		free(order);
	else
		group->open++;
	return r;
}

static uint64_t anonymous_bytes(const struct session *s)
{
	uint64_t anonymous = 0;

	(void)session_read_resident(s, &anonymous);
	return anonymous;
}

/* Of bytes that all are to give together: who has more gives more. 0, which
   is all, stays 0, and no share becomes it. */
static uint64_t share_of(const struct session *s, uint64_t bytes, uint64_t sum)
{
	double share = bytes ? (double)anonymous_bytes(s) / (double)sum : 1;

	return share < 1 ? (uint64_t)((double)bytes * share) + 1 : bytes;
}

/* Those that can't be evicted now are passed over; what another order is doing, or what
   there is no memory for, is not done and has to be said. */
static void give_all(struct engine *e, enum engine_order kind, uint64_t bytes, struct order_group *group)
{
	uint64_t sum = 1;
	int r;

	for (const struct session *s = bytes ? e->sessions : NULL; s; s = s->next)
		sum += is_evictable(s) ? anonymous_bytes(s) : 0;
	for (struct session *s = e->sessions; s; s = s->next) {
		r = give(e, s, kind, share_of(s, bytes, sum), group);
		if (r < 0 && r != -EBUSY && group->status == 0)
			group->status = r;
	}
}

int engine_order(struct engine *e, enum engine_order kind, uint64_t id, uint64_t bytes,
		 engine_done_fn done, void *arg)
{
	struct session *one = id ? registry_find(e, id) : NULL;
	struct order_group *group;
	int r = 0;

	if (e->draining)
		return -ECANCELED;
	if (id && !one)
		return -ESRCH;
	group = calloc(1, sizeof(*group));
	if (!group)
		return -ENOMEM;
	*group = (struct order_group){ .done = done, .arg = arg, .open = 1, .all = !id };
	if (one) {
		r = give(e, one, kind, bytes, group);
		if (r < 0) {
			free(group);
			return r;
		}
	}
	if (!one)
		give_all(e, kind, bytes, group);
	e->nr_orders++;
	if (group->open == 1 && !one) {
		/* None to do: answered from the next dispatch, like others. */
		struct order *empty = calloc(1, sizeof(*empty));

		if (!empty) {
			e->nr_orders--;
			free(group);
			return -ENOMEM;
		}
		empty->group = group;
		empty->mail.kind = ORDER_DONE;
		mailbox_send(&e->flow.engine, &empty->mail);
		return 0;
	}
	group->open--;
	return 0;
}
