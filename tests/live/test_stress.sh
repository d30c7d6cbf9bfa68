#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# stress-ng with --verify under continuous eviction: its memory stressors, all
# methods of vm among them. SOAK_SECONDS is how long each of them runs.
# shellcheck source=tests/live/lib.sh
. "${srcdir:-.}/tests/live/lib.sh"

seconds=${SOAK_SECONDS:-1}

# stress SECONDS STRESSOR [ARG...]: it verifies, so its status tells. Signals
# as from a shell in front: what a shell starts in the background ignores two.
stress() {
	local limit=$1 name=$2 before status=0

	shift 2
	OUT=0
	part "$name" || return 0
	before=$(total pages_out_total)
	bounded $((limit + 60)) env --default-signal=INT,QUIT "LD_PRELOAD=$LIB" \
		stress-ng --quiet --verify --timeout "$limit" "--$name" "$@" >"$DIR/stress.log" 2>&1 || status=$?
	[ $status -eq 0 ] || fail "stress-ng --$name $*: status $status: $(tail -n 20 "$DIR/stress.log")"
	kill -0 "$AGENT_PID" 2>/dev/null || fail "the agent has ended during stress-ng --$name"
	OUT=$(($(total pages_out_total) - before))
	say "stress-ng --$name $*: ok, $OUT pages left"
	live_idle
}

need_program stress-ng
live_begin
agent_start
for one in "vm 1 --vm-bytes 48m --vm-method all" "vm 2 --vm-bytes 32m --vm-keep" \
	"mmap 1 --mmap-bytes 16m" "mremap 1 --mremap-bytes 16m" "malloc 1 --malloc-bytes 16m" \
	"vm-rw 1 --vm-rw-bytes 16m" "bigheap 1 --bigheap-growth 4m" "madvise 1"; do
	# shellcheck disable=SC2086
	stress $((seconds + 1)) $one
	# "madvise" works on what may not leave; the rest must have seen it
	[ "$OUT" -gt 0 ] || [[ $one == madvise* ]] || ! part "${one%% *}" || fail "vacuous, no page has left: $one"
done
# not so much about time as those: several at once, where it is not for long
for group in "brk 1,fork 2,vfork 2,clone 2,stack 1" "mlock 1,userfaultfd 1,mprotect 1,sigsegv 1,remap 1" \
	"memfd 1,shm 1,zombie 1,daemon 1,exec 1"; do
	if [ -z "${SOAK_SECONDS:-}" ]; then
		each=("${group//,/ --}")
	else
		IFS=, read -r -a each <<<"$group"
	fi
	for one in "${each[@]}"; do
		# shellcheck disable=SC2086
		stress $((seconds + 1)) $one
	done
done
live_end
