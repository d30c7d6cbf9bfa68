#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Programs that the agent itself depends on are refused, with the reason, and
# run as without uswap.
# shellcheck source=tests/live/lib.sh
. "${srcdir:-.}/tests/live/lib.sh"

live_begin
agent_config() {
	echo '[Agent]'
	echo 'NeverAttach=dbus-daemon some-daemon'
}
agent_start

# told NAME STATUS: what a program whose file has that name is told, and its status
told() {
	cp "$WORKLOADS/fill_verify" "$DIR/$1"
	bounded 60 env LD_PRELOAD="$LIB" USWAP_DEBUG=1 "$DIR/$1" 1 1 >"$DIR/out" 2>"$DIR/err" ||
		fail "$1: $(cat "$DIR/err")"
}

told some-daemon
grep -q 'NeverAttach=' "$DIR/err" || fail "some-daemon was not told why: $(cat "$DIR/err")"
grep -q 'some-daemon.*NeverAttach=' "$DIR/agent.log" || fail "the agent says nothing of it"
told uswap-agent
grep -q 'NeverAttach=' "$DIR/err" || fail "uswap-agent was served: $(cat "$DIR/err")"
# only the whole name counts
for name in some-daemo some-daemons daemon; do
	told $name
	grep -q 'NeverAttach=' "$DIR/err" && fail "$name was refused: $(cat "$DIR/err")"
done
[ "$(total attach_refused_total)" = 2 ] || fail "$(total attach_refused_total) were refused, not 2"
live_idle
live_end
