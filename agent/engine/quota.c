/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How much of one program may leave before the next look: the facts for the
 * policy, and the room in the program's control group and in our own.
 */
#include "engine/private.h"

#include "common/util.h"
#include "sys/cgroup.h"

#define FULL_REST_NS NSEC_PER_SEC
#define NO_LIMIT_NS (10 * NSEC_PER_SEC) /* between looks at a group without a limit */
#define ROOM_RESERVE 512 /* pages */
#define OWN_ROOM_BYTES ((uint64_t)32 << 20)

static void look_at_group(struct session *s, uint64_t now)
{
	struct cgroup_room room = { .limit = 0 };
	bool has_limit;

	if (now < s->room_due_ns)
		return;
	has_limit = cgroup_read_room(s->pid, &room);
	s->room_due_ns = has_limit ? 0 : now + NO_LIMIT_NS;
	s->room_limit = has_limit ? room.limit : 0;
	s->room_bytes = room.room;
}

/* The kernel takes some for itself (page tables), and kills before the last. */
static int64_t usable_pages(uint64_t room_bytes)
{
	return (int64_t)(room_bytes >> PAGE_SHIFT) - ROOM_RESERVE;
}

bool quota_is_store_full(const struct session *s, uint64_t now)
{
	return s->store_full_ns && now - s->store_full_ns < FULL_REST_NS;
}

/* One has found no room: others don't leave only to come back, until there is some. While
   its user is changing nothing leaves anyway. */
static bool is_in_vain(const struct worker *w, const struct session *s)
{
	return s->store_full_ns && s->user != SESSION_USER_CHANGED &&
	       (evict_is_at_limit(s) || !blobstore_has_room(w->flow->blobstore, s->domain));
}

/* What leaves a program is charged to us: at our own limit nothing may. Files that are read
   again don't stand in its way: in a container they fill all that is free. */
static bool is_full(struct worker *w, const struct session *s, uint64_t now)
{
	struct cgroup_room room;

	if (now >= w->own_due_ns) {
		w->own_due_ns = now + NSEC_PER_SEC;
		w->own_full = cgroup_read_room(getpid(), &room) && room.last < OWN_ROOM_BYTES;
	}
	return w->own_full || quota_is_store_full(s, now) || is_in_vain(w, s);
}

void quota_set(struct worker *w, struct session *s, uint64_t now)
{
	uint64_t stall = counter_get(&s->counters.stall_ns_total), missing, anonymous;
	int64_t left;
	struct policy_facts facts = {
		.age_ns = now - s->attached_ns,
		.tick_ns = now - s->last_tick_ns,
		.resident_bytes = session_read_resident(s, &anonymous),
		.evicted_bytes = session_evicted_pages(s) << PAGE_SHIFT,
		.own_limit_bytes = s->limit_bytes,
		.store_full = is_full(w, s, now),
	};

	left = room_left(s);
	look_at_group(s, now);
	facts.group_limit_bytes = s->room_limit;
	facts.group_room_bytes = s->room_bytes;
	s->stall_share = policy_stall_share(s->stall_share, stall - s->last_stall_ns, facts.tick_ns);
	facts.stall_share = s->stall_share;
	s->last_stall_ns = stall;
	s->last_tick_ns = now;
	s->quota = s->enabled ? policy_quota(&w->policy, &facts) : 0;
	missing = policy_missing_room(&facts);
	/* Those that came back lately last: when the others are not enough. */
	s->hard_pressed = s->left_since < missing / 4;
	s->left_since = 0;
	room_set(s, left, s->room_limit ? usable_pages(s->room_bytes) : SESSION_ROOM_UNLIMITED,
		 missing && !s->quota);
	s->forced = s->evict_order != NULL;
	s->to_leave = s->forced ? anonymous >> PAGE_SHIFT : s->quota;
}
