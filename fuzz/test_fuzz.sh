#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Runs each fuzz target for USWAP_FUZZ_SECONDS (60), all at a time, with what nobody
# else needs of the processors, on what was found interesting before. The same inputs each time, but with USWAP_FUZZ_SEED=0,
# which draws. That corpus is kept in ~/.cache/uswap-fuzz, or where
# USWAP_FUZZ_CORPUS says. usage: test_fuzz.sh [TARGET...]
set -u
src=${USWAP_SRC:-$(dirname "$(realpath "$0")")/..}
build=${USWAP_BUILD:-$PWD}
seconds=${USWAP_FUZZ_SECONDS:-60}
corpus=${USWAP_FUZZ_CORPUS:-${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/uswap-fuzz}
targets=("$@")
[ $# -gt 0 ] || targets=(attach config events sealed)
mkdir -p "$corpus" 2>/dev/null && [ -w "$corpus" ] || corpus=$build/fuzz/corpus
python3 "$src/fuzz/seeds.py" "$build/fuzz/seeds" "$src" || exit 1

run() { # TARGET
	mkdir -p "$corpus/$1" "$build/fuzz/found"
	nice -n 19 "$build/fuzz/fuzz_$1" -max_total_time="$seconds" -timeout=60 -seed="${USWAP_FUZZ_SEED:-1}" \
		-rss_limit_mb=2048 -max_len=4096 \
		-print_final_stats=1 -artifact_prefix="$build/fuzz/found/$1-" \
		"$corpus/$1" "$build/fuzz/seeds/$1" >"$build/fuzz/$1.out" 2>&1
}

status=0
pids=()
for target in "${targets[@]}"; do
	run "$target" &
	pids+=($!)
done
for target in "${targets[@]}"; do
	if wait "${pids[0]}"; then
		runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$build/fuzz/$target.out")
		echo "$target: ${runs:-0} inputs, $(find "$corpus/$target" -type f | wc -l) in the corpus"
		[ "${runs:-0}" -gt 20 ] || { echo "$target: it did next to nothing" >&2; status=1; }
	else
		echo "$target: FOUND, see fuzz/found in the build directory" >&2
		tail -n 60 "$build/fuzz/$target.out" >&2
		status=1
	fi
	pids=("${pids[@]:1}")
done
exit $status
