/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The object tier: making it, its state, its segments. */
#include "backends/objects_private.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/layout.h"
#include "common/log.h"

void objects_name(const struct objects *o, uint32_t segment, char *name)
{
	if (o->rows[segment].foreign[0])
		snprintf(name, OBJECT_NAME_MAX, "s.%s", o->rows[segment].foreign);
	else
		snprintf(name, OBJECT_NAME_MAX, "%s%016" PRIx64, o->prefix, objects_number(o, segment));
}

void objects_tag(const struct objects *o, uint32_t segment, char *tag)
{
	snprintf(tag, OBJECT_NAME_MAX, "%s%016" PRIx64, o->prefix + strlen("s."), objects_number(o, segment));
}

/* ---- state ---- */

void objects_set_state(struct objects *o, enum store_state state, const char *format, ...)
{
	va_list ap;

	pthread_mutex_lock(&o->lock);
	/* Nothing but a restart ends a clash. */
	if (o->state != STORE_CLASH) {
		o->state = state;
		va_start(ap, format);
		vsnprintf(o->reason, sizeof(o->reason), format, ap);
		va_end(ap);
	}
	pthread_cond_broadcast(&o->changed);
	pthread_mutex_unlock(&o->lock);
}

static void reconnect(struct objects *o)
{
	pthread_mutex_lock(&o->lock);
	o->reconnect = true;
	pthread_mutex_unlock(&o->lock);
}

void objects_blame(struct objects *o, int error, const char *what)
{
	switch (error) {
	case -ENOSPC:
		objects_set_state(o, STORE_FULL, "%s: the cluster is full", o->where);
		break;
	case -EDQUOT:
		objects_set_state(o, STORE_FULL, "%s: the pool is at its quota", o->where);
		break;
	case -ETIMEDOUT:
		objects_set_state(o, STORE_AWAY, "%s: no answer to %s within %g s", o->where, what,
				  o->timeout_ms / 1000.0);
		break;
	case -EPERM:
	case -EACCES:
		reconnect(o);
		objects_set_state(o, STORE_DENIED,
				  "%s: %s is not allowed: look at the key's caps (ceph auth get)",
				  o->where, what);
		break;
	case -ENOENT:
		reconnect(o);
		objects_set_state(o, STORE_GONE,
				  "%s: %s: the pool, or an object of ours, has been deleted",
				  o->where, what);
		break;
	case -ESHUTDOWN:
		reconnect(o);
		objects_set_state(o, STORE_AWAY, "%s: this client has been blocklisted", o->where);
		break;
	case -ENOTCONN:
	case -ECANCELED: /* on a connection that has been given up */
		break;
	default:
		objects_set_state(o, STORE_AWAY, "%s: %s: %s", o->where, what, strerror(-error));
		break;
	}
}

void objects_blame_read(struct objects *o, int error)
{
	if (error == -EIO)
		return; /* these bytes' own trouble */
	if (error != -ENOENT) {
		objects_blame(o, error, "a read");
		return;
	}
	/* The object alone, or the whole pool? The keeper looks. */
	pthread_mutex_lock(&o->lock);
	o->look = true;
	pthread_cond_broadcast(&o->changed);
	pthread_mutex_unlock(&o->lock);
}

/* Up is what answers the lease. What has no answer all the same is with another part of
   the cluster. */
static void get_status(void *self, struct store_status *status)
{
	struct objects *o = self;

	status->oldest_read_ns = reads_oldest_ns(o, now_ns());
	status->reason[0] = '\0';
	pthread_mutex_lock(&o->lock);
	status->state = o->state;
	if (o->state != STORE_UP)
		memcpy(status->reason, o->reason, sizeof(status->reason));
	pthread_mutex_unlock(&o->lock);
	if (status->state == STORE_UP && status->oldest_read_ns > o->timeout_ms * 1000000ull)
		snprintf(status->reason, sizeof(status->reason),
			 "%s: no answer to a read within %g s, though the cluster is there: has each placement "
			 "group an OSD? (ceph health detail)",
			 o->where, o->timeout_ms / 1000.0);
}

/* ---- segments ---- */

/* Whatever a worker before us had and nobody has adopted is free; the keeper
   removes the objects. */
static void end_adoption_locked(struct objects *o)
{
	if (atomic_load(&o->adopted))
		return;
	for (uint32_t i = o->nr_fresh; i-- > 0;) {
		if (atomic_load(&o->created[i]))
			continue;
		if (objects_number(o, i))
			atomic_store(&o->rows[i].number, 0);
		o->free[o->nr_free++] = i;
	}
	atomic_store(&o->adopted, true);
}

int objects_take(struct objects *o, uint32_t *segment)
{
	int r = 0;

	pthread_mutex_lock(&o->lock);
	end_adoption_locked(o);
	if (o->state != STORE_UP)
		r = -ENOSPC; /* no room for now; get_status says why */
	else if (o->nr_free)
		*segment = o->free[--o->nr_free];
	else if (o->nr_fresh < o->capacity)
		*segment = o->nr_fresh++;
	else
		r = -ENOSPC;
	pthread_mutex_unlock(&o->lock);
	if (r)
		return r;
	r = kept_back(&o->kept, *segment * sizeof(*o->rows), sizeof(*o->rows));
	if (r) {
		pthread_mutex_lock(&o->lock);
		o->free[o->nr_free++] = *segment;
		pthread_mutex_unlock(&o->lock);
	}
	return r;
}

void objects_use(struct objects *o, uint32_t segment, const char *foreign)
{
	snprintf(o->rows[segment].foreign, FOREIGN_MAX, "%s", foreign);
	atomic_store(&o->created[segment], *foreign ? CREATED : CREATED_NOT);
	atomic_store(&o->rows[segment].number, atomic_fetch_add(&o->own->next_number, 1));
}

static int segment_new(void *self, uint32_t *segment)
{
	int r = objects_take(self, segment);

	if (r == 0)
		objects_use(self, *segment, "");
	return r;
}

static int segment_adopt(void *self, uint32_t segment, uint32_t bytes)
{
	struct objects *o = self;

	if (segment >= o->capacity || !o->kept.found || atomic_load(&o->adopted) ||
	    !objects_number(o, segment))
		return -ENODATA;
	atomic_store(&o->created[segment], CREATED);
	if (o->rows[segment].foreign[0])
		return 0; /* its bytes are another's */
	atomic_store(&o->written[segment], bytes);
	atomic_fetch_add(&o->held_bytes, bytes);
	return 0;
}

/* Until the keeper has removed the object, the segment counts as taken. */
void objects_drop(struct objects *o, uint32_t segment)
{
	pthread_mutex_lock(&o->lock);
	if (atomic_load(&o->created[segment])) {
		o->dying[o->nr_dying++] = segment;
	} else {
		atomic_store(&o->rows[segment].number, 0);
		o->free[o->nr_free++] = segment;
	}
	pthread_cond_broadcast(&o->changed);
	pthread_mutex_unlock(&o->lock);
	atomic_fetch_sub(&o->held_bytes, atomic_exchange(&o->written[segment], 0));
}

static void segment_free(void *self, uint32_t segment)
{
	objects_drop(self, segment);
}

static uint64_t used_bytes(void *self)
{
	struct objects *o = self;

	return atomic_load(&o->held_bytes);
}

/* ---- one that is waited for ---- */

/* By a clock that nobody sets: one that is put back must not make a wait one of hours. */
static struct timespec later(unsigned ms)
{
	uint64_t ns = now_ns() + ms * 1000000ull;

	return (struct timespec){ .tv_sec = (time_t)(ns / NSEC_PER_SEC), .tv_nsec = (long)(ns % NSEC_PER_SEC) };
}

static void wake_waiting(struct object_io *io, int result)
{
	struct objects_wait *w = io->arg;

	w->result = result;
	sem_post(&w->ended);
}

void objects_begin(struct objects *o, struct object_io *io, struct objects_wait *w)
{
	sem_init(&w->ended, 0, 0);
	io->arg = w;
	io->done = wake_waiting;
	o->ops->submit(o->self, io);
}

int objects_end(struct objects *o, struct object_io *io, unsigned timeout_ms)
{
	struct timespec until = later(timeout_ms);
	struct objects_wait *w = io->arg;
	int r, result;

	do {
		r = timeout_ms ? sem_clockwait(&w->ended, CLOCK_MONOTONIC, &until) : sem_wait(&w->ended);
	} while (r && errno == EINTR);
	if (r) {
		o->ops->cancel(o->self, io);
		while (sem_wait(&w->ended))
			;
	}
	result = w->result;
	o->ops->forget(o->self, io);
	sem_destroy(&w->ended);
	return r && result == -ECANCELED ? -ETIMEDOUT : result;
}

int objects_io(struct objects *o, struct object_io *io, unsigned timeout_ms)
{
	struct objects_wait w;

	objects_begin(o, io, &w);
	return objects_end(o, io, timeout_ms);
}

/* ---- life ---- */

static void give_up_hanging(struct objects *o)
{
	log_warning("%s: a call to the cluster does not return; leaving it behind", o->where);
}

/* False: it hangs in a call. */
static bool stop_keeper(struct objects *o)
{
	struct timespec until = later(3 * o->timeout_ms + 5000);
	bool ended;

	pthread_mutex_lock(&o->lock);
	o->stop = true;
	pthread_cond_broadcast(&o->changed);
	while (!o->ended && pthread_cond_timedwait(&o->changed, &o->lock, &until) != ETIMEDOUT)
		;
	ended = o->ended;
	pthread_mutex_unlock(&o->lock);
	if (ended)
		pthread_join(o->keeper, NULL);
	return ended;
}

static void destroy(void *self)
{
	struct objects *o = self;

	if (o->keeper_runs && !stop_keeper(o)) {
		give_up_hanging(o);
		return;
	}
	o->ops->close(o->self);
	reads_deinit(o);
	writes_deinit(o);
	kept_close(&o->kept);
	pthread_cond_destroy(&o->changed);
	pthread_mutex_destroy(&o->lock);
	free(o->created);
	free(o->written);
	free(o->free);
	free(o->dying);
	free(o);
}

static const struct store_ops objects_ops = {
	.name = "rados",
	.caps = STORE_REMOTE,
	.segment_new = segment_new,
	.write = writes_now,
	.write_start = writes_start,
	.write_wait = writes_wait,
	.read = reads_now,
	.read_submit = reads_submit,
	.read_cancel = reads_cancel,
	.segment_adopt = segment_adopt,
	.segment_free = segment_free,
	.used_bytes = used_bytes,
	.share = &objects_share,
	.get_status = get_status,
	.destroy = destroy,
};

static ssize_t read_line(const char *path, char *text, size_t size)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, size - 1);

	text[MAX(n, (ssize_t)0)] = '\0';
	text[strcspn(text, "\n")] = '\0';
	return n;
}

/* Not the machine id itself, which is nobody's business, but made of it. */
static int find_host(struct objects *o, const char *host)
{
	char id[64];

	if (host) {
		snprintf(o->host, sizeof(o->host), "%s", host);
		return 0;
	}
	if (read_line("/etc/machine-id", id, sizeof(id)) < 32 || !isxdigit((unsigned char)id[0]))
		return -ENOKEY;
	snprintf(o->host, sizeof(o->host), "%016" PRIx64,
		 XXH3_64bits_withSeed(id, strlen(id), 0x75737761702d6f62));
	return 0;
}

static int open_kept(struct objects *o, const char *name)
{
	int r = kept_open(&o->kept, name ? name : "objects", o->capacity * sizeof(*o->rows),
			  LAYOUT_OBJECTS);
	uint64_t random = 0;

	if (r)
		return r;
	o->own = o->kept.own;
	o->rows = o->kept.base;
	if (!o->own->instance) {
		if (getrandom(&random, sizeof(random), 0) != sizeof(random))
			return -EIO;
		atomic_store(&o->own->next_number, 1);
		o->own->instance = random | 1;
	}
	/* As far as the worker before us had come; it read as zeros behind. */
	atomic_store(&o->sweep_ours_ns, o->kept.found); /* at once */
	if (o->kept.found)
		for (uint32_t i = 0; i < o->capacity; i++)
			if (objects_number(o, i))
				o->nr_fresh = i + 1;
	if (!o->nr_fresh)
		atomic_store(&o->adopted, true);
	return 0;
}

static void make_names(struct objects *o)
{
	char boot[64];

	if (read_line("/proc/sys/kernel/random/boot_id", boot, sizeof(boot)) < 8)
		strcpy(boot, "00000000");
	snprintf(o->lease, sizeof(o->lease), "h.%s", o->host);
	snprintf(o->prefix, sizeof(o->prefix), "s.%s.%.8s%016" PRIx64 ".", o->host, boot,
		 o->own->instance);
	snprintf(o->cookie, sizeof(o->cookie), "%.8s%016" PRIx64, boot, o->own->instance);
}

static int init(struct objects *o, const struct objects_settings *settings)
{
	pthread_condattr_t attr;
	sigset_t all, before;
	int r;

	pthread_mutex_init(&o->lock, NULL);
	writes_init(o);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&o->changed, &attr);
	pthread_condattr_destroy(&attr);
	o->state = STORE_CONNECTING;
	o->told = STORE_STATES; /* whatever it will be is news */
	snprintf(o->where, sizeof(o->where), "%s", settings->where);
	snprintf(o->reason, sizeof(o->reason), "%s: connecting", o->where);
	o->timeout_ms = settings->timeout_ms;
	o->pause_ns = MIN(o->timeout_ms * 500000ull, NSEC_PER_SEC);
	o->created = calloc(o->capacity, sizeof(*o->created));
	o->written = calloc(o->capacity, sizeof(*o->written));
	o->free = calloc(o->capacity, sizeof(*o->free));
	o->dying = calloc(o->capacity, sizeof(*o->dying));
	if (!o->created || !o->written || !o->free || !o->dying)
		return -ENOMEM;
	r = find_host(o, settings->host);
	if (r == 0)
		r = reads_init(o);
	if (r == 0)
		r = open_kept(o, settings->kept);
	if (r)
		return r;
	make_names(o);
	/* Threads of the object store's library inherit the keeper's mask: no
	   signal may end up there. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = -pthread_create(&o->keeper, NULL, objects_keeper, o);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	o->keeper_runs = r == 0;
	return r;
}

struct store *store_objects_new(const struct objstore_ops *ops, void *self,
				const struct objects_settings *settings)
{
	uint64_t segments = MAX(settings->max_bytes / STORE_SEGMENT, (uint64_t)1);
	struct objects *o = calloc(1, sizeof(*o));
	struct store *store = NULL;
	int r = -ENOMEM;

	if (!o) {
		ops->close(self);
		errno = ENOMEM;
		return NULL;
	}
	o->ops = ops;
	o->self = self;
	o->kept = KEPT_NONE;
	o->capacity = (uint32_t)MIN(segments, (uint64_t)STORE_SEGMENTS_MAX);
	r = init(o, settings);
	if (r == 0)
		store = store_new(&objects_ops, o, o->capacity);
	if (store)
		return store;
	r = r ? r : -errno;
	destroy(o);
	errno = -r;
	return NULL;
}
