# SPDX-License-Identifier: GPL-2.0-or-later
# Built with all the rest so that they keep building; run by hand.
noinst_PROGRAMS += \
	bench/bare_fault \
	bench/compress_page \
	bench/evicted_fault \
	bench/heap_clusters \
	bench/heap_image \
	bench/heap_ratio \
	bench/idle_work \
	bench/many_pages

bench_bare_fault_SOURCES = bench/bare_fault.c
bench_bare_fault_LDADD = common/libcommon.a -lm

bench_compress_page_SOURCES = bench/compress_page.c
bench_compress_page_LDADD = common/libcommon.a $(ZSTD_LIBS) $(CRYPTO_LIBS) -lm

bench_evicted_fault_SOURCES = bench/evicted_fault.c
bench_evicted_fault_LDADD = common/libcommon.a -lm

bench_heap_clusters_SOURCES = bench/heap_clusters.c
bench_heap_clusters_LDADD = common/libcommon.a $(ZSTD_LIBS) $(CRYPTO_LIBS) -lm

bench_heap_image_SOURCES = bench/heap_image.c
bench_heap_image_LDADD = common/libcommon.a

bench_heap_ratio_SOURCES = bench/heap_ratio.c
bench_heap_ratio_CPPFLAGS = $(AM_CPPFLAGS) $(BENCH_CPPFLAGS)
bench_heap_ratio_LDADD = \
	agent/libflow.a agent/libproc.a agent/libpage.a agent/libsys.a backends/libbackends.a \
	common/libcommon.a $(ZSTD_LIBS) $(CRYPTO_LIBS) $(BENCH_LIBS) -lm

bench_idle_work_SOURCES = bench/idle_work.c
bench_idle_work_LDADD = common/libcommon.a -lm

bench_many_pages_SOURCES = bench/many_pages.c
bench_many_pages_LDADD = common/libcommon.a

if HAVE_RADOS
noinst_PROGRAMS += bench/rados_bare
endif
bench_rados_bare_SOURCES = bench/rados_bare.c
bench_rados_bare_LDADD = backends/libbackends.a common/libcommon.a $(URING_LIBS)

EXTRA_DIST += \
	bench/heap-images \
	bench/recovery \
	bench/heaps/Records.java \
	bench/heaps/records.js \
	bench/heaps/records.py \
	bench/lib.sh \
	bench/touch.h \
	bench/uswap-bench \
	bench/uswap-bench-file \
	bench/uswap-bench-rados \
	bench/zram.sh
