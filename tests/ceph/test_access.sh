#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Monitors that are gone, hang or are out of reach; keys that are wrong or
# revoked; pools that are missing, deleted and made again; objects that are
# missing or cut off. Each says what a person can do, and ends by itself.
# shellcheck source=tests/ceph/lib.sh
. "${srcdir:-.}/tests/ceph/lib.sh"

admin() {
	timeout $((30 * FACTOR)) ceph "$@" >/dev/null 2>&1 || fail "ceph $*: status $?"
}

says() { # N TEXT
	wait_for_reason "$1" "*$2*"
}

all_are_live() {
	[ "$(objects_like ^s)" = "$(ask "$LOAD" live)" ]
}

live_begin
cluster_start memstore

# no monitor when it starts
mini_ceph signal mon.a TERM
load_start ""
wait_until 30 "the monitor to be missed" load_is "$LOAD" away
says "$LOAD" "no monitor answers"
mini_ceph run mon.a
wait_until 60 "the store to be up" load_is "$LOAD" up
load_goes_on "$LOAD"

# what is connected does without it
mini_ceph signal mon.a STOP
load_goes_on "$LOAD"
mini_ceph signal mon.a CONT
mini_ceph signal mon.a TERM
load_goes_on "$LOAD"
load_right "$LOAD" "without a monitor"
mini_ceph run mon.a
mini_ceph wait-osds 1
say "monitors: ok"

# what a machine can do is told without becoming this host
checked() { # OPTIONS PATTERN
	timeout $((60 * FACTOR)) "$AGENT" --check --bus-address none --store "rados:uswap,conf=$CEPH_CONF$1" \
		>"$DIR/check" || true
	grep -q "$2" "$DIR/check"
}
wait_until 60 "--check to find the pool" checked ,host=nobody '^ok .*store: .* opens'
wait_until 60 "--check to refuse the key" checked ,id=client.other '^warn .*store: .*refuses the key of client.other'
[ "$(objects_like '^h\.nobody')" = 0 ] || fail "--check has taken a lease: $(objects)"

# a key that the cluster does not know, until it does
load_start id=client.other,host=other
wrong=$LOAD
wait_until 30 "the key to be refused" load_is "$wrong" denied
says "$wrong" "refuses the key of client.other"
mini_ceph key other uswap
wait_until 60 "the store to be up" load_is "$wrong" up
load_goes_on "$wrong"
# it is revoked while it is in use: what is connected goes on, until it has to
# connect anew; then readers wait, and nothing is lost, until it is good again
admin auth del client.other
load_goes_on "$wrong"
for address in $(timeout $((30 * FACTOR)) rados -p uswap get h.other - | sed -n 's/^address //p'); do
	admin osd blocklist add "$address"
done
wait_until 60 "the revoked key to be refused" load_is "$wrong" denied
says "$wrong" "refuses the key of client.other"
admin auth add client.other mon 'allow r' osd 'allow rwx pool=uswap' -i "$DIR/ceph/client.other.keyring"
wait_until 60 "the store to be up" load_is "$wrong" up
load_goes_on "$wrong"
load_right "$wrong" "after its key was revoked"
load_stop "$wrong"
# rights that do not suffice
admin auth get-or-create client.reader mon 'allow r' osd 'allow r pool=uswap' \
	-o "$DIR/ceph/client.reader.keyring"
load_start id=client.reader,host=reader
wait_until 30 "the rights to be missed" load_is "$LOAD" denied
says "$LOAD" "is not allowed"
load_stop "$LOAD"
say "keys: ok"

# a pool that is missing, until it is there; deleted, and made again
load_start host=pools later
pools=$LOAD
wait_until 30 "the pool to be missed" load_is "$pools" gone
says "$pools" "there is no pool later"
# connecting, time and again, to a monitor that hangs: some calls have no time-out
mini_ceph signal mon.a STOP
wait_until 40 "the monitor to be missed" load_is "$pools" away
[[ $(load_reason "$pools") =~ (no monitor answers|a monitor hangs) ]] || fail "reason: $(load_reason "$pools")"
mini_ceph signal mon.a CONT
wait_until 60 "the pool to be missed again" load_is "$pools" gone
mini_ceph pool later
wait_until 60 "the rights to be missed" load_is "$pools" denied
admin auth caps client.uswap mon 'allow r' osd 'allow rwx pool=uswap, allow rwx pool=later'
wait_until 60 "the store to be up" load_is "$pools" up
load_goes_on "$pools"
admin osd pool rm later later --yes-i-really-really-mean-it
wait_until 30 "the pool to be missed" load_is "$pools" gone
wait_until 30 "reads to be lost with the pool" load_counts "$pools" lost 0
mini_ceph pool later
wait_until 60 "the store to be up" load_is "$pools" up
peer_ask "$pools" drop >"$DIR/dropped"
load_goes_on "$pools"
answer=$(peer_ask "$pools" check)
[[ $answer == right\ * ]] || fail "in the new pool: $answer"
load_stop "$pools"
[ "$(objects_like . later)" = 0 ] || fail "left in the new pool: $(objects later)"
say "pools: ok"

# objects that are missing or cut off: an error for those who read there, and
# nothing else
load_stop 1
load_start ""
load_goes_on "$LOAD"
[ "$(peer_ask "$LOAD" pause)" = paused ] || fail "pause"
wait_until 30 "what was freed to go" all_are_live
load_right "$LOAD" "before objects go"
name=$(objects | grep ^s | head -n 1)
timeout $((30 * FACTOR)) rados -p uswap truncate "$name" 1000
answer=$(peer_ask "$LOAD" check)
[[ $answer == missing\ * ]] || fail "an object was cut off: $answer"
timeout $((30 * FACTOR)) rados -p uswap rm "$name"
again=$(peer_ask "$LOAD" check)
[[ $again == missing\ * ]] || fail "an object is gone: $again"
[ "${again#missing }" -ge "${answer#missing }" ] || fail "an object is gone: $again, when it was cut off: $answer"
wait_until 30 "the store to be up" load_is "$LOAD" up
[ "$(peer_ask "$LOAD" go)" = goes ] || fail "go"
load_goes_on "$LOAD"
load_stop "$LOAD"
[ "$(objects_like .)" = 0 ] || fail "left in the pool: $(objects)"
say "passed"
