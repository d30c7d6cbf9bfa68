#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Real media under a running agent: a disk that is full for a while and then not, one
# that is read-only at the start, a file that is spoilt and cut, a block device that is
# read-only for a while, gives its room back and forgets. Programs stay right, or get
# SIGBUS where their bytes are lost; the agent says what is the matter and goes on.
# shellcheck source=tests/live/lib.sh
if [ "${USWAP_OWN_MOUNTS:-}" != 1 ] && [ "$(id -u)" = 0 ] && unshare -m true 2>/dev/null; then
	USWAP_OWN_MOUNTS=1 exec unshare -m --propagation private "$0" "$@"
fi
. "${srcdir:-.}/tests/live/lib.sh"

# shellcheck source=tests/live/tiers.sh
. "${srcdir:-.}/tests/live/tiers.sh"

MIB=16
right() { # WHEN
	[ "$(ask "$SERVED" verify)" = $((MIB * 256)) ] || fail "verify: $*"
}

degraded() { tier_is 1 degraded; }
is_up() { tier_is 1 up; }

# Most of what it has is in the slow store, so that a program which reads all it has
# reads there.
below() {
	[ "$(tier 1 live_bytes)" -gt $((1 << 20)) ] && [ "$(tier 0 live_bytes)" -lt $((1 << 20)) ]
}

# lost WHAT: the program reads all it has and gets SIGBUS; it is told, others go on
lost() {
	local before

	before=$(total poisoned_pages_total)
	peer_tell "$SERVED" verify
	wait_until 40 "$1: program $SERVED_PID to end by SIGBUS" peer_gone "$SERVED_PID"
	peer_close "$SERVED"
	wait_until 20 "$1: a word of the loss" grep -q "process $SERVED_PID .*SIGBUS" "$DIR/agent.log"
	say "$1: $(grep "process $SERVED_PID .*SIGBUS" "$DIR/agent.log")"
	[ "$(total poisoned_pages_total)" -gt "$before" ] || fail "$1: nothing poisoned"
	wait_until 20 "$1: its pages to be given back" nothing_held
	evicted_run fill_verify 2 1
}

# damage WHAT: to the file under the agent, while its program stands still; verify finds
# it before anybody touches it
damage() {
	local status=0 file=$DIR/small/uswap.segments

	wait_until 40 "pages to be in the file" below
	kill -STOP "$SERVED_PID"
	case $1 in
	cut) truncate -s 1M "$file" ;;
	spoilt) python3 - "$file" <<'END' ;;
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
for at in range(4 << 20, os.fstat(fd).st_size, 64):
    os.pwrite(fd, b'\x5a', at)
END
	esac
	kill -CONT "$SERVED_PID"
	"$CTL" --json=short verify >"$DIR/verify.json" || status=$?
	[ $status -eq 1 ] || fail "$1: verify says $status: $(cat "$DIR/verify.json")"
	[ "$(jq .damaged_pages "$DIR/verify.json")" -gt 100 ] || fail "$1: $(cat "$DIR/verify.json")"
	lost "$1"
}

LOOP=
mounts_end() {
	[ -z "$LOOP" ] || losetup -d "$LOOP"
	umount -l "$DIR/small" 2>/dev/null
}

live_begin
AT_END=mounts_end
[ "${USWAP_OWN_MOUNTS:-}" = 1 ] || skip "no mount namespace of its own can be had"
need_program python3 mount losetup blockdev
mkdir "$DIR/small"
mount -t tmpfs -o size=64M none "$DIR/small" || skip "no tmpfs can be mounted"

# ---- at the start: too small, read-only ----
refused "size=1024M, and there is room for [56][0-9]M" memory:16M "file:$DIR/small,size=1G"
mount -o remount,ro "$DIR/small"
refused "Read-only file system" memory:16M "file:$DIR/small,size=32M"
mount -o remount,rw "$DIR/small"

# ---- full for a while, then not ----
AGENT_STORES=(memory:16M "file:$DIR/small,size=48M")
agent_start
refused "another agent uses it" "${AGENT_STORES[@]}"
# all but a megabyte; what the agent has there already is part of it
fallocate -l 63M "$DIR/small/others" 2>/dev/null || dd if=/dev/zero of="$DIR/small/others" bs=1M 2>/dev/null || true
serve_start $MIB
wait_until 40 "the full disk to be noticed" degraded
reason=$(tier 1 reason)
say "full: $reason"
grep -q "No space left" <<<"$reason" || fail "reason: $reason"
[ "$(tier 1 live_bytes)" = 0 ] || fail "vacuous: something was written"
[ "$(ask "$SERVED" change)" -gt 0 ] || fail "change"
right "the disk is full"
rm "$DIR/small/others"
wait_until 120 "pages to be in the file" below # a minute between two tries
wait_until 20 "the store to be up again" is_up
right "the disk has room again"
[ "$(total poisoned_pages_total)" = 0 ] || fail "pages were poisoned by a full disk"

# ---- spoilt, and cut ----
damage spoilt
serve_start $MIB
damage cut
agent_stop

# ---- a block device ----
truncate -s 56M "$DIR/small/disk"
LOOP=$(losetup -f --show "$DIR/small/disk" 2>"$DIR/losetup") || LOOP=
if [ -z "$LOOP" ]; then
	say "no loop device can be made here ($(cat "$DIR/losetup")): block devices are not tried"
	say "passed"
	exit 0
fi
AGENT_STORES=(memory:16M "file:$LOOP,size=48M")
rm -f "$DIR/uswap.conf"
agent_start
refused "another agent uses it" "${AGENT_STORES[@]}"
serve_start $MIB
wait_until 40 "pages to be on the device" below
taken() { echo $(($(stat -c %b "$DIR/small/disk") * 512)); }
most=$(taken)
[ "$most" -gt $((1 << 20)) ] || fail "vacuous: $most bytes are on the device"
blockdev --setro "$LOOP"
[ "$(ask "$SERVED" change)" -gt 0 ] || fail "change"
wait_until 40 "the read-only device to be noticed" degraded
say "read-only: $(tier 1 reason)"
right "the device is read-only"
# What is given up meanwhile can't be discarded: it is, once that is possible.
serve_stop "$SERVED"
wait_until 20 "the agent to give everything up" nothing_held
blockdev --setrw "$LOOP"
wait_until 120 "the device to be up again" is_up
given_back() { [ "$(taken)" -lt $((1 << 20)) ]; }
wait_until 20 "the device's room to be given back ($most were taken)" given_back
say "of $most bytes the device keeps $(taken)"
[ "$(total poisoned_pages_total)" = 0 ] || fail "pages were poisoned"

# ---- the device forgets: what was written reads as zeros ----
serve_start $MIB
wait_until 40 "pages to be on the device" below
truncate -s 1M "$DIR/small/disk"
lost forgotten
agent_stop
say passed
