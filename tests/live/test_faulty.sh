#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# A medium that fails under a running agent: writes and reads that fail, hang, are
# torn or come back wrong. No wrong bytes, no hang; the store is degraded meanwhile
# and comes back by itself, also while nobody uses it. What is lost is told.
# shellcheck source=tests/live/lib.sh
. "${srcdir:-.}/tests/live/lib.sh"

# shellcheck source=tests/live/tiers.sh
. "${srcdir:-.}/tests/live/tiers.sh"

is_up() { tier_is 1 up; }
is_degraded() { tier_is 1 degraded; }

rules() { # LINE...: from now on
	rm -f "$DIR/rules.seen"
	printf '%s\n' "$@" >"$DIR/rules.new"
	mv "$DIR/rules.new" "$DIR/rules"
	[ -z "$AGENT_PID" ] || wait_until 20 "the rules to be seen" test -e "$DIR/rules.seen"
}

right() {
	[ "$(ask "$SERVED" verify)" = $((MIB * 256)) ] || fail "verify: $*"
}

# A MiB of the program's is nowhere else. (What has come back may lie there dead for a while.)
in_file() {
	local stored

	stored=$(of_process "${PEER_PIDS[$SERVED]}" stored_bytes)
	[ $((stored - $(tier 0 live_bytes))) -gt $((1 << 20)) ]
}

# superblock MACHINE BOOT [VERSION]: what an agent has left there, of a machine and a boot
superblock() {
	python3 - "$DIR/store/uswap.segments" "$@" <<-'END'
		import struct, sys
		path, machine, boot, version = (sys.argv[1:] + ["1"])[:4]
		def crc32c(data):
		    crc = 0xffffffff
		    for byte in data:
		        crc ^= byte
		        for _ in range(8):
		            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
		    return crc ^ 0xffffffff
		def block(crc):
		    return (b"USWAPSEG" + struct.pack("<II", int(version), crc) + bytes.fromhex(machine) +
		            bytes.fromhex(boot) + struct.pack("<Q", 256 << 20)).ljust(4096, b"\0")
		with open(path, "wb") as f:
		    f.write(block(crc32c(block(0))) + b"\x5a" * (9 << 20))
	END
}

MIB=8
live_begin
need_program python3
mkdir "$DIR/store"
rules
AGENT_STORES=(memory:16M "faulty:$DIR/rules,file:$DIR/store,size=256M")

# ---- what others have left in the directory: only what is our own is discarded ----
ours=$(tr -d '\n' </etc/machine-id 2>/dev/null) || true
other=$(printf '%032x' 7)
superblock "$other" "$other"
before=$(stat -c %s "$DIR/store/uswap.segments")
refused "belongs to another machine" "${AGENT_STORES[@]}"
superblock "$other" "$other" 2
refused "is of version 2" "${AGENT_STORES[@]}"
superblock "$other" "$other"
printf x | dd of="$DIR/store/uswap.segments" bs=1 seek=100 conv=notrunc 2>/dev/null
refused "damaged superblock" "${AGENT_STORES[@]}"
[ "$(stat -c %s "$DIR/store/uswap.segments")" = "$before" ] || fail "a file that was refused has changed"
# of this machine, of an earlier boot; without an id each boot is a machine
if [ ${#ours} = 32 ]; then
	superblock "$ours" "$other"
else
	rm "$DIR/store/uswap.segments"
fi
agent_start
[ "$(stat -c %s "$DIR/store/uswap.segments")" -lt $((1 << 20)) ] || fail "what an earlier boot has left is still there"

# ---- no write succeeds: pages stay in memory, the store says why ----
for error in EIO ENOSPC; do
	rules "write error $error" "new error $error"
	serve_start $MIB
	wait_until 30 "$error to be noticed" is_degraded
	say "$error: $(tier 1 reason)"
	[ "$(tier 1 live_bytes)" = 0 ] || fail "$error: something was written"
	right "$error"
	# idle: whatever wants to be written is gone, and still it is not "up"
	serve_stop "$SERVED"
	wait_until 20 "the agent to give everything up" nothing_held
	is_degraded || fail "$error: up, though nothing can be written"
	rules
	wait_until 60 "the store to come back by itself after $error" is_up
done

# ---- a write that hangs: nobody waits for it ----
rules "write hold"
serve_start $MIB
hangs() { [ "$(tier 1 writes_pending)" -gt 0 ]; }
wait_until 30 "a write to hang" hangs
right "a write hangs"
[ "$(ask "$SERVED" change)" -gt 0 ] || fail "change"
right "a write hangs, after a change"
evicted_run fill_verify 4 1
reaped() { [ "$(total store_blobs)" -le $((MIB * 256 + 256)) ]; }
wait_until 20 "what has died to be given back beside a write that hangs" reaped
hangs || fail "vacuous: no write hangs any more"
rules "write torn EIO"
wait_until 30 "a torn write to be noticed" is_degraded
right "torn writes"
rules
wait_until 60 "pages to be in the file" in_file
right "after torn writes"

# ---- reads: an error is tried again, wrong bits once, and neither gets through ----
wait_until 60 "pages to be in the file" in_file
errors=$(tier 1 io_errors_total)
rules "read error EIO 3"
right "reads that fail three times"
[ "$(tier 1 io_errors_total)" -ge $((errors + 3)) ] || fail "vacuous: no read failed"
wait_until 20 "the store to be up again" is_up
[ "$(total poisoned_pages_total)" = 0 ] || fail "given up at once"
wait_until 60 "pages to be in the file" in_file
missing=$(tier 1 missing_total)
rules "read short EIO 1"
"$CTL" restore "${PEER_PIDS[$SERVED]}" || fail "restore"
[ "$(tier 1 missing_total)" -gt "$missing" ] || fail "vacuous: no read was short"
[ "$(total poisoned_pages_total)" = 0 ] || fail "pages were given up after one short read"
right "a read that was short"
wait_until 60 "pages to be in the file" in_file
rules "read hold"
echo verify >&"${PEER_IN[$SERVED]}"
waits() { [ "$(tier 1 reads_pending)" -gt 0 ]; }
wait_until 30 "a read to hang" waits
sleep 0.2
waits || fail "vacuous: no read hangs any more"
rules
read -r -t $((60 * FACTOR)) -u "${PEER_OUT[$SERVED]}" line || fail "no answer after a read hung for a while"
[ "${line#* }" = $((MIB * 256)) ] || fail "verify: $line"
[ "$(total poisoned_pages_total)" = 0 ] || fail "pages were poisoned"

# ---- it stays wrong: SIGBUS, told and counted; others are right ----
lost() { # RULE
	local before

	before=$(total poisoned_pages_total)
	wait_until 60 "pages to be in the file" in_file
	rules "$1"
	peer_tell "$SERVED" verify
	wait_until 40 "$1: the program to end by SIGBUS" peer_gone "${PEER_PIDS[$SERVED]}"
	rules
	wait_until 20 "a word of the loss" grep -q "process ${PEER_PIDS[$SERVED]} .*SIGBUS" "$DIR/agent.log"
	peer_close "$SERVED"
	[ "$(total poisoned_pages_total)" -gt "$before" ] || fail "$1: nothing was poisoned"
	say "$1: $(grep SIGBUS "$DIR/agent.log" | tail -n 1)"
}
lost "read flip"
[ "$(tier 1 corrupt_total)" -gt 0 ] || fail "nothing is counted as damaged"
serve_start $MIB
lost "read error EIO"
evicted_run fill_verify 4 1
wait_until 20 "the agent to give everything up" nothing_held
agent_stop
say passed
