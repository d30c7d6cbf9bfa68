/* SPDX-License-Identifier: GPL-2.0-or-later */
/* CRC-32C (Castagnoli, reflected, as of iSCSI): catches torn and flipped bytes. */
#ifndef USWAP_CRC32C_H
#define USWAP_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* crc: 0, or what the bytes before gave. */
uint32_t crc32c(uint32_t crc, const void *bytes, size_t len);

#endif
