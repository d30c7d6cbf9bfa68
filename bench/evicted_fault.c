/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * evicted_fault MIB FAULTS [IMAGE]: to be run under the shim. Fills memory with
 * heap-like pages, or those of an image; for every line on standard input:
 *	round	touches FAULTS of the pages that are away, at random, and prints
 *		"p50 p99 mean count" in nanoseconds
 *	read	reads all pages in order: "nanoseconds 0 0 PAGES", of those away
 *	verify	checks every byte: "0 0 0 PAGES"
 *	quit	ends
 */
#include "touch.h"

static void read_all(const unsigned char *area, size_t pages)
{
	size_t away = wl_absent(area, pages), i;
	uint64_t begin = touch_now();

	for (i = 0; i < pages; i++)
		(void)*(const volatile unsigned char *)(area + i * WL_PAGE);
	printf("%llu 0 0 %zu\n", (unsigned long long)(touch_now() - begin), away);
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
	unsigned char *area = wl_map(pages);
	uint64_t *ns = calloc(faults, sizeof(*ns));
	char line[32];

	WL_CHECK(ns && pages && faults, "nothing to do");
	if (argc > 3)
		touch_load(argv[3]);
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (i = 0; i < pages; i++)
		touch_content(area + i * WL_PAGE, i);
	printf("ready %d\n", (int)getpid());
	while (fgets(line, sizeof(line), stdin) && strcmp(line, "quit\n")) {
		memset(ns, 1, faults * sizeof(*ns)); /* ours is here, whatever was evicted */
		if (!strcmp(line, "read\n"))
			read_all(area, pages);
		else if (!strcmp(line, "verify\n"))
			verify(area, pages);
		else
			touch_round(area, pages, ns, faults, ++round);
	}
	return 0;
}
