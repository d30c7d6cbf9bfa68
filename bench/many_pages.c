/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * many_pages PAGES RESIDENT SECONDS: under the shim, fills PAGES pages, each unlike
 * all others and small when compressed, and waits for the rest to leave whenever
 * more than RESIDENT of them are in memory; says "filled"; then touches some at
 * random for SECONDS, checks them, writes every fourth one anew, and says how long
 * the longest touch took. For bench/recovery, which kills the agent meanwhile.
 *
 * A page that is wrong ends it; it says what was found there instead: zeros, an
 * older version of that page, another page's.
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
#define LONG_NS 20000000u /* a touch that is told of */
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

/* One to one, so that what is found says of which page and version it is. */
#define FACTOR 0x9e3779b97f4a7c15ull
#define VERSION_BITS 16

static uint16_t *versions; /* in shared memory, which never leaves */

static uint64_t value_of(uint64_t page, uint16_t version)
{
	return (page << VERSION_BITS | version) * FACTOR;
}

static volatile uint64_t *word_of(uint64_t *area, uint64_t page)
{
	return &area[page * WORDS + page % WORDS];
}

static void write_page(uint64_t *area, uint64_t page)
{
	versions[page] += versions[page] < UINT16_MAX;
	*word_of(area, page) = value_of(page, versions[page]);
}

static void describe(uint64_t *area, uint64_t page, uint64_t found)
{
	uint64_t inverse = FACTOR;

	for (unsigned i = 0; i < 6; i++)
		inverse *= 2 - FACTOR * inverse;
	printf("page %" PRIu64 ", version %u, is wrong: %" PRIx64 " was read first\n", page, versions[page], found);
	for (uint64_t i = 0; i < WORDS; i++) {
		uint64_t word = area[page * WORDS + i], of = word * inverse;

		if (word)
			printf("  word %" PRIu64 " (ours is %" PRIu64 "): %" PRIx64 ", page %" PRIu64 " version %u\n", i,
			       page % WORDS, word, of >> VERSION_BITS, (unsigned)(of & UINT16_MAX));
	}
	puts("  (all others are 0)");
	fflush(stdout);
	sleep(2);
	printf("  2 s later: %" PRIx64 "\n", *word_of(area, page));
}

int main(int argc, char **argv)
{
	uint64_t pages = argc > 1 ? strtoull(argv[1], NULL, 0) : 1000000;
	uint64_t limit = argc > 2 ? strtoull(argv[2], NULL, 0) : 250000;
	uint64_t seconds = argc > 3 ? strtoull(argv[3], NULL, 0) : 10;
	uint64_t begin, end, before, took, worst = 0, touches = 0;
	uint64_t *area = mmap(NULL, pages * PAGE_BYTES, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	versions = mmap(NULL, pages * sizeof(*versions), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (area == MAP_FAILED || versions == MAP_FAILED || !pages) {
		perror("mmap");
		return 1;
	}
	for (uint64_t i = 0; i < pages; i++) {
		if (i % STEP == 0)
			wait_for_room(limit);
		write_page(area, i);
	}
	wait_for_room(limit);
	puts("filled");
	fflush(stdout);
	begin = now_ns();
	end = now_ns() + seconds * NSEC_PER_SEC;
	while ((before = now_ns()) < end) {
		uint64_t page = next_random() % pages, found = *word_of(area, page);

		if (found != value_of(page, versions[page])) {
			describe(area, page, found);
			return 1;
		}
		if (touches % 4 == 0)
			write_page(area, page);
		took = now_ns() - before;
		if (took > LONG_NS)
			printf("at %.1f s: %.1f ms\n", (double)(now_ns() - begin) / 1e9, (double)took / 1e6);
		worst = MAX(worst, took);
		touches++;
	}
	printf("%" PRIu64 " touches, the longest %.1f ms\n", touches, (double)worst / 1e6);
	return 0;
}
