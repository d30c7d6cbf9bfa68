# SPDX-License-Identifier: GPL-2.0-or-later
# What every layer may use.
noinst_LIBRARIES += common/libcommon.a
common_libcommon_a_SOURCES = \
	common/crc32c.c \
	common/crc32c.h \
	common/fdpass.c \
	common/fdpass.h \
	common/inject.c \
	common/inject.h \
	common/kept.c \
	common/kept.h \
	common/layout.c \
	common/layout.h \
	common/log.c \
	common/log.h \
	common/mailbox.c \
	common/mailbox.h \
	common/reaper.c \
	common/reaper.h \
	common/units.c \
	common/units.h \
	common/util.h \
	common/watch.h \
	common/wire.h \
	uapi/uswap_uapi.h
