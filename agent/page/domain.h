/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A trust domain: pages are deduplicated and charged inside it. One per uid, per
 * control group or for the whole machine (DedupDomain=), or one process's own.
 * The charge is exact: the sum over all domains is
 * the bytes the store holds live (INV-8), and a domain's charge is zero when
 * the last blob of its processes is gone.
 *
 * Threads: domain_get and domain_unref take the registry's lock (attach and
 * exit); domain_ref, by somebody who holds a reference, and charge are atomic.
 */
#ifndef USWAP_PAGE_DOMAIN_H
#define USWAP_PAGE_DOMAIN_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum domain_kind { DOMAIN_USER, DOMAIN_CGROUP, DOMAIN_HOST, DOMAIN_PRIVATE };

/* Which one: what id means depends on the kind (uid, the group's inode, 0, a
   session's id). */
struct domain_name {
	enum domain_kind kind;
	uint64_t id;
};

/* Domains that are no user's have labels from here on, where no uid is. */
#define DOMAIN_LABELS 0xfffe0000u

struct domain {
	struct domain_name name;
	uint32_t uid;		     /* a label, unique: the uid, if it is a user's */
	uint32_t index;		     /* small, unique among the living ones */
	uint64_t seed;		     /* random: hashes of two domains differ */
	_Atomic uint64_t charged;    /* bytes */
	_Atomic uint64_t limit;	     /* bytes, UINT64_MAX: none */
	_Atomic uint64_t bars;	     /* pages that its processes have barred (flow/events.c) */
	/* private to domain.c */
	_Atomic uint32_t refs;
	struct domain *next;
};

struct domain_registry;

struct domain_registry *domain_registry_new(void);
struct domain_registry *domain_registry_free(struct domain_registry *reg);
/* From now on the seed of a new user's domain follows from its uid and this secret, so
   that hosts which share the secret know each other's hashes. Before the first
   domain_get. */
void domain_registry_share(struct domain_registry *reg, const void *secret, size_t len);
/* After the death of the worker before: the domains that it had, without
   references and charges. Those that get none go with the next domain_get. How many,
   or -ENOMEM. */
int domain_recover(struct domain_registry *reg, uint64_t limit);
/* By its label, for recovery; NULL: there is none. No reference is taken. */
struct domain *domain_of(struct domain_registry *reg, uint32_t uid);
/* The domain of uid with one more reference (made if need be, with limit).
   NULL on ENOMEM. A domain lives on while it is charged, so that blobs of
   processes that are gone are still accounted. */
struct domain *domain_get(struct domain_registry *reg, uint32_t uid, uint64_t limit);
/* The same for any name. */
struct domain *domain_get_named(struct domain_registry *reg, struct domain_name name, uint64_t limit);
struct domain *domain_ref(struct domain *domain);
void domain_unref(struct domain_registry *reg, struct domain *domain);

/* False, and nothing charged, when it would pass the limit. */
bool domain_charge(struct domain *domain, uint64_t bytes);
void domain_uncharge(struct domain *domain, uint64_t bytes);

#endif
