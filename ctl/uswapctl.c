/* SPDX-License-Identifier: GPL-2.0-or-later */
/* uswapctl: the command line of uswap. See uswapctl(1). */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/units.h"
#include "common/util.h"
#include "ctl/ctl.h"
#include "ctl/figures.h"

#ifndef PACKAGE_VERSION
#define PACKAGE_VERSION "unknown"
#endif

enum {
	OPT_JSON = 1000,
	OPT_ADDRESS,
	OPT_VERSION,
	OPT_ALL,
	OPT_LIMIT,
	OPT_ALLOW_UNMANAGED,
	OPT_HOST,
	OPT_LEAVE,
};

/* Options of all verbs, then those of some. */
static const struct option long_options[] = {
	{ "json", optional_argument, NULL, OPT_JSON },
	{ "no-legend", no_argument, NULL, 'n' },
	{ "bytes", no_argument, NULL, 'b' },
	{ "address", required_argument, NULL, OPT_ADDRESS },
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, OPT_VERSION },
	{ "all", no_argument, NULL, OPT_ALL },
	{ "limit", required_argument, NULL, OPT_LIMIT },
	{ "allow-unmanaged", no_argument, NULL, OPT_ALLOW_UNMANAGED },
	{ "host", required_argument, NULL, OPT_HOST },
	{ "leave", no_argument, NULL, OPT_LEAVE },
	{ NULL, 0, NULL, 0 },
};

void ctl_complain(const char *format, ...)
{
	va_list ap;

	fflush(stdout);
	fputs("uswapctl: ", stderr);
	va_start(ap, format);
	vfprintf(stderr, format, ap);
	va_end(ap);
	fputc('\n', stderr);
}

int ctl_parse_pid(const char *text, uint32_t *pid)
{
	int64_t number;

	if (units_parse_number(text, &number) < 0 || number <= 0 || number > INT32_MAX) {
		ctl_complain("\"%s\" is not a process id", text);
		return CTL_USAGE;
	}
	*pid = (uint32_t)number;
	return CTL_OK;
}

static int verb_version(struct ctl *ctl, int argc, char *argv[])
{
	printf("uswapctl %s\n", PACKAGE_VERSION);
	return CTL_OK;
}

static int verb_help(struct ctl *ctl, int argc, char *argv[])
{
	printf("Usage: uswapctl [OPTION...] [VERB] [ARGUMENT...]\n"
	       "Looks at and directs the userspace swap agent.\n"
	       "\n"
	       "Verbs:\n"
	       "  status                     overview (the default)\n"
	       "  stats [PID...]             all figures, of all programs or of those named\n"
	       "  list                       one line for each program\n"
	       "  evict PID|--all [SIZE]     take SIZE of memory out now, or all that can go\n"
	       "  restore PID|--all          give everything back now\n"
	       "  disable, enable PID|--all  let nothing leave any more, or again\n"
	       "  drain                      give everything back, and end the agent\n"
	       "  verify                     read every stored page again, exit 1 if any is damaged\n"
	       "  run [--limit=SIZE] [--allow-unmanaged] -- COMMAND [ARG...]\n"
	       "                             run COMMAND under uswap, at most SIZE of it resident\n"
	       "  check                      what this machine can do, line by line\n"
	       "  gc --host=ID               remove what a host has left in a Ceph pool that will\n"
	       "                             not come back\n"
	       "  version, help\n"
	       "\n"
	       "Options:\n"
	       "  --json[=pretty|short|off]  for programs; bytes and times in the unit of the key\n"
	       "  -n, --no-legend            tables without head and sum\n"
	       "  -b, --bytes                sizes in bytes\n"
	       "  --address=ADDRESS          D-Bus address of a bus, or path of a control.sock\n"
	       "  --all                      evict, restore, disable, enable: all programs\n"
	       "  --limit=SIZE               run: resident memory COMMAND is held to\n"
	       "  --leave                    drain: give nothing back, programs wait for the next agent\n"
	       "  --allow-unmanaged          run: run COMMAND even if the agent is not running\n"
	       "  --host=ID                  gc: the host\n"
	       "  -h, --help, --version\n"
	       "\n"
	       "The agent is found at --address or $USWAP_BUS_ADDRESS, else beside $USWAP_SOCKET,\n"
	       "else on the system bus, else beside /run/uswap/agent.sock. It is never started.\n"
	       "run takes the library from $USWAP_LIBRARY, if that is set.\n"
	       "\n"
	       "Terms: evicted, memory that is with the agent. Stored, the compressed bytes of it;\n"
	       "staged, the part not compressed yet. Ratio, evicted / (staged + stored). Held, all\n"
	       "memory the agent keeps, tables and gaps too. Same, the share of same-filled pages in\n"
	       "the evicted; dup, of pages stored already in all ever taken out. Refault, a fault\n"
	       "on an evicted page; p50 and p99, its service time in the agent (upper bounds).\n"
	       "Stall, time that threads waited for the agent.\n"
	       "\n"
	       "Exit status: 0 done, 1 failed, 2 wrong usage, 3 the agent is not running, 4 no such\n"
	       "process. run: COMMAND's own; 126 it can't be executed, 127 it isn't found.\n"
	       "\n"
	       "Keys of --json, in \"agent\" and in each of \"processes\" where it applies:\n");
	for (size_t i = 0; i < nr_figure_rows; i++)
		printf("  %-26s %s\n", figure_rows[i].key,
		       figure_rows[i].label + strspn(figure_rows[i].label, " "));
	printf("  ratio, same_filled_share, duplicate_share, collect_share (of the time that packing,\n"
	       "  decompressing and collecting take), pack_usec_per_page, unpack_usec_per_page,\n"
	       "  refault_latency_p50_ns, refault_latency_p99_ns,\n"
	       "  refault_latency_histogram [up_to_ns, count], tiers, each with\n");
	for (size_t i = 0; i < nr_tier_rows; i++)
		printf("    %-24s %s\n", tier_rows[i].key,
		       tier_rows[i].label + strspn(tier_rows[i].label, " "));
	printf("    rewritten_per_byte       written again, for each byte\n"
	       "evict, restore and drain print one key, bytes: what was moved. verify prints\n"
	       "good_pages, damaged_pages, unread_pages, wrong_accounts, wrong_references,\n"
	       "not_found_pages and unsettled_pages; check prints checks, each with what,\n"
	       "result (ok, warn or fail) and detail.\n");
	return CTL_OK;
}

static const struct verb {
	const char *name;
	int (*run)(struct ctl *ctl, int argc, char *argv[]);
	int max_args; /* -1: it looks itself */
	bool all, command; /* takes --all; COMMAND and its options */
	bool text;	   /* and no --json: what is printed is not ours, or for people */
} verbs[] = {
	{ "status", verb_status, 0, false, false, false },
	{ "stats", verb_stats, -1, false, false, false },
	{ "list", verb_list, 0, false, false, false },
	{ "evict", verb_evict, -1, true, false, false },
	{ "restore", verb_restore, -1, true, false, false },
	{ "disable", verb_disable, -1, true, false, false },
	{ "enable", verb_enable, -1, true, false, false },
	{ "drain", verb_drain, 0, false, false, false },
	{ "verify", verb_verify, 0, false, false, false },
	{ "run", verb_run, -1, false, true, true },
	{ "check", verb_check, 0, false, false, false },
	{ "gc", verb_gc, 0, false, false, true },
	{ "version", verb_version, 0, false, false, true },
	{ "help", verb_help, 0, false, false, true },
};

static const struct verb *find_verb(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
		if (strcmp(verbs[i].name, name) == 0)
			return &verbs[i];
	return NULL;
}

static int set_json(struct ctl *ctl, const char *how)
{
	if (!how)
		how = "pretty";
	ctl->json = strcmp(how, "off") != 0;
	ctl->pretty = strcmp(how, "pretty") == 0;
	if (!ctl->json || ctl->pretty || strcmp(how, "short") == 0)
		return CTL_OK;
	ctl_complain("--json=%s: it is pretty, short or off", how);
	return CTL_USAGE;
}

static int set_limit(struct ctl *ctl, const char *size)
{
	if (units_parse_size(size, &ctl->limit) == 0 && ctl->limit)
		return CTL_OK;
	ctl_complain("--limit=%s: not a size such as 512M", size);
	return CTL_USAGE;
}

/* One option; *verb becomes help or version if it asks for that. */
static int set_option(struct ctl *ctl, int c, const struct verb **verb)
{
	switch (c) {
	case OPT_JSON:
		return set_json(ctl, optarg);
	case 'n':
		ctl->no_legend = true;
		return CTL_OK;
	case 'b':
		ctl->bytes = true;
		return CTL_OK;
	case OPT_ADDRESS:
		ctl->address = optarg;
		return CTL_OK;
	case 'h':
		*verb = find_verb("help");
		return CTL_OK;
	case OPT_VERSION:
		*verb = find_verb("version");
		return CTL_OK;
	case OPT_ALL:
		ctl->all = true;
		return CTL_OK;
	case OPT_LIMIT:
		return set_limit(ctl, optarg);
	case OPT_HOST:
		ctl->host = optarg;
		return CTL_OK;
	case OPT_LEAVE:
		ctl->leave = true;
		return CTL_OK;
	case OPT_ALLOW_UNMANAGED:
		ctl->allow_unmanaged = true;
		return CTL_OK;
	}
	return CTL_USAGE;
}

/* Options from argv[1] on, up to the first argument if stop; returns an exit
   code, optind tells where it stopped. */
static int parse_options(struct ctl *ctl, int argc, char *argv[], bool stop,
			 const struct verb **verb)
{
	int c, code = CTL_OK;

	optind = 0; /* starts getopt afresh */
	opterr = 0;
	while (code == CTL_OK &&
	       (c = getopt_long(argc, argv, stop ? "+:nbh" : ":nbh", long_options, NULL)) >= 0) {
		if (c == ':')
			ctl_complain("%s needs a value", argv[optind - 1]);
		else if (c == '?' && optopt && !strchr("nbh", optopt) && optopt < 256)
			ctl_complain("unknown option -%c", optopt);
		else if (c == '?')
			ctl_complain("unknown option %s, or a value it doesn't take",
				     argv[optind - 1]);
		code = c == ':' || c == '?' ? CTL_USAGE : set_option(ctl, c, verb);
	}
	return code;
}

static int check_usage(const struct ctl *ctl, const struct verb *verb, int argc)
{
	if (ctl->all && !verb->all)
		ctl_complain("%s: takes no --all", verb->name);
	else if (ctl->leave && verb->run != verb_drain)
		ctl_complain("%s: takes no --leave", verb->name);
	else if ((ctl->limit || ctl->allow_unmanaged) && !verb->command)
		ctl_complain("%s: --limit and --allow-unmanaged are for run", verb->name);
	else if (ctl->host && verb->run != verb_gc)
		ctl_complain("%s: --host is for gc", verb->name);
	else if (ctl->json && verb->text)
		ctl_complain("%s: takes no --json", verb->name);
	else if (verb->max_args >= 0 && argc > verb->max_args)
		ctl_complain("%s: takes no arguments", verb->name);
	else
		return CTL_OK;
	return CTL_USAGE;
}

/* What is closed must not become the connection to the agent, or what we say would go
   there. To COMMAND it stays closed. */
static void fill_standard_places(void)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	while (fd >= 0 && fd <= STDERR_FILENO)
		fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	safe_close(fd);
}

/* What was printed into a full disk or a closed pipe is not done. */
static int end_output(int code)
{
	bool failed = ferror(stdout);

	errno = EIO; /* of what has failed before */
	if ((fflush(stdout) == 0 && !failed) || code != CTL_OK)
		return code;
	ctl_complain("standard output: %s", strerror(errno));
	return CTL_FAILED;
}

int main(int argc, char *argv[])
{
	const char *env = getenv("USWAP_BUS_ADDRESS");
	struct ctl ctl = { .address = env && *env ? env : NULL };
	const struct verb *asked = NULL; /* by --help or --version */
	const struct verb *verb = find_verb("status");
	int code;

	fill_standard_places();
	code = parse_options(&ctl, argc, argv, true, &asked);
	argc -= optind;
	argv += optind;
	if (code == CTL_OK && argc > 0 && !asked) {
		verb = find_verb(argv[0]);
		if (!verb) {
			ctl_complain("unknown verb \"%s\"; uswapctl help lists them", argv[0]);
			return CTL_USAGE;
		}
		code = parse_options(&ctl, argc, argv, verb->command, &asked);
		argc -= optind;
		argv += optind;
	}
	if (code == CTL_OK && asked) {
		verb = asked;
		argc = 0;
	} else if (code == CTL_OK) {
		code = check_usage(&ctl, verb, argc);
	}
	if (code == CTL_OK)
		code = verb->run(&ctl, argc, argv);
	sd_bus_flush_close_unref(ctl.bus);
	return end_output(code);
}
