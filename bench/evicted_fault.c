/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * evicted_fault MIB FAULTS [IMAGE]: to be run under the shim, or with kernel swap.
 * Fills memory with heap-like pages, or those of an image; for every line on standard
 * input:
 *	round	touches FAULTS of the pages that are away, at random, and prints
 *		"p50 p99 mean count" in nanoseconds
 *	half	touches half of all pages, at random; prints the same
 *	pageout	has the kernel swap all of it: "nanoseconds 0 0 PAGES", of this thread's
 *		processor time, which does all the work if the swap is zram
 *	read	reads all pages in order: "nanoseconds CPU-NANOSECONDS 0 PAGES", of those away
 *	verify	checks every byte: "0 0 0 PAGES"
 *	quit	ends
 */
#include "touch.h"

static void read_all(const unsigned char *area, size_t pages)
{
	size_t away = touch_out(area, pages), i;
	uint64_t cpu = touch_cpu(), begin = touch_now();

	for (i = 0; i < pages; i++)
		(void)*(const volatile unsigned char *)(area + i * WL_PAGE);
	begin = touch_now() - begin;
	printf("%llu %llu 0 %zu\n", (unsigned long long)begin,
	       (unsigned long long)(touch_cpu() - cpu), away);
}

static void page_out(unsigned char *area, size_t pages)
{
	size_t before = touch_out(area, pages);
	uint64_t begin = touch_cpu();

	WL_OK(madvise(area, pages * WL_PAGE, MADV_PAGEOUT));
	begin = touch_cpu() - begin;
	printf("%llu 0 0 %zu\n", (unsigned long long)begin, touch_out(area, pages) - before);
}

static void verify(const unsigned char *area, size_t pages)
{
	unsigned char want[CONTENT_PAGE];
	size_t i;

	for (i = 0; i < pages; i++) {
		touch_content(want, i);
		if (memcmp(area + i * WL_PAGE, want, CONTENT_PAGE))
			wl_wrong("benchmark", area + i * WL_PAGE, want, i);
	}
	printf("0 0 0 %zu\n", pages);
}

int main(int argc, char **argv)
{
	size_t pages = (size_t)(wl_arg(argc, argv, 1, 64) * 256);
	size_t faults = (size_t)wl_arg(argc, argv, 2, 2000), round = 0, i;
	size_t most = faults > pages ? faults : pages;
	unsigned char *area = wl_map(pages);
	uint64_t *ns = calloc(most, sizeof(*ns));
	char line[32];

	WL_CHECK(ns && pages && faults, "nothing to do");
	if (argc > 3)
		touch_load(argv[3]);
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (i = 0; i < pages; i++)
		touch_content(area + i * WL_PAGE, i);
	printf("ready %d\n", (int)getpid());
	while (fgets(line, sizeof(line), stdin) && strcmp(line, "quit\n")) {
		memset(ns, 1, most * sizeof(*ns)); /* ours is here, whatever was evicted */
		if (!strcmp(line, "read\n"))
			read_all(area, pages);
		else if (!strcmp(line, "pageout\n"))
			page_out(area, pages);
		else if (!strcmp(line, "half\n"))
			touch_round(area, pages, ns, pages / 2, ++round);
		else if (!strcmp(line, "verify\n"))
			verify(area, pages);
		else
			touch_round(area, pages, ns, faults, ++round);
	}
	return 0;
}
