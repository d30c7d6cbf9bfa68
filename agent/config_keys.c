/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The keys of uswap.conf(5), and text to value and back. */
#include <errno.h>
#include <inttypes.h>
#include <pwd.h>
#include <stdarg.h>
#include <string.h>

#include "agent/config.h"
#include "backends/store.h"
#include "common/log.h"
#include "common/units.h"
#include "common/util.h"

#define FIELD(member) \
	.offset = offsetof(struct settings, member), .size = sizeof(((struct settings *)0)->member)
#define SEC ((int64_t)NSEC_PER_SEC)
#define MIB ((int64_t)1 << 20)

const struct config_key config_keys[] = {
	{ "Agent", "Socket", CONFIG_PATH, FIELD(socket), .fallback = "/run/uswap/agent.sock",
	  .doc = "where programs attach; control.sock is made beside it" },
	{ "Agent", "BusAddress", CONFIG_BUS, FIELD(bus_address), .fallback = "system",
	  .doc = "\"system\", \"none\" or a D-Bus address" },
	{ "Agent", "LogLevel", CONFIG_LOG_LEVEL, FIELD(log_level), .live = true,
	  .fallback = "info", .doc = "err, warning, notice, info or debug" },
	{ "Agent", "FaultThreads", CONFIG_UINT, FIELD(fault_threads), .max = 64, .fallback = "0",
	  .doc = "threads that answer page faults, 0: by the number of CPUs" },
	{ "Agent", "PackThreads", CONFIG_UINT, FIELD(pack_threads), .max = 64, .fallback = "0",
	  .doc = "threads that compress, 0: by the number of CPUs" },
	{ "Agent", "MaxProcesses", CONFIG_UINT, FIELD(max_processes), .min = 1, .max = 16000,
	  .fallback = "1000", .doc = "programs that may be attached at a time" },
	{ "Agent", "AllowUsers", CONFIG_USERS, FIELD(allow_uid), .fallback = "",
	  .doc = "users whose programs may attach (names or numbers), empty: everybody" },
	{ "Agent", "NeverAttach", CONFIG_PROGRAMS, FIELD(never_attach),
	  .fallback = "systemd systemd-journald systemd-logind systemd-udevd dbus-daemon "
		      "dbus-broker dbus-broker-launch polkitd nscd nslcd sssd_nss sssd_be systemd-userdbd "
		      "systemd-userwork ceph-mon ceph-osd ceph-mgr ceph-mds",
	  .doc = "programs that the agent itself depends on: refused" },

	{ "Store", "Store", CONFIG_STORE, FIELD(store), .fallback = "memory:25%",
	  .doc = "memory:SIZE or memory:PERCENT, file:PATH,size=SIZE, rados:...; fastest first" },
	{ "Store", "KeyFile", CONFIG_FILE, FIELD(key_file), .fallback = "",
	  .doc = "file whose bytes make the key of what leaves memory, empty: a random key" },
	{ "Store", "DedupDomain", CONFIG_DEDUP, FIELD(dedup_domain), .fallback = "user",
	  .doc = "equal pages are stored once inside a user, cgroup or host" },
	{ "Store", "MoveDownSec", CONFIG_TIME, FIELD(move_down_ns), .max = 365 * 86400 * SEC,
	  .fallback = "0", .doc = "unused for so long, pages go down a store, 0: only for room" },
	{ "Store", "CompressionLevel", CONFIG_INT, FIELD(compression_level), .min = -7, .max = 19,
	  .fallback = "-1", .doc = "of zstd; higher is smaller and slower" },
	{ "Store", "RecompressSec", CONFIG_TIME, FIELD(recompress_ns), .max = 86400 * SEC,
	  .fallback = "5min", .doc = "pages stored for so long are compressed again, harder; 0: never" },
	{ "Store", "Clusters", CONFIG_UINT, FIELD(clusters), .max = 1, .fallback = "0",
	  .doc = "1: pages read in order are compressed together, 16 at most" },
	{ "Store", "StagingMax", CONFIG_SIZE, FIELD(staging_bytes), .min = MIB,
	  .max = INT64_MAX, .fallback = "256M",
	  .doc = "most memory for pages taken out and not yet compressed" },
	{ "Store", "UserMax", CONFIG_SIZE, FIELD(user_max), .max = INT64_MAX, .fallback = "0",
	  .doc = "most of the store one user may take, 0: all but a tenth" },
	{ "Store", "ProcessMax", CONFIG_SIZE, FIELD(process_max), .max = INT64_MAX,
	  .fallback = "0", .doc = "most of the store one program may take, 0: as UserMax" },

	{ "Policy", "ScanSec", CONFIG_TIME, FIELD(policy.scan_ns), .min = 1000000,
	  .max = 86400 * SEC, .live = true, .fallback = "1",
	  .doc = "time between two looks at a program" },
	{ "Policy", "GraceSec", CONFIG_TIME, FIELD(policy.grace_ns), .max = 86400 * SEC,
	  .live = true, .fallback = "60",
	  .doc = "how long a page waits in staging for its second chance" },
	{ "Policy", "StallBudget", CONFIG_SHARE, FIELD(policy.stall_budget), .live = true,
	  .fallback = "0.1%", .doc = "share of its time that a program may wait for pages" },
	{ "Policy", "MinResident", CONFIG_SIZE, FIELD(policy.min_resident), .max = INT64_MAX,
	  .live = true, .fallback = "32M", .doc = "memory of each program that is left alone" },
	{ "Policy", "StartDelaySec", CONFIG_TIME, FIELD(policy.start_delay_ns),
	  .max = 86400 * SEC, .live = true, .fallback = "60",
	  .doc = "age before a program is touched" },
	{ "Policy", "Limit", CONFIG_LIMIT, FIELD(policy.limit_bytes), .live = true,
	  .fallback = "none",
	  .doc = "resident memory each program is held to: none, SIZE or PERCENT of its memory" },
};
const size_t config_nr_keys = ARRAY_SIZE(config_keys);

static void *field(struct settings *settings, const struct config_key *key)
{
	return (char *)settings + key->offset;
}

const struct config_key *config_find(const char *section, const char *name)
{
	for (size_t i = 0; i < config_nr_keys; i++)
		if (strcmp(config_keys[i].section, section) == 0 &&
		    strcmp(config_keys[i].name, name) == 0)
			return &config_keys[i];
	return NULL;
}

__attribute__((format(printf, 4, 5))) static int wrong(const struct config_key *key,
						       const char *value, char *message,
						       const char *format, ...)
{
	int n = snprintf(message, CONFIG_MESSAGE, "%s=%.160s: ", key->name, value);
	va_list ap;

	assert(n > 0 && n < CONFIG_MESSAGE);
	va_start(ap, format);
	vsnprintf(message + n, CONFIG_MESSAGE - (size_t)n, format, ap);
	va_end(ap);
	return -EINVAL;
}

/* As few digits as it takes, and no exponent, which units_parse_*() do not know. */
static void format_decimal(char *text, size_t size, uint64_t billionths, const char *unit)
{
	uint64_t whole = billionths / NSEC_PER_SEC, rest = billionths % NSEC_PER_SEC;
	int n = snprintf(text, size, "%" PRIu64 ".%09" PRIu64, whole, rest);

	assert(n > 0 && (size_t)n < size);
	while (text[n - 1] == '0')
		n--;
	n -= text[n - 1] == '.';
	snprintf(text + n, size - (size_t)n, "%s", unit);
}

static void format_percent(char *text, size_t size, double share)
{
	format_decimal(text, size, (uint64_t)(share * 100 * (double)NSEC_PER_SEC + 0.5), "%");
}

static void format_number(const struct config_key *key, int64_t number, char *text, size_t size)
{
	if (key->type == CONFIG_TIME)
		format_decimal(text, size, (uint64_t)number, " s");
	else if (key->type == CONFIG_SIZE && number == INT64_MAX)
		snprintf(text, size, "8E");
	else if (key->type == CONFIG_SIZE && number && number % MIB == 0)
		snprintf(text, size, "%" PRId64 "M", number / MIB);
	else
		snprintf(text, size, "%" PRId64, number);
}

static int parse_number(const struct config_key *key, const char *value, int64_t *number,
			char *message)
{
	static const char *const is_a[] = {
		[CONFIG_SIZE] = "a size (bytes, or with K, M, G, T)",
		[CONFIG_TIME] = "a time (seconds, or with ms, s, min, h)",
		[CONFIG_INT] = "a whole number",
		[CONFIG_UINT] = "a whole number",
	};
	char low[32], high[32];
	uint64_t u = 0;
	int r;

	if (key->type == CONFIG_SIZE)
		r = units_parse_size(value, &u);
	else if (key->type == CONFIG_TIME)
		r = units_parse_time(value, &u);
	else
		r = units_parse_number(value, number);
	if (key->type == CONFIG_SIZE || key->type == CONFIG_TIME) {
		if (r == 0 && u > INT64_MAX)
			r = -ERANGE;
		*number = (int64_t)u;
	}
	if (r == -EINVAL)
		return wrong(key, value, message, "is not %s", is_a[key->type]);
	if (r < 0 || *number < key->min || *number > key->max) {
		format_number(key, key->min, low, sizeof(low));
		format_number(key, key->max, high, sizeof(high));
		return wrong(key, value, message, "must be from %s to %s", low, high);
	}
	return 0;
}

static int set_number(struct settings *settings, const struct config_key *key, const char *value,
		      char *message)
{
	int64_t number = 0;
	int r = parse_number(key, value, &number, message);

	if (r < 0)
		return r;
	if (key->type == CONFIG_INT)
		*(int *)field(settings, key) = (int)number;
	else if (key->type == CONFIG_UINT)
		*(uint32_t *)field(settings, key) = (uint32_t)number;
	else
		*(uint64_t *)field(settings, key) = (uint64_t)number;
	return 0;
}

static int set_text(struct settings *settings, const struct config_key *key, const char *value,
		    char *message)
{
	if (strlen(value) >= key->size)
		return wrong(key, value, message, "is longer than %zu bytes", key->size - 1);
	strcpy(field(settings, key), value);
	return 0;
}

static int set_path(struct settings *settings, const struct config_key *key, const char *value,
		    char *message)
{
	const char *slash = strrchr(value, '/');

	if (value[0] != '/')
		return wrong(key, value, message, "is not an absolute path");
	if (!slash[1])
		return wrong(key, value, message, "names a directory");
	/* "control.sock" beside it must fit into a socket address as well */
	if ((size_t)(slash - value) + sizeof("/control.sock") > key->size ||
	    strcmp(slash, "/control.sock") == 0)
		return wrong(key, value, message, "leaves no room for control.sock beside it");
	return set_text(settings, key, value, message);
}

static int set_bus(struct settings *settings, const struct config_key *key, const char *value,
		   char *message)
{
	if (strcmp(value, "system") == 0)
		value = "";
	else if (strcmp(value, "none") != 0 && !strchr(value, ':'))
		return wrong(key, value, message,
			     "is none of \"system\", \"none\" and a D-Bus address");
	return set_text(settings, key, value, message);
}

static unsigned count_words(const char *text)
{
	unsigned n = 0;

	for (text += strspn(text, " \t"); *text; n++) {
		text += strcspn(text, " \t");
		text += strspn(text, " \t");
	}
	return n;
}

static int add_store(struct settings *settings, const struct config_key *key, const char *word,
		     char *message)
{
	char other[sizeof(settings->store)];
	const char *error = NULL;
	uint64_t bytes;
	size_t used;

	if (!store_check(word, &error))
		return wrong(key, word, message, "%s", error);
	bytes = store_most_bytes(word);
	if (settings->store_is_default)
		settings->store[0] = '\0';
	used = strlen(settings->store);
	if (used && strncmp(word, "memory:", 7) == 0)
		return wrong(key, word, message, "memory comes first, and once: %.160s is there already",
			     settings->store);
	for (const char *list = settings->store; store_next_word(&list, other, sizeof(other));) {
		if (store_is_same(word, other))
			return wrong(key, word, message, "%.160s is there already", other);
		bytes += store_most_bytes(other);
	}
	if (bytes > STORE_SEGMENTS_MAX * (uint64_t)STORE_SEGMENT)
		return wrong(key, word, message, "all stores together are larger than 4T");
	if (count_words(settings->store) == SETTINGS_STORES)
		return wrong(key, word, message, "at most %d stores", SETTINGS_STORES);
	if (used + strlen(word) + 2 > key->size)
		return wrong(key, word, message, "all stores together are longer than %zu bytes", key->size);
	settings->store_is_default = false;
	sprintf(settings->store + used, "%s%s", used ? " " : "", word);
	return 0;
}

/* Each line adds its stores to those before it; an empty one starts over. */
static int set_store(struct settings *settings, const struct config_key *key, const char *value,
		     bool is_default, char *message)
{
	_cleanup_free_ char *copy = strdup(value);
	struct settings before = *settings;
	char *word, *state = NULL;
	int r;

	if (!copy)
		return wrong(key, value, message, "out of memory");
	settings->store_is_default |= is_default;
	for (word = strtok_r(copy, " \t", &state); word; word = strtok_r(NULL, " \t", &state)) {
		r = add_store(settings, key, word, message);
		if (r < 0) {
			*settings = before;
			return r;
		}
	}
	settings->store_is_default = is_default;
	return 0;
}

static int set_share(struct settings *settings, const struct config_key *key, const char *value,
		     char *message)
{
	double share = 0;

	if (strcmp(value, "0") != 0 && units_parse_percent(value, &share) < 0)
		return wrong(key, value, message, "is not a percentage such as 0.1%%");
	if (share > 1)
		return wrong(key, value, message, "must be from 0%% to 100%%");
	*(double *)field(settings, key) = share;
	return 0;
}

static int set_limit(struct settings *settings, const struct config_key *key, const char *value,
		     char *message)
{
	uint64_t bytes = 0;
	double share = 0;

	if (strcmp(value, "none") != 0 && units_parse_size(value, &bytes) < 0 &&
	    units_parse_percent(value, &share) < 0)
		return wrong(key, value, message,
			     "is neither \"none\" nor a size nor a percentage");
	if (share > 1)
		return wrong(key, value, message, "must be at most 100%%");
	settings->policy.limit_bytes = bytes;
	settings->policy.limit_share = share;
	return 0;
}

/* A name is asked for once in the agent's life: whoever answers may be away when a worker
   takes over from another, or wait for a page of ours. */
static bool find_user(const char *name, uint32_t *uid)
{
	static struct {
		char *name;
		uint32_t uid;
	} known[SETTINGS_LIST_MAX];
	const struct passwd *pw;
	unsigned i;

	for (i = 0; i < SETTINGS_LIST_MAX && known[i].name; i++)
		if (strcmp(known[i].name, name) == 0) {
			*uid = known[i].uid;
			return true;
		}
	pw = getpwnam(name);
	if (!pw)
		return false;
	*uid = pw->pw_uid;
	if (i < SETTINGS_LIST_MAX) {
		known[i].uid = *uid;
		known[i].name = strdup(name);
	}
	return true;
}

static int set_users(struct settings *settings, const struct config_key *key, const char *value,
		     char *message)
{
	uint32_t uid[SETTINGS_LIST_MAX];
	_cleanup_free_ char *copy = strdup(value);
	char *word, *state = NULL;
	unsigned n = 0;
	int64_t number;

	if (!copy)
		return wrong(key, value, message, "out of memory");
	for (word = strtok_r(copy, " \t,", &state); word; word = strtok_r(NULL, " \t,", &state)) {
		if (n == SETTINGS_LIST_MAX)
			return wrong(key, value, message, "more than %d users", SETTINGS_LIST_MAX);
		if (units_parse_number(word, &number) == 0 && number >= 0 &&
		    number < UINT32_MAX) {
			uid[n++] = (uint32_t)number;
			continue;
		}
		if (!find_user(word, &uid[n]))
			return wrong(key, value, message, "there is no user \"%s\"", word);
		n++;
	}
	if (*value && !n) /* not everybody by a slip */
		return wrong(key, value, message, "names no user");
	memcpy(settings->allow_uid, uid, n * sizeof(uid[0]));
	settings->nr_allow_uid = n;
	return 0;
}

/* Kept between blanks, so that a name is found by one search. */
static int set_programs(struct settings *settings, const struct config_key *key,
			const char *value, char *message)
{
	_cleanup_free_ char *copy = strdup(strcmp(value, "none") == 0 ? "" : value);
	char names[SETTINGS_NAMES_MAX] = "", *word, *state = NULL;
	size_t used = 0;

	if (!copy)
		return wrong(key, value, message, "out of memory");
	for (word = strtok_r(copy, " \t,", &state); word; word = strtok_r(NULL, " \t,", &state)) {
		if (strchr(word, '/'))
			return wrong(key, value, message,
				     "\"%s\": write the name of the file, without its folder",
				     word);
		if (used + strlen(word) + 3 > sizeof(names))
			return wrong(key, value, message, "is longer than %zu bytes",
				     sizeof(names) - 1);
		used += (size_t)sprintf(names + used, used ? "%s " : " %s ", word);
	}
	memcpy(field(settings, key), names, sizeof(names));
	return 0;
}

int config_set(struct settings *settings, const struct config_key *key, const char *value,
	       char *message)
{
	bool is_default = !*value;
	int level;

	if (is_default)
		value = key->fallback;
	switch (key->type) {
	case CONFIG_PATH:
		return set_path(settings, key, value, message);
	case CONFIG_FILE:
		if (*value && *value != '/')
			return wrong(key, value, message, "is not an absolute path");
		return set_text(settings, key, value, message);
	case CONFIG_BUS:
		return set_bus(settings, key, value, message);
	case CONFIG_STORE:
		return set_store(settings, key, value, is_default, message);
	case CONFIG_SHARE:
		return set_share(settings, key, value, message);
	case CONFIG_LIMIT:
		return set_limit(settings, key, value, message);
	case CONFIG_USERS:
		return set_users(settings, key, value, message);
	case CONFIG_PROGRAMS:
		return set_programs(settings, key, value, message);
	case CONFIG_LOG_LEVEL:
		level = log_level_from_name(value);
		if (level < 0)
			return wrong(key, value, message, "is not one of: %s", key->doc);
		*(int *)field(settings, key) = level;
		return 0;
	case CONFIG_DEDUP:
		for (int i = 0; i < SETTINGS_DEDUPS; i++)
			if (!strcmp(value, settings_dedup_name(i))) {
				*(int *)field(settings, key) = i;
				return 0;
			}
		return wrong(key, value, message, "is not one of: user, cgroup, host");
	case CONFIG_INT:
	case CONFIG_UINT:
	case CONFIG_SIZE:
	case CONFIG_TIME:
		return set_number(settings, key, value, message);
	}
	abort();
}

int config_set_at(struct settings *settings, const struct config_key *key, const char *value,
		  const char *place, char *message)
{
	unsigned before = settings->store_is_default ? 0 : count_words(settings->store);
	int r = config_set(settings, key, value, message);

	if (r < 0)
		return r;
	if (key->type == CONFIG_FILE)
		snprintf(settings->key_file_place, SETTINGS_PLACE_MAX, "%s", place);
	if (key->type == CONFIG_STORE)
		for (unsigned i = settings->store_is_default ? 0 : before; i < count_words(settings->store); i++)
			snprintf(settings->store_place[i], SETTINGS_PLACE_MAX, "%s", place);
	return 0;
}

void config_defaults(struct settings *settings)
{
	char message[CONFIG_MESSAGE];
	int r;

	memset(settings, 0, sizeof(*settings));
	for (size_t i = 0; i < config_nr_keys; i++) {
		r = config_set(settings, &config_keys[i], "", message);
		assert(r == 0);
		(void)r;
	}
}

static void format_users(const struct settings *settings, char *text, size_t size)
{
	size_t used = 0;

	text[0] = '\0';
	for (unsigned i = 0; i < settings->nr_allow_uid && used < size; i++)
		used += (size_t)snprintf(text + used, size - used, "%s%u", i ? " " : "",
					 settings->allow_uid[i]);
}

void config_format(const struct settings *settings, const struct config_key *key, char *text,
		   size_t size)
{
	const void *p = (const char *)settings + key->offset;

	switch (key->type) {
	case CONFIG_PATH:
	case CONFIG_FILE:
	case CONFIG_STORE:
		snprintf(text, size, "%s", (const char *)p);
		break;
	case CONFIG_BUS:
		snprintf(text, size, "%s", *(const char *)p ? (const char *)p : "system");
		break;
	case CONFIG_LOG_LEVEL:
		snprintf(text, size, "%s", log_level_name((enum log_level) * (const int *)p));
		break;
	case CONFIG_DEDUP:
		snprintf(text, size, "%s", settings_dedup_name(*(const int *)p));
		break;
	case CONFIG_INT:
		snprintf(text, size, "%d", *(const int *)p);
		break;
	case CONFIG_UINT:
		snprintf(text, size, "%" PRIu32, *(const uint32_t *)p);
		break;
	case CONFIG_SIZE:
		snprintf(text, size, "%" PRIu64, *(const uint64_t *)p);
		break;
	case CONFIG_TIME:
		format_decimal(text, size, *(const uint64_t *)p, "");
		break;
	case CONFIG_SHARE:
		format_percent(text, size, *(const double *)p);
		break;
	case CONFIG_USERS:
		format_users(settings, text, size);
		break;
	case CONFIG_PROGRAMS:
		if (*(const char *)p)
			snprintf(text, size, "%.*s", (int)strlen(p) - 2, (const char *)p + 1);
		else
			snprintf(text, size, "none");
		break;
	case CONFIG_LIMIT:
		if (settings->policy.limit_share > 0)
			format_percent(text, size, settings->policy.limit_share);
		else if (settings->policy.limit_bytes)
			snprintf(text, size, "%" PRIu64, settings->policy.limit_bytes);
		else
			snprintf(text, size, "none");
		break;
	}
}

void config_resolve_store(struct settings *settings, uint64_t total_bytes)
{
	const char *size = settings->store + strlen("memory:");
	_cleanup_free_ char *rest = NULL;
	size_t len = strcspn(settings->store, " ");
	char memory[SETTINGS_TEXT_MAX];
	uint64_t bytes = 0;
	double share = 0;

	if (strncmp(settings->store, "memory:", strlen("memory:")) != 0 || len >= sizeof(memory))
		return;
	rest = strdup(settings->store + len);
	memcpy(memory, size, len - strlen("memory:"));
	memory[len - strlen("memory:")] = '\0';
	if (units_parse_percent(memory, &share) == 0)
		bytes = store_part_of(total_bytes, share);
	else
		units_parse_size(memory, &bytes);
	snprintf(settings->store, sizeof(settings->store), "memory:%" PRIu64 "%s", bytes, rest ? rest : "");
}
