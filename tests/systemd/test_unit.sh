#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The installed tree in a container with a real systemd as PID 1: the unit
# starts and says it is ready, an ordinary user's program attaches, its memory
# leaves and comes back over the system bus, a stop gives everything back, and
# a program that attaches starts the agent. Then what goes wrong: kills in a row,
# a fault thread that hangs, a stop without memory, another build, a machine that
# goes down with pages away.
# shellcheck source=tests/systemd/lib.sh
. "${srcdir:-.}/tests/systemd/lib.sh"
# shellcheck source=tests/live/points.sh
. "${srcdir:-.}/tests/live/points.sh"
# shellcheck source=tests/live/storm.sh
. "${srcdir:-.}/tests/live/storm.sh"

# ---- install and boot ----
box_install all tests/systemd/older_agent
cp "$build/tests/workloads/fill_serve" "$dir/stage/usr/bin/uswap-test-work"
for one in fork threads mremap madvise; do
	cp "$build/tests/workloads/${one}_verify" "$dir/stage/usr/lib/uswap-test"
done
cp "$installed/tests/systemd/older_agent" "$dir/stage/usr/sbin/uswap-agent.older"
cp "$dir/stage/usr/sbin/uswap-agent" "$dir/stage/usr/sbin/uswap-agent.newer"
printf '%s\n' '[Store]' Store=memory:25% Store=file:/var/lib/uswap,size=64M >"$dir/stage/etc/uswap/uswap.conf.d/store.conf"
box_boot
[ "$(box stat -c '%U:%G %a' /dev/userfaultfd)" = "root:uswap 660" ] ||
	fail "/dev/userfaultfd: $(box stat -c '%U:%G %a' /dev/userfaultfd)"
box systemd-analyze verify /usr/lib/systemd/system/uswap-agent.service \
	/usr/lib/systemd/system/uswap-agent.socket 2>&1 | grep -i uswap >"$dir/verify" || :
if grep -v -E 'Unknown key|notify-reload' "$dir/verify"; then
	fail "systemd-analyze verify"
fi
drop_in() { # NAME LINE...
	box mkdir -p /etc/systemd/system/uswap-agent.service.d
	printf '%s\n' '[Service]' "${@:2}" | box tee "/etc/systemd/system/uswap-agent.service.d/$1.conf" >/dev/null
	box systemctl daemon-reload
}
inject() { # POINT HOW: common/inject.h
	# not to be passed, never hit
	printf '%b\0\0\0\0\0\0\0\0\0\0\0%b\0\0\0' "\0$(printf %o "$(point_number "$1")")" "\0$2" |
		box dd of=/run/uswap/inject conv=notrunc status=none
}
box sh -c 'head -c 4096 /dev/zero >/run/uswap/inject; chown uswap /run/uswap/inject'
drop_in inject Environment=USWAP_INJECT=/run/uswap/inject

journal() { # all that was said before
	box journalctl --sync || :
	box journalctl -u uswap-agent --no-pager -o cat "$@"
}

# ---- start: READY, and that's an ordinary user with one capability ----
box systemctl enable -q uswap-agent
box systemctl start uswap-agent
[ "$(box systemctl is-active uswap-agent)" = active ] || fail "not active"
pid=$(box systemctl show -P MainPID uswap-agent)
[ "$(box ps -o user= -p "$pid")" = uswap ] || fail "runs as $(box ps -o user= -p "$pid")"
# 1 << 19: CAP_SYS_PTRACE
[ "$(box sed -n 's/^CapEff:\t0*//p' "/proc/$pid/status")" = 80000 ] ||
	fail "capabilities: $(box grep Cap "/proc/$pid/status")"
# the last to be killed, its memory its own: what the manager was told, and what may be done here
settings=$(box systemctl show -p OOMScoreAdjust -p OOMPolicy -p MemoryMin -p MemorySwapMax -p LimitMEMLOCK -p LimitNOFILE \
	uswap-agent | sort | xargs)
[ "$settings" = "LimitMEMLOCK=infinity LimitNOFILE=524288 MemoryMin=$((64 << 20)) MemorySwapMax=0 OOMPolicy=continue OOMScoreAdjust=-900" ] ||
	fail "settings: $settings"
# shellcheck disable=SC2016
adjust=$(box sh -c 'echo -900 >/proc/$$/oom_score_adj; cat /proc/$$/oom_score_adj' 2>/dev/null)
[ "$adjust" = -900 ] || say "nobody may lower oom_score_adj in the box: it is not looked at"
for one in $pid $(box pgrep -P "$pid"); do
	[ "$adjust" != -900 ] || [ "$(box cat "/proc/$one/oom_score_adj")" = -900 ] || fail "$one: oom_score_adj"
done
group=/sys/fs/cgroup$(box systemctl show -P ControlGroup uswap-agent)
if box test -e "$group/memory.min"; then
	[ "$(box cat "$group/memory.min" "$group/memory.swap.max" | xargs)" = "$((64 << 20)) 0" ] || fail "memory.min, memory.swap.max"
else
	say "the box has no memory controller: memory.min is not looked at"
fi
box systemctl show -P StatusText uswap-agent
box uswapctl --json stats | jq -e '.agent.tiers[1] | .name == "file" and .state == "up"' >/dev/null ||
	fail "no file store: $(box uswapctl --json stats | jq -c .agent.tiers)"
box systemctl reload uswap-agent
is_active() { [ "$(box systemctl is-active uswap-agent || :)" = active ]; }
wait_until 20 "the agent to be active after a reload" is_active
box busctl --no-pager status org.uswap1 >/dev/null || fail "org.uswap1 is not on the system bus"

# ---- a program of an ordinary user ----
stats() { box uswapctl --json stats "$@"; }
value() { jq -er ".processes[0].$1"; }
as_user() { box setpriv --reuid 60000 --regid 60000 --clear-groups "$@"; }

# fill_serve obeys its standard input, a line each, an answer each
start_work() { # its pid in $work
	coproc WORK {
		as_user uswapctl run -- uswap-test-work 64 2>&1
	}
	worker=$WORK_PID
	answer=
	read -r -t $((100 * ${USWAP_TIME_FACTOR:-1})) answer <&"${WORK[0]}" || fail "the program did not start: $answer"
	work=${answer#ready }
	wait_until 20 "the program to be attached" stats "$work" >"$dir/attached"
}
ask() { # COMMAND, the answer that must come
	echo "$1" >&"${WORK[1]}"
	read -r -t $((200 * ${USWAP_TIME_FACTOR:-1})) answer <&"${WORK[0]}" || fail "$1: no answer"
	[[ $answer == "$2"* ]] || fail "$1: $answer"
}
end_work() {
	ask verify right
	say "$answer pages"
	ask quit bye
	wait "$worker" || fail "the program ended with status $?"
}
# not before its mover is there
evicts() { box uswapctl evict "$work" >"$dir/evicted" 2>&1; }
evict_work() { wait_until 20 "$work to be evicted" evicts; }
start_work
as_user uswapctl status >/dev/null || fail "uswapctl status as an ordinary user"
say "attached: $(stats "$work" | jq -c '.processes[0] | {pid, uid, state, resident_bytes}')"

evict_work
evicted=$(stats "$work" | value evicted_bytes)
[ "$evicted" -ge $((48 << 20)) ] || fail "only $evicted bytes of 64 MiB have left"
box uswapctl restore "$work"
# the policy may take some again at once
[ "$(stats "$work" | value evicted_bytes)" -lt "$evicted" ] || fail "nothing came back"
if as_user uswapctl evict "$work" 2>"$dir/refused"; then fail "an ordinary user may evict"; fi
say "an ordinary user is refused: $(tail -n 1 "$dir/refused")"

# ---- killed, restarted: the programs stay attached, with their pages away ----
main_pid() { box systemctl show -P MainPID uswap-agent; }
stored() { box systemctl show -P NFileDescriptorStore uswap-agent; }
is_another() { # PID: it is active, and not with that one
	local main

	is_active && main=$(main_pid) && [ "${main:-0}" -gt 1 ] && [ "$main" != "$1" ]
}
is_served() {
	[ "$(stats "$work" 2>/dev/null | value evicted_bytes)" -ge $((32 << 20)) ] 2>/dev/null
}
survives() { # WHAT COMMAND...
	local what=$1 old
	shift
	old=$(main_pid)
	evict_work
	ask longest longest
	"$@"
	ask work right
	ask longest longest
	pause=${answer#* }
	wait_until 30 "another agent after $what" is_another "$old"
	wait_until 20 "the program to be served by it, after $what" is_served
	ask verify right
	say "$what with pages away: $answer pages right, the longest touch $pause us, $(stored) descriptors stored"
}
# not the holder, which is started before it and has that name, too, for a moment
worker_of() { box pgrep -P "$1" -x uswap-agent | tail -n 1; }
kill_both() {
	local main
	main=$(main_pid)
	box kill -KILL "$main" "$(worker_of "$main")" || : # the second goes with the first
}
[ "$(stored)" -ge 15 ] || fail "only $(stored) descriptors are stored"
survives "kill -9 of keeper and worker" kill_both
survives "a restart" box systemctl restart --no-block uswap-agent
# it returns when the manager begins with it
main=$(main_pid)
box systemctl daemon-reexec
is_main() { [ "$(main_pid 2>/dev/null)" = "$main" ]; }
wait_until 20 "the manager to be back" is_main
survives "daemon-reexec and kill -9" kill_both
# the worker alone: the service's process stays
main=$(main_pid)
evict_work
ask longest longest
box kill -KILL "$(worker_of "$main")"
ask work right
ask longest longest
pause=${answer#* }
wait_until 20 "the program to be served by a new worker" is_served
ask verify right
[ "$(main_pid)" = "$main" ] || fail "the keeper is another one"
[ "$(box systemctl show -P NRestarts uswap-agent)" -le 3 ] || fail "restarted without need"
say "kill -9 of the worker with pages away: $answer pages right, the longest touch $pause us"

# ---- keeper and worker, when a fork child has just been read ----
# 1: the keeper is killed as well. 5: and the manager had no time for it before.
for how in FORK_READ=1 FORK_NAMED=1 EVENT_TAKEN=1 FORK_KNOWN=5; do
	old=$(main_pid)
	evict_work
	inject "${how%=*}" "${how#*=}"
	ask fork right
	wait_until 30 "another agent after $how" is_another "$old"
done
inject NONE 0
ask verify right
say "keeper and worker killed with a fork child just read: $answer pages right"

# ---- killed again and again, under programs that verify every byte ----
# More often than any start limit allows; the manager itself executes anew meanwhile.
storm() { # until $dir/share/storm is gone
	# shellcheck disable=SC2016
	as_user sh -c 'while [ -e "$0" ]; do for one in "fork_verify 1" "threads_verify 1 3" "mremap_verify 1" \
			"madvise_verify 1"; do
			uswapctl run --allow-unmanaged -- /usr/lib/uswap-test/$one || { echo "$one: $?"; exit 1; }
			[ -e "$0" ] || break
		done; done' "$dir/share/storm" >"$dir/storm.log" 2>&1
}
# A soak has a server and a language with a heap of its own in it as well.
REDIS=$dir/share/redis.sock
note() { echo "$*" >>"$dir/failed"; }
more_storms() {
	: >"$dir/failed"
	cp "$src/tests/live/storm.py" "$dir/share"
	as_user uswapctl run -- redis-server --port 0 --unixsocket "$REDIS" --unixsocketperm 777 --dir "$dir/share" \
		--save '' --enable-debug-command local >"$dir/redis.log" 2>&1 &
	wait_until 30 "redis-server to answer" redis_up
	redis_fill
	redis_storm "$dir/share/storm" >"$dir/redis.out" &
	storms+=($!)
	as_user uswapctl run -- python3 "$dir/share/storm.py" "$dir/share/storm" >"$dir/python.out" 2>&1 &
	storms+=($!)
}
kill_in_the_box() { # HOW MANY; every other time the keeper too, and once the manager
	# shellcheck disable=SC2016
	box bash -c 'for ((i = 1; i <= $0; i++)); do
			until main=$(systemctl show -P MainPID uswap-agent) && [ "$main" -gt 1 ] &&
				pgrep -P "$main" -x uswap-holder >/dev/null &&
				worker=$(pgrep -P "$main" -x uswap-agent); do sleep .02; done
			timeout 5 uswapctl status >/dev/null 2>&1 || : # who is asked keeps what it has counted
			if [ $((i % 2)) = 0 ]; then kill -KILL "$main" $worker; else kill -KILL $worker; fi 2>/dev/null
			[ "$i" != 5 ] || systemctl daemon-reexec
			sleep "0.$((RANDOM % 4))"
		done' "$1"
}
hits() { box od -An -tu4 -j8 -N4 /run/uswap/inject | tr -d ' '; }
at_points() { # once at each that the storms come to, every other time the keeper too
	local point reached=0 both=0 missed=

	for point in $(points); do
		[ "$point" != RECOVER_NOMEM ] || continue # nobody is killed there
		inject "$point" $both
		both=$((1 - both))
		[[ $point != RECOVER_* ]] || box kill -KILL "$(worker_of "$(main_pid)")" || :
		for ((i = 0; i < 30; i++)); do
			[ "$(hits)" = 0 ] || break
			sleep .1
		done
		if [ "$(hits)" = 0 ]; then missed+=" $point"; else reached=$((reached + 1)); fi
	done
	inject NONE 0
	say "killed at $reached named points, not reached:$missed"
	[ $reached -ge 18 ] || fail "vacuous: hardly any point was reached"
}
total() { box uswapctl --json stats | jq -er ".agent.$1"; }
kills=10
[ -z "${SOAK_MINUTES:-}" ] || kills=$((SOAK_MINUTES * 60))
# what a reload has brought holds for the workers after it
printf '%s\n' '[Policy]' ScanSec=0.05 GraceSec=0.05 StallBudget=100% | box tee /etc/uswap/uswap.conf.d/storm.conf >/dev/null
box systemctl reload uswap-agent
touch "$dir/share/storm"
storm &
storms=($!)
[ -z "${SOAK_MINUTES:-}" ] || more_storms
before=$(total pages_out_total)
kill_in_the_box $kills
[ -z "${SOAK_MINUTES:-}" ] || at_points
left=0
have_left() { # under the storm, however little of it went on between the kills
	left=$(($(total pages_out_total 2>/dev/null) - before))
	[ $left -ge 1000 ]
}
wait_until 200 "1000 pages to have left after $kills kills" have_left
rm "$dir/share/storm"
for one in "${storms[@]}"; do
	wait "$one" || fail "a program under kills: $(tail -n 3 "$dir"/{storm.log,*.out})"
done
if [ -n "${SOAK_MINUTES:-}" ]; then
	[ ! -s "$dir/failed" ] || fail "$(cat "$dir/failed")"
	cli shutdown nosave
	say "redis $(cat "$dir/redis.out"), python $(cat "$dir/python.out")"
fi
ask verify right
say "$kills kills, $(box systemctl show -P NRestarts uswap-agent) restarts: $answer pages right," \
	"$left have left meanwhile"

box rm /etc/uswap/uswap.conf.d/storm.conf

# ---- a fault thread hangs: the watchdog has it started anew ----
drop_in watchdog WatchdogSec=3s
box systemctl restart uswap-agent
evict_work
old=$(main_pid)
inject PLACED 2 # the thread hangs
ask verify right
[ "$(main_pid)" != "$old" ] || fail "the fault thread has not hung"
journal -n 200 >"$dir/journal"
grep -q 'a fault thread does not answer' "$dir/journal" || fail "nobody noticed the thread"
grep -qi 'watchdog timeout' "$dir/journal" || fail "it was not the watchdog"
say "a fault thread that hangs: the watchdog has fired, $answer pages right"
box rm /etc/systemd/system/uswap-agent.service.d/watchdog.conf

# ---- no memory for a stop: it says so, and goes on ----
available() { # KIB; in place, since the file is bound over the kernel's
	sed "s/^MemAvailable:.*/MemAvailable: $1 kB/" /proc/meminfo | box tee /run/meminfo >/dev/null
}
starve() {
	available 4
	box nsenter -t "$(main_pid)" -m mount --bind /run/meminfo /proc/meminfo
}
says() { [[ $(box systemctl show -P StatusText uswap-agent) == *"$1"* ]]; }
drop_in patience TimeoutStopSec=5s
box systemctl restart uswap-agent
wait_until 20 "the program to be there" stats "$work" >"$dir/attached"
starve
evict_work
status=0
box uswapctl drain >"$dir/refused" 2>&1 || status=$?
[ $status = 1 ] || fail "drain without memory: $status, $(cat "$dir/refused")"
grep -q 'takes .* of memory, and .* are available' "$dir/refused" || fail "drain: $(cat "$dir/refused")"
box systemctl stop --no-block uswap-agent
wait_until 10 "the agent to say that it can't stop" says "Can't stop yet. Restoring everything takes"
sleep 6 # longer than the manager would wait
[ "$(box systemctl show -P ActiveState uswap-agent)" = deactivating ] || fail "it was not waited for"
ask work right # some of them: for all there would be memory when they are back
say "a stop without memory: $(box systemctl show -P StatusText uswap-agent | cut -c1-90)..., programs are served"
# what would be lost is not left; where it is kept, another start takes it. Then there
# is memory: everything is given back, the program goes on without the agent
ended() { # for the manager too
	! box pgrep '^uswap-[ah]' >/dev/null &&
		[[ $(box systemctl is-active uswap-agent || :) =~ ^(inactive|failed)$ ]]
}
if [ "$(box systemctl show -P FileDescriptorStorePreserve uswap-agent)" = yes ]; then
	box uswapctl drain --leave
	wait_until 10 "the agent to leave" ended
	box systemctl start uswap-agent
	wait_until 20 "the program to be served by another start" is_served
	ask verify right
	evict_work
	say "left to a later start, which serves it: $answer pages right"
	box systemctl stop uswap-agent
else
	if box uswapctl drain --leave >"$dir/refused" 2>&1; then fail "programs are left to nobody"; fi
	grep -q 'systemd 254' "$dir/refused" || fail "drain --leave: $(cat "$dir/refused")"
	say "not left to a later start: $(cat "$dir/refused")"
	available 40000000
	wait_until 30 "the stop, when there is memory" ended
fi
[ "$(box systemctl show -P Result uswap-agent)" = success ] || fail "the stop has failed"
journal -n 60 | grep -m 1 'stopping: .* of 1 programs to be restored' ||
	fail "no progress was told"
end_work

# ---- socket activation ----
box systemctl start uswap-agent.socket
[ "$(box systemctl is-active uswap-agent || :)" = inactive ] || fail "started without need"
start_work
wait_until 20 "the agent to be started by its socket" is_active
evict_work
end_work
box systemctl stop uswap-agent.socket uswap-agent

# ---- another build, whose kept memory is of the layouts before ----
use() { # it has the name, whoever runs
	box sh -c "cp '/usr/sbin/uswap-agent.$1' /usr/sbin/uswap-agent.new && mv /usr/sbin/uswap-agent.new /usr/sbin/uswap-agent"
}
use older
box systemctl start uswap-agent
start_work
use newer
survives "a restart with a newer build" box systemctl restart uswap-agent
evict_work
use older
held=$(stored)
if box systemctl restart uswap-agent 2>/dev/null; then fail "an older agent has started over a newer one's"; fi
sleep 1.5 # it is started again, too
journal -n 200 | grep -m 1 'served by a newer agent, .*start that one again' ||
	fail "the older one does not say what to do"
[ "$(stored)" -ge "$held" ] || fail "$(stored) descriptors are kept of $held"
use newer
box systemctl restart uswap-agent
wait_until 20 "the program to be served by the newer one again" is_served
ask verify right
say "an older build leaves it alone; the newer one again: $answer pages right"
end_work

# ---- D-Bus activation ----
if box busctl --no-pager call org.uswap1 /org/uswap1 org.freedesktop.DBus.Properties Get ss \
	org.uswap1.Manager Version >"$dir/version" 2>&1; then
	say "activated over D-Bus: $(cat "$dir/version")"
else
	fail "D-Bus activation: $(cat "$dir/version")"
fi

# offline, so that it scores what is shipped
say "$(box systemd-analyze security --no-pager uswap-agent.service 2>&1 | tail -n 1)"

# ---- and nothing is wrong ----
journal | grep -q 'the worker was killed by signal 9' || fail "the journal is not to be had"
journal -p err |
	grep -v -e 'the worker was killed by signal 9' -e 'a fault thread does not answer' \
		-e 'Watchdog timeout' -e "can't stop yet" -e 'served by a newer agent' -e 'Failed to start' >"$dir/errors" || :
if [ -s "$dir/errors" ]; then
	cat "$dir/errors"
	fail "errors in the journal"
fi
# ---- the machine goes down with pages away, and no memory for them ----
# whoever runs under uswap ends before the agent
[[ " $(box systemctl show -P Before uswap-agent) " == *" systemd-user-sessions.service "* ]] ||
	fail "people's sessions end after the agent"
box tee /etc/systemd/system/uswap-test.service >/dev/null <<END
[Unit]
After=uswap-agent.service
[Service]
User=nobody
ExecStart=/bin/sh -c 'exec uswapctl run -- uswap-test-work 32 <>"$dir/share/in" >"$dir/share/out"'
ExecStop=/bin/sh -c 'echo verify >"$dir/share/in"; until grep -q right "$dir/share/out"; do sleep .1; done'
ExecStop=/bin/sh -c 'test -e "$dir/share/agent-ended" || echo in order >>"$dir/share/out"'
END
mkfifo -m 666 "$dir/share/in"
drop_in ended "ExecStopPost=+/bin/touch $dir/share/agent-ended"
box systemctl restart uswap-agent
box systemctl start uswap-test
wait_until 20 "the service to be ready" grep -q ready "$dir/share/out"
work=$(sed -n 's/^ready //p' "$dir/share/out")
wait_until 20 "the service to be attached" stats "$work" >"$dir/attached"
starve
evict_work
rm -f "$dir/share/agent-ended" # of the restart
init=$("$src/scripts/sdbox" "$name" pid)
box systemctl poweroff
gone() { ! kill -0 "$init" 2>/dev/null; }
wait_until 50 "the machine to be off" gone
if ! grep -q '^right' "$dir/share/out" || ! grep -q 'in order' "$dir/share/out"; then
	fail "the service at the end: $(tail -n 2 "$dir/share/out")"
fi
say "the machine is off, the service has ended before the agent: $(grep '^right' "$dir/share/out") pages"
say passed
