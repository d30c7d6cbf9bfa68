/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * RADOS as the object store below backends/objects.h. Callbacks come on a thread
 * of librados and only hand over.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "backends/objects.h"
#include "backends/rados_connection.h"
#include "backends/rados_ops.h"
#include "common/util.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#define BLOCKLIST_S 86400u
#define LOCK "uswap"

static const struct rados_library *lib; /* set before the first is made */

/* ---- the connection ---- */

static int rados_open(void *self, char *why, size_t size)
{
	return rados_connector_open(self, why, size);
}

static void rados_close(void *self)
{
	rados_connector_free(self);
}

/* ---- ranged reads and writes ---- */

static void on_complete(rados_completion_t completion, void *arg)
{
	struct object_io *io = arg;

	io->done(io, rados_ops_result(lib, io, lib->rados_aio_get_return_value(completion)));
}

/* What is asked for does not wait behind what is written. */
static rados_ioctx_t client_for(const struct rados_connection *c, const struct object_io *io)
{
	return io->kind == OBJECT_READ || io->kind == OBJECT_INDEX_GET ? c->fault.io : c->bulk.io;
}

static void rados_submit(void *self, struct object_io *io)
{
	struct rados_connection *c = rados_connection_use(self);
	int r;

	assert(!io->private[0] && !io->private[1]);
	if (!c) {
		io->done(io, -ENOTCONN);
		return;
	}
	io->private[1] = c;
	r = lib->rados_aio_create_completion2(io, on_complete, &io->private[0]);
	if (r) {
		io->private[0] = NULL;
		io->done(io, r);
		return;
	}
	r = rados_ops_start(lib, client_for(c, io), io);
	if (r < 0)
		io->done(io, r);
}

static void rados_cancel(void *self, struct object_io *io)
{
	struct rados_connection *c = io->private[1];

	(void)self;
	if (io->private[0])
		lib->rados_aio_cancel(client_for(c, io), io->private[0]);
}

static void rados_forget(void *self, struct object_io *io)
{
	struct rados_connection *c = io->private[1];

	(void)self;
	if (io->private[0])
		lib->rados_aio_release(io->private[0]);
	if (io->private[2])
		lib->rados_omap_get_end(io->private[2]);
	if (c)
		rados_connection_release(c);
	io->private[0] = io->private[1] = io->private[2] = NULL;
}

/* ---- what the keeper waits for ---- */

static rados_ioctx_t bulk(void *self)
{
	return ((struct rados_connector *)self)->now->bulk.io;
}

static int rados_remove_object(void *self, const char *name)
{
	return lib->rados_remove(bulk(self), name);
}

static int rados_untag(void *self, const char *name, const char *tag)
{
	return rados_ops_untag(lib, bulk(self), name, tag);
}

static int rados_list(void *self, const char *prefix, int (*fn)(void *arg, const char *name),
		      void *arg)
{
	rados_list_ctx_t list;
	const char *name;
	int r = lib->rados_nobjects_list_open(bulk(self), &list);

	if (r)
		return r;
	while (!(r = lib->rados_nobjects_list_next(list, &name, NULL, NULL))) {
		if (strncmp(name, prefix, strlen(prefix)) == 0)
			r = fn(arg, name);
		if (r)
			break;
	}
	lib->rados_nobjects_list_close(list);
	return r == -ENOENT ? 0 : r; /* its end */
}

static int rados_get(void *self, const char *name, void *buf, size_t size)
{
	return lib->rados_read(bulk(self), name, buf, size, 0);
}

static int rados_put(void *self, const char *name, const void *buf, size_t len)
{
	return lib->rados_write_full(bulk(self), name, buf, len);
}

/* ---- leases ---- */

struct holder {
	char client[96], cookie[96], address[160];
};

/* 1 and who holds the lock, 0 or a negative errno. An exclusive lock has one
   holder, so the lists are of one. */
static int find_holder(void *self, const char *name, struct holder *holder)
{
	size_t client = sizeof(holder->client), cookie = sizeof(holder->cookie);
	size_t address = sizeof(holder->address), tag_len = 64;
	char tag[64];
	int exclusive;
	ssize_t n;

	memset(holder, 0, sizeof(*holder));
	n = lib->rados_list_lockers(bulk(self), name, LOCK, &exclusive, tag, &tag_len, holder->client,
			       &client, holder->cookie, &cookie, holder->address, &address);
	if (n == -ENOENT)
		return 0;
	return n > 0 ? 1 : (int)n;
}

static int rados_lease(void *self, const char *name, const char *cookie, unsigned ms)
{
	struct timeval length = { .tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000 };
	struct holder holder;
	int r;

	for (unsigned i = 0; i < 2; i++) {
		r = lib->rados_lock_exclusive(bulk(self), name, LOCK, cookie, "uswap-agent", &length,
					 LIBRADOS_LOCK_FLAG_MAY_RENEW);
		if (r != -EBUSY)
			return r;
		if (find_holder(self, name, &holder) != 1 || strcmp(holder.cookie, cookie) != 0)
			return r;
		/* an earlier connection of our own */
		r = lib->rados_break_lock(bulk(self), name, LOCK, holder.client, cookie);
		if (r && r != -ENOENT)
			return r;
	}
	return r;
}

static int rados_unlease(void *self, const char *name, const char *cookie)
{
	return lib->rados_unlock(bulk(self), name, LOCK, cookie);
}

static int rados_leased(void *self, const char *name, struct object_lease *lease)
{
	struct holder holder;
	int r = find_holder(self, name, &holder);

	snprintf(lease->cookie, sizeof(lease->cookie), "%s", holder.cookie);
	snprintf(lease->by, sizeof(lease->by), "%.24s at %.64s", holder.client, holder.address);
	return r;
}

/* Of both clients, a blank between them. */
static int rados_address(void *self, char *address, size_t size)
{
	struct rados_connection *c = ((struct rados_connector *)self)->now;
	char *bulk_address = NULL, *fault_address = NULL;
	int r = lib->rados_getaddrs(c->bulk.cluster, &bulk_address);

	if (r == 0)
		r = lib->rados_getaddrs(c->fault.cluster, &fault_address);
	if (r == 0)
		snprintf(address, size, "%s %s", bulk_address, fault_address);
	lib->rados_buffer_free(bulk_address);
	lib->rados_buffer_free(fault_address);
	return r;
}

static int rados_expel(void *self, const char *address)
{
	char copy[160];

	snprintf(copy, sizeof(copy), "%s", address);
	return lib->rados_blocklist_add(((struct rados_connector *)self)->now->bulk.cluster, copy, BLOCKLIST_S);
}

static const struct objstore_ops rados_ops = {
	.name = "rados",
	.open = rados_open,
	.submit = rados_submit,
	.cancel = rados_cancel,
	.forget = rados_forget,
	.remove = rados_remove_object,
	.untag = rados_untag,
	.list = rados_list,
	.get = rados_get,
	.put = rados_put,
	.lease = rados_lease,
	.unlease = rados_unlease,
	.leased = rados_leased,
	.address = rados_address,
	.expel = rados_expel,
	.close = rados_close,
};

/* ---- Store=rados: ---- */

/* One kept table for each place that bytes can be in. */
static void kept_name(const struct rados_spec *spec, char *name, size_t size)
{
	char text[256];
	int n = snprintf(text, sizeof(text), "%s/%s/%s", spec->pool, spec->namespace, spec->host);

	snprintf(name, size, "rados.%016" PRIx64, XXH3_64bits(text, (size_t)n));
}

static struct rados_connector *rados_new(const char *text, const char **error)
{
	lib = rados_library_load(error);
	return lib ? rados_connector_new(text, error) : NULL;
}

bool store_rados_check(const char *text, const char **error)
{
	struct rados_spec spec;

	return rados_spec_parse(&spec, text, error);
}

/* Connects, and reads: the lease is whoever's it is. */
int store_rados_look(const char *text, const char **error)
{
	struct rados_connector *r = rados_new(text, error);
	char why[160] = "", byte;
	int e;

	if (!r)
		return -EINVAL;
	e = rados_open(r, why, sizeof(why));
	if (e) {
		store_refuse(error, "%s", why);
		rados_close(r);
		return e == -EINVAL ? -EIO : e;
	}
	e = MIN(rados_get(r, "super", &byte, 1), 0);
	if (e == -ENOENT)
		e = 0;
	if (e)
		store_refuse(error, "pool %s: a read%s: %s", r->spec.pool,
			     e == -EPERM ? " is not allowed: look at the key's caps (ceph auth get)" : "", strerror(-e));
	rados_close(r);
	return e;
}

int64_t store_rados_collect(const char *text, const char *host, const char **error)
{
	struct rados_connector *r = rados_new(text, error);

	return r ? objects_collect(&rados_ops, r, host, error) : -EINVAL;
}

struct store *store_rados_open(const char *text, const char **error)
{
	struct objects_settings settings;
	char kept[24], where[96];
	struct store *store;
	struct rados_connector *r = rados_new(text, error);

	if (!r)
		return NULL;
	kept_name(&r->spec, kept, sizeof(kept));
	snprintf(where, sizeof(where), "pool %s%s%.20s", r->spec.pool,
		 r->spec.namespace[0] ? "/" : "", r->spec.namespace);
	settings = (struct objects_settings){ .host = r->spec.host[0] ? r->spec.host : NULL,
					      .where = where,
					      .max_bytes = r->spec.size,
					      .timeout_ms = (unsigned)r->spec.timeout_s * 1000,
					      .kept = kept };
	store = store_objects_new(&rados_ops, r, &settings);
	if (store)
		return store;
	if (errno == ENOKEY)
		return store_refuse(error, "store \"rados:%.64s\": /etc/machine-id is missing; name "
					   "the machine with host=", text);
	return store_refuse(error, "store \"rados:%.64s\" can't be made: %s", text, strerror(errno));
}
