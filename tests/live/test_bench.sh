#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The benchmarks run to their end and report every figure; how good they are on
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
out=$("${BASH:-bash}" "${srcdir:-.}/bench/uswap-bench-file" --quick) || {
	status=$?
	echo "$out"
	exit $status
}
[ "$(grep -cE '^(fault|in order|restore) .*[1-9][0-9]* % asked for$' <<<"$out")" = 3 ] || {
	echo "test_bench.sh: FAILED: $out"
	exit 1
}
echo "test_bench.sh: passed"
