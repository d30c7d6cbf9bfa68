/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/mailbox.h"

#include <errno.h>
#include <sys/eventfd.h>

#include "common/util.h"

int mailbox_init(struct mailbox *box)
{
	atomic_init(&box->head, NULL);
	box->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return box->event < 0 ? -errno : 0;
}

void mailbox_deinit(struct mailbox *box)
{
	box->event = safe_close(box->event);
}

void mailbox_send(struct mailbox *box, struct mail *mail)
{
	struct mail *head = atomic_load_explicit(&box->head, memory_order_relaxed);

	do {
		mail->next = head;
	} while (!atomic_compare_exchange_weak_explicit(&box->head, &head, mail,
							memory_order_acq_rel,
							memory_order_relaxed));
	/* Only the one who found it empty needs to wake the receiver. */
	if (!head)
		eventfd_write(box->event, 1);
}

struct mail *mailbox_take(struct mailbox *box)
{
	struct mail *mail, *oldest = NULL;

	if (!atomic_load_explicit(&box->head, memory_order_relaxed))
		return NULL;
	mail = atomic_exchange_explicit(&box->head, NULL, memory_order_acq_rel);
	while (mail) {
		struct mail *next = mail->next;

		mail->next = oldest;
		oldest = mail;
		mail = next;
	}
	return oldest;
}
