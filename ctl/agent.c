/* SPDX-License-Identifier: GPL-2.0-or-later */
/* check, gc: what the agent's program does by itself, without one that runs. */
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/util.h"
#include "ctl/ctl.h"
#include "ctl/json.h"

#ifndef SBINDIR
#define SBINDIR "/usr/local/sbin"
#endif

int ctl_find_beside(const char *const *beside, size_t n, const char *fixed, char path[PATH_MAX])
{
	char exe[PATH_MAX / 2];
	ssize_t len = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
	char *slash;

	exe[MAX(len, 0)] = '\0';
	slash = strrchr(exe, '/');
	for (size_t i = 0; slash && i < n; i++) {
		snprintf(path, PATH_MAX, "%.*s/%s", (int)(slash - exe), exe, beside[i]);
		if (access(path, R_OK) == 0)
			return 0;
	}
	snprintf(path, PATH_MAX, "%s", fixed);
	return access(path, R_OK) < 0 ? -errno : 0;
}

static int run_agent(const char *option)
{
	static const char *const beside[] = { "../agent/uswap-agent", "uswap-agent",
					      "../sbin/uswap-agent" };
	char path[PATH_MAX];
	int r = ctl_find_beside(beside, ARRAY_SIZE(beside), SBINDIR "/uswap-agent", path);

	if (r == 0) {
		execl(path, "uswap-agent", option, (char *)NULL);
		r = -errno;
	}
	ctl_complain("%s: %s", path, strerror(-r));
	return CTL_FAILED;
}

/* "ok|warn|FAIL  what: detail", as agent/checks.h has it, as an object. */
static void print_line(struct json *json, char *line)
{
	size_t n = strcspn(line, " ");
	char *what = line + n + strspn(line + n, " ");
	char *detail = strstr(what, ": ");

	if (!detail)
		return;
	line[n] = *detail = '\0';
	json_open(json, NULL, '{');
	json_text(json, "what", what);
	json_text(json, "result", strcmp(line, "FAIL") == 0 ? "fail" : line);
	json_text(json, "detail", detail + 2);
	json_close(json, '}');
}

static void print_lines(const struct ctl *ctl, FILE *lines)
{
	struct json json = { .pretty = ctl->pretty };
	char line[1024];

	json_open(&json, NULL, '{');
	json_open(&json, "checks", '[');
	while (fgets(line, sizeof(line), lines)) {
		line[strcspn(line, "\n")] = '\0';
		print_line(&json, line);
	}
	json_close(&json, ']');
	json_close(&json, '}');
}

/* Its lines go through us. */
static int check_json(const struct ctl *ctl)
{
	int ends[2], status = 0;
	FILE *lines;
	pid_t child;

	signal(SIGCHLD, SIG_DFL); /* ignored, it would take the status */
	if (pipe(ends) < 0 || !(lines = fdopen(ends[0], "r")) || (child = fork()) < 0) {
		ctl_complain("check: %s", strerror(errno));
		return CTL_FAILED;
	}
	if (child == 0) {
		dup2(ends[1], STDOUT_FILENO);
		close(ends[0]);
		close(ends[1]);
		_exit(run_agent("--check"));
	}
	close(ends[1]);
	print_lines(ctl, lines);
	fclose(lines);
	if (waitpid(child, &status, 0) < 0 || !WIFEXITED(status))
		return CTL_FAILED;
	return WEXITSTATUS(status);
}

int verb_check(struct ctl *ctl, int argc, char *argv[])
{
	return ctl->json ? check_json(ctl) : run_agent("--check");
}

int verb_gc(struct ctl *ctl, int argc, char *argv[])
{
	char option[64];

	if (!ctl->host) {
		ctl_complain("gc: --host=ID says whose segments go");
		return CTL_USAGE;
	}
	if (snprintf(option, sizeof(option), "--collect-host=%s", ctl->host) >= (int)sizeof(option)) {
		ctl_complain("--host=%.40s...: is no host id", ctl->host);
		return CTL_USAGE;
	}
	return run_agent(option);
}
