#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# crash-soak.sh [KILLS]: as test_crash.sh, at random, until the worker (and each
# third time the keeper with it) was killed so often, 1000 if nothing is said.
# `make crash-soak' runs it; it is no part of `make check'.
# shellcheck source=tests/live/crash.sh
. "${srcdir:-.}/tests/live/crash.sh"

want=${1:-1000}
crash_begin
serve_start 16
one=$SERVED
fds() { find "/proc/$(worker)/fd" -mindepth 1 2>/dev/null | wc -l; }
before=$(fds)
anybody() { [ "$(total processes_count)" -gt 1 ]; }
worst=0
while [ $KILLS -lt "$want" ]; do
	for name in "fill_verify 8 1" "fork_verify 2" "threads_verify 4 4" "mremap_verify 4" "munmap_verify 4" "madvise_verify 4" "malloc_verify 4"; do
		# shellcheck disable=SC2086
		bounded 120 env "LD_PRELOAD=$LIB" "$WORKLOADS/"$name >"$DIR/soak.out" 2>&1 &
		pid=$!
		wait_until 20 "$name to attach" anybody
		crash_while $pid kill_worker kill_worker kill_both
		wait $pid || fail "$name after $KILLS kills: $(cat "$DIR/soak.out")"
		begin=$(date +%s%N)
		[ "$(ask "$one" verify)" = 4096 ] || fail "verify after $KILLS kills"
		took=$((($(date +%s%N) - begin) / 1000000))
		[ $took -le $worst ] || worst=$took
	done
	say "$KILLS kills, all right so far; a look at all of 16 MiB took $worst ms at most"
done
serve_stop "$one"
wait_until 20 "the agent to listen" agent_up
live_idle
few_fds() { [ "$(fds)" -le $((before + 6)) ]; }
wait_until 20 "descriptors to be closed: $(fds) instead of $before" few_fds
agent_stop
say "passed, $KILLS kills"
