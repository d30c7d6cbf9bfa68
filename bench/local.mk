# SPDX-License-Identifier: GPL-2.0-or-later
# Built with all the rest so that they keep building; run by hand.
noinst_PROGRAMS += \
	bench/bare_fault \
	bench/compress_page \
	bench/evicted_fault \
	bench/idle_work

bench_bare_fault_SOURCES = bench/bare_fault.c
bench_bare_fault_LDADD = common/libcommon.a -lm

bench_compress_page_SOURCES = bench/compress_page.c
bench_compress_page_LDADD = common/libcommon.a $(ZSTD_LIBS) $(CRYPTO_LIBS) -lm

bench_evicted_fault_SOURCES = bench/evicted_fault.c
bench_evicted_fault_LDADD = common/libcommon.a -lm

bench_idle_work_SOURCES = bench/idle_work.c
bench_idle_work_LDADD = common/libcommon.a -lm

EXTRA_DIST += \
	bench/touch.h \
	bench/uswap-bench
