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
 */
#include "backends/objects_private.h"

#include <errno.h>

struct pending_write {
	struct object_io io;
	struct objects_wait wait;
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

/* Again, in another form, if the answer says no more than that. */
static bool other_form(struct objects *o, struct object_io *io, uint32_t segment, int r)
{
	if (r == -EEXIST && io->kind == OBJECT_CREATE)
		io->kind = OBJECT_WRITE;
	else if (r == -ENOENT && io->kind == OBJECT_WRITE && atomic_load(&o->created[segment]) != CREATED)
		io->kind = OBJECT_CREATE;
	else
		return false;
	return true;
}

/* r: what the first try came to. Where another write has found out that nobody
   answers, there is no hope for this one. */
static int try_again(struct objects *o, struct object_io *io, uint32_t segment, int r)
{
	bool hope = refuse_write(o) == 0;

	for (unsigned timeouts = 0, forms = 0;;) {
		if (r == -ETIMEDOUT && hope && ++timeouts < WRITE_TRIES)
			objects_blame(o, r, "a write");
		else if (!other_form(o, io, segment, r) || ++forms > WRITE_TRIES)
			return r;
		r = objects_io(o, io, 0);
	}
}

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
	p->io = (struct object_io){
		.kind = atomic_load(&o->created[write->segment]) ? OBJECT_WRITE : OBJECT_CREATE,
		.name = p->name,
		.offset = write->offset,
		.buf = (void *)(uintptr_t)write->buf, /* not written to */
		.len = write->len,
	};
	objects_name(o, write->segment, p->name);
	if (p->io.kind == OBJECT_CREATE)
		atomic_store(&o->created[write->segment], CREATED_PERHAPS);
	write->private = p;
	objects_begin(o, &p->io, &p->wait);
}

int writes_wait(void *self, struct store_write *write)
{
	struct pending_write *p = write->private;
	struct objects *o = self;
	int r = objects_end(o, &p->io, 0);

	r = try_again(o, &p->io, write->segment, r);
	free(p);
	if (r) {
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
