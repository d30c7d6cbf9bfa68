#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Real programs under continuous eviction write byte for byte what they write
# without the shim: Python with threads, subprocesses and worker processes,
# SQLite, GCC.
# shellcheck source=tests/live/lib.sh
. "${srcdir:-.}/tests/live/lib.sh"

# compare NAME SECONDS COMMAND...: both runs in a directory each
compare() {
	local name=$1 limit=$2 way status

	shift 2
	for way in plain shimmed; do
		mkdir -p "$DIR/$way/$name"
		status=0
		(
			cd "$DIR/$way/$name"
			if [ $way = plain ]; then
				bounded "$limit" "$@" >out 2>err
			else
				evicted_command "$limit" "$@" >out 2>err
			fi
		) || status=$?
		[ $status -eq 0 ] ||
			fail "$name, $way: status $status: $(tail -n 20 "$DIR/$way/$name/err")"
	done
	rm -f "$DIR/shimmed/$name/err" "$DIR/plain/$name/err"
	diff -r "$DIR/plain/$name" "$DIR/shimmed/$name" >"$DIR/difference" ||
		fail "$name: the output differs: $(head -n 5 "$DIR/difference")"
	say "$name: the same $(cat "$DIR/plain/$name/"* | wc -c) bytes"
}

write_python() {
	cat <<-'END'
		import hashlib, json, multiprocessing, subprocess, sys, threading, time

		def records(seed, n):
		    x = seed
		    for i in range(n):
		        x = (x * 6364136223846793005 + 1442695040888963407) % 2**64
		        yield {"id": i, "key": "%016x" % x, "tags": ["t%d" % (x >> k & 15) for k in (0, 8, 16)]}

		def digest(value):
		    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()

		def worker(seed):
		    return digest(list(records(seed, 1000)))

		def main():
		    kept = {i: list(records(i, 1500)) for i in range(8)}
		    before = {i: digest(v) for i, v in kept.items()}
		    time.sleep(0.5)
		    found = {}
		    def check(i):
		        found[i] = digest(kept[i])
		    threads = [threading.Thread(target=check, args=(i,)) for i in kept]
		    for t in threads: t.start()
		    for t in threads: t.join()
		    assert found == before
		    print(sorted(found.items()))
		    for method in ("fork", "spawn", "forkserver"):
		        with multiprocessing.get_context(method).Pool(3) as pool:
		            print(method, pool.map(worker, range(6)))
		    for i in range(3):
		        done = subprocess.run([sys.executable, "-c", "import sys; d = sys.stdin.read(); print(len(d), hash(d[:99]) % 7)"],
		                              input=json.dumps(kept[i]), text=True, capture_output=True, check=True)
		        print(done.stdout, done.stderr)
		    pipe = subprocess.run("seq 1 20000 | sort -r | head -n 3; exit 3", shell=True, capture_output=True, text=True)
		    print(pipe.returncode, pipe.stdout)
		    blob = bytearray(range(256)) * 40000
		    time.sleep(0.3)
		    print(hashlib.sha256(blob).hexdigest(), {i: digest(v) for i, v in kept.items()} == before)

		if __name__ == "__main__":
		    main()
	END
}

write_sql() {
	cat <<-'END'
		PRAGMA journal_mode = MEMORY;
		PRAGMA temp_store = MEMORY;
		PRAGMA cache_size = -65536;
		ATTACH ':memory:' AS m;
		CREATE TABLE m.t (id INTEGER PRIMARY KEY, a TEXT, b INTEGER, c BLOB);
		WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000)
		INSERT INTO m.t SELECT i, printf('name-%07d-%x', i * 7919 % 120011, i), i * 104729 % 65537,
			zeroblob(i % 64) FROM n;
		CREATE INDEX m.by_a ON t (a);
		SELECT count(*), sum(b), min(a), max(a) FROM m.t;
		CREATE TABLE disk AS SELECT * FROM m.t WHERE b % 3 = 0 ORDER BY a DESC;
		UPDATE m.t SET a = a || '-' || b WHERE id % 5 = 0;
		DELETE FROM m.t WHERE b % 7 = 0;
		SELECT a, b FROM m.t ORDER BY b, a LIMIT 200;
		SELECT b % 100 AS g, count(*), avg(id), group_concat(substr(a, 1, 12)) FROM m.t
			WHERE id < 20000 GROUP BY g ORDER BY g;
		SELECT count(*) FROM m.t x JOIN disk y ON x.id = y.id WHERE x.a > y.a;
		PRAGMA m.integrity_check;
		PRAGMA integrity_check;
	END
}

# The mover of a program that does nothing looks after it seldom, and does nothing else.
mover_sleeps() {
	local mover age wakes

	mover=$(movers)
	age=$(ps -o etimes= -p "$mover")
	wakes=$(awk '/^voluntary/ { print $2 }' "/proc/$mover/status")
	say "an idle program's mover: woken $wakes times in $((age)) s"
	[ "$wakes" -le $((age * 3 + 100)) ] || fail "it does not sleep"
}

live_begin
at_leisure
agent_start
# shellcheck disable=SC2016
peer_start env "LD_PRELOAD=$LIB" sh -c 'echo "ready $$"; read -r line'
source_dir=$(realpath "${srcdir:-.}/tests/workloads")
compiler=${CC:-gcc}
compiler=${compiler#ccache } # of which nothing might run
compiler=${compiler%% *}

if [ -n "$(real_python)" ]; then
	write_python >"$DIR/script.py"
	export PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE=1
	compare python 50 "$(real_python)" "$DIR/script.py"
else
	absent "no python3 here"
fi
if [ -n "$(type -P sqlite3)" ]; then
	write_sql >"$DIR/script.sql"
	compare sqlite 50 sqlite3 -batch -init /dev/null data.db ".read $DIR/script.sql"
else
	absent "no sqlite3 here"
fi
if [ -n "$(type -P "$compiler")" ]; then
	cat >"$DIR/build.sh" <<-END
		set -e
		for f in fork_verify syscall_verify; do
			$compiler -D_GNU_SOURCE -std=gnu11 -O2 -Wall -pthread \
				-c -o \$f.o "$source_dir/\$f.c"
		done
		$compiler -D_GNU_SOURCE -std=gnu11 -O2 -pthread -o fill_verify "$source_dir/fill_verify.c"
		./fill_verify 1 1 >/dev/null
	END
	compare compiler 50 bash "$DIR/build.sh"
else
	absent "no compiler here"
fi
mover_sleeps
peer_close "$PEER"
live_end
