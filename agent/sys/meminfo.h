/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the machine's memory has to give. Any thread; reads a file. */
#ifndef USWAP_SYS_MEMINFO_H
#define USWAP_SYS_MEMINFO_H

#include <stdint.h>

/* MemAvailable of /proc/meminfo, in bytes; UINT64_MAX when it can't be known. */
uint64_t meminfo_available(void);

#endif
