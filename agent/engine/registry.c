/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The list of sessions, what becomes of them, and their figures. */
#include "engine/private.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "common/inject.h"
#include "common/log.h"
#include "common/util.h"

#define BUSY_NS (30 * NSEC_PER_SEC)
#define MOVER_HANGS "its mover hangs in the kernel, and it waits; with the mover killed it goes on, and is let go"
#define FULL_LOG_NS (60 * NSEC_PER_SEC) /* said at most so often */

void registry_add(struct engine *e, struct session *s)
{
	s->next = e->sessions;
	e->sessions = s;
	e->nr_sessions++;
	if (s->introduced)
		session_read_names(s);
	if (e->news.process_new)
		e->news.process_new(e->news.ctx, s->id);
}

struct session *registry_find(struct engine *e, uint64_t id)
{
	struct session *s = e->sessions;

	while (s && s->id != id)
		s = s->next;
	return s;
}

static void add_totals(struct engine_counters *sum, const struct session_counters *c)
{
	sum->pages_out_total += counter_get(&c->pages_out_total);
	sum->pages_in_total += counter_get(&c->pages_in_total);
	sum->faults_total += counter_get(&c->faults_total);
	sum->refaults_total += counter_get(&c->refaults_total);
	sum->major_total += counter_get(&c->major_total);
	sum->zero_total += counter_get(&c->zero_total);
	sum->duplicate_pages_total += counter_get(&c->duplicate_total);
	sum->incompressible_total += counter_get(&c->incompressible_total);
	sum->prefetched_total += counter_get(&c->prefetched_total);
	sum->prefetch_used_total += counter_get(&c->prefetch_used_total);
	sum->helped_total += counter_get(&c->helped_total);
	sum->unpack_ns_total += counter_get(&c->unpack_ns_total);
	sum->busy_total += counter_get(&c->busy_total);
	sum->poisoned_total += counter_get(&c->poisoned_total);
	sum->stall_ns_total += counter_get(&c->stall_ns_total);
	for (unsigned i = 0; i < ENGINE_LATENCY_BUCKETS; i++)
		sum->latency[i] += counter_get(&c->latency[i]);
}

/* What has been told of it is kept: at the end, so that it is no less. */
static void add_counters(struct engine_counters *sum, struct session *s)
{
	sum->resident_bytes += s->introduced ? session_read_resident(s, NULL) : 0;
	sum->registered_bytes += counter_get(&s->counters.registered_bytes);
	sum->evicted_bytes += session_evicted_pages(s) << PAGE_SHIFT;
	sum->staged_bytes += counter_get(&s->slots.count[SLOT_STAGED]) << PAGE_SHIFT;
	sum->fill_bytes += counter_get(&s->slots.count[SLOT_FILL]) << PAGE_SHIFT;
	sum->stored_bytes += counter_get(&s->counters.stored_bytes);
	add_totals(sum, &s->counters);
	record_keep_counters(s);
}

static void report_lost(struct session *s)
{
	uint64_t lost = counter_get(&s->counters.poisoned_total);

	if (lost == s->poisoned_logged)
		return;
	log_error("process %d (%s): %llu pages are lost, it gets SIGBUS there: %s", s->introduced ? (int)s->pid : 0,
		  s->command, (unsigned long long)(lost - s->poisoned_logged), s->lost_why);
	s->poisoned_logged = lost;
}

static void report_hanging(struct session *s)
{
	static struct log_limit limit; /* a peer may say so of itself, as often as it likes */

	if (s->mover_hangs && !s->hang_logged)
		log_limited(&limit, LOG_LEVEL_WARNING, "process %d (%s, uid %u): " MOVER_HANGS,
			    s->introduced ? (int)s->pid : 0, s->command, (unsigned)s->uid);
	s->hang_logged = s->mover_hangs;
}

void registry_report(struct engine *e, uint64_t now)
{
	for (struct session *s = e->sessions; s; s = s->next) {
		uint64_t full = s->store_full_ns;

		report_lost(s);
		report_hanging(s);
		if (full <= e->full_logged_ns || (e->full_logged_ns && now - e->full_logged_ns < FULL_LOG_NS))
			continue;
		log_warning("Store=%s: no room for pages of process %d (%s, uid %u): the store is full, or "
			    "the user or process is at its limit; they stay resident",
			    e->settings.store, s->introduced ? (int)s->pid : 0, s->command, s->uid);
		e->full_logged_ns = now;
	}
}

/* It runs on, and nothing of it is listed any more that would say why it is not served. */
static void report_left(const struct session *s)
{
	static struct log_limit limit; /* anybody can have that said of himself */
	struct pollfd pidfd = { .fd = s->fds.pidfd, .events = POLLIN };

	if (s->introduced && *s->reason && poll(&pidfd, 1, 0) == 0)
		log_limited(&limit, LOG_LEVEL_INFO, "process %d (%s) is left alone from now on: %s", (int)s->pid,
			    s->command, s->reason);
}

static void unlist(struct engine *e, struct session *s)
{
	struct session **at;

	for (at = &e->sessions; *at != s; at = &(*at)->next)
		;
	*at = s->next;
	e->nr_sessions--;
	report_lost(s);
	report_left(s);
	record_sum_counters(&e->records, s);
	assert(session_evicted_pages(s) == 0 && counter_get(&s->counters.stored_bytes) == 0); /* INV-8 */
	log_debug("process %d (session %llu) is gone", s->introduced ? (int)s->pid : 0, (unsigned long long)s->id);
	if (e->news.process_gone)
		e->news.process_gone(e->news.ctx, s->id);
}

static bool are_safe(struct engine *e)
{
	return !e->news.sync_fds || e->news.sync_fds(e->news.ctx);
}

/* Those that are there from before are only counted. The record says that one is when it
   surely is: what was sent by a worker that died then may not have been taken. */
int engine_keep_fds(struct engine *e, struct session *s)
{
	uint32_t given = 0;
	int r = 0;

	if (!e->news.keep_fd || !s->record)
		return 0;
	for (unsigned i = 0; r == 0 && ENGINE_KEPT_KINDS[i]; i++) {
		int fd = s->record->fds[i] - 1;
		bool there = s->record->stored >> i & 1;
		unsigned number;
		char kind = descriptors_name(s->records, s->record, i, &number);

		if (fd < 0 || s->kept_kinds >> i & 1)
			continue;
		r = e->news.keep_fd(e->news.ctx, s->keeper, kind, number, there ? -1 : fd);
		if (r < 0)
			break;
		given |= (uint32_t)!there << i;
		s->kept_kinds |= 1u << i;
	}
	if (given && are_safe(e))
		atomic_fetch_or(&s->record->stored, given);
	return r;
}

/* Fork children's were given away without waiting. */
static void settle_kept(struct engine *e)
{
	bool all = true;

	for (const struct session *s = e->sessions; s; s = s->next)
		all &= !s->record || !(s->kept_kinds & ~s->record->stored);
	if (all || now_ns() < e->safe_due_ns)
		return;
	if (!are_safe(e)) { /* it is busy, and this thread has waited for it */
		e->safe_due_ns = now_ns() + BUSY_NS;
		return;
	}
	for (struct session *s = e->sessions; s; s = s->next)
		if (s->record)
			atomic_fetch_or(&s->record->stored, s->kept_kinds);
}

bool registry_keep_fork(void *ctx, const struct session *parent, unsigned name, int uffd)
{
	const struct engine *e = ctx;

	return !inject_is(INJECT_BUSY) && e->news.keep_fd_now &&
	       e->news.keep_fd_now(e->news.ctx, parent->keeper, ENGINE_KEPT_FORK, name, uffd) == 0;
}

void engine_forget_fds(struct engine *e, struct session *s)
{
	for (unsigned i = 0; e->news.forget_fd && s->record && ENGINE_KEPT_KINDS[i]; i++) {
		unsigned number;
		char kind = descriptors_name(s->records, s->record, i, &number);

		if (s->kept_kinds >> i & 1)
			e->news.forget_fd(e->news.ctx, s->keeper, kind, number);
	}
}

static void bury(struct engine *e, struct session *s)
{
	engine_forget_fds(e, s);
	domains_leave(e, s);
	session_free(s);
	e->nr_ending--;
}

/* A fork child that came by an event; in its parent's domain and family. */
static void add_forked(struct engine *e, struct session *s)
{
	s->store_max = e->process_max;
	if (engine_keep_fds(e, s) < 0 && now_ns() >= e->unkept_due_ns) {
		log_error("the descriptor of a child of process %d has no room in the service manager's "
			  "store: it is lost if the whole agent is killed", (int)s->parent_pid);
		e->unkept_due_ns = now_ns() + FULL_LOG_NS;
	}
	registry_add(e, s);
	if (e->draining)
		notice_send(&session_owner(s)->box, &s->to_owner, SESSION_OWN_DETACH);
}

void registry_notice(struct engine *e, struct session *s)
{
	uint32_t bits = notice_take(&s->to_engine);

	if (bits & SESSION_NEWS_FORKED)
		add_forked(e, s);
	if (bits & SESSION_NEWS_ADOPTED)
		attach_adopted(e, s);
	if (bits & SESSION_NEWS_STATE && e->news.process_changed)
		e->news.process_changed(e->news.ctx, s->id);
	if (bits & SESSION_NEWS_USER)
		domains_part(e, s);
	if (bits & SESSION_NEWS_ENDED) {
		unlist(e, s);
		e->nr_ending++;
		notice_send(&session_owner(s)->box, &s->to_owner, SESSION_OWN_BURY);
	}
	if (bits & SESSION_NEWS_BURIED)
		bury(e, s);
}

static enum engine_process_state state_of(const struct session *s)
{
	switch (session_state(s)) {
	case SESSION_SERVED:
		return ENGINE_PROCESS_SERVED;
	case SESSION_ACTIVE:
		return s->enabled ? ENGINE_PROCESS_ACTIVE : ENGINE_PROCESS_PAUSED;
	case SESSION_RESTORING:
		return ENGINE_PROCESS_RESTORING;
	default:
		return ENGINE_PROCESS_LEFT;
	}
}

static void describe(struct engine *e, struct session *s, struct engine_process *p)
{
	*p = (struct engine_process){
		.id = s->id,
		.pid = s->introduced ? s->pid : 0,
		.uid = s->uid,
		.parent_session_pid = s->parent_pid,
		.attached_ns = s->attached_ns,
		.state = state_of(s),
		.reason = s->reason,
		.limit_bytes = s->limit_bytes ? s->limit_bytes : e->settings.policy.limit_bytes,
	};
	if (p->state == ENGINE_PROCESS_SERVED && !*p->reason)
		p->reason = "forked, without a mover of its own";
	if (p->state == ENGINE_PROCESS_ACTIVE && !*p->reason && s->barred)
		p->reason = "nothing leaves it any more: it has dropped or moved more memory than can be noted";
	if (p->state <= ENGINE_PROCESS_RESTORING && s->mover_hangs)
		p->reason = MOVER_HANGS;
	memcpy(p->command, s->command, sizeof(p->command));
	memcpy(p->cgroup, s->cgroup, sizeof(p->cgroup));
	add_counters(&p->counters, s);
}

size_t engine_get_processes(struct engine *e, struct engine_process *v, size_t n)
{
	size_t i = e->nr_sessions;

	/* The list has the newest first, callers get the oldest first. */
	for (struct session *s = e->sessions; s; s = s->next)
		if (--i < n)
			describe(e, s, &v[i]);
	return e->nr_sessions;
}

int engine_get_process(struct engine *e, uint64_t id, struct engine_process *process)
{
	struct session *s = registry_find(e, id);

	if (!s)
		return -ESRCH;
	if (s->introduced)
		session_read_names(s);
	describe(e, s, process);
	return 0;
}

int engine_find_pid(struct engine *e, pid_t pid, uint64_t *id)
{
	for (struct session *s = e->sessions; s; s = s->next)
		if (s->introduced && s->pid == pid) {
			*id = s->id;
			return 0;
		}
	return -ESRCH;
}

static void add_tier(const struct blobstore_tier *t, struct engine_tier *tier)
{
	const struct store_stats *st = &t->store;

	*tier = (struct engine_tier){
		.name = t->name,
		.state = t->degraded && t->status.state == STORE_UP ? "degraded" :
								    store_state_name(t->status.state),
		.capacity_bytes = st->capacity_bytes,
		.used_bytes = st->used_bytes,
		.live_bytes = t->live_bytes,
		.dead_bytes = t->dead_bytes,
		.segments = st->segments,
		.written_bytes_total = st->written_bytes_total,
		.read_bytes_total = st->read_bytes_total,
		.reads_pending = st->reads_pending,
		.writes_pending = st->writes_pending,
		.oldest_read_ns = t->status.oldest_read_ns,
		.read_p50_ns = store_latency_quantile_ns(&st->read, 0.5),
		.read_p99_ns = store_latency_quantile_ns(&st->read, 0.99),
		.write_p50_ns = store_latency_quantile_ns(&st->write, 0.5),
		.write_p99_ns = store_latency_quantile_ns(&st->write, 0.99),
		.errors_total = st->errors_total,
		.io_errors_total = st->error_total[STORE_ERROR_IO],
		.timeouts_total = st->error_total[STORE_ERROR_TIMEOUT],
		.access_errors_total = st->error_total[STORE_ERROR_ACCESS],
		.missing_total = st->error_total[STORE_ERROR_MISSING],
		.misuse_total = st->error_total[STORE_ERROR_MISUSE],
		.full_total = st->error_total[STORE_ERROR_SPACE],
		.corrupt_total = t->corrupt_total,
		.moved_in_bytes_total = t->moved_in_bytes_total,
		.collected_bytes_total = t->collected_bytes_total,
		.borrowed_bytes = t->borrowed_bytes,
		.borrowed_pages_total = t->borrowed_pages_total,
		.lookups_total = t->lookups_total,
		.lookup_misses_total = t->lookup_misses_total,
		.daily_left_bytes = t->daily_left_bytes,
	};
	snprintf(tier->reason, sizeof(tier->reason), "%s", t->reason);
}

static void add_store_stats(struct engine *e, struct engine_stats *stats)
{
	struct blobstore_stats bs;

	blobstore_get_stats(e->flow.blobstore, &bs);
	stats->store = store_name(e->stores[0]);
	stats->store_capacity_bytes = bs.store.capacity_bytes;
	stats->store_used_bytes = bs.store.used_bytes;
	stats->store_live_bytes = bs.live_bytes;
	stats->store_blobs = bs.blobs;
	for (unsigned i = 0; i < MIN(bs.nr_tiers, (unsigned)ENGINE_TIERS); i++) {
		add_tier(&bs.tier[i], &stats->tiers[stats->nr_tiers++]);
		stats->store_errors_total += bs.tier[i].store.errors_total;
	}
	stats->staging_bytes = staging_resident_bytes(e->flow.staging);
	stats->metadata_bytes = bs.metadata_bytes;
	stats->pack_ns_total = e->flow.pack_ns;
	stats->packed_total = e->flow.packed;
	stats->plain_total = bs.encodings.plain_pages;
	stats->dictionary_total = bs.encodings.dict_pages;
	stats->dictionary_saved_bytes = (uint64_t)MAX(bs.encodings.dict_saved_bytes, 0);
	stats->dictionaries = bs.dicts;
	stats->delta_total = bs.encodings.delta_pages;
	stats->delta_bytes_total = bs.encodings.delta_bytes;
	stats->clustered_total = bs.encodings.cluster_pages;
	stats->clustered_bytes_total = bs.encodings.cluster_bytes;
	stats->raw_total = bs.encodings.raw_pages;
	stats->raw_bytes = bs.raw_bytes;
	stats->recompressed_total = bs.encodings.cold_pages;
	stats->recompress_saved_bytes = bs.encodings.cold_saved_bytes;
	stats->recompress_ns_total = bs.recompress_ns_total;
	stats->compacted_bytes_total = bs.compacted_bytes_total;
	stats->collect_ns_total = bs.collect_ns_total;
	stats->promoted_bytes_total = bs.promoted_bytes_total;
	stats->dictionaries_trained_total = bs.encodings.dicts_trained;
	stats->dictionaries_retired_total = bs.encodings.dicts_retired;
	stats->duplicate_missed_total = bs.duplicate_missed_total;
	stats->duplicate_passed_total = bs.duplicate_passed_total;
	for (unsigned i = 0; i < e->nr_owners; i++)
		stats->metadata_bytes += slot_pool_bytes(e->owners[i].owner.slots);
	stats->held_bytes = stats->store_used_bytes + stats->staging_bytes + stats->metadata_bytes;
}

void registry_keep(struct engine *e)
{
	struct engine_stats stats = { .attach_refused_total = e->attach_refused };

	for (struct session *s = e->sessions; s; s = s->next)
		record_keep_counters(s);
	settle_kept(e);
	add_store_stats(e, &stats);
	totals_add(e, &stats);
}

void engine_get_stats(struct engine *e, struct engine_stats *stats)
{
	*stats = (struct engine_stats){
		.nr_processes = e->nr_sessions,
		.eviction_enabled = e->enabled,
		.dedup_domain = settings_dedup_name(e->settings.dedup_domain),
		.attach_refused_total = e->attach_refused,
	};
	add_totals(&stats->counters, record_sums(&e->records));
	for (struct session *s = e->sessions; s; s = s->next)
		add_counters(&stats->counters, s);
	add_store_stats(e, stats);
	totals_add(e, stats);
}
