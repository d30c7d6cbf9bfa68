/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent/options.h"

#include <errno.h>
#include <getopt.h>
#include <string.h>

#include "common/util.h"

#ifndef PACKAGE_VERSION
#define PACKAGE_VERSION "unknown"
#endif

enum {
	OPT_CONFIG = 1000,
	OPT_FOREGROUND,
	OPT_CHECK_CONFIG,
	OPT_CHECK,
	OPT_COLLECT_HOST,
	OPT_VERSION,
	OPT_HELP,
	OPT_KEY, /* + index into config_keys */
};

/* Options that stand for a key of the configuration. */
static const struct {
	const char *option, *section, *key;
} key_options[] = {
	{ "socket", "Agent", "Socket" },
	{ "store", "Store", "Store" },
	{ "bus-address", "Agent", "BusAddress" },
};

static void help(void)
{
	const struct config_key *key;
	const char *section = "";

	printf("Usage: uswap-agent [OPTION...]\n"
	       "The agent of uswap: keeps the cold memory of the programs that attach to it.\n"
	       "\n"
	       "  --config=FILE          read FILE and FILE.d/*.conf instead of uswap.conf\n"
	       "  --socket=PATH          as Socket= below\n"
	       "  --store=SPEC           as Store= below, instead of those; may be repeated\n"
	       "  --bus-address=ADDRESS  as BusAddress= below\n"
	       "  --foreground           for a terminal: say when it is ready and what goes on\n"
	       "  --check-config         check the configuration, print what is in force, exit\n"
	       "  --check                check what this machine can do, line by line, exit\n"
	       "  --collect-host=ID      remove what a host that will not come back has left in a\n"
	       "                         pool of Store=, see uswap-rados(7), exit\n"
	       "  --version              print the version and exit\n"
	       "  --help                 print this and exit\n"
	       "\n"
	       "Keys of uswap.conf(5), with their defaults:\n");
	for (size_t i = 0; i < config_nr_keys; i++) {
		key = &config_keys[i];
		if (strcmp(section, key->section) != 0) {
			section = key->section;
			printf("  [%s]\n", section);
		}
		printf("  %s=%s\n        %s\n", key->name, key->fallback, key->doc);
	}
	printf("\n"
	       "SIGTERM and SIGINT: everything is restored first, then it exits. SIGHUP: [Policy]\n"
	       "and LogLevel= are read again. USWAP_ALLOW_KERNEL=1 in the environment makes it\n"
	       "start on a kernel that --check refuses.\n");
}

static const struct option long_options[] = {
	{ "config", required_argument, NULL, OPT_CONFIG },
	{ "socket", required_argument, NULL, OPT_KEY + 0 },
	{ "store", required_argument, NULL, OPT_KEY + 1 },
	{ "bus-address", required_argument, NULL, OPT_KEY + 2 },
	{ "foreground", no_argument, NULL, OPT_FOREGROUND },
	{ "check-config", no_argument, NULL, OPT_CHECK_CONFIG },
	{ "check", no_argument, NULL, OPT_CHECK },
	{ "collect-host", required_argument, NULL, OPT_COLLECT_HOST },
	{ "version", no_argument, NULL, OPT_VERSION },
	{ "help", no_argument, NULL, OPT_HELP },
	{ NULL, 0, NULL, 0 },
};

static void set_key(struct options *options, unsigned i)
{
	const struct config_key *key = config_find(key_options[i].section, key_options[i].key);
	char *joined;

	assert(key && strcmp(long_options[1 + i].name, key_options[i].option) == 0);
	/* Stores add up, as they do in files. */
	if (key->type == CONFIG_STORE && options->value[key - config_keys] &&
	    asprintf(&joined, "%s %s", options->value[key - config_keys], optarg) >= 0) {
		free(options->stores);
		options->value[key - config_keys] = options->stores = joined;
	} else {
		options->value[key - config_keys] = optarg;
	}
}

int options_parse(struct options *options, int argc, char *argv[])
{
	int c;

	assert(config_nr_keys <= ARRAY_SIZE(options->value));
	*options = (struct options){ .action = OPTIONS_RUN };
	while ((c = getopt_long(argc, argv, "", long_options, NULL)) >= 0) {
		switch (c) {
		case OPT_CONFIG:
			options->config = optarg;
			break;
		case OPT_FOREGROUND:
			options->foreground = true;
			break;
		case OPT_CHECK_CONFIG:
			options->action = OPTIONS_CHECK_CONFIG;
			break;
		case OPT_CHECK:
			options->action = OPTIONS_CHECK;
			break;
		case OPT_COLLECT_HOST:
			options->action = OPTIONS_COLLECT_HOST;
			options->host = optarg;
			break;
		case OPT_VERSION:
			printf("uswap-agent %s\n", PACKAGE_VERSION);
			options->action = OPTIONS_EXIT;
			return 0;
		case OPT_HELP:
			help();
			options->action = OPTIONS_EXIT;
			return 0;
		case '?': /* getopt has said what is wrong */
			return -EINVAL;
		default:
			set_key(options, (unsigned)(c - OPT_KEY));
		}
	}
	if (optind == argc)
		return 0;
	fprintf(stderr, "uswap-agent: \"%s\": it takes options only\n", argv[optind]);
	return -EINVAL;
}

int options_load(const struct options *options, struct settings *settings, config_report_fn report,
		 void *arg)
{
	char message[CONFIG_MESSAGE], line[CONFIG_MESSAGE + 32], place[32];
	const struct config_key *key;
	int result = config_load(settings, options->config, report, arg);

	for (unsigned i = 0; i < ARRAY_SIZE(key_options); i++) {
		key = config_find(key_options[i].section, key_options[i].key);
		if (!options->value[key - config_keys])
			continue;
		if (key->type == CONFIG_STORE) /* instead of those in files */
			(void)config_set(settings, key, "", message);
		snprintf(place, sizeof(place), "--%s: ", key_options[i].option);
		if (config_set_at(settings, key, options->value[key - config_keys], place, message) == 0)
			continue;
		snprintf(line, sizeof(line), "%s%s", place, message);
		report(arg, line);
		result = -EINVAL;
	}
	settings->foreground = options->foreground;
	return result;
}
