/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "page/seal.h"

#include <errno.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <string.h>
#include <sys/random.h>

#include "common/crc32c.h"
#include "common/util.h"

#define NONCE 12

struct seal {
	struct seal_key key;
	uint8_t open_id[SEAL_ID]; /* of the key that `open` has */
	EVP_CIPHER_CTX *close, *open;
};

static int fill_random(void *bytes, size_t len)
{
	return getrandom(bytes, len, 0) == (ssize_t)len ? 0 : -EIO;
}

int seal_hash(const void *secret, size_t len, const char *purpose, const void *text, size_t text_len,
	      uint8_t hash[SEAL_HASH])
{
	unsigned char all[128];
	size_t n = strlen(purpose) + 1;
	unsigned int got = 0;

	if (!len || len > INT32_MAX || n + text_len > sizeof(all))
		return -EINVAL;
	memcpy(all, purpose, n);
	if (text_len)
		memcpy(all + n, text, text_len);
	return HMAC(EVP_sha256(), secret, (int)len, all, n + text_len, hash, &got) && got == SEAL_HASH ?
		       0 : -EINVAL;
}

int seal_key_derive(struct seal_key *key, const void *secret, size_t len, const uint8_t id[SEAL_ID])
{
	_Static_assert(SEAL_KEY == SEAL_HASH, "the hash is the key");

	if (seal_hash(secret, len, "uswap segments 1", id, SEAL_ID, key->key))
		return -EINVAL;
	memmove(key->id, id, SEAL_ID);
	key->cipher = SEAL_AES_256_GCM;
	return 0;
}

int seal_key_make(struct seal_key *key, const void *secret, size_t len)
{
	int r = fill_random(key->id, sizeof(key->id));

	if (r)
		return r;
	if (len)
		return seal_key_derive(key, secret, len, key->id);
	key->cipher = SEAL_AES_256_GCM;
	return fill_random(key->key, sizeof(key->key));
}

struct seal *seal_new(const struct seal_key *key)
{
	struct seal *seal = calloc(1, sizeof(*seal));

	if (!seal)
		return NULL;
	seal->key = *key;
	memcpy(seal->open_id, key->id, SEAL_ID);
	if (key->cipher == SEAL_NONE)
		return seal;
	seal->close = EVP_CIPHER_CTX_new();
	seal->open = EVP_CIPHER_CTX_new();
	/* The key's schedule once; each call brings its nonce only. */
	if (seal->close && seal->open &&
	    EVP_EncryptInit_ex(seal->close, EVP_aes_256_gcm(), NULL, key->key, NULL) == 1 &&
	    EVP_DecryptInit_ex(seal->open, EVP_aes_256_gcm(), NULL, key->key, NULL) == 1)
		return seal;
	return seal_free(seal);
}

struct seal *seal_free(struct seal *seal)
{
	if (!seal)
		return NULL;
	EVP_CIPHER_CTX_free(seal->close);
	EVP_CIPHER_CTX_free(seal->open);
	explicit_bzero(&seal->key, sizeof(seal->key));
	free(seal);
	return NULL;
}

int seal_open_with(struct seal *seal, const struct seal_key *key)
{
	if (memcmp(seal->open_id, key->id, SEAL_ID) == 0)
		return 0;
	if (!seal->open || EVP_DecryptInit_ex(seal->open, NULL, NULL, key->key, NULL) != 1)
		return -EIO;
	memcpy(seal->open_id, key->id, SEAL_ID);
	return 0;
}

const struct seal_key *seal_key_of(const struct seal *seal)
{
	return &seal->key;
}

static void make_nonce(unsigned char nonce[NONCE], uint64_t serial, uint32_t offset)
{
	memcpy(nonce, &serial, sizeof(serial)); /* little-endian, as the host is */
	memcpy(nonce + sizeof(serial), &offset, sizeof(offset));
}

static void checksum(uint64_t serial, uint32_t offset, const void *extra, size_t extra_len,
		     const void *plain, size_t len, unsigned char tag[SEAL_TAG])
{
	unsigned char nonce[NONCE];
	uint32_t crc;

	make_nonce(nonce, serial, offset);
	crc = crc32c(0, nonce, sizeof(nonce));
	crc = crc32c(crc, extra, extra_len);
	crc = crc32c(crc, plain, len);
	memset(tag, 0, SEAL_TAG);
	memcpy(tag, &crc, sizeof(crc));
}

int seal_close(struct seal *seal, uint64_t serial, uint32_t offset, const void *extra,
	       size_t extra_len, const void *plain, size_t len, void *to, void *tag)
{
	unsigned char nonce[NONCE];
	int n = 0;

	assert(len <= INT32_MAX && extra_len <= INT32_MAX);
	if (seal->key.cipher == SEAL_NONE) {
		checksum(serial, offset, extra, extra_len, plain, len, tag);
		memmove(to, plain, len);
		return 0;
	}
	make_nonce(nonce, serial, offset);
	if (EVP_EncryptInit_ex(seal->close, NULL, NULL, NULL, nonce) != 1 ||
	    (extra_len && EVP_EncryptUpdate(seal->close, NULL, &n, extra, (int)extra_len) != 1) ||
	    EVP_EncryptUpdate(seal->close, to, &n, plain, (int)len) != 1 || n != (int)len ||
	    EVP_EncryptFinal_ex(seal->close, (unsigned char *)to + len, &n) != 1 ||
	    EVP_CIPHER_CTX_ctrl(seal->close, EVP_CTRL_GCM_GET_TAG, SEAL_TAG, tag) != 1)
		return -EIO;
	return 0;
}

int seal_open(struct seal *seal, uint64_t serial, uint32_t offset, const void *extra,
	      size_t extra_len, const void *from, size_t len, void *plain, const void *tag)
{
	unsigned char nonce[NONCE], want[SEAL_TAG];
	int n = 0;

	assert(len <= INT32_MAX && extra_len <= INT32_MAX);
	if (seal->key.cipher == SEAL_NONE) {
		checksum(serial, offset, extra, extra_len, from, len, want);
		memmove(plain, from, len);
		return memcmp(want, tag, SEAL_TAG) ? -EBADMSG : 0;
	}
	memcpy(want, tag, SEAL_TAG);
	make_nonce(nonce, serial, offset);
	if (EVP_DecryptInit_ex(seal->open, NULL, NULL, NULL, nonce) != 1 ||
	    (extra_len && EVP_DecryptUpdate(seal->open, NULL, &n, extra, (int)extra_len) != 1) ||
	    EVP_DecryptUpdate(seal->open, plain, &n, from, (int)len) != 1 || n != (int)len ||
	    EVP_CIPHER_CTX_ctrl(seal->open, EVP_CTRL_GCM_SET_TAG, SEAL_TAG, want) != 1 ||
	    EVP_DecryptFinal_ex(seal->open, (unsigned char *)plain + len, &n) != 1)
		return -EBADMSG;
	return 0;
}
