/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which trust domain a process belongs to (DedupDomain=). Where it can't be told
 * the domain is narrower, never wider: a process's own.
 */
#include "engine/private.h"

#include <errno.h>

#include "common/log.h"
#include "common/util.h"
#include "sys/cgroup.h"

static struct domain_name name_of(const struct engine *e, const struct session *s)
{
	struct domain_name user = { .kind = DOMAIN_USER, .id = s->uid };
	uint64_t group;

	switch (e->settings.dedup_domain) {
	case SETTINGS_DEDUP_HOST:
		return (struct domain_name){ .kind = DOMAIN_HOST };
	case SETTINGS_DEDUP_CGROUP:
		/* In the outermost group, so in none: as by user. */
		if (cgroup_read_id(s->pid, &group))
			return group ? (struct domain_name){ .kind = DOMAIN_CGROUP, .id = group } : user;
		return (struct domain_name){ .kind = DOMAIN_PRIVATE, .id = s->id };
	default:
		return user;
	}
}

/* The account of a user whose domain this isn't: what he has there counts at full price,
   in all domains together. A reference; NULL: no memory. */
static struct domain *payer_of(struct engine *e, struct domain *domain, uid_t uid)
{
	atomic_store(&domain->limit, UINT64_MAX);
	return domain_get(e->flow.domains, uid, e->user_max);
}

/* Takes over its domain (a reference) and makes it a family. */
static int join(struct engine *e, struct session *s, struct domain *domain)
{
	s->domain = domain;
	s->family = domain ? blobstore_family_new(e->flow.blobstore, domain) : NULL;
	if (!s->family)
		return -ENOMEM;
	if (domain->name.kind == DOMAIN_USER)
		return 0;
	s->payer = payer_of(e, domain, s->uid);
	return s->payer ? 0 : -ENOMEM;
}

int domains_join(struct engine *e, struct session *s)
{
	return join(e, s, domain_get_named(e->flow.domains, name_of(e, s), e->user_max));
}

int domains_rejoin(struct engine *e, struct session *s)
{
	struct domain *domain = domain_of(e->flow.domains, s->record->domain);

	if (s->record->is_private)
		s->user = SESSION_USER_PRIVATE;
	else if (domain && domain->name.kind == DOMAIN_PRIVATE && domain->name.id != s->id)
		s->user = SESSION_USER_CHANGED; /* its parent's, until it has its own */
	/* With none left it had nothing stored. */
	if (!domain)
		return join(e, s, domain_get_named(e->flow.domains,
						   (struct domain_name){ .kind = DOMAIN_PRIVATE, .id = s->id },
						   e->user_max));
	return join(e, s, domain_get_named(e->flow.domains, domain->name, e->user_max));
}

void domains_part(struct engine *e, struct session *s)
{
	const struct domain_name name = { .kind = DOMAIN_PRIVATE, .id = s->id };
	uid_t uid;

	if (s->other_domain || session_read_user(s, &uid) < 0)
		return;
	s->other_domain = domain_get_named(e->flow.domains, name, e->user_max);
	s->other_family = s->other_domain ? blobstore_family_new(e->flow.blobstore, s->other_domain) : NULL;
	s->other_payer = s->other_family ? payer_of(e, s->other_domain, uid) : NULL;
	if (!s->other_payer) {
		log_error("process %d: no memory for a trust domain of its own: nothing leaves it any more",
			  (int)s->pid);
		return;
	}
	if (uid != s->uid)
		log_info("process %d (%s) has changed its user from %u to %u: its pages are its own from now on",
			 (int)s->pid, s->command, s->uid, uid);
	s->other_uid = uid; /* the owner changes both, or a child forked now would have one of each */
	notice_send(&session_owner(s)->box, &s->to_owner, SESSION_OWN_DOMAIN);
}

void domains_leave(struct engine *e, struct session *s)
{
	blobstore_family_unref(s->family);
	blobstore_family_unref(s->other_family);
	domain_unref(e->flow.domains, s->domain);
	domain_unref(e->flow.domains, s->other_domain);
	domain_unref(e->flow.domains, s->payer);
	domain_unref(e->flow.domains, s->other_payer);
}
