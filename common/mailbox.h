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
#include <stdint.h>

struct mail {
	struct mail *next;
	uint32_t kind; /* the receiver's business */
};

struct mailbox {
	_Atomic(struct mail *) head;
	int event; /* readable when there is mail */
};

/* 0 or negative errno. */
int mailbox_init(struct mailbox *box);
void mailbox_deinit(struct mailbox *box);
void mailbox_send(struct mailbox *box, struct mail *mail);
/* All mail, oldest first, and the eventfd cleared; NULL if there is none. */
struct mail *mailbox_take(struct mailbox *box);

#endif
