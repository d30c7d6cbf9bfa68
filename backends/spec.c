/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Words of Store= as people write them: "memory:8G", "memory:25%", "rados:...". */
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "backends/store.h"
#include "common/util.h"

static _Thread_local char message[512];

struct store *store_refuse(const char **error, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vsnprintf(message, sizeof(message), format, ap);
	va_end(ap);
	if (error)
		*error = message;
	return NULL;
}

/* false */
#define REFUSE(...) (store_refuse(error, __VA_ARGS__) != NULL)

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

bool store_parse_size(const char *text, uint64_t *bytes)
{
	static const char suffixes[] = "KMGT";
	const char *suffix;
	unsigned shift;

	if (!parse_number(&text, bytes))
		return false;
	if (!*text)
		return true;
	suffix = strchr(suffixes, toupper((unsigned char)*text));
	if (!suffix || text[1])
		return false;
	shift = 10 * (unsigned)(suffix - suffixes + 1);
	if (*bytes > UINT64_MAX >> shift)
		return false;
	*bytes <<= shift;
	return true;
}

static bool parse_share(const char *text, uint64_t *bytes)
{
	uint64_t percent;

	if (!parse_number(&text, &percent) || strcmp(text, "%") || percent > 100)
		return false;
	*bytes = ram_bytes() / 100 * percent;
	return true;
}

/* ---- memory:SIZE ---- */

static bool parse_memory(const char *size, uint64_t *bytes, const char **error)
{
	if (!*size)
		return REFUSE("store \"memory:\" lacks its size, as in memory:8G or memory:25%%");
	if (!store_parse_size(size, bytes) && !parse_share(size, bytes))
		return REFUSE("store \"memory:\": \"%.64s\" is not a size: a number with K, M, G, T "
			      "or nothing behind it, or a percentage of the memory up to 100%%",
			      size);
	if (!*bytes)
		return REFUSE("store \"memory:\": a size of \"%.64s\" leaves nothing to store in", size);
	if (*bytes > STORE_SEGMENTS_MAX * (uint64_t)STORE_SEGMENT)
		return REFUSE("store \"memory:\": \"%.64s\" is too large, at most 4T", size);
	return true;
}

static bool check_memory(const char *text, const char **error)
{
	uint64_t bytes;

	return parse_memory(text, &bytes, error);
}

static struct store *open_memory(const char *text, const char **error)
{
	struct store *store;
	uint64_t bytes;

	if (!parse_memory(text, &bytes, error))
		return NULL;
	store = store_memory_new(bytes);
	return store ? store :
		       store_refuse(error, "store \"memory:%.64s\" can't be made: %s", text, strerror(errno));
}

/* ---- */

static const struct {
	const char *name;
	bool (*check)(const char *text, const char **error);
	struct store *(*open)(const char *text, const char **error);
} kinds[] = {
	{ "memory", check_memory, open_memory },
	{ "rados", store_rados_check, store_rados_open },
};

/* The kind of spec, and what follows its colon. */
static int find_kind(const char *spec, const char **text, const char **error)
{
	size_t len = strcspn(spec, ":");

	*text = spec[len] ? spec + len + 1 : "";
	if (!*spec) {
		store_refuse(error, "no store given; memory:25%% would be one");
		return -1;
	}
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		if (strlen(kinds[i].name) == len && !strncmp(spec, kinds[i].name, len))
			return (int)i;
	store_refuse(error, "store \"%.*s\" is unknown: there are memory: and rados:",
		     (int)MIN(len, (size_t)64), spec);
	return -1;
}

bool store_check(const char *spec, const char **error)
{
	const char *text;
	int kind = find_kind(spec, &text, error);

	return kind >= 0 && kinds[kind].check(text, error);
}

struct store *store_open(const char *spec, const char **error)
{
	const char *text;
	int kind = find_kind(spec, &text, error);

	return kind >= 0 ? kinds[kind].open(text, error) : NULL;
}
