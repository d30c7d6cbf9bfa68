/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/crc32c.h"

#include <string.h>

#define POLYNOMIAL 0x82f63b78u

static uint32_t step(uint32_t crc)
{
	return crc >> 1 ^ (POLYNOMIAL & -(crc & 1));
}

static uint32_t by_bits(uint32_t crc, const unsigned char *p, size_t len)
{
	while (len--) {
		crc ^= *p++;
		for (unsigned i = 0; i < 8; i++)
			crc = step(crc);
	}
	return crc;
}

__attribute__((target("sse4.2"))) static uint32_t by_instruction(uint32_t crc, const unsigned char *p,
								   size_t len)
{
	uint64_t wide = crc, word;

	for (; len >= sizeof(word); p += sizeof(word), len -= sizeof(word)) {
		memcpy(&word, p, sizeof(word));
		wide = __builtin_ia32_crc32di(wide, word);
	}
	crc = (uint32_t)wide;
	while (len--)
		crc = __builtin_ia32_crc32qi(crc, *p++);
	return crc;
}

uint32_t crc32c(uint32_t crc, const void *bytes, size_t len)
{
	crc = ~crc;
	crc = __builtin_cpu_supports("sse4.2") ? by_instruction(crc, bytes, len) : by_bits(crc, bytes, len);
	return ~crc;
}
