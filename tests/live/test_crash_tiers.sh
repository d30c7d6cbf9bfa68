#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# kill -9 of the agent's worker in the middle of moving segments down and up, at
# each named point: what the next one finds is whole, byte for byte, and nothing
# is counted twice.
# shellcheck source=tests/live/crash.sh
. "${srcdir:-.}/tests/live/crash.sh"

# shellcheck source=tests/live/tiers.sh
. "${srcdir:-.}/tests/live/tiers.sh"

STORE=$(mktemp -d /var/tmp/uswap-crash.XXXXXX)
trap 'rm -rf "$STORE"' EXIT
AGENT_STORES=(memory:16M "file:$STORE,size=256M")
crash_begin
store_end() { rm -rf "$STORE"; }
AT_END=store_end

new_worker() { [ -n "$(worker)" ] && [ "$(worker)" != "$old" ] && agent_up; }

# Programs that fork have pages in common: what comes back from the file and is
# used by others goes up.
serve_start 16
one=$SERVED
for point in BATCH_PLACE BATCH_WRITTEN BATCH_HALF SEGMENT_LEFT PROMOTED; do
	for pass in ${CRASH_PASSES:-2}; do # how often it is passed before the kill
		hits=$(inject_hits)
		old=$(worker)
		inject "$point" "$pass"
		n=0
		until inject_is_hit "$hits"; do
			[ $((n += 1)) -lt 60 ] || fail "vacuous: $point was not reached"
			[ "$(ask "$one" change)" -gt 0 ] || fail "change, on the way to $point"
			# unmanaged, and right to be, if the worker dies while it attaches
			env "LD_PRELOAD=$LIB" WORKLOAD_EVICT=managed timeout $((60 * FACTOR)) "$WORKLOADS/fork_verify" 0 2 \
				>"$DIR/fork.out" 2>&1 || fail "fork_verify: $(tail -n 3 "$DIR/fork.out")"
		done
		wait_until 20 "a new worker after $point" new_worker
		[ "$(ask "$one" verify)" = $((16 * 256)) ] || fail "verify after $point"
		"$CTL" --json=short verify >"$DIR/verify.json" || fail "$point: $(cat "$DIR/verify.json")"
	done
	say "$point: all right, $(jq .good_pages "$DIR/verify.json") pages verified"
done
serve_stop "$one"
crash_end
[ "$(total store_blobs)" = 0 ] || fail "blobs are left"
agent_stop
say passed
