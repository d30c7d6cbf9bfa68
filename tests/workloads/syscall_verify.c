/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * syscall_verify [ROUNDS]: system calls whose arguments have left. Each part
 * fills memory, waits until it is away, lets the kernel read or write it and
 * verifies both ends. Direct I/O uses a file in $TMPDIR.
 */
#include "workload.h"

#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <linux/aio_abi.h>
#include <linux/futex.h>

#define PAGES 64
#define BYTES (PAGES * WL_PAGE)

static unsigned char *source, *target; /* PAGES of contents each */
static unsigned char *args;	       /* PAGES; what calls need besides, in the first */
static unsigned calls, calls_away;

/* The arguments of the next call are ready: lets them leave. */
static void leave(const char *what)
{
	wl_wait_evicted(what, args, PAGES, WL_EVICT_SHARE);
	wl_wait_evicted(what, source, PAGES, WL_EVICT_SHARE);
	wl_wait_evicted(what, target, PAGES, WL_EVICT_SHARE);
	wl_try_evicted(args, 1, 100, 1);
	calls++;
	calls_away += wl_evicting() && wl_absent(args, 1);
}

static void fresh(uint64_t seed)
{
	wl_renew(source, PAGES);
	wl_renew(target, PAGES);
	wl_renew(args, PAGES);
	wl_fill(source, PAGES, seed);
	wl_fill(target, PAGES, seed + 1);
	wl_fill(args, PAGES, seed + 2);
}

static void same(const char *what)
{
	size_t i;

	for (i = 0; i < PAGES; i++)
		if (memcmp(target + i * WL_PAGE, source + i * WL_PAGE, WL_PAGE))
			wl_wrong(what, target + i * WL_PAGE, source + i * WL_PAGE, i);
}

static void files(uint64_t seed)
{
	int flags[] = { 0, O_DIRECT }, fd;
	size_t i;

	for (i = 0; i < 2; i++) {
		fresh(seed + i);
		fd = wl_scratch_file(flags[i]);
		if (fd < 0) {
			WL_CHECK(flags[i], "open: %s", strerror(errno));
			wl_say("no O_DIRECT here: %s", strerror(errno));
			continue;
		}
		leave("before pwrite");
		WL_CHECK(pwrite(fd, source, BYTES, 0) == (ssize_t)BYTES, "pwrite: %s",
			 strerror(errno));
		leave("before pread");
		WL_CHECK(pread(fd, target, BYTES, 0) == (ssize_t)BYTES, "pread: %s",
			 strerror(errno));
		same(flags[i] ? "direct pread" : "pread");
		wl_verify("written", source, PAGES, seed + i);
		close(fd);
	}
}

/* Only a part of a page is written: the rest of it must come back first. */
static void partial(uint64_t seed)
{
	int fd = wl_scratch_file(0);
	unsigned char want[CONTENT_PAGE], piece[100];
	size_t i;

	WL_CHECK(fd >= 0, "open: %s", strerror(errno));
	fresh(seed);
	memset(piece, 0xa5, sizeof(piece));
	WL_CHECK(pwrite(fd, piece, sizeof(piece), 0) == sizeof(piece), "pwrite");
	leave("before small reads");
	for (i = 0; i < PAGES; i++)
		WL_CHECK(pread(fd, target + i * WL_PAGE + 1000, sizeof(piece), 0) == sizeof(piece),
			 "pread: %s", strerror(errno));
	for (i = 0; i < PAGES; i++) {
		content_page(want, content_key(seed + 1, i, 0));
		memcpy(want + 1000, piece, sizeof(piece));
		if (memcmp(want, target + i * WL_PAGE, CONTENT_PAGE))
			wl_wrong("small read", target + i * WL_PAGE, want, i);
	}
	close(fd);
}

/* Pages in reverse order, by lists that have left as well. */
static void vectors(uint64_t seed)
{
	struct iovec *iov = (struct iovec *)(void *)args;
	int fd = wl_scratch_file(0);
	size_t i;

	WL_CHECK(fd >= 0, "open: %s", strerror(errno));
	fresh(seed);
	for (i = 0; i < PAGES; i++) {
		iov[i].iov_base = source + (PAGES - 1 - i) * WL_PAGE;
		iov[i].iov_len = WL_PAGE;
	}
	leave("before writev");
	WL_CHECK(writev(fd, iov, PAGES) == (ssize_t)BYTES, "writev: %s", strerror(errno));
	for (i = 0; i < PAGES; i++)
		iov[i].iov_base = target + (PAGES - 1 - i) * WL_PAGE;
	WL_OK(lseek(fd, 0, SEEK_SET));
	leave("before readv");
	WL_CHECK(readv(fd, iov, PAGES) == (ssize_t)BYTES, "readv: %s", strerror(errno));
	same("readv");
	close(fd);
}

static void pipes(uint64_t seed)
{
	size_t chunk = 8 * WL_PAGE, done;
	struct iovec iov;
	int fd[2];

	WL_OK(pipe2(fd, O_CLOEXEC));
	fresh(seed);
	leave("before a pipe");
	for (done = 0; done < BYTES; done += chunk) {
		if (done / chunk & 1) { /* pages are lent to the pipe, not copied */
			iov.iov_base = source + done;
			iov.iov_len = chunk;
			WL_CHECK(vmsplice(fd[1], &iov, 1, 0) == (ssize_t)chunk, "vmsplice: %s",
				 strerror(errno));
			wl_sleep_ms(wl_evicting() ? 50 : 0);
		} else {
			WL_CHECK(write(fd[1], source + done, chunk) == (ssize_t)chunk,
				 "write: %s", strerror(errno));
		}
		WL_CHECK(read(fd[0], target + done, chunk) == (ssize_t)chunk, "read: %s",
			 strerror(errno));
	}
	same("pipe");
	wl_verify("lent to a pipe", source, PAGES, seed);
	close(fd[0]);
	close(fd[1]);
}

struct message {
	struct msghdr header;
	struct iovec iov[2];
	char name[32];
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
};

static struct message *message(unsigned char *data, size_t bytes)
{
	struct message *m = (struct message *)(void *)(args + 128);

	memset(m, 0, sizeof(*m));
	m->header.msg_iov = m->iov;
	m->header.msg_iovlen = 2;
	m->header.msg_control = m->control.bytes;
	m->header.msg_controllen = sizeof(m->control.bytes);
	m->iov[0].iov_base = data;
	m->iov[0].iov_len = bytes / 2;
	m->iov[1].iov_base = data + bytes / 2;
	m->iov[1].iov_len = bytes - bytes / 2;
	return m;
}

static void sockets(uint64_t seed)
{
	size_t bytes = 16 * WL_PAGE, i;
	struct cmsghdr *control;
	struct message *m;
	int fd[2], passed;

	WL_OK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fd));
	fresh(seed);
	m = message(source, bytes);
	control = CMSG_FIRSTHDR(&m->header);
	control->cmsg_level = SOL_SOCKET;
	control->cmsg_type = SCM_RIGHTS;
	control->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(control), &fd[0], sizeof(int));
	leave("before sendmsg");
	WL_CHECK(sendmsg(fd[0], &m->header, 0) == (ssize_t)bytes, "sendmsg: %s", strerror(errno));
	m = message(target, bytes);
	leave("before recvmsg");
	WL_CHECK(recvmsg(fd[1], &m->header, MSG_CMSG_CLOEXEC) == (ssize_t)bytes,
		 "recvmsg: %s", strerror(errno));
	control = CMSG_FIRSTHDR(&m->header);
	WL_CHECK(control && control->cmsg_type == SCM_RIGHTS, "no descriptor came");
	memcpy(&passed, CMSG_DATA(control), sizeof(int));
	WL_CHECK(fcntl(passed, F_GETFD) >= 0, "descriptor %d: %s", passed, strerror(errno));
	for (i = 0; i < 16; i++)
		wl_check_key("recvmsg", target + i * WL_PAGE, content_key(seed, i, 0), i);
	close(passed);
	close(fd[0]);
	close(fd[1]);
}

static long futex(uint32_t *word, int op, uint32_t value, const struct timespec *timeout)
{
	return syscall(SYS_futex, word, op, value, timeout, NULL, 0);
}

static void *wait_for_word(void *arg)
{
	uint32_t *word = arg;
	struct timespec *timeout = (struct timespec *)(void *)(args + 64);

	while (__atomic_load_n(word, __ATOMIC_ACQUIRE) == 1)
		if (futex(word, FUTEX_WAIT_PRIVATE, 1, timeout) < 0)
			WL_CHECK(errno == EAGAIN || errno == EINTR, "futex wait: %s",
				 strerror(errno));
	return NULL;
}

/* The word leaves while somebody waits on it. */
static void futexes(uint64_t seed)
{
	struct timespec *timeout = (struct timespec *)(void *)(args + 64);
	uint32_t *word = (uint32_t *)(void *)args;
	pthread_t thread;

	fresh(seed);
	*word = 5;
	leave("before futex");
	WL_CHECK(futex(word, FUTEX_WAIT_PRIVATE, 6, NULL) < 0 && errno == EAGAIN,
		 "futex sees another value: %s", strerror(errno));
	*word = 1;
	timeout->tv_sec = 50;
	timeout->tv_nsec = 0;
	WL_CHECK(!pthread_create(&thread, NULL, wait_for_word, word), "pthread_create");
	leave("while somebody waits");
	__atomic_store_n(word, 2, __ATOMIC_RELEASE);
	futex(word, FUTEX_WAKE_PRIVATE, 1, NULL);
	pthread_join(thread, NULL);
	WL_CHECK(*word == 2, "futex word is %u", *word);
}

struct meeting {
	pthread_mutex_t lock;
	pthread_cond_t turn;
	unsigned count;
};

static void *take_turns(void *arg)
{
	struct meeting *m = arg;
	unsigned i;

	for (i = 0; i < 20; i++) {
		pthread_mutex_lock(&m->lock);
		while (m->count % 2 == 0)
			pthread_cond_wait(&m->turn, &m->lock);
		m->count++;
		pthread_cond_signal(&m->turn);
		pthread_mutex_unlock(&m->lock);
	}
	return NULL;
}

static void mutexes(uint64_t seed)
{
	struct meeting *m = (struct meeting *)(void *)args;
	pthread_mutexattr_t attr;
	pthread_t thread;
	unsigned i;

	fresh(seed);
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT);
	pthread_mutex_init(&m->lock, &attr);
	pthread_cond_init(&m->turn, NULL);
	m->count = 0;
	WL_CHECK(!pthread_create(&thread, NULL, take_turns, m), "pthread_create");
	for (i = 0; i < 20; i++) {
		wl_try_evicted(args, 1, 100, 0.1);
		pthread_mutex_lock(&m->lock);
		while (m->count % 2)
			pthread_cond_wait(&m->turn, &m->lock);
		m->count++;
		pthread_cond_signal(&m->turn);
		pthread_mutex_unlock(&m->lock);
	}
	pthread_join(thread, NULL);
	WL_CHECK(m->count == 40, "turns: %u", m->count);
}

static void waiting(uint64_t seed)
{
	struct pollfd *polls = (struct pollfd *)(void *)args;
	fd_set *set = (fd_set *)(void *)args;
	struct timeval *time = (struct timeval *)(void *)(args + 512);
	struct epoll_event *events = (struct epoll_event *)(void *)args, event = { .events = EPOLLIN };
	int fd[2], epoll, i, seen;

	WL_OK(pipe2(fd, O_CLOEXEC));
	WL_CHECK(write(fd[1], "x", 1) == 1, "write");
	fresh(seed);
	for (i = 0; i < 200; i++) {
		polls[i].fd = fd[i % 2];
		polls[i].events = i % 2 ? POLLOUT : POLLIN;
		polls[i].revents = 0;
	}
	leave("before poll");
	WL_CHECK(poll(polls, 200, 50000) == 200, "poll: %s", strerror(errno));
	for (i = 0, seen = 0; i < 200; i++)
		seen += polls[i].revents == polls[i].events;
	WL_CHECK(seen == 200, "poll: %d of 200", seen);

	FD_ZERO(set);
	FD_SET(fd[0], set);
	time->tv_sec = 50;
	time->tv_usec = 0;
	leave("before select");
	WL_CHECK(select(fd[0] + 1, set, NULL, NULL, time) == 1 && FD_ISSET(fd[0], set),
		 "select: %s", strerror(errno));

	epoll = (int)WL_OK(epoll_create1(EPOLL_CLOEXEC));
	event.data.u64 = seed;
	WL_OK(epoll_ctl(epoll, EPOLL_CTL_ADD, fd[0], &event));
	memset(args, 0, 256);
	leave("before epoll_wait");
	WL_CHECK(epoll_wait(epoll, events, 16, 50000) == 1 && events[0].data.u64 == seed,
		 "epoll_wait: %s", strerror(errno));
	close(epoll);
	close(fd[0]);
	close(fd[1]);
}

/* A read that waits while its buffer leaves. */
static void *read_late(void *arg)
{
	int fd = *(int *)arg;
	size_t done = 0;
	ssize_t n;

	while (done < 4 * WL_PAGE) {
		n = read(fd, target + done, 4 * WL_PAGE - done);
		WL_CHECK(n > 0, "late read: %s", strerror(errno));
		done += (size_t)n;
	}
	return NULL;
}

static void late(uint64_t seed)
{
	pthread_t thread;
	int fd[2];
	size_t i;

	WL_OK(pipe2(fd, O_CLOEXEC));
	fresh(seed);
	WL_CHECK(!pthread_create(&thread, NULL, read_late, &fd[0]), "pthread_create");
	leave("while a read waits");
	WL_CHECK(write(fd[1], source, 4 * WL_PAGE) == 4 * (ssize_t)WL_PAGE, "write");
	pthread_join(thread, NULL);
	for (i = 0; i < 4; i++)
		wl_check_key("late read", target + i * WL_PAGE, content_key(seed, i, 0), i);
	for (; i < PAGES; i++)
		wl_check_key("behind a late read", target + i * WL_PAGE,
			     content_key(seed + 1, i, 0), i);
	close(fd[0]);
	close(fd[1]);
}

/* Requests, their list, buffers and results are all away. */
static void requests(uint64_t seed)
{
	struct iocb *cb = (struct iocb *)(void *)args, **list = (struct iocb **)(void *)(args + 2048);
	struct io_event *events = (struct io_event *)(void *)(args + WL_PAGE);
	int fd = wl_scratch_file(O_DIRECT), way;
	aio_context_t context = 0;
	size_t i;

	if (fd < 0 || syscall(SYS_io_setup, 8, &context)) {
		wl_say("no asynchronous direct I/O here: %s", strerror(errno));
		return;
	}
	fresh(seed);
	for (way = 0; way < 2; way++) {
		memset(args, 0, 2 * WL_PAGE);
		for (i = 0; i < 8; i++) {
			cb[i].aio_fildes = (unsigned)fd;
			cb[i].aio_lio_opcode = way ? IOCB_CMD_PREAD : IOCB_CMD_PWRITE;
			cb[i].aio_buf = (uintptr_t)(way ? target : source) + i * 8 * WL_PAGE;
			cb[i].aio_nbytes = 8 * WL_PAGE;
			cb[i].aio_offset = (long long)(i * 8 * WL_PAGE);
			list[i] = &cb[i];
		}
		leave("before io_submit");
		WL_CHECK(syscall(SYS_io_submit, context, 8, list) == 8, "io_submit: %s", strerror(errno));
		wl_try_evicted(events, 1, 100, 0.3);
		WL_CHECK(syscall(SYS_io_getevents, context, 8, 8, events, NULL) == 8, "io_getevents: %s",
			 strerror(errno));
		for (i = 0; i < 8; i++)
			WL_CHECK(events[i].res == 8 * (long long)WL_PAGE, "request %zu: %lld", i,
				 (long long)events[i].res);
	}
	same("asynchronous");
	wl_verify("written asynchronously", source, PAGES, seed);
	WL_OK(syscall(SYS_io_destroy, context));
	close(fd);
}

/* A child looks into its parent's memory, and writes there. */
static void foreign(uint64_t seed)
{
	struct iovec here, there;
	pid_t pid, parent = getpid();
	unsigned char *copy;
	size_t i;

	fresh(seed);
	leave("before process_vm_readv");
	pid = (pid_t)WL_OK(fork());
	if (!pid) {
		copy = wl_map(PAGES);
		here.iov_base = copy;
		there.iov_base = source;
		here.iov_len = there.iov_len = BYTES;
		WL_CHECK(process_vm_readv(parent, &here, 1, &there, 1, 0) == (ssize_t)BYTES,
			 "process_vm_readv: %s", strerror(errno));
		wl_verify("process_vm_readv", copy, PAGES, seed);
		there.iov_base = target;
		WL_CHECK(process_vm_writev(parent, &here, 1, &there, 1, 0) == (ssize_t)BYTES,
			 "process_vm_writev: %s", strerror(errno));
		_exit(0);
	}
	wl_reap("foreign", pid, WL_EXITED(0));
	for (i = 0; i < PAGES; i++)
		wl_check_key("process_vm_writev", target + i * WL_PAGE, content_key(seed, i, 0), i);
}

static volatile sig_atomic_t signals, signals_astray;

static void on_signal(int number, siginfo_t *info, void *context)
{
	unsigned char here;

	(void)context;
	signals++;
	if (&here < args || &here >= args + BYTES || info->si_signo != number)
		signals_astray++;
}

/* The alternate stack is away when the kernel writes the frame. */
static void signal_frames(uint64_t seed)
{
	struct sigaction action = { .sa_flags = SA_SIGINFO | SA_ONSTACK }, old;
	stack_t stack = { .ss_sp = args, .ss_size = BYTES }, off = { .ss_flags = SS_DISABLE };
	struct itimerval every = { { 0, 3000 }, { 0, 3000 } }, never = { { 0, 0 }, { 0, 0 } };
	unsigned i;

	action.sa_sigaction = on_signal;
	fresh(seed);
	WL_OK(sigaltstack(&stack, NULL));
	WL_OK(sigaction(SIGUSR1, &action, &old));
	signals = signals_astray = 0;
	for (i = 0; i < 4; i++) {
		leave("before a signal");
		WL_OK(raise(SIGUSR1));
	}
	WL_CHECK(signals == 4 && !signals_astray, "%d signals, %d astray", (int)signals,
		 (int)signals_astray);
	/* signals that arrive while faults are being served */
	WL_OK(sigaction(SIGALRM, &action, NULL));
	WL_OK(setitimer(ITIMER_REAL, &every, NULL));
	for (i = 0; i < 4; i++) {
		wl_try_evicted(source, PAGES, WL_EVICT_SHARE, 0.3);
		wl_verify("beside a timer", source, PAGES, seed);
	}
	WL_OK(setitimer(ITIMER_REAL, &never, NULL));
	WL_OK(sigaction(SIGUSR1, &old, NULL));
	WL_OK(sigaltstack(&off, NULL));
	WL_CHECK(!signals_astray, "%d signals astray", (int)signals_astray);
}

static void names(uint64_t seed)
{
	struct stat *found = (struct stat *)(void *)(args + 1024);
	char *path = (char *)args, *folder = (char *)args + 2048;
	struct timespec *time = (struct timespec *)(void *)(args + 512);
	int fd;

	fresh(seed);
	strcpy(path, "/proc/self/exe");
	leave("before stat");
	WL_OK(stat(path, found));
	WL_CHECK(S_ISREG(found->st_mode), "stat: mode %o", found->st_mode);
	leave("before open");
	fd = (int)WL_OK(open(path, O_RDONLY | O_CLOEXEC));
	close(fd);
	leave("before getcwd");
	WL_CHECK(getcwd(folder, 2048) && folder[0] == '/', "getcwd: %s", strerror(errno));
	leave("before clock_gettime");
	WL_OK(syscall(SYS_clock_gettime, CLOCK_REALTIME, time));
	WL_CHECK(time->tv_sec > 1000000000, "clock_gettime");
	time->tv_sec = 0;
	time->tv_nsec = 1000;
	leave("before nanosleep");
	WL_OK(syscall(SYS_nanosleep, time, time));
	leave("before getrandom");
	memset(target, 0, BYTES);
	WL_CHECK(getrandom(target, BYTES, 0) == (ssize_t)BYTES, "getrandom: %s", strerror(errno));
	WL_CHECK(!wl_is_zero(target + BYTES - WL_PAGE), "getrandom wrote nothing");
}

/* Arguments and environment of a new program have left when it is started. */
static void exec_arguments(uint64_t seed)
{
	char **argv = (char **)(void *)args, *text = (char *)args + 2048;
	pid_t pid;

	fresh(seed);
	pid = (pid_t)WL_OK(fork());
	if (!pid) {
		strcpy(text, "/bin/sh");
		strcpy(text + 100, "-c");
		strcpy(text + 200, "test \"$1$VALUE\" = seventeen");
		strcpy(text + 300, "seven");
		strcpy(text + 400, "VALUE=teen");
		argv[0] = text;
		argv[1] = text + 100;
		argv[2] = text + 200;
		argv[3] = text;
		argv[4] = text + 300;
		argv[5] = NULL;
		argv[6] = text + 400;
		argv[7] = NULL;
		wl_try_evicted(args, 1, 100, 0.3);
		execve(text, argv, argv + 6);
		_exit(127);
	}
	wl_reap("exec", pid, WL_EXITED(0));
}

int main(int argc, char **argv)
{
	static void (*const part[])(uint64_t) = {
		files,	 partial, vectors, pipes,	  sockets, futexes,	  mutexes,
		waiting, late,	  foreign, signal_frames, names,   exec_arguments,
		requests,
	};
	unsigned rounds = (unsigned)wl_arg(argc, argv, 1, 1), round;
	size_t i;

	source = wl_map(PAGES);
	target = wl_map(PAGES);
	args = wl_map(PAGES);
	for (round = 0; round < rounds; round++)
		for (i = 0; i < sizeof(part) / sizeof(part[0]); i++)
			part[i](1000 * round + 10 * i);
	WL_CHECK(!wl_evicting() || calls_away * 2 > calls,
		 "only %u of %u calls had arguments that were away", calls_away, calls);
	wl_say("%zu groups of calls right, %u rounds; arguments away in %u of %u calls", i, rounds,
	       calls_away, calls);
	return 0;
}
