/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The object tier: reads. A fault has nowhere else to go, so a read that fails
 * for a reason that may pass is sent again until it succeeds, the bytes prove
 * to be lost, or the reader gives up.
 *
 * A slot's io is submitted, cancelled and forgotten outside of the lock, since
 * done() takes it; `holds` keeps the slot from being used again meanwhile.
 */
#include "backends/objects_private.h"

#include <errno.h>
#include <string.h>

static void read_done(struct object_io *io, int result);

int reads_init(struct objects *o)
{
	struct reads *r = &o->reads;

	pthread_mutex_init(&r->lock, NULL);
	r->queue_tail = &r->queue;
	r->slots = calloc(READS_MAX, sizeof(*r->slots));
	return r->slots ? 0 : -ENOMEM;
}

void reads_deinit(struct objects *o)
{
	if (!o->reads.slots)
		return;
	pthread_mutex_destroy(&o->reads.lock);
	free(o->reads.slots);
	o->reads.slots = NULL;
}

/* ---- slots ---- */

/* The first read of the queue into a free slot, held and as if sent; NULL: one
   of them is missing. */
static struct read_slot *next_locked(struct objects *o)
{
	struct reads *r = &o->reads;
	struct read_slot *slot = NULL;

	for (uint32_t i = 0; r->queue && !slot && i < READS_MAX; i++)
		if (r->slots[i].step == READ_FREE && !r->slots[i].holds)
			slot = &r->slots[i];
	if (!slot)
		return NULL;
	slot->read = r->queue;
	r->queue = slot->read->next;
	if (!r->queue)
		r->queue_tail = &r->queue;
	slot->objects = o;
	slot->step = READ_SENT;
	slot->holds = 1;
	slot->eio = 0;
	slot->ended = slot->cancelled = false;
	slot->sending = true;
	slot->connection = atomic_load(&o->connection);
	objects_name(o, slot->read->segment, slot->name);
	slot->io = (struct object_io){ .kind = OBJECT_READ,
				       .name = slot->name,
				       .offset = slot->read->offset,
				       .buf = slot->read->buf,
				       .len = slot->read->len,
				       .done = read_done };
	return slot;
}

/* Drops a hold. The last one ends what done() has left undone. */
static void drop_hold(struct objects *o, struct read_slot *slot)
{
	bool forget;

	pthread_mutex_lock(&o->reads.lock);
	assert(slot->holds);
	forget = slot->ended && slot->holds == 1;
	if (!forget)
		slot->holds--;
	pthread_mutex_unlock(&o->reads.lock);
	if (!forget)
		return;
	o->ops->forget(o->self, &slot->io);
	pthread_mutex_lock(&o->reads.lock);
	slot->ended = false;
	slot->holds--;
	pthread_mutex_unlock(&o->reads.lock);
}

/* A slot whose hold is ours. The reader may have given up, or the connection gone, before
   there was anything to cancel. */
static void send_slot(struct objects *o, struct read_slot *slot)
{
	bool cancel;

	o->ops->submit(o->self, &slot->io);
	pthread_mutex_lock(&o->reads.lock);
	slot->sending = false;
	cancel = slot->step == READ_SENT && (slot->cancelled || slot->connection != atomic_load(&o->connection));
	pthread_mutex_unlock(&o->reads.lock);
	if (cancel)
		o->ops->cancel(o->self, &slot->io);
	drop_hold(o, slot);
}

static void send_queued(struct objects *o)
{
	struct read_slot *slot;

	for (;;) {
		pthread_mutex_lock(&o->reads.lock);
		slot = next_locked(o);
		pthread_mutex_unlock(&o->reads.lock);
		if (!slot)
			return;
		send_slot(o, slot);
	}
}

/* ---- the end of one ---- */

enum verdict { READ_OVER, READ_AGAIN };

/* What becomes of a read, and for OVER its result. */
static enum verdict judge(struct read_slot *slot, int *result)
{
	if (*result >= 0) {
		*result = (size_t)*result == slot->io.len ? 0 : -ENODATA;
		return READ_OVER;
	}
	if (slot->cancelled) {
		*result = -ECANCELED;
		return READ_OVER;
	}
	if (*result == -ENOENT)
		return READ_OVER; /* the object, or the pool: lost */
	if (*result == -EIO && ++slot->eio == READ_TRIES_EIO)
		return READ_OVER;
	return READ_AGAIN;
}

static void read_done(struct object_io *io, int result)
{
	struct read_slot *slot = CONTAINER_OF(io, struct read_slot, io);
	struct objects *o = slot->objects;
	struct store_read *read = NULL;
	int error = result;

	pthread_mutex_lock(&o->reads.lock);
	assert(slot->step == READ_SENT);
	slot->ended = true;
	slot->holds++;
	if (judge(slot, &result) == READ_OVER) {
		read = slot->read;
		slot->read = NULL;
		slot->step = READ_FREE;
	} else {
		slot->step = READ_RETRY;
		slot->retry_ns = now_ns() + o->pause_ns;
	}
	pthread_mutex_unlock(&o->reads.lock);
	if (read)
		store_read_done(read, result, NULL);
	if (error < 0 && error != -ECANCELED)
		objects_blame_read(o, error);
	drop_hold(o, slot);
	send_queued(o);
}

/* ---- for readers ---- */

void reads_submit(void *self, struct store_read *read)
{
	struct objects *o = self;

	pthread_mutex_lock(&o->reads.lock);
	read->next = NULL;
	*o->reads.queue_tail = read;
	o->reads.queue_tail = &read->next;
	pthread_mutex_unlock(&o->reads.lock);
	send_queued(o);
}

/* Out of the queue, if it is there. */
static bool unqueue_locked(struct reads *r, struct store_read *read)
{
	for (struct store_read **at = &r->queue; *at; at = &(*at)->next) {
		if (*at != read)
			continue;
		*at = read->next;
		if (r->queue_tail == &read->next)
			r->queue_tail = at;
		return true;
	}
	return false;
}

static struct read_slot *slot_of_locked(struct reads *r, const struct store_read *read)
{
	for (uint32_t i = 0; i < READS_MAX; i++)
		if (r->slots[i].read == read)
			return &r->slots[i];
	return NULL;
}

void reads_cancel(void *self, struct store_read *read)
{
	struct objects *o = self;
	struct read_slot *slot;
	bool over, sent = false;

	pthread_mutex_lock(&o->reads.lock);
	over = unqueue_locked(&o->reads, read);
	slot = over ? NULL : slot_of_locked(&o->reads, read);
	if (slot && slot->step == READ_RETRY) {
		slot->read = NULL;
		slot->step = READ_FREE;
		over = true;
	} else if (slot) {
		slot->cancelled = true;
		sent = !slot->sending;
		slot->holds += sent;
	}
	pthread_mutex_unlock(&o->reads.lock);
	if (over)
		store_read_done(read, -ECANCELED, NULL);
	if (sent) {
		o->ops->cancel(o->self, &slot->io);
		drop_hold(o, slot);
	}
	send_queued(o);
}

/* ---- for the keeper ---- */

/* What the keeper has to do with a slot, with a hold on it. */
enum chore { CHORE_NONE, CHORE_RESEND, CHORE_TAKE_BACK };

static enum chore look_locked(struct objects *o, struct read_slot *slot, uint64_t now, bool all)
{
	uint32_t connection = atomic_load(&o->connection);

	if (slot->step == READ_RETRY && !slot->holds && (all || slot->retry_ns <= now)) {
		slot->step = READ_SENT;
		slot->connection = connection;
		slot->holds = 1;
		slot->sending = true;
		return CHORE_RESEND;
	}
	if (slot->step == READ_SENT && all && !slot->sending && slot->connection != connection) {
		slot->holds++;
		return CHORE_TAKE_BACK;
	}
	return CHORE_NONE;
}

void reads_resend(struct objects *o, uint64_t now, bool all)
{
	for (uint32_t i = 0; i < READS_MAX; i++) {
		struct read_slot *slot = &o->reads.slots[i];
		enum chore chore;

		pthread_mutex_lock(&o->reads.lock);
		chore = look_locked(o, slot, now, all);
		pthread_mutex_unlock(&o->reads.lock);
		if (chore == CHORE_RESEND) {
			send_slot(o, slot);
		} else if (chore == CHORE_TAKE_BACK) {
			o->ops->cancel(o->self, &slot->io);
			drop_hold(o, slot);
		}
	}
	send_queued(o);
}

uint64_t reads_oldest_ns(struct objects *o, uint64_t now)
{
	struct reads *r = &o->reads;
	uint64_t oldest = now;

	pthread_mutex_lock(&r->lock);
	for (uint32_t i = 0; i < READS_MAX; i++)
		if (r->slots[i].read)
			oldest = MIN(oldest, r->slots[i].read->start_ns);
	if (r->queue)
		oldest = MIN(oldest, r->queue->start_ns);
	pthread_mutex_unlock(&r->lock);
	return now - oldest;
}

/* ---- for those who may wait ---- */

/* Once: compaction and the like can come again. */
int reads_now(void *self, uint32_t segment, size_t offset, void *buf, size_t len)
{
	struct objects *o = self;
	char name[OBJECT_NAME_MAX];
	struct object_io io = { .kind = OBJECT_READ,
				.name = name,
				.offset = offset,
				.buf = buf,
				.len = len };
	int r;

	objects_name(o, segment, name);
	r = objects_io(o, &io, o->timeout_ms);
	if (r >= 0)
		return (size_t)r == len ? 0 : -ENODATA;
	objects_blame_read(o, r);
	return r;
}
