/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent/fdstore.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "common/fdpass.h"
#include "common/kept.h"
#include "common/layout.h"
#include "common/log.h"
#include "common/util.h"
#include "engine/engine.h"

#define FILE_PREFIX "k."
#define PUT "FDSTORE=1\nFDPOLL=0\nFDNAME="
#define NAMES_MAX (120u * 1024u) /* LISTEN_FDNAMES may have 128 KiB */
#define SYNC_USEC 2000000u
/* One user's programs, whose forks come uninvited, leave a quarter to the others'. Root's
   may have all; users whose ids are equal modulo this have one share. */
#define SHARE(all) ((all) / 4 * 3)
#define SHARES 1024u
/* In the directory of kept descriptors. The pair is for the holder, which may find no
   room for new ones. */
#define NOTIFY "notify"
#define BARRIER "barrier"
#define BARRIER_FAR "barrier.far"

/* What has come back, until it is in the records. */
struct passed {
	struct engine_kept_fd *v;
	unsigned nr, room;
};

static struct passed passed;
static unsigned max_fds; /* 0: there is no store */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* these: */
static unsigned nr_fds, names_bytes;
static unsigned nr_files; /* of nr_fds */
static struct share {
	unsigned fds, names_bytes;
} shares[SHARES];
static char files[KEPT_FILES][KEPT_NAME]; /* that have come back, or were put */
static bool inherited; /* what a dead worker has removed may be there */

/* A socket of our own to it; sd_notify(3) waits until the manager reads. */
static void open_notify(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));

	if (fd < 0 || strlen(path) >= sizeof(addr.sun_path)) {
		safe_close(fd);
		return;
	}
	memcpy(addr.sun_path, path, strlen(path));
	if (*path == '@')
		addr.sun_path[0] = '\0';
	if (connect(fd, (const struct sockaddr *)&addr, size) < 0 || kept_set_fd(NOTIFY, fd) < 0)
		close(fd); /* then the control thread does it, later */
}

static void open_barrier(void)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0 ||
	    kept_set_fd(BARRIER, pair[0]) < 0 || kept_set_fd(BARRIER_FAR, pair[1]) < 0)
		log_warning("what is read as this service is killed may be lost: %s", strerror(errno));
}

void fdstore_init(void)
{
	const char *max = getenv("FDSTORE"); /* systemd 254, and our unit for older ones */
	struct rlimit limit;

	if (!max || !getenv("NOTIFY_SOCKET"))
		return;
	max_fds = (unsigned)strtoul(max, NULL, 10);
	/* The manager passes them with this limit; more, and we never start again. */
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur / 2 < max_fds)
		max_fds = (unsigned)limit.rlim_cur / 2;
	if (!max_fds)
		return;
	open_notify(getenv("NOTIFY_SOCKET"));
	open_barrier();
}

bool fdstore_is_there(void)
{
	return max_fds > 0;
}

static bool file_is_there(const char *name)
{
	for (unsigned i = 0; i < nr_files; i++)
		if (strcmp(files[i], name) == 0)
			return true;
	return false;
}

/* Counted, and not to be put again. */
static void file_there(const char *name)
{
	pthread_mutex_lock(&lock);
	if (nr_files < KEPT_FILES)
		snprintf(files[nr_files++], KEPT_NAME, "%s", name);
	nr_fds++;
	names_bytes += (unsigned)(strlen(FILE_PREFIX) + strlen(name)) + 1;
	pthread_mutex_unlock(&lock);
}

bool fdstore_take(const char *name, int fd)
{
	struct engine_kept_fd *v;
	char *end;

	if (strncmp(name, FILE_PREFIX, strlen(FILE_PREFIX)) == 0) {
		name += strlen(FILE_PREFIX);
		if (strlen(name) >= KEPT_NAME || kept_set_fd(name, fd) < 0)
			return false;
		file_there(name);
		return true;
	}
	/* Sessions' are counted with their sessions. */
	if (!strchr(ENGINE_KEPT_KINDS, name[0]) && name[0] != ENGINE_KEPT_FORK)
		return false;
	if (passed.nr == passed.room) {
		v = realloc(passed.v, (passed.room * 2 + 64) * sizeof(*v));
		if (!v)
			return false;
		passed.v = v;
		passed.room = passed.room * 2 + 64;
	}
	v = &passed.v[passed.nr];
	*v = (struct engine_kept_fd){ .kind = name[0], .fd = fd };
	v->record = (unsigned)strtoul(name + 1, &end, 36);
	if (end == name + 1 || *end)
		return false;
	passed.nr++;
	return true;
}

static const char *name_of(char *name, size_t size, char kind, unsigned record)
{
	static const char digits[] = "0123456789abcdefghijklmnopqrstuvwxyz";
	char text[16];
	unsigned n = 0;

	do
		text[n++] = digits[record % 36];
	while (record /= 36);
	assert(n + 2 <= size);
	*name = kind;
	for (unsigned i = 0; i < n; i++)
		name[i + 1] = text[n - 1 - i];
	name[n + 1] = '\0';
	return name;
}

static int tell_removed(const char *name)
{
	return sd_notifyf(false, "FDSTOREREMOVE=1\nFDNAME=%s", name);
}

bool fdstore_taken(void)
{
	char message[LAYOUT_MESSAGE], name[16];
	int r = layout_check(message);

	if (r == 0) {
		r = engine_import_fds(passed.v, passed.nr);
		snprintf(message, sizeof(message), "what the agent before this one has left can't be read: %s",
			 strerror(-r));
	}
	for (unsigned i = 0; r == 0 && i < passed.nr; i++)
		if (passed.v[i].fd < 0)
			(void)tell_removed(name_of(name, sizeof(name), passed.v[i].kind, passed.v[i].record));
	free(passed.v);
	passed = (struct passed){ 0 };
	if (r == 0)
		return true;
	log_error("%s", message);
	sd_notifyf(false, "STATUS=Can't start: %s", message);
	return false;
}

static int put(const char *name, int fd)
{
	char text[64];
	int r;

	snprintf(text, sizeof(text), PUT "%s", name);
	r = sd_pid_notify_with_fds(0, false, text, &fd, 1);
	if (r < 0)
		log_error("the service manager's store of descriptors: %s", strerror(-r));
	return r < 0 ? r : 0;
}

void fdstore_put_files(void)
{
	char stored[KEPT_NAME + sizeof(FILE_PREFIX)];
	const char *name;
	int fd;

	if (!max_fds)
		return;
	/* Also after a restart: there may be more of them than before (threads, stores,
	   what a newer version keeps). */
	for (unsigned i = 0; (fd = kept_nth_fd(i, &name)) >= 0; i++) {
		if (file_is_there(name) || sd_is_socket(fd, AF_UNSPEC, 0, -1) > 0)
			continue; /* a socket: the manager's own, or bound anew */
		snprintf(stored, sizeof(stored), FILE_PREFIX "%s", name);
		if (put(stored, fd) == 0)
			file_there(name);
	}
	fdstore_sync();
}

void fdstore_remove_files(void)
{
	char stored[KEPT_NAME + sizeof(FILE_PREFIX)];

	if (!max_fds)
		return;
	for (unsigned i = 0; i < nr_files; i++) {
		snprintf(stored, sizeof(stored), FILE_PREFIX "%s", files[i]);
		(void)tell_removed(stored);
		nr_fds--;
		names_bytes -= (unsigned)strlen(stored) + 1;
	}
	nr_files = 0;
	fdstore_sync();
}

void fdstore_forget_files(void)
{
	for (unsigned i = 0; i < nr_files; i++) {
		int fd = kept_fd(files[i]);

		kept_forget_fd(files[i]);
		(void)flock(fd, LOCK_UN); /* of a store; the manager may have it open for a moment more */
		safe_close(fd);
	}
	fdstore_remove_files();
}

static void uncount(uid_t uid, const char *name)
{
	struct share *share = &shares[uid % SHARES];
	unsigned size = (unsigned)strlen(name) + 1;

	pthread_mutex_lock(&lock);
	nr_fds -= MIN(nr_fds, 1u);
	names_bytes -= MIN(names_bytes, size);
	share->fds -= MIN(share->fds, 1u);
	share->names_bytes -= MIN(share->names_bytes, size);
	pthread_mutex_unlock(&lock);
}

static bool has_room(uid_t uid, unsigned size)
{
	const struct share *share = &shares[uid % SHARES];

	if (nr_fds + 1 > max_fds || names_bytes + size > NAMES_MAX)
		return false;
	return uid == 0 || (share->fds + 1 <= SHARE(max_fds - MIN(nr_files, max_fds)) &&
			    share->names_bytes + size <= SHARE(NAMES_MAX));
}

/* known: it is there, whether there is room or not. */
static int count(uid_t uid, const char *name, bool known)
{
	struct share *share = &shares[uid % SHARES];
	unsigned size = (unsigned)strlen(name) + 1;
	int r = 0;

	pthread_mutex_lock(&lock);
	if (!known && !has_room(uid, size)) {
		r = -ENOSPC;
	} else {
		nr_fds++;
		names_bytes += size;
		share->fds++;
		share->names_bytes += size;
	}
	pthread_mutex_unlock(&lock);
	return r;
}

static int put_counted(uid_t uid, const char *name, int fd, int (*how)(const char *name, int fd))
{
	int r = count(uid, name, fd < 0);

	if (r < 0 || fd < 0)
		return r;
	r = how(name, fd);
	if (r < 0)
		uncount(uid, name);
	return r;
}

/* A removal that the worker before sent as it died may not have been taken, and of two by
   one name none could be used. */
static int put_anew(const char *name, int fd)
{
	if (inherited)
		(void)tell_removed(name);
	return put(name, fd);
}

int fdstore_put(uid_t uid, char kind, unsigned record, int fd)
{
	char name[16];

	return max_fds ? put_counted(uid, name_of(name, sizeof(name), kind, record), fd, put_anew) : 0;
}

static int put_now(const char *name, int fd)
{
	char text[64];
	int sock = kept_fd(NOTIFY);

	snprintf(text, sizeof(text), PUT "%s", name);
	return sock < 0 ? -EAGAIN : fdpass_send(sock, text, strlen(text), &fd, 1);
}

int fdstore_put_now(uid_t uid, char kind, unsigned record, int fd)
{
	char name[16];

	return max_fds ? put_counted(uid, name_of(name, sizeof(name), kind, record), fd, put_now) : 0;
}

void fdstore_remove(uid_t uid, char kind, unsigned record)
{
	char name[16];

	if (!max_fds)
		return;
	name_of(name, sizeof(name), kind, record);
	if (tell_removed(name) >= 0)
		uncount(uid, name);
}

void fdstore_inherited(void)
{
	inherited = true;
}

bool fdstore_sync(void)
{
	int r = max_fds ? sd_notify_barrier(false, SYNC_USEC) : 0;

	if (r < 0)
		log_warning("the service manager does not say that it has our descriptors: %s", strerror(-r));
	return r >= 0;
}

/* ---- in the holder ---- */

static unsigned handed;

/* However long the manager takes. */
static bool send_waiting(const char *text, int fd)
{
	struct pollfd p = { .fd = kept_fd(NOTIFY), .events = POLLOUT };
	int r;

	if (p.fd < 0)
		return false;
	while ((r = fdpass_send(p.fd, text, strlen(text), &fd, 1)) == -EAGAIN || r == -EINTR)
		(void)poll(&p, 1, -1);
	if (r < 0)
		log_error("the service manager's store of descriptors: %s", strerror(-r));
	return r == 0;
}

void fdstore_hand_over(char kind, unsigned record, int fd)
{
	char name[16], text[64];

	snprintf(text, sizeof(text), PUT "%s", name_of(name, sizeof(name), kind, record));
	handed += send_waiting(text, fd);
}

/* Whose message it is, the manager asks by the sender's pid. */
void fdstore_handed_over(void)
{
	struct pollfd p = { .fd = kept_fd(BARRIER) };
	int far = kept_fd(BARRIER_FAR);

	if (!handed)
		return;
	if (far >= 0 && send_waiting("BARRIER=1", far)) {
		close(far);
		while (poll(&p, 1, -1) < 0 && errno == EINTR)
			;
	}
	log_notice("%u descriptors that keeper and worker had just read are with the service manager", handed);
}
