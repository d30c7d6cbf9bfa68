/* SPDX-License-Identifier: GPL-2.0-or-later */
/* show: figures as tables for people, and as JSON. */
#ifndef USWAP_CTL_SHOW_H
#define USWAP_CTL_SHOW_H

#include "ctl/figures.h"

void show_status(const struct ctl *ctl, const struct figures *agent, struct figures *v, size_t n);
void show_list(const struct ctl *ctl, const struct figures *agent, const struct figures *v,
	       size_t n);
void show_stats(const struct ctl *ctl, const struct figures *f);
/* {"agent": {...}, "processes": [...]}; agent may be NULL. */
void show_json(const struct ctl *ctl, const struct figures *agent, const struct figures *v,
	       size_t n);

#endif
