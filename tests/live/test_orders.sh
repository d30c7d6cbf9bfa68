#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# uswapctl evict and restore: memory really goes and really comes back, as the
# kernel counts it, and the bytes reported are the bytes that went.
# shellcheck source=tests/live/lib.sh
. "${srcdir:-.}/tests/live/lib.sh"

MIB=48
PAGES=$((MIB * 256))

# Nothing leaves by itself.
agent_config() {
	cat <<-'END'
		[Policy]
		GraceSec=0.02
		MinResident=0
		StartDelaySec=86400
	END
}

# order WORD...: prints the bytes it says it has moved.
order() {
	timeout $((60 * FACTOR)) "$CTL" --json "$@" >"$DIR/order.json" ||
		fail "uswapctl $*: status $?: $(cat "$DIR/order.json")"
	jq -er "$JQ_ORDER" "$DIR/order.json" || fail "uswapctl --json $*: $(cat "$DIR/order.json")"
}

exit_status() {
	local want=$1 status=0

	shift
	timeout $((60 * FACTOR)) "$@" >"$DIR/status.out" 2>&1 || status=$?
	[ $status = "$want" ] || fail "status $status instead of $want: $*: $(cat "$DIR/status.out")"
}

no_blobs() {
	[ "$(total store_blobs)" = 0 ]
}

live_begin
exit_status 3 "$CTL" stats
agent_start
serve_start $MIB
one=$SERVED
pid=$SERVED_PID
serve_start 4
other=$SERVED
[ "$(ask "$one" absent)" = 0 ] || fail "pages left without an order"
before=$(ask "$one" rss)

evicts() { # not before its mover is there
	timeout $((60 * FACTOR)) "$CTL" --json evict "$pid" >"$DIR/order.json" 2>&1
}
wait_until 20 "$pid to be evicted" evicts
bytes=$(jq -er "$JQ_ORDER" "$DIR/order.json")
absent=$(ask "$one" absent)
after=$(ask "$one" rss)
say "evict: $bytes bytes, $absent of $PAGES pages away, VmRSS $before -> $after KiB"
# one page in sixteen doesn't compress and may stay
[ $((absent * 100)) -ge $((PAGES * 85)) ] || fail "only $absent of $PAGES pages are away"
[ $((before - after)) -ge $((PAGES * 4 * 80 / 100)) ] || fail "VmRSS went from $before to $after KiB"
[ "$bytes" -ge $((absent * 4096)) ] || fail "$bytes bytes reported, $absent pages are away"
[ "$bytes" -le $((before * 1024)) ] || fail "$bytes bytes reported of $before KiB"
[ "$(of_process "$pid" evicted_bytes)" -ge $((absent * 4096)) ] || fail "evicted_bytes"
[ "$(ask "$other" absent)" = 0 ] || fail "another process was evicted too"

bytes=$(order restore "$pid")
[ "$(ask "$one" absent)" = 0 ] || fail "not all is back"
# same-filled pages may share one page: one in sixteen is zero
back=$(ask "$one" rss)
say "restore: $bytes bytes, VmRSS $back KiB"
[ "$bytes" -ge $((absent * 4096)) ] || fail "$bytes bytes restored of $absent pages"
[ "$back" -ge $((before * 90 / 100)) ] || fail "VmRSS is $back KiB after restore, was $before"
[ "$(of_process "$pid" evicted_bytes)" = 0 ] || fail "evicted_bytes after restore"
wait_until 20 "the store to be empty" no_blobs
[ "$(ask "$one" verify)" = $PAGES ] || fail "verify after restore"

# a part; reading brings it back
bytes=$(order evict "$pid" 8M)
[ "$bytes" -ge $((8 << 20)) ] || fail "evict 8M: $bytes bytes"
absent=$(ask "$one" absent)
[ "$absent" -gt 0 ] || fail "evict 8M: no page is away"
[ $((absent * 2)) -le $PAGES ] || fail "evict 8M: $absent pages are away"
[ "$(ask "$one" verify)" = $PAGES ] || fail "verify after a part"
[ "$(ask "$one" absent)" = 0 ] || fail "pages away that were just read"

# a part of all is not as much of each: who has more gives more
bytes=$(order evict --all 8M)
[ $((bytes >> 20)) = 8 ] || fail "evict --all 8M: $bytes bytes"
[ "$(ask "$one" absent)" -gt "$(ask "$other" absent)" ] || fail "evict --all 8M: not of who has more"

# everybody, twice; changed pages leave too
order evict --all >/dev/null
for n in "$one" "$other"; do
	[ "$(ask "$n" absent)" -gt 0 ] || fail "evict --all"
	[ "$(ask "$n" change)" -gt 0 ] || fail "change"
done
order evict --all >/dev/null
order restore --all >/dev/null
for n in "$one" "$other"; do
	[ "$(ask "$n" absent)" = 0 ] || fail "restore --all"
	[ "$(ask "$n" verify)" = "$(ask "$n" pages)" ] || fail "verify"
done

exit_status 4 "$CTL" evict $$
exit_status 4 "$CTL" restore $$
exit_status 2 "$CTL" evict
exit_status 2 "$CTL" evict "$pid" 8X
exit_status 2 "$CTL" nonsense

# what is back can be seen by a debugger
if [ -n "$(type -P gdb)" ]; then
	order evict "$pid" >/dev/null
	order restore "$pid" >/dev/null
	bounded 60 gdb -nx -batch -iex 'set debuginfod enabled off' -p "$pid" \
		-ex "generate-core-file $DIR/core" >"$DIR/gdb.log" 2>&1 || fail "gdb: status $?"
	# (the kernel's page at ffffffffff600000 can't be read of any process)
	if grep -i 'cannot access\|memory read failed' "$DIR/gdb.log" | grep -qv 0xffffffffff600000; then
		fail "gdb could not read memory: $(tail -n 5 "$DIR/gdb.log")"
	fi
	[ "$(stat -c %s "$DIR/core")" -ge $((MIB << 20)) ] || fail "a small core file"
	rm -f "$DIR/core"
	say "gdb reads what is back"
fi

# a program that ends meanwhile, or leaves its memory, is no failure of "all"
some_absent() {
	[ "$(ask "$1" absent)" -gt 0 ]
}
new_mover() {
	MOVER=$(movers | grep -vxF "$movers") && [ "$(total processes_count)" = 3 ]
}
movers=$(movers)
# shellcheck disable=SC2016
peer_start env "LD_PRELOAD=$LIB" sh -c 'echo "ready $$"; read -r line; unset LD_PRELOAD; exec sed -u q'
wait_until 20 "its mover" new_mover
kill -STOP "$MOVER"
echo execute >&"${PEER_IN[PEER]}"
[ "$(peer_ask "$PEER" executed)" = executed ] || fail "exec"
order evict --all >"$DIR/all" &
waiting=$!
wait_until 20 "pages to leave" some_absent "$one"
# who comes second is told that there is one that he passes over
exit_status 1 "$CTL" evict --all
grep -q "an order under way already" "$DIR/status.out" || fail "a second evict --all: $(cat "$DIR/status.out")"
kill -CONT "$MOVER"
wait $waiting || fail "evict --all, and one of them goes meanwhile"
peer_close "$PEER"
serve_stop "$one"
serve_stop "$other"

# What an order moves behind an mlockall comes back by itself: while that waits for its
# next page, which happens to be one of transit's, those before it can be moved.
registers() {
	[ "$(of_process "$pid" registered_bytes)" -gt 0 ]
}
is_locking() {
	[ "$(sed -n 's/^VmLck:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$pid/status")" -ge 4096 ]
}
nothing_absent() {
	[ "$(ask "$one" absent)" = 0 ]
}
lock_behind_an_order() {
	local mover worker waiting

	mover=$(movers)
	worker=$(pgrep -P "$AGENT_PID" -x uswap-agent | head -n 1)
	kill -STOP "$mover"
	evicts &
	waiting=($!)
	wait_until 20 "an order" registers
	kill -STOP "$worker"
	ask "$one" lock >"$DIR/locked" &
	waiting+=($!)
	wait_until 20 "mlockall" is_locking
	sleep 0.2
	kill -CONT "$mover"
	sleep 0.2
	kill -CONT "$worker"
	wait "${waiting[@]}" || true
}
serve_alone() { # [BEFORE...]; there is no other mover then
	wait_until 20 "the movers to go" no_movers
	serve_start 4 "$@"
	one=$SERVED
	pid=$SERVED_PID
}
says_why() {
	[[ $(of_process "$pid" reason) = *"dropped or moved more memory"* ]]
}
serve_alone
[ "$(ask "$one" reserve)" -gt 0 ] || fail "reserve"
wait_until 20 "$pid to be evicted" evicts
! says_why || fail "a reason before there is one"
[ "$(ask "$one" drop)" = 0 ] || fail "drop"
wait_until 20 "the reason why no more leaves" says_why
serve_stop "$one"

# Mappings in which there is nothing are no end of what there is; what nothing may leave for
# as long as it wants is an end.
serve_alone
[ "$(ask "$one" scatter)" -ge 1000 ] || fail "scatter"
wait_until 20 "$pid to be evicted" evicts
[ $(($(ask "$one" absent) * 100)) -ge $((1024 * 85)) ] || fail "only $(ask "$one" absent) of 1024 pages are away"
[ "$(ask "$one" hold)" -gt 1024 ] || fail "hold"
order evict "$pid" >/dev/null
serve_stop "$one"

for try in {1..5}; do
	serve_alone env WORKLOAD_KEEP=1
	wait_until 20 "$pid to be evicted" evicts # its mover is ready
	order restore "$pid" >/dev/null
	before=$(total pages_out_total)
	lock_behind_an_order
	[ "$(cat "$DIR/locked")" = 0 ] || fail "mlockall: error $(cat "$DIR/locked")"
	left=$(($(total pages_out_total) - before))
	wait_until 20 "locked pages to be back" nothing_absent
	serve_stop "$one"
	[ $left -lt 32 ] || break
	[ "$try" -lt 5 ] || fail "vacuous: only $left pages have left behind mlockall"
done
say "$left pages left behind mlockall, and are back"
live_end
