#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# crash-soak.sh [KILLS]: the worker, and each third time the keeper with it, is killed
# at random so often, 1000 times if nothing is said, under several programs at once that
# check all they have: redis-server, Python, families of processes, threads, changes of
# mappings, compilers where there are many kills. Most of what is away is in a file, or
# what CRASH_STORES names behind memory.
# `make crash-soak' runs it; tests/live/test_crash_soak.sh does with few kills.
# shellcheck source=tests/live/crash.sh
. "${srcdir:-.}/tests/live/crash.sh"
# shellcheck source=tests/live/storm.sh
. "${srcdir:-.}/tests/live/storm.sh"

want=${1:-1000}
here=${srcdir:-.}/tests/live
STORE=
storms=()
redis=
# The storms first, so that they start nothing more; the store last, so that nobody writes
# there any more. redis-server writes its title over its environment.
cleanup() { # with status
	set +e
	rm -f "$DIR/storming"
	[ ${#storms[@]} -eq 0 ] || kill "${storms[@]}" 2>/dev/null
	(exit "$status")
	(live_cleanup)
	# shellcheck disable=SC2046
	[ -z "$redis" ] || kill -KILL "$redis" $(pgrep -s "$redis") 2>/dev/null
	rm -rf "$STORE"
}
fds() { find "/proc/$(worker)/fd" -mindepth 1 2>/dev/null | wc -l; }
# Whatever the programs of a storm have to say goes where the test can see it.
note() { echo "$*" >>"$DIR/failed"; }

verifying() { # NAME ARG...: one after another until the end
	local status

	while [ -e "$DIR/storming" ]; do
		status=0
		(bounded 120 env "LD_PRELOAD=$LIB" WORKLOAD_EVICT=managed "WORKLOAD_NOTE=$DIR/managed" \
			"$WORKLOADS/$1" "${@:2}") >"$DIR/$1.out" 2>&1 || status=$?
		[ $status -eq 0 ] || note "$*: status $status: $(tail -n 5 "$DIR/$1.out")"
		echo . >>"$DIR/rounds"
	done
}

python_storm() {
	local status=0

	(bounded 3000 env "LD_PRELOAD=$LIB" "$(real_python)" "$here/storm.py" "$DIR/storming") >"$DIR/python.out" 2>&1 || status=$?
	[ $status -eq 0 ] || note "python: status $status: $(tail -n 5 "$DIR/python.out")"
}

redis_start() {
	mkdir "$DIR/redis"
	setsid env "LD_PRELOAD=$LIB" redis-server --port 0 --unixsocket "$REDIS" --dir "$DIR/redis" --save '' \
		--appendonly no --daemonize no --enable-debug-command local --logfile "$DIR/redis/log" \
		</dev/null >/dev/null 2>&1 &
	redis=$!
	wait_until 30 "redis-server to answer" redis_up
	redis_fill
}

write_c() {
	awk 'BEGIN { for (i = 0; i < 600; i++) {
		printf "static int t%d[64];\nint f%d(int a, int b)\n{\n\tint i, s = %d;\n", i, i, i
		printf "\tfor (i = 0; i < 64; i++) {\n\t\tt%d[i] += a * i + (b ^ s);\n", i
		printf "\t\ts += t%d[(i * %d) & 63] > a ? a - i : b + i * %d;\n\t}\n", i, i * 2 + 1, i
		print "\treturn s;\n}" } }'
}

# The same program again and again: each compiler attaches, has pages away, and ends.
compile_storm() {
	local want now n=0

	write_c >"$DIR/big.c"
	want=$(gcc -O2 -S -o - "$DIR/big.c" | cksum)
	while [ -e "$DIR/storming" ]; do
		now=$(bounded 300 env "LD_PRELOAD=$LIB" gcc -O2 -S -o - "$DIR/big.c" | cksum) || note "gcc: status $?"
		[ "$now" = "$want" ] || note "gcc: $now instead of $want"
		n=$((n + 1))
	done
	echo ", $n runs of gcc" >"$DIR/gcc.out"
}

# ---- begin ----
live_begin
STORE=$(mktemp -d /var/tmp/uswap-crash.XXXXXX)
trap 'status=$?; cleanup; exit $status' EXIT
read -r -a AGENT_STORES <<<"${CRASH_STORES:-memory:64M file:$STORE,size=1G}"
# Less eager than other tests: seven programs want to get somewhere.
{ printf '[Store]\nMoveDownSec=0.2\n'; agent_config | sed 's/^\(ScanSec\|GraceSec\)=.*/\1=0.2/'; } >"$DIR/uswap.conf"
crash_start
REDIS=$DIR/redis.sock
touch "$DIR/storming" "$DIR/failed" "$DIR/rounds" "$DIR/managed"
serve_start 16
one=$SERVED
have_redis=
if command -v redis-server >/dev/null && command -v redis-cli >/dev/null; then
	have_redis=yes
	redis_start
	redis_storm "$DIR/storming" >"$DIR/redis.out" &
	storms+=($!)
else
	[ "${USWAP_REQUIRE:-0}" != 1 ] || fail "redis-server is not installed"
fi
python_storm &
storms+=($!)
if [ "$want" -ge 100 ] && command -v gcc >/dev/null; then
	compile_storm &
	storms+=($!)
fi
verifying fork_verify 2 &
storms+=($!)
verifying threads_verify 3 4 &
storms+=($!)
verifying mremap_verify 2 &
storms+=($!)
verifying madvise_verify 2 &
storms+=($!)
before=$(fds)

# ---- kills ----
worst=0
both=0
while [ $KILLS -lt "$want" ]; do
	sleep "0.$((RANDOM % 4 + 1))$((RANDOM % 10))"
	if [ $((KILLS % 3)) -eq 2 ]; then
		kill_both
		both=$((both + 1))
	else
		kill_worker
	fi
	KILLS=$((KILLS + 1))
	[ ! -s "$DIR/failed" ] || fail "after $KILLS kills: $(cat "$DIR/failed")"
	[ $((KILLS % 5)) -eq 0 ] || continue
	begin=$(date +%s%N)
	[ "$(ask "$one" verify)" = 4096 ] || fail "verify after $KILLS kills"
	took=$((($(date +%s%N) - begin) / 1000000))
	[ $took -le $worst ] || worst=$took
	[ $((KILLS % 100)) -ne 0 ] || say "$KILLS kills, all right so far"
done

# ---- nothing wrong, nothing left ----
rm "$DIR/storming"
for pid in "${storms[@]}"; do
	wait "$pid" || note "a storm ended with $?"
done
[ ! -s "$DIR/failed" ] || fail "$(cat "$DIR/failed")"
# A program that starts while there is no agent runs unmanaged, and is right to.
managed=$(grep -cx managed "$DIR/managed" || true)
unmanaged=$(grep -cx unmanaged "$DIR/managed" || true)
[ "$managed" -gt "$unmanaged" ] || fail "vacuous: $managed programs were managed, $unmanaged not"
out=$(total pages_out_total)
[ "$out" -ge $((KILLS * 100)) ] || fail "vacuous: $out pages have left"
[ -z "$have_redis" ] || { cli shutdown nosave || true; wait "$redis" || true; redis=; }
serve_stop "$one"
wait_until 20 "the agent to listen" agent_up
live_idle
segments() { "$CTL" --json stats | jq -e '[.agent.tiers[].segments] | add == 0' >/dev/null; }
wait_until 30 "segments to be given back" segments
few_fds() { [ "$(fds)" -le $((before + 6)) ]; }
wait_until 20 "descriptors to be closed: $(fds) instead of $before" few_fds
agent_stop
nobody_left() { [ -z "$(live_all)" ]; }
wait_until 20 "processes to end: $(live_all)" nobody_left
say "$KILLS kills, $both of them of keeper and worker; $(wc -l <"$DIR/rounds") runs of workloads ($managed managed, $unmanaged not), $out pages left, python $(cat "$DIR/python.out")," \
	"redis $(cat "$DIR/redis.out" 2>/dev/null || echo 'not there')$(cat "$DIR/gcc.out" 2>/dev/null); a look at all of 16 MiB took $worst ms at most"
say passed
