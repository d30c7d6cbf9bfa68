/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * grow_verify [MIB] [USAGE BYTES]: takes more and more memory, a MiB at a time,
 * checks a part of what it has all the while, and every byte at the end. With
 * USAGE, a file, it goes on only when the number in there is below BYTES, or
 * hasn't been for 30 s.
 */
#include "workload.h"

#define STEP_PAGES 256

#define PATIENCE (30 * wl_time_factor()) /* seconds */

static double number_in(const char *file)
{
	char text[32] = "";
	int fd = (int)WL_OK(open(file, O_RDONLY | O_CLOEXEC));

	WL_CHECK(read(fd, text, sizeof(text) - 1) > 0, "%s is empty", file);
	close(fd);
	return atof(text);
}

static void wait_for_room(const char *usage, double below)
{
	double end = wl_now() + PATIENCE;

	while (usage && number_in(usage) >= below && wl_now() < end)
		wl_sleep_ms(5);
}

int main(int argc, char **argv)
{
	size_t steps = (size_t)wl_arg(argc, argv, 1, 64), step, i;
	const char *usage = argc > 3 ? argv[2] : NULL;
	double below = wl_arg(argc, argv, 3, 0);
	size_t pages = steps * STEP_PAGES;
	unsigned char *area = wl_map(pages);

	WL_CHECK(steps, "nothing to do");
	for (step = 0; step < steps; step++) {
		wait_for_room(usage, below);
		wl_fill(area + step * STEP_PAGES * WL_PAGE, STEP_PAGES, step);
		for (i = 0; i <= step && i < STEP_PAGES / 8; i++) {
			size_t old = wl_shuffled(i, step + 1, step);

			wl_verify("growing", area + old * STEP_PAGES * WL_PAGE, 1, old);
		}
	}
	for (step = 0; step < steps; step++)
		wl_verify("grown", area + step * STEP_PAGES * WL_PAGE, STEP_PAGES, step);
	wl_say("%zu pages right, taken %zu MiB in all", pages, steps);
	return 0;
}
