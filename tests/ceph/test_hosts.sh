#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Several hosts in one pool: nobody touches another one's segments, not even
# with the same host id; what a host has left when it died goes when it is back.
# shellcheck source=tests/ceph/lib.sh
. "${srcdir:-.}/tests/ceph/lib.sh"

gc() {
	timeout $((60 * FACTOR)) "$AGENT" --store "rados:uswap,conf=$CEPH_CONF" "--collect-host=$1" >"$DIR/gc" 2>&1
}

live_begin
cluster_start memstore
# A lease that a busy machine does not lose: its twin waits for that.
load_start host=alpha,timeout=10
alpha=$LOAD
load_start host=beta
beta=$LOAD
load_start host=gamma
gamma=$LOAD
for one in "$alpha" "$beta" "$gamma"; do
	load_goes_on "$one"
done

# another machine with the name of the first: it keeps out, and will say so
load_start host=alpha
twin=$LOAD

# who lives is not collected, nor who never was
! gc alpha || fail "a living host was removed: $(cat "$DIR/gc")"
grep -q "host alpha is alive: client\." "$DIR/gc" || fail "gc: $(cat "$DIR/gc")"
load_right "$alpha" "after it was to be removed"
! gc nobody || fail "a host that never was: $(cat "$DIR/gc")"
grep -q "there is none of this id" "$DIR/gc" || fail "gc: $(cat "$DIR/gc")"

# hosts that die; their segments stay, whatever the others do
kill -KILL "${PEER_PIDS[beta]}" "${PEER_PIDS[gamma]}"
peer_close "$beta"
peer_close "$gamma"
objects | grep '^s\.beta\.' >"$DIR/old" || fail "nothing is left of a host that died"
load_goes_on "$alpha"
load_right "$alpha" "after other hosts have died"
wait_until 60 "the clash to be seen" load_is "$twin" clash
[[ $(load_reason "$twin") == *"another machine (client."*" uses the host id alpha"*host=* ]] ||
	fail "reason: $(load_reason "$twin")"
[ "$(ask "$twin" writes)" = 0 ] || fail "it writes all the same"
load_stop "$twin"
load_goes_on "$alpha"
load_right "$alpha" "beside one of the same name"
# (what it was writing when it died may have come since)
[ "$(objects | grep -cxFf "$DIR/old")" = "$(wc -l <"$DIR/old")" ] || fail "somebody removed what another host left"

# one of them is back
objects | grep '^s\.beta\.' >"$DIR/old"
load_start host=beta
wait_until 60 "the host to be up again" load_is "$LOAD" up
load_goes_on "$LOAD"
none_of_old() {
	! objects | grep -qxFf "$DIR/old"
}
wait_until 30 "what the earlier one left to go" none_of_old
load_right "$LOAD" "after its own restart"
load_right "$alpha" "beside a host that came back"
load_stop "$LOAD"

# the other one will not come back
left=$(objects_like '^s\.gamma\.')
[ "$left" -gt 0 ] || fail "nothing is left of a host that died"
wait_until 30 "the lease to end: $(cat "$DIR/gc")" gc gamma
grep -qx "host gamma: $left segments removed, its clients are blocklisted" "$DIR/gc" ||
	fail "gc: $(cat "$DIR/gc")"
[ "$(objects_like '\.gamma')" = 0 ] || fail "left of a host: $(objects)"
timeout $((20 * FACTOR)) ceph osd blocklist ls 2>/dev/null | grep -q 127.0.0.1 || fail "nobody is blocklisted"
load_goes_on "$alpha"
load_right "$alpha" "after another host was removed"
load_stop "$alpha"
[ "$(objects_like .)" = 0 ] || fail "left in the pool: $(objects)"
say "passed"
