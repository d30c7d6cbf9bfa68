#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Starts one test script for the harness: with a time limit, and, for tests
# that use the whole machine, one at a time; those of clusters and of systemd, which
# wait for these more than they compute, beside the others. usage: run.sh [--python] SCRIPT [ARG...]
# Exit status of the script: 0 passed, 77 skipped (it says why), others failed.
set -u
# Not a version manager's script in front of it: where processors are busy that takes a minute.
[ ! -x /usr/bin/python3 ] || PATH=/usr/bin:$PATH
interpreter=${BASH:-bash}
if [ "$1" = --python ]; then
	interpreter=python3
	shift
	command -v python3 >/dev/null || {
		echo "SKIP: python3 is not installed"
		exit 77
	}
fi
script=$1
polite=()
row=
limit=${USWAP_TEST_TIMEOUT:-900}
case $script in
*/live/* | */control/* | */inject/*)
	row=serial
	;;
*/ceph/*)
	row=serial-hosts
	;;
*/systemd/*)
	row=serial-hosts
	limit=$((limit * 2))
	;;
*)
	polite=(nice -n 10) # it only computes
	;;
esac
if [ -n "$row" ]; then
	exec 9>"${USWAP_BUILD:-.}/.$row"
	flock 9
fi
SECONDS=0
# TERM first: tests clean up after themselves
"${polite[@]}" timeout --kill-after=20 "$limit" "$interpreter" "$@" 9>&-
status=$?
echo "run.sh: $SECONDS s"
if [ $status = 124 ] || [ $status = 137 ]; then
	echo "run.sh: stopped after $limit s" >&2
fi
exit $status
