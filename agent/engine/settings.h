/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * settings: what uswap.conf(5) and the command line decide, as plain data.
 * Filled by agent/config.c, read by the engine; changed only by a reload in
 * the control thread (the engine copies it).
 */
#ifndef USWAP_ENGINE_SETTINGS_H
#define USWAP_ENGINE_SETTINGS_H

#include <stdbool.h>
#include <stdint.h>

#define SETTINGS_PATH_MAX 108 /* sockaddr_un */
#define SETTINGS_TEXT_MAX 256
#define SETTINGS_STORE_MAX 1024
#define SETTINGS_STORES 4 /* words of Store= */
#define SETTINGS_PLACE_MAX 256
#define SETTINGS_LIST_MAX 64
#define SETTINGS_NAMES_MAX 2048

/* [Policy] */
struct settings_policy {
	uint64_t scan_ns;	  /* ScanSec=      time between looks at a process, > 0 */
	uint64_t grace_ns;	  /* GraceSec=     time in staging, >= 0 */
	double stall_budget;	  /* StallBudget=  share of wall time, 0 .. 1 */
	uint64_t min_resident;	  /* MinResident=  bytes left alone per process */
	uint64_t start_delay_ns;  /* StartDelaySec= age before a process is touched */
	uint64_t limit_bytes;	  /* Limit=SIZE    resident limit per process, 0: none */
	double limit_share;	  /* Limit=PERCENT of the process's memory, 0: none */
};

/* Whose pages may be stored once, together. */
enum settings_dedup { SETTINGS_DEDUP_USER, SETTINGS_DEDUP_CGROUP, SETTINGS_DEDUP_HOST, SETTINGS_DEDUPS };
static inline const char *settings_dedup_name(int dedup)
{
	static const char *const names[SETTINGS_DEDUPS] = { "user", "cgroup", "host" };

	return names[dedup];
}

struct settings {
	char socket[SETTINGS_PATH_MAX];	   /* [Agent] Socket= --socket */
	char bus_address[SETTINGS_TEXT_MAX]; /* [Agent] BusAddress= --bus-address; "" system bus,
						"none": peer-to-peer socket only */
	int log_level;			   /* [Agent] LogLevel= */
	unsigned fault_threads;		   /* [Agent] FaultThreads=, 0: by CPUs */
	unsigned pack_threads;		   /* [Agent] PackThreads=, 0: by CPUs */
	uint32_t max_processes;		   /* [Agent] MaxProcesses= */
	/* [Agent] AllowUsers=: uids that may attach; nr 0 = everybody */
	uint32_t allow_uid[SETTINGS_LIST_MAX];
	unsigned nr_allow_uid;
	/* [Agent] NeverAttach=: names of programs' files, each between blanks */
	char never_attach[SETTINGS_NAMES_MAX];

	/* [Store] Store= --store: words, the fastest first: "memory:SIZE", ... */
	char store[SETTINGS_STORE_MAX];
	bool store_is_default;		   /* ... and none was given yet */
	char key_file[SETTINGS_TEXT_MAX];  /* [Store] KeyFile=, "": a random key */
	/* Where each of those was set, "FILE:LINE: ", or "": before what is said of it. */
	char store_place[SETTINGS_STORES][SETTINGS_PLACE_MAX];
	char key_file_place[SETTINGS_PLACE_MAX];
	int dedup_domain;		   /* [Store] DedupDomain=, enum settings_dedup */
	uint64_t move_down_ns;		   /* [Store] MoveDownSec=, 0: only for room */
	int compression_level;		   /* [Store] CompressionLevel= */
	uint64_t recompress_ns;		   /* [Store] RecompressSec=, 0: never */
	unsigned clusters;		   /* [Store] Clusters=, 0 or 1 */
	uint64_t staging_bytes;		   /* [Store] StagingMax= */
	uint64_t user_max;		   /* [Store] UserMax=, bytes of the store one
					      user may take, 0: all but a tenth */
	uint64_t process_max;		   /* [Store] ProcessMax=, 0: as UserMax */

	struct settings_policy policy;
	bool foreground;		   /* --foreground: no sd_notify expected, log to stderr */
};

#endif
