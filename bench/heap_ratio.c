/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * heap_ratio [--json] IMAGE...: what the store holds for heap images
 * (heap-images), and what it costs, against page stores of the kernel's kind
 * with the same pages in the same run. Files NAME.N.img of one NAME are a fork
 * family, NAME.0.img its parent; all are of one user.
 *
 *	lz4	as zram: lz4, same-filled pages without a body
 *	deflate	as zswap: deflate with the kernel's window and level
 *	zstd 1, dictionary	zstd alone, frame by frame, as the yardstick for time; the
 *		dictionary is trained on 512 of the pages, and is not counted
 *	uswap	the agent's own blobstore: same-filled, duplicates, dictionaries,
 *		differences; then with its background work done
 *
 * Held is all that is kept: for the first two, each object in its size class of
 * zsmalloc at the best packing there is, and the table's 16 or 64 bytes a page;
 * for uswap the segments with their garbage, blob table, index, dictionaries,
 * and 8 bytes a page for its slot. "all in": as if the pages that don't compress
 * (refused) were held as they are, which the kernel's kind does. In: mean of the
 * processor time of this thread; out: the median by the clock, which others' work
 * on the machine doesn't change.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef HAVE_LZ4
#include <lz4.h>
#endif
#ifdef HAVE_ZLIB
#include <zlib.h>
#endif
#include <zdict.h>
#include <zstd.h>

#include "common/util.h"
#include "flow/blobstore.h"
#include "page/domain.h"

#define SLOT_BYTES 8
#define LEVEL (-1) /* the default of CompressionLevel= */
#define ZRAM_ENTRY 16
#define ZSWAP_ENTRY 64
#define ZS_HANDLE 8
#define ZS_CLASS 16
#define ZS_HUGE 3264 /* from here on an object takes a page */
#define ZS_CHAIN 8
#define OUTS_MAX 65536u
#define DICT_SIZE ((size_t)16 << 10)
#define SAMPLES 512u

struct image {
	const char *name; /* family and number */
	size_t family;	  /* characters of it that name the family */
	uint64_t nr, *vpns;
	unsigned char *pages;
	blob_id *ids; /* 0: same-filled or refused */
};

struct result {
	uint64_t pages, refused, same, duplicates;
	double held;
	uint64_t in_ns, outs;
	uint32_t out_each[OUTS_MAX]; /* of the first ones, by the clock */
};

static uint64_t clock_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t); /* for what takes no longer than a system call */
	return (uint64_t)t.tv_sec * NSEC_PER_SEC + (uint64_t)t.tv_nsec;
}

static void count_out(struct result *r, uint64_t ns)
{
	if (r->outs < OUTS_MAX)
		r->out_each[r->outs] = (uint32_t)ns;
	r->outs++;
}

static void die(const char *what, const char *why)
{
	fprintf(stderr, "heap_ratio: %s: %s\n", what, why);
	exit(1);
}

static uint64_t cpu_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * NSEC_PER_SEC + (uint64_t)t.tv_nsec;
}

static struct image load(const char *path)
{
	struct image m = { .name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path };
	FILE *f = fopen(path, "r");
	char magic[8];

	m.family = strcspn(m.name, ".");
	if (!f || fread(magic, sizeof(magic), 1, f) != 1 || memcmp(magic, "USWAPIMG", 8) != 0 ||
	    fread(&m.nr, sizeof(m.nr), 1, f) != 1)
		die(path, "not an image");
	m.vpns = calloc(m.nr, sizeof(*m.vpns));
	m.pages = malloc(m.nr * PAGE_BYTES);
	m.ids = calloc(m.nr, sizeof(*m.ids));
	if (!m.vpns || !m.pages || !m.ids)
		die(path, "memory");
	if (fread(m.vpns, sizeof(*m.vpns), m.nr, f) != m.nr || fread(m.pages, PAGE_BYTES, m.nr, f) != m.nr)
		die(path, "is too short");
	fclose(f);
	return m;
}

/* ---- the kernel's kind ---- */

/* What an object takes in zsmalloc, at the best: its class's zspages full. */
static double zs_bytes(size_t len)
{
	size_t size = (len + ZS_HANDLE + ZS_CLASS - 1) / ZS_CLASS * ZS_CLASS;
	double best = PAGE_BYTES;

	if (size > ZS_HUGE)
		return PAGE_BYTES;
	for (size_t pages = 1; pages <= ZS_CHAIN; pages++)
		best = MIN(best, (double)(pages * PAGE_BYTES) / (double)(pages * PAGE_BYTES / size));
	return best;
}

#ifdef HAVE_LZ4
static size_t lz4_in(const void *page, void *out, size_t cap)
{
	int n = LZ4_compress_default(page, out, PAGE_BYTES, (int)cap);

	return n > 0 ? (size_t)n : 0;
}

static void lz4_out(const void *frame, size_t len, void *page)
{
	if (LZ4_decompress_safe(frame, page, (int)len, PAGE_BYTES) != PAGE_BYTES)
		die("lz4", "wrong size");
}
#endif

#ifdef HAVE_ZLIB
/* As crypto/deflate.c sets it up. */
static z_stream *deflater(void)
{
	static z_stream s;
	static bool ready;

	if (!ready && deflateInit2(&s, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -11, MAX_MEM_LEVEL,
				   Z_DEFAULT_STRATEGY) != Z_OK)
		die("deflate", "init");
	ready = true;
	return &s;
}

static size_t deflate_in(const void *page, void *out, size_t cap)
{
	z_stream *s = deflater();

	deflateReset(s);
	s->next_in = (Bytef *)(uintptr_t)page;
	s->avail_in = PAGE_BYTES;
	s->next_out = out;
	s->avail_out = (uInt)cap;
	return deflate(s, Z_FINISH) == Z_STREAM_END ? s->total_out : 0;
}

static void deflate_out(const void *frame, size_t len, void *page)
{
	static z_stream s;
	static bool ready;

	if (!ready && inflateInit2(&s, -11) != Z_OK)
		die("inflate", "init");
	ready = true;
	inflateReset(&s);
	s.next_in = (Bytef *)(uintptr_t)frame;
	s.avail_in = (uInt)len;
	s.next_out = page;
	s.avail_out = PAGE_BYTES;
	if (inflate(&s, Z_FINISH) != Z_STREAM_END)
		die("inflate", "wrong size");
}
#endif

static struct result *
kernel_kind(const struct image *v, size_t n, size_t entry,
	    size_t (*in)(const void *page, void *out, size_t cap),
	    void (*out)(const void *frame, size_t len, void *page))
{
	unsigned char frame[PAGE_BYTES], page[PAGE_BYTES];
	static struct result r;
	uint32_t pattern;

	memset(&r, 0, sizeof(r));
	for (size_t i = 0; i < n; i++)
		for (uint64_t k = 0; k < v[i].nr; k++) {
			const unsigned char *from = v[i].pages + k * PAGE_BYTES;
			uint64_t t = cpu_now();
			bool same = page_same_filled(from, &pattern);
			size_t len = same ? 0 : in(from, frame, sizeof(frame) - 1);

			r.in_ns += cpu_now() - t;
			r.pages++;
			r.same += same;
			r.held += (double)entry + (same ? 0 : len ? zs_bytes(len) : PAGE_BYTES);
			if (!len)
				continue;
			t = clock_now();
			out(frame, len, page);
			count_out(&r, clock_now() - t);
			if (memcmp(page, from, PAGE_BYTES) != 0)
				die(v[i].name, "came back different");
		}
	return &r;
}

static ZSTD_CCtx *pack;
static ZSTD_DCtx *unpack;
static ZSTD_CDict *pack_dict; /* NULL: without */
static ZSTD_DDict *unpack_dict;

static size_t zstd_in(const void *page, void *out, size_t cap)
{
	size_t len = pack_dict ? ZSTD_compress_usingCDict(pack, out, cap, page, PAGE_BYTES, pack_dict) :
				 ZSTD_compressCCtx(pack, out, cap, page, PAGE_BYTES, 1);

	return ZSTD_isError(len) ? 0 : len;
}

static void zstd_out(const void *frame, size_t len, void *page)
{
	if (ZSTD_decompress_usingDDict(unpack, page, PAGE_BYTES, frame, len, unpack_dict) != PAGE_BYTES)
		die("zstd", "wrong size");
}

/* From every so many pages of all images. */
static void train(const struct image *v, size_t n)
{
	unsigned char *samples = malloc(SAMPLES * PAGE_BYTES), dict[DICT_SIZE];
	size_t sizes[SAMPLES], all = 0, taken = 0, size;

	if (!samples)
		die("dictionary", "memory");
	for (size_t i = 0; i < n; i++)
		all += v[i].nr;
	for (size_t i = 0, at = 0; i < n; i++)
		for (uint64_t k = 0; k < v[i].nr; k++, at++)
			if (at % (all / SAMPLES + 1) == 0) {
				memcpy(samples + taken * PAGE_BYTES, v[i].pages + k * PAGE_BYTES, PAGE_BYTES);
				sizes[taken++] = PAGE_BYTES;
			}
	size = ZDICT_trainFromBuffer(dict, sizeof(dict), samples, sizes, (unsigned)taken);
	if (ZDICT_isError(size))
		die("dictionary", ZDICT_getErrorName(size));
	pack_dict = ZSTD_createCDict(dict, size, 1);
	unpack_dict = ZSTD_createDDict(dict, size);
	free(samples);
}

/* ---- uswap ---- */

struct world {
	struct store *store;
	struct blobstore *bs;
	struct codec *codec;
	struct domain_registry *domains;
	struct domain *domain;
};

static struct world world_new(void)
{
	struct world w = { .store = store_memory_new((uint64_t)16 << 30), .codec = codec_new(LEVEL),
			   .domains = domain_registry_new() };

	w.bs = w.store ? blobstore_new(w.store, 1u << 24) : NULL;
	w.domain = w.domains ? domain_get(w.domains, 1000, UINT64_MAX) : NULL;
	if (!w.bs || !w.codec || !w.domain)
		die("uswap", "memory");
	return w;
}

static void keep_house(struct world *w)
{
	while (blobstore_work(w->bs) || blobstore_learn(w->bs, w->codec))
		;
}

static void put_image(struct world *w, struct image *m, struct family *family, struct result *r)
{
	struct blobstore_source from = { .domain = w->domain, .family = family };
	uint32_t pattern;

	for (uint64_t k = 0; k < m->nr; k++) {
		const void *page = m->pages + k * PAGE_BYTES;
		enum blobstore_result put;
		uint64_t t = cpu_now();

		from.vpn = m->vpns[k];
		m->ids[k] = 0;
		if (page_same_filled(page, &pattern)) {
			r->same++;
		} else {
			put = blobstore_put_from(w->bs, w->codec, &from, page, &m->ids[k]);
			r->refused += put == BLOBSTORE_INCOMPRESSIBLE;
			r->duplicates += put == BLOBSTORE_DUPLICATE;
			if (put > BLOBSTORE_INCOMPRESSIBLE)
				die(m->name, "the store is full");
		}
		r->in_ns += cpu_now() - t;
		r->pages++;
		if (k % 64 == 0) /* as the agent does between two batches */
			keep_house(w);
	}
}

static void get_image(struct world *w, const struct image *m, struct result *r)
{
	unsigned char page[PAGE_BYTES];

	for (uint64_t k = 0; k < m->nr; k++) {
		uint64_t t = clock_now();

		if (!m->ids[k])
			continue;
		if (blobstore_get(w->bs, w->codec, m->ids[k], page))
			die(m->name, "does not come back");
		count_out(r, clock_now() - t);
		if (memcmp(page, m->pages + k * PAGE_BYTES, PAGE_BYTES) != 0)
			die(m->name, "came back different");
	}
}

/* A refused page stays where it is: it is neither evicted nor held. */
static void count_held(struct world *w, struct result *r)
{
	struct blobstore_stats st;

	blobstore_get_stats(w->bs, &st);
	r->held = (double)(st.live_bytes + st.dead_bytes + st.metadata_bytes + r->pages * SLOT_BYTES);
}

static void end(struct world *w, struct image *v, size_t n)
{
	for (size_t i = 0; i < n; i++)
		for (uint64_t k = 0; k < v[i].nr; k++)
			if (v[i].ids[k])
				blobstore_unref(w->bs, v[i].ids[k]);
	keep_house(w);
	if (atomic_load(&w->domain->charged))
		die("uswap", "something is still charged");
	blobstore_free(w->bs);
	store_close(w->store);
	domain_unref(w->domains, w->domain);
	domain_registry_free(w->domains);
	codec_free(w->codec);
}

/* ---- report ---- */

static bool json;

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static void print(const char *what, const char *how, struct result *r)
{
	uint64_t n = MIN(r->outs, OUTS_MAX), refused = r->refused * PAGE_BYTES;
	double ratio = (double)(r->pages - r->refused) * (double)PAGE_BYTES / r->held;
	double all_in = (double)r->pages * (double)PAGE_BYTES / (r->held + (double)refused);
	double in = (double)r->in_ns / (double)r->pages / 1000;

	qsort(r->out_each, n, sizeof(*r->out_each), compare);
	printf(json ? "{\"heap\":\"%s\",\"store\":\"%s\",\"pages\":%" PRIu64 ",\"ratio\":%.3f,\"all_in\":%.3f,"
		      "\"in_us\":%.2f,\"out_us\":%.2f,\"same\":%" PRIu64
		      ",\"duplicates\":%" PRIu64 ",\"refused\":%" PRIu64 "}\n" :
		      "%-10s %-10s %9" PRIu64 " %8.2f %8.2f %8.1f %8.1f %8" PRIu64 " %8" PRIu64 " %8" PRIu64 "\n",
	       what, how, r->pages, ratio, all_in, in, n ? r->out_each[n / 2] / 1000.0 : 0, r->same,
	       r->duplicates, r->refused);
}

static void print_encodings(struct world *w)
{
	struct blobstore_stats st;

	blobstore_get_stats(w->bs, &st);
	if (json)
		return;
	printf("%-10s plain %" PRIu64 " pages %" PRIu64 " bytes, dictionary %" PRIu64 " pages %" PRIu64
	       " bytes (saved %" PRId64 "), difference %" PRIu64 " pages %" PRIu64 " bytes; dictionaries %" PRIu32
	       ", tables %.1f bytes a blob\n",
	       "", st.encodings.plain_pages, st.encodings.plain_bytes, st.encodings.dict_pages,
	       st.encodings.dict_bytes, st.encodings.dict_saved_bytes, st.encodings.delta_pages,
	       st.encodings.delta_bytes, st.dicts, (double)st.metadata_bytes / (double)st.blobs);
}

/* The background pass over all of it: in us is what it took a page. */
static void measure_cold(struct world *w, const struct image *v, size_t n, struct result *r)
{
	uint64_t t = cpu_now();

	blobstore_set_recompress(w->bs, 1);
	while (blobstore_recompress(w->bs))
		;
	keep_house(w);
	r->in_ns = cpu_now() - t;
	r->outs = 0;
	for (size_t i = 0; i < n; i++)
		get_image(w, &v[i], r);
	count_held(w, r);
}

static void measure_uswap(const char *what, struct image *v, size_t n)
{
	static struct result r;
	struct world w = world_new();

	memset(&r, 0, sizeof(r));

	for (size_t i = 0, same; i < n; i += same) {
		struct family *family = blobstore_family_new(w.bs, w.domain);

		if (!family)
			die("uswap", "memory");
		for (same = 1; i + same < n && v[i + same].family == v[i].family &&
			       memcmp(v[i + same].name, v[i].name, v[i].family) == 0; same++)
			blobstore_family_forked(family);
		for (size_t k = 0; k < same; k++) {
			put_image(&w, &v[i + k], family, &r);
			blobstore_family_unref(family);
		}
	}
	for (size_t i = 0; i < n; i++)
		get_image(&w, &v[i], &r);
	count_held(&w, &r);
	print(what, "uswap", &r);
	print_encodings(&w);
	measure_cold(&w, v, n, &r);
	print(what, "uswap cold", &r);
	end(&w, v, n);
}

static void measure(const char *what, struct image *v, size_t n)
{
#ifdef HAVE_LZ4
	print(what, "lz4", kernel_kind(v, n, ZRAM_ENTRY, lz4_in, lz4_out));
#endif
#ifdef HAVE_ZLIB
	print(what, "deflate", kernel_kind(v, n, ZSWAP_ENTRY, deflate_in, deflate_out));
#endif
	pack = ZSTD_createCCtx();
	unpack = ZSTD_createDCtx();
	print(what, "zstd 1", kernel_kind(v, n, 0, zstd_in, zstd_out));
	train(v, n);
	print(what, "dictionary", kernel_kind(v, n, 0, zstd_in, zstd_out));
	ZSTD_freeCDict(pack_dict);
	ZSTD_freeDDict(unpack_dict);
	ZSTD_freeCCtx(pack);
	ZSTD_freeDCtx(unpack);
	pack_dict = NULL;
	unpack_dict = NULL;
	measure_uswap(what, v, n);
}

int main(int argc, char **argv)
{
	struct image *v;
	size_t n = 0;

	if (argc > 1 && strcmp(argv[1], "--json") == 0) {
		json = true;
		argv++;
		argc--;
	}
	if (argc < 2) {
		fputs("usage: heap_ratio [--json] IMAGE...\n", stderr);
		return 2;
	}
	v = calloc((size_t)argc, sizeof(*v));
	for (int i = 1; v && i < argc; i++)
		v[n++] = load(argv[i]);
	if (!json)
		printf("%-10s %-10s %9s %8s %8s %8s %8s %8s %8s %8s\n", "heap", "store", "pages", "ratio",
		       "all in", "in us", "out us", "same", "dup", "refused");
	for (size_t i = 0, same; i < n; i += same) {
		char name[64];

		for (same = 1; i + same < n && v[i + same].family == v[i].family &&
			       memcmp(v[i + same].name, v[i].name, v[i].family) == 0; same++)
			;
		snprintf(name, sizeof(name), "%.*s", (int)MIN(v[i].family, 63), v[i].name);
		measure(name, v + i, same);
	}
	if (n > 1)
		measure("all", v, n);
	return 0;
}
