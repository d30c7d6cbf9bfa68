#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Real media: three stores in a row, a disk that is full for a while, one that is
# read-only for a while and at the start, a block device with its room given back,
# media that lose, cut and spoil what was written. Programs stay right or get SIGBUS
# where their bytes are lost; the agent says what is the matter and goes on.
# shellcheck source=tests/live/lib.sh
if [ "${USWAP_OWN_MOUNTS:-}" != 1 ] && [ "$(id -u)" = 0 ] && unshare -m true 2>/dev/null; then
	USWAP_OWN_MOUNTS=1 exec unshare -m --propagation private "$0" "$@"
fi
. "${srcdir:-.}/tests/live/lib.sh"

# shellcheck source=tests/live/tiers.sh
. "${srcdir:-.}/tests/live/tiers.sh"

restart() { # MOVE_DOWN STORE...
	MOVE_DOWN=$1
	shift
	AGENT_STORES=("$@")
	rm -f "$DIR/uswap.conf"
	agent_start
}

right() { # N MIB
	[ "$(ask "$1" verify)" = $(($2 * 256)) ] || fail "verify"
}

LOOP=
loop_make() { # FILE MIB: sets LOOP
	truncate -s "$2M" "$1"
	LOOP=$(losetup -f --show "$1" 2>"$DIR/losetup") || LOOP=
}

loop_drop() {
	[ -z "$LOOP" ] || losetup -d "$LOOP"
	LOOP=
}

live_begin
mounts_end() {
	loop_drop
	umount -l "$DIR/small" 2>/dev/null
}
AT_END=mounts_end
[ "${USWAP_OWN_MOUNTS:-}" = 1 ] || skip "no mount namespace of its own can be had"
mkdir "$DIR/a" "$DIR/b" "$DIR/small"

# ---- three in a row ----
restart 0.05 memory:16M "file:$DIR/a,size=24M" "file:$DIR/b,size=512M"
refused "another agent uses it" memory:16M "file:$DIR/a,size=24M"
serve_start 64
wait_until 60 "pages to be in the third store" tier_has 2 $((4 << 20))
say "live bytes: $(tier 0 live_bytes), $(tier 1 live_bytes), $(tier 2 live_bytes)"
right "$SERVED" 64
[ "$(tier 2 read_bytes_total)" -gt 100000 ] || fail "vacuous: nothing was read from the third store"
[ "$(ask "$SERVED" change)" -gt 0 ] || fail "change"
evicted_run fork_verify 1
right "$SERVED" 64
"$CTL" verify || fail "verify"
serve_stop "$SERVED"
live_end

# ---- full for a while, then not ----
mount -t tmpfs -o size=64M none "$DIR/small" || skip "no tmpfs can be mounted"
restart 0.05 memory:16M "file:$DIR/small,size=48M"
fallocate -l 63M "$DIR/small/others" 2>/dev/null || dd if=/dev/zero of="$DIR/small/others" bs=1M 2>/dev/null || true
serve_start 24
degraded() { tier_is 1 degraded; }
wait_until 40 "the full disk to be noticed" degraded
say "full: $(tier 1 reason)"
grep -q "No space left" <<<"$(tier 1 reason)" || fail "reason: $(tier 1 reason)"
right "$SERVED" 24
[ "$(ask "$SERVED" change)" -gt 0 ] || fail "change"
rm "$DIR/small/others"
wait_until 60 "pages to be in the file" tier_has 1 $((2 << 20))
is_up() { tier_is 1 up; }
wait_until 20 "the store to be up again" is_up
right "$SERVED" 24
serve_stop "$SERVED"
live_idle
agent_stop

# ---- read-only at the start, another machine's, another version, cut ----
refused "M are there" memory:16M "file:$DIR/small,size=1G"
mount -o remount,ro "$DIR/small"
refused "Read-only file system" memory:16M "file:$DIR/small,size=32M"
mount -o remount,rw "$DIR/small"
python3 - "$DIR/a" <<'END'
import os, sys
# version 9, and the rest as an agent writes it would be; the name says whose it is
with open(sys.argv[1] + '/uswap.segments', 'wb') as f:
    f.write(b'USWAPSEG' + (9).to_bytes(4, 'little') + bytes(4084))
END
[ -e "$DIR/a/uswap.segments" ] && refused "is of version 9" memory:16M "file:$DIR/a,size=24M"
rm -f "$DIR/a/"*

# ---- a file that is cut, and spoilt, under the agent ----
lost() { # a program that is to get SIGBUS
	peer_tell "$1" verify
	wait_until 40 "program ${PEER_PIDS[$1]} to end by SIGBUS" peer_gone "${PEER_PIDS[$1]}"
	peer_close "$1"
}

all_below() { # what a program has is in the file, but for little
	[ "$(tier 1 live_bytes)" -gt $((1 << 20)) ] && [ "$(tier 0 live_bytes)" -lt $((1 << 20)) ]
}

for damage in cut spoilt; do
	restart 0.05 memory:64M "file:$DIR/a,size=256M"
	serve_start 16
	one=$SERVED
	wait_until 40 "pages to be in the file" all_below
	kill -STOP "$SERVED_PID"
	file=$(echo "$DIR/a/"*)
	case $damage in
	cut) truncate -s 1M "$file" ;;
	spoilt) python3 - "$file" <<'END'
import os, sys
with open(sys.argv[1], 'r+b') as f:
    size = os.fstat(f.fileno()).st_size
    for at in range(4 << 20, size, 64):
        f.seek(at)
        f.write(b'\x5a')
END
		;;
	esac
	kill -CONT "$SERVED_PID"
	status=0
	"$CTL" --json=short verify >"$DIR/verify.json" || status=$?
	[ $status -eq 1 ] || fail "$damage: verify says $status: $(cat "$DIR/verify.json")"
	[ "$(jq .damaged_pages "$DIR/verify.json")" -gt 100 ] || fail "$damage: $(cat "$DIR/verify.json")"
	lost "$one"
	wait_until 20 "$damage: a word of the loss" grep -q "process .*SIGBUS" "$DIR/agent.log"
	say "$damage: $(grep "SIGBUS" "$DIR/agent.log" | tail -n 1)"
	[ "$(total poisoned_pages_total)" -gt 0 ] || fail "$damage: nothing poisoned"
	evicted_run fill_verify 4 1
	agent_stop
	rm -f "$DIR/a/"*
done

# ---- a block device ----
loop_make "$DIR/small/disk" 56
if [ -z "$LOOP" ]; then
	say "no loop device can be made here ($(cat "$DIR/losetup")): block devices are not tried"
	say "passed"
	exit 0
fi
restart 0.05 memory:16M "file:$LOOP,size=48M"
serve_start 16
one=$SERVED
wait_until 40 "pages to be on the device" tier_has 1 $((2 << 20))
right "$one" 16
blockdev --setro "$LOOP"
[ "$(ask "$one" change)" -gt 0 ] || fail "change"
wait_until 40 "the read-only device to be noticed" degraded
say "read-only: $(tier 1 reason)"
right "$one" 16
blockdev --setrw "$LOOP"
wait_until 60 "the device to be up again" is_up
right "$one" 16
"$CTL" verify || fail "verify"
taken() { echo $(($(stat -c %b "$DIR/small/disk") * 512)); }
most=$(taken)
serve_stop "$one"
wait_until 20 "the agent to give everything up" nothing_held
given_back() { [ "$(taken)" -lt $((most / 2)) ]; }
wait_until 20 "the device's room to be given back: $(taken) of $most" given_back
say "of $most bytes the device keeps $(taken)"
[ "$(total poisoned_pages_total)" = 0 ] || fail "pages were poisoned"

# ---- the device forgets: what was written reads as zeros ----
serve_start 16
one=$SERVED
wait_until 40 "pages to be on the device" tier_has 1 $((1 << 20))
truncate -s 1M "$DIR/small/disk"
lost "$one"
[ "$(total poisoned_pages_total)" -gt 0 ] || fail "nothing was found damaged"
evicted_run fill_verify 4 1
agent_stop
loop_drop
say passed
