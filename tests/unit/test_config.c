/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The configuration: every key's default, what it takes and what it refuses,
   and that each complaint names file, line, key and value. */
#include <check.h>
#include <dlfcn.h>
#include <errno.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/checks.h"
#include "agent/config.h"
#include "backends/store.h"
#include "common/log.h"
#include "common/util.h"

static struct settings settings;
static char reports[8][1024];
static unsigned nr_reports;

static void note(void *arg, const char *message)
{
	ck_assert_uint_lt(nr_reports, ARRAY_SIZE(reports));
	snprintf(reports[nr_reports++], sizeof(reports[0]), "%s", message);
}

static void setup(void)
{
	nr_reports = 0;
	config_defaults(&settings);
}

static int read_text(const char *text)
{
	FILE *file = fmemopen((void *)(uintptr_t)text, strlen(text), "r");
	int r;

	ck_assert_ptr_nonnull(file);
	r = config_read(&settings, file, "x.conf", note, NULL);
	fclose(file);
	return r;
}

START_TEST(defaults)
{
	ck_assert_str_eq(settings.socket, "/run/uswap/agent.sock");
	ck_assert_str_eq(settings.bus_address, "");
	ck_assert_int_eq(settings.log_level, LOG_LEVEL_INFO);
	ck_assert_uint_eq(settings.fault_threads, 0);
	ck_assert_uint_eq(settings.pack_threads, 0);
	ck_assert_uint_eq(settings.max_processes, 1000);
	ck_assert_uint_eq(settings.nr_allow_uid, 0);
	ck_assert_str_eq(settings.store, "memory:25%");
	ck_assert_int_eq(settings.compression_level, -1);
	ck_assert_uint_eq(settings.staging_bytes, 256u << 20);
	ck_assert_uint_eq(settings.user_max, 0);
	ck_assert_uint_eq(settings.process_max, 0);
	ck_assert_uint_eq(settings.policy.scan_ns, NSEC_PER_SEC);
	ck_assert_uint_eq(settings.policy.grace_ns, 60 * NSEC_PER_SEC);
	ck_assert_double_eq_tol(settings.policy.stall_budget, 0.001, 1e-12);
	ck_assert_uint_eq(settings.policy.min_resident, 32u << 20);
	ck_assert_uint_eq(settings.policy.start_delay_ns, 60 * NSEC_PER_SEC);
	ck_assert_uint_eq(settings.policy.limit_bytes, 0);
	ck_assert_double_eq(settings.policy.limit_share, 0);
}
END_TEST

/* What is written by config_format is read as the same value. */
START_TEST(formatted_values_are_read_back)
{
	char first[1024], second[1024], message[CONFIG_MESSAGE];
	struct settings again;

	ck_assert_int_eq(read_text("[Agent]\nLogLevel=debug\nAllowUsers=0 65534\nFaultThreads=3\n"
				   "[Store]\nStore=memory:1.5G\nCompressionLevel=-3\n"
				   "[Policy]\nScanSec=0.02\nStallBudget=12.5%\nLimit=40%\n"),
			 0);
	memset(settings.store_place, 0, sizeof(settings.store_place)); /* all but that */
	config_defaults(&again);
	for (size_t i = 0; i < config_nr_keys; i++) {
		config_format(&settings, &config_keys[i], first, sizeof(first));
		ck_assert_int_eq(config_set(&again, &config_keys[i], first, message), 0);
		config_format(&again, &config_keys[i], second, sizeof(second));
		ck_assert_str_eq(first, second);
	}
	ck_assert_mem_eq(&settings, &again, sizeof(again));
}
END_TEST

static const struct {
	const char *section, *key, *value, *formatted;
} good[] = {
	{ "Agent", "Socket", "/x/y", "/x/y" },
	{ "Agent", "BusAddress", "none", "none" },
	{ "Agent", "BusAddress", "unix:path=/b", "unix:path=/b" },
	{ "Agent", "BusAddress", "system", "system" },
	{ "Agent", "LogLevel", "err", "err" },
	{ "Agent", "FaultThreads", "64", "64" },
	{ "Agent", "MaxProcesses", "1", "1" },
	{ "Agent", "AllowUsers", "root, 1000", "0 1000" },
	{ "Agent", "NeverAttach", "dbus-daemon,systemd", "dbus-daemon systemd" },
	{ "Agent", "NeverAttach", "none", "none" },
	{ "Store", "Store", "memory:100%", "memory:100%" },
	{ "Store", "KeyFile", "/etc/uswap/key", "/etc/uswap/key" },
	{ "Store", "DedupDomain", "cgroup", "cgroup" },
	{ "Store", "MoveDownSec", "1h", "3600" },
	{ "Store", "RecompressSec", "10min", "600" },
	{ "Store", "CompressionLevel", "19", "19" },
	{ "Store", "StagingMax", "1M", "1048576" },
	{ "Store", "UserMax", "1.5G", "1610612736" },
	{ "Store", "ProcessMax", "4096", "4096" },
	{ "Policy", "ScanSec", "0.02", "0.02" },
	{ "Policy", "ScanSec", "20ms", "0.02" },
	{ "Policy", "GraceSec", "0", "0" },
	{ "Policy", "GraceSec", "2min", "120" },
	{ "Policy", "GraceSec", "500 us", "0.0005" },
	{ "Policy", "GraceSec", "2us", "0.000002" },
	{ "Policy", "StallBudget", "100%", "100%" },
	{ "Policy", "StallBudget", "0", "0%" },
	{ "Policy", "StallBudget", "0.00001%", "0.00001%" },
	{ "Policy", "StallBudget", "33.3%", "33.3%" },
	{ "Policy", "MinResident", "0", "0" },
	{ "Policy", "StartDelaySec", "1h", "3600" },
	{ "Policy", "Limit", "512M", "536870912" },
	{ "Policy", "Limit", "25%", "25%" },
	{ "Policy", "Limit", "none", "none" },
};

START_TEST(good_values)
{
	const struct config_key *key = config_find(good[_i].section, good[_i].key);
	char message[CONFIG_MESSAGE] = "", text[256];

	ck_assert_ptr_nonnull(key);
	ck_assert_msg(config_set(&settings, key, good[_i].value, message) == 0, "%s", message);
	config_format(&settings, key, text, sizeof(text));
	ck_assert_str_eq(text, good[_i].formatted);
}
END_TEST

static unsigned asked;

/* Instead of the C library's. */
struct passwd *getpwnam(const char *name)
{
	static struct passwd pw;

	asked++;
	pw.pw_uid = strcmp(name, "root") == 0 ? 0 : 1234 + asked;
	return strcmp(name, "no-such-user-here") == 0 ? NULL : &pw;
}

/* Nor by a worker that takes over, which has what it was made with. */
START_TEST(users_are_asked_for_once)
{
	const struct config_key *key = config_find("Agent", "AllowUsers");
	char message[CONFIG_MESSAGE];

	for (unsigned i = 0; i < 3; i++) {
		config_defaults(&settings);
		ck_assert_int_eq(config_set(&settings, key, "alice 7 bob root", message), 0);
		ck_assert_uint_eq(asked, 3);
		ck_assert_uint_eq(settings.nr_allow_uid, 4);
		ck_assert_uint_eq(settings.allow_uid[0], 1235);
		ck_assert_uint_eq(settings.allow_uid[1], 7);
		ck_assert_uint_eq(settings.allow_uid[2], 1236);
		ck_assert_uint_eq(settings.allow_uid[3], 0);
	}
	ck_assert_int_ne(config_set(&settings, key, "alice no-such-user-here", message), 0);
	ck_assert_uint_eq(asked, 4);
}
END_TEST

static const struct {
	const char *section, *key, *value;
} bad[] = {
	{ "Agent", "Socket", "agent.sock" },
	{ "Agent", "Socket", "/run/" },
	{ "Agent", "Socket", "/run/control.sock" },
	{ "Agent", "Socket",
	  "/a/path/that/is/too/long/for/a/socket/address/a/path/that/is/too/long/for/a/socket/"
	  "address/and/longer/agent.sock" },
	{ "Agent", "BusAddress", "sytem" },
	{ "Agent", "LogLevel", "verbose" },
	{ "Agent", "FaultThreads", "65" },
	{ "Agent", "FaultThreads", "-1" },
	{ "Agent", "FaultThreads", "1.5" },
	{ "Agent", "PackThreads", "two" },
	{ "Agent", "MaxProcesses", "0" },
	{ "Agent", "MaxProcesses", "99999999999999999999" },
	{ "Agent", "AllowUsers", "no-such-user-here" },
	{ "Agent", "AllowUsers", "," },
	{ "Agent", "NeverAttach", "/usr/bin/dbus-daemon" },
	{ "Store", "Store", "memory" },
	{ "Store", "Store", "memory:" },
	{ "Store", "Store", "memory:0" },
	{ "Store", "Store", "memory:101%" },
	{ "Store", "Store", "memory:12X" },
	{ "Store", "Store", "disk:12G" },
	{ "Store", "KeyFile", "key" },
	{ "Store", "DedupDomain", "everybody" },
	{ "Store", "MoveDownSec", "-1" },
	{ "Store", "RecompressSec", "soon" },
	{ "Store", "CompressionLevel", "20" },
	{ "Store", "StagingMax", "1" },
	{ "Store", "StagingMax", "-1M" },
	{ "Store", "UserMax", "16777216T" },
	{ "Store", "ProcessMax", "G" },
	{ "Policy", "ScanSec", "0" },
	{ "Policy", "ScanSec", "1 fortnight" },
	{ "Policy", "ScanSec", "1e3" },
	{ "Policy", "GraceSec", "-1" },
	{ "Policy", "GraceSec", "0.0000000001" },
	{ "Policy", "StallBudget", "1" },
	{ "Policy", "StallBudget", "101%" },
	{ "Policy", "StallBudget", "nan%" },
	{ "Policy", "MinResident", "32 MB" },
	{ "Policy", "StartDelaySec", "." },
	{ "Policy", "Limit", "101%" },
	{ "Policy", "Limit", "never" },
};

START_TEST(bad_values)
{
	const struct config_key *key = config_find(bad[_i].section, bad[_i].key);
	char message[CONFIG_MESSAGE] = "";
	struct settings before = settings;

	ck_assert_ptr_nonnull(key);
	ck_assert_int_eq(config_set(&settings, key, bad[_i].value, message), -EINVAL);
	ck_assert_mem_eq(&before, &settings, sizeof(before));
	ck_assert_ptr_nonnull(strstr(message, bad[_i].key));
	ck_assert_ptr_nonnull(strstr(message, bad[_i].value));
}
END_TEST

START_TEST(errors_name_the_place)
{
	ck_assert_int_eq(read_text("Socket=/a/b\n"
				   "# a comment\n"
				   "[Policy]\n"
				   "ScanSec=soon\n"
				   "  Socket = /a/b\n"
				   "[Polcy]\n"
				   "ScanSec=1\n"
				   "[Agent\n"
				   "[Agent]\n"
				   "what is this\n"),
			 -EINVAL);
	ck_assert_uint_eq(nr_reports, 6);
	ck_assert_str_eq(reports[0], "x.conf:1: Socket=/a/b: stands before the first [Section]");
	ck_assert_str_eq(reports[1], "x.conf:4: ScanSec=soon: is not a time (seconds, or with ms, "
				     "s, min, h)");
	ck_assert_str_eq(reports[2], "x.conf:5: Socket=/a/b: unknown key in [Policy]");
	ck_assert_str_eq(reports[3], "x.conf:6: unknown section [Polcy]");
	ck_assert_str_eq(reports[4], "x.conf:8: \"[Agent\": a section is written as [Name]");
	ck_assert_str_eq(reports[5], "x.conf:10: \"what is this\": neither [Section] nor Key=Value");
}
END_TEST

/* What can only be tried at the start is remembered with its place. */
START_TEST(places_are_kept)
{
	ck_assert_int_eq(read_text("[Store]\nStore=file:/a,size=1G\nKeyFile=/k\n"
				   "Store=\nStore=memory:1G file:/b,size=1G\nStore=file:/c,size=1G\n"
				   "Store=file:/c,size=2G\n"),
			 -EINVAL);
	ck_assert_str_eq(settings.key_file_place, "x.conf:3: ");
	ck_assert_str_eq(settings.store_place[0], "x.conf:5: ");
	ck_assert_str_eq(settings.store_place[1], "x.conf:5: ");
	ck_assert_str_eq(settings.store_place[2], "x.conf:6: ");
	ck_assert_str_eq(settings.store_place[3], "");
	ck_assert_int_eq(read_text("[Store]\nStore="), 0);
	ck_assert_str_eq(settings.store_place[0], "x.conf:2: ");
}
END_TEST

START_TEST(last_line_wins_and_empty_is_the_default)
{
	ck_assert_int_eq(read_text("[Policy]\r\n ScanSec = 5 \r\nScanSec=7\nGraceSec=3\n\n"
				   ";x\n[Store]\n[Policy]\nGraceSec="),
			 0);
	ck_assert_uint_eq(nr_reports, 0);
	ck_assert_uint_eq(settings.policy.scan_ns, 7 * NSEC_PER_SEC);
	ck_assert_uint_eq(settings.policy.grace_ns, 60 * NSEC_PER_SEC);
}
END_TEST

START_TEST(zero_bytes_are_refused)
{
	static char text[] = "[Policy]\nScanSec=1\0\n";
	FILE *file = fmemopen(text, sizeof(text) - 1, "r");

	ck_assert_int_eq(config_read(&settings, file, "x.conf", note, NULL), -EINVAL);
	fclose(file);
	ck_assert_str_eq(reports[0], "x.conf:2: a zero byte: this is not a text file");
}
END_TEST

static char dir[64];

static void put(const char *name, const char *text)
{
	char path[256];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	file = fopen(path, "we");
	ck_assert_ptr_nonnull(file);
	fputs(text, file);
	fclose(file);
}

START_TEST(drop_ins_in_order_of_their_names)
{
	char path[128];

	strcpy(dir, "/tmp/uswap-config.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/a.conf.d", dir);
	ck_assert_int_eq(mkdir(path, 0700), 0);
	put("a.conf", "[Policy]\nScanSec=1\nGraceSec=1\nMinResident=1\n");
	put("a.conf.d/20-b.conf", "[Policy]\nScanSec=20\n");
	put("a.conf.d/10-a.conf", "[Policy]\nScanSec=10\nGraceSec=10\n");
	put("a.conf.d/99-not-read", "[Policy]\nScanSec=99\n");
	put("a.conf.d/.hidden.conf", "[Policy]\nScanSec=98\n");
	snprintf(path, sizeof(path), "%s/a.conf", dir);
	ck_assert_int_eq(config_load(&settings, path, note, NULL), 0);
	ck_assert_uint_eq(settings.policy.scan_ns, 20 * NSEC_PER_SEC);
	ck_assert_uint_eq(settings.policy.grace_ns, 10 * NSEC_PER_SEC);
	ck_assert_uint_eq(settings.policy.min_resident, 1);

	put("a.conf.d/20-b.conf", "[Policy]\nScanSec=x\n");
	ck_assert_int_eq(config_load(&settings, path, note, NULL), -EINVAL);
	ck_assert_uint_eq(nr_reports, 1);
	ck_assert_ptr_nonnull(strstr(reports[0], "/a.conf.d/20-b.conf:2: ScanSec=x: "));

	nr_reports = 0;
	snprintf(path, sizeof(path), "%s/missing.conf", dir);
	ck_assert_int_eq(config_load(&settings, path, note, NULL), -ENOENT);
	ck_assert_uint_eq(nr_reports, 1);
	snprintf(path, sizeof(path), "rm -r '%s'", dir);
	ck_assert_int_eq(system(path), 0);
}
END_TEST

START_TEST(stores_add_up)
{
	const struct config_key *key = config_find("Store", "Store");
	char message[CONFIG_MESSAGE] = "", many[1024] = "";

	/* the first one takes the default's place */
	ck_assert_int_eq(config_set(&settings, key, "memory:2G", message), 0);
	ck_assert_int_eq(config_set(&settings, key, "file:/a,size=1G\tfile:/b,size=2G,daily=1G", message), 0);
	ck_assert_str_eq(settings.store, "memory:2G file:/a,size=1G file:/b,size=2G,daily=1G");
	/* nothing changes by a bad one */
	ck_assert_int_eq(config_set(&settings, key, "file:/c,size=1G disk:x", message), -EINVAL);
	ck_assert_ptr_nonnull(strstr(message, "\"disk\" is unknown"));
	ck_assert_int_eq(config_set(&settings, key, "memory:1G", message), -EINVAL);
	ck_assert_ptr_nonnull(strstr(message, "memory comes first"));
	ck_assert_str_eq(settings.store, "memory:2G file:/a,size=1G file:/b,size=2G,daily=1G");
	/* nor by one that is there already, however it is written */
	ck_assert_int_eq(config_set(&settings, key, "file:/b/,size=3G", message), -EINVAL);
	ck_assert_ptr_nonnull(strstr(message, "file:/b,size=2G,daily=1G is there already"));
	ck_assert_int_eq(config_set(&settings, key, "file:/c,size=1G file:/c,size=2G", message), -EINVAL);
	ck_assert_ptr_nonnull(strstr(message, "is there already"));
	ck_assert_int_eq(config_set(&settings, key, "file:/d,size=1G", message), 0);
	ck_assert_int_eq(config_set(&settings, key, "file:/e,size=1G", message), -EINVAL);
	ck_assert_ptr_nonnull(strstr(message, "at most 4"));
	/* an empty one starts over */
	ck_assert_int_eq(config_set(&settings, key, "", message), 0);
	ck_assert_str_eq(settings.store, "memory:25%");
	/* no more than there can be segments */
	ck_assert_int_eq(config_set(&settings, key, "memory:1T file:/b,size=3T", message), 0);
	ck_assert_int_eq(config_set(&settings, key, "file:/a,size=4M", message), -EINVAL);
	ck_assert_ptr_nonnull(strstr(message, "larger than 4T"));
	ck_assert_int_eq(config_set(&settings, key, "", message), 0);
	ck_assert_int_eq(config_set(&settings, key, "file:/a,size=1G", message), 0);
	ck_assert_str_eq(settings.store, "file:/a,size=1G");
	config_set(&settings, key, "", message);
	while (strlen(many) < 900)
		strcat(many, "long");
	snprintf(many + strlen(many), 100, ",size=1G");
	memcpy(many, "file:/", 6);
	ck_assert_int_eq(config_set(&settings, key, many, message), 0);
	many[8] = 'X';
	ck_assert_int_eq(config_set(&settings, key, many, message), -EINVAL);
	ck_assert_ptr_nonnull(strstr(message, "longer than"));
	/* what stands behind the memory stays */
	strcpy(settings.store, "memory:25% file:/a,size=1G");
	config_resolve_store(&settings, 4000);
	ck_assert_str_eq(settings.store, "memory:1000 file:/a,size=1G");
	strcpy(settings.store, "file:/a,size=1G");
	config_resolve_store(&settings, 4000);
	ck_assert_str_eq(settings.store, "file:/a,size=1G");
}
END_TEST

START_TEST(store_share_becomes_bytes)
{
	config_resolve_store(&settings, 4000);
	ck_assert_str_eq(settings.store, "memory:1000");
	strcpy(settings.store, "memory:1.5K");
	config_resolve_store(&settings, 4000);
	ck_assert_str_eq(settings.store, "memory:1536");
}
END_TEST

static long phys_pages;

/* In front of the library's: a machine with so much memory. */
long sysconf(int name)
{
	long (*real)(int name);

	if (name == _SC_PHYS_PAGES && phys_pages)
		return phys_pages;
	*(void **)&real = dlsym(RTLD_NEXT, "sysconf");
	return real(name);
}

START_TEST(a_machine_with_very_much_memory)
{
	const char *error;

	phys_pages = (long)1 << 34; /* 64 TiB */
	config_defaults(&settings);
	ck_assert_str_eq(settings.store, "memory:25%");
	config_resolve_store(&settings, check_total_memory());
	ck_assert_str_eq(settings.store, "memory:4398046511104");
	ck_assert_msg(store_check(settings.store, &error), "%s", error);
}
END_TEST

static const struct {
	const char *release;
	enum check_result result;
} kernels[] = {
	{ "5.10.0-30-amd64", CHECK_FAIL }, { "6.1.0", CHECK_FAIL },
	{ "6.7.12", CHECK_FAIL },	   { "6.8.0-40-generic", CHECK_FAIL },
	{ "6.11.9", CHECK_FAIL },	   { "6.12.42", CHECK_FAIL },
	{ "6.12.43", CHECK_WARN },	   { "6.12.107+deb13-cloud-amd64", CHECK_WARN },
	{ "6.13.1", CHECK_FAIL },	   { "6.15.11", CHECK_FAIL },
	{ "6.16.0", CHECK_WARN },	   { "6.17.3", CHECK_WARN },
	{ "6.18.0", CHECK_OK },		   { "6.18.44", CHECK_OK },
	{ "6.18", CHECK_OK },		   { "7.1.3", CHECK_OK },
	{ "banana", CHECK_WARN },
};

START_TEST(known_kernels)
{
	char detail[CHECK_DETAIL] = "";

	ck_assert_int_eq(check_kernel_release(kernels[_i].release, detail), kernels[_i].result);
	ck_assert_ptr_nonnull(strstr(detail, kernels[_i].release));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("config");
	TCase *tc = tcase_create("config");
	SRunner *runner;
	int failed;

	tcase_add_checked_fixture(tc, setup, NULL);
	tcase_add_test(tc, defaults);
	tcase_add_test(tc, formatted_values_are_read_back);
	tcase_add_loop_test(tc, good_values, 0, (int)ARRAY_SIZE(good));
	tcase_add_loop_test(tc, bad_values, 0, (int)ARRAY_SIZE(bad));
	tcase_add_test(tc, users_are_asked_for_once);
	tcase_add_test(tc, errors_name_the_place);
	tcase_add_test(tc, places_are_kept);
	tcase_add_test(tc, last_line_wins_and_empty_is_the_default);
	tcase_add_test(tc, zero_bytes_are_refused);
	tcase_add_test(tc, drop_ins_in_order_of_their_names);
	tcase_add_test(tc, stores_add_up);
	tcase_add_test(tc, store_share_becomes_bytes);
	tcase_add_test(tc, a_machine_with_very_much_memory);
	tcase_add_loop_test(tc, known_kernels, 0, (int)ARRAY_SIZE(kernels));
	suite_add_tcase(suite, tc);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
