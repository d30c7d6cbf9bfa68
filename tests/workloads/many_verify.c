/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * many_verify PART [N]: sizes at which a pager falls over.
 * maps       N small mappings that can't merge, as many as fit; the program's
 *            own mmap and malloc go on working, contents are right
 * threads    N threads, each with pages of its own on a stack and in a heap
 * reserve    terabytes of PROT_NONE and NORESERVE, used here and there
 * huge       transparent huge pages, written through, in parts and by fork
 * grow       mappings that grow page by page: brk, mprotect in a reservation,
 *            mremap; registered or not, they stay few
 */
#include "workload.h"

#include <malloc.h>
#include <pthread.h>
#include <sys/prctl.h>

#define TERA ((size_t)1 << 40)
#define HUGE ((size_t)2 << 20)

static unsigned count_maps(void)
{
	FILE *f = fopen("/proc/self/maps", "re");
	unsigned n = 0;
	int c;

	WL_CHECK(f, "/proc/self/maps");
	while ((c = getc_unlocked(f)) != EOF)
		n += c == '\n';
	fclose(f);
	return n;
}

static unsigned long max_map_count(void)
{
	FILE *f = fopen("/proc/sys/vm/max_map_count", "re");
	unsigned long n = 0;

	WL_CHECK(f && fscanf(f, "%lu", &n) == 1, "vm.max_map_count");
	fclose(f);
	return n;
}

/* Every second page is read-only, so that none merges with its neighbour. */
static int maps(size_t n)
{
	unsigned char *all;
	size_t i;
	void *more;

	if (n > max_map_count() - 1000)
		n = max_map_count() - 1000;
	n &= ~(size_t)1;
	all = wl_map(n);
	wl_fill(all, n, 1);
	for (i = 0; i < n; i += 2)
		WL_OK(mprotect(all + i * WL_PAGE, WL_PAGE, PROT_READ));
	wl_try_evicted(all, n, 10, 3);
	wl_say("%u mappings, %zu of %zu pages away", count_maps(), wl_absent(all, n), n);
	for (i = 0; i < 200; i++) { /* its own calls must not fail for us */
		more = mmap(NULL, WL_PAGE, i % 2 ? PROT_READ : PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		WL_CHECK(more != MAP_FAILED, "mmap %zu beside %u mappings: %s", i, count_maps(),
			 strerror(errno));
		more = malloc(200000);
		WL_CHECK(more, "malloc %zu", i);
		free(more);
	}
	wl_verify("one of many mappings", all, n, 1);
	for (i = 1; i < n; i += 2)
		content_page(all + i * WL_PAGE, content_key(2, i, 0));
	wl_try_evicted(all, n, 10, 2);
	for (i = 0; i < n; i++)
		wl_check_key("one of many mappings, later", all + i * WL_PAGE,
			     content_key(i % 2 ? 2 : 1, i, 0), i);
	for (i = 0; i < n; i += 2) /* and all of them merge again */
		WL_OK(mprotect(all + i * WL_PAGE, WL_PAGE, PROT_READ | PROT_WRITE));
	wl_try_evicted(all, n, WL_EVICT_SHARE, 3);
	wl_say("merged again: %u mappings, %zu of %zu pages away", count_maps(), wl_absent(all, n), n);
	wl_unmap(all, n);
	return 0;
}

#define OWN_PAGES 8

static pthread_barrier_t met;

static void *live(void *arg)
{
	uint64_t seed = (uint64_t)(uintptr_t)arg;
	unsigned char here[2 * CONTENT_PAGE];
	unsigned char *own = malloc(OWN_PAGES * WL_PAGE);

	WL_CHECK(own, "malloc");
	wl_fill(own, OWN_PAGES, seed);
	wl_fill(here, 2, seed + 1);
	pthread_barrier_wait(&met);
	pthread_barrier_wait(&met);
	wl_verify("a thread's heap", own, OWN_PAGES, seed);
	wl_verify("a thread's stack", here, 2, seed + 1);
	free(own);
	return NULL;
}

static int threads(size_t n)
{
	pthread_t *thread = calloc(n, sizeof(*thread));
	unsigned char *area = wl_map(1024);
	pthread_attr_t attr;
	size_t i;

	WL_CHECK(thread && !pthread_barrier_init(&met, NULL, (unsigned)n + 1), "memory");
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 65536);
	wl_fill(area, 1024, 3);
	for (i = 0; i < n; i++)
		WL_CHECK(!pthread_create(&thread[i], &attr, live, (void *)(uintptr_t)(i * 2 + 10)),
			 "thread %zu of %zu", i, n);
	pthread_barrier_wait(&met);
	wl_wait_evicted("beside many threads", area, 1024, WL_EVICT_SHARE);
	wl_verify("beside many threads", area, 1024, 3);
	pthread_barrier_wait(&met);
	for (i = 0; i < n; i++)
		pthread_join(thread[i], NULL);
	wl_wait_evicted("after many threads", area, 1024, WL_EVICT_SHARE);
	wl_verify("after many threads", area, 1024, 3);
	wl_say("%zu threads, all stacks and heaps right", n);
	free(thread);
	return 0;
}

static unsigned char *reservation(size_t bytes, int protection)
{
	void *at = mmap(NULL, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (at == MAP_FAILED)
		wl_say("no room for %zu TiB: %s", bytes / TERA, strerror(errno));
	return at == MAP_FAILED ? NULL : at;
}

/* As Java, Go and the sanitizers do: a few pages of it are used, far apart, at
   first unreadable, or all of it writable and never touched. */
static int reserve(size_t tera)
{
	unsigned char *none = reservation(tera * TERA, PROT_NONE);
	unsigned char *sparse = reservation(tera * TERA, PROT_READ | PROT_WRITE);
	size_t i, parts = 64, stride = tera * TERA / parts, pages = 16;
	unsigned round;

	for (i = 0; i < parts; i++) {
		if (none) {
			WL_OK(mprotect(none + i * stride, pages * WL_PAGE, PROT_READ | PROT_WRITE));
			wl_fill(none + i * stride, pages, i);
		}
		if (sparse)
			wl_fill(sparse + i * stride, pages, i + parts);
	}
	for (round = 0; round < 3; round++) {
		size_t away = 0;

		for (i = 0; i < parts; i++) {
			if (none)
				away += wl_wait_evicted("part of a reservation", none + i * stride, pages, 50);
			if (sparse)
				away += wl_wait_evicted("part of a sparse mapping", sparse + i * stride,
							pages, 50);
		}
		for (i = 0; i < parts; i++) {
			if (none)
				wl_verify("part of a reservation", none + i * stride, pages, i);
			if (sparse)
				wl_verify("part of a sparse mapping", sparse + i * stride, pages,
					  i + parts);
		}
		wl_say("%zu pages of a few terabytes were away", away);
	}
	if (sparse) { /* given back as a whole, reused, unmapped */
		WL_OK(madvise(sparse, tera * TERA, MADV_DONTNEED));
		for (i = 0; i < parts; i++)
			wl_check_zero("dropped", sparse + i * stride, i);
		wl_fill(sparse, pages, 7);
		wl_try_evicted(sparse, pages, 50, 1);
		wl_verify("reused", sparse, pages, 7);
		WL_OK(munmap(sparse, tera * TERA));
	}
	if (none) {
		WL_OK(mprotect(none, tera * TERA, PROT_NONE));
		WL_OK(mprotect(none, pages * WL_PAGE, PROT_READ | PROT_WRITE));
		wl_verify("protected and opened again", none, pages, 0);
		WL_OK(munmap(none, tera * TERA));
	}
	return 0;
}

static int huge(size_t n)
{
	size_t bytes = n * HUGE, pages = bytes / WL_PAGE;
	unsigned char *all = reservation(bytes + HUGE, PROT_READ | PROT_WRITE), *area;
	unsigned round;
	pid_t pid;

	WL_CHECK(all, "no memory");
	area = (unsigned char *)(((uintptr_t)all + HUGE - 1) & ~(HUGE - 1));
	if (madvise(area, bytes, MADV_HUGEPAGE))
		wl_say("no transparent huge pages: %s", strerror(errno));
	for (round = 0; round < 2; round++) {
		wl_fill(area, pages, round);
		wl_wait_evicted("huge pages", area, pages, WL_EVICT_SHARE);
		wl_verify("huge pages", area, pages, round);
	}
	/* a hole of small pages, dropped as a huge one, written as small ones */
	WL_OK(madvise(area, HUGE, MADV_DONTNEED));
	wl_check_zero("dropped huge page", area + 17 * WL_PAGE, 17);
	wl_fill(area, 100, 1);
	wl_try_evicted(area, 100, 50, 1);
	wl_verify("small pages in its place", area, 100, 1);
	wl_fill(area, pages, 5);
	pid = (pid_t)WL_OK(fork());
	if (!pid) {
		wl_verify("huge pages in a child", area, pages, 5);
		wl_fill(area, pages, 6);
		wl_try_evicted(area, pages, WL_EVICT_SHARE, 1);
		wl_verify("huge pages in a child, changed", area, pages, 6);
		_exit(0);
	}
	wl_try_evicted(area, pages, WL_EVICT_SHARE, 1);
	wl_verify("huge pages of a parent", area, pages, 5);
	wl_reap("huge pages", pid, WL_EXITED(0));
	wl_wait_evicted("huge pages that were shared", area, pages, WL_EVICT_SHARE);
	wl_verify("huge pages that were shared", area, pages, 5);
	wl_say("%zu huge pages right", n);
	return 0;
}

/* Growing by a page at a time must not leave a mapping for each page. */
static int grow(size_t n)
{
	unsigned before = count_maps(), after;
	unsigned char *heap = sbrk(0), *room = reservation(n * WL_PAGE, PROT_NONE), *moved;
	size_t i;

	WL_CHECK(room, "no memory");
	moved = mmap(NULL, WL_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	WL_CHECK(moved != MAP_FAILED, "mmap: %s", strerror(errno));
	heap += -(uintptr_t)heap % WL_PAGE;
	WL_CHECK(!brk(heap), "brk: %s", strerror(errno));
	for (i = 0; i < n; i++) {
		WL_CHECK(!brk(heap + (i + 1) * WL_PAGE), "brk %zu: %s", i, strerror(errno));
		content_page(heap + i * WL_PAGE, content_key(1, i, 0));
		WL_OK(mprotect(room + i * WL_PAGE, WL_PAGE, PROT_READ | PROT_WRITE));
		content_page(room + i * WL_PAGE, content_key(2, i, 0));
		if (i) {
			moved = mremap(moved, i * WL_PAGE, (i + 1) * WL_PAGE, MREMAP_MAYMOVE);
			WL_CHECK(moved != MAP_FAILED, "mremap %zu: %s", i, strerror(errno));
		}
		content_page(moved + i * WL_PAGE, content_key(3, i, 0));
		if (i % 256 == 255)
			wl_try_evicted(room, i, WL_EVICT_SHARE, 0.3);
	}
	wl_wait_evicted("grown by mprotect", room, n, WL_EVICT_SHARE);
	after = count_maps();
	wl_verify("grown by brk", heap, n, 1);
	wl_verify("grown by mprotect", room, n, 2);
	wl_verify("grown by mremap", moved, n, 3);
	wl_say("%u mappings before, %u after growing %zu times", before, after, n);
	WL_CHECK(after < before + 32 + n / 16, "%u mappings have become %u", before, after);
	for (i = n; i-- > 0;) {
		wl_check_key("shrunk by brk", heap + i * WL_PAGE, content_key(1, i, 0), i);
		WL_CHECK(!brk(heap + i * WL_PAGE), "brk: %s", strerror(errno));
		if (i % 256 == 255)
			wl_try_evicted(heap, i, WL_EVICT_SHARE, 0.2);
	}
	return 0;
}

int main(int argc, char **argv)
{
	const char *part = argc > 1 ? argv[1] : "";

	mallopt(M_MMAP_THRESHOLD, 100000);
	if (!strcmp(part, "maps"))
		return maps((size_t)wl_arg(argc, argv, 2, 30000));
	if (!strcmp(part, "threads"))
		return threads((size_t)wl_arg(argc, argv, 2, 1000));
	if (!strcmp(part, "reserve"))
		return reserve((size_t)wl_arg(argc, argv, 2, 4));
	if (!strcmp(part, "huge"))
		return huge((size_t)wl_arg(argc, argv, 2, 8));
	if (!strcmp(part, "grow"))
		return grow((size_t)wl_arg(argc, argv, 2, 2000));
	fprintf(stderr, "usage: many_verify maps|threads|reserve|huge|grow [N]\n");
	return 2;
}
