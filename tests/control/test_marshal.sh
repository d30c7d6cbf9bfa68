#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The control layer alone: numbers of a fake engine (fake_engine.c, nothing is
# evicted here) must arrive under the right names, its answers as the right
# errors, its news as signals. Needs no userfaultfd.
# shellcheck source=tests/control/lib.sh
. "$(dirname "$0")/lib.sh"

control_begin tests/control/fake_agent
export USWAP_ALLOW_KERNEL=1
bus_start

# start STATUS: an agent whose orders end so
start() {
	FAKE_STATUS=$1 agent_start --bus-address "$BUS"
	wait_until 10 "the name on the bus" has_name
}

# A "program": holds a connection to the attach socket until its input ends.
attach() {
	mkfifo "$DIR/hold$1"
	python3 -c 'import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.connect(sys.argv[1])
sys.stdin.read()' "$SOCKET" <"$DIR/hold$1" &
	PROGRAM=$!
	eval "exec {HOLD$1}>\"\$DIR/hold$1\""
	wait_until 10 "the program to attach" "$CTL" stats "$PROGRAM"
}

start 0
b monitor --json=short org.uswap1 >"$DIR/signals" 2>&1 &
hears() {
	set_property EvictionEnabled b false && set_property EvictionEnabled b true &&
		grep -q '"member":"PropertiesChanged"' "$DIR/signals"
}
wait_until 10 "the monitor" hears
attach 1

# ---- every number under its name ----
"$CTL" --json=short stats "$PROGRAM" >"$DIR/json"
python3 - "$DIR/json" "$PROGRAM" <<-'END' || fail "wrong figures: $(cat "$DIR/json")"
	import json, sys
	(p,) = json.load(open(sys.argv[1]))["processes"]
	want = dict(id=1, pid=int(sys.argv[2]), uid=0, state="active", reason="", limit_bytes=0,
	            eviction_enabled=True, control_group="/fake.slice/a-service-with-a-name-that-has-no-room-in-a-column-of-sixty-characters.service", attached_monotonic_usec=123456,
	            resident_bytes=8192, registered_bytes=12288, evicted_bytes=2048000,
	            staged_bytes=28672, same_filled_bytes=204800, stored_bytes=130000,
	            pages_out_total=17, pages_in_total=19, faults_total=23, refaults_total=29,
	            major_faults_total=31, zero_faults_total=37, duplicate_pages_total=4,
	            incompressible_pages_total=43, prefetched_pages_total=61, prefetch_used_pages_total=67,
	            helped_pages_total=73,
	            unpack_usec_total=71, busy_pages_total=47, poisoned_pages_total=53,
	            stall_usec_total=59, refault_latency_p50_ns=8000, refault_latency_p99_ns=32000,
	            refault_latency_histogram=[dict(up_to_ns=8000, count=98),
	                                       dict(up_to_ns=32000, count=2)],
	            same_filled_share=0.1)
	wrong = {k: (p.get(k), v) for k, v in want.items() if p.get(k) != v}
	assert not wrong, wrong
	assert abs(p["ratio"] - 2048000 / 158672) < 0.001 and abs(p["duplicate_share"] - 4 / 17) < 1e-5
	# the bytes that aren't UTF-8, or would break a line, are shown as ?
	assert p["command"] == "fake??" + sys.argv[2], p["command"]
END
expect 0 "sixty-characters.service" "$CTL" stats "$PROGRAM"
"$CTL" --json=short status >"$DIR/json"
python3 - "$DIR/json" <<-'END' || fail "wrong figures: $(cat "$DIR/json")"
	import json, sys
	a = json.load(open(sys.argv[1]))["agent"]
	want = dict(processes_count=1, dedup_domain="cgroup", store_capacity_bytes=413696, store_used_bytes=421888,
	            store_live_bytes=438272, store_blobs=109, staging_bytes=462848,
	            metadata_bytes=127, held_bytes=819200, store_errors_total=137,
	            pack_usec_total=73, packed_pages_total=79, plain_pages_total=83,
	            dictionary_pages_total=89, dictionary_saved_bytes_total=97, dictionaries=101,
	            clustered_pages_total=367, clustered_bytes_total=373,
	            delta_pages_total=103, delta_bytes_total=107, raw_pages_total=353, raw_bytes=359, recompressed_pages_total=149,
	            recompress_saved_bytes_total=151, compacted_bytes_total=157,
	            collect_usec_total=163, recompress_usec_total=167, promoted_bytes_total=173,
	            dictionaries_trained_total=179, dictionaries_retired_total=181,
	            duplicate_missed_pages_total=191, duplicate_passed_pages_total=193,
	            attach_refused_total=139, evicted_bytes=2048000, stored_bytes=130000)
	wrong = {k: (a.get(k), v) for k, v in want.items() if a.get(k) != v}
	assert not wrong, wrong
	# the sum of packing, unpacking, recompressing and this one
	assert abs(a["collect_share"] - 163 / (73 + 167 + 163 + a["unpack_usec_total"])) < 1e-5, a["collect_share"]
	memory, rados = a["tiers"]
	assert abs(rados.pop("rewritten_per_byte") - 47 / 192) < 1e-5, rados
	assert (memory["name"], memory["state"], memory["reason"]) == ("memory", "up", ""), memory
	assert memory["capacity_bytes"] == 413696, memory
	want = dict(name="rados", state="away", reason="no answer", capacity_bytes=211,
	            used_bytes=223, live_bytes=227, dead_bytes=229, segments=233,
	            written_bytes_total=239, read_bytes_total=241, reads_pending=251, writes_pending=379,
	            oldest_read_ns=257, read_p50_ns=263, read_p99_ns=269, write_p50_ns=271,
	            write_p99_ns=277, errors_total=281, io_errors_total=283, timeouts_total=293,
	            access_errors_total=307, missing_total=311, misuse_total=313, full_total=317,
	            corrupt_total=331, moved_in_bytes_total=337, collected_bytes_total=47,
	            borrowed_bytes=373, borrowed_pages_total=367,
	            lookups_total=383, lookup_misses_total=389, daily_left_bytes=349)
	assert rados == want, rados
END
"$CTL" help >"$DIR/help"
"$CTL" --json=short stats "$PROGRAM" >"$DIR/more"
python3 - "$DIR/help" "$DIR/json" "$DIR/more" <<-'END' || fail "help doesn't list all keys of --json"
	import json, re, sys
	def keys(v):
	    for k, w in v.items() if isinstance(v, dict) else enumerate(v) if isinstance(v, list) else ():
	        yield k
	        yield from keys(w)
	words = set(re.findall(r"[a-z0-9_]+", open(sys.argv[1]).read()))
	missing = {k for f in sys.argv[2:] for k in keys(json.load(open(f))) if isinstance(k, str)} - words
	assert not missing, missing
END
say "every number has its name"

# ---- orders and switches reach the engine ----
expect 0 "5242880" "$CTL" -b evict "$PROGRAM" 5M
expect 0 "8192" "$CTL" -b restore "$PROGRAM"
expect 0 '{"bytes":8192}' "$CTL" --json=short evict --all
OBJECT=/org/uswap1/process/_1
b call org.uswap1 $OBJECT org.uswap1.Process Detach
b set-property org.uswap1 $OBJECT org.uswap1.Process EvictionEnabled b false
expect 0 '"paused"' b get-property org.uswap1 $OBJECT org.uswap1.Process State
expect 0 '"switched off"' b get-property org.uswap1 $OBJECT org.uswap1.Process Reason
b set-property org.uswap1 $OBJECT org.uswap1.Process LimitBytes t 4096
expect 0 't 4096' b get-property org.uswap1 $OBJECT org.uswap1.Process LimitBytes
set_property EvictionEnabled b false
is EvictionEnabled "$(property EvictionEnabled)" "b false"

# ---- verify: its figures, and its status says whether there is damage ----
expect 1 '3 are damaged' "$CTL" verify
set_property EvictionEnabled b true
expect 0 '401 pages are as they were stored' "$CTL" verify
expect 0 '331 pages were found damaged in it' "$CTL" status
expect 0 '"damaged_pages":0,"unread_pages":5,"wrong_accounts":0,"wrong_references":0,"not_found_pages":0,"unsettled_pages":409' "$CTL" --json=short verify
set_property EvictionEnabled b false

# ---- news reach the bus ----
eval "exec $HOLD1>&-"
gone() { [ "$(property NProcesses)" = "u 0" ]; }
wait_until 10 "the program to be gone" gone
expect 4 "not attached" "$CTL" evict "$PROGRAM"
signalled() { grep -q "$1.*$2" "$DIR/signals"; }
for what in InterfacesAdded InterfacesRemoved; do
	wait_until 10 "$what" signalled "\"member\":\"$what\"" "$OBJECT"
done
for what in State LimitBytes NProcesses EvictionEnabled; do
	wait_until 10 "PropertiesChanged of $what" signalled '"member":"PropertiesChanged"' "\"$what\""
done
say "orders go in, news come out"

# ---- what uswapctl says goes to nobody where it is closed, least of all to the agent ----
mute() { beside evict 999999 2>&-; }
expect 4 "" mute
closed() { beside --json >&-; }
expect 1 "standard output: Bad file descriptor" closed
full() { "$CTL" help >/dev/full; }
expect 1 "standard output: No space left" full
grep "sends what is no call" "$DIR/agent.log" && fail "words for people came to the agent"

# ---- an agent that hangs is not one that isn't there ----
mapfile -t others < <(pgrep -P "$AGENT_PID")
kill -STOP "${others[@]}"
expect 1 "does not answer" env SYSTEMD_BUS_TIMEOUT=0.3s "USWAP_SOCKET=$SOCKET" "$CTL"
expect 1 "does not answer" env SYSTEMD_BUS_TIMEOUT=0.3s "$CTL" stats
kill -CONT "${others[@]}"

# ---- garbage at control.sock harms nobody ----
for _ in 1 2 3; do
	head -c 100000 /dev/urandom | python3 -c 'import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
s.connect(sys.argv[1])
try:
    s.sendall(sys.stdin.buffer.read())
except OSError:
    pass' "$DIR/run/control.sock"
done
# nor is what nobody reads kept without end
python3 "$SRC/tests/control/error_name.py" "$DIR/run/control.sock" --unread "$SOCKET" \
	"$AGENT_PID" "${others[@]}" || fail "what nobody reads"
# one user can't take all connections
python3 -c 'import os, socket, sys
os.setuid(65534)
v = []
for i in range(100):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    s.connect(sys.argv[1])
    v.append(s)
s.settimeout(10)
said = b""
while part := s.recv(64):
    said += part
assert said.startswith(b"REJECTED"), f"the hundredth connection of one user is told {said}"' "$DIR/run/control.sock"
expect 0 running beside
# nor for a bus that hangs
kill -STOP "$BUS_PID"
python3 "$SRC/tests/control/error_name.py" "$DIR/run/control.sock" --many "$SOCKET" || fail "many programs"
kill -KILL "$BUS_PID"
bus_start # one that has no more to read
grep -q "the message bus: it reads nothing any more" "$DIR/agent.log" || fail "the bus is told more and more"
expect 0 running beside
agent_stop

# ---- what the engine says, as typed errors ----
for case in 3:NoSuchProcess:4 28:StoreFull:1 16:Busy:1 125:Stopping:1 12:NoMemory:1; do
	IFS=: read -r number name code <<<"$case"
	start "$number"
	attach "$number"
	python3 "$SRC/tests/control/error_name.py" "$DIR/run/control.sock" $OBJECT >"$DIR/errors" ||
		fail "error names: $(cat "$DIR/errors")"
	grep -qx "Evict org.uswap1.$name" "$DIR/errors" || fail "status $number: $(cat "$DIR/errors")"
	expect "$code" "(after 5242880 bytes)" "$CTL" evict "$PROGRAM" 5M
	agent_stop
done
say "errors are typed"
