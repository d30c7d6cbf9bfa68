/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "proc/session.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "common/reaper.h"
#include "common/util.h"
#include "proc/record.h"

struct session *session_new(uint64_t id, uid_t uid)
{
	struct session *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->id = id;
	s->uid = s->keeper = uid;
	s->filters = -1;
	s->ahead_score = 128;
	s->fds = SESSION_FDS_NONE;
	s->attached_ns = now_ns();
	s->enabled = true;
	s->reason = s->lost_why = "";
	s->room_pages = SESSION_ROOM_UNLIMITED;
	s->to_owner.mail.kind = SESSION_MAIL;
	s->to_worker.mail.kind = SESSION_MAIL;
	s->to_engine.mail.kind = SESSION_MAIL;
	return s;
}

void session_close_fds(const struct session_fds *fds, uid_t uid)
{
	reaper_close_of(uid, fds->uffd); /* takes the locks of that address space */
	safe_close(fds->mem);
	safe_close(fds->pagemap);
	safe_close(fds->maps);
	safe_close(fds->smaps);
	safe_close(fds->statm);
	safe_close(fds->tasks);
	safe_close(fds->pidfd);
	reaper_close(fds->mover); /* with what was sent and not read */
	safe_close(fds->gate);
	safe_close(fds->gate_event);
}

struct session *session_free(struct session *s)
{
	if (!s)
		return NULL;
	assert(s->slots.root == 0);
	mappings_deinit(&s->mappings);
	quiet_deinit(&s->quiet);
	ranges_deinit(&s->registered);
	ranges_deinit(&s->guarded);
	ranges_deinit(&s->vacated);
	if (s->gate)
		munmap(s->gate, PAGE_BYTES);
	if (s->fds.mover >= 0)
		shutdown(s->fds.mover, SHUT_RDWR);
	if (s->record)
		record_free(s->records, s->record);
	session_close_fds(&s->fds, s->uid);
	free(s);
	return NULL;
}

void session_set_state(struct session *s, enum session_state state)
{
	s->state = state;
	if (s->record) {
		atomic_store(&s->record->detach, s->detach);
		atomic_store(&s->record->state, state);
	}
}

static int open_proc(pid_t pid, const char *name, int flags)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
	fd = open(path, flags | O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* Bytes, or -errno. */
static ssize_t read_proc(pid_t pid, const char *name, void *buf, size_t size)
{
	_cleanup_close_ int fd = open_proc(pid, name, 0);
	ssize_t n;

	if (fd < 0)
		return fd;
	do
		n = read(fd, buf, size);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

/* Empty if it can't be read. */
static void read_text(pid_t pid, const char *name, char *text, size_t size)
{
	ssize_t n = read_proc(pid, name, text, size - 1);

	text[MAX(n, (ssize_t)0)] = '\0';
}

int session_open_proc(pid_t pid, struct session_fds *fds)
{
	const struct {
		int *fd;
		const char *name;
		int flags;
	} files[] = {
		{ &fds->maps, "maps", 0 },
		{ &fds->smaps, "smaps", 0 },
		{ &fds->statm, "statm", 0 },
		{ &fds->tasks, "task", O_DIRECTORY },
	};

	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		int fd = open_proc(pid, files[i].name, files[i].flags);

		if (fd < 0)
			return fd;
		*files[i].fd = fd;
	}
	return 0;
}

uint64_t session_evicted_pages(const struct session *s)
{
	static const enum slot_state evicted[] = { SLOT_STAGED, SLOT_FETCHING, SLOT_STORED, SLOT_FILL };
	uint64_t sum = 0;

	for (size_t i = 0; i < ARRAY_SIZE(evicted); i++)
		sum += counter_get(&s->slots.count[evicted[i]]);
	return sum;
}

/* Resident pages by a statm file, or 0; of them those that are no file's. */
static uint64_t read_statm(int fd, uint64_t *anonymous)
{
	char text[128];
	unsigned long long size, resident = 0, of_files = 0;
	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);

	if (n <= 0)
		return 0;
	text[n] = '\0';
	if (sscanf(text, "%llu %llu %llu", &size, &resident, &of_files) != 3)
		return 0;
	*anonymous = resident - MIN(resident, of_files);
	return (uint64_t)resident;
}

uint64_t session_read_resident(const struct session *s, uint64_t *anonymous)
{
	uint64_t own = 0, pages = read_statm(s->fds.statm, &own);

	/* A process whose main thread has ended shows nothing of its memory, which
	   its other threads still use. The mover has the same. */
	if (!pages && s->mover_pid > 0) {
		_cleanup_close_ int fd = open_proc(s->mover_pid, "statm", 0);

		pages = fd < 0 ? 0 : read_statm(fd, &own);
	}
	if (anonymous)
		*anonymous = own << PAGE_SHIFT;
	return pages << PAGE_SHIFT;
}

/* After pthread_exit in its main thread a living process shows a zombie there,
   without an address space: not an exec. */
static bool leader_is_zombie(pid_t pid)
{
	char text[256];
	const char *state;

	read_text(pid, "stat", text, sizeof(text));
	state = strrchr(text, ')');
	return state && (state[2] == 'Z' || state[2] == 'X');
}

uint64_t session_started(pid_t pid)
{
	char text[1024];
	const char *at;

	read_text(pid, "stat", text, sizeof(text));
	/* The 22nd; the second, in brackets, may have anything in it. */
	at = strrchr(text, ')');
	for (unsigned i = 2; at && i < 22; i++)
		at = strchr(at + 1, ' ');
	return at ? strtoull(at, NULL, 10) : 0;
}

bool session_has_execed(const struct session *s)
{
	pid_t mover = s->mover_pid;

	/* Refused or unknown: the mover itself looks as well. */
	return s->pid > 0 && mover > 0 && syscall(SYS_kcmp, s->pid, mover, KCMP_VM, 0, 0) > 0 &&
	       !leader_is_zombie(s->pid);
}

/* AT_SECURE of its program; -EACCES where we aren't root, to whom alone others' is shown. */
static int read_secure(pid_t pid)
{
	Elf64_auxv_t v[64];
	ssize_t n = read_proc(pid, "auxv", v, sizeof(v));

	for (size_t i = 0; n > 0 && i < (size_t)n / sizeof(v[0]); i++)
		if (v[i].a_type == AT_SECURE)
			return v[i].a_un.a_val != 0;
	if (n == 0 && leader_is_zombie(pid)) /* its maps show nothing either */
		return 0;
	return n == -EACCES ? -EACCES : -ENODATA;
}

bool session_is_plain(pid_t pid)
{
	int secure = read_secure(pid);

	return secure == 0 || secure == -EACCES;
}

static bool is_of_user(const char *status, uid_t uid)
{
	const char *line = strstr(status, "\nUid:");
	unsigned id[4];

	if (!line || sscanf(line, "\nUid: %u %u %u %u", &id[0], &id[1], &id[2], &id[3]) != 4)
		return true; /* it has ended */
	return id[0] == uid && id[1] == uid && id[2] == uid && id[3] == uid;
}

static uint64_t capabilities(const char *status, const char *name)
{
	const char *line = strstr(status, name);

	return line ? strtoull(line + strlen(name), NULL, 16) : 0;
}

/* One user, one group, and no capabilities but those that he has been given himself. */
static bool has_one_identity(pid_t pid, uid_t uid)
{
	char text[4096];
	const char *line;
	unsigned id[4];

	read_text(pid, "status", text, sizeof(text));
	line = strstr(text, "\nGid:");
	return line && sscanf(line, "\nGid: %u %u %u %u", &id[0], &id[1], &id[2], &id[3]) == 4 &&
	       id[0] == id[1] && id[1] == id[2] && id[2] == id[3] && is_of_user(text, uid) &&
	       (uid == 0 || !(capabilities(text, "\nCapPrm:") & ~capabilities(text, "\nCapAmb:")));
}

bool session_runs_as(pid_t pid, uid_t uid)
{
	int secure = read_secure(pid);
	struct stat st;
	char path[32];

	snprintf(path, sizeof(path), "/proc/%d", (int)pid);
	return stat(path, &st) == 0 && st.st_uid == uid &&
	       (secure == 0 || (secure == -EACCES && has_one_identity(pid, uid)));
}

bool session_is_shared(pid_t pid, pid_t mover, uid_t uid)
{
	char text[4096];

	read_text(mover, "status", text, sizeof(text));
	if (pid == mover || !is_of_user(text, uid))
		return false;
	return syscall(SYS_kcmp, pid, mover, KCMP_VM, 0, 0) == 0 ||
	       (leader_is_zombie(pid) && session_runs_as(pid, uid));
}

unsigned session_read_threads(const struct session *s)
{
	struct stat tasks;

	/* /proc/PID/task has two links and one for each (fs/proc/base.c) */
	return s->fds.tasks >= 0 && fstat(s->fds.tasks, &tasks) == 0 && tasks.st_nlink > 2 ? (unsigned)tasks.st_nlink - 2 : 0;
}

int session_read_user(const struct session *s, uid_t *uid)
{
	char text[4096];
	const char *line;

	read_text(s->pid, "status", text, sizeof(text));
	line = strstr(text, "\nUid:");
	return line && sscanf(line, "\nUid: %*u %u", uid) == 1 ? 0 : -ESRCH;
}

uint64_t session_read_locked(const struct session *s, bool *changed)
{
	char text[4096];
	const char *line;

	if (changed)
		*changed = false;
	if (s->pid <= 0)
		return 0;
	read_text(s->pid, "status", text, sizeof(text));
	if (changed)
		*changed = !is_of_user(text, s->uid);
	line = strstr(text, "\nVmLck:");
	return line ? strtoull(line + strlen("\nVmLck:"), NULL, 10) << 10 : 0;
}

/* -1: there is no such line. */
static int status_number(const char *status, const char *name)
{
	const char *line = strstr(status, name);

	return line ? atoi(line + strlen(name)) : -1;
}

int session_read_filters(pid_t tid, pid_t *parent)
{
	char text[4096];

	read_text(tid, "status", text, sizeof(text));
	if (parent)
		*parent = status_number(text, "\nPPid:");
	return status_number(text, "\nSeccomp_filters:");
}

bool session_is_confined(const struct session *s, pid_t tid)
{
	pid_t parent;
	int filters;

	if (s->filters < 0)
		return false;
	filters = session_read_filters(tid, &parent);
	if (parent != s->parent_pid) /* in a namespace of its own that is another's number */
		filters = session_read_filters(s->parent_pid, NULL);
	return filters > s->filters;
}

/* The unified hierarchy's path, of its line "0::/path"; "" if there is none. */
static void read_cgroup(pid_t pid, char *path, size_t size)
{
	char text[2048];
	const char *line;

	read_text(pid, "cgroup", text, sizeof(text));
	line = strncmp(text, "0::", 3) == 0 ? text : strstr(text, "\n0::");
	if (line)
		line = strstr(line, "0::") + 3;
	snprintf(path, size, "%.*s", line ? (int)strcspn(line, "\n") : 0, line ? line : "");
}

void session_program_name(pid_t pid, char *name, size_t size)
{
	char path[32], exe[4096];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/exe", (int)pid);
	n = readlink(path, exe, sizeof(exe) - 1);
	exe[MAX(n, (ssize_t)0)] = '\0';
	/* its file was replaced or removed since */
	if (n > 10 && strcmp(exe + n - 10, " (deleted)") == 0)
		exe[n - 10] = '\0';
	snprintf(name, size, "%s", strrchr(exe, '/') ? strrchr(exe, '/') + 1 : exe);
}

void session_read_names(struct session *s)
{
	if (s->pid <= 0)
		return;
	read_text(s->pid, "comm", s->command, sizeof(s->command));
	s->command[strcspn(s->command, "\n")] = '\0';
	read_cgroup(s->pid, s->cgroup, sizeof(s->cgroup));
}
