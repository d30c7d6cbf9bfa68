#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Processes made by vfork, posix_spawn, clone3 and clone(CLONE_VM), daemons, and
# more fork children than the agent has descriptors for.
# shellcheck source=tests/live/lib.sh
. "${srcdir:-.}/tests/live/lib.sh"

live_begin
agent_start
evicted_run spawn_verify 1
live_idle
agent_stop

# An agent with few descriptors: it takes no more programs on, and a fork never
# fails or waits for ever.
AGENT_PREFIX=(prlimit --nofile=200:200)
agent_start
evicted_run spawn_verify --crowd 120
live_end
