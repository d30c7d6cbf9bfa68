/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Values that sd-bus can't read from memory by itself. */
#include <errno.h>
#include <stdint.h>
#include <string.h>

#include "common/util.h"
#include "control/private.h"

#define TEXT_MAX 512

/* Bytes of the well-formed UTF-8 sequence at s; 0: it isn't one. */
static unsigned utf8_length(const unsigned char *s)
{
	unsigned n = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
	uint32_t code;

	if (s[0] < 0x80)
		return s[0] >= 0x20 && s[0] != 0x7f;
	if (s[0] < 0xc2 || s[0] > 0xf4)
		return 0;
	code = s[0] & (0xffu >> (n + 1));
	for (unsigned i = 1; i < n; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
		code = code << 6 | (s[i] & 0x3f);
	}
	/* below 0xa0: control characters, too */
	if ((n == 2 && code < 0xa0) || (n == 3 && code < 0x800) || (n == 4 && code < 0x10000) || code > 0x10ffff ||
	    (code >= 0xd800 && code < 0xe000))
		return 0;
	return n;
}

/* D-Bus strings must be UTF-8, and a program may call itself what it likes. */
int append_text(sd_bus_message *m, const char *text)
{
	const unsigned char *s = (const unsigned char *)text;
	char clean[TEXT_MAX];
	size_t used = 0;
	unsigned n;

	while (*s && used + 4 < sizeof(clean)) {
		n = utf8_length(s);
		if (n == 0) {
			clean[used++] = '?';
			s++;
			continue;
		}
		memcpy(clean + used, s, n);
		used += n;
		s += n;
	}
	clean[used] = '\0';
	return sd_bus_message_append_basic(m, 's', clean);
}

int append_entry(sd_bus_message *m, const char *name, const char *type, const void *value)
{
	int r = sd_bus_message_open_container(m, 'e', "sv");

	if (r >= 0)
		r = sd_bus_message_append_basic(m, 's', name);
	if (r >= 0)
		r = sd_bus_message_open_container(m, 'v', type);
	if (r >= 0)
		r = *type == 's' ? append_text(m, value) :
				   sd_bus_message_append_basic(m, *type, value);
	if (r >= 0)
		r = sd_bus_message_close_container(m);
	return r < 0 ? r : sd_bus_message_close_container(m);
}

int get_usec(sd_bus *bus, const char *path, const char *interface, const char *property,
	     sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
	return sd_bus_message_append(reply, "t", *(const uint64_t *)userdata / NSEC_PER_USEC);
}

int get_text(sd_bus *bus, const char *path, const char *interface, const char *property,
	     sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
	return append_text(reply, userdata);
}

/* (upper bound in ns, faults) of each bucket that isn't empty. */
int get_histogram(sd_bus *bus, const char *path, const char *interface, const char *property,
		  sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
	const uint64_t *bucket = userdata;
	int r = sd_bus_message_open_container(reply, 'a', "(tt)");

	for (unsigned i = 0; r >= 0 && i < ENGINE_LATENCY_BUCKETS; i++)
		if (bucket[i])
			r = sd_bus_message_append(reply, "(tt)", engine_latency_bound_ns(i),
						  bucket[i]);
	return r < 0 ? r : sd_bus_message_close_container(reply);
}

int property_read(struct control *control, sd_bus_message *value, char type, void *into,
		  sd_bus_error *error)
{
	int r = access_check(control, value, error);

	return r < 0 ? r : sd_bus_message_read_basic(value, type, into);
}

int property_set(struct control *control, const char *path, const char *interface,
		 const char *property, int status, sd_bus_error *error)
{
	if (status < 0)
		return order_error(status, error);
	control_property_changed(control, path, interface, property);
	return 0;
}
