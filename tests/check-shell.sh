#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# No script of the project gives shellcheck anything to say.
set -u
cd "${srcdir:-$(dirname "$0")/..}" || exit 99
command -v shellcheck >/dev/null || {
	echo "SKIP: shellcheck is not installed"
	exit 77
}
mapfile -t scripts < <(
	{
		find scripts tests bench contrib -type f
		ls autogen.sh quickstart run-tests .ci/run
	} 2>/dev/null | while read -r f; do
		head -n 1 "$f" | grep -qE '^#!.*\b(ba|da)?sh( |$)' && echo "$f"
	done | LC_ALL=C sort
)
echo "check-shell: ${#scripts[@]} scripts"
# In small groups: what they include is read once for each. All together take it minutes.
printf '%s\0' "${scripts[@]}" |
	xargs -0 -n 4 -P "$(nproc)" shellcheck --severity=style --external-sources
