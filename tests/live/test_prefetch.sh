#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Pages that are read in order come back ahead of the reader, those touched at
# random don't; every byte is right, also where mappings change meanwhile (that
# is what test_mappings.sh does all the time). And the store has learned from
# the pages.
# shellcheck source=tests/live/lib.sh
. "${srcdir:-.}/tests/live/lib.sh"

agent_config() {
	cat <<-'END'
		[Store]
		Clusters=1
		[Policy]
		GraceSec=0
		MinResident=0
		StartDelaySec=86400
	END
}

evicts() { # not before its mover is there
	timeout $((120 * FACTOR)) "$CTL" --json evict "$PEER_PID" >"$DIR/order.json" 2>&1
}
evict_all() {
	wait_until 20 "$PEER_PID to be evicted" evicts
}

# count: sets REFAULTS, PREFETCHED, USED, HELPED
count() {
	REFAULTS=$(total refaults_total)
	PREFETCHED=$(total prefetched_pages_total)
	USED=$(total prefetch_used_pages_total)
	HELPED=$(total helped_pages_total)
}

has_learned() {
	[ "$(total dictionaries)" -gt 0 ]
}

live_begin
need_program python3
agent_start
peer_start env "LD_PRELOAD=$LIB" "$(realpath "$BUILD/bench/evicted_fault")" 32 300

evict_all
count
refaults=$REFAULTS
read -r _ _ _ away <<<"$(peer_ask "$PEER" read)"
count
[ "$away" -gt 4000 ] || fail "only $away pages were away"
say "in order: $away pages came back by $((REFAULTS - refaults)) faults, $PREFETCHED ahead, $USED known to be used"
# Each window is a fault; a reader that overtakes makes some more.
[ $(((REFAULTS - refaults) * 2)) -lt "$away" ] || fail "little was prefetched"
[ "$PREFETCHED" -gt $((away / 2)) ] || fail "little was prefetched"
[ "$USED" -gt $((PREFETCHED / 2)) ] || fail "it was used, and not counted so"
# The helper has its share of that where there is a processor for it; on a busy one any.
helps() {
	[ "$(nproc)" = 1 ] || [ "$HELPED" -gt "$1" ]
}
for ((i = 0; i < 20; i++)); do
	! helps 0 || break
	evict_all
	peer_ask "$PEER" read >/dev/null
	count
done
helps 0 || fail "no helper has decompressed a page"
say "$HELPED of them were decompressed by a helper"

# What was read in order goes away several pages in a frame, and comes back right: in
# order, one page alone, and after the worker's death.
evict_all
clustered=$(total clustered_pages_total)
say "$clustered pages share frames, of $(total clustered_bytes_total) bytes"
[ "$clustered" -gt $((away / 2)) ] || fail "what was read in order shares no frames"
count
refaults=$REFAULTS prefetched=$PREFETCHED
read -r _ _ _ away <<<"$(peer_ask "$PEER" read)"
count
[ $((PREFETCHED - prefetched)) -gt $((away / 2)) ] || fail "little was prefetched from frames"
evict_all
peer_ask "$PEER" round >/dev/null
evict_all
kill -9 "$(pgrep -P "$AGENT_PID")"
wait_until 20 "the agent to listen" agent_up
peer_ask "$PEER" round >/dev/null
peer_ask "$PEER" verify >/dev/null
clustered=$(total clustered_pages_total)
timeout $((120 * FACTOR)) "$CTL" --json restore "$PEER_PID" >"$DIR/order.json" ||
	fail "restore: $(cat "$DIR/order.json")"
evict_all
[ "$(total clustered_pages_total)" -eq "$clustered" ] || fail "what was not read in order shares frames"

count
prefetched=$PREFETCHED refaults=$REFAULTS
peer_ask "$PEER" round >/dev/null
count
say "at random: $((REFAULTS - refaults)) faults, $((PREFETCHED - prefetched)) pages ahead"
[ $((REFAULTS - refaults)) -gt 250 ] || fail "the touches were no faults"
[ $((PREFETCHED - prefetched)) -lt $(((REFAULTS - refaults) / 4)) ] || fail "prefetched at random"
peer_ask "$PEER" verify >/dev/null

peer_stop "$PEER"

# A program with pages alike: the store learns from them.
export READY=$DIR/heap
env "LD_PRELOAD=$LIB" "$(real_python)" "${srcdir:-.}/bench/heaps/records.py" python 24 &
HEAP_PID=$!
wait_until 60 "the program to have its data" test -e "$READY"
PEER_PID=$HEAP_PID
began=$SECONDS
evict_all
wait_until 30 "the store to have learned" has_learned
# The rest has waited for it, but for four seconds at most.
[ "$(total dictionary_pages_total)" -gt 1000 ] || [ $((SECONDS - began)) -ge 4 ] ||
	fail "all was packed before there was a dictionary"
timeout $((120 * FACTOR)) "$CTL" --json restore "$HEAP_PID" >"$DIR/order.json" ||
	fail "restore: $(cat "$DIR/order.json")"
evict_all
say "$(total dictionary_pages_total) pages with a dictionary, $(total dictionary_saved_bytes_total) bytes saved"
[ "$(total dictionary_pages_total)" -gt 1000 ] || fail "no dictionary"
[ "$(total dictionary_saved_bytes_total)" -gt 0 ] || fail "it saves nothing"
kill "$HEAP_PID"
wait "$HEAP_PID" || true
live_end
