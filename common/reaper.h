/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * reaper: closes descriptors that came from elsewhere, in threads of its own.
 * Ours may be the last reference to what a peer sent: then close() may wait as
 * long as the peer likes (a socket that lingers, a file of a FUSE file system)
 * or for the peer's locks (a userfaultfd). Any thread but those that answer
 * faults: it takes a mutex and may allocate.
 */
#ifndef USWAP_COMMON_REAPER_H
#define USWAP_COMMON_REAPER_H

/* Negative ones are left alone. Take it out of every epoll set first: it stays
   open, and known there, for a while. */
void reaper_close(int fd);

#endif
