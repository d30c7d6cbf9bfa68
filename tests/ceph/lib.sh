#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# For the tests on a real Ceph cluster: tests/live/lib.sh, and a cluster of the
# test's own in $DIR/ceph, which ends with the test.
#
#	. "${srcdir:-.}/tests/ceph/lib.sh"
#	live_begin
#	cluster_start bluestore 3 2
#	agent_start
#	...
#	live_end
#
# memstore starts in a second; bluestore, in six, keeps its data when an OSD is
# killed and started again.

# shellcheck source=tests/live/lib.sh
. "${srcdir:-.}/tests/live/lib.sh"

MINI_CEPH=$(realpath "${srcdir:-.}/tests/ceph/mini-ceph.sh")

mini_ceph() { # COMMAND [ARG...]
	local command=$1

	shift
	bash "$MINI_CEPH" "$command" "$DIR/ceph" "$@"
}

# Even when the test fails: the daemons would stay.
cluster_cleanup() {
	local status=$?

	trap - EXIT ERR
	set +e
	if [ $status -ne 0 ] && [ $status -ne 77 ]; then
		tail -n 5 "$DIR"/ceph/*.out >&2 || true
	fi
	[ ! -d "$DIR/ceph" ] || mini_ceph stop || true
	(exit $status)
	live_cleanup
}

# cluster_start [memstore|bluestore [OSDS [SIZE [mgr]]]]
cluster_start() {
	local status=0

	trap cluster_cleanup EXIT
	mkdir "$DIR/ceph"
	timeout $((200 * FACTOR)) bash "$MINI_CEPH" start "$DIR/ceph" "$@" >"$DIR/ceph.log" 2>&1 ||
		status=$?
	[ $status -ne 77 ] || skip "$(cat "$DIR/ceph.log")"
	if [ $status -ne 0 ]; then
		cat "$DIR/ceph.log" >&2
		fail "the cluster does not start: status $status"
	fi
	export CEPH_CONF=$DIR/ceph/ceph.conf
}

# What is in the pool, one a line: names of objects.
objects() { # [POOL [RADOS-ARGUMENT...]]
	timeout $((30 * FACTOR)) rados -p "${1:-uswap}" "${@:2}" ls || fail "rados ls: status $?"
}

# objects_like REGEX [POOL...]: how many
objects_like() {
	objects "${@:2}" | grep -cE "$1" || true
}

# Bytes of all segments in the pool
pool_bytes() {
	local name sum=0 size

	for name in $(objects | grep '^s\.'); do
		size=$(timeout $((30 * FACTOR)) rados -p uswap stat "$name" 2>/dev/null | sed 's/.* size //') || continue
		sum=$((sum + ${size:-0}))
	done
	echo "$sum"
}

no_segments() {
	[ "$(objects_like '^s')" = 0 ]
}

# ---- a store under load, without an agent -----------------------------------

# load_start OPTIONS [POOL]: a store_load; sets LOAD to its number.
load_start() {
	local timeout=,timeout=2

	[[ $1 != *timeout=* ]] || timeout=
	peer_start "$BUILD/tests/ceph/store_load" "rados:${2:-uswap},conf=$CEPH_CONF$timeout${1:+,$1}"
	export LOAD=$PEER
}

# load_is N WORD...: its state is one of them
load_is() {
	local state

	state=$(ask "$1" state) || exit 1
	[[ " ${*:2} " == *" $state "* ]]
}

load_reason() {
	local line

	line=$(peer_ask "$1" reason) || exit 1
	echo "${line#reason }"
}

reason_is() { # N PATTERN
	# shellcheck disable=SC2053
	[[ $(load_reason "$1") == $2 ]]
}

wait_for_reason() { # N PATTERN
	wait_until 30 "the reason to be $2: $(load_reason "$1")" reason_is "$@"
}

# load_counts N COUNTER VALUE: it is beyond that
load_counts() {
	[ "$(ask "$1" "$2")" -gt "$3" ]
}

# load_goes_on N: it writes and reads
load_goes_on() {
	wait_until 60 "writes to go on: $(load_reason "$1")" \
		load_counts "$1" writes "$(($(ask "$1" writes) + 20))"
	wait_until 30 "reads to go on" load_counts "$1" reads "$(($(ask "$1" reads) + 50))"
}

# load_right N: every byte that was acknowledged is there
load_right() {
	local answer

	answer=$(peer_ask "$1" check) || exit 1
	[[ $answer == right\ [1-9]* ]] || fail "$2: $answer"
	[ "$(ask "$1" lost)" = 0 ] || fail "$2: $(ask "$1" lost) reads were lost"
}

load_stop() {
	[ "$(peer_ask "$1" quit)" = bye ] || fail "store_load: no bye"
	peer_close "$1"
}

# ---- an agent that stores in the cluster -------------------------------------

# tier NAME KEY: of one store
tier() {
	"$CTL" --json stats >"$DIR/stats.json" || fail "uswapctl stats: status $?"
	jq -er --arg name "$1" --arg key "$2" '.agent.tiers[] | select(.name == $name) | .[$key]' \
		"$DIR/stats.json" || fail "no $2 of $1: $(jq -c .agent.tiers "$DIR/stats.json")"
}

# tier_is NAME STATE
tier_is() {
	[ "$(tier "$1" state)" = "$2" ]
}

# tier_works NAME: up, perhaps with something to tell of the past
tier_works() {
	[[ $(tier "$1" state) == @(up|degraded) ]]
}

# For the next agent_start: what leaves goes to the pool as soon as it can.
pool_below_memory() {
	agent_config >"$DIR/uswap.conf"
	cat >>"$DIR/uswap.conf" <<-END
		Limit=8M
		[Store]
		MoveDownSec=0.1
	END
	AGENT_STORES=(memory:64M "rados:uswap,conf=$CEPH_CONF,timeout=2,host=here")
}

worker() {
	pgrep -P "$AGENT_PID" | head -n 1
}

# A worker other than the one before, which answers
worker_is_new() {
	local now

	now=$(worker)
	[ -n "$now" ] && [ "$now" != "$1" ] && "$CTL" --json stats >/dev/null 2>&1
}

kill_worker() {
	local before

	before=$(worker)
	[ -n "$before" ] || fail "the agent has no worker"
	kill -KILL "$before"
	wait_until 30 "another worker" worker_is_new "$before"
}
