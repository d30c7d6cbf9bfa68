/* SPDX-License-Identifier: GPL-2.0-or-later */
/* setup: what the agent asks of the kernel for its own process. */
#ifndef USWAP_SETUP_H
#define USWAP_SETUP_H

#include <stdbool.h>

/* Blocks signals for this thread and all it will start; those that report a
   fault of our own stay open. SIGPIPE is ignored. */
void setup_signals(void);
/* No core (it would hold other people's memory), as many descriptors as may be
   had, memory locked if that can't fail half-way. Says what it couldn't do. */
void setup_limits(void);

/* Has this process the effective capability? */
bool setup_has_capability(int capability);
/* May it lock all of its memory, whatever it grows to? */
bool setup_may_lock(void);

#endif
