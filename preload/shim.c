/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libuswap.so: loaded into a program by LD_PRELOAD, it hands the program's
 * memory to the agent, or does nothing. This file is the constructor, its
 * settings, the line that USWAP_DEBUG asks for, and the destructor; see shim.h for
 * the rules of code in a foreign process, and libuswap(7) for the words.
 *
 * USWAP_DISABLE  set and neither empty nor 0: do nothing
 * USWAP_SOCKET   where the agent listens, if not at WIRE_SOCKET_DEFAULT
 * USWAP_DEBUG    set and neither empty nor 0: one line on standard error
 * USWAP_FILTERS  so many seccomp filters are known not to hinder us
 */
#include "preload/shim.h"

#define STDERR 2
#define AUXV_WORDS 128

struct shim shim;

struct settings {
	int disabled;
	int debug;
	int path_too_long;
	long filters; /* -1: not said */
	int filtered;
	int emulated;
};

/* ---- settings ---- */

/* The value behind "NAME=", or NULL if this entry is another's. */
static const char *value_of(const char *entry, const char *name)
{
	while (*name && *entry == *name) {
		entry++;
		name++;
	}
	return *name ? NULL : entry;
}

/* -1: not a number. */
static long number_of(const char *digits)
{
	long n = 0;

	if (*digits < '0' || *digits > '9')
		return -1;
	while (*digits >= '0' && *digits <= '9' && n < 1000000)
		n = n * 10 + *digits++ - '0';
	return n;
}

static int is_set(const char *value)
{
	return value[0] && !(value[0] == '0' && !value[1]);
}

static void set_path(struct settings *s, const char *value)
{
	size_t n = 0;

	while (value[n] && n < SHIM_PATH_MAX)
		n++;
	s->path_too_long = n == SHIM_PATH_MAX;
	if (n && n < SHIM_PATH_MAX)
		memcpy(shim.socket_path, value, n + 1);
}

static void take_entry(struct settings *s, const char *entry)
{
	const char *value;

	value = value_of(entry, "USWAP_DISABLE=");
	if (value)
		s->disabled = is_set(value);
	value = value_of(entry, "USWAP_DEBUG=");
	if (value)
		s->debug = is_set(value);
	value = value_of(entry, "USWAP_FILTERS=");
	if (value)
		s->filters = number_of(value);
	value = value_of(entry, WIRE_SOCKET_ENV "=");
	if (value)
		set_path(s, value);
}

/*
 * glibc calls constructors with (argc, argv, envp), musl with whatever the
 * registers hold, and `environ` may not be set yet: a preloaded object without
 * dependencies can be started before the C library is. /proc/self/environ is
 * right in all cases, and where it can't be read (no /proc, not dumpable),
 * neither can /proc/self/mem, without which nothing can be attached anyway.
 * An entry longer than the buffer is none of ours.
 */
static long read_settings(struct settings *s)
{
	char buf[2048];
	size_t have = 0, begin, i;
	int skip = 0;
	long fd, n;

	fd = sys_open("/proc/self/environ", O_RDONLY);
	if (fd < 0)
		return fd;
	while ((n = sys_read((int)fd, buf + have, sizeof(buf) - have)) > 0) {
		have += (size_t)n;
		for (begin = i = 0; i < have; i++) {
			if (buf[i])
				continue;
			if (!skip)
				take_entry(s, buf + begin);
			skip = 0;
			begin = i + 1;
		}
		if (!begin && have == sizeof(buf)) {
			skip = 1;
			begin = have;
		}
		have -= begin;
		for (i = 0; i < have; i++)
			buf[i] = buf[begin + i];
	}
	sys_close((int)fd);
	return n;
}

/*
 * Seccomp filters that are in force already may forbid what we do and kill for
 * it, which nobody can ask them. Those that the whole container has, its first
 * process too, are known to be lenient (or nothing would run in it); whoever
 * starts us inside of others may say so. Any more are the program's sandbox: then
 * not one system call is made but those that the loader has just made itself.
 */
static int is_filtered(const struct settings *s)
{
	long usual = s->filters >= 0 ? s->filters : shim_filters("/proc/1/status");

	shim.filters = shim_filters("/proc/self/status");
	return shim.filters && shim.filters > usual;
}

long shim_filters(const char *status)
{
	static const char name[] = "\nSeccomp_filters:\t";
	char text[4096];
	long fd = sys_open(status, O_RDONLY), n, at;
	size_t have = 0;

	if (fd < 0)
		return -1;
	while (have < sizeof(text) - 1 && (n = sys_read((int)fd, text + have, sizeof(text) - 1 - have)) > 0)
		have += (size_t)n;
	sys_close((int)fd);
	text[have] = 0;
	for (at = 0; text[at]; at++) {
		const char *value = value_of(text + at, name);

		if (value)
			return number_of(value);
	}
	return -1;
}

/*
 * Valgrind answers system calls itself and knows few of ours, which its user would
 * read of as the program's errors. It tells by the client request that its
 * valgrind/valgrind.h documents, of which processors make nothing: the rotations
 * add up to 128.
 */
static int is_emulated(void)
{
	unsigned long depth = 0;
#if defined(__x86_64__)
	const unsigned long running[6] = { 0x1001 }; /* VG_USERREQ__RUNNING_ON_VALGRIND */

	__asm__ volatile("rolq $3, %%rdi\n\trolq $13, %%rdi\n\trolq $61, %%rdi\n\trolq $51, %%rdi\n\t"
			 "xchgq %%rbx, %%rbx"
			 : "+d"(depth)
			 : "a"(running)
			 : "cc", "memory");
#endif
	return depth > 0;
}

/*
 * A program that runs with more rights than its caller doesn't listen to its
 * caller's environment: the loader drops LD_PRELOAD then, but an
 * administrator may have listed us in ld.so.preload. (PR_GET_AUXV is of 6.4,
 * UFFDIO_MOVE of 6.8.)
 */
static int may_attach(void)
{
	unsigned long auxv[AUXV_WORDS];
	long n = sys_prctl(PR_GET_AUXV, (unsigned long)auxv, sizeof(auxv));
	unsigned long secure = 1, page = 0, i;

	for (i = 0; n > 0 && i + 1 < AUXV_WORDS && auxv[i] != AT_NULL; i += 2) {
		if (auxv[i] == AT_SECURE)
			secure = auxv[i + 1];
		if (auxv[i] == AT_PAGESZ)
			page = auxv[i + 1];
	}
	return !secure && page == WIRE_PAGE;
}

/* ---- the one line ---- */

struct line {
	char text[320];
	size_t n;
};

static void add(struct line *l, const char *text)
{
	while (*text && l->n < sizeof(l->text) - 1)
		l->text[l->n++] = *text++;
}

static void add_number(struct line *l, unsigned long value)
{
	char digits[24];
	unsigned int n = sizeof(digits);

	digits[--n] = 0;
	do
		digits[--n] = (char)('0' + value % 10);
	while (value /= 10);
	add(l, digits + n);
}

static const char *error_text(long error)
{
	switch (-error) {
	case ENOENT:
		return "no such file";
	case ECONNREFUSED:
		return "connection refused";
	case ECONNRESET:
	case EPIPE:
		return "connection closed";
	case EACCES:
	case EPERM:
		return "permission denied";
	case EAGAIN:
		return "timed out or out of processes";
	case EMFILE:
		return "too many open files";
	case ENOMEM:
		return "out of memory or address space";
	case EPROTO:
		return "unexpected answer";
	case EXDEV:
		return "children go to another one";
	case ENAMETOOLONG:
		return "name too long";
	default:
		return NULL;
	}
}

static const char *status_text(long status)
{
	switch (status) {
	case WIRE_DENIED:
		return "this user or process may not attach";
	case WIRE_LIMIT:
		return "no room for another process";
	case WIRE_STOPPING:
		return "the agent is stopping";
	case WIRE_UNKNOWN:
		return "unknown fork child";
	case WIRE_UNSUPPORTED:
		return "protocol version or kernel not supported";
	case WIRE_FAILED:
		return "the agent could not set the session up";
	case WIRE_NEVER:
		return "the agent depends on this program (NeverAttach=)";
	default:
		return NULL;
	}
}

static void add_reason(struct line *l, const struct outcome *o)
{
	const char *text = o->error > 0 ? status_text(o->error) : error_text(o->error);

	add(l, o->step);
	if (!o->error)
		return;
	add(l, ": ");
	if (text) {
		add(l, text);
		return;
	}
	add(l, o->error > 0 ? "status " : "errno ");
	add_number(l, (unsigned long)(o->error > 0 ? o->error : -o->error));
}

/*
 * A closed pipe behind standard error would raise SIGPIPE and end the program
 * as soon as signals are let in again; one that we caused is taken away.
 */
static void write_line(const struct line *l)
{
	sys_sigset pipe = SYS_SIGSET_ONE(SIGPIPE);
	sys_sigset before = sys_sigpending() & pipe;

	if (sys_write(STDERR, l->text, l->n) == -EPIPE && !before)
		sys_sigdiscard(pipe);
}

static void tell(const struct outcome *o)
{
	struct line l = { .n = 0 };

	add(&l, "uswap: pid ");
	add_number(&l, (unsigned long)sys_getpid());
	if (o->step) {
		add(&l, " not attached: ");
		add_reason(&l, o);
		add(&l, " (");
		add(&l, shim.socket_path);
		add(&l, ")");
	} else {
		add(&l, " attached: session ");
		add_number(&l, o->session);
		add(&l, ", mover ");
		add_number(&l, (unsigned long)o->mover);
	}
	add(&l, "\n");
	write_line(&l);
}

/* ---- the constructor ---- */

static void attach_or_not(const struct settings *s)
{
	struct outcome o = { .step = NULL };

	if (s->disabled) {
		o.step = "USWAP_DISABLE is set";
	} else if (s->path_too_long) {
		o.step = WIRE_SOCKET_ENV;
		o.error = -ENAMETOOLONG;
	} else if (s->emulated) {
		o.step = "Valgrind runs it";
	} else if (s->filtered) {
		o.step = "a seccomp filter is in force";
	} else if (!attach(WIRE_NEW, 0, &o)) {
		fork_watch();
	}
	if (s->debug)
		tell(&o);
}

__attribute__((constructor)) static void constructor(void)
{
	static const char path[] = WIRE_SOCKET_DEFAULT;
	struct settings s = { .filters = -1 };
	sys_sigset old;

	memcpy(shim.socket_path, path, sizeof(path));
	if (read_settings(&s))
		return;
	s.emulated = is_emulated();
	s.filtered = is_filtered(&s);
	if ((s.filtered && !s.debug) || (!s.emulated && !may_attach()))
		return;
	old = sys_sigmask(SYS_SIGSET_ALL);
	attach_or_not(&s);
	sys_sigmask(old);
}

/* ---- the destructor ---- */

/* See enum shim_turn. What a raw clone has inherited of the bell reads as zero. */
__attribute__((destructor)) static void destructor(void)
{
	if (!shim.attached || !take_turn(&shim.turn, TURN_END))
		return;
	(void)*(const volatile char *)bell_of(shim.identity);
	__atomic_store_n(&shim.turn, TURN_FREE, __ATOMIC_RELEASE);
}
