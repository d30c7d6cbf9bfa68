/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "backends/file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "common/kept.h"
#include "common/util.h"

struct file {
	int fd;
	char *path;
	bool device;
	uint32_t capacity;
	struct file_reader *reader;
	pthread_mutex_t lock; /* all that follows */
	uint32_t *free;	      /* a stack of nr_free segments */
	bool *used;
	bool *kept; /* free, and its room could not be given back */
	_Atomic bool any_kept;
	uint32_t nr_free;
	uint32_t nr_fresh; /* never given out: those from here on */
	_Atomic uint32_t nr_used;
};

static uint64_t position(uint32_t segment, size_t offset)
{
	return FILE_SUPER_BYTES + segment * (uint64_t)STORE_SEGMENT + offset;
}

static int take(struct file *f, uint32_t *segment)
{
	int r = 0;

	pthread_mutex_lock(&f->lock);
	/* Those that were adopted lie between the fresh ones. */
	while (f->nr_fresh < f->capacity && f->used[f->nr_fresh])
		f->nr_fresh++;
	if (f->nr_free)
		*segment = f->free[--f->nr_free];
	else if (f->nr_fresh < f->capacity)
		*segment = f->nr_fresh++;
	else
		r = -ENOSPC;
	if (!r) {
		f->used[*segment] = true;
		f->kept[*segment] = false;
		f->nr_used++;
	}
	pthread_mutex_unlock(&f->lock);
	return r;
}

static void give(struct file *f, uint32_t segment, bool kept)
{
	pthread_mutex_lock(&f->lock);
	f->used[segment] = false;
	f->kept[segment] = kept;
	f->any_kept |= kept;
	f->nr_used--;
	assert(f->nr_free < f->capacity);
	f->free[f->nr_free++] = segment;
	pthread_mutex_unlock(&f->lock);
}

static int allocate(struct file *f, uint32_t segment)
{
	int r;

	do {
		r = fallocate(f->fd, 0, (off_t)position(segment, 0), STORE_SEGMENT);
	} while (r && errno == EINTR);
	/* A file system without it takes room as it is written to. */
	return r && errno != EOPNOTSUPP ? -errno : 0;
}

static int file_segment_new(void *self, uint32_t *segment)
{
	return take(self, segment);
}

static int file_segment_adopt(void *self, uint32_t segment, uint32_t written)
{
	struct file *f = self;

	pthread_mutex_lock(&f->lock);
	assert(!f->used[segment] && f->nr_free == 0);
	f->used[segment] = true;
	f->nr_used++;
	pthread_mutex_unlock(&f->lock);
	return 0;
}

static int give_back(struct file *f, uint32_t segment)
{
	uint64_t range[2] = { position(segment, 0), STORE_SEGMENT };
	int r;

	r = f->device ? ioctl(f->fd, BLKDISCARD, range) :
			fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)range[0],
				  (off_t)range[1]);
	/* Not all devices and file systems can: there it is used again as it is. */
	return r && errno != EOPNOTSUPP ? -errno : 0;
}

/* The medium takes something again: what it refused to give up before. Nobody gets a
   segment meanwhile, since the lock is held: that may take its time, but is rare. */
static void give_back_kept(struct file *f)
{
	if (!f->any_kept)
		return;
	pthread_mutex_lock(&f->lock);
	f->any_kept = false;
	for (uint32_t i = 0; i < f->capacity; i++)
		if (f->kept[i] && !f->used[i]) {
			f->kept[i] = give_back(f, i) != 0;
			f->any_kept |= f->kept[i];
		}
	pthread_mutex_unlock(&f->lock);
}

static void file_segment_free(void *self, uint32_t segment)
{
	struct file *f = self;
	int r = give_back(f, segment);

	give(f, segment, r != 0);
	if (!r)
		give_back_kept(f);
}

static int file_write(void *self, uint32_t segment, size_t offset, const void *buf, size_t len)
{
	struct file *f = self;
	size_t done = 0;
	int r;

	if (offset % STORE_BLOCK || len % STORE_BLOCK || (uintptr_t)buf % STORE_BLOCK)
		return -EINVAL;
	/* All of the segment before the first of it: what comes then can't lack room. */
	r = offset || f->device ? 0 : allocate(f, segment);
	if (r)
		return r;
	while (done < len) {
		ssize_t n = pwrite(f->fd, (const char *)buf + done, len - done,
				   (off_t)position(segment, offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0 || n % (ssize_t)STORE_BLOCK)
			return -EIO;
		done += (size_t)n;
	}
	return 0;
}

static int file_read(void *self, uint32_t segment, size_t offset, void *buf, size_t len)
{
	struct file *f = self;

	return file_read_range(f->fd, position(segment, offset), buf, len);
}

static void file_read_submit(void *self, struct store_read *read)
{
	struct file *f = self;

	file_reader_submit(f->reader, read, position(read->segment, read->offset));
}

/* The superblock as it is, and room for a segment where one is left to give. */
static int file_probe(void *self)
{
	struct file *f = self;
	uint32_t segment;
	int r = file_super_write_again(f->fd);

	if (!r)
		give_back_kept(f);
	if (r || f->device || take(f, &segment))
		return r;
	r = allocate(f, segment);
	if (r)
		give(f, segment, false);
	else
		file_segment_free(f, segment);
	return r;
}

static int file_get_written(void *self, struct store_written *written)
{
	struct file *f = self;

	return file_super_get_written(f->fd, written);
}

static int file_set_written(void *self, const struct store_written *written)
{
	struct file *f = self;

	return file_super_set_written(f->fd, written);
}

/* Nor is the disk waited for here. */
static uint64_t file_used_bytes(void *self)
{
	struct file *f = self;
	struct stat st;

	return f->device || fstat(f->fd, &st) ? f->nr_used * (uint64_t)STORE_SEGMENT : (uint64_t)st.st_blocks * 512;
}

static void file_destroy(void *self)
{
	struct file *f = self;
	/* If not, it may be full of what another process has left. */
	bool served = f->reader;

	file_reader_free(f->reader);
	if (!served && !kept_has_directory())
		safe_close(f->fd);
	if (served) {
		/* Nothing in it is of use to anybody. */
		if (!f->device)
			(void)file_super_empty(f->fd, false, 0);
		file_super_forget(f->path);
		safe_close(f->fd);
	}
	free(f->path);
	pthread_mutex_destroy(&f->lock);
	free(f->free);
	free(f->used);
	free(f->kept);
	free(f);
}

static const struct store_ops file_ops = {
	.name = "file",
	.segment_new = file_segment_new,
	.write = file_write,
	.read = file_read,
	.read_submit = file_read_submit,
	.segment_adopt = file_segment_adopt,
	.segment_free = file_segment_free,
	.probe = file_probe,
	.get_written = file_get_written,
	.set_written = file_set_written,
	.used_bytes = file_used_bytes,
	.destroy = file_destroy,
};

struct store *store_file_new(const struct store_file_options *o, const char **error)
{
	struct file *f = calloc(1, sizeof(*f));
	struct store *store = NULL;

	if (!f)
		return store_refuse(error, "out of memory");
	f->capacity = (uint32_t)(o->bytes / STORE_SEGMENT);
	pthread_mutex_init(&f->lock, NULL);
	f->free = calloc(f->capacity, sizeof(*f->free));
	f->used = calloc(f->capacity, sizeof(*f->used));
	f->kept = calloc(f->capacity, sizeof(*f->kept));
	f->path = strdup(o->path);
	store_refuse(error, "out of memory");
	f->fd = f->free && f->used && f->kept && f->path ? file_super_open(o, &f->device, error) : -1;
	if (f->fd >= 0) {
		f->reader = file_reader_new(f->fd, o->no_uring);
		if (f->reader)
			store = store_new(&file_ops, f, f->capacity);
		if (!store)
			store_refuse(error, "store \"file:%s\": %s", o->path, strerror(errno));
	}
	if (!store) {
		file_destroy(f);
		return NULL;
	}
	store_set_daily_writes(store, o->daily_writes);
	return store;
}
