# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# What the live tests share: an agent of their own in a directory of its own,
# workloads under the shim with bounded time, counters, and the checks that
# pages really left and that nothing remains.
#
#	. "${srcdir:-.}/tests/live/lib.sh"
#	live_begin
#	agent_start
#	evicted_run fill_verify 32	# must pass, and pages must have left
#	live_end
#
# srcdir and top_builddir say where the sources and the build are (here: .).
# USWAP_AGENT, USWAPCTL, USWAP_LIB name other binaries. USWAP_REQUIRE=1 turns
# skips into failures, USWAP_KEEP=1 keeps the directory, USWAP_TIME_FACTOR
# stretches all time limits (sanitizers, slow machines).

set -eu

BUILD=${top_builddir:-.}
WORKLOADS=$BUILD/tests/workloads
TEST=$(basename "$0")
AGENT=${USWAP_AGENT:-$BUILD/agent/uswap-agent}
CTL=${USWAPCTL:-$BUILD/ctl/uswapctl}
LIB=${USWAP_LIB:-$BUILD/preload/libuswap.so}
FACTOR=${USWAP_TIME_FACTOR:-1}
DIR=
AGENT_PID=
export AT_END=: # what a test has to take away, when all is killed

say() {
	echo "$TEST: $*"
}

skip() {
	if [ "${USWAP_REQUIRE:-0}" = 1 ]; then
		echo "$TEST: required, but can't run: $*" >&2
		exit 1
	fi
	echo "$TEST: skipped: $*"
	exit 77
}

# Why it failed is said at once and, behind all logs, once more. Also where the caller
# has sent a program's errors elsewhere. What nobody has called a failure is told by
# the first command that ended the test.
ERR=2
WHERE=
fail() {
	echo "$TEST: FAILED: $*" >&$ERR
	[ -z "$DIR" ] || echo "$TEST: FAILED: $*" >>"$DIR/why"
	exit 1
}

# Everything that was started with our socket in its environment (which some write
# their title over): the agent, movers, and programs.
live_all() {
	set -- /proc/[0-9]*/environ # before there is a grep, with that environment too
	grep -lzxF "USWAP_SOCKET=$USWAP_SOCKET" "$@" 2>/dev/null | tr -dc '0-9\n'
}

# Kills it, and what the agent knows: without an agent that would wait for its pages
# for ever. All are stopped before the first is killed, until no more are found, for
# a keeper would start another worker and a manager another keeper.
live_kill_all() {
	local all='' more known

	known=$(timeout 5 "$CTL" --json stats 2>/dev/null | jq -r '.processes[].pid | select(. > 1)' 2>/dev/null)
	while more=$(live_all) && [ "$more" != "$all" ]; do
		all=$more
		# shellcheck disable=SC2086
		kill -STOP $all 2>/dev/null
	done
	# shellcheck disable=SC2086
	kill -KILL $known $all 2>/dev/null
}

live_cleanup() {
	local status=$?

	trap - EXIT ERR
	set +e
	exec 2>&$ERR
	if [ -n "$AGENT_PID" ] && kill -0 "$AGENT_PID" 2>/dev/null; then
		if [ $status -ne 0 ]; then
			echo "--- counters at the end" >&2
			timeout 5 "$CTL" --json stats | jq -c 'walk(if type == "object" then
				del(.refault_latency_histogram) | with_entries(select(.value != 0)) else . end)' >&2
		fi
	fi
	[ -z "$DIR" ] || live_kill_all
	$AT_END
	if [ $status -ne 0 ] && [ $status -ne 77 ] && [ -n "$DIR" ]; then
		if [ -e "$DIR/agent.log" ]; then
			echo "--- agent log (last 80 lines)" >&2
			tail -n 80 "$DIR/agent.log" >&2
		fi
		echo "--- status $status${WHERE:+; $WHERE}" >&2
		tail -n 5 "$DIR/why" >&2
	fi
	if [ -n "$DIR" ]; then
		if [ "${USWAP_KEEP:-0}" = 1 ]; then
			echo "$TEST: kept $DIR" >&2
		else
			rm -rf "$DIR"
		fi
	fi
	exit $status
}

# absent WHAT: a part of a test that can't run here, where not all of scripts/packages is.
absent() {
	[ "${USWAP_REQUIRE:-0}" != 1 ] || fail "$*"
	say "$*"
}

need_program() {
	local name

	for name; do
		command -v "$name" >/dev/null || skip "$name is not installed"
	done
}

# Not a version manager's script in front of it.
real_python() {
	if [ -x /usr/bin/python3 ]; then
		echo /usr/bin/python3
	else
		type -P python3
	fi
}

live_begin() {
	local reason

	[ "$(id -u)" = 0 ] || skip "not root"
	need_program jq timeout setsid pgrep
	[ -x "$WORKLOADS/have_move" ] || fail "$WORKLOADS/have_move is not built"
	reason=$("$WORKLOADS/have_move") || skip "$reason"
	[ -x "$AGENT" ] || fail "$AGENT is not built"
	[ -x "$CTL" ] || fail "$CTL is not built"
	[ -e "$LIB" ] || fail "$LIB is not built"
	LIB=$(realpath "$LIB")
	CTL=$(realpath "$CTL")
	AGENT=$(realpath "$AGENT")
	WORKLOADS=$(realpath "$WORKLOADS")
	DIR=$(mktemp -d "${TMPDIR:-/tmp}/uswap-test.XXXXXX")
	chmod 755 "$DIR"
	exec {ERR}>&2
	: >"$DIR/why"
	chmod 666 "$DIR/why"
	export WORKLOAD_WHY=$DIR/why # what a workload has to say about its status
	set -E
	trap 'WHERE=${WHERE:-line $LINENO: $BASH_COMMAND}' ERR
	trap live_cleanup EXIT
	trap 'exit 130' INT TERM
	trap : PIPE # seen as an error of the write; not inherited
	export USWAP_SOCKET=$DIR/agent.sock
	unset LD_PRELOAD USWAP_DISABLE
}

# nap SECONDS: without a process, of which whoever polls would start fifty a second. Nobody
# writes into this pipe.
exec {NEVER}<> <(:)
nap() {
	read -rt "$1" -u "$NEVER" _ || :
}

# wait_until SECONDS WHAT COMMAND...: polls, fails after that time.
wait_until() {
	local end=$((SECONDS + $1 * FACTOR)) what=$2

	shift 2
	until "$@"; do
		[ $SECONDS -lt $end ] || fail "still waiting: $what"
		nap 0.05
	done
}

# How soon pages leave.
PACE=0.02
# at_leisure: for programs that have work to do, and not a time to run for. Pages that are back
# at once make these take three times as long; that is for a soak.
at_leisure() {
	[ -n "${SOAK_SECONDS:-}" ] || PACE=0.1
}

agent_config() {
	cat <<-END
		[Policy]
		ScanSec=$PACE
		GraceSec=$PACE
		StallBudget=100%
		MinResident=0
		StartDelaySec=0
	END
}

agent_up() {
	kill -0 "$AGENT_PID" 2>/dev/null || fail "the agent ended while starting"
	[ -S "$USWAP_SOCKET" ] && "$CTL" --json stats >/dev/null 2>&1
}

# The configuration is agent_config's output unless $DIR/uswap.conf is there.
# Options in the array AGENT_OPTIONS win over ours; AGENT_STORES is a word for
# each store, AGENT_PREFIX a command that executes the agent, with its arguments.
export AGENT_OPTIONS=() AGENT_STORES=(memory:1G) AGENT_PREFIX=()
agent_start() {
	[ -e "$DIR/uswap.conf" ] || agent_config >"$DIR/uswap.conf"
	# both: a killed agent's may be open until the last of its threads has died, and where
	# somebody listens nobody else does
	rm -f "$USWAP_SOCKET" "${USWAP_SOCKET%/*}/control.sock"
	"${AGENT_PREFIX[@]}" "$AGENT" --config "$DIR/uswap.conf" --socket "$USWAP_SOCKET" --bus-address none \
		"${AGENT_STORES[@]/#/--store=}" --foreground "${AGENT_OPTIONS[@]}" >>"$DIR/agent.log" 2>&1 {ERR}>&- {NEVER}>&- &
	AGENT_PID=$!
	wait_until 20 "the agent to listen" agent_up
}

# agent_stop: SIGTERM, and it must end by itself, with 0.
agent_stop() {
	local status=0 end=$((SECONDS + 60 * FACTOR))

	kill -TERM "$AGENT_PID" 2>/dev/null || fail "the agent has ended before it was told to"
	until peer_gone "$AGENT_PID"; do
		if [ $SECONDS -ge $end ]; then
			show_tasks "$AGENT_PID"
			fail "the agent has not ended within 60 s of SIGTERM"
		fi
		nap 0.05
	done
	wait "$AGENT_PID" || status=$?
	AGENT_PID=
	[ $status -eq 0 ] || fail "the agent ended with status $status"
}

# ---- counters ---------------------------------------------------------------

# stats [PID]: what the agent says of itself and all, or of one process.
STATS=
stats() {
	STATS=$("$CTL" --json stats "$@") || fail "uswapctl stats $*: status $?"
}

# figure DEPTH KEY: out of that, where it stands so many spaces from the left. With jq it would
# take twice the time of the question.
figure() {
	local line=$'\n'" {$1}\"$2\": ([^"$'\n'"]*)" value

	[[ $STATS =~ $line ]] || fail "uswapctl --json stats has no $2: $STATS"
	value=${BASH_REMATCH[1]%,}
	value=${value#\"}
	echo "${value%\"}"
}

# total KEY: of the whole agent, the sums over all processes included.
total() {
	stats
	figure 4 "$1"
}

# of_process PID KEY
of_process() {
	stats "$1"
	figure 6 "$2"
}

# Where the key stands in the answer to an order.
export JQ_ORDER='.bytes // .evicted_bytes // .restored_bytes'

# ---- running ----------------------------------------------------------------

# show_tasks PID...: what every thread of these is doing.
show_tasks() {
	local pid task

	for pid; do
		[ -d "/proc/$pid" ] || continue
		echo "--- process $pid ($(tr "\\0" " " 2>/dev/null <"/proc/$pid/cmdline" | head -c 100))"
		for task in "/proc/$pid/task/"*; do
			printf '%s %s: ' "${task##*/}" "$(cat "$task/comm" 2>/dev/null)"
			grep -h State "$task/status" 2>/dev/null
			printf '  syscall %s\n' "$(cat "$task/syscall" 2>/dev/null)"
			sed 's/^/  /' "$task/stack" 2>/dev/null || true
		done
	done >&$ERR
}

# bounded SECONDS COMMAND...: its status; when it takes longer, shows where all
# processes of its session and the agent hang, kills them and fails.
bounded() {
	local end=$((SECONDS + $1 * FACTOR)) limit=$1 pid status=0 group

	shift
	setsid "$@" </dev/null {ERR}>&- {NEVER}>&- &
	pid=$!
	until peer_gone $pid; do
		if [ $SECONDS -ge $end ]; then
			group=$(pgrep -s $pid || true)
			# shellcheck disable=SC2086
			show_tasks $group $AGENT_PID
			# shellcheck disable=SC2086
			kill -KILL $group 2>/dev/null || true
			fail "not finished within $limit s: $*"
		fi
		nap 0.02
	done
	wait $pid || status=$?
	return $status
}

# evicted_run WORKLOAD [ARG...]: it must succeed under the shim, and pages must
# have left meanwhile.
evicted_run() {
	local name=$1 before after status=0

	shift
	before=$(total pages_out_total)
	bounded 100 env "LD_PRELOAD=$LIB" WORKLOAD_EVICT=1 "$WORKLOADS/$name" "$@" || status=$?
	[ $status -eq 0 ] || fail "$name $*: status $status"
	kill -0 "$AGENT_PID" 2>/dev/null || fail "the agent has ended during $name $*"
	after=$(total pages_out_total)
	[ "$after" -gt "$before" ] || fail "$name $*: vacuous, no page has left"
	say "$name $*: ok, $((after - before)) pages left"
}

# evicted_crowd "WORKLOAD [ARG...]"...: the same, all of them at once.
evicted_crowd() {
	local before after one pids=() status n=0

	before=$(total pages_out_total)
	for one; do
		# shellcheck disable=SC2086
		bounded 100 env "LD_PRELOAD=$LIB" WORKLOAD_EVICT=1 "$WORKLOADS/"$one &
		pids+=($!)
	done
	for one; do
		status=0
		wait "${pids[n]}" || status=$?
		[ $status -eq 0 ] || fail "$one, in a crowd: status $status"
		n=$((n + 1))
	done
	kill -0 "$AGENT_PID" 2>/dev/null || fail "the agent has ended under a crowd"
	after=$(total pages_out_total)
	[ "$after" -gt "$before" ] || fail "vacuous crowd, no page has left"
	say "$# at once: ok, $((after - before)) pages left"
}

# evicted_command SECONDS COMMAND...: the same for any program. Its output goes
# where the caller sends it; the status is returned.
evicted_command() {
	local limit=$1 before after status=0

	shift
	before=$(total pages_out_total)
	bounded "$limit" env "LD_PRELOAD=$LIB" "$@" || status=$?
	kill -0 "$AGENT_PID" 2>/dev/null || fail "the agent has ended during $*"
	after=$(total pages_out_total)
	[ "$after" -gt "$before" ] || fail "vacuous, no page has left: $*"
	echo "$TEST: $((after - before)) pages left: $1 ..." >&2
	return $status
}

# part NAME: is this part of a test wanted? All are, unless SOAK_PARTS names some.
part() {
	[ -z "${SOAK_PARTS:-}" ] || [[ " $SOAK_PARTS " == *" $1 "* ]]
}

# ---- programs that obey ------------------------------------------------------

# peer_start COMMAND...: a program that says "ready PID", then answers a line for
# each it is given. Sets PEER to its number, PEER_PID to its pid.
PEER=0
PEER_PID=
PEER_IN=()
PEER_OUT=()
PEER_PIDS=()

peer_start() {
	local n=$((PEER + 1)) line in out

	mkfifo "$DIR/peer$n.in" "$DIR/peer$n.out"
	setsid "$@" <"$DIR/peer$n.in" >"$DIR/peer$n.out" {ERR}>&- {NEVER}>&- &
	exec {in}>"$DIR/peer$n.in" {out}<"$DIR/peer$n.out"
	PEER_IN[n]=$in
	PEER_OUT[n]=$out
	read -r -t $((60 * FACTOR)) -u "$out" line || fail "not ready: $*"
	PEER_PID=${line#ready }
	PEER_PIDS[n]=$PEER_PID
	PEER=$n
}

# peer_ask N LINE: its answer
peer_ask() {
	local line

	echo "$2" >&"${PEER_IN[$1]}" || fail "program ${PEER_PIDS[$1]} is gone before $2"
	if ! read -r -t $((60 * FACTOR)) -u "${PEER_OUT[$1]}" line; then
		show_tasks "${PEER_PIDS[$1]}" "$AGENT_PID"
		fail "program ${PEER_PIDS[$1]}: no answer to $2"
	fi
	echo "$line"
}

# peer_tell N LINE: no answer is waited for. What is to end by a page that is lost may
# have met one already.
peer_tell() {
	echo "$2" >&"${PEER_IN[$1]}" || say "program ${PEER_PIDS[$1]} is gone before $2"
}

# peer_close N: it has been told to quit. (The end of its input alone would not do
# it: other programs of ours hold the pipe too.)
peer_close() {
	local in=${PEER_IN[$1]} out=${PEER_OUT[$1]} pid=${PEER_PIDS[$1]}

	exec {in}>&- {out}<&-
	wait_until 20 "program $pid to end" peer_gone "$pid"
}

# peer_stop N: for a program that obeys "quit" without an answer
peer_stop() {
	echo quit >&"${PEER_IN[$1]}" || fail "program ${PEER_PIDS[$1]} is gone before quit"
	peer_close "$1"
}

# peer_gone PID: it has ended. That a child has may escape bash while it naps; it looks when it forks.
peer_gone() {
	local stat

	{ read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 0
	[[ $stat != *") Z "* ]] || (:)
	return 1
}

# serve_start MIB [COMMAND...]: a fill_serve under the shim (through COMMAND, if
# given). Sets SERVED to its number, SERVED_PID to its pid.
serve_start() {
	local mib=$1

	shift
	peer_start "$@" env "LD_PRELOAD=$LIB" WORKLOAD_EVICT=1 "$WORKLOADS/fill_serve" "$mib"
	export SERVED=$PEER SERVED_PID=$PEER_PID
}

# ask N COMMAND: the answer's second word, from fill_serve N.
ask() {
	local line

	line=$(peer_ask "$1" "$2") || exit 1
	echo "${line#* }"
}

serve_stop() {
	[ "$(peer_ask "$1" quit)" = bye ] || fail "fill_serve $1: no bye"
	peer_close "$1"
}

# absent_at_least N PERCENT: of the pages that fill_serve N filled.
absent_at_least() {
	local absent

	absent=$(ask "$1" absent)
	[ $((absent * 100)) -ge $(($(ask "$1" pages) * $2)) ]
}

# ---- the end ----------------------------------------------------------------

# Movers of our workloads: they have our socket in their environment.
movers() {
	local pid

	for pid in $(pgrep -x uswap-mover || true); do
		if grep -qzxF "USWAP_SOCKET=$USWAP_SOCKET" "/proc/$pid/environ" 2>/dev/null; then
			echo "$pid"
		fi
	done
}

no_movers() {
	[ -z "$(movers)" ]
}

nothing_held() (
	stats
	[ "$(figure 4 evicted_bytes)$(figure 4 store_blobs)$(figure 4 processes_count)" = 000 ]
)

# All workloads have ended: the agent must have forgotten them all.
live_idle() {
	wait_until 20 "the movers to end: $(movers)" no_movers
	wait_until 20 "the agent to give everything up" nothing_held
	stats
	[ "$(figure 4 poisoned_pages_total)" = 0 ] || fail "pages were poisoned"
	[ "$(figure 4 store_errors_total)" = 0 ] || fail "the store had errors"
}

live_end() {
	live_idle
	agent_stop
	say "passed"
}
