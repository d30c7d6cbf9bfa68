/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * NOT the engine: a stand-in with made-up numbers, for testing the control
 * layer's marshalling alone. It evicts nothing and keeps no memory.
 *
 * Whoever connects to the attach socket becomes a "process" until it hangs up.
 * Its counters are multiples of small primes, so that a test sees when two
 * properties are mixed up. Orders are answered from engine_dispatch, with
 * $FAKE_STATUS (a number, 0 by default).
 */
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "engine/engine.h"

#define MAX_PROCESSES 256
#define MAX_ORDERS 64

struct fake_order {
	engine_done_fn done;
	void *arg;
	uint64_t bytes;
};

struct engine {
	struct settings settings;
	struct engine_news news;
	int epoll, event;
	bool enabled, draining;
	uint64_t last_id;
	struct engine_process process[MAX_PROCESSES];
	int fd[MAX_PROCESSES];
	size_t n;
	struct fake_order order[MAX_ORDERS];
	size_t orders;
	engine_verified_fn verified;
	void *verified_arg;
};

uint64_t engine_latency_bound_ns(unsigned bucket)
{
	static const double steps[] = { 1, 1.189207, 1.414214, 1.681793 };

	return (uint64_t)(250.0 * steps[bucket % 4] * (double)(1ull << (bucket / 4)));
}

void engine_close_strays(void)
{
}

bool engine_starts_anew(const struct settings *settings)
{
	(void)settings;
	return false;
}

bool engine_check_key(const struct settings *settings, char *message)
{
	return true;
}

struct engine *engine_new(const struct settings *settings, const struct engine_news *news)
{
	struct engine *e = calloc(1, sizeof(*e));
	struct epoll_event ev = { .events = EPOLLIN };

	assert(e);
	e->settings = *settings;
	e->news = *news;
	e->enabled = true;
	e->epoll = epoll_create1(EPOLL_CLOEXEC);
	e->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ev.data.u64 = 0;
	epoll_ctl(e->epoll, EPOLL_CTL_ADD, e->event, &ev);
	fprintf(stderr, "fake engine: a test runs, no memory is moved\n");
	return e;
}

struct engine *engine_free(struct engine *e)
{
	if (!e)
		return NULL;
	for (size_t i = 0; i < e->n; i++)
		close(e->fd[i]);
	close(e->epoll);
	close(e->event);
	free(e);
	return NULL;
}

int engine_fd(const struct engine *e)
{
	return e->epoll;
}

static void kick(struct engine *e)
{
	uint64_t one = 1;

	assert(write(e->event, &one, sizeof(one)) == sizeof(one));
}

static void fill(struct engine_process *p, pid_t pid, uid_t uid, uint64_t id)
{
	struct engine_counters *c = &p->counters;

	*p = (struct engine_process){ .id = id, .pid = pid, .uid = uid, .attached_ns = 123456000,
				      .state = ENGINE_PROCESS_ACTIVE, .reason = "" };
	/* a name that isn't UTF-8: programs may have one */
	snprintf(p->command, sizeof(p->command), "fake\xff\n%d", (int)pid);
	snprintf(p->cgroup, sizeof(p->cgroup), "%s",
		 "/fake.slice/a-service-with-a-name-that-has-no-room-in-a-column-of-sixty-characters.service");
	*c = (struct engine_counters){ .resident_bytes = 4096 * 2, .registered_bytes = 4096 * 3,
				       .evicted_bytes = 4096 * 500, .staged_bytes = 4096 * 7,
				       .fill_bytes = 4096 * 50, .stored_bytes = 13 * 10000,
				       .pages_out_total = 17, .pages_in_total = 19,
				       .faults_total = 23, .refaults_total = 29,
				       .major_total = 31, .zero_total = 37,
				       .duplicate_pages_total = 4, .incompressible_total = 43,
				       .prefetched_total = 61, .prefetch_used_total = 67, .helped_total = 73,
				       .unpack_ns_total = 71000, .busy_total = 47, .poisoned_total = 53,
				       .stall_ns_total = 59000 };
	c->latency[20] = 98; /* 8 us */
	c->latency[28] = 2;  /* 32 us */
}

void engine_attach(struct engine *e, int connection)
{
	struct epoll_event ev = { .events = EPOLLHUP };
	struct ucred cred;
	socklen_t size = sizeof(cred);

	if (e->n == MAX_PROCESSES ||
	    getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &cred, &size) < 0) {
		close(connection);
		return;
	}
	ev.data.u64 = ++e->last_id;
	epoll_ctl(e->epoll, EPOLL_CTL_ADD, connection, &ev);
	fill(&e->process[e->n], cred.pid, cred.uid, e->last_id);
	e->process[e->n].limit_bytes = e->settings.policy.limit_bytes;
	e->fd[e->n++] = connection;
	e->news.process_new(e->news.ctx, e->last_id);
}

static size_t find(const struct engine *e, uint64_t id)
{
	size_t i = 0;

	while (i < e->n && e->process[i].id != id)
		i++;
	return i;
}

static void gone(struct engine *e, uint64_t id)
{
	size_t i = find(e, id);

	if (i == e->n)
		return;
	close(e->fd[i]);
	e->n--;
	memmove(&e->process[i], &e->process[i + 1], (e->n - i) * sizeof(e->process[0]));
	memmove(&e->fd[i], &e->fd[i + 1], (e->n - i) * sizeof(e->fd[0]));
	e->news.process_gone(e->news.ctx, id);
}

static void finish_orders(struct engine *e)
{
	const char *status = getenv("FAKE_STATUS");
	int value = status ? -abs(atoi(status)) : 0;
	struct fake_order o;

	while (e->orders) {
		o = e->order[--e->orders];
		o.done(o.arg, value, o.bytes);
	}
}

void engine_dispatch(struct engine *e)
{
	struct epoll_event ev[8];
	uint64_t count;
	int n = epoll_wait(e->epoll, ev, 8, 0);

	for (int i = 0; i < n; i++)
		if (ev[i].data.u64)
			gone(e, ev[i].data.u64);
		else if (read(e->event, &count, sizeof(count)) == sizeof(count))
			finish_orders(e);
	if (e->verified) {
		/* with eviction switched off some are damaged */
		struct engine_verified v = { .good = 401, .damaged = e->enabled ? 0 : 3, .unread = 5,
					     .unsettled = 409 };
		engine_verified_fn done = e->verified;

		e->verified = NULL;
		done(e->verified_arg, 0, &v);
	}
	if (e->draining) {
		while (e->n)
			gone(e, e->process[0].id);
		e->news.drained(e->news.ctx);
	}
}

void engine_get_stats(struct engine *e, struct engine_stats *s)
{
	*s = (struct engine_stats){ .nr_processes = (uint32_t)e->n, .eviction_enabled = e->enabled,
				    .dedup_domain = "cgroup", .store = "memory", .store_capacity_bytes = 4096 * 101,
				    .store_used_bytes = 4096 * 103, .store_live_bytes = 4096 * 107,
				    .store_blobs = 109, .staging_bytes = 4096 * 113,
				    .metadata_bytes = 127, .held_bytes = 4096 * 200 * e->n,
				    .pack_ns_total = 73000, .packed_total = 79, .plain_total = 83,
				    .dictionary_total = 89, .dictionary_saved_bytes = 97,
				    .dictionaries = 101, .delta_total = 103, .delta_bytes_total = 107,
				    .clustered_total = 367, .clustered_bytes_total = 373, .raw_total = 353, .raw_bytes = 359,
				    .recompressed_total = 149, .recompress_saved_bytes = 151,
				    .compacted_bytes_total = 157, .collect_ns_total = 163000,
				    .recompress_ns_total = 167000, .promoted_bytes_total = 173,
				    .dictionaries_trained_total = 179, .dictionaries_retired_total = 181,
				    .duplicate_missed_total = 191, .duplicate_passed_total = 193,
				    .store_errors_total = 137, .attach_refused_total = 139,
				    .tiers = { { .name = "memory", .state = "up",
						 .capacity_bytes = 4096 * 101 },
					       { .name = "rados", .state = "away",
						 .reason = "no answer", .capacity_bytes = 211,
						 .used_bytes = 223, .live_bytes = 227,
						 .dead_bytes = 229, .segments = 233,
						 .written_bytes_total = 239, .read_bytes_total = 241,
						 .reads_pending = 251, .writes_pending = 379, .oldest_read_ns = 257,
						 .read_p50_ns = 263, .read_p99_ns = 269,
						 .write_p50_ns = 271, .write_p99_ns = 277,
						 .errors_total = 281, .io_errors_total = 283,
						 .timeouts_total = 293, .access_errors_total = 307,
						 .missing_total = 311, .misuse_total = 313,
						 .full_total = 317, .corrupt_total = 331,
						 .moved_in_bytes_total = 337,
						 .collected_bytes_total = 47,
						 .borrowed_bytes = 373, .borrowed_pages_total = 367,
						 .lookups_total = 383, .lookup_misses_total = 389,
						 .daily_left_bytes = 349 } },
				    .nr_tiers = 2 };
	for (size_t i = 0; i < e->n; i++) {
		s->counters.evicted_bytes += e->process[i].counters.evicted_bytes;
		s->counters.stored_bytes += e->process[i].counters.stored_bytes;
		s->counters.staged_bytes += e->process[i].counters.staged_bytes;
		for (unsigned b = 0; b < ENGINE_LATENCY_BUCKETS; b++)
			s->counters.latency[b] += e->process[i].counters.latency[b];
	}
}

size_t engine_get_processes(struct engine *e, struct engine_process *v, size_t n)
{
	for (size_t i = 0; i < n && i < e->n; i++)
		v[i] = e->process[i];
	return e->n;
}

int engine_get_process(struct engine *e, uint64_t id, struct engine_process *process)
{
	size_t i = find(e, id);

	if (i == e->n)
		return -ESRCH;
	*process = e->process[i];
	return 0;
}

int engine_find_pid(struct engine *e, pid_t pid, uint64_t *id)
{
	for (size_t i = e->n; i-- > 0;)
		if (e->process[i].pid == pid) {
			*id = e->process[i].id;
			return 0;
		}
	return -ESRCH;
}

int engine_order(struct engine *e, enum engine_order order, uint64_t id, uint64_t bytes,
		 engine_done_fn done, void *arg)
{
	if (id && find(e, id) == e->n)
		return -ESRCH;
	if (e->draining)
		return -ECANCELED;
	if (e->orders == MAX_ORDERS)
		return -ENOMEM;
	e->order[e->orders++] = (struct fake_order){ done, arg,
						     order == ENGINE_EVICT && bytes ? bytes : 8192 };
	kick(e);
	return 0;
}

int engine_set_enabled(struct engine *e, uint64_t id, bool enabled)
{
	size_t i = find(e, id);

	if (id == 0) {
		e->enabled = enabled;
		return 0;
	}
	if (i == e->n)
		return -ESRCH;
	e->process[i].state = enabled ? ENGINE_PROCESS_ACTIVE : ENGINE_PROCESS_PAUSED;
	e->process[i].reason = enabled ? "" : "switched off";
	e->news.process_changed(e->news.ctx, id);
	return 0;
}

int engine_set_limit(struct engine *e, uint64_t id, uint64_t bytes)
{
	size_t i = find(e, id);

	if (i == e->n)
		return -ESRCH;
	e->process[i].limit_bytes = bytes;
	return 0;
}

void engine_reload(struct engine *e, const struct settings *settings)
{
	e->settings.policy = settings->policy;
}

void engine_get_drain_memory(struct engine *e, uint64_t *needed, uint64_t *available)
{
	(void)e;
	*needed = *available = 0;
}

int engine_verify(struct engine *e, engine_verified_fn done, void *arg)
{
	e->verified = done;
	e->verified_arg = arg;
	kick(e);
	return 0;
}

void engine_verify_forget(struct engine *e)
{
	e->verified = NULL;
}

void engine_drain(struct engine *e)
{
	e->draining = true;
	kick(e);
}

int engine_import_fds(struct engine_kept_fd *v, unsigned nr)
{
	(void)v;
	return nr ? -ENODATA : 0;
}

void engine_hand_over(engine_hand_fn hand)
{
	(void)hand;
}

bool engine_is_well(struct engine *e, uint64_t patience_ns)
{
	(void)e;
	return true;
}

void engine_expect_damage(void)
{
}
