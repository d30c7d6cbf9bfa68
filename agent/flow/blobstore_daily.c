/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * daily=: what was written to a medium in any 24 hours. It is counted in kept memory,
 * by hours of the machine's uptime, which nobody sets; and from time to time, and at
 * the end, it is written to the medium itself, by the wall clock, so that a start
 * after a stop, or after a boot, goes on counting.
 */
#include <time.h>

#include "flow/blobstore_private.h"

#define HOUR_SEC 3600u
#define HOUR_NS (HOUR_SEC * NSEC_PER_SEC)
/* While it is written to, the medium knows all but that share of daily=, or but of the
   last minute. */
#define UNSAVED_SHARE 64
#define UNSAVED_NS (60 * NSEC_PER_SEC)
/* What two looks at both clocks may differ by. */
#define CLOCKS_SEC 60u

_Static_assert(DAILY_HOURS == STORE_HOURS, "the medium has as many");

/* Of the hour that is n before the last one noted. */
static _Atomic uint64_t *hours_before(struct daily *d, uint64_t n)
{
	return &d->bytes[(d->hour + DAILY_HOURS - n) % DAILY_HOURS];
}

uint64_t tier_daily_left(const struct tier *t, uint64_t now)
{
	uint64_t most = store_daily_writes(t->store), sum = 0;
	struct daily *d = t->daily;

	if (!most)
		return UINT64_MAX;
	for (uint64_t i = 0; i < DAILY_HOURS && d->hour + DAILY_HOURS > now / HOUR_NS + i; i++)
		sum += *hours_before(d, i);
	return most - MIN(sum, most);
}

/* The hours since the last one noted have nothing in them. */
static void begin_hour(struct daily *d, uint64_t hour)
{
	uint64_t last = d->hour;

	for (uint64_t i = 0; i < DAILY_HOURS && last + i < hour; i++)
		d->bytes[(last + i + 1) % DAILY_HOURS] = 0;
	d->hour = hour;
}

/* When the hour of uptime that runs began, by the wall clock. */
static uint64_t hour_began(uint64_t now)
{
	return (uint64_t)time(NULL) - now % HOUR_NS / NSEC_PER_SEC;
}

void tier_daily_save(struct tier *t)
{
	uint64_t now = now_ns();
	struct store_written w = { .hour_began = hour_began(now) };

	if (!t->unsaved_bytes)
		return;
	begin_hour(t->daily, now / HOUR_NS);
	for (uint64_t i = 0; i < DAILY_HOURS; i++)
		w.bytes[i] = *hours_before(t->daily, i);
	t->unsaved_bytes = 0;
	t->saved_ns = now;
	(void)store_set_written(t->store, &w); /* what fails is told of by the writes themselves */
}

void tier_daily_note(struct tier *t, uint64_t bytes)
{
	uint64_t most = store_daily_writes(t->store), now = now_ns();

	begin_hour(t->daily, now / HOUR_NS);
	t->daily->bytes[t->daily->hour % DAILY_HOURS] += bytes;
	if (!most)
		return;
	t->unsaved_bytes += bytes;
	if (t->unsaved_bytes >= most / UNSAVED_SHARE || now >= t->saved_ns + UNSAVED_NS)
		tier_daily_save(t);
}

void tier_daily_load(struct tier *t)
{
	uint64_t now = now_ns(), began = hour_began(now), before;
	struct daily *d = t->daily;
	struct store_written w;

	if (!store_daily_writes(t->store) || store_get_written(t->store, &w))
		return;
	/* Rather an hour longer than one too short; and where the clock was set back since
	   then, as if it had been just now. */
	before = (began + CLOCKS_SEC - MIN(w.hour_began, began + CLOCKS_SEC)) / HOUR_SEC;
	d->hour = now / HOUR_NS;
	for (uint64_t i = 0; before + i < DAILY_HOURS; i++)
		*hours_before(d, before + i) = w.bytes[i];
}
