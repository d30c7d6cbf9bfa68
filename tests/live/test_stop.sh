#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The agent is stopped while pages are away: it gives all of them back first,
# the programs go on and are right; a new agent serves new programs.
# shellcheck source=tests/live/lib.sh
. "${srcdir:-.}/tests/live/lib.sh"

live_begin
agent_start
serve_start 48
one=$SERVED
serve_start 16
two=$SERVED
bounded 50 env "LD_PRELOAD=$LIB" "$WORKLOADS/threads_verify" 8 4 &
threads=$!
wait_until 30 "half of the first to leave" absent_at_least "$one" 50
wait_until 30 "half of the second to leave" absent_at_least "$two" 50
say "stopping with $(total evicted_bytes) bytes evicted"
agent_stop
[ "$(ask "$one" absent)" = 0 ] || fail "pages of the first are still away"
[ "$(ask "$two" absent)" = 0 ] || fail "pages of the second are still away"
wait_until 20 "the movers to end: $(movers)" no_movers
[ "$(ask "$one" verify)" = $((48 * 256)) ] || fail "verify after the stop"
[ "$(ask "$two" change)" -gt 0 ] || fail "change after the stop"
wait $threads || fail "threads over the agent's stop: status $?"

# no agent: programs run as if there were no shim
bounded 50 env "LD_PRELOAD=$LIB" "$WORKLOADS/fill_verify" 2 1 || fail "without an agent"
bounded 50 env "LD_PRELOAD=$LIB" "$WORKLOADS/fork_verify" 1 || fail "fork without an agent"

agent_start
evicted_run fill_verify 4 1
[ "$(ask "$one" verify)" = $((48 * 256)) ] || fail "verify beside a new agent"
[ "$(ask "$two" verify)" = $((16 * 256)) ] || fail "verify of the second"
serve_stop "$one"
serve_stop "$two"

# drain: the same by word, answered when all is back
serve_start 32
one=$SERVED
wait_until 30 "half of it to leave" absent_at_least "$one" 50
bounded 60 "$CTL" -b drain >"$DIR/drained" || fail "drain: status $?"
[ "$(cut -d' ' -f1 "$DIR/drained")" -ge $((16 << 20)) ] || fail "drained $(cat "$DIR/drained")"
[ "$(ask "$one" absent)" = 0 ] || fail "pages are away after the drain"
wait_until 20 "the agent to end" peer_gone "$AGENT_PID"
wait "$AGENT_PID" || fail "the agent ended with status $?"
AGENT_PID=
[ "$(ask "$one" verify)" = $((32 * 256)) ] || fail "verify after the drain"
serve_stop "$one"

# no memory for what is out: refused, served on, and begun when there is some
starved=$DIR/meminfo
available() { # KIB; in place, since the file is bound over the kernel's
	sed "s/^MemAvailable:.*/MemAvailable: $1 kB/" /proc/meminfo >"$DIR/meminfo.new"
	cat "$DIR/meminfo.new" >"$starved"
}
available 40000000
real=$AGENT
cat >"$DIR/starved-agent" <<END
#!/bin/sh
exec unshare --mount --propagation private sh -c \
	'mount --bind "$starved" /proc/meminfo && exec "$real" "\$@"' sh "\$@"
END
chmod +x "$DIR/starved-agent"
AGENT=$DIR/starved-agent
agent_start
AGENT=$real
serve_start 32
one=$SERVED
wait_until 30 "half of it to leave" absent_at_least "$one" 50
available 4
status=0
bounded 30 "$CTL" drain >"$DIR/refused" 2>&1 || status=$?
[ $status = 1 ] || fail "drain without memory: status $status, $(cat "$DIR/refused")"
grep -q 'takes .* of memory, and .* are available' "$DIR/refused" || fail "$(cat "$DIR/refused")"
kill -TERM "$AGENT_PID"
said() { grep -q "can't stop yet" "$DIR/agent.log"; }
wait_until 20 "the agent to say that it can't stop" said
evicted_run fill_verify 4 1 # it serves, and takes programs, too
available 40000000
wait_until 60 "the agent to end when there is memory" peer_gone "$AGENT_PID"
wait "$AGENT_PID" || fail "the agent ended with status $?"
AGENT_PID=
[ "$(ask "$one" absent)" = 0 ] || fail "pages are away after the stop"
[ "$(ask "$one" verify)" = $((32 * 256)) ] || fail "verify after the stop"
serve_stop "$one"
say "passed"
