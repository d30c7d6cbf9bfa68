#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Malformed packets, wrong descriptors, floods and lies on the attach socket:
# the agent stays, and other programs are as right as before.
# shellcheck source=tests/live/crash.sh
. "${srcdir:-.}/tests/live/crash.sh"

live_begin
export HOSTILE_MAX=80
{
	printf '[Agent]\nMaxProcesses=%s\n' $HOSTILE_MAX
	agent_config
} >"$DIR/uswap.conf"
crash_start
agent_fds() {
	find "/proc/$(worker)/fd" -mindepth 1 2>/dev/null | wc -l
}
# with the service manager
kept_fds() {
	find "/proc/$AGENT_PID/fd" -mindepth 1 2>/dev/null | wc -l
}
evicted_run fill_verify 2 1
live_idle
fds=$(agent_fds)
kept=$(kept_fds)

serve_start 16
bounded 90 "$WORKLOADS/hostile_peer" "$USWAP_SOCKET" >"$DIR/hostile.out" 2>&1 &
hostile=$!
agent=$(worker)
rounds=0
while kill -0 $hostile 2>/dev/null; do
	[ "$(ask "$SERVED" verify)" = 4096 ] || fail "verify beside a hostile peer"
	[ "$(ask "$SERVED" change)" -gt 0 ] || fail "change beside a hostile peer"
	[ "$(worker)" = "$agent" ] || fail "the agent has died: $(cat "$DIR/hostile.out")"
	timeout $((20 * FACTOR)) "$CTL" stats >/dev/null ||
		fail "no answer to stats beside a hostile peer: $(cat "$DIR/hostile.out")"
	rounds=$((rounds + 1))
done
wait $hostile || fail "hostile peer: $(cat "$DIR/hostile.out")"
cat "$DIR/hostile.out"
# he could fill a log, and what matters would drown in it
told=$(grep -c 'could not attach' "$DIR/agent.log")
refused=$("$CTL" --json stats | jq .agent.attach_refused_total)
[ "$refused" -ge $((told * 2)) ] || fail "$refused refused, of which $told are in the log"
say "$rounds rounds of another program verified meanwhile; $refused refused, $told lines of that"

# as another user, who can't even see our processes' memory
if [ -n "$(type -P setpriv)" ]; then
	# a program with more rights than he has, where such a one can be
	setuid=$DIR/more
	setgid=$DIR/more.group
	install -m 4755 "$(type -P sleep)" "$setuid"
	install -m 2755 "$(type -P sleep)" "$setgid"
	if findmnt -no OPTIONS -T "$DIR" | grep -qw nosuid; then
		say "no set-user-ID programs here"
		setuid=
		setgid=
	fi
	HOSTILE_SETUID=$setuid HOSTILE_SETGID=$setgid bounded 90 setpriv --reuid=65432 --regid=65432 --clear-groups \
		"$WORKLOADS/hostile_peer" "$USWAP_SOCKET" >"$DIR/hostile2.out" 2>&1 ||
		fail "hostile peer of another user: $(cat "$DIR/hostile2.out")"
fi
[ "$(ask "$SERVED" verify)" = 4096 ] || fail "verify afterwards"

# what they had given away is nobody else's when it all comes back
serve=$SERVED
serve_start 4
wait_until 30 "half of the pages to leave" absent_at_least "$SERVED" 50
kill_both
wait_until 20 "the agent to listen" agent_up
[ "$(ask "$SERVED" verify)" = 1024 ] || fail "verify of a program that came after hostile ones"
[ "$(ask "$serve" verify)" = 4096 ] || fail "verify after the agent was killed"
serve_stop "$serve"
serve_stop "$SERVED"
evicted_run fill_verify 2 1
live_idle
few_fds() {
	[ "$(agent_fds)" -le $((fds + 8)) ]
}
wait_until 10 "descriptors to be closed: $(agent_fds) instead of $fds" few_fds
few_kept() {
	[ "$(kept_fds)" -le $((kept + 2)) ]
}
wait_until 10 "the service manager to have no more than before: $(kept_fds) instead of $kept" few_kept
live_end
