/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Words of Store= as people write them: "memory:8G", "memory:25%",
   "file:/var/lib/uswap,size=20G,daily=50G", "rados:...". */
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "backends/faulty.h"
#include "backends/file.h"
#include "backends/rados_spec.h"
#include "backends/store.h"
#include "common/units.h"
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

bool store_parse_size(const char *text, uint64_t *bytes)
{
	return units_parse_size(text, bytes) == 0;
}

static bool parse_share(const char *text, uint64_t *bytes)
{
	double share;

	if (units_parse_percent(text, &share) || share > 1)
		return false;
	*bytes = store_part_of(ram_bytes(), share);
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
	/* One segment is for tidying up. */
	if (*bytes < 2 * STORE_SEGMENT)
		return REFUSE("store \"memory:\": a size of \"%.64s\" leaves nothing to store in, at least 8M", size);
	if (*bytes > STORE_SEGMENTS_MAX * (uint64_t)STORE_SEGMENT)
		return REFUSE("store \"memory:\": \"%.64s\" is too large, at most 4T", size);
	return true;
}

static bool check_memory(const char *text, const char **error)
{
	uint64_t bytes;

	return parse_memory(text, &bytes, error);
}

static uint64_t most_of_memory(const char *text)
{
	uint64_t bytes = 0;

	(void)parse_memory(text, &bytes, NULL);
	return bytes;
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

/* ---- file:PATH,size=SIZE[,daily=SIZE] ---- */

/* Without daily=: twice its size, or what no medium minds. */
#define DAILY_LEAST ((uint64_t)16 << 30)
/* What is written at a time fits into it. */
#define DAILY_MIN ((uint64_t)1 << 20)

static bool parse_file_option(struct store_file_options *file, char *option, const char **error)
{
	char *value = strchr(option, '=');
	uint64_t *field, unset;

	if (!value)
		return REFUSE("store \"file:\": \"%.64s\" is not written as key=value", option);
	*value++ = '\0';
	if (!strcmp(option, "size")) {
		field = &file->bytes;
		unset = 0;
	} else if (!strcmp(option, "daily")) {
		field = &file->daily_writes;
		unset = UINT64_MAX;
	} else {
		return REFUSE("store \"file:\": \"%.64s=\" is neither size= nor daily=", option);
	}
	if (*field != unset)
		return REFUSE("store \"file:\": %s=%.64s comes after another value of it", option, value);
	if (field == &file->daily_writes && !strcmp(value, "infinity"))
		*field = 0;
	else if (!store_parse_size(value, field) || !*field)
		return REFUSE("store \"file:\": %s=%.64s is not a size: a number with K, M, G, T or "
			      "nothing behind it, more than 0",
			      option, value);
	return true;
}

/* text is cut into pieces, which file points to. */
static bool parse_file(char *text, struct store_file_options *file, const char **error)
{
	char *state = NULL, *option;

	*file = (struct store_file_options){ .path = strtok_r(text, ",", &state), .daily_writes = UINT64_MAX };
	if (!file->path || *file->path != '/')
		return REFUSE("store \"file:\" lacks its absolute path, as in file:/var/lib/uswap,size=20G");
	while ((option = strtok_r(NULL, ",", &state)))
		if (!parse_file_option(file, option, error))
			return false;
	if (!file->bytes)
		return REFUSE("store \"file:%.200s\" lacks its size, as in file:%.200s,size=20G", file->path,
			      file->path);
	if (file->bytes < STORE_SEGMENT)
		return REFUSE("store \"file:%.200s\": a size below 4M leaves nothing to store in",
			      file->path);
	if (file->bytes > STORE_SEGMENTS_MAX * (uint64_t)STORE_SEGMENT)
		return REFUSE("store \"file:%.200s\" is too large, at most 4T", file->path);
	if (file->daily_writes && file->daily_writes < DAILY_MIN)
		return REFUSE("store \"file:%.200s\": daily= below 1M lets nothing be written", file->path);
	if (file->daily_writes == UINT64_MAX)
		file->daily_writes = MAX(2 * file->bytes, DAILY_LEAST);
	return true;
}

/* 0, or negative errno after a refusal. The options' words are in *copy. */
static int parse_copy(const char *text, char **copy, struct store_file_options *file, const char **error)
{
	*copy = strdup(text);
	if (!*copy) {
		store_refuse(error, "out of memory");
		return -ENOMEM;
	}
	return parse_file(*copy, file, error) ? 0 : -EINVAL;
}

static bool check_file(const char *text, const char **error)
{
	_cleanup_free_ char *copy = NULL;
	struct store_file_options file;

	return !parse_copy(text, &copy, &file, error);
}

static uint64_t most_of_file(const char *text)
{
	_cleanup_free_ char *copy = NULL;
	struct store_file_options file;

	return parse_copy(text, &copy, &file, NULL) ? 0 : file.bytes;
}

static struct store *open_file(const char *text, const char **error)
{
	_cleanup_free_ char *copy = NULL;
	struct store_file_options file;

	return parse_copy(text, &copy, &file, error) ? NULL : store_file_new(&file, error);
}

static int look_at_file(const char *text, const char **error)
{
	_cleanup_free_ char *copy = NULL;
	struct store_file_options file;
	int r = parse_copy(text, &copy, &file, error);

	return r ? r : file_super_look(&file, error);
}

/* ---- faulty:RULES,STORE: for tests (faulty.h) ---- */

/* What follows the path, which is cut off; NULL after a refusal. */
static char *parse_faulty(char *text, const char **error)
{
	char *comma = strchr(text, ',');

	if (*text != '/' || !comma) {
		store_refuse(error, "store \"faulty:\" is for tests: faulty:RULES,STORE with the absolute path "
				    "of a file of rules");
		return NULL;
	}
	*comma = '\0';
	return comma + 1;
}

static bool check_faulty(const char *text, const char **error)
{
	_cleanup_free_ char *copy = strdup(text);
	char *below = copy ? parse_faulty(copy, error) : NULL;

	return below && store_check(below, error);
}

static uint64_t most_of_faulty(const char *text)
{
	return store_most_bytes(strchr(text, ',') + 1);
}

static struct store *open_faulty(const char *text, const char **error)
{
	_cleanup_free_ char *path = strdup(text);
	char *below = path ? parse_faulty(path, error) : NULL;
	struct store *store = below ? store_open(below, error) : NULL;

	if (!store)
		return NULL;
	store = store_faulty_new(store, false);
	if (store && !store_faulty_follow(store, path))
		return store;
	store_close(store);
	return store_refuse(error, "store \"faulty:\": out of memory");
}

/* ---- */

static uint64_t most_of_rados(const char *text)
{
	struct rados_spec spec;

	return rados_spec_parse(&spec, text, NULL) ? spec.size : 0;
}

static const struct {
	const char *name;
	bool (*check)(const char *text, const char **error);
	uint64_t (*most)(const char *text);
	struct store *(*open)(const char *text, const char **error);
	int (*look)(const char *text, const char **error); /* NULL: by opening it */
} kinds[] = {
	{ "memory", check_memory, most_of_memory, open_memory, NULL },
	{ "file", check_file, most_of_file, open_file, look_at_file },
	{ "rados", store_rados_check, most_of_rados, store_rados_open, store_rados_look },
	{ "faulty", check_faulty, most_of_faulty, open_faulty, NULL },
};

static bool same_path(const char *a, const char *b)
{
	size_t a_len = strcspn(a, ","), b_len = strcspn(b, ",");

	while (a_len > 1 && a[a_len - 1] == '/')
		a_len--;
	while (b_len > 1 && b[b_len - 1] == '/')
		b_len--;
	return a_len == b_len && !memcmp(a, b, a_len);
}

static bool same_pool(const char *a, const char *b)
{
	struct rados_spec one, two;

	return rados_spec_parse(&one, a, NULL) && rados_spec_parse(&two, b, NULL) && !strcmp(one.pool, two.pool) &&
	       !strcmp(one.namespace, two.namespace) && !strcmp(one.host, two.host);
}

bool store_is_same(const char *spec, const char *other)
{
	if (!strncmp(spec, "file:", 5) && !strncmp(other, "file:", 5))
		return same_path(spec + 5, other + 5);
	return !strncmp(spec, "rados:", 6) && !strncmp(other, "rados:", 6) && same_pool(spec + 6, other + 6);
}

bool store_next_word(const char **list, char *word, size_t size)
{
	size_t len;

	*list += strspn(*list, " ");
	len = strcspn(*list, " ");
	if (!len)
		return false;
	snprintf(word, size, "%.*s", (int)len, *list);
	*list += len;
	return true;
}

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
	store_refuse(error, "store \"%.*s\" is unknown: there are memory:, file: and rados:",
		     (int)MIN(len, (size_t)64), spec);
	return -1;
}

bool store_check(const char *spec, const char **error)
{
	const char *text;
	int kind = find_kind(spec, &text, error);

	return kind >= 0 && kinds[kind].check(text, error);
}

uint64_t store_most_bytes(const char *spec)
{
	const char *text;
	int kind = find_kind(spec, &text, NULL);

	return kind >= 0 ? kinds[kind].most(text) : 0;
}

struct store *store_open(const char *spec, const char **error)
{
	const char *text;
	int kind = find_kind(spec, &text, error);

	return kind >= 0 ? kinds[kind].open(text, error) : NULL;
}

int store_look(const char *spec, const char **error)
{
	const char *text;
	int kind = find_kind(spec, &text, error);
	struct store *store;

	if (kind < 0)
		return -EINVAL;
	if (kinds[kind].look)
		return kinds[kind].look(text, error);
	store = kinds[kind].open(text, error);
	store_close(store);
	return store ? 0 : -EINVAL;
}

int64_t store_collect_host(const char *spec, const char *host, const char **error)
{
	const char *text;
	int kind = find_kind(spec, &text, error);

	if (kind < 0)
		return -EINVAL;
	if (kinds[kind].open == store_rados_open)
		return store_rados_collect(text, host, error);
	store_refuse(error, "store \"%s\": no other host has anything in it", kinds[kind].name);
	return -EINVAL;
}
