/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The flow lane: the whole agent in one thread of one process, on a scripted
 * kernel. Everything that could happen next is an action; explore.c walks all
 * orders of them.
 *
 *   kernel.c      address spaces, userfaultfds, pagemap, /proc/PID/mem
 *   threads.c     threads of the workload: each system call in its atomic parts
 *   mover.c       the mover's orders, each in its atomic parts
 *   agent.c       the agent's own code, step by step: owner, worker, packer
 *   crash.c       its worker dies, at any step, and another one takes over
 *   invariants.c  what must be true after every action, and in the end
 *   explore.c     all orders, a short trace of a bad one
 *
 * The kernel's rules are those of docs/ARCHITECTURE.md and agent/sys/uffd.h,
 * each established by experiment: where there is a choice, the scripted kernel
 * is the less forgiving one.
 */
#ifndef USWAP_TESTS_FLOW_WORLD_H
#define USWAP_TESTS_FLOW_WORLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/util.h"
#include "common/wire.h"
#include "uapi/uswap_uapi.h"

/* ---- size ---- */
enum { AREA_A, AREA_B, AREA_C, AREAS };
#define AREA_PAGES 2
#define PAGES (AREAS * AREA_PAGES) /* that the workload may touch */
#define MMS 3			   /* a process, its child, its grandchild */
#define TOKENS 32
#define THREADS (3 + 1 + 1 + 1) /* three of the first process; its mover's touch; one of each child */
#define MOVER_THREAD 3
#define OPS_MAX 8
#define FD_MAX 1024

#define AREA_START(area) (0x10000000ull * ((area) + 1))
#define TRANSIT_START 0x70000000ull
#define IDENTITY_START 0x7f000000ull

/* ---- content: a token stands for 4 KiB of bytes; 0 for zeros ---- */
enum token_kind { TOKEN_TEXT, TOKEN_FILL, TOKEN_NOISE };
enum token_kind token_kind(unsigned token);
const void *token_page(unsigned token);
/* -1: bytes that nobody wrote. */
int token_of(const void *page);

/* ---- the kernel's side ---- */
enum page_kind { PAGE_NONE, PAGE_ZERO, PAGE_DATA, PAGE_GUARD, PAGE_POISON, PAGE_MARK };
struct page {
	uint8_t kind;
	uint8_t token;
	uint8_t frame;	/* the memory: the same in two address spaces after a fork */
	uint8_t origin; /* in transit: the page it came from, plus one */
	bool shared;	/* not marked exclusive: MOVE says EBUSY */
	bool lazy;	/* MADV_FREE: may vanish */
};

/* A touch of it is a fault. */
static inline bool page_is_missing(const struct page *p)
{
	return p->kind == PAGE_NONE || p->kind == PAGE_MARK;
}

#define MAY_SEGV ((uint32_t)1 << 31)
#define MAY(token) ((uint32_t)1 << (token))

struct session;

/* A MOVE order's parts. */
enum { MOVER_IDLE, MOVER_INSIDE, MOVER_MARKS, MOVER_OUTSIDE, MOVER_DONE };

struct mm {
	bool used, alive, users;
	bool mapped[AREAS], registered[AREAS];
	bool grown[AREAS]; /* ... without a word */
	bool wiped[AREAS]; /* by a fork */
	bool transit_registered, identity_registered;
	bool child_ready; /* its fork has returned */
	bool untold;	  /* ... and nothing was in what its parent says of then */
	bool held;	  /* the agent has its userfaultfd */
	struct page page[PAGES];
	struct page transit[WIRE_LANES][PAGES];
	/* what a read may find now: tokens, or SIGSEGV; zaps: system calls that
	   will drop the page, but have not yet */
	uint32_t may[PAGES];
	uint32_t fresh[PAGES]; /* ... of those, written while a zap was under way */
	uint8_t zaps[PAGES];
	int changing; /* mmap_changing */
	int parent;
	int uffd, mem, pagemap; /* descriptors; -1 */
	struct session *session;
	/* its mover */
	bool mover, pidfd_seen, told_gone, socket_shut;
	int sock; /* the mover's end */
	bool gate_event;
	struct wire_order orders[8];
	unsigned nr_orders;
	unsigned mover_step;
	bool mover_stale; /* its generation, when it entered the gate */
	uint8_t results[WIRE_BATCH];
	unsigned reports; /* sent and not taken */
	uint32_t drop_error; /* to be reported; */
	bool drop_reported;  /* was */
};

enum op {
	OP_NONE,
	OP_READ,
	OP_WRITE,
	OP_DONTNEED,
	OP_FREE,
	OP_UNMAP,
	OP_MAP,	  /* MAP_FIXED, over whatever is there */
	OP_REMAP, /* to the other area, over whatever is there */
	OP_DONTUNMAP,
	OP_FORK,
	OP_EXIT,
	OP_GUARD,
	OP_UNGUARD,
	OP_SHM,	 /* shmat(SHM_REMAP) over it: without an event */
	OP_WIPE, /* MADV_WIPEONFORK, of which no event tells; */
	OP_KEEP, /* ... MADV_KEEPONFORK */
	OP_GROW, /* a neighbour that is registered grows into the place */
	OP_POPULATE, /* the mover's */
};

enum blocked { RUNS, FAULT_QUEUED, FAULT_READ, EVENT_QUEUED, EVENT_READ };

struct thread {
	bool used;
	uint8_t mm;
	uint8_t op;
	uint8_t page;	 /* or first page of the area */
	uint8_t pages;	 /* 0: a touch */
	uint8_t step;
	uint8_t blocked;
	bool write;
	uint8_t child;	 /* OP_FORK */
	uint8_t nr_events, event;
	uint32_t seq;	 /* order in the queue */
	struct uffd_msg events[3];
};

/* Things that go wrong, each at most once in a run. */
enum trouble {
	TROUBLE_NOMEM,	    /* the next placing answers ENOMEM */
	TROUBLE_AGAIN,	    /* ... EAGAIN, without a reason that we can see */
	TROUBLE_HALF_MAP,   /* a change begins in the middle of the next placing */
	TROUBLE_RECLAIM,    /* pages that were MADV_FREE'd vanish */
	TROUBLE_MOVER,	    /* the mover is killed */
	TROUBLE_REVOKE,	    /* ... or too slow */
	TROUBLE_UNREADABLE, /* what is in transit can't be read (EIO) */
	TROUBLE_UNWRITABLE, /* ... read into: our page can't be had (EFAULT) */
	TROUBLE_CORRUPT,    /* the store gives other bytes, from now on */
	TROUBLE_FULL,	    /* the store is full, from now on */
	TROUBLE_EMFILE,	    /* no descriptor for the next fork child */
	TROUBLE_RESTORE,    /* not trouble, orders: bring everything back */
	TROUBLE_DETACH,
	TROUBLE_HELLO,	    /* the child says hello and gets a mover */
	TROUBLE_HASTE,	    /* threads run on while the owner has their events in hand */
	TROUBLE_DROP,	    /* the next DROP of the mover fails */
	TROUBLE_READ_EIO,   /* the next read of the slow store that ends: a way that fails */
	TROUBLE_READ_LATE,  /* ... no answer in time */
	TROUBLE_READ_LOST,  /* ... the bytes are not there any more */
	TROUBLE_CRASH,	    /* the worker dies: here, or inside of the next action (crash.c) */
	TROUBLE_SINK,	    /* pages go down a tier just before the next one is read */
	TROUBLE_UNCOUNTED,  /* the next page is moved, and MOVE says EEXIST, */
	TROUBLE_UNTOLD,	    /* ... or the mover stops before it hears that */
	TROUBLE_EXISTS, /* the next placing is done, says EEXIST and wakes nobody */
	TROUBLE_DIES,	/* process and mover die in the middle of the next placing: ESRCH */
	TROUBLE_REGISTER, /* the next mapping can't be registered: ENOMEM */
	TROUBLE_NOBATCH,  /* no memory for the next batch */
	TROUBLE_MOVE_BUSY, /* the next MOVE of a page says EBUSY, */
	TROUBLE_MOVE_HOLE, /* ... ENOENT, */
	TROUBLE_MOVE_STALE, /* ... EAGAIN, */
	TROUBLE_MOVE_OCCUPIED, /* ... EEXIST, */
	TROUBLE_MOVE_REFUSED, /* ... EINVAL */
	TROUBLE_MARKED, /* the next taking away of a mark answers EAGAIN */
	TROUBLE_BEHIND, /* the placing behind the next mark that is taken away answers EAGAIN */
	TROUBLES
};
#define TROUBLE(t) (UINT64_C(1) << TROUBLE_##t)

/* ---- a scenario ---- */
/* ... and has the service manager time for what it is given at once? */
enum both { BOTH_NOT, BOTH, BOTH_BUSY };

struct choice { /* what a thread may call */
	uint8_t op;
	uint8_t page;
	uint8_t pages;
};

struct scenario {
	const char *name;
	bool open; /* a known hole: it fails */
	struct choice choices[OPS_MAX]; /* of the first process, op 0 ends */
	struct choice child[3];
	struct choice script[4]; /* done before, on a quiet system; then an eviction */
	bool evicted;	/* begin with everything evicted and stored */
	bool staged;	/* ... or staged only */
	bool slow;	/* there is a slow tier, and what is stored begins there */
	uint8_t areas;	/* that are there, by bit; A if not said */
	uint8_t threads;
	uint8_t ops;	/* system calls and touches in all */
	uint8_t ticks;	/* looks of the evict worker */
	uint8_t quota;	/* pages in each */
	uint8_t depth;	/* actions, before everything runs to its end */
	uint64_t trouble; /* TROUBLE_ bits that may happen */
	uint8_t troubles; /* ... how many of them in one run */
	bool noise;	/* written pages don't compress */
	bool fill;	/* ... or repeat one word */
	bool mixed;	/* ... every other one does not compress */
	bool grace;	/* what is staged stays so */
	uint8_t both;	/* enum both: who dies is the keeper with the worker */
	bool unmarked;	/* a kernel without marks, or a mover */
	uint8_t aheads; /* there is a helper, and so often pages are taken in for it */
};

/* ---- an action ---- */
enum action_kind {
	DO_START, /* thread a begins choice b */
	DO_STEP,  /* thread a goes on */
	DO_SERVE, /* from here on the agent: owner, mm a */
	DO_MAIL,
	DO_JOBS,
	DO_DEFERRED,
	DO_SETTLE,
	DO_FORGET,
	DO_TICK,  /* worker, mm a */
	DO_WORKER_MAIL,
	DO_MESSAGE, /* worker, mover of mm a */
	DO_GONE,    /* worker: the process of mm a has ended */
	DO_ROOM,    /* worker: mm a has asked for room in its control group, or waits for memory */
	DO_PACK,
	DO_FETCH, /* owner: reads that have to be tried again, and pages to be placed */
	DO_READ,  /* the slow store: its read number a ends */
	DO_AHEAD, /* owner: pages of mm a are to be unpacked */
	DO_HELP,  /* the helper: takes some, or has unpacked them */
	DO_MOVER, /* the mover of mm a */
	DO_TROUBLE, /* b; CRASH: again at point a of the recovery */
};
struct action {
	uint8_t kind, a;
	uint8_t b; /* of the agent's own: it dies at its point so many; 0: it does not */
};
#define ACTIONS_MAX 128
#define CRASH_POINTS 8u /* at most, of one action, that are tried */

struct world {
	const struct scenario *scenario;
	struct mm mm[MMS];
	struct thread thread[THREADS];
	uint32_t next_seq;
	uint8_t next_token, next_frame;
	uint8_t ops, ticks, aheads;
	uint8_t helping; /* pages that the helper is at, */
	uint64_t helping_at; /* ... from that position on */
	uint64_t troubles; /* that have happened */
	/* armed trouble */
	uint8_t uncounted; /* enum wire_page: what is said of the next page that is moved */
	bool nomem, again, half_map, haste, unreadable, unwritable, corrupt, full, emfile, sink, drop_fails, exists, dies, unregistered, nobatch,
		marked, behind;
	uint8_t move_says; /* enum wire_page of the next page, 0: what is so */
	int read_error; /* of the next read of the slow store that ends */
	unsigned nr_lost_reads;
	uint32_t lost;	   /* tokens whose bytes were damaged: SIGBUS is right */
	uint64_t clock_ns;
	bool in_owner;		 /* nothing slow is waited for (INV-2) */
	bool in_fault_path;	 /* ... and no allocation, no lock */
	bool saw_event;		 /* ... unless it has read an event */
	unsigned placed;	 /* statistics, so that no scenario is vacuous */
	unsigned moved, refaulted;
};
extern struct world w;

/* Fails the run. */
_Noreturn void violated(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* kernel.c */
void kernel_reset(void);
int mm_of_fd(int fd);
int mm_at_fd(int fd); /* -1: another one */
void mm_bind_fd(int fd, int mm);
int mm_new(int parent);
void mm_exit(int mm);
/* Nobody uses it any more: the last of users and mover has gone. */
void mm_put(int mm);
uint64_t page_address(unsigned page);
int page_of_address(uint64_t address);
unsigned frame_users(unsigned frame);
bool kernel_readable(int mm);
void kernel_put_uffd(int mm);
void wake_range(int mm, uint64_t start, uint64_t end);

/* threads.c */
bool thread_may_start(const struct thread *t, const struct choice *c);
void thread_start(unsigned thread, const struct choice *c);
bool thread_may_step(const struct thread *t);
void thread_step(unsigned thread);
void thread_forget(struct thread *t); /* it ends, wherever it is */
const char *op_name(unsigned op);

/* mover.c */
bool scripted_mover_may_step(const struct mm *mm);
void scripted_mover_step(int mm);
void scripted_mover_exit(int mm);
void scripted_mover_receive(int mm); /* takes the orders out of the socket */

/* agent.c */
void agent_open(void); /* once in a process */
void agent_begin(const struct scenario *s);
bool agent_may(const struct action *a);
/* False: it was to die at a point that it has not. */
bool agent_do(const struct action *a);
/* False: again was a point that there is not (TROUBLE_CRASH). */
bool agent_trouble(enum trouble t, unsigned again);
bool agent_may_trouble(enum trouble t);
/* Descriptors that the owner keeps free. */
unsigned agent_reserve(void);
/* Everybody has exited: lets go of all; checks that nothing is left. */
void agent_end(void);
size_t agent_hash(void *to, size_t room);
/* What is stored goes to the slow tier. */
void agent_sink(void);
void agent_after(void); /* the control thread's part, after each action */

/* invariants.c */
void check_step(void);
void check_end(void);
void check_placing(int mm, int page, unsigned token);

/* explore.c */
struct limits {
	unsigned depth;	  /* 0: the scenario's */
	uint64_t runs_max; /* 0: all of them */
	uint64_t seed;	  /* random walks instead of all orders, if not 0 */
	unsigned percent; /* of the scenario's depth, 100 as it is */
};
struct result {
	uint64_t runs, states, actions, placed, moved, refaulted;
	bool failed, complete;
};
struct result explore(const struct scenario *s, const struct limits *limits);

#endif
