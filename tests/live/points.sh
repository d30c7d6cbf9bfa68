# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
# The points at which a test has the worker killed (common/inject.h).
# The number of a point of common/inject.h.
point_number() {
	awk -v name="INJECT_$1" '/^enum inject_point/ { on = 1; next }
		on && /^\tINJECT_/ { sub(/[ ,=].*/, "", $1); if ($1 == name) { print n + 0; exit } n++ }' \
		"${srcdir:-.}/common/inject.h"
}

points() {
	sed -n '/^enum inject_point/,/^}/s/^\tINJECT_\([A-Z_]*\),.*/\1/p' "${srcdir:-.}/common/inject.h"
}
