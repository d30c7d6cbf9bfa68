/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * check: does this machine, this user and this configuration let the agent do
 * its work? Asks the kernel for real, wherever there is a way to ask. (Not
 * check.h: <check.h> would find it, agent/ being on the include path.)
 */
#ifndef USWAP_CHECKS_H
#define USWAP_CHECKS_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/settings.h"

enum check_result {
	CHECK_OK,
	CHECK_WARN,
	CHECK_FAIL,
};

#define CHECK_DETAIL 512

/* Prints one line each, "ok|warn|FAIL  what: detail". False if any failed. */
bool check_run(const struct settings *settings);

/* The running kernel, and one by its release string: fit to be used? */
enum check_result check_kernel(char detail[CHECK_DETAIL]);
enum check_result check_kernel_release(const char *release, char detail[CHECK_DETAIL]);

/* Bytes of memory this machine has. */
uint64_t check_total_memory(void);

#endif
