/* SPDX-License-Identifier: GPL-2.0-or-later */
/* program: will the dynamic linker preload a library into a program? */
#ifndef USWAP_CTL_PROGRAM_H
#define USWAP_CTL_PROGRAM_H

#include <limits.h>
#include <stddef.h>

#define PROGRAM_WHY (PATH_MAX + 256)

/* Finds name as execvp would: 0 and its path, or negative errno. */
int program_find(const char *name, char path[PATH_MAX]);
/*
 * 0, or -EPERM and the reason: set-user-ID and the like, statically linked, or
 * made for another machine than library. Of a script the interpreter counts.
 * Other errors of looking into it are negative errno with a reason as well.
 */
int program_check(const char *path, const char *library, char why[PROGRAM_WHY]);

#endif
