/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The object tier's keeper: the only thread that may wait for the cluster as a
 * whole. It connects, holds the lease, finds out when a state has ended,
 * removes objects.
 */
#include "backends/objects_private.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>

#include "common/log.h"

#define REMOVALS_PER_TURN 64
#define OPEN_RETRY_MAX 5u /* pauses */
/* Then another connection is tried: TCP goes on trying with one that the network has
   swallowed, but up to two minutes may pass before it does once the network is back. */
#define UNANSWERED_MAX 2u
#define SWEEP_NS (86400 * NSEC_PER_SEC)
#define TURN_NS (200 * 1000000ull) /* at most, between two looks */

static unsigned lease_ms(const struct objects *o)
{
	return 3 * o->timeout_ms;
}

static enum store_state state_of(struct objects *o)
{
	enum store_state state;

	pthread_mutex_lock(&o->lock);
	state = o->state;
	pthread_mutex_unlock(&o->lock);
	return state;
}

/* ---- the connection ---- */

static enum store_state open_state(int error)
{
	switch (error) {
	case -EACCES:
	case -EPERM:
		return STORE_DENIED;
	case -ENOENT:
		return STORE_GONE;
	default:
		return STORE_AWAY;
	}
}

static bool try_open(struct objects *o, uint64_t now)
{
	char why[STORE_REASON - 64] = "";
	int r;

	if (now < o->open_due_ns)
		return false;
	r = o->ops->open(o->self, why, sizeof(why));
	if (r) {
		o->open_failures++;
		o->open_due_ns = now_ns() + MIN(o->open_failures, OPEN_RETRY_MAX) * o->pause_ns;
		objects_set_state(o, open_state(r), "%s", why);
		return false;
	}
	o->open_failures = 0;
	o->open_due_ns = now + o->pause_ns; /* not more often, whatever happens */
	o->lease_due_ns = 0;
	pthread_mutex_lock(&o->lock);
	o->reconnect = false;
	pthread_mutex_unlock(&o->lock);
	atomic_fetch_add(&o->connection, 1);
	reads_resend(o, now, true);
	return true;
}

/* True: there is a connection that may be used. */
static bool keep_connection(struct objects *o, uint64_t now)
{
	bool good;

	pthread_mutex_lock(&o->lock);
	good = atomic_load(&o->connection) && !o->reconnect;
	pthread_mutex_unlock(&o->lock);
	if (good && o->unanswered >= UNANSWERED_MAX) {
		o->unanswered = 0;
		(void)try_open(o, now); /* what there is needs no monitor */
	}
	return good || try_open(o, now);
}

/* ---- the lease ---- */

/* Is there room again? A full cluster still takes a write that replaces as many
   bytes, so this one is of a new object. */
static int probe_room(struct objects *o)
{
	static const char bytes[PAGE_BYTES];
	char name[48];
	int r;

	snprintf(name, sizeof(name), "p.%s", o->host);
	r = o->ops->remove(o->self, name);
	if (r == 0 || r == -ENOENT)
		r = o->ops->put(o->self, name, bytes, sizeof(bytes));
	if (r == 0)
		r = o->ops->remove(o->self, name);
	return r;
}

/* Who we are, for people and for those who must expel us. */
static int write_card(struct objects *o)
{
	char address[160] = "", host[64] = "", card[384];
	int n;

	o->ops->address(o->self, address, sizeof(address));
	gethostname(host, sizeof(host) - 1);
	n = snprintf(card, sizeof(card), "uswap 1\nname %s\ninstance %s\naddress %s\n", host,
		     o->cookie, address);
	return o->ops->put(o->self, o->lease, card, (size_t)MIN(n, (int)sizeof(card) - 1));
}

static void lease_is_ours(struct objects *o, uint64_t now)
{
	int r = 0;

	if (state_of(o) == STORE_FULL)
		r = probe_room(o);
	if (r == 0 && (!o->leased || state_of(o) != STORE_UP))
		r = write_card(o);
	if (r) {
		objects_blame(o, r, "a write");
		o->lease_due_ns = now + o->pause_ns;
		return;
	}
	o->leased = true;
	o->lease_due_ns = now + o->timeout_ms * 1000000ull;
	if (state_of(o) != STORE_UP)
		objects_set_state(o, STORE_UP, "%s", "");
}

/* Somebody has it. What was dead when we came lets go of it by itself within
   the lease's time; what renews it is alive. */
static void lease_is_taken(struct objects *o, uint64_t now)
{
	struct object_lease lease = { 0 };

	o->lease_due_ns = now + o->pause_ns;
	o->ops->leased(o->self, o->lease, &lease);
	if (strcmp(lease.cookie, OBJECTS_COLLECTING) == 0) {
		/* It ends, or is let go of within a minute. What was there is lost. */
		o->lease_seen_ns = 0;
		o->leased = false;
		objects_set_state(o, STORE_CONNECTING,
				  "%s: what host id %s has there is being removed (uswapctl gc)", o->where, o->host);
		return;
	}
	if (!o->lease_seen_ns)
		o->lease_seen_ns = now;
	if (o->leased || now - o->lease_seen_ns > (lease_ms(o) + o->timeout_ms) * 1000000ull)
		objects_set_state(o, STORE_CLASH,
				  "%s: another machine (%s) uses the host id %s; give one of them "
				  "another with host=",
				  o->where, lease.by, o->host);
	else
		objects_set_state(o, STORE_CONNECTING,
				  "%s: waiting for the lease of host id %s, which %s has", o->where,
				  o->host, lease.by);
}

static void keep_lease(struct objects *o, uint64_t now)
{
	bool look;
	int r;

	pthread_mutex_lock(&o->lock);
	look = o->look;
	o->look = false;
	/* in any other state, to see whether it has ended */
	look |= o->state != STORE_UP && o->lease_due_ns > now + o->pause_ns;
	pthread_mutex_unlock(&o->lock);
	if (state_of(o) == STORE_CLASH || (now < o->lease_due_ns && !look))
		return;
	r = o->ops->lease(o->self, o->lease, o->cookie, lease_ms(o));
	o->unanswered = r == -ETIMEDOUT ? o->unanswered + 1 : 0;
	if (r == 0) {
		lease_is_ours(o, now_ns());
	} else if (r == -EBUSY) {
		lease_is_taken(o, now_ns());
	} else {
		objects_blame(o, r, "the lease");
		o->lease_due_ns = now_ns() + o->pause_ns;
	}
}

/* ---- objects that nothing refers to ---- */

static int remember_dead(struct objects *o, const char *name)
{
	if (o->nr_dead == o->max_dead) {
		size_t max = o->max_dead ? o->max_dead * 2 : 64;
		char **dead = realloc(o->dead, max * sizeof(*dead));

		if (!dead)
			return -ENOMEM;
		o->dead = dead;
		o->max_dead = max;
	}
	o->dead[o->nr_dead] = strdup(name);
	if (!o->dead[o->nr_dead])
		return -ENOMEM;
	o->nr_dead++;
	return 0;
}

/* "s." and "r." alike */
static bool begins_with(const char *name, const char *prefix)
{
	return (name[0] == 's' || name[0] == 'r') && strncmp(name + 1, prefix + 1, strlen(prefix + 1)) == 0;
}

static int judge_other(void *arg, const char *name)
{
	struct objects *o = arg;
	char all[64];

	snprintf(all, sizeof(all), "s.%s.", o->host);
	if (begins_with(name, all) ? !begins_with(name, o->prefix) : objects_is_old_index(name))
		return remember_dead(o, name);
	return 0;
}

static int judge_ours(void *arg, const char *name)
{
	struct objects *o = arg;

	return begins_with(name, o->prefix) ? remember_dead(o, name) : 0;
}

static int compare_numbers(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

/* The names from nr on stay dead unless a segment has their number. Numbers are
   given before there is an object, and taken by this thread when there is none any
   more: so after the list was made, whatever of it is in use is seen. */
static int spare_used(struct objects *o, size_t nr)
{
	_cleanup_free_ uint64_t *used = NULL;
	size_t nr_used = 0, left = nr;
	uint32_t top;

	pthread_mutex_lock(&o->lock);
	top = o->nr_fresh;
	pthread_mutex_unlock(&o->lock);
	used = calloc(top + 1, sizeof(*used));
	for (uint32_t i = 0; used && i < top; i++)
		if ((used[nr_used] = objects_number(o, i)))
			nr_used++;
	if (used)
		qsort(used, nr_used, sizeof(*used), compare_numbers);
	for (size_t i = nr; i < o->nr_dead; i++) {
		uint64_t number = strtoull(o->dead[i] + strlen(o->prefix), NULL, 16);

		if (!used || bsearch(&number, used, nr_used, sizeof(*used), compare_numbers))
			free(o->dead[i]);
		else
			o->dead[left++] = o->dead[i];
	}
	o->nr_dead = left;
	return used ? 0 : -ENOMEM;
}

/* What nothing of ours names: of the worker before us, or of a creation that landed
   after everybody had given it up. */
static int sweep_ours(struct objects *o)
{
	size_t nr = o->nr_dead;
	int r = o->ops->list(o->self, "", judge_ours, o), spared = spare_used(o, nr);

	if (o->nr_dead > nr)
		log_notice("%s: %zu objects that nothing refers to go", o->where, o->nr_dead - nr);
	return r ? r : spared;
}

/* Once more when nothing that was under way before can land any more. */
void objects_sweep_later(struct objects *o)
{
	atomic_store(&o->sweep_ours_ns, now_ns() + lease_ms(o) * 1000000ull);
}

static bool is_due(struct objects *o)
{
	uint64_t due = atomic_load(&o->sweep_ours_ns);

	return due && now_ns() >= due;
}

static void sweep(struct objects *o)
{
	int r = 0;

	if (!o->swept_others) {
		r = o->ops->list(o->self, "", judge_other, o);
		o->swept_others = r == 0;
		o->sweep_due_ns = now_ns() + SWEEP_NS;
		if (o->nr_dead)
			log_notice("%s: %zu objects of earlier boots go", o->where, o->nr_dead);
	}
	/* not before all that is still in use has been adopted */
	if (r == 0 && is_due(o) && atomic_load(&o->adopted)) {
		atomic_store(&o->sweep_ours_ns, 0);
		if (!o->swept_ours)
			objects_sweep_later(o);
		r = sweep_ours(o);
		if (r)
			objects_sweep_later(o);
		else
			o->swept_ours = true;
	}
	if (r)
		objects_blame(o, r, "listing the pool");
}

/* True: go on. */
static bool removed(struct objects *o, int r)
{
	if (r == 0 || r == -ENOENT)
		return true;
	objects_blame(o, r, "a removal");
	return false;
}

static bool remove_dead(struct objects *o)
{
	char *name = o->dead[o->nr_dead - 1];
	int r;

	if (name[0] == 's') /* others may have it too */
		r = o->ops->untag(o->self, name, "");
	else if (name[0] == 'r')
		r = objects_give_back_by(o->ops, o->self, name);
	else
		r = o->ops->remove(o->self, name);
	if (!removed(o, r))
		return false;
	free(name);
	o->nr_dead--;
	return true;
}

static bool remove_dying(struct objects *o, uint32_t segment)
{
	char name[OBJECT_NAME_MAX], tag[OBJECT_NAME_MAX];
	bool gone;
	int r;

	objects_name(o, segment, name);
	objects_tag(o, segment, tag);
	if (o->rows[segment].foreign[0])
		r = objects_give_back(o->ops, o->self, o->rows[segment].foreign, tag);
	else
		r = o->ops->untag(o->self, name, "");
	gone = removed(o, r);
	pthread_mutex_lock(&o->lock);
	if (gone) {
		atomic_store(&o->rows[segment].number, 0);
		o->free[o->nr_free++] = segment;
	} else {
		o->dying[o->nr_dying++] = segment;
	}
	pthread_mutex_unlock(&o->lock);
	return gone;
}

static bool take_dying(struct objects *o, uint32_t *segment)
{
	bool any;

	pthread_mutex_lock(&o->lock);
	any = o->nr_dying > 0;
	if (any)
		*segment = o->dying[--o->nr_dying];
	pthread_mutex_unlock(&o->lock);
	return any;
}

/* True: there is more, and it can be done. */
static bool remove_some(struct objects *o)
{
	uint32_t segment;

	for (unsigned i = 0; i < REMOVALS_PER_TURN; i++) {
		if (take_dying(o, &segment)) {
			if (!remove_dying(o, segment))
				return false;
		} else if (o->nr_dead) {
			if (!remove_dead(o))
				return false;
		} else {
			return false;
		}
	}
	return true;
}

/* ---- */

static bool can_remove(struct objects *o)
{
	enum store_state state = state_of(o);

	return o->leased && (state == STORE_UP || state == STORE_FULL);
}

/* News of the cluster, once each. */
static void tell(struct objects *o)
{
	char reason[STORE_REASON];
	enum store_state state;

	pthread_mutex_lock(&o->lock);
	state = o->state;
	memcpy(reason, o->reason, sizeof(reason));
	pthread_mutex_unlock(&o->lock);
	if (state == o->told)
		return;
	o->told = state;
	if (state == STORE_UP)
		log_notice("%s: connected, host id %s", o->where, o->host);
	else if (state == STORE_DENIED || state == STORE_GONE || state == STORE_CLASH)
		log_error("%s", reason);
	else
		log_warning("%s", reason);
}

/* True: at once again. */
static bool turn(struct objects *o)
{
	uint64_t now = now_ns();
	bool more = false;

	if (keep_connection(o, now)) {
		keep_lease(o, now);
		if (can_remove(o)) {
			o->swept_others &= now < o->sweep_due_ns;
			if (!o->swept_others || is_due(o))
				sweep(o);
			more = remove_some(o);
		}
		reads_resend(o, now, false);
	}
	tell(o);
	return more;
}

static int judge_last(void *arg, const char *name)
{
	const struct objects *o = arg;

	return name[0] == 'h' && strcmp(name, o->lease) != 0; /* 1: somebody else is there */
}

static int judge_index(void *arg, const char *name)
{
	return name[0] == 'f' && name[1] == '.' ? remember_dead(arg, name) : 0;
}

/* The agent stops in order: nothing of ours stays, as far as it can be done at
   once; of the index nothing, where nobody is left who could use it. */
static void leave(struct objects *o)
{
	bool can = can_remove(o);

	if (can)
		while (remove_some(o))
			;
	if (o->leased && o->nr_dying == 0 && atomic_load(&o->held_bytes) == 0) {
		if (can && o->ops->list(o->self, "", judge_last, o) == 0 &&
		    o->ops->list(o->self, "", judge_index, o) == 0)
			while (o->nr_dead && remove_dead(o))
				;
		o->ops->remove(o->self, o->lease);
	}
	for (size_t i = 0; i < o->nr_dead; i++)
		free(o->dead[i]);
	free(o->dead);
}

void *objects_keeper(void *arg)
{
	struct objects *o = arg;

	prctl(PR_SET_NAME, "uswap-objects");
	pthread_mutex_lock(&o->lock);
	while (!o->stop) {
		struct timespec ts;
		uint64_t until;
		bool more;

		pthread_mutex_unlock(&o->lock);
		more = turn(o);
		pthread_mutex_lock(&o->lock);
		if (more || o->stop)
			continue;
		until = now_ns() + MIN(o->pause_ns, TURN_NS);
		ts = (struct timespec){ .tv_sec = (time_t)(until / NSEC_PER_SEC),
					.tv_nsec = (long)(until % NSEC_PER_SEC) };
		pthread_cond_timedwait(&o->changed, &o->lock, &ts);
	}
	pthread_mutex_unlock(&o->lock);
	leave(o);
	pthread_mutex_lock(&o->lock);
	o->ended = true;
	pthread_cond_broadcast(&o->changed);
	pthread_mutex_unlock(&o->lock);
	return NULL;
}
