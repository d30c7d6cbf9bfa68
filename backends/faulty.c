/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "backends/faulty.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/util.h"

#define RULES_MAX 16

struct faulty {
	struct store *below;
	pthread_mutex_t lock; /* all that follows */
	struct faulty_rule rules[RULES_MAX];
	unsigned nr_rules;
	struct store_read *held;
	unsigned releases;
	struct store_ops ops;
	char *path; /* of the rules; NULL: the test adds them */
	pthread_t follower;
	_Atomic bool stop;
	_Atomic(void (*)(enum faulty_call)) notice;
};

/* The rule for this call, used up by one. */
static bool next_rule(struct faulty *f, enum faulty_call call, struct faulty_rule *rule)
{
	void (*notice)(enum faulty_call) = f->notice;
	bool found = false;

	if (notice)
		notice(call);
	pthread_mutex_lock(&f->lock);
	for (unsigned i = 0; !found && i < f->nr_rules; i++) {
		struct faulty_rule *r = &f->rules[i];

		if (r->call != call || r->times == UINT32_MAX)
			continue;
		if (r->skip) {
			r->skip--;
			continue;
		}
		*rule = *r;
		found = true;
		if (r->times && !--r->times)
			r->times = UINT32_MAX; /* used up */
	}
	pthread_mutex_unlock(&f->lock);
	return found;
}

static int faulty_segment_new(void *self, uint32_t *segment)
{
	struct faulty *f = self;
	struct faulty_rule rule;

	if (next_rule(f, FAULTY_SEGMENT_NEW, &rule))
		return rule.error;
	return store_segment_new(f->below, segment);
}

/* There is no rule that holds any more, or what was held was let go. */
static void wait_for_release(struct faulty *f)
{
	unsigned releases;
	bool held = true;

	pthread_mutex_lock(&f->lock);
	releases = f->releases;
	pthread_mutex_unlock(&f->lock);
	while (held) {
		usleep(1000);
		pthread_mutex_lock(&f->lock);
		held = releases == f->releases && !f->stop;
		pthread_mutex_unlock(&f->lock);
	}
}

/* Of what is below: whole blocks, where it is more than one. */
static size_t half_of(size_t len)
{
	return len < 2 * STORE_BLOCK ? len / 2 : (len / 2) & ~(STORE_BLOCK - 1);
}

static int faulty_write(void *self, uint32_t segment, size_t offset, const void *buf, size_t len)
{
	struct faulty *f = self;
	struct faulty_rule rule;
	int r;

	if (!next_rule(f, FAULTY_WRITE, &rule))
		rule = (struct faulty_rule){ .kind = FAULTY_FLIP }; /* of reads: nothing */
	if (rule.kind == FAULTY_HOLD)
		wait_for_release(f);
	if (rule.kind == FAULTY_ERROR)
		return rule.error;
	if (rule.kind == FAULTY_TORN) {
		(void)store_write(f->below, segment, offset, buf, half_of(len));
		return rule.error;
	}
	r = store_write(f->below, segment, offset, buf, len);
	/* The same bytes again, which have landed below, whole or torn. */
	if (r == -EINVAL) {
		size_t half = half_of(len);

		(void)store_write(f->below, segment, offset + half, (const char *)buf + half, len - half);
		r = 0;
	}
	return r == 0 && rule.kind == FAULTY_LANDED ? rule.error : r;
}

static int spoil(const struct faulty_rule *rule, unsigned char *bytes, size_t len)
{
	if (rule->kind == FAULTY_ERROR)
		return rule->error;
	if (rule->kind == FAULTY_FLIP)
		bytes[len / 2] ^= 0x10;
	if (rule->kind != FAULTY_SHORT)
		return 0;
	memset(bytes + len / 2, 0, len - len / 2);
	return -ENODATA;
}

static int faulty_read(void *self, uint32_t segment, size_t offset, void *buf, size_t len)
{
	struct faulty *f = self;
	struct faulty_rule rule;
	bool found = next_rule(f, FAULTY_READ, &rule);
	int r = store_read(f->below, segment, offset, buf, len);

	return !r && found ? spoil(&rule, buf, len) : r;
}

/* By the submitting thread: what is below is quick. */
static void finish(struct faulty *f, struct store_read *read, const struct faulty_rule *rule)
{
	int r = store_read(f->below, read->segment, read->offset, read->buf, read->len);

	if (!r && rule)
		r = spoil(rule, read->buf, read->len);
	store_read_done(read, r, NULL);
}

static void faulty_read_submit(void *self, struct store_read *read)
{
	struct faulty *f = self;
	struct faulty_rule rule;

	if (!next_rule(f, FAULTY_READ, &rule)) {
		finish(f, read, NULL);
	} else if (rule.kind != FAULTY_HOLD) {
		finish(f, read, &rule);
	} else {
		pthread_mutex_lock(&f->lock);
		read->next = f->held;
		f->held = read;
		pthread_mutex_unlock(&f->lock);
	}
}

static void faulty_read_cancel(void *self, struct store_read *read)
{
	struct faulty *f = self;
	struct store_read **at;
	bool found;

	pthread_mutex_lock(&f->lock);
	for (at = &f->held; *at && *at != read; at = &(*at)->next)
		;
	found = *at != NULL;
	if (found)
		*at = read->next;
	pthread_mutex_unlock(&f->lock);
	if (found)
		store_read_done(read, -ECANCELED, NULL);
}

static int faulty_segment_adopt(void *self, uint32_t segment, uint32_t written)
{
	struct faulty *f = self;

	return store_segment_adopt(f->below, segment, written);
}

static void faulty_adopt_done(void *self)
{
	struct faulty *f = self;

	store_adopt_done(f->below);
}

static int faulty_probe(void *self)
{
	struct faulty *f = self;
	struct faulty_rule rule;
	int r;

	if (next_rule(f, FAULTY_WRITE, &rule) && rule.kind == FAULTY_ERROR)
		return rule.error;
	r = store_probe(f->below);
	return r == -EOPNOTSUPP ? 0 : r; /* memory */
}

static void faulty_get_status(void *self, struct store_status *status)
{
	struct faulty *f = self;

	store_get_status(f->below, status);
}

static void faulty_segment_free(void *self, uint32_t segment)
{
	struct faulty *f = self;
	struct faulty_rule rule;

	(void)next_rule(f, FAULTY_SEGMENT_FREE, &rule);
	store_segment_free(f->below, segment);
}

static int faulty_get_written(void *self, struct store_written *written)
{
	struct faulty *f = self;

	return store_get_written(f->below, written);
}

static int faulty_set_written(void *self, const struct store_written *written)
{
	struct faulty *f = self;

	return store_set_written(f->below, written);
}

static uint64_t faulty_used_bytes(void *self)
{
	struct faulty *f = self;
	struct store_stats stats;

	store_get_stats(f->below, &stats);
	return stats.used_bytes;
}

static void faulty_destroy(void *self)
{
	struct faulty *f = self;

	if (f->path) {
		f->stop = true;
		pthread_join(f->follower, NULL);
		free(f->path);
	}
	store_close(f->below);
	pthread_mutex_destroy(&f->lock);
	free(f);
}

struct store *store_faulty_new(struct store *below, bool remote)
{
	struct faulty *f = calloc(1, sizeof(*f));
	struct store *store = NULL;
	struct store_stats stats;

	if (!f) {
		store_close(below);
		return NULL;
	}
	f->below = below;
	pthread_mutex_init(&f->lock, NULL);
	f->ops = (struct store_ops){
		.name = "faulty",
		.caps = remote ? STORE_REMOTE : 0,
		.segment_new = faulty_segment_new,
		.write = faulty_write,
		.read = faulty_read,
		.read_submit = faulty_read_submit,
		.read_cancel = faulty_read_cancel,
		.segment_adopt = faulty_segment_adopt,
		.adopt_done = faulty_adopt_done,
		.segment_free = faulty_segment_free,
		.probe = faulty_probe,
		.get_written = faulty_get_written,
		.set_written = faulty_set_written,
		.get_status = faulty_get_status,
		.used_bytes = faulty_used_bytes,
		.destroy = faulty_destroy,
	};
	store_get_stats(below, &stats);
	store = store_new(&f->ops, f, (uint32_t)(stats.capacity_bytes / STORE_SEGMENT));
	if (!store)
		faulty_destroy(f);
	else
		store_set_daily_writes(store, store_daily_writes(below));
	return store;
}

void store_faulty_add(struct store *store, const struct faulty_rule *rule)
{
	struct faulty *f = store_backend(store);

	pthread_mutex_lock(&f->lock);
	assert(f->nr_rules < RULES_MAX);
	f->rules[f->nr_rules++] = *rule;
	pthread_mutex_unlock(&f->lock);
}

void store_faulty_clear(struct store *store)
{
	struct faulty *f = store_backend(store);

	pthread_mutex_lock(&f->lock);
	f->nr_rules = 0;
	pthread_mutex_unlock(&f->lock);
}

unsigned store_faulty_release(struct store *store)
{
	struct faulty *f = store_backend(store);
	struct store_read *read, *next;
	unsigned n = 0;

	pthread_mutex_lock(&f->lock);
	read = f->held;
	f->held = NULL;
	f->releases++;
	pthread_mutex_unlock(&f->lock);
	for (; read; read = next, n++) {
		next = read->next;
		finish(f, read, NULL);
	}
	return n;
}

unsigned store_faulty_held(struct store *store)
{
	struct faulty *f = store_backend(store);
	unsigned n = 0;

	pthread_mutex_lock(&f->lock);
	for (const struct store_read *read = f->held; read; read = read->next)
		n++;
	pthread_mutex_unlock(&f->lock);
	return n;
}

void store_faulty_notice(struct store *store, void (*notice)(enum faulty_call call))
{
	struct faulty *f = store_backend(store);

	f->notice = notice;
}

/* ---- rules in a file ---- */

static int find(const char *const *names, int n, const char *name)
{
	for (int i = 0; i < n; i++)
		if (!strcmp(names[i], name))
			return i;
	return -1;
}

static int error_number(const char *name)
{
	for (int e = 1; e < 200; e++) {
		const char *known = strerrorname_np(e);

		if (known && !strcmp(known, name))
			return e;
	}
	return EIO;
}

/* A line that makes no sense is none: the test will miss its effect. */
static bool parse_rule(const char *line, struct faulty_rule *rule)
{
	static const char *const calls[] = { "new", "write", "read" };
	static const char *const kinds[] = { "error", "landed", "torn", "short", "flip", "hold" };
	char call[16], kind[16], error[32] = "EIO";
	unsigned times = 0;
	int c, k;

	if (sscanf(line, "%15s %15s %31s %u", call, kind, error, &times) < 2)
		return false;
	c = find(calls, (int)ARRAY_SIZE(calls), call);
	k = find(kinds, (int)ARRAY_SIZE(kinds), kind);
	*rule = (struct faulty_rule){ .call = (enum faulty_call)c, .kind = (enum faulty_kind)k,
				      .error = -error_number(error), .times = times };
	return c >= 0 && k >= 0;
}

/* Whoever has written the rules waits for it. */
static void say_seen(const char *path)
{
	char seen[PATH_MAX];
	int fd;

	snprintf(seen, sizeof(seen), "%s.seen", path);
	fd = open(seen, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (fd >= 0)
		close(fd);
}

static void read_rules(struct store *store, const char *path)
{
	FILE *file = fopen(path, "re");
	struct faulty_rule rule;
	char line[100];

	store_faulty_clear(store);
	while (file && fgets(line, sizeof(line), file))
		if (parse_rule(line, &rule))
			store_faulty_add(store, &rule);
	if (file)
		fclose(file);
	store_faulty_release(store);
	say_seen(path);
}

static void *follow(void *arg)
{
	struct store *store = arg;
	struct faulty *f = store_backend(store);
	struct stat before = { .st_size = 0 };

	for (; !f->stop; usleep(10000)) {
		struct stat now = { .st_size = 0 };

		(void)stat(f->path, &now); /* not there: all zeros */
		if (now.st_ino != before.st_ino || now.st_size != before.st_size ||
		    now.st_mtim.tv_sec != before.st_mtim.tv_sec ||
		    now.st_mtim.tv_nsec != before.st_mtim.tv_nsec)
			read_rules(store, f->path);
		before = now;
	}
	store_faulty_clear(store);
	store_faulty_release(store);
	return NULL;
}

int store_faulty_follow(struct store *store, const char *path)
{
	struct faulty *f = store_backend(store);
	int r;

	f->path = strdup(path);
	r = f->path ? -pthread_create(&f->follower, NULL, follow, store) : -ENOMEM;
	if (r) {
		free(f->path);
		f->path = NULL;
	}
	return r;
}
