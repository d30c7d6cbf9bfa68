#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Two hosts with a common key and the same pages in one pool: they are held once.
# A host that leaves, or dies and is collected, takes nothing from the other one.
# shellcheck source=tests/ceph/lib.sh
. "${srcdir:-.}/tests/ceph/lib.sh"

MIB=32

# Two agents take turns: what the other functions know is of the one in use.
declare -A AGENTS=() SERVES=()
HOST=
use() { # HOST
	[ -z "$HOST" ] || AGENTS[$HOST]=$AGENT_PID
	HOST=$1
	AGENT_PID=${AGENTS[$HOST]:-}
	mkdir -p "$DIR/$HOST"
	chmod 755 "$DIR/$HOST"
	export USWAP_SOCKET=$DIR/$HOST/agent.sock
	AGENT_STORES=(memory:64M "rados:uswap,conf=$CEPH_CONF,timeout=2,host=$HOST")
}

# Whatever happens, both end.
both_cleanup() {
	local status=$?

	set +e
	[ -z "$HOST" ] || AGENTS[$HOST]=$AGENT_PID
	for one in "${!AGENTS[@]}"; do
		use "$one"
		[ -z "$AGENT_PID" ] || live_kill_all
		[ -z "$AGENT_PID" ] || pkill -KILL -P "$AGENT_PID"
		[ -z "$AGENT_PID" ] || kill -KILL "$AGENT_PID"
	done
	(exit $status)
	cluster_cleanup
}

in_the_pool() {
	[ "$(tier rados live_bytes)" -gt $((4 << 20)) ] && [ "$(tier memory live_bytes)" -lt $((1 << 20)) ]
}

host_start() { # HOST
	use "$1"
	agent_start
	wait_until 60 "$1 to be up" tier_works rados
	serve_start "$MIB"
	SERVES[$1]=$SERVED
	wait_until 90 "$1's pages to go to the pool" in_the_pool
}

verify() { # HOST WHEN
	use "$1"
	[ "$(ask "${SERVES[$1]}" verify)" = $((MIB * 256)) ] || fail "$1: verify $2"
}

host_stop() { # HOST
	use "$1"
	serve_stop "${SERVES[$1]}"
	wait_until 30 "everything to be given up" nothing_held
	agent_stop
	AGENTS[$1]=""
}

gc() {
	timeout $((60 * FACTOR)) "$AGENT" --store "rados:uswap,conf=$CEPH_CONF" "--collect-host=$1" >"$DIR/gc" 2>&1
}

live_begin
cluster_start memstore
trap both_cleanup EXIT
pool_below_memory
head -c 32 /dev/urandom >"$DIR/key"
chmod 600 "$DIR/key"
sed -i "s|^\[Store\]|&\nKeyFile=$DIR/key|" "$DIR/uswap.conf"

host_start alpha
alone=$(pool_bytes)
[ "$alone" -gt $((1 << 20)) ] || fail "alpha has $alone bytes in the pool"
host_start beta
# What beta needs in the pool besides. On a slow machine lookups are given up, and
# pages stored twice: until they go there the next time.
besides() { echo $(($(tier rados live_bytes) - $(tier rados borrowed_bytes))); }
shares() { [ "$(tier rados borrowed_bytes)" -gt $((alone / 2)) ] && [ "$(besides)" -lt $((alone / 5)) ]; }
until_shared() { # HOST CONDITION
	local again

	for ((again = 0; again < 12; again++)); do
		! "$2" || return 0
		verify "$1" "having stored some twice"
		wait_until 90 "$1's pages to go to the pool" in_the_pool
	done
}
until_shared beta shares
say "alpha alone: $alone bytes, beta besides: $(besides), in the pool $(pool_bytes);" \
	"$(tier rados borrowed_bytes) bytes of beta's are with alpha"
[ "$(besides)" -lt $((alone / 5)) ] || fail "held twice: $alone bytes, and $(besides) more"
[ "$(tier rados borrowed_bytes)" -gt $((alone / 2)) ] || fail "borrowed: $(tier rados borrowed_bytes)"
[ "$(objects_like '^r\.beta\.')" -gt 0 ] || fail "beta has borrowed, and not said so: $(objects)"
verify beta "out of alpha's segments"
wait_until 90 "beta's pages to go to the pool again" in_the_pool
until_shared beta shares
shares || fail "borrowed again: $(tier rados borrowed_bytes), besides $(besides)"

# the worker that has borrowed is killed: the next one holds the same
kill_worker
wait_until 60 "beta to be up again" tier_works rados
[ "$(tier rados borrowed_bytes)" -gt $((alone / 2)) ] || fail "borrowed after a kill: $(tier rados borrowed_bytes)"

# alpha dies, with all that ran there, and will not come back: what beta's worker
# had borrowed before its death is still held
use alpha
pkill -KILL -P "$AGENT_PID" || true
kill -KILL "$AGENT_PID"
live_kill_all || true # some of them have ended meanwhile
peer_close "${SERVES[alpha]}"
AGENT_PID=""
AGENTS[alpha]=""
wait_until 30 "the lease to end" gc alpha
[ "$(objects_like '^[hr]\.alpha')" = 0 ] || fail "left of alpha: $(objects)"
[ "$(objects_like '^s\.alpha\.')" -gt 0 ] || fail "what beta has borrowed is gone"
verify beta "after alpha was collected"
say "collected: ok"

# back again, it finds its old pages with beta; and leaves in order, first
wait_until 90 "beta's pages to go to the pool" in_the_pool
host_start alpha
# How much depends on what beta has brought home and sent off again by now.
borrows() { [ "$(tier rados borrowed_bytes)" -gt 0 ]; }
until_shared alpha borrows
say "alpha, back: $(tier rados borrowed_bytes) bytes are with others"
borrows || fail "alpha has borrowed nothing"
verify alpha "out of common segments"
host_stop alpha
verify beta "after alpha has left"
host_stop beta
[ "$(objects_like .)" = 0 ] || fail "left in the pool: $(objects)"
say "passed"
