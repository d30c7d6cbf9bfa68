#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# A cluster that is full, and a pool at its quota: no writes, everything else
# goes on, and removing ends it.
# shellcheck source=tests/ceph/lib.sh
. "${srcdir:-.}/tests/ceph/lib.sh"

admin() {
	timeout $((30 * FACTOR)) ceph "$@" >/dev/null 2>&1 || fail "ceph $*: status $?"
}

# An OSD puts ratios right that are out of order.
ratios() { # NEARFULL BACKFILLFULL FULL
	admin osd set-nearfull-ratio "$1"
	admin osd set-backfillfull-ratio "$2"
	admin osd set-full-ratio "$3"
}

full() { # WHAT
	wait_until 120 "the store to be full" load_is "$LOAD" full
	wait_for_reason "$LOAD" "pool uswap: the $1"
	[ "$(peer_ask "$LOAD" pause)" = paused ] || fail "pause"
	load_right "$LOAD" "with a store that is full"
	wait_until 30 "reads to go on" load_counts "$LOAD" reads "$(($(ask "$LOAD" reads) + 50))"
	peer_ask "$LOAD" drop >"$DIR/dropped"
	wait_until 30 "the pool to be empty" no_segments
}

again() {
	wait_until 60 "the store to be up" load_is "$LOAD" up
	[ "$(peer_ask "$LOAD" go)" = goes ] || fail "go"
	load_goes_on "$LOAD"
	load_right "$LOAD" "afterwards"
}

live_begin
cluster_start memstore 1 1 mgr
load_start ""
load_goes_on "$LOAD"
ratios 0.0005 0.0007 0.001
full "cluster is full"
ratios 0.85 0.9 0.95
again
say "full: ok, $(ask "$LOAD" failed) writes failed"

admin osd pool set-quota uswap max_bytes 1000000
full "pool is at its quota"
admin osd pool set-quota uswap max_bytes 0
again
load_stop "$LOAD"
[ "$(objects_like .)" = 0 ] || fail "left in the pool: $(objects)"
say "passed"
