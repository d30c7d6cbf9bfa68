/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "sys/meminfo.h"

#include <inttypes.h>
#include <stdio.h>

uint64_t meminfo_available(void)
{
	FILE *file = fopen("/proc/meminfo", "re");
	uint64_t kib = 0;
	char line[128];

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "MemAvailable: %" SCNu64 " kB", &kib) == 1)
			break;
	if (file)
		fclose(file);
	return kib ? kib << 10 : UINT64_MAX;
}
