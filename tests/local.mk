# SPDX-License-Identifier: GPL-2.0-or-later
# `make check'. Unit tests are programs that speak TAP (each case counts), all
# others are scripts: status 0, or 77 for what can't run here. Scripts that use
# the whole machine wait for one another in tests/run.sh.
TEST_EXTENSIONS = .sh .py
LOG_DRIVER = env AM_TAP_AWK='$(AWK)' $(SHELL) $(top_srcdir)/build-aux/tap-driver.sh
# What only computes makes way for what waits for a running agent.
LOG_COMPILER = nice -n 10
SH_LOG_COMPILER = $(BASH) $(top_srcdir)/tests/run.sh
PY_LOG_COMPILER = $(BASH) $(top_srcdir)/tests/run.sh --python
AM_TESTS_ENVIRONMENT = \
	CK_TAP_LOG_FILE_NAME=-; export CK_TAP_LOG_FILE_NAME; \
	USWAP_SRC='$(abs_top_srcdir)'; export USWAP_SRC; \
	USWAP_BUILD='$(abs_top_builddir)'; export USWAP_BUILD; \
	top_builddir='$(abs_top_builddir)'; export top_builddir; \
	CK_TIMEOUT_MULTIPLIER=$(TIME_FACTOR)0; export CK_TIMEOUT_MULTIPLIER; \
	USWAP_TIME_FACTOR=$(TIME_FACTOR); export USWAP_TIME_FACTOR; \
	CC='$(CC)'; export CC;
MOSTLYCLEANFILES += .serial .serial-hosts

STATIC_TESTS = \
	tests/check-layers.sh \
	tests/check-dist.sh \
	tests/check-paths.sh \
	tests/check-shell.sh \
	tests/check-man.sh

# Parts of `make check'.
.PHONY: check-unit check-static check-computing check-system check-hosts check-sanitized check-threads soak
check-unit:
	$(MAKE) $(AM_MAKEFLAGS) check TESTS='$(UNIT_TESTS)'
# For builds with sanitizers: what their agent must go through on the real kernel, too;
# in that of the thread sanitizer none of what has but one thread. Only what these need is
# built; with BUILD_ONLY=1 nothing is run.
check-sanitized: UNITS = $(UNIT_TESTS)
check-threads: UNITS = $(filter-out $(ONE_THREAD_TESTS),$(UNIT_TESTS))
check-sanitized check-threads:
	$(MAKE) $(AM_MAKEFLAGS) check TESTS='$(if $(BUILD_ONLY),,$(UNITS) $(SANITIZED_TESTS))' \
		check_PROGRAMS='$(UNITS) $(SANITIZED_NEED)' noinst_PROGRAMS=
# Programs that verify every byte while the agent is killed KILLS times (1000).
.PHONY: crash-soak
crash-soak: all
	$(MAKE) $(AM_MAKEFLAGS) check TESTS=
	top_builddir=. srcdir='$(srcdir)' $(BASH) '$(srcdir)/tests/live/crash-soak.sh' $(KILLS)
check-static:
	$(MAKE) $(AM_MAKEFLAGS) check TESTS='$(STATIC_TESTS)'
# all but those of a running system; the longest first
check-computing:
	$(MAKE) $(AM_MAKEFLAGS) check TESTS='$(PLANTED_TESTS) tests/check-shell.sh $(UNIT_TESTS) $(filter-out tests/check-shell.sh,$(STATIC_TESTS))'
check-system:
	$(MAKE) $(AM_MAKEFLAGS) check TESTS='$(CONTROL_TESTS) $(LIVE_TESTS) $(INJECT_TESTS)'
# ... with machines of their own: clusters, and what a service manager runs
check-hosts:
	$(MAKE) $(AM_MAKEFLAGS) check TESTS='$(CEPH_TESTS) $(SYSTEMD_TESTS)'

# All day long, if wanted: SOAK_MINUTES of mixed programs, then each of stress-ng's
# stressors for SOAK_SECONDS, databases, and CPython's test modules whole.
# SOAK_PARTS names some of: mixed; a stressor; memcached, postgresql; node, java, go,
# and CPython's, as tests/live/test_runtimes.sh names them.
# From make's command line or the environment: a variable of make's own would
# stand above the latter, for single tests too.
soak:
	SOAK_MINUTES=$${SOAK_MINUTES:-60} SOAK_SECONDS=$${SOAK_SECONDS:-20} \
		$(MAKE) $(AM_MAKEFLAGS) check TESTS='$(SOAK_TESTS)'
SOAK_TESTS = \
	tests/live/test_soak.sh \
	tests/live/test_crash_soak.sh \
	tests/live/test_sandbox.sh \
	tests/systemd/test_unit.sh \
	tests/live/test_stress.sh \
	tests/live/test_databases.sh \
	tests/live/test_runtimes.sh

SANITIZED_TESTS = \
	tests/live/test_exec.sh \
	tests/live/test_fork.sh \
	tests/live/test_hostile.sh \
	tests/live/test_mappings.sh \
	tests/live/test_stop.sh \
	tests/live/test_threads.sh

SANITIZED_NEED = \
	tests/workloads/exec_verify \
	tests/workloads/fill_serve \
	tests/workloads/fill_verify \
	tests/workloads/fork_verify \
	tests/workloads/have_move \
	tests/workloads/hostile_peer \
	tests/workloads/madvise_verify \
	tests/workloads/malloc_verify \
	tests/workloads/mremap_verify \
	tests/workloads/munmap_verify \
	tests/workloads/race_verify \
	tests/workloads/threads_churn \
	tests/workloads/threads_verify \
	tests/workloads/uffd_verify \
	tests/workloads/zero_touch

# The flow lane is the whole agent in one thread. (A real reaper closes behind two of them.)
ONE_THREAD_TESTS = \
	tests/flow/test_event_histories \
	tests/flow/test_event_order \
	tests/flow/test_interleavings \
	tests/flow/test_register \
	tests/unit/test_codec \
	tests/unit/test_config \
	tests/unit/test_fetch \
	tests/unit/test_form \
	tests/unit/test_kept \
	tests/unit/test_policy \
	tests/unit/test_recover \
	tests/unit/test_sealed \
	tests/unit/test_slot \
	tests/unit/test_slotmap \
	tests/unit/test_staging

# What shows that an archive is whole, and its tests run for anybody: all programs are built.
DIST_TESTS = \
	$(filter-out tests/check-shell.sh,$(STATIC_TESTS)) \
	$(filter-out $(LONG_TESTS),$(UNIT_TESTS)) \
	tests/control/test_control.sh \
	tests/live/test_exec.sh

# Some seconds of a processor each.
LONG_TESTS = \
	tests/flow/test_interleavings \
	tests/unit/test_blob \
	tests/unit/test_blobstore \
	tests/unit/test_cluster \
	tests/unit/test_family \
	tests/unit/test_objects \
	tests/unit/test_sealed \
	tests/unit/test_share \
	tests/unit/test_tiers

# ---- unit: each links the layer it tests and what that stands on ----
UNIT_TESTS = \
	tests/flow/test_event_histories \
	tests/flow/test_event_order \
	tests/flow/test_interleavings \
	tests/flow/test_register \
	tests/unit/test_blob \
	tests/unit/test_blobstore \
	tests/unit/test_cluster \
	tests/unit/test_codec \
	tests/unit/test_config \
	tests/unit/test_domain \
	tests/unit/test_engine \
	tests/unit/test_fetch \
	tests/unit/test_file \
	tests/unit/test_family \
	tests/unit/test_form \
	tests/unit/test_kept \
	tests/unit/test_recover \
	tests/unit/test_objects \
	tests/unit/test_policy \
	tests/unit/test_proc \
	tests/unit/test_sealed \
	tests/unit/test_slot \
	tests/unit/test_slotmap \
	tests/unit/test_staging \
	tests/unit/test_store \
	tests/unit/test_share \
	tests/unit/test_tiers \
	tests/unit/test_unpack
check_PROGRAMS += $(UNIT_TESTS)

tests_unit_test_blob_SOURCES = tests/unit/test_blob.c
tests_unit_test_blob_LDADD = agent/libpage.a common/libcommon.a $(ZSTD_LIBS) $(CRYPTO_LIBS) $(CHECK_LIBS) -lm

BLOBS = tests/unit/blobs.c tests/unit/blobs.h

tests_unit_test_blobstore_SOURCES = tests/unit/test_blobstore.c $(BLOBS)
tests_unit_test_blobstore_LDADD = agent/libflow.a agent/libproc.a agent/libpage.a agent/libsys.a backends/libbackends.a common/libcommon.a $(URING_LIBS) $(ZSTD_LIBS) $(CRYPTO_LIBS) $(CHECK_LIBS) -lm

tests_unit_test_cluster_SOURCES = tests/unit/test_cluster.c $(BLOBS)
tests_unit_test_cluster_LDADD = $(tests_unit_test_blobstore_LDADD)

tests_unit_test_fetch_SOURCES = tests/unit/test_fetch.c $(BLOBS)
tests_unit_test_fetch_LDADD = $(tests_unit_test_blobstore_LDADD)

tests_unit_test_form_SOURCES = tests/unit/test_form.c $(BLOBS)
tests_unit_test_form_LDADD = $(tests_unit_test_blobstore_LDADD)

tests_unit_test_unpack_SOURCES = tests/unit/test_unpack.c $(BLOBS)
tests_unit_test_unpack_LDADD = $(tests_unit_test_blobstore_LDADD)

tests_unit_test_family_SOURCES = tests/unit/test_family.c
tests_unit_test_family_LDADD = $(tests_unit_test_blobstore_LDADD)

tests_flow_test_event_histories_SOURCES = tests/flow/test_event_histories.c
tests_flow_test_event_histories_LDADD = $(tests_unit_test_blobstore_LDADD)
tests_flow_test_event_histories_LDFLAGS = $(AM_LDFLAGS) -Wl,--wrap=pagemap_free_run,--wrap=pagemap_marked_run

tests_flow_test_event_order_SOURCES = tests/flow/test_event_order.c
tests_flow_test_event_order_LDADD = $(tests_unit_test_blobstore_LDADD)

tests_flow_test_register_SOURCES = tests/flow/test_register.c
tests_flow_test_register_LDADD = $(tests_unit_test_blobstore_LDADD)

# The agent on a scripted kernel: kernel.c stands for agent/sys/pagemap.c and
# agent.c for common/reaper.c, so the archives' own members are not taken.
tests_flow_test_interleavings_SOURCES = \
	tests/flow/agent.c \
	tests/flow/agent.h \
	tests/flow/crash.c \
	tests/flow/explore.c \
	tests/flow/invariants.c \
	tests/flow/kernel.c \
	tests/flow/mover.c \
	tests/flow/test_interleavings.c \
	tests/flow/threads.c \
	tests/flow/world.h
tests_flow_test_interleavings_LDFLAGS = $(AM_LDFLAGS) \
	-Wl,--wrap=clock_gettime -Wl,--wrap=sched_yield -Wl,--wrap=sem_clockwait -Wl,--wrap=getrandom -Wl,--wrap=send -Wl,--wrap=blobstore_get_now -Wl,--wrap=inject_hit -Wl,--wrap=kept_open -Wl,--wrap=kept_open_since -Wl,--wrap=kept_close -Wl,--wrap=mappings_read_flagged \
	-Wl,--wrap=malloc -Wl,--wrap=calloc -Wl,--wrap=realloc -Wl,--wrap=pthread_mutex_lock
tests_flow_test_interleavings_LDADD = agent/libengine.a agent/libpolicy.a $(tests_unit_test_blobstore_LDADD)

# How the above is compiled and linked, for bugs planted into copies of it.
tests/flow/planted.flags: Makefile
	$(AM_V_GEN)$(MKDIR_P) $(@D) && \
	echo "$(DEFS) $(AM_CPPFLAGS) $(CPPFLAGS) $(AM_CFLAGS) $(CFLAGS)" >$@ && \
	echo "$(tests_flow_test_interleavings_OBJECTS)" >>$@ && \
	echo "$(tests_flow_test_interleavings_LDFLAGS) $(LDFLAGS) $(tests_flow_test_interleavings_LDADD) $(LIBS)" >>$@
check_DATA = tests/flow/planted.flags
CLEANFILES += tests/flow/planted.flags
PLANTED_TESTS = tests/flow/test_planted.sh
EXTRA_DIST += \
	tests/flow/planted/bar-lifted-by-eexist.patch \
	tests/flow/planted/checksum-not-compared.patch \
	tests/flow/planted/child-not-heard.patch \
	tests/flow/planted/child-without-its-batch.patch \
	tests/flow/planted/crash-drop-before-stage.patch \
	tests/flow/planted/crash-event-done-before-it-is.patch \
	tests/flow/planted/crash-event-read-forgotten.patch \
	tests/flow/planted/crash-fork-not-handed-over.patch \
	tests/flow/planted/crash-late-report-taken.patch \
	tests/flow/planted/crash-marks-forgotten.patch \
	tests/flow/planted/crash-no-wake.patch \
	tests/flow/planted/crash-old-order-still-good.patch \
	tests/flow/planted/crash-references-not-counted.patch \
	tests/flow/planted/crash-waiting-events-not-settled.patch \
	tests/flow/planted/double-commit.patch \
	tests/flow/planted/eagain-is-done.patch \
	tests/flow/planted/eexist-without-wake.patch \
	tests/flow/planted/emfile-blocks-fork.patch \
	tests/flow/planted/end-not-compared.patch \
	tests/flow/planted/event-applied-at-once.patch \
	tests/flow/planted/fault-before-event.patch \
	tests/flow/planted/fetch-keeps-its-reference.patch \
	tests/flow/planted/fetch-places-what-was-dropped.patch \
	tests/flow/planted/fetch-without-wake.patch \
	tests/flow/planted/fetching-carried-along.patch \
	tests/flow/planted/forgotten-charge.patch \
	tests/flow/planted/fork-lost-with-its-parent.patch \
	tests/flow/planted/fork-where-it-was-read.patch \
	tests/flow/planted/full-lane-used-on.patch \
	tests/flow/planted/gate-ignored.patch \
	tests/flow/planted/gate-of-the-closed.patch \
	tests/flow/planted/gate-wake-lost.patch \
	tests/flow/planted/generation-not-raised.patch \
	tests/flow/planted/guard-overwritten.patch \
	tests/flow/planted/late-unmap-hits-what-moved-there.patch \
	tests/flow/planted/left-in-staging.patch \
	tests/flow/planted/leaving-gets-zeros.patch \
	tests/flow/planted/lost-page-is-resident.patch \
	tests/flow/planted/lost-page-loses-its-mark.patch \
	tests/flow/planted/mark-not-looked-for.patch \
	tests/flow/planted/mark-not-seen-in-a-run.patch \
	tests/flow/planted/mark-taken-for-granted.patch \
	tests/flow/planted/order-of-reading.patch \
	tests/flow/planted/poisoned-beside-an-event.patch \
	tests/flow/planted/refcount-lost-on-fork.patch \
	tests/flow/planted/remap-forgets-transit.patch \
	tests/flow/planted/restore-forgets-leaving.patch \
	tests/flow/planted/served-fault-rule-forgotten.patch \
	tests/flow/planted/slow-tier-waited-for.patch \
	tests/flow/planted/source-of-dontunmap-let-go.patch \
	tests/flow/planted/staging-dropped-before-commit.patch \
	tests/flow/planted/transit-dropped-before-read.patch \
	tests/flow/planted/uncounted-move-is-dropped.patch \
	tests/flow/planted/unpacked-not-forgotten.patch \
	tests/flow/planted/unpacked-slot-not-compared.patch \
	tests/flow/planted/waiting-not-woken.patch \
	tests/flow/planted/wake-lost-after-enoent.patch \
	tests/flow/planted/wiped-as-the-flag-says.patch \
	tests/flow/planted/withheld-faults-forgotten.patch \
	tests/flow/planted/zeros-refused-by-a-mark.patch

tests_unit_test_codec_SOURCES = tests/unit/test_codec.c
tests_unit_test_codec_LDADD = agent/libpage.a common/libcommon.a $(ZSTD_LIBS) $(CRYPTO_LIBS) $(CHECK_LIBS) -lm

tests_unit_test_config_SOURCES = tests/unit/test_config.c
tests_unit_test_config_LDADD = agent/libmain.a agent/libcontrol.a agent/libengine.a agent/libflow.a agent/libproc.a agent/libpolicy.a agent/libpage.a agent/libsys.a backends/libbackends.a common/libcommon.a $(URING_LIBS) $(ZSTD_LIBS) $(CRYPTO_LIBS) $(SYSTEMD_LIBS) $(CHECK_LIBS) -lm

tests_unit_test_domain_SOURCES = tests/unit/test_domain.c
tests_unit_test_domain_LDADD = agent/libpage.a common/libcommon.a $(ZSTD_LIBS) $(CRYPTO_LIBS) $(CHECK_LIBS) -lm

tests_unit_test_engine_SOURCES = tests/unit/test_engine.c $(BLOBS)
tests_unit_test_engine_LDADD = agent/libengine.a agent/libpolicy.a $(tests_unit_test_blobstore_LDADD)

tests_unit_test_recover_SOURCES = tests/unit/test_recover.c
tests_unit_test_recover_LDADD = agent/libproc.a agent/libpage.a agent/libsys.a common/libcommon.a $(ZSTD_LIBS) $(CRYPTO_LIBS) $(CHECK_LIBS) -lm

tests_unit_test_kept_SOURCES = tests/unit/test_kept.c
tests_unit_test_kept_LDADD = common/libcommon.a $(CHECK_LIBS) -lm

tests_unit_test_objects_SOURCES = \
	tests/unit/fake_objects.c \
	tests/unit/fake_objects.h \
	tests/unit/test_objects.c
tests_unit_test_objects_LDADD = backends/libbackends.a common/libcommon.a $(URING_LIBS) $(CHECK_LIBS) -lm

tests_unit_test_file_SOURCES = tests/unit/test_file.c
tests_unit_test_file_LDADD = backends/libbackends.a common/libcommon.a $(URING_LIBS) $(CHECK_LIBS) -lm

tests_unit_test_policy_SOURCES = tests/unit/test_policy.c
tests_unit_test_policy_LDADD = agent/libpolicy.a common/libcommon.a $(CHECK_LIBS) -lm

tests_unit_test_proc_SOURCES = tests/unit/test_proc.c
tests_unit_test_proc_LDADD = agent/libproc.a agent/libpage.a agent/libsys.a common/libcommon.a $(ZSTD_LIBS) $(CRYPTO_LIBS) $(CHECK_LIBS) -lm

tests_unit_test_slot_SOURCES = tests/unit/test_slot.c
tests_unit_test_slot_LDADD = agent/libpage.a common/libcommon.a $(ZSTD_LIBS) $(CRYPTO_LIBS) $(CHECK_LIBS) -lm

tests_unit_test_slotmap_SOURCES = tests/unit/test_slotmap.c
tests_unit_test_slotmap_LDADD = agent/libpage.a common/libcommon.a $(ZSTD_LIBS) $(CRYPTO_LIBS) $(CHECK_LIBS) -lm

tests_unit_test_staging_SOURCES = tests/unit/test_staging.c
tests_unit_test_staging_LDADD = agent/libpage.a common/libcommon.a $(ZSTD_LIBS) $(CRYPTO_LIBS) $(CHECK_LIBS) -lm

tests_unit_test_share_SOURCES = \
	tests/unit/fake_objects.c \
	tests/unit/fake_objects.h \
	tests/unit/test_share.c
tests_unit_test_share_LDADD = $(tests_unit_test_blobstore_LDADD)
tests_unit_test_tiers_SOURCES = tests/unit/test_tiers.c $(BLOBS)
tests_unit_test_tiers_LDADD = $(tests_unit_test_blobstore_LDADD)

tests_unit_test_sealed_SOURCES = tests/unit/test_sealed.c
tests_unit_test_sealed_LDADD = agent/libpage.a common/libcommon.a $(ZSTD_LIBS) $(CRYPTO_LIBS) $(CHECK_LIBS) -lm
EXTRA_DIST += tests/golden/memory-v1.bin tests/golden/segment-v1.bin

tests_unit_test_store_SOURCES = tests/unit/test_store.c
tests_unit_test_store_LDADD = backends/libbackends.a common/libcommon.a $(URING_LIBS) $(CHECK_LIBS) -lm

# ---- workloads: what the live tests run under the shim; never sanitized ----
WORKLOAD_CFLAGS = $(STD_CFLAGS) $(WARN_CFLAGS) -pthread
check_PROGRAMS += \
	tests/workloads/alone_verify \
	tests/workloads/calls_verify \
	tests/workloads/exec_verify \
	tests/workloads/fill_serve \
	tests/workloads/fill_verify \
	tests/workloads/fork_verify \
	tests/workloads/grow_verify \
	tests/workloads/have_move \
	tests/workloads/hostile_peer \
	tests/workloads/madvise_verify \
	tests/workloads/malloc_verify \
	tests/workloads/many_verify \
	tests/workloads/mremap_verify \
	tests/workloads/munmap_verify \
	tests/workloads/odd_verify \
	tests/workloads/race_verify \
	tests/workloads/sandbox_verify \
	tests/workloads/shim_pages \
	tests/workloads/shim_plain \
	tests/workloads/spawn_verify \
	tests/workloads/special_verify \
	tests/workloads/syscall_verify \
	tests/workloads/threads_churn \
	tests/workloads/uffd_verify \
	tests/workloads/threads_verify \
	tests/workloads/uring_verify \
	tests/workloads/zero_touch \
	tests/live/shim_peer \
	tests/ceph/store_load
tests_workloads_alone_verify_SOURCES = tests/workloads/alone_verify.c
tests_workloads_alone_verify_CFLAGS = $(WORKLOAD_CFLAGS)
tests_workloads_alone_verify_LDFLAGS = -pthread
tests_workloads_calls_verify_SOURCES = tests/workloads/calls_verify.c
tests_workloads_calls_verify_CFLAGS = $(WORKLOAD_CFLAGS)
tests_workloads_calls_verify_LDFLAGS = -pthread
tests_workloads_exec_verify_SOURCES = tests/workloads/exec_verify.c
tests_workloads_exec_verify_CFLAGS = $(WORKLOAD_CFLAGS)
tests_workloads_exec_verify_LDFLAGS = -pthread
tests_workloads_fill_serve_SOURCES = tests/workloads/fill_serve.c
tests_workloads_fill_serve_CFLAGS = $(WORKLOAD_CFLAGS)
tests_workloads_fill_serve_LDFLAGS = -pthread
tests_workloads_fill_verify_SOURCES = tests/workloads/fill_verify.c
tests_workloads_fill_verify_CFLAGS = $(WORKLOAD_CFLAGS)
tests_workloads_fill_verify_LDFLAGS = -pthread
tests_workloads_fork_verify_SOURCES = tests/workloads/fork_verify.c
tests_workloads_fork_verify_CFLAGS = $(WORKLOAD_CFLAGS)
tests_workloads_fork_verify_LDFLAGS = -pthread
tests_workloads_grow_verify_SOURCES = tests/workloads/grow_verify.c
tests_workloads_grow_verify_CFLAGS = $(WORKLOAD_CFLAGS)
tests_workloads_grow_verify_LDFLAGS = -pthread
tests_workloads_have_move_SOURCES = tests/workloads/have_move.c
tests_workloads_have_move_CFLAGS = $(WORKLOAD_CFLAGS)
tests_workloads_have_move_LDFLAGS = -pthread
tests_workloads_hostile_peer_SOURCES = tests/workloads/hostile_peer.c
tests_workloads_hostile_peer_CFLAGS = $(WORKLOAD_CFLAGS)
tests_workloads_hostile_peer_LDFLAGS = -pthread
tests_workloads_madvise_verify_SOURCES = tests/workloads/madvise_verify.c
tests_workloads_madvise_verify_CFLAGS = $(WORKLOAD_CFLAGS)
tests_workloads_madvise_verify_LDFLAGS = -pthread
tests_workloads_malloc_verify_SOURCES = tests/workloads/malloc_verify.c
tests_workloads_malloc_verify_CFLAGS = $(WORKLOAD_CFLAGS)
tests_workloads_malloc_verify_LDFLAGS = -pthread
tests_workloads_many_verify_SOURCES = tests/workloads/many_verify.c
tests_workloads_many_verify_CFLAGS = $(WORKLOAD_CFLAGS)
tests_workloads_many_verify_LDFLAGS = -pthread
tests_workloads_mremap_verify_SOURCES = tests/workloads/mremap_verify.c
tests_workloads_mremap_verify_CFLAGS = $(WORKLOAD_CFLAGS)
tests_workloads_mremap_verify_LDFLAGS = -pthread
tests_workloads_race_verify_SOURCES = tests/workloads/race_verify.c
tests_workloads_race_verify_CFLAGS = $(WORKLOAD_CFLAGS)
tests_workloads_race_verify_LDFLAGS = -pthread
tests_workloads_uffd_verify_SOURCES = tests/workloads/uffd_verify.c
tests_workloads_uffd_verify_CFLAGS = $(WORKLOAD_CFLAGS)
tests_workloads_uffd_verify_LDFLAGS = -pthread
tests_workloads_munmap_verify_SOURCES = tests/workloads/munmap_verify.c
tests_workloads_munmap_verify_CFLAGS = $(WORKLOAD_CFLAGS)
tests_workloads_munmap_verify_LDFLAGS = -pthread
tests_workloads_odd_verify_SOURCES = tests/workloads/odd_verify.c
tests_workloads_odd_verify_CFLAGS = $(WORKLOAD_CFLAGS)
tests_workloads_odd_verify_LDFLAGS = -pthread
tests_workloads_sandbox_verify_SOURCES = tests/workloads/sandbox_verify.c
tests_workloads_sandbox_verify_CFLAGS = $(WORKLOAD_CFLAGS)
tests_workloads_sandbox_verify_LDFLAGS = -pthread
tests_workloads_shim_pages_SOURCES = tests/workloads/shim_pages.c
tests_workloads_shim_pages_CFLAGS = $(WORKLOAD_CFLAGS)
tests_workloads_shim_pages_LDFLAGS = -pthread
tests_workloads_shim_plain_SOURCES = tests/workloads/shim_plain.c
tests_workloads_shim_plain_CFLAGS = $(WORKLOAD_CFLAGS)
tests_workloads_shim_plain_LDFLAGS = -pthread
tests_workloads_special_verify_SOURCES = tests/workloads/special_verify.c
tests_workloads_special_verify_CFLAGS = $(WORKLOAD_CFLAGS)
tests_workloads_special_verify_LDFLAGS = -pthread
tests_workloads_spawn_verify_SOURCES = tests/workloads/spawn_verify.c
tests_workloads_spawn_verify_CFLAGS = $(WORKLOAD_CFLAGS)
tests_workloads_spawn_verify_LDFLAGS = -pthread
tests_workloads_syscall_verify_SOURCES = tests/workloads/syscall_verify.c
tests_workloads_syscall_verify_CFLAGS = $(WORKLOAD_CFLAGS)
tests_workloads_syscall_verify_LDFLAGS = -pthread
tests_workloads_threads_churn_SOURCES = tests/workloads/threads_churn.c
tests_workloads_threads_churn_CFLAGS = $(WORKLOAD_CFLAGS)
tests_workloads_threads_churn_LDFLAGS = -pthread
tests_workloads_threads_verify_SOURCES = tests/workloads/threads_verify.c
tests_workloads_threads_verify_CFLAGS = $(WORKLOAD_CFLAGS)
tests_workloads_threads_verify_LDFLAGS = -pthread
tests_workloads_uring_verify_SOURCES = tests/workloads/uring_verify.c
tests_workloads_uring_verify_CFLAGS = $(WORKLOAD_CFLAGS)
tests_workloads_uring_verify_LDFLAGS = -pthread
tests_workloads_uring_verify_LDADD = $(URING_LIBS)
tests_workloads_zero_touch_SOURCES = tests/workloads/zero_touch.c
tests_workloads_zero_touch_CFLAGS = $(WORKLOAD_CFLAGS)
tests_workloads_zero_touch_LDFLAGS = -pthread
tests_live_shim_peer_SOURCES = tests/live/shim_peer.c
tests_live_shim_peer_CFLAGS = $(WORKLOAD_CFLAGS)
tests_live_shim_peer_LDFLAGS = -pthread
tests_ceph_store_load_SOURCES = tests/ceph/store_load.c
tests_ceph_store_load_LDADD = backends/libbackends.a common/libcommon.a $(URING_LIBS)
EXTRA_DIST += \
	tests/workloads/content.h \
	tests/workloads/fuse_hang.h \
	tests/workloads/parts.h \
	tests/workloads/workload.h \
	tests/live/shim_scenarios.h

# ---- control: the agent with a made-up engine in place of the real one ----
check_PROGRAMS += tests/control/fake_agent
tests_control_fake_agent_SOURCES = agent/main.c tests/control/fake_engine.c
tests_control_fake_agent_LDADD = \
	agent/libmain.a agent/libkeeper.a agent/libcontrol.a agent/libsys.a \
	backends/libbackends.a common/libcommon.a $(URING_LIBS) $(SYSTEMD_LIBS) -lm

# The agent before this one: what it keeps is of the layouts that this one still reads.
check_PROGRAMS += tests/systemd/older_agent
tests_systemd_older_agent_SOURCES = agent/main.c agent/proc/record.c common/layout.c
tests_systemd_older_agent_CPPFLAGS = $(AM_CPPFLAGS) -DLAYOUT_SESSIONS=4
tests_systemd_older_agent_LDADD = $(agent_uswap_agent_LDADD)

CONTROL_TESTS = \
	tests/control/test_control.sh \
	tests/control/test_marshal.sh

LIVE_TESTS = \
	tests/live/test_bench.sh \
	tests/live/test_again.sh \
	tests/live/test_crash.sh \
	tests/live/test_crash_tiers.sh \
	tests/live/test_damage.sh \
	tests/live/test_databases.sh \
	tests/live/test_domains.sh \
	tests/live/test_exec.sh \
	tests/live/test_faulty.sh \
	tests/live/test_fill.sh \
	tests/live/test_fork.sh \
	tests/live/test_full.sh \
	tests/live/test_hostile.sh \
	tests/live/test_kept.sh \
	tests/live/test_mappings.sh \
	tests/live/test_media.sh \
	tests/live/test_never.sh \
	tests/live/test_odd.sh \
	tests/live/test_orders.sh \
	tests/live/test_prefetch.sh \
	tests/live/test_programs.sh \
	tests/live/test_redis.sh \
	tests/live/test_restart.sh \
	tests/live/test_room.sh \
	tests/live/test_runtimes.sh \
	tests/live/test_sandbox.sh \
	tests/live/test_shim.sh \
	tests/live/test_soak.sh \
	tests/live/test_spawn.sh \
	tests/live/test_special.sh \
	tests/live/test_stop.sh \
	tests/live/test_stress.sh \
	tests/live/test_syscalls.sh \
	tests/live/test_threads.sh \
	tests/live/test_tiers.sh \
	tests/live/test_verify.sh

CEPH_TESTS = \
	tests/ceph/test_access.sh \
	tests/ceph/test_agent.sh \
	tests/ceph/test_dedup.sh \
	tests/ceph/test_evict.sh \
	tests/ceph/test_full_pool.sh \
	tests/ceph/test_hosts.sh \
	tests/ceph/test_osd.sh

INJECT_TESTS = tests/inject/test_inject.sh

SYSTEMD_TESTS = \
	tests/systemd/test_rados.sh \
	tests/systemd/test_unit.sh

TESTS += $(STATIC_TESTS) $(UNIT_TESTS) $(PLANTED_TESTS) $(CONTROL_TESTS) $(LIVE_TESTS) $(INJECT_TESTS) $(CEPH_TESTS) $(SYSTEMD_TESTS)
EXTRA_DIST += tests/run.sh $(STATIC_TESTS) $(PLANTED_TESTS) $(CONTROL_TESTS) $(LIVE_TESTS) $(INJECT_TESTS) $(CEPH_TESTS) $(SYSTEMD_TESTS)
EXTRA_DIST += \
	tests/ceph/lib.sh \
	tests/ceph/mini-ceph.sh \
	tests/control/bus.conf.in \
	tests/control/compare_xml.py \
	tests/control/error_name.py \
	tests/control/lib.sh \
	tests/control/manager.py \
	tests/live/crash-soak.sh \
	tests/live/crash.sh \
	tests/live/distinct.py \
	tests/live/lib.sh \
	tests/live/manager.py \
	tests/live/points.sh \
	tests/live/storm.py \
	tests/live/storm.sh \
	tests/live/tiers.sh \
	tests/systemd/lib.sh \
	tests/unit/test_shim_symbols.sh
