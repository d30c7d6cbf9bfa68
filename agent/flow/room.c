/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Room in the control group of a process: a COPY is charged to it, and at its
 * limit the kernel answers with ENOMEM and kills. So the worker looks how much
 * is left (sys/cgroup.h), takes cold pages out in time, and says how many may
 * be placed until it looks again; the owner uses that up.
 */
#include "flow/flow.h"

#include "common/util.h"

#define LOW_PAGES 2048 /* when so few are left, the worker is told */
/* A thread that waits for room tries again so long; then the kernel decides. */
#define PATIENCE_NS (10 * NSEC_PER_SEC)
#define RETRY_NS 1000000u /* ... and not more often than this */

static void ask(struct owner *o, struct session *s)
{
	if (!atomic_exchange_explicit(&s->room_asked, true, memory_order_relaxed))
		notice_send(&o->flow->worker, &s->to_worker, SESSION_WORK_ROOM);
}

bool room_use(struct owner *o, struct session *s, unsigned pages)
{
	int64_t left = room_left(s);

	if (left == SESSION_ROOM_UNLIMITED)
		return true;
	if (left < LOW_PAGES)
		ask(o, s);
	if (left < pages)
		return false;
	atomic_fetch_sub_explicit(&s->room_pages, pages, memory_order_relaxed);
	return true;
}

bool room_take(struct owner *o, struct session *s, unsigned pages)
{
	if (room_use(o, s, pages)) {
		s->room_wait_ns = 0;
		return true;
	}
	/* Where nothing may leave, waiting is in vain. */
	if (atomic_load_explicit(&s->room_vain, memory_order_relaxed))
		return true;
	if (!s->room_wait_ns)
		s->room_wait_ns = o->now;
	return o->now - s->room_wait_ns >= PATIENCE_NS;
}

void room_none(struct owner *o, struct session *s)
{
	atomic_store_explicit(&s->room_pages, 0, memory_order_relaxed);
	ask(o, s);
}

void room_wait(struct owner *o, struct session *s)
{
	if (!s->room_wake_ns)
		s->room_wake_ns = o->now + RETRY_NS;
	o->unquiet = true;
}

void room_settle(struct session *s)
{
	if (!s->room_wake_ns || now_ns() < s->room_wake_ns)
		return;
	s->room_wake_ns = 0;
	(void)uffd_wake_all(s->fds.uffd);
}

int64_t room_left(const struct session *s)
{
	return atomic_load_explicit(&s->room_pages, memory_order_relaxed);
}

void room_set(struct session *s, int64_t before, int64_t pages, bool vain)
{
	atomic_store_explicit(&s->room_vain, vain, memory_order_relaxed);
	if (before == SESSION_ROOM_UNLIMITED || pages == SESSION_ROOM_UNLIMITED)
		atomic_store_explicit(&s->room_pages, pages, memory_order_relaxed);
	else
		atomic_fetch_add_explicit(&s->room_pages, pages - before, memory_order_relaxed);
	atomic_store_explicit(&s->room_asked, false, memory_order_relaxed);
}

void room_give(struct session *s, uint64_t pages)
{
	int64_t left = room_left(s);

	while (left != SESSION_ROOM_UNLIMITED &&
	       !atomic_compare_exchange_weak_explicit(&s->room_pages, &left,
						      left + (int64_t)pages,
						      memory_order_relaxed, memory_order_relaxed))
		;
}
