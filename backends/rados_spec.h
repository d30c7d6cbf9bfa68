/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Store=rados:POOL[,KEY=VALUE]... as people write it, taken apart. */
#ifndef USWAP_BACKENDS_RADOS_SPEC_H
#define USWAP_BACKENDS_RADOS_SPEC_H

#include <stdbool.h>
#include <stdint.h>

/* As written, with what is left out filled in. */
struct rados_spec {
	char pool[65], namespace[65], id[65], conf[129];
	char host[33];		  /* empty: this machine's id */
	uint64_t size, timeout_s; /* bytes, seconds of an operation */
};

/* What follows "rados:". False, and *error for people (store_refuse). */
bool rados_spec_parse(struct rados_spec *spec, const char *text, const char **error);

#endif
