/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "control/listener.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "common/log.h"
#include "common/util.h"

#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83
#endif

#define PAUSE_USEC 200000
#define BATCH 32
#define LOCK_SUFFIX ".lock"
#define LOCK_TRIES 10u

struct listener {
	int fd;
	char *unlink_path;
	listener_accept_fn accept;
	void *ctx;
	sd_event_source *io;
	sd_event_source *pause;
};

/* Opens the directory of path, making it if it isn't there. */
static int open_directory(const char *path)
{
	char dir[PATH_MAX];
	const char *slash = strrchr(path, '/');
	size_t n = slash ? (size_t)(slash - path) : 0;
	int fd;

	if (!slash || n >= sizeof(dir))
		return -EINVAL;
	memcpy(dir, path, n);
	strcpy(dir + n, n ? "" : "/");
	if (mkdir(dir, 0755) == 0) {
		/* others must be able to come in, whatever the umask is */
		if (chmod(dir, 0755) < 0)
			return -errno;
	} else if (errno != EEXIST) {
		return -errno;
	}
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* Is what stands at addr in the way? 0: no (any more). */
static int clear_stale(const struct sockaddr_un *addr, int type)
{
	_cleanup_close_ int probe = -1;
	struct stat st;

	if (lstat(addr->sun_path, &st) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(st.st_mode))
		return -EEXIST;
	probe = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (probe < 0)
		return -errno;
	/* EPROTOTYPE and EAGAIN (a full queue) mean that somebody is there */
	if (connect(probe, (const struct sockaddr *)addr, sizeof(*addr)) == 0 ||
	    errno != ECONNREFUSED)
		return -EADDRINUSE;
	return unlink(addr->sun_path) < 0 ? -errno : 0;
}

/*
 * Two agents started at once must not both find the socket stale. A file of their own, that
 * nobody else may open: the directory itself anybody could lock, for as long as he likes.
 * It goes with the lock; who has waited at one that is gone begins again.
 */
static int lock_place(int dir, const char *name)
{
	for (unsigned i = 0; i < LOCK_TRIES; i++) {
		_cleanup_close_ int fd = openat(dir, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
		struct stat ours, there;

		if (fd < 0)
			return -errno;
		if (flock(fd, LOCK_EX | LOCK_NB) < 0)
			return errno == EWOULDBLOCK ? -EADDRINUSE : -errno;
		if (fstat(fd, &ours) == 0 && fstatat(dir, name, &there, AT_SYMLINK_NOFOLLOW) == 0 &&
		    ours.st_ino == there.st_ino)
			return take_fd(&fd);
	}
	return -EADDRINUSE;
}

static int bind_locked(const char *path, int type)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	_cleanup_close_ int fd = -1;
	int r;

	strcpy(addr.sun_path, path);
	r = clear_stale(&addr, type);
	if (r < 0)
		return r;
	fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return -errno;
	if (chmod(path, 0666) < 0 || listen(fd, SOMAXCONN) < 0) {
		r = -errno;
		unlink(path);
		return r;
	}
	return take_fd(&fd);
}

int listener_bind(const char *path, int type)
{
	_cleanup_close_ int dir = -1;
	_cleanup_close_ int lock = -1;
	char name[sizeof(((struct sockaddr_un *)0)->sun_path) + sizeof(LOCK_SUFFIX)];
	int r;

	if (strlen(path) >= sizeof(((struct sockaddr_un *)0)->sun_path))
		return -ENAMETOOLONG;
	dir = open_directory(path);
	if (dir < 0)
		return dir;
	snprintf(name, sizeof(name), "%s" LOCK_SUFFIX, strrchr(path, '/') + 1);
	lock = lock_place(dir, name);
	if (lock < 0)
		return lock;
	r = bind_locked(path, type);
	unlinkat(dir, name, 0);
	return r;
}

static int on_pause_over(sd_event_source *source, uint64_t usec, void *ctx)
{
	struct listener *l = ctx;

	return sd_event_source_set_enabled(l->io, SD_EVENT_ON);
}

static void pause_accepting(struct listener *l, int error)
{
	static struct log_limit limit;
	int r;

	log_limited(&limit, LOG_LEVEL_WARNING, "accepting a connection failed, pausing: %s", strerror(error));
	l->pause = sd_event_source_unref(l->pause);
	r = sd_event_add_time_relative(sd_event_source_get_event(l->io), &l->pause,
				       CLOCK_MONOTONIC, PAUSE_USEC, 0, on_pause_over, l);
	if (r >= 0)
		sd_event_source_set_enabled(l->io, SD_EVENT_OFF);
}

static int on_connection(sd_event_source *source, int listen_fd, uint32_t events, void *ctx)
{
	struct listener *l = ctx;
	int fd;

	for (unsigned i = 0; i < BATCH; i++) {
		fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0) {
			l->accept(l->ctx, fd);
			continue;
		}
		if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
			pause_accepting(l, errno);
		else if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
			log_error("accepting a connection failed: %s", strerror(errno));
		break;
	}
	return 0;
}

struct listener *listener_new(sd_event *event, int fd, const char *unlink_path,
			      listener_accept_fn accept, void *ctx)
{
	struct listener *l = calloc(1, sizeof(*l));
	int flags, r, zero = 0;

	if (!l) {
		close(fd);
		return NULL;
	}
	*l = (struct listener){ .fd = fd, .accept = accept, .ctx = ctx };
	if (unlink_path)
		l->unlink_path = strdup(unlink_path);
	/* Connections bring no descriptors, before somebody wants them: who is refused
	   would leave them to be closed here, as would sd-bus, and that may wait for
	   ever. They inherit it; Linux before 6.16 doesn't know it. */
	(void)setsockopt(fd, SOL_SOCKET, SO_PASSRIGHTS, &zero, sizeof(zero));
	/* a passed socket may be blocking */
	flags = fcntl(fd, F_GETFL);
	r = flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno : 0;
	if (r == 0)
		r = sd_event_add_io(event, &l->io, fd, EPOLLIN, on_connection, l);
	if (r < 0) {
		listener_free(l);
		errno = -r;
		return NULL;
	}
	return l;
}

struct listener *listener_free(struct listener *l)
{
	if (!l)
		return NULL;
	sd_event_source_disable_unref(l->io);
	sd_event_source_disable_unref(l->pause);
	if (l->unlink_path)
		unlink(l->unlink_path);
	close(l->fd);
	free(l->unlink_path);
	free(l);
	return NULL;
}
