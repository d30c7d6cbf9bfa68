/* SPDX-License-Identifier: GPL-2.0-or-later */
/* ctl: what the files of uswapctl share. One thread, one connection. */
#ifndef USWAP_CTL_H
#define USWAP_CTL_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <systemd/sd-bus.h>

#define BUS_NAME "org.uswap1"
#define MANAGER_PATH "/org/uswap1"
#define MANAGER_INTERFACE "org.uswap1.Manager"
#define PROCESS_INTERFACE "org.uswap1.Process"

enum ctl_exit {
	CTL_OK = 0,
	CTL_FAILED = 1,
	CTL_USAGE = 2,
	CTL_NOT_RUNNING = 3,
	CTL_NO_PROCESS = 4,
};

struct ctl {
	/* options */
	bool json, pretty, no_legend, bytes;
	const char *address; /* --address, $USWAP_BUS_ADDRESS or NULL */
	bool all;	     /* --all of orders */
	bool leave;	     /* --leave of drain */
	uint64_t limit;	     /* --limit of run, 0: none */
	bool allow_unmanaged;
	const char *host;    /* --host of gc */

	sd_bus *bus;
};

/* "uswapctl: ..." on stderr. */
void ctl_complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
int ctl_parse_pid(const char *text, uint32_t *pid);

/* bus.c. Those that return int return an enum ctl_exit after complaining. */
int ctl_connect(struct ctl *ctl);
/* Where programs attach: $USWAP_SOCKET or the default. */
const char *ctl_attach_socket(void);
/* A call that never starts an agent; NULL after complaining. */
sd_bus_message *ctl_call_new(struct ctl *ctl, const char *path, const char *interface,
			     const char *member);
/* Sends and waits; m is used up. */
int ctl_call(struct ctl *ctl, sd_bus_message *m, sd_bus_message **reply);
/* An answer that is an error, or a negative errno, as an exit code. */
int ctl_error(const sd_bus_error *error, int r);
int ctl_process_path(struct ctl *ctl, uint32_t pid, char **path);

/* agent.c: the first that exists of those beside this program (in a build tree), then
   fixed. 0 or a negative errno, and path in any case. */
int ctl_find_beside(const char *const *beside, size_t n, const char *fixed, char path[PATH_MAX]);

/* verbs */
int verb_status(struct ctl *ctl, int argc, char *argv[]);
int verb_stats(struct ctl *ctl, int argc, char *argv[]);
int verb_list(struct ctl *ctl, int argc, char *argv[]);
int verb_evict(struct ctl *ctl, int argc, char *argv[]);
int verb_restore(struct ctl *ctl, int argc, char *argv[]);
int verb_disable(struct ctl *ctl, int argc, char *argv[]);
int verb_enable(struct ctl *ctl, int argc, char *argv[]);
int verb_drain(struct ctl *ctl, int argc, char *argv[]);
int verb_verify(struct ctl *ctl, int argc, char *argv[]);
int verb_run(struct ctl *ctl, int argc, char *argv[]);
int verb_gc(struct ctl *ctl, int argc, char *argv[]);
int verb_check(struct ctl *ctl, int argc, char *argv[]);

#endif
