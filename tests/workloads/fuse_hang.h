/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A FUSE file system of one file, for those who want to wait for ever, or have others
 * do so: its server, a process, answers this process group at once (unless it is told
 * to hang too), and nobody else's READ and FLUSH. Mounted in a mount namespace of the
 * caller's; gone with the server, which lets everybody go.
 */
#ifndef USWAP_TESTS_FUSE_HANG_H
#define USWAP_TESTS_FUSE_HANG_H

#include "workload.h"

#include <linux/fuse.h>
#include <sched.h>
#include <sys/mount.h>

#define FUSE_HANG_BYTES ((uint64_t)1 << 20)
#define FUSE_HANG_SECONDS 60 /* at most */

struct fuse_hang {
	char dir[32];
	pid_t server;
	volatile uint32_t *hang_own;   /* shared: reads of this group hang as well */
	volatile uint32_t *nr_hanging; /* requests that have got no answer */
};

static struct fuse_attr fuse_hang_attr(uint64_t node)
{
	return (struct fuse_attr){ .ino = node,
				   .size = node == 1 ? 0 : FUSE_HANG_BYTES,
				   .blocks = FUSE_HANG_BYTES / 512,
				   .mode = node == 1 ? S_IFDIR | 0777 : S_IFREG | 0666,
				   .nlink = 1,
				   .blksize = (uint32_t)WL_PAGE };
}

static void fuse_hang_reply(int dev, const struct fuse_in_header *in, int error, const void *body, size_t size)
{
	static union {
		struct fuse_out_header head;
		char bytes[FUSE_HANG_BYTES + sizeof(struct fuse_out_header)];
	} out;

	out.head = (struct fuse_out_header){ .len = (uint32_t)(sizeof(out.head) + size), .error = error, .unique = in->unique };
	if (size)
		memcpy(&out.head + 1, body, size);
	if (write(dev, &out, out.head.len) < 0)
		return; /* it has been interrupted */
}

static void fuse_hang_answer(const struct fuse_hang *f, int dev, const struct fuse_in_header *in)
{
	static const char zeros[FUSE_HANG_BYTES];
	const struct fuse_read_in *read_in = (const void *)(in + 1);
	const struct fuse_init_out init = { .major = FUSE_KERNEL_VERSION, .minor = 31, .max_write = 65536,
					    .max_readahead = 0, .max_background = 64, .time_gran = 1 };
	const struct fuse_entry_out entry = { .nodeid = 2, .entry_valid = 3600, .attr_valid = 3600,
					      .attr = fuse_hang_attr(2) };
	const struct fuse_attr_out attr = { .attr_valid = 3600, .attr = fuse_hang_attr(in->nodeid) };
	const struct fuse_open_out open_out = { .fh = 1 };
	bool is_own = getpgid((pid_t)in->pid) == getpgrp();

	switch (in->opcode) {
	case FUSE_INIT:
		fuse_hang_reply(dev, in, 0, &init, sizeof(init));
		break;
	case FUSE_LOOKUP:
		fuse_hang_reply(dev, in, 0, &entry, sizeof(entry));
		break;
	case FUSE_GETATTR:
		fuse_hang_reply(dev, in, 0, &attr, sizeof(attr));
		break;
	case FUSE_OPEN:
	case FUSE_OPENDIR:
		fuse_hang_reply(dev, in, 0, &open_out, sizeof(open_out));
		break;
	case FUSE_READ:
		if (is_own && !*f->hang_own)
			fuse_hang_reply(dev, in, 0, zeros, read_in->size < sizeof(zeros) ? read_in->size : sizeof(zeros));
		else
			++*f->nr_hanging;
		break;
	case FUSE_FLUSH:
		if (is_own)
			fuse_hang_reply(dev, in, 0, NULL, 0);
		else
			++*f->nr_hanging;
		break;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT:
		break;
	default:
		fuse_hang_reply(dev, in, in->opcode == FUSE_RELEASE || in->opcode == FUSE_RELEASEDIR ? 0 : -ENOSYS, NULL, 0);
	}
}

/* Ends when the other end of the pipe is closed, or after a while: who waits here
   can't be killed. */
static void fuse_hang_serve(const struct fuse_hang *f, int dev)
{
	static _Alignas(8) char buffer[1 << 17];

	alarm(FUSE_HANG_SECONDS);
	while (read(dev, buffer, sizeof(buffer)) > 0 || errno == EINTR || errno == ENOENT)
		fuse_hang_answer(f, dev, (const void *)buffer);
	_exit(0);
}

/* False: there is no FUSE here, or we may not mount. */
static bool fuse_hang_start(struct fuse_hang *f)
{
	char options[128];
	int dev = open("/dev/fuse", O_RDWR | O_CLOEXEC);

	*f = (struct fuse_hang){ .dir = "/tmp/fuse-hang.XXXXXX" };
	if (dev < 0 || geteuid() || unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
		wl_say("no FUSE here: %s", strerror(errno));
		close(dev);
		return false;
	}
	WL_CHECK(mkdtemp(f->dir), "mkdtemp");
	snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", dev);
	if (mount("fuse-hang", f->dir, "fuse", MS_NOSUID | MS_NODEV, options) < 0) {
		wl_say("no FUSE here: %s", strerror(errno));
		rmdir(f->dir);
		close(dev);
		return false;
	}
	f->hang_own = mmap(NULL, WL_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	f->nr_hanging = f->hang_own + 1;
	f->server = (pid_t)WL_OK(fork());
	if (!f->server)
		fuse_hang_serve(f, dev);
	close(dev);
	return true;
}

static int fuse_hang_open(const struct fuse_hang *f)
{
	char path[64];

	snprintf(path, sizeof(path), "%s/file", f->dir);
	return (int)WL_OK(open(path, O_RDWR | O_CLOEXEC));
}

static void fuse_hang_end(struct fuse_hang *f)
{
	kill(f->server, SIGKILL);
	waitpid(f->server, NULL, 0);
	umount2(f->dir, MNT_DETACH);
	rmdir(f->dir);
}

#endif
