#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Every file of the tree is named in a Makefile fragment, so that the archive
# made by `make dist' is whole and no source is forgotten.
set -u
cd "${srcdir:-$(dirname "$0")/..}" || exit 99

fragments=$(find . -name local.mk -not -path './*/_*' | LC_ALL=C sort)
# shellcheck disable=SC2086 # a list
listed=$(cat Makefile.am configure.ac $fragments | grep -v '^#' | tr -s ' \t\\=' '\n' | LC_ALL=C sort -u)

files=$(find uapi common agent backends ctl preload -type f \
	\( -name '*.[chS]' -o -name '*.map' \))
if [ -e .git ] && command -v git >/dev/null; then
	files+=$'\n'$(git -c safe.directory='*' ls-files | grep -vE '^(\.|.*/\.)')
fi
missing=0
while read -r file; do
	case $file in
	'' | configure.ac | Makefile.am | */local.mk) continue ;;
	esac
	[ -e "$file" ] || continue # deleted, not yet committed
	if ! grep -qxF -e "$file" <<<"$listed"; then
		echo "$file: in no Makefile fragment"
		missing=$((missing + 1))
	fi
done < <(LC_ALL=C sort -u <<<"$files")
# and the other way round: fragments name nothing that is not there
while read -r file; do
	if [ ! -e "$file" ]; then
		echo "$file: in a Makefile fragment but not in the tree"
		missing=$((missing + 1))
	fi
done < <(grep -E '^(uapi|common|agent|backends|ctl|preload|tests)/.*\.[ch]$' <<<"$listed")
echo "check-dist: $(wc -l <<<"$files") files, $missing wrong"
[ $missing = 0 ]
