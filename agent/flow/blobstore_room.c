/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Room in the first tier, for those who put: made by whoever needs it, or by the
   mover, which may be held up by a store that does not answer. */
#include "flow/blobstore_private.h"

#include <time.h>

#define WAIT_SEC 1

void room_init(struct blobstore *bs)
{
	pthread_condattr_t attr;

	pthread_mutex_init(&bs->room_lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&bs->room_made, &attr);
	pthread_condattr_destroy(&attr);
}

void room_deinit(struct blobstore *bs)
{
	pthread_cond_destroy(&bs->room_made);
	pthread_mutex_destroy(&bs->room_lock);
}

void blobstore_set_carrier(struct blobstore *bs, void (*wake)(void *ctx), void *ctx)
{
	bs->wake_ctx = ctx;
	bs->wake = wake;
}

static bool wait_for_room(struct blobstore *bs)
{
	struct timespec until;
	uint64_t round;
	int r = 0;
	bool made;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += WAIT_SEC;
	pthread_mutex_lock(&bs->room_lock);
	round = bs->room_rounds;
	bs->room_wanted = true;
	bs->wake(bs->wake_ctx);
	while (round == bs->room_rounds && !bs->no_answer && !r)
		r = pthread_cond_timedwait(&bs->room_made, &bs->room_lock, &until);
	made = round != bs->room_rounds && bs->room_was_made;
	if (round == bs->room_rounds)
		bs->no_answer = true;
	pthread_mutex_unlock(&bs->room_lock);
	return made;
}

bool room_make(struct blobstore *bs)
{
	bool made;

	if (bs->wake)
		return !bs->no_answer && wait_for_room(bs);
	pthread_mutex_lock(&bs->carry);
	made = mover_make_room(bs);
	pthread_mutex_unlock(&bs->carry);
	return made;
}

void room_answer(struct blobstore *bs)
{
	bool wanted, made;

	pthread_mutex_lock(&bs->room_lock);
	wanted = bs->room_wanted;
	bs->room_wanted = false;
	pthread_mutex_unlock(&bs->room_lock);
	made = wanted && mover_make_room(bs);
	pthread_mutex_lock(&bs->room_lock);
	bs->no_answer = false;
	if (wanted) {
		bs->room_was_made = made;
		bs->room_rounds++;
		pthread_cond_broadcast(&bs->room_made);
	}
	pthread_mutex_unlock(&bs->room_lock);
}
