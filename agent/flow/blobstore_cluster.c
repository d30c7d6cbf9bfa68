/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Clusters: up to 16 neighbours that have come back in order, as one frame. Reading
 * all of them takes half the time of as many frames, and reading one of them that of
 * all; so only what was last read in order is put together, when it is packed again.
 *
 * Each page is a blob like any other, with a count, a hash and a charge (its share of
 * the frame); its location names the frame and its place in it (BLOB_PART). So a reader
 * pins one segment, as for any blob, and a cluster needs no life of its own: it is there
 * while a location names it. What has died in it stays until the segment is collected
 * (below); then those that are left are put together anew, or each by itself when they
 * are few.
 *
 * In the first tier, and only where there is no other: what is long unused leaves for
 * those, by frames of one page. There neighbours are read together anyhow, and a fault
 * on one of them alone would read sixteen (docs/PERFORMANCE.md, Clusters).
 */
#include <errno.h>
#include <string.h>

#include "common/inject.h"
#include "flow/blobstore_private.h"

_Static_assert(BLOB_PARTS_MAX == CODEC_CLUSTER, "a cluster's pages have their index");

/* Behind its record; then nr ids, len bytes of frame, and nothing up to the end. */
struct cluster {
	uint32_t len;
	uint32_t nr;
};

#define CLUSTER_BYTES_MAX (BLOB_PARTS_MAX * BLOB_PART_BYTES_MAX)
/* More of a segment is garbage than that: it is worth the work. */
#define GARBAGE_OF_SEGMENT 8
#define SPLIT_LEVEL 1

/* One that is made, or taken apart. */
struct draft {
	unsigned nr;
	blob_id id[BLOB_PARTS_MAX];
	uint64_t hash[BLOB_PARTS_MAX]; /* of new ones */
	uint64_t from[BLOB_PARTS_MAX]; /* of others: where they are */
	unsigned of;		       /* ... how many there are in that frame */
	uint32_t share;		       /* bytes of each */
	uint32_t len;
	unsigned char bytes[CLUSTER_BYTES_MAX]; /* record, names, frame */
};

static size_t frame_at(unsigned nr)
{
	return sizeof(struct record) + sizeof(struct cluster) + nr * sizeof(blob_id);
}

/* ---- reading ---- */

struct found {
	const unsigned char *names; /* behind the record */
	const unsigned char *frame;
	uint32_t nr, len;
	uint32_t bytes; /* behind the record, all */
};

/* The cluster at loc, whose segment is pinned or can't go. 0, -EBADMSG when it makes no
   sense, or an error of the store. */
static int find(struct blobstore *bs, uint64_t loc, void *buf, struct found *f)
{
	uint32_t segment = blob_loc_segment(loc), offset = blob_loc_offset(loc);
	const unsigned char *at;
	struct record record;
	struct cluster c;
	int r;

	if (offset < sizeof(record))
		return -EBADMSG;
	at = segment_bytes(bs, segment, offset - (uint32_t)sizeof(record), sizeof(record), buf, &r);
	if (!at)
		return r;
	memcpy(&record, at, sizeof(record));
	if (!record_is_valid(&record) || (record.magic & RECORD_KIND) != BLOB_PART || record.len < sizeof(c) ||
	    record.len > CLUSTER_BYTES_MAX || record.len > STORE_SEGMENT - offset)
		return -EBADMSG;
	f->names = segment_bytes(bs, segment, offset, record.len, buf, &r);
	if (!f->names)
		return r;
	memcpy(&c, f->names, sizeof(c));
	if (!c.nr || c.nr > BLOB_PARTS_MAX || record.len < sizeof(c) + c.nr * sizeof(blob_id) ||
	    c.len > record.len - sizeof(c) - c.nr * sizeof(blob_id) || (record.len + sizeof(record)) % c.nr)
		return -EBADMSG;
	f->names += sizeof(c);
	f->frame = f->names + c.nr * sizeof(blob_id);
	f->nr = c.nr;
	f->len = c.len;
	f->bytes = record.len;
	return 0;
}

uint32_t cluster_end(struct blobstore *bs, uint64_t loc)
{
	unsigned char buf[CLUSTER_BYTES_MAX];
	struct found f;

	return blob_loc_offset(loc) + (find(bs, loc, buf, &f) ? blob_part_bytes(loc) : f.bytes);
}

/* All its pages, in the codec's room. */
static int unpack(struct blobstore *bs, struct codec *codec, uint64_t loc, unsigned *nr)
{
	unsigned char *pages = codec_cluster(codec);
	struct found f;
	int r = find(bs, loc, pages + CODEC_CLUSTER * PAGE_BYTES, &f);

	if (r)
		return r;
	*nr = f.nr;
	return codec_decompress_cluster(codec, pages, f.nr, f.frame, f.len);
}

int cluster_read(struct blobstore *bs, struct codec *codec, uint64_t loc, void *page)
{
	unsigned index = blob_part_index(loc), nr;
	int r = unpack(bs, codec, loc, &nr);

	if (r)
		return r;
	if (index >= nr)
		return -EBADMSG;
	memcpy(page, (char *)codec_cluster(codec) + index * PAGE_BYTES, PAGE_BYTES);
	return 0;
}

bool blobstore_is_part(const struct blobstore *bs, blob_id id)
{
	return blob_loc_kind(blob_loc(bs->blobs, id)) == BLOB_PART;
}

bool blobstore_share_frame(const struct blobstore *bs, blob_id a, blob_id b)
{
	uint64_t loc = blob_loc(bs->blobs, b);

	return blob_loc_kind(loc) == BLOB_PART && blob_part_frame(loc) == blob_part_frame(blob_loc(bs->blobs, a));
}

unsigned blobstore_get_parts(struct blobstore *bs, struct codec *codec, const blob_id *id, unsigned n,
			     void *const *pages)
{
	const char *from = codec_cluster(codec);
	uint64_t loc, part;
	struct segment *seg = segment_pin(bs, id[0], &loc);
	unsigned i, nr = 0;

	part = loc;
	if (blob_loc_kind(loc) == BLOB_PART && unpack(bs, codec, loc, &nr))
		nr = 0; /* whoever touches it gets to know (INV-7) */
	/* While it is pinned, a location that names it names these bytes. */
	for (i = 0; i < n && nr; i++, part = i < n ? blob_loc(bs->blobs, id[i]) : 0) {
		unsigned index = blob_part_index(part);

		if (blob_part_frame(part) != blob_part_frame(loc) || index >= nr ||
		    blobstore_check(bs, id[i], seg, from + index * PAGE_BYTES, 0))
			break;
		memcpy(pages[i], from + index * PAGE_BYTES, PAGE_BYTES);
	}
	segment_unpin(seg);
	return i;
}

/* ---- making one ---- */

/* Nothing of ours goes into the store behind a frame. */
static void pad(struct draft *d, size_t at)
{
	memset(d->bytes + at, 0, d->nr * (size_t)d->share - at);
}

/* The frame of the pages that lie in the codec's room. False: they are better stored
   one by one. */
static bool compress(struct codec *codec, struct draft *d)
{
	size_t at = frame_at(d->nr);
	size_t len = codec_compress_cluster(codec, d->bytes + at, d->nr * BLOB_PART_BYTES_MAX - at,
					    codec_cluster(codec), d->nr);

	if (!len)
		return false;
	d->len = (uint32_t)len;
	d->share = (uint32_t)((at + len + d->nr - 1) / d->nr + 3) & ~3u;
	if (d->share > BLOB_PART_BYTES_MAX)
		return false;
	pad(d, at + len);
	return true;
}

/* Under the lock, its ids known. */
static int append(struct blobstore *bs, struct domain *domain, struct draft *d, bool last, uint64_t *frame)
{
	uint32_t bytes = d->nr * d->share;
	struct record record = record_make(d->id[0], BLOB_PART, bytes - (uint32_t)sizeof(record));
	struct cluster c = { .len = d->len, .nr = d->nr };

	memcpy(d->bytes, &record, sizeof(record));
	memcpy(d->bytes + sizeof(record), &c, sizeof(c));
	memcpy(d->bytes + sizeof(record) + sizeof(c), d->id, d->nr * sizeof(blob_id));
	return segment_append(bs, domain, STREAM_CLUSTER, d->bytes, bytes, last, frame);
}

/* Under the lock. */
static bool publish(struct blobstore *bs, struct domain *domain, struct draft *d)
{
	unsigned n = 0;
	uint64_t frame;

	while (n < d->nr && (d->id[n] = blob_new(bs->blobs)))
		n++;
	if (n < d->nr || append(bs, domain, d, false, &frame)) {
		while (n)
			blob_free(bs->blobs, d->id[--n]);
		return false;
	}
	inject(INJECT_PUT_WRITTEN);
	for (unsigned i = 0; i < d->nr; i++)
		blob_publish(bs->blobs, d->id[i], d->hash[i], blob_part_loc(frame, i, d->share));
	bs->encodings.cluster_pages += d->nr;
	bs->encodings.cluster_bytes += d->nr * d->share;
	return true;
}

static bool put_cluster(struct blobstore *bs, struct codec *codec, struct domain *domain, struct draft *d)
{
	bool stored;

	if (d->nr < BLOBSTORE_RUN_MIN || !compress(codec, d) || !domain_charge(domain, d->nr * (uint64_t)d->share))
		return false;
	pthread_mutex_lock(&bs->lock);
	stored = publish(bs, domain, d);
	pthread_mutex_unlock(&bs->lock);
	if (!stored)
		domain_uncharge(domain, d->nr * (uint64_t)d->share);
	return stored;
}

/* Better stored in another way? */
static bool is_apart(struct blobstore *bs, const struct blobstore_source *from, const void *page)
{
	blob_id base = 0;

	if (from->family) {
		pthread_mutex_lock(&bs->lock);
		base = family_base(bs, from);
		pthread_mutex_unlock(&bs->lock);
	}
	if (base)
		blob_unref(bs->blobs, base);
	return base || page_looks_random(page);
}

bool blobstore_takes_runs(const struct blobstore *bs, const struct codec *codec)
{
	return bs->clusters && bs->nr_tiers == 1 && !codec_in_hurry(codec);
}

void blobstore_set_clusters(struct blobstore *bs, bool on)
{
	bs->clusters = on;
}

void blobstore_put_run(struct blobstore *bs, struct codec *codec, const struct blobstore_source *from,
		       struct blobstore_put *v, unsigned n)
{
	struct blobstore_source source = *from;
	struct draft d = { .nr = 0 };
	unsigned place[BLOB_PARTS_MAX];
	uint64_t hash[BLOB_PARTS_MAX];

	assert(n <= BLOB_PARTS_MAX);
	for (unsigned i = 0; i < n; i++) {
		source.vpn = from->vpn + i;
		hash[i] = page_hash(v[i].page, from->domain->seed);
		v[i].id = put_duplicate(bs, codec, &source, hash[i], v[i].page);
		v[i].result = BLOBSTORE_DUPLICATE;
		if (v[i].id || is_apart(bs, &source, v[i].page))
			continue;
		place[d.nr] = i;
		d.hash[d.nr++] = hash[i];
	}
	for (unsigned i = 0; i < d.nr; i++) /* looking for duplicates used the room */
		memcpy((char *)codec_cluster(codec) + i * PAGE_BYTES, v[place[i]].page, PAGE_BYTES);
	if (put_cluster(bs, codec, from->domain, &d))
		for (unsigned i = 0; i < d.nr; i++) {
			v[place[i]].id = d.id[i];
			v[place[i]].result = BLOBSTORE_STORED;
		}
	for (unsigned i = 0; i < n; i++) {
		source.vpn = from->vpn + i;
		if (!v[i].id)
			v[i].result = put_new(bs, codec, &source, hash[i], v[i].page, &v[i].id);
	}
}

/*
 * ---- collecting: under the house lock, without which no cluster moves (the mover leaves
 * them where they are) and nothing that has died is reaped. So what was seen to live may be dead by the time it has moved, but
 * it is still in the table and paid for. ----
 */

static bool is_poorer(const struct segment *seg, uint64_t dead, uint64_t fill)
{
	return seg->stream == STREAM_CLUSTER && !seg->tier && !seg->walked && !seg->moving &&
	       (seg->state == SEGMENT_SEALED || seg->state == SEGMENT_OPEN) &&
	       (seg->fill - seg->live) * fill > dead * seg->fill;
}

static bool pick(struct blobstore *bs)
{
	uint64_t dead = 1, fill = GARBAGE_OF_SEGMENT;
	uint32_t best = 0;

	for (uint32_t i = 0; i < bs->top_segment; i++) {
		const struct segment *seg = &bs->segments[i];

		if (!is_poorer(seg, dead, fill))
			continue;
		dead = seg->fill - seg->live;
		fill = seg->fill;
		best = i + 1;
	}
	if (!best)
		return false;
	bs->splitter.victim = best;
	bs->splitter.cursor = 0;
	if (bs->segments[best - 1].state == SEGMENT_OPEN)
		segment_seal(bs, best - 1);
	return true;
}

/* The cluster at the cursor: a copy, and those of its parts that live. False: the rest
   makes no sense. Under the lock. */
static bool take(struct blobstore *bs, uint32_t segment, struct draft *d)
{
	uint32_t offset = bs->splitter.cursor + (uint32_t)sizeof(struct record);
	uint64_t frame = blob_loc_make(BLOB_PART, segment, offset, 0);
	struct found f;

	if (find(bs, frame, d->bytes, &f))
		return false;
	bs->splitter.cursor = offset + f.bytes;
	d->share = (f.bytes + (uint32_t)sizeof(struct record)) / f.nr;
	d->nr = 0;
	for (unsigned i = 0; i < f.nr; i++) {
		uint64_t loc = blob_part_loc(frame, i, d->share);
		blob_id id;

		memcpy(&id, f.names + i * sizeof(id), sizeof(id));
		if (!record_is_live(bs, id, loc))
			continue;
		d->id[d->nr] = id;
		d->from[d->nr++] = loc;
	}
	d->len = f.len;
	d->of = f.nr;
	memmove(d->bytes + frame_at(f.nr), f.frame, f.len);
	if (d->nr == d->of)
		pad(d, frame_at(f.nr) + f.len);
	return true;
}

/* The pages that live, one behind the other in the codec's room. */
static bool gather(struct codec *codec, struct draft *d)
{
	char *pages = codec_cluster(codec);

	if (codec_decompress_cluster(codec, pages, d->of, d->bytes + frame_at(d->of), d->len))
		return false;
	for (unsigned i = 0; i < d->nr; i++)
		memmove(pages + i * PAGE_BYTES, pages + blob_part_index(d->from[i]) * PAGE_BYTES, PAGE_BYTES);
	return true;
}

/* Under the lock. What it took up more than before is owed whatever the limit is. */
static void moved(struct blobstore *bs, struct domain *domain, blob_id id, uint64_t from, uint64_t to)
{
	uint32_t before = record_size(from), now = record_size(to);

	blob_move(bs->blobs, id, to);
	segment_drop(bs, from);
	if (now > before)
		atomic_fetch_add_explicit(&domain->charged, now - before, memory_order_relaxed);
	else
		domain_uncharge(domain, before - now);
	bs->compacted_bytes += now;
	bs->tiers[0].gc_bytes += now;
}

/* All of them as a cluster again. False: there is no room. */
static bool move_together(struct blobstore *bs, struct domain *domain, struct draft *d)
{
	uint64_t frame;
	bool ok;

	pthread_mutex_lock(&bs->lock);
	ok = !append(bs, domain, d, true, &frame);
	inject(INJECT_COMPACT);
	for (unsigned i = 0; ok && i < d->nr; i++)
		moved(bs, domain, d->id[i], d->from[i], blob_part_loc(frame, i, d->share));
	pthread_mutex_unlock(&bs->lock);
	return ok;
}

/* One of them by itself. */
static bool move_apart(struct blobstore *bs, struct domain *domain, const struct draft *d, unsigned i, int dict)
{
	struct codec *codec = bs->splitter.codec;
	const char *page = (const char *)codec_cluster(codec) + i * PAGE_BYTES;
	unsigned char buf[RECORD_MAX], *frame = buf + sizeof(struct record);
	unsigned kind = dict < 0 ? BLOB_ZSTD : BLOB_DICT + (unsigned)dict;
	struct record record;
	uint64_t to;
	bool ok;
	size_t len = dict < 0 ? codec_compress(codec, frame, PAGE_BYTES - 1, page) :
				codec_compress_dict(codec, dict_at(bs->dicts, (unsigned)dict), frame,
						    PAGE_BYTES - 1, page);

	if (!len) {
		kind = BLOB_RAW;
		len = PAGE_BYTES;
		memcpy(frame, page, len);
	}
	record = record_make(d->id[i], kind, (uint32_t)len);
	memcpy(buf, &record, sizeof(record));
	pthread_mutex_lock(&bs->lock);
	ok = !segment_append(bs, domain, STREAM_NEW, buf, (uint32_t)(sizeof(record) + len), true, &to);
	inject(INJECT_COMPACT);
	if (ok)
		moved(bs, domain, d->id[i], d->from[i], to);
	pthread_mutex_unlock(&bs->lock);
	return ok;
}

/* False: there is no room. */
static bool rebuild(struct blobstore *bs, struct domain *domain, struct draft *d, int dict)
{
	if (!d->nr)
		return true;
	if (d->nr == d->of)
		return move_together(bs, domain, d);
	if (!gather(bs->splitter.codec, d))
		return true; /* whoever touches it gets to know (INV-7) */
	if (d->nr >= BLOBSTORE_RUN_MIN && compress(bs->splitter.codec, d))
		return move_together(bs, domain, d);
	for (unsigned i = 0; i < d->nr; i++)
		if (!move_apart(bs, domain, d, i, dict))
			return false;
	return true;
}

/* The next victim's next cluster. False: there is none. Under the lock. */
static bool next(struct blobstore *bs, struct draft *d, struct domain **domain, int *dict)
{
	struct splitter *split = &bs->splitter;
	struct segment *seg;

	for (;;) {
		if (!split->victim && (!too_much_garbage(bs) || !pick(bs)))
			return false;
		if (!split->victim) /* all dead: sealed, it has gone */
			continue;
		seg = &bs->segments[split->victim - 1];
		if (split->cursor < seg->fill && take(bs, split->victim - 1, d))
			break;
		/* What is left has died meanwhile, or is damaged. */
		seg->walked = true;
		split->victim = 0;
	}
	*domain = bs->tenants[seg->tenant].domain;
	*dict = family_any_dict(bs, seg->tenant);
	if (*dict >= 0 && !dict_pack_begin(bs->dicts, (unsigned)*dict, false))
		*dict = -1;
	return true;
}

bool cluster_collect(struct blobstore *bs)
{
	struct domain *domain;
	struct draft d;
	bool found, ok;
	int dict;

	if (!bs->splitter.codec)
		bs->splitter.codec = codec_new(SPLIT_LEVEL);
	if (!bs->splitter.codec)
		return false;
	pthread_mutex_lock(&bs->lock);
	found = next(bs, &d, &domain, &dict);
	pthread_mutex_unlock(&bs->lock);
	if (!found)
		return false;
	ok = rebuild(bs, domain, &d, dict);
	pthread_mutex_lock(&bs->lock);
	if (dict >= 0)
		dict_pack_end(bs->dicts, (unsigned)dict);
	if (!ok)
		bs->splitter.victim = 0;
	pthread_mutex_unlock(&bs->lock);
	return ok;
}

void cluster_deinit(struct blobstore *bs)
{
	codec_free(bs->splitter.codec);
}
