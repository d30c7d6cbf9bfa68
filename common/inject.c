/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/inject.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

struct inject_words *inject_words;

void inject_init(void)
{
	const char *path = getenv("USWAP_INJECT");
	int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
	void *words;

	if (fd < 0)
		return;
	words = mmap(NULL, sizeof(*inject_words), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (words != MAP_FAILED)
		inject_words = words;
}

static bool is_hit(enum inject_point point)
{
	struct inject_words *w = inject_words;

	if (w->point != (uint32_t)point)
		return false;
	if (w->pass) {
		w->pass--;
		return false;
	}
	w->point = INJECT_NONE;
	w->hits++;
	return true;
}

bool inject_fails(enum inject_point point)
{
	return inject_words && is_hit(point);
}

void inject_hit(enum inject_point point)
{
	struct inject_words *w = inject_words;

	if (!is_hit(point))
		return;
	if (w->how & INJECT_KEEPER)
		kill(getppid(), SIGKILL);
	if (!(w->how & INJECT_HANG))
		kill(getpid(), SIGKILL);
	for (;;)
		pause();
}
