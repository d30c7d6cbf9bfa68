#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# A cluster that is full, and a pool at its quota: no writes, everything else
# goes on, and removing ends it. So it is for a store under load, and for a program
# (in a namespace of its own), which loses nothing and goes on changing its pages.
# shellcheck source=tests/ceph/lib.sh
. "${srcdir:-.}/tests/ceph/lib.sh"

MIB=16

admin() {
	timeout $((30 * FACTOR)) ceph "$@" >/dev/null 2>&1 || fail "ceph $*: status $?"
}

# An OSD puts ratios right that are out of order.
ratios() { # NEARFULL BACKFILLFULL FULL
	admin osd set-nearfull-ratio "$1"
	admin osd set-backfillfull-ratio "$2"
	admin osd set-full-ratio "$3"
}

in_the_pool() {
	[ "$(tier rados live_bytes)" -gt $((1 << 20)) ] && [ "$(tier memory live_bytes)" -lt $((256 << 10)) ]
}

right() { # WHEN
	[ "$(ask "$SERVED" verify)" = $((MIB * 256)) ] || fail "verify $1"
}

full() { # WHAT
	# what leaves meanwhile has to stay
	wait_until 120 "the agent to see it: $(tier rados state)" changed_until tier_is rados full
	"$CTL" status >"$DIR/status"
	grep -qF "full: pool uswap/agents: the $1" "$DIR/status" || fail "status: $(cat "$DIR/status")"
	right "while the $1"
	wait_until 120 "the store to be full" load_is "$LOAD" full
	wait_for_reason "$LOAD" "pool uswap: the $1"
	[ "$(peer_ask "$LOAD" pause)" = paused ] || fail "pause"
	load_right "$LOAD" "with a store that is full"
	wait_until 30 "reads to go on" load_counts "$LOAD" reads "$(($(ask "$LOAD" reads) + 50))"
	peer_ask "$LOAD" drop >"$DIR/dropped"
	wait_until 30 "the pool to be empty" no_segments
}

changed_until() { # CONDITION...
	[ "$(ask "$SERVED" change)" -gt 0 ] || fail "change"
	"$@"
}

again() {
	wait_until 60 "the agent's store to be up" tier_works rados
	wait_until 90 "pages to go to the pool again" in_the_pool
	right "afterwards"
	wait_until 60 "the store to be up" load_is "$LOAD" up
	[ "$(peer_ask "$LOAD" go)" = goes ] || fail "go"
	load_goes_on "$LOAD"
	load_right "$LOAD" "afterwards"
}

live_begin
cluster_start memstore 1 1 mgr
pool_below_memory
AGENT_STORES=(memory:64M "rados:uswap,namespace=agents,conf=$CEPH_CONF,timeout=2,host=here")
agent_start
serve_start "$MIB"
wait_until 90 "pages to go to the pool" in_the_pool
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
[ "$(total poisoned_pages_total)" = 0 ] || fail "pages were poisoned"
serve_stop "$SERVED"
wait_until 30 "everything to be given up" nothing_held
agent_stop
[ "$(objects_like . uswap --all)" = 0 ] || fail "left in the pool: $(objects uswap --all)"
say "passed"
