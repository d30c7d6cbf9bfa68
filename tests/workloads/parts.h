/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef USWAP_TESTS_WORKLOADS_PARTS_H
#define USWAP_TESTS_WORKLOADS_PARTS_H

#include "workload.h"

/*
 * A workload of several parts, each of which has a child for itself: what it does to
 * its process is nobody else's.
 */
struct part {
	const char *name;
	int (*run)(void); /* PART_RIGHT, PART_SKIPPED, anything else is wrong */
};

#define PART_RIGHT   42
#define PART_SKIPPED 77

static inline bool part_is_wanted(const struct part *part, int argc, char **argv)
{
	int i;

	for (i = 1; i < argc; i++)
		if (!strcmp(argv[i], part->name))
			return true;
	return argc == 1;
}

/* Those that the command line names, or all; what main() returns. */
static inline int parts_main(const struct part *parts, size_t nr, int argc, char **argv)
{
	unsigned ran = 0, skipped = 0;
	size_t i;

	for (i = 0; i < nr; i++) {
		int status;
		pid_t pid;

		if (!part_is_wanted(&parts[i], argc, argv))
			continue;
		pid = (pid_t)WL_OK(fork());
		if (!pid)
			_exit(parts[i].run());
		WL_CHECK(waitpid(pid, &status, 0) == pid, "waitpid");
		if (status == WL_EXITED(PART_SKIPPED)) {
			wl_say("%s: not possible here", parts[i].name);
			skipped++;
			continue;
		}
		WL_CHECK(status == WL_EXITED(PART_RIGHT), "%s: wait status %#x", parts[i].name,
			 (unsigned)status);
		ran++;
	}
	WL_CHECK(ran > 0, "nothing has run");
	wl_say("%u parts right, %u not possible here", ran, skipped);
	return 0;
}

#endif
