/* SPDX-License-Identifier: GPL-2.0-or-later */
/* json: writes it to stdout, value by value. key is NULL inside an array. */
#ifndef USWAP_CTL_JSON_H
#define USWAP_CTL_JSON_H

#include <stdbool.h>
#include <stdint.h>

struct json {
	bool pretty;
	unsigned depth;
	bool filled; /* the innermost object or array has a member */
};

void json_open(struct json *json, const char *key, char bracket); /* '{' or '[' */
void json_close(struct json *json, char bracket);		   /* '}' or ']' */
void json_text(struct json *json, const char *key, const char *text);
void json_number(struct json *json, const char *key, uint64_t number);
void json_real(struct json *json, const char *key, double number);
void json_bool(struct json *json, const char *key, bool value);

#endif
