#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# What programs and the operator see when the cluster fails: a wait, and how long
# it lasts; SIGBUS where bytes are truly lost; never wrong bytes, and no restart.
# shellcheck source=tests/ceph/lib.sh
. "${srcdir:-.}/tests/ceph/lib.sh"

MIB=32

in_the_pool() {
	[ "$(tier rados live_bytes)" -gt $((1 << 20)) ] &&
		[ "$(tier memory live_bytes)" -lt $((256 << 10)) ]
}

oldest_is_beyond() { # MS
	[ "$(tier rados oldest_read_ns)" -gt $(($1 * 1000000)) ]
}

status_says() {
	"$CTL" status >"$DIR/status" || fail "uswapctl status: status $?"
	grep -qF -- "$1" "$DIR/status"
}

answer_of() { # N: to what it was told before
	local line

	read -r -t $((60 * FACTOR)) -u "${PEER_OUT[$1]}" line || fail "no answer"
	echo "${line#* }"
}

live_begin
# Two OSDs that hold the same: one alone that was stopped, or did not run for some
# seconds, can keep a placement group "laggy" for ever, since nobody answers its
# leases. Reads wait for that until a monitor tells it to start over.
cluster_start memstore 2 2
pool_below_memory

# the agent comes up without a cluster, serves, and connects when it can
mini_ceph signal mon.a TERM
agent_start
wait_until 30 "the cluster to be missed" tier_is rados away
status_says "away: pool uswap: no monitor answers" || fail "status: $(cat "$DIR/status")"
evicted_run fill_verify 4 1
mini_ceph run mon.a
wait_until 60 "the store to be up" tier_works rados
say "without a cluster: ok"

serve_start "$MIB"
served=$SERVED
wait_until 90 "pages to go to the pool" in_the_pool

# no OSD: the program waits, and then has its bytes
mini_ceph signal osd.0 STOP
mini_ceph signal osd.1 STOP
echo verify >&"${PEER_IN[served]}"
wait_until 30 "a program to wait" oldest_is_beyond 3000
wait_until 30 "the store to notice" tier_is rados away
status_says "reads wait for it, the oldest for" || fail "status: $(cat "$DIR/status")"
# others are served meanwhile, out of memory
evicted_run fill_verify 4 1
mini_ceph signal osd.0 CONT
mini_ceph signal osd.1 CONT
mini_ceph wait-osds 2
[ "$(answer_of "$served")" = $((MIB * 256)) ] || fail "verify, after a wait"
wait_until 30 "the store to be up" tier_works rados
[ "$(total poisoned_pages_total)" = 0 ] || fail "a wait has cost pages"
say "a wait: ok"

# no monitor: nobody notices
wait_until 90 "pages to go to the pool again" in_the_pool
mini_ceph signal mon.a TERM
[ "$(ask "$served" verify)" = $((MIB * 256)) ] || fail "verify without a monitor"
mini_ceph run mon.a
mini_ceph wait-osds 2

# other bytes in place of ours: SIGBUS
wait_until 90 "pages to go to the pool once more" in_the_pool
pid=${PEER_PIDS[served]}
for name in $(objects | grep '^s'); do
	head -c 4194304 /dev/urandom | timeout 30 rados -p uswap put "$name" -
done
echo verify >&"${PEER_IN[served]}"
wait_until 60 "the program to end" peer_gone "$pid"
status=0
wait "$pid" || status=$?
[ $status = 135 ] || fail "it ended with $status, and not by SIGBUS"
peer_close "$served"
[ "$(total poisoned_pages_total)" -gt 0 ] || fail "nothing was poisoned"
wait_until 30 "everything to be given up" nothing_held
say "damaged objects: ok"

# objects that are gone: the same, and the store goes on
serve_start "$MIB"
wait_until 90 "pages to go to the pool" in_the_pool
pid=$SERVED_PID
objects | grep '^s' | xargs -r timeout 30 rados -p uswap rm
echo verify >&"${PEER_IN[SERVED]}"
wait_until 60 "the program to end" peer_gone "$pid"
status=0
wait "$pid" || status=$?
[ $status = 135 ] || fail "it ended with $status, and not by SIGBUS"
peer_close "$SERVED"
wait_until 30 "everything to be given up" nothing_held
wait_until 30 "the store to be up" tier_works rados
[ "$(tier rados missing_total)" -gt 0 ] || fail "nothing was missing"
say "missing objects: ok"

serve_start "$MIB"
wait_until 90 "pages to go to the pool" in_the_pool
[ "$(ask "$SERVED" verify)" = $((MIB * 256)) ] || fail "verify at the end"
serve_stop "$SERVED"
wait_until 30 "everything to be given up" nothing_held
agent_stop
[ "$(objects_like .)" = 0 ] || fail "left in the pool: $(objects)"
say "passed"
