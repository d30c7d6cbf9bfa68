/* SPDX-License-Identifier: GPL-2.0-or-later */
/* fetch.c, one page of a slow tier, and fetch_window.c, many in one read, between
   themselves. All is an owner's. */
#ifndef USWAP_FLOW_FETCH_PRIVATE_H
#define USWAP_FLOW_FETCH_PRIVATE_H

#include "flow/flow.h"

#define FETCHES 192
/* Reads of many pages: those of one stream that are used, are being read, and of
   another one. */
#define WINDOWS 4
#define WINDOW_PAGES 64

struct window;

struct fetch {
	struct blobstore_fetch read; /* the first: read.read is what done() gets */
	struct mail mail;
	struct fetches *all;
	struct window *window;	 /* whose bytes it has; NULL: its own */
	struct session *session; /* NULL: ended meanwhile */
	uint64_t vpn;
	uint64_t start_ns;
	uint64_t due_ns; /* not looked at before */
	struct fetch *next; /* free, or to be looked at again */
	unsigned tries;
	bool doubted; /* what was read was wrong, once */
	bool used;
	bool begun;  /* a read is pending, or its result is held */
	bool pending; /* ... the former */
	bool failed; /* to be read again */
	bool demand; /* a thread waits, or did when it began */
};

/* One read for several fetches, which end one by one: its buffer is theirs till
   then. */
struct window {
	struct blobstore_window read; /* the first */
	struct mail mail;
	struct mailbox *box;
	struct fetch *v[WINDOW_PAGES];
	unsigned n, left; /* not ended; 0: it is free */
	uint64_t start_ns;
	bool pending;
};

struct fetches {
	struct mailbox *box;
	struct fetch v[FETCHES];
	struct window windows[WINDOWS];
	struct fetch *free;
	struct fetch *again;
	unsigned nr_free;
	bool starved; /* some session has faults that found none free */
	bool awaited; /* somebody who reads ahead found no window free */
	unsigned char *buffers;
	struct seal *seal;
};

/* ---- fetch.c ---- */

/* The blob of a page that is in a slow tier; 0: it is at hand. */
blob_id fetch_slow_blob(const struct owner *o, slot_t slot);
/* For a page that is slow: its slot is FETCHING from now on, for this fetch, which
   has not begun to read. NULL: none is free, or (*retry) it is not that simple. */
struct fetch *fetch_claim(struct owner *o, struct session *s, uint64_t vpn, bool demand, bool *retry);
/* It reads nothing: the slot, as it was, says where the page is. */
slot_t fetch_disclaim(struct owner *o, struct session *s, struct fetch *f);
/* Its read has ended and is of no more use. */
void fetch_end(struct owner *o, struct fetch *f);
/* Its page still wants these bytes: *slot is what names them. */
bool fetch_is_wanted(struct fetch *f, slot_t *slot);
/* What has been read, unpacked; -errno as of blobstore_fetch_page. */
int fetch_unpack(struct owner *o, struct fetch *f, void *page);
/* ... and placed, if it can be now. r: what unpacking has come to. */
void fetch_look_at(struct owner *o, struct fetch *f, int r, const void *bytes);
/* It was placed: counts. */
void fetch_account(struct owner *o, struct fetch *f);
void fetch_read_again(struct owner *o, struct fetch *f, uint64_t due_ns);

/* ---- fetch_window.c ---- */

void fetch_window_init(struct window *w, struct mailbox *box, unsigned char *buffer);
/* This one has ended, or reads by itself. */
void fetch_leave_window(struct owner *o, struct fetch *f);
/* Its read has ended, and nobody places any of it. */
void fetch_window_end(struct owner *o, struct window *w);
/* Nobody waits for any of it any more. */
bool fetch_window_is_for_nobody(const struct window *w);

#endif
