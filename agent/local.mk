# SPDX-License-Identifier: GPL-2.0-or-later
# The agent: one library per layer, so that a test links the layers it tests and
# nothing above them. tests/check-layers.sh holds the includes to that order.

noinst_LIBRARIES += agent/libpage.a
agent_libpage_a_SOURCES = \
	agent/page/codec.h \
	agent/page/domain.h \
	agent/page/slot.h \
	agent/page/slotmap.h \
	agent/page/staging.c \
	agent/page/staging.h

noinst_LIBRARIES += agent/libsys.a
agent_libsys_a_SOURCES = \
	agent/sys/pagemap.c \
	agent/sys/pagemap.h \
	agent/sys/uffd.c \
	agent/sys/uffd.h

noinst_LIBRARIES += agent/libproc.a
agent_libproc_a_SOURCES = \
	agent/proc/gate.h \
	agent/proc/ranges.c \
	agent/proc/ranges.h

EXTRA_DIST += \
	agent/flow/blobstore.h

EXTRA_DIST += \
	agent/engine/engine.h \
	agent/engine/settings.h

# In link order: each needs only those after it.
AGENT_LAYERS = \
	agent/libproc.a \
	agent/libpage.a \
	agent/libsys.a \
	common/libcommon.a
