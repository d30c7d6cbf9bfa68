/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Dedup between hosts that share a key (KeyFile=) and a place. Before a batch
 * goes down, the index of the place is asked for some of its pages (one of 32,
 * chosen by their hash, so that all hosts choose the same). Where it names a
 * batch of another host, that batch is read, whole, and every page of ours is
 * looked for in it: pages that lie together here lie together there.
 *
 * What is found is believed only when our page and theirs have been compared,
 * byte by byte. Then the segment is borrowed (backends/store.h), and our blobs'
 * locations name places in it: a segment like any other, but that its key is
 * another's and nothing is written to it. It is given back when no blob of ours
 * is left in it; few that are left are copied home, by the mover.
 *
 * All of this is the mover's, in the background. What is slow, stale, forged or
 * not there costs a moment, and the page is stored as if there were nobody else.
 *
 * Dictionaries are put into the pool as well, and a batch names those of its
 * frames (blobstore_lexicon.c). Differences never get there.
 */
#include <errno.h>
#include <string.h>

#include "flow/blobstore_lexicon.h"

#define SAMPLE 32 /* one of so many hashes is in the index */
#define ASKED_MAX 64
#define CACHED 3
#define LOADS_MAX 6 /* batches read for one of ours */
#define BUCKETS 1024u
/* A segment is not borrowed for less. */
#define WORTH ((uint32_t)16 << 10)

/* A batch of another host's. */
struct theirs {
	char where[STORE_WHERE]; /* "": none */
	uint32_t batch;
	uint64_t used;
	struct sealed_header header;
	struct seal_key key;
	unsigned char *bytes, *table;
	uint16_t *next;
	uint16_t buckets[BUCKETS]; /* record plus one */
	uint32_t nr_pages;	   /* records; behind them, dictionaries are named: */
	struct {
		unsigned kind;
		int number; /* our own of the same, with a use */
	} dicts[LEXICON_NAMES];
	unsigned nr_dicts;
	bool to_its_end;	   /* its last page was ours: the next batch may be too */
};

struct found {
	uint32_t frame;	 /* of ours */
	uint32_t record; /* of theirs */
};

struct share {
	unsigned char *secret;
	size_t secret_len;
	struct seal *seal;
	struct codec *codec;
	struct lexicon *lexicon;
	struct theirs cache[CACHED];
	uint64_t clock;
	struct found *found;
	struct store_hint hints[ASKED_MAX];
	bool *gone; /* by frame: it is with another host now */
};

bool share_init(struct blobstore *bs, const void *secret, size_t len)
{
	struct share *s;
	bool any = false;

	for (unsigned i = 1; i < bs->nr_tiers; i++)
		any |= store_share(bs->tiers[i].store) != NULL;
	if (!any || !len)
		return true;
	s = bs->share = calloc(1, sizeof(*s));
	if (!s)
		return false;
	s->secret = malloc(len);
	s->seal = seal_new(&bs->key);
	s->codec = codec_new(1);
	s->found = calloc(SEALED_RECORDS_MAX, sizeof(*s->found));
	s->gone = calloc(SEALED_RECORDS_MAX, sizeof(*s->gone));
	if (!s->secret || !s->seal || !s->codec || !s->found || !s->gone)
		return false;
	memcpy(s->secret, secret, len);
	s->secret_len = len;
	s->lexicon = lexicon_new(bs, s->secret, len);
	if (!s->lexicon)
		return false;
	bs->mover.nr_names = LEXICON_NAMES;
	for (unsigned i = 0; i < CACHED; i++) {
		struct theirs *t = &s->cache[i];

		t->bytes = malloc(SEALED_BATCH);
		t->table = malloc(SEALED_RECORDS_MAX * SEALED_RECORD);
		t->next = calloc(SEALED_RECORDS_MAX, sizeof(*t->next));
		if (!t->bytes || !t->table || !t->next)
			return false;
	}
	return true;
}

/* It is not there any more. */
static void forget_theirs(struct blobstore *bs, struct theirs *t)
{
	for (; t->nr_dicts; t->nr_dicts--)
		dict_unuse(bs->dicts, (unsigned)t->dicts[t->nr_dicts - 1].number);
	t->where[0] = '\0';
	t->to_its_end = false;
}

void share_deinit(struct blobstore *bs)
{
	struct share *s = bs->share;

	if (!s)
		return;
	lexicon_free(bs, s->lexicon);
	for (unsigned i = 0; i < CACHED; i++) {
		forget_theirs(bs, &s->cache[i]);
		explicit_bzero(&s->cache[i].key, sizeof(s->cache[i].key));
		free(s->cache[i].bytes);
		free(s->cache[i].table);
		free(s->cache[i].next);
	}
	if (s->secret)
		explicit_bzero(s->secret, s->secret_len);
	free(s->secret);
	seal_free(s->seal);
	codec_free(s->codec);
	free(s->found);
	free(s->gone);
	free(s);
	bs->share = NULL;
}

/* ---- the index ---- */

/* What another host can make a page of: as it is, or with a dictionary that the
   batch names. */
static bool is_common(const struct outgoing *out, unsigned kind)
{
	for (uint32_t i = 0; kind >= BLOB_DICT && i < out->names; i++)
		if (out->frames[out->n + i].hash == kind)
			return true;
	return kind == BLOB_ZSTD || kind == BLOB_RAW;
}

/* Tells who has not the secret nothing but that two are the same. */
static bool make_hint(const struct share *s, uint32_t uid, uint64_t hash, struct store_hint *hint)
{
	uint8_t text[sizeof(uid) + sizeof(hash)], key[SEAL_HASH];

	memcpy(text, &uid, sizeof(uid));
	memcpy(text + sizeof(uid), &hash, sizeof(hash));
	if (seal_hash(s->secret, s->secret_len, "uswap index 1", text, sizeof(text), key))
		return false;
	*hint = (struct store_hint){ .where = "" };
	memcpy(hint->key, key, STORE_KEY);
	return true;
}

static uint32_t uid_of(const struct blobstore *bs, const struct outgoing *out)
{
	return bs->entries[out->victim].uid;
}

void share_name(struct blobstore *bs, struct outgoing *out)
{
	struct share *s = bs->share;
	struct store *store = bs->tiers[out->to].store;

	out->names = s && store_share(store) ?
			     lexicon_name(bs, s->lexicon, store, uid_of(bs, out), out->frames, out->n) : 0;
}

void share_tell(struct blobstore *bs, const struct outgoing *out)
{
	struct share *s = bs->share;
	struct store *store = bs->tiers[out->to].store;
	unsigned n = 0;

	if (!s || !store_share(store))
		return;
	for (uint32_t i = 0; i < out->n && n < ASKED_MAX; i++) {
		const struct sealed_frame *f = &out->frames[i];

		if (!is_common(out, f->kind) || f->hash % SAMPLE || !make_hint(s, uid_of(bs, out), f->hash, &s->hints[n]))
			continue;
		s->hints[n++].number = out->batch;
	}
	store_publish(store, out->write.segment, s->hints, n);
}

/* ---- a batch of theirs ---- */

static void index_records(struct theirs *t)
{
	struct sealed_record record;

	memset(t->buckets, 0, sizeof(t->buckets));
	for (uint32_t i = t->nr_pages; i-- > 0;) {
		uint16_t *bucket;

		sealed_get_record(t->table, i, &record);
		bucket = &t->buckets[record.hash % BUCKETS];
		t->next[i] = *bucket;
		*bucket = (uint16_t)(i + 1);
	}
}

/* The dictionaries that it names, as far as they can be had. */
static void find_dicts(struct blobstore *bs, struct store *store, struct theirs *t)
{
	struct share *s = bs->share;
	struct sealed_record record;
	uint8_t id[STORE_KEY];

	for (t->nr_pages = t->header.nr_records; t->nr_pages; t->nr_pages--) {
		int number;

		sealed_get_record(t->table, t->nr_pages - 1, &record);
		if (record.kind != SEALED_DICT_NAME)
			break;
		if (t->nr_dicts == LEXICON_NAMES || record.len != STORE_KEY ||
		    sealed_read_frame(s->seal, t->header.serial, t->batch * SEALED_BATCH + record.offset,
				      t->bytes + record.offset, record.len, id))
			continue;
		number = lexicon_find(bs, s->lexicon, store, t->header.domain, id);
		if (number < 0)
			continue;
		t->dicts[t->nr_dicts].kind = (unsigned)record.hash;
		t->dicts[t->nr_dicts++].number = number;
	}
}

/* Everything about it is checked as if it were an enemy's: who has not the secret
   can't make one. 0 or a negative errno. */
static int read_theirs(struct share *s, struct store *store, const struct store_hint *hint, struct theirs *t)
{
	int n;

	if (hint->number >= SEALED_BATCHES)
		return -EBADMSG;
	n = store_share(store)->read(store_backend(store), hint->where, hint->number * (size_t)SEALED_BATCH, t->bytes,
				     SEALED_BATCH);
	if (n < 0)
		return n;
	if (sealed_read_header(t->bytes, (size_t)n, &t->header) || t->header.batch != hint->number ||
	    t->header.used > (uint32_t)n)
		return -EBADMSG;
	if (seal_key_derive(&t->key, s->secret, s->secret_len, t->header.key_id))
		return -EIO;
	return sealed_read_table(s->seal, &t->key, t->bytes, &t->header, t->table);
}

static struct theirs *find_cached(struct share *s, const struct store_hint *hint)
{
	for (unsigned i = 0; i < CACHED; i++) {
		struct theirs *t = &s->cache[i];

		if (t->batch == hint->number && strcmp(t->where, hint->where) == 0)
			return t;
	}
	return NULL;
}

/* NULL: it is not what the hint says. */
static struct theirs *load(struct blobstore *bs, struct store *store, const struct store_hint *hint, bool hinted)
{
	struct share *s = bs->share;
	struct theirs *t = &s->cache[0];
	int r;

	for (unsigned i = 1; i < CACHED; i++)
		if (s->cache[i].used < t->used)
			t = &s->cache[i];
	forget_theirs(bs, t);
	r = read_theirs(s, store, hint, t);
	if (r) {
		if (hinted && (r == -ENOENT || r == -EBADMSG))
			store_share(store)->forget(store_backend(store), hint);
		return NULL;
	}
	memcpy(t->where, hint->where, sizeof(t->where));
	t->batch = hint->number;
	find_dicts(bs, store, t);
	index_records(t);
	t->used = ++s->clock;
	return t;
}

/* ---- ours and theirs ---- */

/* What a frame of theirs is with us; 0: it can't be made a page of. */
static unsigned our_kind(const struct theirs *t, unsigned kind)
{
	for (unsigned i = 0; kind >= BLOB_DICT && i < t->nr_dicts; i++)
		if (t->dicts[i].kind == kind)
			return BLOB_DICT + (unsigned)t->dicts[i].number;
	return kind == BLOB_ZSTD || kind == BLOB_RAW ? kind : 0;
}

/* Are they the same page? Both are read; only that tells. */
static bool is_same(struct blobstore *bs, const struct theirs *t, const struct sealed_frame *ours,
		    const struct sealed_record *record)
{
	_Alignas(64) unsigned char a[PAGE_BYTES], b[PAGE_BYTES];
	unsigned char frame[BLOB_LEN_MAX];
	unsigned kind = our_kind(t, record->kind);
	struct share *s = bs->share;

	if (!kind || seal_open_with(s->seal, &t->key) ||
	    sealed_read_frame(s->seal, t->header.serial, t->batch * SEALED_BATCH + record->offset,
			      t->bytes + record->offset, record->len, frame))
		return false;
	return decode(bs, s->codec, 0, blob_loc_make(kind, 0, 0, record->len), frame, b) == 0 &&
	       decode(bs, s->codec, ours->id, blob_loc_make(ours->kind, 0, 0, ours->len), ours->bytes, a) == 0 &&
	       memcmp(a, b, PAGE_BYTES) == 0;
}

static bool find_same(struct blobstore *bs, struct theirs *t, const struct sealed_frame *ours, uint32_t *number)
{
	struct sealed_record record;

	for (uint32_t i = t->buckets[ours->hash % BUCKETS]; i; i = t->next[i - 1]) {
		sealed_get_record(t->table, i - 1, &record);
		if (record.hash != ours->hash || !is_same(bs, t, ours, &record))
			continue;
		*number = i - 1;
		t->to_its_end |= i == t->nr_pages;
		return true;
	}
	return false;
}

/* Their segment in our table, plus one, and a hold on it (pending); borrowed now
   if it is not there. 0: it can't be had. */
static uint32_t hold_segment(struct blobstore *bs, const struct outgoing *out, const struct theirs *t, uint32_t bytes)
{
	uint32_t tenant = bs->segments[out->victim].tenant, carrier, segment = 0;
	struct store *store = bs->tiers[out->to].store;

	pthread_mutex_lock(&bs->lock);
	for (uint32_t i = 0; i < bs->top_segment && !segment; i++) {
		struct segment *seg = &bs->segments[i];

		if (seg->state != SEGMENT_SEALED || !seg->borrowed || seg->serial != t->header.serial ||
		    seg->tenant != tenant || seg->tier != out->to || seg->moving ||
		    memcmp(seg->key->id, t->key.id, SEAL_ID) != 0)
			continue;
		seg->pending++;
		segment = i + 1;
	}
	pthread_mutex_unlock(&bs->lock);
	if (segment || bytes < WORTH || store_borrow(store, t->where, &carrier))
		return segment;
	segment = segment_borrowed(bs, tenant, out->to, carrier, t->header.serial, &t->key);
	if (!segment)
		store_segment_free(store, carrier);
	return segment;
}

/* One blob is there from now on. Under the lock. False: the domain has no room
   for a larger frame. */
static bool take_over(struct blobstore *bs, struct domain *domain, const struct sealed_frame *ours, uint64_t from,
		      uint64_t to)
{
	uint32_t before = record_size(from), after = record_size(to);

	if (!record_is_live(bs, ours->id, from))
		return true;
	if (after > before && !domain_charge(domain, after - before))
		return false;
	segment_count(bs, domain, blob_loc_segment(to), blob_loc_kind(to), after);
	blob_move(bs->blobs, ours->id, to);
	segment_drop(bs, from);
	if (after < before)
		domain_uncharge(domain, before - after);
	tier_of(bs, &bs->segments[blob_loc_segment(to)])->borrowed_pages++;
	return true;
}

static void take_over_all(struct blobstore *bs, const struct outgoing *out, const struct theirs *t, uint32_t segment,
			  uint32_t n)
{
	struct share *s = bs->share;
	struct sealed_record record;
	struct domain *domain;

	pthread_mutex_lock(&bs->lock);
	/* NULL when all in the victim has died meanwhile: none of it is taken over. */
	domain = bs->tenants[bs->segments[out->victim].tenant].domain;
	for (uint32_t i = 0; i < n; i++) {
		uint32_t frame = s->found[i].frame;
		uint64_t to;

		sealed_get_record(t->table, s->found[i].record, &record);
		to = blob_loc_make(our_kind(t, record.kind), segment, t->batch * SEALED_BATCH + record.offset, record.len);
		s->gone[frame] = take_over(bs, domain, &out->frames[frame], out->from[frame], to);
	}
	segment_arrived(bs, segment);
	pthread_mutex_unlock(&bs->lock);
}

/* Our frames from `from` on against one batch of theirs. */
static void match(struct blobstore *bs, struct outgoing *out, uint32_t from, struct theirs *t)
{
	struct share *s = bs->share;
	uint32_t n = 0, bytes = 0, segment;

	if (t->header.domain != uid_of(bs, out))
		return;
	for (uint32_t i = from; i < out->n; i++) {
		if (s->gone[i] || !find_same(bs, t, &out->frames[i], &s->found[n].record))
			continue;
		s->found[n++].frame = i;
		bytes += out->frames[i].len;
	}
	if (!n)
		return;
	t->used = ++s->clock;
	segment = hold_segment(bs, out, t, bytes);
	if (segment)
		take_over_all(bs, out, t, segment - 1, n);
}

/* What is left of ours moves together. */
static void close_ranks(struct mover *m, struct outgoing *out, const bool *gone)
{
	uint32_t n = 0, bytes = 0;

	for (uint32_t i = 0; i < out->n; i++) {
		struct sealed_frame *f = &out->frames[i];

		if (gone[i])
			continue;
		memmove(m->raw + bytes, f->bytes, f->len);
		f->bytes = m->raw + bytes;
		bytes += f->len;
		out->frames[n] = *f;
		out->from[n++] = out->from[i];
	}
	out->n = n;
	m->bytes = bytes;
}

static unsigned ask(struct blobstore *bs, const struct outgoing *out, uint32_t from, struct store *store)
{
	struct tier *t = &bs->tiers[out->to];
	struct share *s = bs->share;
	unsigned n = 0, misses = 0;

	for (uint32_t i = from; i < out->n && n < ASKED_MAX; i++)
		if (!s->gone[i] && out->frames[i].hash % SAMPLE == 0 &&
		    make_hint(s, uid_of(bs, out), out->frames[i].hash, &s->hints[n]))
			n++;
	if (n)
		store_share(store)->find(store_backend(store), s->hints, n);
	for (unsigned i = 0; i < n; i++)
		misses += !s->hints[i].where[0];
	atomic_fetch_add_explicit(&t->lookups, n, memory_order_relaxed);
	atomic_fetch_add_explicit(&t->lookup_misses, misses, memory_order_relaxed);
	return n;
}

/* The batch behind one that was ours to its end. */
static bool go_on(struct share *s, struct store_hint *hint)
{
	for (unsigned i = 0; i < CACHED; i++) {
		struct theirs *t = &s->cache[i];

		if (!t->where[0] || !t->to_its_end || t->batch + 1 == SEALED_BATCHES)
			continue;
		t->to_its_end = false;
		memcpy(hint->where, t->where, sizeof(hint->where));
		hint->number = t->batch + 1;
		if (!find_cached(s, hint))
			return true;
	}
	return false;
}

void share_frames(struct blobstore *bs, struct outgoing *out, uint32_t from)
{
	struct store *store = bs->tiers[out->to].store;
	struct share *s = bs->share;
	unsigned asked, loads = 0;
	struct store_hint next;
	struct theirs *t;

	if (!s || !store_share(store) || out->collecting || from == out->n)
		return;
	memset(s->gone, 0, out->n * sizeof(*s->gone));
	for (unsigned i = 0; i < CACHED; i++)
		if (s->cache[i].where[0])
			match(bs, out, from, &s->cache[i]);
	while (loads++ < LOADS_MAX && go_on(s, &next))
		if ((t = load(bs, store, &next, false)))
			match(bs, out, from, t);
	asked = ask(bs, out, from, store);
	for (unsigned i = 0; i < asked && loads < LOADS_MAX; i++) {
		const struct store_hint *hint = &s->hints[i];

		if (!hint->where[0] || find_cached(s, hint))
			continue;
		loads++;
		if ((t = load(bs, store, hint, true)))
			match(bs, out, from, t);
	}
	close_ranks(&bs->mover, out, s->gone);
}
