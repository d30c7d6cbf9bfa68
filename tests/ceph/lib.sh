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

	trap - EXIT
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
	timeout $((90 * FACTOR)) bash "$MINI_CEPH" start "$DIR/ceph" "$@" >"$DIR/ceph.log" 2>&1 ||
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
	timeout 30 rados -p "${1:-uswap}" "${@:2}" ls || fail "rados ls: status $?"
}

# objects_like REGEX [POOL...]: how many
objects_like() {
	objects "${@:2}" | grep -cE "$1" || true
}
