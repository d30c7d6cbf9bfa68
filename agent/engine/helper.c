/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Threads that unpack what owners will place soon (flow/unpack.h). */
#include "engine/private.h"

#include <sched.h>
#include <sys/prctl.h>

#include "common/util.h"

/* A window of so many pages: one who reads so far in order goes on, mostly. */
#define LEAST 32

static bool work(struct helpers *h, struct codec *codec)
{
	bool found = false;

	for (unsigned i = 0; i < h->nr_rings; i++)
		while (unpack_work(h->rings[i], h->flow->blobstore, codec, true))
			found = true;
	return found;
}

static void *run(void *arg)
{
	struct helpers *h = arg;
	struct codec *codec = codec_new(h->level);

	prctl(PR_SET_NAME, "uswap-help");
	while (codec && !atomic_load(&h->stop)) {
		if (work(h, codec))
			continue;
		unpack_about_to_wait(&h->pool);
		if (work(h, codec) || atomic_load(&h->stop))
			unpack_dont_wait(&h->pool);
		else
			unpack_wait(&h->pool);
	}
	codec_free(codec);
	return NULL;
}

unsigned helpers_init(struct helpers *h, struct flow *flow)
{
	cpu_set_t set;
	unsigned cpus = sched_getaffinity(0, sizeof(set), &set) ? 1 : (unsigned)CPU_COUNT(&set);

	h->flow = flow;
	h->pool.least = LEAST;
	sem_init(&h->pool.work, 0, 0);
	if (cpus > 1)
		flow->unpack_pool = &h->pool;
	return MIN(cpus - 1, HELPERS_MAX);
}

int helpers_start(struct helpers *h, struct engine *e, unsigned nr)
{
	h->level = e->settings.compression_level;
	for (unsigned i = 0; i < e->nr_owners; i++)
		h->rings[h->nr_rings++] = e->owners[i].owner.unpack;
	for (; h->nr < nr; h->nr++) {
		int r = -pthread_create(&h->threads[h->nr], NULL, run, h);

		if (r < 0)
			return r;
	}
	return 0;
}

void helpers_stop(struct helpers *h)
{
	if (!h->flow)
		return;
	atomic_store(&h->stop, true);
	unpack_stop(&h->pool, h->nr);
	for (unsigned i = 0; i < h->nr; i++)
		pthread_join(h->threads[i], NULL);
	sem_destroy(&h->pool.work);
}
