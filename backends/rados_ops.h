/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Each kind of object_io as an operation of librados; no state of its own. */
#ifndef USWAP_BACKENDS_RADOS_OPS_H
#define USWAP_BACKENDS_RADOS_OPS_H

#include "backends/objstore.h"
#include "backends/rados_library.h"

/* private[0] is its completion. 0, or negative: it has not begun. */
int rados_ops_start(const struct rados_library *lib, rados_ioctx_t ioctx, struct object_io *io);
/* In its callback: what done() is told. */
int rados_ops_result(const struct rados_library *lib, struct object_io *io, int result);
/* Waits. */
int rados_ops_untag(const struct rados_library *lib, rados_ioctx_t ioctx, const char *name,
		    const char *tag);

#endif
