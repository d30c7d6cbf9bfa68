/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "page/domain.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/random.h>

#include "common/kept.h"
#include "common/layout.h"
#include "common/util.h"
#include "page/seal.h"

#define DOMAINS_MAX 65536u
#define BACK_RECORDS ((uint32_t)(16 * PAGE_BYTES / sizeof(struct record)))

/* What a worker that starts over must know of a domain; its index is the place
   in the table. */
struct record {
	uint64_t seed;
	uint64_t id;
	uint32_t uid;
	uint32_t kind;
	_Atomic uint32_t used; /* written last */
	uint32_t reserved;
};
_Static_assert(sizeof(struct record) == 32, "32 bytes a domain");

struct domain_registry {
	pthread_mutex_t lock; /* the list, and refs of its domains */
	struct domain *domains;
	struct kept kept;
	struct record *records;
	uint32_t backed; /* records with memory */
	uint8_t secret[SEAL_HASH]; /* seeds are made from */
	bool shared;
};

struct domain_registry *domain_registry_new(void)
{
	struct domain_registry *reg = calloc(1, sizeof(*reg));

	if (!reg)
		return NULL;
	pthread_mutex_init(&reg->lock, NULL);
	if (kept_open(&reg->kept, "domains", DOMAINS_MAX * sizeof(struct record), LAYOUT_DOMAINS) < 0)
		return domain_registry_free(reg);
	reg->records = reg->kept.base;
	return reg;
}

void domain_registry_share(struct domain_registry *reg, const void *secret, size_t len)
{
	reg->shared = !seal_hash(secret, len, "uswap domains 1", NULL, 0, reg->secret);
}

int domain_recover(struct domain_registry *reg, uint64_t limit)
{
	_Atomic uint32_t *backed = reg->kept.own;
	int n = 0;

	reg->backed = MIN(*backed, DOMAINS_MAX);
	for (uint32_t i = 0; i < reg->backed; i++) {
		struct domain *domain;

		if (!reg->records[i].used)
			continue;
		domain = calloc(1, sizeof(*domain));
		if (!domain)
			return -ENOMEM;
		domain->name.kind = (enum domain_kind)reg->records[i].kind;
		domain->name.id = reg->records[i].id;
		domain->uid = reg->records[i].uid;
		domain->seed = reg->records[i].seed;
		domain->index = i;
		atomic_init(&domain->limit, limit);
		domain->next = reg->domains;
		reg->domains = domain;
		n++;
	}
	return n;
}

struct domain *domain_of(struct domain_registry *reg, uint32_t uid)
{
	struct domain *domain = reg->domains;

	while (domain && domain->uid != uid)
		domain = domain->next;
	return domain;
}

/* The record of a domain that was given its index. */
static bool write_record(struct domain_registry *reg, const struct domain *domain)
{
	_Atomic uint32_t *backed = reg->kept.own;
	struct record *record;

	if (domain->index >= DOMAINS_MAX)
		return false;
	if (domain->index >= reg->backed) {
		if (kept_back(&reg->kept, reg->backed * sizeof(*record), BACK_RECORDS * sizeof(*record)) < 0)
			return false;
		reg->backed += BACK_RECORDS;
		atomic_store_explicit(backed, reg->backed, memory_order_release);
	}
	record = &reg->records[domain->index];
	record->seed = domain->seed;
	record->uid = domain->uid;
	record->kind = domain->name.kind;
	record->id = domain->name.id;
	atomic_store_explicit(&record->used, 1, memory_order_release);
	return true;
}

struct domain_registry *domain_registry_free(struct domain_registry *reg)
{
	if (!reg)
		return NULL;
	while (reg->domains) {
		struct domain *next = reg->domains->next;

		free(reg->domains);
		reg->domains = next;
	}
	if (reg->kept.base)
		kept_close(&reg->kept);
	pthread_mutex_destroy(&reg->lock);
	explicit_bzero(reg->secret, sizeof(reg->secret));
	free(reg);
	return NULL;
}

/*
 * Frees domains that nobody refers to and that owe nothing. A charge can end
 * long after the last process, by a thread that must not take our lock: such a
 * domain stays until the next call. Nothing is read from a domain after the
 * uncharge that made it zero, and none can be charged without a reference.
 */
static void sweep(struct domain_registry *reg)
{
	struct domain **at = &reg->domains;

	while (*at) {
		struct domain *domain = *at;

		if (domain->refs ||
		    atomic_load_explicit(&domain->charged, memory_order_acquire)) {
			at = &domain->next;
			continue;
		}
		*at = domain->next;
		atomic_store_explicit(&reg->records[domain->index].used, 0, memory_order_release);
		free(domain);
	}
}

static bool index_is_taken(const struct domain_registry *reg, uint32_t index)
{
	for (const struct domain *d = reg->domains; d; d = d->next)
		if (d->index == index)
			return true;
	return false;
}

/* Only users are the same on other hosts. */
static uint64_t make_seed(const struct domain_registry *reg, const struct domain *domain)
{
	uint32_t uid = domain->uid;
	uint8_t hash[SEAL_HASH];
	uint64_t seed;

	if (reg->shared && domain->name.kind == DOMAIN_USER &&
	    !seal_hash(reg->secret, sizeof(reg->secret), "domain", &uid, sizeof(uid), hash)) {
		memcpy(&seed, hash, sizeof(seed));
		return seed;
	}
	/* Can't fail once the kernel's pool is filled. If it did: hashes are
	   compared with bytes and within one domain, so nothing breaks. */
	if (getrandom(&seed, sizeof(seed), 0) != sizeof(seed))
		seed = now_ns() ^ (uint64_t)(uintptr_t)reg;
	return seed;
}

static struct domain *domain_new(struct domain_registry *reg, struct domain_name name, uint64_t limit)
{
	struct domain *domain = calloc(1, sizeof(*domain));

	if (!domain)
		return NULL;
	domain->name = name;
	while (index_is_taken(reg, domain->index))
		domain->index++;
	domain->uid = name.kind == DOMAIN_USER ? (uint32_t)name.id : DOMAIN_LABELS + domain->index;
	atomic_init(&domain->limit, limit);
	domain->seed = make_seed(reg, domain);
	if (write_record(reg, domain))
		return domain;
	free(domain);
	return NULL;
}

struct domain *domain_get(struct domain_registry *reg, uint32_t uid, uint64_t limit)
{
	return domain_get_named(reg, (struct domain_name){ .kind = DOMAIN_USER, .id = uid }, limit);
}

struct domain *domain_get_named(struct domain_registry *reg, struct domain_name name, uint64_t limit)
{
	struct domain *domain;

	if (name.kind == DOMAIN_USER && name.id >= DOMAIN_LABELS) /* its label would be another's */
		return NULL;

	pthread_mutex_lock(&reg->lock);
	for (domain = reg->domains; domain; domain = domain->next)
		if (domain->name.kind == name.kind && domain->name.id == name.id)
			break;
	if (!domain) {
		sweep(reg);
		domain = domain_new(reg, name, limit);
		if (domain) {
			domain->next = reg->domains;
			reg->domains = domain;
		}
	}
	if (domain)
		domain->refs++;
	pthread_mutex_unlock(&reg->lock);
	return domain;
}

struct domain *domain_ref(struct domain *domain)
{
	if (domain) {
		uint32_t old = atomic_fetch_add_explicit(&domain->refs, 1, memory_order_relaxed);

		assert(old); /* the caller's */
		(void)old;
	}
	return domain;
}

void domain_unref(struct domain_registry *reg, struct domain *domain)
{
	if (!domain)
		return;
	pthread_mutex_lock(&reg->lock);
	assert(domain->refs);
	if (!--domain->refs)
		sweep(reg);
	pthread_mutex_unlock(&reg->lock);
}

bool domain_charge(struct domain *domain, uint64_t bytes)
{
	uint64_t limit = atomic_load_explicit(&domain->limit, memory_order_relaxed);
	uint64_t old = atomic_load_explicit(&domain->charged, memory_order_relaxed);

	do {
		if (old > limit || bytes > limit - old)
			return false;
	} while (!atomic_compare_exchange_weak_explicit(&domain->charged, &old, old + bytes,
							memory_order_relaxed,
							memory_order_relaxed));
	return true;
}

void domain_uncharge(struct domain *domain, uint64_t bytes)
{
	/* release: see sweep() */
	uint64_t old = atomic_fetch_sub_explicit(&domain->charged, bytes, memory_order_release);

	assert(old >= bytes); /* INV-8 */
	(void)old;
}
