/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * calls_verify [PART]...: memory that has left is changed past the C library, by
 * syscall(2) and by the bare instruction, by one thread and by several at once.
 * mappings  mmap, madvise, process_madvise of oneself, mremap, mprotect, munmap
 * breaks    the break goes up and down by turns, beside threads that read below it
 */
#include "parts.h"

#include <pthread.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

#define QUARTER ((size_t)16) /* pages */
#define HALF (2 * QUARTER)
#define PAGES (4 * QUARTER)
#define BYTES (PAGES * WL_PAGE)
#define THREADS 4
#define ROUNDS 6
#define SEED_BELOW 9999
#define BASE ((uintptr_t)0x3000000000) /* where the kernel puts nothing by itself */
#define APART ((uintptr_t)1 << 21)

/* What the kernel answers: errors are negative. */
typedef long call_fn(long nr, long a, long b, long c, long d, long e);

static long by_function(long nr, long a, long b, long c, long d, long e)
{
	long r = syscall(nr, a, b, c, d, e, 0L);

	return r == -1 ? -errno : r;
}

static long by_instruction(long nr, long a, long b, long c, long d, long e)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = 0;
	long r;

	__asm__ volatile("syscall"
			 : "=a"(r)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return r;
}

static call_fn *const way[] = { by_function, by_instruction };

static void right(const char *what, long answer, long want)
{
	WL_CHECK(answer == want, "%s: %s", what, answer < 0 ? strerror((int)-answer) : "another answer");
}

/* wait: whether it must be seen that pages left; else only for a moment. */
static void away(const char *what, unsigned char *area, size_t pages, bool wait)
{
	if (wait)
		wl_wait_evicted(what, area, pages, WL_EVICT_SHARE);
	else
		wl_try_evicted(area, pages, WL_EVICT_SHARE, 0.1);
}

static void keyed(const char *what, const unsigned char *area, size_t from, size_t to, uint64_t seed)
{
	size_t i;

	for (i = from; i < to; i++)
		wl_check_key(what, area + i * WL_PAGE, content_key(seed, i, 0), i);
}

/* ---- mappings ---- */

static int self; /* a pidfd */
static unsigned by_process_madvise;

static void map(call_fn *call, unsigned char *at, size_t pages, int fixed)
{
	right("mmap", call(SYS_mmap, (long)at, (long)(pages * WL_PAGE), PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | fixed, -1),
	      (long)at);
}

/* Which of its advices is for oneself is a matter of the kernel's age. */
static void advise(call_fn *call, unsigned char *at, size_t pages, int advice)
{
	struct iovec iov = { at, pages * WL_PAGE };
	long r = call(SYS_process_madvise, self, (long)&iov, 1, advice, 0);

	if (r == -EINVAL || r == -ENOSYS) {
		right("madvise", call(SYS_madvise, (long)at, (long)iov.iov_len, advice, 0, 0), 0);
		return;
	}
	right("process_madvise", r, (long)iov.iov_len);
	by_process_madvise++;
}

/* Always at a place where nothing was before, and in this order: what is split for a
   moment can't be moved as a whole (libuswap(7)). */
static void change(call_fn *call, unsigned char *at, uint64_t seed, bool wait)
{
	unsigned char *to = at + APART / 2;

	map(call, at, PAGES, MAP_FIXED);
	wl_fill(at, PAGES, seed);
	away("before it is dropped", at, PAGES, wait);
	right("madvise", call(SYS_madvise, (long)at, QUARTER * WL_PAGE, MADV_DONTNEED, 0, 0), 0);
	advise(call, at + QUARTER * WL_PAGE, QUARTER, MADV_DONTNEED);
	advise(call, at + HALF * WL_PAGE, QUARTER, MADV_PAGEOUT);
	wl_check_zeros("dropped", at, HALF);
	keyed("not dropped", at, HALF, PAGES, seed);
	wl_fill(at, HALF, seed);

	away("before it is moved", at, PAGES, wait);
	right("mremap", call(SYS_mremap, (long)at, BYTES, BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, (long)to),
	      (long)to);
	away("moved", to, PAGES, wait);
	right("shrinking", call(SYS_mremap, (long)to, BYTES, BYTES / 2, 0, 0), (long)to);
	right("growing", call(SYS_mremap, (long)to, BYTES / 2, BYTES, 0, 0), (long)to);
	wl_check_zeros("grown again", to + BYTES / 2, HALF);
	keyed("moved and shrunk", to, 0, HALF, seed);

	wl_fill(to, PAGES, seed + 1);
	away("before it is protected and mapped over", to, PAGES, wait);
	right("mprotect", call(SYS_mprotect, (long)to, QUARTER * WL_PAGE, PROT_NONE, 0, 0), 0);
	map(call, to + QUARTER * WL_PAGE, QUARTER, MAP_FIXED);
	right("munmap", call(SYS_munmap, (long)(to + HALF * WL_PAGE), QUARTER * WL_PAGE, 0, 0, 0), 0);
	map(call, to + HALF * WL_PAGE, QUARTER, MAP_FIXED_NOREPLACE);
	right("mprotect", call(SYS_mprotect, (long)to, QUARTER * WL_PAGE, PROT_READ | PROT_WRITE, 0, 0), 0);
	keyed("protected and opened again", to, 0, QUARTER, seed + 1);
	wl_check_zeros("mapped over, and anew", to + QUARTER * WL_PAGE, HALF);
	keyed("behind it", to, 3 * QUARTER, PAGES, seed + 1);
	right("munmap", call(SYS_munmap, (long)to, BYTES, 0, 0, 0), 0);
}

static void *change_beside_others(void *arg)
{
	uintptr_t index = (uintptr_t)arg, i;

	for (i = 0; i < ROUNDS; i++)
		change(way[(index + i) % 2], (unsigned char *)(BASE + (index * ROUNDS + i) * APART),
		       100 * index + 2 * i, i == 0);
	return NULL;
}

static void in_threads(void *(*run)(void *))
{
	pthread_t thread[THREADS];
	uintptr_t i;

	for (i = 0; i < THREADS; i++)
		WL_CHECK(!pthread_create(&thread[i], NULL, run, (void *)i), "pthread_create");
	for (i = 0; i < THREADS; i++)
		pthread_join(thread[i], NULL);
}

static int mappings(void)
{
	unsigned i;

	self = (int)WL_OK(syscall(SYS_pidfd_open, getpid(), 0));
	for (i = 0; i < 2; i++)
		change(way[i], (unsigned char *)(BASE - (i + 1) * APART), 2 * i, true);
	in_threads(change_beside_others);
	wl_say("%u advices by process_madvise", by_process_madvise);
	return PART_RIGHT;
}

/* ---- the break ---- */

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static unsigned char *below; /* PAGES, and there the break is between turns */

static void set_break(call_fn *call, unsigned char *end)
{
	right("brk", call(SYS_brk, (long)end, 0, 0, 0, 0), (long)end);
}

static void *move_the_break(void *arg)
{
	uintptr_t index = (uintptr_t)arg, i;
	unsigned char *area = below + BYTES;

	for (i = 0; i < ROUNDS; i++) {
		call_fn *call = way[(index + i) % 2];
		uint64_t seed = 100 * index + i;

		wl_verify("below a break that moves", below, PAGES, SEED_BELOW);
		pthread_mutex_lock(&turn);
		set_break(call, area + BYTES);
		wl_check_zeros("new break", area, PAGES);
		wl_fill(area, PAGES, seed);
		away("below the break", area, PAGES, i == 0);
		set_break(call, area + BYTES / 2);
		keyed("below the lowered break", area, 0, QUARTER, seed);
		set_break(call, area + BYTES);
		wl_check_zeros("raised again", area + BYTES / 2, HALF);
		keyed("below the old break", area, 0, HALF, seed);
		set_break(call, area);
		pthread_mutex_unlock(&turn);
	}
	return NULL;
}

/* The C library, which would not know where the break is, has what it needs before. */
static int breaks(void)
{
	void *volatile arena = malloc(1);
	unsigned char *end = (unsigned char *)by_instruction(SYS_brk, 0, 0, 0, 0, 0);

	free(arena);
	below = end + -(uintptr_t)end % WL_PAGE;
	set_break(by_function, below + BYTES);
	wl_fill(below, PAGES, SEED_BELOW);
	wl_wait_evicted("below a break that moves", below, PAGES, WL_EVICT_SHARE);
	in_threads(move_the_break);
	wl_verify("below a break that has moved", below, PAGES, SEED_BELOW);
	set_break(by_instruction, end);
	return PART_RIGHT;
}

static const struct part parts[] = {
	{ "mappings", mappings },
	{ "breaks", breaks },
};

int main(int argc, char **argv)
{
	return parts_main(parts, sizeof(parts) / sizeof(parts[0]), argc, argv);
}
