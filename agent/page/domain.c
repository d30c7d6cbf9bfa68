/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "page/domain.h"

#include <pthread.h>
#include <sys/random.h>

#include "common/util.h"

struct domain_registry {
	pthread_mutex_t lock; /* the list, and refs of its domains */
	struct domain *domains;
};

struct domain_registry *domain_registry_new(void)
{
	struct domain_registry *reg = calloc(1, sizeof(*reg));

	if (reg)
		pthread_mutex_init(&reg->lock, NULL);
	return reg;
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
	pthread_mutex_destroy(&reg->lock);
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

static struct domain *domain_new(const struct domain_registry *reg, uint32_t uid, uint64_t limit)
{
	struct domain *domain = calloc(1, sizeof(*domain));

	if (!domain)
		return NULL;
	domain->uid = uid;
	while (index_is_taken(reg, domain->index))
		domain->index++;
	atomic_init(&domain->limit, limit);
	/* Can't fail once the kernel's pool is filled. If it did: hashes are
	   compared with bytes and within one domain, so nothing breaks. */
	if (getrandom(&domain->seed, sizeof(domain->seed), 0) != sizeof(domain->seed))
		domain->seed = now_ns() ^ (uint64_t)(uintptr_t)domain;
	return domain;
}

struct domain *domain_get(struct domain_registry *reg, uint32_t uid, uint64_t limit)
{
	struct domain *domain;

	pthread_mutex_lock(&reg->lock);
	for (domain = reg->domains; domain; domain = domain->next)
		if (domain->uid == uid)
			break;
	if (!domain) {
		sweep(reg);
		domain = domain_new(reg, uid, limit);
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

struct domain *domain_ref(struct domain_registry *reg, struct domain *domain)
{
	pthread_mutex_lock(&reg->lock);
	assert(domain->refs);
	domain->refs++;
	pthread_mutex_unlock(&reg->lock);
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
