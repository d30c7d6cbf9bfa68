/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "proc/record.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "common/layout.h"
#include "common/util.h"
#include "proc/session.h"

#define LIST_BYTES ((size_t)RECORD_RANGES * sizeof(struct range))
#define FIXED_BYTES ((sizeof(struct record) + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1))
#define STRIDE (FIXED_BYTES + 2 * LIST_BYTES)
#define RANGES_PER_PAGE ((uint32_t)(PAGE_BYTES / sizeof(struct range)))

_Static_assert(FIXED_BYTES == 8192, "where the next record is, of every version that is read");
_Static_assert(SESSION_WAITING_MAX == RECORD_WAITING, "all that can wait are kept");
_Static_assert(sizeof(struct session_counters) <= RECORD_COUNTERS * sizeof(uint64_t), "all of them are kept");

/* What sessions that are over have counted, all together. */
struct sums {
	uint64_t last; /* the session that was added last */
	uint64_t counters[RECORD_COUNTERS];
};

/* The table's own words. */
struct words {
	_Atomic uint32_t top; /* records from here on were never used */
	/* since version 5 */
	_Atomic uint32_t now; /* which of these is good: a new one is written whole, then named */
	struct sums sums[2];
	_Atomic uint32_t forks; /* since version 6: names given to fork children's descriptors */
	_Atomic uint64_t last_id; /* since version 7: the highest of sessions that are over */
};
_Static_assert(sizeof(struct words) <= KEPT_OWN, "in the header");

static struct words *words(const struct record_table *table)
{
	return table->kept.own;
}

static struct record *at(const struct record_table *table, uint32_t i)
{
	return (struct record *)(void *)((char *)table->kept.base + i * STRIDE);
}

int record_table_open(struct record_table *table)
{
	int r = kept_open_since(&table->kept, "sessions", RECORDS_MAX * STRIDE, LAYOUT_SESSIONS_OLDEST,
				LAYOUT_SESSIONS);

	if (r < 0)
		return r;
	pthread_mutex_init(&table->lock, NULL);
	table->hint = 0;
	/* Taken by a worker that died before it had anything to say there. */
	for (uint32_t i = 0; i < MIN(words(table)->top, RECORDS_MAX); i++)
		if (!at(table, i)->id)
			at(table, i)->taken = 0;
	return 0;
}

void record_table_close(struct record_table *table)
{
	if (!table->kept.base)
		return;
	pthread_mutex_destroy(&table->lock);
	kept_close(&table->kept);
}

static struct range *list_of(const struct record *record, uint32_t list)
{
	return (struct range *)(void *)((char *)(uintptr_t)record + FIXED_BYTES + list * LIST_BYTES);
}

unsigned record_index(const struct record_table *table, const struct record *record)
{
	return (unsigned)((size_t)((const char *)record - (const char *)table->kept.base) / STRIDE);
}

struct record *record_at(const struct record_table *table, uint32_t i)
{
	return i < words(table)->top ? at(table, i) : NULL;
}

/* Memory for lists of nr ranges, each. */
static int back_lists(const struct record_table *table, struct record *record, uint32_t nr)
{
	uint32_t want = MIN((nr + RANGES_PER_PAGE - 1) / RANGES_PER_PAGE * RANGES_PER_PAGE, RECORD_RANGES);
	size_t base = record_index(table, record) * STRIDE + FIXED_BYTES;
	int r = 0;

	if (want <= record->backed)
		return 0;
	for (uint32_t list = 0; r == 0 && list < 2; list++)
		r = kept_back(&table->kept, base + list * LIST_BYTES, want * sizeof(struct range));
	if (r == 0)
		record->backed = want;
	return r;
}

static struct record *take_locked(struct record_table *table)
{
	uint32_t top = words(table)->top;
	struct record *record;

	for (uint32_t i = 0; i < top; i++) {
		record = at(table, (table->hint + i) % top);
		if (!record->taken) {
			table->hint = record_index(table, record) + 1;
			return record;
		}
	}
	if (top == RECORDS_MAX)
		return NULL;
	record = at(table, top);
	if (kept_back(&table->kept, top * STRIDE, FIXED_BYTES) < 0)
		return NULL;
	atomic_store_explicit(&words(table)->top, top + 1, memory_order_release);
	return record;
}

struct record *record_new(struct record_table *table)
{
	struct record *record;
	uint32_t backed;

	pthread_mutex_lock(&table->lock);
	record = take_locked(table);
	if (record) {
		backed = record->backed;
		memset(record, 0, sizeof(*record));
		record->backed = backed;
		record->taken = 1;
		if (back_lists(table, record, 1) < 0) {
			record->taken = 0;
			record = NULL;
		}
	}
	pthread_mutex_unlock(&table->lock);
	return record;
}

void record_publish(struct record *record, uint64_t id)
{
	atomic_store_explicit(&record->id, id, memory_order_release);
}

void record_free(struct record_table *table, struct record *record)
{
	size_t base = record_index(table, record) * STRIDE + FIXED_BYTES;

	pthread_mutex_lock(&table->lock);
	if (record->id > words(table)->last_id)
		atomic_store(&words(table)->last_id, record->id);
	atomic_store_explicit(&record->id, 0, memory_order_release);
	record->backed = 0;
	record->taken = 0;
	kept_give_back(&table->kept, base, 2 * LIST_BYTES);
	table->hint = record_index(table, record);
	pthread_mutex_unlock(&table->lock);
}

uint64_t record_last_id(const struct record_table *table)
{
	uint64_t last = words(table)->last_id;
	struct record *record;

	for (uint32_t i = 0; (record = record_next(table, &i));)
		last = MAX(last, record->id);
	return last;
}

unsigned record_name_fork(struct record_table *table)
{
	unsigned name = atomic_fetch_add(&words(table)->forks, 1) + 1;

	return name ? name : record_name_fork(table);
}

struct record *record_next(const struct record_table *table, uint32_t *i)
{
	uint32_t top = MIN(words(table)->top, RECORDS_MAX);

	while (*i < top) {
		struct record *record = at(table, (*i)++);

		if (record->id)
			return record;
	}
	return NULL;
}

bool record_knows_uffd(const struct record_table *table, int fd)
{
	uint32_t i = 0;
	struct record *record;

	while ((record = record_next(table, &i)))
		if (record->fds[RECORD_UFFD] == fd + 1)
			return true;
	return false;
}

void record_set_fds(struct record *record, const struct session *s)
{
	const int fds[RECORD_FDS] = {
		[RECORD_UFFD] = s->fds.uffd,	   [RECORD_MEM] = s->fds.mem,
		[RECORD_PAGEMAP] = s->fds.pagemap, [RECORD_MOVER] = s->fds.mover,
		[RECORD_GATE] = s->fds.gate,	   [RECORD_GATE_EVENT] = s->fds.gate_event,
		[RECORD_PIDFD] = s->fds.pidfd,	   [RECORD_MAPS] = s->fds.maps,
		[RECORD_SMAPS] = s->fds.smaps,	   [RECORD_STATM] = s->fds.statm,
		[RECORD_TASKS] = s->fds.tasks,
	};

	for (unsigned i = 0; i < RECORD_FDS; i++)
		atomic_store_explicit(&record->fds[i], fds[i] + 1, memory_order_relaxed);
}

void record_introduce(struct session *s)
{
	struct record *record = s->record;

	if (!record)
		return;
	record_set_fds(record, s);
	record->pid = s->pid;
	record->started = session_started(s->pid);
	record->transit = s->transit;
	record->token = s->token;
	record->attach = s->attach;
	atomic_store_explicit(&record->introduced, 1, memory_order_release);
}

/* ---- counters ---- */

/* Those of what is there now; it is counted anew. */
#define GAUGES 2
_Static_assert(offsetof(struct session_counters, pages_out_total) == GAUGES * sizeof(uint64_t), "the first ones");

/* An older agent's build, in the tests, has no place for them. */
#define HAS_COUNTERS (LAYOUT_SESSIONS >= 5)

static unsigned nr_counters(void)
{
	return sizeof(struct session_counters) / sizeof(uint64_t);
}

static _Atomic uint64_t *counters_of(struct session *s)
{
	return (_Atomic uint64_t *)(void *)&s->counters;
}

void record_keep_counters(struct session *s)
{
	struct record *record = s->record;

	if (!HAS_COUNTERS || !record || record->summed)
		return;
	for (unsigned i = GAUGES; i < nr_counters(); i++)
		record->counters[i] = counter_get(&counters_of(s)[i]);
}

void record_sum_counters(struct record_table *table, struct session *s)
{
	struct words *w = words(table);
	const struct sums *old = &w->sums[w->now & 1];
	struct sums *new = &w->sums[!(w->now & 1)];

	if (!HAS_COUNTERS || (s->record && s->record->summed))
		return;
	new->last = s->id;
	for (unsigned i = GAUGES; i < nr_counters(); i++)
		new->counters[i] = old->counters[i] + counter_get(&counters_of(s)[i]);
	atomic_store_explicit(&w->now, !(w->now & 1), memory_order_release);
	/* A worker that finds it between these two knows it by its id. */
	if (s->record)
		s->record->summed = 1;
}

const struct session_counters *record_sums(const struct record_table *table)
{
	const struct words *w = words(table);

	return (const struct session_counters *)(const void *)w->sums[w->now & 1].counters;
}

static void load_counters(struct session *s, struct record *record)
{
	const struct words *w = words(s->records);

	if (w->sums[w->now & 1].last == record->id)
		record->summed = 1;
	for (unsigned i = GAUGES; HAS_COUNTERS && !record->summed && i < nr_counters(); i++)
		atomic_init(&counters_of(s)[i], record->counters[i]);
}

/* ---- events ---- */

static uint32_t copy_bag(struct range *to, const struct ranges *from, uint32_t max, bool *lost)
{
	uint32_t nr = (uint32_t)MIN(from->nr, (size_t)max);

	*lost |= nr < from->nr;
	if (nr)
		memcpy(to, from->v, nr * sizeof(*to));
	return nr;
}

void record_commit(struct session *s, uint64_t applied)
{
	struct record *record = s->record;
	const struct record_state *old;
	struct record_state *new;
	uint32_t next;
	bool lost = false;

	if (!record)
		return;
	next = !record->now;
	old = &record->states[!next];
	new = &record->states[next];
	new->applied = applied ? applied : old->applied;
	new->commits = old->commits + 1;
	new->generation = s->generation;
	new->list = old->list;
	new->nr_registered = old->nr_registered;
	if (s->registered.changes != s->registered_kept) {
		uint32_t nr = (uint32_t)MIN(s->registered.nr, (size_t)RECORD_RANGES);

		if (back_lists(s->records, record, nr) < 0)
			nr = MIN(nr, record->backed);
		new->list = !old->list;
		new->nr_registered = copy_bag(list_of(record, new->list), &s->registered, nr, &lost);
		s->registered_kept = s->registered.changes;
	}
	new->nr_vacated = copy_bag(new->vacated, &s->vacated, RECORD_BAG, &lost);
	new->nr_waiting = s->nr_waiting;
	memcpy(new->waiting, s->waiting, s->nr_waiting * sizeof(s->waiting[0]));
	/* What could not be noted in full: nothing leaves this process any more,
	   so that nothing depends on it. */
	s->barred |= lost;
	new->barred = s->barred;
	atomic_store_explicit(&record->now, next, memory_order_release);
}

void record_note(struct session *s, unsigned i, unsigned phase)
{
	struct record *record = s->record;

	if (record)
		atomic_store_explicit(&record->note,
				      record->states[record->now].commits << 8 | i << 2 | phase,
				      memory_order_release);
}

unsigned record_noted(const struct record *record, unsigned *i)
{
	const struct record_state *now = &record->states[record->now & 1];
	uint64_t note = record->note;

	*i = (unsigned)(note >> 2) & 63;
	return note >> 8 == now->commits && *i < now->nr_waiting ? (unsigned)note & 3 : 0;
}

static int load_ranges(struct ranges *to, const struct range *from, uint32_t nr)
{
	for (uint32_t i = 0; i < nr; i++)
		if (ranges_add(to, from[i].start, from[i].end) < 0)
			return -ENOMEM;
	return 0;
}

static int load_bag(struct ranges *to, const struct range *from, uint32_t nr)
{
	for (uint32_t i = 0; i < nr; i++)
		if (ranges_bag_add(to, from[i].start, from[i].end) < 0)
			return -ENOMEM;
	return 0;
}

static void load_constants(struct session *s, const struct record *record)
{
	const _Atomic int32_t *fds = record->fds;

	s->parent_pid = record->parent_pid;
	s->nonce = record->nonce;
	s->identity = record->identity;
	s->attached_ns = record->attached_ns;
	s->fds.uffd = fds[RECORD_UFFD] - 1;
	s->limit_bytes = record->limit_bytes;
	s->enabled = !record->disabled;
	s->detach = record->detach;
	s->blind = record->blind;
	s->marks = record->marks;
	if (!record->introduced)
		return;
	s->pid = record->pid;
	s->mover_pid = record->mover_pid;
	s->token = record->token;
	s->transit = record->transit;
	s->attach = record->attach;
	s->fds.mem = fds[RECORD_MEM] - 1;
	s->fds.pagemap = fds[RECORD_PAGEMAP] - 1;
	s->fds.mover = fds[RECORD_MOVER] - 1;
	s->fds.gate = fds[RECORD_GATE] - 1;
	s->fds.gate_event = fds[RECORD_GATE_EVENT] - 1;
	s->fds.pidfd = fds[RECORD_PIDFD] - 1;
	s->fds.maps = fds[RECORD_MAPS] - 1;
	s->fds.smaps = fds[RECORD_SMAPS] - 1;
	s->fds.statm = fds[RECORD_STATM] - 1;
	s->fds.tasks = fds[RECORD_TASKS] - 1;
}

int record_load(struct session *s, struct record *record)
{
	const struct record_state *now = &record->states[record->now & 1];
	uint32_t nr = MIN(now->nr_registered, RECORD_RANGES);
	int r;

	load_constants(s, record);
	load_counters(s, record);
	s->generation = now->generation;
	s->seq = session_first_seq(now->generation);
	s->barred = now->barred;
	s->nr_waiting = MIN(now->nr_waiting, RECORD_WAITING);
	memcpy(s->waiting, now->waiting, s->nr_waiting * sizeof(s->waiting[0]));
	r = load_ranges(&s->registered, list_of(record, now->list & 1), nr);
	if (r == 0)
		r = load_bag(&s->vacated, now->vacated, MIN(now->nr_vacated, RECORD_BAG));
	s->registered_kept = s->registered.changes;
	return r;
}
