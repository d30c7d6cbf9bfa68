/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Everything that is stored is read again, and the accounts are done anew from
 * the blob table. Beside it all goes on: each blob is held while it is looked
 * at, each account is compared while nobody may change it.
 */
#include <errno.h>
#include <unistd.h>

#include "flow/blobstore_private.h"

#define IDS_PER_HOLD 512 /* of the lock, for those who put */

/* The next blob that lives, from id on, with a reference; 0: no more. */
static blob_id next_live(struct blobstore *bs, blob_id id)
{
	for (;;) {
		blob_id end = id + IDS_PER_HOLD;
		uint32_t top;

		pthread_mutex_lock(&bs->lock);
		top = blob_table_top(bs->blobs);
		for (; id < MIN(end, top); id++)
			if (blob_loc_of_any(bs->blobs, id) && blob_ref_unless_dead(bs->blobs, id)) {
				pthread_mutex_unlock(&bs->lock);
				return id;
			}
		pthread_mutex_unlock(&bs->lock);
		if (id >= top)
			return 0;
	}
}

static void read_again(struct blobstore *bs, struct codec *codec, struct blobstore_verified *v, blob_id id)
{
	unsigned char page[PAGE_BYTES];

	switch (blobstore_get(bs, codec, id, page)) {
	case 0:
		v->good++;
		break;
	case -EBADMSG:
	case -ENODATA:
	case -ENOENT:
		v->damaged++;
		break;
	default:
		v->unread++;
		break;
	}
}

/* The dedup index. */
static void check_index(struct blobstore *bs, struct blobstore_verified *v)
{
	uint32_t top = 1;

	for (blob_id id = 0; id < top;) {
		blob_id end = id + IDS_PER_HOLD;

		pthread_mutex_lock(&bs->lock);
		top = blob_table_top(bs->blobs);
		for (; id < MIN(end, top); id++)
			v->not_found += blob_loc_of_any(bs->blobs, id) && !blob_is_indexed(bs->blobs, id);
		pthread_mutex_unlock(&bs->lock);
	}
}

/* What the blobs of each segment sum up to, the dead that still stand in the
   table among them. Under both locks. */
static void sum_up(struct blobstore *bs, uint64_t *live)
{
	uint32_t top = blob_table_top(bs->blobs);

	for (blob_id id = 1; id < top; id++) {
		uint64_t loc = blob_loc_of_any(bs->blobs, id);

		if (loc)
			live[blob_loc_segment(loc)] += record_size(loc);
	}
}

static void compare(struct blobstore *bs, const uint64_t *live, struct blobstore_verified *v)
{
	uint64_t tiers[TIERS_MAX] = { 0 }, tenants = 0, all = 0;

	for (uint32_t i = 0; i < bs->top_segment; i++) {
		const struct segment *seg = &bs->segments[i];

		v->wrong_accounts += seg->live != live[i] || seg->live > seg->fill;
		tiers[seg->tier] += seg->live;
	}
	for (uint32_t i = 0; i < bs->nr_tiers; i++) {
		v->wrong_accounts += bs->tiers[i].live != tiers[i];
		all += tiers[i];
	}
	for (uint32_t i = 0; i < bs->nr_tenants; i++)
		tenants += bs->tenants[i].live;
	v->wrong_accounts += tenants != all; /* INV-8 */
}

static int check_accounts(struct blobstore *bs, struct blobstore_verified *v)
{
	_cleanup_free_ uint64_t *live = calloc(bs->nr_segments, sizeof(*live));

	if (!live)
		return -ENOMEM;
	pthread_mutex_lock(&bs->house);
	pthread_mutex_lock(&bs->lock);
	sum_up(bs, live);
	compare(bs, live, v);
	pthread_mutex_unlock(&bs->lock);
	pthread_mutex_unlock(&bs->house);
	return 0;
}

int blobstore_verify(struct blobstore *bs, struct codec *codec, const _Atomic bool *stop,
		     struct blobstore_verified *v)
{
	blob_id id = 0;

	*v = (struct blobstore_verified){ .good = 0 };
	while ((id = next_live(bs, id + 1))) {
		if (!*stop)
			read_again(bs, codec, v, id);
		blob_unref(bs->blobs, id);
		if (*stop)
			return -ECANCELED;
	}
	check_index(bs, v);
	return check_accounts(bs, v);
}
