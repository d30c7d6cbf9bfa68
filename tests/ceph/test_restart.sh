#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The agent's worker is killed while a program's memory is in Ceph, also while it
# is being written and read: the next one finds all of it, and leaves nothing.
# shellcheck source=tests/ceph/lib.sh
. "${srcdir:-.}/tests/ceph/lib.sh"

MIB=32

in_the_pool() {
	[ "$(tier rados live_bytes)" -gt $((1 << 20)) ] &&
		[ "$(tier memory live_bytes)" -lt $((256 << 10)) ]
}

live_begin
cluster_start memstore
pool_below_memory
agent_start
wait_until 30 "the store to be up" tier_works rados
serve_start "$MIB"
served=$SERVED
wait_until 90 "pages to go to the pool" in_the_pool
before=$(tier rados live_bytes)

kill_worker
# not one has to wait for the lease of a dead one
wait_until 30 "the store to be up" tier_works rados
[ "$(tier rados live_bytes)" -gt $((before / 2)) ] || fail "the next worker knows less of the pool"
[ "$(ask "$served" verify)" = $((MIB * 256)) ] || fail "verify"
say "killed at rest: ok"

for _ in 1 2 3; do
	[ "$(ask "$served" change)" -gt 0 ] || fail "change"
	echo verify >&"${PEER_IN[served]}"
	kill_worker
	read -r -t $((60 * FACTOR)) -u "${PEER_OUT[served]}" line || fail "no answer to verify"
	[ "$line" = "right $((MIB * 256))" ] || fail "verify, the worker being killed: $line"
done
say "killed at work: ok"
wait_until 90 "pages to go to the pool" in_the_pool
[ "$(total poisoned_pages_total)" = 0 ] || fail "pages were poisoned"
serve_stop "$served"
wait_until 30 "everything to be given up" nothing_held
# also what was written by a worker that had not told anybody yet
wait_until 30 "the pool to be empty" no_segments
agent_stop
[ "$(objects_like .)" = 0 ] || fail "left in the pool: $(objects)"
say "passed"
