#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Programs larger than their resident limit, all of it in Ceph: pages are really
# in the pool, every byte comes back, and nothing stays there.
# shellcheck source=tests/ceph/lib.sh
. "${srcdir:-.}/tests/ceph/lib.sh"

MIB=64

live_begin
cluster_start memstore
agent_config >"$DIR/uswap.conf"
cat >>"$DIR/uswap.conf" <<-END
	Limit=16M
	[Store]
	MoveDownSec=0.1
END
AGENT_STORES=("rados:uswap,conf=$CEPH_CONF,timeout=20,host=here")
agent_start
wait_until 60 "the store to be up" tier_works rados
wait_until 20 "the log to say who we are" grep -q "pool uswap: connected, host id here" "$DIR/agent.log"
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

# what is told of the pool is what is there
objects_are_told() {
	[ "$(tier rados segments)" = "$(objects_like '^s\.here\.')" ]
}
wait_until 60 "pages to go to the pool again" in_the_pool
wait_until 30 "segments to be the objects: $(tier rados segments), $(objects)" objects_are_told
for key in read_p50_ns read_p99_ns write_p50_ns write_p99_ns; do
	[ "$(tier rados $key)" -gt 0 ] || fail "no $key"
done
for kind in read write; do
	[ "$(tier rados ${kind}_p50_ns)" -le "$(tier rados ${kind}_p99_ns)" ] || fail "$kind: p50 beyond p99"
done
# What is collected meanwhile is in one of them and not in the other. Behind a batch
# that isn't full, as collecting leaves them, there is a hole, which counts as size.
bytes_are_told() {
	told=$(tier rados used_bytes)
	there=$(pool_bytes)
	[ "$told" -le "$there" ] && [ $((told * 2)) -ge "$there" ]
}
wait_until 60 "the bytes in the pool to be those that are told" bytes_are_told
say "told: $told bytes, with holes $there"
[ "$(tier rados errors_total)" = 0 ] || fail "errors: $(jq -c .agent.tiers "$DIR/stats.json")"

# poor segments are collected: the pages of all that is touched go elsewhere
for ((i = 0; i < 20; i++)); do
	[ "$(ask "$served" work)" = 64 ] || fail "work"
done
for ((i = 0; i < 2; i++)); do
	[ "$(ask "$served" change)" -gt 0 ] || fail "change"
	wait_until 60 "changed pages to go to the pool" in_the_pool
done
collected() {
	[ "$(tier rados collected_bytes_total)" -gt 0 ] &&
		[ "$(tier rados dead_bytes)" -lt "$(tier rados live_bytes)" ]
}
wait_until 60 "pages to go to the pool after work" in_the_pool
wait_until 60 "poor segments to be collected" collected
wait_until 30 "their objects to go" objects_are_told
[ "$(ask "$served" verify)" = $((MIB * 256)) ] || fail "verify after collecting"

# librados has threads in the agent that no signal may reach, and outlives forks
worker=$(worker)
threads=0
for task in /proc/"$worker"/task/*; do
	case $(cat "$task/comm") in
	msgr-worker* | io_context_pool | ceph_timer | ms_* | safe_timer | service | log) ;;
	*) continue ;;
	esac
	threads=$((threads + 1))
	# all but SIGKILL, SIGSTOP and the two that are the C library's own
	blocked=$(sed -n 's/^SigBlk:\t//p' "$task/status")
	[ $((~0x$blocked & ~0x180040100)) = 0 ] || fail "$(cat "$task/comm"): signals blocked: $blocked"
done
[ $threads -ge 8 ] || fail "only $threads threads of librados"
evicted_run fork_verify 2
say "read back: $(tier rados read_bytes_total) bytes, p50 $(tier rados read_p50_ns) ns"
serve_stop "$served"
live_idle
wait_until 30 "the pool to be empty" no_segments
agent_stop
[ "$(objects_like .)" = 0 ] || fail "left in the pool: $(objects)"
say "passed"
