# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
# shellcheck source=tests/live/lib.sh
. "${srcdir:-.}/tests/live/lib.sh"
# shellcheck source=tests/live/points.sh
. "${srcdir:-.}/tests/live/points.sh"

# Killing the agent while programs run under it, for test_crash.sh and
# crash-soak.sh. The agent is started under tests/live/manager.py, which keeps
# its descriptors; AGENT_PID is the manager then, and ends as the agent does.

crash_begin() {
	live_begin
	crash_start
}

crash_start() {
	need_program python3
	mkdir "$DIR/manager"
	head -c 4096 /dev/zero >"$DIR/inject"
	export USWAP_INJECT=$DIR/inject
	[ -e "$DIR/uswap.conf" ] || agent_config >"$DIR/uswap.conf"
	python3 "${srcdir:-.}/tests/live/manager.py" "$DIR/manager" "$AGENT" \
		--config "$DIR/uswap.conf" --socket "$USWAP_SOCKET" --bus-address none \
		"${AGENT_STORES[@]/#/--store=}" --foreground >>"$DIR/agent.log" 2>&1 &
	AGENT_PID=$!
	wait_until 20 "the agent to listen" agent_up
}

# What is asked all the time is asked without a process.
keeper() { echo "$(<"$DIR/manager/pid")"; }
# Not the holder, which is started first and has that name, too, for a moment.
worker() {
	local main pid pids=() name held='' found=''

	main=$(keeper)
	{ read -r -a pids <"/proc/$main/task/$main/children"; } 2>/dev/null || : # no end of line there
	for pid in "${pids[@]}"; do
		{ read -r name <"/proc/$pid/comm"; } 2>/dev/null || continue
		case $name in
		uswap-holder) held=yes ;;
		uswap-agent) found=${found:-$pid} ;;
		esac
	done
	[ -z "$held" ] || echo "$found"
}

kill_worker() {
	local pid

	pid=$(worker)
	[ -z "$pid" ] || kill -KILL "$pid" 2>/dev/null || true
}

# Both at once, the keeper first: it must not start another one.
kill_both() {
	local one two

	one=$(keeper)
	two=$(worker)
	# shellcheck disable=SC2086
	kill -KILL "$one" $two 2>/dev/null || true
}

# next_word FD: the four bytes that stand there, as a number.
next_word() {
	local LC_ALL=C byte i n=0

	for i in 0 8 16 24; do
		IFS= read -r -d '' -n 1 -u "$1" byte || :
		printf -v byte %d "'$byte"
		n=$((n | (byte & 255) << i))
	done
	echo $n
}

inject_hits() {
	local file

	exec {file}<"$DIR/inject"
	{ next_word $file; next_word $file; } >/dev/null
	next_word $file
	exec {file}<&-
}

# inject POINT PASS [HOW]: the worker that comes there, PASS times not, is killed; HOW as in
# common/inject.h: 1, the keeper before it.
inject() {
	local file point pass how

	printf -v point '\\0%o' "$(point_number "$1")"
	printf -v pass '\\0%o' "$2"
	printf -v how '\\0%o' "${3:-0}"
	exec {file}<>"$DIR/inject"
	{ next_word $file; next_word $file; next_word $file; } >/dev/null
	printf '%b\0\0\0' "$how" >&$file
	exec {file}>&-
	printf '%b\0\0\0%b\0\0\0' "$point" "$pass" 1<>"$DIR/inject"
}

inject_is_hit() {
	[ "$(inject_hits)" -gt "$1" ]
}

# inject_is_hit_within SECONDS HITS: false where another try is to be made.
inject_is_hit_within() {
	local k

	for ((k = 0; k < 10 * $1; k++)); do
		! inject_is_hit "$2" || return 0
		nap 0.1
	done
	return 1
}

# How often something was killed at random.
KILLS=0

# A worker before may have left more than it should have.
crash_end() {
	wait_until 20 "the agent to listen" agent_up
	live_idle
}
