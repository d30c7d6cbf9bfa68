#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Malformed packets, wrong descriptors, floods and lies on the attach socket:
# the agent stays, and other programs are as right as before.
# shellcheck source=tests/live/lib.sh
. "${srcdir:-.}/tests/live/lib.sh"

live_begin
agent_start
agent_fds() {
	find "/proc/$AGENT_PID/fd" -mindepth 1 2>/dev/null | wc -l
}
evicted_run fill_verify 2 1
live_idle
fds=$(agent_fds)

serve_start 16
bounded 90 "$WORKLOADS/hostile_peer" "$USWAP_SOCKET" >"$DIR/hostile.out" 2>&1 &
hostile=$!
rounds=0
while kill -0 $hostile 2>/dev/null; do
	[ "$(ask "$SERVED" verify)" = 4096 ] || fail "verify beside a hostile peer"
	[ "$(ask "$SERVED" change)" -gt 0 ] || fail "change beside a hostile peer"
	kill -0 "$AGENT_PID" 2>/dev/null || fail "the agent has ended: $(cat "$DIR/hostile.out")"
	timeout $((5 * FACTOR)) "$CTL" stats >/dev/null ||
		fail "no answer to stats beside a hostile peer: $(cat "$DIR/hostile.out")"
	rounds=$((rounds + 1))
done
wait $hostile || fail "hostile peer: $(cat "$DIR/hostile.out")"
cat "$DIR/hostile.out"
say "$rounds rounds of another program verified meanwhile"

# as another user, who can't even see our processes' memory
if [ -n "$(type -P setpriv)" ]; then
	bounded 90 setpriv --reuid=65534 --regid=65534 --clear-groups \
		"$WORKLOADS/hostile_peer" "$USWAP_SOCKET" >"$DIR/hostile2.out" 2>&1 ||
		fail "hostile peer of another user: $(cat "$DIR/hostile2.out")"
fi
[ "$(ask "$SERVED" verify)" = 4096 ] || fail "verify afterwards"
serve_stop "$SERVED"
evicted_run fill_verify 2 1
live_idle
few_fds() {
	[ "$(agent_fds)" -le $((fds + 8)) ]
}
wait_until 10 "descriptors to be closed: $(agent_fds) instead of $fds" few_fds
live_end
