/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "proc/quiet.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/util.h"

void quiet_deinit(struct quiet *q)
{
	free(q->v);
	*q = (struct quiet){ 0 };
}

static ssize_t read_of_thread(int tasks, pid_t tid, const char *name, char *text, size_t size)
{
	char path[64];
	_cleanup_close_ int fd = -1;
	ssize_t n;

	snprintf(path, sizeof(path), "%d/%s", (int)tid, name);
	fd = openat(tasks, path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, text, size - 1);
	text[n > 0 ? n : 0] = '\0';
	return n;
}

/* Calls in which a thread, or what its parent waits for, may be dropping pages. */
static bool may_drop(long nr)
{
	switch (nr) {
	case SYS_madvise:
	case SYS_process_madvise:
	case SYS_clone:
	case SYS_clone3:
#ifdef SYS_vfork
	case SYS_vfork:
#endif
		return true;
	default:
		return false;
	}
}

/* "running", or "NR ARGS...", where NR is -1 outside of any call. */
static bool is_outside(int tasks, pid_t tid)
{
	char text[256], *end;
	long nr;

	if (read_of_thread(tasks, tid, "syscall", text, sizeof(text)) <= 0)
		return false;
	nr = strtol(text, &end, 10);
	return end != text && !may_drop(nr);
}

static bool is_uring_worker(int tasks, pid_t tid)
{
	char text[32];

	return read_of_thread(tasks, tid, "comm", text, sizeof(text)) > 0 &&
	       strncmp(text, "iou-", 4) == 0;
}

static int compare(const void *a, const void *b)
{
	const struct quiet_thread *x = a, *y = b;

	return (x->tid > y->tid) - (x->tid < y->tid);
}

/* What is known of a thread that is not seen outside now: what was known. One
   that was not there at the last look has dropped nothing before it. */
static uint64_t seen_before(const struct quiet *q, pid_t tid)
{
	struct quiet_thread key = { .tid = tid };
	const struct quiet_thread *found =
		q->nr ? bsearch(&key, q->v, q->nr, sizeof(key), compare) : NULL;

	return found ? found->seen_ns : q->looked_ns;
}

static int add(struct quiet *q, size_t *room, struct quiet_thread thread)
{
	if (q->nr == *room) {
		size_t more = *room * 2 + 16;
		struct quiet_thread *v = realloc(q->v, more * sizeof(*v));

		if (!v)
			return -ENOMEM;
		q->v = v;
		*room = more;
	}
	q->v[q->nr++] = thread;
	return 0;
}

/* readdir passes over some when others end meanwhile. They are as many as there are
   (the directory's links, but two), and all of them are there: then none is missing. */
static bool is_complete(const struct quiet *q, int tasks)
{
	struct stat st;
	char name[16];

	if (fstat(tasks, &st) < 0 || st.st_nlink != q->nr + 2)
		return false;
	for (size_t i = 0; i < q->nr; i++) {
		snprintf(name, sizeof(name), "%d", (int)q->v[i].tid);
		if (faccessat(tasks, name, F_OK, 0) < 0)
			return false;
	}
	return true;
}

uint64_t quiet_look(struct quiet *q, int tasks)
{
	int fd = openat(tasks, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct quiet now = { .looked_ns = now_ns() };
	uint64_t since = UINT64_MAX;
	struct dirent *entry;
	size_t room = 0;

	if (!dir) {
		safe_close(fd);
		return 0;
	}
	while (since && (entry = readdir(dir))) {
		struct quiet_thread t = { .tid = (pid_t)strtol(entry->d_name, NULL, 10) };
		uint64_t before = now_ns();

		if (t.tid <= 0)
			continue;
		t.seen_ns = is_outside(tasks, t.tid) ? before : seen_before(q, t.tid);
		since = is_uring_worker(tasks, t.tid) || add(&now, &room, t) < 0 ? 0 :
										    MIN(since, t.seen_ns);
	}
	closedir(dir);
	if (since && !is_complete(&now, tasks))
		since = 0;
	if (now.nr)
		qsort(now.v, now.nr, sizeof(*now.v), compare);
	free(q->v);
	*q = now;
	if (!since) /* not all were looked at: begin anew */
		quiet_deinit(q);
	return now.nr && since ? since : 0;
}
