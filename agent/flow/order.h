/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * An order for one session (evict, restore, detach), from the control thread
 * to the thread that carries it out and back through the engine's mailbox.
 * Whoever takes it out of the session's field finishes it, exactly once.
 */
#ifndef USWAP_FLOW_ORDER_H
#define USWAP_FLOW_ORDER_H

#include <stdint.h>

#include "flow/flow.h"

#define ORDER_DONE 200 /* mail.kind */

struct order {
	struct mail mail;
	int kind;	 /* enum engine_order */
	uint64_t target; /* bytes to evict; 0: all */
	uint64_t bytes;	 /* moved so far */
	uint64_t returned_before; /* evict: the session's pages_in_total at its start */
	int status;
	bool begun;	 /* evict: a round of the hand, with it */
	bool scanned;	 /* ... enough is planned for now */
	bool exhausted;	 /* ... or there is nothing more to plan */
	uint32_t rounds;
	uint64_t late_ns; /* since when its mover doesn't answer; 0: it does */
	void *group;	 /* engine's: what it belongs to */
};

static inline void order_finish(struct flow *flow, _Atomic(struct order *) *field, int status)
{
	struct order *order = atomic_exchange(field, NULL);

	if (!order)
		return;
	order->status = status;
	order->mail.kind = ORDER_DONE;
	mailbox_send(&flow->engine, &order->mail);
}

#endif
