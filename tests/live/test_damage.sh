#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# What is kept for the next worker is damaged: the worker that finds it does not
# guess. Pages that are lost are SIGBUS, never other bytes and never a hang; the
# log says whose; other programs go on.
# shellcheck source=tests/live/crash.sh
. "${srcdir:-.}/tests/live/crash.sh"

crash_begin

# damage NAME BYTE FROM: of the kept files whose names begin so, all that has
# memory from FROM on
damage() {
	python3 - "$(keeper)" "$1" "$2" "$3" <<-'END'
		import os
		import sys
		pid, name, byte, start = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
		found = False
		for fd in os.listdir(f'/proc/{pid}/fd'):
		    path = f'/proc/{pid}/fd/{fd}'
		    if os.readlink(path).startswith(f'/memfd:uswap-{name}'):
		        found = True
		        at = start
		        with open(path, 'r+b', buffering=0) as f:
		            end = os.fstat(f.fileno()).st_size
		            while True:
		                try:
		                    at = os.lseek(f.fileno(), at, os.SEEK_DATA)
		                except OSError:
		                    break
		                until = min(os.lseek(f.fileno(), at, os.SEEK_HOLE), end)
		                os.pwrite(f.fileno(), bytes([byte]) * (until - at), at)
		                at = until
		if not found:
		    sys.exit(f'no {name}')
	END
}

# The keeper stops meanwhile: it must not have another worker look before.
round() { # NAME BYTE FROM
	local old log status=0

	serve_start 16
	wait_until 30 "half of the pages to leave" absent_at_least "$SERVED" 50
	log=$(wc -l <"$DIR/agent.log")
	old=$(worker)
	kill -STOP "$(keeper)"
	kill -KILL "$old"
	damage "$@"
	kill -CONT "$(keeper)"
	wait_until 30 "the agent to serve in spite of damage" agent_up
	peer_tell "$SERVED" verify
	wait_until 30 "program $SERVED_PID to end by SIGBUS" peer_gone "$SERVED_PID"
	peer_close "$SERVED"
	tail -n +$((log + 1)) "$DIR/agent.log" >"$DIR/said"
	grep -q "process $SERVED_PID .*SIGBUS" "$DIR/said" || fail "$1: not a word: $(cat "$DIR/said")"
	say "$1 damaged: $(grep -m 1 "process $SERVED_PID .*SIGBUS" "$DIR/said")"
	evicted_run fill_verify 2 1
}

round blobs 255 4096
round slots 170 8192
agent_stop
say passed
