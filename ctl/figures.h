/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * figures: what the agent tells about one process or about all of them, as
 * plain data. One table maps a D-Bus property to its place here and to its
 * key in --json, so that all outputs know the same.
 */
#ifndef USWAP_CTL_FIGURES_H
#define USWAP_CTL_FIGURES_H

#include <stddef.h>

#include "ctl/ctl.h"

#define FIGURES_ROWS 96
#define FIGURES_TEXT 256
#define FIGURES_BUCKETS 128
#define FIGURES_TIERS 8

struct bucket {
	uint64_t bound_ns, count;
};

struct tier {
	char name[FIGURES_TEXT], state[FIGURES_TEXT], reason[FIGURES_TEXT];
	uint64_t capacity, used, live, dead, segments, written, read;
	uint64_t pending, writes_pending, oldest_ns, read_p50_ns, read_p99_ns, write_p50_ns, write_p99_ns;
	uint64_t errors, io, timeouts, access, missing, misuse, full;
	uint64_t corrupt, moved_in, collected, borrowed, borrowed_pages, lookups, misses, daily_left;
};

struct figures {
	bool present[FIGURES_ROWS]; /* row i of figure_rows was told */
	/* all */
	char version[FIGURES_TEXT];
	char dedup_domain[FIGURES_TEXT];
	uint32_t n_processes;
	uint64_t held, staging, metadata, store_capacity, store_used, store_live, store_blobs;
	uint64_t pack_usec, packed, plain, dictionary, dictionary_saved, dictionaries;
	uint64_t delta, delta_bytes, clustered, clustered_bytes, raw, raw_bytes;
	uint64_t recompressed, recompress_saved, recompress_usec, compacted, collect_usec, promoted;
	uint64_t trained, retired, duplicate_missed, duplicate_passed;
	uint64_t store_errors, attach_refused;
	struct tier tiers[FIGURES_TIERS];
	unsigned nr_tiers;
	/* one process */
	uint64_t id, attached_usec, limit;
	uint32_t pid, uid, parent_pid;
	char command[FIGURES_TEXT], cgroup[FIGURES_TEXT], reason[FIGURES_TEXT];
	/* both */
	char state[FIGURES_TEXT];
	int enabled;
	uint64_t resident, registered, evicted, staged, fill, stored;
	uint64_t pages_out, pages_in, faults, refaults, major, zero, duplicate, incompressible;
	uint64_t prefetched, prefetch_used, helped, unpack_usec;
	uint64_t busy, poisoned, stall_usec;
	struct bucket latency[FIGURES_BUCKETS];
	unsigned nr_latency;
};

struct figure_row {
	const char *property;
	const char *key;   /* in --json */
	const char *label; /* for people */
	char type;	   /* of D-Bus: s t u b */
	size_t offset;
};

extern const struct figure_row figure_rows[];
extern const size_t nr_figure_rows;
/* The same for a tier; types s, t, and n: nanoseconds, t on the bus. */
extern const struct figure_row tier_rows[];
extern const size_t nr_tier_rows;

/* enum ctl_exit; *v is freed by the caller. */
int figures_get_agent(struct ctl *ctl, struct figures *f);
int figures_get_process(struct ctl *ctl, uint32_t pid, struct figures *f);
int figures_get_all(struct ctl *ctl, struct figures **v, size_t *n);

/*
 * Derived, and defined here once:
 * ratio	bytes of evicted pages for one byte of what is kept of them: staged
 *		pages as they are, the others compressed. 0: nothing is evicted.
 * same share	same-filled pages among the evicted
 * dup share	pages that were stored already, among all ever taken out
 */
double figures_ratio(const struct figures *f);
double figures_same_share(const struct figures *f);
double figures_dup_share(const struct figures *f);
/* Of the processor time for packing, decompressing, compressing again and garbage: what
   went into garbage. */
double figures_collect_share(const struct figures *f);
/* Bytes written again to make room or smaller, for each one that came from outside. */
double figures_rewritten(const struct tier *t);
/* Microseconds of processor time for a page packed, and for one decompressed. */
double figures_pack_usec(const struct figures *f);
double figures_unpack_usec(const struct figures *f);
/* Service time that a share of the refaults didn't exceed (the upper bound of
   its bucket), 0: there were none. */
uint64_t figures_latency_ns(const struct figures *f, double share);

#endif
