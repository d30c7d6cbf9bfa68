#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# What is kept for programs. The service manager keeps only so many descriptors: those
# for which there is no room are refused and run as without uswap; none that was taken
# is lost when the whole agent is killed, and with one that ends there is room for
# another. What belongs to a program that ends while there is no agent is given up by
# the next.
# shellcheck source=tests/live/crash.sh
. "${srcdir:-.}/tests/live/crash.sh"

export MANAGER_FDSTORE=32 # kept files and some programs, of six each
crash_begin
taken=()
for ((i = 0; i < 5; i++)); do
	serve_start 4
	taken+=("$SERVED")
	[ "$(total attach_refused_total)" = 0 ] || break
done
refused=$((${#taken[@]} - 1))
[[ $refused -ge 1 && $refused -lt 4 ]] || fail "$refused programs have room among $MANAGER_FDSTORE descriptors"
[ "$(total processes_count)" = "$refused" ] || fail "$(total processes_count) are attached, not $refused"
grep -q "process $SERVED_PID .*no room" "$DIR/agent.log" || fail "the log does not say who was refused, and why"
wait_until 30 "half of the pages to leave" absent_at_least "${taken[0]}" 50
old=$(worker)
kill_both
agent_is_new() { [ -n "$(worker)" ] && [ "$(worker)" != "$old" ]; }
wait_until 10 "a new worker" agent_is_new
wait_until 10 "the agent to listen" agent_up
[ "$(total processes_count)" = "$refused" ] || fail "of $refused programs $(total processes_count) are there"
for one in "${taken[@]}"; do
	[ "$(ask "$one" verify)" = 1024 ] || fail "verify of program $one"
done
[ "$(total poisoned_pages_total)" = 0 ] || fail "pages were lost"
serve_stop "${taken[0]}"
has_room() { # a little after it is no longer listed
	serve_start 4
	[ "$(total processes_count)" = "$refused" ] || {
		serve_stop "$SERVED"
		return 1
	}
}
wait_until 20 "room for another program" has_room
say "$refused programs have room for their descriptors, the next is refused"
for one in "${taken[@]:1}" "$SERVED"; do
	serve_stop "$one"
done

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
