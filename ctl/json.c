/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "ctl/json.h"

#include <inttypes.h>
#include <stdio.h>

static void newline(const struct json *json)
{
	if (json->pretty)
		printf("\n%*s", (int)json->depth * 2, "");
}

static void put_text(const char *text)
{
	putchar('"');
	for (; *text; text++) {
		if (*text == '"' || *text == '\\')
			printf("\\%c", *text);
		else if ((unsigned char)*text < 0x20)
			printf("\\u%04x", (unsigned)*text);
		else
			putchar(*text);
	}
	putchar('"');
}

static void begin(struct json *json, const char *key)
{
	if (json->filled)
		putchar(',');
	if (json->depth)
		newline(json);
	if (key) {
		put_text(key);
		fputs(json->pretty ? ": " : ":", stdout);
	}
	json->filled = true;
}

void json_open(struct json *json, const char *key, char bracket)
{
	begin(json, key);
	putchar(bracket);
	json->depth++;
	json->filled = false;
}

void json_close(struct json *json, char bracket)
{
	json->depth--;
	if (json->filled)
		newline(json);
	putchar(bracket);
	json->filled = true;
	if (json->depth == 0)
		putchar('\n');
}

void json_text(struct json *json, const char *key, const char *text)
{
	begin(json, key);
	put_text(text);
}

void json_number(struct json *json, const char *key, uint64_t number)
{
	begin(json, key);
	printf("%" PRIu64, number);
}

void json_real(struct json *json, const char *key, double number)
{
	begin(json, key);
	printf("%.6g", number);
}

void json_bool(struct json *json, const char *key, bool value)
{
	begin(json, key);
	fputs(value ? "true" : "false", stdout);
}
