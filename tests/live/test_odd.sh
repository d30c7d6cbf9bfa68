#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# What programs seldom do to memory that has left; and programs that can't take
# part run all the same.
# shellcheck source=tests/live/lib.sh
. "${srcdir:-.}/tests/live/lib.sh"

# Built with the address sanitizer: it reserves terabytes, and wants to be the first
# library (libuswap(7)).
sanitized() {
	local compiler=${CC:-gcc}

	# shellcheck disable=SC2086
	if ! $compiler -fsanitize=address -O1 -pthread -D_GNU_SOURCE -o "$DIR/sanitized" \
		"${srcdir:-.}/tests/workloads/malloc_verify.c" 2>"$DIR/sanitized.err"; then
		absent "no sanitizer here: $(head -n 1 "$DIR/sanitized.err")"
		return
	fi
	evicted_command 60 env ASAN_OPTIONS=verify_asan_link_order=0 WORKLOAD_EVICT=1 "$DIR/sanitized" 1 2 ||
		fail "a program with the address sanitizer: status $?"
}

# A program without a dynamic loader has no use for LD_PRELOAD.
static() {
	local compiler=${CC:-gcc}

	# shellcheck disable=SC2086
	if ! $compiler -static -O1 -pthread -D_GNU_SOURCE -o "$DIR/static" \
		"${srcdir:-.}/tests/workloads/fill_verify.c" 2>"$DIR/static.err"; then
		absent "no static programs can be made here: $(head -n 1 "$DIR/static.err")"
		return
	fi
	bounded 30 env "LD_PRELOAD=$LIB" USWAP_DEBUG=1 "$DIR/static" 4 1 >"$DIR/out" 2>"$DIR/err" ||
		fail "a static program: status $?: $(cat "$DIR/err")"
	[ ! -s "$DIR/err" ] || fail "a static program says $(cat "$DIR/err")"
	say "a static program runs unmanaged"
}

# For a debugger: all of it comes back and stays, until it may leave again.
looked_at() {
	serve_start 8
	wait_until 30 "pages to leave" absent_at_least "$SERVED" 80
	"$CTL" disable "$SERVED_PID" || fail "disable: status $?"
	"$CTL" restore "$SERVED_PID" >/dev/null || fail "restore: status $?"
	sleep 0.5
	[ "$(ask "$SERVED" absent)" = 0 ] || fail "$(ask "$SERVED" absent) pages have left a program that is disabled"
	[ "$(of_process "$SERVED_PID" registered_bytes)" = 0 ] || fail "something is still registered"
	"$CTL" enable "$SERVED_PID" || fail "enable: status $?"
	wait_until 30 "pages to leave again" absent_at_least "$SERVED" 80
	"$CTL" disable --all || fail "disable --all: status $?"
	"$CTL" restore --all >/dev/null || fail "restore --all: status $?"
	sleep 0.3
	[ "$(ask "$SERVED" absent)" = 0 ] || fail "pages have left with the agent disabled"
	"$CTL" enable --all || fail "enable --all: status $?"
	[ "$(ask "$SERVED" verify)" = $((8 * 256)) ] || fail "verify"
	serve_stop "$SERVED"
	say "a program that is looked at is all there"
}

# The kernel asks nobody when it writes a core file: holes are where pages were away.
dumped() {
	local way size=()

	if [ "$(cat /proc/sys/kernel/core_{pattern,uses_pid} | xargs)" != "core 0" ] || ! (ulimit -c unlimited) 2>/dev/null; then
		say "no core files here"
		return
	fi
	mkdir "$DIR/cores"
	for way in away back; do
		# shellcheck disable=SC2016
		serve_start 8 env -C "$DIR/cores" sh -c 'ulimit -c unlimited && exec "$@"' -
		wait_until 30 "pages to leave" absent_at_least "$SERVED" 80
		if [ $way = back ]; then
			"$CTL" disable "$SERVED_PID" || fail "disable: status $?"
			"$CTL" restore "$SERVED_PID" >/dev/null || fail "restore: status $?"
		fi
		kill -SEGV "$SERVED_PID"
		peer_close "$SERVED"
		size+=("$(du -k "$DIR/cores/core" | cut -f 1)")
		rm "$DIR/cores/core"
	done
	[ "${size[0]}" -lt $((8 << 10)) ] || fail "a core file of ${size[0]} KiB although pages are away"
	[ "${size[1]}" -ge $((8 << 10)) ] || fail "a core file of ${size[1]} KiB although all is back"
	say "a core file has what is there"
}

# As by kill(-1, SIGKILL) from a user's last process: what is away is not lost.
killed_mover() {
	serve_start 8
	wait_until 30 "pages to leave" absent_at_least "$SERVED" 80
	# shellcheck disable=SC2046
	kill -KILL $(movers)
	[ "$(ask "$SERVED" verify)" = $((8 * 256)) ] || fail "verify after the mover's death"
	[ "$(ask "$SERVED" change)" -gt 0 ] || fail "nothing can be changed after the mover's death"
	[ "$(ask "$SERVED" verify)" = $((8 * 256)) ] || fail "verify after a change"
	serve_stop "$SERVED"
	say "a mover was killed, nothing is lost"
}

live_begin
agent_start
evicted_run odd_verify
static
sanitized
looked_at
dumped
killed_mover
live_end
