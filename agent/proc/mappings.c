/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "proc/mappings.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

#include "common/util.h"

/* A stack that shares its mapping with other memory is bounded by the usual
   size; what lies deeper is ordinary memory to us. */
#define THREAD_STACK_MAX ((uint64_t)8 << 20)
/* glibc's struct pthread and the static TLS above the robust list's head. */
#define THREAD_BLOCK_BYTES ((uint64_t)4 * PAGE_BYTES)
/* 47-bit addresses: what a slotmap can index. */
#define MAPPINGS_END ((uint64_t)1 << 47)

void mappings_deinit(struct mappings *m)
{
	free(m->v);
	ranges_deinit(&m->held);
	ranges_deinit(&m->torn);
	*m = (struct mappings){ 0 };
}

/* All of it, for the caller to free; also after an error. Not kept between two looks: our
   memory is locked, and there are many processes. */
static int read_all(int fd, char **text)
{
	size_t have = 0, room = 0;
	ssize_t n = 1;

	for (*text = NULL; n; have += (size_t)n) {
		if (room - have < 8192) {
			char *more;

			room = room * 2 + 65536;
			more = realloc(*text, room);
			if (!more)
				return -ENOMEM;
			*text = more;
		}
		do
			n = pread(fd, *text + have, room - have - 1, (off_t)have);
		while (n < 0 && errno == EINTR);
		if (n < 0)
			return -errno;
	}
	(*text)[have] = '\0';
	return 0;
}

static int add(struct mappings *m, uint64_t start, uint64_t end)
{
	if (m->nr == m->room) {
		size_t room = m->room * 2 + 64;
		struct mapping *v = realloc(m->v, room * sizeof(*v));

		if (!v)
			return -ENOMEM;
		m->v = v;
		m->room = room;
	}
	m->v[m->nr++] = (struct mapping){ start, end };
	return 0;
}

/* Field names begin with a capital, so 'A'nonymous is no address. */
static bool is_header(const char *line)
{
	return (*line >= '0' && *line <= '9') || (*line >= 'a' && *line <= 'f');
}

/*
 * By hand and not by sscanf: that one measures the whole rest of the text at
 * each call, and smaps of a program with a hundred thousand mappings is 60 MB.
 */
static bool take_hex(const char **at, uint64_t *value)
{
	const char *p = *at;
	uint64_t v = 0;

	for (;; p++) {
		if (*p >= '0' && *p <= '9')
			v = v << 4 | (uint64_t)(*p - '0');
		else if (*p >= 'a' && *p <= 'f')
			v = v << 4 | (uint64_t)(*p - 'a' + 10);
		else
			break;
	}
	*value = v;
	if (p == *at || p - *at > 16)
		return false;
	*at = p;
	return true;
}

static bool take(const char **at, char c)
{
	if (**at != c)
		return false;
	(*at)++;
	return true;
}

/* "START-END " */
static bool take_range(const char **at, uint64_t *start, uint64_t *end)
{
	return take_hex(at, start) && take(at, '-') && take_hex(at, end) && take(at, ' ');
}

/* "START-END PERMS OFFSET MAJOR:MINOR INODE   NAME": could its pages leave? */
static bool header_is_eligible(const char *line, const char *end, uint64_t *start, uint64_t *stop)
{
	const char *p = line;
	uint64_t unused;

	if (!take_range(&p, start, stop))
		return false;
	/* With vm.mmap_min_addr=0 a program may have the first page, by which uffd_is_changing()
	   asks: registered, it would be given zeros. */
	if (strncmp(p, "rw-p ", 5) != 0 || *start == 0 || *stop > MAPPINGS_END)
		return false;
	p += 5;
	if (!take_hex(&p, &unused) || !take(&p, ' ') || !take_hex(&p, &unused) || !take(&p, ':') ||
	    !take_hex(&p, &unused) || !take(&p, ' ') || !take(&p, '0')) /* inode 0 */
		return false;
	while (p < end && *p == ' ')
		p++;
	return p == end || strncmp(p, "[heap]", 6) == 0 || strncmp(p, "[anon:", 6) == 0;
}

static bool has_flag(const char *flags, const char *end, const char *flag)
{
	for (const char *p = flags; p + 2 <= end; p += 3)
		if (memcmp(p, flag, 2) == 0)
			return true;
	return false;
}

/* "VmFlags: rd wr mr mw me ac sd": does one of them keep it out? */
static bool flags_are_eligible(const char *flags, const char *end)
{
	static const char out[][3] = { "lo", "io", "pf", "dc", "dd", "wf", "ht", "mg", "sh", "ss", "gd" };

	for (size_t i = 0; i < ARRAY_SIZE(out); i++)
		if (has_flag(flags, end, out[i]))
			return false;
	return true;
}

/*
 * The kernel says "sd" of a new mapping, if it can tell at all which pages are written,
 * and no more once somebody has begun to ask (clear_refs). A page that was written then,
 * and leaves, would show as not written. That this kernel tells is seen once.
 */
static bool is_asked_for_writes(const char *flags, const char *end)
{
	static _Atomic bool kernel_tells;

	if (!has_flag(flags, end, "sd"))
		return kernel_tells;
	kernel_tells = true;
	return false;
}

/* Registered in a way that is not ours: for writes alone, minor faults, or shared. */
static bool is_registered_by_others(const char *header, const char *flags, const char *end)
{
	bool missing = has_flag(flags, end, "um");
	uint64_t unused;

	if ((has_flag(flags, end, "uw") && !missing) || has_flag(flags, end, "ui"))
		return true;
	return missing && take_range(&header, &unused, &unused) && header[3] == 's';
}

bool mappings_is_never(uint64_t start, uint64_t end, const struct wire_range *never, unsigned nr)
{
	for (unsigned i = 0; i < nr; i++)
		if (start < never[i].end && never[i].start < end)
			return true;
	return false;
}

/* "         123 kB" */
static uint64_t kilobytes(const char *at)
{
	return (uint64_t)strtoull(at, NULL, 10) << 10;
}

/* A mapping whose pages could leave by its header, with its flags' text. */
struct header {
	uint64_t start, end;
	bool eligible;
	const char *flags, *flags_end;
};

/* The next flag that two mappings must have in common for the kernel to make them one. */
static const char *next_flag(const char *p, const char *end)
{
	while (p + 2 <= end && (!memcmp(p, "um", 2) || !memcmp(p, "uw", 2) || !memcmp(p, "sd", 2)))
		p += 3;
	return p;
}

static bool has_same_flags(const struct header *a, const struct header *b)
{
	const char *p = next_flag(a->flags, a->flags_end), *q = next_flag(b->flags, b->flags_end);

	while (p + 2 <= a->flags_end && q + 2 <= b->flags_end && !memcmp(p, q, 2)) {
		p = next_flag(p + 3, a->flags_end);
		q = next_flag(q + 3, b->flags_end);
	}
	return p + 2 > a->flags_end && q + 2 > b->flags_end;
}

/* One mapping of which only a part is registered is two to the kernel. Without memory
   they stay so. */
static void compare(struct mappings *m, const struct header *before, const struct header *h,
		    const struct wire_range *never, unsigned nr_never)
{
	const struct header *torn;
	bool registered;

	if (!before->eligible || !h->eligible || before->end != h->start)
		return;
	registered = has_flag(before->flags, before->flags_end, "um");
	if (registered == has_flag(h->flags, h->flags_end, "um") || !has_same_flags(before, h))
		return;
	torn = registered ? h : before;
	if (!mappings_is_never(torn->start, torn->end, never, nr_never))
		(void)ranges_bag_add(&m->torn, torn->start, torn->end);
}

static int parse(struct mappings *m, const char *text, const struct wire_range *never, unsigned nr_never)
{
	struct header before = { 0 }, h = { 0 };
	const char *header = text, *line, *eol;

	for (line = text; (eol = strchr(line, '\n')); line = eol + 1) {
		if (is_header(line)) {
			before = h;
			header = h.flags = h.flags_end = line;
			h.eligible = header_is_eligible(line, eol, &h.start, &h.end);
		} else if (strncmp(line, "Locked:", 7) == 0) {
			m->locked_bytes += kilobytes(line + 7);
		} else if (strncmp(line, "VmFlags: ", 9) == 0) {
			h.flags = line + 9;
			h.flags_end = eol;
			m->has_uffd |= is_registered_by_others(header, h.flags, eol);
			m->is_asked |= h.eligible && is_asked_for_writes(h.flags, eol);
			compare(m, &before, &h, never, nr_never);
			if (h.eligible && flags_are_eligible(h.flags, eol) &&
			    !mappings_is_never(h.start, h.end, never, nr_never) &&
			    add(m, h.start, h.end) < 0)
				return -ENOMEM;
		}
	}
	return 0;
}

int mappings_read(struct mappings *m, int smaps, const struct wire_range *never, unsigned nr_never)
{
	_cleanup_free_ char *text = NULL;
	int r;

	m->nr = m->torn.nr = 0;
	m->locked_bytes = 0;
	m->has_uffd = m->is_asked = false;
	r = read_all(smaps, &text);
	if (r == 0)
		r = parse(m, text, never, nr_never);
	if (r < 0)
		m->nr = 0;
	return r;
}

int mappings_read_flagged(int smaps, const char *flag, struct ranges *set)
{
	_cleanup_free_ char *text = NULL;
	uint64_t start = 0, end = 0;
	int r = read_all(smaps, &text);
	const char *eol;

	set->nr = 0;
	if (r < 0)
		return r;
	for (const char *line = text; r == 0 && (eol = strchr(line, '\n')); line = eol + 1) {
		const char *at = line;

		if (is_header(line))
			(void)take_range(&at, &start, &end);
		else if (strncmp(line, "VmFlags: ", 9) == 0 && has_flag(line + 9, eol, flag))
			r = ranges_add(set, start, end);
	}
	return r;
}

const struct mapping *mappings_after(const struct mappings *m, uint64_t address)
{
	size_t lo = 0, hi = m->nr;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (m->v[mid].end <= address)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < m->nr ? &m->v[lo] : NULL;
}

/* A word of the program that the kernel needs when a thread dies: its page stays,
   or is to come back. Only where nothing can make us wait for it. 1: it is there,
   0: it is not, or is none of ours. */
static int hold_word(struct mappings *m, int mem, uint64_t address, void *value, size_t size)
{
	uint64_t page = address & ~(PAGE_BYTES - 1);
	const struct mapping *map = mappings_after(m, page);

	if (!map || map->start > page)
		return 0;
	if (ranges_add(&m->held, page, page + PAGE_BYTES) < 0)
		return -ENOMEM;
	if (pread(mem, value, size, (off_t)address) == (ssize_t)size)
		return 1;
	m->missing = page;
	return 0;
}

/* The robust mutexes that a thread holds, newest first, as far as they lie in
   memory that may leave: the kernel walks this list when it dies. *left: how many
   are still looked at in this process. */
static int hold_mutexes(struct mappings *m, int mem, uint64_t at, unsigned *left)
{
	struct robust_list_head head;
	uint64_t entry, next;
	uint32_t word;
	int r = hold_word(m, mem, at, &head, sizeof(head));

	if (r <= 0)
		return r;
	if (head.list_op_pending) /* being taken or given back */
		r = hold_word(m, mem, ((uintptr_t)head.list_op_pending & ~1ull) + (uint64_t)head.futex_offset,
			      &word, sizeof(word));
	entry = (uintptr_t)head.list.next & ~1ull;
	for (unsigned n = 0; r >= 0 && entry != at && n < ROBUST_LIST_LIMIT; n++) {
		if (!(*left)--)
			return -E2BIG;
		r = hold_word(m, mem, entry + (uint64_t)head.futex_offset, &word, sizeof(word));
		if (r >= 0)
			r = hold_word(m, mem, entry, &next, sizeof(next));
		if (r <= 0)
			break;
		entry = next & ~1ull;
	}
	return MIN(r, 0);
}

static int hold_thread(struct mappings *m, int mem, pid_t tid, bool is_main, unsigned *left)
{
	const struct mapping *map;
	uint64_t block, from;
	void *head = NULL;
	size_t len = 0;

	if (syscall(SYS_get_robust_list, tid, &head, &len) < 0)
		return errno == ESRCH ? 0 : -errno;
	block = (uintptr_t)head & ~(PAGE_BYTES - 1);
	map = head ? mappings_after(m, block) : NULL;
	if (!map || map->start > block)
		return 0;
	/* The main thread's stack is [stack]; its block lies alone. */
	from = is_main ? block - PAGE_BYTES : block - MIN(THREAD_STACK_MAX, block - map->start);
	if (ranges_add(&m->held, MAX(from, map->start), block + THREAD_BLOCK_BYTES) < 0)
		return -ENOMEM;
	return hold_mutexes(m, mem, (uintptr_t)head, left);
}

int mappings_read_threads(struct mappings *m, int mem, int tasks, pid_t pid)
{
	int fd = openat(tasks, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	unsigned left = MAPPINGS_MUTEXES_MAX;
	struct dirent *entry;
	int r = 0;

	if (!dir) {
		safe_close(fd);
		return -errno;
	}
	m->held.nr = 0;
	m->missing = 0;
	while (r == 0 && (entry = readdir(dir))) {
		long tid = strtol(entry->d_name, NULL, 10);

		if (tid > 0)
			r = hold_thread(m, mem, (pid_t)tid, (pid_t)tid == pid, &left);
	}
	closedir(dir);
	return r;
}
