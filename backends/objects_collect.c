/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a host has left in a pool that will not come back. One that has only
 * lost the network must not lose its pages: nothing is done while its lease is
 * held, and before anything is removed its clients are expelled, so that it
 * can't go on as if nothing had happened.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "backends/objects_private.h"
#include "common/util.h"

#define LEASE_MS 60000u
#define RENEW_EVERY 256u

struct collecting {
	const struct objstore_ops *ops;
	void *self;
	const char *host;
	char lease[48];
	char prefix[48]; /* behind the first letter */
	char **names;
	size_t nr, max;
	size_t segments;
	const char **error;
};

static int remember(void *arg, const char *name)
{
	struct collecting *c = arg;
	size_t len = strlen(c->prefix);

	if ((name[0] != 's' && name[0] != 'r') || strncmp(name + 1, c->prefix, len) != 0)
		return 0;
	if (c->nr == c->max) {
		size_t max = c->max ? c->max * 2 : 64;
		char **names = realloc(c->names, max * sizeof(*names));

		if (!names)
			return -ENOMEM;
		c->names = names;
		c->max = max;
	}
	c->names[c->nr] = strdup(name);
	if (!c->names[c->nr])
		return -ENOMEM;
	c->nr++;
	return 0;
}

static int refuse(struct collecting *c, int r, const char *what)
{
	store_refuse(c->error, "host %s: %s: %s", c->host, what, strerror(-r));
	return r;
}

static int check_lease(struct collecting *c)
{
	struct object_lease lease = { 0 };
	int r = c->ops->leased(c->self, c->lease, &lease);

	if (r < 0)
		return refuse(c, r, "its lease can't be looked at");
	if (r == 0)
		return 0;
	if (strcmp(lease.cookie, OBJECTS_COLLECTING) == 0)
		store_refuse(c->error, "host %s is being collected already, by %s; if that has been ended, try "
				       "again in a minute", c->host, lease.by);
	else
		store_refuse(c->error, "host %s is alive: %s holds its lease", c->host, lease.by);
	return -EBUSY;
}

/* The clients that its card names. */
static int expel(struct collecting *c)
{
	char card[512], *line, *address, *state = NULL;
	int r = c->ops->get(c->self, c->lease, card, sizeof(card) - 1);

	if (r < 0) {
		store_refuse(c->error, r == -ENOENT ? "host %s: there is none of this id" :
						      "host %s: who it was can't be read", c->host);
		return r;
	}
	card[r] = '\0';
	line = strstr(card, "\naddress ");
	if (!line) {
		store_refuse(c->error, "host %s: it has not said who it was", c->host);
		return -EBADMSG;
	}
	line += strlen("\naddress ");
	line[strcspn(line, "\n")] = '\0';
	for (address = strtok_r(line, " ", &state); address; address = strtok_r(NULL, " ", &state)) {
		r = c->ops->expel(c->self, address);
		if (r)
			return refuse(c, r, r == -EACCES || r == -EPERM ?
						    "its clients can't be expelled, the key lacks \"mon 'allow "
						    "command \\\"osd blocklist\\\"'\"" :
						    "its clients can't be expelled");
	}
	return 0;
}

static int remove_all(struct collecting *c)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < c->nr; i++) {
		if (i % RENEW_EVERY == 0)
			r = c->ops->lease(c->self, c->lease, OBJECTS_COLLECTING, LEASE_MS);
		if (r)
			break;
		/* What others use too stays theirs. */
		if (c->names[i][0] == 's')
			r = c->ops->untag(c->self, c->names[i], "");
		else
			r = objects_give_back_by(c->ops, c->self, c->names[i]);
		if (r == -ENOENT)
			r = 0;
		c->segments += c->names[i][0] == 's';
	}
	return r;
}

static int collect(struct collecting *c)
{
	int r = check_lease(c);

	if (r)
		return r;
	r = expel(c);
	if (r)
		return r;
	/* It may have come back this very moment. */
	r = c->ops->lease(c->self, c->lease, OBJECTS_COLLECTING, LEASE_MS);
	if (r)
		return refuse(c, r, "its lease can't be taken");
	r = c->ops->list(c->self, "", remember, c);
	if (r == 0)
		r = remove_all(c);
	if (r) {
		c->ops->unlease(c->self, c->lease, OBJECTS_COLLECTING);
		return refuse(c, r, "removing its segments");
	}
	r = c->ops->remove(c->self, c->lease);
	return r ? refuse(c, r, "removing its lease") : 0;
}

int64_t objects_collect(const struct objstore_ops *ops, void *self, const char *host,
			const char **error)
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
				      "0123456789-_";
	struct collecting c = { .ops = ops, .self = self, .host = host, .error = error };
	char why[160] = "";
	int r;

	if (!*host || strlen(host) > 32 || strspn(host, letters) != strlen(host)) {
		store_refuse(error, "\"%.64s\" is no host id", host);
		ops->close(self);
		return -EINVAL;
	}
	snprintf(c.lease, sizeof(c.lease), "h.%s", host);
	snprintf(c.prefix, sizeof(c.prefix), ".%s.", host);
	r = ops->open(self, why, sizeof(why));
	if (r)
		store_refuse(error, "%s", why);
	else
		r = collect(&c);
	for (size_t i = 0; i < c.nr; i++)
		free(c.names[i]);
	free(c.names);
	ops->close(self);
	return r ? r : (int64_t)c.segments;
}
