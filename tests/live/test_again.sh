#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Keeper and worker are killed together, and nobody has kept their descriptors:
# the movers find the next agent by themselves. Programs that had nothing away go
# on and are managed again, those that had get SIGBUS where something is missing,
# and nobody hangs.
# shellcheck source=tests/live/lib.sh
. "${srcdir:-.}/tests/live/lib.sh"

live_begin
# What leaves, leaves by order.
sed 's/^MinResident=.*/MinResident=1G/' <(agent_config) >"$DIR/uswap.conf"
agent_start

kill_all() {
	local worker

	worker=$(pgrep -P "$AGENT_PID")
	# shellcheck disable=SC2086
	kill -KILL "$AGENT_PID" $worker
	wait "$AGENT_PID" 2>/dev/null || true
}
attached() { [ "$(total processes_count)" = "$1" ]; }
again() { # HOW-MANY programs
	kill_all
	sleep "0.$((RANDOM % 5))"
	agent_start
	wait_until 20 "the movers to come back" attached "$1"
	sleep 0.5
	attached "$1" || fail "$(total processes_count) sessions of $1 programs"
}
evict_some() { # N PID
	[ "$("$CTL" --json evict "$2" | jq -er "$JQ_ORDER")" -gt 0 ] || fail "nothing of $2 leaves"
	absent_at_least "$1" 50 || fail "hardly anything of $2 has left"
}

# ---- nothing was away, once never, once not any more ----
serve_start 8
one=$SERVED one_pid=$SERVED_PID
again 1
[ "$(ask "$one" verify)" = 2048 ] || fail "verify with another agent"
evict_some "$one" "$one_pid"
[ "$(ask "$one" verify)" = 2048 ] || fail "verify of what has left by another agent"
[ "$(ask "$one" change)" -gt 0 ] || fail "change"
evict_some "$one" "$one_pid"
"$CTL" restore "$one_pid" >/dev/null
is_said() { [ "$(of_process "$one_pid" evicted_bytes)" = 0 ]; }
wait_until 10 "everything to be back" is_said
sleep 0.5 # as often as the gate is told
again 1
[ "$(ask "$one" verify)" = 2048 ] || fail "verify after all was restored"
evict_some "$one" "$one_pid"
[ "$(ask "$one" verify)" = 2048 ] || fail "verify of what has left by the third agent"
[ "$(total poisoned_pages_total)" = 0 ] || fail "pages were poisoned"
"$CTL" restore "$one_pid" >/dev/null
sleep 0.5
say "a program with nothing away went through three agents"

# ---- pages are away: lost, and said; nobody else is hurt, nobody hangs ----
serve_start 8
two=$SERVED two_pid=$SERVED_PID
evict_some "$two" "$two_pid"
bounded 60 env "LD_PRELOAD=$LIB" "$WORKLOADS/threads_verify" 4 8 &
threads=$!
wait_until 20 "a third program" attached 3
again 3
grep -q "process $two_pid (fill_serve, uid 0) was left by an agent that was killed, and with it [0-9]* pages" \
	"$DIR/agent.log" || fail "the log does not say what was lost"
[ "$(ask "$one" verify)" = 2048 ] || fail "verify of a program that had nothing to do with it"
wait $threads || fail "threads that had nothing away: status $?"
echo verify >&"${PEER_IN[two]}"
peer_close "$two"
status=0
wait "$two_pid" 2>/dev/null || status=$?
say "the program with lost pages has ended: status $status"
serve_stop "$one"

# ---- a handshake that the agent's death cuts ----
wait_until 20 "the movers to end: $(movers)" no_movers
agent_stop
say passed
