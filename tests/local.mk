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
	CC='$(CC)'; export CC;
MOSTLYCLEANFILES += .serial

STATIC_TESTS = \
	tests/check-layers.sh \
	tests/check-dist.sh \
	tests/check-paths.sh \
	tests/check-shell.sh \
	tests/check-man.sh

TESTS += $(STATIC_TESTS)
EXTRA_DIST += tests/run.sh $(STATIC_TESTS)
