#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Memory of 16 MiB, a small file behind it and a large one behind that: programs that
# verify every byte, while most of what has left them is in the files. Faults, forks,
# changes of mappings, restoring and exits meet pages that are on their way from there.
# shellcheck source=tests/live/lib.sh
. "${srcdir:-.}/tests/live/lib.sh"
# shellcheck source=tests/live/tiers.sh
. "${srcdir:-.}/tests/live/tiers.sh"

STORE=

cleanup_store() {
	[ -z "$STORE" ] || rm -rf "$STORE"
}

# in the two files together
files() { # KEY
	echo $(($(tier 1 "$1") + $(tier 2 "$1")))
}

files_have() {
	[ "$(files live_bytes)" -gt "$1" ]
}

# the small one is full, so more goes on
all_have() {
	tier_has 1 $((1 << 20)) && tier_has 2 $((2 << 20))
}

raw_is_down() {
	[ "$(total raw_bytes)" -gt $((1 << 20)) ]
}

live_begin
STORE=$(mktemp -d /var/tmp/uswap-tiers.XXXXXX)
AT_END=cleanup_store
mkdir "$STORE/a" "$STORE/b"
AGENT_STORES=(memory:16M "file:$STORE/a,size=24M" "file:$STORE/b,size=512M")
agent_start

# A program whose pages lie in the files: verified, changed, restored.
serve_start 64
wait_until 40 "pages to be in both files" all_have
say "live bytes: $(tier 0 live_bytes), $(tier 1 live_bytes), $(tier 2 live_bytes)"
wait_until 40 "what does not compress to be in the files" raw_is_down
say "$(total raw_pages_total) pages as they are, $(total raw_bytes) bytes of them in the files"
[ "$(ask "$SERVED" verify)" = $((64 * 256)) ] || fail "verify"
for n in 1 2; do
	[ "$(tier $n read_bytes_total)" -gt 100000 ] || fail "vacuous: nothing was read from file $n"
done
[ "$(ask "$SERVED" change)" -gt 0 ] || fail "change"
[ "$(ask "$SERVED" verify)" = $((64 * 256)) ] || fail "verify after change"
wait_until 40 "pages to be in the files again" files_have $((4 << 20))
"$CTL" verify || fail "verify"
bounded 50 "$CTL" restore "$SERVED_PID" >/dev/null || fail "restore"
[ "$(ask "$SERVED" verify)" = $((64 * 256)) ] || fail "verify after restore"
serve_stop "$SERVED"

before=$(files read_bytes_total)
evicted_run fill_verify 8 1
evicted_run fork_verify 0 2
evicted_run mremap_verify 1
evicted_run munmap_verify 1
evicted_run madvise_verify 1
evicted_run threads_verify 1
after=$(files read_bytes_total)
[ "$after" -gt "$before" ] || fail "vacuous: nothing was read from the files"
say "$((after - before)) bytes were read from the files"

# killed while its pages are away, and while they are on their way
serve_start 32
wait_until 40 "pages to be in the files" files_have $((4 << 20))
echo verify >&"${PEER_IN[$SERVED]}"
kill -KILL "$SERVED_PID"
files_are_empty() {
	[ "$(files live_bytes)" = 0 ] && [ "$(files segments)" = 0 ]
}
wait_until 20 "the files to be empty" files_are_empty

for n in 1 2; do
	[ "$(tier $n state)" = up ] || fail "file $n is $(tier $n state): $(tier $n reason)"
	[ "$(tier $n errors_total)" = 0 ] || fail "file $n: $(tier $n errors_total) errors"
done
[ "$(total poisoned_pages_total)" = 0 ] || fail "poisoned pages"

# the agent goes while pages are in the file: all of them come back first
serve_start 32
wait_until 40 "pages to be in the files" files_have $((4 << 20))
agent_stop
[ "$(ask "$SERVED" verify)" = $((32 * 256)) ] || fail "verify without an agent"
serve_stop "$SERVED"
agent_start
live_end
