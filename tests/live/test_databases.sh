#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# PostgreSQL and memcached under continuous eviction: transactions add up, a
# crash is recovered from, every value is the one that was set.
# shellcheck source=tests/live/lib.sh
. "${srcdir:-.}/tests/live/lib.sh"

PG_BIN=$(find /usr/lib/postgresql/*/bin -maxdepth 0 2>/dev/null | sort -V | tail -n 1)

NOBODY=(setpriv --reuid 65534 --regid 65534 --clear-groups)

# ---- PostgreSQL ----

sql() {
	"${NOBODY[@]}" "$PG_BIN/psql" -XAtq -h "$DIR/pg" -U postgres -v ON_ERROR_STOP=1 "$@"
}

postgres_answers() {
	sql -c "SELECT 1" postgres >/dev/null 2>&1
}

postgres_start() {
	"${NOBODY[@]}" env "LD_PRELOAD=$LIB" "$PG_BIN/postgres" -D "$DIR/pg/data" -k "$DIR/pg" \
		-c listen_addresses= -c shared_buffers=16MB -c work_mem=16MB \
		>>"$DIR/pg/log" 2>&1 </dev/null &
	PG_PID=$!
	wait_until 60 "PostgreSQL to answer" postgres_answers
}

# postgres_stop SIGNAL STATUS
postgres_stop() {
	local status=0

	kill "-$1" "$PG_PID"
	wait_until 60 "PostgreSQL to end" peer_gone "$PG_PID"
	wait "$PG_PID" || status=$?
	[ $status -eq "$2" ] || fail "postgres ended with $status: $(tail -n 20 "$DIR/pg/log")"
}

write_queries() {
	cat <<-'END'
		CREATE TABLE t AS SELECT i AS id, md5(i::text) AS a, i * 7919 % 10007 AS b
			FROM generate_series(1, 20000) i;
		CREATE INDEX ON t (b);
		ANALYZE t;
		SELECT count(*), sum(b), min(a), max(a) FROM t;
		SELECT md5(string_agg(a, ',' ORDER BY b, id)) FROM t WHERE id % 3 = 0;
		SELECT b % 50 AS g, count(*), avg(id)::numeric(12, 3) FROM t GROUP BY g ORDER BY g;
		SELECT pg_sleep(0.3);
		SELECT count(*) FROM t x JOIN t y ON x.b = y.b AND x.id < y.id;
		UPDATE t SET a = reverse(a) WHERE b < 2000;
		DELETE FROM t WHERE b % 11 = 0;
		SELECT md5(string_agg(a || b, ',' ORDER BY id)) FROM t;
	END
}

balances() {
	sql bench -c "SELECT (SELECT sum(abalance) FROM pgbench_accounts),
		(SELECT sum(tbalance) FROM pgbench_tellers), (SELECT sum(bbalance) FROM pgbench_branches),
		(SELECT coalesce(sum(delta), 0) FROM pgbench_history),
		(SELECT count(*) FROM pgbench_history)"
}

# balanced COUNT: the four sums are one, of so many transactions (-: any).
balanced() {
	local a t b h n

	IFS='|' read -r a t b h n <<<"$(balances)"
	[ "$a $a $a" = "$t $b $h" ] || fail "pgbench: balances $a, $t, $b, history $h"
	[ "$1" = - ] || [ "$n" = "$1" ] || fail "pgbench: $n transactions instead of $1"
	say "pgbench: $n transactions, balances all $a"
}

postgresql() {
	if [ -z "$PG_BIN" ]; then
		absent "no PostgreSQL here"
		return
	fi
	mkdir "$DIR/pg"
	chown 65534:65534 "$DIR/pg"
	evicted_command 120 "${NOBODY[@]}" \
		"$PG_BIN/initdb" -D "$DIR/pg/data" -A trust -U postgres -E UTF8 --locale=C.UTF-8 -N \
		>"$DIR/initdb.log" 2>&1 || fail "initdb: status $?: $(tail -n 20 "$DIR/initdb.log")"
	postgres_start
	sql postgres -c "CREATE DATABASE plain" -c "CREATE DATABASE bench"
	write_queries >"$DIR/queries.sql"
	sql plain -f "$DIR/queries.sql" >"$DIR/answers" || fail "psql: status $?"
	"${NOBODY[@]}" "$PG_BIN/pgbench" -i -q -s 1 -h "$DIR/pg" -U postgres bench >"$DIR/pgbench.log" 2>&1 ||
		fail "pgbench -i: $(tail -n 5 "$DIR/pgbench.log")"
	evicted_command 90 "${NOBODY[@]}" \
		"$PG_BIN/pgbench" -n -c 3 -j 2 -t 80 -h "$DIR/pg" -U postgres bench \
		>"$DIR/pgbench.log" 2>&1 || fail "pgbench: $(tail -n 5 "$DIR/pgbench.log")"
	balanced 240
	postgres_stop QUIT 0 # at once, as in a crash
	postgres_start
	balanced 240
	postgres_stop INT 0
	# the same without us
	"${NOBODY[@]}" "$PG_BIN/postgres" -D "$DIR/pg/data" -k "$DIR/pg" -c listen_addresses= \
		>>"$DIR/pg/log" 2>&1 </dev/null &
	PG_PID=$!
	wait_until 60 "PostgreSQL to answer" postgres_answers
	sql postgres -c "DROP DATABASE plain" -c "CREATE DATABASE plain"
	sql plain -f "$DIR/queries.sql" >"$DIR/answers.plain"
	postgres_stop INT 0
	cmp "$DIR/answers" "$DIR/answers.plain" || fail "PostgreSQL: the answers differ"
	say "PostgreSQL: the same $(wc -c <"$DIR/answers") bytes"
}

# ---- memcached ----

write_memcached() {
	cat <<-'END'
		import hashlib, socket, sys, time

		def value(i, version):
		    seed = b"%d.%d" % (i, version)
		    return (hashlib.sha256(seed).hexdigest().encode() * 20)[:300 + i % 700]

		s = socket.socket(socket.AF_UNIX)
		s.connect(sys.argv[1])
		f = s.makefile("rwb")

		def put(i, version):
		    v = value(i, version)
		    f.write(b"set k%d 0 0 %d noreply\r\n%s\r\n" % (i, len(v), v))

		def get(i):
		    f.write(b"get k%d\r\n" % i)
		    f.flush()
		    head = f.readline()
		    assert head.startswith(b"VALUE"), (i, head)
		    v = f.read(int(head.split()[3]))
		    assert f.readline() + f.readline() == b"\r\nEND\r\n"
		    return v

		N = 8000
		for i in range(N):
		    put(i, 0)
		f.flush()
		for version in (1, 2):
		    time.sleep(1)
		    for i in range(N):
		        assert get(i) == value(i, version - 1), (i, version)
		    for i in range(0, N):
		        put(i, version)
		    f.flush()
		print("memcached: %d values right" % (2 * N))
	END
}

memcached_answers() {
	grep -q " 00010000 .* $DIR/memcached.sock" /proc/net/unix
}

cache() {
	local pid before status=0

	if [ -z "$(type -P memcached)" ]; then
		absent "no memcached here"
		return
	fi
	before=$(total pages_out_total)
	env "LD_PRELOAD=$LIB" memcached -u root -m 64 -s "$DIR/memcached.sock" -t 3 </dev/null \
		>"$DIR/memcached.log" 2>&1 &
	pid=$!
	wait_until 20 "memcached to listen" memcached_answers
	write_memcached >"$DIR/memcached.py"
	bounded 60 python3 "$DIR/memcached.py" "$DIR/memcached.sock" || fail "memcached: status $?"
	[ "$(of_process $pid pages_out_total)" -gt 1000 ] || fail "memcached: hardly a page has left"
	kill -TERM $pid
	wait_until 20 "memcached to end" peer_gone $pid
	wait $pid || status=$?
	[ $status -eq 0 ] || fail "memcached ended with $status: $(tail -n 20 "$DIR/memcached.log")"
	say "memcached: $(($(total pages_out_total) - before)) pages left"
}

live_begin
at_leisure
agent_start
if part memcached; then cache; fi
if part postgresql; then postgresql; fi
live_end
