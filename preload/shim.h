/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the parts of libuswap.so share.
 *
 * Rules of code in a foreign process, for every file in this folder:
 * - Raw system calls only (sys.h). No C library, no errno, no heap, no
 *   thread-local storage, no stack protector, no sanitizer, no lock: the
 *   program may be in any state, and the mover shares its memory and its
 *   thread pointer. (The one call out: registering the fork handler, fork.c.)
 * - The program must not see us (INV-10): all signals are blocked while we
 *   work, descriptors are closed again, nothing is written but the one line
 *   that USWAP_DEBUG asks for.
 * - Any failure undoes what was done, and the program runs as without the
 *   shim (INV-9). Nothing waits for the agent longer than SHIM_TIMEOUT_SEC.
 * - Nothing here decides; the agent does.
 */
#ifndef USWAP_SHIM_H
#define USWAP_SHIM_H

#include "common/wire.h"
#include "preload/sys.h"

#define SHIM_TIMEOUT_SEC 5
#define SHIM_TIMEOUT_NSEC (SHIM_TIMEOUT_SEC * 1000000000L)
#define SHIM_PATH_MAX 108 /* of sockaddr_un */

/*
 * The arena: one mapping for all that an attached process lends to its mover,
 * in pages. The gaps stay PROT_NONE, so that no part ever merges with a
 * neighbour or with another part, and a stack that overflows is seen. Transit
 * comes last: it is the part that a failed handshake can't give back
 * (attach.c).
 */
enum arena_page {
	ARENA_START_STACK = 1,
	ARENA_START_STACK_PAGES = 4,
	ARENA_MOVER_STACK = 6,
	ARENA_MOVER_STACK_PAGES = 8,
	ARENA_MOVER = 15, /* struct mover */
	ARENA_GATE = 17,  /* the agent's memfd */
	ARENA_TRASH = 19,
	ARENA_TRANSIT = ARENA_TRASH + WIRE_TRANSIT_PAGES + 1,
	ARENA_PAGES = ARENA_TRANSIT + WIRE_TRANSIT_PAGES + 1,
};

#define ARENA_BYTES ((size_t)ARENA_PAGES * WIRE_PAGE)
#define TRANSIT_BYTES ((size_t)WIRE_TRANSIT_PAGES * WIRE_PAGE)
#define IDENTITY_PAGES 4 /* the page and the bell between two gaps */
#define IDENTITY_BYTES ((size_t)IDENTITY_PAGES * WIRE_PAGE)

static inline uint64_t arena_at(uint64_t arena, unsigned int page)
{
	return arena + (uint64_t)page * WIRE_PAGE;
}

/*
 * At the program's end the mover is to have let go of its memory before the program
 * does, so that what it executed and had mapped is free as soon as somebody is told
 * of the end. A system call could be what kills the program (seccomp), so it touches
 * a page, the bell. That waits until the trash area's userfaultfd closes, which only
 * the mover has: at its exit the memory goes first and the descriptors after. Who has
 * the turn keeps the mover from what it may have to wait in, or the program from
 * waiting for a mover that does.
 */
enum shim_turn {
	TURN_FREE = 0,
	TURN_MOVER = 1, /* it obeys the agent */
	TURN_END = 2,	/* the program ends, and is about to touch the bell */
};

static inline uint64_t bell_of(uint64_t identity)
{
	return identity + 2 * WIRE_PAGE;
}

static inline int take_turn(uint32_t *turn, uint32_t whose)
{
	uint32_t seen = TURN_FREE;

	return __atomic_compare_exchange_n(turn, &seen, whose, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

/*
 * The state of this process, in the image's own .bss: a fork child finds a
 * copy of its parent's. Written by the thread that attaches; the mover clears
 * attached when the agent tells it to leave.
 */
struct shim {
	uint32_t attached;
	uint32_t turn;	   /* enum shim_turn; compare-and-swap */
	uint64_t identity; /* first byte of the gap before the identity page */
	long filters;	   /* seccomp filters when it attached; -1: not known */
	char socket_path[SHIM_PATH_MAX];
};

extern struct shim shim __attribute__((visibility("hidden")));

/* How an attempt to attach ended; for the one line of USWAP_DEBUG. */
struct outcome {
	const char *step; /* what failed; NULL: attached */
	long error;	  /* negative errno, or a positive enum wire_status */
	uint32_t session;
	int mover;
};

enum mover_state {
	MOVER_STARTING = 0,  /* the creator waits for it */
	MOVER_RUNNING = 1,   /* set by the mover: its descriptors are its own */
	MOVER_ABANDONED = 2, /* set by the creator, who has stopped waiting */
};

/* Where it stands with the agent. */
enum mover_again {
	AGAIN_NO = 0,	    /* sock, if there is one, is its agent's */
	AGAIN_WELCOME = 1,  /* sock is of a handshake that waits for this */
	AGAIN_ATTACHED = 2,
	AGAIN_NEVER = 3,    /* it had an agent and could not work for it */
};

/*
 * All that the mover knows: it lives in the arena, is filled in before the
 * mover exists and is the mover's alone from then on, state aside.
 */
struct mover {
	uint32_t state; /* enum mover_state; compare-and-swap, and a futex */
	int pid;	/* set by whoever cloned it; <= 0: there is none */
	uint32_t cloned; /* by the thread that does it: that was tried; a futex */
	int workload;
	int self;
	/* Descriptors, inherited: nothing else is. */
	int sock; /* -1 while there is no agent */
	int uffd;
	int trash_uffd;
	int event;
	int pidfd; /* of the workload */
	int mem, pagemap; /* the mover's own, opened by it; -1: not had */
	uint32_t again;	  /* enum mover_again */
	uint64_t again_at, again_pause;
	uint32_t drop_error;
	uint32_t inside; /* the gate: our word stands there */
	uint64_t arena;
	uint64_t born;	    /* when it began */
	uint64_t next_look; /* when to compare address spaces again */
	uint64_t leave_by; /* the workload is gone; 0: it is not */
	uint64_t mark_after; /* nothing is marked before */
	uint32_t mark_slow;  /* marks until a slow one is the first again */
	uint32_t in_transit; /* lanes with pages that the agent has not dropped */
	uint32_t dropped;    /* lanes with pages that it has, and are there still: drop[] */
	uint64_t drop[WIRE_LANES];
	struct wire_gate *gate;
	struct wire_order order;
	struct wire_report report;
};

WIRE_ASSERT(mover_fits, sizeof(struct mover) <= WIRE_PAGE);

#define PACKET_FDS 4 /* at most, in one packet */

/* shim.c: how many seccomp filters are in force, by that status file; -1: it
   can't be read. */
long shim_filters(const char *status);
/* packet.c: 0 or a negative errno. */
struct wire_head packet_head(enum wire_type type);
long packet_send(int sock, void *packet, size_t size, const int *fd, unsigned int nr);
long packet_recv(int sock, void *packet, size_t size, enum wire_type type, int *fd,
		 unsigned int want);
/* attach.c: 0, or -1 with the reason in *outcome and nothing left behind. */
int attach(enum wire_kind kind, uint64_t nonce, struct outcome *outcome);
/* spawn.c: 0, or a negative errno; -EINPROGRESS: the arena must stay. */
long mover_start(struct mover *m);
/* mover.c: the mover's whole life. */
void mover_main(void *mover);
/* Of this task's table, a copy of the workload's, only five descriptors stay: the mover's. */
void mover_keep_own_fds(const struct mover *m);
/* mover.c, in the mover: exits if the workload has gone (seldom looks). */
void mover_look(struct mover *m);
/* No more dealings with this agent; the userfaultfd stays. */
void mover_hang_up(struct mover *m);
/* Says READY. */
void mover_ready(struct mover *m);
/* Answers m->order with m->report. */
void mover_report(struct mover *m);
/* again.c, in the mover, without an agent: looks for one, now and then; and the
   next step with one that has been found. */
void again_try(struct mover *m);
void again_answer(struct mover *m);
/* attach.c: ATTACH, but for what only one kind of it has. */
void attach_fill(struct wire_attach *w, uint64_t arena, uint64_t identity);
/* orders.c, in the mover: m->order, as it came, size bytes of it. */
int order_is_sane(const struct mover *m, long size);
void order_obey(struct mover *m);
void mover_drop(struct mover *m); /* what the agent has dropped so far */
/* fork.c: from now on fork children of this process attach themselves. */
void fork_watch(void);

#endif
