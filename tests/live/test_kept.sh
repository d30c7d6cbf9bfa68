#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# What is kept for programs. The service manager keeps only so many descriptors: those
# for which there is no room are refused and run as without uswap; none that was taken
# is lost when the whole agent is killed, and with one that ends there is room for
# another. What belongs to a program that ends while there is no agent is given up by
# the next.
# shellcheck source=tests/live/crash.sh
. "${srcdir:-.}/tests/live/crash.sh"

export MANAGER_FDSTORE=48 # kept files and some programs, of six each
crash_begin

# ---- one user's programs and their children leave room for others ----
brooding=
if [ -n "$(type -P setpriv)" ]; then
	serve_start 2 setpriv --reuid=65534 --regid=65534 --clear-groups
	brooding=$SERVED
	[ "$(ask "$brooding" brood)" = 40 ] || fail "brood"
	crowded() { grep -q "a child of process $SERVED_PID has no room" "$DIR/agent.log"; }
	wait_until 20 "the user's share to be full" crowded
	serve_start 2
	if grep "process $SERVED_PID .*no room" "$DIR/agent.log"; then fail "one user's children keep another out"; fi
	wait_until 30 "half of the pages to leave" absent_at_least "$SERVED" 50
	serve_stop "$SERVED"
	serve_stop "$brooding"
	wait_until 20 "the children to be forgotten" nothing_held
	say "one user's children have no room, another's program has"
fi

# ---- there is no room for all ----
taken=()
for ((i = 0; i < 9; i++)); do
	serve_start 4
	taken+=("$SERVED")
	[ "$(total attach_refused_total)" = 0 ] || break
done
refused=$((${#taken[@]} - 1))
[[ $refused -ge 2 && $refused -lt 8 ]] || fail "$refused programs have room among $MANAGER_FDSTORE descriptors"
[ "$(total processes_count)" = "$refused" ] || fail "$(total processes_count) are attached, not $refused"
grep -q "process $SERVED_PID .*no room" "$DIR/agent.log" || fail "the log does not say who was refused, and why"
agent_is_new() { [ -n "$(worker)" ] && [ "$(worker)" != "$old" ]; }
# The agent listens again, and all programs are as they were.
die() { # HOW
	old=$(worker)
	"$1"
	wait_until 10 "a new worker" agent_is_new
	wait_until 10 "the agent to listen" agent_up
	[ "$(total processes_count)" = "$refused" ] || fail "of $refused programs $(total processes_count) are there"
	for one in "${taken[@]}"; do
		[ "$(ask "$one" verify)" = 1024 ] || fail "verify of program $one"
	done
	[ "$(total poisoned_pages_total)" = 0 ] || fail "pages were lost"
}
wait_until 30 "half of the pages to leave" absent_at_least "${taken[0]}" 50
die kill_both

# ---- one that ends makes room, also if the manager has not heard that ----
touch "$DIR/manager/deaf"
serve_stop "${taken[0]}"
wait_until 20 "the first program to be forgotten" [ -e "$DIR/manager/unheard" ]
kill_worker
wait_until 10 "the agent to listen" agent_up
rm "$DIR/manager/deaf"
has_room() { # a little after it is no longer listed
	serve_start 4
	[ "$(total processes_count)" = "$refused" ] || {
		serve_stop "$SERVED"
		return 1
	}
}
wait_until 20 "room for another program" has_room
taken[0]=$SERVED
wait_until 30 "half of the pages to leave" absent_at_least "$SERVED" 50
die kill_both
if grep 'two descriptors have come back' "$DIR/agent.log"; then fail "of two programs"; fi
say "$refused programs have room for their descriptors, the next is refused"
touch "$DIR/manager/deaf"
for one in "${taken[@]}"; do
	serve_stop "$one"
done
wait_until 20 "the programs to be forgotten" nothing_held

# ---- what has come back and nobody needs is closed, by a worker: its keeper has no threads ----
old=$(worker)
kill_both
wait_until 10 "a new worker" agent_is_new
rm "$DIR/manager/deaf"
wait_until 10 "the agent to listen" agent_up
strays_gone() { ! find "/proc/$(worker)/fd" -lname 'anon_inode:*userfaultfd*' | grep -q .; }
wait_until 10 "descriptors that nobody needs to be closed" strays_gone
[ "$(find "/proc/$(keeper)/task" -mindepth 1 -maxdepth 1 | wc -l)" = 1 ] || fail "the keeper has threads"

# ---- a program ends while there is no worker, and no agent at all ----
for down in keeper manager; do
	serve_start 8
	wait_until 30 "half of the pages to leave" absent_at_least "$SERVED" 50
	if [ $down = keeper ]; then stopped=$(keeper); else stopped=$AGENT_PID; fi
	kill -STOP "$stopped"
	if [ $down = keeper ]; then kill_worker; else kill_both; fi
	kill -KILL "$SERVED_PID"
	peer_close "$SERVED"
	kill -CONT "$stopped"
	wait_until 10 "the agent to listen" agent_up
	wait_until 20 "what was kept for a program that is gone to be given up" nothing_held
	say "a program has ended while its $down waited: nothing is left of it"
done

crash_end
agent_stop
say passed
