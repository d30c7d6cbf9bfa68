/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the object tier (objects.h) needs of an object store, so that its
 * protocol is tested on a directory as well as run on RADOS. Objects have
 * names, are created exclusively, written at explicit offsets and read by
 * range.
 *
 * Threads: submit, cancel and forget are for any; all others block, and are
 * called by one thread at a time (the keeper of objects.h).
 * Errors are negative errno. Told apart are:
 *	-ETIMEDOUT	it may have happened, may happen yet, or never
 *	-ENOENT		no such object; of OBJECT_CREATE: no such pool any more
 *	-EEXIST		of OBJECT_CREATE
 *	-ENOSPC, -EDQUOT  the pool is full; reading and removing work
 *	-EPERM, -EACCES	 our key is not good for that
 *	-ESHUTDOWN	 we have been expelled: another connection is needed
 *	-ENOTCONN	 there is no connection
 *	-EBUSY		 of lease: somebody else has it
 */
#ifndef USWAP_BACKENDS_OBJSTORE_H
#define USWAP_BACKENDS_OBJSTORE_H

#include <stddef.h>
#include <stdint.h>

#define OBJECT_NAME_MAX 128

enum object_kind {
	OBJECT_READ,
	OBJECT_WRITE,  /* of an object that must be there */
	OBJECT_CREATE, /* of one that must not: atomically with the write */
	OBJECT_PUT,    /* small, whole, there or not */
	/* One more tag (key) on an object that must be there: it stays until
	   untag has taken the last one off. Its maker has one from the start,
	   which is "". Tags are not used twice on one object. */
	OBJECT_TAG,
	/* A small value under a key in an object, which is made for it. get: the
	   value's bytes, -ENOENT for none. */
	OBJECT_INDEX_PUT,
	OBJECT_INDEX_GET,
	OBJECT_INDEX_REMOVE,
};

/*
 * One ranged read or write, or one of the other kinds. The caller's part stays as it is until done() has
 * been called, exactly once, by any thread, also before submit returns. done()
 * only hands over. Afterwards the io may be used again once it is forgotten.
 */
struct object_io {
	enum object_kind kind;
	const char *name;
	const char *key;
	uint64_t offset;
	void *buf;
	size_t len;
	/* OBJECT_WRITE and _CREATE: more for the same object, of which offset, buf,
	   len and with count. All of it is done at once, or none. */
	struct object_io *with;
	/* result: bytes read (fewer: the object ends there), 0, or -errno */
	void (*done)(struct object_io *io, int result);
	void *arg; /* the caller's */

	void *private[3]; /* the store's; NULL before the first submit */
};

struct object_lease {
	char cookie[96];
	char by[96]; /* for people */
};

struct objstore_ops {
	const char *name;
	/* Connects, or makes a new connection after an error, leaving the old
	   one to what is still under way on it. why: for people. */
	int (*open)(void *self, char *why, size_t why_size);

	void (*submit)(void *self, struct object_io *io);
	/* Ends it soon, with -ECANCELED or what it came to. A write may land all
	   the same. For an io that has not been forgotten. */
	void (*cancel)(void *self, struct object_io *io);
	/* Frees what submit took, after done and outside of it. */
	void (*forget)(void *self, struct object_io *io);

	int (*remove)(void *self, const char *name);
	/* Takes a tag off; the object goes with the last one. One that has not
	   that tag (any more) stays as it is. */
	int (*untag)(void *self, const char *name, const char *tag);
	/* All names with this prefix; fn's answer other than 0 ends it. */
	int (*list)(void *self, const char *prefix, int (*fn)(void *arg, const char *name),
		    void *arg);
	/* Small objects, whole. get: the bytes, at most size. */
	int (*get)(void *self, const char *name, void *buf, size_t size);
	int (*put)(void *self, const char *name, const void *buf, size_t len);

	/* The exclusive lease of an object under a cookie, taken or renewed. One
	   that another connection of the same cookie has is taken over: it is
	   one of ours that has died. */
	int (*lease)(void *self, const char *name, const char *cookie, unsigned ms);
	int (*unlease)(void *self, const char *name, const char *cookie);
	/* Anybody's? 0 no, 1 yes, and whose. */
	int (*leased)(void *self, const char *name, struct object_lease *lease);
	/* Of the connection, so that others can expel us; and expelling. */
	int (*address)(void *self, char *address, size_t size);
	int (*expel)(void *self, const char *address);

	/* Nothing is under way by then, unless the cluster is so far gone that
	   waiting for it has been given up. */
	void (*close)(void *self);
};

#endif
