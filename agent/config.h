/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * config: uswap.conf(5), its drop-ins and command-line values into struct
 * settings. Settings are a function of the files and the flags and nothing
 * else; the machine comes in later (config_resolve_store).
 *
 * One table says everything about a key; --help, --check-config and the tests
 * read the same one.
 *
 * Order, later wins: defaults, uswap.conf, then the drop-ins sorted by file
 * name (one in /etc hides one of the same name in /usr/lib), then flags.
 * "Key=" without a value goes back to the default. Unknown sections and keys
 * are errors. Threads: the control thread.
 */
#ifndef USWAP_CONFIG_H
#define USWAP_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "engine/settings.h"

enum config_type {
	CONFIG_PATH,	  /* char[size], absolute, of a socket */
	CONFIG_BUS,	  /* char[size] */
	CONFIG_FILE,	  /* char[size], absolute, or "" */
	CONFIG_STORE,	  /* char[size], words; each setting adds to it */
	CONFIG_LOG_LEVEL, /* int */
	CONFIG_DEDUP,	  /* int, enum settings_dedup */
	CONFIG_INT,	  /* int */
	CONFIG_UINT,	  /* uint32_t */
	CONFIG_SIZE,	  /* uint64_t bytes */
	CONFIG_TIME,	  /* uint64_t ns */
	CONFIG_SHARE,	  /* double, 0 .. 1 */
	CONFIG_USERS,	  /* allow_uid, nr_allow_uid */
	CONFIG_PROGRAMS,  /* char[size], names of files, " a b " */
	CONFIG_LIMIT,	  /* limit_bytes, limit_share */
};

struct config_key {
	const char *section;
	const char *name;
	enum config_type type;
	size_t offset;	      /* in struct settings */
	size_t size;	      /* of the field */
	int64_t min, max;     /* of numbers, inclusive */
	bool live;	      /* taken over by a reload */
	const char *fallback; /* the default, as one would write it */
	const char *doc;
};

extern const struct config_key config_keys[];
extern const size_t config_nr_keys;

#define CONFIG_MESSAGE 512

typedef void (*config_report_fn)(void *arg, const char *message);

void config_defaults(struct settings *settings);
const struct config_key *config_find(const char *section, const char *name);

/* Sets one key from text; *message (CONFIG_MESSAGE bytes) names key, value and
   what is wrong with it. 0 or -EINVAL; settings are unchanged then. */
int config_set(struct settings *settings, const struct config_key *key, const char *value,
	       char *message);
/* The same from a place ("FILE:LINE: "), which is remembered where it may matter later. */
int config_set_at(struct settings *settings, const struct config_key *key, const char *value,
		  const char *place, char *message);
/* The value of a key as one would write it, in CONFIG_TEXT bytes at most. */
#define CONFIG_TEXT SETTINGS_NAMES_MAX
void config_format(const struct settings *settings, const struct config_key *key, char *text,
		   size_t size);

/* One file; every wrong line is reported as "NAME:LINE: ...". 0 or -EINVAL. */
int config_read(struct settings *settings, FILE *file, const char *name, config_report_fn report,
		void *arg);
/* Defaults, then path and the drop-ins in path.d; path NULL: the system's, where no
   file needs to be. 0 or negative errno, everything wrong being reported. */
int config_load(struct settings *settings, const char *path, config_report_fn report, void *arg);

/* "memory:25%" of this machine's memory, or "memory:1.5G", to "memory:BYTES";
   other stores stay as they are. */
void config_resolve_store(struct settings *settings, uint64_t total_bytes);

#endif
