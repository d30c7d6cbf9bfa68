/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * madvise_verify [SECONDS]: after MADV_DONTNEED a page is zero, always, also
 * when threads race with it and with eviction; after MADV_FREE it is the old
 * one or zero, as a whole, until written; advice that keeps the contents keeps
 * them; locking brings them back.
 * madvise_verify --free [SECONDS]: pages are written again, for the first time after
 * MADV_FREE, in the order and at about the pace in which they leave.
 * madvise_verify --wipe: WIPEONFORK memory is zero in a child, DONTFORK memory
 * is not there, also when the pages had left before the advice.
 * madvise_verify --guard: guard pages over evicted pages read as zero when they
 * are removed, however short they were there.
 * madvise_verify --unheard: so are pages where shared memory has come and gone,
 * when a neighbour grows into the place.
 */
#include "workload.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/shm.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif

#define PAGES 1024
#define RACERS 4
#define RACE_PAGES 64
#define WORDS (CONTENT_PAGE / 8)

static unsigned char *area;
static double deadline;
static uint64_t drops, frees, freed_zero;

static void advise(void *at, size_t pages, int advice)
{
	WL_CHECK(!madvise(at, pages * WL_PAGE, advice), "madvise(%p, %zu pages, %d): %s", at, pages,
		 advice, strerror(errno));
}

static void dontneed(uint64_t *rng)
{
	size_t at, n, i;
	unsigned k;

	wl_fill(area, PAGES, 1);
	wl_wait_evicted("before DONTNEED", area, PAGES, WL_EVICT_SHARE);
	for (k = 0; k < 16; k++) {
		at = content_next(rng) % PAGES;
		n = 1 + content_next(rng) % 100;
		n = at + n > PAGES ? PAGES - at : n;
		advise(area + at * WL_PAGE, n, k % 4 < 2 ? MADV_DONTNEED : MADV_DONTNEED_LOCKED);
		drops++;
		for (i = at; i < at + n; i++)
			wl_check_zero("after DONTNEED", area + i * WL_PAGE, i);
		if (k & 1) /* zero also when they have left meanwhile */
			wl_try_evicted(area + at * WL_PAGE, n, 100, 0.05);
		for (i = at; i < at + n; i++) {
			wl_check_zero("some time after DONTNEED", area + i * WL_PAGE, i);
			content_page(area + i * WL_PAGE, content_key(1, i, 0));
		}
	}
	wl_verify("after DONTNEED of others", area, PAGES, 1);
}

static void free_lazily(void)
{
	static unsigned char want[CONTENT_PAGE], found[CONTENT_PAGE];
	bool zero[PAGES];
	size_t i;
	unsigned round;

	wl_fill(area, PAGES, 2);
	wl_try_evicted(area, PAGES / 2, WL_EVICT_SHARE, 1);
	advise(area, PAGES, MADV_FREE);
	frees++;
	for (i = 0; i < PAGES; i++) {
		content_page(want, content_key(2, i, 0));
		memcpy(found, area + i * WL_PAGE, CONTENT_PAGE); /* it may go at any time */
		zero[i] = wl_is_zero(found);
		if (!zero[i] && memcmp(found, want, CONTENT_PAGE))
			wl_wrong("after FREE, neither old nor zero", found, want, i);
		freed_zero += zero[i] && !wl_is_zero(want);
	}
	/* zero stays zero; a written page keeps what is written */
	for (i = 0; i < PAGES; i += 2)
		content_page(area + i * WL_PAGE, content_key(3, i, 0));
	for (round = 0; round < 2; round++) {
		wl_try_evicted(area, PAGES, WL_EVICT_SHARE, 0.1);
		for (i = 0; i < PAGES; i++) {
			if (!(i & 1))
				wl_check_key("written after FREE", area + i * WL_PAGE,
					     content_key(3, i, 0), i);
			else if (zero[i])
				wl_check_zero("zero after FREE", area + i * WL_PAGE, i);
		}
	}
}

/* One word of a freed page is written: the rest is old or zero as a whole. */
static void free_and_touch(void)
{
	static unsigned char want[CONTENT_PAGE], zero[CONTENT_PAGE];
	size_t i;

	wl_fill(area, PAGES, 4);
	wl_try_evicted(area, PAGES / 2, WL_EVICT_SHARE, 1);
	advise(area, PAGES, MADV_FREE);
	frees++;
	for (i = 0; i < PAGES; i++)
		area[i * WL_PAGE + 8] = 0x5a;
	wl_try_evicted(area, PAGES, WL_EVICT_SHARE, 0.1);
	memset(zero, 0, sizeof(zero));
	zero[8] = 0x5a;
	for (i = 0; i < PAGES; i++) {
		content_page(want, content_key(4, i, 0));
		want[8] = 0x5a;
		if (memcmp(area + i * WL_PAGE, want, CONTENT_PAGE) &&
		    memcmp(area + i * WL_PAGE, zero, CONTENT_PAGE))
			wl_wrong("touched after FREE", area + i * WL_PAGE, want, i);
	}
}

/* The processor notes the first access in a page's entry while it is being moved. */
static int free_while_leaving(double seconds)
{
	double end = wl_now() + seconds;
	volatile unsigned pace;
	unsigned rounds = 0;
	uint64_t rng = 7;
	size_t i;

	while (wl_now() < end) {
		unsigned char mark = (unsigned char)(1 + rounds++ % 255);

		memset(area, 0x11, PAGES * WL_PAGE);
		advise(area, PAGES, MADV_FREE);
		wl_sleep_ms(content_next(&rng) % 24);
		for (i = 0; i < PAGES; i++) {
			area[i * WL_PAGE + 8] = mark;
			for (pace = 0; pace < 600; pace++)
				;
		}
		for (i = 0; i < PAGES; i++)
			WL_CHECK(area[i * WL_PAGE + 8] == mark,
				 "round %u: what was written to page %zu after FREE is %#x instead of %#x",
				 rounds, i, area[i * WL_PAGE + 8], mark);
	}
	wl_say("%u rounds", rounds);
	return 0;
}

static _Atomic bool spinning;

static void *spin(void *arg)
{
	while (atomic_load(&spinning))
		continue;
	return arg;
}

/* What was freed and is used again leaves like all other memory; as soon as the
   thread that freed it is seen elsewhere. */
static void free_and_reuse(void)
{
	size_t i, absent;
	pthread_t busy;

	wl_fill(area, PAGES, 5);
	wl_try_evicted(area, PAGES / 2, WL_EVICT_SHARE, 1);
	/* one that always runs shows nothing of itself: then nothing leaves */
	atomic_store(&spinning, true);
	WL_CHECK(!pthread_create(&busy, NULL, spin, NULL), "pthread_create");
	wl_sleep_ms(20);
	advise(area, PAGES, MADV_FREE);
	frees++;
	wl_fill(area, PAGES, 6);
	absent = wl_try_evicted(area, PAGES, WL_EVICT_SHARE, 0.2);
	atomic_store(&spinning, false);
	pthread_join(busy, NULL);
	wl_verify("freed and used again, beside a busy thread", area, PAGES, 6);
	wl_wait_evicted("freed and used again", area, PAGES, WL_EVICT_SHARE);
	wl_verify("freed and used again", area, PAGES, 6);
	for (i = 0; i < 4; i++) {
		advise(area, PAGES, MADV_FREE);
		frees++;
		wl_fill(area, PAGES, 7 + i);
		wl_wait_evicted("freed and used again", area, PAGES, WL_EVICT_SHARE);
		wl_verify("freed and used again", area, PAGES, 7 + i);
	}
	wl_say("%zu of %d freed pages left beside a busy thread", absent, PAGES);
}

/* Each thread writes, drops and reads its own pages of one mapping. */
static void *race_own(void *arg)
{
	size_t index = (size_t)(uintptr_t)arg, at, n, i;
	unsigned char *mine = area + index * RACE_PAGES * WL_PAGE;
	uint64_t rng = index, generation = 0, count = 0;

	while (wl_now() < deadline) {
		at = content_next(&rng) % RACE_PAGES;
		n = 1 + content_next(&rng) % (RACE_PAGES - at);
		generation++;
		for (i = at; i < at + n; i++)
			content_page(mine + i * WL_PAGE, content_key(index, i, generation));
		if (content_next(&rng) % 4 == 0)
			wl_sleep_ms(content_next(&rng) % 40);
		for (i = at; i < at + n; i++)
			wl_check_key("before DONTNEED, racing", mine + i * WL_PAGE,
				     content_key(index, i, generation), i);
		advise(mine + at * WL_PAGE, n, MADV_DONTNEED);
		if (content_next(&rng) % 4 == 0)
			wl_sleep_ms(1);
		for (i = at; i < at + n; i++)
			wl_check_zero("after DONTNEED, racing", mine + i * WL_PAGE, i);
		count++;
	}
	return (void *)(uintptr_t)count;
}

struct duel { /* on the same pages */
	uint64_t *words;
	atomic_uint_fast64_t started; /* the generation being written now */
	atomic_bool stop;
};

static void *duel_write(void *arg)
{
	struct duel *duel = arg;
	uint64_t generation = 0;
	size_t i;

	while (!atomic_load(&duel->stop)) {
		atomic_store(&duel->started, ++generation);
		for (i = 0; i < RACE_PAGES * WORDS; i++)
			duel->words[i] = generation << 20 | i;
		if (generation % 4 == 0)
			wl_sleep_ms(generation % 32);
	}
	return NULL;
}

/* What was written wholly before a drop must never be seen after it. */
static void *duel_drop(void *arg)
{
	struct duel *duel = arg;
	uint64_t generation, word, count = 0, rng = 7;
	size_t i;

	while (!atomic_load(&duel->stop)) {
		generation = atomic_load(&duel->started);
		advise(duel->words, RACE_PAGES, MADV_DONTNEED);
		for (i = 0; i < RACE_PAGES * WORDS; i++) {
			word = *(volatile uint64_t *)&duel->words[i];
			WL_CHECK(!word || (word >> 20 >= generation && (word & 0xfffff) == i),
				 "after a DONTNEED in generation %llu, word %zu is %#llx",
				 (unsigned long long)generation, i, (unsigned long long)word);
		}
		if (content_next(&rng) % 2)
			wl_sleep_ms(content_next(&rng) % 30);
		count++;
	}
	return (void *)(uintptr_t)count;
}

static void race(void)
{
	pthread_t racer[RACERS], writer, dropper;
	unsigned char *words = wl_map(RACE_PAGES);
	struct duel duel = { .words = (uint64_t *)(void *)words };
	uintptr_t i;
	void *count;

	memset(words, 0, RACE_PAGES * WL_PAGE);
	for (i = 0; i < RACERS; i++)
		WL_CHECK(!pthread_create(&racer[i], NULL, race_own, (void *)i), "pthread_create");
	WL_CHECK(!pthread_create(&writer, NULL, duel_write, &duel), "pthread_create");
	WL_CHECK(!pthread_create(&dropper, NULL, duel_drop, &duel), "pthread_create");
	for (i = 0; i < RACERS; i++) {
		pthread_join(racer[i], &count);
		drops += (uintptr_t)count;
	}
	atomic_store(&duel.stop, true);
	pthread_join(writer, NULL);
	pthread_join(dropper, &count);
	drops += (uintptr_t)count;
	wl_unmap(words, RACE_PAGES);
}

static void keeping_advice(void)
{
	static const int advice[] = { MADV_NORMAL,   MADV_RANDOM,	 MADV_SEQUENTIAL,
				      MADV_WILLNEED, MADV_COLD,		 MADV_PAGEOUT,
				      MADV_HUGEPAGE, MADV_POPULATE_READ, MADV_NOHUGEPAGE,
				      MADV_DONTDUMP, MADV_DODUMP,	 MADV_POPULATE_WRITE,
				      MADV_REMOVE /* refused */ };
	size_t i;

	wl_fill(area, PAGES, 5);
	for (i = 0; i < sizeof(advice) / sizeof(advice[0]); i++) {
		wl_try_evicted(area, PAGES, WL_EVICT_SHARE, 0.3);
		if (madvise(area, PAGES * WL_PAGE, advice[i]) < 0)
			WL_CHECK(errno == EINVAL, "madvise(%d): %s", advice[i], strerror(errno));
		wl_verify("after an advice", area, PAGES, 5);
	}
	wl_wait_evicted("before mlock", area, PAGES, WL_EVICT_SHARE);
	WL_OK(mlock(area, 64 * WL_PAGE));
	WL_CHECK(!wl_absent(area, 64), "locked pages are away");
	wl_verify("locked", area, PAGES, 5);
	WL_OK(munlock(area, 64 * WL_PAGE));
}

/* The parent says something else of its memory as soon as its fork has returned: what the
   child has is as it was before. */
static void wipe_around_fork(bool wiped)
{
	uint64_t rng = 11;
	pid_t pid;

	for (unsigned round = 0; round < (wl_evicting() ? 100 : 2); round++) {
		wl_fill(area, PAGES, round);
		wl_sleep_ms(5 + (unsigned)(content_next(&rng) % 30));
		advise(area, PAGES, wiped ? MADV_WIPEONFORK : MADV_KEEPONFORK);
		pid = (pid_t)WL_OK(fork());
		if (!pid) {
			if (wiped)
				wl_check_zeros("kept since", area, PAGES);
			else
				wl_verify("wiped since", area, PAGES, round);
			_exit(0);
		}
		advise(area, PAGES, wiped ? MADV_KEEPONFORK : MADV_WIPEONFORK);
		wl_reap("WIPEONFORK around a fork", pid, WL_EXITED(0));
		advise(area, PAGES, MADV_KEEPONFORK);
	}
}

/* Forbidden to be inherited after the pages have left. */
static int wipe_on_fork(void)
{
	unsigned char *wiped = wl_map(64);
	size_t i;
	pid_t pid;

	wl_fill(wiped, 64, 6);
	wl_wait_evicted("before WIPEONFORK", wiped, 64, WL_EVICT_SHARE);
	advise(wiped, 64, MADV_WIPEONFORK);
	pid = (pid_t)WL_OK(fork());
	if (!pid) {
		for (i = 0; i < 64; i++)
			wl_check_zero("WIPEONFORK in the child", wiped + i * WL_PAGE, i);
		_exit(0);
	}
	wl_reap("WIPEONFORK", pid, WL_EXITED(0));
	wl_verify("WIPEONFORK in the parent", wiped, 64, 6);
	advise(wiped, 64, MADV_KEEPONFORK);
	advise(wiped, 64, MADV_DONTFORK);
	wl_try_evicted(wiped, 64, WL_EVICT_SHARE, 0.2);
	pid = (pid_t)WL_OK(fork());
	if (!pid) {
		signal(SIGSEGV, SIG_DFL);
		_exit(wiped[0]);
	}
	wl_reap("DONTFORK", pid, SIGSEGV);
	wl_verify("DONTFORK in the parent", wiped, 64, 6);
	wl_unmap(wiped, 64);
	wipe_around_fork(false);
	wipe_around_fork(true);
	wl_say("wiped pages are zero in a child");
	return 0;
}

/* The kernel tells nobody of guards. Who takes pages away finds them in time and
   brings the mapping back; until then what is under them is not looked at. */
static int guard(void)
{
	unsigned char *beside = area + 256 * WL_PAGE;
	double end;
	size_t i;

	wl_fill(area, PAGES, 8);
	wl_wait_evicted("before guards", area, PAGES, WL_EVICT_SHARE);
	wl_wait_evicted("beside guards", beside, PAGES - 256, WL_EVICT_SHARE);
	if (madvise(area, 256 * WL_PAGE, MADV_GUARD_INSTALL) < 0) {
		wl_say("this kernel has no guard pages: %s", strerror(errno));
		return 77;
	}
	end = wl_now() + WL_EVICT_SECONDS;
	while (wl_evicting() && wl_absent(beside, PAGES - 256)) {
		WL_CHECK(wl_now() < end, "a mapping with guards does not come back");
		wl_sleep_ms(5);
	}
	advise(area, 256, MADV_GUARD_REMOVE);
	wl_check_zeros("after guards", area, 256);
	for (i = 256; i < PAGES; i++)
		wl_check_key("beside guards", area + i * WL_PAGE, content_key(8, i, 0), i);
	wl_say("pages under guards are zero");
	return 0;
}

/* Where these pages were there are marks, which stay until they are touched: what is
   leaving just now may still go unmarked. */
static bool are_marked(const unsigned char *at, size_t n)
{
	uint64_t entry[2];
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	ssize_t got;
	size_t i;

	WL_CHECK(fd >= 0 && n <= 2, "/proc/self/pagemap: %s", strerror(errno));
	got = pread(fd, entry, n * 8, (off_t)((uintptr_t)at / WL_PAGE * 8));
	close(fd);
	for (i = 0; got == (ssize_t)(n * 8) && i < n; i++)
		if (entry[i] >> 62 != 1 || !(entry[i] >> 57 & 1))
			return false;
	return got == (ssize_t)(n * 8);
}

static void wait_marked(const unsigned char *at, size_t groups)
{
	size_t i, n, tries;

	for (tries = 0; wl_evicting(); tries++) {
		for (i = 0, n = 0; i < PAGES; i += 4)
			n += are_marked(at + i * WL_PAGE, 2);
		if (n >= groups)
			break;
		WL_CHECK(tries < (size_t)(10 * WL_EVICT_SECONDS), "only %zu of %d pairs of pages are marked", n, PAGES / 4);
		for (i = 0; tries % 10 == 9 && i < PAGES; i++) /* they left without: again */
			if (!are_marked(at + i * WL_PAGE, 1))
				(void)*(const volatile unsigned char *)(at + i * WL_PAGE);
		wl_sleep_ms(100);
	}
}

/* Put up and taken away at once: nobody can have looked meanwhile. */
static void passing_guard(unsigned int round)
{
	unsigned char *at = wl_map(PAGES);
	bool passed[PAGES / 4] = { false };
	size_t i;

	wl_fill(at, PAGES, 100 + round);
	wl_wait_evicted("before a passing guard", at, PAGES, WL_EVICT_SHARE);
	wait_marked(at, PAGES / 16);
	for (i = 0; i < PAGES; i += 4) {
		passed[i / 4] = !wl_evicting() || are_marked(at + i * WL_PAGE, 2);
		if (!passed[i / 4])
			continue;
		advise(at + i * WL_PAGE, 2, MADV_GUARD_INSTALL);
		advise(at + i * WL_PAGE, 2, MADV_GUARD_REMOVE);
	}
	if (round % 2) /* everything may have come back by then */
		wl_sleep_ms(50);
	for (i = 0; i < PAGES; i++)
		if (i % 4 < 2 && passed[i / 4])
			wl_check_zero("after a passing guard", at + i * WL_PAGE, i);
		else
			wl_check_key("beside a passing guard", at + i * WL_PAGE, content_key(100 + round, i, 0), i);
	/* It stays mapped: memory that is there next would be left alone, too. */
}

static int guards(void)
{
	int r = guard();
	unsigned int round;

	for (round = 0; r == 0 && round < 4; round++)
		passing_guard(round);
	wl_say("pages under passing guards are zero");
	return r;
}

static int unheard(void)
{
	const size_t half = PAGES / 2, bytes = half * WL_PAGE;
	int id = shmget(IPC_PRIVATE, bytes, IPC_CREAT | 0600);
	size_t i, n;

	if (id < 0) {
		wl_say("no shared memory: %s", strerror(errno));
		return 77;
	}
	wl_fill(area, PAGES, 9);
	wl_wait_evicted("before shared memory", area, PAGES, WL_EVICT_SHARE);
	/* the one place where that is looked for; what is leaving may go unmarked */
	for (i = half; wl_evicting() && i < PAGES; i++)
		for (n = 0; !are_marked(area + i * WL_PAGE, 1); n++) {
			WL_CHECK(n < (size_t)(1000 * WL_EVICT_SECONDS), "page %zu does not leave with a mark", i);
			if (n % 200 == 199) /* it left without: again */
				(void)*(volatile unsigned char *)(area + i * WL_PAGE);
			wl_sleep_ms(1);
		}
	WL_CHECK(shmat(id, area + bytes, SHM_REMAP) == area + bytes, "shmat: %s", strerror(errno));
	WL_OK(shmctl(id, IPC_RMID, NULL));
	WL_OK(shmdt(area + bytes));
	WL_CHECK(mremap(area, bytes, 2 * bytes, 0) == area, "mremap: %s", strerror(errno));
	for (i = half; i < PAGES; i++)
		wl_check_zero("where a neighbour has grown", area + i * WL_PAGE, i);
	for (i = 0; i < half; i++)
		wl_check_key("a neighbour that has grown", area + i * WL_PAGE, content_key(9, i, 0), i);
	wl_say("what came without a word has left zeros");
	return 0;
}

int main(int argc, char **argv)
{
	uint64_t rng = 42;
	double seconds;

	area = wl_map(PAGES);
	if (argc >= 2 && !strcmp(argv[1], "--free"))
		return free_while_leaving(wl_arg(argc, argv, 2, 3));
	if (argc == 2 && !strcmp(argv[1], "--guard"))
		return guards();
	if (argc == 2 && !strcmp(argv[1], "--unheard"))
		return unheard();
	if (argc == 2 && !strcmp(argv[1], "--wipe"))
		return wipe_on_fork();
	seconds = wl_arg(argc, argv, 1, 3);
	dontneed(&rng);
	free_lazily();
	free_and_touch();
	free_and_reuse();
	advise(area, PAGES, MADV_DONTNEED);
	deadline = wl_now() + seconds;
	race();
	keeping_advice();
	dontneed(&rng);
	wl_say("%llu drops read as zero; of %llu times %d freed pages %llu were zero, none else",
	       (unsigned long long)drops, (unsigned long long)frees, PAGES,
	       (unsigned long long)freed_zero);
	return 0;
}
