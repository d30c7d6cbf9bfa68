/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Dictionaries between hosts (blobstore_share.c). Pages made with one can be read
 * by other hosts if they get it: so before a batch names a dictionary, the
 * dictionary is in the pool, under a name that is made of its content, and in the
 * batch a record says which name belongs to which kind. It is sealed like a batch,
 * in pieces that are as long as a frame may be.
 *
 * What is in the pool goes with the index, by age, and so is told again from time
 * to time. Whoever reads keeps a copy of his own, for as long as a blob is made with
 * it: what becomes of the pool's is nothing to him.
 *
 * A few that were told or read last are remembered here. All of it is the mover's.
 */
#include <errno.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "flow/blobstore_lexicon.h"

#define REMEMBERED 16u
#define TOLD_NS (86400 * NSEC_PER_SEC) /* good for so long; the pool keeps it for a week */
#define MISSING_NS (60 * NSEC_PER_SEC) /* not looked for again before */
#define PIECE ((size_t)4096) /* of a dictionary */
#define PIECES (DICT_BYTES / PIECE)
#define PACKED ((DICT_BYTES + SEALED_HEADER + PIECES * (SEALED_RECORD + SEAL_TAG) + STORE_BLOCK) & ~(STORE_BLOCK - 1))

struct word {
	uint8_t id[STORE_KEY];
	int number;	     /* ours, with a use; -1: none */
	uint64_t told_ns;    /* 0: not */
	uint64_t missing_ns; /* the last time it was not to be had; 0: it was */
	uint64_t used;	     /* 0: this place is free */
};

struct lexicon {
	const unsigned char *secret;
	size_t secret_len;
	struct seal *seal; /* of others' */
	struct word words[REMEMBERED];
	uint64_t clock;
	uint8_t names[LEXICON_NAMES][STORE_KEY]; /* of the batch that is being made */
	unsigned char *packed, *content;
};

struct lexicon *lexicon_new(struct blobstore *bs, const void *secret, size_t len)
{
	struct lexicon *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->secret = secret;
	l->secret_len = len;
	l->seal = seal_new(&bs->key);
	l->packed = aligned_alloc(STORE_BLOCK, PACKED);
	l->content = malloc(DICT_BYTES);
	if (l->seal && l->packed && l->content)
		return l;
	lexicon_free(bs, l);
	return NULL;
}

void lexicon_free(struct blobstore *bs, struct lexicon *l)
{
	if (!l)
		return;
	for (unsigned i = 0; i < REMEMBERED; i++)
		if (l->words[i].used && l->words[i].number >= 0)
			dict_unuse(bs->dicts, (unsigned)l->words[i].number);
	seal_free(l->seal);
	free(l->packed);
	free(l->content);
	free(l);
}

/* Who has not the secret learns nothing from it, and can't make one. */
static bool make_id(const struct lexicon *l, uint32_t uid, const void *content, size_t size, uint8_t id[STORE_KEY])
{
	const XXH128_hash_t hash = XXH3_128bits(content, size);
	uint8_t text[sizeof(uid) + sizeof(hash)], all[SEAL_HASH];

	memcpy(text, &uid, sizeof(uid));
	memcpy(text + sizeof(uid), &hash, sizeof(hash));
	if (seal_hash(l->secret, l->secret_len, "uswap dictionary 1", text, sizeof(text), all))
		return false;
	memcpy(id, all, STORE_KEY);
	return true;
}

/* What is remembered of it; room for it if nothing is. */
static struct word *look_up(struct blobstore *bs, struct lexicon *l, const uint8_t id[STORE_KEY])
{
	struct word *w = &l->words[0];

	for (unsigned i = 0; i < REMEMBERED; i++) {
		if (l->words[i].used && memcmp(l->words[i].id, id, STORE_KEY) == 0) {
			l->words[i].used = ++l->clock;
			return &l->words[i];
		}
		if (l->words[i].used < w->used)
			w = &l->words[i];
	}
	if (w->used && w->number >= 0)
		dict_unuse(bs->dicts, (unsigned)w->number);
	*w = (struct word){ .number = -1, .used = ++l->clock };
	memcpy(w->id, id, STORE_KEY);
	return w;
}

/* ---- ours, for others ---- */

static int pack(struct blobstore *bs, struct lexicon *l, uint32_t uid, const unsigned char *content, size_t size,
		uint32_t *used)
{
	struct sealed_frame pieces[PIECES];
	struct sealed_header header = { .domain = uid };
	uint32_t n = 0;
	int r;

	for (size_t at = 0; at < size; at += PIECE, n++)
		pieces[n] = (struct sealed_frame){ .kind = SEALED_DICT_PIECE,
						   .len = (uint16_t)MIN(size - at, PIECE),
						   .bytes = content + at };
	pthread_mutex_lock(&bs->lock);
	header.serial = blobstore_next_serial(bs);
	pthread_mutex_unlock(&bs->lock);
	r = sealed_write(bs->mover.seal, &header, pieces, n, l->packed);
	*used = header.used;
	return r;
}

/* False: it is not in the pool. */
static bool tell(struct blobstore *bs, struct lexicon *l, struct store *store, uint32_t uid, unsigned kind,
		 uint8_t id[STORE_KEY])
{
	size_t size;
	const void *content = dict_content(bs->dicts, kind - BLOB_DICT, &size);
	struct word *w;
	uint32_t used;

	if (!content || !make_id(l, uid, content, size, id))
		return false;
	w = look_up(bs, l, id);
	if (w->told_ns && now_ns() - w->told_ns < TOLD_NS)
		return true;
	if (pack(bs, l, uid, content, size, &used) ||
	    store_share(store)->put(store_backend(store), id, l->packed, used))
		return false;
	w->told_ns = now_ns();
	return true;
}

uint32_t lexicon_name(struct blobstore *bs, struct lexicon *l, struct store *store, uint32_t uid,
		      struct sealed_frame *frames, uint32_t n)
{
	uint64_t asked[BLOB_KINDS / 64] = { 0 };
	uint32_t named = 0;

	for (uint32_t i = 0; i < n && named < LEXICON_NAMES; i++) {
		unsigned kind = frames[i].kind;

		if (kind < BLOB_DICT || asked[kind / 64] >> kind % 64 & 1)
			continue;
		asked[kind / 64] |= (uint64_t)1 << kind % 64;
		if (!tell(bs, l, store, uid, kind, l->names[named]))
			continue;
		frames[n + named] = (struct sealed_frame){ .hash = kind,
							   .kind = SEALED_DICT_NAME,
							   .len = STORE_KEY,
							   .bytes = l->names[named] };
		named++;
	}
	return named;
}

/* ---- theirs ---- */

/* Into content; its size, or a negative errno. */
static int unpack(struct lexicon *l, size_t len, uint32_t uid)
{
	unsigned char table[PIECES * SEALED_RECORD];
	struct sealed_header header;
	struct sealed_record record;
	struct seal_key key;
	uint32_t size = 0;
	int r = sealed_read_header(l->packed, len, &header);

	if (r || header.used > len || header.nr_records > PIECES || header.domain != uid)
		return -EBADMSG;
	if (seal_key_derive(&key, l->secret, l->secret_len, header.key_id))
		return -EIO;
	r = sealed_read_table(l->seal, &key, l->packed, &header, table);
	for (uint32_t i = 0; !r && i < header.nr_records; i++) {
		sealed_get_record(table, i, &record);
		if (record.kind != SEALED_DICT_PIECE || record.len > PIECE)
			r = -EBADMSG;
		else
			r = sealed_read_frame(l->seal, header.serial, record.offset, l->packed + record.offset,
					      record.len, l->content + size);
		size += record.len;
	}
	explicit_bzero(&key, sizeof(key));
	return r ? r : (int)size;
}

/* One that we have already, with a use. -1: none. */
static int find_ours(struct blobstore *bs, const struct lexicon *l, uint32_t uid, const uint8_t id[STORE_KEY])
{
	uint8_t other[STORE_KEY];
	int found = -1;

	pthread_mutex_lock(&bs->lock);
	for (unsigned i = 0; i < DICT_MAX && found < 0; i++) {
		const struct dict *dict = dict_at(bs->dicts, i);
		size_t size;
		const void *content;

		if (!dict || !atomic_load(&dict->uses)) /* it is about to go */
			continue;
		content = dict_content(bs->dicts, i, &size);
		if (content && make_id(l, uid, content, size, other) && memcmp(other, id, STORE_KEY) == 0)
			found = (int)i;
	}
	if (found >= 0)
		dict_use(bs->dicts, (unsigned)found);
	pthread_mutex_unlock(&bs->lock);
	return found;
}

/* A copy of what the pool has, with a use. -1: it can't be had. */
static int take_theirs(struct blobstore *bs, struct lexicon *l, struct store *store, uint32_t uid,
		       const uint8_t id[STORE_KEY])
{
	uint8_t is[STORE_KEY];
	int n = store_share(store)->get(store_backend(store), id, l->packed, PACKED), size;

	size = n < 0 ? n : unpack(l, (size_t)n, uid);
	if (size <= 0 || !make_id(l, uid, l->content, (size_t)size, is) || memcmp(is, id, STORE_KEY))
		return -1;
	pthread_mutex_lock(&bs->lock);
	n = dict_new(bs->dicts, l->content, (size_t)size);
	pthread_mutex_unlock(&bs->lock);
	return n < 0 ? -1 : n;
}

int lexicon_find(struct blobstore *bs, struct lexicon *l, struct store *store, uint32_t uid,
		 const uint8_t id[STORE_KEY])
{
	struct word *w = look_up(bs, l, id);

	if (w->number < 0)
		w->number = find_ours(bs, l, uid, id);
	if (w->number < 0 && (!w->missing_ns || now_ns() - w->missing_ns > MISSING_NS)) {
		w->number = take_theirs(bs, l, store, uid, id);
		w->missing_ns = w->number < 0 ? now_ns() : 0;
	}
	if (w->number >= 0)
		dict_use(bs->dicts, (unsigned)w->number);
	return w->number;
}
