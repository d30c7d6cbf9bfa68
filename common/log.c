/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/util.h"

#define LIMIT_NS (10 * NSEC_PER_SEC)

static _Atomic int max_level = LOG_LEVEL_INFO;

static const char *const level_names[] = {
	[LOG_LEVEL_ERR] = "err",   [LOG_LEVEL_WARNING] = "warning", [LOG_LEVEL_NOTICE] = "notice",
	[LOG_LEVEL_INFO] = "info", [LOG_LEVEL_DEBUG] = "debug",
};

void log_set_level(enum log_level max)
{
	max_level = max;
}

enum log_level log_get_level(void)
{
	return (enum log_level)max_level;
}

int log_level_from_name(const char *name)
{
	for (int i = LOG_LEVEL_ERR; i <= LOG_LEVEL_DEBUG; i++)
		if (strcmp(name, level_names[i]) == 0)
			return i;
	return -1;
}

const char *log_level_name(enum log_level level)
{
	return level_names[level];
}

__attribute__((format(printf, 2, 0))) static void write_line(enum log_level level, const char *format, va_list ap)
{
	char line[1024];
	int n = 0;

	if ((int)level > max_level)
		return;
	if (getenv("JOURNAL_STREAM"))
		n = snprintf(line, sizeof(line), "<%d>", (int)level);
	else
		n = snprintf(line, sizeof(line), "uswap-agent: ");
	n += vsnprintf(line + n, sizeof(line) - (size_t)n - 1, format, ap);
	if ((size_t)n > sizeof(line) - 2)
		n = sizeof(line) - 2;
	/* A program may call itself what it likes: that must neither end a line, nor tell a
	   terminal what to do, nor have the journal show none of it. */
	for (int i = 0; i < n; i++)
		if ((unsigned char)line[i] < ' ' || line[i] == 0x7f)
			line[i] = '?';
	line[n++] = '\n';
	/* One write, so that lines of several threads don't mix; a closed
	   stderr is not an error of ours. */
	if (write(STDERR_FILENO, line, (size_t)n) < 0)
		return;
}

void log_write(enum log_level level, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	write_line(level, format, ap);
	va_end(ap);
}

void log_limited(struct log_limit *limit, enum log_level level, const char *format, ...)
{
	uint64_t now = now_ns();
	va_list ap;

	if (now - limit->since_ns >= LIMIT_NS) {
		if (limit->lines > LOG_LIMIT)
			log_write(level, "%u more lines like the next one were left out", limit->lines - LOG_LIMIT);
		*limit = (struct log_limit){ .since_ns = now };
	}
	if (limit->lines++ >= LOG_LIMIT)
		return;
	va_start(ap, format);
	write_line(level, format, ap);
	va_end(ap);
}
