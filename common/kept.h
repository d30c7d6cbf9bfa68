/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * kept: memory that outlives the agent's worker. Named files in memory
 * (memfds); a worker that takes the place of one that has died finds them by
 * their names, as they were.
 *
 * The names stand in a directory that the keeper makes and every worker
 * inherits, and the descriptors are in the table that keeper and workers share
 * (agent/keeper). A peer can send us a memfd, but not put it there. Without a
 * directory (unit tests, an agent without a keeper) a file is simply a new one.
 *
 * What must hold for a file to be worth finding is its user's part: at every
 * instant a reader that starts over must understand it. So: what is pointed to
 * is complete before the one aligned store that names it.
 *
 * Memory is taken by kept_back, before a page is first written: writing into a
 * hole would answer a lack of memory with SIGBUS instead of an errno. Sizes are
 * address space, of which only what is backed counts.
 *
 * Threads: the directory belongs to the thread that starts the others, before
 * it does; kept_back and kept_give_back may be called by any.
 */
#ifndef USWAP_COMMON_KEPT_H
#define USWAP_COMMON_KEPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KEPT_NAME 24	/* with its end */
#define KEPT_OWN 2048u	/* bytes in the header for the user's own words */
#define KEPT_FILES 256u /* in a directory */
#define KEPT_HUGE ((size_t)2 << 20)
#define KEPT_HEADER ((size_t)4096) /* the file's, before what is asked for */

struct kept {
	int fd;
	void *base;   /* page aligned */
	size_t bytes; /* as asked for, or more: what it had before */
	void *own;    /* KEPT_OWN bytes, always backed; zeros in a new one */
	bool found;   /* left by a worker before us */
};

#define KEPT_NONE ((struct kept){ .fd = -1 })

/*
 * The file of this name, or a new one that reads as zeros. version is that of
 * its layout, the user's business: a file of another version is refused.
 * 0 or a negative errno: -ENOTSUP another version, -EBADMSG not such a file at
 * all, others of the system. *k is KEPT_NONE then.
 */
int kept_open(struct kept *k, const char *name, size_t bytes, uint32_t version);
/* The same for a layout to which versions have only added what reads as zeros in
   older ones: any from oldest on is taken, and is of this version from then on. */
int kept_open_since(struct kept *k, const char *name, size_t bytes, uint32_t oldest, uint32_t version);
/* Unmaps it. It stays for the next worker; without a directory it goes. */
void kept_close(struct kept *k);
/* The version it was written in; 0: there is none of this name. */
uint32_t kept_version(const char *name);

/* Has memory behind a range, cheap where it is there already. 0 or a negative
   errno. */
int kept_back(const struct kept *k, size_t offset, size_t bytes);
/* One huge page behind bytes that none was behind before, whole: cheaper to get and to
   use than its small ones. False: there is none to be had, or (KEPT_HEADER + offset is no
   multiple of KEPT_HUGE) can't be; some of it may have memory. */
bool kept_back_huge(const struct kept *k, size_t offset);
/* Whole pages of it go back to the system; they read as zeros then. */
void kept_give_back(const struct kept *k, size_t offset, size_t bytes);

/* ---- the directory ---- */
struct kept_directory;

/* Shared with the children of this process; NULL and errno. Never freed. */
struct kept_directory *kept_directory_new(void);
/* The one of this process, from now on; NULL: none. */
void kept_use(struct kept_directory *dir);
bool kept_has_directory(void);

/* Descriptors with names, those of files included. -1: there is none. */
int kept_fd(const char *name);
/* 0, or -ENOSPC. An older one of that name is forgotten, not closed. */
int kept_set_fd(const char *name, int fd);
void kept_forget_fd(const char *name);
/* The i-th (from 0) with its name, -1 at the end. */
int kept_nth_fd(unsigned i, const char **name);

#endif
