/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The worker dies, between two actions or at a named point inside one
 * (common/inject.h), and the next one recovers: agent/engine/recover.c, as it is.
 *
 * What is left to it: kept memory (slots, blobs, segments, staging, domains, records,
 * the ring of events), the bytes of the store, the descriptors, and all that is the
 * kernel's, the workload's or the mover's, reports and orders under way included.
 * Everything else is the dead one's own: freed here without a look at it, where it
 * would be too much to leave lying about.
 *
 * In some scenarios the keeper dies with it. Then the descriptors are what the service
 * manager was given, by the worker or at last by the holder, under other numbers
 * (agent/engine/descriptors.c).
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "agent.h"
#include "common/inject.h"
#include "common/log.h"
#include "flow/blobstore.h"
#include "page/domain.h"

static struct inject_words points; /* its content does not matter: see __wrap_inject_hit */
static jmp_buf death;
static unsigned left; /* points to be passed yet; 0: it lives on */

/* ThreadSanitizer's. A worker may die with a lock in its hands, which goes with it. */
const char *__tsan_default_options(void);

const char *__tsan_default_options(void)
{
	return "report_destroy_locked=0";
}

void __wrap_inject_hit(enum inject_point point);

void __wrap_inject_hit(enum inject_point point)
{
	(void)point;
	if (left && --left == 0)
		longjmp(death, 1);
}

/* ---- kept memory ---- */

/* To map it anew for each worker is most of what one costs. The next one gets what the
   last has closed, with what is in it; that it may stand elsewhere, too, is shown by
   agents that really die (tests/live/test_crash.sh). */
static struct kept closed[16];

int __wrap_kept_open_since(struct kept *k, const char *name, size_t bytes, uint32_t oldest, uint32_t version);
int __wrap_kept_open(struct kept *k, const char *name, size_t bytes, uint32_t version);
void __wrap_kept_close(struct kept *k);
int __real_kept_open_since(struct kept *k, const char *name, size_t bytes, uint32_t oldest, uint32_t version);
void __real_kept_close(struct kept *k);

int __wrap_kept_open_since(struct kept *k, const char *name, size_t bytes, uint32_t oldest, uint32_t version)
{
	for (struct kept *c = closed; c < closed + ARRAY_SIZE(closed); c++)
		if (c->base && c->fd == kept_fd(name) && c->bytes >= bytes && kept_version(name) == version) {
			*k = *c;
			k->found = true;
			*c = KEPT_NONE;
			return 0;
		}
	return __real_kept_open_since(k, name, bytes, oldest, version);
}

int __wrap_kept_open(struct kept *k, const char *name, size_t bytes, uint32_t version)
{
	return __wrap_kept_open_since(k, name, bytes, version, version);
}

void __wrap_kept_close(struct kept *k)
{
	for (struct kept *c = closed; c < closed + ARRAY_SIZE(closed); c++)
		if (k->base && kept_has_directory() && !c->base) {
			*c = *k;
			*k = KEPT_NONE;
			return;
		}
	__real_kept_close(k);
}

/* ---- the service manager's store ---- */

#define STORE_MAX 64u
static struct engine_kept_fd store[STORE_MAX];
static unsigned nr_stored;

static int store_put(void *ctx, uid_t uid, char kind, unsigned record, int fd)
{
	(void)ctx;
	(void)uid;
	for (unsigned i = 0; i < nr_stored; i++)
		if (store[i].kind == kind && store[i].record == record && store[i].fd == fd)
			return 0; /* of one file it keeps one */
	if (fd < 0)
		return 0;
	if (nr_stored == STORE_MAX)
		abort();
	store[nr_stored++] = (struct engine_kept_fd){ .kind = kind, .record = record, .fd = fd };
	return 0;
}

static int store_put_now(void *ctx, uid_t uid, char kind, unsigned record, int fd)
{
	return w.scenario->both == BOTH_BUSY ? -EAGAIN : store_put(ctx, uid, kind, record, fd);
}

static void store_remove(void *ctx, uid_t uid, char kind, unsigned record)
{
	unsigned n = 0;

	(void)ctx;
	(void)uid;
	for (unsigned i = 0; i < nr_stored; i++)
		if (store[i].kind != kind || store[i].record != record)
			store[n++] = store[i];
	nr_stored = n;
}

static void hand_over(char kind, unsigned record, int fd)
{
	store_put(NULL, 0, kind, record, fd);
}

unsigned crash_stored(void)
{
	return nr_stored;
}

bool crash_is_on(void)
{
	return w.scenario->trouble & TROUBLE(CRASH);
}

bool crash_may(void)
{
	return crash_is_on() && !(w.troubles & TROUBLE(CRASH)) &&
	       (unsigned)__builtin_popcountll(w.troubles) < MAX(w.scenario->troubles, 1u);
}

void crash_open(void)
{
	static struct kept_directory *directory;

	inject_words = &points;
	log_set_level(LOG_LEVEL_ERR);
	engine.user_max = engine.process_max = UINT64_MAX;
	if (!directory) {
		directory = kept_directory_new();
		kept_use(directory);
	}
	if (!directory || record_table_open(&engine.records) < 0 || rings_open(&engine.rings) < 0 ||
	    kept_back(&engine.rings, 0, OWNERS_MAX * PAGE_BYTES) < 0)
		abort();
	engine.owners[0].owner.ring = ring_at(&engine.rings, 0);
	engine.nr_owners = 1;
	if (!w.scenario->both)
		return;
	engine.news = (struct engine_news){ .keep_fd = store_put, .keep_fd_now = store_put_now, .forget_fd = store_remove };
	engine.flow.keep_fork = registry_keep_fork;
	engine.flow.keep_ctx = &engine;
}

/* As attach.c's make_record. */
void crash_keep(struct session *s)
{
	struct record *record = record_new(&engine.records);

	if (!record)
		abort();
	s->records = &engine.records;
	s->record = record;
	record->uid = s->uid;
	record->domain = s->domain->uid;
	record->owner = 0;
	record->identity = s->identity;
	record->marks = s->marks;
	record->state = SESSION_ACTIVE;
	record->mover_pid = s->mover_pid;
	s->slots.kept_root = &record->root;
	record_introduce(s);
	record_commit(s, 0);
	record_publish(record, s->id);
	engine_keep_fds(&engine, s);
}

/* ---- the dead worker's own ---- */

static void forget_session(struct session *s)
{
	mappings_deinit(&s->mappings);
	quiet_deinit(&s->quiet);
	ranges_deinit(&s->registered);
	ranges_deinit(&s->guarded);
	ranges_deinit(&s->vacated);
	if (s->gate)
		munmap(s->gate, PAGE_BYTES);
	free(s);
}

static void forget_batches(struct batch *b)
{
	for (struct batch *next; b; b = next) {
		next = b->next;
		free(b);
	}
}

static void forget_owner(struct owner *o)
{
	for (size_t i = 0; i < ARRAY_SIZE(o->reserve); i++)
		safe_close(o->reserve[i]);
	forget_batches(o->deferred);
	ranges_deinit(&o->wiped);
	free(o->page);
	codec_free(o->codec);
	slot_pool_free(o->slots);
	safe_close(o->epoll);
	mailbox_deinit(&o->box);
}

static void forget_all(void)
{
	const void *zeros = engine.flow.zeros;

	for (int i = 0; i < MMS; i++) {
		if (w.mm[i].used && w.mm[i].session)
			forget_session(w.mm[i].session);
		w.mm[i].session = NULL;
	}
	forget_batches(engine.packers.urgent);
	forget_batches(engine.packers.head);
	forget_batches(engine.worker.free_batches);
	safe_close(engine.worker.epoll);
	forget_owner(&engine.owners[0].owner);
	blobstore_free(engine.flow.blobstore);
	staging_free(engine.flow.staging);
	domain_registry_free(engine.flow.domains);
	mailbox_deinit(&engine.flow.worker);
	mailbox_deinit(&engine.flow.engine);
	kept_close(&engine.rings);
	record_table_close(&engine.records);
	memset(&engine, 0, sizeof(engine));
	engine.flow.zeros = zeros;
}

/* ---- the keeper too ---- */

static void each_record(void (*fn)(struct record *record))
{
	struct record_table records = { .kept = KEPT_NONE };
	struct record *record;

	if (record_table_open(&records) < 0)
		abort();
	for (uint32_t i = 0; (record = record_next(&records, &i));)
		fn(record);
	record_table_close(&records);
}

/* Also of those that have ended; what the records name beside what is stored goes with
   the dead. */
static void close_the_dead(struct record *record)
{
	for (unsigned k = RECORD_STORED; k < RECORD_FDS; k++)
		if (record->fds[k] > 0)
			close(record->fds[k] - 1);
}

/* Of the address space whose userfaultfd it was. */
static void renumber(int from, int to)
{
	for (int i = 0; i < MMS; i++)
		if (w.mm[i].held && w.mm[i].uffd == from)
			w.mm[i].uffd = to;
}

/* Nobody has given them away: that was the last reference, but for a mover's. */
static void lose_the_rest(int below)
{
	for (int i = 0; i < MMS; i++)
		if (w.mm[i].held && w.mm[i].uffd < below) {
			close(w.mm[i].uffd);
			w.mm[i].held = false;
			kernel_put_uffd(i);
		}
}

/* What only a running process tells. */
static void open_anew(struct record *record)
{
	if (record->introduced && record->fds[RECORD_UFFD] > 0)
		agent_open_proc(mm_of_fd(record->fds[RECORD_UFFD] - 1), record);
}

static void come_back(void)
{
	struct engine_kept_fd back[STORE_MAX];
	int above = 3;

	engine_hand_over(hand_over);
	each_record(close_the_dead);
	for (unsigned i = 0; i < nr_stored; i++)
		above = MAX(above, store[i].fd + 1);
	for (int i = 0; i < MMS; i++)
		above = w.mm[i].held ? MAX(above, w.mm[i].uffd + 1) : above;
	for (unsigned i = 0; i < nr_stored; i++) {
		int mm = mm_at_fd(store[i].fd), old = store[i].fd;

		store[i].fd = fcntl(old, F_DUPFD_CLOEXEC, above);
		mm_bind_fd(store[i].fd, mm);
		if (store[i].kind == ENGINE_KEPT_KINDS[RECORD_UFFD] || store[i].kind == ENGINE_KEPT_FORK)
			renumber(old, store[i].fd);
		close(old);
	}
	lose_the_rest(above);
	memcpy(back, store, sizeof(back));
	if (engine_import_fds(back, nr_stored) < 0)
		violated("what has come back can't be taken");
	for (unsigned i = nr_stored; i--;)
		if (back[i].fd < 0) {
			close(store[i].fd);
			store[i] = store[--nr_stored];
		}
	each_record(open_anew);
}

static void die(void)
{
	forget_all();
	if (w.scenario->both)
		come_back();
}

/* ---- the next one ---- */

static void find_sessions(void)
{
	for (struct session *s = engine.sessions; s; s = s->next) {
		struct mm *mm = &w.mm[mm_of_fd(s->fds.uffd)];

		mm->session = s;
		/* Heard before, but a new worker polls them anew. */
		mm->pidfd_seen = false;
		mm->socket_shut |= s->fds.mover >= 0 && !mm->mover;
	}
}

static void recover(void)
{
	struct batch *found;

	agent_open_worker();
	if (recover_begin(&engine, &found) < 0 || slot_pool_reserve(engine.owners[0].owner.slots, 512) < 0)
		violated("a new worker can't take over");
	find_sessions();
	recover_end(&engine, found);
}

/* again: at which point of its recovery the next one dies too; 0: it does not. False:
   there is no such point. */
bool crash_now(unsigned again)
{
	w.in_owner = w.in_fault_path = false;
	w.troubles |= TROUBLE(CRASH);
	die();
	left = again;
	if (setjmp(death) == 0) {
		recover();
	} else {
		find_sessions();
		die();
		recover();
		return true;
	}
	again = left;
	left = 0;
	return again == 0;
}

/* The action, with the worker dying at its point-th named point. False: it has fewer. */
bool crash_inside(const struct action *a, unsigned point)
{
	left = point;
	if (setjmp(death) == 0) {
		agent_act(a);
		left = 0;
		return false;
	}
	crash_now(0);
	return true;
}
