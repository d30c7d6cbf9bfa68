# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
# The peer: kernel swap to zram with lz4, on a device of our own that has the highest
# priority and goes when the benchmark ends. Other programs may page out to it meanwhile, if
# memory is short. Sourced by uswap-bench.

ZRAM= # its number

# zram_begin MIB
zram_begin() {
	local control=/sys/class/zram-control

	need_program mkswap swapon swapoff
	[ -r "$control/hot_add" ] || skip "no zram on this host"
	ZRAM=$(cat "$control/hot_add")
	trap zram_cleanup EXIT
	echo lz4 2>/dev/null >"/sys/block/zram$ZRAM/comp_algorithm" || skip "zram has no lz4 on this host"
	echo "$(($1 << 20))" >"/sys/block/zram$ZRAM/disksize"
	mkswap "/dev/zram$ZRAM" >/dev/null
	swapon -p 32767 "/dev/zram$ZRAM"
}

zram_end() {
	[ -n "$ZRAM" ] || return 0
	! grep -q "^/dev/zram$ZRAM " /proc/swaps || swapoff "/dev/zram$ZRAM"
	echo 1 >"/sys/block/zram$ZRAM/reset"
	echo "$ZRAM" >/sys/class/zram-control/hot_remove
	ZRAM=
}

# Instead of live_cleanup, which it calls with the status that it found.
zram_cleanup() {
	local status=$?

	zram_end || true
	(exit "$status")
	live_cleanup
}

# Bytes its pool holds, with its table: 16 bytes a page that is in it.
zram_held() {
	awk '{ print $3 + $1 / 256 }' "/sys/block/zram$ZRAM/mm_stat"
}

# Bytes its pool holds, and those of the pages that are in it.
zram_used() {
	awk '{ print $3, $2 }' "/sys/block/zram$ZRAM/mm_stat"
}
