/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A batch of a sealed segment, as it may come from a disk or a cluster: header,
   table and frames are believed only as far as they were checked. */
#include <stdlib.h>
#include <string.h>

#include "common/util.h"
#include "page/codec.h"
#include "page/sealed.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_frames(struct seal *seal, const struct sealed_header *header, const uint8_t *bytes,
			size_t size, const void *table)
{
	static unsigned char frame[SEALED_FRAME_MAX], page[PAGE_BYTES];
	static struct codec *codec;
	struct sealed_record record;

	if (!codec)
		codec = codec_new(-1);
	for (uint32_t i = 0; i < header->nr_records; i++) {
		sealed_get_record(table, i, &record);
		if (record.len > sizeof(frame))
			abort(); /* the table was checked */
		if ((uint64_t)record.offset + record.len + SEAL_TAG > size)
			continue;
		if (sealed_read_frame(seal, header->serial, header->batch * SEALED_BATCH + record.offset,
				      bytes + record.offset, record.len, frame) == 0)
			(void)codec_decompress(codec, page, frame, record.len);
	}
}

static void read_batch(struct seal *seal, const uint8_t *data, size_t size)
{
	struct sealed_header header;
	uint8_t *bytes = malloc(MAX(size, 1u)); /* to its end and not beyond */
	void *table;

	memcpy(bytes, data, size);
	if (sealed_read_header(bytes, size, &header) == 0 && size >= sealed_table_end(&header)) {
		if (header.nr_records > SEALED_RECORDS_MAX)
			abort();
		table = malloc((size_t)header.nr_records * SEALED_RECORD + 1);
		if (sealed_read_table(seal, seal_key_of(seal), bytes, &header, table) == 0)
			read_frames(seal, &header, bytes, size, table);
		free(table);
	}
	free(bytes);
}

/* A right batch with frames of the input's lengths, then damaged where the input
   says: what random bytes never get past the checksums for. */
static void read_damaged(struct seal *seal, const uint8_t *data, size_t size)
{
	static _Alignas(4096) uint8_t batch[SEALED_BATCH];
	struct sealed_header header = { .batch = data[0] % SEALED_BATCHES, .domain = 1, .serial = 1 };
	struct sealed_frame frames[16];
	uint32_t n = data[1] % ARRAY_SIZE(frames) + 1;
	size_t at = 2;

	for (uint32_t i = 0; i < n; i++) {
		uint16_t len = (uint16_t)(at < size ? data[at] + 1 : 1);

		frames[i] = (struct sealed_frame){ .hash = i, .id = i + 1, .kind = 1, .len = len, .bytes = data,
						   .offset = 0 };
		frames[i].len = (uint16_t)MIN(len, size);
		at++;
	}
	if (sealed_write(seal, &header, frames, n, batch) < 0)
		abort();
	for (; at + 2 < size; at += 3)
		batch[(data[at] | data[at + 1] << 8) % 2048u] ^= data[at + 2];
	read_batch(seal, batch, sizeof(batch));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct seal_key key = { .cipher = SEAL_NONE };
	struct seal *seal = seal_new(&key);

	read_batch(seal, data, size);
	if (size > 2)
		read_damaged(seal, data, size);
	seal_free(seal);
	return 0;
}
