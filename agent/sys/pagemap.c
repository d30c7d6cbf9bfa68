/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "sys/pagemap.h"

#include <errno.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/statfs.h>
#include <sys/uio.h>

#include "common/util.h"

#define PAGEMAP_EXCLUSIVE ((uint64_t)1 << 56)
#define PAGEMAP_SWAPPED ((uint64_t)1 << 62)
#define PAGEMAP_PRESENT ((uint64_t)1 << 63)
#define READ_PAGES_MAX 64
#define READ_TRIES 20

int pagemap_scan_resident(int pagemap, uint64_t start, uint64_t end, struct page_region *regions,
			  unsigned nr, uint64_t max_pages, uint64_t *next)
{
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = start,
		.end = end,
		.vec = (uintptr_t)regions,
		.vec_len = nr,
		.max_pages = max_pages,
		.category_inverted = PAGE_IS_FILE | PAGE_IS_PFNZERO,
		.category_mask = PAGE_IS_PRESENT | PAGE_IS_FILE | PAGE_IS_PFNZERO,
		.return_mask = PAGE_IS_PRESENT,
	};
	int n = ioctl(pagemap, PAGEMAP_SCAN, &arg);

	if (n < 0) {
		*next = end;
		return -errno;
	}
	*next = arg.walk_end;
	return n;
}

unsigned pagemap_empty_run(int pagemap, uint64_t start, unsigned max)
{
	static bool no_guard; /* kernel before 6.15: there is no such category */
	struct page_region region;
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = start + PAGE_BYTES,
		.end = start + ((uint64_t)max << PAGE_SHIFT),
		.vec = (uintptr_t)&region,
		.vec_len = 1,
		.max_pages = 1,
	};
	int n;

	if (max <= 1)
		return 1;
	do {
		arg.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED | (no_guard ? 0 : PAGE_IS_GUARD);
		arg.return_mask = PAGE_IS_PRESENT;
		n = ioctl(pagemap, PAGEMAP_SCAN, &arg);
		if (n < 0 && errno == EINVAL && !no_guard)
			no_guard = true;
		else
			break;
	} while (true);
	if (n < 0)
		return 1;
	return n == 0 ? max : (unsigned)((region.start - start) >> PAGE_SHIFT);
}

int pagemap_scan_guards(int pagemap, uint64_t start, uint64_t end, struct page_region *regions,
			unsigned nr, uint64_t *next)
{
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = start,
		.end = end,
		.vec = (uintptr_t)regions,
		.vec_len = nr,
		.category_mask = PAGE_IS_GUARD,
		.return_mask = PAGE_IS_GUARD,
	};
	int n = ioctl(pagemap, PAGEMAP_SCAN, &arg);

	*next = n < 0 ? end : arg.walk_end;
	if (n < 0)
		return errno == EINVAL ? 0 : -errno; /* before 6.15 */
	return n;
}

bool pagemap_is_guard(int pagemap, uint64_t address)
{
	struct page_region region;
	uint64_t next;

	return pagemap >= 0 &&
	       pagemap_scan_guards(pagemap, address, address + PAGE_BYTES, &region, 1, &next) > 0;
}

unsigned pagemap_free_run(int pagemap, uint64_t start, unsigned n)
{
	if (pagemap < 0 || start == 0)
		return n;
	return pagemap_empty_run(pagemap, start - PAGE_BYTES, n + 1) - 1;
}

/* The kernel shows a mark as a swap entry that is write-protected; a guard, or one
   of a page in swap, is not. */
unsigned pagemap_marked_run(int pagemap, uint64_t start, unsigned n)
{
	struct page_region region;
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = start,
		.end = start + ((uint64_t)n << PAGE_SHIFT),
		.vec = (uintptr_t)&region,
		.vec_len = 1,
		.category_inverted = PAGE_IS_WRITTEN,
		.category_mask = PAGE_IS_SWAPPED | PAGE_IS_WRITTEN,
		.return_mask = PAGE_IS_SWAPPED,
	};

	if (ioctl(pagemap, PAGEMAP_SCAN, &arg) <= 0 || region.start != start)
		return 0;
	return (unsigned)((region.end - start) >> PAGE_SHIFT);
}

static bool read_entry(int pagemap, uint64_t address, uint64_t *entry)
{
	off_t at = (off_t)((address >> PAGE_SHIFT) * sizeof(*entry));

	return pread(pagemap, entry, sizeof(*entry), at) == (ssize_t)sizeof(*entry);
}

bool pagemap_is_exclusive(int pagemap, uint64_t address)
{
	uint64_t entry;

	return read_entry(pagemap, address, &entry) && (entry & PAGEMAP_EXCLUSIVE);
}

bool pagemap_is_populated(int pagemap, uint64_t address)
{
	uint64_t entry;

	return !read_entry(pagemap, address, &entry) || (entry & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED));
}

bool maps_find(int maps, uint64_t address, struct maps_area *area)
{
	const uint64_t want = PROCMAP_QUERY_VMA_READABLE | PROCMAP_QUERY_VMA_WRITABLE;
	const uint64_t mask = want | PROCMAP_QUERY_VMA_EXECUTABLE | PROCMAP_QUERY_VMA_SHARED;
	struct procmap_query query = { .size = sizeof(query), .query_addr = address };

	*area = (struct maps_area){ 0 };
	if (ioctl(maps, PROCMAP_QUERY, &query) < 0)
		return false;
	*area = (struct maps_area){
		.start = query.vma_start,
		.end = query.vma_end,
		.is_plain = query.inode == 0 && (query.vma_flags & mask) == want,
	};
	return true;
}

/* Neighbours in one piece (whole), or each for itself. How many pieces. */
static int pieces(struct iovec *iov, void *const *pages, unsigned n, bool whole)
{
	int nr = 0;

	for (unsigned i = 0; i < n; i++) {
		if (whole && nr && (char *)iov[nr - 1].iov_base + iov[nr - 1].iov_len == pages[i])
			iov[nr - 1].iov_len += PAGE_BYTES;
		else
			iov[nr++] = (struct iovec){ .iov_base = pages[i], .iov_len = PAGE_BYTES };
	}
	return nr;
}

static ssize_t read_pieces(int mem, uint64_t address, const struct iovec *iov, int nr)
{
	ssize_t got = -1;

	/* The page is nowhere else: what may pass is tried again. */
	for (unsigned tries = 0; tries < READ_TRIES; tries++) {
		got = preadv(mem, iov, nr, (off_t)address);
		if (got >= 0 || (errno != EINTR && errno != EAGAIN && errno != ENOMEM))
			break;
	}
	return got;
}

int mem_read_pages(int mem, uint64_t address, void *const *pages, unsigned n)
{
	struct iovec iov[READ_PAGES_MAX];
	ssize_t got;

	assert(n > 0 && n <= READ_PAGES_MAX);
	/* Each piece costs the kernel a quarter of what copying a page does. But of one
	   with a page of ours that can't be written it doesn't say which it was. */
	got = read_pieces(mem, address, iov, pieces(iov, pages, n, true));
	if (got < 0 && (errno == EFAULT || errno == ENOMEM))
		got = read_pieces(mem, address, iov, pieces(iov, pages, n, false));
	if (got < 0)
		return errno == EIO ? 0 : -errno;
	if (got == 0) /* only an address space without users reads as empty */
		return -ESRCH;
	return (int)((size_t)got >> PAGE_SHIFT);
}

bool proc_fd_is(int fd, const char *name)
{
	char path[64], target[128];
	struct statfs fs;
	const char *base;
	ssize_t n;

	if (fstatfs(fd, &fs) < 0 || fs.f_type != PROC_SUPER_MAGIC)
		return false;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = readlink(path, target, sizeof(target) - 1);
	if (n <= 0)
		return false;
	target[n] = '\0';
	base = strrchr(target, '/');
	return base && strcmp(base + 1, name) == 0;
}
