/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Every order of faults, events, errors and eviction steps, up to the depth of
 * each scenario. usage: test_interleavings [NAME...]
 *
 * Scenarios whose hole is still open run by name only.
 *
 *   USWAP_FLOW_PERCENT  of each scenario's depth (70, under a sanitizer 50)
 *   USWAP_FLOW_RUNS     at most so many orders of each scenario
 *   USWAP_FLOW_RANDOM   and then so many at random, four times as deep (100)
 *   USWAP_FLOW_SEED     ... other ones
 *   USWAP_FLOW_BRIEF    what fails is not shortened
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "world.h"

#define READ(p) { OP_READ, p, 1 }
#define WRITE(p) { OP_WRITE, p, 1 }

#define CALL(op, p) { OP_##op, p, 0 } /* of the whole area */
#define PAGE(op, p) { OP_##op, p, 1 }

static const struct scenario scenarios[] = {
	{ .name = "INV-3: touches while pages leave", .threads = 2, .ops = 3, .ticks = 1, .quota = 2, .depth = 14,
	  .choices = { READ(0), WRITE(0), WRITE(1) } },
	{ .name = "INV-3: touches of stored pages", .threads = 2, .ops = 3, .ticks = 1, .quota = 2, .depth = 12,
	  .evicted = true, .choices = { READ(0), WRITE(0), READ(1) } },
	{ .name = "INV-1: incompressible pages come back", .threads = 2, .ops = 2, .ticks = 1, .quota = 2,
	  .depth = 14, .noise = true, .choices = { READ(0), WRITE(1) } },
	{ .name = "INV-1: pages that repeat one word", .threads = 2, .ops = 2, .ticks = 1, .quota = 2, .depth = 12,
	  .fill = true, .choices = { READ(0), WRITE(0) } },
	{ .name = "INV-4: DONTNEED while pages leave", .threads = 2, .ops = 2, .ticks = 2, .quota = 2, .depth = 14,
	  .choices = { PAGE(DONTNEED, 0), CALL(DONTNEED, 0), READ(0), WRITE(0) } },
	{ .name = "INV-4: DONTNEED of registered pages", .threads = 2, .ops = 2, .ticks = 1, .quota = 2,
	  .depth = 12, .evicted = true, .script = { READ(0), READ(1) },
	  .choices = { PAGE(DONTNEED, 0), READ(0), WRITE(0) } },
	{ .name = "INV-3: touches while events wait", .threads = 3, .ops = 3, .quota = 2, .depth = 12,
	  .evicted = true, .areas = 5, .choices = { CALL(REMAP, 0), CALL(REMAP, 2), READ(4) } },
	{ .name = "INV-4: DONTNEED of evicted pages", .threads = 2, .ops = 3, .ticks = 1, .quota = 2, .depth = 12,
	  .evicted = true, .trouble = TROUBLE(HASTE), .troubles = 1, .choices = { PAGE(DONTNEED, 0), READ(0), WRITE(0) } },
	{ .name = "INV-4: DONTNEED without marks", .unmarked = true, .threads = 2, .ops = 3, .ticks = 1, .quota = 2, .depth = 11,
	  .evicted = true, .trouble = TROUBLE(HASTE), .troubles = 1, .choices = { PAGE(DONTNEED, 0), READ(0), WRITE(0) } },
	{ .name = "INV-4: DONTNEED of staged pages", .threads = 2, .ops = 2, .ticks = 1, .quota = 2, .depth = 12,
	  .staged = true, .choices = { CALL(DONTNEED, 0), READ(0), WRITE(0) } },
	{ .name = "INV-4: the bar of a page that is there", .threads = 2, .ops = 3, .ticks = 1, .quota = 2,
	  .depth = 18, .evicted = true, .choices = { PAGE(DONTNEED, 0), READ(0) } },
	{ .name = "INV-4: MADV_FREE", .threads = 2, .ops = 2, .ticks = 2, .quota = 2, .depth = 13,
	  .trouble = TROUBLE(RECLAIM), .troubles = 1, .choices = { PAGE(FREE, 0), READ(0), WRITE(0) } },
	{ .name = "INV-4: munmap and mmap while pages leave", .threads = 2, .ops = 2, .ticks = 2, .quota = 2,
	  .depth = 13, .choices = { CALL(UNMAP, 0), CALL(MAP, 0), READ(0), WRITE(0) } },
	{ .name = "INV-4: munmap and mmap of evicted pages", .threads = 2, .ops = 3, .ticks = 1, .quota = 2,
	  .depth = 12, .evicted = true, .choices = { CALL(UNMAP, 0), CALL(MAP, 0), READ(0), WRITE(0) } },
	{ .name = "INV-4: mremap while pages leave", .threads = 2, .ops = 2, .ticks = 1, .quota = 2, .depth = 14,
	  .choices = { CALL(REMAP, 0), CALL(REMAP, 2), READ(2), WRITE(0) } },
	{ .name = "INV-4: mremap of evicted pages", .threads = 2, .ops = 3, .ticks = 1, .quota = 2, .depth = 16,
	  .evicted = true, .choices = { CALL(REMAP, 0), CALL(REMAP, 2), READ(2), READ(0) } },
	{ .name = "INV-4: mremap over evicted pages", .threads = 2, .ops = 3, .ticks = 1, .quota = 2, .depth = 16,
	  .evicted = true, .areas = 3, .choices = { CALL(REMAP, 0), CALL(REMAP, 2), CALL(UNMAP, 0), READ(0) } },
	{ .name = "INV-4: mremap over evicted pages, without marks", .threads = 2, .ops = 3, .ticks = 1, .quota = 2,
	  .depth = 16, .unmarked = true, .evicted = true, .areas = 3,
	  .choices = { CALL(REMAP, 0), CALL(REMAP, 2), CALL(UNMAP, 0), READ(0) } },
	{ .name = "INV-4: mremap that leaves its source", .threads = 2, .ops = 3, .ticks = 1, .quota = 2,
	  .depth = 16, .evicted = true, .choices = { CALL(DONTUNMAP, 0), CALL(REMAP, 2), READ(0), WRITE(2) } },
	{ .name = "INV-4: fork while pages leave", .threads = 2, .ops = 3, .ticks = 1, .quota = 2, .depth = 13,
	  .choices = { CALL(FORK, 0), READ(0), WRITE(0) }, .child = { READ(0), WRITE(0) } },
	{ .name = "INV-4: fork with evicted pages", .threads = 2, .ops = 3, .ticks = 1, .quota = 2, .depth = 12,
	  .evicted = true, .choices = { CALL(FORK, 0), WRITE(0), CALL(EXIT, 0) },
	  .child = { READ(0), WRITE(0), CALL(EXIT, 0) } },
	{ .name = "INV-8: fork with staged pages", .threads = 2, .ops = 3, .ticks = 1, .quota = 2, .depth = 12,
	  .staged = true, .choices = { CALL(FORK, 0), WRITE(0), PAGE(DONTNEED, 0) },
	  .child = { READ(0), CALL(UNMAP, 0), CALL(EXIT, 0) } },
	{ .name = "INV-8: fork with staged pages that stay incompressible", .noise = true, .threads = 2, .ops = 3, .ticks = 1,
	  .quota = 2, .depth = 11, .staged = true, .choices = { CALL(FORK, 0), CALL(REMAP, 0), PAGE(DONTNEED, 0) },
	  .child = { READ(0), CALL(FORK, 0), CALL(EXIT, 0) } },
	{ .name = "INV-4: a child with a mover of its own", .threads = 1, .ops = 3, .ticks = 2, .quota = 2,
	  .depth = 11, .trouble = TROUBLE(HELLO), .troubles = 1, .script = { CALL(FORK, 0) },
	  .choices = { WRITE(0), CALL(EXIT, 0) }, .child = { WRITE(0), CALL(FORK, 0), CALL(EXIT, 0) } },
	{ .name = "INV-3: no descriptor for a fork child", .threads = 2, .ops = 2, .ticks = 1, .quota = 2,
	  .depth = 12, .trouble = TROUBLE(EMFILE), .troubles = 1,
	  .choices = { CALL(FORK, 0), READ(0) }, .child = { READ(0) } },
	{ .name = "INV-8: exit while pages leave", .threads = 2, .ops = 2, .ticks = 2, .quota = 2, .depth = 14,
	  .choices = { CALL(EXIT, 0), READ(0), CALL(UNMAP, 0) } },
	{ .name = "INV-1: a mover that is killed or slow", .threads = 1, .ops = 2, .ticks = 1, .quota = 2,
	  .depth = 14, .trouble = TROUBLE(MOVER) | TROUBLE(REVOKE), .troubles = 2,
	  .choices = { READ(0), WRITE(0), CALL(FORK, 0) }, .child = { READ(0) } },
	{ .name = "INV-1: transit that can't be emptied", .threads = 1, .ops = 2, .ticks = 2, .quota = 1,
	  .depth = 20, .trouble = TROUBLE(DROP), .troubles = 1, .choices = { READ(0), WRITE(1) } },
	{ .name = "INV-1: a MOVE that doesn't count what it moves", .threads = 1, .ops = 2, .ticks = 2, .quota = 2,
	  .depth = 15, .trouble = TROUBLE(UNCOUNTED) | TROUBLE(UNTOLD), .troubles = 2,
	  .choices = { READ(0), WRITE(1), CALL(DONTNEED, 0), CALL(FORK, 0) }, .child = { READ(0) } },
	{ .name = "INV-3: placing fails", .threads = 2, .ops = 3, .ticks = 1, .quota = 2, .depth = 10, .evicted = true,
	  .trouble = TROUBLE(NOMEM) | TROUBLE(AGAIN), .troubles = 2, .choices = { READ(0), WRITE(1), READ(1) } },
	{ .name = "INV-3: a placing finds a page, or nobody", .threads = 2, .ops = 2, .ticks = 1, .quota = 2, .depth = 11,
	  .evicted = true, .trouble = TROUBLE(EXISTS) | TROUBLE(DIES) | TROUBLE(AGAIN), .troubles = 2,
	  .choices = { READ(0), WRITE(1), PAGE(DONTNEED, 0), CALL(FORK, 0) }, .child = { READ(0) } },
	{ .name = "INV-3: what is brought back finds a page, or nobody", .noise = true, .threads = 2, .ops = 1, .ticks = 1,
	  .quota = 2, .depth = 14, .trouble = TROUBLE(EXISTS) | TROUBLE(DIES), .troubles = 1, .choices = { READ(0), WRITE(0) } },
	{ .name = "INV-3: what is restored finds a page, or nobody", .threads = 1, .ops = 2, .quota = 2, .depth = 11, .evicted = true,
	  .trouble = TROUBLE(EXISTS) | TROUBLE(DIES) | TROUBLE(NOMEM) | TROUBLE(RESTORE) | TROUBLE(DETACH), .troubles = 2,
	  .choices = { READ(0), WRITE(1) } },
	{ .name = "INV-7: a poisoning finds a page, or nobody", .threads = 1, .ops = 2, .quota = 2, .depth = 10, .evicted = true,
	  .trouble = TROUBLE(CORRUPT) | TROUBLE(EXISTS) | TROUBLE(DIES) | TROUBLE(NOMEM) | TROUBLE(AGAIN) | TROUBLE(DETACH),
	  .troubles = 3, .choices = { READ(0), WRITE(0) } },
	{ .name = "INV-3: a page of a slow tier finds a page, or nobody", .slow = true, .threads = 2, .ops = 2, .quota = 2,
	  .depth = 11, .evicted = true, .trouble = TROUBLE(EXISTS) | TROUBLE(DIES), .troubles = 1, .choices = { READ(0), WRITE(0) } },
	{ .name = "INV-1: a MOVE that the kernel refuses", .threads = 1, .ops = 2, .ticks = 2, .quota = 2, .depth = 15,
	  .trouble = TROUBLE(MOVE_BUSY) | TROUBLE(MOVE_HOLE) | TROUBLE(MOVE_STALE) | TROUBLE(MOVE_OCCUPIED) |
		     TROUBLE(MOVE_REFUSED) | TROUBLE(REGISTER), .troubles = 2, .choices = { READ(0), WRITE(1) } },
	{ .name = "INV-3: a change in the middle of a placing", .threads = 2, .ops = 3, .ticks = 1, .quota = 2,
	  .depth = 12, .evicted = true, .trouble = TROUBLE(HALF_MAP), .troubles = 1,
	  .choices = { CALL(REMAP, 0), CALL(UNMAP, 0), READ(0), READ(2) } },
	{ .name = "INV-1: incompressible, and placing fails", .threads = 2, .ops = 2, .ticks = 1, .quota = 2,
	  .depth = 13, .noise = true, .trouble = TROUBLE(NOMEM) | TROUBLE(AGAIN), .troubles = 1,
	  .choices = { READ(0), CALL(DONTNEED, 0) } },
	{ .name = "INV-8: incompressible, and its mover dies inside", .threads = 1, .ops = 1, .ticks = 1, .quota = 1,
	  .depth = 12, .areas = 3, .staged = true, .noise = true, .trouble = TROUBLE(MOVER), .troubles = 1,
	  .choices = { CALL(EXIT, 0) } },
	{ .name = "INV-8: half of a batch is incompressible", .threads = 2, .ops = 2, .ticks = 1, .quota = 2,
	  .depth = 13, .mixed = true, .trouble = TROUBLE(AGAIN), .troubles = 1,
	  .choices = { READ(0), CALL(DONTNEED, 0) } },
	{ .name = "INV-7: the store gives other bytes", .threads = 2, .ops = 2, .ticks = 1, .quota = 2, .depth = 12,
	  .evicted = true, .trouble = TROUBLE(CORRUPT), .troubles = 1, .choices = { READ(0), WRITE(1) } },
	{ .name = "INV-7: transit can't be read", .threads = 2, .ops = 2, .ticks = 1, .quota = 2, .depth = 12,
	  .trouble = TROUBLE(UNREADABLE) | TROUBLE(UNWRITABLE), .troubles = 1, .choices = { READ(0), WRITE(0), CALL(FORK, 0) },
	  .child = { READ(0) } },
	{ .name = "INV-3: touches of pages in a slow tier", .slow = true, .threads = 2, .ops = 3, .ticks = 1, .quota = 2,
	  .depth = 13, .evicted = true, .choices = { READ(0), WRITE(0), READ(1) } },
	{ .name = "INV-4: a slow tier beside changes", .slow = true, .threads = 2, .ops = 3, .ticks = 1, .quota = 2,
	  .depth = 12, .evicted = true,
	  .choices = { CALL(REMAP, 0), CALL(UNMAP, 0), PAGE(DONTNEED, 0), READ(0), READ(2) } },
	{ .name = "INV-8: a slow tier, fork and exit", .slow = true, .threads = 2, .ops = 3, .quota = 2, .depth = 12,
	  .evicted = true, .choices = { CALL(FORK, 0), READ(0), CALL(EXIT, 0) },
	  .child = { READ(0), WRITE(0), CALL(EXIT, 0) } },
	{ .name = "INV-7: a slow tier that fails", .slow = true, .threads = 2, .ops = 2, .ticks = 1, .quota = 2,
	  .depth = 11, .evicted = true, .choices = { READ(0), WRITE(1), PAGE(DONTNEED, 0) },
	  .trouble = TROUBLE(READ_EIO) | TROUBLE(READ_LATE) | TROUBLE(READ_LOST) | TROUBLE(CORRUPT), .troubles = 2 },
	{ .name = "INV-3: a slow tier, and placing fails", .slow = true, .threads = 2, .ops = 2, .quota = 2,
	  .depth = 13, .evicted = true, .choices = { READ(0), WRITE(1), CALL(REMAP, 0) },
	  .trouble = TROUBLE(NOMEM) | TROUBLE(AGAIN) | TROUBLE(HALF_MAP), .troubles = 2 },
	{ .name = "INV-1: let go of pages in a slow tier", .slow = true, .threads = 2, .ops = 2, .quota = 2,
	  .depth = 11, .evicted = true, .choices = { READ(0), WRITE(1), PAGE(DONTNEED, 0) },
	  .trouble = TROUBLE(RESTORE) | TROUBLE(DETACH) | TROUBLE(AGAIN), .troubles = 2 },
	{ .name = "INV-2: pages go down a tier while they are touched", .slow = true, .threads = 2, .ops = 3,
	  .ticks = 1, .quota = 2, .depth = 11, .evicted = true, .trouble = TROUBLE(SINK) | TROUBLE(RESTORE), .troubles = 2,
	  .choices = { READ(0), WRITE(1), READ(1) } },
	{ .name = "INV-1: the store is full", .threads = 2, .ops = 2, .ticks = 1, .quota = 2, .depth = 13,
	  .trouble = TROUBLE(FULL), .troubles = 1, .choices = { READ(0), PAGE(DONTNEED, 0) } },
	{ .name = "INV-1: restored by order while pages leave", .threads = 2, .ops = 2, .ticks = 1, .quota = 2,
	  .depth = 13, .trouble = TROUBLE(RESTORE), .troubles = 1, .choices = { READ(0), PAGE(DONTNEED, 0) } },
	{ .name = "INV-1: let go while pages leave", .threads = 2, .ops = 2, .ticks = 1, .quota = 2, .depth = 13,
	  .trouble = TROUBLE(DETACH), .troubles = 1, .choices = { READ(0), WRITE(1) } },
	{ .name = "INV-1: let go beside a change", .threads = 2, .ops = 2, .ticks = 1, .quota = 2, .depth = 10,
	  .evicted = true, .trouble = TROUBLE(DETACH) | TROUBLE(HALF_MAP), .troubles = 2,
	  .choices = { READ(0), CALL(FORK, 0), CALL(REMAP, 0) }, .child = { READ(0) } },
	{ .name = "INV-1: let go by order", .threads = 2, .ops = 3, .ticks = 1, .quota = 2, .depth = 10,
	  .evicted = true, .trouble = TROUBLE(DETACH) | TROUBLE(AGAIN), .troubles = 2,
	  .choices = { READ(0), CALL(REMAP, 0), CALL(FORK, 0) }, .child = { READ(0) } },
	{ .name = "INV-4: guards over pages that come back", .threads = 2, .ops = 2, .ticks = 1, .quota = 2, .depth = 11,
	  .evicted = true, .trouble = TROUBLE(RESTORE) | TROUBLE(DETACH), .troubles = 2,
	  .choices = { PAGE(GUARD, 0), READ(1), WRITE(1) } },
	{ .name = "INV-4: guards on a kernel without marks", .unmarked = true, .threads = 2, .ops = 2, .ticks = 1,
	  .quota = 2, .depth = 10, .evicted = true, .trouble = TROUBLE(RESTORE), .troubles = 1,
	  .choices = { PAGE(GUARD, 0), READ(1), WRITE(1) } },
	{ .name = "INV-4: guards over incompressible pages", .threads = 2, .ops = 2, .ticks = 1, .quota = 2, .depth = 12,
	  .noise = true, .choices = { PAGE(GUARD, 0), READ(1) } },
	{ .name = "INV-4: guard pages", .threads = 2, .ops = 3, .ticks = 1, .quota = 2, .depth = 12, .evicted = true,
	  .choices = { PAGE(GUARD, 0), PAGE(UNGUARD, 0), READ(0), WRITE(1) } },
	{ .name = "INV-4: guards while pages leave", .threads = 2, .ops = 3, .ticks = 1, .quota = 2, .depth = 13,
	  .choices = { PAGE(GUARD, 0), PAGE(UNGUARD, 0), READ(0), WRITE(1) } },
	{ .name = "INV-4: shared memory over evicted pages", .threads = 2, .ops = 3, .ticks = 1, .quota = 2, .depth = 12,
	  .evicted = true, .trouble = TROUBLE(RESTORE), .troubles = 1, .choices = { CALL(SHM, 0), CALL(GROW, 0), READ(0) } },
	{ .name = "INV-7: lost pages that are marked", .threads = 2, .ops = 3, .ticks = 1, .quota = 2, .depth = 11,
	  .evicted = true, .trouble = TROUBLE(CORRUPT) | TROUBLE(AGAIN) | TROUBLE(BEHIND) | TROUBLE(MARKED), .troubles = 2,
	  .choices = { PAGE(GUARD, 0), PAGE(UNGUARD, 0), READ(0) } },
	{ .name = "INV-4: MADV_FREE of marked pages", .threads = 2, .ops = 3, .ticks = 1, .quota = 2, .depth = 12,
	  .evicted = true, .choices = { PAGE(FREE, 0), READ(0), WRITE(0) } },
	{ .name = "INV-4: fork beside a change of mappings", .threads = 2, .ops = 3, .ticks = 1, .quota = 2,
	  .depth = 12, .evicted = true, .choices = { CALL(FORK, 0), CALL(REMAP, 0), CALL(UNMAP, 0), PAGE(DONTNEED, 0) },
	  .child = { READ(0), READ(2) } },
	{ .name = "INV-4: wiped by a fork, or kept", .threads = 2, .ops = 4, .quota = 2, .depth = 12, .evicted = true,
	  .choices = { CALL(FORK, 0), CALL(WIPE, 0), CALL(KEEP, 0) }, .child = { READ(0), CALL(FORK, 0) } },
	{ .name = "INV-4: wiped by a fork, without marks", .unmarked = true, .threads = 1, .ops = 3, .ticks = 1, .quota = 2,
	  .depth = 10, .evicted = true, .choices = { CALL(FORK, 0), CALL(WIPE, 0), READ(1) }, .child = { READ(0) } },
	{ .name = "INV-4: wiped by a fork while pages leave", .threads = 1, .ops = 3, .ticks = 1, .quota = 2, .depth = 18,
	  .choices = { CALL(FORK, 0), CALL(WIPE, 0), CALL(KEEP, 0) }, .child = { READ(0), READ(1) } },
	{ .name = "INV-4: wiped by a fork while a page leaves beside a mark", .evicted = true, .threads = 1, .ops = 4, .ticks = 1,
	  .quota = 2, .depth = 20, .choices = { WRITE(0), CALL(FORK, 0), CALL(WIPE, 0), CALL(KEEP, 0) }, .child = { READ(0) } },
	{ .name = "INV-4: a child that changes mappings beside its parent", .threads = 2, .ops = 3, .quota = 2,
	  .depth = 13, .evicted = true, .choices = { CALL(FORK, 0), CALL(REMAP, 0), CALL(UNMAP, 0) },
	  .child = { CALL(UNMAP, 0), CALL(REMAP, 0), READ(2) } },
	{ .name = "INV-4: pages unpacked ahead, beside changes", .aheads = 1, .threads = 1, .ops = 3, .ticks = 1, .quota = 2,
	  .depth = 13, .evicted = true, .choices = { READ(0), WRITE(0), PAGE(DONTNEED, 0), CALL(REMAP, 0), CALL(REMAP, 2) } },
	{ .name = "INV-8: pages unpacked ahead, orders, fork and exit", .aheads = 1, .threads = 1, .ops = 2, .quota = 2,
	  .depth = 10, .evicted = true, .trouble = TROUBLE(RESTORE) | TROUBLE(DETACH) | TROUBLE(AGAIN) | TROUBLE(CORRUPT),
	  .troubles = 2, .choices = { READ(0), CALL(FORK, 0), CALL(EXIT, 0) }, .child = { READ(0), CALL(EXIT, 0) } },
	{ .name = "crash: pages leave", .threads = 1, .ops = 1, .ticks = 2, .quota = 2, .depth = 12,
	  .trouble = TROUBLE(CRASH), .troubles = 1, .choices = { READ(0), WRITE(0) } },
	{ .name = "crash: no memory to look at transit", .threads = 1, .ops = 1, .ticks = 2, .quota = 2, .depth = 9,
	  .trouble = TROUBLE(CRASH) | TROUBLE(NOBATCH), .troubles = 2, .choices = { READ(0) } },
	{ .name = "crash: touches of stored pages", .threads = 2, .ops = 2, .ticks = 1, .quota = 2, .depth = 10,
	  .evicted = true, .trouble = TROUBLE(CRASH), .troubles = 1, .choices = { READ(0), WRITE(1) } },
	{ .name = "crash: staged pages", .threads = 1, .ops = 2, .ticks = 1, .quota = 2, .depth = 10,
	  .staged = true, .trouble = TROUBLE(CRASH), .troubles = 1,
	  .choices = { READ(0), PAGE(DONTNEED, 0), CALL(FORK, 0) }, .child = { READ(0) } },
	{ .name = "crash: changes of mappings", .threads = 2, .ops = 2, .quota = 2, .depth = 9,
	  .evicted = true, .trouble = TROUBLE(CRASH), .troubles = 1,
	  .choices = { CALL(REMAP, 0), CALL(UNMAP, 0), PAGE(DONTNEED, 0), READ(2) } },
	{ .name = "crash: forks", .threads = 1, .ops = 3, .ticks = 1, .quota = 2, .depth = 11,
	  .trouble = TROUBLE(CRASH), .troubles = 1, .choices = { CALL(FORK, 0), WRITE(0), CALL(EXIT, 0) },
	  .child = { READ(0), CALL(UNMAP, 0) } },
	{ .name = "crash: of keeper and worker, pages leave", .both = BOTH, .threads = 1, .ops = 1, .ticks = 2, .quota = 2,
	  .depth = 10, .trouble = TROUBLE(CRASH), .troubles = 1, .choices = { READ(0), WRITE(0) } },
	{ .name = "crash: of keeper and worker, forks", .both = BOTH, .threads = 1, .ops = 3, .quota = 2, .depth = 9,
	  .evicted = true, .trouble = TROUBLE(CRASH), .troubles = 1,
	  .choices = { CALL(FORK, 0), WRITE(0), CALL(EXIT, 0) }, .child = { READ(0), CALL(FORK, 0) } },
	{ .name = "crash: of keeper and worker, forks that nobody has time for", .both = BOTH_BUSY, .threads = 1, .ops = 3,
	  .quota = 2, .depth = 9, .evicted = true, .trouble = TROUBLE(CRASH), .troubles = 1,
	  .choices = { CALL(FORK, 0), WRITE(0), CALL(EXIT, 0) }, .child = { READ(0), CALL(UNMAP, 0) } },
	{ .name = "crash: ends and orders", .threads = 1, .ops = 2, .ticks = 1, .quota = 2, .depth = 9,
	  .trouble = TROUBLE(CRASH) | TROUBLE(MOVER) | TROUBLE(RESTORE) | TROUBLE(DETACH), .troubles = 2,
	  .choices = { READ(0), CALL(EXIT, 0) } },
};

static uint64_t number(const char *name, uint64_t otherwise)
{
	const char *value = getenv(name);

	return value && *value ? strtoull(value, NULL, 10) : otherwise;
}

static struct result walk(const struct scenario *s)
{
	struct limits all = {
		.runs_max = number("USWAP_FLOW_RUNS", 0),
		.percent = (unsigned)number("USWAP_FLOW_PERCENT", number("USWAP_TIME_FACTOR", 1) > 3 ? 50 : 70),
	};
	struct limits random = {
		.runs_max = number("USWAP_FLOW_RANDOM", 100),
		.seed = number("USWAP_FLOW_SEED", 1),
	};
	struct result r = explore(s, &all);

	if (!r.failed && random.runs_max)
		r.failed = explore(s, &random).failed;
	return r;
}

/* Of the children that have ended since the last call. */
static double cpu_seconds(void)
{
	static double before;
	struct rusage usage;
	double now, passed;

	getrusage(RUSAGE_CHILDREN, &usage);
	now = (double)usage.ru_utime.tv_sec + (double)usage.ru_stime.tv_sec +
	      (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
	passed = now - before;
	before = now;
	return passed;
}

static bool is_wanted(const struct scenario *s, int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		if (strstr(s->name, argv[i]))
			return true;
	return argc < 2 && !s->open;
}

int main(int argc, char **argv)
{
	unsigned n = 0, failed = 0;

	for (size_t i = 0; i < ARRAY_SIZE(scenarios); i++)
		n += is_wanted(&scenarios[i], argc, argv);
	printf("1..%u\n", n);
	n = 0;
	for (size_t i = 0; i < ARRAY_SIZE(scenarios); i++) {
		struct result r;
		bool ok;

		if (!is_wanted(&scenarios[i], argc, argv))
			continue;
		r = walk(&scenarios[i]);
		/* Nothing moved, nothing came back: it would show nothing. */
		ok = !r.failed && r.moved && r.refaulted;
		failed += !ok;
		printf("%sok %u - %s\n# %llu orders%s of %llu states, %llu pages left and %llu came back; %.1f s of CPU time\n",
		       ok ? "" : "not ", ++n, scenarios[i].name, (unsigned long long)r.runs,
		       r.complete ? ", all," : "", (unsigned long long)r.states, (unsigned long long)r.moved,
		       (unsigned long long)r.refaulted, cpu_seconds());
		fflush(stdout);
	}
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
