/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "ctl/program.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "common/util.h"

#define SCRIPT_DEPTH 5 /* more than the kernel follows */
#define LINE_MAX_SCRIPT 256
#define PHDR_MAX 128u

__attribute__((format(printf, 3, 4))) static int refuse(char *why, int error, const char *format,
							...)
{
	va_list ap;

	va_start(ap, format);
	vsnprintf(why, PROGRAM_WHY, format, ap);
	va_end(ap);
	return error;
}

static int executable(const char *path)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return S_ISDIR(st.st_mode) ? -EISDIR : -EACCES;
	return access(path, X_OK) < 0 ? -errno : 0;
}

int program_find(const char *name, char path[PATH_MAX])
{
	const char *dirs = getenv("PATH");
	int r, result = -ENOENT;
	size_t n;

	if (strchr(name, '/')) {
		if (snprintf(path, PATH_MAX, "%s", name) >= PATH_MAX)
			return -ENAMETOOLONG;
		return executable(path);
	}
	if (!dirs)
		dirs = "/usr/local/bin:/usr/bin:/bin";
	for (;; dirs += n + 1) {
		n = strcspn(dirs, ":");
		if (snprintf(path, PATH_MAX, "%.*s%s%s", (int)n, dirs, n ? "/" : "", name) <
		    PATH_MAX) {
			r = executable(path);
			if (r == 0)
				return 0;
			if (r == -EACCES) /* goes on looking, as execvp does */
				result = r;
		}
		if (!dirs[n])
			return result;
	}
}

/* In secure execution the dynamic linker ignores libraries with a path. */
static int check_privileges(int fd, const char *path, char *why)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return refuse(why, -errno, "%s: %s", path, strerror(errno));
	if (st.st_mode & S_ISUID)
		return refuse(why, -EPERM, "%s is set-user-ID: nothing can be preloaded into it",
			      path);
	if ((st.st_mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP))
		return refuse(why, -EPERM, "%s is set-group-ID: nothing can be preloaded into it",
			      path);
	if (fgetxattr(fd, "security.capability", NULL, 0) > 0)
		return refuse(why, -EPERM,
			      "%s has file capabilities: nothing can be preloaded into it", path);
	return 0;
}

struct elf {
	unsigned char class;
	uint16_t machine;
	bool has_interpreter;
};

/* Only what is the same in both classes is read from the wrong one. */
static bool read_elf(int fd, struct elf *elf)
{
	Elf64_Ehdr header;
	Elf64_Phdr ph;

	if (pread(fd, &header, sizeof(header), 0) < (ssize_t)sizeof(Elf32_Ehdr) ||
	    memcmp(header.e_ident, ELFMAG, SELFMAG) != 0)
		return false;
	*elf = (struct elf){ .class = header.e_ident[EI_CLASS], .machine = header.e_machine };
	if (elf->class != ELFCLASS64)
		return true;
	for (unsigned i = 0; i < MIN(header.e_phnum, PHDR_MAX); i++) {
		off_t at = (off_t)(header.e_phoff + i * sizeof(ph));

		if (pread(fd, &ph, sizeof(ph), at) != sizeof(ph))
			break;
		elf->has_interpreter |= ph.p_type == PT_INTERP;
	}
	return true;
}

static int check_elf(const struct elf *elf, const char *path, const char *library, char *why)
{
	_cleanup_close_ int fd = open(library, O_RDONLY | O_CLOEXEC);
	struct elf own;

	if (fd < 0 || !read_elf(fd, &own))
		return refuse(why, -ELIBBAD, "%s is not a library", library);
	if (elf->class != own.class || elf->machine != own.machine)
		return refuse(why, -EPERM, "%s is a program for another machine than %s", path,
			      library);
	if (!elf->has_interpreter)
		return refuse(why, -EPERM,
			      "%s is statically linked: nothing can be preloaded into it", path);
	return 0;
}

/* The interpreter of "#! INTERPRETER ARGUMENT", or false. */
static bool read_script(int fd, char *interpreter)
{
	char line[LINE_MAX_SCRIPT];
	ssize_t n = pread(fd, line, sizeof(line) - 1, 0);
	char *start, *state = NULL;

	if (n < 3 || line[0] != '#' || line[1] != '!')
		return false;
	line[n] = '\0';
	line[strcspn(line, "\n")] = '\0';
	start = strtok_r(line + 2, " \t", &state);
	if (!start)
		return false;
	strcpy(interpreter, start);
	return true;
}

int program_check(const char *path, const char *library, char why[PROGRAM_WHY])
{
	char current[PATH_MAX];
	struct elf elf;
	int r;

	if (snprintf(current, sizeof(current), "%s", path) >= (int)sizeof(current))
		return refuse(why, -ENAMETOOLONG, "the path is too long");
	for (unsigned depth = 0; depth < SCRIPT_DEPTH; depth++) {
		_cleanup_close_ int fd = open(current, O_RDONLY | O_CLOEXEC);

		if (fd < 0 && errno == EACCES)
			return refuse(why, -EPERM,
				      "%s can be executed but not read: nothing can be said about "
				      "it", current);
		if (fd < 0)
			return refuse(why, -errno, "%s: %s", current, strerror(errno));
		r = check_privileges(fd, current, why);
		if (r < 0)
			return r;
		if (read_elf(fd, &elf))
			return check_elf(&elf, current, library, why);
		if (!read_script(fd, current))
			return 0; /* a shell script without #!, or the kernel refuses it */
	}
	return refuse(why, -ELOOP, "%s: too many interpreters", path);
}
