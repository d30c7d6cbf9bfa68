/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A mover whose agent has gone, with all that kept its descriptors, introduces
 * its process to this one (WIRE_AGAIN). What that agent had of the process is
 * lost with it; what is left is what the mover holds.
 *
 * Nothing is guessed. Whether anything was away at all stands in the gate, which
 * the mover has kept: if not, what is missing was never there, and the process is
 * managed as before. If so, an evicted page can't be told from one that was never
 * touched: whatever is missing where the kernel says that pages may be missing
 * becomes SIGBUS, no other page leaves, and the log says how many were away.
 *
 * Why the mover does not hold more. The bytes are in memory that holds other
 * processes' pages too; and a list of what is away would be as good as the peer's
 * word. That word is taken for this: a peer that lies about it gets zeros for its
 * own pages, which are lost anyway. Every other thing it sends is checked as at a
 * first handshake; that it is the process it says, by kcmp(2).
 *
 * Threads: control.
 */
#include "engine/private.h"

#include <errno.h>
#include <stdlib.h>

#include "common/fdpass.h"
#include "common/log.h"
#include "common/units.h"
#include "common/util.h"
#include "sys/uffd.h"

bool again_is_known(const struct engine *e, uint64_t token)
{
	for (const struct session *s = e->sessions; token && s; s = s->next)
		if (s->token == token)
			return true;
	return false;
}

/* The process behind a pidfd, as we see it; 0: it isn't one, or has ended. */
static pid_t pid_of(int pidfd)
{
	char pid[32];

	return pidfd >= 0 && fdpass_info(pidfd, "Pid", pid, sizeof(pid)) ? (pid_t)MAX(atoi(pid), 0) : 0;
}

int again_fill(struct session *s, int passed)
{
	s->pid = pid_of(passed);
	if (!s->pid)
		return -ESRCH;
	if (!uffd_has_features(s->fds.uffd, UFFD_REQUIRED_FEATURES))
		return -EINVAL;
	/* It goes without marks: whether they hold here can't be told any more. */
	s->recover = SESSION_RECOVER_WAKE;
	s->busy = true; /* nothing leaves before transit has been looked at */
	s->state = SESSION_ACTIVE;
	s->blind = s->attach.away != 1;
	s->barred = s->blind;
	return 0;
}

int again_vouch(const struct session *s, pid_t mover, int *passed, int *pidfd)
{
	/* Whose maps are read must not be for the peer to choose; nor, by ending, who
	   has its number by now. */
	if (!session_is_shared(s->pid, mover, s->uid) || !attach_is_running(*pidfd))
		return -EPERM;
	safe_close(*pidfd);
	*pidfd = take_fd(passed);
	return 0;
}

/*
 * Which mappings the agent before us had registered, only the kernel knows now.
 * Without that nothing leaves any more, and what is missing can't be told from
 * what was never there.
 */
void again_learn(struct session *s)
{
	struct ranges found = { 0 };

	s->barred |= mappings_read_flagged(s->fds.smaps, "um", &found) < 0;
	for (size_t i = 0; i < found.nr; i++) {
		const struct range *r = &found.v[i];
		bool never = false;

		for (unsigned k = 0; k < s->attach.nr_never; k++)
			never |= r->start < s->attach.never[k].end && r->end > s->attach.never[k].start;
		if (!never && ranges_add(&s->registered, r->start, r->end) < 0)
			s->barred = true;
	}
	ranges_deinit(&found);
	atomic_store(&s->counters.registered_bytes, ranges_bytes(&s->registered));
}

void again_report(struct session *s)
{
	uint64_t pages = s->attach.away ? s->attach.away - 1 : 0;
	char size[UNITS_TEXT];

	if (!s->blind) {
		log_info("process %d (%s) was left by an agent that was killed; nothing of it was away",
			 (int)s->pid, s->command);
		return;
	}
	/* By the peer's word; those that it touches are counted. */
	log_error("process %d (%s, uid %u) was left by an agent that was killed, and with it %llu pages (%s) "
		  "are lost: it gets SIGBUS where something is missing",
		  (int)s->pid, s->command, s->uid, (unsigned long long)pages,
		  pages ? units_format_size(size, pages << PAGE_SHIFT) : "nobody knows how many");
}
