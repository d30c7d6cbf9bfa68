/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the kernel tells about another process's memory through descriptors
 * that the process passed (pagemap, mem) or that the agent opened once at
 * attach (maps): all of them stay bound to that one address space, also over
 * an exec.
 */
#ifndef USWAP_SYS_PAGEMAP_H
#define USWAP_SYS_PAGEMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "uapi/uswap_uapi.h"

/*
 * Regions of [start, end) that are resident private anonymous pages with
 * memory to gain (no file pages, not the shared zero page): up to nr regions
 * and max_pages pages. Returns how many, or negative errno; *next is where to
 * go on (end when all was seen).
 */
int pagemap_scan_resident(int pagemap, uint64_t start, uint64_t end, struct page_region *regions,
			  unsigned nr, uint64_t max_pages, uint64_t *next);

/* Pages from start on, up to max, in which nothing is: no page, no swap entry,
   no guard marker (copying onto a guard would destroy it). At least 1 is
   returned, the faulting page itself being known empty. */
unsigned pagemap_empty_run(int pagemap, uint64_t start, unsigned max);

/* Regions of [start, end) under guards (MADV_GUARD_INSTALL), up to nr; otherwise as
   above. A kernel without guards has none. */
int pagemap_scan_guards(int pagemap, uint64_t start, uint64_t end, struct page_region *regions,
			unsigned nr, uint64_t *next);

/* The page is under a guard. False also when it can't be told. */
bool pagemap_is_guard(int pagemap, uint64_t address);

/* How many of the n pages from start on are missing and under no guard, before the
   first that is not: what may be placed there. All, when it can't be told. */
unsigned pagemap_free_run(int pagemap, uint64_t start, unsigned n);

/* How many of the n pages from start on are marked (sys/uffd.h), before the first that
   isn't. 0 also when it can't be told. */
unsigned pagemap_marked_run(int pagemap, uint64_t start, unsigned n);

/* The page is mapped by this process alone (bit 56): after a fork, the sign
   that the other side is gone. */
bool pagemap_is_exclusive(int pagemap, uint64_t address);

/* A page or a swap entry is there. Also true when it can't be told. */
bool pagemap_is_populated(int pagemap, uint64_t address);

/* The mapping that covers address, by an open /proc/PID/maps. False: there is none,
   or it can't be told; then it is empty. */
struct maps_area {
	uint64_t start, end;
	bool is_plain; /* private, anonymous, readable, writable, not executable */
};
bool maps_find(int maps, uint64_t address, struct maps_area *area);

/* Reads n pages at address through an open /proc/PID/mem into pages[]. Returns
   how many were read before the first that is missing (EIO), or negative
   errno: -ESRCH when the address space is gone, -EFAULT or -ENOMEM when it is
   pages[0] that can't be had. */
int mem_read_pages(int mem, uint64_t address, void *const *pages, unsigned n);

/* fd is the file NAME ("mem", "pagemap") of some process in a proc file
   system, so reading it can't block on a stranger's device. */
bool proc_fd_is(int fd, const char *name);

#endif
