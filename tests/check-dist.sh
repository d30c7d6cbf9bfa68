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
	echo "$file: in no Makefile fragment"
	missing=$((missing + 1))
done < <(LC_ALL=C sort -u <<<"$files" | LC_ALL=C comm -23 - <(echo "$listed"))
# and the other way round: fragments name nothing that is not there
while read -r file; do
	if [ ! -e "$file" ]; then
		echo "$file: in a Makefile fragment but not in the tree"
		missing=$((missing + 1))
	fi
done < <(grep -E '^(uapi|common|agent|backends|ctl|preload|tests)/.*\.[ch]$' <<<"$listed")
# What docs/COMPATIBILITY.md names are tests, and what follows one of them stands in it;
# a workload is run by a script.
shown=$(grep '^|' docs/COMPATIBILITY.md | awk -F'|' -v list="$listed" '
	function text_of(file,   line, all) {
		while ((getline line <file) > 0)
			all = all "\n" line
		close(file)
		return all "\n"
	}
	function stands(word, text) {
		return text ~ "[^A-Za-z0-9_]" word "[^A-Za-z0-9_]"
	}
	function is_shown(proof,   n, name, i, file, test) {
		n = split(proof, name, "`")
		for (i = 2; i <= n; i += 2) {
			if (name[i] in file_of) {
				test = file = file_of[name[i]]
				if (!(file in text))
					text[file] = text_of(file)
				if (file ~ /workloads\/.*\.c$/ && !stands(name[i], scripts))
					return 0
			} else if (test == "" || !stands(name[i], text[test]))
				return 0
		}
		return test != "" || proof ~ /^ none/
	}
	BEGIN {
		n = split(list, files, "\n")
		for (i = 1; i <= n; i++) {
			if (files[i] !~ /^tests\/.*\.(c|h|sh)$/)
				continue
			name = files[i]
			if (name ~ /^tests\/live\//)
				scripts = scripts text_of(name)
			sub(/\.[a-z]*$/, "", name)
			sub(/^.*\//, "", name)
			file_of[name == "lib" ? "" : name] = files[i]
		}
		file_of["live/lib"] = "tests/live/lib.sh"
	}
	$2 ~ /^( What |-*)$/ { next }
	{ rows++ }
	!is_shown($3) { print "docs/COMPATIBILITY.md:" $2 ":" $3 ": not so" >"/dev/stderr"; wrong++ }
	END { print rows + 0; exit wrong > 0 }') || missing=$((missing + 1))
[ "$shown" -gt 100 ] || missing=$((missing + 1))
echo "check-dist: $(wc -l <<<"$files") files, $shown rows of docs/COMPATIBILITY.md, $missing wrong"
[ $missing = 0 ]
