/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "backends/file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "common/crc32c.h"
#include "common/kept.h"
#include "common/util.h"

#define MAGIC "USWAPSEG"
#define VERSION 1
#define ID_BYTES 16

/* The first STORE_BLOCK bytes, little-endian as all of x86-64. */
struct super {
	char magic[8];
	uint32_t version;
	uint32_t crc; /* of all the block, with 0 here */
	uint8_t machine[ID_BYTES];
	uint8_t boot[ID_BYTES];
	uint64_t bytes; /* of segments */
	uint8_t reserved[STORE_BLOCK - 56];
};
_Static_assert(sizeof(struct super) == STORE_BLOCK, "one block");

/* 32 hexadecimal digits, with dashes anywhere. */
static bool read_id(const char *path, uint8_t id[ID_BYTES])
{
	char text[64] = "";
	FILE *file = fopen(path, "re");
	unsigned digits = 0;

	if (!file)
		return false;
	if (!fgets(text, sizeof(text), file))
		text[0] = '\0';
	fclose(file);
	memset(id, 0, ID_BYTES);
	for (const char *c = text; *c && digits < 2 * ID_BYTES; c++) {
		unsigned digit;

		if (*c == '-')
			continue;
		if (sscanf((char[2]){ *c }, "%1x", &digit) != 1)
			break;
		id[digits / 2] = (uint8_t)(id[digits / 2] << 4 | digit);
		digits++;
	}
	return digits == 2 * ID_BYTES;
}

static bool describe(struct super *s, uint64_t bytes)
{
	*s = (struct super){ .version = VERSION, .bytes = bytes };
	memcpy(s->magic, MAGIC, sizeof(s->magic));
	if (!read_id("/proc/sys/kernel/random/boot_id", s->boot))
		return false;
	/* A container may have no machine id: then each boot is a machine. */
	if (!read_id("/etc/machine-id", s->machine))
		memcpy(s->machine, s->boot, sizeof(s->machine));
	s->crc = crc32c(0, s, sizeof(*s));
	return true;
}

static bool crc_is_right(const struct super *s)
{
	struct super copy = *s;

	copy.crc = 0;
	return crc32c(0, &copy, sizeof(copy)) == s->crc;
}

/* File systems, arrays and the like have their marks there, some (btrfs, GFS2) right behind it, where
   an empty store of ours may have what was written lately. */
#define MARKS ((size_t)64 << 10)
#define LOOKED_AT (MARKS + STORE_BLOCK)
#define WRITTEN_AT MARKS
#define WRITTEN_MAGIC "USWAPDAY"

static bool is_empty(const unsigned char *bytes)
{
	bool ours = !memcmp(bytes + WRITTEN_AT, WRITTEN_MAGIC, strlen(WRITTEN_MAGIC));

	for (size_t i = 0; i < (ours ? MARKS : LOOKED_AT); i++)
		if (bytes[i])
			return false;
	return true;
}

/* False after a refusal. What there is must be nothing, or ours. */
static bool check_old(const struct super *old, const struct super *own, const char *path, const char **error)
{
	if (memcmp(old->magic, MAGIC, sizeof(old->magic)))
		store_refuse(error, "store \"file:%s\" has something else on it (wipe it, if it is for uswap)", path);
	else if (old->version != VERSION)
		store_refuse(error, "store \"file:%s\" is of version %u, this agent knows version %u only", path,
			     old->version, VERSION);
	else if (!crc_is_right(old))
		store_refuse(error, "store \"file:%s\" has a damaged superblock; if it may be emptied, remove it",
			     path);
	else if (memcmp(old->machine, own->machine, ID_BYTES))
		store_refuse(error, "store \"file:%s\" belongs to another machine (if that one is gone for good, "
				    "remove it)",
			     path);
	else
		return true;
	return false;
}

/* ---- opening ---- */

/* Direct where it can be: pages must not come back into memory by the cache. */
static int open_direct(const char *path, int flags)
{
	int fd = open(path, flags | O_DIRECT, 0600);

	return fd < 0 && errno == EINVAL ? open(path, flags, 0600) : fd;
}

/* Where a store's bytes are: the device, or a file in the directory, which may be made
   yet. What else has that file's name is not opened. */
#define PLACE_MAX 1280

static bool find_file(const char *path, const struct stat *place, char file[PLACE_MAX], const char **error)
{
	struct stat st;

	snprintf(file, PLACE_MAX, "%s%s", path, S_ISBLK(place->st_mode) ? "" : "/" FILE_STORE_NAME);
	if (S_ISBLK(place->st_mode) || lstat(file, &st) || S_ISREG(st.st_mode))
		return true;
	store_refuse(error, "store \"file:%s\": %s is %s, not a file", path, file,
		     S_ISDIR(st.st_mode)  ? "a directory" :
		     S_ISLNK(st.st_mode)  ? "a symbolic link" :
		     S_ISFIFO(st.st_mode) ? "a fifo" :
		     S_ISSOCK(st.st_mode) ? "a socket" :
					    "a device");
	return false;
}

static const char *open_error(void)
{
	return errno == EBUSY ? "another agent uses it, or a file system" : strerror(errno);
}

static int open_locked(const char *file, int flags)
{
	int fd = open_direct(file, flags);

	if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) == 0)
		return fd;
	if (errno == EWOULDBLOCK)
		errno = EBUSY;
	return safe_close(fd);
}

/* Tries, and the time between. */
#define TRIES_AFTER_STOP 40
#define TRIES_AFTER_DEATH 400
#define PAUSE_USEC 5000

/* An agent that has ended, or the service manager in its place, may have it open still for a
   moment; a worker that has died, for longer. */
static int open_any(const char *path, const struct stat *st, const char **error)
{
	int flags = O_RDWR | O_CLOEXEC | (S_ISBLK(st->st_mode) ? O_EXCL : O_CREAT | O_NOFOLLOW);
	unsigned tries = kept_fd("segments") < 0 ? TRIES_AFTER_STOP : TRIES_AFTER_DEATH;
	char file[PLACE_MAX];
	int fd;

	if (!find_file(path, st, file, error))
		return -1;
	while ((fd = open_locked(file, flags)) < 0 && errno == EBUSY && --tries)
		usleep(PAUSE_USEC);
	if (fd < 0)
		store_refuse(error, "store \"file:%s\": %s: %s", path, file, open_error());
	return fd;
}

static bool has_room(int fd, const struct stat *st, const struct store_file_options *o, const char **error)
{
	uint64_t have = 0;
	struct statvfs fs;

	if (S_ISBLK(st->st_mode)) {
		if (ioctl(fd, BLKGETSIZE64, &have))
			have = 0;
	} else if (fstatvfs(fd, &fs) == 0) {
		have = (uint64_t)fs.f_bavail * fs.f_frsize;
		if (S_ISREG(st->st_mode))
			have += (uint64_t)st->st_blocks * 512; /* its own already */
	}
	have -= MIN(have, FILE_SUPER_BYTES); /* not for pages */
	if (have >= o->bytes)
		return true;
	store_refuse(error, "store \"file:%s\": size=%lluM, and there is room for %lluM", o->path,
		     (unsigned long long)(o->bytes >> 20), (unsigned long long)(have >> 20));
	return false;
}

/* ---- what was written lately ---- */

#define WRITTEN_VERSION 1

struct written_block {
	char magic[8];
	uint32_t version;
	uint32_t crc; /* of all the block, with 0 here */
	struct store_written written;
	uint8_t reserved[STORE_BLOCK - 16 - sizeof(struct store_written)];
};
_Static_assert(sizeof(struct written_block) == STORE_BLOCK, "one block");

int file_super_get_written(int fd, struct store_written *written)
{
	_cleanup_free_ struct written_block *block = aligned_alloc(STORE_BLOCK, STORE_BLOCK);
	uint32_t crc;

	if (!block)
		return -ENOMEM;
	if (pread(fd, block, sizeof(*block), (off_t)WRITTEN_AT) != (ssize_t)sizeof(*block) ||
	    memcmp(block->magic, WRITTEN_MAGIC, sizeof(block->magic)) || block->version != WRITTEN_VERSION)
		return -ENODATA;
	crc = block->crc;
	block->crc = 0;
	if (crc32c(0, block, sizeof(*block)) != crc)
		return -ENODATA; /* torn */
	*written = block->written;
	return 0;
}

int file_super_set_written(int fd, const struct store_written *written)
{
	_cleanup_free_ struct written_block *block = aligned_alloc(STORE_BLOCK, STORE_BLOCK);

	if (!block)
		return -ENOMEM;
	*block = (struct written_block){ .version = WRITTEN_VERSION, .written = *written };
	memcpy(block->magic, WRITTEN_MAGIC, sizeof(block->magic));
	block->crc = crc32c(0, block, sizeof(*block));
	errno = EIO; /* of a part */
	return pwrite(fd, block, sizeof(*block), (off_t)WRITTEN_AT) == (ssize_t)sizeof(*block) ? 0 : -errno;
}

/* ---- */

int file_super_empty(int fd, bool device, uint64_t bytes)
{
	uint64_t range[2] = { 0, bytes };
	struct store_written written;
	int known = file_super_get_written(fd, &written);

	if (device)
		(void)ioctl(fd, BLKDISCARD, range); /* not all devices can */
	else if (ftruncate(fd, 0))
		return -errno;
	return known ? 0 : file_super_set_written(fd, &written);
}

/* block: LOOKED_AT bytes. False after a refusal. */
static bool look_at(int fd, unsigned char *block, struct super *own, const struct store_file_options *o,
		    const char **error)
{
	if (!block || !describe(own, o->bytes)) {
		store_refuse(error, "store \"file:%s\": the ids of machine and boot can't be read", o->path);
		return false;
	}
	memset(block, 0, LOOKED_AT);
	if (pread(fd, block, LOOKED_AT, 0) < 0) {
		store_refuse(error, "store \"file:%s\": %s", o->path, strerror(errno));
		return false;
	}
	return is_empty(block) || check_old((const struct super *)(const void *)block, own, o->path, error);
}

static bool take_over(int fd, const struct stat *st, const struct store_file_options *o, const char **error)
{
	_cleanup_free_ unsigned char *block = aligned_alloc(STORE_BLOCK, LOOKED_AT);
	bool device = S_ISBLK(st->st_mode);
	struct super own;
	int r;

	if (!look_at(fd, block, &own, o, error))
		return false;
	r = file_super_empty(fd, device, o->bytes + FILE_SUPER_BYTES);
	if (!r && !has_room(fd, st, o, error))
		return false;
	memcpy(block, &own, sizeof(own));
	errno = EIO;
	if (!r && pwrite(fd, block, sizeof(own), 0) != (ssize_t)sizeof(own))
		r = -errno;
	if (r)
		store_refuse(error, "store \"file:%s\": %s", o->path, strerror(-r));
	return !r;
}

int file_super_write_again(int fd)
{
	_cleanup_free_ void *block = aligned_alloc(STORE_BLOCK, STORE_BLOCK);

	if (!block)
		return -ENOMEM;
	errno = EIO; /* of a part */
	if (pread(fd, block, STORE_BLOCK, 0) != (ssize_t)STORE_BLOCK ||
	    pwrite(fd, block, STORE_BLOCK, 0) != (ssize_t)STORE_BLOCK)
		return -errno;
	return 0;
}

static void kept_name(const char *path, char name[KEPT_NAME])
{
	snprintf(name, KEPT_NAME, "file.%08x", crc32c(0, path, strlen(path)));
}

void file_super_forget(const char *path)
{
	char name[KEPT_NAME];

	kept_name(path, name);
	kept_forget_fd(name);
}

static bool find_place(const char *path, struct stat *st, const char **error)
{
	if (stat(path, st))
		store_refuse(error, "store \"file:%s\": %s", path, strerror(errno));
	else if (!S_ISBLK(st->st_mode) && !S_ISDIR(st->st_mode))
		store_refuse(error, "store \"file:%s\" is neither a directory nor a block device", path);
	else
		return true;
	return false;
}

/* An agent that runs has it open and locked: that hinders nothing. */
int file_super_look(const struct store_file_options *o, const char **error)
{
	_cleanup_free_ unsigned char *block = aligned_alloc(STORE_BLOCK, LOOKED_AT);
	_cleanup_close_ int fd = -1;
	struct super own;
	struct stat st;
	char file[PLACE_MAX];

	if (!find_place(o->path, &st, error) || !find_file(o->path, &st, file, error))
		return -EINVAL;
	fd = open_direct(file, O_CLOEXEC | (S_ISBLK(st.st_mode) ? O_RDONLY | O_EXCL : O_RDWR | O_NOFOLLOW));
	/* not yet: could it be made? */
	if (fd < 0 && errno == ENOENT && access(o->path, W_OK | X_OK) == 0)
		fd = open(o->path, O_RDONLY | O_CLOEXEC | O_DIRECTORY);
	if (fd < 0) {
		int r = errno == EBUSY ? -EBUSY : -EINVAL;

		store_refuse(error, "store \"file:%s\": %s", o->path, open_error());
		return r;
	}
	if (fstat(fd, &st) == 0 && !S_ISDIR(st.st_mode) && !look_at(fd, block, &own, o, error))
		return -EINVAL;
	return has_room(fd, &st, o, error) ? 0 : -EINVAL;
}

int file_super_open(const struct store_file_options *o, bool *device, const char **error)
{
	char name[KEPT_NAME];
	struct stat st;
	int fd;

	kept_name(o->path, name);
	fd = kept_fd(name);
	if (fd >= 0) { /* a worker's before us: as it is, whatever has become of its path */
		*device = fstat(fd, &st) == 0 && S_ISBLK(st.st_mode);
		return fd;
	}
	if (!find_place(o->path, &st, error))
		return -1;
	*device = S_ISBLK(st.st_mode);
	fd = open_any(o->path, &st, error);
	if (fd < 0)
		return -1;
	if (!take_over(fd, &st, o, error))
		return safe_close(fd);
	if (kept_has_directory())
		(void)kept_set_fd(name, fd);
	return fd;
}
