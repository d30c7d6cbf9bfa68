/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Verifying the store: a thread of its own, one at a time. What is stored is read
 * again; then the references to it are counted, those of slots by their owners,
 * in rounds (flow/blobstore.h). Nobody stops for it.
 */
#include "engine/private.h"

#include <errno.h>
#include <semaphore.h>
#include <sys/prctl.h>

#include "common/log.h"
#include "common/util.h"

#define ROUNDS 9
#define PAUSE_USEC 20000u /* after the first one, then twice as long */

struct verification {
	struct mail mail;
	struct engine *engine;
	pthread_t thread;
	_Atomic bool stop;
	sem_t counted;
	struct owner_count {
		struct count count;
		struct verification *v;
	} counts[OWNERS_MAX];
	char wrong[256]; /* what is, in words */
	int status;
	struct blobstore_verified found;
	engine_verified_fn done; /* NULL: nobody waits any more */
	void *arg;
};

/* ---- references ---- */

static void counted(struct count *count)
{
	sem_post(&CONTAINER_OF(count, struct owner_count, count)->v->counted);
}

/* All owners count. They may be late, but they come: no bound. */
static int count_slots(struct verification *v, struct blobstore_references *refs)
{
	struct engine *e = v->engine;
	int r = 0;

	for (unsigned i = 0; i < e->nr_owners; i++) {
		struct owner *o = &e->owners[i].owner;
		struct count *c = &v->counts[i].count;

		*c = (struct count){ .mail.kind = COUNT_BEGIN, .refs = refs, .done = counted };
		v->counts[i].v = v;
		c->nr = slot_pool_nodes(o->slots);
		c->seen = calloc(c->nr / 8 + 1, 1);
		if (c->seen)
			mailbox_send(&o->box, &c->mail);
		else
			r = -ENOMEM;
	}
	for (unsigned i = 0; i < e->nr_owners; i++) {
		if (v->counts[i].count.seen)
			while (sem_wait(&v->counted))
				;
	}
	for (unsigned i = 0; i < e->nr_owners; i++)
		free(v->counts[i].count.seen);
	return r;
}

static void count_forwarders(struct verification *v, struct blobstore_references *refs)
{
	const struct staging *staging = v->engine->flow.staging;
	uint32_t n = staging_forwarders(staging) ? staging_indices(staging) : 0;

	for (uint32_t i = 0; i < n; i++) {
		uint32_t blob = staging_forwarder(staging, i);

		if (blob)
			blobstore_references_add(refs, blob);
	}
}

static int verify_references(struct verification *v)
{
	struct blobstore_references *refs = blobstore_references_new(v->engine->flow.blobstore);
	uint64_t open = 1;
	int r = refs ? 0 : -ENOMEM;

	for (unsigned i = 0; !r && i < ROUNDS && open; i++) {
		if (i)
			usleep(PAUSE_USEC << (i - 1));
		blobstore_references_begin(refs);
		r = count_slots(v, refs);
		count_forwarders(v, refs);
		open = blobstore_references_end(refs);
		if (v->stop)
			r = -ECANCELED;
	}
	if (!r)
		blobstore_references_report(refs, &v->found, v->wrong, sizeof(v->wrong));
	blobstore_references_free(refs);
	return r;
}

/* ---- */

static void *run(void *arg)
{
	struct verification *v = arg;
	struct codec *codec = codec_new(1);

	prctl(PR_SET_NAME, "uswap-verify");
	v->status = codec ? blobstore_verify(v->engine->flow.blobstore, codec, &v->stop, &v->found) : -ENOMEM;
	codec_free(codec);
	if (!v->status)
		v->status = verify_references(v);
	v->mail.kind = MAIL_VERIFIED;
	mailbox_send(&v->engine->flow.engine, &v->mail);
	return NULL;
}

static void forget(struct verification *v)
{
	sem_destroy(&v->counted);
	free(v);
}

int engine_verify(struct engine *e, engine_verified_fn done, void *arg)
{
	struct verification *v;
	int r;

	if (e->verification)
		return -EBUSY;
	v = calloc(1, sizeof(*v));
	if (!v)
		return -ENOMEM;
	*v = (struct verification){ .engine = e, .done = done, .arg = arg };
	sem_init(&v->counted, 0, 0);
	r = -pthread_create(&v->thread, NULL, run, v);
	if (r < 0) {
		forget(v);
		return r;
	}
	e->verification = v;
	return 0;
}

void engine_verify_forget(struct engine *e)
{
	if (e->verification)
		e->verification->done = NULL;
}

void verify_done(struct engine *e)
{
	struct verification *v = e->verification;
	struct engine_verified found = { .good = v->found.good,
					 .damaged = v->found.damaged,
					 .unread = v->found.unread,
					 .wrong_accounts = v->found.wrong_accounts,
					 .not_found = v->found.not_found,
					 .wrong_references = v->found.wrong_references,
					 .unsettled = v->found.unsettled };

	pthread_join(v->thread, NULL);
	if (found.damaged || found.wrong_accounts || found.not_found || found.wrong_references)
		log_error("verify: %llu of %llu stored pages are damaged, %llu accounts and %llu counts of "
			  "references are wrong, %llu pages would not be found again%s%s",
			  (unsigned long long)found.damaged,
			  (unsigned long long)(found.good + found.damaged + found.unread),
			  (unsigned long long)found.wrong_accounts, (unsigned long long)found.wrong_references,
			  (unsigned long long)found.not_found, *v->wrong ? ": " : "", v->wrong);
	if (v->done)
		v->done(v->arg, v->status, &found);
	e->verification = NULL;
	forget(v);
}

void verify_stop(struct engine *e)
{
	if (!e->verification)
		return;
	e->verification->stop = true;
	pthread_join(e->verification->thread, NULL);
	forget(e->verification);
	e->verification = NULL;
}
