/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/units.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "common/util.h"

struct unit {
	const char *name;
	uint64_t factor;
};

static const struct unit size_units[] = {
	{ "", 1 },
	{ "B", 1 },
	{ "K", 1ull << 10 },
	{ "KiB", 1ull << 10 },
	{ "M", 1ull << 20 },
	{ "MiB", 1ull << 20 },
	{ "G", 1ull << 30 },
	{ "GiB", 1ull << 30 },
	{ "T", 1ull << 40 },
	{ "TiB", 1ull << 40 },
};

static const struct unit time_units[] = {
	{ "", NSEC_PER_SEC },
	{ "ns", 1 },
	{ "us", NSEC_PER_USEC },
	{ "ms", 1000 * NSEC_PER_USEC },
	{ "s", NSEC_PER_SEC },
	{ "sec", NSEC_PER_SEC },
	{ "min", 60 * NSEC_PER_SEC },
	{ "h", 3600 * NSEC_PER_SEC },
};

/* Digits with at most nine after the point: *mantissa / *scale. */
static int parse_decimal(const char **text, uint64_t *mantissa, uint64_t *scale)
{
	const char *p = *text;
	bool point = false;
	unsigned digits = 0;

	*mantissa = 0;
	*scale = 1;
	for (;; p++) {
		if (*p == '.' && !point) {
			point = true;
			continue;
		}
		if (*p < '0' || *p > '9')
			break;
		digits++;
		if (point) {
			if (*scale == NSEC_PER_SEC)
				return -EINVAL;
			*scale *= 10;
		}
		if (__builtin_mul_overflow(*mantissa, 10, mantissa) ||
		    __builtin_add_overflow(*mantissa, (uint64_t)(*p - '0'), mantissa))
			return -ERANGE;
	}
	if (digits == 0)
		return -EINVAL;
	*text = p;
	return 0;
}

static int parse_scaled(const char *text, const struct unit *units, size_t n, uint64_t *value)
{
	uint64_t mantissa, scale;
	unsigned __int128 wide;
	int r = parse_decimal(&text, &mantissa, &scale);

	if (r < 0)
		return r;
	text += strspn(text, " ");
	for (size_t i = 0; i < n; i++) {
		if (strcasecmp(text, units[i].name) != 0)
			continue;
		wide = (unsigned __int128)mantissa * units[i].factor / scale;
		if (wide > UINT64_MAX)
			return -ERANGE;
		*value = (uint64_t)wide;
		return 0;
	}
	return -EINVAL;
}

int units_parse_number(const char *text, int64_t *number)
{
	uint64_t mantissa, scale;
	bool negative = *text == '-';
	int r;

	if (negative)
		text++;
	r = parse_decimal(&text, &mantissa, &scale);
	if (r < 0)
		return r;
	if (*text || scale != 1)
		return -EINVAL;
	if (mantissa > INT64_MAX)
		return -ERANGE;
	*number = negative ? -(int64_t)mantissa : (int64_t)mantissa;
	return 0;
}

int units_parse_size(const char *text, uint64_t *bytes)
{
	return parse_scaled(text, size_units, ARRAY_SIZE(size_units), bytes);
}

int units_parse_time(const char *text, uint64_t *ns)
{
	return parse_scaled(text, time_units, ARRAY_SIZE(time_units), ns);
}

int units_parse_percent(const char *text, double *share)
{
	uint64_t mantissa, scale;
	int r = parse_decimal(&text, &mantissa, &scale);

	if (r < 0)
		return r;
	text += strspn(text, " ");
	if (strcmp(text, "%") != 0)
		return -EINVAL;
	*share = (double)mantissa / (double)scale / 100.0;
	return 0;
}

const char *units_format_size(char text[UNITS_TEXT], uint64_t bytes)
{
	static const char *const names[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	double value = (double)bytes;
	unsigned i = 0;

	/* 1023.95 would be shown as 1024.0 */
	while (value >= 1023.95 && i + 1 < ARRAY_SIZE(names)) {
		value /= 1024;
		i++;
	}
	snprintf(text, UNITS_TEXT, "%.*f %s", i ? 1 : 0, value, names[i]);
	return text;
}

const char *units_format_time(char text[UNITS_TEXT], uint64_t ns)
{
	double value = (double)ns;

	if (ns < 1000)
		snprintf(text, UNITS_TEXT, "%u ns", (unsigned)ns);
	else if (value < 999.95e3)
		snprintf(text, UNITS_TEXT, "%.1f us", value / 1e3);
	else if (value < 999.95e6)
		snprintf(text, UNITS_TEXT, "%.1f ms", value / 1e6);
	else
		snprintf(text, UNITS_TEXT, "%.1f s", value / 1e9);
	return text;
}
