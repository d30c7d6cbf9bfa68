/* SPDX-License-Identifier: GPL-2.0-or-later */
/* status, stats, list: asking the agent, and the answer as JSON. */
#include <stdio.h>
#include <stdlib.h>

#include "common/util.h"
#include "ctl/json.h"
#include "ctl/show.h"

static void json_row(struct json *json, const struct figures *f, const struct figure_row *row)
{
	const void *field = (const char *)f + row->offset;

	if (row->type == 's')
		json_text(json, row->key, field);
	else if (row->type == 'b')
		json_bool(json, row->key, *(const int *)field);
	else if (row->type == 'u')
		json_number(json, row->key, *(const uint32_t *)field);
	else
		json_number(json, row->key, *(const uint64_t *)field);
}

static void json_tier_row(struct json *json, const struct tier *t, const struct figure_row *row)
{
	const void *field = (const char *)t + row->offset;

	if (row->type == 's')
		json_text(json, row->key, field);
	else
		json_number(json, row->key, *(const uint64_t *)field);
}

static void json_tiers(struct json *json, const struct figures *f)
{
	json_open(json, "tiers", '[');
	for (unsigned i = 0; i < f->nr_tiers; i++) {
		json_open(json, NULL, '{');
		for (size_t row = 0; row < nr_tier_rows; row++)
			json_tier_row(json, &f->tiers[i], &tier_rows[row]);
		json_real(json, "rewritten_per_byte", figures_rewritten(&f->tiers[i]));
		json_close(json, '}');
	}
	json_close(json, ']');
}

static void json_figures(struct json *json, const char *key, const struct figures *f)
{
	json_open(json, key, '{');
	for (size_t i = 0; i < nr_figure_rows; i++)
		if (f->present[i])
			json_row(json, f, &figure_rows[i]);
	json_real(json, "ratio", figures_ratio(f));
	json_real(json, "same_filled_share", figures_same_share(f));
	json_real(json, "duplicate_share", figures_dup_share(f));
	json_real(json, "collect_share", figures_collect_share(f));
	json_real(json, "pack_usec_per_page", figures_pack_usec(f));
	json_real(json, "unpack_usec_per_page", figures_unpack_usec(f));
	json_number(json, "refault_latency_p50_ns", figures_latency_ns(f, 0.5));
	json_number(json, "refault_latency_p99_ns", figures_latency_ns(f, 0.99));
	json_open(json, "refault_latency_histogram", '[');
	for (unsigned i = 0; i < f->nr_latency; i++) {
		json_open(json, NULL, '{');
		json_number(json, "up_to_ns", f->latency[i].bound_ns);
		json_number(json, "count", f->latency[i].count);
		json_close(json, '}');
	}
	json_close(json, ']');
	if (f->nr_tiers)
		json_tiers(json, f);
	json_close(json, '}');
}

void show_json(const struct ctl *ctl, const struct figures *agent, const struct figures *v,
	       size_t n)
{
	struct json json = { .pretty = ctl->pretty };

	json_open(&json, NULL, '{');
	if (agent)
		json_figures(&json, "agent", agent);
	json_open(&json, "processes", '[');
	for (size_t i = 0; i < n; i++)
		json_figures(&json, NULL, &v[i]);
	json_close(&json, ']');
	json_close(&json, '}');
}

enum shown { SHOW_STATUS, SHOW_LIST, SHOW_STATS };

static int by_pid(const void *a, const void *b)
{
	const struct figures *x = a, *y = b;

	return x->pid != y->pid ? (x->pid > y->pid) - (x->pid < y->pid) :
				  (x->id > y->id) - (x->id < y->id);
}

static int show_all(struct ctl *ctl, enum shown shown)
{
	_cleanup_free_ struct figures *agent = calloc(1, sizeof(*agent));
	_cleanup_free_ struct figures *v = NULL;
	size_t n = 0;
	int code = agent ? ctl_connect(ctl) : CTL_FAILED;

	if (code == CTL_OK)
		code = figures_get_agent(ctl, agent);
	if (code == CTL_OK)
		code = figures_get_all(ctl, &v, &n);
	if (code != CTL_OK)
		return code;
	if (n)
		qsort(v, n, sizeof(*v), by_pid);
	if (ctl->json)
		show_json(ctl, agent, v, n);
	else if (shown == SHOW_STATUS)
		show_status(ctl, agent, v, n);
	else if (shown == SHOW_LIST)
		show_list(ctl, agent, v, n);
	else
		show_stats(ctl, agent);
	return CTL_OK;
}

int verb_status(struct ctl *ctl, int argc, char *argv[])
{
	return show_all(ctl, SHOW_STATUS);
}

int verb_list(struct ctl *ctl, int argc, char *argv[])
{
	return show_all(ctl, SHOW_LIST);
}

/* Those of the processes named, one block each. */
static int show_named(struct ctl *ctl, int n, char *argv[])
{
	_cleanup_free_ struct figures *v = calloc((size_t)n, sizeof(*v));
	uint32_t pid;
	int code = CTL_OK;

	if (!v)
		return CTL_FAILED;
	for (int i = 0; i < n; i++)
		if (ctl_parse_pid(argv[i], &pid) != CTL_OK)
			return CTL_USAGE;
	code = ctl_connect(ctl);
	for (int i = 0; code == CTL_OK && i < n; i++) {
		ctl_parse_pid(argv[i], &pid);
		code = figures_get_process(ctl, pid, &v[i]);
	}
	if (code != CTL_OK)
		return code;
	if (ctl->json)
		show_json(ctl, NULL, v, (size_t)n);
	for (int i = 0; !ctl->json && i < n; i++) {
		if (i)
			putchar('\n');
		show_stats(ctl, &v[i]);
	}
	return CTL_OK;
}

int verb_stats(struct ctl *ctl, int argc, char *argv[])
{
	return argc ? show_named(ctl, argc, argv) : show_all(ctl, SHOW_STATS);
}
