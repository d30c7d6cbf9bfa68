/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * run: starts another program. COMMAND replaces uswapctl by exec, so that
 * its pid, signals and exit status are its own. A limit has to wait until it
 * has attached: a helper, child of nobody, sets it then.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

#include "common/units.h"
#include "common/util.h"
#include "ctl/ctl.h"
#include "ctl/program.h"

#ifndef PKGLIBDIR
#define PKGLIBDIR "/usr/local/lib/uswap"
#endif

#define EXIT_CANT_RUN 126 /* as env(1) and the shells have it */
#define EXIT_NOT_FOUND 127
#define ATTACH_WAIT_MS 10000
#define ATTACH_POLL_MS 20

static int find_library(char path[PATH_MAX])
{
	static const char *const beside[] = { "../preload/libuswap.so",
					      "../preload/.libs/libuswap.so",
					      "../../preload/.libs/libuswap.so" };
	const char *given = getenv("USWAP_LIBRARY");
	char real[PATH_MAX];
	int r;

	if (given && *given)
		r = snprintf(path, PATH_MAX, "%s", given) >= PATH_MAX ? -ENAMETOOLONG :
			access(path, R_OK) < 0			      ? -errno :
									0;
	else
		r = ctl_find_beside(beside, ARRAY_SIZE(beside), PKGLIBDIR "/libuswap.so", path);
	if (r == 0 && !realpath(path, real))
		r = -errno;
	if (r < 0) {
		ctl_complain("%s: %s", path, strerror(-r));
		return CTL_FAILED;
	}
	strcpy(path, real);
	if (!strpbrk(path, " :"))
		return CTL_OK;
	ctl_complain("%s: LD_PRELOAD takes no path with a space or a colon", path);
	return CTL_FAILED;
}

/* Would a program be let in? With socket activation, connecting is enough. */
static int check_agent(const struct ctl *ctl)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	const char *path = ctl_attach_socket();

	if (strlen(path) < sizeof(addr.sun_path)) {
		strcpy(addr.sun_path, path);
		if (fd >= 0 && connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0)
			return CTL_OK;
	} else {
		errno = ENAMETOOLONG;
	}
	ctl_complain("the agent is not running (%s: %s)%s", path, strerror(errno),
		     ctl->allow_unmanaged ? ": the program runs without it" : "");
	return ctl->allow_unmanaged ? CTL_OK : CTL_NOT_RUNNING;
}

/* What we live under, COMMAND can live under: libuswap(7) could not know. */
static void tell_filters(void)
{
	FILE *f = fopen("/proc/self/status", "re");
	char line[128], text[16];
	unsigned filters;

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "Seccomp_filters: %u", &filters) == 1) {
			snprintf(text, sizeof(text), "%u", filters);
			setenv("USWAP_FILTERS", text, 1);
		}
	if (f)
		fclose(f);
}

static int preload(const char *library)
{
	const char *old = getenv("LD_PRELOAD");
	_cleanup_free_ char *new = NULL;

	if (asprintf(&new, "%s%s%s", old ? old : "", old && *old ? ":" : "", library) < 0 ||
	    setenv("LD_PRELOAD", new, 1) < 0) {
		ctl_complain("LD_PRELOAD: %s", strerror(errno));
		return CTL_FAILED;
	}
	tell_filters();
	return CTL_OK;
}

/* ---- the helper of --limit ---- */

static int try_limit(struct ctl *ctl, uint32_t pid)
{
	sd_bus_error error = SD_BUS_ERROR_NULL;
	sd_bus_message *reply = NULL;
	const char *path;
	int r, code = CTL_NO_PROCESS;

	r = sd_bus_call_method(ctl->bus, BUS_NAME, MANAGER_PATH, MANAGER_INTERFACE,
			       "GetProcessByPID", &error, &reply, "u", pid);
	if (r >= 0)
		r = sd_bus_message_read(reply, "o", &path);
	if (r >= 0)
		r = sd_bus_set_property(ctl->bus, BUS_NAME, path, PROCESS_INTERFACE, "LimitBytes",
					&error, "t", ctl->limit);
	if (r >= 0)
		code = CTL_OK;
	else if (!sd_bus_error_has_name(&error, BUS_NAME ".NoSuchProcess"))
		code = ctl_error(&error, r);
	sd_bus_error_free(&error);
	sd_bus_message_unref(reply);
	return code;
}

/* Until the program has attached, has ended, or seems not to attach at all.
   stderr stays open for the one message; a reader of it waits as long. */
static int set_limit_when_attached(struct ctl *ctl, int pidfd, uint32_t pid)
{
	struct pollfd wait = { .fd = pidfd, .events = POLLIN };
	int code = ctl_connect(ctl);

	for (int ms = 0; code == CTL_OK && ms < ATTACH_WAIT_MS; ms += ATTACH_POLL_MS) {
		code = try_limit(ctl, pid);
		if (code == CTL_OK || poll(&wait, 1, code == CTL_NO_PROCESS ? ATTACH_POLL_MS : 0) > 0)
			return CTL_OK;
		if (code == CTL_NO_PROCESS)
			code = CTL_OK;
	}
	ctl_complain("process %u %sruns without its limit", pid, code == CTL_OK ? "has not attached: it " : "");
	return CTL_FAILED;
}

static void helper(struct ctl *ctl, int pidfd, uint32_t pid)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	setsid();
	if (null >= 0) {
		dup2(null, STDIN_FILENO);
		dup2(null, STDOUT_FILENO);
	}
	pidfd = fcntl(pidfd, F_DUPFD_CLOEXEC, 3);
	if (pidfd > 3) {
		dup2(pidfd, 3);
		pidfd = 3;
	}
	closefrom(4);
	_exit(set_limit_when_attached(ctl, pidfd, pid));
}

static int start_helper(struct ctl *ctl)
{
	uint32_t pid = (uint32_t)getpid();
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0), status = 0;
	pid_t child;

	if (pidfd < 0) {
		ctl_complain("pidfd_open: %s", strerror(errno));
		return CTL_FAILED;
	}
	child = fork();
	if (child == 0) {
		/* twice, so that COMMAND has no child it doesn't know */
		child = fork();
		if (child == 0)
			helper(ctl, pidfd, pid);
		_exit(child < 0);
	}
	close(pidfd);
	if (child > 0)
		(void)waitpid(child, &status, 0); /* in vain where SIGCHLD is ignored */
	if (child < 0 || status) {
		ctl_complain("no process can be made that sets the limit");
		return CTL_FAILED;
	}
	return CTL_OK;
}

static int cant_run(const char *name, int error)
{
	ctl_complain("%s: %s", name, strerror(error));
	return error == ENOENT ? EXIT_NOT_FOUND : EXIT_CANT_RUN;
}

int verb_run(struct ctl *ctl, int argc, char *argv[])
{
	char library[PATH_MAX], path[PATH_MAX], why[PROGRAM_WHY];
	int code, r;

	if (argc == 0) {
		ctl_complain("usage: run [--limit=SIZE] [--allow-unmanaged] -- COMMAND [ARG...]");
		return CTL_USAGE;
	}
	code = find_library(library);
	if (code != CTL_OK)
		return code;
	r = program_find(argv[0], path);
	if (r < 0)
		return cant_run(argv[0], -r);
	r = program_check(path, library, why);
	if (r < 0) {
		ctl_complain("%s", why);
		return CTL_FAILED;
	}
	code = check_agent(ctl);
	if (code == CTL_OK)
		code = preload(library);
	if (code == CTL_OK && ctl->limit)
		code = start_helper(ctl);
	if (code != CTL_OK)
		return code;
	execvp(argv[0], argv);
	return cant_run(argv[0], errno);
}
