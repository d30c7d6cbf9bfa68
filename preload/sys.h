/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Raw system calls for code in a foreign process. Every call returns the
 * kernel's answer as it is: a negative errno is an error, and there is no
 * errno to disturb. Nothing here needs a C library, thread-local storage or a
 * heap; constants come from the kernel's own headers, and what those keep to
 * themselves (the socket structures) is written out below.
 *
 * Only calls that x86-64 and arm64 both have are used (openat, ppoll, ...).
 */
#ifndef USWAP_SYS_H
#define USWAP_SYS_H

#include <asm/errno.h>
#include <asm/fcntl.h>
#include <asm/poll.h>
#include <asm/signal.h>
#include <asm/socket.h>
#include <asm/unistd.h>
#include <linux/auxvec.h>
#include <linux/fcntl.h>
#include <linux/futex.h>
#include <linux/kcmp.h>
#include <linux/mman.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/time.h>
#include <linux/uio.h>
#include <linux/un.h>
#include <linux/wait.h>
#include <stddef.h>
#include <stdint.h>

/* Newer than Linux 6.1's headers, or only in a C library's. */
#ifndef PR_GET_AUXV
#define PR_GET_AUXV 0x41555856
#endif
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif
#define SYS_AF_UNIX 1
#define SYS_SOCK_SEQPACKET 5
#define SYS_SOCK_CLOEXEC O_CLOEXEC
#define SYS_SOCK_NONBLOCK O_NONBLOCK
#define SYS_SCM_RIGHTS 1
#define SYS_MSG_CTRUNC 0x8
#define SYS_MSG_TRUNC 0x20
#define SYS_MSG_DONTWAIT 0x40
#define SYS_MSG_NOSIGNAL 0x4000
#define SYS_MSG_CMSG_CLOEXEC 0x40000000
#define SYS_SEEK_END 2

struct sys_msghdr {
	void *name;
	int namelen;
	struct iovec *iov;
	size_t iovlen;
	void *control;
	size_t controllen;
	unsigned int flags;
};

struct sys_cmsghdr {
	size_t len; /* this header in it */
	int level;
	int type;
};

typedef uint64_t sys_sigset;
#define SYS_SIGSET_ALL (~(sys_sigset)0)
#define SYS_SIGSET_ONE(sig) ((sys_sigset)1 << ((sig)-1))

/* The compiler may call these on its own; see mem.c. */
void *memcpy(void *to, const void *from, size_t n);
void *memset(void *to, int byte, size_t n);

#if defined(__x86_64__)
static inline long sys_call6(long nr, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "0"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}
#elif defined(__aarch64__)
static inline long sys_call6(long nr, long a, long b, long c, long d, long e, long f)
{
	register long x8 __asm__("x8") = nr;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	register long x5 __asm__("x5") = f;

	__asm__ volatile("svc #0"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
			 : "memory");
	return x0;
}
#else
#error "libuswap knows x86-64 and arm64 only"
#endif

#define SYS_ARG(x) ((long)(x))
#define sys_call(nr, a, b, c, d, e) \
	sys_call6(nr, SYS_ARG(a), SYS_ARG(b), SYS_ARG(c), SYS_ARG(d), SYS_ARG(e), 0)

/*
 * A new task that runs fn(arg) on its own stack (which ends at top, 16-byte
 * aligned) and never comes back; the caller gets its pid. It is a macro-free
 * piece of assembly because the new task must not use the caller's frame.
 */
typedef void (*sys_task)(void *arg);

#if defined(__x86_64__)
static inline long sys_clone_task(unsigned long flags, void *top, sys_task fn, void *arg)
{
	uint64_t *sp = top;
	register long r10 __asm__("r10") = 0;
	register long r8 __asm__("r8") = 0;
	long ret;

	*--sp = (uint64_t)arg;
	*--sp = (uint64_t)fn;
	__asm__ volatile("syscall\n\t"
			 "testq %%rax, %%rax\n\t"
			 "jnz 1f\n\t"
			 "xorl %%ebp, %%ebp\n\t"
			 "popq %%rax\n\t"
			 "popq %%rdi\n\t"
			 "callq *%%rax\n\t"
			 "ud2\n"
			 "1:"
			 : "=a"(ret)
			 : "0"((long)__NR_clone), "D"(flags), "S"(sp), "d"(0L), "r"(r10), "r"(r8)
			 : "rcx", "r11", "memory");
	return ret;
}
#else
static inline long sys_clone_task(unsigned long flags, void *top, sys_task fn, void *arg)
{
	uint64_t *sp = top;
	register long x8 __asm__("x8") = __NR_clone;
	register long x0 __asm__("x0") = (long)flags;
	register long x1 __asm__("x1");
	register long x2 __asm__("x2") = 0;
	register long x3 __asm__("x3") = 0;
	register long x4 __asm__("x4") = 0;

	*--sp = (uint64_t)arg;
	*--sp = (uint64_t)fn;
	x1 = (long)sp;
	__asm__ volatile("svc #0\n\t"
			 "cbnz x0, 1f\n\t"
			 "mov x29, xzr\n\t"
			 "ldp x9, x0, [sp], #16\n\t"
			 "blr x9\n\t"
			 "brk #1\n"
			 "1:"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4)
			 : "x9", "x30", "memory");
	return x0;
}
#endif

static inline long sys_open(const char *path, int flags)
{
	return sys_call(__NR_openat, AT_FDCWD, path, flags | O_CLOEXEC, 0, 0);
}

static inline long sys_read(int fd, void *buf, size_t n)
{
	return sys_call(__NR_read, fd, buf, n, 0, 0);
}

static inline long sys_write(int fd, const void *buf, size_t n)
{
	return sys_call(__NR_write, fd, buf, n, 0, 0);
}

static inline long sys_close(int fd)
{
	return sys_call(__NR_close, fd, 0, 0, 0, 0);
}

static inline long sys_close_range(unsigned int first, unsigned int last)
{
	return sys_call(__NR_close_range, first, last, 0, 0, 0);
}

static inline long sys_lseek(int fd, long offset, int whence)
{
	return sys_call(__NR_lseek, fd, offset, whence, 0, 0);
}

static inline long sys_readlink(const char *path, char *buf, size_t n)
{
	return sys_call(__NR_readlinkat, AT_FDCWD, path, buf, n, 0);
}

static inline long sys_ioctl(int fd, unsigned long request, const void *arg)
{
	return sys_call(__NR_ioctl, fd, request, arg, 0, 0);
}

static inline long sys_ppoll(struct pollfd *p, unsigned int n, long nsec)
{
	struct __kernel_timespec ts = { nsec / 1000000000, nsec % 1000000000 };

	return sys_call(__NR_ppoll, p, n, &ts, 0, 0);
}

static inline void sys_nanosleep(long nsec)
{
	struct __kernel_timespec ts = { 0, nsec };

	sys_call(__NR_nanosleep, &ts, 0, 0, 0, 0);
}

static inline uint64_t sys_now(void)
{
	struct __kernel_timespec ts = { 0, 0 };

	sys_call(__NR_clock_gettime, CLOCK_MONOTONIC, &ts, 0, 0, 0);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* A new private anonymous mapping, or a negative errno. */
static inline long sys_mmap_anon(size_t n, int prot)
{
	return sys_call6(__NR_mmap, 0, (long)n, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static inline long sys_mmap_shared_at(uint64_t at, size_t n, int fd)
{
	return sys_call6(__NR_mmap, (long)at, (long)n, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_FIXED, fd, 0);
}

static inline long sys_munmap(uint64_t at, size_t n)
{
	return sys_call(__NR_munmap, at, n, 0, 0, 0);
}

static inline long sys_mprotect(uint64_t at, size_t n, int prot)
{
	return sys_call(__NR_mprotect, at, n, prot, 0, 0);
}

static inline long sys_madvise(uint64_t at, size_t n, int advice)
{
	return sys_call(__NR_madvise, at, n, advice, 0, 0);
}

/* flags: SYS_SOCK_NONBLOCK or 0 */
static inline long sys_socket_seqpacket(int flags)
{
	return sys_call(__NR_socket, SYS_AF_UNIX, SYS_SOCK_SEQPACKET | SYS_SOCK_CLOEXEC | flags, 0, 0, 0);
}

static inline long sys_setsockopt(int fd, int option, const void *v, size_t n)
{
	return sys_call(__NR_setsockopt, fd, SOL_SOCKET, option, v, n);
}

static inline long sys_connect(int fd, const struct sockaddr_un *to, size_t n)
{
	return sys_call(__NR_connect, fd, to, n, 0, 0);
}

static inline long sys_send(int fd, const void *buf, size_t n, int flags)
{
	return sys_call6(__NR_sendto, fd, SYS_ARG(buf), (long)n, flags | SYS_MSG_NOSIGNAL, 0, 0);
}

static inline long sys_recv(int fd, void *buf, size_t n, int flags)
{
	return sys_call6(__NR_recvfrom, fd, SYS_ARG(buf), (long)n, flags, 0, 0);
}

static inline long sys_sendmsg(int fd, const struct sys_msghdr *m)
{
	return sys_call(__NR_sendmsg, fd, m, SYS_MSG_NOSIGNAL, 0, 0);
}

static inline long sys_recvmsg(int fd, struct sys_msghdr *m)
{
	return sys_call(__NR_recvmsg, fd, m, SYS_MSG_CMSG_CLOEXEC, 0, 0);
}

static inline long sys_prctl(int op, unsigned long a, unsigned long b)
{
	return sys_call(__NR_prctl, op, a, b, 0, 0);
}

static inline long sys_getpid(void)
{
	return sys_call(__NR_getpid, 0, 0, 0, 0, 0);
}

static inline long sys_pidfd_open(int pid)
{
	return sys_call(__NR_pidfd_open, pid, 0, 0, 0, 0);
}

static inline long sys_kcmp_vm(int pid, int other)
{
	return sys_call(__NR_kcmp, pid, other, KCMP_VM, 0, 0);
}

static inline long sys_wait_any_kind(int pid)
{
	return sys_call(__NR_wait4, pid, 0, __WALL, 0, 0);
}

static inline sys_sigset sys_sigmask(sys_sigset set)
{
	sys_sigset old = 0;

	sys_call(__NR_rt_sigprocmask, SIG_SETMASK, &set, &old, sizeof(set), 0);
	return old;
}

static inline sys_sigset sys_sigpending(void)
{
	sys_sigset set = 0;

	sys_call(__NR_rt_sigpending, &set, sizeof(set), 0, 0, 0);
	return set;
}

/* Takes one pending signal of the set away, without waiting for one. */
static inline void sys_sigdiscard(sys_sigset set)
{
	struct __kernel_timespec ts = { 0, 0 };

	sys_call(__NR_rt_sigtimedwait, &set, 0, &ts, sizeof(set), 0);
}

static inline void sys_futex_wait(uint32_t *word, uint32_t seen, long nsec)
{
	struct __kernel_timespec ts = { nsec / 1000000000, nsec % 1000000000 };

	sys_call(__NR_futex, word, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, seen, &ts, 0);
}

static inline void sys_futex_wake(uint32_t *word)
{
	sys_call(__NR_futex, word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1, 0, 0);
}

static inline long sys_tgkill(int pid, int tid, int signal)
{
	return sys_call(__NR_tgkill, pid, tid, signal, 0, 0);
}

static inline __attribute__((noreturn)) void sys_exit(void)
{
	for (;;)
		sys_call(__NR_exit, 0, 0, 0, 0, 0);
}

static inline __attribute__((noreturn)) void sys_exit_group(int status)
{
	for (;;)
		sys_call(__NR_exit_group, status, 0, 0, 0, 0);
}

#endif
