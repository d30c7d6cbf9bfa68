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

static bool take_option(struct rados_spec *spec, const char *option, size_t len, const char **error)
{
	size_t key = strcspn(option, "=");
	const char *value = option + key + 1;
	size_t value_len = key < len ? len - key - 1 : 0;

	if (key < len && key == 9 && !strncmp(option, "namespace", key))
		return take_text("namespace", value, value_len, spec->namespace,
				 sizeof(spec->namespace), error);
	if (key < len && key == 2 && !strncmp(option, "id", key))
		return take_id(spec, value, value_len, error);
	if (key < len && key == 4 && !strncmp(option, "conf", key))
		return take_text("conf", value, value_len, spec->conf, sizeof(spec->conf), error);
	if (key < len && key == 4 && !strncmp(option, "host", key))
		return take_host(spec, value, value_len, error);
	if (key < len && key == 4 && !strncmp(option, "size", key))
		return take_number(spec, "size", value, value_len, error);
	if (key < len && key == 7 && !strncmp(option, "timeout", key))
		return take_number(spec, "timeout", value, value_len, error);
	store_refuse(error,
		     "store \"rados:\": \"%.*s\" is none of namespace=, id=, conf=, size=, host=, "
		     "timeout=",
		     (int)MIN(len, (size_t)64), option);
	return false;
}

bool rados_spec_parse(struct rados_spec *spec, const char *text, const char **error)
{
	size_t len = strcspn(text, ",");

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
		if (!take_option(spec, text, len, error))
			return false;
	}
	return true;
}
