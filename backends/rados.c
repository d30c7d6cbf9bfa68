/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * RADOS as the object store below backends/objects.h, and Store=rados:... as
 * people write it.
 *
 * Two clients for one connection: writes of 256 KiB and more on the client of
 * the reads would keep a read of 2 KiB waiting for milliseconds. The client of
 * the reads has no time-out: librados sends again until the OSD answers, and a
 * fault has nowhere else to go.
 *
 * Threads: librados brings 9 for each client, which inherit the signal mask of
 * the keeper (all blocked), since that is who makes them. Callbacks come on
 * one of them and only hand over. Nothing here survives a fork.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "backends/objects.h"
#include "backends/rados_library.h"
#include "backends/rados_ops.h"
#include "common/util.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#define DEFAULT_SIZE ((uint64_t)256 << 30)
#define DEFAULT_TIMEOUT_S 10u
#define MON_TIMEOUT_S "5"
#define OPEN_TIMEOUT_S 12u /* of two clients */
#define BLOCKLIST_S 86400u
#define LOCK "uswap"

static const struct rados_library *lib; /* set before the first is made */

struct spec {
	char pool[65], namespace[65], id[65], conf[129], host[33];
	uint64_t size, timeout_s;
};

struct client {
	rados_t cluster;
	rados_ioctx_t io;
};

/* Two clients that are connected. Lives while any io that was submitted on it
   has not been forgotten. */
struct connection {
	struct client bulk;  /* writes, and all that waits */
	struct client fault; /* reads, lookups */
	_Atomic uint32_t users;
	struct connection *next;
};

struct rados {
	struct spec spec;
	pthread_rwlock_t lock; /* `now`: written for the length of an assignment */
	struct connection *now;
	struct connection *old; /* the keeper's: those that were given up */
	struct opening *opening; /* the keeper's: one that is being made */
};

/* ---- connecting ---- */

static void client_close(struct client *client)
{
	if (client->io)
		lib->rados_ioctx_destroy(client->io);
	if (client->cluster)
		lib->rados_shutdown(client->cluster);
	*client = (struct client){ 0 };
}

static struct connection *connection_free(struct connection *c)
{
	if (!c)
		return NULL;
	client_close(&c->fault);
	client_close(&c->bulk);
	free(c);
	return NULL;
}

/* After the site's file, which may hold others. */
static int configure(rados_t cluster, const struct spec *spec, bool is_fault)
{
	char seconds[24];
	const char *const settings[][2] = {
		{ "client_mount_timeout", MON_TIMEOUT_S },
		{ "rados_mon_op_timeout", MON_TIMEOUT_S },
		{ "rados_osd_op_timeout", is_fault ? "0" : seconds },
		/* Shorter than that of an operation, or a client that has seen an
		   OSD go never learns that it is back. */
		{ "objecter_timeout", spec->timeout_s > 2 ? "2" : "0.5" },
		{ "objecter_tick_interval", "0.5" },
		{ "librados_thread_count", "1" },
		{ "ms_async_op_threads", "1" },
		{ "log_to_stderr", "false" },
		{ "err_to_stderr", "false" },
	};

	snprintf(seconds, sizeof(seconds), "%" PRIu64, spec->timeout_s);
	for (size_t i = 0; i < ARRAY_SIZE(settings); i++) {
		int r = lib->rados_conf_set(cluster, settings[i][0], settings[i][1]);

		/* a name that this librados has not (any more) is no reason */
		if (r && r != -ENOENT)
			return r;
	}
	return 0;
}

/* The unit forbids it, unless told otherwise. */
static bool may_use_network(void)
{
	static const int families[] = { AF_INET, AF_INET6 };

	for (size_t i = 0; i < ARRAY_SIZE(families); i++) {
		_cleanup_close_ int fd = socket(families[i], SOCK_STREAM | SOCK_CLOEXEC, 0);

		if (fd >= 0)
			return true;
	}
	return false;
}

static int explain_connect(const struct spec *spec, int r, char *why, size_t size)
{
	if (!may_use_network()) {
		snprintf(why, size,
			 "pool %s: the agent may not use the network: its unit needs rados.conf, see uswap-rados(7)",
			 spec->pool);
		return -EACCES;
	}
	switch (r) {
	case -EACCES:
	case -EPERM:
		snprintf(why, size, "pool %s: the cluster refuses the key of %s (ceph auth get %s)",
			 spec->pool, spec->id, spec->id);
		return -EACCES;
	case -ENOENT:
		snprintf(why, size, "pool %s: no key of %s where %s says (keyring=)", spec->pool,
			 spec->id, spec->conf);
		return -EACCES;
	case -ETIMEDOUT:
		snprintf(why, size, "pool %s: no monitor answers within " MON_TIMEOUT_S " s",
			 spec->pool);
		return r;
	default:
		snprintf(why, size, "pool %s: can't connect: %s", spec->pool, strerror(-r));
		return r;
	}
}

static int client_open(struct client *client, const struct spec *spec, bool is_fault, char *why,
		       size_t size)
{
	int r = lib->rados_create2(&client->cluster, "ceph", spec->id, 0);

	if (r) {
		client->cluster = NULL;
		return explain_connect(spec, r, why, size);
	}
	r = lib->rados_conf_read_file(client->cluster, spec->conf);
	if (r) {
		snprintf(why, size, "pool %s: %s can't be read: %s", spec->pool, spec->conf,
			 strerror(-r));
		return -EIO;
	}
	r = configure(client->cluster, spec, is_fault);
	if (r == 0)
		r = lib->rados_connect(client->cluster);
	if (r)
		return explain_connect(spec, r, why, size);
	r = lib->rados_ioctx_create(client->cluster, spec->pool, &client->io);
	if (r) {
		client->io = NULL;
		snprintf(why, size, r == -ENOENT ? "there is no pool %s (ceph osd pool create)" :
						   "pool %s can't be used",
			 spec->pool);
		return r;
	}
	lib->rados_ioctx_set_namespace(client->io, spec->namespace);
	/* A full pool answers; without this, writes and removals would hang. */
	lib->rados_set_pool_full_try(client->io);
	return 0;
}

static void free_old(struct rados *r)
{
	for (struct connection **at = &r->old; *at;) {
		struct connection *c = *at;

		if (atomic_load(&c->users)) {
			at = &c->next;
			continue;
		}
		*at = c->next;
		connection_free(c);
	}
}

static void replace(struct rados *r, struct connection *c)
{
	struct connection *before;

	pthread_rwlock_wrlock(&r->lock);
	before = r->now;
	r->now = c;
	pthread_rwlock_unlock(&r->lock);
	if (before) {
		before->next = r->old;
		r->old = before;
	}
}

/*
 * A connection that is being made, by a thread of its own: a monitor that hangs
 * can keep some calls of librados for ever, whatever the time-outs say. There is
 * one at a time; who waits for it comes again until it has ended.
 */
struct opening {
	struct spec spec;
	struct connection *connection; /* NULL: it could not be made */
	int error;
	char why[160];
	pthread_t thread;
	sem_t ended;
};

static void *run_opening(void *arg)
{
	struct opening *p = arg;
	struct connection *c = p->connection;

	p->error = client_open(&c->bulk, &p->spec, false, p->why, sizeof(p->why));
	if (p->error == 0)
		p->error = client_open(&c->fault, &p->spec, true, p->why, sizeof(p->why));
	if (p->error)
		p->connection = connection_free(c);
	sem_post(&p->ended);
	return NULL;
}

static struct opening *begin_opening(const struct spec *spec)
{
	struct opening *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->spec = *spec;
	p->connection = calloc(1, sizeof(*p->connection));
	sem_init(&p->ended, 0, 0);
	if (p->connection && !pthread_create(&p->thread, NULL, run_opening, p))
		return p;
	free(p->connection);
	free(p);
	return NULL;
}

static bool opening_ends(struct opening *p, unsigned seconds)
{
	struct timespec until;
	int r;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += seconds;
	while ((r = sem_timedwait(&p->ended, &until)) && errno == EINTR)
		;
	return r == 0;
}

static int rados_open(void *self, char *why, size_t size)
{
	struct rados *r = self;
	bool again = r->opening;
	struct opening *p;
	int error;

	free_old(r);
	p = r->opening = again ? r->opening : begin_opening(&r->spec);
	if (!p) {
		snprintf(why, size, "out of memory");
		return -ENOMEM;
	}
	if (!opening_ends(p, again ? 1 : OPEN_TIMEOUT_S)) {
		snprintf(why, size, "pool %s: a monitor hangs, connecting does not end", r->spec.pool);
		return -ETIMEDOUT;
	}
	pthread_join(p->thread, NULL);
	r->opening = NULL;
	error = p->error;
	if (error)
		snprintf(why, size, "%s", p->why);
	else
		replace(r, p->connection);
	sem_destroy(&p->ended);
	free(p);
	return error;
}

static void rados_close(void *self)
{
	struct rados *r = self;

	/* One that still is being made, by a monitor that hangs, is left behind. */
	if (r->opening)
		pthread_detach(r->opening->thread);
	replace(r, NULL);
	free_old(r); /* the rest is still in use, and is left behind */
	pthread_rwlock_destroy(&r->lock);
	free(r);
}

/* ---- ranged reads and writes ---- */

static struct connection *use_connection(struct rados *r)
{
	struct connection *c;

	pthread_rwlock_rdlock(&r->lock);
	c = r->now;
	if (c)
		atomic_fetch_add(&c->users, 1);
	pthread_rwlock_unlock(&r->lock);
	return c;
}

static void on_complete(rados_completion_t completion, void *arg)
{
	struct object_io *io = arg;

	io->done(io, rados_ops_result(lib, io, lib->rados_aio_get_return_value(completion)));
}

/* What is asked for does not wait behind what is written. */
static rados_ioctx_t client_for(const struct connection *c, const struct object_io *io)
{
	return io->kind == OBJECT_READ || io->kind == OBJECT_INDEX_GET ? c->fault.io : c->bulk.io;
}

static void rados_submit(void *self, struct object_io *io)
{
	struct connection *c = use_connection(self);
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
	struct connection *c = io->private[1];

	(void)self;
	if (io->private[0])
		lib->rados_aio_cancel(client_for(c, io), io->private[0]);
}

static void rados_forget(void *self, struct object_io *io)
{
	struct connection *c = io->private[1];

	(void)self;
	if (io->private[0])
		lib->rados_aio_release(io->private[0]);
	if (io->private[2])
		lib->rados_omap_get_end(io->private[2]);
	if (c)
		atomic_fetch_sub(&c->users, 1);
	io->private[0] = io->private[1] = io->private[2] = NULL;
}

/* ---- what the keeper waits for ---- */

static rados_ioctx_t bulk(void *self)
{
	return ((struct rados *)self)->now->bulk.io;
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

static int rados_leased(void *self, const char *name, char *by, size_t size)
{
	struct holder holder;
	int r = find_holder(self, name, &holder);

	snprintf(by, size, "%s at %.64s", holder.client, holder.address);
	return r;
}

/* Of both clients, a blank between them. */
static int rados_address(void *self, char *address, size_t size)
{
	struct connection *c = ((struct rados *)self)->now;
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
	return lib->rados_blocklist_add(((struct rados *)self)->now->bulk.cluster, copy, BLOCKLIST_S);
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

/* ---- Store=rados:POOL[,KEY=VALUE]... ---- */

static bool take_text(const char *key, const char *value, size_t len, char *to, size_t size,
		      const char **error)
{
	if (len && len < size) {
		memcpy(to, value, len);
		to[len] = '\0';
		return true;
	}
	store_refuse(error, "store \"rados:\": %s= is %s", key, len ? "too long" : "empty");
	return false;
}

static bool take_host(struct spec *spec, const char *value, size_t len, const char **error)
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
				      "0123456789-_";

	if (!take_text("host", value, len, spec->host, sizeof(spec->host), error))
		return false;
	if (strspn(spec->host, letters) == len)
		return true;
	store_refuse(error, "store \"rados:\": host=%s: letters, digits, - and _ only", spec->host);
	return false;
}

static bool take_number(struct spec *spec, const char *key, const char *value, size_t len,
			const char **error)
{
	bool is_size = strcmp(key, "size") == 0;
	uint64_t max = is_size ? STORE_SEGMENTS_MAX * (uint64_t)STORE_SEGMENT : 600;
	uint64_t min = is_size ? STORE_SEGMENT : 1, number;
	char text[32];

	if (!take_text(key, value, len, text, sizeof(text), error))
		return false;
	if (!store_parse_size(text, &number) || number < min || number > max) {
		store_refuse(error, "store \"rados:\": %s=%s: %s", key, text,
			     is_size ? "a size from 4M to 4T, as in 500G" : "seconds, from 1 to 600");
		return false;
	}
	*(is_size ? &spec->size : &spec->timeout_s) = number;
	return true;
}

static bool take_id(struct spec *spec, const char *value, size_t len, const char **error)
{
	if (!take_text("id", value, len, spec->id, sizeof(spec->id), error))
		return false;
	if (strncmp(spec->id, "client.", 7) == 0 && spec->id[7])
		return true;
	store_refuse(error, "store \"rados:\": id=%s: the whole name, as in id=client.uswap",
		     spec->id);
	return false;
}

static bool take_option(struct spec *spec, const char *option, size_t len, const char **error)
{
	size_t key = strcspn(option, "=");
	const char *value = option + key + 1;
	size_t value_len = key < len ? len - key - 1 : 0;

	if (key < len && key == 9 && !strncmp(option, "namespace", key))
		return take_text("namespace", value, value_len, spec->namespace,
				 sizeof(spec->namespace), error);
	if (key < len && key == 2 && !strncmp(option, "id", key))
		return take_id(spec, value, value_len, error);
	if (key < len && key == 4 && !strncmp(option, "conf", key))
		return take_text("conf", value, value_len, spec->conf, sizeof(spec->conf), error);
	if (key < len && key == 4 && !strncmp(option, "host", key))
		return take_host(spec, value, value_len, error);
	if (key < len && key == 4 && !strncmp(option, "size", key))
		return take_number(spec, "size", value, value_len, error);
	if (key < len && key == 7 && !strncmp(option, "timeout", key))
		return take_number(spec, "timeout", value, value_len, error);
	store_refuse(error,
		     "store \"rados:\": \"%.*s\" is none of namespace=, id=, conf=, size=, host=, "
		     "timeout=",
		     (int)MIN(len, (size_t)64), option);
	return false;
}

static bool parse(struct spec *spec, const char *text, const char **error)
{
	size_t len = strcspn(text, ",");

	*spec = (struct spec){ .id = "client.uswap",
			       .conf = "/etc/ceph/ceph.conf",
			       .size = DEFAULT_SIZE,
			       .timeout_s = DEFAULT_TIMEOUT_S };
	if (!len) {
		store_refuse(error, "store \"rados:\" lacks its pool, as in rados:uswap");
		return false;
	}
	if (!take_text("the pool", text, len, spec->pool, sizeof(spec->pool), error))
		return false;
	for (text += len; *text; text += len) {
		text++; /* the comma */
		len = strcspn(text, ",");
		if (!take_option(spec, text, len, error))
			return false;
	}
	return true;
}

bool store_rados_check(const char *text, const char **error)
{
	struct spec spec;

	return parse(&spec, text, error);
}

/* One kept table for each place that bytes can be in. */
static void kept_name(const struct spec *spec, char *name, size_t size)
{
	char text[256];
	int n = snprintf(text, sizeof(text), "%s/%s/%s", spec->pool, spec->namespace, spec->host);

	snprintf(name, size, "rados.%016" PRIx64, XXH3_64bits(text, (size_t)n));
}

/* Not connected yet. NULL and *error. */
static struct rados *rados_new(const char *text, const char **error)
{
	struct rados *r = calloc(1, sizeof(*r));

	if (!r || !parse(&r->spec, text, error) || !(lib = rados_library_load(error))) {
		free(r);
		return NULL;
	}
	pthread_rwlock_init(&r->lock, NULL);
	return r;
}

int64_t store_rados_collect(const char *text, const char *host, const char **error)
{
	struct rados *r = rados_new(text, error);

	return r ? objects_collect(&rados_ops, r, host, error) : -EINVAL;
}

struct store *store_rados_open(const char *text, const char **error)
{
	struct objects_settings settings;
	char kept[24], where[96];
	struct store *store;
	struct rados *r = rados_new(text, error);

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
