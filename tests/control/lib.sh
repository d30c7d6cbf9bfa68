# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
# For the tests of the control layer: a private bus with the shipped policy, an
# agent on it, and small assertions. Finds programs below $top_builddir and the
# sources below $USWAP_SRC. Everything it starts is ended by control_end.

set -eu

BUILD=${top_builddir:-.}
SRC=${USWAP_SRC:-$(realpath "$(dirname "${BASH_SOURCE[0]}")/../..")}
TEST=$(basename "$0")
CTL=$(realpath -m "$BUILD/ctl/uswapctl")
# shellcheck disable=SC2034
LIB=$(realpath -m "$BUILD/preload/libuswap.so")
FACTOR=${USWAP_TIME_FACTOR:-1}
# shellcheck disable=SC2034
NOBODY=(setpriv --reuid 65534 --regid 65534 --clear-groups)
DIR=
AGENT=
AGENT_PID=
BUS_PID=

say() { echo "$TEST: $*"; }

skip() {
	if [ "${USWAP_REQUIRE:-0}" = 1 ]; then
		echo "$TEST: required, but can't run: $*" >&2
		exit 1
	fi
	say "skipped: $*"
	exit 77
}

# Said again behind the log; without a word, the first command that ended the test.
WHERE=
fail() {
	echo "$TEST: FAILED: $*" >&2
	[ -z "$DIR" ] || echo "$TEST: FAILED: $*" >>"$DIR/why"
	exit 1
}

control_end() {
	local status=$? pid

	trap - EXIT ERR
	set +e
	for pid in $(jobs -p); do # not by numbers that may be others' now
		kill -KILL "$pid" 2>/dev/null
	done
	wait 2>/dev/null
	if [ $status -ne 0 ] && [ $status -ne 77 ] && [ -e "$DIR/agent.log" ]; then
		echo "--- agent log" >&2
		tail -n 40 "$DIR/agent.log" >&2
	fi
	if [ $status -ne 0 ] && [ $status -ne 77 ]; then
		echo "--- status $status${WHERE:+; $WHERE}" >&2
		tail -n 5 "$DIR/why" >&2
	fi
	[ -z "$DIR" ] || rm -rf "$DIR"
	exit $status
}

# control_begin AGENT PROGRAM...: programs that must be installed
control_begin() {
	local name

	AGENT=$(realpath -m "$BUILD/$1")
	shift
	[ "$(id -u)" = 0 ] || skip "not root"
	for name in busctl dbus-daemon setpriv python3 "$@"; do
		command -v "$name" >/dev/null || skip "$name is not installed"
	done
	[ -x "$AGENT" ] || fail "$AGENT is not built"
	[ -x "$CTL" ] || fail "$CTL is not built"
	DIR=$(mktemp -d "${TMPDIR:-/tmp}/uswap-control.XXXXXX")
	chmod 755 "$DIR"
	: >"$DIR/why"
	set -E
	trap 'WHERE=${WHERE:-line $LINENO: $BASH_COMMAND}' ERR
	trap control_end EXIT
	trap 'exit 130' INT TERM
	unset USWAP_SOCKET USWAP_BUS_ADDRESS LD_PRELOAD NOTIFY_SOCKET LISTEN_FDS LISTEN_PID
	BUS=unix:path=$DIR/bus.sock
	export DBUS_SYSTEM_BUS_ADDRESS=$BUS
	SOCKET=$DIR/run/agent.sock
	sed "s,@DIR@,$DIR,; s,@POLICY@,$SRC/contrib/dbus/org.uswap1.conf," \
		"$SRC/tests/control/bus.conf.in" >"$DIR/bus.conf"
	cat >"$DIR/uswap.conf" <<-'END'
		[Policy]
		ScanSec=0.05
		GraceSec=0.05
		StallBudget=100%
		MinResident=0
		StartDelaySec=0
	END
}

# nap SECONDS: without a process. Nobody writes into this pipe.
exec {NEVER}<> <(:)
nap() { read -rt "$1" -u "$NEVER" _ || :; }

# wait_until SECONDS WHAT COMMAND...
wait_until() {
	local end=$((SECONDS + $1 * FACTOR)) what=$2

	shift 2
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || fail "still waiting: $what"
		nap 0.05
	done
}

# Not only bound.
listens() {
	grep -q " 00010000 .* $1\$" /proc/net/unix
}

bus_start() {
	rm -f "$DIR/bus.sock"
	dbus-daemon --config-file="$DIR/bus.conf" --nofork --nopidfile 2>>"$DIR/bus.log" &
	BUS_PID=$!
	wait_until 10 "the bus" listens "$DIR/bus.sock"
}

bus_stop() {
	kill "$BUS_PID"
	wait "$BUS_PID" 2>/dev/null || :
}

agent_gone() { ! kill -0 "$AGENT_PID"; }

# agent_start [OPTION...]; not on the bus unless told
agent_start() {
	"$AGENT" --config "$DIR/uswap.conf" --socket "$SOCKET" --store memory:256M --foreground \
		"$@" >>"$DIR/agent.log" 2>&1 &
	AGENT_PID=$!
	wait_until 10 "the agent" listens "$DIR/run/control.sock"
}

# SIGTERM: it must end by itself, with 0
agent_stop() {
	local status=0

	kill -TERM "$AGENT_PID"
	wait_until 30 "the agent to end" agent_gone
	wait "$AGENT_PID" || status=$?
	[ $status = 0 ] || fail "the agent ended with status $status"
}

has_name() {
	[ "$(b call org.freedesktop.DBus /org/freedesktop/DBus org.freedesktop.DBus NameHasOwner \
		s org.uswap1)" = "b true" ]
}

b() { busctl --address="$BUS" --no-pager "$@"; }
manager() { b call org.uswap1 /org/uswap1 org.uswap1.Manager "$@"; }
property() { b get-property org.uswap1 /org/uswap1 org.uswap1.Manager "$1"; }
set_property() { b set-property org.uswap1 /org/uswap1 org.uswap1.Manager "$@"; }
beside() { USWAP_SOCKET=$SOCKET "$CTL" "$@"; }

# expect STATUS PATTERN COMMAND...: exit status, and what its output contains
expect() {
	local want=$1 pattern=$2 status=0

	shift 2
	if [ "$(type -t "$1")" = file ]; then
		set -- timeout $((60 * FACTOR)) "$@"
	fi
	"$@" >"$DIR/out" 2>&1 </dev/null || status=$?
	[ $status = "$want" ] || fail "$*: status $status, not $want: $(cat "$DIR/out")"
	[ -z "$pattern" ] || grep -qF -e "$pattern" "$DIR/out" || fail "$*: no \"$pattern\" in: $(cat "$DIR/out")"
}

# is WHAT GOT WANTED
is() { [ "$2" = "$3" ] || fail "$1: $2, not $3"; }

# compare_interface FILE.xml OBJECT: the description in the tree and the agent's
compare_interface() {
	b --json=short call org.uswap1 "$2" org.freedesktop.DBus.Introspectable Introspect |
		python3 -c 'import json, sys; print(json.load(sys.stdin)["data"][0])' >"$DIR/seen.xml"
	python3 "$SRC/tests/control/compare_xml.py" "$SRC/contrib/dbus/$1" "$DIR/seen.xml" ||
		fail "$1 and the agent differ"
}
