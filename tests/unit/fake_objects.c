/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/unit/fake_objects.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/util.h"

#define RULES_MAX 256
#define HELD_MAX 1024

struct fake_cluster {
	char dir[128];
	pthread_mutex_t lock; /* all below */
	struct fake_rule rules[RULES_MAX];
	unsigned nr_rules;
	struct object_io *held[HELD_MAX];
	unsigned nr_held;
	unsigned calls[FAKE_CALLS];
	char lease[48];	 /* whose lease is kept: the first one's */
	char cookie[80]; /* of the lease; "": nobody's */
	uint64_t lease_end_ns;
};

struct client {
	struct fake_cluster *cluster;
	bool open;
};

struct fake_cluster *fake_new(const char *dir)
{
	struct fake_cluster *c = calloc(1, sizeof(*c));

	assert(c);
	snprintf(c->dir, sizeof(c->dir), "%s", dir);
	pthread_mutex_init(&c->lock, NULL);
	return c;
}

void fake_free(struct fake_cluster *c)
{
	assert(c->nr_held == 0);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

void *fake_client(struct fake_cluster *c)
{
	struct client *client = calloc(1, sizeof(*client));

	assert(client);
	client->cluster = c;
	return client;
}

static struct fake_cluster *cluster_of(void *self)
{
	return ((struct client *)self)->cluster;
}

void fake_add(struct fake_cluster *c, struct fake_rule rule)
{
	pthread_mutex_lock(&c->lock);
	assert(c->nr_rules < RULES_MAX);
	c->rules[c->nr_rules++] = rule;
	pthread_mutex_unlock(&c->lock);
}

void fake_clear(struct fake_cluster *c)
{
	pthread_mutex_lock(&c->lock);
	c->nr_rules = 0;
	pthread_mutex_unlock(&c->lock);
}

/* The rule for this call, used up by one; counts the call. */
static struct fake_rule rule_for(struct fake_cluster *c, enum fake_call call)
{
	struct fake_rule found = { .call = call };

	pthread_mutex_lock(&c->lock);
	c->calls[call]++;
	for (unsigned i = 0; i < c->nr_rules; i++) {
		if (c->rules[i].call != call)
			continue;
		found = c->rules[i];
		if (c->rules[i].times && --c->rules[i].times == 0)
			c->rules[i] = c->rules[--c->nr_rules];
		break;
	}
	pthread_mutex_unlock(&c->lock);
	return found;
}

unsigned fake_calls(struct fake_cluster *c, enum fake_call call)
{
	unsigned n;

	pthread_mutex_lock(&c->lock);
	n = c->calls[call];
	pthread_mutex_unlock(&c->lock);
	return n;
}

static const char *path_of(const struct fake_cluster *c, const char *name, char *path)
{
	snprintf(path, 320, "%s/%s", c->dir, name);
	return path;
}

/* ---- ranged reads and writes ---- */

/* Tags: a file each, ".t.NAME.TAG"; with none at all there is the maker's. */
static void tag_path(const struct fake_cluster *c, const char *name, const char *tag, char *path)
{
	snprintf(path, 320, "%s/.t.%s.%s", c->dir, name, tag);
}

static unsigned count_hidden(const struct fake_cluster *c, const char *prefix)
{
	DIR *dir = opendir(c->dir);
	struct dirent *d;
	unsigned n = 0;

	assert(dir);
	while ((d = readdir(dir)))
		n += !strncmp(d->d_name, prefix, strlen(prefix));
	closedir(dir);
	return n;
}

unsigned fake_tags(struct fake_cluster *c, const char *name)
{
	char prefix[200];

	snprintf(prefix, sizeof(prefix), ".t.%s.", name);
	return count_hidden(c, prefix);
}

static int make_file(const char *path, const void *bytes, size_t len)
{
	FILE *f = fopen(path, "w");

	assert(f);
	fwrite(bytes, 1, len, f);
	fclose(f);
	return 0;
}

static int add_tag(struct fake_cluster *c, const struct object_io *io)
{
	char path[320];

	if (access(path_of(c, io->name, path), F_OK))
		return -ENOENT;
	if (!fake_tags(c, io->name)) {
		tag_path(c, io->name, "", path);
		make_file(path, "", 0);
	}
	tag_path(c, io->name, io->key, path);
	return make_file(path, "", 0);
}

static int do_index(struct fake_cluster *c, const struct object_io *io)
{
	char path[320];
	ssize_t n;
	int fd;

	if (io->kind == OBJECT_INDEX_PUT)
		make_file(path_of(c, io->name, path), "", 0);
	snprintf(path, sizeof(path), "%s/.f.%s.%s", c->dir, io->name, io->key);
	if (io->kind == OBJECT_INDEX_PUT)
		return make_file(path, io->buf, io->len);
	if (io->kind == OBJECT_INDEX_REMOVE)
		return unlink(path) && errno != ENOENT ? -errno : 0;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	n = read(fd, io->buf, io->len);
	close(fd);
	return (int)n;
}

static int do_io(struct fake_cluster *c, struct object_io *io)
{
	int flags = io->kind == OBJECT_READ ? O_RDONLY : O_WRONLY;
	char path[320];
	ssize_t n;
	int fd;

	if (io->kind == OBJECT_TAG)
		return add_tag(c, io);
	if (io->kind >= OBJECT_INDEX_PUT)
		return do_index(c, io);
	if (io->kind == OBJECT_PUT)
		return make_file(path_of(c, io->name, path), io->buf, io->len);
	if (io->kind == OBJECT_CREATE)
		flags |= O_CREAT | O_EXCL;
	fd = open(path_of(c, io->name, path), flags | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	n = 0;
	if (io->kind == OBJECT_READ)
		n = pread(fd, io->buf, io->len, (off_t)io->offset);
	for (const struct object_io *w = io; io->kind != OBJECT_READ && w && n >= 0; w = w->with)
		n = pwrite(fd, w->buf, w->len, (off_t)w->offset);
	close(fd);
	if (n < 0)
		return -errno;
	return io->kind == OBJECT_READ ? (int)n : 0;
}

static void submit(void *self, struct object_io *io)
{
	static const enum fake_call calls[] = { [OBJECT_READ] = FAKE_READ,
						[OBJECT_WRITE] = FAKE_WRITE,
						[OBJECT_CREATE] = FAKE_CREATE,
						[OBJECT_PUT] = FAKE_PUT,
						[OBJECT_TAG] = FAKE_TAG,
						[OBJECT_INDEX_PUT] = FAKE_INDEX,
						[OBJECT_INDEX_GET] = FAKE_INDEX,
						[OBJECT_INDEX_REMOVE] = FAKE_INDEX };
	struct fake_cluster *c = cluster_of(self);
	struct fake_rule rule = { 0 };
	bool is_open = ((struct client *)self)->open;
	int r;

	assert(!io->private[0]); /* forgotten */
	if (is_open)
		rule = rule_for(c, calls[io->kind]);
	if (rule.before)
		rule.before();
	io->private[0] = self;
	if (!is_open) {
		io->done(io, -ENOTCONN);
		return;
	}
	if (rule.held) {
		pthread_mutex_lock(&c->lock);
		assert(c->nr_held < HELD_MAX);
		c->held[c->nr_held++] = io;
		pthread_mutex_unlock(&c->lock);
		return;
	}
	r = rule.error && !rule.landed ? rule.error : do_io(c, io);
	io->done(io, rule.error ? rule.error : r);
}

static struct object_io *take_held(struct fake_cluster *c, const struct object_io *io)
{
	struct object_io *taken = NULL;

	pthread_mutex_lock(&c->lock);
	for (unsigned i = 0; i < c->nr_held && !taken; i++) {
		if (io && c->held[i] != io)
			continue;
		taken = c->held[i];
		c->held[i] = c->held[--c->nr_held];
	}
	pthread_mutex_unlock(&c->lock);
	return taken;
}

static void cancel(void *self, struct object_io *io)
{
	assert(io->private[0]);
	if (take_held(cluster_of(self), io))
		io->done(io, -ECANCELED);
}

static void forget(void *self, struct object_io *io)
{
	(void)self;
	assert(io->private[0]);
	io->private[0] = NULL;
}

unsigned fake_release(struct fake_cluster *c)
{
	struct object_io *io;
	unsigned n = 0;

	for (; (io = take_held(c, NULL)); n++)
		io->done(io, do_io(c, io));
	return n;
}

unsigned fake_held(struct fake_cluster *c)
{
	unsigned n;

	pthread_mutex_lock(&c->lock);
	n = c->nr_held;
	pthread_mutex_unlock(&c->lock);
	return n;
}

/* ---- whole objects ---- */

/* The lease of one host is kept; others have what they ask for. */
static bool is_kept(struct fake_cluster *c, const char *name)
{
	bool same;

	pthread_mutex_lock(&c->lock);
	if (!c->lease[0])
		snprintf(c->lease, sizeof(c->lease), "%s", name);
	same = strcmp(c->lease, name) == 0;
	pthread_mutex_unlock(&c->lock);
	return same;
}

static int fake_open(void *self, char *why, size_t why_size)
{
	struct fake_rule rule = rule_for(cluster_of(self), FAKE_OPEN);

	((struct client *)self)->open = rule.error == 0;
	if (rule.error)
		snprintf(why, why_size, "the fake says %s", strerror(-rule.error));
	return rule.error;
}

static int fake_remove(void *self, const char *name)
{
	struct fake_cluster *c = cluster_of(self);
	struct fake_rule rule = rule_for(c, FAKE_REMOVE);
	char path[320];

	if (rule.error && !rule.landed)
		return rule.error;
	if (unlink(path_of(c, name, path)))
		return -errno;
	if (name[0] == 'h' && is_kept(c, name))
		fake_set_lease(c, NULL, 0);
	return rule.error;
}

static int untag(void *self, const char *name, const char *tag)
{
	struct fake_cluster *c = cluster_of(self);
	struct fake_rule rule = rule_for(c, FAKE_UNTAG);
	char path[320];
	bool any;

	if (rule.error && !rule.landed)
		return rule.error;
	if (access(path_of(c, name, path), F_OK))
		return -ENOENT;
	any = fake_tags(c, name);
	tag_path(c, name, tag, path);
	if ((unlink(path) == 0 || (!any && !*tag)) && !fake_tags(c, name))
		unlink(path_of(c, name, path));
	return rule.error;
}

static int list(void *self, const char *prefix, int (*fn)(void *arg, const char *name), void *arg)
{
	struct fake_cluster *c = cluster_of(self);
	struct fake_rule rule = rule_for(c, FAKE_LIST);
	struct dirent *d;
	DIR *dir;
	int r = 0;

	if (rule.error)
		return rule.error;
	dir = opendir(c->dir);
	assert(dir);
	while (r == 0 && (d = readdir(dir)))
		if (d->d_name[0] != '.' && !strncmp(d->d_name, prefix, strlen(prefix)))
			r = fn(arg, d->d_name);
	closedir(dir);
	return r;
}

static int add_one(void *arg, const char *name)
{
	(void)name;
	++*(unsigned *)arg;
	return 0;
}

unsigned fake_count(struct fake_cluster *c, const char *prefix)
{
	struct client client = { .cluster = c };
	unsigned n = 0;
	int r = list(&client, prefix, add_one, &n);

	assert(r == 0);
	(void)r;
	return n;
}

static int get(void *self, const char *name, void *buf, size_t size)
{
	struct object_io io = { .kind = OBJECT_READ, .name = name, .buf = buf, .len = size };

	return do_io(cluster_of(self), &io);
}

static int put(void *self, const char *name, const void *buf, size_t len)
{
	struct fake_cluster *c = cluster_of(self);
	struct fake_rule rule = rule_for(c, FAKE_PUT);
	char path[320];

	return rule.error ? rule.error : make_file(path_of(c, name, path), buf, len);
}

/* ---- the lease ---- */

void fake_set_lease(struct fake_cluster *c, const char *cookie, unsigned ms)
{
	pthread_mutex_lock(&c->lock);
	snprintf(c->cookie, sizeof(c->cookie), "%s", cookie ? cookie : "");
	c->lease_end_ns = ms ? now_ns() + ms * 1000000ull : UINT64_MAX;
	pthread_mutex_unlock(&c->lock);
}

static int lease(void *self, const char *name, const char *cookie, unsigned ms)
{
	struct fake_cluster *c = cluster_of(self);
	struct fake_rule rule = rule_for(c, FAKE_LEASE);
	bool taken;

	if (rule.error || !is_kept(c, name))
		return rule.error;
	pthread_mutex_lock(&c->lock);
	taken = c->cookie[0] && now_ns() < c->lease_end_ns && strcmp(c->cookie, cookie);
	pthread_mutex_unlock(&c->lock);
	if (taken)
		return -EBUSY;
	fake_set_lease(c, cookie, ms);
	return 0;
}

static int unlease(void *self, const char *name, const char *cookie)
{
	(void)cookie;
	if (is_kept(cluster_of(self), name))
		fake_set_lease(cluster_of(self), NULL, 0);
	return 0;
}

static int leased(void *self, const char *name, struct object_lease *lease)
{
	struct fake_cluster *c = cluster_of(self);
	int r;

	memset(lease, 0, sizeof(*lease));
	if (!is_kept(c, name))
		return 0;
	pthread_mutex_lock(&c->lock);
	r = c->cookie[0] && now_ns() < c->lease_end_ns;
	snprintf(lease->cookie, sizeof(lease->cookie), "%s", c->cookie);
	snprintf(lease->by, sizeof(lease->by), "%s", c->cookie);
	pthread_mutex_unlock(&c->lock);
	return r;
}

static int address(void *self, char *text, size_t size)
{
	(void)self;
	snprintf(text, size, "fake");
	return 0;
}

static int expel(void *self, const char *whom)
{
	(void)whom;
	return rule_for(cluster_of(self), FAKE_EXPEL).error;
}

static void fake_close(void *self)
{
	free(self);
}

const struct objstore_ops fake_ops = {
	.name = "fake",
	.open = fake_open,
	.submit = submit,
	.cancel = cancel,
	.forget = forget,
	.remove = fake_remove,
	.untag = untag,
	.list = list,
	.get = get,
	.put = put,
	.lease = lease,
	.unlease = unlease,
	.leased = leased,
	.address = address,
	.expel = expel,
	.close = fake_close,
};
