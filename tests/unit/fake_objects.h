/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * An object store in a directory (backends/objstore.h), for tests: each object
 * is a file; what goes wrong is said by rules.
 */
#ifndef USWAP_TESTS_FAKE_OBJECTS_H
#define USWAP_TESTS_FAKE_OBJECTS_H

#include <stdbool.h>

#include "backends/objstore.h"

enum fake_call {
	FAKE_OPEN,
	FAKE_READ,
	FAKE_WRITE,
	FAKE_CREATE,
	FAKE_REMOVE,
	FAKE_LIST,
	FAKE_PUT,
	FAKE_LEASE,
	FAKE_EXPEL,
	FAKE_TAG,
	FAKE_UNTAG,
	FAKE_INDEX,
	FAKE_CALLS
};

struct fake_rule {
	enum fake_call call;
	int error;	/* 0: only the flags below */
	bool landed;	/* it is done all the same */
	bool held;	/* it ends when fake_release is called */
	void (*before)(void); /* called before a submit; NULL: nothing */
	unsigned times;	/* 0: until fake_clear */
};

struct fake_cluster;
extern const struct objstore_ops fake_ops;

/* Files in the directory are the objects, those that begin with a dot their tags
   and index entries; it must be there. */
struct fake_cluster *fake_new(const char *dir);
void fake_free(struct fake_cluster *cluster);
/* A client: the self of fake_ops. Closed by its close(). */
void *fake_client(struct fake_cluster *cluster);

void fake_add(struct fake_cluster *cluster, struct fake_rule rule);
void fake_clear(struct fake_cluster *cluster);
/* What is held goes on. Returns how many. */
unsigned fake_release(struct fake_cluster *cluster);
unsigned fake_held(struct fake_cluster *cluster);
unsigned fake_calls(struct fake_cluster *cluster, enum fake_call call);
/* Somebody else's lease, for so long (0: for ever), or none (cookie NULL). */
void fake_set_lease(struct fake_cluster *cluster, const char *cookie, unsigned ms);
/* Of an object; 0: its maker's alone. */
unsigned fake_tags(struct fake_cluster *cluster, const char *name);
/* Objects whose name begins so. */
unsigned fake_count(struct fake_cluster *cluster, const char *prefix);

#endif
