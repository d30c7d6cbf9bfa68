/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The pack threads, and the queue of batches in their grace time. */
#include "engine/private.h"

#include <errno.h>
#include <sys/prctl.h>

#include "common/util.h"

#define IDLE_NS (200 * 1000000ull)
#define BUSY_NS (10 * 1000000ull)
/* Of one processor, while there is nothing to pack. */
#define COLD_PERCENT 10
/* ... and for garbage in memory, while the store has room. */
#define COLLECT_PERCENT 25

/* Staging is nearly full: its time is over for the oldest, and what is packed is
   packed in a hurry. */
static bool is_pressed(const struct packers *p)
{
	return staging_used_bytes(p->flow->staging) > staging_max_bytes(p->flow->staging) / 4 * 3;
}

/* The first of a list that is due, and need not wait for a dictionary. */
static struct batch *take_from(struct packers *p, struct batch **at, uint64_t due_ns)
{
	bool pressed = is_pressed(p);

	for (; *at && (*at)->due_ns <= due_ns; at = &(*at)->next) {
		struct batch *b = *at;

		/* What is to be let go waits for nothing. */
		if (!pressed && session_state(b->session) < SESSION_RESTORING &&
		    blobstore_family_is_learning(b->session->family)) {
			p->held_back = true;
			continue;
		}
		*at = b->next;
		if (p->tail == &b->next)
			p->tail = at;
		return b;
	}
	return NULL;
}

static struct batch *take_locked(struct packers *p, uint64_t now)
{
	struct batch *b;

	p->held_back = false;
	b = take_from(p, &p->urgent, UINT64_MAX);
	return b ? b : take_from(p, &p->head, is_pressed(p) ? UINT64_MAX : now);
}

/* A slow store's reads are of pages that lie side by side there. What is packed at a time
   comes to lie mixed: so, with one, it is of one batch. */
static struct batch *join_locked(struct packers *p, uint64_t now)
{
	struct batch *b = p->shared && evict_pack_is_wanted(p->shared) ? p->shared : take_locked(p, now);

	if (b)
		b->packers++;
	p->shared = p->has_carrier ? b : NULL;
	return b;
}

static void leave(struct packers *p, struct batch *b)
{
	bool last;

	pthread_mutex_lock(&p->lock);
	last = --b->packers == 0;
	if (p->shared == b)
		p->shared = NULL;
	pthread_mutex_unlock(&p->lock);
	if (last)
		mailbox_send(&session_owner(b->session)->box, &b->mail);
}

static void wait_locked(struct packers *p)
{
	uint64_t until = p->held_back ? now_ns() + BUSY_NS : p->head ? p->head->due_ns : UINT64_MAX;
	struct timespec ts;

	until = MIN(until, p->house_due_ns);
	ts = (struct timespec){ .tv_sec = (time_t)(until / NSEC_PER_SEC),
				.tv_nsec = (long)(until % NSEC_PER_SEC) };
	p->nr_waiting++;
	pthread_cond_timedwait(&p->more, &p->lock, &ts);
	p->nr_waiting--;
}

/* Garbage, as long as it may take. True: there is more, at collect_due_ns. */
static bool collect(struct packers *p)
{
	struct blobstore *bs = p->flow->blobstore;
	uint64_t start = now_ns(), end;

	if (!blobstore_is_tight(bs)) {
		if (start < p->collect_due_ns)
			return true;
		if (blobstore_is_ebbing(bs, start)) {
			p->collect_due_ns = start + BLOBSTORE_EBB_NS;
			return true;
		}
	}
	if (!blobstore_collect(bs))
		return false;
	end = now_ns();
	p->collect_due_ns = end + (end - start) * (100 / COLLECT_PERCENT - 1);
	return true;
}

/* One thread at a time; soon again if there is more to do or was a batch. */
static void keep_house(struct packers *p, struct codec *codec, bool busy)
{
	struct blobstore *bs = p->flow->blobstore;
	uint64_t pause, due;
	bool more, garbage;

	if (pthread_mutex_trylock(&p->housekeeping))
		return;
	more = blobstore_tidy(bs);
	garbage = !more && collect(p);
	more |= blobstore_learn(bs, codec);
	pause = more ? 0 : busy ? BUSY_NS : IDLE_NS;
	due = now_ns() + pause;
	if (garbage)
		due = MIN(due, p->collect_due_ns);
	pthread_mutex_unlock(&p->housekeeping);
	pthread_mutex_lock(&p->lock);
	p->house_due_ns = due;
	pthread_mutex_unlock(&p->lock);
}

/* Nothing waits: what is long cold is compressed again, for a small share of
   one processor. */
static void recompress(struct packers *p)
{
	uint64_t start, now;

	if (pthread_mutex_trylock(&p->housekeeping))
		return;
	start = now_ns();
	if (start >= p->cold_due_ns) {
		bool more = blobstore_recompress(p->flow->blobstore);

		now = now_ns();
		p->cold_due_ns = now + (more ? (now - start) * (100 / COLD_PERCENT - 1) : NSEC_PER_SEC);
	}
	start = p->cold_due_ns;
	pthread_mutex_unlock(&p->housekeeping);
	pthread_mutex_lock(&p->lock);
	p->house_due_ns = MIN(p->house_due_ns, start); /* somebody wakes up for it */
	pthread_mutex_unlock(&p->lock);
}

/* ---- the carrier: where a store may keep one waiting ---- */

static void need_room(void *ctx)
{
	struct packers *p = ctx;

	pthread_mutex_lock(&p->lock);
	p->needed = true;
	pthread_cond_signal(&p->need);
	pthread_mutex_unlock(&p->lock);
}

static void *run_carrier(void *arg)
{
	struct packers *p = arg;

	prctl(PR_SET_NAME, "uswap-carry");
	pthread_mutex_lock(&p->lock);
	while (!p->stop) {
		uint64_t until = now_ns() + (staging_used_bytes(p->flow->staging) ? BUSY_NS : IDLE_NS);
		struct timespec ts = { .tv_sec = (time_t)(until / NSEC_PER_SEC),
				       .tv_nsec = (long)(until % NSEC_PER_SEC) };
		bool more;

		p->needed = false;
		pthread_mutex_unlock(&p->lock);
		more = blobstore_carry(p->flow->blobstore);
		pthread_mutex_lock(&p->lock);
		if (!more && !p->needed && !p->stop)
			pthread_cond_timedwait(&p->need, &p->lock, &ts);
	}
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

static int start_carrier(struct packers *p)
{
	int r;

	if (!blobstore_has_slow(p->flow->blobstore))
		return 0;
	blobstore_set_carrier(p->flow->blobstore, need_room, p);
	r = -pthread_create(&p->carrier, NULL, run_carrier, p);
	p->has_carrier = r == 0;
	return r;
}

/* ---- */

static void *run(void *arg)
{
	struct packers *p = arg;
	struct codec *codec = codec_new(p->level);

	prctl(PR_SET_NAME, "uswap-pack");
	pthread_mutex_lock(&p->lock);
	while (codec && !p->stop) {
		uint64_t now = now_ns();
		struct batch *b = join_locked(p, now);
		bool house = now >= p->house_due_ns, pressed = is_pressed(p);

		if (!b && !house) {
			wait_locked(p);
			continue;
		}
		p->house_due_ns = MAX(p->house_due_ns, now + BUSY_NS); /* ours now */
		pthread_mutex_unlock(&p->lock);
		if (b) {
			codec_set_hurry(codec, pressed);
			evict_pack(p->flow, codec, b);
			leave(p, b);
		}
		if (house)
			keep_house(p, codec, b);
		if (!b)
			recompress(p);
		pthread_mutex_lock(&p->lock);
	}
	pthread_mutex_unlock(&p->lock);
	codec_free(codec);
	return NULL;
}

struct batch *packers_take(struct packers *p, uint64_t now)
{
	struct batch *b;

	pthread_mutex_lock(&p->lock);
	b = take_locked(p, now);
	pthread_mutex_unlock(&p->lock);
	return b;
}

int packers_start(struct packers *p, struct flow *flow, unsigned nr, int level)
{
	pthread_condattr_t attr;
	int r;

	p->flow = flow;
	p->level = level;
	p->tail = &p->head;
	pthread_mutex_init(&p->lock, NULL);
	pthread_mutex_init(&p->housekeeping, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&p->more, &attr);
	pthread_cond_init(&p->need, &attr);
	pthread_condattr_destroy(&attr);
	r = nr ? start_carrier(p) : 0;
	if (r < 0)
		return r;
	for (; p->nr < nr; p->nr++) {
		r = -pthread_create(&p->threads[p->nr], NULL, run, p);

		if (r < 0)
			return r;
	}
	return 0;
}

void packers_stop(struct packers *p)
{
	if (!p->flow)
		return;
	pthread_mutex_lock(&p->lock);
	p->stop = true;
	pthread_cond_broadcast(&p->more);
	pthread_cond_signal(&p->need);
	pthread_mutex_unlock(&p->lock);
	for (unsigned i = 0; i < p->nr; i++)
		pthread_join(p->threads[i], NULL);
	if (p->has_carrier)
		pthread_join(p->carrier, NULL);
	assert(!p->head && !p->urgent);
	pthread_cond_destroy(&p->more);
	pthread_cond_destroy(&p->need);
	pthread_mutex_destroy(&p->housekeeping);
	pthread_mutex_destroy(&p->lock);
}

void packers_add(struct packers *p, struct batch *b, bool urgent)
{
	bool wake;

	b->mail.kind = BATCH_COMMIT; /* for who packs the last of it */
	pthread_mutex_lock(&p->lock);
	if (urgent) {
		b->next = p->urgent;
		p->urgent = b;
	} else {
		b->next = NULL;
		*p->tail = b;
		p->tail = &b->next;
	}
	wake = p->nr_waiting;
	pthread_mutex_unlock(&p->lock);
	if (wake) /* who wakes finds the lock free */
		pthread_cond_signal(&p->more);
}

void packers_hurry(struct packers *p, const struct session *s)
{
	pthread_mutex_lock(&p->lock);
	for (struct batch **at = &p->head; *at;) {
		struct batch *b = *at;

		if (b->session != s) {
			at = &b->next;
			continue;
		}
		*at = b->next;
		b->next = p->urgent;
		p->urgent = b;
	}
	for (p->tail = &p->head; *p->tail; p->tail = &(*p->tail)->next)
		;
	pthread_cond_broadcast(&p->more);
	pthread_mutex_unlock(&p->lock);
}
