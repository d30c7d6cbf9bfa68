/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/layout.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/kept.h"
#include "common/util.h"

static const struct layout {
	const char *name; /* what names begin with that end in a number or in a dot and more */
	uint32_t oldest, version;
} layouts[] = {
	{ "sessions", LAYOUT_SESSIONS_OLDEST, LAYOUT_SESSIONS },
	{ "events", LAYOUT_EVENTS_OLDEST, LAYOUT_EVENTS },
	{ "slots", LAYOUT_SLOTS, LAYOUT_SLOTS },
	{ "staging", LAYOUT_STAGING, LAYOUT_STAGING },
	{ "staged", LAYOUT_STAGING, LAYOUT_STAGING },
	{ "blobs", LAYOUT_BLOBS, LAYOUT_BLOBS },
	{ "dictionaries", LAYOUT_DICTIONARIES, LAYOUT_DICTIONARIES },
	{ "domains", LAYOUT_DOMAINS, LAYOUT_DOMAINS },
	{ "segments", LAYOUT_SEGMENTS_OLDEST, LAYOUT_SEGMENTS },
	{ "store", LAYOUT_MEMORY_OLDEST, LAYOUT_MEMORY },
	{ "objects", LAYOUT_OBJECTS, LAYOUT_OBJECTS },
	{ "rados", LAYOUT_OBJECTS, LAYOUT_OBJECTS },
	{ "tiers", LAYOUT_TIERS, LAYOUT_TIERS },
};

static const struct layout *layout_of(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(layouts); i++) {
		size_t len = strlen(layouts[i].name);

		if (strncmp(name, layouts[i].name, len) == 0 && (!name[len] || strchr(".0123456789", name[len])))
			return &layouts[i];
	}
	return NULL;
}

int layout_check(char *message)
{
	const char *name;
	uint32_t version;

	for (unsigned i = 0; kept_nth_fd(i, &name) >= 0; i++) {
		const struct layout *l = layout_of(name);

		version = kept_version(name);
		if (!version || (l && version >= l->oldest && version <= l->version))
			continue; /* not a file; one that can be read */
		if (l && version < l->oldest)
			snprintf(message, LAYOUT_MESSAGE,
				 "the programs attached were served by an agent too old for this one to go on (%s: version "
				 "%u, the oldest known is %u): start that one again, and drain it before this one is to run",
				 name, version, l->oldest);
		else
			snprintf(message, LAYOUT_MESSAGE,
				 "the programs attached were served by a newer agent, whose memory this one can't read (%s: "
				 "version %u, the newest known is %u): start that one again, and drain it before this one is "
				 "to run", name, version, l ? l->version : 0);
		return -ENOTSUP;
	}
	return 0;
}
