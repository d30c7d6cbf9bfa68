# SPDX-License-Identifier: GPL-2.0-or-later
# Fuzz targets, where the compiler has libFuzzer (clang) and the address
# sanitizer is asked for. fuzz/test_fuzz.sh runs each for a while.
FUZZ_TARGETS = \
	fuzz/fuzz_attach \
	fuzz/fuzz_config \
	fuzz/fuzz_events \
	fuzz/fuzz_sealed
FUZZ_TESTS = fuzz/test_fuzz.sh
EXTRA_DIST += $(FUZZ_TESTS) fuzz/seeds.py

if FUZZ
check_PROGRAMS += $(FUZZ_TARGETS)
SANITIZED_TESTS += $(FUZZ_TESTS)
SANITIZED_NEED += $(FUZZ_TARGETS)
TESTS += $(FUZZ_TESTS)
endif

FUZZING_LINK = $(AM_LDFLAGS) -fsanitize=fuzzer
FUZZING_LIBS = agent/libmain.a agent/libcontrol.a agent/libengine.a agent/libpolicy.a $(tests_unit_test_blobstore_LDADD) $(SYSTEMD_LIBS)

fuzz_fuzz_attach_SOURCES = fuzz/fuzz_attach.c
fuzz_fuzz_attach_LDFLAGS = $(FUZZING_LINK) -Wl,--wrap=getsockopt
fuzz_fuzz_attach_LDADD = $(FUZZING_LIBS)
fuzz_fuzz_config_SOURCES = fuzz/fuzz_config.c
fuzz_fuzz_config_LDFLAGS = $(FUZZING_LINK)
fuzz_fuzz_config_LDADD = $(FUZZING_LIBS)
fuzz_fuzz_events_SOURCES = fuzz/fuzz_events.c
fuzz_fuzz_events_LDFLAGS = $(FUZZING_LINK)
fuzz_fuzz_events_LDADD = $(FUZZING_LIBS)
fuzz_fuzz_sealed_SOURCES = fuzz/fuzz_sealed.c
fuzz_fuzz_sealed_LDFLAGS = $(FUZZING_LINK)
fuzz_fuzz_sealed_LDADD = $(FUZZING_LIBS)
