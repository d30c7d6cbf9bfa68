/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Eviction, the pack thread's step: what has survived its grace time is
 * hashed, deduplicated, compressed and put into the blobstore. Only our own
 * copy is read.
 */
#include "flow/flow.h"

#include "common/util.h"

#define SHARE 8u /* pages that a thread takes upon itself at a time */

/* Where the domain is wider than the user, or another, it is by what his programs
   have, duplicates at full price, that a user is held to UserMax=. */
static bool is_over(const struct domain *payer)
{
	return payer && atomic_load_explicit(&payer->charged, memory_order_relaxed) >=
				atomic_load_explicit(&payer->limit, memory_order_relaxed);
}

bool evict_is_at_limit(const struct session *s)
{
	return counter_get(&s->counters.stored_bytes) >= s->store_max || is_over(s->payer);
}

/* Ours to pack. False: touched or dropped meanwhile, nobody holds it any more. */
static bool take(struct flow *flow, struct batch_page *page)
{
	bool taken = page->result == BATCH_PAGE_PULLED &&
		     staging_tryref(flow->staging, page->value, page->generation);

	page->result = taken ? BATCH_PAGE_KEEP : BATCH_PAGE_SKIP;
	return taken;
}

static void note(struct session *s, struct batch_page *page, enum blobstore_result result, blob_id blob)
{
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

static void pack_page(struct flow *flow, struct codec *codec, struct session *s, struct batch_page *page)
{
	const struct blobstore_source from = { .domain = s->domain, .family = s->family, .vpn = page->vpn };
	enum blobstore_result result = BLOBSTORE_QUOTA;
	blob_id blob = 0;

	if (!evict_is_at_limit(s))
		result = blobstore_put_from(flow->blobstore, codec, &from,
					    staging_page(flow->staging, page->value), &blob);
	note(s, page, result, blob);
}

/* ---- what was read in order ---- */

/* Pages of a cluster of which so many came back in order: those between them were
   touched first, and led the others. */
#define IN_ORDER(n) ((n) - (n) / 4)

/* How many from i on are neighbours, and were read in order; 0: too few. */
static unsigned run_at(const struct batch *b, unsigned i)
{
	unsigned n = 0, in_order = 0;

	while (n < BLOBSTORE_RUN_MAX && i + n < b->nr && b->page[i + n].result == BATCH_PAGE_PULLED &&
	       b->page[i + n].vpn == b->page[i].vpn + n)
		in_order += b->page[i + n++].in_order;
	return n >= BLOBSTORE_RUN_MIN && in_order >= IN_ORDER(n) ? n : 0;
}

/* Those that are still there, up to the first that isn't. How many were looked at. */
static unsigned pack_run(struct flow *flow, struct codec *codec, struct session *s, struct batch_page *page,
			 unsigned n)
{
	const struct blobstore_source from = { .domain = s->domain, .family = s->family, .vpn = page->vpn };
	struct blobstore_put put[BLOBSTORE_RUN_MAX];
	unsigned taken = 0;

	while (taken < n && take(flow, &page[taken])) {
		put[taken] = (struct blobstore_put){ .page = staging_page(flow->staging, page[taken].value),
						     .result = BLOBSTORE_QUOTA };
		taken++;
	}
	if (!evict_is_at_limit(s))
		blobstore_put_run(flow->blobstore, codec, &from, put, taken);
	for (unsigned i = 0; i < taken; i++)
		note(s, &page[i], put[i].result, put[i].id);
	return MIN(taken + 1, n);
}

/* Those of [i, end). How many were still there. */
static unsigned pack_pages(struct flow *flow, struct codec *codec, struct batch *b, unsigned i, unsigned end, bool runs)
{
	unsigned packed = 0;

	for (unsigned at = i, n; at < end; at += n) {
		n = runs ? run_at(b, at) : 0;
		if (n) {
			n = pack_run(flow, codec, b->session, &b->page[at], n);
			continue;
		}
		n = 1;
		if (take(flow, &b->page[at]))
			pack_page(flow, codec, b->session, &b->page[at]);
	}
	for (; i < end; i++)
		packed += b->page[i].result != BATCH_PAGE_SKIP;
	return packed;
}

void evict_pack(struct flow *flow, struct codec *codec, struct batch *b)
{
	uint64_t start = thread_ns(), packed = 0;
	bool runs = blobstore_takes_runs(flow->blobstore, codec);
	unsigned share = runs ? b->nr : SHARE, i;

	while ((i = atomic_fetch_add(&b->begun, share)) < b->nr)
		packed += pack_pages(flow, codec, b, i, MIN(i + share, b->nr), runs);
	atomic_fetch_add_explicit(&flow->pack_ns, thread_ns() - start, memory_order_relaxed);
	atomic_fetch_add_explicit(&flow->packed, packed, memory_order_relaxed);
}

bool evict_pack_is_wanted(struct batch *b)
{
	return atomic_load_explicit(&b->begun, memory_order_relaxed) < b->nr;
}
