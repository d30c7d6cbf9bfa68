/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "backends/rados_spec.h"

#include <string.h>

#include "backends/store.h"
#include "common/util.h"

#define DEFAULT_SIZE ((uint64_t)256 << 30)
#define DEFAULT_TIMEOUT_S 10u

static bool take_text(const char *key, const char *value, size_t len, char *to, size_t size,
		      const char **error)
{
	if (len && len < size) {
		memcpy(to, value, len);
		to[len] = '\0';
		return true;
	}
	store_refuse(error, "store \"rados:\": %s= is %s", key, len ? "too long" : "empty");
	return false;
}

static bool take_host(struct rados_spec *spec, const char *value, size_t len, const char **error)
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
				      "0123456789-_";

	if (!take_text("host", value, len, spec->host, sizeof(spec->host), error))
		return false;
	if (strspn(spec->host, letters) == len)
		return true;
	store_refuse(error, "store \"rados:\": host=%s: letters, digits, - and _ only", spec->host);
	return false;
}

static bool take_number(struct rados_spec *spec, const char *key, const char *value, size_t len,
			const char **error)
{
	bool is_size = strcmp(key, "size") == 0;
	uint64_t max = is_size ? STORE_SEGMENTS_MAX * (uint64_t)STORE_SEGMENT : 600;
	uint64_t min = is_size ? STORE_SEGMENT : 1, number;
	char text[32];

	if (!take_text(key, value, len, text, sizeof(text), error))
		return false;
	if (!store_parse_size(text, &number) || number < min || number > max) {
		store_refuse(error, "store \"rados:\": %s=%s: %s", key, text,
			     is_size ? "a size from 4M to 4T, as in 500G"
				     : "seconds, from 1 to 600");
		return false;
	}
	*(is_size ? &spec->size : &spec->timeout_s) = number;
	return true;
}

static bool take_id(struct rados_spec *spec, const char *value, size_t len, const char **error)
{
	if (!take_text("id", value, len, spec->id, sizeof(spec->id), error))
		return false;
	if (strncmp(spec->id, "client.", 7) == 0 && spec->id[7])
		return true;
	store_refuse(error, "store \"rados:\": id=%s: the whole name, as in id=client.uswap",
		     spec->id);
	return false;
}

enum key { KEY_NAMESPACE, KEY_ID, KEY_CONF, KEY_SIZE, KEY_HOST, KEY_TIMEOUT, KEYS };

static const char *const keys[KEYS] = { "namespace", "id", "conf", "size", "host", "timeout" };

static enum key find_key(const char *option, size_t len)
{
	size_t n = strcspn(option, "=");
	enum key key = 0;

	while (key < KEYS && (n >= len || strlen(keys[key]) != n || strncmp(option, keys[key], n)))
		key++;
	return key;
}

/* seen: bits of the keys before it. */
static bool take_option(struct rados_spec *spec, const char *option, size_t len, unsigned *seen, const char **error)
{
	enum key key = find_key(option, len);
	const char *value;

	if (key == KEYS) {
		store_refuse(error,
			     "store \"rados:\": \"%.*s\" is none of namespace=, id=, conf=, size=, host=, "
			     "timeout=",
			     (int)MIN(len, (size_t)64), option);
		return false;
	}
	if (*seen >> key & 1) {
		store_refuse(error, "store \"rados:\": %.*s comes after another value of it",
			     (int)MIN(len, (size_t)64), option);
		return false;
	}
	*seen |= 1u << key;
	value = option + strlen(keys[key]) + 1;
	len -= (size_t)(value - option);
	switch (key) {
	case KEY_NAMESPACE:
		return take_text(keys[key], value, len, spec->namespace, sizeof(spec->namespace), error);
	case KEY_ID:
		return take_id(spec, value, len, error);
	case KEY_CONF:
		return take_text(keys[key], value, len, spec->conf, sizeof(spec->conf), error);
	case KEY_HOST:
		return take_host(spec, value, len, error);
	default:
		return take_number(spec, keys[key], value, len, error);
	}
}

bool rados_spec_parse(struct rados_spec *spec, const char *text, const char **error)
{
	size_t len = strcspn(text, ",");
	unsigned seen = 0;

	*spec = (struct rados_spec){ .id = "client.uswap",
				     .conf = "/etc/ceph/ceph.conf",
				     .size = DEFAULT_SIZE,
				     .timeout_s = DEFAULT_TIMEOUT_S };
	if (!len) {
		store_refuse(error, "store \"rados:\" lacks its pool, as in rados:uswap");
		return false;
	}
	if (!take_text("the pool", text, len, spec->pool, sizeof(spec->pool), error))
		return false;
	for (text += len; *text; text += len) {
		text++; /* the comma */
		len = strcspn(text, ",");
		if (!take_option(spec, text, len, &seen, error))
			return false;
	}
	return true;
}
