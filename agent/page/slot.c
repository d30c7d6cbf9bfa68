/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The written state machine of a page: one row per state, one bit per step. */
#include "page/slot.h"

#include "common/util.h"

#define TO(state) (1u << SLOT_##state)
/* munmap and MADV_DONTNEED can strike in any state (INV-4). */
#define TO_ANYWAY (TO(NONE) | TO(BARRED))

static const uint16_t legal[SLOT_STATES] = {
	[SLOT_NONE] = TO_ANYWAY | TO(RESIDENT) | TO(LEAVING),
	[SLOT_RESIDENT] = TO_ANYWAY | TO(RESIDENT) | TO(LEAVING),
	/* Only our own copy lifts the bar: BARRED never leads to LEAVING. */
	[SLOT_BARRED] = TO_ANYWAY | TO(RESIDENT),
	/* Back to RESIDENT: the kernel refused the move. */
	[SLOT_LEAVING] = TO_ANYWAY | TO(LEAVING) | TO(STAGED) | TO(FILL) | TO(RESIDENT) |
			 TO(POISONED),
	/* Back to RESIDENT: touched, or incompressible. */
	[SLOT_STAGED] = TO_ANYWAY | TO(STAGED) | TO(STORED) | TO(FILL) | TO(RESIDENT) | TO(POISONED),
	/* Back to STORED: the fetch was cancelled. */
	[SLOT_FETCHING] = TO_ANYWAY | TO(FETCHING) | TO(RESIDENT) | TO(CLEAN) | TO(STORED) | TO(POISONED),
	/* A local store answers at once, without FETCHING between. */
	[SLOT_STORED] = TO_ANYWAY | TO(STORED) | TO(FETCHING) | TO(RESIDENT) | TO(CLEAN) | TO(POISONED),
	[SLOT_CLEAN] = TO_ANYWAY | TO(LEAVING),
	[SLOT_FILL] = TO_ANYWAY | TO(RESIDENT),
	/* The bytes are lost for good: only the mapping's end changes that. */
	[SLOT_POISONED] = TO_ANYWAY,
};

bool slot_step_is_legal(enum slot_state from, enum slot_state to)
{
	if ((unsigned)from >= SLOT_STATES || (unsigned)to >= SLOT_STATES)
		return false;
	return legal[from] >> to & 1;
}

const char *slot_state_name(enum slot_state state)
{
	static const char *const names[SLOT_STATES] = {
		[SLOT_NONE] = "none",	      [SLOT_RESIDENT] = "resident",
		[SLOT_BARRED] = "barred",     [SLOT_LEAVING] = "leaving",
		[SLOT_STAGED] = "staged",     [SLOT_FETCHING] = "fetching",
		[SLOT_STORED] = "stored",     [SLOT_CLEAN] = "clean",
		[SLOT_FILL] = "fill",	      [SLOT_POISONED] = "poisoned",
	};

	return (unsigned)state < ARRAY_SIZE(names) ? names[state] : "invalid";
}
