#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The benchmark runs to its end and reports every figure; how good they are on
# this machine doesn't matter here.
set -eu
out=$("${BASH:-bash}" "${srcdir:-.}/bench/uswap-bench" --quick --json) || {
	status=$?
	echo "$out"
	exit $status
}
echo "$out" | jq -e '
	(.rows | length) >= 10 and
	([.rows[].value | type == "number" and . > -100] | all) and
	([.rows[] | select(.key | startswith("restore_")) | .value > 0] | all)' >/dev/null || {
	echo "test_bench.sh: FAILED: $out"
	exit 1
}
echo "test_bench.sh: passed"
