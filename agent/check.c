/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent/checks.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/capability.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <systemd/sd-bus.h>

#include "agent/setup.h"
#include "backends/store.h"
#include "common/units.h"
#include "common/util.h"
#include "uapi/uswap_uapi.h"

#define DEVICE "/dev/userfaultfd"
#define FDS_PER_PROCESS 8 /* of a session: its own and those of its mover */
#define FDS_OWN 64
#define MAP_COUNT_DEFAULT 65530

struct check {
	const char *what;
	enum check_result (*run)(const struct settings *settings, char *detail);
};

__attribute__((format(printf, 3, 4))) static enum check_result
result(enum check_result value, char *detail, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vsnprintf(detail, CHECK_DETAIL, format, ap);
	va_end(ap);
	return value;
}

uint64_t check_total_memory(void)
{
	return (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* ---- the kernel's features ---- */

static enum check_result check_device(const struct settings *settings, char *detail)
{
	_cleanup_close_ int fd = open(DEVICE, O_RDWR | O_CLOEXEC);

	if (fd >= 0)
		return result(CHECK_OK, detail, DEVICE " can be opened");
	if (errno == ENOENT)
		return result(CHECK_FAIL, detail,
			      DEVICE " is missing: the kernel lacks CONFIG_USERFAULTFD, or this "
			      "container was not given the device");
	return result(CHECK_FAIL, detail, DEVICE ": %s (uid %u needs to read and write it)",
		      strerror(errno), (unsigned)geteuid());
}

static int new_userfaultfd(void)
{
	_cleanup_close_ int device = open(DEVICE, O_RDWR | O_CLOEXEC);
	int fd;

	if (device < 0)
		return -errno;
	fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	return fd < 0 ? -errno : fd;
}

static const struct {
	uint64_t bit;
	const char *name;
} features[] = {
	{ UFFD_FEATURE_MOVE, "MOVE" },
	{ UFFD_FEATURE_EVENT_FORK, "EVENT_FORK" },
	{ UFFD_FEATURE_EVENT_REMAP, "EVENT_REMAP" },
	{ UFFD_FEATURE_EVENT_REMOVE, "EVENT_REMOVE" },
	{ UFFD_FEATURE_EVENT_UNMAP, "EVENT_UNMAP" },
	{ UFFD_FEATURE_THREAD_ID, "THREAD_ID" },
	{ UFFD_FEATURE_POISON, "POISON" },
};

static enum check_result check_features(const struct settings *settings, char *detail)
{
	_cleanup_close_ int query = new_userfaultfd();
	_cleanup_close_ int fd = -1;
	struct uffdio_api api = { .api = UFFD_API };
	uint64_t wanted = 0;
	char names[128] = "";

	if (query < 0)
		return result(CHECK_FAIL, detail, "no userfaultfd: %s", strerror(-query));
	if (ioctl(query, UFFDIO_API, &api) < 0)
		return result(CHECK_FAIL, detail, "UFFDIO_API: %s", strerror(errno));
	for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
		wanted |= features[i].bit;
		if (!(api.features & features[i].bit))
			snprintf(names + strlen(names), sizeof(names) - strlen(names), " %s",
				 features[i].name);
	}
	if (*names)
		return result(CHECK_FAIL, detail, "the kernel lacks%s", names);
	fd = new_userfaultfd();
	api = (struct uffdio_api){ .api = UFFD_API, .features = wanted };
	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0)
		return result(CHECK_FAIL, detail, "they are there but refused: %s%s",
			      strerror(errno),
			      errno == EPERM ? " (EVENT_FORK needs CAP_SYS_PTRACE)" : "");
	return result(CHECK_OK, detail,
		      "MOVE EVENT_FORK EVENT_REMAP EVENT_REMOVE EVENT_UNMAP THREAD_ID POISON");
}

static enum check_result check_ptrace(const struct settings *settings, char *detail)
{
	if (setup_has_capability(CAP_SYS_PTRACE))
		return result(CHECK_OK, detail, "CAP_SYS_PTRACE is there");
	return result(CHECK_FAIL, detail,
		      "CAP_SYS_PTRACE is missing: forked children can't be followed");
}

static enum check_result check_pagemap(const struct settings *settings, char *detail)
{
	_cleanup_close_ int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	struct page_region region;
	struct pm_scan_arg arg = { .size = sizeof(arg),
				   .vec = (uintptr_t)&region,
				   .vec_len = 1,
				   .category_mask = PAGE_IS_PRESENT,
				   .return_mask = PAGE_IS_PRESENT };

	arg.start = (uintptr_t)&region & ~(uint64_t)(PAGE_BYTES - 1);
	arg.end = arg.start + PAGE_BYTES;
	if (fd < 0)
		return result(CHECK_FAIL, detail, "/proc/self/pagemap: %s", strerror(errno));
	if (ioctl(fd, PAGEMAP_SCAN, &arg) < 0)
		return result(CHECK_FAIL, detail, "PAGEMAP_SCAN: %s", strerror(errno));
	return result(CHECK_OK, detail, "PAGEMAP_SCAN works");
}

static enum check_result check_procmap(const struct settings *settings, char *detail)
{
	_cleanup_close_ int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	struct procmap_query query = { .size = sizeof(query), .query_addr = (uintptr_t)detail };

	if (fd < 0)
		return result(CHECK_FAIL, detail, "/proc/self/maps: %s", strerror(errno));
	if (ioctl(fd, PROCMAP_QUERY, &query) < 0)
		return result(CHECK_FAIL, detail, "PROCMAP_QUERY: %s", strerror(errno));
	return result(CHECK_OK, detail, "PROCMAP_QUERY works");
}

static enum check_result check_this_kernel(const struct settings *settings, char *detail)
{
	return check_kernel(detail);
}

/* ---- limits ---- */

static enum check_result check_nofile(const struct settings *settings, char *detail)
{
	struct rlimit limit;
	uint64_t need = (uint64_t)settings->max_processes * FDS_PER_PROCESS + FDS_OWN;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return result(CHECK_FAIL, detail, "%s", strerror(errno));
	if (limit.rlim_max >= need)
		return result(CHECK_OK, detail, "up to %" PRIu64 " descriptors",
			      (uint64_t)limit.rlim_max);
	return result(CHECK_WARN, detail,
		      "%" PRIu64 " descriptors, but MaxProcesses=%" PRIu32 " may need %" PRIu64
		      " (LimitNOFILE=)",
		      (uint64_t)limit.rlim_max, settings->max_processes, need);
}

static enum check_result check_memlock(const struct settings *settings, char *detail)
{
	if (setup_may_lock())
		return result(CHECK_OK, detail, "the agent's memory can be locked");
	return result(CHECK_WARN, detail,
		      "the agent's memory can't be locked (LimitMEMLOCK=infinity or CAP_IPC_LOCK): "
		      "its answers may wait for swap");
}

static enum check_result check_map_count(const struct settings *settings, char *detail)
{
	FILE *file = fopen("/proc/sys/vm/max_map_count", "re");
	unsigned long count = 0;

	if (!file || fscanf(file, "%lu", &count) != 1)
		count = 0;
	if (file)
		fclose(file);
	if (count == 0)
		return result(CHECK_WARN, detail, "vm.max_map_count can't be read");
	if (count < MAP_COUNT_DEFAULT)
		return result(CHECK_WARN, detail,
			      "vm.max_map_count is %lu, below the kernel's default of %d", count,
			      MAP_COUNT_DEFAULT);
	return result(CHECK_OK, detail, "vm.max_map_count is %lu", count);
}

/* ---- the configuration ---- */

static enum check_result check_store(const struct settings *settings, char *detail)
{
	const char *error = "", *list = settings->store;
	char word[SETTINGS_STORE_MAX];
	int r;

	for (unsigned i = 0; store_next_word(&list, word, sizeof(word)); i++) {
		r = store_look(word, &error);
		if (r)
			return result(r == -EINVAL ? CHECK_FAIL : CHECK_WARN, detail, "%s%s: %s",
				      settings->store_place[i], word, error);
	}
	return result(CHECK_OK, detail, "%s opens", settings->store);
}

static enum check_result check_socket(const struct settings *settings, char *detail)
{
	char dir[SETTINGS_PATH_MAX];
	struct stat st;
	char *slash;

	strcpy(dir, settings->socket);
	slash = strrchr(dir, '/');
	slash[slash == dir] = '\0'; /* "/agent.sock" lies in "/" */
	if (lstat(settings->socket, &st) == 0 && !S_ISSOCK(st.st_mode))
		return result(CHECK_FAIL, detail, "%s is something else than a socket",
			      settings->socket);
	if (access(dir, W_OK | X_OK) == 0)
		return result(CHECK_OK, detail, "%s can be written", dir);
	if (errno != ENOENT)
		return result(CHECK_WARN, detail,
			      "%s: %s; the sockets must come from the service manager", dir,
			      strerror(errno));
	slash = strrchr(dir, '/');
	slash[slash == dir] = '\0';
	if (access(dir, W_OK | X_OK) < 0)
		return result(CHECK_FAIL, detail, "the directory of %s can't be made: %s: %s",
			      settings->socket, dir, strerror(errno));
	return result(CHECK_OK, detail, "the directory of %s can be made", settings->socket);
}

static enum check_result check_bus(const struct settings *settings, char *detail)
{
	const char *name = *settings->bus_address ? settings->bus_address : "the system bus";
	sd_bus *bus = NULL;
	const char *unique;
	int r;

	if (strcmp(name, "none") == 0)
		return result(CHECK_OK, detail, "none wanted; control.sock works without");
	if (!*settings->bus_address) {
		r = sd_bus_open_system(&bus);
	} else {
		r = sd_bus_new(&bus);
		if (r >= 0)
			r = sd_bus_set_address(bus, settings->bus_address);
		if (r >= 0)
			r = sd_bus_set_bus_client(bus, true);
		if (r >= 0)
			r = sd_bus_start(bus);
	}
	if (r >= 0)
		r = sd_bus_get_unique_name(bus, &unique); /* waits for the bus's answer */
	sd_bus_flush_close_unref(bus);
	if (r < 0)
		return result(CHECK_WARN, detail, "%s: %s; control.sock works without", name,
			      strerror(-r));
	return result(CHECK_OK, detail, "%s answers", name);
}

static const struct check checks[] = {
	{ "kernel", check_this_kernel },
	{ "userfaultfd device", check_device },
	{ "userfaultfd features", check_features },
	{ "capability", check_ptrace },
	{ "page scan", check_pagemap },
	{ "mapping query", check_procmap },
	{ "descriptors", check_nofile },
	{ "locked memory", check_memlock },
	{ "mappings", check_map_count },
	{ "store", check_store },
	{ "socket", check_socket },
	{ "bus", check_bus },
};

bool check_run(const struct settings *settings)
{
	static const char *const words[] = {
		[CHECK_OK] = "ok  ", [CHECK_WARN] = "warn", [CHECK_FAIL] = "FAIL"
	};
	char detail[CHECK_DETAIL];
	bool good = true;

	for (size_t i = 0; i < ARRAY_SIZE(checks); i++) {
		enum check_result r = checks[i].run(settings, detail);

		printf("%s  %s: %s\n", words[r], checks[i].what, detail);
		good = good && r != CHECK_FAIL;
	}
	return good;
}
