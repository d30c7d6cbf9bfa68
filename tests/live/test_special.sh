#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Pages that the kernel treats in a special way: those of hugetlbfs and those
# that KSM has merged stay; transparent huge pages leave, on a machine that makes
# them of everything. The machine's settings are put back at the end.
# shellcheck source=tests/live/lib.sh
. "${srcdir:-.}/tests/live/lib.sh"

thp=/sys/kernel/mm/transparent_hugepage
ksm=/sys/kernel/mm/ksm

SETTINGS=()
# setting FILE VALUE: until the end of the test; false where that can't be had
setting() {
	local before

	before=$(cat "$1" 2>/dev/null) || return 1
	if [[ $before == *\[* ]]; then # "a [b] c"
		before=${before#*[}
		before=${before%]*}
	fi
	SETTINGS=("$1=$before" "${SETTINGS[@]}")
	echo "$2" 2>/dev/null >"$1"
}

put_back() {
	local one

	for one in "${SETTINGS[@]}"; do
		echo "${one#*=}" >"${one%%=*}" || echo "$TEST: ${one%%=*} can't be put back" >&2
	done
	SETTINGS=()
}

vmstat() {
	awk -v name="$1" '$1 == name { print $2 }' /proc/vmstat
}

huge_pages() {
	local have free

	if have=$(cat /proc/sys/vm/nr_hugepages 2>/dev/null); then
		setting /proc/sys/vm/nr_hugepages $((have + 12)) || true
	fi
	free=$(awk '$1 == "HugePages_Free:" { print $2 }' /proc/meminfo)
	if [ "${free:-0}" -lt 12 ]; then
		say "no pages of hugetlbfs to be had here (${free:-0} of 12)"
		return
	fi
	evicted_run special_verify hugetlb 12
	# malloc's memory in huge pages as far as there are any
	GLIBC_TUNABLES=glibc.malloc.hugetlb=2 evicted_run malloc_verify 1 2
}

transparent() {
	local before

	if ! setting $thp/enabled always; then
		say "no transparent huge pages here"
		return
	fi
	setting $thp/defrag always || true
	setting $thp/khugepaged/scan_sleep_millisecs 10 || true
	setting $thp/khugepaged/pages_to_scan 20000 || true
	before=$(vmstat thp_collapse_alloc)
	evicted_run special_verify thp 6
	say "$(($(vmstat thp_collapse_alloc) - before)) huge pages were made of small ones"
	evicted_crowd "mremap_verify 2" "threads_verify 2 4" "malloc_verify 1 2"
	put_back
}

merged() {
	if ! setting $ksm/run 1; then
		say "no KSM here"
		return
	fi
	setting $ksm/sleep_millisecs 0 || true
	setting $ksm/pages_to_scan 5000 || true
	evicted_run special_verify ksm 256
	put_back
}

live_begin
AT_END=put_back
agent_start
huge_pages
put_back
transparent
merged
live_end
