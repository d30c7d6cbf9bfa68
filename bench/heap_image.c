/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * heap_image PID FILE: writes the private anonymous pages of a stopped process
 * to FILE, as the agent would take them: writable, not executable, no stack.
 * "USWAPIMG", the number of pages, their page numbers, the pages.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/util.h"

#define ENTRY_PRESENT ((uint64_t)1 << 63)
#define ENTRY_FILE ((uint64_t)1 << 61)

static int mem, pagemap;
static uint64_t *vpns, nr, room;

static void die(const char *what)
{
	fprintf(stderr, "heap_image: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int open_of(const char *pid, const char *name)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%s/%s", pid, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		die(path);
	return fd;
}

static void add_range(uint64_t start, uint64_t end)
{
	for (uint64_t vpn = start >> PAGE_SHIFT; vpn < end >> PAGE_SHIFT; vpn++) {
		uint64_t entry = 0;

		if (pread(pagemap, &entry, sizeof(entry), (off_t)(vpn * sizeof(entry))) != sizeof(entry) ||
		    !(entry & ENTRY_PRESENT) || entry & ENTRY_FILE)
			continue;
		if (nr == room) {
			room = room ? room * 2 : 4096;
			vpns = reallocarray(vpns, room, sizeof(*vpns));
			if (!vpns)
				die("memory");
		}
		vpns[nr++] = vpn;
	}
}

static void read_maps(const char *pid)
{
	FILE *maps = fdopen(open_of(pid, "maps"), "r");
	uint64_t start, end, inode;
	char line[4352], perms[8];
	int at;

	if (!maps)
		die("maps");
	while (fgets(line, sizeof(line), maps)) {
		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %7s %*s %*s %" SCNu64 " %n", &start, &end,
			   perms, &inode, &at) < 4)
			continue;
		if (strcmp(perms, "rw-p") == 0 && inode == 0 && !strstr(line + at, "[stack"))
			add_range(start, end);
	}
	fclose(maps);
}

int main(int argc, char **argv)
{
	char page[PAGE_BYTES];
	uint64_t written = 0;
	FILE *out;

	if (argc != 3) {
		fputs("usage: heap_image PID FILE\n", stderr);
		return 2;
	}
	mem = open_of(argv[1], "mem");
	pagemap = open_of(argv[1], "pagemap");
	read_maps(argv[1]);
	out = fopen(argv[2], "w");
	if (!out)
		die(argv[2]);
	fwrite("USWAPIMG", 8, 1, out);
	fwrite(&nr, sizeof(nr), 1, out);
	fwrite(vpns, sizeof(*vpns), nr, out);
	for (uint64_t i = 0; i < nr; i++) {
		if (pread(mem, page, sizeof(page), (off_t)(vpns[i] << PAGE_SHIFT)) != sizeof(page))
			die("mem");
		written += fwrite(page, sizeof(page), 1, out);
	}
	if (fclose(out) || written != nr)
		die(argv[2]);
	printf("%" PRIu64 "\n", nr);
	return 0;
}
