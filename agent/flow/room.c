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
#define PATIENCE_NS (2 * NSEC_PER_SEC)

static void ask(struct owner *o, struct session *s)
{
	if (!atomic_exchange_explicit(&s->room_asked, true, memory_order_relaxed))
		notice_send(&o->flow->worker, &s->to_worker, SESSION_WORK_ROOM);
}

bool room_take(struct owner *o, struct session *s, unsigned pages)
{
	int64_t left = atomic_load_explicit(&s->room_pages, memory_order_relaxed);

	if (left == SESSION_ROOM_UNLIMITED)
		return true;
	if (left < LOW_PAGES)
		ask(o, s);
	if (left >= pages) {
		atomic_fetch_sub_explicit(&s->room_pages, pages, memory_order_relaxed);
		s->room_wait_ns = 0;
		return true;
	}
	if (!s->room_wait_ns)
		s->room_wait_ns = o->now;
	if (o->now - s->room_wait_ns < PATIENCE_NS)
		return false;
	s->room_wait_ns = 0;
	room_set(s, SESSION_ROOM_UNLIMITED);
	return true;
}

void room_none(struct owner *o, struct session *s)
{
	atomic_store_explicit(&s->room_pages, 0, memory_order_relaxed);
	ask(o, s);
}

void room_set(struct session *s, int64_t pages)
{
	atomic_store_explicit(&s->room_pages, pages, memory_order_relaxed);
	atomic_store_explicit(&s->room_asked, false, memory_order_relaxed);
}

void room_give(struct session *s, uint64_t pages)
{
	int64_t left = atomic_load_explicit(&s->room_pages, memory_order_relaxed);

	while (left != SESSION_ROOM_UNLIMITED &&
	       !atomic_compare_exchange_weak_explicit(&s->room_pages, &left,
						      left + (int64_t)pages,
						      memory_order_relaxed, memory_order_relaxed))
		;
}
