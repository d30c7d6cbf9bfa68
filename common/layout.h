/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * layout: the versions of all that is kept for the next agent (common/kept.h),
 * in one place, so that an upgrade is decided before anything is touched.
 *
 * The rule. Whoever changes what is in a kept file raises its version here, and
 * leaves OLDEST so far back that the version before can be read: by adding only
 * what reads as zeros where it was never written, or by converting it when it is
 * opened. A file is of the newer version as soon as a newer agent has opened it:
 * back to the older one it goes by way of a drain. What an agent finds that it
 * can't read it leaves as it is, all of it, and ends (docs/ARCHITECTURE.md,
 * Upgrade).
 *
 * Any thread; the directory must not change meanwhile.
 */
#ifndef USWAP_COMMON_LAYOUT_H
#define USWAP_COMMON_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

/* Records of sessions. 4: whose domain. 5: counters. 6: names of forks. 7: the last id.
   8: slots say which pages are marked (page/slot.h). 9: a counter more. The build that stands for an
   older agent in the tests has it set from outside (tests/local.mk). */
#ifndef LAYOUT_SESSIONS
#define LAYOUT_SESSIONS 9
#endif
#define LAYOUT_SESSIONS_OLDEST 4
/* Events on their way, one page for each owner. 2: totals, in the header. 3: what
   fork children say whose fork waits. 4: more totals. 5: children that were given up. */
#define LAYOUT_EVENTS 5
#define LAYOUT_EVENTS_OLDEST 1
#define LAYOUT_SLOTS 1
#define LAYOUT_STAGING 1
#define LAYOUT_BLOBS 1
#define LAYOUT_DICTIONARIES 1
#define LAYOUT_DOMAINS 2
/* Where the store's segments are. 3: blobs in them may share frames. 4: what was written
   to slow stores in the last day, in the header. */
#define LAYOUT_SEGMENTS 4
#define LAYOUT_SEGMENTS_OLDEST 2
/* 2: where the first segment begins, in the header. */
#define LAYOUT_MEMORY 2
#define LAYOUT_MEMORY_OLDEST 1
#define LAYOUT_OBJECTS 2
/* The words of Store= in force, in the header. */
#define LAYOUT_TIERS 1

#define LAYOUT_MESSAGE 256u

/* Is all that is there of versions that this agent reads? 0; or -ENOTSUP, and in
   message (LAYOUT_MESSAGE bytes) what is not, and what to do. */
int layout_check(char *message);

#endif
