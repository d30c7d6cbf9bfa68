# SPDX-License-Identifier: GPL-2.0-or-later
# Stores: carriers of segments. They know nothing of pages or processes.
noinst_LIBRARIES += backends/libbackends.a
backends_libbackends_a_SOURCES = \
	backends/faulty.c \
	backends/faulty.h \
	backends/memory.c \
	backends/rados_stub.c \
	backends/spec.c \
	backends/store.c \
	backends/store.h
