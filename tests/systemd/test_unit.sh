#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The installed tree in a container with a real systemd as PID 1: the unit
# starts and says it is ready, an ordinary user's program attaches, its memory
# leaves and comes back over the system bus, a stop gives everything back, and
# a program that attaches starts the agent.
set -eu
src=$(realpath "${srcdir:-.}")
build=$(realpath "${top_builddir:-.}")
name=uswap-test-$$
say() { echo "test_unit: $*"; }
skip() {
	say "skipped: $*"
	exit 77
}
[ "$(id -u)" = 0 ] || skip "not root"
for tool in unshare nsenter findmnt jq ip; do
	command -v $tool >/dev/null || skip "$tool is not installed"
done
[ -x /lib/systemd/systemd ] || skip "systemd is not installed"
[ -x "$(command -v dbus-daemon)" ] || skip "dbus-daemon is not installed"
[ -n "$(findmnt -n -t cgroup2 -o TARGET | head -n 1)" ] || skip "no cgroup2 hierarchy is mounted"
[ -c /dev/userfaultfd ] || skip "no /dev/userfaultfd"
unshare --pid --fork --mount --uts --ipc --cgroup --net true 2>/dev/null ||
	skip "namespaces can't be made here"
[ -x "$build/agent/uswap-agent" ] || { say "uswap-agent is not built"; exit 1; }
reason=$("$build/tests/workloads/have_move") || skip "$reason"

dir=$(mktemp -d "${TMPDIR:-/tmp}/uswap-systemd.XXXXXX")
chmod 755 "$dir"
box() { "$src/scripts/sdbox" "$name" exec "$@"; }
cleanup() {
	local status=$?
	trap - EXIT
	set +e
	if [ $status -ne 0 ] && [ $status -ne 77 ]; then
		echo "---- journal of the agent"
		box journalctl -u uswap-agent --no-pager -n 60
		echo "---- status"
		box systemctl status --no-pager uswap-agent uswap-agent.socket
		box systemctl --failed --no-pager
	fi
	"$src/scripts/sdbox" "$name" stop
	rm -rf "$dir"
	exit $status
}
trap cleanup EXIT
trap 'exit 1' INT TERM HUP
fail() {
	say "FAILED: $*" >&2
	exit 1
}
wait_until() { # SECONDS WHAT COMMAND...
	local end=$((SECONDS + $1)) what=$2
	shift 2
	until "$@"; do
		[ $SECONDS -lt $end ] || fail "still waiting: $what"
		sleep .1
	done
}

# ---- install: a build of its own, since the places are compiled in ----
mkdir "$dir/build"
(
	cd "$dir/build"
	"$src/configure" --quiet --prefix=/usr --sysconfdir=/etc --localstatedir=/var \
		CC="${CC:-gcc}" && make -s -j "$(nproc)" all &&
		make -s install DESTDIR="$dir/stage"
) >"$dir/install.log" 2>&1 || {
	tail -n 40 "$dir/install.log"
	fail "make install DESTDIR="
}
cp "$build/tests/workloads/fill_serve" "$dir/stage/usr/bin/uswap-test-work"
mkdir -p "$dir/stage/etc/uswap/uswap.conf.d"
cat >"$dir/stage/etc/uswap/uswap.conf.d/test.conf" <<'END'
[Policy]
StartDelaySec=0
MinResident=0
END
chmod -R go+rX "$dir/stage"

# ---- boot ----
SDBOX_LAYER=$dir/stage SDBOX_KEEP="dbus.service dbus.socket" \
	"$src/scripts/sdbox" "$name" start / || {
	# other units of this machine may fail in a box; ours must not
	say "the box is up, but not all of its units"
	box systemctl --failed --no-pager || skip "systemd does not boot here"
}
say "$(box systemctl --version | head -n 1)"
box systemd-sysusers
box systemd-tmpfiles --create /usr/lib/tmpfiles.d/uswap.conf
[ "$(box stat -c '%U:%G %a' /dev/userfaultfd)" = "root:uswap 660" ] ||
	fail "/dev/userfaultfd: $(box stat -c '%U:%G %a' /dev/userfaultfd)"
box systemd-analyze verify /usr/lib/systemd/system/uswap-agent.service \
	/usr/lib/systemd/system/uswap-agent.socket 2>&1 | grep -i uswap >"$dir/verify" || :
if grep -v -E 'Unknown key|notify-reload|RestartSteps|RestartMaxDelaySec' "$dir/verify"; then
	fail "systemd-analyze verify"
fi
box systemctl daemon-reload

# ---- start: READY, and that's an ordinary user with one capability ----
box systemctl enable -q uswap-agent
box systemctl start uswap-agent
[ "$(box systemctl is-active uswap-agent)" = active ] || fail "not active"
pid=$(box systemctl show -P MainPID uswap-agent)
[ "$(box ps -o user= -p "$pid")" = uswap ] || fail "runs as $(box ps -o user= -p "$pid")"
# 1 << 19: CAP_SYS_PTRACE
[ "$(box sed -n 's/^CapEff:\t0*//p' "/proc/$pid/status")" = 80000 ] ||
	fail "capabilities: $(box grep Cap "/proc/$pid/status")"
box systemctl show -P StatusText uswap-agent
box systemctl reload uswap-agent
[ "$(box systemctl is-active uswap-agent)" = active ] || fail "not active after a reload"
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
	read -r -t 30 answer <&"${WORK[0]}" || fail "the program did not start: $answer"
	work=${answer#ready }
	wait_until 20 "the program to be attached" stats "$work" >"$dir/attached"
}
ask() { # COMMAND, the answer that must come
	echo "$1" >&"${WORK[1]}"
	read -r -t 60 answer <&"${WORK[0]}" || fail "$1: no answer"
	[[ $answer == "$2"* ]] || fail "$1: $answer"
}
end_work() {
	ask verify right
	say "$answer pages"
	ask quit bye
	wait "$worker" || fail "the program ended with status $?"
}
start_work
as_user uswapctl status >/dev/null || fail "uswapctl status as an ordinary user"
say "attached: $(stats "$work" | jq -c '.processes[0] | {pid, uid, state, resident_bytes}')"

box uswapctl evict "$work"
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
	[ "$(box systemctl is-active uswap-agent || :)" = active ] && [ "$(main_pid)" != "$1" ]
}
is_served() {
	[ "$(stats "$work" 2>/dev/null | value evicted_bytes)" -ge $((32 << 20)) ] 2>/dev/null
}
survives() { # WHAT COMMAND...
	local what=$1 old
	shift
	old=$(main_pid)
	box uswapctl evict "$work" >/dev/null
	"$@"
	wait_until 30 "another agent after $what" is_another "$old"
	wait_until 20 "the program to be served by it, after $what" is_served
	ask verify right
	say "$what with pages away: $answer pages right, $(stored) descriptors stored"
}
kill_both() {
	local main
	main=$(main_pid)
	# shellcheck disable=SC2046
	box kill -KILL "$main" $(box pgrep -P "$main")
}
[ "$(stored)" -ge 15 ] || fail "only $(stored) descriptors are stored"
survives "kill -9 of keeper and worker" kill_both
survives "a restart" box systemctl restart uswap-agent
box systemctl daemon-reexec
survives "daemon-reexec and kill -9" kill_both
# the worker alone: the service's process stays
main=$(main_pid)
box uswapctl evict "$work" >/dev/null
box kill -KILL "$(box pgrep -P "$main")"
wait_until 20 "the program to be served by a new worker" is_served
ask verify right
[ "$(main_pid)" = "$main" ] || fail "the keeper is another one"
[ "$(box systemctl show -P NRestarts uswap-agent)" -le 3 ] || fail "restarted without need"
say "kill -9 of the worker with pages away: $answer pages right"

# ---- stop: everything is given back, the program goes on ----
box uswapctl evict "$work"
box systemctl stop uswap-agent
[ "$(box systemctl show -P Result uswap-agent)" = success ] || fail "the stop has failed"
say "stopped with $evicted bytes out, the program goes on without the agent"
end_work

# ---- socket activation ----
box systemctl start uswap-agent.socket
[ "$(box systemctl is-active uswap-agent || :)" = inactive ] || fail "started without need"
start_work
[ "$(box systemctl is-active uswap-agent)" = active ] || fail "not started by its socket"
box uswapctl evict "$work"
end_work
box systemctl stop uswap-agent.socket uswap-agent

# ---- D-Bus activation ----
if box busctl --no-pager call org.uswap1 /org/uswap1 org.freedesktop.DBus.Properties Get ss \
	org.uswap1.Manager Version >"$dir/version" 2>&1; then
	say "activated over D-Bus: $(cat "$dir/version")"
else
	fail "D-Bus activation: $(cat "$dir/version")"
fi

# ---- and nothing is wrong ----
box journalctl -u uswap-agent --no-pager -o cat -p err |
	grep -v -e 'the worker was killed by signal 9' >"$dir/errors" || :
if [ -s "$dir/errors" ]; then
	cat "$dir/errors"
	fail "errors in the journal"
fi
# offline, so that it scores what is shipped
say "$(box systemd-analyze security --no-pager uswap-agent.service 2>&1 | tail -n 1)"
say passed
