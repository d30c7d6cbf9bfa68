/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The connection to a cluster, made anew when it is of no more use.
 *
 * Two clients for one connection: writes of 256 KiB and more on the client of
 * the reads would keep a read of 2 KiB waiting for milliseconds. The client of
 * the reads has no time-out: librados sends again until the OSD answers, and a
 * fault has nowhere else to go.
 *
 * Threads: librados brings 9 for each client, which inherit the signal mask of
 * the keeper (all blocked), since that is who makes them. Nothing here survives
 * a fork.
 */
#ifndef USWAP_BACKENDS_RADOS_CONNECTION_H
#define USWAP_BACKENDS_RADOS_CONNECTION_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>

#include "backends/rados_library.h"
#include "backends/rados_spec.h"

struct rados_client {
	rados_t cluster;
	rados_ioctx_t io;
};

/* Two clients that are connected. Lives while it is used. */
struct rados_connection {
	struct rados_client bulk;  /* writes, and all that waits */
	struct rados_client fault; /* reads, lookups */
	_Atomic uint32_t users;
	struct rados_connection *next;
};

struct rados_opening;

struct rados_connector {
	struct rados_spec spec;
	pthread_rwlock_t lock; /* `now`: written for the length of an assignment */
	struct rados_connection *now;
	struct rados_connection *old;  /* the keeper's: those that were given up */
	struct rados_opening *opening; /* the keeper's: one that is being made */
};

/* Not connected yet. NULL, and *error for people. */
struct rados_connector *rados_connector_new(const char *spec, const char **error);
/* Another connection instead of `now`; the keeper's. 0, or negative, and why for
   people in so many bytes. Takes up to 12 s; after -ETIMEDOUT it goes on, and the
   next call asks for its end. */
int rados_connector_open(struct rados_connector *r, char *why, size_t size);
/* The keeper's. What is still used, or still being made, is left behind. */
void rados_connector_free(struct rados_connector *r);

/* The present one, until it is released; NULL: there is none. Any thread. */
struct rados_connection *rados_connection_use(struct rados_connector *r);
void rados_connection_release(struct rados_connection *c);

#endif
