# SPDX-License-Identifier: GPL-2.0-or-later
# The agent: one library per layer, so that a test links the layers it tests and
# nothing above them. tests/check-layers.sh holds the includes to that order.

noinst_LIBRARIES += agent/libpage.a
agent_libpage_a_SOURCES = \
	agent/page/blob.c \
	agent/page/blob.h \
	agent/page/blob_entry.h \
	agent/page/blob_index.c \
	agent/page/blob_index.h \
	agent/page/codec.c \
	agent/page/codec.h \
	agent/page/dict.c \
	agent/page/dict.h \
	agent/page/domain.c \
	agent/page/domain.h \
	agent/page/seal.c \
	agent/page/seal.h \
	agent/page/sealed.c \
	agent/page/sealed.h \
	agent/page/slot.c \
	agent/page/slot.h \
	agent/page/slot_pool.c \
	agent/page/slot_pool.h \
	agent/page/slot_tree.c \
	agent/page/slot_tree.h \
	agent/page/slotmap.c \
	agent/page/slotmap.h \
	agent/page/slotmap_move.c \
	agent/page/staging.c \
	agent/page/staging.h

noinst_LIBRARIES += agent/libsys.a
agent_libsys_a_SOURCES = \
	agent/sys/cgroup.c \
	agent/sys/cgroup.h \
	agent/sys/meminfo.c \
	agent/sys/meminfo.h \
	agent/sys/pagemap.c \
	agent/sys/pagemap.h \
	agent/sys/uffd.c \
	agent/sys/uffd.h

noinst_LIBRARIES += agent/libpolicy.a
agent_libpolicy_a_SOURCES = \
	agent/policy/policy.c \
	agent/policy/policy.h

noinst_LIBRARIES += agent/libproc.a
agent_libproc_a_SOURCES = \
	agent/proc/gate.h \
	agent/proc/handshake.c \
	agent/proc/handshake.h \
	agent/proc/mappings.c \
	agent/proc/mappings.h \
	agent/proc/quiet.c \
	agent/proc/quiet.h \
	agent/proc/ranges.c \
	agent/proc/ranges.h \
	agent/proc/record.c \
	agent/proc/record.h \
	agent/proc/session.c \
	agent/proc/session.h

noinst_LIBRARIES += agent/libflow.a
agent_libflow_a_SOURCES = \
	agent/flow/batch.h \
	agent/flow/blobstore.c \
	agent/flow/blobstore.h \
	agent/flow/blobstore_cluster.c \
	agent/flow/blobstore_cold.c \
	agent/flow/blobstore_daily.c \
	agent/flow/blobstore_down.c \
	agent/flow/blobstore_encode.c \
	agent/flow/blobstore_family.c \
	agent/flow/blobstore_fetch.c \
	agent/flow/blobstore_gather.c \
	agent/flow/blobstore_health.c \
	agent/flow/blobstore_lexicon.c \
	agent/flow/blobstore_lexicon.h \
	agent/flow/blobstore_lookup.c \
	agent/flow/blobstore_out.c \
	agent/flow/blobstore_private.h \
	agent/flow/blobstore_recover.c \
	agent/flow/blobstore_references.c \
	agent/flow/blobstore_room.c \
	agent/flow/blobstore_segment.c \
	agent/flow/blobstore_share.c \
	agent/flow/blobstore_up.c \
	agent/flow/blobstore_verify.c \
	agent/flow/blobstore_work.c \
	agent/flow/event_order.c \
	agent/flow/event_plan.c \
	agent/flow/events.c \
	agent/flow/count.c \
	agent/flow/evict_commit.c \
	agent/flow/evict_mark.c \
	agent/flow/evict_pack.c \
	agent/flow/evict_plan.c \
	agent/flow/evict_pull.c \
	agent/flow/evict_stage.c \
	agent/flow/fault.c \
	agent/flow/fetch.c \
	agent/flow/fetch_private.h \
	agent/flow/fetch_window.c \
	agent/flow/flow.c \
	agent/flow/flow.h \
	agent/flow/order.h \
	agent/flow/prefetch.c \
	agent/flow/refault.c \
	agent/flow/room.c \
	agent/flow/unpack.c \
	agent/flow/unpack.h

noinst_LIBRARIES += agent/libengine.a
agent_libengine_a_SOURCES = \
	agent/engine/again.c \
	agent/engine/attach.c \
	agent/engine/engine.c \
	agent/engine/engine.h \
	agent/engine/domains.c \
	agent/engine/evictor.c \
	agent/engine/helper.c \
	agent/engine/orders.c \
	agent/engine/owner.c \
	agent/engine/packer.c \
	agent/engine/private.h \
	agent/engine/quota.c \
	agent/engine/recover.c \
	agent/engine/descriptors.c \
	agent/engine/registry.c \
	agent/engine/settings.h \
	agent/engine/stores.c \
	agent/engine/totals.c \
	agent/engine/verify.c \
	agent/engine/worker.c

noinst_LIBRARIES += agent/libkeeper.a
agent_libkeeper_a_SOURCES = \
	agent/keeper/keeper.c \
	agent/keeper/keeper.h

noinst_LIBRARIES += agent/libcontrol.a
agent_libcontrol_a_SOURCES = \
	agent/control/access.c \
	agent/control/bus.c \
	agent/control/control.c \
	agent/control/control.h \
	agent/control/listener.c \
	agent/control/listener.h \
	agent/control/logcontrol.c \
	agent/control/manager.c \
	agent/control/order.c \
	agent/control/peer.c \
	agent/control/private.h \
	agent/control/process.c \
	agent/control/properties.c \
	agent/control/verify.c

# All of main but main() itself.
noinst_LIBRARIES += agent/libmain.a
agent_libmain_a_SOURCES = \
	agent/check.c \
	agent/check_kernel.c \
	agent/checks.h \
	agent/collect.c \
	agent/collect.h \
	agent/config.c \
	agent/config.h \
	agent/config_keys.c \
	agent/drain.c \
	agent/drain.h \
	agent/fdstore.c \
	agent/fdstore.h \
	agent/manager.c \
	agent/manager.h \
	agent/options.c \
	agent/options.h \
	agent/setup.c \
	agent/setup.h

# In link order: each needs only those after it.
AGENT_LAYERS = \
	agent/libmain.a \
	agent/libkeeper.a \
	agent/libcontrol.a \
	agent/libengine.a \
	agent/libflow.a \
	agent/libproc.a \
	agent/libpolicy.a \
	agent/libpage.a \
	agent/libsys.a \
	backends/libbackends.a \
	common/libcommon.a

sbin_PROGRAMS += agent/uswap-agent
agent_uswap_agent_SOURCES = agent/main.c
agent_uswap_agent_LDADD = \
	$(AGENT_LAYERS) \
	$(URING_LIBS) $(AGENT_MALLOC_LIBS) $(ZSTD_LIBS) $(CRYPTO_LIBS) $(SYSTEMD_LIBS) -lm
