/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The protocol between the shim (and its mover) and the agent, and the one
 * page of memory they share. It is the only header of the project that the
 * shim may include beside uapi/; so it needs no C library.
 *
 * Transport: one SOCK_SEQPACKET Unix socket per session, one struct per
 * packet, host byte order (both ends are on one machine), no padding that is
 * not named. Every packet starts with struct wire_head. Any packet of another
 * size, magic, version or type ends the session's handshake: the agent closes,
 * the shim lets the program run unmanaged (INV-9).
 *
 * Handshake:
 *   shim  -> agent  HELLO
 *   agent -> shim   WELCOME   + descriptors: the open /dev/userfaultfd; for
 *                               WIRE_CHILD the child's userfaultfd before it
 *   shim  -> agent  ATTACH    + descriptors: userfaultfd (WIRE_NEW only),
 *                               /proc/self/mem and /proc/self/pagemap, both
 *                               O_RDONLY; in that order
 *   agent -> shim   ATTACHED  + descriptors: the gate memfd (one page, sealed
 *                               against shrink, grow and further seals) and
 *                               the gate eventfd (non-blocking)
 *   (the shim starts the mover, which inherits the socket, and closes its own
 *    descriptors; the program goes on)
 *   mover -> agent  READY
 * An agent that takes the place of one that has died, and doesn't know whether
 * ATTACHED was sent or READY read, sends ATTACHED: a shim that waits for it goes
 * on, a mover answers with READY.
 * From then on the socket carries ORDER (agent -> mover) and REPORT (mover ->
 * agent, exactly one for each order whose op is not WIRE_OP_DROP or
 * WIRE_OP_LEAVE, in order).
 *
 * When the socket has hung up (the agent was killed), the mover connects again,
 * by itself and without an end, and shakes hands with whatever agent answers:
 * WIRE_AGAIN, a WELCOME without descriptors, and an ATTACH with four of them,
 * userfaultfd, mem, pagemap and a pidfd of the workload. ATTACHED brings another
 * gate, which it maps over the old one.
 */
#ifndef USWAP_WIRE_H
#define USWAP_WIRE_H

#include <stdint.h>

#define WIRE_MAGIC 0x50575355u /* "USWP" */
#define WIRE_VERSION 1

#define WIRE_SOCKET_DEFAULT "/run/uswap/agent.sock"
#define WIRE_SOCKET_ENV "USWAP_SOCKET"

#define WIRE_PAGE 4096u
/* The transit area: lanes of one batch each; see docs/ARCHITECTURE.md. */
#define WIRE_BATCH 64u /* pages in one batch, and bits in a drop mask */
#define WIRE_LANES 4u
#define WIRE_TRANSIT_PAGES (WIRE_BATCH * WIRE_LANES)

enum wire_type {
	WIRE_HELLO = 1,
	WIRE_WELCOME = 2,
	WIRE_ATTACH = 3,
	WIRE_ATTACHED = 4,
	WIRE_READY = 5,
	WIRE_ORDER = 6,
	WIRE_REPORT = 7,
};

struct wire_head {
	uint32_t magic;
	uint16_t version;
	uint16_t type; /* enum wire_type */
};

enum wire_kind {
	WIRE_NEW = 1,	/* a fresh address space (constructor) */
	WIRE_CHILD = 2, /* a fork child; nonce read from the identity page */
	WIRE_AGAIN = 3, /* a mover whose agent has gone; nonce: the gate's token */
};

struct wire_hello {
	struct wire_head head;
	uint32_t kind; /* enum wire_kind */
	uint32_t reserved;
	uint64_t nonce; /* WIRE_CHILD and WIRE_AGAIN, else 0 */
};

/* Why the agent refuses; 0 is welcome. For people see shim.c and libuswap(7). */
enum wire_status {
	WIRE_OK = 0,
	WIRE_DENIED = 1,      /* this user or process may not attach */
	WIRE_LIMIT = 2,	      /* no room for another process */
	WIRE_STOPPING = 3,    /* the agent is draining */
	WIRE_UNKNOWN = 4,     /* no fork child has this nonce */
	WIRE_UNSUPPORTED = 5, /* version, or the kernel lacks a feature */
	WIRE_FAILED = 6,      /* the agent could not set the session up */
	WIRE_NEVER = 7,	      /* NeverAttach=: the agent depends on this program */
};

struct wire_welcome {
	struct wire_head head;
	uint32_t status; /* enum wire_status; no descriptors unless WIRE_OK */
	uint32_t reserved;
};

struct wire_range {
	uint64_t start; /* byte address, page aligned */
	uint64_t end;	/* exclusive */
};

#define WIRE_NEVER_MAX 8

struct wire_attach {
	struct wire_head head;
	uint64_t transit;  /* WIRE_TRANSIT_PAGES pages, anonymous, DONTFORK */
	uint64_t identity; /* one page, anonymous, WIPEONFORK, never touched */
	uint32_t nr_never; /* ranges never to register: all of the shim's own
			      memory (its image too), transit and identity in
			      it as well */
	uint32_t away; /* WIRE_AGAIN: the gate's word, else 0 */
	struct wire_range never[WIRE_NEVER_MAX];
};

struct wire_attached {
	struct wire_head head;
	uint32_t status; /* enum wire_status; no descriptors unless WIRE_OK */
	uint32_t session;
};

struct wire_ready {
	struct wire_head head;
	uint32_t mover; /* pid in the mover's namespace; the agent believes
			   SCM_CREDENTIALS instead */
	uint32_t reserved;
};

enum wire_op {
	WIRE_OP_MOVE = 1,     /* pages of range[] into lane; REPORT */
	WIRE_OP_DROP = 2,     /* forget the pages of drop_mask in lane: soon, and before a
				 MOVE into it, a POPULATE or a LEAVE that is ordered later */
	WIRE_OP_POPULATE = 3, /* MADV_POPULATE_WRITE range[], while generation is the gate's; REPORT */
	WIRE_OP_LEAVE = 4,    /* all is restored and unregistered: exit */
};

struct wire_move {
	uint64_t address; /* page aligned */
	uint32_t pages;	  /* >= 1; the sum over range[] is <= WIRE_BATCH */
	uint32_t reserved;
};

/*
 * MOVE fills the lane from its first page on, page i of the concatenated
 * ranges going to transit + (lane * WIRE_BATCH + i) * WIRE_PAGE, whatever
 * happens to the others. The mover enters the gate as MOVER first, and moves
 * nothing if generation differs from the gate's (every page WIRE_PAGE_STALE).
 * mark: still inside, it leaves a mark where pages went (sys/uffd.h); movers
 * older than that word report WIRE_PAGE_DONE for all.
 */
struct wire_order {
	struct wire_head head;
	uint32_t op; /* enum wire_op */
	uint32_t seq;
	uint32_t generation;
	uint32_t lane;
	uint64_t drop_mask; /* WIRE_OP_DROP: bit i = page i of lane */
	uint32_t nr_ranges;
	uint32_t mark; /* WIRE_OP_MOVE: 1 or 0 */
	struct wire_move range[WIRE_BATCH];
};

enum wire_page {
	WIRE_PAGE_DONE = 0,
	WIRE_PAGE_BUSY = 1,   /* EBUSY: pinned, or shared since a fork */
	WIRE_PAGE_HOLE = 2,   /* ENOENT: no page there */
	WIRE_PAGE_STALE = 3,  /* generation changed, or EAGAIN: an event is
				 unread; nothing moved, ask again later */
	WIRE_PAGE_OCCUPIED = 4, /* EEXIST: the transit page is in use */
	WIRE_PAGE_REFUSED = 5,	/* EINVAL, EFAULT and all else: this mapping
				   can't be moved from now */
	WIRE_PAGE_MARKED = 6,	/* DONE, and there is a mark in its place */
};

struct wire_report {
	struct wire_head head;
	uint32_t seq; /* of the order answered */
	uint32_t drop_error; /* errno of a DROP that failed since the last
				report, 0 if none */
	uint8_t page[WIRE_BATCH]; /* enum wire_page of each page, 0 beyond */
};

/*
 * The gate: MOVE and the owner's reads and copies exclude each other for the
 * length of one ioctl. It lives in a page shared with the workload, so the
 * agent believes nothing in it but lets it delay only this session.
 *
 * word        FREE -> AGENT -> FREE by the owner, FREE -> MOVER -> FREE by
 *             the mover, compare-and-swap with acquire, store with release.
 * wanted      set by an owner that found MOVER and stopped waiting. While it
 *             is set, the mover doesn't enter (it sleeps 20 us between tries)
 *             and, having left, writes 1 to the eventfd.
 * generation  raised by the owner, inside, whenever it has applied an event.
 * token       of this session, for WIRE_AGAIN; set before the shim has the page.
 * away        at least how many pages are out of the address space, plus one; 0:
 *             it can't be said. For an agent that knows nothing else of this
 *             process any more: where it is 1, what is missing was never there.
 */
enum wire_gate_word {
	WIRE_GATE_FREE = 0,
	WIRE_GATE_AGENT = 1,
	WIRE_GATE_MOVER = 2,
};

struct wire_gate {
	uint32_t word;
	uint32_t pad0[15];
	uint32_t wanted;
	uint32_t pad1[15];
	uint32_t generation;
	uint32_t pad2[15];
	uint64_t token;
	uint32_t away;
	uint32_t pad3[13];
};

#define WIRE_ASSERT(name, cond) typedef char wire_assert_##name[(cond) ? 1 : -1]
WIRE_ASSERT(hello, sizeof(struct wire_hello) == 24);
WIRE_ASSERT(welcome, sizeof(struct wire_welcome) == 16);
WIRE_ASSERT(attach, sizeof(struct wire_attach) == 160);
WIRE_ASSERT(attached, sizeof(struct wire_attached) == 16);
WIRE_ASSERT(order, sizeof(struct wire_order) == 40 + 16 * WIRE_BATCH);
WIRE_ASSERT(report, sizeof(struct wire_report) == 16 + WIRE_BATCH);
WIRE_ASSERT(gate, sizeof(struct wire_gate) == 256);

#endif
