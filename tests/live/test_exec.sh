#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Programs that exec, end, are killed or crash while their pages are away, and
# threads that come and go: statuses, pipes, joins and contents are right.
# shellcheck source=tests/live/lib.sh
. "${srcdir:-.}/tests/live/lib.sh"

live_begin
agent_start
evicted_run exec_verify 1
evicted_run threads_churn 4
live_end
