#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# kill -9 of the agent's worker, of worker and keeper together, and of the worker
# at each named point of its work, under programs that verify every byte: they
# notice a pause and nothing else, and nothing is left behind.
# shellcheck source=tests/live/crash.sh
. "${srcdir:-.}/tests/live/crash.sh"

crash_begin

# ---- pages away in every program, and the worker goes; then both ----
serve_start 24
one=$SERVED
for how in kill_worker kill_both kill_worker; do
	wait_until 30 "half of the pages to leave" absent_at_least "$one" 50
	before=$(total evicted_bytes)
	told=$(total pages_out_total) packed=$(total packed_pages_total)
	of_one=$(of_process "$SERVED_PID" pages_out_total)
	old=$(worker)
	$how
	agent_is_new() { [ -n "$(worker)" ] && [ "$(worker)" != "$old" ]; }
	wait_until 10 "a new worker" agent_is_new
	wait_until 10 "the agent to listen" agent_up
	after=$(total evicted_bytes)
	[ "$after" -ge $((before / 2)) ] || fail "$how: of $before bytes evicted the new worker knows $after"
	if [ "$(total pages_out_total)" -lt "$told" ] || [ "$(total packed_pages_total)" -lt "$packed" ] ||
		[ "$(of_process "$SERVED_PID" pages_out_total)" -lt "$of_one" ]; then
		fail "$how: totals begin anew"
	fi
	[ "$(ask "$one" verify)" = $((24 * 256)) ] || fail "verify after $how"
	say "$how with $before bytes away: all of them right"
done
fds() { find "/proc/$(worker)/fd" -mindepth 1 2>/dev/null | wc -l; }
before=$(fds)
for ((i = 0; i < 12; i++)); do
	kill_worker
	nap 0.1
done
wait_until 10 "the agent to listen" agent_up
few_fds() { [ "$(fds)" -le $((before + 6)) ]; }
wait_until 10 "descriptors of dead workers to be closed: $(fds) instead of $before" few_fds
[ "$(ask "$one" verify)" = $((24 * 256)) ] || fail "verify after 12 deaths"

# ---- what a program was not told by the dead worker it is told by the next ----
hits=$(inject_hits)
inject ATTACH 0
serve_start 8
inject_is_hit "$hits" || fail "no worker died while a program attached"
inject NONE 0
wait_until 30 "a program to be managed whose attaching was cut" absent_at_least "$SERVED" 50
[ "$(ask "$SERVED" verify)" = 2048 ] || fail "verify after an attaching that was cut"
serve_stop "$SERVED"

# ---- a report of an order that a dead worker gave, while a new one waits for its own ----
# The mover is stopped with two orders before it, both the first of their workers.
one_mover() {
	mover=$(movers)
	[ "$(wc -w <<<"$mover")" = 1 ]
}
wait_until 20 "one mover to be left" one_mover
# While a mover stands inside a batch nobody gives it another order: then once more.
stop_with_order() {
	local hits try

	for try in {1..6}; do
		wait_until 30 "half of the pages to leave" absent_at_least "$one" 50
		[ "$(ask "$one" change)" -gt 0 ] || fail "change"
		kill -STOP "$mover"
		hits=$(inject_hits)
		inject ORDERED 0
		kill_worker
		! inject_is_hit_within 6 "$hits" || break
		say "no order in try $try"
		inject NONE 0
		kill -CONT "$mover"
	done
	inject NONE 0
	inject_is_hit "$hits" || fail "no worker died with its first order"
}
for i in 1 2; do
	stop_with_order
	sleep 1
	kill -CONT "$mover"
	for ((k = 0; k < 4; k++)); do
		[ "$(ask "$one" verify)" = $((24 * 256)) ] || fail "verify after a late report"
		nap 0.1
	done
done

# ---- keeper and worker, when a fork child has just been read ----
# 1: the keeper is killed as well. 5: and the service manager had no time for it before.
for how in FORK_READ=1 FORK_NAMED=1 EVENT_TAKEN=1 FORK_KNOWN=1 EVENT_TAKEN=5 FORK_RECORD=5 FORK_KNOWN=5; do
	wait_until 30 "half of the pages to leave" absent_at_least "$one" 50
	hits=$(inject_hits)
	inject "${how%=*}" 0 "${how#*=}"
	[ "$(ask "$one" fork)" = $((24 * 256)) ] || fail "fork, $how"
	inject_is_hit "$hits" || fail "vacuous: $how was not reached"
	inject NONE 0
done

# ---- no memory for a fork child: it waits, and its parent, over deaths ----
wait_until 30 "half of the pages to leave" absent_at_least "$one" 50
inject NONE 0 8
ask "$one" fork >"$DIR/forked" &
forked=$!
nap 0.3
for how in kill_worker kill_both; do
	old=$(worker)
	$how
	wait_until 10 "a new worker" agent_is_new
	wait_until 10 "the agent to listen" agent_up
done
kill -0 $forked || fail "vacuous: the child did not wait: $(cat "$DIR/forked")"
inject NONE 0
wait $forked || fail "a fork child without memory"
[ "$(cat "$DIR/forked")" = $((24 * 256)) ] || fail "a fork child without memory: $(cat "$DIR/forked")"
if grep 'fork children were lost' "$DIR/agent.log"; then fail "of both"; fi
[ "$(ask "$one" verify)" = $((24 * 256)) ] || fail "verify after forks"
serve_stop "$one"

# ---- at each point ----
# What gets there: eviction and restores, events of all kinds, forks, ends.
at_points() {
	local point hits pass missed='' both=$((RANDOM % 2))

	for point in $(points); do
		case $point in
		COMPACT | CHILD_HEARD) continue ;; # when there is garbage; when a fork is not the first
		BATCH_* | SEGMENT_* | PROMOTED) continue ;; # test_crash_tiers.sh
		esac
		hits=$(inject_hits)
		case $point in
		RECOVER_*)
			# there the first worker of a keeper gives up, and manager.py with it
			[ "$point" != RECOVER_NOMEM ] || wait_until 20 "the agent to listen" agent_up
			inject "$point" 0 $both
			kill_worker
			;;
		*) pass=$((RANDOM % 3)); inject "$point" "$pass" $both ;;
		esac
		both=$((1 - both)) # every other one with the keeper, which ones by chance
		for ((i = 0; i < 20; i++)); do
			inject_is_hit "$hits" && break
			kill -0 "$1" 2>/dev/null || break 2
			nap 0.1
		done
		inject_is_hit "$hits" || missed="$missed $point"
	done
	inject NONE 0
	echo "$missed" >"$DIR/missed"
}
storm() {
	while [ -e "$DIR/storming" ]; do
		for name in "fork_verify 1" "mremap_verify 1" "munmap_verify 1" "madvise_verify 1" "threads_verify 1 3"; do
			# shellcheck disable=SC2086
			bounded 60 env "LD_PRELOAD=$LIB" "$WORKLOADS/"$name >>"$DIR/storm.out" 2>&1 ||
				fail "$name: $(tail -n 3 "$DIR/storm.out")"
			[ -e "$DIR/storming" ] || break
		done
	done
}
serve_start 8
one=$SERVED
touch "$DIR/storming"
storm &
storm=$!
many_points() { # another time where a slow machine comes to few of them
	for _ in 1 2 3 4; do
		at_points "$1"
		[ "$(inject_hits)" -lt 18 ] || break
	done
}
many_points $storm &
points=$!
while kill -0 $points 2>/dev/null; do
	[ "$(ask "$one" verify)" = 2048 ] || fail "verify under crashes at named points"
	[ "$(ask "$one" change)" -gt 0 ] || fail "change under crashes at named points"
	timeout 5 "$CTL" restore "$SERVED_PID" >/dev/null 2>&1 || true
	nap 0.2
done
wait $points || fail "not all points were tried"
rm "$DIR/storming"
wait $storm || fail "a program under crashes at named points: $(tail -n 20 "$DIR/storm.out")"
say "$(inject_hits) points hit$(sed 's/^ /, not reached: /' "$DIR/missed")"
[ "$(inject_hits)" -ge 18 ] || fail "vacuous: hardly any point was reached"
serve_stop "$one"

crash_end
agent_stop
say passed
