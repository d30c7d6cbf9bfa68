/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * content: what the workloads put into their pages. The bytes of a page follow
 * from one 64-bit key alone, so a page can be checked at any time, by anybody
 * who knows its key, without keeping a copy. Keys pick among the shapes that a
 * pager treats differently: heap-like records, pointers, small integers (about
 * a third of their size after zstd), same-filled pages, duplicates, pages that
 * don't compress. Needs only the C library; bench/ includes it too.
 */
#ifndef USWAP_TEST_CONTENT_H
#define USWAP_TEST_CONTENT_H

#include <stdint.h>
#include <string.h>

#define CONTENT_PAGE 4096u

enum content_kind {
	CONTENT_TEXT,	  /* JSON records */
	CONTENT_OBJECTS,  /* pointers with shared high bytes, lengths, flags */
	CONTENT_INTEGERS, /* small numbers in 8-byte words */
	CONTENT_ZERO,	  /* all bytes zero */
	CONTENT_FILL,	  /* one 32-bit pattern */
	CONTENT_STRIPES,  /* one 16-byte pattern: not same-filled, but tiny */
	CONTENT_TWIN,	  /* one of eight pages: duplicates */
	CONTENT_SPARSE,	  /* a few bytes in zeros, the last one among them */
	CONTENT_NOISE,	  /* incompressible */
	CONTENT_MIX,	  /* content_page(): one of the above, by key */
};

static inline uint64_t content_mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15ull;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

/* The key of page index, in its generation-th version, of the area seed. */
static inline uint64_t content_key(uint64_t seed, uint64_t index, uint64_t generation)
{
	return content_mix(content_mix(content_mix(seed) ^ index) ^ generation);
}

static inline uint64_t content_next(uint64_t *state)
{
	*state += 0x9e3779b97f4a7c15ull;
	return content_mix(*state);
}

static inline unsigned char *content_put(unsigned char *at, const unsigned char *end,
					 const char *text)
{
	while (*text && at < end)
		*at++ = (unsigned char)*text++;
	return at;
}

static inline unsigned char *content_digits(unsigned char *at, const unsigned char *end,
					    uint64_t value, unsigned base, unsigned digits)
{
	while (digits-- && at < end) {
		*at++ = (unsigned char)"0123456789abcdef"[value % base];
		value /= base;
	}
	return at;
}

static inline void content_text(unsigned char *page, uint64_t state)
{
	static const char *const word[16] = {
		"amber", "birch", "copper", "delta",  "ember", "falcon", "granite", "harbor",
		"iris",	 "juniper", "kestrel", "lumen", "maple", "nickel", "orchid",  "pepper",
	};
	unsigned char *at = page, *end = page + CONTENT_PAGE;

	while (at < end) {
		uint64_t r = content_next(&state), s = content_next(&state);

		at = content_put(at, end, "{\"id\":");
		at = content_digits(at, end, r >> 24, 10, 9);
		at = content_put(at, end, ",\"name\":\"");
		at = content_put(at, end, word[r & 15]);
		at = content_put(at, end, " ");
		at = content_put(at, end, word[(r >> 4) & 15]);
		at = content_put(at, end, "\",\"token\":\"");
		at = content_digits(at, end, s, 16, 12);
		at = content_put(at, end, "\",\"balance\":");
		at = content_digits(at, end, s >> 50, 10, 4);
		at = content_put(at, end, s >> 63 ? ",\"active\":true" : ",\"active\":false");
		at = content_put(at, end, ",\"tags\":[\"");
		at = content_put(at, end, word[(r >> 8) & 15]);
		at = content_put(at, end, "\",\"");
		at = content_put(at, end, word[(r >> 12) & 15]);
		at = content_put(at, end, "\"]}\n");
	}
}

static inline void content_objects(unsigned char *page, uint64_t state)
{
	uint64_t word[4], base = 0x00007f0000000000ull | (content_next(&state) & 0xffff000000ull);
	unsigned i;

	for (i = 0; i < CONTENT_PAGE; i += sizeof(word)) {
		uint64_t r = content_next(&state);

		word[0] = base + 0x1a40;			/* a type */
		word[1] = base + ((r & 0xfffff) << 4);		/* the next one */
		word[2] = (r >> 20 & 7) + 1;			/* references */
		word[3] = (r >> 24 & 0xff) << 32 | (r >> 40 & 0x3ff); /* flags, length */
		memcpy(page + i, word, sizeof(word));
	}
}

static inline void content_integers(unsigned char *page, uint64_t state)
{
	unsigned i;

	for (i = 0; i < CONTENT_PAGE; i += 8) {
		uint64_t r = content_next(&state), value = r & 0xffff;

		if ((r >> 60) == 0)
			value = r >> 20;
		memcpy(page + i, &value, sizeof(value));
	}
}

static inline void content_repeat(unsigned char *page, const void *pattern, unsigned size)
{
	unsigned i;

	for (i = 0; i < CONTENT_PAGE; i += size)
		memcpy(page + i, pattern, size);
}

static inline void content_noise(unsigned char *page, uint64_t state)
{
	unsigned i;

	for (i = 0; i < CONTENT_PAGE; i += 8) {
		uint64_t r = content_next(&state);

		memcpy(page + i, &r, sizeof(r));
	}
}

static inline void content_sparse(unsigned char *page, uint64_t state)
{
	unsigned i;

	memset(page, 0, CONTENT_PAGE);
	for (i = 0; i < 16; i++) {
		uint64_t r = content_next(&state);

		page[r % CONTENT_PAGE] = (unsigned char)(r >> 32);
	}
	page[CONTENT_PAGE - 1] = (unsigned char)(state >> 8) | 1;
}

static inline enum content_kind content_kind(uint64_t key)
{
	static const unsigned char kind[16] = {
		CONTENT_TEXT,	  CONTENT_TEXT,	    CONTENT_TEXT,    CONTENT_TEXT,
		CONTENT_OBJECTS,  CONTENT_OBJECTS,  CONTENT_OBJECTS, CONTENT_OBJECTS,
		CONTENT_INTEGERS, CONTENT_INTEGERS, CONTENT_ZERO,    CONTENT_FILL,
		CONTENT_STRIPES,  CONTENT_TWIN,	    CONTENT_SPARSE,  CONTENT_NOISE,
	};

	return (enum content_kind)kind[key >> 60];
}

static inline void content_page_of(unsigned char *page, uint64_t key, enum content_kind kind)
{
	uint64_t state = content_mix(key), pattern[2];

	pattern[0] = content_mix(state);
	pattern[1] = content_mix(pattern[0]);
	switch (kind) {
	case CONTENT_TEXT:
		content_text(page, state);
		return;
	case CONTENT_OBJECTS:
		content_objects(page, state);
		return;
	case CONTENT_INTEGERS:
		content_integers(page, state);
		return;
	case CONTENT_ZERO:
		memset(page, 0, CONTENT_PAGE);
		return;
	case CONTENT_FILL:
		content_repeat(page, pattern, 4);
		return;
	case CONTENT_STRIPES:
		content_repeat(page, pattern, 16);
		return;
	case CONTENT_TWIN:
		content_text(page, key & 7);
		return;
	case CONTENT_SPARSE:
		content_sparse(page, state);
		return;
	case CONTENT_NOISE:
		content_noise(page, state);
		return;
	case CONTENT_MIX:
		break;
	}
	content_page_of(page, key, content_kind(key));
}

static inline void content_page(unsigned char *page, uint64_t key)
{
	content_page_of(page, key, content_kind(key));
}

#endif
