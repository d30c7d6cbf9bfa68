#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# A program that outgrows the memory limit of its control group is killed
# without uswap. With it cold pages leave in time, what comes back finds room,
# and every byte is right. An agent at its own limit takes no more.
# shellcheck source=tests/live/lib.sh
. "${srcdir:-.}/tests/live/lib.sh"

LIMIT_MIB=48


# Sets GROUPS_ROOT to where groups with a memory limit can be made.
find_controller() {
	if [ -e /sys/fs/cgroup/memory/memory.limit_in_bytes ]; then
		GROUPS_ROOT=/sys/fs/cgroup/memory
		LIMIT_FILE=memory.limit_in_bytes
		USAGE_FILE=memory.usage_in_bytes
		KILLS_FILE=memory.oom_control
	elif grep -qw memory /sys/fs/cgroup/cgroup.controllers 2>/dev/null &&
		echo +memory >/sys/fs/cgroup/cgroup.subtree_control 2>/dev/null; then
		GROUPS_ROOT=/sys/fs/cgroup
		LIMIT_FILE=memory.max
		USAGE_FILE=memory.current
		KILLS_FILE=memory.events
	else
		skip "no memory controller of control groups"
	fi
}

# group_make NAME MIB
group_make() {
	mkdir -p "$GROUPS_ROOT/$1" || skip "no control group can be made"
	echo $(($2 << 20)) >"$GROUPS_ROOT/$1/$LIMIT_FILE" || skip "no limit can be set"
}

in_group() { # NAME COMMAND...
	local group=$1

	shift
	# shellcheck disable=SC2016
	bash -c 'echo $$ >"$0/cgroup.procs" && exec "$@"' "$GROUPS_ROOT/$group" "$@"
}

kills() { # NAME
	awk '$1 == "oom_kill" { print $2 }' "$GROUPS_ROOT/$1/$KILLS_FILE"
}

# How often the thread that looks at programs and their groups has slept.
looks() {
	# shellcheck disable=SC2046
	awk '$1 == "Name:" { on = $2 == "uswap-evict" }
		on && $1 == "voluntary_ctxt_switches:" { n += $2 }
		END { print n }' /proc/$AGENT_PID/task/*/status $(pgrep -P "$AGENT_PID" | sed 's,.*,/proc/&/task/*/status,')
}
has_looked() { # SINCE
	[ "$(looks)" -ge $(($1 + 20)) ]
}

groups_end() {
	local group

	for group in "$GROUPS_ROOT/$name"-*; do
		[ ! -d "$group" ] || rmdir "$group"
	done
}

live_begin
find_controller
name=uswap-test-$$
AT_END=groups_end

# without: killed, else this test tells nothing
group_make $name-plain $LIMIT_MIB
status=0
in_group $name-plain timeout $((240 * FACTOR)) "$WORKLOADS/grow_verify" $((LIMIT_MIB * 2)) ||
	status=$?
[ $status -ne 0 ] || skip "programs are not held to the limit here"
[ "$(kills $name-plain)" -gt 0 ] || fail "it ended with $status, though nobody was killed"

# nothing leaves but for the group's sake
cat >"$DIR/uswap.conf" <<-'END'
	[Policy]
	ScanSec=0.05
	GraceSec=0.02
	StallBudget=0
	MinResident=0
	StartDelaySec=3600
END
agent_start
group_make $name-grown $LIMIT_MIB
before=$(total pages_out_total)
in_group $name-grown timeout $((240 * FACTOR)) env LD_PRELOAD="$LIB" \
	"$WORKLOADS/grow_verify" $((LIMIT_MIB * 2)) "$GROUPS_ROOT/$name-grown/$USAGE_FILE" \
	$(((LIMIT_MIB - 8) << 20)) || fail "it ended with $?"
[ "$(kills $name-grown)" = 0 ] || fail "$(kills $name-grown) were killed"
left=$(($(total pages_out_total) - before))
[ $left -ge $((LIMIT_MIB * 256)) ] || fail "vacuous: $left pages have left"
say "$((LIMIT_MIB * 2)) MiB in a group of $LIMIT_MIB MiB: $left pages left"
live_idle

# what is out of a group that has become too small comes back page by page; an
# order to bring all of it back ends where the room does, and nobody is killed
group_make $name-small 200
# shellcheck disable=SC2016
peer_start bash -c 'echo $$ >"$0" && exec env LD_PRELOAD="$1" "$2" 40' \
	"$GROUPS_ROOT/$name-small/cgroup.procs" "$LIB" "$WORKLOADS/fill_serve"
# not before its mover has said that it is there
evicts() { bounded 60 "$CTL" evict "$PEER_PID" >/dev/null 2>&1; }
wait_until 20 "it to be evicted" evicts
echo $((36 << 20)) >"$GROUPS_ROOT/$name-small/$LIMIT_FILE" || fail "it can't be made smaller"
wait_until 60 "the agent to look at it" has_looked "$(looks)"
status=0
bounded 60 "$CTL" restore "$PEER_PID" >"$DIR/restored" 2>&1 || status=$?
[ $status = 1 ] || fail "restore into a small group: status $status, $(cat "$DIR/restored")"
grep -q 'no memory for all of it' "$DIR/restored" || fail "restore into a small group: $(cat "$DIR/restored")"
[ "$(ask "$PEER" verify)" = $((40 * 256)) ] || fail "verify in a small group"
[ "$(kills $name-small)" = 0 ] || fail "$(kills $name-small) were killed in a small group"
peer_stop "$PEER"
live_idle
agent_stop

# the agent's own limit: it serves, and takes nothing more
rm "$DIR/uswap.conf" # as in other tests: everything leaves
agent_start
group_make $name-agent 2000
for pid in $AGENT_PID $(pgrep -P "$AGENT_PID"); do
	echo "$pid" >"$GROUPS_ROOT/$name-agent/cgroup.procs"
done
evicted_run fill_verify 8 1 # room enough
echo $((24 << 20)) >"$GROUPS_ROOT/$name-agent/$LIMIT_FILE" || fail "the agent takes more than 24 MiB"
sleep 2 # it looks before it takes, and not twice in a second
before=$(total pages_out_total)
bounded 60 env "LD_PRELOAD=$LIB" "$WORKLOADS/fill_verify" 8 1 || fail "beside an agent at its limit"
[ "$(total pages_out_total)" = "$before" ] || fail "pages have left for an agent at its limit"
live_end
