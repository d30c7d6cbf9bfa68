/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * reaper: closes descriptors that came from elsewhere, in threads of its own.
 * Ours may be the last reference to what a peer sent: then close() may wait as
 * long as the peer likes (a socket that lingers), and no signal ends it where it
 * waits for a FUSE server or for the locks of the peer's memory (a userfaultfd).
 * So each user gets a few threads, and who fills those is to send nothing more.
 * Any thread but those that answer faults: it takes a mutex and may allocate.
 */
#ifndef USWAP_COMMON_REAPER_H
#define USWAP_COMMON_REAPER_H

#include <stdbool.h>
#include <sys/types.h>

/* Of what is our own, such as sockets with what nobody has read in them. Negative ones
   are left alone. Take it out of every epoll set first: it stays open, and known there,
   for a while. */
void reaper_close(int fd);
/* Of what has been received from that user, or nobody knows from whom. */
#define REAPER_UNKNOWN ((uid_t)-2)
void reaper_close_of(uid_t uid, int fd);
/* So much of that user waits to be closed that nothing more may be received from him. */
bool reaper_is_full(uid_t uid);

#endif
