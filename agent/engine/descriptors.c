/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The descriptors of sessions, over deaths. A worker alone has died: all of them are
 * open, and those that nobody needs are closed. Keeper and worker: the holder, which
 * has them still (keeper/keeper.h), gives away what the service manager may not have;
 * what has come back from there to the next agent goes by new numbers.
 *
 * Each runs alone: before there is a worker, first thing in one, or when all are dead.
 */
#include "engine/private.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/reaper.h"
#include "common/log.h"
#include "common/util.h"

static bool is_named(int fd)
{
	const char *name;
	int named;

	if (fd <= STDERR_FILENO)
		return true;
	for (unsigned i = 0; (named = kept_nth_fd(i, &name)) >= 0; i++)
		if (named == fd)
			return true;
	return false;
}

/* Events that were read and are not applied: those that wait, in the records, and
   those in the rings. */
typedef void (*messages_fn)(void *ctx, struct uffd_msg *msgs, unsigned nr);

static void each_messages(const struct record_table *records, const struct kept *rings, messages_fn fn, void *ctx)
{
	struct record *record;

	for (uint32_t i = 0; (record = record_next(records, &i));) {
		struct record_state *now = &record->states[record->now & 1];

		fn(ctx, now->waiting, MIN(now->nr_waiting, RECORD_WAITING));
	}
	for (unsigned i = 0; rings->found && i < OWNERS_MAX; i++) {
		fn(ctx, ring_at(rings, i)->messages, FLOW_MESSAGES);
		fn(ctx, ring_at(rings, i)->heard, FLOW_HEARD);
	}
}

/* What workers have left. 0, or negative errno and neither is open. */
static int left_open(struct record_table *records, struct kept *rings)
{
	int r = record_table_open(records);

	if (r == 0 && (r = rings_open(rings)) < 0)
		record_table_close(records);
	return r;
}

static void left_close(struct record_table *records, struct kept *rings)
{
	kept_close(rings);
	record_table_close(records);
}

struct in_use { /* which of the descriptors up to max */
	unsigned char *v;
	int max;
};

static void mark_forks(void *ctx, struct uffd_msg *msgs, unsigned nr)
{
	const struct in_use *used = ctx;

	for (unsigned k = 0; k < nr; k++)
		if (msgs[k].event == UFFD_EVENT_FORK && (int)msgs[k].arg.fork.ufd <= used->max)
			used->v[msgs[k].arg.fork.ufd] = 1;
}

/* Of forks that no memory was to be had for. */
static void mark_lost(const struct kept *rings, const struct in_use *used)
{
	for (unsigned i = 0; i < OWNERS_MAX; i++)
		for (unsigned k = 0; k < FLOW_LOST; k++) {
			int fd = ring_at(rings, i)->lost[k] - 1;

			if (fd >= 0 && fd <= used->max)
				used->v[fd] = 1;
		}
}

static void mark_records(const struct record_table *table, const struct in_use *used)
{
	struct record *record;

	for (uint32_t i = 0; (record = record_next(table, &i));)
		for (unsigned k = 0; k < RECORD_FDS; k++)
			if (record->fds[k] > 0 && record->fds[k] - 1 <= used->max)
				used->v[record->fds[k] - 1] = 1;
}

static int highest_fd(DIR *dir)
{
	int max = STDERR_FILENO;

	for (const struct dirent *d; (d = readdir(dir));)
		max = MAX(max, atoi(d->d_name));
	rewinddir(dir);
	return max;
}

static void close_unused(const struct in_use *used, DIR *dir)
{
	for (const struct dirent *d; (d = readdir(dir));) {
		int fd = atoi(d->d_name);

		if (d->d_name[0] != '.' && fd != dirfd(dir) && fd <= used->max && !used->v[fd] && !is_named(fd))
			reaper_close_of(REAPER_UNKNOWN, fd); /* a peer's may make one wait */
	}
}

/*
 * What is open and named nowhere was the dead worker's own, or a peer's in the
 * middle of its handshake. One that the kernel made for a fork child is always
 * named, by the ring it was read into.
 */
void engine_close_strays(void)
{
	struct record_table records = { .kept = KEPT_NONE };
	struct kept rings = KEPT_NONE;
	DIR *dir = opendir("/proc/self/fd");
	struct in_use used = { .max = dir ? highest_fd(dir) : 0 };

	/* Without all of the names nothing is closed. */
	if (dir && kept_fd("sessions") >= 0 && left_open(&records, &rings) == 0 && rings.found)
		used.v = calloc((size_t)used.max + 1, 1);
	if (used.v) {
		mark_records(&records, &used);
		each_messages(&records, &rings, mark_forks, &used);
		mark_lost(&rings, &used);
		close_unused(&used, dir);
	}
	free(used.v);
	left_close(&records, &rings);
	if (dir)
		closedir(dir);
}

/* ---- given away by the holder ---- */

char descriptors_name(const struct record_table *records, const struct record *record, unsigned i, unsigned *number)
{
	if (i == RECORD_UFFD && record->fork_name) {
		*number = record->fork_name;
		return ENGINE_KEPT_FORK;
	}
	*number = record_index(records, record);
	return ENGINE_KEPT_KINDS[i];
}

struct hand {
	struct record_table records;
	engine_hand_fn hand;
};

/* Those of forks that are not done. What has a record goes by that. */
static void hand_forks(void *ctx, struct uffd_msg *msgs, unsigned nr)
{
	struct hand *h = ctx;

	for (unsigned i = 0; i < nr; i++) {
		int uffd = (int)msgs[i].arg.fork.ufd;

		if (msgs[i].event != UFFD_EVENT_FORK || record_knows_uffd(&h->records, uffd))
			continue;
		if (!event_fork_name(&msgs[i])) /* read in the instant of the death */
			event_set_fork_name(&msgs[i], record_name_fork(&h->records));
		h->hand(ENGINE_KEPT_FORK, event_fork_name(&msgs[i]), uffd);
	}
}

static void hand_records(const struct hand *h)
{
	struct record *record;

	for (uint32_t i = 0; (record = record_next(&h->records, &i));)
		for (unsigned k = 0; k < RECORD_STORED; k++) {
			unsigned number;
			char kind = descriptors_name(&h->records, record, k, &number);

			if (record->fds[k] > 0 && !(record->stored >> k & 1))
				h->hand(kind, number, record->fds[k] - 1);
		}
}

void engine_hand_over(engine_hand_fn hand)
{
	struct hand h = { .records = { .kept = KEPT_NONE }, .hand = hand };
	struct kept rings = KEPT_NONE;
	int r;

	if (kept_fd("sessions") < 0)
		return; /* there has been no worker */
	r = left_open(&h.records, &rings);
	if (r < 0) {
		log_error("what keeper and worker have left can't be read: %s", strerror(-r));
		return;
	}
	each_messages(&h.records, &rings, hand_forks, &h);
	hand_records(&h);
	left_close(&h.records, &rings);
}

/* ---- descriptors that have come back ---- */

static const enum record_fd kinds[] = { RECORD_UFFD, RECORD_MEM,  RECORD_PAGEMAP,
					RECORD_MOVER, RECORD_GATE, RECORD_GATE_EVENT };
_Static_assert(ARRAY_SIZE(kinds) == sizeof(ENGINE_KEPT_KINDS) - 1, "one letter each");

static bool is_same_process(const struct record *record)
{
	return record->started && session_started(record->pid) == record->started;
}

/* What can be opened anew, if it is still the same process: its number may go to
   another one at any time, and its files to a program with more rights than its
   user, whose layout is none of his. */
static void reopen(struct record *record)
{
	struct session_fds fds = SESSION_FDS_NONE;

	if (record->introduced && is_same_process(record) && session_open_proc(record->pid, &fds) == 0)
		fds.pidfd = (int)syscall(SYS_pidfd_open, record->pid, 0);
	if (fds.pidfd < 0 || !session_is_plain(record->pid) || !is_same_process(record)) {
		session_close_fds(&fds, record->uid);
		return;
	}
	record->fds[RECORD_MAPS] = fds.maps + 1;
	record->fds[RECORD_SMAPS] = fds.smaps + 1;
	record->fds[RECORD_STATM] = fds.statm + 1;
	record->fds[RECORD_TASKS] = fds.tasks + 1;
	record->fds[RECORD_PIDFD] = fds.pidfd + 1;
}

/* The descriptors that have come back. */
struct import {
	struct engine_kept_fd *v;
	unsigned nr;
	unsigned lost; /* fork children */
};

static struct engine_kept_fd *find_fork(const struct import *in, unsigned name)
{
	for (unsigned i = 0; name && i < in->nr; i++)
		if (in->v[i].kind == ENGINE_KEPT_FORK && in->v[i].record == name)
			return &in->v[i];
	return NULL;
}

/* Forks that wait go by new numbers. Those that nothing has brought back mean other
   descriptors by now. */
static void import_forks(void *ctx, struct uffd_msg *msgs, unsigned nr)
{
	struct import *in = ctx;

	for (unsigned i = 0; i < nr; i++) {
		struct engine_kept_fd *fork;

		if (msgs[i].event != UFFD_EVENT_FORK)
			continue;
		fork = find_fork(in, event_fork_name(&msgs[i]));
		if (fork) {
			fork->was = (int)msgs[i].arg.fork.ufd + 1;
			msgs[i].arg.fork.ufd = (uint32_t)fork->fd;
		} else {
			msgs[i].event = UFFD_EVENT_PAGEFAULT; /* nothing to be done */
			in->lost++;
		}
	}
}

/* The new number of a fork child that waits; -1: it was lost. */
static int renumbered(const struct import *in, int uffd)
{
	for (unsigned i = 0; uffd >= 0 && i < in->nr; i++)
		if (in->v[i].was == uffd + 1)
			return in->v[i].fd;
	return -1;
}

/* ... and what such children have done themselves. */
static void import_children(void *ctx, struct uffd_msg *msgs, unsigned nr)
{
	const struct import *in = ctx;

	for (unsigned i = 0; i < nr; i++) {
		int uffd;

		if (!event_is_of_child(&msgs[i]))
			continue;
		uffd = renumbered(in, event_child(&msgs[i]));
		if (uffd >= 0)
			event_set_child(&msgs[i], uffd);
		else
			msgs[i].event = UFFD_EVENT_PAGEFAULT;
	}
}

static void import_events(struct import *in, const struct record_table *records, const struct kept *rings)
{
	each_messages(records, rings, import_forks, in);
	each_messages(records, rings, import_children, in);
	for (unsigned i = 0; rings->found && i < OWNERS_MAX; i++) {
		struct owner_ring *ring = ring_at(rings, i);
		int child = renumbered(in, (int)ring->child - 1);

		if (child < 0)
			memset(ring->heard, 0, sizeof(ring->heard));
		ring->child = (uint64_t)(child + 1);
		memset(ring->lost, 0, sizeof(ring->lost)); /* they did not come along */
	}
}

static struct record *record_of(const struct record_table *records, const struct engine_kept_fd *v)
{
	struct record *record;

	if (v->kind != ENGINE_KEPT_FORK) {
		record = record_at(records, v->record);
		return record && record->id ? record : NULL;
	}
	for (uint32_t k = 0; (record = record_next(records, &k)) && record->fork_name != v->record;)
		;
	return record;
}

/* Of two by one name, which the service manager keeps when they are different files,
   neither can be trusted to be the record's; nor can what else has its number. */
#define IN_DOUBT (1u << 31)

static void import_fd(struct record *record, const struct engine_kept_fd *v, enum record_fd kind)
{
	if (!(record->stored >> kind & 1)) {
		record->fds[kind] = v->fd + 1;
		record->stored |= 1u << kind;
		return;
	}
	log_error("process %d: two descriptors have come back by the name %c%u: none of that number is used",
		  (int)record->pid, v->kind, v->record);
	record->stored |= IN_DOUBT;
}

static void import_all(struct import *in, const struct record_table *records)
{
	struct record *record;

	for (unsigned i = 0; i < in->nr; i++) {
		struct engine_kept_fd *v = &in->v[i];

		record = record_of(records, v);
		if (record)
			import_fd(record, v, v->kind == ENGINE_KEPT_FORK ? RECORD_UFFD :
				  kinds[strchr(ENGINE_KEPT_KINDS, v->kind) - ENGINE_KEPT_KINDS]);
	}
	for (unsigned i = 0; i < in->nr; i++) {
		struct engine_kept_fd *v = &in->v[i];

		record = record_of(records, v);
		/* Nor does a fork wait for it. It is closed as a stray: here there must be no
		   thread that does it, which no worker would have. */
		if ((record && record->stored & IN_DOUBT) || (!record && !v->was))
			v->fd = -1;
	}
	for (uint32_t i = 0; (record = record_next(records, &i));)
		if (record->stored & IN_DOUBT) {
			for (unsigned k = 0; k < RECORD_STORED; k++)
				record->fds[k] = 0;
			record->stored = 0;
		}
}

int engine_import_fds(struct engine_kept_fd *v, unsigned nr)
{
	struct record_table records = { .kept = KEPT_NONE };
	struct import in = { .v = v, .nr = nr };
	struct kept rings = KEPT_NONE;
	struct record *record;
	int r;

	if (kept_fd("sessions") < 0)
		return nr ? -ENODATA : 0;
	r = left_open(&records, &rings);
	if (r < 0)
		return r;
	import_events(&in, &records, &rings);
	for (uint32_t i = 0; (record = record_next(&records, &i));) {
		for (unsigned k = 0; k < RECORD_FDS; k++)
			record->fds[k] = 0;
		record->stored = 0;
	}
	import_all(&in, &records);
	for (uint32_t i = 0; (record = record_next(&records, &i));)
		reopen(record);
	if (in.lost)
		log_error("%u fork children were lost with their descriptors", in.lost);
	left_close(&records, &rings);
	return 0;
}
