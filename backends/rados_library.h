/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * librados, loaded when a store asks for it: an agent without one does without
 * its 15 MiB too.
 */
#ifndef USWAP_BACKENDS_RADOS_LIBRARY_H
#define USWAP_BACKENDS_RADOS_LIBRARY_H

#include <rados/librados.h>

/* All that we call. */
#define RADOS_CALLS(X) \
	X(rados_aio_cancel) \
	X(rados_aio_create_completion2) \
	X(rados_aio_get_return_value) \
	X(rados_aio_read) \
	X(rados_aio_read_op_operate) \
	X(rados_aio_is_complete) \
	X(rados_aio_release) \
	X(rados_aio_wait_for_complete) \
	X(rados_aio_write_op_operate) \
	X(rados_blocklist_add) \
	X(rados_break_lock) \
	X(rados_buffer_free) \
	X(rados_conf_read_file) \
	X(rados_conf_set) \
	X(rados_connect) \
	X(rados_create2) \
	X(rados_create_read_op) \
	X(rados_create_write_op) \
	X(rados_exec) \
	X(rados_getaddrs) \
	X(rados_ioctx_create) \
	X(rados_ioctx_destroy) \
	X(rados_ioctx_set_namespace) \
	X(rados_list_lockers) \
	X(rados_lock_exclusive) \
	X(rados_nobjects_list_close) \
	X(rados_nobjects_list_next) \
	X(rados_nobjects_list_open) \
	X(rados_omap_get_end) \
	X(rados_omap_get_next) \
	X(rados_read) \
	X(rados_read_op_omap_get_vals_by_keys) \
	X(rados_release_read_op) \
	X(rados_release_write_op) \
	X(rados_remove) \
	X(rados_set_pool_full_try) \
	X(rados_shutdown) \
	X(rados_unlock) \
	X(rados_write_full) \
	X(rados_write_op_assert_exists) \
	X(rados_write_op_create) \
	X(rados_write_op_exec) \
	X(rados_write_op_omap_rm_keys) \
	X(rados_write_op_omap_set) \
	X(rados_write_op_set_alloc_hint2) \
	X(rados_write_op_set_flags) \
	X(rados_write_op_write) \
	X(rados_write_op_write_full)

struct rados_library {
#define RADOS_MEMBER(name) __typeof__(name) *name;
	RADOS_CALLS(RADOS_MEMBER)
#undef RADOS_MEMBER
};

/* NULL, and *error for people, when it is not there. Once loaded, it stays. */
const struct rados_library *rados_library_load(const char **error);

#endif
