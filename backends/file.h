/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * file: segments in one file of a directory, or on a block device, behind a
 * superblock that says whose they are. Direct I/O where the file system can;
 * a segment's room is taken as a whole when it is given out and goes back
 * (hole, discard) when it is freed, so that no write ever lacks space.
 *
 * Of what is in there only this worker, and one that takes its place, can make
 * sense: the tables are in kept memory, the key too. What others have left is
 * thrown away if it is ours (this machine), and refused if not.
 */
#ifndef USWAP_BACKENDS_FILE_H
#define USWAP_BACKENDS_FILE_H

#include "backends/store.h"

#define FILE_STORE_NAME "uswap.segments" /* in the directory */

struct store_file_options {
	const char *path;      /* absolute: a directory or a block device */
	uint64_t bytes;	       /* at most, whole segments */
	uint64_t daily_writes; /* 0: any number */
	bool no_uring;	       /* read by threads, as where io_uring is forbidden */
};

struct store *store_file_new(const struct store_file_options *options, const char **error);

/* ---- file_super.c: whose file it is ---- */

/* Opens, locks, checks and (if it is not the kept one of a worker before us)
   empties it. A descriptor, or -1 after store_refuse. */
int file_super_open(const struct store_file_options *options, bool *device, const char **error);
/* Could an agent open it? Changes nothing. As store_look. */
int file_super_look(const struct store_file_options *options, const char **error);
/* It will not be kept for a later worker: the store is closed. */
void file_super_forget(const char *path);
/* The same bytes once more. 0 or negative errno. */
int file_super_write_again(int fd);
/* All of it goes but for what was written lately. 0 or negative errno. */
int file_super_empty(int fd, bool device, uint64_t bytes);
/* What was written lately, in a block of its own. As in store_ops. */
int file_super_get_written(int fd, struct store_written *written);
int file_super_set_written(int fd, const struct store_written *written);
#define FILE_SUPER_BYTES STORE_SEGMENT /* segments begin behind it */

/* ---- file_read.c: asynchronous reads ---- */

struct file_reader;

/* threads: not by io_uring even if it could be. NULL and errno. */
struct file_reader *file_reader_new(int fd, bool threads);
void file_reader_free(struct file_reader *reader); /* no read is pending */
bool file_reader_is_uring(const struct file_reader *reader);
/* position: of the read's first byte in the file. */
void file_reader_submit(struct file_reader *reader, struct store_read *read, uint64_t position);
/* Any range, into any buffer; waits. */
int file_read_range(int fd, uint64_t position, void *buf, size_t len);

#endif
