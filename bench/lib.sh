# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
# What the benchmarks share; after tests/live/lib.sh.

# median FILE COLUMN
median() {
	awk -v c="$2" '{ print $c }' "$1" | sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
}

# divide A B [DIGITS]; by 0: 0
divide() {
	awk -v a="$1" -v b="$2" -v digits="${3:-2}" 'BEGIN { printf "%.*f", digits, b ? a / b : 0 }'
}

# order ARGUMENT... of uswapctl; its answer is in $DIR/order.json
order() {
	timeout $((120 * FACTOR)) "$CTL" --json "$@" >"$DIR/order.json" ||
		fail "uswapctl $*: $(cat "$DIR/order.json")"
}
