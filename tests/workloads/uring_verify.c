/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * uring_verify [ROUNDS]: io_uring on memory that has left: reads and writes of
 * files (O_DIRECT too) and sockets, lists, names and times among the arguments,
 * memory dropped by a request, buffers that the kernel chooses, a ring in memory
 * of the program's own; requests issued at once, by worker threads and by a
 * polling thread. Registered buffers stay while they are registered, their
 * neighbours don't, and they leave again afterwards. Direct I/O uses a file in
 * $TMPDIR.
 */
#include "workload.h"

#include <liburing.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#ifndef IORING_SETUP_NO_MMAP
#define IORING_SETUP_NO_MMAP (1U << 14)
#endif

#define PAGES 64
#define BYTES (PAGES * WL_PAGE)
#define ENTRIES 128

/* How requests are issued: by the caller if they don't wait, by a worker
   thread of the kernel's always, by its polling thread. */
static const struct way {
	const char *name;
	unsigned setup;
	unsigned sqe;
} ways[] = {
	{ "at once", 0, 0 },
	{ "by workers", 0, IOSQE_ASYNC },
	{ "by a polling thread", IORING_SETUP_SQPOLL, 0 },
};

static const struct way *way;
static struct io_uring ring;
static unsigned char *source, *target; /* PAGES of contents each */
static unsigned char *args;	       /* PAGES; what requests need besides */
static unsigned requests, batches, batches_away;

static void fresh(uint64_t seed)
{
	wl_renew(source, PAGES);
	wl_renew(target, PAGES);
	wl_renew(args, PAGES);
	wl_fill(source, PAGES, seed);
	wl_fill(target, PAGES, seed + 1);
	wl_fill(args, PAGES, seed + 2);
}

/* The next requests are ready but for their submission: all they need leaves. */
static void leave(const char *what)
{
	wl_wait_evicted(what, source, PAGES, WL_EVICT_SHARE);
	wl_wait_evicted(what, target, PAGES, WL_EVICT_SHARE);
	wl_wait_evicted(what, args, PAGES, WL_EVICT_SHARE);
	wl_try_evicted(args, 1, 100, 1);
	batches++;
	batches_away += wl_evicting() && wl_absent(args, 1);
}

static struct io_uring_sqe *request(void)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

	WL_CHECK(sqe, "no room in the queue");
	requests++;
	return sqe;
}

/* After io_uring_prep_*, which sets all of it. */
static void as_wanted(struct io_uring_sqe *sqe, uint64_t want)
{
	sqe->flags |= (unsigned char)way->sqe;
	io_uring_sqe_set_data64(sqe, want);
}

static int next_result(uint64_t *want)
{
	struct __kernel_timespec limit = { .tv_sec = 50 };
	struct io_uring_cqe *cqe;
	int r, result;

	do
		r = io_uring_wait_cqe_timeout(&ring, &cqe, &limit);
	while (r == -EINTR);
	WL_CHECK(r == 0, "waiting for a request: %s", strerror(-r));
	*want = io_uring_cqe_get_data64(cqe);
	result = cqe->res;
	io_uring_cqe_seen(&ring, cqe);
	return result;
}

/* All of n give what their data says they must. */
static void complete(const char *what, unsigned n)
{
	uint64_t want;
	int r;

	r = io_uring_submit(&ring);
	WL_CHECK(r >= 0, "%s: submit: %s", what, strerror(-r));
	while (n--) {
		r = next_result(&want);
		WL_CHECK(r == (int)want, "%s, %s: %d (%s) instead of %d", what, way->name, r,
			 r < 0 ? strerror(-r) : "-", (int)want);
	}
}

static void same(const char *what)
{
	size_t i;

	for (i = 0; i < PAGES; i++)
		if (memcmp(target + i * WL_PAGE, source + i * WL_PAGE, WL_PAGE))
			wl_wrong(what, target + i * WL_PAGE, source + i * WL_PAGE, i);
}

/* ---- files ---- */

static void pages_of_file(int fd, const char *what, uint64_t seed)
{
	size_t i;

	fresh(seed);
	leave("before writes");
	for (i = 0; i < PAGES; i++) {
		struct io_uring_sqe *sqe = request();

		io_uring_prep_write(sqe, fd, source + i * WL_PAGE, WL_PAGE, i * WL_PAGE);
		as_wanted(sqe, WL_PAGE);
	}
	complete(what, PAGES);
	leave("before reads");
	for (i = 0; i < PAGES; i++) {
		struct io_uring_sqe *sqe = request();

		io_uring_prep_read(sqe, fd, target + i * WL_PAGE, WL_PAGE, i * WL_PAGE);
		as_wanted(sqe, WL_PAGE);
	}
	complete(what, PAGES);
	same(what);
	wl_verify(what, source, PAGES, seed);
}

static void files(uint64_t seed)
{
	int fd = wl_scratch_file(0);

	WL_CHECK(fd >= 0, "open: %s", strerror(errno));
	pages_of_file(fd, "file", seed);
	close(fd);
	fd = wl_scratch_file(O_DIRECT);
	if (fd < 0) {
		wl_say("no O_DIRECT here: %s", strerror(errno));
		return;
	}
	pages_of_file(fd, "direct file", seed + 3);
	close(fd);
}

/* Pages in reverse order, by lists that have left as well. */
static void vectors(uint64_t seed)
{
	struct iovec *iov = (struct iovec *)(void *)args;
	struct io_uring_sqe *sqe;
	int fd = wl_scratch_file(0);
	size_t i;

	WL_CHECK(fd >= 0, "open: %s", strerror(errno));
	fresh(seed);
	for (i = 0; i < PAGES; i++)
		iov[i] = (struct iovec){ source + (PAGES - 1 - i) * WL_PAGE, WL_PAGE };
	leave("before writev");
	sqe = request();
	io_uring_prep_writev(sqe, fd, iov, PAGES, 0);
	as_wanted(sqe, BYTES);
	complete("writev", 1);
	for (i = 0; i < PAGES; i++)
		iov[i].iov_base = target + (PAGES - 1 - i) * WL_PAGE;
	leave("before readv");
	sqe = request();
	io_uring_prep_readv(sqe, fd, iov, PAGES, 0);
	as_wanted(sqe, BYTES);
	complete("readv", 1);
	same("readv");
	close(fd);
}

/* Registered: the kernel holds every other page, and has read and written them
   without a fault. The others leave; these do when they are given back. */
static void fixed_buffers(uint64_t seed)
{
	struct iovec buffer[PAGES / 2];
	int fd = wl_scratch_file(0), r;
	size_t i;

	WL_CHECK(fd >= 0, "open: %s", strerror(errno));
	fresh(seed);
	leave("before they are registered");
	for (i = 0; i < PAGES / 2; i++)
		buffer[i] = (struct iovec){ source + 2 * i * WL_PAGE, WL_PAGE };
	r = io_uring_register_buffers(&ring, buffer, PAGES / 2);
	WL_CHECK(r == 0, "register buffers: %s", strerror(-r));
	wl_wait_evicted("beside registered buffers", source, PAGES, 45);
	for (i = 0; i < PAGES; i += 2)
		WL_CHECK(!wl_absent(source + i * WL_PAGE, 1), "page %zu of a registered buffer is away", i);
	for (i = 0; i < PAGES / 2; i++) {
		struct io_uring_sqe *sqe = request();

		io_uring_prep_write_fixed(sqe, fd, source + 2 * i * WL_PAGE, WL_PAGE, i * WL_PAGE, (int)i);
		as_wanted(sqe, WL_PAGE);
	}
	complete("from registered buffers", PAGES / 2);
	for (i = 0; i < PAGES / 2; i++) { /* each gets its neighbour's */
		struct io_uring_sqe *sqe = request();

		io_uring_prep_read_fixed(sqe, fd, source + 2 * i * WL_PAGE, WL_PAGE, (i ^ 1) * WL_PAGE, (int)i);
		as_wanted(sqe, WL_PAGE);
	}
	complete("into registered buffers", PAGES / 2);
	r = io_uring_unregister_buffers(&ring);
	WL_CHECK(r == 0, "unregister buffers: %s", strerror(-r));
	wl_wait_evicted("registered no more", source, PAGES, 90);
	for (i = 0; i < PAGES; i++)
		wl_check_key("registered buffers and between", source + i * WL_PAGE,
			     content_key(seed, i % 2 ? i : i ^ 2, 0), i);
	close(fd);
}

/* ---- sockets ---- */

/* Receives that wait while their buffers leave. */
static void sockets(uint64_t seed)
{
	struct msghdr *head = (struct msghdr *)(void *)args;
	struct iovec *iov = (struct iovec *)(void *)(args + 512);
	struct io_uring_sqe *sqe;
	size_t chunk = 8 * WL_PAGE;
	int fd[2], i;

	WL_OK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fd));
	fresh(seed);
	memset(args, 0, 1024);
	for (i = 0; i < 2; i++) {
		iov[i] = (struct iovec){ (i ? target : source) + chunk, chunk };
		head[i].msg_iov = &iov[i];
		head[i].msg_iovlen = 1;
	}
	sqe = request();
	io_uring_prep_recv(sqe, fd[1], target, chunk, 0);
	as_wanted(sqe, chunk);
	complete("submit a receive", 0);
	leave("while a receive waits");
	sqe = request();
	io_uring_prep_send(sqe, fd[0], source, chunk, 0);
	as_wanted(sqe, chunk);
	complete("send and receive", 2);
	sqe = request();
	io_uring_prep_recvmsg(sqe, fd[1], &head[1], 0);
	as_wanted(sqe, chunk);
	complete("submit a recvmsg", 0);
	leave("while a recvmsg waits");
	sqe = request();
	io_uring_prep_sendmsg(sqe, fd[0], &head[0], 0);
	as_wanted(sqe, chunk);
	complete("sendmsg and recvmsg", 2);
	wl_verify("sent", source, PAGES, seed);
	wl_verify("received", target, 16, seed);
	for (i = 16; i < PAGES; i++)
		wl_check_key("behind what was received", target + (size_t)i * WL_PAGE,
			     content_key(seed + 1, (uint64_t)i, 0), (size_t)i);
	close(fd[0]);
	close(fd[1]);
}

/* The kernel chooses where to receive to, from a list it was given. */
static void chosen_buffers(uint64_t seed)
{
	struct io_uring_sqe *sqe = request();
	struct __kernel_timespec limit = { .tv_sec = 50 };
	struct io_uring_cqe *cqe;
	bool used[PAGES] = { false };
	int fd[2], r;
	size_t i, at;

	WL_OK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fd));
	fresh(seed);
	io_uring_prep_provide_buffers(sqe, target, WL_PAGE, PAGES, 7, 0);
	io_uring_sqe_set_data64(sqe, 0);
	complete("provide buffers", 1);
	leave("provided buffers");
	for (i = 0; i < PAGES; i++) {
		sqe = request();
		io_uring_prep_recv(sqe, fd[1], NULL, WL_PAGE, 0);
		as_wanted(sqe, i);
		sqe->flags |= IOSQE_BUFFER_SELECT;
		sqe->buf_group = 7;
		WL_CHECK((r = io_uring_submit(&ring)) >= 0, "submit: %s", strerror(-r));
		WL_CHECK(send(fd[0], source + i * WL_PAGE, WL_PAGE, 0) == (ssize_t)WL_PAGE, "send: %s",
			 strerror(errno));
		while ((r = io_uring_wait_cqe_timeout(&ring, &cqe, &limit)) == -EINTR)
			continue;
		WL_CHECK(r == 0, "waiting for a receive: %s", strerror(-r));
		WL_CHECK(cqe->res == (int)WL_PAGE && cqe->flags & IORING_CQE_F_BUFFER, "receive: %d",
			 cqe->res);
		at = cqe->flags >> IORING_CQE_BUFFER_SHIFT;
		WL_CHECK(at < PAGES && !used[at], "buffer %zu", at);
		used[at] = true;
		io_uring_cqe_seen(&ring, cqe);
		wl_check_key("chosen buffer", target + at * WL_PAGE, content_key(seed, i, 0), at);
	}
	close(fd[0]);
	close(fd[1]);
}

/* Sent without a copy: the socket holds the pages until it has told so. */
static void lent(uint64_t seed)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	socklen_t length = sizeof(address);
	struct __kernel_timespec limit = { .tv_sec = 50 };
	int listener, out, in, r, told = 0;
	struct io_uring_cqe *cqe;
	struct io_uring_sqe *sqe;
	size_t done = 0, chunk = 16 * WL_PAGE;

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	listener = (int)WL_OK(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
	WL_OK(bind(listener, (struct sockaddr *)&address, length));
	WL_OK(listen(listener, 1));
	WL_OK(getsockname(listener, (struct sockaddr *)&address, &length));
	out = (int)WL_OK(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
	WL_OK(connect(out, (struct sockaddr *)&address, length));
	in = (int)WL_OK(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
	fresh(seed);
	leave("before a send without copy");
	sqe = request();
	io_uring_prep_send_zc(sqe, out, source, chunk, MSG_WAITALL, 0);
	as_wanted(sqe, chunk);
	WL_CHECK((r = io_uring_submit(&ring)) >= 0, "submit: %s", strerror(-r));
	wl_try_evicted(source, 16, WL_EVICT_SHARE, 0.3);
	while (done < chunk) {
		ssize_t n = read(in, target + done, chunk - done);

		WL_CHECK(n > 0, "read: %s", strerror(errno));
		done += (size_t)n;
	}
	while (told < 2) { /* that it is sent, then that the pages are free */
		while ((r = io_uring_wait_cqe_timeout(&ring, &cqe, &limit)) == -EINTR)
			continue;
		WL_CHECK(r == 0, "waiting for a send: %s", strerror(-r));
		if (!told && (cqe->res == -EINVAL || cqe->res == -EOPNOTSUPP))
			wl_fail("send_zc: %s", strerror(-cqe->res));
		WL_CHECK(told || cqe->res == (int)chunk, "send_zc: %d", cqe->res);
		told += cqe->flags & IORING_CQE_F_MORE ? 1 : 2;
		io_uring_cqe_seen(&ring, cqe);
	}
	wl_verify("received without copy", target, 16, seed);
	wl_verify("sent without copy", source, PAGES, seed);
	close(listener);
	close(out);
	close(in);
}

/* ---- other arguments ---- */

static void names(uint64_t seed)
{
	char *path = (char *)args;
	struct statx *found = (struct statx *)(void *)(args + 1024);
	struct __kernel_timespec *time = (struct __kernel_timespec *)(void *)(args + 512);
	struct io_uring_sqe *sqe;
	uint64_t want;
	int fd;

	fresh(seed);
	memset(args, 0, WL_PAGE);
	strcpy(path, "/proc/self/exe");
	leave("before statx");
	sqe = request();
	io_uring_prep_statx(sqe, AT_FDCWD, path, 0, STATX_BASIC_STATS, found);
	as_wanted(sqe, 0);
	complete("statx", 1);
	WL_CHECK(S_ISREG(found->stx_mode), "statx: mode %o", found->stx_mode);
	leave("before openat");
	sqe = request();
	io_uring_prep_openat(sqe, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
	as_wanted(sqe, 0);
	WL_CHECK(io_uring_submit(&ring) >= 0, "submit");
	fd = next_result(&want);
	WL_CHECK(fd >= 0, "openat: %s", strerror(-fd));
	close(fd);
	time->tv_nsec = 1000000;
	leave("before a timeout");
	sqe = request();
	io_uring_prep_timeout(sqe, time, 0, 0);
	io_uring_sqe_set_data64(sqe, (uint64_t)-ETIME);
	complete("timeout", 1);
}

/* The kernel's own thread drops the pages; what it dropped never comes back. */
static void drops(uint64_t seed)
{
	struct io_uring_sqe *sqe;
	unsigned round;
	size_t i;

	for (round = 0; round < 4; round++) {
		fresh(seed + round);
		leave("before a drop by a request");
		sqe = request();
		io_uring_prep_madvise(sqe, source, BYTES / 2, MADV_DONTNEED);
		as_wanted(sqe, 0);
		complete("madvise", 1);
		for (i = 0; i < PAGES / 2; i++)
			wl_check_zero("dropped by a request", source + i * WL_PAGE, i);
		for (i = 0; i < PAGES / 2; i++)
			content_page(source + i * WL_PAGE, content_key(seed + round, i, 0));
		wl_verify("dropped and written", source, PAGES, seed + round);
	}
}

/* ---- a ring in the program's memory ---- */

/* The kernel holds its pages, which had left: it stays, and works. */
static void own_ring(uint64_t seed)
{
	struct io_uring_params params = { .flags = IORING_SETUP_NO_MMAP };
	unsigned char *rings = source, *entries = target;
	uint64_t at = (uintptr_t)rings;
	struct io_uring_sqe *sqe = (struct io_uring_sqe *)(void *)entries;
	struct io_uring_cqe *cqe;
	unsigned round, *tail;
	size_t i;
	int fd;

	fresh(seed);
	leave("before it is a ring");
	memset(rings, 0, WL_PAGE);
	memset(entries, 0, WL_PAGE);
	leave("a ring to be");
	/* the last word of each: named user_addr since 6.5's headers */
	memcpy((unsigned char *)&params.cq_off + sizeof(params.cq_off) - 8, &at, 8);
	at = (uintptr_t)entries;
	memcpy((unsigned char *)&params.sq_off + sizeof(params.sq_off) - 8, &at, 8);
	fd = (int)syscall(SYS_io_uring_setup, 4, &params);
	if (fd < 0) {
		WL_CHECK(errno == EINVAL, "a ring in own memory: %s", strerror(errno));
		wl_say("no rings in own memory here");
		return;
	}
	tail = (unsigned *)(void *)(rings + params.sq_off.tail);
	cqe = (struct io_uring_cqe *)(void *)(rings + params.cq_off.cqes);
	for (round = 0; round < 4; round++) {
		wl_wait_evicted("beside a ring", source, PAGES, 90);
		WL_CHECK(!wl_absent(rings, 1) && !wl_absent(entries, 1), "the ring is away");
		memset(&sqe[round], 0, sizeof(*sqe));
		sqe[round].opcode = IORING_OP_NOP;
		sqe[round].user_data = seed + round;
		((unsigned *)(void *)(rings + params.sq_off.array))[round] = round;
		__atomic_store_n(tail, round + 1, __ATOMIC_RELEASE);
		WL_CHECK(syscall(SYS_io_uring_enter, fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) == 1,
			 "io_uring_enter: %s", strerror(errno));
		WL_CHECK(cqe[round].user_data == seed + round, "completion %u is %llu", round,
			 (unsigned long long)cqe[round].user_data);
	}
	close(fd);
	for (i = 1; i < PAGES; i++)
		wl_check_key("beside a ring", source + i * WL_PAGE, content_key(seed, i, 0), i);
}

static void rounds_of(unsigned rounds)
{
	static void (*const part[])(uint64_t) = { files, vectors, fixed_buffers, sockets,
						  chosen_buffers, lent, names, drops };
	unsigned round;
	size_t i;
	int r = io_uring_queue_init(ENTRIES, &ring, way->setup);

	WL_CHECK(r == 0, "%s: io_uring_queue_init: %s", way->name, strerror(-r));
	for (round = 0; round < rounds; round++)
		for (i = 0; i < sizeof(part) / sizeof(part[0]); i++)
			part[i](1000 * round + 20 * i);
	io_uring_queue_exit(&ring);
}

int main(int argc, char **argv)
{
	unsigned rounds = (unsigned)wl_arg(argc, argv, 1, 1);
	size_t i;
	int r;

	source = wl_map(PAGES);
	target = wl_map(PAGES);
	args = wl_map(PAGES);
	fresh(1);
	leave("before io_uring");
	r = io_uring_queue_init(ENTRIES, &ring, 0);
	if (r == -ENOSYS || r == -EPERM) {
		wl_say("no io_uring here: %s", strerror(-r));
		return 0;
	}
	WL_CHECK(r == 0, "io_uring_queue_init: %s", strerror(-r));
	io_uring_queue_exit(&ring);
	for (i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
		way = &ways[i];
		rounds_of(rounds);
	}
	own_ring(7);
	WL_CHECK(!wl_evicting() || batches_away * 2 > batches,
		 "only %u of %u batches had arguments that were away", batches_away, batches);
	wl_say("%u requests in %zu ways right; arguments away in %u of %u batches", requests, i,
	       batches_away, batches);
	return 0;
}
