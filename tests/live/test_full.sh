#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# A store of 24 MiB and a program that would need more: it stays right, the store
# takes no more than it may, and another user's program can still be evicted. Pages for
# which there is no room don't leave only to come back.
# shellcheck source=tests/live/lib.sh
. "${srcdir:-.}/tests/live/lib.sh"

CAPACITY=$((24 << 20))

within_capacity() {
	local used

	used=$(total store_used_bytes)
	[ "$used" -le $CAPACITY ] || fail "the store holds $used bytes of $CAPACITY"
}

stored_of() {
	of_process "$1" stored_bytes
}

some_stored() {
	[ "$(stored_of "$1")" -gt $((64 << 10)) ]
}

# Nine tenths are one user's share. Near it is full: the next batch may not fit.
nearly_full() {
	[ "$(total store_used_bytes)" -gt $((CAPACITY / 2)) ]
}

# Twice as long as eviction rests after a page that has found no room.
nothing_leaves() { # PID
	local before

	before=$(of_process "$1" pages_out_total)
	sleep 2
	[ "$(of_process "$1" pages_out_total)" = "$before" ]
}

live_begin
AGENT_STORES=(memory:24M)
agent_start
serve_start 64
big=$SERVED
big_pid=$SERVED_PID
wait_until 40 "the store to fill up" nearly_full
for _ in 1 2 3; do
	within_capacity
	[ "$(ask "$big" work)" = 64 ] || fail "work"
	sleep 0.2
done
say "full: $(total store_used_bytes) of $CAPACITY bytes, $(total store_blobs) blobs"

# orders say that there is no room, or do what they can; they don't hang
status=0
timeout $((50 * FACTOR)) "$CTL" evict "$big_pid" >"$DIR/evict.out" 2>&1 || status=$?
[ $status -le 1 ] || fail "evict on a full store: status $status: $(cat "$DIR/evict.out")"
within_capacity
[ "$(ask "$big" verify)" = $((64 * 256)) ] || fail "verify"
[ "$(ask "$big" change)" -gt 0 ] || fail "change"
within_capacity

# another user has a tenth left
if [ -n "$(type -P setpriv)" ]; then
	serve_start 4 setpriv --reuid=65534 --regid=65534 --clear-groups
	wait_until 30 "another user's pages to be stored" some_stored "$SERVED_PID"
	say "another user has $(stored_of "$SERVED_PID") bytes stored"
	[ "$(ask "$SERVED" verify)" = 1024 ] || fail "another user's verify"
	serve_stop "$SERVED"
fi

# one of the same user may find nothing left, and gets what the first leaves behind
serve_start 4
for _ in 1 2 3; do
	sleep 0.2
	[ "$(ask "$SERVED" verify)" = 1024 ] || fail "verify beside the first"
	[ "$(ask "$big" verify)" = $((64 * 256)) ] || fail "verify at the end"
	within_capacity
done
serve_stop "$big"
wait_until 30 "what the first had to be of use" some_stored "$SERVED_PID"
[ "$(ask "$SERVED" verify)" = 1024 ] || fail "verify without the first"
serve_stop "$SERVED"
evicted_run fill_verify 4 1

peer_start env "LD_PRELOAD=$LIB" "$BUILD/bench/evicted_fault" 96 1 # pages that do compress
wait_until 40 "the store to fill up" nearly_full
wait_until 60 "eviction to rest" nothing_leaves "$PEER_PID"
[ "$(peer_ask "$PEER" verify)" = "0 0 0 $((96 * 256))" ] || fail "verify"
peer_stop "$PEER"
live_end
