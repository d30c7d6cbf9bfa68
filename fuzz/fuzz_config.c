/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A configuration file: whatever it holds is taken or refused line by line, and
   what was taken is accepted again as it is shown. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void report(void *arg, const char *message)
{
	(void)arg;
	if (!strstr(message, "fuzz:"))
		abort(); /* every complaint names the place */
}

static void take_again(const struct settings *settings, const struct config_key *key)
{
	static char text[16384], message[CONFIG_MESSAGE];
	struct settings again;

	config_format(settings, key, text, sizeof(text));
	config_defaults(&again);
	if (config_set(&again, key, text, message) < 0) {
		fprintf(stderr, "%s=%s is shown and not taken: %s\n", key->name, text, message);
		abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct settings settings;
	FILE *file;

	if (size == 0)
		return 0;
	file = fmemopen((void *)(uintptr_t)data, size, "r");
	config_defaults(&settings);
	(void)config_read(&settings, file, "fuzz", report, NULL);
	fclose(file);
	for (size_t i = 0; i < config_nr_keys; i++)
		take_again(&settings, &config_keys[i]);
	config_resolve_store(&settings, (uint64_t)1 << 33);
	return 0;
}
