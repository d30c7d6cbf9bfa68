/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent/drain.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <systemd/sd-daemon.h>

#include "common/log.h"
#include "common/units.h"
#include "common/util.h"
#include "control/control.h"
#include "engine/engine.h"

#define TICK_USEC 1000000
#define EXTEND "\nEXTEND_TIMEOUT_USEC=30000000" /* the service manager's patience */
#define LEAVE_NS (60 * NSEC_PER_SEC) /* when the machine goes down */
#define PATIENCE_NS (60 * NSEC_PER_SEC) /* without any progress */

_Static_assert(DRAIN_MESSAGE == CONTROL_MESSAGE, "one buffer");

static void tell_progress(struct drain *d)
{
	struct engine_stats stats;
	char left[UNITS_TEXT];
	bool moving;

	engine_get_stats(d->engine, &stats);
	if (stats.counters.evicted_bytes < d->left)
		d->moved_ns = now_ns();
	d->left = stats.counters.evicted_bytes;
	moving = now_ns() - d->moved_ns < PATIENCE_NS;
	units_format_size(left, d->left);
	/* When nothing moves any more, the manager's own timeout decides. */
	sd_notifyf(false, "STATUS=Stopping: %s of %u programs to be restored%s%s", left,
		   stats.nr_processes, moving ? "" : ", but nothing moves", moving ? EXTEND : "");
	log_info("stopping: %s of %u programs to be restored%s", left, stats.nr_processes,
		 moving ? "" : ", but nothing moves");
}

static void go_on_waiting(struct drain *d, const char *message)
{
	if (d->leave_ns && now_ns() > d->leave_ns) {
		log_error("leaving programs that nobody has ended: %s", message);
		d->leave(d->ctx);
	}
	sd_notifyf(false, "STATUS=Can't stop yet. %s" EXTEND, message);
}

static int on_tick(sd_event_source *source, uint64_t usec, void *ctx)
{
	struct drain *d = ctx;
	char message[DRAIN_MESSAGE];

	if (d->under_way)
		tell_progress(d);
	else if (d->wanted && drain_start(d, message) < 0)
		go_on_waiting(d, message);
	sd_event_source_set_time(source, usec + TICK_USEC);
	return sd_event_source_set_enabled(source, SD_EVENT_ON);
}

static int start_timer(struct drain *d)
{
	if (d->timer)
		return 0;
	return sd_event_add_time_relative(d->event, &d->timer, CLOCK_MONOTONIC, TICK_USEC, 0,
					  on_tick, d);
}

/* Is there memory for all that is out? */
static int check_memory(struct drain *d, char *message)
{
	uint64_t needed, available;
	char a[UNITS_TEXT], b[UNITS_TEXT];

	engine_get_drain_memory(d->engine, &needed, &available);
	if (needed <= available)
		return 0;
	snprintf(message, DRAIN_MESSAGE,
		 "Restoring everything takes %s of memory, and %s are available: "
		 "free some, end programs, or leave them to a later start (uswapctl drain --leave)",
		 units_format_size(a, needed), units_format_size(b, available));
	return -ENOMEM;
}

int drain_start(struct drain *d, char *message)
{
	int r;

	if (d->under_way)
		return 0;
	r = check_memory(d, message);
	if (r < 0)
		return r;
	d->under_way = true;
	d->left = UINT64_MAX;
	d->moved_ns = now_ns();
	sd_notify(false, "STOPPING=1");
	d->begun(d->ctx);
	control_set_state(d->control, CONTROL_DRAINING);
	r = start_timer(d);
	if (r < 0)
		log_warning("no progress will be shown: %s", strerror(-r));
	tell_progress(d);
	engine_drain(d->engine);
	return 0;
}

void drain_when_possible(struct drain *d, bool going_down)
{
	char message[DRAIN_MESSAGE];
	int r;

	if (d->under_way || d->wanted) {
		log_notice("stopping already; it goes on until everything is restored");
		return;
	}
	if (drain_start(d, message) == 0)
		return;
	d->wanted = true;
	log_error("can't stop yet. %s. Programs are served meanwhile", message);
	if (going_down)
		d->leave_ns = now_ns() + LEAVE_NS;
	go_on_waiting(d, message);
	r = start_timer(d);
	if (r < 0)
		log_error("nor will it be tried again by itself: %s", strerror(-r));
}

void drain_if_idle(struct drain *d)
{
	char message[DRAIN_MESSAGE];
	struct engine_stats stats;

	if (!d->engine || d->under_way)
		return;
	engine_get_stats(d->engine, &stats);
	if (stats.nr_processes == 0)
		(void)drain_start(d, message);
}

void drain_done(struct drain *d)
{
	log_info("everything is restored");
	control_drained(d->control);
	sd_event_exit(d->event, 0);
}

void drain_deinit(struct drain *d)
{
	d->timer = sd_event_source_disable_unref(d->timer);
}
