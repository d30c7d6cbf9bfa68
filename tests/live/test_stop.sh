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
live_end
