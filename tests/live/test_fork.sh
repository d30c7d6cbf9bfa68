#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Forks of programs whose pages have left: every copy is right in every process.
# shellcheck source=tests/live/lib.sh
. "${srcdir:-.}/tests/live/lib.sh"

live_begin
agent_start
evicted_run fork_verify 3
# beside other threads that move, unmap and empty what they have
evicted_run race_verify 3
live_end
