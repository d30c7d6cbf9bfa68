/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * many_pages PAGES RESIDENT SECONDS: under the shim, fills PAGES pages, each unlike
 * all others and small when compressed, and waits for the rest to leave whenever
 * more than RESIDENT of them are in memory; says "filled"; then touches some at
 * random for SECONDS, checks them, and says how long the longest touch took. For
 * bench/recovery, which kills the agent meanwhile.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/util.h"

#define WORDS (PAGE_BYTES / sizeof(uint64_t))
#define STEP 8192u /* pages between two looks at what is resident */

static uint64_t random_state = 88172645463325252ull;

static uint64_t next_random(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	return random_state ^= random_state << 17;
}

static uint64_t resident(void)
{
	unsigned long long size, pages = 0;
	FILE *file = fopen("/proc/self/statm", "re");

	if (!file || fscanf(file, "%llu %llu", &size, &pages) != 2)
		exit(1);
	fclose(file);
	return pages;
}

static void wait_for_room(uint64_t limit)
{
	while (resident() > limit)
		usleep(10000);
}

static uint64_t value_of(uint64_t page)
{
	return page * 0x9e3779b97f4a7c15ull | 1;
}

static volatile uint64_t *word_of(uint64_t *area, uint64_t page)
{
	return &area[page * WORDS + page % WORDS];
}

int main(int argc, char **argv)
{
	uint64_t pages = argc > 1 ? strtoull(argv[1], NULL, 0) : 1000000;
	uint64_t limit = argc > 2 ? strtoull(argv[2], NULL, 0) : 250000;
	uint64_t seconds = argc > 3 ? strtoull(argv[3], NULL, 0) : 10;
	uint64_t begin, end, before, took, worst = 0, touches = 0;
	uint64_t *area = mmap(NULL, pages * PAGE_BYTES, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (area == MAP_FAILED || !pages) {
		perror("mmap");
		return 1;
	}
	for (uint64_t i = 0; i < pages; i++) {
		if (i % STEP == 0)
			wait_for_room(limit);
		*word_of(area, i) = value_of(i);
	}
	wait_for_room(limit);
	puts("filled");
	fflush(stdout);
	begin = now_ns();
	end = now_ns() + seconds * NSEC_PER_SEC;
	while ((before = now_ns()) < end) {
		uint64_t page = next_random() % pages;

		if (*word_of(area, page) != value_of(page)) {
			printf("page %" PRIu64 " is wrong: %" PRIx64 "\n", page, *word_of(area, page));
			return 1;
		}
		took = now_ns() - before;
		if (took > 500000000)
			printf("at %.1f s: %.1f ms\n", (double)(now_ns() - begin) / 1e9, (double)took / 1e6);
		worst = MAX(worst, took);
		touches++;
	}
	printf("%" PRIu64 " touches, the longest %.1f ms\n", touches, (double)worst / 1e6);
	return 0;
}
