#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# All kinds of programs at once on one agent, round after round, and between two
# rounds the agent must have given everything up. One round, or as many as
# SOAK_MINUTES have room for (`make soak').
# shellcheck source=tests/live/lib.sh
. "${srcdir:-.}/tests/live/lib.sh"

end=$((SECONDS + ${SOAK_MINUTES:-0} * 60))
round=0

part mixed || exit 0
live_begin
agent_start
while :; do
	round=$((round + 1))
	evicted_crowd "fork_verify 3" "spawn_verify 1" "sandbox_verify" "alone_verify" "mremap_verify 4" "madvise_verify --free 5" \
		"madvise_verify 4" "munmap_verify 4" "threads_churn 3" "many_verify grow 600"
	live_idle
	[ $SECONDS -lt $end ] || break
	evicted_crowd "malloc_verify 10 4" "threads_verify 10 8" "exec_verify 1" "syscall_verify 2" \
		"many_verify huge 4" "many_verify maps 30000" "many_verify threads 300" "fill_verify 64 2"
	live_idle
	say "round $round: metadata $(total metadata_bytes) bytes, store $(total store_used_bytes)"
done
say "$round rounds"
live_end
