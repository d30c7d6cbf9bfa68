/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Asynchronous reads of a file: by io_uring, with one thread that takes what
 * has come, or, where that is forbidden, by a few threads that wait.
 *
 * A read's private words: its position, and (threads) nothing more.
 */
#include <errno.h>
#include <liburing.h>
#include <pthread.h>
#include <string.h>
#include <sys/prctl.h>

#include "backends/file.h"
#include "common/util.h"

#define ENTRIES 256
#define THREADS 8
/* The kernel may have no memory for it for a while: nobody waits for that here (INV-2). */
#define SUBMIT_TRIES 16

struct file_reader {
	int fd;
	pthread_mutex_t lock; /* submissions; the queue */
	bool uring;
	struct io_uring ring;
	/* threads */
	pthread_cond_t more;
	struct store_read *head, **tail;
	bool stop;
	pthread_t thread[THREADS];
	unsigned nr_threads;
};

/* The blocks that hold a range. */
struct blocks {
	uint64_t position;
	size_t skip; /* before the range */
	size_t len;
};

static struct blocks blocks_of(uint64_t position, size_t len)
{
	uint64_t from = position & ~(uint64_t)(STORE_BLOCK - 1);
	uint64_t to = (position + len + STORE_BLOCK - 1) & ~(uint64_t)(STORE_BLOCK - 1);

	return (struct blocks){ from, (size_t)(position - from), (size_t)(to - from) };
}

static void finish(struct store_read *read, ssize_t n)
{
	struct blocks b = blocks_of(read->private[0], read->len);
	int r = n < 0 ? (int)n : (size_t)n < b.skip + read->len ? -ENODATA : 0;

	store_read_done(read, r, (char *)read->buf + b.skip);
}

static ssize_t read_blocks(int fd, void *buf, const struct blocks *b)
{
	size_t got = 0;

	while (got < b->len) {
		ssize_t n = pread(fd, (char *)buf + got, b->len - got, (off_t)(b->position + got));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0 || n % (ssize_t)STORE_BLOCK)
			return (ssize_t)got + n; /* the end */
		got += (size_t)n;
	}
	return (ssize_t)got;
}

int file_read_range(int fd, uint64_t position, void *buf, size_t len)
{
	struct blocks b = blocks_of(position, len);
	_cleanup_free_ char *blocks = aligned_alloc(STORE_BLOCK, b.len);
	ssize_t n;

	if (!blocks)
		return -ENOMEM;
	n = read_blocks(fd, blocks, &b);
	if (n < 0)
		return (int)n;
	if ((size_t)n < b.skip + len)
		return -ENODATA;
	memcpy(buf, blocks + b.skip, len);
	return 0;
}

/* ---- io_uring ---- */

static void *take_completions(void *arg)
{
	struct file_reader *r = arg;

	prctl(PR_SET_NAME, "uswap-file");
	for (;;) {
		struct io_uring_cqe *cqe;
		struct store_read *read;
		ssize_t n;

		if (io_uring_wait_cqe(&r->ring, &cqe))
			continue; /* a signal */
		read = io_uring_cqe_get_data(cqe);
		n = cqe->res;
		io_uring_cqe_seen(&r->ring, cqe);
		if (!read)
			return NULL; /* the last one */
		if ((void *)read == r)
			continue; /* one that was given up */
		/* What the submitter wrote into it comes with its lock; of the
		   kernel's ordering no checker knows. */
		pthread_mutex_lock(&r->lock);
		pthread_mutex_unlock(&r->lock);
		finish(read, n);
	}
}

/* All entries. 0, or negative errno: the last one has not been taken. */
static int hand_over(struct file_reader *r)
{
	int n = 0;

	for (unsigned i = 0; i < SUBMIT_TRIES && io_uring_sq_ready(&r->ring); i++)
		n = io_uring_submit(&r->ring);
	return !io_uring_sq_ready(&r->ring) ? 0 : n < 0 ? n : -EAGAIN;
}

/* read NULL: ends the thread. */
static int submit_uring(struct file_reader *r, struct store_read *read)
{
	struct io_uring_sqe *sqe;
	int n = -EAGAIN;

	pthread_mutex_lock(&r->lock);
	sqe = io_uring_get_sqe(&r->ring);
	if (sqe && read) {
		struct blocks b = blocks_of(read->private[0], read->len);

		io_uring_prep_read(sqe, r->fd, read->buf, (unsigned)b.len, b.position);
	} else if (sqe) {
		io_uring_prep_nop(sqe);
	}
	if (sqe) {
		io_uring_sqe_set_data(sqe, read);
		n = hand_over(r);
	}
	if (sqe && n) {
		/* It goes with a later one: then the buffer is somebody else's. */
		io_uring_prep_nop(sqe);
		io_uring_sqe_set_data(sqe, r);
	}
	pthread_mutex_unlock(&r->lock);
	return n;
}

/* ---- threads ---- */

static void *read_queue(void *arg)
{
	struct file_reader *r = arg;

	prctl(PR_SET_NAME, "uswap-file");
	for (;;) {
		struct store_read *read;
		struct blocks b;

		pthread_mutex_lock(&r->lock);
		while (!r->head && !r->stop)
			pthread_cond_wait(&r->more, &r->lock);
		read = r->head;
		if (read) {
			r->head = read->next;
			if (!r->head)
				r->tail = &r->head;
		}
		pthread_mutex_unlock(&r->lock);
		if (!read)
			return NULL;
		b = blocks_of(read->private[0], read->len);
		finish(read, read_blocks(r->fd, read->buf, &b));
	}
}

static void submit_queue(struct file_reader *r, struct store_read *read)
{
	read->next = NULL;
	pthread_mutex_lock(&r->lock);
	*r->tail = read;
	r->tail = &read->next;
	pthread_cond_signal(&r->more);
	pthread_mutex_unlock(&r->lock);
}

/* ---- */

static bool start(struct file_reader *r, void *(*run)(void *), unsigned nr)
{
	while (r->nr_threads < nr && !pthread_create(&r->thread[r->nr_threads], NULL, run, r))
		r->nr_threads++;
	return r->nr_threads > 0;
}

struct file_reader *file_reader_new(int fd, bool threads)
{
	struct file_reader *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	r->fd = fd;
	r->tail = &r->head;
	pthread_mutex_init(&r->lock, NULL);
	pthread_cond_init(&r->more, NULL);
	/* Forbidden (a filter, kernel.io_uring_disabled), or no memory for it. */
	r->uring = !threads && io_uring_queue_init(ENTRIES, &r->ring, 0) == 0;
	if (start(r, r->uring ? take_completions : read_queue, r->uring ? 1 : THREADS))
		return r;
	file_reader_free(r);
	errno = ENOMEM;
	return NULL;
}

void file_reader_free(struct file_reader *r)
{
	if (!r)
		return;
	if (r->uring && r->nr_threads) {
		while (submit_uring(r, NULL))
			;
	} else {
		pthread_mutex_lock(&r->lock);
		r->stop = true;
		pthread_cond_broadcast(&r->more);
		pthread_mutex_unlock(&r->lock);
	}
	while (r->nr_threads)
		pthread_join(r->thread[--r->nr_threads], NULL);
	if (r->uring)
		io_uring_queue_exit(&r->ring);
	pthread_mutex_destroy(&r->lock);
	pthread_cond_destroy(&r->more);
	free(r);
}

bool file_reader_is_uring(const struct file_reader *r)
{
	return r->uring;
}

void file_reader_submit(struct file_reader *r, struct store_read *read, uint64_t position)
{
	int error;

	read->private[0] = position;
	if (!r->uring) {
		submit_queue(r, read);
		return;
	}
	error = submit_uring(r, read);
	if (error)
		store_read_done(read, error, NULL);
}
