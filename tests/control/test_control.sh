#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The agent's control interface and uswapctl, on a private bus with the shipped
# policy and without any bus. Needs root (others are played by setpriv).
# shellcheck source=tests/control/lib.sh
. "$(dirname "$0")/lib.sh"

control_begin agent/uswap-agent
[ -c /dev/userfaultfd ] || skip "no /dev/userfaultfd"
"$AGENT" --check --bus-address none >"$DIR/check" ||
	skip "this machine can't run the agent: $(grep FAIL "$DIR/check")"

# ---- options: --help and the tables of getopt say the same ----
options_of_help() { "$1" --help | grep -oE -e '(^|[^[:alnum:]-])--[a-z][a-z-]*' | grep -oE -e '--[a-z-]+' | sort -u; }
options_of_table() { sed -nE 's/^\t\{ "([a-z-]+)", (no|required|optional)_argument.*/--\1/p' "$1" | sort -u; }
is "options of uswap-agent" "$(options_of_help "$AGENT")" "$(options_of_table "$SRC/agent/options.c")"
is "options of uswapctl" "$(options_of_help "$CTL")" "$(options_of_table "$SRC/ctl/uswapctl.c")"
expect 2 "unrecognized" "$AGENT" --frobnicate
expect 2 "takes options only" "$AGENT" run
expect 0 "uswap-agent " "$AGENT" --version
say "options agree"

# ---- configuration: every complaint names file and line ----
printf '[Policy]\nScanSec=1\nScnSec=2\n[Store]\nStore=disk:1\n' >"$DIR/bad.conf"
expect 1 "$DIR/bad.conf:3: ScnSec=2: unknown key in [Policy]" "$AGENT" --check-config --config "$DIR/bad.conf"
expect 1 "$DIR/bad.conf:5: Store=disk:1: store \"disk\" is unknown" "$AGENT" --check-config --config "$DIR/bad.conf"
expect 1 "$DIR/bad.conf:3: " "$AGENT" --foreground --config "$DIR/bad.conf"
expect 1 "--store: Store=x: " "$AGENT" --check-config --store x
expect 1 "$DIR/none.conf: No such file" "$AGENT" --check-config --config "$DIR/none.conf"
mkdir "$DIR/good.conf.d"
echo "[Agent]" >"$DIR/good.conf"
printf '[Policy]\nGraceSec=250ms\n' >"$DIR/good.conf.d/50-grace.conf"
expect 0 "GraceSec=0.25" "$AGENT" --check-config --config "$DIR/good.conf"
expect 0 "ok    kernel" "$CTL" check
# what only the start finds out too; a key is looked at before
cant_start() { # LINE WHY, of its fourth line
	printf '[Store]\nStore=memory:64M\n#\n%s\n' "$1" >"$DIR/bad.conf"
	expect 1 "$DIR/bad.conf:4: $1: $2" "$AGENT" --foreground --socket "$SOCKET" --bus-address none --config "$DIR/bad.conf"
	is "lines about $1" "$(wc -l <"$DIR/out")" 1
	[[ $1 != KeyFile* ]] || expect 1 "$DIR/bad.conf:4: $1: $2" "$AGENT" --check-config --config "$DIR/bad.conf"
}
cant_start "Store=file:$DIR/none/x,size=16M" ""
expect 1 "store: $DIR/bad.conf:4: file:" "$AGENT" --check --bus-address none --config "$DIR/bad.conf"
cant_start "KeyFile=$DIR/key" "No such file"
touch "$DIR/key"
chmod 600 "$DIR/key"
cant_start "KeyFile=$DIR/key" "a key has at least 16 bytes"
head -c 32 /dev/urandom >"$DIR/key"
expect 0 "KeyFile=$DIR/key" "$AGENT" --check-config --config "$DIR/bad.conf"
chmod 644 "$DIR/key"
cant_start "KeyFile=$DIR/key" "must be a file that nobody but its owner may touch"
ln -s key "$DIR/link"
cant_start "KeyFile=$DIR/link" "is a symbolic link"
mkfifo -m 600 "$DIR/fifo"
cant_start "KeyFile=$DIR/fifo" "must be a file"
say "configuration errors name the place"

# ---- without an agent ----
expect 3 "not running" "$CTL" status
expect 3 "not running" beside list
expect 3 "not running" env "USWAP_SOCKET=$SOCKET" "$CTL" run -- true
expect 0 "" env "USWAP_SOCKET=$SOCKET" "$CTL" run --allow-unmanaged -- true

# ---- a bus that comes later, goes and comes again ----
agent_start --bus-address "$BUS"
expect 0 "running" beside
bus_start
wait_until 20 "the name on the bus" has_name
expect 0 "running" "$CTL"
bus_stop
expect 0 "running" beside
bus_start
wait_until 20 "the name on the new bus" has_name
say "found on the bus, and without it beside the attach socket"

# ---- the interface is as described ----
compare_interface org.uswap1.Manager.xml /org/uswap1
env "USWAP_SOCKET=$SOCKET" "$CTL" run -- sleep 600 &
WORK=$!
attached() { "$CTL" stats "$WORK"; }
wait_until 10 "a program to attach" attached
OBJECT=$(manager GetProcessByPID u "$WORK" | tr -d '"' | cut -d' ' -f2)
compare_interface org.uswap1.Process.xml "$OBJECT"
b tree org.uswap1 | grep -q "$OBJECT" || fail "$OBJECT is not in the tree"
is State "$(property State)" 's "running"'
is ScanUSec "$(property ScanUSec)" "t 50000"
is NProcesses "$(property NProcesses)" "u 1"
is LogLevel "$(b get-property org.uswap1 /org/freedesktop/LogControl1 org.freedesktop.LogControl1 LogLevel)" 's "info"'
say "introspection agrees with contrib/dbus"

# ---- orders, by name, by object, by uswapctl ----
expect 0 "evicted" "$CTL" evict "$WORK"
expect 0 "restored" "$CTL" restore "$WORK"
expect 0 "evicted" "$CTL" evict --all 1M
expect 0 "t " manager Restore 'a{sv}' 0
set_property EvictionEnabled b false
is EvictionEnabled "$(property EvictionEnabled)" "b false"
set_property EvictionEnabled b true
b set-property org.uswap1 "$OBJECT" org.uswap1.Process LimitBytes t 1048576
is LimitBytes "$(b get-property org.uswap1 "$OBJECT" org.uswap1.Process LimitBytes)" "t 1048576"

# ---- errors have types ----
expect 1 "Process 999999 is not attached" manager GetProcessByPID u 999999
expect 1 'Unknown option "dry"' manager Evict 'ta{sv}' 1 1 dry b true
expect 1 "Unknown object" b call org.uswap1 /org/uswap1/process/_0 org.uswap1.Process Detach
python3 "$SRC/tests/control/error_name.py" "$DIR/run/control.sock" >"$DIR/errors" ||
	fail "error names: $(cat "$DIR/errors")"
grep -qx "GetProcessByPID org.uswap1.NoSuchProcess" "$DIR/errors" || fail "$(cat "$DIR/errors")"
expect 4 "not attached" "$CTL" evict 999999
expect 4 "not attached" "$CTL" stats 999999
say "errors are typed"

# ---- nobody may look, but not touch ----
expect 0 "of memory for it: " "$CTL"
expect 0 "running" "${NOBODY[@]}" "$CTL"
expect 0 "$WORK" "${NOBODY[@]}" "$CTL" list
expect 1 "Only root" "${NOBODY[@]}" "$CTL" evict "$WORK"
expect 1 "Only root" "${NOBODY[@]}" "$CTL" restore --all
expect 1 "Access denied" "${NOBODY[@]}" busctl --address="$BUS" set-property org.uswap1 /org/uswap1 \
	org.uswap1.Manager EvictionEnabled b false
expect 1 "Access denied" "${NOBODY[@]}" busctl --address="$BUS" call org.uswap1 /org/uswap1 \
	org.uswap1.Manager Reload
expect 0 "running" "${NOBODY[@]}" env "USWAP_SOCKET=$SOCKET" "$CTL"
expect 1 "Only root" "${NOBODY[@]}" env "USWAP_SOCKET=$SOCKET" "$CTL" evict --all
"${NOBODY[@]}" env "USWAP_SOCKET=$SOCKET" "$CTL" run --limit=64M -- sleep 600 2>"$DIR/limit" &
LIMITED=$!
wait_until 10 "the word that there is no limit" grep -q "process $LIMITED runs without its limit" "$DIR/limit"
kill "$LIMITED"
# ... from eight places; the ninth is told so, whether it writes before it is turned away
# or after, and not that there is no agent
coproc python3 -c 'import os, socket, sys
os.setresuid(65534, 65534, 65534)
held = [socket.socket(socket.AF_UNIX) for i in range(9)]
for s in held:
    s.connect(sys.argv[1])
print(held[-1].recv(99).decode(), end="", flush=True)
sys.stdin.read()' "$DIR/run/control.sock"
read -rt $((20 * FACTOR)) word <&"${COPROC[0]}" || fail "a ninth connection hears nothing"
is "what a ninth connection hears" "$word" $'REJECTED\r'
for _ in {1..10}; do
	expect 1 "as many connections of this user" "${NOBODY[@]}" env "USWAP_SOCKET=$SOCKET" "$CTL"
done
expect 0 "running" env "USWAP_SOCKET=$SOCKET" "$CTL"
eval "exec ${COPROC[1]}>&-"
looks_again() { "${NOBODY[@]}" env "USWAP_SOCKET=$SOCKET" "$CTL"; }
wait_until 10 "nobody to be let in again" looks_again
# ... and not have the agent keep what it has been sent
python3 "$SRC/tests/control/error_name.py" "$DIR/run/control.sock" --long >"$DIR/long" 2>&1 ||
	fail "a message without end: $(cat "$DIR/long")"
expect 0 "running" env "USWAP_SOCKET=$SOCKET" "$CTL"
# ... and not keep others waiting, calling without a pause
coproc python3 "$SRC/tests/control/error_name.py" "$DIR/run/control.sock" --endless 2>/dev/null
endless=$COPROC_PID
read -rt $((20 * FACTOR)) word <&"${COPROC[0]}" || fail "no answers for who calls without a pause"
expect 0 "running" timeout $((5 * FACTOR)) env "USWAP_SOCKET=$SOCKET" "$CTL"
kill "$endless" 2>/dev/null || fail "vacuous: it has ended"
wait "$endless" || :
say "nobody may look and not touch"

# ---- for programs: JSON, and exit codes ----
"$CTL" --json list >"$DIR/json"
python3 - "$DIR/json" "$WORK" <<-'END' || fail "--json: $(cat "$DIR/json")"
	import json, sys
	data = json.load(open(sys.argv[1]))
	assert data["agent"]["state"] == "running"
	assert data["agent"]["processes_count"] == 1
	assert data["agent"]["tiers"][0]["name"] == "memory"
	(p,) = data["processes"]
	assert p["pid"] == int(sys.argv[2]) and p["command"] == "sleep"
	keys = ("resident_bytes evicted_bytes stored_bytes faults_total refaults_total "
	        "stall_usec_total refault_latency_p50_ns refault_latency_p99_ns ratio "
	        "same_filled_share duplicate_share").split()
	missing = [k for k in keys if k not in p or k not in data["agent"]]
	assert not missing, missing
END
"$CTL" stats "$WORK" --json=short | python3 -m json.tool >/dev/null
is "lines of --json=short" "$("$CTL" --json=short stats | wc -l)" 1
"$CTL" --json evict "$WORK" 4K | python3 -c 'import json, sys; json.load(sys.stdin)["bytes"]'
"$CTL" check --json=short | python3 -c 'import json, sys
checks = {c["what"]: (c["result"], c["detail"]) for c in json.load(sys.stdin)["checks"]}
assert checks["kernel"][0] in ("ok", "warn") and checks["kernel"][1].startswith("Linux "), checks
assert len(checks) == int(sys.argv[1]) and {r for r, _ in checks.values()} <= {"ok", "warn", "fail"}' \
	"$("$CTL" check | wc -l)"
for verb in run gc version help; do expect 2 "$verb: takes no --json" "$CTL" --json $verb; done
expect 2 "unknown verb" "$CTL" frobnicate
expect 2 "unknown option" "$CTL" --frobnicate
expect 2 "unknown option --bytes=5, or a value" "$CTL" --bytes=5
expect 2 "usage" "$CTL" evict
expect 2 "not a size" "$CTL" evict "$WORK" much
expect 2 "not a process id" "$CTL" stats x
expect 2 "takes no --all" "$CTL" list --all
expect 0 "Usage" "$CTL" --help
expect 0 "Usage" "$CTL" list -h
expect 0 "Usage" "$CTL" evict --all --help
expect 0 "Usage" "$CTL" help
say "exit codes and JSON"

# ---- run ----
run() { env "USWAP_SOCKET=$SOCKET" "$CTL" run "$@"; }
expect 7 "" run -- sh -c 'exit 7'
expect 143 "" run -- sh -c 'kill $$'
expect 127 "No such file" run -- no-such-command-here
expect 126 "Permission denied" run -- "$DIR/uswap.conf"
cp /bin/true "$DIR/setuid"
chmod 4755 "$DIR/setuid"
expect 1 "set-user-ID" run -- "$DIR/setuid"
printf '#!%s\n' "$DIR/setuid" >"$DIR/script"
chmod 755 "$DIR/script"
expect 1 "set-user-ID" run -- "$DIR/script"
# shellcheck disable=SC2016
printf '#!/bin/sh\necho "script $1"\n' >"$DIR/script"
expect 0 "script x" run "$DIR/script" x
if [ -x /sbin/ldconfig ]; then expect 1 "statically linked" run -- /sbin/ldconfig; fi
# shellcheck disable=SC2016
is LD_PRELOAD "$(LD_PRELOAD=/first.so run -- sh -c 'echo $LD_PRELOAD' 2>/dev/null)" "/first.so:$LIB"
env --ignore-signal=CHLD "USWAP_SOCKET=$SOCKET" "$CTL" run --limit 64M -- sleep 600 &
LIMITED=$!
is_limited() { "$CTL" --json=short stats "$LIMITED" | grep -q '"limit_bytes":67108864'; }
wait_until 10 "the limit" is_limited
kill "$LIMITED"
say "run refuses what can't be preloaded, and is the command"

# ---- reload ----
sed -i 's/^ScanSec=.*/ScanSec=3/' "$DIR/uswap.conf"
manager Reload
is "ScanUSec after Reload" "$(property ScanUSec)" "t 3000000"
sed -i 's/^ScanSec=.*/ScanSec=4/' "$DIR/uswap.conf"
kill -HUP "$AGENT_PID"
scan_is_4() { [ "$(property ScanUSec)" = "t 4000000" ]; }
wait_until 10 "the reload by SIGHUP" scan_is_4
sed -i 's/^ScanSec=.*/ScanSec=often/' "$DIR/uswap.conf"
expect 1 "$DIR/uswap.conf:2: ScanSec=often" manager Reload
is "ScanUSec after a bad Reload" "$(property ScanUSec)" "t 4000000"
sed -i 's/^ScanSec=.*/ScanSec=0.05/' "$DIR/uswap.conf"
say "reload takes the good and keeps to the old otherwise"

# ---- sockets ----
expect 1 "another agent listens there" "$AGENT" --foreground --socket "$SOCKET" --bus-address none
echo x >"$DIR/file"
expect 1 "File exists" "$AGENT" --foreground --socket "$DIR/file" --bus-address none
is "mode of the sockets" "$(stat -c %a "$SOCKET" "$DIR/run/control.sock" | tr '\n' ' ')" "666 666 "
kill "$WORK"
wait "$WORK" || :
agent_stop
[ ! -e "$SOCKET" ] || fail "the attach socket is left behind"
expect 3 "not running" "$CTL"

# a killed agent leaves stale sockets, which are replaced
agent_start --bus-address none
# (both of its processes: the first one alone is no death)
mapfile -t others < <(pgrep -P "$AGENT_PID")
kill -KILL "$AGENT_PID" "${others[@]}"
wait "$AGENT_PID" || :
socket_is() { grep -qF " $1" /proc/net/unix; }
# with the last of their threads their sockets are closed
others_gone() { ! socket_is "$SOCKET"; }
wait_until 20 "the others to be gone" others_gone
[ -S "$SOCKET" ] || fail "no stale socket to try with"
rm "$DIR/run/control.sock"
agent_start --bus-address none
expect 0 "running" beside
agent_stop

# a lock that anybody can take does not keep an agent out
exec {locked}<"$DIR/run"
flock "$locked"
agent_start --bus-address none
expect 0 "running" beside
is "what lies beside the sockets" "$(ls "$DIR/run")" $'agent.sock\ncontrol.sock'
agent_stop
exec {locked}<&-

# who still listens at control.sock when an agent starts has it until he ends
python3 -c 'import signal, socket, sys
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
s.listen()
signal.pause()' "$DIR/run/control.sock" &
other=$!
wait_until 10 "another one at control.sock" socket_is "$DIR/run/control.sock"
agent_start --bus-address none
wait_until 10 "the agent to say that it is taken" \
	grep -qF "$DIR/run/control.sock: Address already in use" "$DIR/agent.log"
kill "$other"
wait "$other" || :
answers() { beside stats >"$DIR/out" 2>&1; }
wait_until 20 "the agent to listen at control.sock" answers
agent_stop
say "sockets"

# ---- the service manager: READY, STOPPING, and sockets from it ----
python3 "$SRC/tests/control/manager.py" "$DIR/manager" "$AGENT" --config "$DIR/uswap.conf" \
	--socket "$DIR/unused/agent.sock" --store memory:256M --bus-address none ||
	fail "under a service manager"
say "READY, RELOADING, STOPPING, and passed sockets"
