/* SPDX-License-Identifier: GPL-2.0-or-later */
/* org.uswap1.Manager; described in contrib/dbus/org.uswap1.Manager.xml. */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "control/private.h"

#ifndef PACKAGE_VERSION
#define PACKAGE_VERSION "unknown"
#endif

static const char *const state_names[] = {
	[CONTROL_RUNNING] = "running",
	[CONTROL_DRAINING] = "draining",
};

int manager_find(sd_bus *bus, const char *path, const char *interface, void *userdata,
		 void **found, sd_bus_error *error)
{
	struct control *control = userdata;
	struct manager_view *view = &control->manager;

	if (strcmp(path, MANAGER_PATH) != 0 || !control->engine)
		return 0;
	*view = (struct manager_view){ .control = control,
				       .version = PACKAGE_VERSION,
				       .state = state_names[control->state],
				       .policy = control->settings->policy };
	engine_get_stats(control->engine, &view->stats);
	*found = view;
	return 1;
}

static int get_enabled(sd_bus *bus, const char *path, const char *interface, const char *property,
		       sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
	const struct manager_view *view = userdata;

	return sd_bus_message_append(reply, "b", (int)view->stats.eviction_enabled);
}

static int set_enabled(sd_bus *bus, const char *path, const char *interface, const char *property,
		       sd_bus_message *value, void *userdata, sd_bus_error *error)
{
	struct control *control = ((struct manager_view *)userdata)->control;
	int enabled, r = property_read(control, value, SD_BUS_TYPE_BOOLEAN, &enabled, error);

	return r < 0 ? r : property_set(control, path, interface, property,
					engine_set_enabled(control->engine, 0, enabled), error);
}

static const struct {
	const char *name, *type;
	size_t offset;
} tier_entries[] = {
#define ENTRY(name, type, member) { name, type, offsetof(struct engine_tier, member) }
	ENTRY("Reason", "s", reason),
	ENTRY("CapacityBytes", "t", capacity_bytes),
	ENTRY("UsedBytes", "t", used_bytes),
	ENTRY("LiveBytes", "t", live_bytes),
	ENTRY("DeadBytes", "t", dead_bytes),
	ENTRY("Segments", "t", segments),
	ENTRY("WrittenBytesTotal", "t", written_bytes_total),
	ENTRY("ReadBytesTotal", "t", read_bytes_total),
	ENTRY("ReadsPending", "t", reads_pending),
	ENTRY("WritesPending", "t", writes_pending),
	ENTRY("OldestReadNSec", "t", oldest_read_ns),
	ENTRY("ReadP50NSec", "t", read_p50_ns),
	ENTRY("ReadP99NSec", "t", read_p99_ns),
	ENTRY("WriteP50NSec", "t", write_p50_ns),
	ENTRY("WriteP99NSec", "t", write_p99_ns),
	ENTRY("ErrorsTotal", "t", errors_total),
	ENTRY("IOErrorsTotal", "t", io_errors_total),
	ENTRY("TimeoutsTotal", "t", timeouts_total),
	ENTRY("AccessErrorsTotal", "t", access_errors_total),
	ENTRY("MissingTotal", "t", missing_total),
	ENTRY("MisuseTotal", "t", misuse_total),
	ENTRY("FullTotal", "t", full_total),
	ENTRY("CorruptTotal", "t", corrupt_total),
	ENTRY("MovedInBytesTotal", "t", moved_in_bytes_total),
	ENTRY("CollectedBytesTotal", "t", collected_bytes_total),
	ENTRY("BorrowedBytes", "t", borrowed_bytes),
	ENTRY("BorrowedPagesTotal", "t", borrowed_pages_total),
	ENTRY("LookupsTotal", "t", lookups_total),
	ENTRY("LookupMissesTotal", "t", lookup_misses_total),
	ENTRY("DailyLeftBytes", "t", daily_left_bytes),
#undef ENTRY
};

static int append_tier(sd_bus_message *reply, const struct engine_tier *tier)
{
	int r = sd_bus_message_open_container(reply, 'r', "sa{sv}");

	if (r >= 0)
		r = append_text(reply, tier->name);
	if (r >= 0)
		r = sd_bus_message_open_container(reply, 'a', "{sv}");
	if (r >= 0)
		r = append_entry(reply, "State", "s", tier->state);
	for (size_t i = 0; r >= 0 && i < sizeof(tier_entries) / sizeof(tier_entries[0]); i++)
		r = append_entry(reply, tier_entries[i].name, tier_entries[i].type,
				 (const char *)tier + tier_entries[i].offset);
	if (r >= 0)
		r = sd_bus_message_close_container(reply);
	return r < 0 ? r : sd_bus_message_close_container(reply);
}

/* a(sa{sv}), fastest first */
static int get_tiers(sd_bus *bus, const char *path, const char *interface, const char *property,
		     sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
	const struct engine_stats *s = &((const struct manager_view *)userdata)->stats;
	int r = sd_bus_message_open_container(reply, 'a', "(sa{sv})");

	for (unsigned i = 0; r >= 0 && i < s->nr_tiers; i++)
		r = append_tier(reply, &s->tiers[i]);
	return r < 0 ? r : sd_bus_message_close_container(reply);
}

static int get_process_by_pid(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
	struct control *control = ((struct manager_view *)userdata)->control;
	char path[PROCESS_PATH_MAX];
	uint32_t pid;
	uint64_t id;
	int r;

	r = sd_bus_message_read(m, "u", &pid);
	if (r < 0)
		return r;
	if (pid == 0 || engine_find_pid(control->engine, (pid_t)pid, &id) < 0)
		return sd_bus_error_setf(error, ERROR_NO_SUCH_PROCESS,
					 "Process %u is not attached", pid);
	return sd_bus_reply_method_return(m, "o", process_path(path, id));
}

static int append_process(sd_bus_message *m, const struct engine_process *p)
{
	const struct engine_counters *c = &p->counters;
	const char *state = process_state_name(p->state);
	uint32_t pid = (uint32_t)p->pid, uid = p->uid;
	char path[PROCESS_PATH_MAX];
	const struct {
		const char *name, *type;
		const void *value;
	} entries[] = {
		{ "PID", "u", &pid },
		{ "UID", "u", &uid },
		{ "Command", "s", p->command },
		{ "State", "s", state },
		{ "ResidentBytes", "t", &c->resident_bytes },
		{ "EvictedBytes", "t", &c->evicted_bytes },
		{ "StoredBytes", "t", &c->stored_bytes },
		{ "RefaultsTotal", "t", &c->refaults_total },
	};
	int r = sd_bus_message_open_container(m, 'r', "oa{sv}");

	if (r >= 0)
		r = sd_bus_message_append_basic(m, 'o', process_path(path, p->id));
	if (r >= 0)
		r = sd_bus_message_open_container(m, 'a', "{sv}");
	for (size_t i = 0; r >= 0 && i < sizeof(entries) / sizeof(entries[0]); i++)
		r = append_entry(m, entries[i].name, entries[i].type, entries[i].value);
	for (unsigned i = 0; r >= 0 && i < 2; i++)
		r = sd_bus_message_close_container(m);
	return r;
}

static int list_processes(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
	struct control *control = ((struct manager_view *)userdata)->control;
	struct engine_process *v = NULL;
	sd_bus_message *reply = NULL;
	ssize_t n = 0;
	int r;

	r = order_read_options(m, error);
	if (r < 0)
		return r;
	n = process_snapshot(control->engine, &v);
	r = n < 0 ? (int)n : sd_bus_message_new_method_return(m, &reply);
	if (r >= 0)
		r = sd_bus_message_open_container(reply, 'a', "(oa{sv})");
	for (ssize_t i = 0; r >= 0 && i < n; i++)
		r = append_process(reply, &v[i]);
	if (r >= 0)
		r = sd_bus_message_close_container(reply);
	if (r >= 0)
		r = sd_bus_message_send(reply);
	sd_bus_message_unref(reply);
	free(v);
	return r;
}

static int evict(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
	struct control *control = ((struct manager_view *)userdata)->control;
	uint64_t bytes;
	int r;

	r = sd_bus_message_read(m, "t", &bytes);
	if (r >= 0)
		r = order_read_options(m, error);
	return r < 0 ? r : order_start(control, m, ENGINE_EVICT, 0, bytes, error);
}

static int restore(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
	struct control *control = ((struct manager_view *)userdata)->control;
	int r = order_read_options(m, error);

	return r < 0 ? r : order_start(control, m, ENGINE_RESTORE, 0, 0, error);
}

static int drain(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
	struct control *control = ((struct manager_view *)userdata)->control;
	bool leave;
	int r = order_read_drain_options(m, &leave, error);

	return r < 0 ? r : order_drain(control, m, leave, error);
}

static int verify(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
	return verify_start(((struct manager_view *)userdata)->control, m, error);
}

static int reload(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
	struct control *control = ((struct manager_view *)userdata)->control;
	char message[CONTROL_MESSAGE] = "";
	int r = access_check(control, m, error);

	if (r < 0)
		return r;
	r = control->hooks.reload(control->hooks.ctx, message);
	if (r < 0)
		return sd_bus_error_set(error, ERROR_CONFIG, message);
	return sd_bus_reply_method_return(m, NULL);
}

#define OFFSET(member) offsetof(struct manager_view, member)
#define CONST(name, type, member) \
	SD_BUS_PROPERTY(name, type, NULL, OFFSET(member), SD_BUS_VTABLE_PROPERTY_CONST)
#define STATE(name, type, get, member) \
	SD_BUS_PROPERTY(name, type, get, OFFSET(member), SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE)
#define COUNTER(name, member) SD_BUS_PROPERTY(name, "t", NULL, OFFSET(stats.member), 0)

/* Who may call is decided by access_check(), not by sd-bus. */
const sd_bus_vtable manager_vtable[] = {
	SD_BUS_VTABLE_START(SD_BUS_VTABLE_UNPRIVILEGED),
	CONST("Version", "s", version),
	CONST("DedupDomain", "s", stats.dedup_domain),
	SD_BUS_PROPERTY("Tiers", "a(sa{sv})", get_tiers, 0, 0),
	STATE("State", "s", NULL, state),
	STATE("NProcesses", "u", NULL, stats.nr_processes),
	SD_BUS_WRITABLE_PROPERTY("EvictionEnabled", "b", get_enabled, set_enabled, 0,
				 SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
	STATE("ScanUSec", "t", get_usec, policy.scan_ns),
	STATE("GraceUSec", "t", get_usec, policy.grace_ns),
	STATE("StallBudget", "d", NULL, policy.stall_budget),
	STATE("MinResidentBytes", "t", NULL, policy.min_resident),
	STATE("StartDelayUSec", "t", get_usec, policy.start_delay_ns),
	STATE("LimitBytes", "t", NULL, policy.limit_bytes),
	STATE("LimitShare", "d", NULL, policy.limit_share),

	COUNTER("ResidentBytes", counters.resident_bytes),
	COUNTER("RegisteredBytes", counters.registered_bytes),
	COUNTER("EvictedBytes", counters.evicted_bytes),
	COUNTER("StagedBytes", counters.staged_bytes),
	COUNTER("FillBytes", counters.fill_bytes),
	COUNTER("StoredBytes", counters.stored_bytes),
	COUNTER("HeldBytes", held_bytes),
	COUNTER("StagingBytes", staging_bytes),
	COUNTER("MetadataBytes", metadata_bytes),
	COUNTER("StoreCapacityBytes", store_capacity_bytes),
	COUNTER("StoreUsedBytes", store_used_bytes),
	COUNTER("StoreLiveBytes", store_live_bytes),
	COUNTER("StoreBlobs", store_blobs),
	COUNTER("PagesOutTotal", counters.pages_out_total),
	COUNTER("PagesInTotal", counters.pages_in_total),
	COUNTER("FaultsTotal", counters.faults_total),
	COUNTER("RefaultsTotal", counters.refaults_total),
	COUNTER("MajorFaultsTotal", counters.major_total),
	COUNTER("ZeroFaultsTotal", counters.zero_total),
	COUNTER("DuplicatePagesTotal", counters.duplicate_pages_total),
	COUNTER("DuplicateMissedPagesTotal", duplicate_missed_total),
	COUNTER("DuplicatePassedPagesTotal", duplicate_passed_total),
	COUNTER("IncompressiblePagesTotal", counters.incompressible_total),
	COUNTER("PrefetchedPagesTotal", counters.prefetched_total),
	COUNTER("PrefetchUsedPagesTotal", counters.prefetch_used_total),
	COUNTER("HelpedPagesTotal", counters.helped_total),
	SD_BUS_PROPERTY("UnpackUSecTotal", "t", get_usec, OFFSET(stats.counters.unpack_ns_total), 0),
	SD_BUS_PROPERTY("PackUSecTotal", "t", get_usec, OFFSET(stats.pack_ns_total), 0),
	COUNTER("PackedPagesTotal", packed_total),
	COUNTER("PlainPagesTotal", plain_total),
	COUNTER("DictionaryPagesTotal", dictionary_total),
	COUNTER("DictionarySavedBytesTotal", dictionary_saved_bytes),
	COUNTER("Dictionaries", dictionaries),
	COUNTER("DictionariesTrainedTotal", dictionaries_trained_total),
	COUNTER("DictionariesRetiredTotal", dictionaries_retired_total),
	COUNTER("DeltaPagesTotal", delta_total),
	COUNTER("DeltaBytesTotal", delta_bytes_total),
	COUNTER("ClusteredPagesTotal", clustered_total),
	COUNTER("ClusteredBytesTotal", clustered_bytes_total),
	COUNTER("RawPagesTotal", raw_total),
	COUNTER("RawBytes", raw_bytes),
	COUNTER("RecompressedPagesTotal", recompressed_total),
	COUNTER("RecompressSavedBytesTotal", recompress_saved_bytes),
	SD_BUS_PROPERTY("RecompressUSecTotal", "t", get_usec, OFFSET(stats.recompress_ns_total), 0),
	COUNTER("CompactedBytesTotal", compacted_bytes_total),
	SD_BUS_PROPERTY("CollectUSecTotal", "t", get_usec, OFFSET(stats.collect_ns_total), 0),
	COUNTER("PromotedBytesTotal", promoted_bytes_total),
	COUNTER("BusyPagesTotal", counters.busy_total),
	COUNTER("PoisonedPagesTotal", counters.poisoned_total),
	SD_BUS_PROPERTY("StallUSecTotal", "t", get_usec, OFFSET(stats.counters.stall_ns_total), 0),
	SD_BUS_PROPERTY("FaultLatencyHistogram", "a(tt)", get_histogram,
			OFFSET(stats.counters.latency), 0),
	COUNTER("StoreErrorsTotal", store_errors_total),
	COUNTER("AttachRefusedTotal", attach_refused_total),

	SD_BUS_METHOD_WITH_NAMES("GetProcessByPID", "u", SD_BUS_PARAM(pid), "o",
				 SD_BUS_PARAM(process), get_process_by_pid,
				 SD_BUS_VTABLE_UNPRIVILEGED),
	SD_BUS_METHOD_WITH_NAMES("ListProcesses", "a{sv}", SD_BUS_PARAM(options), "a(oa{sv})",
				 SD_BUS_PARAM(processes), list_processes,
				 SD_BUS_VTABLE_UNPRIVILEGED),
	SD_BUS_METHOD_WITH_NAMES("Evict", "ta{sv}", SD_BUS_PARAM(bytes) SD_BUS_PARAM(options), "t",
				 SD_BUS_PARAM(evicted), evict, SD_BUS_VTABLE_UNPRIVILEGED),
	SD_BUS_METHOD_WITH_NAMES("Restore", "a{sv}", SD_BUS_PARAM(options), "t",
				 SD_BUS_PARAM(restored), restore, SD_BUS_VTABLE_UNPRIVILEGED),
	SD_BUS_METHOD_WITH_NAMES("Drain", "a{sv}", SD_BUS_PARAM(options), "t",
				 SD_BUS_PARAM(restored), drain, SD_BUS_VTABLE_UNPRIVILEGED),
	SD_BUS_METHOD_WITH_NAMES("Verify", "a{sv}", SD_BUS_PARAM(options), "a{sv}",
				 SD_BUS_PARAM(result), verify, SD_BUS_VTABLE_UNPRIVILEGED),
	SD_BUS_METHOD("Reload", NULL, NULL, reload, SD_BUS_VTABLE_UNPRIVILEGED),
	SD_BUS_VTABLE_END
};
