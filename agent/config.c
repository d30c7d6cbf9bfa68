/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "agent/config.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <string.h>

#include "common/util.h"

#ifndef SYSCONFDIR
#define SYSCONFDIR "/etc"
#endif
#define CONFIG_FILE SYSCONFDIR "/uswap/uswap.conf"
#define CONFIG_VENDOR_DIR "/usr/lib/uswap/uswap.conf.d"

#define DROP_INS_MAX 256

struct reader {
	struct settings *settings;
	const char *name;
	unsigned line;
	const char *section; /* of the table, NULL before the first */
	bool skip;	     /* in a section that isn't known */
	int result;
	config_report_fn report;
	void *arg;
};

__attribute__((format(printf, 2, 3))) static void complain(struct reader *r, const char *format,
							   ...)
{
	char text[CONFIG_MESSAGE + PATH_MAX + 32];
	int n = snprintf(text, sizeof(text), "%s:%u: ", r->name, r->line);
	va_list ap;

	va_start(ap, format);
	if (n >= 0 && (size_t)n < sizeof(text))
		vsnprintf(text + n, sizeof(text) - (size_t)n, format, ap);
	va_end(ap);
	r->result = -EINVAL;
	r->report(r->arg, text);
}

static char *trim(char *s)
{
	char *end;

	while (isspace((unsigned char)*s))
		s++;
	end = s + strlen(s);
	while (end > s && isspace((unsigned char)end[-1]))
		end--;
	*end = '\0';
	return s;
}

/* The table's own string for a section, so that it outlives the line. */
static const char *known_section(const char *name)
{
	for (size_t i = 0; i < config_nr_keys; i++)
		if (strcmp(config_keys[i].section, name) == 0)
			return config_keys[i].section;
	return NULL;
}

static void read_section(struct reader *r, char *line)
{
	char *end = strchr(line, ']');

	r->section = NULL;
	r->skip = true;
	if (!end || end[1]) {
		complain(r, "\"%s\": a section is written as [Name]", line);
		return;
	}
	*end = '\0';
	r->section = known_section(line + 1);
	r->skip = !r->section;
	if (r->skip)
		complain(r, "unknown section [%s]", line + 1);
}

static void read_assignment(struct reader *r, char *line)
{
	const struct config_key *key;
	char message[CONFIG_MESSAGE], place[SETTINGS_PLACE_MAX];
	char *equals = strchr(line, '=');
	char *name, *value;

	if (!equals) {
		complain(r, "\"%s\": neither [Section] nor Key=Value", line);
		return;
	}
	*equals = '\0';
	name = trim(line);
	value = trim(equals + 1);
	if (r->skip)
		return; /* has been complained about */
	if (!r->section) {
		complain(r, "%s=%s: stands before the first [Section]", name, value);
		return;
	}
	key = config_find(r->section, name);
	snprintf(place, sizeof(place), "%s:%u: ", r->name, r->line);
	if (!key)
		complain(r, "%s=%s: unknown key in [%s]", name, value, r->section);
	else if (config_set_at(r->settings, key, value, place, message) < 0)
		complain(r, "%s", message);
}

int config_read(struct settings *settings, FILE *file, const char *name, config_report_fn report,
		void *arg)
{
	struct reader r = { .settings = settings, .name = name, .report = report, .arg = arg };
	_cleanup_free_ char *buffer = NULL;
	size_t size = 0;
	ssize_t n;
	char *line;

	while ((n = getline(&buffer, &size, file)) >= 0) {
		r.line++;
		if (strlen(buffer) != (size_t)n) {
			complain(&r, "a zero byte: this is not a text file");
			break;
		}
		line = trim(buffer);
		if (!*line || *line == '#' || *line == ';')
			continue;
		if (*line == '[')
			read_section(&r, line);
		else
			read_assignment(&r, line);
	}
	if (ferror(file)) {
		r.line++;
		complain(&r, "reading failed: %s", strerror(errno));
	}
	return r.result;
}

struct drop_ins {
	char *path[DROP_INS_MAX];
	size_t n;
};

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(base_name(*(char *const *)a), base_name(*(char *const *)b));
}

static bool is_conf(const char *name)
{
	size_t n = strlen(name);

	return name[0] != '.' && n > 5 && strcmp(name + n - 5, ".conf") == 0;
}

/* Adds the drop-ins of dir, replacing those with the same file name. */
static int collect(struct drop_ins *d, const char *dir)
{
	DIR *handle = opendir(dir);
	struct dirent *e;
	char *path;
	size_t i;
	int r = 0;

	if (!handle)
		return errno == ENOENT ? 0 : -errno;
	while (r == 0 && (e = readdir(handle))) {
		if (!is_conf(e->d_name))
			continue;
		for (i = 0; i < d->n; i++)
			if (strcmp(base_name(d->path[i]), e->d_name) == 0)
				break;
		if (i == DROP_INS_MAX) {
			r = -E2BIG;
		} else if (asprintf(&path, "%s/%s", dir, e->d_name) < 0) {
			r = -ENOMEM;
		} else {
			if (i < d->n)
				free(d->path[i]);
			else
				d->n++;
			d->path[i] = path;
		}
	}
	closedir(handle);
	return r;
}

static void cant_read(config_report_fn report, void *arg, const char *path, int error)
{
	char text[PATH_MAX + 64];

	snprintf(text, sizeof(text), "%s: %s", path, strerror(error));
	report(arg, text);
}

static int load_file(struct settings *settings, const char *path, bool optional,
		     config_report_fn report, void *arg)
{
	FILE *file = fopen(path, "re");
	int r;

	if (!file && errno == ENOENT && optional)
		return 0;
	if (!file) {
		r = -errno;
		cant_read(report, arg, path, -r);
		return r;
	}
	r = config_read(settings, file, path, report, arg);
	fclose(file);
	return r;
}

int config_load(struct settings *settings, const char *path, config_report_fn report, void *arg)
{
	const char *main_file = path ? path : CONFIG_FILE;
	struct drop_ins drop_ins = { .n = 0 };
	char dir[PATH_MAX] = CONFIG_VENDOR_DIR;
	int result, r = 0;

	config_defaults(settings);
	result = load_file(settings, main_file, !path, report, arg);
	if (!path)
		r = collect(&drop_ins, dir);
	if (r == 0) {
		snprintf(dir, sizeof(dir), "%s.d", main_file);
		r = collect(&drop_ins, dir);
	}
	if (r < 0) {
		cant_read(report, arg, dir, -r);
		result = r;
	}
	qsort(drop_ins.path, drop_ins.n, sizeof(drop_ins.path[0]), by_name);
	for (size_t i = 0; i < drop_ins.n; i++) {
		r = load_file(settings, drop_ins.path[i], false, report, arg);
		if (r < 0 && result == 0)
			result = r;
		free(drop_ins.path[i]);
	}
	return result;
}
