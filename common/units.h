/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * units: quantities as people write them, in uswap.conf(5) and on command
 * lines. The whole text must match, exact decimal arithmetic, no locale.
 *
 * All parsers: 0, -EINVAL (not such a quantity) or -ERANGE (doesn't fit).
 */
#ifndef USWAP_UNITS_H
#define USWAP_UNITS_H

#include <stddef.h>
#include <stdint.h>

/* A whole number, decimal. */
int units_parse_number(const char *text, int64_t *number);
/* Bytes: "4096", "512K", "1.5G", "64MiB"; K, M, G and T are powers of 1024. */
int units_parse_size(const char *text, uint64_t *bytes);
/* Seconds, "0.02" or "60", or with a unit: ns, us, ms, s, min, h. */
int units_parse_time(const char *text, uint64_t *ns);
/* "0.1%" to a share (0.001). The sign is asked for: 1 could mean both. */
int units_parse_percent(const char *text, double *share);

#define UNITS_TEXT 24
/* For people: "0 B", "17.2 MiB"; "850 ns", "12.3 us", "4.2 s". Returns text. */
const char *units_format_size(char text[UNITS_TEXT], uint64_t bytes);
const char *units_format_time(char text[UNITS_TEXT], uint64_t ns);

#endif
