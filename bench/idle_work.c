/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * idle_work STEPS: a fixed amount of computing, malloc, free, copying and a few
 * system calls, as a program does that uswap leaves alone. Prints "WALL CPU" in
 * nanoseconds, of the work alone.
 */
#include "touch.h"

#include <sys/resource.h>

#define BLOCKS 4096

static unsigned char *block[BLOCKS];
static size_t size[BLOCKS];

static uint64_t cpu_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t step(uint64_t *rng)
{
	uint64_t r = content_next(rng), sum = 0;
	size_t i = r % BLOCKS, k, bytes = 32 + (r >> 16) % ((r >> 60) ? 2048 : 65536);

	free(block[i]);
	block[i] = malloc(bytes);
	WL_CHECK(block[i], "malloc");
	size[i] = bytes;
	memset(block[i], (int)r, bytes);
	i = (r >> 32) % BLOCKS;
	for (k = 0; block[i] && k < size[i]; k += 64)
		sum += block[i][k];
	return sum;
}

int main(int argc, char **argv)
{
	size_t steps = (size_t)wl_arg(argc, argv, 1, 1000000), i;
	uint64_t rng = 1, sum = 0, wall, cpu;
	unsigned char page[CONTENT_PAGE];

	for (i = 0; i < steps / 8; i++) /* warm up */
		sum += step(&rng);
	wall = touch_now();
	cpu = cpu_now();
	for (i = 0; i < steps; i++) {
		sum += step(&rng);
		if (i % 64 == 0) {
			content_page_of(page, sum, CONTENT_TEXT);
			sum += page[sum % CONTENT_PAGE];
		}
		if (i % 1024 == 0)
			sum += (uint64_t)getppid();
	}
	wall = touch_now() - wall;
	cpu = cpu_now() - cpu;
	printf("%llu %llu\n", (unsigned long long)wall, (unsigned long long)cpu);
	return sum == 42;
}
