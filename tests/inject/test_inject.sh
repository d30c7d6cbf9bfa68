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
# A case in which nothing was injected shows nothing, and fails.
#
# strace stops the agent at every call: with processors that are busy elsewhere that
# is a hundred times slower, and so are the limits for what hangs.
#
# usage: test_inject.sh [SYSCALL...]: only these
USWAP_TIME_FACTOR=$((${USWAP_TIME_FACTOR:-1} * 3))
export USWAP_TIME_FACTOR
# shellcheck source=tests/live/lib.sh
. "${srcdir:-.}/tests/live/lib.sh"

wanted=" $* "

# whose: of the agent, of the agent while the program waits for its pages to leave
# (of which it may not be sure where errors keep it from being managed), of an agent
# from its start on, of the program with the shim in it, of the mover; system calls,
# error, which of each (of each thread); the program, if not fill_verify. Not until the
# end where an error costs a pause, or many more calls: each is a stop.
cases='
evict ioctl         EAGAIN  when=5+7
evict ioctl         ENOMEM  when=11..400+13
evict read,preadv2,preadv,epoll_wait,epoll_pwait2 EINTR when=2+3
evict pread64       EIO     when=3+40
evict pread64       ENOMEM  when=7+40
agent sendto        EAGAIN  when=1+5 fill_verify 48 2
agent sendmsg       ENOBUFS when=2+2
agent recvmsg       EAGAIN  when=2+3
agent recvmsg       ENOMEM  when=7+9 fill_verify 48 2
agent epoll_ctl     ENOMEM  when=1+3
agent openat        EMFILE  when=2+3
agent getdents64    EIO     when=2+3
agent fallocate     ENOSPC  when=2+3
agent mmap          ENOMEM  when=1+2
evict write         EAGAIN  when=2..20+3
evict get_robust_list EPERM when=2..20+3
agent kcmp          EPERM   when=1+1
agent timer_settime EINVAL  when=3+6 fork_verify 0.5 1
agent getrandom     EAGAIN  when=1+2 fork_verify 0 1
agent accept4       ECONNABORTED when=1+2
agent getsockopt    ENOPROTOOPT when=1+1
agent setsockopt    EPERM   when=1+1
agent getsockopt    ENOPROTOOPT when=2+2
agent memfd_create  ENFILE  when=1+1
agent eventfd2      EMFILE  when=1+1
start madvise       EAGAIN  when=1+1
start timer_create  EAGAIN  when=1+1
shim  socket        EMFILE  when=1+1
shim  connect       ECONNREFUSED when=1+1
shim  connect       EAGAIN  when=1+1
shim  sendmsg       EPIPE   when=1+1
shim  sendmsg       ENOMEM  when=2+1
shim  recvmsg       EIO     when=1+1
shim  recvmsg       EINTR   when=1+2
shim  ioctl         EPERM   when=1
shim  clone         EAGAIN  when=1
shim  clone         EPERM   when=1+1
shim  pidfd_open    ENOSYS  when=1+1
shim  prctl         EINVAL  when=1+1
shim  tgkill        EPERM   when=1+1
mover ioctl         EAGAIN  when=2+3
mover ioctl         EBUSY   when=2+3
mover ioctl         EINVAL  when=2+5
mover ioctl         ENOMEM  when=3+5
mover ioctl         EEXIST  when=3+5
mover madvise       EAGAIN  when=1+2
mover recvfrom      EINTR   when=1+3
mover recvfrom      EAGAIN  when=1+3
mover sendto        EAGAIN  when=1+2
mover ppoll         EINTR   when=1+2
mover nanosleep     EINTR   when=1+1
mover kcmp          EPERM   when=1+1
mover write         EINTR   when=1+2
'

is_wanted() { # CALL[,CALL]...
	local call

	for call in ${1//,/ }; do
		[[ $wanted != "  " && $wanted != *" $call "* ]] || return 0
	done
	return 1
}

# How often each was made to fail, at least.
injected() { # CALL[,CALL]...
	local call

	for call in ${1//,/ }; do
		grep -c " ${call}[( ].*INJECTED" "$DIR/strace" || true
	done | sort -n | head -n 1
}

# What strace is told, and what is run; set for each case.
inject=()
program=()

all_traced() { # PID...
	local pid

	for pid; do
		if grep -qs '^TracerPid:[[:space:]]*0$' "/proc/$pid"/task/*/status; then
			return 1
		fi
	done
}

tracer=
trace_start() { # PID...
	local pid pids=()

	for pid; do
		pids+=(-p "$pid")
	done
	strace -f -qq -o "$DIR/strace" "${pids[@]}" "${inject[@]}" 2>"$DIR/strace.err" &
	tracer=$!
	wait_until 20 "strace to have all threads" all_traced "$@"
}

# It is over when strace has let go of all threads.
trace_stop() {
	[ -n "$tracer" ] || return 0
	kill -TERM "$tracer" 2>/dev/null || true
	wait "$tracer" 2>/dev/null || true
	tracer=
}

run_program() { # [NAME=VALUE...]
	bounded 100 env "LD_PRELOAD=$LIB" USWAP_DEBUG=1 "$@" "${program[@]}" >"$DIR/out" 2>&1
}

inject_agent() { # [NAME=VALUE...]
	local status=0

	# shellcheck disable=SC2046
	trace_start "$AGENT_PID" $(pgrep -P "$AGENT_PID")
	run_program "$@" || status=$?
	trace_stop
	return $status
}

inject_evict() {
	inject_agent WORKLOAD_EVICT=1
}

inject_start() {
	local status=0

	agent_stop
	AGENT_PREFIX=(strace -D -f -qq -o "$DIR/strace" "${inject[@]}")
	agent_start
	AGENT_PREFIX=()
	run_program || status=$?
	agent_stop
	agent_start
	return $status
}

inject_shim() {
	bounded 100 strace -f -qq -o "$DIR/strace" -E "LD_PRELOAD=$LIB" "${inject[@]}" "${program[@]}" >"$DIR/out" 2>&1
}

has_mover_or_ended() { # PID
	[ -n "$(movers)" ] || ! kill -0 "$1" 2>/dev/null
}

# The mover is a process that nobody traces with its program: it is found by name.
# A program that is over before is told by its calls that never came.
inject_mover() {
	local status=0 run mover

	wait_until 20 "the mover before to end" no_movers
	run_program WORKLOAD_EVICT=1 &
	run=$!
	wait_until 40 "a mover" has_mover_or_ended "$run"
	mover=$(movers | tail -n 1)
	[ -z "$mover" ] || trace_start "$mover"
	wait "$run" || status=$?
	trace_stop
	return $status
}

one() { # WHOSE SYSCALLS ERROR WHEN [PROGRAM...]
	local whose=$1 call=$2 error=$3 status n=0 try

	inject=(-e "trace=$call" -e "inject=$call:error=$error:$4")
	shift 4
	# A program can be over before its call's turn has come: then a longer one.
	for try in 1 2 3 4; do
		program=("$WORKLOADS/${1:-fill_verify}" "${@:2}")
		[ $# -gt 0 ] || program+=($((4 * try * try)) "$try")
		: >"$DIR/strace"
		status=0
		"inject_$whose" || status=$?
		# nor was it served when the handshake took longer than a program waits for it
		if [ $status -ne 0 ] && [ "$whose" = evict ] && grep -q 'timed out' "$DIR/out"; then
			continue
		fi
		if [ $status -ne 0 ]; then
			cat "$DIR/out" >&2
			fail "$whose, $call $error: status $status"
		fi
		kill -0 "$AGENT_PID" 2>/dev/null || fail "the agent has ended after $whose, $call $error"
		n=$(injected "$call")
		[ "$n" -eq 0 ] || break
	done
	[ "$n" -gt 0 ] || fail "$whose, $call $error: vacuous, it was never called"
	say "$whose, $call $error: right, $n times"
}

need_program strace
live_begin
agent_start
strace -o /dev/null true 2>/dev/null || skip "strace is not allowed here"
while read -r -a words; do
	if [ ${#words[@]} -gt 0 ] && is_wanted "${words[1]}"; then
		one "${words[@]}"
	fi
done <<<"$cases"
# nobody is traced now: the agent is as before
evicted_run fill_verify 4 1
live_end
