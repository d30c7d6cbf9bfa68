#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# redis-server under continuous eviction: answers and digests equal those of a
# run without the shim, BGSAVE and the rewrite of the log fork in between, and what
# they write loads the same.
# shellcheck source=tests/live/lib.sh
. "${srcdir:-.}/tests/live/lib.sh"

SERVER=
SERVER_PID=

cli() {
	timeout $((60 * FACTOR)) redis-cli -s "$SERVER/socket" "$@"
}

server_up() {
	kill -0 "$SERVER_PID" 2>/dev/null || fail "redis-server has ended: $(tail "$SERVER/log")"
	[ "$(cli ping 2>/dev/null)" = PONG ]
}

# server_start NAME [COMMAND...]: in a directory of that name, through COMMAND
server_start() {
	SERVER=$DIR/$1
	shift
	mkdir -p "$SERVER"
	setsid "$@" redis-server --port 0 --unixsocket "$SERVER/socket" --dir "$SERVER" \
		--save '' --appendonly "${AOF:-no}" --daemonize no --enable-debug-command local \
		--logfile "$SERVER/log" </dev/null >"$SERVER/out" 2>&1 &
	SERVER_PID=$!
	wait_until 20 "redis-server to answer" server_up
}

server_stop() {
	local status=0

	cli shutdown nosave || fail "shutdown"
	wait $SERVER_PID || status=$?
	[ $status -eq 0 ] || fail "redis-server ended with status $status"
}

# Commands in redis' own words, a line each; always the same.
load_commands() {
	awk 'BEGIN {
		srand(7)
		for (i = 0; i < 12000; i++) {
			name = "user" int(rand() * 100000)
			printf "SET doc:%d \"{'\''id'\'':%d,'\''name'\'':'\''%s'\'',", i, i, name
			printf "'\''mail'\'':'\''%s@example.org'\'',", name
			for (k = 0; k < 12; k++)
				printf "'\''field%d'\'':%d,", k, int(rand() * 1000000)
			printf "'\''active'\'':%s}\"\n", i % 3 ? "true" : "false"
			if (i % 4 == 0)
				printf "RPUSH list:%d %d %s %d\n", i % 200, i, name, i * 7
			if (i % 5 == 0)
				printf "HSET hash:%d %s %d n%d %s\n", i % 300, name, i, i, name
			if (i % 6 == 0)
				printf "ZADD ranked:%d %d %s\n", i % 50, int(rand() * 10000), name
		}
	}'
}

# What clients ask: every order of answers is fixed.
query_commands() {
	awk -v seed="$1" 'BEGIN {
		srand(seed)
		for (i = 0; i < 6000; i++) {
			k = int(rand() * 12000)
			if (i % 7 == 0) printf "LRANGE list:%d 0 40\n", k % 200
			else if (i % 7 == 1) printf "LLEN list:%d\n", k % 50
			else if (i % 7 == 2) printf "HGET hash:%d n%d\n", k % 300, k
			else if (i % 7 == 3) printf "APPEND doc:%d .%d\n", k, i
			else if (i % 7 == 4) printf "ZRANGE ranked:%d 0 20 WITHSCORES\n", k % 50
			else if (i % 7 == 5) printf "SET doc:%d %d\n", k, i * 31
			else printf "GET doc:%d\n", k
		}
	}'
}

saved() {
	cli info persistence | tr -d '\r' | grep -qx 'rdb_bgsave_in_progress:0'
}

save() {
	cli bgsave >/dev/null || fail "bgsave"
	# the parent writes while the child saves
	query_commands 99 | cli >>"$SERVER/answers"
	wait_until 50 "BGSAVE" saved
	cli info persistence | tr -d '\r' | grep -qx 'rdb_last_bgsave_status:ok' ||
		fail "BGSAVE has failed: $(tail "$SERVER/log")"
}

rewritten() {
	cli info persistence | tr -d '\r' | grep -qx 'aof_rewrite_in_progress:0'
}

# The log of all writes begins with what a child writes, beside more writes.
rewrite() {
	cli config set appendonly yes >/dev/null || fail "appendonly"
	query_commands 98 | cli >>"$SERVER/answers"
	wait_until 50 "the rewrite of the log" rewritten
	cli info persistence | tr -d '\r' | grep -qx 'aof_last_bgrewrite_status:ok' ||
		fail "the rewrite of the log has failed: $(tail "$SERVER/log")"
	query_commands 97 | cli >>"$SERVER/answers"
	cli debug digest >"$SERVER/digest.aof"
	cli config set appendonly no >/dev/null || fail "appendonly"
}

# exercise HOOK: the whole life of a server; HOOK runs where pages may leave
exercise() {
	load_commands | cli >"$SERVER/loaded"
	! grep -v '^\(OK\|[0-9]*\)$' "$SERVER/loaded" || fail "loading"
	cli debug populate 40000 filler 200 >/dev/null
	$1
	: >"$SERVER/answers"
	cli debug digest >>"$SERVER/answers"
	$1
	query_commands 1 | cli >>"$SERVER/answers"
	cli debug digest >>"$SERVER/answers"
	$1
	cli debug digest >"$SERVER/digest" # of what the child will save
	save
	rewrite
	{
		cli sort list:8 alpha limit 0 50
		query_commands 2 | cli
		cli debug digest
		cli dbsize
		cli flushall
		cli debug digest
	} >>"$SERVER/answers"
}

# a third of what is resident and evicted together
much_left() {
	local out in

	out=$(of_process $SERVER_PID evicted_bytes)
	in=$(of_process $SERVER_PID resident_bytes)
	[ $((out * 3)) -ge $((out + in)) ]
}

let_leave() {
	wait_until 40 "redis-server's pages to leave" much_left
	say "evicted: $(of_process $SERVER_PID evicted_bytes) bytes of redis-server"
}

live_begin
need_program redis-server redis-cli awk
server_start plain
exercise true
server_stop

# All of it all the time, and a server that is short of processor gets nothing done:
# pages leave as fast as ever, and a digest touches each of them many times.
at_leisure
agent_config | sed 's/^StallBudget=.*/StallBudget=25%/' >"$DIR/uswap.conf"
agent_start
server_start shimmed env "LD_PRELOAD=$LIB"
exercise let_leave
[ "$(of_process $SERVER_PID refaults_total)" -gt 0 ] || fail "vacuous: no page has come back"
server_stop

cmp "$DIR/plain/answers" "$DIR/shimmed/answers" || fail "answers differ"
cmp "$DIR/plain/digest" "$DIR/shimmed/digest" || fail "data differs"
say "$(wc -l <"$DIR/plain/answers") lines of answers are the same"

# what the child wrote is what the parent had when it forked
mkdir "$DIR/loaded"
cp "$DIR/shimmed/dump.rdb" "$DIR/loaded"
server_start loaded
cli debug digest >"$SERVER/digest"
cmp "$DIR/shimmed/digest" "$DIR/loaded/digest" || fail "the saved file differs"
server_stop
mkdir "$DIR/logged"
cp -r "$DIR/shimmed/appendonlydir" "$DIR/logged"
AOF=yes server_start logged
cli debug digest >"$SERVER/digest.aof"
cmp "$DIR/shimmed/digest.aof" "$DIR/logged/digest.aof" || fail "the log says something else"
server_stop
live_end
