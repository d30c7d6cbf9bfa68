#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Memory of 16 MiB and a file behind it: programs that verify every byte, while
# most of what has left them is in the file. Faults, forks, changes of mappings,
# restoring and exits meet pages that are on their way from there.
# shellcheck source=tests/live/lib.sh
. "${srcdir:-.}/tests/live/lib.sh"
# shellcheck source=tests/live/tiers.sh
. "${srcdir:-.}/tests/live/tiers.sh"

STORE=

cleanup_store() {
	[ -z "$STORE" ] || rm -rf "$STORE"
}

file_has() {
	[ "$(tier 1 live_bytes)" -gt "$1" ]
}

file_is_read() {
	[ "$(tier 1 read_bytes_total)" -gt "$1" ]
}

raw_is_down() {
	[ "$(total raw_bytes)" -gt $((1 << 20)) ]
}

live_begin
STORE=$(mktemp -d /var/tmp/uswap-tiers.XXXXXX)
AT_END=cleanup_store
AGENT_STORES=(memory:16M "file:$STORE,size=512M")
agent_start

# A program whose pages lie in the file: verified, changed, restored.
serve_start 32
wait_until 40 "pages to be in the file" file_has $((4 << 20))
say "in memory $(tier 0 live_bytes), in the file $(tier 1 live_bytes) bytes"
wait_until 40 "what does not compress to be in the file" raw_is_down
say "$(total raw_pages_total) pages as they are, $(total raw_bytes) bytes of them in the file"
[ "$(ask "$SERVED" verify)" = $((32 * 256)) ] || fail "verify"
file_is_read 1000000 || fail "vacuous: nothing was read from the file"
[ "$(ask "$SERVED" change)" -gt 0 ] || fail "change"
[ "$(ask "$SERVED" verify)" = $((32 * 256)) ] || fail "verify after change"
wait_until 40 "pages to be in the file again" file_has $((4 << 20))
"$CTL" verify || fail "verify"
bounded 50 "$CTL" restore "$SERVED_PID" >/dev/null || fail "restore"
[ "$(ask "$SERVED" verify)" = $((32 * 256)) ] || fail "verify after restore"
serve_stop "$SERVED"

before=$(tier 1 read_bytes_total)
evicted_run fill_verify 12 1
evicted_run fork_verify 1
evicted_run mremap_verify 2
evicted_run munmap_verify 2
evicted_run madvise_verify 2
evicted_run threads_verify 2
after=$(tier 1 read_bytes_total)
[ "$after" -gt "$before" ] || fail "vacuous: nothing was read from the file"
say "$((after - before)) bytes were read from the file"

# killed while its pages are away, and while they are on their way
serve_start 32
wait_until 40 "pages to be in the file" file_has $((4 << 20))
echo verify >&"${PEER_IN[$SERVED]}"
kill -KILL "$SERVED_PID"
file_is_empty() {
	[ "$(tier 1 live_bytes)" = 0 ] && [ "$(tier 1 segments)" = 0 ]
}
wait_until 20 "the file to be empty" file_is_empty

[ "$(tier 1 state)" = up ] || fail "the file is $(tier 1 state): $(tier 1 reason)"
[ "$(tier 1 errors_total)" = 0 ] || fail "$(tier 1 errors_total) errors"
[ "$(total poisoned_pages_total)" = 0 ] || fail "poisoned pages"

# the agent goes while pages are in the file: all of them come back first
serve_start 32
wait_until 40 "pages to be in the file" file_has $((4 << 20))
agent_stop
[ "$(ask "$SERVED" verify)" = $((32 * 256)) ] || fail "verify without an agent"
serve_stop "$SERVED"
agent_start
live_end
