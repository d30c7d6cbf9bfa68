# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
# The points at which a test has the worker killed (common/inject.h).
# All of common/inject.h, each at its number; the last is none.
mapfile -t POINTS < <(sed -n '/^enum inject_point/,/^}/s/^\tINJECT_\([A-Z_]*\).*/\1/p' "${srcdir:-.}/common/inject.h")

point_number() {
	local n

	for n in "${!POINTS[@]}"; do
		[ "${POINTS[n]}" != "$1" ] || echo "$n"
	done
}

points() {
	printf '%s\n' "${POINTS[@]:1:${#POINTS[@]}-2}"
}
