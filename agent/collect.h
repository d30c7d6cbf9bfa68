/* SPDX-License-Identifier: GPL-2.0-or-later */
/* collect: --collect-host, for a host that will not come back. */
#ifndef USWAP_COLLECT_H
#define USWAP_COLLECT_H

#include <stdbool.h>

/* stores: as in settings. Says what it has done, or why not. */
bool collect_run(const char *stores, const char *host);

#endif
