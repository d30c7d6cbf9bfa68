/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * special_verify PART [N]: pages that the kernel treats in a special way; the
 * machine has to be set up for it (tests/live/test_special.sh).
 * hugetlb  N pages of hugetlbfs, private, shared and by a file: they stay,
 *          through fork, mprotect and mremap, while others leave
 * thp      N transparent huge pages, which nobody has asked for: they leave,
 *          come back as small ones, are made huge again by the kernel
 * ksm      equal pages are merged by the kernel: merged they stay, written to
 *          and unmerged they leave again
 */
#include "workload.h"

#include <sys/prctl.h>

#define HUGE ((size_t)2 << 20)
#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67
#endif

#define ORDINARY 512
#define WHOLE_ROUNDS 10

static unsigned char *ordinary;

/* Others must be able to leave meanwhile, or nothing is shown. */
static void others_leave(const char *what)
{
	wl_renew(ordinary, ORDINARY);
	wl_fill(ordinary, ORDINARY, 500);
	wl_wait_evicted(what, ordinary, ORDINARY, 90);
	wl_verify("ordinary pages", ordinary, ORDINARY, 500);
}

/* From a file "NAME: NUMBER ...", or one that is just a number; 0: not there. */
static unsigned long number_of(const char *path, const char *name)
{
	FILE *f = fopen(path, "re");
	unsigned long n = 0;
	char line[256];

	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, name, strlen(name)))
			n += strtoul(line + strlen(name), NULL, 10);
	if (f)
		fclose(f);
	return n;
}

/* ---- hugetlb ---- */

static unsigned char *map_huge(size_t bytes, int fd, int flags)
{
	void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);

	WL_CHECK(at != MAP_FAILED, "mmap of %zu huge pages, flags %#x: %s", bytes / HUGE, flags,
		 strerror(errno));
	return at;
}

static int hugetlb(size_t n)
{
	size_t bytes = n / 4 * HUGE, pages = bytes / WL_PAGE;
	int fd = (int)WL_OK(memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB));
	unsigned char *area[3];
	size_t i;
	pid_t pid;

	WL_CHECK(bytes, "four huge pages at least");
	WL_OK(ftruncate(fd, (off_t)bytes));
	area[0] = map_huge(bytes, -1, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB);
	area[1] = map_huge(bytes, -1, MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB);
	area[2] = map_huge(bytes, fd, MAP_SHARED);
	close(fd);
	for (i = 0; i < 3; i++)
		wl_fill(area[i], pages, i);
	others_leave("beside huge pages");
	for (i = 0; i < 3; i++) {
		WL_CHECK(!wl_absent(area[i], pages), "huge pages are away");
		wl_verify("huge pages", area[i], pages, i);
	}
	pid = (pid_t)WL_OK(fork());
	if (!pid) {
		for (i = 0; i < 3; i++)
			wl_verify("huge pages in a child", area[i], pages, i);
		wl_fill(area[0], HUGE / WL_PAGE, 7); /* a copy: the fourth quarter */
		others_leave("in a child with huge pages");
		wl_verify("changed in a child", area[0], HUGE / WL_PAGE, 7);
		wl_fill(area[1], pages, 8);
		_exit(0);
	}
	wl_reap("huge pages", pid, WL_EXITED(0));
	wl_verify("huge pages of a parent", area[0], pages, 0);
	wl_verify("huge pages that a child has written", area[1], pages, 8);
	WL_OK(mprotect(area[0], bytes, PROT_READ));
	others_leave("beside read-only huge pages");
	WL_OK(mprotect(area[0], bytes, PROT_READ | PROT_WRITE));
	wl_verify("protected and opened again", area[0], pages, 0);
	for (i = 0; i < 3; i++)
		WL_OK(munmap(area[i], bytes));
	wl_say("%zu huge pages stayed and are right", 3 * bytes / HUGE);
	return 0;
}

/* ---- transparent huge pages ---- */

static unsigned long huge_now(void)
{
	return number_of("/proc/self/smaps", "AnonHugePages:") / (HUGE >> 10);
}

static int thp(size_t n)
{
	size_t bytes = n * HUGE, pages = bytes / WL_PAGE, i;
	unsigned long at_first;
	unsigned char *area, *heap;
	unsigned round;
	pid_t pid;

	area = wl_map(pages + HUGE / WL_PAGE);
	wl_fill(area, pages, 1);
	/* pages may leave, or be small ones of a pager's, before that is seen */
	for (round = 0; !(at_first = huge_now()) && round < 50; round++) {
		wl_unmap(area, pages + HUGE / WL_PAGE);
		area = wl_map(pages + HUGE / WL_PAGE);
		wl_fill(area, pages, 1);
	}
	WL_CHECK(at_first > 0, "no huge page among %zu, and nobody has forbidden them", n);
	wl_wait_evicted("huge pages", area, pages, 90);
	for (round = 0; round < 3; round++) {
		for (i = 0; i < 20; i++) { /* for the kernel to make huge again */
			wl_verify("huge pages", area, pages, 1);
			wl_sleep_ms(10);
		}
		wl_wait_evicted("huge pages, again", area, pages, WL_EVICT_SHARE);
	}
	heap = sbrk((intptr_t)bytes); /* as malloc does */
	WL_CHECK(heap != (void *)-1, "sbrk: %s", strerror(errno));
	heap += -(uintptr_t)heap % WL_PAGE;
	wl_fill(heap, pages - 1, 2);
	pid = (pid_t)WL_OK(fork());
	if (!pid) {
		wl_verify("huge pages in a child", heap, pages - 1, 2);
		for (i = 0; i < pages - 1; i += 3)
			content_page(heap + i * WL_PAGE, content_key(3, i, 0));
		wl_wait_evicted("huge pages of a child", area, pages, WL_EVICT_SHARE);
		wl_verify("huge pages of a child", area, pages, 1);
		for (i = 0; i < pages - 1; i++)
			wl_check_key("huge pages, changed", heap + i * WL_PAGE,
				     content_key(i % 3 ? 2 : 3, i, 0), i);
		_exit(0);
	}
	WL_OK(madvise(area + HUGE, HUGE, MADV_DONTNEED));
	wl_verify("huge pages of a parent", heap, pages - 1, 2);
	wl_reap("huge pages", pid, WL_EXITED(0));
	for (i = 0; i < HUGE / WL_PAGE; i++)
		wl_check_zero("dropped", area + HUGE + i * WL_PAGE, i);
	wl_wait_evicted("huge pages that were shared", heap, pages - 1, WL_EVICT_SHARE);
	wl_verify("huge pages that were shared", heap, pages - 1, 2);
	wl_say("%zu huge pages right, %lu of them huge at first", n, at_first);
	return 0;
}

/* ---- KSM ---- */

static unsigned long merged(void)
{
	return number_of("/proc/self/ksm_merging_pages", "");
}

static void all_alike(const char *what, const unsigned char *area, size_t pages)
{
	size_t i;

	for (i = 0; i < pages; i++)
		wl_check_key(what, area + i * WL_PAGE, 7, i);
}

/* Every second one has its own content. */
static void half_alike(const char *what, const unsigned char *area, size_t pages)
{
	size_t i;

	for (i = 0; i < pages; i++)
		wl_check_key(what, area + i * WL_PAGE, i % 2 ? 7 : content_key(8, i, 0), i);
}

/* Everything that the process has may be merged: then all of it stays. What is on its way
   out is merged there, and must not keep the way blocked. */
static void whole_process(unsigned char *area, size_t pages)
{
	wl_sleep_ms(wl_evicting() ? 100 : 0);
	half_alike("mergeable as a whole", area, pages);
	WL_OK(prctl(PR_SET_MEMORY_MERGE, 0, 0, 0, 0));
	wl_wait_evicted("not mergeable any more", area, pages, 90);
	half_alike("not mergeable any more", area, pages);
	wl_wait_evicted("to be merged as a whole", area, pages, 50);
}

static int ksm(size_t pages)
{
	unsigned char *area = wl_map(pages);
	double end;
	size_t i;

	for (i = 0; i < pages; i++)
		content_page(area + i * WL_PAGE, 7);
	wl_wait_evicted("before they are merged", area, pages, 90);
	WL_OK(madvise(area, pages * WL_PAGE, MADV_MERGEABLE));
	end = wl_now() + WL_EVICT_SECONDS;
	do
		all_alike("to be merged", area, pages);
	while (merged() < pages / 2 && wl_now() < end);
	WL_CHECK(merged() >= pages / 2, "only %lu of %zu pages have been merged", merged(), pages);
	/* those that are not merged may leave until it is seen what they are */
	end = wl_now() + WL_EVICT_SECONDS;
	for (others_leave("beside merged pages"); wl_absent(area, pages); others_leave("beside merged pages")) {
		WL_CHECK(wl_now() < end, "%zu merged pages are away", wl_absent(area, pages));
		all_alike("merged", area, pages);
	}
	all_alike("merged", area, pages);
	for (i = 0; i < pages; i += 2) /* each gets a copy of its own */
		content_page(area + i * WL_PAGE, content_key(8, i, 0));
	others_leave("beside pages merged no more");
	WL_OK(madvise(area, pages * WL_PAGE, MADV_UNMERGEABLE));
	wl_wait_evicted("unmerged", area, pages, 90);
	half_alike("unmerged", area, pages);
	for (i = 0; i < WHOLE_ROUNDS && !prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0); i++)
		whole_process(area, pages);
	wl_say("%zu pages merged and unmerged, all right", pages);
	return 0;
}

int main(int argc, char **argv)
{
	const char *part = argc > 1 ? argv[1] : "";

	ordinary = wl_map(ORDINARY);
	if (!strcmp(part, "hugetlb"))
		return hugetlb((size_t)wl_arg(argc, argv, 2, 8));
	if (!strcmp(part, "thp"))
		return thp((size_t)wl_arg(argc, argv, 2, 8));
	if (!strcmp(part, "ksm"))
		return ksm((size_t)wl_arg(argc, argv, 2, 256));
	fprintf(stderr, "usage: special_verify hugetlb|thp|ksm [N]\n");
	return 2;
}
