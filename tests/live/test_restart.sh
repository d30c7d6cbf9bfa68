#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The agent is started again, with its descriptors from the service manager, while
# programs have pages with it, and something is not as before: other stores, more
# fault threads, a key that can't be read. All pages are right, and what can't be
# done is said.
# shellcheck source=tests/live/crash.sh
. "${srcdir:-.}/tests/live/crash.sh"
# shellcheck source=tests/live/tiers.sh
. "${srcdir:-.}/tests/live/tiers.sh"

# config STORES [THREADS]
config() {
	{
		printf '[Agent]\nFaultThreads=%s\n' "${2:-1}"
		agent_config | sed "s|^\[Store\]|&\n${1//$'\n'/\\n}\nKeyFile=$STORE/key|"
	} >"$DIR/uswap.conf"
}

restart() {
	local old

	old=$(keeper)
	kill_both
	is_new() { [ "$(keeper)" != "$old" ]; }
	wait_until 30 "another agent" is_new
	wait_until 20 "the agent to listen" agent_up
}

in_file() { tier_has 1 100000; }

STORE=$(mktemp -d /var/tmp/uswap-restart.XXXXXX)
trap 'rm -rf "$STORE"' EXIT
mkdir "$STORE/a" "$STORE/b"
(umask 077 && head -c 32 /dev/urandom >"$STORE/key")
live_begin
store_end() { rm -rf "$STORE"; }
AT_END=store_end
# shellcheck disable=SC2034
AGENT_STORES=()
file_a="Store=file:$STORE/a,size=256M"
file_b="Store=file:$STORE/b,size=128M"
memory=Store=memory:64M
config "$memory"$'\n'"$file_a"
crash_start

check() {
	[ "$(ask "$SERVED" verify)" = 4096 ] || fail "verify: $*"
	say "$*: all of them right"
}
serve_start 16
wait_until 40 "pages to reach the file" in_file
restart
check "a restart"

wait_until 40 "pages to reach the file" in_file
config "$memory"$'\n'"$file_b"$'\n'"$file_a"
restart
grep -q "Store=.* stays in force" "$DIR/agent.log" || fail "nothing is said of another Store="
check "another Store="

# whatever is kept anew is kept by the service manager as well
config "$memory"$'\n'"$file_a" 3
restart
serve_one=$SERVED
serve_start 1 # the first thread's
serve_zero=$SERVED
serve_start 4
serve_two=$SERVED
wait_until 40 "pages to leave" absent_at_least "$serve_two" 50
restart
[ "$(ask "$serve_two" verify)" = 1024 ] || fail "verify of one that came to another fault thread"
SERVED=$serve_one
check "more fault threads"

# one that can't take over leaves everything to the next try
wait_until 40 "pages to reach the file" in_file
mv "$STORE/key" "$STORE/key.away"
kill_worker
is_tried() { [ "$(grep -c 'trying again' "$DIR/agent.log")" -ge 2 ]; }
wait_until 20 "a worker that can't start" is_tried
mv "$STORE/key.away" "$STORE/key"
wait_until 40 "the agent to listen" agent_up
check "a key that could not be read for a while"

# a store whose directory is elsewhere by now is open still
wait_until 40 "pages to reach the file" in_file
mv "$STORE/a" "$STORE/away"
restart
check "a directory that is not there any more"
mv "$STORE/away" "$STORE/a"

serve_stop "$serve_one"
serve_stop "$serve_zero"
serve_stop "$serve_two"
crash_end
# while none is attached another Store= is taken as it stands: less memory, and the same file,
# which the agent before has, called otherwise
config "Store=memory:32M"$'\n'"Store=file:$STORE/a/,size=32M"
: >"$DIR/agent.log"
restart
! grep -q "stays in force" "$DIR/agent.log" || fail "the old Store= is in force, though nothing is in it"
[ "$(tier 0 capacity_bytes) $(tier 1 capacity_bytes)" = "$((32 << 20)) $((32 << 20))" ] || fail "$("$CTL" --json stats)"
serve_start 16
wait_until 40 "pages to reach the file" in_file
restart
check "a restart after that"
serve_stop "$SERVED"
agent_stop
say passed
