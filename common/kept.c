/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/kept.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "common/util.h"

#ifndef MADV_COLLAPSE /* since Linux 6.1 */
#define MADV_COLLAPSE 25
#endif

#define MAGIC "uswapkpt"

/* The file's first page. */
struct header {
	char magic[8]; /* written last */
	uint32_t version;
	uint32_t reserved;
	char name[KEPT_NAME];
	char gap[KEPT_HEADER - KEPT_OWN - 8 - 8 - KEPT_NAME];
	char own[KEPT_OWN];
};
_Static_assert(sizeof(struct header) == KEPT_HEADER, "the header is one page");

struct entry {
	_Atomic int fd; /* plus one; 0: free. Written last */
	char name[KEPT_NAME];
};

struct kept_directory {
	struct entry entries[KEPT_FILES];
};

static struct kept_directory *directory;

/* ---- the directory ---- */

struct kept_directory *kept_directory_new(void)
{
	void *p = mmap(NULL, sizeof(struct kept_directory), PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

void kept_use(struct kept_directory *dir)
{
	directory = dir;
}

bool kept_has_directory(void)
{
	return directory != NULL;
}

static struct entry *find(const char *name)
{
	for (unsigned i = 0; directory && i < KEPT_FILES; i++) {
		struct entry *e = &directory->entries[i];

		if (e->fd && strncmp(e->name, name, KEPT_NAME) == 0)
			return e;
	}
	return NULL;
}

int kept_fd(const char *name)
{
	const struct entry *e = find(name);

	return e ? e->fd - 1 : -1;
}

int kept_set_fd(const char *name, int fd)
{
	struct entry *e = find(name);

	assert(fd >= 0 && strlen(name) < KEPT_NAME);
	for (unsigned i = 0; !e && directory && i < KEPT_FILES; i++)
		if (!directory->entries[i].fd)
			e = &directory->entries[i];
	if (!e)
		return directory ? -ENOSPC : 0;
	snprintf(e->name, sizeof(e->name), "%s", name);
	atomic_store(&e->fd, fd + 1);
	return 0;
}

void kept_forget_fd(const char *name)
{
	struct entry *e = find(name);

	if (e)
		atomic_store(&e->fd, 0);
}

int kept_nth_fd(unsigned i, const char **name)
{
	for (unsigned k = 0; directory && k < KEPT_FILES; k++) {
		const struct entry *e = &directory->entries[k];

		if (!e->fd || i--)
			continue;
		*name = e->name;
		return e->fd - 1;
	}
	return -1;
}

/* ---- files ---- */

static int back_file(int fd, size_t offset, size_t bytes)
{
	int r;

	do {
		r = fallocate(fd, 0, (off_t)offset, (off_t)bytes);
	} while (r && errno == EINTR);
	return r ? -errno : 0;
}

/* Where huge pages can be behind it: the file's begin at an address as round. */
static char *map_aligned(int fd, size_t all)
{
	char *room = mmap(NULL, all + KEPT_HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0), *p;
	size_t head = -(uintptr_t)room % KEPT_HUGE;

	if (room == MAP_FAILED)
		return room;
	p = mmap(room + head, all, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, fd, 0);
	if (p == MAP_FAILED) {
		munmap(room, all + KEPT_HUGE);
		return p;
	}
	if (head)
		munmap(room, head);
	munmap(p + all, KEPT_HUGE - head);
	return p;
}

static int map_file(struct kept *k)
{
	size_t all = KEPT_HEADER + k->bytes;
	char *p = map_aligned(k->fd, all);

	if (p == MAP_FAILED)
		return -errno;
	/* Other people's memory, or what it looks like: not into a core. */
	madvise(p, all, MADV_DONTDUMP);
	k->own = ((struct header *)(void *)p)->own;
	k->base = p + KEPT_HEADER;
	return 0;
}

static struct header *header_of(const struct kept *k)
{
	return (struct header *)(void *)((char *)k->base - KEPT_HEADER);
}

static int make_file(struct kept *k, const char *name, uint32_t version)
{
	char title[KEPT_NAME + 8];
	struct header *h;
	int r;

	snprintf(title, sizeof(title), "uswap-%s", name);
	k->fd = memfd_create(title, MFD_CLOEXEC);
	if (k->fd < 0 || ftruncate(k->fd, (off_t)(KEPT_HEADER + k->bytes)))
		return -errno;
	r = back_file(k->fd, 0, KEPT_HEADER);
	if (r == 0)
		r = map_file(k);
	if (r < 0)
		return r;
	h = header_of(k);
	h->version = version;
	snprintf(h->name, sizeof(h->name), "%s", name);
	atomic_thread_fence(memory_order_release);
	memcpy(h->magic, MAGIC, sizeof(h->magic));
	return kept_set_fd(name, k->fd);
}

/* 1: it is one. 0: its maker has not come that far. */
static int read_header(int fd, struct header *h)
{
	ssize_t n = pread(fd, h, sizeof(*h), 0);
	char none[sizeof(h->magic)] = { 0 };

	if (n != (ssize_t)sizeof(*h))
		return n < 0 ? -errno : -EBADMSG;
	if (memcmp(h->magic, none, sizeof(none)) == 0)
		return 0;
	return memcmp(h->magic, MAGIC, sizeof(h->magic)) == 0 ? 1 : -EBADMSG;
}

static int find_file(struct kept *k, const char *name, uint32_t oldest, uint32_t version)
{
	struct header h;
	struct stat st;
	int r = read_header(k->fd, &h);

	if (r <= 0)
		return r < 0 ? r : -EBADMSG; /* it has a name only when complete */
	if (strncmp(h.name, name, KEPT_NAME) != 0 || fstat(k->fd, &st) < 0 ||
	    (size_t)st.st_size < KEPT_HEADER)
		return -EBADMSG;
	if (h.version < oldest || h.version > version)
		return -ENOTSUP;
	k->found = true;
	k->bytes = MAX(k->bytes, (size_t)st.st_size - KEPT_HEADER);
	if ((size_t)st.st_size < KEPT_HEADER + k->bytes &&
	    ftruncate(k->fd, (off_t)(KEPT_HEADER + k->bytes)))
		return -errno;
	r = map_file(k);
	if (r == 0)
		header_of(k)->version = version;
	return r;
}

int kept_open_since(struct kept *k, const char *name, size_t bytes, uint32_t oldest, uint32_t version)
{
	int old = kept_fd(name), r;

	assert(bytes && oldest && oldest <= version && strlen(name) < KEPT_NAME);
	*k = (struct kept){ .fd = old, .bytes = (bytes + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1) };
	r = old >= 0 ? find_file(k, name, oldest, version) : make_file(k, name, version);
	if (r == 0)
		return 0;
	if (k->base)
		munmap(header_of(k), KEPT_HEADER + k->bytes);
	if (old < 0)
		safe_close(k->fd);
	*k = KEPT_NONE;
	return r;
}

int kept_open(struct kept *k, const char *name, size_t bytes, uint32_t version)
{
	return kept_open_since(k, name, bytes, version, version);
}

void kept_close(struct kept *k)
{
	if (k->base)
		munmap(header_of(k), KEPT_HEADER + k->bytes);
	if (!directory)
		safe_close(k->fd);
	*k = KEPT_NONE;
}

uint32_t kept_version(const char *name)
{
	int fd = kept_fd(name);
	struct header h;

	return fd >= 0 && read_header(fd, &h) == 1 ? h.version : 0;
}

int kept_back(const struct kept *k, size_t offset, size_t bytes)
{
	assert(offset <= k->bytes && bytes <= k->bytes - offset);
	return bytes ? back_file(k->fd, KEPT_HEADER + offset, bytes) : 0;
}

bool kept_back_huge(const struct kept *k, size_t offset)
{
	char *at = (char *)k->base + offset;

	assert(offset <= k->bytes && KEPT_HUGE <= k->bytes - offset);
	/* What the kernel puts together must have a page that is there. */
	return (KEPT_HEADER + offset) % KEPT_HUGE == 0 && !kept_back(k, offset, PAGE_BYTES) &&
	       !madvise(at, PAGE_BYTES, MADV_POPULATE_WRITE) && !madvise(at, KEPT_HUGE, MADV_COLLAPSE);
}

void kept_give_back(const struct kept *k, size_t offset, size_t bytes)
{
	assert(offset <= k->bytes && bytes <= k->bytes - offset);
	/* Can't fail on a memfd of ours; if it did, the memory would only stay. */
	if (bytes)
		(void)fallocate(k->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				(off_t)(KEPT_HEADER + offset), (off_t)bytes);
}
