#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Known contents leave and come back, in every order; first touches are zero.
# shellcheck source=tests/live/lib.sh
. "${srcdir:-.}/tests/live/lib.sh"

live_begin
agent_start
evicted_run fill_verify 32 2
evicted_run fill_verify 1 4
live_end
