/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Verifying the store: a thread of its own, one at a time. */
#include "engine/private.h"

#include <errno.h>
#include <sys/prctl.h>

#include "common/log.h"
#include "common/util.h"

struct verification {
	struct mail mail;
	struct engine *engine;
	pthread_t thread;
	_Atomic bool stop;
	int status;
	struct blobstore_verified found;
	engine_verified_fn done; /* NULL: nobody waits any more */
	void *arg;
};

static void *run(void *arg)
{
	struct verification *v = arg;
	struct codec *codec = codec_new(1);

	prctl(PR_SET_NAME, "uswap-verify");
	v->status = codec ? blobstore_verify(v->engine->flow.blobstore, codec, &v->stop, &v->found) : -ENOMEM;
	codec_free(codec);
	v->mail.kind = MAIL_VERIFIED;
	mailbox_send(&v->engine->flow.engine, &v->mail);
	return NULL;
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
	r = -pthread_create(&v->thread, NULL, run, v);
	if (r < 0) {
		free(v);
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
					 .wrong_accounts = v->found.wrong_accounts };

	pthread_join(v->thread, NULL);
	if (found.damaged || found.wrong_accounts)
		log_error("verify: %llu of %llu stored pages are damaged, %llu accounts are wrong",
			  (unsigned long long)found.damaged,
			  (unsigned long long)(found.good + found.damaged + found.unread),
			  (unsigned long long)found.wrong_accounts);
	if (v->done)
		v->done(v->arg, v->status, &found);
	e->verification = NULL;
	free(v);
}

void verify_stop(struct engine *e)
{
	if (!e->verification)
		return;
	e->verification->stop = true;
	pthread_join(e->verification->thread, NULL);
	free(e->verification);
	e->verification = NULL;
}
