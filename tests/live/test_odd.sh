#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# What programs seldom do to memory that has left; and programs that can't take
# part run all the same.
# shellcheck source=tests/live/lib.sh
. "${srcdir:-.}/tests/live/lib.sh"

# A program without a dynamic loader has no use for LD_PRELOAD.
static() {
	local compiler=${CC:-gcc}

	if ! ${compiler%% *} -static -O1 -pthread -D_GNU_SOURCE -o "$DIR/static" \
		"${srcdir:-.}/tests/workloads/fill_verify.c" 2>"$DIR/static.err"; then
		say "no static programs can be made here"
		return
	fi
	bounded 30 env "LD_PRELOAD=$LIB" USWAP_DEBUG=1 "$DIR/static" 4 1 >"$DIR/out" 2>"$DIR/err" ||
		fail "a static program: status $?: $(cat "$DIR/err")"
	[ ! -s "$DIR/err" ] || fail "a static program says $(cat "$DIR/err")"
	say "a static program runs unmanaged"
}

live_begin
agent_start
evicted_run odd_verify named sealed collapse keyed robust rseq vfork_chain fork_in_handler descriptors \
	no_room own_memory
static
live_end
