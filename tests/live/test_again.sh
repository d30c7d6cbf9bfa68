#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Keeper and worker are killed together, and nobody has kept their descriptors:
# the movers find the next agent by themselves. Programs that had nothing away go
# on and are managed again, those that had get SIGBUS where something is missing,
# and nobody hangs.
# shellcheck source=tests/live/lib.sh
. "${srcdir:-.}/tests/live/lib.sh"

live_begin
# What leaves, leaves by order.
sed 's/^MinResident=.*/MinResident=1G/' <(agent_config) >"$DIR/uswap.conf"
agent_start

kill_all() {
	local worker

	worker=$(pgrep -P "$AGENT_PID")
	# shellcheck disable=SC2086
	kill -KILL "$AGENT_PID" $worker
	wait "$AGENT_PID" 2>/dev/null || true
}
attached() { [ "$(total processes_count)" = "$1" ]; }
again() { # HOW-MANY programs
	kill_all
	sleep "0.$((RANDOM % 5))"
	agent_start
	wait_until 20 "the movers to come back" attached "$1"
	sleep 0.5
	attached "$1" || fail "$(total processes_count) sessions of $1 programs"
}
evicts() { # PID; not before its mover is there
	"$CTL" --json evict "$1" >"$DIR/order.json" 2>&1
}
evict_some() { # N PID
	wait_until 20 "$2 to be evicted" evicts "$2"
	[ "$(jq -er "$JQ_ORDER" "$DIR/order.json")" -gt 0 ] || fail "nothing of $2 leaves"
	absent_at_least "$1" 50 || fail "hardly anything of $2 has left"
}

# ---- nothing was away, once never, once not any more ----
serve_start 8
one=$SERVED one_pid=$SERVED_PID
# A parent and its fork child, each with a mover of its own. "verify": both look.
cat >"$DIR/family.py" <<'END'
import os, sys

def text(i):
    return b'%d ' % i * 600

pages = [text(i) for i in range(3000)]
to, fro = os.pipe(), os.pipe()
child = os.fork()
pages = [page + b'own' for page in pages]  # shared ones don't leave
if child == 0:
    os.close(to[1])
    while os.read(to[0], 1):
        os.write(fro[1], b'y' if all(pages[i] == text(i) + b'own' for i in range(3000)) else b'n')
    os._exit(0)
os.close(to[0])
os.write(to[1], b'?')
os.read(fro[0], 1)
print('ready', os.getpid(), flush=True)
for line in sys.stdin:
    if line == 'quit\n':
        break
    if line == 'child\n':
        print('child', child, flush=True)
        continue
    os.write(to[1], b'?')
    right = os.read(fro[0], 1) == b'y' and all(pages[i] == text(i) + b'own' for i in range(3000))
    print('right' if right else 'wrong', 2, flush=True)
os.close(to[1])
os.waitpid(child, 0)
print('bye', flush=True)
END
peer_start env "LD_PRELOAD=$LIB" "$(real_python)" "$DIR/family.py"
family=$PEER
wait_until 20 "a fork child to be there" attached 3
again 3
[ "$(ask "$one" verify)" = 2048 ] || fail "verify with another agent"
for pid in "${PEER_PIDS[family]}" "$(ask $family child)"; do
	wait_until 20 "$pid to be evicted" evicts "$pid"
	[ "$(jq -er "$JQ_ORDER" "$DIR/order.json")" -gt $((4 << 20)) ] || fail "hardly anything of $pid leaves"
done
[ "$(peer_ask $family verify)" = "right 2" ] || fail "a family with another agent"
serve_stop $family
evict_some "$one" "$one_pid"
[ "$(ask "$one" verify)" = 2048 ] || fail "verify of what has left by another agent"
[ "$(ask "$one" change)" -gt 0 ] || fail "change"
evict_some "$one" "$one_pid"
"$CTL" restore "$one_pid" >/dev/null
is_said() { [ "$(of_process "$one_pid" evicted_bytes)" = 0 ]; }
wait_until 10 "everything to be back" is_said
sleep 2 # the gate is told more often
again 1
[ "$(ask "$one" verify)" = 2048 ] || fail "verify after all was restored"
evict_some "$one" "$one_pid"
[ "$(ask "$one" verify)" = 2048 ] || fail "verify of what has left by the third agent"
[ "$(total poisoned_pages_total)" = 0 ] || fail "pages were poisoned"
"$CTL" restore "$one_pid" >/dev/null
sleep 0.5
say "a program with nothing away went through three agents"

# ---- pages are away: lost, and said; nobody else is hurt, nobody hangs ----
dies_of_sigbus() { # N PID, that is told to read what it has lost
	local status=0

	peer_tell "$1" verify
	peer_close "$1"
	wait "$2" 2>/dev/null || status=$?
	[ $status = $((128 + 7)) ] || fail "program $2 with lost pages: status $status, SIGBUS expected"
}
lost_of() { # PID: how often the log says so
	grep -c "process $1 (fill_serve, uid 0) was left by an agent that was killed, and with it [0-9]* pages" "$DIR/agent.log"
}

serve_start 8
two=$SERVED two_pid=$SERVED_PID
evict_some "$two" "$two_pid"
serve_start 8
three=$SERVED three_pid=$SERVED_PID
evict_some "$three" "$three_pid"
serve_start 4
four=$SERVED
again 4
[ "$(lost_of "$two_pid")" = 1 ] || fail "the log does not say what was lost"
[ "$(ask "$one" verify)" = 2048 ] || fail "verify of a program that had nothing to do with it"
[ "$(ask "$four" verify)" = 1024 ] || fail "verify of another one"
# What is lost stays so, for whoever comes next and when there is nobody to ask.
"$CTL" restore "$three_pid" >/dev/null
dies_of_sigbus "$three" "$three_pid"
kill_all
agent_start
wait_until 20 "the movers to come back" attached 3
[ "$(lost_of "$two_pid")" = 2 ] || fail "another agent does not know that pages are lost"
dies_of_sigbus "$two" "$two_pid"
say "programs with lost pages have got SIGBUS"
serve_stop "$one"
serve_stop "$four"

wait_until 20 "the movers to end: $(movers)" no_movers
agent_stop
say passed
