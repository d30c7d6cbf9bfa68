#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Threads that write while their pages leave: no update is lost.
# shellcheck source=tests/live/lib.sh
. "${srcdir:-.}/tests/live/lib.sh"

live_begin
agent_start
evicted_run threads_verify 3 6
evicted_run threads_verify 3 20
live_end
