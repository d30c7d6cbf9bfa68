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

keeper() { cat "$DIR/manager/pid"; }
# Not the holder, which is started first and has that name, too, for a moment.
worker() { ! pgrep -P "$(keeper)" -x uswap-holder >/dev/null || pgrep -P "$(keeper)" -x uswap-agent | head -n 1; }

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

# inject POINT PASS [HOW]: the worker that comes there, PASS times not, is killed; HOW as in
# common/inject.h: 1, the keeper before it.
inject() {
	python3 -c 'import struct, sys
with open(sys.argv[1], "r+b") as f:
    f.seek(12)
    f.write(struct.pack("I", int(sys.argv[4])))
    f.flush()
    f.seek(0)
    f.write(struct.pack("II", int(sys.argv[2]), int(sys.argv[3])))' \
		"$DIR/inject" "$(point_number "$1")" "$2" "${3:-0}"
}

inject_hits() {
	od -An -tu4 -j8 -N4 "$DIR/inject" | tr -d ' '
}

inject_is_hit() {
	[ "$(inject_hits)" -gt "$1" ]
}

# inject_is_hit_within SECONDS HITS: false where another try is to be made.
inject_is_hit_within() {
	local k

	for ((k = 0; k < 10 * $1; k++)); do
		! inject_is_hit "$2" || return 0
		sleep 0.1
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
