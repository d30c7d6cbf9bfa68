#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Known contents leave and come back, in every order; first touches are zero.
# shellcheck source=tests/live/lib.sh
. "${srcdir:-.}/tests/live/lib.sh"

live_begin
agent_start
evicted_run fill_verify 32 2
evicted_run fill_verify 1 4
agent_stop
# with one processor for all, the next fault is there before the agent looks for it
cpus=$(taskset -cp $$)
cpus=${cpus##*: }
taskset -cp "${cpus%%[-,]*}" $$ >/dev/null
agent_start
evicted_run fill_verify 4 2
live_end
