/* SPDX-License-Identifier: GPL-2.0-or-later */
/* status, stats, list: for people. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/units.h"
#include "common/util.h"
#include "ctl/figures.h"
#include "ctl/show.h"
#include "ctl/table.h"

#define STATUS_TOP 5

static const char *size_text(const struct ctl *ctl, char text[UNITS_TEXT], uint64_t bytes)
{
	if (!ctl->bytes)
		return units_format_size(text, bytes);
	snprintf(text, UNITS_TEXT, "%" PRIu64, bytes);
	return text;
}

static void add_size(struct table *t, const struct ctl *ctl, uint64_t bytes)
{
	char text[UNITS_TEXT];

	table_add(t, "%s", size_text(ctl, text, bytes));
}

static void add_time(struct table *t, uint64_t ns)
{
	char text[UNITS_TEXT];

	table_add(t, "%s", ns ? units_format_time(text, ns) : "-");
}

static void add_ratio(struct table *t, const struct figures *f)
{
	double ratio = figures_ratio(f);

	if (ratio > 0)
		table_add(t, "%.2f", ratio);
	else
		table_add(t, "-");
}

static void add_program(struct table *t, const struct ctl *ctl, const struct figures *f,
			bool is_sum)
{
	if (is_sum)
		table_add(t, "all");
	else if (f->pid)
		table_add(t, "%" PRIu32, f->pid);
	else
		table_add(t, "-");
	table_add(t, "%.20s", is_sum ? "" : f->command);
	table_add(t, "%s", is_sum ? "" : f->state);
	add_size(t, ctl, f->resident);
	add_size(t, ctl, f->evicted);
	add_size(t, ctl, f->stored);
	add_ratio(t, f);
	table_add(t, "%.1f%%", figures_same_share(f) * 100);
	table_add(t, "%.1f%%", figures_dup_share(f) * 100);
	table_add(t, "%" PRIu64, f->faults);
	table_add(t, "%" PRIu64, f->refaults);
	add_time(t, figures_latency_ns(f, 0.5));
	add_time(t, figures_latency_ns(f, 0.99));
	add_time(t, f->stall_usec * NSEC_PER_USEC);
}

static void programs_table(const struct ctl *ctl, const struct figures *v, size_t n,
			   const struct figures *sum, const char *indent)
{
	static const char *const heads[] = { "PID",  "COMMAND", "STATE",  "RESIDENT", "EVICTED",
					     "STORED", "RATIO",	"SAME",	  "DUP",      "FAULTS",
					     "REFAULTS", "P50", "P99",	  "STALL" };
	struct table t = { .columns = ARRAY_SIZE(heads), .right = 0x3ff9 };

	if (!ctl->no_legend)
		for (size_t i = 0; i < ARRAY_SIZE(heads); i++)
			table_add(&t, "%s", heads[i]);
	for (size_t i = 0; i < n; i++)
		add_program(&t, ctl, &v[i], false);
	if (sum && !ctl->no_legend)
		add_program(&t, ctl, sum, true);
	table_print(&t, indent);
	table_deinit(&t);
}

void show_list(const struct ctl *ctl, const struct figures *agent, const struct figures *v,
	       size_t n)
{
	programs_table(ctl, v, n, agent, "");
}

static int by_evicted(const void *a, const void *b)
{
	uint64_t x = ((const struct figures *)a)->evicted;
	uint64_t y = ((const struct figures *)b)->evicted;

	return (x < y) - (x > y);
}

static void line(const char *label, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void line(const char *label, const char *format, ...)
{
	va_list ap;

	printf("  %-12s", label);
	va_start(ap, format);
	vprintf(format, ap);
	va_end(ap);
	putchar('\n');
}

static void show_tier(const struct ctl *ctl, const struct tier *t)
{
	char a[UNITS_TEXT], b[UNITS_TEXT], c[UNITS_TEXT];

	line("store", "%s: %s of %s used, %s needed", t->name, size_text(ctl, a, t->used),
	     size_text(ctl, b, t->capacity), size_text(ctl, c, t->live));
	if (strcmp(t->state, "up") != 0)
		line("", "%s: %s", t->state, t->reason);
	if (t->corrupt)
		line("", "%" PRIu64 " pages were found damaged in it", t->corrupt);
	if (t->oldest_ns > NSEC_PER_SEC)
		line("", "%" PRIu64 " reads wait for it, the oldest for %llu s", t->pending,
		     t->oldest_ns / NSEC_PER_SEC);
}

static void show_memory(const struct ctl *ctl, const struct figures *f)
{
	char a[UNITS_TEXT], b[UNITS_TEXT], ratio[UNITS_TEXT] = "-";
	int64_t saved = (int64_t)(f->evicted - f->held);

	if (figures_ratio(f) > 0)
		snprintf(ratio, sizeof(ratio), "%.2f", figures_ratio(f));
	line("evicted", "%s, resident %s", size_text(ctl, a, f->evicted),
	     size_text(ctl, b, f->resident));
	line("stored", "%s, staged %s, ratio %s", size_text(ctl, a, f->stored),
	     size_text(ctl, b, f->staged), ratio);
	line("held", "%s of memory for it: %s %s", size_text(ctl, a, f->held),
	     saved < 0 ? "costs" : "saves",
	     size_text(ctl, b, (uint64_t)(saved < 0 ? -saved : saved)));
	line("pages", "%.1f%% same-filled, %.1f%% duplicates", figures_same_share(f) * 100,
	     figures_dup_share(f) * 100);
	for (unsigned i = 0; i < f->nr_tiers; i++)
		show_tier(ctl, &f->tiers[i]);
}

void show_status(const struct ctl *ctl, const struct figures *f, struct figures *v, size_t n)
{
	uint64_t p50 = figures_latency_ns(f, 0.5), p99 = figures_latency_ns(f, 0.99);
	char a[UNITS_TEXT], b[UNITS_TEXT];

	printf("uswap-agent %s: %s, eviction %s, %" PRIu32 " program%s\n", f->version, f->state,
	       f->enabled ? "on" : "off", f->n_processes, f->n_processes == 1 ? "" : "s");
	show_memory(ctl, f);
	line("faults", "%" PRIu64 ", refaults %" PRIu64 " (decompressed %" PRIu64 ")", f->faults,
	     f->refaults, f->major);
	if (p50)
		line("latency", "p50 %s, p99 %s of refaults", units_format_time(a, p50),
		     units_format_time(b, p99));
	line("stall", "%s in all", units_format_time(a, f->stall_usec * NSEC_PER_USEC));
	if (f->poisoned)
		line("LOST", "%" PRIu64 " pages", f->poisoned);
	if (f->store_errors)
		line("errors", "%" PRIu64 " of stores", f->store_errors);
	if (n == 0)
		return;
	qsort(v, n, sizeof(*v), by_evicted);
	putchar('\n');
	programs_table(ctl, v, MIN(n, (size_t)STATUS_TOP), NULL, "  ");
	if (n > STATUS_TOP)
		printf("  and %zu more: uswapctl list\n", n - STATUS_TOP);
}

static bool is_bytes(const struct figure_row *row)
{
	size_t n = strlen(row->property);

	return n > 5 && strcmp(row->property + n - 5, "Bytes") == 0;
}

static void add_row(struct table *t, const struct ctl *ctl, const struct figures *f,
		    const struct figure_row *row)
{
	const void *field = (const char *)f + row->offset;
	char text[UNITS_TEXT];

	table_add(t, "%s", row->label);
	if (row->type == 's')
		table_add(t, "%s", *(const char *)field ? (const char *)field : "-");
	else if (row->type == 'b')
		table_add(t, "%s", *(const int *)field ? "on" : "off");
	else if (row->type == 'u')
		table_add(t, "%" PRIu32, *(const uint32_t *)field);
	else if (row->offset == offsetof(struct figures, limit) && !f->limit)
		table_add(t, "none");
	else if (is_bytes(row))
		table_add(t, "%s", size_text(ctl, text, *(const uint64_t *)field));
	else if (strstr(row->property, "USec") || strstr(row->property, "Timestamp"))
		table_add(t, "%s",
			  units_format_time(text, *(const uint64_t *)field * NSEC_PER_USEC));
	else
		table_add(t, "%" PRIu64, *(const uint64_t *)field);
}

static void add_tier(struct table *t, const struct ctl *ctl, const struct tier *tier)
{
	char text[UNITS_TEXT];

	for (size_t i = 0; i < nr_tier_rows; i++) {
		const struct figure_row *row = &tier_rows[i];
		const void *field = (const char *)tier + row->offset;

		table_add(t, "%s%s", row->property ? "  " : "",
			  row->property ? row->label : "store");
		if (row->type == 's')
			table_add(t, "%s", *(const char *)field ? (const char *)field : "-");
		else if (row->type == 'n')
			add_time(t, *(const uint64_t *)field);
		else if (*(const uint64_t *)field == UINT64_MAX) /* no bound */
			table_add(t, "-");
		else if (is_bytes(row))
			table_add(t, "%s", size_text(ctl, text, *(const uint64_t *)field));
		else
			table_add(t, "%" PRIu64, *(const uint64_t *)field);
	}
	table_add(t, "  written again, for each byte");
	table_add(t, "%.2f", figures_rewritten(tier));
}

void show_stats(const struct ctl *ctl, const struct figures *f)
{
	struct table t = { .columns = 2, .right = 0 };

	for (size_t i = 0; i < nr_figure_rows; i++)
		if (f->present[i])
			add_row(&t, ctl, f, &figure_rows[i]);
	table_add(&t, "ratio");
	add_ratio(&t, f);
	table_add(&t, "same-filled share");
	table_add(&t, "%.1f%%", figures_same_share(f) * 100);
	table_add(&t, "duplicate share");
	table_add(&t, "%.1f%%", figures_dup_share(f) * 100);
	if (f->packed) {
		table_add(&t, "packing, a page");
		add_time(&t, (uint64_t)(figures_pack_usec(f) * NSEC_PER_USEC));
	}
	if (f->major) {
		table_add(&t, "decompressing, a page");
		add_time(&t, (uint64_t)(figures_unpack_usec(f) * NSEC_PER_USEC));
	}
	if (f->packed) {
		table_add(&t, "collecting, of that time");
		table_add(&t, "%.1f%%", figures_collect_share(f) * 100);
	}
	table_add(&t, "refault latency p50");
	add_time(&t, figures_latency_ns(f, 0.5));
	table_add(&t, "refault latency p99");
	add_time(&t, figures_latency_ns(f, 0.99));
	for (unsigned i = 0; i < f->nr_tiers; i++)
		add_tier(&t, ctl, &f->tiers[i]);
	table_print(&t, "");
	table_deinit(&t);
}
