#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Bugs planted one by one (planted/*.patch) into a copy of the sources: the flow
# lane must find each of them, in the scenario that the patch names. A patch
# that no longer applies is a failure: it is to be brought up to date. As deep as every
# build walks, unless it says "Percent: 100" of the scenario's depth.
#
# usage: test_planted.sh [NAME...]
set -u
src=${USWAP_SRC:-$(dirname "$(realpath "$0")")/../..}
build=${USWAP_BUILD:-$PWD}
here=$src/tests/flow
linker=
! command -v ld.gold >/dev/null || linker=-fuse-ld=gold # in a third of the time
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT

# Three lines: how to compile, the objects of the test, how to link.
{ read -r compile && read -r test && read -r link; } <"$build/tests/flow/planted.flags" || exit 1

plant() { # NAME; prints why it was not found
	local patch=$here/planted/$1.patch dir=$work/$1 file scenario percent objects=() object out status
	scenario=$(sed -n 's/^Scenario: //p' "$patch")
	percent=$(sed -n 's/^Percent: //p' "$patch")
	mkdir "$dir"
	while read -r file; do
		mkdir -p "$dir/$(dirname "$file")"
		cp "$src/$file" "$dir/$file" || { echo "$file is gone"; return 1; }
		chmod u+w "$dir/$file"
	done < <(sed -n 's,^+++ b/\([^[:space:]]*\).*,\1,p' "$patch")
	out=$(patch -d "$dir" -p1 -s --no-backup-if-mismatch <"$patch" 2>&1) ||
		{ printf 'the patch does not apply any more\n%s\n' "$out"; return 1; }
	while read -r file; do
		object=$dir/$(basename "$file").o
		# shellcheck disable=SC2086
		# a bug is one without an optimizer, too, and half as long in the making
		out=$(cd "$build" && eval "$CC $compile -w -O0 -U_FORTIFY_SOURCE" \
			-c -o "'$object'" "'$dir/$file'" 2>&1) || { printf 'it does not compile\n%s\n' "$out"; return 1; }
		objects+=("$object")
	done < <(cd "$dir" && find . -name '*.c')
	# shellcheck disable=SC2086
	out=$(cd "$build" && eval "$CC $compile $linker -o '$dir/test' $test $(printf "'%s' " "${objects[@]}") $link" 2>&1) ||
		{ printf 'it does not link\n%s\n' "$out"; return 1; }
	[ -n "$scenario" ] || { echo "the patch names no scenario"; return 1; }
	out=$(USWAP_FLOW_PERCENT=${percent:-70} USWAP_FLOW_BRIEF=1 timeout 600 "$dir/test" "$scenario" 2>&1)
	status=$?
	[ $status != 124 ] || { echo "not found in 600 s"; return 1; }
	if [ $status = 0 ] || ! grep -q '^not ok' <<<"$out"; then
		printf 'NOT FOUND in "%s"\n%s\n' "$scenario" "$out"
		return 1
	fi
	sed -n "s/^# /found: /p" <<<"$out" | head -n 1
	rm -rf "$dir"
}

names=("$@")
[ $# -gt 0 ] || for patch in "$here"/planted/*.patch; do
	names+=("$(basename "$patch" .patch)")
done
[ ${#names[@]} -ge 10 ] || [ $# -gt 0 ] || { echo "only ${#names[@]} bugs to plant" >&2; exit 1; }

status=0
for ((i = 0; i < ${#names[@]}; i += 2)); do
	for name in "${names[@]:i:2}"; do
		{ plant "$name" >"$work/$name.out" 2>&1 || touch "$work/$name.failed"; } &
	done
	wait
	for name in "${names[@]:i:2}"; do
		printf '%s: %s\n' "$name" "$(cat "$work/$name.out")"
		[ ! -f "$work/$name.failed" ] || status=1
	done
done
exit $status
