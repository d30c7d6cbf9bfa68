#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The man pages are well-formed, and say what the programs say: each long
# option of --help is in the page and the other way round, each key of
# uswap.conf too.
set -u
src=${srcdir:-$(dirname "$0")/..}
build=${USWAP_BUILD:-.}
wrong=0

pages=("$src"/man/*.[1-8])
if command -v mandoc >/dev/null; then
	mandoc -T lint -W warning "${pages[@]}" || wrong=1
elif command -v groff >/dev/null; then
	for page in "${pages[@]}"; do
		out=$(groff -ww -mdoc -T utf8 "$page" 2>&1 >/dev/null)
		[ -z "$out" ] || { echo "$page: $out"; wrong=1; }
	done
else
	echo "check-man: neither mandoc nor groff is there: pages not linted"
fi

same() { # WHAT-A LIST-A WHAT-B LIST-B
	local only
	only=$(comm -23 <(sort -u <<<"$2") <(sort -u <<<"$4") | tr '\n' ' ')
	[ -z "${only// /}" ] || { echo "in $1 and not in $3: $only"; wrong=1; }
	only=$(comm -13 <(sort -u <<<"$2") <(sort -u <<<"$4") | tr '\n' ' ')
	[ -z "${only// /}" ] || { echo "in $3 and not in $1: $only"; wrong=1; }
}

help_options() { grep -oE -e '(^|[^[:alnum:]-])--[a-z][a-z-]*' | grep -oE -e '--[a-z-]*' | sed 's/^--//'; }
# all words of a line that begin with a dash: .Fl passes its sign on to them
page_options() { grep -E '^\.(.* )?Fl ' "$1" | tr ' ' '\n' | grep -E '^-[a-z][a-z-]*$' | sed 's/^-//'; }

seen=0
for program in agent/uswap-agent:8 ctl/uswapctl:1; do
	path=$build/${program%:*}
	name=${path##*/}
	[ -x "$path" ] || continue
	seen=$((seen + 1))
	same "$name --help" "$("$path" --help | help_options)" \
		"its man page" "$(page_options "$src/man/$name.${program#*:}")"
done

# keys: from the table in the agent, its only source
keys=$(grep -oE '^[[:space:]]*\{ "[A-Z][a-z]+", "[A-Za-z]+", CONFIG_' "$src/agent/config_keys.c" |
	sed -E 's/.*"([A-Za-z]+)", "([A-Za-z]+)".*/\1.\2/')
documented=$(awk '$1 == ".Ss" { gsub(/[][]/, "", $2); s = $2 }
	$1 == ".It" && $2 == "Cm" { sub(/=$/, "", $3); print s "." $3 }' "$src/man/uswap.conf.5")
same "agent/config_keys.c" "$keys" "uswap.conf(5)" "$documented"
sample=$(awk '/^\[/ { gsub(/[][]/, ""); s = $0 } /^#[A-Z][A-Za-z]+=/ { sub(/^#/, ""); sub(/=.*/, ""); print s "." $0 }' \
	"$src/contrib/uswap.conf")
same "agent/config_keys.c" "$keys" "the sample uswap.conf" "$sample"

if [ $seen -lt 2 ]; then
	echo "check-man: only $seen of 2 programs are built, their options are not compared"
fi
exit $wrong
