/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "backends/faulty.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "common/util.h"

#define RULES_MAX 16

struct faulty {
	struct store *below;
	pthread_mutex_t lock; /* all that follows */
	struct faulty_rule rules[RULES_MAX];
	unsigned nr_rules;
	struct store_read *held;
	struct store_ops ops;
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

static int faulty_write(void *self, uint32_t segment, size_t offset, const void *buf, size_t len)
{
	struct faulty *f = self;
	struct faulty_rule rule;
	int r;

	if (!next_rule(f, FAULTY_WRITE, &rule))
		rule.kind = FAULTY_HOLD;
	if (rule.kind == FAULTY_ERROR)
		return rule.error;
	if (rule.kind == FAULTY_TORN) {
		(void)store_write(f->below, segment, offset, buf, len / 2);
		return rule.error;
	}
	r = store_write(f->below, segment, offset, buf, len);
	/* The same bytes again, which have landed below, whole or torn. */
	if (r == -EINVAL) {
		(void)store_write(f->below, segment, offset + len / 2, (const char *)buf + len / 2,
				  len - len / 2);
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

static void faulty_segment_free(void *self, uint32_t segment)
{
	struct faulty *f = self;

	store_segment_free(f->below, segment);
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
		.segment_free = faulty_segment_free,
		.used_bytes = faulty_used_bytes,
		.destroy = faulty_destroy,
	};
	store_get_stats(below, &stats);
	store = store_new(&f->ops, f, (uint32_t)(stats.capacity_bytes / STORE_SEGMENT));
	if (!store)
		faulty_destroy(f);
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
