/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * mailbox: many senders, one receiver. Sending is wait-free but for one
 * compare-and-swap loop, never allocates (the mail is embedded in what is
 * sent), and wakes the receiver through an eventfd.
 *
 * Synchronization: mailbox_send from any thread; mailbox_take from the owner.
 */
#ifndef USWAP_COMMON_MAILBOX_H
#define USWAP_COMMON_MAILBOX_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

struct mail {
	struct mail *next;
	uint32_t kind; /* the receiver's business */
};

struct mailbox {
	_Atomic(struct mail *) head;
	int event; /* eventfd, written when there is mail and never read: watch
		      it edge-triggered (EPOLLIN | EPOLLET) */
};

/* 0 or negative errno. */
int mailbox_init(struct mailbox *box);
void mailbox_deinit(struct mailbox *box);
void mailbox_send(struct mailbox *box, struct mail *mail);
/* All mail, oldest first; NULL if there is none. No system call. */
struct mail *mailbox_take(struct mailbox *box);

#endif
