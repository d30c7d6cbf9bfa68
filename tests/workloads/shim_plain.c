/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Prints what a program can see of itself and a shim must not change (INV-10):
 * descriptors and where the next one lands, threads, children, signals,
 * directory, process group. The output is to be the same with and without the
 * shim. Exit status 5.
 *
 *   shim_plain [fork|adopter|subreaper|unshare|peak]...
 * fork       the same again in a fork child, and the child's status
 * adopter    this process adopts orphans: its mover is a child of its own, so
 *            waitpid(__WALL) is left out
 * subreaper  become a subreaper and execute this program again, as an adopter
 * unshare    what namespaces allow: unshare(user), setns(mnt), and a fork
 *            after unshare(pid)
 * peak       print only the most address space it had, in KiB
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static bool adopter;

static void print_names(const char *what, const char *path)
{
	unsigned int n = 0;
	DIR *d = opendir(path);

	printf("%s:", what);
	if (!d) {
		printf(" %s\n", strerror(errno));
		return;
	}
	for (struct dirent *e; (e = readdir(d));) {
		if (e->d_name[0] == '.')
			continue;
		if (!strcmp(what, "fds"))
			printf(" %s", e->d_name);
		n++;
	}
	closedir(d);
	printf(" (%u)\n", n);
}

static void print_status(void)
{
	static const char *const keys[] = { "Threads:", "SigQ:",       "SigPnd:",
					    "ShdPnd:",	"SigBlk:",     "SigIgn:",
					    "SigCgt:",	"NoNewPrivs:", "Seccomp:" };
	char line[256];
	FILE *f = fopen("/proc/self/status", "r");

	while (f && fgets(line, sizeof(line), f))
		for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
			if (!strncmp(line, keys[i], strlen(keys[i])) && strcmp(keys[i], "SigQ:"))
				fputs(line, stdout);
	if (f)
		fclose(f);
}

static int print_peak(void)
{
	char line[256];
	FILE *f = fopen("/proc/self/status", "r");

	print_names("fds", "/proc/self/fd"); /* as much as a real run needs */
	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, "VmPeak:", 7))
			printf("%d\n", atoi(line + 7));
	return 0;
}

static void print_children(const char *how, int flags)
{
	int status = 0;
	pid_t pid;

	errno = 0;
	pid = waitpid(-1, &status, flags);
	printf("%s: %s %s\n", how, pid > 0 ? "a child" : "none", pid < 0 ? strerror(errno) : "");
}

static void print_all(void)
{
	char cwd[256];
	int fd;

	printf("errno: %d\n", errno);
	fd = open("/dev/null", O_RDONLY);
	printf("lowest: %d\n", fd);
	close(fd);
	print_names("fds", "/proc/self/fd");
	print_names("tasks", "/proc/self/task");
	print_status();
	print_children("waitpid", 0);
	print_children("waitpid WNOHANG", WNOHANG);
	if (!adopter)
		print_children("waitpid __WALL", WNOHANG | __WALL);
	printf("cwd: %s\n", getcwd(cwd, sizeof(cwd)) ? cwd : strerror(errno));
	printf("leader: %d %d\n", getpgrp() == getpid(), getsid(0) == getpid());
	fflush(stdout);
}

static int in_child(void (*what)(void))
{
	int status = -1;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (!pid) {
		what();
		fflush(stdout);
		_exit(6);
	}
	if (pid < 0)
		return printf("fork: %s\n", strerror(errno));
	waitpid(pid, &status, 0);
	return printf("child: %x\n", status);
}

static void new_user(void)
{
	printf("unshare user: %s\n", strerror(unshare(CLONE_NEWUSER) ? errno : 0));
}

static void new_mount(void)
{
	int fd = open("/proc/self/ns/mnt", O_RDONLY);
	int err = unshare(CLONE_NEWNS) ? errno : 0;

	printf("unshare mnt: %s, ", strerror(err));
	printf("setns mnt: %s\n", strerror(setns(fd, CLONE_NEWNS) ? errno : 0));
}

static void nothing(void)
{
}

static void as_init(void)
{
	printf("pid: %d\n", getpid());
	print_children("init's waitpid", 0);
	in_child(nothing);
	in_child(nothing);
}

static void new_pids(void)
{
	printf("unshare pid: %s\n", strerror(unshare(CLONE_NEWPID) ? errno : 0));
	in_child(as_init);
}

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		static char name[] = "adopter";

		if (!strcmp(argv[i], "peak"))
			return print_peak();
		adopter |= !strcmp(argv[i], name);
		if (strcmp(argv[i], "subreaper"))
			continue;
		prctl(PR_SET_CHILD_SUBREAPER, 1);
		argv[i] = name;
		execv("/proc/self/exe", argv);
		return 1;
	}
	print_all();
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "fork"))
			in_child(print_all);
		if (!strcmp(argv[i], "unshare")) {
			in_child(new_user);
			in_child(new_mount);
			in_child(new_pids);
		}
	}
	print_children("at the end", 0);
	return 5;
}
