/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * objects: a store (store.h) whose segments are objects in an object store
 * (objstore.h): RADOS, and a directory in unit tests.
 *
 * Names in the pool:
 *	h.HOST			the host's lease, and who holds it
 *	p.HOST			now and then, while the pool is full: is it still?
 *	s.HOST.INSTANCE.NUMBER	a segment
 *	r.HOST.INSTANCE.NUMBER	a segment of another host that this one has
 *				borrowed: its name. The same without "r." is the
 *				tag that keeps it
 *	f.EPOCH.SHARD		the index: keys, and which segments they are in
 * HOST names the machine (of /etc/machine-id). INSTANCE is the boot, and the
 * life of the agent's kept memory: what nothing can refer to any more, all
 * segments of another instance under our HOST, is removed once we hold the
 * lease. NUMBER is never used twice, so a late write hits nothing but the
 * object it was meant for, or none (objects are created once, and written only
 * if they exist).
 *
 * A lease that is renewed while we watch belongs to another machine with our
 * id. It is never taken over, however long that one may be out of reach later.
 *
 * Threads: of store.h; and one of its own, the keeper, which connects, renews
 * the lease, removes, and sends reads again that failed for a reason that may
 * pass.
 */
#ifndef USWAP_BACKENDS_OBJECTS_H
#define USWAP_BACKENDS_OBJECTS_H

#include <stdbool.h>
#include <stdint.h>

#include "backends/objstore.h"
#include "backends/store.h"

struct objects_settings {
	const char *host;    /* HOST; NULL: of the machine */
	const char *where;   /* for messages: the pool */
	uint64_t max_bytes;  /* of segments */
	unsigned timeout_ms; /* of a write; the lease is three times as long */
	const char *kept;    /* name of the kept table; NULL: none */
};

/*
 * Takes over the object store, which is closed with it, and begins to connect.
 * NULL and errno: self is closed then. -ENOKEY: the machine has no id.
 */
struct store *store_objects_new(const struct objstore_ops *ops, void *self,
				const struct objects_settings *settings);

/* Removes what a host has left that will not come back; blocks. How many
   segments there were, or a negative errno and *error for people. Takes self
   over. */
int64_t objects_collect(const struct objstore_ops *ops, void *self, const char *host,
			const char **error);

#endif
