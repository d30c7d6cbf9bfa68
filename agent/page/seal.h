/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * seal: bytes that leave the machine's memory are encrypted and authenticated,
 * AES-256-GCM by OpenSSL's libcrypto.
 *
 * The nonce is where the bytes lie: the serial number of the segment and the
 * offset in it. A serial number is given out once under one key and an offset
 * of a segment is written with one content (backends/store.h: a write that is
 * repeated has the same bytes), so no nonce is ever used for two contents.
 * Bytes that were put elsewhere, or exchanged, fail their check.
 *
 * A key serves one boot of one machine. It is random, or derived from KeyFile=
 * and a random salt; key.id (that salt) stands in each batch.
 *
 * Threads: a struct seal belongs to one at a time. Nothing is allocated after
 * seal_new, so seal_open may be used on the fault path.
 */
#ifndef USWAP_PAGE_SEAL_H
#define USWAP_PAGE_SEAL_H

#include <stddef.h>
#include <stdint.h>

#define SEAL_KEY 32
#define SEAL_ID 16
#define SEAL_TAG 16

enum seal_cipher { /* as written in a batch */
	SEAL_NONE = 0, /* the tag is a CRC-32C and zeros: for tests of the format */
	SEAL_AES_256_GCM = 1,
};

struct seal_key {
	uint8_t key[SEAL_KEY];
	uint8_t id[SEAL_ID];
	uint8_t cipher; /* enum seal_cipher */
};

/* Random, or from secret (any length > 0) and a random salt. 0 or -errno. */
int seal_key_make(struct seal_key *key, const void *secret, size_t len);
/* The same from a known salt: another host's, or a test's. */
int seal_key_derive(struct seal_key *key, const void *secret, size_t len, const uint8_t id[SEAL_ID]);

/* HMAC-SHA256 of a purpose and what follows it, under a secret: keys for others
   than segments, and names that tell nothing. 0 or -EINVAL. */
#define SEAL_HASH 32
int seal_hash(const void *secret, size_t len, const char *purpose, const void *text, size_t text_len,
	      uint8_t hash[SEAL_HASH]);

struct seal;

/* NULL on ENOMEM, or if the library refuses. */
struct seal *seal_new(const struct seal_key *key);
struct seal *seal_free(struct seal *seal);
const struct seal_key *seal_key_of(const struct seal *seal);

/* What seal_open takes for the key from now on: another host's, or its own again.
   Cheap when it is so already. 0 or -EIO. */
int seal_open_with(struct seal *seal, const struct seal_key *key);

/* len bytes of plain to len bytes at to and SEAL_TAG bytes at tag; with extra
   bytes that are authenticated only. plain and to may be the same. 0 or -EIO. */
int seal_close(struct seal *seal, uint64_t serial, uint32_t offset, const void *extra,
	       size_t extra_len, const void *plain, size_t len, void *to, void *tag);
/* The reverse; -EBADMSG if anything is not as it was written. */
int seal_open(struct seal *seal, uint64_t serial, uint32_t offset, const void *extra,
	      size_t extra_len, const void *from, size_t len, void *plain, const void *tag);

#endif
