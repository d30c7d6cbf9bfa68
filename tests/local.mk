# SPDX-License-Identifier: GPL-2.0-or-later
# `make check'. Unit tests are programs that speak TAP (each case counts), all
# others are scripts: status 0, or 77 for what can't run here. Scripts that use
# the whole machine wait for one another in tests/run.sh.
TEST_EXTENSIONS = .sh .py
LOG_DRIVER = env AM_TAP_AWK='$(AWK)' $(SHELL) $(top_srcdir)/build-aux/tap-driver.sh
SH_LOG_COMPILER = $(BASH) $(top_srcdir)/tests/run.sh
PY_LOG_COMPILER = $(BASH) $(top_srcdir)/tests/run.sh --python
AM_TESTS_ENVIRONMENT = \
	CK_TAP_LOG_FILE_NAME=-; export CK_TAP_LOG_FILE_NAME; \
	USWAP_SRC='$(abs_top_srcdir)'; export USWAP_SRC; \
	USWAP_BUILD='$(abs_top_builddir)'; export USWAP_BUILD; \
	top_builddir='$(abs_top_builddir)'; export top_builddir; \
	CC='$(CC)'; export CC;
MOSTLYCLEANFILES += .serial

STATIC_TESTS = \
	tests/check-layers.sh \
	tests/check-dist.sh \
	tests/check-paths.sh \
	tests/check-shell.sh \
	tests/check-man.sh

# Parts of `make check'.
.PHONY: check-unit check-static check-system
check-unit:
	$(MAKE) $(AM_MAKEFLAGS) check TESTS='$(UNIT_TESTS)'
check-static:
	$(MAKE) $(AM_MAKEFLAGS) check TESTS='$(STATIC_TESTS)'
check-system:
	$(MAKE) $(AM_MAKEFLAGS) check TESTS='$(CONTROL_TESTS) $(LIVE_TESTS) $(SYSTEMD_TESTS)'

# ---- workloads: what the live tests run under the shim; never sanitized ----
WORKLOAD_CFLAGS = $(STD_CFLAGS) $(WARN_CFLAGS) -pthread
check_PROGRAMS += \
	tests/workloads/fill_verify \
	tests/workloads/fork_verify \
	tests/workloads/have_move \
	tests/workloads/madvise_verify \
	tests/workloads/threads_verify
tests_workloads_fill_verify_SOURCES = tests/workloads/fill_verify.c
tests_workloads_fill_verify_CFLAGS = $(WORKLOAD_CFLAGS)
tests_workloads_fill_verify_LDFLAGS = -pthread
tests_workloads_fork_verify_SOURCES = tests/workloads/fork_verify.c
tests_workloads_fork_verify_CFLAGS = $(WORKLOAD_CFLAGS)
tests_workloads_fork_verify_LDFLAGS = -pthread
tests_workloads_have_move_SOURCES = tests/workloads/have_move.c
tests_workloads_have_move_CFLAGS = $(WORKLOAD_CFLAGS)
tests_workloads_have_move_LDFLAGS = -pthread
tests_workloads_madvise_verify_SOURCES = tests/workloads/madvise_verify.c
tests_workloads_madvise_verify_CFLAGS = $(WORKLOAD_CFLAGS)
tests_workloads_madvise_verify_LDFLAGS = -pthread
tests_workloads_threads_verify_SOURCES = tests/workloads/threads_verify.c
tests_workloads_threads_verify_CFLAGS = $(WORKLOAD_CFLAGS)
tests_workloads_threads_verify_LDFLAGS = -pthread
EXTRA_DIST += \
	tests/workloads/content.h \
	tests/workloads/workload.h

LIVE_TESTS = \
	tests/live/test_fill.sh \
	tests/live/test_fork.sh \
	tests/live/test_threads.sh

TESTS += $(STATIC_TESTS) $(LIVE_TESTS)
EXTRA_DIST += tests/run.sh $(STATIC_TESTS) $(LIVE_TESTS)
EXTRA_DIST += \
	tests/live/lib.sh
