#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# uswapctl verify, beside programs that fork, move and drop their memory, in two
# stores: it finds nothing wrong where nothing is. One count of references broken
# in the running agent is found, in words, in JSON and in the exit status.
# shellcheck source=tests/live/lib.sh
. "${srcdir:-.}/tests/live/lib.sh"

# add N: to the count of references of some stored page
add() {
	python3 - "$AGENT_PID" "$@" <<-'END'
		import os, struct, sys
		for fd in os.listdir(f'/proc/{sys.argv[1]}/fd'):
		    path = f'/proc/{sys.argv[1]}/fd/{fd}'
		    try:
		        if not os.readlink(path).startswith('/memfd:uswap-blobs'):
		            continue
		    except FileNotFoundError:
		        continue
		    with open(path, 'r+b', buffering=0) as f:
		        # entries of 24 bytes behind the header: references, chain, location
		        for n in [int(sys.argv[3])] if len(sys.argv) > 3 else range(1, 100000):
		            at = 4096 + 24 * n
		            refs, chain, loc = struct.unpack('<IIQ', os.pread(f.fileno(), 16, at))
		            if loc and 0 < refs < 1000:
		                os.pwrite(f.fileno(), struct.pack('<I', refs + int(sys.argv[2])), at)
		                print(n)
		                sys.exit(0)
		sys.exit('no stored page')
	END
}

# verify STATUS: of uswapctl, its answer in $DIR/verify.json
verify() {
	local status=0

	"$CTL" --json=short verify >"$DIR/verify.json" || status=$?
	[ $status -eq "$1" ] || fail "verify: status $status, $1 expected: $(cat "$DIR/verify.json")"
}

found() {
	jq -er --arg key "$1" '.[$key]' "$DIR/verify.json"
}

live_begin
need_program python3
mkdir "$DIR/store"
AGENT_STORES=(memory:16M "file:$DIR/store,size=256M")
agent_start
serve_start 16
wait_until 30 "most pages to leave" absent_at_least "$SERVED" 80

verify_beside() {
	local n=0 unsettled=0

	while kill -0 "$CROWD" 2>/dev/null; do
		verify 0
		n=$((n + 1))
		unsettled=$((unsettled + $(found unsettled_pages)))
	done
	say "verified $n times beside $*, $unsettled pages in use all the time"
	[ $n -gt 0 ] || fail "vacuous"
	wait "$CROWD" || fail "$*"
}

evicted_crowd "fork_verify 1" "mremap_verify 2" "madvise_verify 1" &
CROWD=$!
verify_beside forks and moves
[ "$(ask "$SERVED" verify)" = $((16 * 256)) ] || fail "verify"
wait_until 30 "most pages to leave again" absent_at_least "$SERVED" 80
verify 0
[ "$(found good_pages)" -gt 500 ] || fail "vacuous: $(cat "$DIR/verify.json")"

one=$(add 1)
verify 1
[ "$(found wrong_references)" = 1 ] || fail "one wrong count: $(cat "$DIR/verify.json")"
status=0
"$CTL" verify >"$DIR/said" || status=$?
[ $status -eq 1 ] || fail "status $status: $(cat "$DIR/said")"
grep -q '^1 have a wrong number of references$' "$DIR/said" || fail "not a word: $(cat "$DIR/said")"
grep -q 'verify: .* 1 counts of references are wrong.*: blob [0-9]* counts' "$DIR/agent.log" ||
	fail "not in the log"
add -1 "$one" >/dev/null
verify 0
serve_stop "$SERVED"
live_end
