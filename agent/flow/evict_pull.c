/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Eviction, the worker's step: pages in transit are read into staging. The
 * transit area is in the workload, so it is read into private memory once,
 * and only that copy is looked at afterwards.
 */
#include "flow/flow.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/util.h"
#include "sys/pagemap.h"

#define NOMEM_USEC 10000

static uint64_t transit_address(const struct batch *b, unsigned page)
{
	return b->session->transit + (uint64_t)(b->lane * WIRE_BATCH + page) * PAGE_BYTES;
}

static void give_back(struct flow *flow, uint32_t index)
{
	uint32_t blob = staging_unref(flow->staging, index);

	assert(!blob);
	(void)blob;
}

/* A page is in staging: same-filled ones need no body. */
static void settle(struct flow *flow, struct batch_page *page, uint32_t index)
{
	uint32_t pattern;

	if (page_same_filled(staging_page(flow->staging, index), &pattern)) {
		give_back(flow, index);
		page->result = BATCH_PAGE_FILLED;
		page->value = pattern;
		return;
	}
	page->result = BATCH_PAGE_PULLED;
	page->value = index;
	page->generation = staging_generation(flow->staging, index);
}

/*
 * A page that was moved can't be read. Not there any more: the program had
 * freed it lazily (MADV_FREE before we registered the mapping) and the kernel
 * has reclaimed it, so zeros are right; under salvage it never was in transit.
 * There and unreadable, or the whole address space gone: its bytes are lost.
 */
static enum batch_result unread(const struct batch *b, unsigned i, int error, bool salvage)
{
	if (error == 0 && !pagemap_is_populated(b->session->fds.pagemap, transit_address(b, i)))
		return salvage ? BATCH_PAGE_NONE : BATCH_PAGE_FILLED;
	return BATCH_PAGE_LOST;
}

/*
 * Our own page can't be written: there is no memory for it now, or it is broken. (What
 * can't be read in the program is no such error, mem_read_pages.) The bytes are in
 * transit still, so they are read into another one, if one is to be had, or the same,
 * for as long as it takes.
 */
static void *renew(struct flow *flow, uint32_t *index)
{
	uint32_t other;

	if (staging_alloc(flow->staging, &other, 1)) {
		give_back(flow, *index);
		*index = other;
	}
	return staging_page(flow->staging, *index);
}

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

/* Pages [first, first + n) of the batch were moved; reads them. */
static void pull_run(struct flow *flow, struct batch *b, unsigned first, unsigned n, bool salvage)
{
	uint32_t index[WIRE_BATCH];
	void *pages[WIRE_BATCH];
	unsigned i = 0, renewed = 0;

	/* The worker has reserved the room before the batch was ordered: a page that has
	   left its place must find one here. Memory behind it may be short; it waits in
	   transit then, and whoever touches it. */
	for (unsigned got = 0; (got += staging_alloc(flow->staging, index + got, n - got)) < n;)
		usleep(NOMEM_USEC);
	qsort(index, n, sizeof(*index), compare); /* neighbours are read at one go */
	for (unsigned k = 0; k < n; k++)
		pages[k] = staging_page(flow->staging, index[k]);
	while (i < n) {
		int got = mem_read_pages(b->session->fds.mem, transit_address(b, first + i), &pages[i], n - i);

		for (int k = 0; k < got; k++, i++) {
			settle(flow, &b->page[first + i], index[i]);
			b->moved |= (uint64_t)1 << (first + i);
		}
		/* A short count doesn't say why: the page it ended at is asked
		   for alone. */
		if (got > 0)
			continue;
		if (got == -EFAULT || got == -ENOMEM) {
			if (renewed++)
				usleep(NOMEM_USEC);
			pages[i] = renew(flow, &index[i]);
			continue;
		}
		give_back(flow, index[i]);
		b->page[first + i].result = unread(b, first + i, got, salvage);
		i++;
	}
}

/*
 * The kernel may have moved more pages than it says: since 6.18, where it lost a race
 * for a page to the processor's setting of accessed or dirty, it moves that page (or
 * several) in a second try and doesn't count them, and the next one answers EEXIST.
 * Those behind it the mover may not have come to. What is in transit now is what has
 * moved, or zeros that the program's mlockall has put there: a page that is not in its
 * place reads as zeros anyhow. (The place itself tells nothing: it may be in use again.)
 */
static void pull_untold(struct flow *flow, struct batch *b, unsigned i)
{
	enum batch_result said = b->page[i].result;

	if (!pagemap_is_populated(b->session->fds.pagemap, transit_address(b, i)))
		return;
	pull_run(flow, b, i, 1, false);
	if (b->page[i].result == BATCH_PAGE_FILLED && b->page[i].value == 0)
		b->page[i].result = said;
}

void evict_pull(struct flow *flow, struct batch *b, const struct wire_report *report)
{
	static const uint8_t results[] = {
		[WIRE_PAGE_BUSY] = BATCH_PAGE_BUSY,	    [WIRE_PAGE_HOLE] = BATCH_PAGE_HOLE,
		[WIRE_PAGE_STALE] = BATCH_PAGE_NONE,	    [WIRE_PAGE_OCCUPIED] = BATCH_PAGE_NONE,
		[WIRE_PAGE_REFUSED] = BATCH_PAGE_REFUSED,
	};
	unsigned run = 0;

	b->moved = 0;
	for (unsigned i = 0; i < b->nr; i++) {
		uint8_t said = report->page[i];

		b->page[i].marked = said == WIRE_PAGE_MARKED; /* what is untold has none */
		if (said == WIRE_PAGE_DONE || said == WIRE_PAGE_MARKED) {
			run++;
			continue;
		}
		if (run)
			pull_run(flow, b, i - run, run, false);
		run = 0;
		b->page[i].result = said < ARRAY_SIZE(results) ? results[said] : BATCH_PAGE_NONE;
		if (b->page[i].result == BATCH_PAGE_NONE)
			pull_untold(flow, b, i);
		if (said == WIRE_PAGE_OCCUPIED) /* whatever it is: have it dropped */
			b->moved |= (uint64_t)1 << i;
	}
	if (run)
		pull_run(flow, b, b->nr - run, run, false);
}

void evict_salvage(struct flow *flow, struct batch *b)
{
	b->moved = 0;
	for (unsigned i = 0; i < b->nr; i++)
		b->page[i].marked = false; /* nobody knows */
	pull_run(flow, b, 0, b->nr, true);
}
