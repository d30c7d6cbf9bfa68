/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The owner's side of the gate (common/wire.h): while the owner is inside, the
 * mover moves nothing, so what the owner reads, decides and copies can't be
 * overtaken by a MOVE. The page is shared with the workload: nothing in it is
 * believed, and waiting in it is bounded (INV-2).
 */
#ifndef USWAP_PROC_GATE_H
#define USWAP_PROC_GATE_H

#include <stdbool.h>

#include "common/util.h"
#include "common/wire.h"

#define GATE_SPIN_NS 30000u

static inline bool gate_try(struct wire_gate *gate)
{
	uint32_t free_word = WIRE_GATE_FREE;

	return __atomic_compare_exchange_n(&gate->word, &free_word, WIRE_GATE_AGENT, false,
					   __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

/* True: inside. False: the mover is, and it will write the eventfd when it is
   not any more. gate may be NULL (no mover): always inside. Does not wait: for
   what comes round anyhow. */
static inline bool gate_enter(struct wire_gate *gate)
{
	if (!gate || gate_try(gate))
		return true;
	__atomic_store_n(&gate->wanted, 1, __ATOMIC_SEQ_CST);
	/* It may have left between the try and the store. */
	return gate_try(gate);
}

/* The same for what somebody waits for: most moves are over sooner than a wakeup. */
static inline bool gate_enter_soon(struct wire_gate *gate)
{
	uint64_t start;

	if (!gate || gate_try(gate))
		return true;
	start = now_ns();
	do {
		__builtin_ia32_pause();
		if (gate_try(gate))
			return true;
	} while (now_ns() - start < GATE_SPIN_NS);
	return gate_enter(gate);
}

static inline bool gate_is_free(const struct wire_gate *gate)
{
	return !gate || __atomic_load_n(&gate->word, __ATOMIC_RELAXED) == WIRE_GATE_FREE;
}

static inline void gate_leave(struct wire_gate *gate)
{
	if (!gate)
		return;
	__atomic_store_n(&gate->wanted, 0, __ATOMIC_SEQ_CST);
	__atomic_store_n(&gate->word, WIRE_GATE_FREE, __ATOMIC_RELEASE);
}

/* How many pages are away, at least: for an agent that knows nothing else of this
   process any more (WIRE_AGAIN). Before they leave; less only when it is so. */
static inline void gate_set_away(struct wire_gate *gate, uint64_t pages)
{
	if (gate)
		__atomic_store_n(&gate->away, (uint32_t)MIN(pages, UINT32_MAX - 1) + 1, __ATOMIC_RELEASE);
}

/* It can't be said: then nobody takes what is missing for what was never there. */
static inline void gate_set_unknown(struct wire_gate *gate)
{
	if (gate)
		__atomic_store_n(&gate->away, 0, __ATOMIC_RELEASE);
}

/* Orders of an older generation move nothing any more. Inside only. */
static inline void gate_set_generation(struct wire_gate *gate, uint32_t generation)
{
	if (gate)
		__atomic_store_n(&gate->generation, generation, __ATOMIC_RELEASE);
}

#endif
