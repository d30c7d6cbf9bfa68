/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fill_verify [MIB] [ROUNDS]: fills a mapping, malloc'd blocks and .bss, waits
 * until they have left, and verifies every byte in sequential, reverse and
 * random order, overwriting a third of the pages between rounds.
 */
#include "workload.h"

#define BSS_PAGES 256
#define BLOCK_PAGES 5 /* below the mmap threshold: from the heap */

static unsigned char bss[(BSS_PAGES + 1) * CONTENT_PAGE];

struct area {
	const char *name;
	unsigned char *at;
	size_t pages;
	uint64_t seed;
	uint32_t *generation; /* of each page */
};

enum order { SEQUENTIAL, REVERSE, RANDOM, ORDERS };
static const char *const order_name[ORDERS] = { "sequential", "reverse", "random" };

static unsigned char *aligned(unsigned char *at)
{
	return at + (WL_PAGE - (uintptr_t)at % WL_PAGE) % WL_PAGE;
}

static void area_init(struct area *area, const char *name, unsigned char *at, size_t pages)
{
	size_t i;

	area->name = name;
	area->at = at;
	area->pages = pages;
	area->seed = content_mix((uint64_t)pages ^ (uint64_t)name[0]);
	area->generation = calloc(pages, sizeof(*area->generation));
	WL_CHECK(area->generation, "calloc");
	for (i = 0; i < pages; i++)
		content_page(at + i * WL_PAGE, content_key(area->seed, i, 0));
}

static void area_verify(const struct area *area, enum order order, unsigned round)
{
	size_t i, at;

	for (i = 0; i < area->pages; i++) {
		at = i;
		if (order == REVERSE)
			at = area->pages - 1 - i;
		else if (order == RANDOM)
			at = wl_shuffled(i, area->pages, area->seed + round);
		wl_check_key(area->name, area->at + at * WL_PAGE,
			     content_key(area->seed, at, area->generation[at]), at);
	}
}

/* New content for a third of the pages; for every other of them only the last
   bytes change first, so that the old ones must have come back with it. */
static void area_change(struct area *area, unsigned round)
{
	size_t i;

	for (i = round % 3; i < area->pages; i += 3) {
		unsigned char *page = area->at + i * WL_PAGE, last = page[WL_PAGE - 1];

		if (i & 1) {
			page[WL_PAGE - 1] = (unsigned char)~last;
			page[WL_PAGE - 1] = last;
			wl_check_key(area->name, page,
				     content_key(area->seed, i, area->generation[i]), i);
		}
		content_page(page, content_key(area->seed, i, ++area->generation[i]));
	}
}

int main(int argc, char **argv)
{
	size_t pages = (size_t)(wl_arg(argc, argv, 1, 32) * 256), verified = 0, left = 0, i;
	unsigned rounds = (unsigned)wl_arg(argc, argv, 2, 2), round, order;
	unsigned char *heap;
	struct area area[3];

	WL_CHECK(pages && rounds, "nothing to do");
	area_init(&area[0], "mapping", wl_map(pages), pages);
	area_init(&area[1], "bss", aligned(bss), BSS_PAGES);
	heap = malloc((BLOCK_PAGES + 1) * WL_PAGE);
	WL_CHECK(heap, "malloc");
	area_init(&area[2], "heap", aligned(heap), BLOCK_PAGES);

	for (round = 0; round < rounds; round++) {
		for (order = 0; order < ORDERS; order++) {
			left += wl_wait_evicted("mapping", area[0].at, pages, WL_EVICT_SHARE);
			for (i = 0; i < 3; i++) {
				area_verify(&area[i], (enum order)order, round);
				verified += area[i].pages;
			}
		}
		wl_wait_evicted("bss", area[1].at, BSS_PAGES, WL_EVICT_SHARE);
		for (i = 0; i < 3; i++)
			area_change(&area[i], round);
	}
	for (i = 0; i < 3; i++)
		area_verify(&area[i], SEQUENTIAL, 0);
	wl_say("%zu pages right in %u rounds (%s, %s, %s), %zu seen away", verified, rounds,
	       order_name[0], order_name[1], order_name[2], left);
	free(heap);
	return 0;
}
