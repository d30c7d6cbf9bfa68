#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# System calls of the agent and of the shim made to fail, one kind at a time
# (strace's fault injection), while a program verifies every byte of its memory.
# Its verdict must stay right; where the shim can't work it runs unmanaged.
#
# Not injected are errors that say what isn't so of the program's memory: EEXIST,
# ENOENT or ESRCH of a COPY are the kernel's word that a page is there, its
# mapping gone or its process dead.
#
# usage: test_inject.sh [SYSCALL...]: only these
# shellcheck source=tests/live/lib.sh
. "${srcdir:-.}/tests/live/lib.sh"

wanted=" $* "

# system call, error, which calls of it
agent_cases='
ioctl         EAGAIN  when=5+7
ioctl         ENOMEM  when=11+13
read          EINTR   when=3+5
preadv2       EINTR   when=3+5
preadv        EINTR   when=2+3
pread64       EIO     when=2+5
pread64       ENOMEM  when=3+7
sendto        EAGAIN  when=2+5
sendmsg       ENOBUFS when=2+2
recvmsg       EAGAIN  when=2+3
recvmsg       ENOMEM  when=7+9
epoll_ctl     ENOMEM  when=3+5
epoll_wait    EINTR   when=1+2
epoll_pwait2  EINTR   when=1+2
openat        EMFILE  when=2+3
getdents64    EIO     when=2+3
fallocate     ENOSPC  when=2+3
mmap          ENOMEM  when=1+2
madvise       EAGAIN  when=1+1
write         EAGAIN  when=2+3
get_robust_list EPERM when=3+5
kcmp          EPERM   when=1+1
timer_settime EINVAL  when=3+5
accept4       ECONNABORTED when=1+2
getsockopt    ENOPROTOOPT when=1+1
setsockopt    EPERM   when=1+1
pidfd_open    EMFILE  when=1+1
memfd_create  ENFILE  when=1+1
eventfd2      EMFILE  when=1+1
'
shim_cases='
socket      EMFILE       when=1+1
connect     ECONNREFUSED when=1+1
connect     EAGAIN       when=1+1
sendmsg     EPIPE        when=1+1
sendmsg     ENOMEM       when=2+1
recvmsg     EIO          when=1+1
recvmsg     EINTR        when=1+2
ioctl       EPERM        when=1
clone       EAGAIN       when=1
clone       EPERM        when=1+1
pidfd_open  ENOSYS       when=1+1
prctl       EINVAL       when=1+1
wait4       EINTR        when=1+2
'
# The mover is a process that nobody traces with its program: it is found by name.
mover_cases='
ioctl       EAGAIN       when=2+3
ioctl       EBUSY        when=2+3
ioctl       EINVAL       when=2+5
ioctl       ENOMEM       when=3+5
ioctl       EEXIST       when=3+5
madvise     EAGAIN       when=1+2
recvfrom    EINTR        when=1+3
recvfrom    EAGAIN       when=1+3
sendto      EAGAIN       when=1+2
ppoll       EINTR        when=1+2
nanosleep   EINTR        when=1+1
kcmp        EPERM        when=1+1
write       EINTR        when=1+2
'

is_wanted() {
	[ "$wanted" = "  " ] || [[ $wanted == *" $1 "* ]]
}

# strace of the agent is over when it has let go of all threads.
tracer=
trace_stop() {
	[ -n "$tracer" ] || return 0
	kill -TERM "$tracer" 2>/dev/null || true
	wait "$tracer" 2>/dev/null || true
	tracer=
}

agent_pids() {
	echo "$AGENT_PID"
	pgrep -P "$AGENT_PID" || true
}

injected=0
inject_agent() { # SYSCALL ERROR WHEN
	local pid pids=() status=0

	for pid in $(agent_pids); do
		pids+=(-p "$pid")
	done
	strace -f -qq -o "$DIR/strace" "${pids[@]}" -e "trace=$1" -e "inject=$1:error=$2:$3" 2>"$DIR/strace.err" &
	tracer=$!
	sleep 0.2
	bounded 40 env "LD_PRELOAD=$LIB" "$WORKLOADS/fill_verify" 4 1 >"$DIR/out" 2>&1 || status=$?
	trace_stop
	[ $status -eq 0 ] || { cat "$DIR/out" >&2; tail -n 20 "$DIR/agent.log" >&2; fail "agent, $1 $2: status $status"; }
	injected=$(grep -c INJECTED "$DIR/strace" || true)
	say "agent, $1 $2: right, $injected times"
	if ! kill -0 "$AGENT_PID" 2>/dev/null; then
		fail "the agent has ended after $1 $2"
	fi
}

inject_shim() { # SYSCALL ERROR WHEN
	local status=0

	bounded 40 strace -f -qq -o "$DIR/strace" -E "LD_PRELOAD=$LIB" -e "trace=$1" -e "inject=$1:error=$2:$3" \
		"$WORKLOADS/fill_verify" 4 1 >"$DIR/out" 2>&1 || status=$?
	[ $status -eq 0 ] || { cat "$DIR/out" >&2; fail "shim, $1 $2: status $status"; }
	injected=$(grep -c INJECTED "$DIR/strace" || true)
	say "shim, $1 $2: right, $injected times"
}

inject_mover() { # SYSCALL ERROR WHEN
	local status=0 run pid

	bounded 40 env "LD_PRELOAD=$LIB" WORKLOAD_EVICT=1 "$WORKLOADS/fill_verify" 4 1 >"$DIR/out" 2>&1 &
	run=$!
	for _ in {1..100}; do
		pid=$(movers | tail -n 1)
		[ -z "$pid" ] || break
		sleep 0.01
	done
	[ -z "$pid" ] ||
		strace -qq -o "$DIR/strace" -p "$pid" -e "trace=$1" -e "inject=$1:error=$2:$3" 2>"$DIR/strace.err" &
	tracer=$!
	wait "$run" || status=$?
	trace_stop
	[ $status -eq 0 ] || { cat "$DIR/out" >&2; fail "mover, $1 $2: status $status"; }
	injected=$(grep -c INJECTED "$DIR/strace" || true)
	say "mover, $1 $2: right, $injected times"
}

need_program strace
live_begin
agent_start
strace -o /dev/null true 2>/dev/null || skip "strace is not allowed here"
cases=0 hits=0
while read -r call error when; do
	if [ -z "$call" ] || ! is_wanted "$call"; then
		continue
	fi
	inject_agent "$call" "$error" "$when"
	cases=$((cases + 1))
	[ "$injected" -eq 0 ] || hits=$((hits + 1))
done <<<"$agent_cases"
# nobody is traced now: the agent is as before
evicted_run fill_verify 4 1
while read -r call error when; do
	if [ -z "$call" ] || ! is_wanted "$call"; then
		continue
	fi
	inject_shim "$call" "$error" "$when"
	cases=$((cases + 1))
	[ "$injected" -eq 0 ] || hits=$((hits + 1))
done <<<"$shim_cases"
while read -r call error when; do
	if [ -z "$call" ] || ! is_wanted "$call"; then
		continue
	fi
	inject_mover "$call" "$error" "$when"
	cases=$((cases + 1))
	[ "$injected" -eq 0 ] || hits=$((hits + 1))
done <<<"$mover_cases"
say "$hits of $cases kinds of errors happened"
[ "$hits" -gt $((cases / 2)) ] || fail "vacuous: hardly anything was injected"
live_end
