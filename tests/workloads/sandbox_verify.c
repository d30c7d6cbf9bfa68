/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * sandbox_verify [PART]...: programs that give up rights, or look for helpers
 * that they don't know, while their pages are away. Each part runs in a child:
 * memory is filled and leaves, the sandbox is entered, everything is verified,
 * written anew, leaves again if the sandbox can't forbid that, and is verified.
 * A part that this machine doesn't allow without uswap either says so.
 */
#include "parts.h"

#include <dirent.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stddef.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define PAGES 256
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static unsigned char *area;
static int pagemap; /* opened before the sandbox forbids it */

static void fill(uint64_t seed)
{
	area = wl_map(PAGES);
	wl_fill(area, PAGES, seed);
	pagemap = (int)WL_OK(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
	wl_wait_evicted("before the sandbox", area, PAGES, WL_EVICT_SHARE);
}

/* By the descriptor from before; pread is all it needs. */
static size_t absent(void)
{
	uint64_t entry[PAGES];
	size_t i, n = 0;

	WL_CHECK(pread(pagemap, entry, sizeof(entry), (off_t)((uintptr_t)area / WL_PAGE * 8)) ==
			 (ssize_t)sizeof(entry),
		 "pagemap: %s", strerror(errno));
	for (i = 0; i < PAGES; i++)
		n += wl_is_absent(entry[i]);
	return n;
}

static void leave_again(const char *what)
{
	double end = wl_now() + WL_EVICT_SECONDS;

	while (wl_evicting() && absent() * 100 < PAGES * WL_EVICT_SHARE) {
		WL_CHECK(wl_now() < end, "%s: only %zu of %d pages have left in the sandbox", what,
			 absent(), PAGES);
		wl_sleep_ms(5);
	}
}

/* Inside: what was there is right, what is new too, and it leaves once more. */
static void live_there(const char *what, uint64_t seed)
{
	wl_verify(what, area, PAGES, seed);
	wl_fill(area, PAGES, seed + 1);
	leave_again(what);
	wl_verify(what, area, PAGES, seed + 1);
}

/* ---- seccomp ---- */

/* Only read, write, _exit and sigreturn from here on: no check may do more. */
static int strict(void)
{
	unsigned char want[CONTENT_PAGE];
	int status = PART_RIGHT;
	size_t i;

	fill(1);
	content_page(want, 0); /* nothing of it is bound lazily later */
	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT))
		return PART_SKIPPED;
	for (i = 0; i < PAGES; i++) {
		content_page(want, content_key(1, i, 0));
		if (memcmp(want, area + i * WL_PAGE, WL_PAGE))
			status = 1;
		content_page(area + i * WL_PAGE, content_key(2, i, 0));
	}
	for (i = 0; i < 200000000; i++) /* nanosleep is forbidden: for pages to leave */
		__asm__ volatile("" ::: "memory");
	for (i = 0; i < PAGES; i++) {
		content_page(want, content_key(2, i, 0));
		if (memcmp(want, area + i * WL_PAGE, WL_PAGE))
			status = 2;
	}
	syscall(SYS_exit, status);
	return status;
}

/* Every call that a helper in the process would need. */
static const int helpers_calls[] = { SYS_ioctl,	  SYS_process_madvise, SYS_recvfrom, SYS_sendto,
				     SYS_sendmsg, SYS_recvmsg,	       SYS_ppoll,    SYS_kcmp,
				     SYS_socket,  SYS_connect,	       SYS_clone,    SYS_clone3,
				     SYS_userfaultfd, SYS_open,	       SYS_openat };
/* ... but for what it takes to start others. */
static const int attachers_calls[] = { SYS_ioctl,  SYS_recvmsg, SYS_sendmsg,	 SYS_setsockopt, SYS_kcmp,
				       SYS_socket, SYS_connect, SYS_userfaultfd, SYS_pidfd_open, SYS_prctl };

static bool no_new_privs;

/* Kills the process at each of n calls. */
static int install_filter(const int *forbidden, size_t n, unsigned flags)
{
	struct sock_filter code[32];
	struct sock_fprog program = { .len = (unsigned short)(n + 3), .filter = code };
	size_t i;

	code[0] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
					       offsetof(struct seccomp_data, nr));
	for (i = 0; i < n; i++)
		code[1 + i] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K,
							   (unsigned)forbidden[i],
							   (unsigned char)(n - i), 0);
	code[n + 1] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	code[n + 2] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
	if (!no_new_privs) /* once, for a filter may forbid it */
		no_new_privs = !WL_OK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}

/* At its end no call is made but that for it. */
static int filter_end(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
	};
	struct sock_fprog program = { .len = COUNT(code), .filter = code };

	fflush(NULL);
	WL_OK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	WL_OK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
	exit(PART_RIGHT);
}

static int filter(void)
{
	fill(3);
	WL_OK(install_filter(helpers_calls, COUNT(helpers_calls), 0));
	live_there("under a filter", 3);
	return PART_RIGHT;
}

/* Children of all kinds under a filter that came after their parent had attached:
   they must not be killed for what they don't do without us. */
static int filter_inherited(void)
{
	char name[] = "true", *argv[] = { name, NULL };
	pid_t pid, grandchild;
	unsigned i;

	fill(4);
	WL_OK(install_filter(attachers_calls, COUNT(attachers_calls), 0));
	for (i = 0; i < 2; i++) { /* the second time with one filter more */
		pid = (pid_t)WL_OK(fork());
		if (!pid) {
			wl_verify("child under a filter", area, PAGES, 4 + i);
			grandchild = (pid_t)WL_OK(fork());
			if (!grandchild)
				_exit(9);
			wl_reap("grandchild under a filter", grandchild, WL_EXITED(9));
			_exit(8);
		}
		wl_reap("child under a filter", pid, WL_EXITED(8));
		pid = vfork(); /* NOLINT: what is to be tested */
		WL_CHECK(pid >= 0, "vfork: %s", strerror(errno));
		if (!pid) {
			execv("/bin/true", argv);
			_exit(127);
		}
		wl_reap("program under a filter", pid, WL_EXITED(0));
		live_there("under a filter, with children", 4 + i);
		WL_OK(install_filter(attachers_calls, COUNT(attachers_calls), 0));
	}
	return PART_RIGHT;
}

/* What the thread that forks has taken on counts, not what the others have. */
static void *fork_confined(void *unused)
{
	pid_t pid;

	(void)unused;
	WL_OK(install_filter(attachers_calls, COUNT(attachers_calls), 0));
	pid = (pid_t)WL_OK(fork());
	if (!pid) {
		wl_verify("child of a thread under a filter", area, PAGES, 8);
		_exit(8);
	}
	wl_reap("child of a thread under a filter", pid, WL_EXITED(8));
	return NULL;
}

static int filter_of_thread(void)
{
	pthread_t thread;

	fill(8);
	WL_CHECK(!pthread_create(&thread, NULL, fork_confined, NULL), "pthread_create");
	pthread_join(thread, NULL);
	live_there("beside a thread under a filter", 8);
	return PART_RIGHT;
}

/* Started under a filter: by default it takes no part, for who knows what that
   forbids; if it is told how many are harmless, it does. */
static int started_filtered(const char *harmless)
{
	size_t away;

	area = wl_map(PAGES);
	wl_fill(area, PAGES, 6);
	away = wl_try_evicted(area, PAGES, WL_EVICT_SHARE, harmless ? WL_EVICT_SECONDS : 0.5);
	WL_CHECK(!wl_evicting() || (harmless ? away > 0 : away == 0), "%zu pages away, with %s filters harmless",
		 away, harmless ? harmless : "no");
	wl_verify("started under a filter", area, PAGES, 6);
	return PART_RIGHT;
}

static int filter_known(void)
{
	char name[] = "sandbox_verify", mode[] = "--filtered", *argv[] = { name, mode, NULL };
	pid_t pid;
	int i;

	WL_OK(install_filter(NULL, 0, 0));
	for (i = 0; i < 2; i++) {
		pid = (pid_t)WL_OK(fork());
		if (!pid) {
			if (i)
				setenv("USWAP_FILTERS", "1", 1);
			execv("/proc/self/exe", argv);
			_exit(127);
		}
		wl_reap("started under a filter", pid, WL_EXITED(PART_RIGHT));
	}
	return PART_RIGHT;
}

static void *verify_a_while(void *seed)
{
	double end = wl_now() + 0.5;

	do
		wl_verify("under a filter, in a thread", area, PAGES / 2, (uint64_t)(uintptr_t)seed);
	while (wl_now() < end);
	return NULL;
}

/* TSYNC fails where a thread of the process can't take the filter on. */
static int filter_all_threads(void)
{
	pthread_t thread[3];
	unsigned i;
	long r;

	fill(5);
	for (i = 0; i < 3; i++)
		WL_CHECK(!pthread_create(&thread[i], NULL, verify_a_while, (void *)5), "pthread_create");
	r = install_filter(helpers_calls, COUNT(helpers_calls), SECCOMP_FILTER_FLAG_TSYNC);
	WL_CHECK(r == 0, "seccomp(TSYNC): %ld: %s", r, strerror(errno));
	for (i = 0; i < 3; i++)
		pthread_join(thread[i], NULL);
	live_there("under a filter of all threads", 5);
	return PART_RIGHT;
}

/* ---- rights and namespaces ---- */

static int other_user(void)
{
	fill(7);
	if (getuid())
		return PART_SKIPPED;
	WL_OK(setgroups(0, NULL));
	WL_OK(setresgid(65534, 65534, 65534));
	WL_OK(setresuid(65534, 65534, 65534));
	live_there("as another user", 7);
	WL_CHECK(setuid(0) < 0 && errno == EPERM, "root again");
	return PART_RIGHT;
}

static int not_dumpable(void)
{
	fill(9);
	WL_OK(prctl(PR_SET_DUMPABLE, 0));
	live_there("not dumpable", 9);
	WL_CHECK(prctl(PR_GET_DUMPABLE) == 0, "dumpable again");
	return PART_RIGHT;
}

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	WL_CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text), "%s: %s", path,
		 strerror(errno));
	close(fd);
}

static int user_namespace(void)
{
	char map[64];
	uid_t uid = getuid();

	fill(11);
	if (unshare(CLONE_NEWUSER)) {
		/* EINVAL is what a helper thread would cause */
		WL_CHECK(errno == EPERM || errno == ENOSPC, "unshare(NEWUSER): %s", strerror(errno));
		return PART_SKIPPED;
	}
	write_file("/proc/self/setgroups", "deny");
	snprintf(map, sizeof(map), "0 %u 1", (unsigned)uid);
	write_file("/proc/self/uid_map", map);
	live_there("in a user namespace", 11);
	return PART_RIGHT;
}

/* What only a process that shares its memory with none may: that we are one more shows. */
static int own_memory_alone(void)
{
	int time;

	fill(12);
	WL_CHECK(!unshare(CLONE_VM) || (wl_evicting() && errno == EINVAL), "unshare(CLONE_VM): %s", strerror(errno));
	time = open("/proc/self/ns/time_for_children", O_RDONLY | O_CLOEXEC);
	if (time >= 0)
		WL_CHECK(!setns(time, CLONE_NEWTIME) || errno == EPERM || (wl_evicting() && errno == EUSERS),
			 "setns(time): %s", strerror(errno));
	close(time);
	live_there("its memory is shared", 12);
	return PART_RIGHT;
}

static int many_namespaces(void)
{
	pid_t pid;

	fill(13);
	if (unshare(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS)) {
		WL_CHECK(errno == EPERM || errno == ENOSPC, "unshare: %s", strerror(errno));
		return PART_SKIPPED;
	}
	live_there("in namespaces", 13);
	WL_OK(install_filter(attachers_calls, COUNT(attachers_calls), 0)); /* nobody outside knows its number */
	pid = (pid_t)WL_OK(fork()); /* init of the new pid namespace */
	if (!pid) {
		WL_CHECK(getpid() == 1, "pid %d", (int)getpid());
		wl_verify("pid 1 of a namespace", area, PAGES, 14);
		_exit(13);
	}
	wl_reap("pid 1 of a namespace", pid, WL_EXITED(13));
	/* ... which ends with it, as without a helper in it */
	WL_CHECK(fork() < 0 && errno == ENOMEM, "a fork into an ended namespace: %s",
		 strerror(errno));
	return PART_RIGHT;
}

static int enter_namespaces(void)
{
	static const char *const name[] = { "mnt", "net", "uts", "ipc" };
	char path[64];
	int fd[4];
	size_t i;

	fill(15);
	for (i = 0; i < 4; i++) {
		snprintf(path, sizeof(path), "/proc/self/ns/%s", name[i]);
		fd[i] = (int)WL_OK(open(path, O_RDONLY | O_CLOEXEC));
	}
	if (unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC)) {
		WL_CHECK(errno == EPERM || errno == ENOSPC, "unshare: %s", strerror(errno));
		return PART_SKIPPED;
	}
	for (i = 0; i < 4; i++)
		WL_CHECK(!setns(fd[i], 0), "setns(%s): %s", name[i], strerror(errno));
	live_there("back in its namespaces", 15);
	return PART_RIGHT;
}

/* Nothing but one empty directory, no /proc. */
static int change_root(void)
{
	char path[] = "/tmp/uswap-root.XXXXXX";

	fill(17);
	WL_CHECK(mkdtemp(path), "mkdtemp");
	if (chroot(path)) {
		rmdir(path);
		return PART_SKIPPED;
	}
	WL_OK(chdir("/"));
	live_there("in another root", 17);
	return PART_RIGHT;
}

/* A mount that was in use before must not be pinned by anybody of ours. */
static int unmount(void)
{
	char path[] = "/tmp/uswap-mount.XXXXXX";

	WL_CHECK(mkdtemp(path), "mkdtemp");
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("none", path, "tmpfs", 0, NULL)) {
		rmdir(path);
		return PART_SKIPPED;
	}
	WL_OK(chdir(path));
	fill(19);
	WL_OK(chdir("/"));
	WL_CHECK(!umount(path), "umount: %s", strerror(errno));
	rmdir(path);
	live_there("unmounted", 19);
	return PART_RIGHT;
}

/* ---- limits ---- */

/* Room for little more than there is: what fits without us fits with us. */
static int address_space(void)
{
	struct rlimit limit;
	unsigned long pages = 0;
	unsigned char *more;
	FILE *f;

	fill(21);
	f = fopen("/proc/self/statm", "re");
	WL_CHECK(f && fscanf(f, "%lu", &pages) == 1, "statm");
	fclose(f);
	limit.rlim_cur = limit.rlim_max = (pages + 64) * WL_PAGE;
	WL_OK(setrlimit(RLIMIT_AS, &limit));
	live_there("with little address space", 21);
	more = mmap(NULL, 32 * WL_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	WL_CHECK(more != MAP_FAILED, "mmap below the limit: %s", strerror(errno));
	wl_fill(more, 32, 23);
	wl_verify("new below the limit", more, 32, 23);
	WL_CHECK(mmap(NULL, 256 * WL_PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) ==
				 MAP_FAILED &&
			 errno == ENOMEM,
		 "mmap above the limit");
	return PART_RIGHT;
}

static int few_descriptors(void)
{
	struct rlimit limit = { 8, 8 };
	int i, fd;

	fill(25);
	WL_OK(setrlimit(RLIMIT_NOFILE, &limit));
	live_there("with few descriptors", 25);
	for (i = 0; (fd = dup(0)) >= 0; i++)
		WL_CHECK(fd < 8, "descriptor %d", fd);
	WL_CHECK(errno == EMFILE, "dup: %s", strerror(errno));
	return PART_RIGHT;
}

/* Takes every number there is, over whatever might stand there. */
static int all_descriptors(void)
{
	int fd;

	fill(27);
	for (fd = 3; fd < 200; fd++)
		if (fd != pagemap)
			WL_OK(dup2(0, fd));
	live_there("all descriptors taken", 27);
	for (fd = 3; fd < 200; fd++)
		if (fd != pagemap)
			WL_OK(close(fd));
	live_there("all descriptors given back", 28);
	return PART_RIGHT;
}

/* ---- signals ---- */

static volatile sig_atomic_t seen;

static void count(int number)
{
	(void)number;
	seen++;
}

static void *storm(void *target)
{
	pthread_t thread = *(pthread_t *)target;
	unsigned i;

	for (i = 0; i < 4000; i++) {
		pthread_kill(thread, SIGUSR1);
		if (i % 64 == 0)
			wl_sleep_ms(1);
	}
	return NULL;
}

/* Signals all the time, without SA_RESTART, while every page is a fault. */
static int signal_storm(void)
{
	struct sigaction action = { .sa_handler = count };
	pthread_t main_thread = pthread_self(), thread;
	unsigned i;

	fill(29);
	WL_OK(sigaction(SIGUSR1, &action, NULL));
	WL_CHECK(!pthread_create(&thread, NULL, storm, &main_thread), "pthread_create");
	for (i = 0; i < 6; i++) {
		wl_try_evicted(area, PAGES, WL_EVICT_SHARE, 0.2);
		wl_verify("in a storm of signals", area, PAGES, 29);
	}
	pthread_join(thread, NULL);
	WL_CHECK(seen > 0, "no signal has come");
	return PART_RIGHT;
}

static sigjmp_buf *landing;
static volatile uintptr_t faulted;

static void on_segv(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)context;
	faulted = (uintptr_t)info->si_addr;
	siglongjmp(*landing, 1);
}

/* Its own handler sees its own faults, at their address, and no others. */
static int own_segv(void)
{
	struct sigaction action = { .sa_sigaction = on_segv, .sa_flags = SA_SIGINFO | SA_NODEFER };
	sigjmp_buf here;
	unsigned char *wrong;
	unsigned i;

	landing = &here;
	fill(31);
	WL_OK(sigaction(SIGSEGV, &action, NULL));
	WL_OK(sigaction(SIGBUS, &action, NULL));
	for (i = 0; i < 8; i++) {
		wrong = area + i * 16 * WL_PAGE;
		WL_OK(mprotect(wrong, WL_PAGE, i % 2 ? PROT_NONE : PROT_READ));
		faulted = 0;
		if (!sigsetjmp(here, 1)) {
			*(volatile unsigned char *)(wrong + 8) = 1;
			wl_fail("a store into a protected page went through");
		}
		WL_CHECK(faulted == (uintptr_t)wrong + 8, "si_addr %#lx instead of %p",
			 (unsigned long)faulted, (void *)(wrong + 8));
		WL_OK(mprotect(wrong, WL_PAGE, PROT_READ | PROT_WRITE));
		wl_try_evicted(area, PAGES, WL_EVICT_SHARE, 0.2);
	}
	faulted = 0;
	wl_verify("with a handler of its own", area, PAGES, 31);
	WL_CHECK(!faulted, "it was told of a fault that is not its own");
	return PART_RIGHT;
}

/* Stopped and continued by its parent, who looks at it meanwhile. */
static int stopped(void)
{
	pid_t self, pid;
	int i;

	fill(33);
	self = getpid();
	pid = (pid_t)WL_OK(fork());
	if (!pid) {
		for (i = 0; i < 20; i++) {
			WL_OK(kill(self, SIGSTOP));
			wl_sleep_ms(15);
			WL_OK(kill(self, SIGCONT));
			wl_sleep_ms(10);
		}
		_exit(0);
	}
	for (i = 0; i < 6; i++) {
		wl_try_evicted(area, PAGES, WL_EVICT_SHARE, 0.2);
		wl_verify("stopped and continued", area, PAGES, 33);
	}
	wl_reap("who stops it", pid, WL_EXITED(0));
	return PART_RIGHT;
}

static unsigned tasks(void)
{
	DIR *d = opendir("/proc/self/task");
	struct dirent *e;
	unsigned n = 0;

	WL_CHECK(d, "/proc/self/task");
	while ((e = readdir(d)))
		n += e->d_name[0] != '.';
	closedir(d);
	return n;
}

static int nobody_there(void)
{
	int lowest;

	fill(35);
	WL_CHECK(tasks() == 1, "%u threads", tasks());
	errno = 0;
	WL_CHECK(waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD, "a child that it doesn't know");
	lowest = (int)WL_OK(dup(0));
	WL_CHECK(lowest == 4 || pagemap != 3, "the lowest free descriptor is %d", lowest);
	errno = 5;
	wl_verify("errno", area, PAGES, 35);
	WL_CHECK(errno == 5, "errno has changed");
	return PART_RIGHT;
}

/* Traced by its parent, as by strace: every system call stops it. */
static int traced(void)
{
	int status, stops = 0;
	pid_t pid = (pid_t)WL_OK(fork());

	if (!pid) {
		fill(37);
		WL_OK(ptrace(PTRACE_TRACEME, 0, NULL, NULL));
		raise(SIGSTOP);
		live_there("traced", 37);
		_exit(PART_RIGHT);
	}
	WL_CHECK(waitpid(pid, &status, 0) == pid && WIFSTOPPED(status), "no stop: %#x", status);
	while (WIFSTOPPED(status)) {
		int pass = WSTOPSIG(status) == SIGSTOP || WSTOPSIG(status) == SIGTRAP ?
				   0 : WSTOPSIG(status);

		stops++;
		WL_OK(ptrace(PTRACE_SYSCALL, pid, NULL, (void *)(intptr_t)pass));
		WL_CHECK(waitpid(pid, &status, 0) == pid, "waitpid");
	}
	WL_CHECK(stops > (wl_evicting() ? 2 : 0), "only %d stops", stops);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

static const struct part parts[] = {
	{ "strict", strict },
	{ "filter_end", filter_end },
	{ "filter", filter },
	{ "filter_inherited", filter_inherited },
	{ "filter_of_thread", filter_of_thread },
	{ "filter_known", filter_known },
	{ "filter_all_threads", filter_all_threads },
	{ "other_user", other_user },
	{ "not_dumpable", not_dumpable },
	{ "user_namespace", user_namespace },
	{ "own_memory_alone", own_memory_alone },
	{ "many_namespaces", many_namespaces },
	{ "enter_namespaces", enter_namespaces },
	{ "change_root", change_root },
	{ "unmount", unmount },
	{ "address_space", address_space },
	{ "few_descriptors", few_descriptors },
	{ "all_descriptors", all_descriptors },
	{ "signal_storm", signal_storm },
	{ "own_segv", own_segv },
	{ "stopped", stopped },
	{ "nobody_there", nobody_there },
	{ "traced", traced },
};

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "--filtered"))
		return started_filtered(getenv("USWAP_FILTERS"));
	return parts_main(parts, COUNT(parts), argc, argv);
}
