/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Eviction, the pack thread's step: what has survived its grace time is
 * hashed, deduplicated, compressed and put into the blobstore. Only our own
 * copy is read.
 */
#include "flow/flow.h"

#include "common/util.h"

/* Where the domain is wider than the user, or another, it is by what his programs
   have, duplicates at full price, that a user is held to UserMax=. */
static bool is_over(const struct domain *payer)
{
	return payer && atomic_load_explicit(&payer->charged, memory_order_relaxed) >=
				atomic_load_explicit(&payer->limit, memory_order_relaxed);
}

static void pack_page(struct flow *flow, struct codec *codec, struct session *s, struct batch_page *page)
{
	const struct blobstore_source from = { .domain = s->domain, .family = s->family, .vpn = page->vpn };
	enum blobstore_result result;
	blob_id blob = 0;

	/* Touched or dropped meanwhile: nobody holds it any more. */
	if (!staging_tryref(flow->staging, page->value, page->generation)) {
		page->result = BATCH_PAGE_SKIP;
		return;
	}
	page->result = BATCH_PAGE_KEEP;
	result = counter_get(&s->counters.stored_bytes) >= s->store_max || is_over(s->payer) ?
			 BLOBSTORE_QUOTA :
			 blobstore_put_from(flow->blobstore, codec, &from,
					    staging_page(flow->staging, page->value), &blob);
	switch (result) {
	case BLOBSTORE_STORED:
	case BLOBSTORE_DUPLICATE:
		page->result = BATCH_PAGE_STORED;
		page->blob = blob;
		page->duplicate = result == BLOBSTORE_DUPLICATE;
		break;
	case BLOBSTORE_INCOMPRESSIBLE:
		page->incompressible = true;
		break;
	case BLOBSTORE_QUOTA:
	case BLOBSTORE_FULL:
	case BLOBSTORE_ERROR:
		/* Nothing is lost: it goes back, and eviction rests. */
		atomic_store(&s->store_full_ns, now_ns());
		break;
	}
}

static uint64_t cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

void evict_pack(struct flow *flow, struct codec *codec, struct batch *b)
{
	uint64_t start = cpu_ns(), packed = 0;

	for (unsigned i = 0; i < b->nr; i++) {
		if (b->page[i].result == BATCH_PAGE_PULLED)
			pack_page(flow, codec, b->session, &b->page[i]);
		else
			b->page[i].result = BATCH_PAGE_SKIP;
		packed += b->page[i].result != BATCH_PAGE_SKIP;
	}
	b->mail.kind = BATCH_COMMIT;
	atomic_fetch_add_explicit(&flow->pack_ns, cpu_ns() - start, memory_order_relaxed);
	atomic_fetch_add_explicit(&flow->packed, packed, memory_order_relaxed);
}
