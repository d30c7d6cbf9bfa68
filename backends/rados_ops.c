/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Tags are kept by the object class "refcount" of the OSDs. Its wildcard, the
 * empty tag, is on every object that has no list of tags yet: so the maker's
 * needs no operation of its own. Who takes off another tag must not take the
 * wildcard for it, or a repeated call would take the maker's.
 */
#include "backends/rados_ops.h"

#include <errno.h>
#include <string.h>

#include "backends/store.h"
#include "common/util.h"

/* ---- what the class wants to be told ---- */

#define TAG_MAX 128
#define TAG_CALL (2 + 4 + 4 + TAG_MAX + 1)

static unsigned char *put32(unsigned char *at, size_t v)
{
	for (unsigned i = 0; i < 4; i++)
		*at++ = (unsigned char)(v >> (8 * i));
	return at;
}

/* cls_refcount_get_op and _put_op, version 1. The number of bytes. */
static size_t encode_tag(unsigned char buf[TAG_CALL], const char *tag, bool implicit)
{
	size_t len = strlen(tag);
	unsigned char *at = buf;

	if (len > TAG_MAX)
		return 0;
	*at++ = 1; /* version, and the oldest that understands it */
	*at++ = 1;
	at = put32(at, 4 + len + 1);
	at = put32(at, len);
	memcpy(at, tag, len);
	at += len;
	*at++ = implicit;
	return (size_t)(at - buf);
}

int rados_ops_untag(const struct rados_library *lib, rados_ioctx_t ioctx, const char *name,
		    const char *tag)
{
	unsigned char call[TAG_CALL];
	size_t len = encode_tag(call, tag, !*tag);
	char out[16];
	int r;

	if (!len)
		return -ENAMETOOLONG;
	r = lib->rados_exec(ioctx, name, "refcount", "put", (char *)call, len, out, sizeof(out));
	return r == -EINVAL ? 0 : MIN(r, 0); /* no list, so not that tag */
}

static int write_tag(const struct rados_library *lib, rados_write_op_t op, const char *tag)
{
	unsigned char call[TAG_CALL];
	size_t len = encode_tag(call, tag, true);

	if (!len)
		return -ENAMETOOLONG;
	lib->rados_write_op_assert_exists(op);
	lib->rados_write_op_exec(op, "refcount", "get", (char *)call, len, NULL);
	return 0;
}

/* ---- */

static int build(const struct rados_library *lib, rados_write_op_t op, const struct object_io *io)
{
	const char *value = io->buf;

	switch (io->kind) {
	case OBJECT_CREATE:
		lib->rados_write_op_create(op, LIBRADOS_CREATE_EXCLUSIVE, NULL);
		lib->rados_write_op_set_alloc_hint2(op, STORE_SEGMENT, io->len,
						    LIBRADOS_ALLOC_HINT_FLAG_SEQUENTIAL_WRITE |
							    LIBRADOS_ALLOC_HINT_FLAG_RANDOM_READ |
							    LIBRADOS_ALLOC_HINT_FLAG_APPEND_ONLY |
							    LIBRADOS_ALLOC_HINT_FLAG_INCOMPRESSIBLE);
		break;
	case OBJECT_WRITE:
		lib->rados_write_op_assert_exists(op);
		break;
	case OBJECT_PUT:
		lib->rados_write_op_write_full(op, io->buf, io->len);
		return 0;
	case OBJECT_TAG:
		return write_tag(lib, op, io->key);
	case OBJECT_INDEX_PUT:
		lib->rados_write_op_omap_set(op, &io->key, &value, &io->len, 1);
		return 0;
	case OBJECT_INDEX_REMOVE:
		lib->rados_write_op_omap_rm_keys(op, &io->key, 1);
		return 0;
	default:
		return -EINVAL;
	}
	for (; io; io = io->with)
		lib->rados_write_op_write(op, io->buf, io->len, io->offset);
	lib->rados_write_op_set_flags(op, LIBRADOS_OP_FLAG_FADVISE_DONTNEED);
	return 0;
}

static int start_write(const struct rados_library *lib, rados_ioctx_t ioctx, struct object_io *io)
{
	rados_write_op_t op = lib->rados_create_write_op();
	int r = build(lib, op, io);

	if (r == 0)
		r = lib->rados_aio_write_op_operate(op, ioctx, io->private[0], io->name, NULL,
						    LIBRADOS_OPERATION_NOFLAG);
	lib->rados_release_write_op(op);
	return r;
}

static int start_get(const struct rados_library *lib, rados_ioctx_t ioctx, struct object_io *io)
{
	rados_read_op_t op = lib->rados_create_read_op();
	int r;

	lib->rados_read_op_omap_get_vals_by_keys(op, &io->key, 1, &io->private[2], NULL);
	r = lib->rados_aio_read_op_operate(op, ioctx, io->private[0], io->name, LIBRADOS_OPERATION_NOFLAG);
	lib->rados_release_read_op(op);
	return r;
}

int rados_ops_start(const struct rados_library *lib, rados_ioctx_t ioctx, struct object_io *io)
{
	switch (io->kind) {
	case OBJECT_READ:
		return lib->rados_aio_read(ioctx, io->name, io->private[0], io->buf, io->len, io->offset);
	case OBJECT_INDEX_GET:
		return start_get(lib, ioctx, io);
	default:
		return start_write(lib, ioctx, io);
	}
}

int rados_ops_result(const struct rados_library *lib, struct object_io *io, int result)
{
	char *key = NULL, *value = NULL;
	size_t len = 0;

	if (io->kind != OBJECT_INDEX_GET || result < 0)
		return result;
	lib->rados_omap_get_next(io->private[2], &key, &value, &len);
	if (!key)
		return -ENOENT;
	if (len > io->len)
		return -EBADMSG;
	memcpy(io->buf, value, len);
	return (int)len;
}
