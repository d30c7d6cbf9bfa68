/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One packet with descriptors over a Unix socket. Any thread. */
#ifndef USWAP_COMMON_FDPASS_H
#define USWAP_COMMON_FDPASS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define FDPASS_MAX 4

/* Sends without blocking. 0 or negative errno. The descriptors stay ours. */
int fdpass_send(int sock, const void *packet, size_t size, const int *fds, unsigned nr);
/*
 * Receives without blocking: the packet's size (never more than room: a longer
 * one is -EMSGSIZE), 0 at the end, or negative errno. The descriptors received
 * (close-on-exec) are the caller's; on an error none are. *peer is the
 * sender's pid if the socket has SO_PASSCRED, else 0. fds has FDPASS_MAX
 * places; more than that in the packet is -EMSGSIZE too. uid: whose connection it is;
 * -EUSERS, and nothing is taken: too much of his waits to be closed.
 */
ssize_t fdpass_recv(int sock, uid_t uid, void *packet, size_t room, int *fds, unsigned *nr, pid_t *peer);
/* Hands those of that user's that are not taken (>= 0) to the reaper: nobody knows what
   they are. */
void fdpass_close(uid_t uid, int *fds, unsigned nr);
/* What the kernel says of a descriptor in /proc/self/fdinfo: the value of the line
   "NAME:", which of our own kinds of file nobody else can write. False: none. */
bool fdpass_info(int fd, const char *name, char *value, size_t size);

#endif
