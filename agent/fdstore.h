/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fdstore: the service manager's store of descriptors (sd_notify(3), FDSTORE=1),
 * the second line behind the keeper: when keeper and worker are killed together,
 * or the service is restarted, the manager passes all of them to the next agent.
 *
 * There, kept files are "k.NAME", and the descriptors of a session a letter and
 * the number of its record: short, since all names together must fit into one
 * variable of the environment. What doesn't fit is refused, never lost; nor may one
 * user's fill it for the others (uid: whose it is, the same for each call).
 *
 * Threads: the control thread, but for what says otherwise; fdstore_take runs before
 * there is a worker.
 */
#ifndef USWAP_FDSTORE_H
#define USWAP_FDSTORE_H

#include <stdbool.h>
#include <sys/types.h>

/* Is there one, and how much goes into it? */
void fdstore_init(void);
bool fdstore_is_there(void);
/* A passed descriptor of this name was one of ours: it is where it was. */
bool fdstore_take(const char *name, int fd);
/* All have been taken: the records name what has come back. False: what is kept
   is of a newer agent, and must be left alone. */
bool fdstore_taken(void);
/* The kept files, as soon as there are all of them. */
void fdstore_put_files(void);
/* After a drain: nothing in them is of use to anybody, an older agent must be able to
   start, and a store's file or device must not stay open. */
void fdstore_remove_files(void);
/* Those that have come back are of no use: as if there had been no agent. Before there is
   a worker. */
void fdstore_forget_files(void);
/* A worker before this one has died. */
void fdstore_inherited(void);
/* A session's; 0, or -ENOSPC. Safe after fdstore_sync. fd -1: it is there. */
int fdstore_put(uid_t uid, char kind, unsigned record, int fd);
/* The same without waiting for the manager, from any thread: -EAGAIN where it has
   much to read just now. */
int fdstore_put_now(uid_t uid, char kind, unsigned record, int fd);
void fdstore_remove(uid_t uid, char kind, unsigned record);
/* Waits until the manager has them. False: it does not say so. */
bool fdstore_sync(void);

/* In the holder (keeper/keeper.h). Needs no new descriptors; returns from the last when
   the manager has them all. */
void fdstore_hand_over(char kind, unsigned record, int fd);
void fdstore_handed_over(void);

#endif
