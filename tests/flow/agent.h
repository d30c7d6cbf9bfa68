/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What agent.c and crash.c have of each other. */
#ifndef USWAP_TESTS_FLOW_AGENT_H
#define USWAP_TESTS_FLOW_AGENT_H

#include "engine/private.h"
#include "world.h"

extern struct engine engine; /* of which only what the steps and recovery use */

/* agent.c: all that is a worker's own, on what is kept, if anything is. */
void agent_open_worker(void);
/* What is opened again for a program when keeper and worker have died. */
void agent_open_proc(int mm, struct record *record);
/* One action, as it is. */
void agent_act(const struct action *a);

/* crash.c: of scenarios in which the worker may die. */
bool crash_is_on(void);
/* It may now. */
bool crash_may(void);
void crash_open(void);
void crash_keep(struct session *s);
unsigned crash_stored(void); /* descriptors with the service manager */
bool crash_now(unsigned again);
bool crash_inside(const struct action *a, unsigned point);

#endif
