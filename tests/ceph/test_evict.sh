#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Programs larger than their resident limit, all of it in Ceph: pages are really
# in the pool, every byte comes back, and nothing stays there.
# shellcheck source=tests/ceph/lib.sh
. "${srcdir:-.}/tests/ceph/lib.sh"

MIB=96

live_begin
cluster_start memstore
agent_config >"$DIR/uswap.conf"
cat >>"$DIR/uswap.conf" <<-END
	Limit=16M
	[Store]
	MoveDownSec=0.1
END
AGENT_STORES=("rados:uswap,conf=$CEPH_CONF,timeout=5,host=here")
agent_start
wait_until 60 "the store to be up" tier_works rados
serve_start "$MIB"
served=$SERVED
in_the_pool() {
	[ "$(tier rados live_bytes)" -gt $((1 << 20)) ] &&
		[ "$(tier memory live_bytes)" -lt $((1 << 20)) ]
}
wait_until 90 "pages to go to the pool" in_the_pool
say "in the pool: $(objects_like '^s\.here\.') objects, $(tier rados used_bytes) bytes, $(tier rados live_bytes) live"
[ "$(objects_like '^s\.here\.')" -gt 0 ] || fail "the pool is empty: $(objects)"
[ "$(ask "$served" verify)" = $((MIB * 256)) ] || fail "verify"
[ "$(ask "$served" change)" -gt 0 ] || fail "change"
[ "$(ask "$served" verify)" = $((MIB * 256)) ] || fail "verify after a change"
[ "$(tier rados read_bytes_total)" -gt $((1 << 20)) ] || fail "nothing was read from the pool"
say "read back: $(tier rados read_bytes_total) bytes, p50 $(tier rados read_p50_ns) ns"
serve_stop "$served"
live_idle
wait_until 30 "the pool to be empty" no_segments
agent_stop
[ "$(objects_like .)" = 0 ] || fail "left in the pool: $(objects)"
say "passed"
