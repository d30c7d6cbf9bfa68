/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Families: processes with pages alike, one and all that were forked from it.
 * What their pages have in common goes into a dictionary; and a page that one
 * of them has written to since the fork is stored as the difference to what
 * another has at the same address.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "flow/blobstore_private.h"

/* Pages stored between two samples: at first, where a dictionary has become bad, and at most. */
#define SAMPLE_EVERY 13u
#define SAMPLE_EVERY_ANEW 26u
#define SAMPLE_EVERY_MAX 832u
#define LEARNING_NS (4 * NSEC_PER_SEC) /* it is worth waiting for that long */
/* Times as many after each training. What a program has first may be unlike the rest (a
   hash table before its records), and the next dictionary much better for that. */
#define SAMPLE_MORE 4u
/* Probes (encode) between two looks at what a dictionary gains. */
#define PROBES 32u
/* Less is not worth it: its frames take half as long again to make, and to read,
   as those at the fast level that does without. */
#define GAIN_PERCENT 8u
#define GAIN_LOST 4u	 /* percent: by then it is given up */
#define GAIN_SHARE 2u	 /* it has fallen to a half: is another one better, already now? */
#define ALIKE_PERCENT 2u /* another's dictionary that much worse is taken all the same */
#define ALIKE_MAX 8u	 /* others looked at */
#define TEST_EVERY 5u	 /* of the samples: compressed to compare, and not trained from */
/* Between two looks at who packs, some 10 s: it is made again in 29 us. */
#define REST_TICKS 150u

/* The list of bases: blob ids by address, address space only. */
#define BASES ((size_t)1 << 20)
#define BASES_BYTES (BASES * sizeof(uint32_t))
#define BASES_PER_PAGE (PAGE_BYTES / sizeof(uint32_t))

/* Guarded by the blobstore's lock but for refs and forked. */
struct family {
	_Atomic uint32_t refs;
	_Atomic bool forked;
	struct blobstore *bs;
	struct family *next, *prev;
	uint32_t domain;	/* index */
	int dict;		/* -1: none */
	uint32_t every;		/* pages from sample to sample */
	uint32_t stored;	/* since the last one */
	uint32_t nr_samples;	/* ever taken; the last DICT_SAMPLES are there */
	uint32_t samples[DICT_SAMPLES]; /* blob ids; they may have died since */
	_Atomic uint64_t learning_ns; /* since when its first dictionary is due; 0: it isn't */
	uint32_t probes;
	uint64_t probed_plain, probed_dict;
	uint64_t best_gain;	/* of the dictionary, percent */
	uint32_t *bases;	/* NULL: none yet */
	uint64_t bases_used[BASES / BASES_PER_PAGE / 64]; /* pages of it */
};

struct family *blobstore_family_new(struct blobstore *bs, const struct domain *domain)
{
	struct family *f = calloc(1, sizeof(*f));

	if (!f)
		return NULL;
	atomic_init(&f->refs, 1);
	f->bs = bs;
	f->domain = domain->index;
	f->dict = -1;
	f->every = SAMPLE_EVERY;
	pthread_mutex_lock(&bs->lock);
	f->next = bs->families;
	if (f->next)
		f->next->prev = f;
	bs->families = f;
	pthread_mutex_unlock(&bs->lock);
	return f;
}

void blobstore_family_forked(struct family *f)
{
	if (!f)
		return;
	atomic_fetch_add_explicit(&f->refs, 1, memory_order_relaxed);
	atomic_store_explicit(&f->forked, true, memory_order_relaxed);
}

static void drop_bases(struct blobstore *bs, struct family *f)
{
	if (!f->bases)
		return;
	munmap(f->bases, BASES_BYTES);
	for (size_t i = 0; i < ARRAY_SIZE(f->bases_used); i++)
		bs->base_bytes -= (uint64_t)__builtin_popcountll(f->bases_used[i]) * PAGE_BYTES;
}

void blobstore_family_unref(struct family *f)
{
	struct blobstore *bs;

	if (!f || atomic_fetch_sub_explicit(&f->refs, 1, memory_order_acq_rel) != 1)
		return;
	bs = f->bs;
	pthread_mutex_lock(&bs->lock);
	if (f->next)
		f->next->prev = f->prev;
	if (f->prev)
		f->prev->next = f->next;
	else
		bs->families = f->next;
	if (f->dict >= 0)
		dict_unuse(bs->dicts, (unsigned)f->dict);
	drop_bases(bs, f);
	pthread_mutex_unlock(&bs->lock);
	free(f);
}

void kind_use(struct blobstore *bs, unsigned kind)
{
	if (kind >= BLOB_DICT)
		dict_use(bs->dicts, kind - BLOB_DICT);
}

void kind_unuse(struct blobstore *bs, unsigned kind)
{
	if (kind >= BLOB_DICT)
		dict_unuse(bs->dicts, kind - BLOB_DICT);
}

/* ---- bases: under the lock ---- */

/* Neighbours lie together, so that the list's memory follows the pages'. */
static size_t base_index(uint64_t vpn)
{
	return (vpn + (vpn >> 20) * 0x9e3779b97f4a7c15ull) % BASES;
}

/* Neither a difference itself nor dear to read. */
static bool can_be_base(uint64_t loc)
{
	return blob_loc_kind(loc) != BLOB_DELTA && blob_loc_kind(loc) != BLOB_PART;
}

/* A reference to it, if it is a blob of the domain that can be a base. */
static bool ref_base(struct blobstore *bs, const struct family *f, blob_id id)
{
	uint64_t loc = blob_loc_of_any(bs->blobs, id);

	return loc && can_be_base(loc) && bs->segments[blob_loc_segment(loc)].tenant == f->domain &&
	       blob_ref_unless_dead(bs->blobs, id);
}

blob_id family_base(struct blobstore *bs, const struct blobstore_source *from)
{
	const struct family *f = from->family;
	blob_id id;

	if (!f->bases)
		return 0;
	id = f->bases[base_index(from->vpn)];
	return id && ref_base(bs, f, id) ? id : 0;
}

static void note_base(struct blobstore *bs, const struct blobstore_source *from, blob_id id)
{
	struct family *f = from->family;
	size_t i = base_index(from->vpn), page = i / BASES_PER_PAGE;

	if (!f->bases) {
		f->bases = mmap(NULL, BASES_BYTES, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (f->bases == MAP_FAILED) {
			f->bases = NULL; /* no differences then */
			return;
		}
	}
	/* The first stays while it lives: one base for many. */
	if (f->bases[i] && blob_loc_of_any(bs->blobs, f->bases[i]) && !blob_is_dead(bs->blobs, f->bases[i]))
		return;
	f->bases[i] = id;
	if (!(f->bases_used[page / 64] >> page % 64 & 1)) {
		f->bases_used[page / 64] |= (uint64_t)1 << page % 64;
		bs->base_bytes += PAGE_BYTES;
	}
}

void family_duplicate(struct blobstore *bs, const struct blobstore_source *from, blob_id id)
{
	if (!from->family || !atomic_load_explicit(&from->family->forked, memory_order_relaxed))
		return;
	pthread_mutex_lock(&bs->lock);
	if (can_be_base(blob_loc(bs->blobs, id)))
		note_base(bs, from, id);
	pthread_mutex_unlock(&bs->lock);
}

/* ---- dictionaries: under the lock ---- */

int family_dict(struct blobstore *bs, const struct family *f, bool hurry)
{
	return f->dict >= 0 && dict_pack_begin(bs->dicts, (unsigned)f->dict, hurry) ? f->dict : -1;
}

int family_any_dict(const struct blobstore *bs, uint32_t domain)
{
	for (const struct family *f = bs->families; f; f = f->next)
		if (f->domain == domain && f->dict >= 0)
			return f->dict;
	return -1;
}

static void set_dict(struct blobstore *bs, struct family *f, int number)
{
	if (f->dict >= 0)
		dict_unuse(bs->dicts, (unsigned)f->dict);
	f->dict = number;
	f->best_gain = 0;
	f->probes = 0;
	f->probed_plain = f->probed_dict = 0;
}

static void sample_anew(struct family *f)
{
	f->every = MIN(f->every, SAMPLE_EVERY_ANEW);
	f->nr_samples = 0;
}

/* It goes when it gains nothing; when it gains less than it did, another one is
   tried beside it soon. */
static void note_gain(struct blobstore *bs, struct family *f, const struct encoded *e)
{
	uint64_t gain;

	f->probed_plain += e->plain;
	f->probed_dict += e->len;
	if (++f->probes < PROBES)
		return;
	gain = 100 - MIN(f->probed_dict * 100 / f->probed_plain, 100);
	f->best_gain = MAX(gain, f->best_gain);
	if (gain < GAIN_LOST) {
		set_dict(bs, f, -1);
		sample_anew(f);
		bs->encodings.dicts_retired++;
	} else if (gain * GAIN_SHARE < f->best_gain) {
		f->best_gain = gain;
		sample_anew(f);
	}
	f->probes = 0;
	f->probed_plain = f->probed_dict = 0;
}

void family_stored(struct blobstore *bs, const struct blobstore_source *from,
		   const struct encoded *e, blob_id id)
{
	struct family *f = from->family;

	if (atomic_load_explicit(&f->forked, memory_order_relaxed))
		note_base(bs, from, id);
	if (e->plain && e->with_dict && e->dict == (uint32_t)f->dict)
		note_gain(bs, f, e);
	if (++f->stored < f->every)
		return;
	f->stored = 0;
	f->samples[f->nr_samples++ % DICT_SAMPLES] = id;
	/* the first two are worth waiting for: most of the pages are still to come */
	if (f->nr_samples == DICT_SAMPLES && f->every <= SAMPLE_EVERY * SAMPLE_MORE)
		atomic_store_explicit(&f->learning_ns, now_ns(), memory_order_relaxed);
}

bool blobstore_family_is_learning(const struct family *f)
{
	uint64_t since = f ? atomic_load_explicit(&f->learning_ns, memory_order_relaxed) : 0;

	return since && now_ns() - since < LEARNING_NS;
}

/* ---- training: the housekeeping thread, without the lock ---- */

struct training {
	struct family *family; /* with a reference */
	blob_id ids[DICT_SAMPLES]; /* with references */
	unsigned nr;
	unsigned char *pages;
	unsigned nr_pages;
	unsigned nr_tests; /* the first of them, which it is not trained from */
	int others[ALIKE_MAX]; /* dictionaries of the same domain, packed with */
	unsigned nr_others;
};

static struct family *find_due(struct blobstore *bs)
{
	struct family *f = bs->families;

	while (f && f->nr_samples < DICT_SAMPLES)
		f = f->next;
	return f;
}

static void note_other(struct blobstore *bs, struct training *t, const struct family *other)
{
	if (other->dict < 0 || other->domain != t->family->domain || t->nr_others == ALIKE_MAX)
		return;
	for (unsigned i = 0; i < t->nr_others; i++)
		if (t->others[i] == other->dict)
			return;
	if (dict_pack_begin(bs->dicts, (unsigned)other->dict, false))
		t->others[t->nr_others++] = other->dict;
}

static bool begin_training(struct blobstore *bs, struct training *t)
{
	struct family *f;

	pthread_mutex_lock(&bs->lock);
	f = find_due(bs);
	if (f) {
		t->family = f;
		atomic_fetch_add_explicit(&f->refs, 1, memory_order_relaxed);
		for (unsigned i = 0; i < DICT_SAMPLES; i++)
			if (ref_base(bs, f, f->samples[i]))
				t->ids[t->nr++] = f->samples[i];
		f->nr_samples = 0;
		for (const struct family *other = bs->families; other; other = other->next)
			note_other(bs, t, other);
	}
	pthread_mutex_unlock(&bs->lock);
	return f;
}

static void read_sample(struct blobstore *bs, struct codec *codec, struct training *t, blob_id id)
{
	if (t->pages && !blobstore_get_now(bs, codec, id, t->pages + t->nr_pages * PAGE_BYTES))
		t->nr_pages++;
	blob_unref(bs->blobs, id);
}

/* The pages of the samples that are still there, and not in a slow tier; those to
   test with first. */
static void read_samples(struct blobstore *bs, struct codec *codec, struct training *t)
{
	t->pages = malloc(DICT_SAMPLES * PAGE_BYTES);
	for (unsigned i = 0; i < t->nr; i += TEST_EVERY)
		read_sample(bs, codec, t, t->ids[i]);
	t->nr_tests = t->nr_pages;
	for (unsigned i = 0; i < t->nr; i++)
		if (i % TEST_EVERY)
			read_sample(bs, codec, t, t->ids[i]);
}

/* Bytes of some samples with a dictionary; with none: number < 0. */
static uint64_t test_dict(struct blobstore *bs, struct codec *codec, const struct training *t, int number)
{
	unsigned char frame[PAGE_BYTES + 64];
	uint64_t sum = 0;

	for (unsigned i = 0; i < t->nr_tests; i++) {
		const void *page = t->pages + i * PAGE_BYTES;
		size_t len = number < 0 ? codec_compress(codec, frame, sizeof(frame), page) :
					  codec_compress_dict(codec, dict_at(bs->dicts, (unsigned)number),
							      frame, sizeof(frame), page);

		sum += len ? len : PAGE_BYTES;
	}
	return sum;
}

/* Packed with, which is its only use. */
static int train_new(struct blobstore *bs, const struct training *t)
{
	unsigned char content[DICT_BYTES];
	size_t size = dict_train(content, t->pages + t->nr_tests * PAGE_BYTES, t->nr_pages - t->nr_tests);
	int number = -ENOSPC;

	if (!size)
		return number;
	pthread_mutex_lock(&bs->lock);
	number = dict_new(bs->dicts, content, size);
	if (number >= 0) {
		bool packs = dict_pack_begin(bs->dicts, (unsigned)number, false);

		dict_unuse(bs->dicts, (unsigned)number);
		number = packs ? number : -ENOMEM;
	}
	pthread_mutex_unlock(&bs->lock);
	return number;
}

/* The best there is for it, with a use; -1: none is worth it. */
static int choose_dict(struct blobstore *bs, struct codec *codec, const struct training *t)
{
	uint64_t plain = test_dict(bs, codec, t, -1);
	uint64_t limit = plain - plain / 100 * GAIN_PERCENT, best_size = UINT64_MAX;
	bool hurry = codec_in_hurry(codec); /* counts for what packs without one */
	int number, best = -1;

	codec_set_hurry(codec, false); /* a new one has nothing for that, and would always win */
	for (unsigned i = 0; i < t->nr_others; i++) {
		uint64_t size = test_dict(bs, codec, t, t->others[i]);

		if (size < best_size) {
			best_size = size;
			best = t->others[i];
		}
	}
	number = train_new(bs, t);
	if (number >= 0) {
		uint64_t size = test_dict(bs, codec, t, number);

		if (best < 0 || size + size / 100 * ALIKE_PERCENT < best_size) {
			best_size = size;
			best = number;
		}
	}
	codec_set_hurry(codec, hurry);
	pthread_mutex_lock(&bs->lock);
	if (best >= 0 && best_size < limit)
		dict_use(bs->dicts, (unsigned)best);
	else
		best = -1;
	if (number >= 0)
		dict_pack_end(bs->dicts, (unsigned)number);
	bs->encodings.dicts_trained += best >= 0 && best == number;
	pthread_mutex_unlock(&bs->lock);
	return best;
}

/* Where too few of the samples could be read, what the family has stays. */
static void end_training(struct blobstore *bs, struct training *t, bool enough, int number)
{
	struct family *f = t->family;

	pthread_mutex_lock(&bs->lock);
	f->every = MIN(f->every * SAMPLE_MORE, SAMPLE_EVERY_MAX);
	if (enough)
		set_dict(bs, f, number);
	atomic_store_explicit(&f->learning_ns, 0, memory_order_relaxed);
	for (unsigned i = 0; i < t->nr_others; i++)
		dict_pack_end(bs->dicts, (unsigned)t->others[i]);
	pthread_mutex_unlock(&bs->lock);
	free(t->pages);
	blobstore_family_unref(f);
}

static bool train(struct blobstore *bs, struct codec *codec)
{
	struct training t = { .nr = 0 };
	bool enough;

	if (!begin_training(bs, &t))
		return false;
	read_samples(bs, codec, &t);
	enough = t.nr_pages > DICT_SAMPLES / 2;
	end_training(bs, &t, enough, enough ? choose_dict(bs, codec, &t) : -1);
	return true;
}

/*
 * A dictionary that no blob is made with any more may still be read with: by
 * those who found a blob before it was moved or compressed anew, and pinned its
 * segment. When each segment has since been seen without readers, they are gone.
 */
static bool free_unused(struct blobstore *bs)
{
	bool freed = false;

	pthread_mutex_lock(&bs->lock);
	if (!bs->dict_unused) {
		bs->dict_unused = (uint32_t)(dict_next_unused(bs->dicts, 0) + 1);
		bs->dict_checked = 0;
	}
	while (bs->dict_unused && bs->dict_checked < bs->top_segment &&
	       !atomic_load(&bs->segments[bs->dict_checked].readers))
		bs->dict_checked++;
	if (bs->dict_unused && bs->dict_checked >= bs->top_segment) {
		dict_free(bs->dicts, bs->dict_unused - 1);
		bs->dict_unused = 0;
		freed = true;
	}
	pthread_mutex_unlock(&bs->lock);
	return freed;
}

/* Dictionaries that nobody packs with take no more than reading needs. */
static void rest(struct blobstore *bs)
{
	uint32_t clock = atomic_load_explicit(&bs->clock, memory_order_relaxed);

	if (clock - bs->dict_rested < REST_TICKS)
		return;
	bs->dict_rested = clock;
	pthread_mutex_lock(&bs->lock);
	dict_rest(bs->dicts);
	pthread_mutex_unlock(&bs->lock);
}

bool blobstore_learn(struct blobstore *bs, struct codec *codec)
{
	bool more = free_unused(bs);

	rest(bs);
	return train(bs, codec) || more;
}
