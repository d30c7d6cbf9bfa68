/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * engine: owns every session, thread and the store; the only thing the control
 * layer (D-Bus, main) talks to.
 *
 * All functions here are for the control thread only, and return quickly.
 * News reach the control thread through engine_fd(): when it is readable, call
 * engine_dispatch(), which runs the callbacks.
 */
#ifndef USWAP_ENGINE_ENGINE_H
#define USWAP_ENGINE_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "engine/settings.h"

struct engine;

/* Can KeyFile= be used, if there is one? Or what to say of it. */
#define ENGINE_KEY_MESSAGE (SETTINGS_PLACE_MAX + SETTINGS_TEXT_MAX + 128)
bool engine_check_key(const struct settings *settings, char *message);
/* An agent before this one had another Store=, and no program is left of it: what it has
   kept would only hinder. Before there is a worker. */
bool engine_starts_anew(const struct settings *settings);

/* Fault service time: bucket i counts faults of up to 2^(i/4) * 250 ns, the
   last one all others. Measured in the agent, from the message being read to
   the copy being placed. */
#define ENGINE_LATENCY_BUCKETS 96
uint64_t engine_latency_bound_ns(unsigned bucket);

/* Of one process, or summed over all that are and were. Bytes are multiples of
   the page size unless they are stored bytes. */
struct engine_counters {
	uint64_t resident_bytes;   /* RSS as the kernel tells it */
	uint64_t registered_bytes; /* address space that we serve */
	uint64_t evicted_bytes;	   /* pages that are with us = staged + fill + stored */
	uint64_t staged_bytes;	   /* of those, still uncompressed */
	uint64_t fill_bytes;	   /* of those, same-filled: no body */
	uint64_t stored_bytes;	   /* compressed bytes of the stored ones, duplicates at full price */
	uint64_t pages_out_total;  /* pages staged */
	uint64_t pages_in_total;   /* pages given back, for whatever reason */
	uint64_t faults_total;	   /* page-fault messages answered */
	uint64_t refaults_total;   /* of those, on evicted pages */
	uint64_t major_total;	   /* of those, decompressed */
	uint64_t zero_total;	   /* first touches answered with zeros (messages) */
	uint64_t duplicate_pages_total; /* dedup hits when packing */
	uint64_t incompressible_total;	/* pages brought back since they don't compress */
	uint64_t prefetched_total;	/* pages brought back before they were touched */
	uint64_t prefetch_used_total;	/* of those, in windows that touches went on past */
	uint64_t helped_total;		/* pages decompressed ahead by helpers, and placed */
	uint64_t unpack_ns_total;	/* making pages whole again */
	uint64_t busy_total;		/* pages the kernel refused to move (shared, pinned) */
	uint64_t poisoned_total;
	uint64_t stall_ns_total; /* time threads were seen waiting for us */
	uint64_t latency[ENGINE_LATENCY_BUCKETS]; /* of refaults */
};

enum engine_process_state {
	ENGINE_PROCESS_ACTIVE = 0, /* attached, eviction as policy says */
	ENGINE_PROCESS_SERVED,	   /* fork child without a mover: served, not evicted */
	ENGINE_PROCESS_PAUSED,	   /* eviction switched off by order */
	ENGINE_PROCESS_RESTORING,  /* everything is coming back, then it is left alone */
	ENGINE_PROCESS_LEFT,	   /* left alone (mover gone, order, error) */
};

struct engine_process {
	uint64_t id;		/* unique for the agent's life, never reused */
	pid_t pid;		/* 0: unknown (fork child that has not said hello) */
	uid_t uid;
	pid_t parent_session_pid; /* of the session it was forked from, or 0 */
	uint64_t attached_ns;	/* CLOCK_MONOTONIC */
	char command[64];	/* comm */
	char cgroup[256];
	enum engine_process_state state;
	const char *reason;	/* static text: why not ACTIVE, or why nothing leaves, or "" */
	uint64_t limit_bytes;	/* resident limit in force, 0: none */
	struct engine_counters counters;
};

/* A store. Figures of reads and writes are of slow ones only. */
struct engine_tier {
	const char *name;
	const char *state; /* "up", "degraded", "away", ...: store_state_name() */
	char reason[192];  /* for people, "" when up */
	uint64_t capacity_bytes;
	uint64_t used_bytes; /* memory, disk or objects taken */
	uint64_t live_bytes; /* of those, needed */
	uint64_t dead_bytes; /* garbage in segments */
	uint64_t segments;
	uint64_t written_bytes_total, read_bytes_total;
	uint64_t reads_pending, writes_pending;
	uint64_t oldest_read_ns; /* how long the oldest of them has waited */
	uint64_t read_p50_ns, read_p99_ns, write_p50_ns, write_p99_ns;
	uint64_t errors_total; /* the sum of these but the last one */
	uint64_t io_errors_total, timeouts_total, access_errors_total, missing_total;
	uint64_t misuse_total;
	uint64_t full_total; /* refused for lack of room, which is no error */
	uint64_t corrupt_total;		/* pages that failed their check */
	uint64_t moved_in_bytes_total;	/* written because they came down from above */
	uint64_t collected_bytes_total; /* what was there already, written again */
	uint64_t borrowed_bytes;	/* of the live ones: in segments of other hosts */
	uint64_t borrowed_pages_total;	/* found there */
	uint64_t lookups_total;		/* pages that the index was asked for */
	uint64_t lookup_misses_total;	/* ... which it had not, or did not say in time */
	uint64_t daily_left_bytes;	/* of daily=; UINT64_MAX: no bound */
};
#define ENGINE_TIERS 8

struct engine_stats {
	uint32_t nr_processes;
	bool eviction_enabled;
	const char *dedup_domain;   /* "user", "cgroup", "host" */
	const char *store;	    /* "memory" */
	uint64_t store_capacity_bytes;
	uint64_t store_used_bytes;  /* memory the store has taken */
	uint64_t store_live_bytes;  /* of those, needed */
	uint64_t store_blobs;
	uint64_t staging_bytes;	    /* memory in use by staging */
	uint64_t metadata_bytes;    /* tables, index, slots */
	uint64_t held_bytes;	    /* all the memory we keep: store used + staging + metadata */
	/* how pages went into the store, since the start */
	uint64_t pack_ns_total; /* processor time */
	uint64_t packed_total;	/* pages it was spent on */
	uint64_t plain_total, dictionary_total, delta_total;
	uint64_t dictionary_saved_bytes, delta_bytes_total, dictionaries;
	uint64_t dictionaries_trained_total, dictionaries_retired_total;
	uint64_t duplicate_missed_total; /* pages that none stored was equal to */
	uint64_t duplicate_passed_total; /* stored pages that may have been, in slow stores */
	uint64_t clustered_total, clustered_bytes_total; /* several in a frame */
	uint64_t raw_total, raw_bytes; /* as they are; in slow stores now */
	uint64_t recompressed_total, recompress_saved_bytes, recompress_ns_total;
	uint64_t compacted_bytes_total;
	uint64_t collect_ns_total;	/* processor time for garbage, in all stores */
	uint64_t promoted_bytes_total;	/* brought up to the fastest store */
	uint64_t store_errors_total;
	uint64_t attach_refused_total;
	struct engine_tier tiers[ENGINE_TIERS]; /* the fastest first */
	unsigned nr_tiers;
	struct engine_counters counters; /* sums */
};

struct engine_news { /* any may be NULL; run by engine_dispatch */
	void (*process_new)(void *ctx, uint64_t id);
	void (*process_gone)(void *ctx, uint64_t id);
	void (*process_changed)(void *ctx, uint64_t id); /* state or command */
	/* every session has been restored after engine_drain */
	void (*drained)(void *ctx);
	/* Descriptors that are to outlive this process and its keeper: 0, or a
	   negative errno when there is no room for another one of that user's, or of
	   anybody's. sync: they are safe. */
	int (*keep_fd)(void *ctx, uid_t uid, char kind, unsigned record, int fd);
	/* the same, from any thread: at once or not at all */
	int (*keep_fd_now)(void *ctx, uid_t uid, char kind, unsigned record, int fd);
	void (*forget_fd)(void *ctx, uid_t uid, char kind, unsigned record);
	bool (*sync_fds)(void *ctx);
	void *ctx;
};

/* What a session's descriptors are called outside, each with its record's number; and
   the userfaultfd of one that came by a fork, with a name that it has from before. */
#define ENGINE_KEPT_KINDS "umpsge"
#define ENGINE_KEPT_FORK 'f'
struct engine_kept_fd {
	char kind;
	unsigned record; /* or the name */
	int fd;		 /* -1 after the import: nobody needs it, a worker closes it */
	int was;	 /* import: its number when it was read, plus one */
};
/* Keeper and worker had died; these have come back, under other numbers. Once,
   before there is a worker; begins no threads. 0 or negative errno: -ENOTSUP if what is kept is in
   a format that this agent doesn't know. */
int engine_import_fds(struct engine_kept_fd *v, unsigned nr);

/* Keeper and worker are dead, this process shares their descriptors: hands over each that
   may not be in safe keeping yet. */
typedef void (*engine_hand_fn)(char kind, unsigned record, int fd);
void engine_hand_over(engine_hand_fn hand);

/* The first thing in a worker's life: closes what the one before had open and no
   session needs. */
void engine_close_strays(void);
/* Workers before have died of what they found, again and again: of the programs
   only their descriptors are taken over, and what is missing is poisoned. */
void engine_expect_damage(void);
/* Starts the threads, and goes on with the sessions that a worker before has left
   (common/kept.h). NULL after logging why. settings are copied. */
struct engine *engine_new(const struct settings *settings, const struct engine_news *news);
/* All sessions must have ended (drained); else programs hang: asserts it. */
struct engine *engine_free(struct engine *engine);

int engine_fd(const struct engine *engine);
/* Every fault thread has gone round within that time; an idle one does four times a
   second. Each call looks anew. */
bool engine_is_well(struct engine *e, uint64_t patience_ns);
void engine_dispatch(struct engine *engine);

/* A connection accepted on the attach socket (becomes the engine's). */
void engine_attach(struct engine *engine, int connection);

void engine_get_stats(struct engine *engine, struct engine_stats *stats);
/* Up to n processes in order of id; returns how many there are in all. */
size_t engine_get_processes(struct engine *engine, struct engine_process *v, size_t n);
/* 0 or -ESRCH. */
int engine_get_process(struct engine *engine, uint64_t id, struct engine_process *process);
/* 0 and the id of the newest session of pid, or -ESRCH. */
int engine_find_pid(struct engine *engine, pid_t pid, uint64_t *id);

enum engine_order {
	ENGINE_EVICT,	/* bytes: at least so many, 0: all that can go; staged and packed */
	ENGINE_RESTORE, /* everything back; bytes is ignored */
	ENGINE_DETACH,	/* everything back, unregistered, left alone for good */
};
/* status: 0 or negative errno (-ESRCH: it went away meanwhile, -ENOSPC: the
   store is full, -ECANCELED: stopping, -EBUSY: cannot be evicted, see state).
   bytes: what was really moved. */
typedef void (*engine_done_fn)(void *arg, int status, uint64_t bytes);
/*
 * Gives an order to one process, or to all (id 0). Returns 0, and done is
 * called once, later, from engine_dispatch; or -ESRCH, -ECANCELED or -ENOMEM
 * and done is never called. A RESTORE leaves the process attached: the policy
 * may take pages again later.
 */
int engine_order(struct engine *engine, enum engine_order order, uint64_t id, uint64_t bytes,
		 engine_done_fn done, void *arg);

/* Switches eviction by policy off and on, for one process or all (id 0). */
int engine_set_enabled(struct engine *engine, uint64_t id, bool enabled);
/* The resident limit of one process, overriding Limit=; 0: none. 0 or -ESRCH. */
int engine_set_limit(struct engine *engine, uint64_t id, uint64_t bytes);
/* Takes over [Policy] and log level; other settings need a restart. */
void engine_reload(struct engine *engine, const struct settings *settings);
/* Memory that restoring everything takes, and what there is for it: what the
   machine can give, and what we hold and give back while it lasts. Bytes. */
void engine_get_drain_memory(struct engine *engine, uint64_t *needed, uint64_t *available);
struct engine_verified {
	uint64_t good, damaged, unread; /* stored pages */
	uint64_t wrong_accounts, wrong_references;
	uint64_t not_found; /* stored pages that their hash does not lead to */
	uint64_t unsettled; /* ... that are in use all the time: references not compared */
};
typedef void (*engine_verified_fn)(void *arg, int status, const struct engine_verified *verified);
/* Reads all that is stored again. 0, and done is called once, later, from
   engine_dispatch, unless forgotten; -EBUSY: one is under way. */
int engine_verify(struct engine *engine, engine_verified_fn done, void *arg);
void engine_verify_forget(struct engine *engine);
/* Refuses new processes, restores every page of all, unregisters; then
   news->drained. */
void engine_drain(struct engine *engine);

#endif
