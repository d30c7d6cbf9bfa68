/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "proc/handshake.h"

#include <string.h>

#include "common/util.h"
#include "page/slotmap.h"

#define ADDRESS_END (SLOTMAP_VPN_MAX << PAGE_SHIFT)
#define TRANSIT_BYTES ((uint64_t)WIRE_TRANSIT_PAGES * PAGE_BYTES)

bool handshake_is_hello(const void *packet, size_t size)
{
	struct wire_hello m;

	if (size != sizeof(m))
		return false;
	memcpy(&m, packet, sizeof(m));
	return m.head.magic == WIRE_MAGIC && m.head.type == WIRE_HELLO &&
	       (m.kind == WIRE_NEW || m.kind == WIRE_CHILD || m.kind == WIRE_AGAIN);
}

static bool range_is_sane(uint64_t start, uint64_t end)
{
	return start < end && end <= ADDRESS_END && !((start | end) & (PAGE_BYTES - 1));
}

static bool is_never(const struct wire_attach *m, uint64_t start, uint64_t bytes)
{
	if (!range_is_sane(start, start + bytes))
		return false;
	for (unsigned i = 0; i < m->nr_never; i++)
		if (m->never[i].start <= start && start + bytes <= m->never[i].end)
			return true;
	return false;
}

bool handshake_is_attach(const void *packet, size_t size)
{
	struct wire_attach m;

	if (size != sizeof(m))
		return false;
	memcpy(&m, packet, sizeof(m));
	if (m.head.magic != WIRE_MAGIC || m.head.version != WIRE_VERSION ||
	    m.head.type != WIRE_ATTACH || m.nr_never > WIRE_NEVER_MAX)
		return false;
	for (unsigned i = 0; i < m.nr_never; i++)
		if (!range_is_sane(m.never[i].start, m.never[i].end))
			return false;
	return is_never(&m, m.transit, TRANSIT_BYTES) && is_never(&m, m.identity, PAGE_BYTES);
}
