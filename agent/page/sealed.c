/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "page/sealed.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

#include "common/crc32c.h"
#include "common/util.h"

#define MAGIC "USB1"
#define ALIGNMENT ((uint32_t)4096)

/* ---- the header, field by field; little-endian ---- */

enum { /* offsets */
	AT_MAGIC = 0,
	AT_VERSION = 4,
	AT_HEADER_BYTES = 6,
	AT_NR_RECORDS = 8,
	AT_USED = 12,
	AT_BATCH = 16,
	AT_CRC = 20, /* of header and table, with zeros here */
	AT_SERIAL = 24,
	AT_KEY_ID = 32,
	AT_MACHINE = 48,
	AT_CIPHER = 64,
	AT_DOMAIN = 68,
	AT_TABLE_TAG = 72,
	AT_RESERVED = 88, /* zeros */
};

static void put16(unsigned char *at, uint16_t v)
{
	v = htole16(v);
	memcpy(at, &v, sizeof(v));
}

static void put32(unsigned char *at, uint32_t v)
{
	v = htole32(v);
	memcpy(at, &v, sizeof(v));
}

static void put64(unsigned char *at, uint64_t v)
{
	v = htole64(v);
	memcpy(at, &v, sizeof(v));
}

static uint16_t get16(const unsigned char *at)
{
	uint16_t v;

	memcpy(&v, at, sizeof(v));
	return le16toh(v);
}

static uint32_t get32(const unsigned char *at)
{
	uint32_t v;

	memcpy(&v, at, sizeof(v));
	return le32toh(v);
}

static uint64_t get64(const unsigned char *at)
{
	uint64_t v;

	memcpy(&v, at, sizeof(v));
	return le64toh(v);
}

static void write_header(const struct sealed_header *h, unsigned char *to)
{
	memset(to, 0, SEALED_HEADER);
	memcpy(to + AT_MAGIC, MAGIC, 4);
	put16(to + AT_VERSION, SEALED_VERSION);
	put16(to + AT_HEADER_BYTES, SEALED_HEADER);
	put32(to + AT_NR_RECORDS, h->nr_records);
	put32(to + AT_USED, h->used);
	put32(to + AT_BATCH, h->batch);
	put64(to + AT_SERIAL, h->serial);
	memcpy(to + AT_KEY_ID, h->key_id, SEAL_ID);
	memcpy(to + AT_MACHINE, h->machine, sizeof(h->machine));
	to[AT_CIPHER] = h->cipher;
	put32(to + AT_DOMAIN, h->domain);
}

/* Of what the header says before its tag: authenticated with the table. */
#define AUTHENTICATED AT_TABLE_TAG

static uint32_t checksum(const unsigned char *bytes, uint32_t end)
{
	static const unsigned char zeros[4];
	uint32_t crc = crc32c(0, bytes, AT_CRC);

	crc = crc32c(crc, zeros, sizeof(zeros));
	return crc32c(crc, bytes + AT_CRC + 4, end - AT_CRC - 4);
}

/* ---- writing ---- */

static uint32_t segment_offset(const struct sealed_header *h, uint32_t offset)
{
	return h->batch * SEALED_BATCH + offset;
}

static int write_frames(struct seal *seal, const struct sealed_header *h, struct sealed_frame *frames,
			unsigned char *to)
{
	uint32_t offset = sealed_table_end(h);
	unsigned char *record = to + SEALED_HEADER;

	for (uint32_t i = 0; i < h->nr_records; i++, record += SEALED_RECORD) {
		struct sealed_frame *f = &frames[i];
		int r = seal_close(seal, h->serial, segment_offset(h, offset), NULL, 0, f->bytes, f->len,
				   to + offset, to + offset + f->len);

		if (r)
			return r;
		f->offset = offset;
		put64(record, f->hash);
		put32(record + 8, f->id);
		put32(record + 12, offset);
		put16(record + 16, f->len);
		put16(record + 18, f->kind);
		put32(record + 20, 0);
		offset += f->len + SEAL_TAG;
	}
	assert(offset == h->used);
	return 0;
}

int sealed_write(struct seal *seal, struct sealed_header *h, struct sealed_frame *frames, uint32_t n,
		 void *to)
{
	const struct seal_key *key = seal_key_of(seal);
	uint64_t bytes = 0, used;
	unsigned char *b = to;
	int r;

	for (uint32_t i = 0; i < n; i++) {
		assert(frames[i].len >= SEALED_FRAME_MIN && frames[i].len <= SEALED_FRAME_MAX);
		bytes += frames[i].len;
	}
	used = sealed_size(n, bytes);
	assert(n && used <= SEALED_BATCH && h->batch < SEALED_BATCHES);
	h->version = SEALED_VERSION;
	h->nr_records = n;
	h->used = (uint32_t)used;
	h->cipher = key->cipher;
	memcpy(h->key_id, key->id, SEAL_ID);
	write_header(h, b);
	r = write_frames(seal, h, frames, b);
	if (!r)
		r = seal_close(seal, h->serial, segment_offset(h, SEALED_HEADER), b, AUTHENTICATED,
			       b + SEALED_HEADER, n * SEALED_RECORD, b + SEALED_HEADER, h->table_tag);
	if (r)
		return r;
	memcpy(b + AT_TABLE_TAG, h->table_tag, SEAL_TAG);
	put32(b + AT_CRC, checksum(b, sealed_table_end(h)));
	memset(b + used, 0, (ALIGNMENT - used % ALIGNMENT) % ALIGNMENT);
	return 0;
}

/* ---- reading ---- */

static bool is_zero(const unsigned char *bytes, size_t len)
{
	while (len--)
		if (*bytes++)
			return false;
	return true;
}

int sealed_read_header(const void *bytes, size_t len, struct sealed_header *h)
{
	const unsigned char *b = bytes;

	if (len < SEALED_HEADER || memcmp(b + AT_MAGIC, MAGIC, 4))
		return -EBADMSG;
	*h = (struct sealed_header){
		.version = get16(b + AT_VERSION),
		.cipher = b[AT_CIPHER],
		.nr_records = get32(b + AT_NR_RECORDS),
		.used = get32(b + AT_USED),
		.batch = get32(b + AT_BATCH),
		.domain = get32(b + AT_DOMAIN),
		.serial = get64(b + AT_SERIAL),
	};
	if (h->version != SEALED_VERSION)
		return -EPROTONOSUPPORT;
	memcpy(h->key_id, b + AT_KEY_ID, SEAL_ID);
	memcpy(h->machine, b + AT_MACHINE, sizeof(h->machine));
	memcpy(h->table_tag, b + AT_TABLE_TAG, SEAL_TAG);
	if (get16(b + AT_HEADER_BYTES) != SEALED_HEADER || h->cipher > SEAL_AES_256_GCM ||
	    !is_zero(b + AT_CIPHER + 1, 3) || !is_zero(b + AT_RESERVED, SEALED_HEADER - AT_RESERVED) ||
	    h->batch >= SEALED_BATCHES || !h->nr_records || h->nr_records > SEALED_RECORDS_MAX ||
	    h->used > SEALED_BATCH || h->used < sealed_size(h->nr_records, h->nr_records))
		return -EBADMSG;
	if (len >= sealed_table_end(h) && checksum(b, sealed_table_end(h)) != get32(b + AT_CRC))
		return -EBADMSG;
	return 0;
}

void sealed_get_record(const void *table, uint32_t i, struct sealed_record *record)
{
	const unsigned char *at = (const unsigned char *)table + (size_t)i * SEALED_RECORD;

	*record = (struct sealed_record){
		.hash = get64(at),
		.id = get32(at + 8),
		.offset = get32(at + 12),
		.len = get16(at + 16),
		.kind = get16(at + 18),
	};
}

int sealed_read_table(struct seal *seal, const struct seal_key *key, const void *bytes,
		      const struct sealed_header *h, void *table)
{
	unsigned char extra[AUTHENTICATED];
	const unsigned char *b = bytes;
	struct sealed_record record;
	uint32_t at = sealed_table_end(h);

	if (h->cipher != key->cipher || memcmp(h->key_id, key->id, SEAL_ID) || seal_open_with(seal, key))
		return -EBADMSG;
	memcpy(extra, b, sizeof(extra));
	memset(extra + AT_CRC, 0, 4); /* it was not known when the tag was made */
	if (seal_open(seal, h->serial, segment_offset(h, SEALED_HEADER), extra, sizeof(extra),
		      b + SEALED_HEADER, h->nr_records * SEALED_RECORD, table, h->table_tag))
		return -EBADMSG;
	/* One behind the other, without a gap: so none can overlap. */
	for (uint32_t i = 0; i < h->nr_records; i++) {
		sealed_get_record(table, i, &record);
		if (record.offset != at || record.len < SEALED_FRAME_MIN || record.len > SEALED_FRAME_MAX ||
		    (uint32_t)record.len + SEAL_TAG > h->used - at)
			return -EBADMSG;
		at += record.len + SEAL_TAG;
	}
	return at == h->used ? 0 : -EBADMSG;
}

int sealed_read_frame(struct seal *seal, uint64_t serial, uint32_t offset, const void *bytes, uint32_t len,
		      void *frame)
{
	return seal_open(seal, serial, offset, NULL, 0, bytes, len, frame, (const unsigned char *)bytes + len);
}
