/* SPDX-License-Identifier: GPL-2.0-or-later */
/* options: the command line of uswap-agent. */
#ifndef USWAP_OPTIONS_H
#define USWAP_OPTIONS_H

#include "agent/config.h"

enum options_action {
	OPTIONS_RUN,
	OPTIONS_CHECK,
	OPTIONS_CHECK_CONFIG,
	OPTIONS_COLLECT_HOST,
	OPTIONS_EXIT, /* --help, --version: done */
};

struct options {
	enum options_action action;
	const char *config; /* NULL: the system's */
	bool foreground;
	const char *host; /* OPTIONS_COLLECT_HOST: whose */
	/* by index into config_keys; NULL: not given */
	const char *value[64];
	char *stores; /* behind value, where --store was repeated */
};

/* 0, or -EINVAL after a message on stderr. */
int options_parse(struct options *options, int argc, char *argv[]);
/* Files, then flags. 0 or negative errno, everything wrong being reported. */
int options_load(const struct options *options, struct settings *settings, config_report_fn report,
		 void *arg);

#endif
