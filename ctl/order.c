/* SPDX-License-Identifier: GPL-2.0-or-later */
/* evict, restore, drain: the call waits until the agent has done it; meanwhile
   its counters are polled and shown, if somebody is looking. disable, enable:
   whether anything may leave. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/units.h"
#include "common/util.h"
#include "ctl/ctl.h"
#include "ctl/json.h"

#define POLL_USEC 200000

struct kind {
	const char *verb, *method;
	const char *doing, *left, *done; /* words for people */
	bool all, size;			 /* takes PID or --all; SIZE */
};

static const struct kind evict = { "evict",   "Evict", "evicting", "are out",
				   "evicted", true,    true };
static const struct kind restore = { "restore",	 "Restore", "restoring", "left",
				     "restored", true,	    false };
static const struct kind disable = { .verb = "disable", .all = true };
static const struct kind enable = { .verb = "enable", .all = true };
static const struct kind drain = { "drain", "Drain", "restoring",
				   "left",  "restored; the agent has ended", false, false };
static const struct kind leave = { "drain", "Drain", "leaving",
				   "are out", "restored; the agent has ended, programs wait for the next", false, false };

struct pending {
	const struct kind *kind;
	const char *path, *interface;
	bool done;
	bool shown; /* progress, in the line that is written to next */
	int code;
	uint64_t bytes;
};

static void clear_progress(struct pending *p)
{
	if (p->shown)
		fputs("\r\033[K", stderr);
	p->shown = false;
}

static int on_reply(sd_bus_message *m, void *userdata, sd_bus_error *ret_error)
{
	struct pending *p = userdata;
	const sd_bus_error *error = sd_bus_message_get_error(m);
	int r;

	p->done = true;
	clear_progress(p);
	if (error) {
		p->code = ctl_error(error, -sd_bus_message_get_errno(m));
		return 0;
	}
	r = sd_bus_message_read(m, "t", &p->bytes);
	p->code = r < 0 ? ctl_error(NULL, r) : CTL_OK;
	return 0;
}

static void show_progress(struct ctl *ctl, struct pending *p)
{
	char text[UNITS_TEXT];
	uint64_t evicted;

	if (sd_bus_get_property_trivial(ctl->bus, BUS_NAME, p->path, p->interface, "EvictedBytes",
					NULL, 't', &evicted) < 0)
		return;
	units_format_size(text, evicted);
	fprintf(stderr, "\r\033[K%s: %s %s", p->kind->doing, text, p->kind->left);
	fflush(stderr);
	p->shown = true;
}

static int wait_for_reply(struct ctl *ctl, struct pending *p)
{
	bool watched = isatty(STDERR_FILENO) && !ctl->json;
	int r = 0;

	while (!p->done && r >= 0) {
		r = sd_bus_process(ctl->bus, NULL);
		if (r != 0)
			continue;
		r = sd_bus_wait(ctl->bus, watched ? POLL_USEC : UINT64_MAX);
		if (r == -EINTR)
			r = 0;
		if (r == 0 && watched && !p->done)
			show_progress(ctl, p);
	}
	clear_progress(p);
	return p->done ? p->code : ctl_error(NULL, r);
}

static int send_order(struct ctl *ctl, struct pending *p, uint64_t bytes)
{
	sd_bus_message *m = ctl_call_new(ctl, p->path, p->interface, p->kind->method);
	int r;

	if (!m)
		return CTL_FAILED;
	r = p->kind->size ? sd_bus_message_append(m, "ta{sv}", bytes, 0) :
	    p->kind == &leave ? sd_bus_message_append(m, "a{sv}", 1, "leave", "b", 1) :
				sd_bus_message_append(m, "a{sv}", 0);
	if (r >= 0) /* it takes as long as it takes */
		r = sd_bus_call_async(ctl->bus, NULL, m, on_reply, p, UINT64_MAX);
	sd_bus_message_unref(m);
	return r < 0 ? ctl_error(NULL, r) : wait_for_reply(ctl, p);
}

static void print_result(const struct ctl *ctl, const struct pending *p)
{
	struct json json = { .pretty = ctl->pretty };
	char text[UNITS_TEXT];

	if (ctl->json) {
		json_open(&json, NULL, '{');
		json_number(&json, "bytes", p->bytes);
		json_close(&json, '}');
	} else if (ctl->bytes) {
		printf("%" PRIu64 "\n", p->bytes);
	} else {
		printf("%s %s\n", units_format_size(text, p->bytes), p->kind->done);
	}
}

/* argv: PID or nothing with --all, then SIZE for evict. */
static int parse(const struct ctl *ctl, int argc, char *argv[], const struct kind *kind,
		 uint32_t *pid, uint64_t *bytes)
{
	int sizes = argc - !ctl->all;

	if (sizes < 0 || sizes > kind->size) {
		ctl_complain("usage: %s PID|--all%s", kind->verb, kind->size ? " [SIZE]" : "");
		return CTL_USAGE;
	}
	if (!ctl->all && ctl_parse_pid(argv[0], pid) != CTL_OK)
		return CTL_USAGE;
	if (sizes && (units_parse_size(argv[argc - 1], bytes) < 0 || *bytes == 0)) {
		ctl_complain("\"%s\" is not a size such as 64M", argv[argc - 1]);
		return CTL_USAGE;
	}
	return CTL_OK;
}

static int carry_out(struct ctl *ctl, const struct kind *kind, const char *path, uint64_t bytes)
{
	struct pending p = { .kind = kind,
			     .path = path ? path : MANAGER_PATH,
			     .interface = path ? PROCESS_INTERFACE : MANAGER_INTERFACE };
	int code = send_order(ctl, &p, bytes);

	if (code == CTL_OK)
		print_result(ctl, &p);
	return code;
}

static int set_enabled(struct ctl *ctl, const char *path, bool enabled)
{
	sd_bus_message *m = ctl_call_new(ctl, path ? path : MANAGER_PATH, "org.freedesktop.DBus.Properties",
					 "Set");
	int r;

	if (!m)
		return CTL_FAILED;
	r = sd_bus_message_append(m, "ssv", path ? PROCESS_INTERFACE : MANAGER_INTERFACE, "EvictionEnabled",
				  "b", (int)enabled);
	if (r < 0) {
		sd_bus_message_unref(m);
		return ctl_error(NULL, r);
	}
	return ctl_call(ctl, m, NULL);
}

static int order(struct ctl *ctl, int argc, char *argv[], const struct kind *kind)
{
	_cleanup_free_ char *path = NULL;
	uint64_t bytes = 0; /* all that can go */
	uint32_t pid = 0;
	int code = kind->all ? parse(ctl, argc, argv, kind, &pid, &bytes) : CTL_OK;

	if (code == CTL_OK)
		code = ctl_connect(ctl);
	if (code == CTL_OK && pid)
		code = ctl_process_path(ctl, pid, &path);
	if (code != CTL_OK)
		return code;
	return kind->method ? carry_out(ctl, kind, path, bytes) : set_enabled(ctl, path, kind == &enable);
}

int verb_evict(struct ctl *ctl, int argc, char *argv[])
{
	return order(ctl, argc, argv, &evict);
}

int verb_restore(struct ctl *ctl, int argc, char *argv[])
{
	return order(ctl, argc, argv, &restore);
}

int verb_disable(struct ctl *ctl, int argc, char *argv[])
{
	return order(ctl, argc, argv, &disable);
}

int verb_enable(struct ctl *ctl, int argc, char *argv[])
{
	return order(ctl, argc, argv, &enable);
}

int verb_drain(struct ctl *ctl, int argc, char *argv[])
{
	return order(ctl, argc, argv, ctl->leave ? &leave : &drain);
}
