/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Messages for people: to stderr, with the "<N>" prefix that the journal
 * understands when stderr is the journal ($JOURNAL_STREAM). Logged once, at
 * the edge; lower layers return errors instead. Never on the fault or evict
 * path (INV-2). Any thread.
 */
#ifndef USWAP_LOG_H
#define USWAP_LOG_H

#include <stdint.h>

enum log_level { /* syslog's numbers */
	LOG_LEVEL_ERR = 3,
	LOG_LEVEL_WARNING = 4,
	LOG_LEVEL_NOTICE = 5,
	LOG_LEVEL_INFO = 6,
	LOG_LEVEL_DEBUG = 7,
};

void log_set_level(enum log_level max);
enum log_level log_get_level(void);
/* -1 for a name it doesn't know; names as in syslog: "err" ... "debug". */
int log_level_from_name(const char *name);
const char *log_level_name(enum log_level level);

void log_write(enum log_level level, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* For what strangers can make us say: so many lines in ten seconds, and with the first one
   of the next ten how many were left out. Zeroed at the beginning; its caller's thread. */
#define LOG_LIMIT 20u
struct log_limit {
	uint64_t since_ns;
	unsigned lines; /* wanted since then */
};
void log_limited(struct log_limit *limit, enum log_level level, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

#define log_error(...) log_write(LOG_LEVEL_ERR, __VA_ARGS__)
#define log_warning(...) log_write(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_notice(...) log_write(LOG_LEVEL_NOTICE, __VA_ARGS__)
#define log_info(...) log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
