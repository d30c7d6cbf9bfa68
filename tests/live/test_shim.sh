#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The shim and its mover against real userfaultfd, without the real agent:
# shim_peer plays the agent's side. One line for each check.
#
# srcdir, top_builddir: sources and build (here: .). What isn't built is built
# into a directory of its own with $CC. USWAP_LIB names another libuswap.so.
# USWAP_REQUIRE=1 turns skips into failures.
set -u

SRC=${srcdir:-${USWAP_SRC:-.}}
BUILD=${top_builddir:-.}
LIB=${USWAP_LIB:-$BUILD/preload/libuswap.so}
DIR=
PEER_PID=
FAILED=0
PASSED=0

# ---- set up ----

skip() {
	if [ "${USWAP_REQUIRE:-0}" = 1 ]; then
		echo "FAILED: required, but can't run: $*"
		exit 1
	fi
	echo "SKIP: $*"
	exit 77
}

clean_up() {
	trap - EXIT
	peer_stop
	[ -z "$DIR" ] || rm -rf "$DIR"
}

build() { # SOURCE below tests/: prints the program's path
	local built=$BUILD/tests/${1%.c} own

	own=$DIR/$(basename "${1%.c}")
	if [ ! -x "$built" ]; then
		${CC:-cc} -std=gnu11 -O2 -D_GNU_SOURCE -pthread -I"$SRC" -o "$own" "$SRC/tests/$1" ||
			exit 1
		built=$own
	fi
	realpath "$built"
}

ok() {
	echo "ok: $*"
	PASSED=$((PASSED + 1))
}

bad() {
	echo "FAILED: $*"
	FAILED=$((FAILED + 1))
}

check() { # WHAT COMMAND...
	local what=$1

	shift
	if "$@"; then ok "$what"; else bad "$what"; fi
}

peer_start() { # [HOW]
	"$PEER" serve "$SOCKET" "${1:-polite}" >"$DIR/peer.out" 2>"$DIR/peer.err" &
	PEER_PID=$!
	for _ in $(seq 600); do
		[ -S "$SOCKET" ] && return 0
		sleep 0.05
	done
	echo "the peer does not start"
	exit 1
}

peer_stop() {
	[ -n "$PEER_PID" ] || return 0
	kill -CONT "$PEER_PID" 2>/dev/null
	kill -TERM "$PEER_PID" 2>/dev/null
	wait "$PEER_PID" 2>/dev/null
	PEER_PID=
	rm -f "$SOCKET"
}

# Runs COMMAND under the shim, at most 30 s; out and err in $DIR.
shim() {
	timeout -k 5 $((30 * ${USWAP_TIME_FACTOR:-1})) env LD_PRELOAD="$LIB" USWAP_SOCKET="$SOCKET" "$@" >"$DIR/out" 2>"$DIR/err"
}

plain() {
	timeout -k 5 $((30 * ${USWAP_TIME_FACTOR:-1})) env -u LD_PRELOAD "$@" >"$DIR/out.plain" 2>"$DIR/err.plain"
}

# COMMAND behaves the same with and without the shim: output and status.
same() {
	local with without

	plain "$@"
	without=$?
	shim "$@"
	with=$?
	[ $with = $without ] && [ $with != 124 ] && cmp -s "$DIR/out" "$DIR/out.plain" && return 0
	echo "status $with, without the shim $without"
	diff "$DIR/out.plain" "$DIR/out" | head -20
	head -5 "$DIR/err"
	return 1
}

milliseconds() {
	echo $(($(date +%s%N) / 1000000))
}

# ---- the scenarios of shim_peer ----

scenario() { # NAME WHAT
	local out status

	out=$(timeout -k 5 $((60 * ${USWAP_TIME_FACTOR:-1})) "$PEER" run "$1" "$LIB" "$PAGES" 2>&1)
	status=$?
	out=${out//$'\n'/; }
	if [ $status = 0 ]; then
		ok "$1: $2${out:+ ($out)}"
	else
		bad "$1: $2: status $status: $out"
	fi
}

# Not always: whoever happens to look at a process (ps) has its memory, too.
mostly_free() {
	local free=0

	for _ in 1 2 3 4 5; do
		timeout -k 5 $((60 * ${USWAP_TIME_FACTOR:-1})) "$PEER" run end "$LIB" "$PAGES" 2>"$DIR/err" &&
			free=$((free + 1))
	done
	[ $free -ge 3 ] || { cat "$DIR/err"; return 1; }
}

scenarios() {
	scenario attach "mover's name, descriptors, session, directory and signals; the workload's own"
	scenario move "64 pages leave, are read in transit, dropped, and come back"
	scenario results "holes, occupied, stale, refused, several ranges, drop masks"
	scenario events "MADV_DONTNEED of evicted and of resident pages"
	scenario gate "the mover waits outside, also when wanted, and dies there with its workload"
	scenario stress "two writing threads, random batches for 4 s, every word checked"
	scenario fork "child and grandchild by nonce, busy, populate, evict from each"
	scenario fork-unknown "a child without a nonce is served"
	scenario kill "SIGKILL of the workload ends the mover"
	check "exit ends the mover first: the program's file can be written at once" mostly_free
	scenario end-alone "exit without a mover"
	scenario exec "exec ends the mover"
	scenario lone-thread "pthread_exit of the main thread does not"
	scenario leave "LEAVE ends the mover; later fork children stay alone"
	scenario bad-order "an order without sense: hung up, userfaultfd kept"
	scenario lockall "mlockall does not hang, drops still work"
	scenario agent-death "agent killed with pages out: a pause, never zeros"
}

# ---- what programs see ----

closed_stdin() {
	same "$BASH" -c "exec <&-; '$PLAIN' fork"
}

all_closed() {
	same "$BASH" -c "exec 3>&1; '$PLAIN' fork <&- 2>&- | cat; exec '$PLAIN' fork <&- 2>&- >&3"
}

small_limit() {
	same "$BASH" -c "ulimit -n $1; exec '$PLAIN' fork"
}

pipe_ends() {
	shim "$BASH" -c "{ echo a; sleep 0.2 & } | { cat; echo end; }" && grep -q end "$DIR/out" &&
		same "$BASH" -c 'for i in 1 2 3 4 5; do seq 1000 | sort -n | tail -n 1 | wc -c; done'
}

eof_seen() {
	# the writer closes its end and lives on; nobody else may hold it
	local begin

	begin=$(milliseconds)
	shim "$BASH" -c "'$BASH' -c 'exec >&-; sleep 3' | cat; echo done" || return 1
	# shellcheck disable=SC2016
	shim "$BASH" -c 'coproc { read -r x; echo "got $x"; exec 1>&-; sleep 90; }
		echo hi >&"${COPROC[1]}"; cat <&"${COPROC[0]}"'
	[ $(($(milliseconds) - begin)) -lt 60000 ]
}

shells() {
	# shellcheck disable=SC2016
	same "$BASH" -c 'a=$(echo x | cat; exit 3); echo "$a $?"; (exit 4); echo $?; sleep 0.1 & wait $!
		echo $?; sh -c "kill -TERM \$\$"; echo $?; false | true; echo "${PIPESTATUS[@]}"; exit 9'
}

python() {
	same python3 -c 'import subprocess, multiprocessing, os, sys
print(subprocess.run(["sh", "-c", "echo hi; exit 3"], capture_output=True))
p = subprocess.Popen("cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
print(p.communicate(b"x" * 100000)[0][:5])
def f(x): return x * x
with multiprocessing.get_context("fork").Pool(3) as q: print(q.map(f, range(10)))
pid = os.fork()
if pid == 0: os._exit(7)
print(os.waitpid(-1, 0)[1])
try: os.waitpid(-1, 0)
except ChildProcessError as e: print(e)
sys.exit(8)'
}

as_nobody() {
	chmod 711 "$DIR"
	shim setpriv --reuid=65534 --regid=65534 --clear-groups env USWAP_DEBUG=1 "$PLAIN" fork
	grep -q "attached: session" "$DIR/err" && grep -q "^child: 600" "$DIR/out"
}

# A limit of address space that the program fits in, but not the arena.
no_space_left() {
	local peak run

	plain "$PLAIN" peak
	peak=$(tail -n 1 "$DIR/out.plain")
	run=("$BASH" -c "ulimit -v $((peak + 1000)); USWAP_DEBUG=1 LD_PRELOAD=\$LATER exec '$PLAIN'")
	plain "$PLAIN"
	LATER=$LIB shim env LD_PRELOAD= "${run[@]}"
	[ $? = 5 ] && cmp "$DIR/out" "$DIR/out.plain" && grep -q "not attached: arena" "$DIR/err"
}

# A limit of processes that leaves none for the mover: the last step fails.
no_process_left() {
	local run=(setpriv --reuid=64321 --regid=64321 --clear-groups "$BASH" -c
		"ulimit -u 1; USWAP_DEBUG=1 exec '$PLAIN'")

	chmod 711 "$DIR"
	same "${run[@]}" && grep -q "not attached: mover" "$DIR/err"
}

pid_one() {
	same unshare --pid --fork --kill-child "$PLAIN" adopter
}

pid_namespace_ahead() {
	# after unshare(CLONE_NEWPID) the first child is the new namespace's init
	same unshare --pid "$BASH" -c '/bin/true; /bin/true; echo "$?"'
}

visible() {
	peer_start
	check "descriptors, threads, signals, children, status as without" same "$PLAIN" fork
	check "a subreaper that executes sees no child more" same "$PLAIN" subreaper
	check "namespaces: unshare(user), setns(mnt), unshare(pid) and forks" same "$PLAIN" unshare
	check "closed standard input" closed_stdin
	check "closed descriptors 0 and 2" all_closed
	check "ulimit -n 10" small_limit 10
	check "ulimit -n 4, too small to attach" small_limit 4
	check "no address space left for the arena" no_space_left
	check "pipelines" pipe_ends
	check "a closed pipe is seen while its writer lives" eof_seen
	check "shells: substitutions, subshells, signals, statuses" shells
	if command -v python3 >/dev/null; then
		check "python3: subprocess, Pool, fork" python
	fi
	if command -v setpriv >/dev/null; then
		check "as an ordinary user" as_nobody
		check "no process left for the mover" no_process_left
	fi
	check "as init of a pid namespace" pid_one
	check "children in another pid namespace: not attached" pid_namespace_ahead
	peer_stop
	check "the peer found nothing wrong" test ! -s "$DIR/peer.err"
	[ ! -s "$DIR/peer.err" ] || head -5 "$DIR/peer.err"
}

# ---- settings, refusals, an agent that hangs ----

# Not attached: same behaviour, one line on stderr that matches, within MS (more on
# slow machines).
unattached() { # MS PATTERN
	local begin

	begin=$(milliseconds)
	shim env USWAP_DEBUG=1 LD_PRELOAD= USWAP_SOCKET="$SOCKET" \
		"$BASH" -c "LD_PRELOAD='$LIB' exec '$PLAIN' fork"
	[ $? = 5 ] || return 1
	plain "$PLAIN" fork
	begin=$(($(milliseconds) - begin))
	if [ $begin -gt $(($1 * ${USWAP_TIME_FACTOR:-1})) ] || [ "$(wc -l <"$DIR/err")" != 1 ] || ! grep -q "$2" "$DIR/err" ||
		! cmp "$DIR/out" "$DIR/out.plain"; then
		echo "$begin ms"
		cat "$DIR/err"
		return 1
	fi
}

refused() { # HOW MS PATTERN
	peer_start "$1"
	check "agent that does $1: $3" unattached "$2" "$3"
	peer_stop
}

# What waits until a time is over does it beside others, with a directory of its own.
apart() { # NAME COMMAND...: one check
	local DIR=$DIR/$1 FAILED=0
	local SOCKET=$DIR/agent.sock

	mkdir "$DIR"
	shift
	"$@"
	[ $FAILED = 0 ]
}

joined() { # PID...
	local pid

	for pid; do
		if wait "$pid"; then PASSED=$((PASSED + 1)); else FAILED=$((FAILED + 1)); fi
	done
}

stopped_agent() {
	# It stops with our areas registered: the fork must not wait for it.
	local status

	(
		sleep 2
		kill -STOP "$PEER_PID"
	) &
	unattached 28000 "timed out"
	status=$?
	wait $!
	return $status
}

stopped() {
	peer_start hang-attach
	check "agent stopped in the middle of the handshake" stopped_agent
	peer_stop
}

said() { # PATTERN LINES ENVIRONMENT...
	local pattern=$1 lines=$2

	shift 2
	shim env LD_PRELOAD= "$BASH" -c 'exec env "$@"' x "$@" LD_PRELOAD="$LIB" "$PLAIN"
	[ "$(wc -l <"$DIR/err")" = "$lines" ] && grep -q "$pattern" <"$DIR/err"
}

silent() { # ENVIRONMENT...
	shim env LD_PRELOAD= "$BASH" -c 'exec env "$@"' x "$@" LD_PRELOAD="$LIB" "$PLAIN"
	[ ! -s "$DIR/err" ]
}

closed_stderr_pipe() {
	# the one line must not kill by SIGPIPE
	shim "$BASH" -c "{ sleep 0.3; USWAP_DEBUG=1 '$PLAIN'; echo \$? >'$DIR/status'; } 2>&1 >/dev/null | true"
	[ "$(cat "$DIR/status")" = 5 ]
}

settings() {
	local pids

	check "no agent: one line" unattached 20000 "no agent: no such file"
	peer_start
	check "USWAP_DEBUG: one line when attached" said "attached: session 7" 1 USWAP_DEBUG=1
	check "no USWAP_DEBUG: silence" silent USWAP_DEBUG=
	check "USWAP_DISABLE wins" said "USWAP_DISABLE is set" 1 USWAP_DEBUG=1 USWAP_DISABLE=1
	check "USWAP_DISABLE=0 is unset" said "attached: session 7" 1 USWAP_DEBUG=1 USWAP_DISABLE=0
	check "a long entry before ours" said "attached: session 7" 1 \
		A="$(head -c 20000 /dev/zero | tr '\0' a)" USWAP_DEBUG=1
	check "a socket path too long" said "USWAP_SOCKET: name too long" 1 USWAP_DEBUG=1 \
		USWAP_SOCKET="/$(head -c 200 /dev/zero | tr '\0' a)"
	check "standard error closed at the other end" closed_stderr_pipe
	peer_stop
	refused refuse 20000 "may not attach"
	refused no-attach 20000 "connection closed"
	refused fail-attach 20000 "could not set the session up"
	apart hang refused hang 28000 "hello: timed out" &
	pids=($!)
	apart attach refused hang-attach 28000 "attach: timed out" &
	pids+=($!)
	apart stopped stopped &
	pids+=($!)
	joined "${pids[@]}"
}

# ---- all ----

DIR=$(mktemp -d) || exit 1
trap clean_up EXIT
SOCKET=$DIR/agent.sock
[ -e "$LIB" ] || skip "$LIB is not built"
LIB=$(realpath "$LIB")
PEER=$(build live/shim_peer.c) || exit 1
PAGES=$(build workloads/shim_pages.c) || exit 1
cp "$PAGES" "$DIR/pages" && PAGES=$DIR/pages || exit 1 # nobody else executes it
PLAIN=$(build workloads/shim_plain.c) || exit 1
WHY=$("$PEER" probe) || skip "$WHY"

settings
visible
scenarios
echo "$PASSED passed, $FAILED failed"
[ $FAILED = 0 ]
