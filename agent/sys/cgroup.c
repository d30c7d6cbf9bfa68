/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "sys/cgroup.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MOUNT "/sys/fs/cgroup"
#define NO_LIMIT ((uint64_t)1 << 60) /* version 1 says "none" by a number beyond */
#define PATH_BYTES 4096
#define TEXT_BYTES 8192

/* What the two versions call the same things. */
struct names {
	const char *limit, *usage, *inactive_file, *active_file;
};
static const struct names version1 = { "memory.limit_in_bytes", "memory.usage_in_bytes",
				       "\ntotal_inactive_file ", "\ntotal_active_file " };
static const struct names version2 = { "memory.max", "memory.current", "\ninactive_file ", "\nactive_file " };

static bool read_text(const char *dir, const char *name, char *text, size_t size)
{
	char path[PATH_BYTES + 64];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	n = read(fd, text, size - 1);
	close(fd);
	text[n > 0 ? n : 0] = '\0';
	return n > 0;
}

/* "max" is no number: no limit. */
static bool read_number(const char *dir, const char *name, uint64_t *value)
{
	char text[64];

	return read_text(dir, name, text, sizeof(text)) && sscanf(text, "%" SCNu64, value) == 1;
}

static uint64_t stat_value(const char *stat, const char *key)
{
	const char *at = strstr(stat, key);

	return at ? strtoull(at + strlen(key), NULL, 10) : 0;
}

/* Takes the group in dir into account. */
static bool look(const char *dir, const struct names *names, struct cgroup_room *nearest)
{
	char stat[TEXT_BYTES] = "\n";
	uint64_t limit, usage, files, room, last;

	if (!read_number(dir, names->limit, &limit) || limit >= NO_LIMIT ||
	    !read_number(dir, names->usage, &usage))
		return false;
	if (!read_text(dir, "memory.stat", stat + 1, sizeof(stat) - 1))
		stat[1] = '\0';
	files = stat_value(stat, names->inactive_file);
	usage -= files < usage ? files : usage;
	room = usage < limit ? limit - usage : 0;
	last = room + stat_value(stat, names->active_file);
	if (room < nearest->room) {
		nearest->limit = limit;
		nearest->room = room;
	}
	if (last < nearest->last)
		nearest->last = last;
	return true;
}

/* The group at path below root, and all that it is in. */
static bool look_up(const char *root, const char *path, const struct names *names,
		    struct cgroup_room *nearest)
{
	char dir[PATH_BYTES];
	size_t base = strlen(root);
	bool found = false;
	int n = snprintf(dir, sizeof(dir), "%s%s", root, path);

	if (n < 0 || (size_t)n >= sizeof(dir) || strstr(path, "/../"))
		return false; /* of a namespace that isn't below ours */
	while (strlen(dir) > base) {
		found |= look(dir, names, nearest);
		*strrchr(dir, '/') = '\0';
	}
	return look(root, names, nearest) || found;
}

/* The path in the line of text that begins with "N:controllers:", or "". */
static void find_path(const char *text, bool unified, char *path, size_t size)
{
	path[0] = '\0';
	for (const char *line = text; line && *line;) {
		const char *list = strchr(line, ':'), *at = list ? strchr(list + 1, ':') : NULL;
		const char *end = strchr(line, '\n');
		char controllers[128];

		if (!at || (end && at > end))
			return;
		snprintf(controllers, sizeof(controllers), ",%.*s,", (int)(at - list - 1), list + 1);
		if (unified ? at == list + 1 : strstr(controllers, ",memory,") != NULL) {
			snprintf(path, size, "%.*s", (int)strcspn(at + 1, "\n"), at + 1);
			if (strcmp(path, "/") == 0)
				path[0] = '\0';
			return;
		}
		line = end ? end + 1 : NULL;
	}
}

bool cgroup_find_room(const char *text, const char *mount, struct cgroup_room *room)
{
	char path[PATH_BYTES], memory[PATH_BYTES];
	bool found;

	*room = (struct cgroup_room){ .limit = UINT64_MAX, .room = UINT64_MAX, .last = UINT64_MAX };
	find_path(text, true, path, sizeof(path));
	found = look_up(mount, path, &version2, room);
	find_path(text, false, path, sizeof(path));
	snprintf(memory, sizeof(memory), "%s/memory", mount);
	return look_up(memory, path, &version1, room) || found;
}

bool cgroup_read_room(pid_t pid, struct cgroup_room *room)
{
	char text[TEXT_BYTES], proc[32];

	snprintf(proc, sizeof(proc), "/proc/%d", (int)pid);
	return read_text(proc, "cgroup", text, sizeof(text)) && cgroup_find_room(text, MOUNT, room);
}

/* Version 2 where the process is in a group of it, else that of memory. */
bool cgroup_read_id(pid_t pid, uint64_t *id)
{
	char text[TEXT_BYTES], proc[32], path[PATH_BYTES], dir[PATH_BYTES + 32];
	const char *root = MOUNT;
	struct stat st;

	*id = 0;
	snprintf(proc, sizeof(proc), "/proc/%d", (int)pid);
	if (!read_text(proc, "cgroup", text, sizeof(text)))
		return false;
	find_path(text, true, path, sizeof(path));
	if (!*path) {
		find_path(text, false, path, sizeof(path));
		root = MOUNT "/memory";
	}
	if (!*path)
		return true;
	snprintf(dir, sizeof(dir), "%s%s", root, path);
	if (strstr(path, "/..") || stat(dir, &st) < 0 || !S_ISDIR(st.st_mode))
		return false;
	*id = st.st_ino;
	return true;
}
