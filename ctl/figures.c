/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "ctl/figures.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/util.h"

#define ROW(property, key, label, type, member) \
	{ property, key, label, type, offsetof(struct figures, member) }

const struct figure_row figure_rows[] = {
	ROW("Version", "version", "version", 's', version),
	ROW("DedupDomain", "dedup_domain", "pages stored once inside a", 's', dedup_domain),
	ROW("ID", "id", "object", 't', id),
	ROW("PID", "pid", "pid", 'u', pid),
	ROW("UID", "uid", "uid", 'u', uid),
	ROW("ParentPID", "parent_pid", "forked from pid", 'u', parent_pid),
	ROW("Command", "command", "command", 's', command),
	ROW("ControlGroup", "control_group", "control group", 's', cgroup),
	ROW("AttachTimestampMonotonic", "attached_monotonic_usec", "attached at", 't',
	    attached_usec),
	ROW("State", "state", "state", 's', state),
	ROW("Reason", "reason", "reason", 's', reason),
	ROW("NProcesses", "processes_count", "programs", 'u', n_processes),
	ROW("EvictionEnabled", "eviction_enabled", "eviction by policy", 'b', enabled),
	ROW("LimitBytes", "limit_bytes", "resident limit", 't', limit),
	ROW("ResidentBytes", "resident_bytes", "resident", 't', resident),
	ROW("RegisteredBytes", "registered_bytes", "served address space", 't', registered),
	ROW("EvictedBytes", "evicted_bytes", "evicted", 't', evicted),
	ROW("StagedBytes", "staged_bytes", "  of that staged", 't', staged),
	ROW("FillBytes", "same_filled_bytes", "  of that same-filled", 't', fill),
	ROW("StoredBytes", "stored_bytes", "stored, compressed", 't', stored),
	ROW("HeldBytes", "held_bytes", "memory held by the agent", 't', held),
	ROW("StagingBytes", "staging_bytes", "  of that staging", 't', staging),
	ROW("MetadataBytes", "metadata_bytes", "  of that tables", 't', metadata),
	ROW("StoreUsedBytes", "store_used_bytes", "  of that store", 't', store_used),
	ROW("StoreLiveBytes", "store_live_bytes", "store, needed", 't', store_live),
	ROW("StoreCapacityBytes", "store_capacity_bytes", "store, at most", 't', store_capacity),
	ROW("StoreBlobs", "store_blobs", "distinct pages stored", 't', store_blobs),
	ROW("PagesOutTotal", "pages_out_total", "pages taken out", 't', pages_out),
	ROW("PagesInTotal", "pages_in_total", "pages given back", 't', pages_in),
	ROW("FaultsTotal", "faults_total", "faults", 't', faults),
	ROW("ZeroFaultsTotal", "zero_faults_total", "  first touches", 't', zero),
	ROW("RefaultsTotal", "refaults_total", "  refaults", 't', refaults),
	ROW("MajorFaultsTotal", "major_faults_total", "  of those decompressed", 't', major),
	ROW("DuplicatePagesTotal", "duplicate_pages_total", "pages stored already", 't',
	    duplicate),
	ROW("DuplicateMissedPagesTotal", "duplicate_missed_pages_total", "pages without a duplicate", 't',
	    duplicate_missed),
	ROW("DuplicatePassedPagesTotal", "duplicate_passed_pages_total", "  perhaps, in a slow store", 't',
	    duplicate_passed),
	ROW("IncompressiblePagesTotal", "incompressible_pages_total", "pages that don't compress",
	    't', incompressible),
	ROW("PrefetchedPagesTotal", "prefetched_pages_total", "pages brought back ahead", 't',
	    prefetched),
	ROW("PrefetchUsedPagesTotal", "prefetch_used_pages_total", "  of those used", 't',
	    prefetch_used),
	ROW("HelpedPagesTotal", "helped_pages_total", "pages a helper decompressed", 't', helped),
	ROW("UnpackUSecTotal", "unpack_usec_total", "time decompressing", 't', unpack_usec),
	ROW("PackUSecTotal", "pack_usec_total", "time packing", 't', pack_usec),
	ROW("PackedPagesTotal", "packed_pages_total", "pages packed", 't', packed),
	ROW("PlainPagesTotal", "plain_pages_total", "  by themselves", 't', plain),
	ROW("DictionaryPagesTotal", "dictionary_pages_total", "  with a dictionary", 't', dictionary),
	ROW("DictionarySavedBytesTotal", "dictionary_saved_bytes_total", "  saved by that", 't',
	    dictionary_saved),
	ROW("DeltaPagesTotal", "delta_pages_total", "  as differences", 't', delta),
	ROW("DeltaBytesTotal", "delta_bytes_total", "  bytes of those", 't', delta_bytes),
	ROW("ClusteredPagesTotal", "clustered_pages_total", "  several in a frame", 't', clustered),
	ROW("ClusteredBytesTotal", "clustered_bytes_total", "  bytes of those", 't', clustered_bytes),
	ROW("RawPagesTotal", "raw_pages_total", "  as they are", 't', raw),
	ROW("RawBytes", "raw_bytes", "  of those in slow stores now", 't', raw_bytes),
	ROW("Dictionaries", "dictionaries", "dictionaries in use", 't', dictionaries),
	ROW("DictionariesTrainedTotal", "dictionaries_trained_total", "  made", 't', trained),
	ROW("DictionariesRetiredTotal", "dictionaries_retired_total", "  given up", 't', retired),
	ROW("RecompressedPagesTotal", "recompressed_pages_total", "pages compressed again", 't',
	    recompressed),
	ROW("RecompressSavedBytesTotal", "recompress_saved_bytes_total", "  saved by that", 't',
	    recompress_saved),
	ROW("RecompressUSecTotal", "recompress_usec_total", "  time for that", 't', recompress_usec),
	ROW("CompactedBytesTotal", "compacted_bytes_total", "bytes put together", 't', compacted),
	ROW("CollectUSecTotal", "collect_usec_total", "time collecting garbage", 't', collect_usec),
	ROW("PromotedBytesTotal", "promoted_bytes_total", "bytes brought up again", 't', promoted),
	ROW("BusyPagesTotal", "busy_pages_total", "pages that couldn't be moved", 't', busy),
	ROW("PoisonedPagesTotal", "poisoned_pages_total", "pages lost", 't', poisoned),
	ROW("StallUSecTotal", "stall_usec_total", "stall time", 't', stall_usec),
	ROW("StoreErrorsTotal", "store_errors_total", "store errors", 't', store_errors),
	ROW("AttachRefusedTotal", "attach_refused_total", "programs refused", 't', attach_refused),
};
const size_t nr_figure_rows = ARRAY_SIZE(figure_rows);
_Static_assert(ARRAY_SIZE(figure_rows) <= FIGURES_ROWS, "there is room");

#define TIER(property, key, label, type, member) \
	{ property, key, label, type, offsetof(struct tier, member) }
const struct figure_row tier_rows[] = {
	TIER(NULL, "name", "name", 's', name),
	TIER("State", "state", "state", 's', state),
	TIER("Reason", "reason", "reason", 's', reason),
	TIER("CapacityBytes", "capacity_bytes", "capacity", 't', capacity),
	TIER("UsedBytes", "used_bytes", "used", 't', used),
	TIER("LiveBytes", "live_bytes", "  live", 't', live),
	TIER("DeadBytes", "dead_bytes", "  dead", 't', dead),
	TIER("Segments", "segments", "segments", 't', segments),
	TIER("WrittenBytesTotal", "written_bytes_total", "bytes written", 't', written),
	TIER("ReadBytesTotal", "read_bytes_total", "bytes read", 't', read),
	TIER("ReadsPending", "reads_pending", "reads pending", 't', pending),
	TIER("WritesPending", "writes_pending", "writes pending", 't', writes_pending),
	TIER("OldestReadNSec", "oldest_read_ns", "  the oldest waits", 'n', oldest_ns),
	TIER("ReadP50NSec", "read_p50_ns", "read latency p50", 'n', read_p50_ns),
	TIER("ReadP99NSec", "read_p99_ns", "read latency p99", 'n', read_p99_ns),
	TIER("WriteP50NSec", "write_p50_ns", "write latency p50", 'n', write_p50_ns),
	TIER("WriteP99NSec", "write_p99_ns", "write latency p99", 'n', write_p99_ns),
	TIER("ErrorsTotal", "errors_total", "errors", 't', errors),
	TIER("IOErrorsTotal", "io_errors_total", "  of the medium", 't', io),
	TIER("TimeoutsTotal", "timeouts_total", "  time-outs", 't', timeouts),
	TIER("AccessErrorsTotal", "access_errors_total", "  access denied", 't', access),
	TIER("MissingTotal", "missing_total", "  bytes missing", 't', missing),
	TIER("MisuseTotal", "misuse_total", "  wrong calls", 't', misuse),
	TIER("FullTotal", "full_total", "refused, being full", 't', full),
	TIER("CorruptTotal", "corrupt_total", "pages damaged", 't', corrupt),
	TIER("MovedInBytesTotal", "moved_in_bytes_total", "written, from the store above", 't', moved_in),
	TIER("CollectedBytesTotal", "collected_bytes_total", "written again", 't', collected),
	TIER("BorrowedBytes", "borrowed_bytes", "with other hosts", 't', borrowed),
	TIER("BorrowedPagesTotal", "borrowed_pages_total", "pages found there", 't', borrowed_pages),
	TIER("LookupsTotal", "lookups_total", "  looked up there", 't', lookups),
	TIER("LookupMissesTotal", "lookup_misses_total", "  not found", 't', misses),
	TIER("DailyLeftBytes", "daily_left_bytes", "may be written today", 't', daily_left),
};
const size_t nr_tier_rows = ARRAY_SIZE(tier_rows);

static int read_text(sd_bus_message *m, char *text, size_t size)
{
	const char *s;
	int r = sd_bus_message_read(m, "s", &s);

	if (r >= 0)
		snprintf(text, size, "%s", s);
	return r;
}

static int read_latency(sd_bus_message *m, struct figures *f)
{
	struct bucket b;
	int r = sd_bus_message_enter_container(m, 'a', "(tt)");

	while (r >= 0 && (r = sd_bus_message_read(m, "(tt)", &b.bound_ns, &b.count)) > 0)
		if (f->nr_latency < FIGURES_BUCKETS)
			f->latency[f->nr_latency++] = b;
	return r < 0 ? r : sd_bus_message_exit_container(m);
}

static int read_tier_value(sd_bus_message *m, struct tier *t)
{
	const char *name, *text;
	int r = sd_bus_message_read(m, "s", &name);

	if (r < 0)
		return r;
	for (size_t i = 0; i < nr_tier_rows; i++) {
		void *field = (char *)t + tier_rows[i].offset;

		if (!tier_rows[i].property || strcmp(tier_rows[i].property, name) != 0)
			continue;
		if (tier_rows[i].type != 's')
			return sd_bus_message_read(m, "v", "t", field);
		r = sd_bus_message_read(m, "v", "s", &text);
		if (r >= 0)
			snprintf(field, FIGURES_TEXT, "%s", text);
		return r;
	}
	return sd_bus_message_skip(m, "v");
}

static int read_tiers(sd_bus_message *m, struct figures *f)
{
	struct tier spare, *t;
	int r = sd_bus_message_enter_container(m, 'a', "(sa{sv})");

	while (r >= 0 && (r = sd_bus_message_enter_container(m, 'r', "sa{sv}")) > 0) {
		t = f->nr_tiers < FIGURES_TIERS ? &f->tiers[f->nr_tiers++] : &spare;
		r = read_text(m, t->name, sizeof(t->name));
		if (r >= 0)
			r = sd_bus_message_enter_container(m, 'a', "{sv}");
		while (r >= 0 && (r = sd_bus_message_enter_container(m, 'e', "sv")) > 0) {
			r = read_tier_value(m, t);
			if (r >= 0)
				r = sd_bus_message_exit_container(m);
		}
		if (r >= 0)
			r = sd_bus_message_exit_container(m);
		if (r >= 0)
			r = sd_bus_message_exit_container(m);
	}
	return r < 0 ? r : sd_bus_message_exit_container(m);
}

static int read_row(sd_bus_message *m, struct figures *f, size_t i)
{
	const struct figure_row *row = &figure_rows[i];
	char type[2] = { row->type, '\0' };
	void *field = (char *)f + row->offset;
	int r = sd_bus_message_enter_container(m, 'v', type);

	if (r < 0)
		return r;
	r = row->type == 's' ? read_text(m, field, FIGURES_TEXT) :
			       sd_bus_message_read_basic(m, row->type, field);
	if (r < 0)
		return r;
	f->present[i] = true;
	return sd_bus_message_exit_container(m);
}

static int read_property(sd_bus_message *m, struct figures *f)
{
	int (*read)(sd_bus_message *, struct figures *) = NULL;
	const char *name, *type = NULL;
	int r = sd_bus_message_read(m, "s", &name);

	if (r < 0)
		return r;
	for (size_t i = 0; i < nr_figure_rows; i++)
		if (strcmp(figure_rows[i].property, name) == 0)
			return read_row(m, f, i);
	if (strcmp(name, "FaultLatencyHistogram") == 0) {
		read = read_latency;
		type = "a(tt)";
	} else if (strcmp(name, "Tiers") == 0) {
		read = read_tiers;
		type = "a(sa{sv})";
	}
	if (!read) /* of a newer agent, or not shown */
		return sd_bus_message_skip(m, "v");
	r = sd_bus_message_enter_container(m, 'v', type);
	if (r >= 0)
		r = read(m, f);
	return r < 0 ? r : sd_bus_message_exit_container(m);
}

static int read_properties(sd_bus_message *m, struct figures *f)
{
	int r = sd_bus_message_enter_container(m, 'a', "{sv}");

	memset(f, 0, sizeof(*f));
	while (r >= 0 && (r = sd_bus_message_enter_container(m, 'e', "sv")) > 0) {
		r = read_property(m, f);
		if (r >= 0)
			r = sd_bus_message_exit_container(m);
	}
	return r < 0 ? r : sd_bus_message_exit_container(m);
}

static int get_all(struct ctl *ctl, const char *path, const char *interface, struct figures *f)
{
	sd_bus_message *reply = NULL;
	sd_bus_message *m =
		ctl_call_new(ctl, path, "org.freedesktop.DBus.Properties", "GetAll");
	int code, r;

	if (!m || sd_bus_message_append(m, "s", interface) < 0) {
		sd_bus_message_unref(m);
		return CTL_FAILED;
	}
	code = ctl_call(ctl, m, &reply);
	if (code != CTL_OK)
		return code;
	r = read_properties(reply, f);
	sd_bus_message_unref(reply);
	return r < 0 ? ctl_error(NULL, r) : CTL_OK;
}

int figures_get_agent(struct ctl *ctl, struct figures *f)
{
	return get_all(ctl, MANAGER_PATH, MANAGER_INTERFACE, f);
}

int figures_get_process(struct ctl *ctl, uint32_t pid, struct figures *f)
{
	_cleanup_free_ char *path = NULL;
	int code = ctl_process_path(ctl, pid, &path);

	return code == CTL_OK ? get_all(ctl, path, PROCESS_INTERFACE, f) : code;
}

/* One object of GetManagedObjects; 1 if it is a process. */
static int read_object(sd_bus_message *m, struct figures *f)
{
	const char *interface;
	int r, found = 0;

	r = sd_bus_message_skip(m, "o");
	if (r >= 0)
		r = sd_bus_message_enter_container(m, 'a', "{sa{sv}}");
	while (r >= 0 && (r = sd_bus_message_enter_container(m, 'e', "sa{sv}")) > 0) {
		r = sd_bus_message_read(m, "s", &interface);
		if (r >= 0 && strcmp(interface, PROCESS_INTERFACE) == 0) {
			r = read_properties(m, f);
			found = 1;
		} else if (r >= 0) {
			r = sd_bus_message_skip(m, "a{sv}");
		}
		if (r >= 0)
			r = sd_bus_message_exit_container(m);
	}
	if (r >= 0)
		r = sd_bus_message_exit_container(m);
	return r < 0 ? r : found;
}

static int read_objects(sd_bus_message *m, struct figures **v, size_t *n)
{
	size_t room = 0;
	struct figures *more;
	int r = sd_bus_message_enter_container(m, 'a', "{oa{sa{sv}}}");

	while (r >= 0 && (r = sd_bus_message_enter_container(m, 'e', "oa{sa{sv}}")) > 0) {
		if (*n == room) {
			room = room ? room * 2 : 16;
			more = reallocarray(*v, room, sizeof(**v));
			if (!more)
				return -ENOMEM;
			*v = more;
		}
		r = read_object(m, &(*v)[*n]);
		*n += r > 0;
		if (r >= 0)
			r = sd_bus_message_exit_container(m);
	}
	return r < 0 ? r : 0;
}

int figures_get_all(struct ctl *ctl, struct figures **v, size_t *n)
{
	sd_bus_message *reply = NULL;
	sd_bus_message *m = ctl_call_new(ctl, MANAGER_PATH, "org.freedesktop.DBus.ObjectManager",
					 "GetManagedObjects");
	int code, r;

	*v = NULL;
	*n = 0;
	if (!m)
		return CTL_FAILED;
	code = ctl_call(ctl, m, &reply);
	if (code != CTL_OK)
		return code;
	r = read_objects(reply, v, n);
	sd_bus_message_unref(reply);
	return r < 0 ? ctl_error(NULL, r) : CTL_OK;
}

double figures_ratio(const struct figures *f)
{
	uint64_t kept = f->staged + f->stored;

	return f->evicted && kept ? (double)f->evicted / (double)kept : 0;
}

double figures_same_share(const struct figures *f)
{
	return f->evicted ? (double)f->fill / (double)f->evicted : 0;
}

double figures_dup_share(const struct figures *f)
{
	return f->pages_out ? (double)f->duplicate / (double)f->pages_out : 0;
}

double figures_collect_share(const struct figures *f)
{
	uint64_t all = f->pack_usec + f->unpack_usec + f->recompress_usec + f->collect_usec;

	return all ? (double)f->collect_usec / (double)all : 0;
}

double figures_rewritten(const struct tier *t)
{
	return t->written > t->collected ? (double)t->collected / (double)(t->written - t->collected) : 0;
}

double figures_pack_usec(const struct figures *f)
{
	return f->packed ? (double)f->pack_usec / (double)f->packed : 0;
}

double figures_unpack_usec(const struct figures *f)
{
	return f->major ? (double)f->unpack_usec / (double)f->major : 0;
}

uint64_t figures_latency_ns(const struct figures *f, double share)
{
	uint64_t all = 0, seen = 0;

	for (unsigned i = 0; i < f->nr_latency; i++)
		all += f->latency[i].count;
	for (unsigned i = 0; i < f->nr_latency; i++) {
		seen += f->latency[i].count;
		if ((double)seen >= share * (double)all)
			return f->latency[i].bound_ns;
	}
	return 0;
}
