/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Is a packet from the attach socket well formed? Pure functions of its bytes,
 * so that they can be tested and fuzzed alone. What is true beyond its form
 * (whose descriptors, which process) is checked where it is used.
 */
#ifndef USWAP_PROC_HANDSHAKE_H
#define USWAP_PROC_HANDSHAKE_H

#include <stdbool.h>
#include <stddef.h>

#include "common/wire.h"

/* HELLO of this or another version (the version is answered, not dropped). */
bool handshake_is_hello(const void *packet, size_t size);
/* ATTACH: sane ranges, transit and identity inside those never to touch. */
bool handshake_is_attach(const void *packet, size_t size);

#endif
