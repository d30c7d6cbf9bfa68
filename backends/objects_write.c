/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The object tier: writes. Several may be under way; whoever began one waits for
 * it, and repeats it then where that is right.
 *
 * A write that timed out may have landed, or land at any time later: so the same
 * bytes go to the same place again, and a creation that finds the object there
 * goes on as a write. The first write of a segment creates its object, whatever
 * the offset. Those behind it are sent without waiting for it: operations of one
 * client on one object are done in their order. If that first one was lost all
 * the same, they find no object, and the next try creates it.
 *
 * So many operations are under way at a time; what comes meanwhile queues, and
 * what has queued for one segment goes as one operation, each part to its own
 * offset: an OSD takes more bytes a second in larger pieces. It is done wholly or
 * not at all, and what is repeated is repeated part by part. They are sent by one
 * thread at a time, or they would lose their order.
 */
#include "backends/objects_private.h"

#include <errno.h>

#define UNDER_WAY_MAX 4u	     /* operations */
#define JOINED_MAX ((size_t)4 << 20) /* bytes of one */

struct pending_write {
	struct object_io io; /* arg: itself; with: those that go with it */
	struct objects *objects;
	struct objects_wait wait;
	struct pending_write *next; /* in the queue, or of those that go together */
	uint32_t segment;
	bool sent;  /* io is the store's, and is to be forgotten */
	bool early; /* sent before the object was known to be there */
	bool refused; /* by us: that tells nothing of the cluster */
	char name[OBJECT_NAME_MAX];
};

/* Nothing is tried while the keeper knows that it would fail: a writer who
   waits for a time-out holds up a thread. */
static int refuse_write(struct objects *o)
{
	enum store_state state;

	pthread_mutex_lock(&o->lock);
	state = o->state;
	pthread_mutex_unlock(&o->lock);
	if (state == STORE_UP)
		return 0;
	return state == STORE_FULL ? -ENOSPC : -ENOTCONN;
}

/* ---- the queue ---- */

void writes_init(struct objects *o)
{
	pthread_mutex_init(&o->writes.lock, NULL);
	o->writes.queue_tail = &o->writes.queue;
}

void writes_deinit(struct objects *o)
{
	pthread_mutex_destroy(&o->writes.lock);
}

/* The first of the queue, and those right behind it that go with it. */
static struct pending_write *next_locked(struct writes *w)
{
	struct pending_write *first = w->queue, *last = first;
	size_t bytes;

	if (!first || w->under_way == UNDER_WAY_MAX)
		return NULL;
	for (bytes = first->io.len; last->next; last = last->next) {
		struct pending_write *more = last->next;

		if (more->segment != first->segment || bytes + more->io.len > JOINED_MAX)
			break;
		bytes += more->io.len;
		last->io.with = &more->io;
	}
	w->queue = last->next;
	last->next = NULL;
	if (!w->queue)
		w->queue_tail = &w->queue;
	w->under_way++;
	first->sent = true;
	return first;
}

static void end_all(struct pending_write *p, int result)
{
	struct pending_write *next;

	for (; p; p = next) {
		next = p->next; /* p may be gone once its writer knows */
		p->wait.result = result;
		sem_post(&p->wait.ended);
	}
}

static void write_done(struct object_io *io, int result);

/* The first to be sent creates the object. */
static void choose_form(struct objects *o, struct pending_write *p)
{
	_Atomic uint8_t *created = &o->created[p->segment];

	enum created before = atomic_load(created);

	for (struct pending_write *q = p; q; q = q->next) {
		q->early = before != CREATED;
		q->io.kind = before == CREATED_NOT ? OBJECT_CREATE : OBJECT_WRITE;
	}
	if (before == CREATED_NOT)
		atomic_store(created, CREATED_PERHAPS);
}

static void send_queued(struct objects *o)
{
	struct writes *w = &o->writes;
	struct pending_write *p;

	pthread_mutex_lock(&w->lock);
	if (w->sending) {
		pthread_mutex_unlock(&w->lock);
		return; /* whoever does looks at the queue once more */
	}
	w->sending = true;
	while ((p = next_locked(w))) {
		int r;

		pthread_mutex_unlock(&w->lock);
		r = refuse_write(o);
		if (r) {
			p->sent = false;
			for (struct pending_write *q = p; q; q = q->next)
				q->refused = true;
			write_done(&p->io, r);
		} else {
			choose_form(o, p);
			o->ops->submit(o->self, &p->io);
		}
		pthread_mutex_lock(&w->lock);
	}
	w->sending = false;
	pthread_mutex_unlock(&w->lock);
}

static void write_done(struct object_io *io, int result)
{
	struct pending_write *p = io->arg;
	struct objects *o = p->objects;

	pthread_mutex_lock(&o->writes.lock);
	o->writes.under_way--;
	pthread_mutex_unlock(&o->writes.lock);
	send_queued(o);
	end_all(p, result); /* last: then they may close the store */
}

/* ---- those that have failed, one by one ---- */

/* Again, in another form, if the answer says no more than that. */
static bool other_form(struct objects *o, struct pending_write *p, int r)
{
	bool created = atomic_load(&o->created[p->segment]) == CREATED;

	if (r == -EEXIST && p->io.kind == OBJECT_CREATE)
		p->io.kind = OBJECT_WRITE;
	else if (r == -ENOENT && p->io.kind == OBJECT_WRITE && (!created || p->early))
		p->io.kind = created ? OBJECT_WRITE : OBJECT_CREATE;
	else
		return false;
	p->early &= !created;
	return true;
}

/* r: what the first try came to. Where another write has found out that nobody
   answers, there is no hope for this one. */
static int try_again(struct objects *o, struct pending_write *p, int r)
{
	bool hope = refuse_write(o) == 0;

	for (unsigned timeouts = 0, forms = 0;;) {
		if (r == -ETIMEDOUT && hope && ++timeouts < WRITE_TRIES)
			objects_blame(o, r, "a write");
		else if (!other_form(o, p, r) || ++forms > WRITE_TRIES)
			return r;
		r = objects_io(o, &p->io, 0);
	}
}

/* ---- for writers ---- */

void writes_start(void *self, struct store_write *write)
{
	struct objects *o = self;
	struct pending_write *p;

	write->private = NULL;
	write->result = refuse_write(o);
	if (write->result)
		return;
	p = calloc(1, sizeof(*p));
	if (!p) {
		write->result = -ENOMEM;
		return;
	}
	p->objects = o;
	p->segment = write->segment;
	p->io = (struct object_io){
		.kind = OBJECT_WRITE,
		.name = p->name,
		.offset = write->offset,
		.buf = (void *)(uintptr_t)write->buf, /* not written to */
		.len = write->len,
		.done = write_done,
		.arg = p,
	};
	objects_name(o, write->segment, p->name);
	sem_init(&p->wait.ended, 0, 0);
	write->private = p;
	pthread_mutex_lock(&o->writes.lock);
	*o->writes.queue_tail = p;
	o->writes.queue_tail = &p->next;
	pthread_mutex_unlock(&o->writes.lock);
	send_queued(o);
}

/* What the first try came to, with others or alone. */
static int first_try(struct objects *o, struct pending_write *p)
{
	while (sem_wait(&p->wait.ended))
		;
	sem_destroy(&p->wait.ended);
	if (p->sent)
		o->ops->forget(o->self, &p->io);
	p->io.with = NULL;
	return p->wait.result;
}

int writes_wait(void *self, struct store_write *write)
{
	struct pending_write *p = write->private;
	struct objects *o = self;
	int r = try_again(o, p, first_try(o, p));
	bool refused = p->refused;

	free(p);
	if (r) {
		if (r == -ETIMEDOUT)
			objects_sweep_later(o);
		if (!refused)
			objects_blame(o, r, "a write");
		return r;
	}
	atomic_store(&o->created[write->segment], CREATED);
	atomic_fetch_add(&o->written[write->segment], write->len);
	atomic_fetch_add(&o->held_bytes, write->len);
	return 0;
}

int writes_now(void *self, uint32_t segment, size_t offset, const void *buf, size_t len)
{
	struct store_write write = { .segment = segment,
				     .offset = (uint32_t)offset,
				     .len = (uint32_t)len,
				     .buf = buf };

	writes_start(self, &write);
	return write.result ? write.result : writes_wait(self, &write);
}
