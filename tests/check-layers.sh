#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Holds the one-way includes of docs/ARCHITECTURE.md:
#
#   main -> control -> engine -> {flow, policy}; flow -> {proc, backends};
#   proc -> {page, sys}; everything -> common
#
# A layer may include what it stands on, directly or through others, and
# nothing else. usage: check-layers.sh [TREE]; without TREE it first proves on
# planted includes that it finds them, then looks at the project's tree.
set -u

# layer | its directory | what it stands on
layers='
uapi     | uapi          |
common   | common        |
page     | agent/page    | common
sys      | agent/sys     | common uapi
policy   | agent/policy  | common
backends | backends      | common
proc     | agent/proc    | page sys common
flow     | agent/flow    | proc backends common
engine   | agent/engine  | flow policy common
control  | agent/control | engine common
main     | agent         | control engine keeper common
keeper   | agent/keeper  | common
preload  | preload       |
ctl      | ctl           | common
tests    | tests         | main control uapi preload ctl
bench    | bench         | main control uapi preload ctl tests
fuzz     | fuzz          | main control uapi preload ctl
'
# layer | file outside its closure that it may include all the same
exceptions='
preload | common/wire.h
preload | uapi/*
main    | uapi/*
'
# layer | layer below it | the only files of that one it may include
only='
control | engine | agent/engine/engine.h agent/engine/settings.h
main    | engine | agent/engine/engine.h agent/engine/settings.h
'
# not passed on through a layer's closure: for those that name it themselves
private='uapi'

check_tree() { # TREE; prints offenders, returns 1 if there are any
	local tree=$1
	(
		cd "$tree" || exit 2
		find uapi common agent backends preload ctl tests bench fuzz \
			\( -name '*.c' -o -name '*.h' -o -name '*.S' \) -type f 2>/dev/null |
			LC_ALL=C sort
	) >"$work/files"
	[ -s "$work/files" ] || { echo "check-layers: no sources in $tree" >&2; return 2; }
	(
		cd "$tree" && xargs grep -nHE '^[[:space:]]*#[[:space:]]*include' <"$work/files"
	) >"$work/includes"
	awk -v layers="$layers" -v exceptions="$exceptions" -v only="$only" \
		-v private="$private" -v files="$work/files" '
	function trim(s) { gsub(/^[ \t]+|[ \t]+$/, "", s); return s }
	function layer_of(path,   d) {
		for (d = path; sub(/\/[^\/]*$/, "", d); )
			if (d in by_dir)
				return by_dir[d]
		return ""
	}
	function reach(from, to,   i, n, v) { # is to in the closure of from?
		n = split(stands[from], v, " ")
		for (i = 1; i <= n; i++)
			if (v[i] == to || (!(to in is_private) && reach(v[i], to)))
				return 1
		return 0
	}
	function excepted(layer, path,   i, p) {
		for (i = 1; i <= nexc; i++) {
			if (exc_layer[i] != layer)
				continue
			p = exc_path[i]
			if (p == path || (sub(/\*$/, "", p) && index(path, p) == 1))
				return 1
		}
		return 0
	}
	function bad(why) {
		printf "%s:%s: %s\n", file, line, why
		errors++
	}
	BEGIN {
		n = split(layers, rows, "\n")
		for (i = 1; i <= n; i++) {
			if (split(rows[i], f, "|") < 3)
				continue
			by_dir[trim(f[2])] = trim(f[1])
			stands[trim(f[1])] = trim(f[3])
		}
		n = split(exceptions, rows, "\n")
		for (i = 1; i <= n; i++)
			if (split(rows[i], f, "|") == 2) {
				exc_layer[++nexc] = trim(f[1])
				exc_path[nexc] = trim(f[2])
			}
		n = split(only, rows, "\n")
		for (i = 1; i <= n; i++)
			if (split(rows[i], f, "|") == 3)
				allowed[trim(f[1]), trim(f[2])] = " " trim(f[3]) " "
		n = split(private, f, " ")
		for (i = 1; i <= n; i++)
			is_private[f[i]] = 1
		while ((getline path < files) > 0)
			exists[path] = 1
	}
	{
		match($0, /^[^:]*:[0-9]+:/)
		file = line = substr($0, 1, RLENGTH - 1)
		sub(/:[0-9]+$/, "", file)
		sub(/^.*:/, "", line)
		text = substr($0, RLENGTH + 1)
		if (!match(text, /["<][^">]*[">]/)) {
			bad("include of something that is not a name")
			next
		}
		quoted = substr(text, RSTART, 1) == "\""
		name = substr(text, RSTART + 1, RLENGTH - 2)
		dir = file
		sub(/[^\/]*$/, "", dir)
		# as the compiler looks: beside the file, then below the tree and agent/
		target = ""
		if (quoted && ((dir name) in exists))
			target = dir name
		else if (name in exists)
			target = name
		else if (("agent/" name) in exists)
			target = "agent/" name
		if (target == "") {
			if (quoted)
				bad("\"" name "\" is no file of the tree")
			next
		}
		if (!quoted && name !~ /\//) # of the system: our folders are no -I
			next
		if (!quoted) {
			bad("<" name "> is a file of the tree: use quotes")
			next
		}
		from = layer_of(file)
		to = layer_of(target)
		if (from == "") {
			bad("in no layer: name its directory in tests/check-layers.sh")
			next
		}
		seen++
		if (from == to || excepted(from, target))
			next
		if (target == dir name && name !~ /^[^.].*\//)
			bad("\"" name "\" of another layer without its folder")
		else if (!reach(from, to))
			bad("layer " from " may not see " target " (layer " to ")")
		else if (((from, to) in allowed) && !index(allowed[from, to], " " target " "))
			bad("layer " from " may see only" allowed[from, to] "of layer " to)
	}
	END {
		printf "check-layers: %d includes inside the tree, %d wrong\n", seen, errors
		exit errors > 0
	}' "$work/includes"
}

# Plants FILE with a line that includes NAME in a copy of a small good tree.
planted() { # FILE NAME want(good|bad)
	local t=$work/tree
	rm -rf "$t"
	mkdir -p "$t"/{uapi,common,agent/{page,sys,policy,proc,flow,engine,control},backends,preload,ctl,tests/unit}
	touch "$t"/{uapi/u.h,common/{wire,log}.h,agent/{page/slot,sys/uffd,policy/hazard,proc/session,flow/events,engine/engine,engine/settings,engine/worker,control/bus,config}.h,backends/store.h,preload/sys.h,ctl/ctl.h}
	printf '#include <stdio.h>\n%s\n' "#include $2" >"$t/$1"
	local out rc
	out=$(check_tree "$t") && rc=good || rc=bad
	if [ "$rc" != "$3" ] || { [ "$3" = bad ] && [[ $out != *"$1:2: "* ]]; }; then
		printf 'check-layers: SELF-TEST: %s with #include %s was found %s:\n%s\n' \
			"$1" "$2" "$rc" "$out" >&2
		failed=1
	fi
}

self_test() {
	failed=0
	planted agent/page/slot.c '"page/slot.h"' good
	planted agent/proc/session.c '"page/slot.h"' good
	planted agent/flow/fault.c '"sys/uffd.h"' good
	planted agent/engine/engine.c '"backends/store.h"' good
	planted agent/control/bus.c '"engine/settings.h"' good
	planted agent/main.c '"engine/engine.h"' good
	planted agent/main.c '"control/bus.h"' good
	planted agent/sys/uffd.c '"uapi/u.h"' good
	planted agent/check.c '"uapi/u.h"' good
	planted preload/shim.c '"common/wire.h"' good
	planted preload/shim.c '"uapi/u.h"' good
	planted preload/shim.c '"sys.h"' good
	planted tests/unit/test_slot.c '"page/slot.h"' good
	planted ctl/main.c '"common/log.h"' good
	planted agent/page/slot.c '"sys/uffd.h"' bad
	planted agent/page/slot.c '"backends/store.h"' bad
	planted agent/page/slot.c '"uapi/u.h"' bad
	planted agent/page/slot.c '  "proc/session.h"' bad
	planted agent/sys/uffd.c '"page/slot.h"' bad
	planted agent/policy/hazard.c '"engine/settings.h"' bad
	planted agent/policy/hazard.c '"page/slot.h"' bad
	planted backends/memory.c '"page/slot.h"' bad
	planted backends/memory.c '"flow/events.h"' bad
	planted agent/proc/session.c '"flow/events.h"' bad
	planted agent/proc/session.c '"backends/store.h"' bad
	planted agent/proc/session.c '"uapi/u.h"' bad
	planted agent/flow/fault.c '"policy/hazard.h"' bad
	planted agent/flow/fault.c '"engine/settings.h"' bad
	planted agent/engine/engine.c '"control/bus.h"' bad
	planted agent/control/bus.c '"engine/worker.h"' bad
	planted agent/control/bus.c '"config.h"' bad
	planted common/log.c '"page/slot.h"' bad
	planted common/log.c '"uapi/u.h"' bad
	planted preload/shim.c '"common/log.h"' bad
	planted preload/shim.c '"page/slot.h"' bad
	planted ctl/main.c '"engine/engine.h"' bad
	planted ctl/main.c '"control/bus.h"' bad
	planted agent/flow/fault.c '<page/slot.h>' bad
	planted agent/flow/fault.c '"page/gone.h"' bad
	planted agent/flow/fault.c '"../page/slot.h"' bad
	return $failed
}

work=$(mktemp -d) || exit 99
trap 'rm -rf "$work"' EXIT

if [ $# -gt 0 ]; then
	check_tree "$1"
	exit
fi
self_test || exit 1
check_tree "${srcdir:-$(dirname "$0")/..}"
