/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent/collect.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "backends/store.h"
#include "engine/settings.h"

bool collect_run(const char *stores, const char *host)
{
	char word[SETTINGS_STORE_MAX];
	const char *error = NULL;
	bool any = false, ok = true;
	int64_t n;

	while (store_next_word(&stores, word, sizeof(word))) {
		if (strncmp(word, "rados:", strlen("rados:")) != 0)
			continue;
		any = true;
		n = store_collect_host(word, host, &error);
		if (n < 0)
			fprintf(stderr, "uswap-agent: %s\n", error);
		else
			printf("host %s: %" PRId64 " segments removed, its clients are blocklisted\n", host, n);
		ok &= n >= 0;
	}
	if (!any)
		fprintf(stderr, "uswap-agent: Store= names no pool (rados:)\n");
	return any && ok;
}
