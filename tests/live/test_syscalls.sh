#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# System calls and io_uring read and write pages that have left; O_DIRECT, futexes
# and signal frames among them. Calls that the C library doesn't see change them.
# shellcheck source=tests/live/lib.sh
. "${srcdir:-.}/tests/live/lib.sh"

live_begin
# O_DIRECT needs a file system on a disk: the build directory rather than /tmp
TMPDIR=$(mktemp -d "$PWD/syscalls.XXXXXX")
export TMPDIR
directory_end() { rm -rf "$TMPDIR"; }
AT_END=directory_end
agent_start
evicted_run syscall_verify 1
evicted_run uring_verify
evicted_run calls_verify
live_end
