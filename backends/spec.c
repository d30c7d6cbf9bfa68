/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Store= as people write it: "memory:8G", "memory:25%". */
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "backends/store.h"
#include "common/util.h"

/* One message per thread: the caller frees nothing. */
static _Thread_local char message[256];

__attribute__((format(printf, 2, 3))) static struct store *refuse(const char **error,
								   const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vsnprintf(message, sizeof(message), format, ap);
	va_end(ap);
	if (error)
		*error = message;
	return NULL;
}

static uint64_t ram_bytes(void)
{
	long pages = sysconf(_SC_PHYS_PAGES);

	return pages > 0 ? (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
}

/* Digits at *text, which moves past them. False: none, or too many. */
static bool parse_number(const char **text, uint64_t *number)
{
	char *end;

	if (!isdigit((unsigned char)**text))
		return false;
	errno = 0;
	*number = strtoull(*text, &end, 10);
	*text = end;
	return errno == 0;
}

static bool parse_size(const char *text, uint64_t *bytes)
{
	static const char suffixes[] = "KMGT";
	const char *suffix;
	unsigned shift;

	if (!parse_number(&text, bytes))
		return false;
	if (!*text)
		return true;
	if (!strcmp(text, "%")) {
		if (*bytes > 100)
			return false;
		*bytes = ram_bytes() / 100 * *bytes;
		return true;
	}
	suffix = strchr(suffixes, toupper((unsigned char)*text));
	if (!suffix || text[1])
		return false;
	shift = 10 * (unsigned)(suffix - suffixes + 1);
	if (*bytes > UINT64_MAX >> shift)
		return false;
	*bytes <<= shift;
	return true;
}

static struct store *open_memory(const char *size, const char **error)
{
	uint64_t max = STORE_SEGMENTS_MAX * (uint64_t)STORE_SEGMENT;
	struct store *store;
	uint64_t bytes;

	if (!*size)
		return refuse(error, "store \"memory:\" lacks its size, as in memory:8G or memory:25%%");
	if (!parse_size(size, &bytes))
		return refuse(error,
			      "store \"memory:\": \"%.64s\" is not a size: a number with K, M, G, T "
			      "or nothing behind it, or a percentage of the memory up to 100%%",
			      size);
	if (!bytes)
		return refuse(error, "store \"memory:\": a size of \"%.64s\" leaves nothing to store in",
			      size);
	if (bytes > max)
		return refuse(error, "store \"memory:\": \"%.64s\" is too large, at most 4T", size);
	store = store_memory_new(bytes);
	if (!store)
		return refuse(error, "store \"memory:%.64s\" can't be made: %s", size,
			      strerror(errno));
	return store;
}

struct store *store_open(const char *spec, const char **error)
{
	size_t kind = strcspn(spec, ":");

	if (!*spec)
		return refuse(error, "no store given; memory:25%% would be one");
	if (kind == strlen("memory") && !strncmp(spec, "memory", kind))
		return open_memory(spec[kind] ? spec + kind + 1 : "", error);
	return refuse(error,
		      "store \"%.*s\" is unknown: this build's agent has the memory store only "
		      "(memory:SIZE)",
		      (int)MIN(kind, (size_t)64), spec);
}
