# SPDX-License-Identifier: GPL-2.0-or-later
# Stores: carriers of segments. They know nothing of pages or processes.
noinst_LIBRARIES += backends/libbackends.a
backends_libbackends_a_SOURCES = \
	backends/faulty.c \
	backends/faulty.h \
	backends/file.c \
	backends/file.h \
	backends/file_read.c \
	backends/file_super.c \
	backends/memory.c \
	backends/objects.c \
	backends/objects_collect.c \
	backends/objects.h \
	backends/objects_keep.c \
	backends/objects_private.h \
	backends/objects_read.c \
	backends/objects_share.c \
	backends/objects_write.c \
	backends/objstore.h \
	backends/rados_spec.c \
	backends/rados_spec.h \
	backends/spec.c \
	backends/store.c \
	backends/store.h
if HAVE_RADOS
backends_libbackends_a_SOURCES += \
	backends/rados.c \
	backends/rados_connection.c \
	backends/rados_connection.h \
	backends/rados_library.c \
	backends/rados_library.h \
	backends/rados_ops.c \
	backends/rados_ops.h
else
backends_libbackends_a_SOURCES += backends/rados_stub.c
endif
