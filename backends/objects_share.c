/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The object tier: sharing segments with other hosts.
 *
 * Borrowing: first an object of ours says which segment (r.HOST.INSTANCE.NUMBER),
 * then that segment gets our tag, then it may be used. Giving back is the
 * reverse. So there is no tag that the object of its host doesn't tell of, and
 * whoever collects that host finds them all. A segment's maker takes off its own
 * tag only; it goes with the last one.
 *
 * The index is thrown away by age: a hint is found in the epoch in which it was
 * published and in the next one. Who would have to take back each hint when a
 * segment goes, must remember them all; one that is out of date costs a look.
 */
#include "backends/objects_private.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define WAIT_MS 500u
#define REST_NS (5 * NSEC_PER_SEC) /* after it has been slow */
#define EPOCH_S (7 * 86400u)
#define SHARDS 64u
#define HINTS_MAX 64u /* at a time */
#define VALUE_MAX (FOREIGN_MAX + 16)

uint64_t objects_epoch(void)
{
	return (uint64_t)time(NULL) / EPOCH_S;
}

bool objects_is_old_index(const char *name)
{
	return name[0] == 'f' && name[1] == '.' && strtoull(name + 2, NULL, 10) + 1 < objects_epoch();
}

bool objects_is_where(const char *where)
{
	unsigned dots = 0;

	for (const char *c = where; *c; c++) {
		dots += *c == '.';
		if (!isalnum((unsigned char)*c) && !strchr("-_.", *c))
			return false;
	}
	return dots == 2 && strlen(where) < FOREIGN_MAX;
}

/* ---- several at a time ---- */

struct call {
	struct object_io io;
	struct objects_wait wait;
	char name[OBJECT_NAME_MAX];
	char key[2 * STORE_KEY + 1];
	char value[VALUE_MAX];
	int result;
};

static void make_call(struct call *call, enum object_kind kind, uint64_t epoch, const unsigned char *key)
{
	snprintf(call->name, sizeof(call->name), "f.%" PRIu64 ".%02x", epoch, key[0] % SHARDS);
	for (unsigned i = 0; i < STORE_KEY; i++)
		snprintf(call->key + 2 * i, 3, "%02x", key[i]);
	call->io = (struct object_io){ .kind = kind,
				       .name = call->name,
				       .key = call->key,
				       .buf = call->value,
				       .len = sizeof(call->value) - 1 };
}

/* All of them, each ended within the time. */
static void run_calls(struct objects *o, struct call *calls, unsigned n)
{
	uint64_t until = now_ns() + WAIT_MS * 1000000ull;

	for (unsigned i = 0; i < n; i++)
		objects_begin(o, &calls[i].io, &calls[i].wait);
	for (unsigned i = 0; i < n; i++) {
		uint64_t now = now_ns();
		unsigned left = now < until ? (unsigned)((until - now) / 1000000) : 0;

		calls[i].result = objects_end(o, &calls[i].io, left + 1);
		if (calls[i].result == -ETIMEDOUT)
			o->share_rest_ns = now_ns() + REST_NS;
	}
}

static bool may_share(struct objects *o)
{
	enum store_state state;

	pthread_mutex_lock(&o->lock);
	state = o->state;
	pthread_mutex_unlock(&o->lock);
	return state == STORE_UP && now_ns() >= o->share_rest_ns;
}

/* ---- the index ---- */

static void publish(void *self, uint32_t segment, const struct store_hint *hints, unsigned n)
{
	struct objects *o = self;
	_cleanup_free_ struct call *calls = NULL;
	char where[OBJECT_NAME_MAX];

	n = MIN(n, HINTS_MAX);
	calls = may_share(o) ? calloc(n, sizeof(*calls)) : NULL;
	if (!calls)
		return;
	objects_name(o, segment, where);
	for (unsigned i = 0; i < n; i++) {
		struct call *call = &calls[i];

		make_call(call, OBJECT_INDEX_PUT, objects_epoch(), hints[i].key);
		call->io.len = (size_t)snprintf(call->value, sizeof(call->value), "%.*s %u", FOREIGN_MAX,
						where + strlen("s."), hints[i].number);
	}
	run_calls(o, calls, n);
}

static void take_value(struct call *call, struct store_hint *hint)
{
	char *blank;

	if (call->result <= 0)
		return;
	call->value[call->result] = '\0';
	blank = strchr(call->value, ' ');
	if (!blank)
		return;
	*blank = '\0';
	if (!objects_is_where(call->value))
		return;
	snprintf(hint->where, sizeof(hint->where), "%.*s", FOREIGN_MAX, call->value);
	hint->number = (uint32_t)strtoul(blank + 1, NULL, 10);
}

static void find(void *self, struct store_hint *hints, unsigned n)
{
	uint64_t epoch = objects_epoch();
	struct objects *o = self;
	_cleanup_free_ struct call *calls = NULL;

	for (unsigned i = 0; i < n; i++)
		hints[i].where[0] = '\0';
	n = MIN(n, HINTS_MAX);
	calls = may_share(o) ? calloc(2 * n, sizeof(*calls)) : NULL;
	if (!calls)
		return;
	for (unsigned i = 0; i < 2 * n; i++)
		make_call(&calls[i], OBJECT_INDEX_GET, epoch - i % 2, hints[i / 2].key);
	run_calls(o, calls, 2 * n);
	/* the newer one wins */
	for (unsigned i = 2 * n; i-- > 0;)
		take_value(&calls[i], &hints[i / 2]);
}

static void forget(void *self, const struct store_hint *hint)
{
	struct objects *o = self;
	struct call calls[2] = { 0 };

	if (!may_share(o))
		return;
	for (unsigned i = 0; i < 2; i++)
		make_call(&calls[i], OBJECT_INDEX_REMOVE, objects_epoch() - i, hint->key);
	run_calls(o, calls, 2);
}

/* ---- segments of others ---- */

static int read_foreign(void *self, const char *where, size_t offset, void *buf, size_t len)
{
	struct objects *o = self;
	struct call call = { 0 };

	if (!may_share(o))
		return -EAGAIN;
	snprintf(call.name, sizeof(call.name), "s.%s", where);
	call.io = (struct object_io){
		.kind = OBJECT_READ, .name = call.name, .offset = offset, .buf = buf, .len = len
	};
	run_calls(o, &call, 1);
	return call.result;
}

static int run_one(struct objects *o, struct object_io *io)
{
	return objects_io(o, io, WAIT_MS);
}

static int put_and_tag(struct objects *o, uint32_t segment, const char *where)
{
	char tag[OBJECT_NAME_MAX], says[OBJECT_NAME_MAX + 2], name[OBJECT_NAME_MAX];
	struct object_io put = { .kind = OBJECT_PUT, .name = says, .buf = (void *)(uintptr_t)where,
				 .len = strlen(where) };
	struct object_io get = { .kind = OBJECT_TAG, .name = name, .key = tag };
	int r;

	objects_name(o, segment, name);
	objects_tag(o, segment, tag);
	snprintf(says, sizeof(says), "r.%s", tag);
	r = run_one(o, &put);
	return r ? r : run_one(o, &get);
}

static int borrow(void *self, const char *where, uint32_t *segment)
{
	struct objects *o = self;
	int r;

	if (!objects_is_where(where))
		return -EINVAL;
	r = may_share(o) ? objects_take(o, segment) : -EAGAIN;
	if (r)
		return r;
	objects_use(o, *segment, where);
	r = put_and_tag(o, *segment, where);
	if (r == 0)
		return 0;
	/* Whatever of it has landed, or lands yet: it is undone. */
	objects_drop(o, *segment);
	return r;
}

int objects_give_back(const struct objstore_ops *ops, void *self, const char *foreign, const char *tag)
{
	char name[OBJECT_NAME_MAX];
	int r;

	snprintf(name, sizeof(name), "s.%s", foreign);
	r = ops->untag(self, name, tag);
	if (r && r != -ENOENT)
		return r;
	snprintf(name, sizeof(name), "r.%s", tag);
	return ops->remove(self, name);
}

int objects_give_back_by(const struct objstore_ops *ops, void *self, const char *name)
{
	char foreign[FOREIGN_MAX];
	int r = ops->get(self, name, foreign, sizeof(foreign) - 1);

	if (r < 0)
		return r;
	foreign[r] = '\0';
	if (!objects_is_where(foreign)) /* cut off before anything was borrowed */
		return ops->remove(self, name);
	return objects_give_back(ops, self, foreign, name + strlen("r."));
}

/* ---- small things for all ---- */

static void make_thing(struct call *call, enum object_kind kind, uint64_t epoch, const unsigned char *key, void *buf,
		       size_t len)
{
	make_call(call, kind, epoch, key);
	/* Shards of the index have shorter names. */
	snprintf(call->name, sizeof(call->name), "f.%" PRIu64 ".%s", epoch, call->key);
	call->io.key = NULL;
	call->io.buf = buf;
	call->io.len = len;
}

static int put_thing(void *self, const unsigned char *key, const void *buf, size_t len)
{
	struct objects *o = self;
	struct call call = { 0 };

	if (!may_share(o))
		return -EAGAIN;
	make_thing(&call, OBJECT_PUT, objects_epoch(), key, (void *)(uintptr_t)buf, len);
	run_calls(o, &call, 1);
	return call.result;
}

static int get_thing(void *self, const unsigned char *key, void *buf, size_t len)
{
	struct objects *o = self;
	struct call call;
	int r = -EAGAIN;

	for (uint64_t i = 0; i < 2 && may_share(o); i++) {
		call = (struct call){ 0 };
		make_thing(&call, OBJECT_READ, objects_epoch() - i, key, buf, len);
		run_calls(o, &call, 1);
		r = call.result;
		if (r != -ENOENT)
			break;
	}
	return r;
}

const struct store_share_ops objects_share = {
	.publish = publish,
	.find = find,
	.forget = forget,
	.read = read_foreign,
	.borrow = borrow,
	.put = put_thing,
	.get = get_thing,
};
