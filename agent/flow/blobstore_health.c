/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How it stands with a tier: degraded from an error on until something works again,
 * be it for somebody or for us, who try from time to time. Stores that know more
 * themselves (a pool far away) say so.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "flow/blobstore_private.h"

#define PROBE_NS NSEC_PER_SEC
/* Of a store that can't be tried, an error of writing is news for so long. */
#define NEWS_NS NSEC_PER_SEC

void health_describe(struct tier *tier, struct blobstore_tier *t)
{
	struct store_status status;
	int error = tier->write_error;

	store_get_status(tier->store, &status);
	if (status.state != STORE_UP || status.reason[0])
		snprintf(t->reason, sizeof(t->reason), "%s", status.reason);
	else if (error)
		snprintf(t->reason, sizeof(t->reason), "writing: %s", strerror(-error));
	else if (tier->read_error_ns)
		snprintf(t->reason, sizeof(t->reason), "reading: %s", strerror(-tier->read_error));
	else if (t->daily_left_bytes < SEALED_BATCH)
		snprintf(t->reason, sizeof(t->reason), "what daily= allows has been written in the last 24 hours");
	t->degraded = status.state != STORE_UP || t->reason[0];
}

void health_corrupt(struct blobstore *bs, struct tier *tier, uint64_t n)
{
	atomic_fetch_add_explicit(&bs->corrupt, n, memory_order_relaxed);
	atomic_fetch_add_explicit(&tier->corrupt, n, memory_order_relaxed);
}

static void probe_write(struct tier *t, uint64_t now)
{
	int r;

	if (!t->write_error || now < t->retry_ns)
		return;
	r = store_probe(t->store);
	if (r != -EOPNOTSUPP)
		tier_note_write(t, r);
	else if (now >= t->retry_ns + NEWS_NS)
		t->write_error = 0;
}

/* The next segment of the tier that has been written to, pinned; NULL: none. Another
   one each time: what a single one has lost is no news of the tier. */
static struct segment *pin_next(struct blobstore *bs, uint32_t tier)
{
	struct segment *found = NULL;
	uint32_t *cursor = &bs->tiers[tier].probe_segment;

	pthread_mutex_lock(&bs->lock);
	for (uint32_t i = 0; i < bs->top_segment && !found; i++) {
		struct segment *seg = &bs->segments[(*cursor)++ % bs->top_segment];

		if (seg->tier == tier && (seg->state == SEGMENT_SEALED || seg->state == SEGMENT_OPEN) &&
		    seg->live && !seg->pending)
			found = seg;
	}
	if (found)
		atomic_fetch_add(&found->readers, 1);
	pthread_mutex_unlock(&bs->lock);
	return found;
}

static void probe_read(struct blobstore *bs, uint32_t tier, uint64_t now)
{
	struct tier *t = &bs->tiers[tier];
	unsigned char header[SEALED_HEADER];
	struct segment *seg;
	int r = 0;

	if (!t->read_error_ns || now < MAX(t->probe_ns, t->read_error_ns + PROBE_NS))
		return;
	t->probe_ns = now + PROBE_NS;
	seg = pin_next(bs, tier);
	if (seg) {
		r = store_read(t->store, place_carrier(seg->place), 0, header, sizeof(header));
		segment_unpin(seg);
	}
	if (!r)
		t->read_error_ns = 0;
}

void health_probe(struct blobstore *bs)
{
	uint64_t now = now_ns();

	for (uint32_t i = 1; i < bs->nr_tiers; i++) {
		struct store_status status;

		store_get_status(bs->tiers[i].store, &status);
		if (status.state != STORE_UP)
			continue; /* it tries itself */
		probe_write(&bs->tiers[i], now);
		probe_read(bs, i, now);
	}
}
