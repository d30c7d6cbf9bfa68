/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A build without librados: says so. */
#include <errno.h>

#include "backends/store.h"

bool store_rados_check(const char *text, const char **error)
{
	(void)text;
	store_refuse(error, "store \"rados\": this agent was built without librados");
	return false;
}

struct store *store_rados_open(const char *text, const char **error)
{
	store_rados_check(text, error);
	return NULL;
}

int store_rados_look(const char *text, const char **error)
{
	store_rados_check(text, error);
	return -EINVAL;
}

int64_t store_rados_collect(const char *text, const char *host, const char **error)
{
	(void)host;
	store_rados_check(text, error);
	return -EOPNOTSUPP;
}
