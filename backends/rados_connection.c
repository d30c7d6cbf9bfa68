/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "backends/rados_connection.h"

#include <errno.h>
#include <inttypes.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "backends/store.h"
#include "common/util.h"

#define MON_TIMEOUT_S "5"
#define OPEN_TIMEOUT_S 12u /* of two clients */

static const struct rados_library *lib; /* set before the first is made */

static void client_close(struct rados_client *client)
{
	if (client->io)
		lib->rados_ioctx_destroy(client->io);
	if (client->cluster)
		lib->rados_shutdown(client->cluster);
	*client = (struct rados_client){ 0 };
}

static struct rados_connection *connection_free(struct rados_connection *c)
{
	if (!c)
		return NULL;
	client_close(&c->fault);
	client_close(&c->bulk);
	free(c);
	return NULL;
}

/* After the site's file, which may hold others. */
static int configure(rados_t cluster, const struct rados_spec *spec, bool is_fault)
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

static int explain_connect(const struct rados_spec *spec, int r, char *why, size_t size)
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

static int client_open(struct rados_client *client, const struct rados_spec *spec, bool is_fault, char *why,
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

static void free_old(struct rados_connector *r)
{
	for (struct rados_connection **at = &r->old; *at;) {
		struct rados_connection *c = *at;

		if (atomic_load(&c->users)) {
			at = &c->next;
			continue;
		}
		*at = c->next;
		connection_free(c);
	}
}

static void replace(struct rados_connector *r, struct rados_connection *c)
{
	struct rados_connection *before;

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
struct rados_opening {
	struct rados_spec spec;
	struct rados_connection *connection; /* NULL: it could not be made */
	int error;
	char why[160];
	pthread_t thread;
	sem_t ended;
};

static void *run_opening(void *arg)
{
	struct rados_opening *p = arg;
	struct rados_connection *c = p->connection;

	p->error = client_open(&c->bulk, &p->spec, false, p->why, sizeof(p->why));
	if (p->error == 0)
		p->error = client_open(&c->fault, &p->spec, true, p->why, sizeof(p->why));
	if (p->error)
		p->connection = connection_free(c);
	sem_post(&p->ended);
	return NULL;
}

static struct rados_opening *begin_opening(const struct rados_spec *spec)
{
	struct rados_opening *p = calloc(1, sizeof(*p));

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

static bool opening_ends(struct rados_opening *p, unsigned seconds)
{
	struct timespec until;
	int r;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += seconds;
	while ((r = sem_clockwait(&p->ended, CLOCK_MONOTONIC, &until)) && errno == EINTR)
		;
	return r == 0;
}

struct rados_connector *rados_connector_new(const char *spec, const char **error)
{
	struct rados_connector *r = calloc(1, sizeof(*r));

	if (!r)
		store_refuse(error, "store \"rados:\": out of memory");
	if (!r || !rados_spec_parse(&r->spec, spec, error) || !(lib = rados_library_load(error))) {
		free(r);
		return NULL;
	}
	pthread_rwlock_init(&r->lock, NULL);
	return r;
}

int rados_connector_open(struct rados_connector *r, char *why, size_t size)
{
	bool again = r->opening;
	struct rados_opening *p;
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

void rados_connector_free(struct rados_connector *r)
{
	/* One that still is being made, by a monitor that hangs, is left behind. */
	if (r->opening)
		pthread_detach(r->opening->thread);
	replace(r, NULL);
	free_old(r); /* the rest is still in use, and is left behind */
	pthread_rwlock_destroy(&r->lock);
	free(r);
}

struct rados_connection *rados_connection_use(struct rados_connector *r)
{
	struct rados_connection *c;

	pthread_rwlock_rdlock(&r->lock);
	c = r->now;
	if (c)
		atomic_fetch_add(&c->users, 1);
	pthread_rwlock_unlock(&r->lock);
	return c;
}

void rados_connection_release(struct rados_connection *c)
{
	atomic_fetch_sub(&c->users, 1);
}
