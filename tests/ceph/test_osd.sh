#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# OSDs that are killed, hang and come back, under load: readers wait and get
# their bytes, writes go on as soon as the cluster does, nothing is lost.
# shellcheck source=tests/ceph/lib.sh
. "${srcdir:-.}/tests/ceph/lib.sh"

oldest_is_beyond() {
	[ "$(ask "$LOAD" oldest)" -gt "$1" ]
}

live_begin
cluster_start bluestore 3 2
load_start ""
load_goes_on "$LOAD"

mini_ceph signal osd.0 KILL
load_goes_on "$LOAD"
load_right "$LOAD" "with an OSD killed"
mini_ceph run osd.0
mini_ceph wait-osds 3
mini_ceph wait-clean
load_goes_on "$LOAD"
say "killed and back: $(ask "$LOAD" failed) writes failed, $(ask "$LOAD" reads) reads"

mini_ceph signal osd.1 STOP
load_goes_on "$LOAD"
load_right "$LOAD" "with an OSD that hangs"
mini_ceph signal osd.1 CONT
mini_ceph wait-osds 3
say "hung and back: $(ask "$LOAD" failed) writes failed"

# nobody answers: readers wait, the operator sees it, no byte is lost
for osd in 0 1 2; do
	mini_ceph signal osd.$osd STOP
done
wait_until 30 "the store to notice" load_is "$LOAD" away
wait_for_reason "$LOAD" "pool uswap: no answer to *"
wait_until 30 "readers to wait" oldest_is_beyond 3000
before=$(ask "$LOAD" writes)
for osd in 0 1 2; do
	mini_ceph signal osd.$osd CONT
done
wait_until 60 "the store to be up again" load_is "$LOAD" up
load_goes_on "$LOAD"
load_counts "$LOAD" writes "$before" || fail "no writes"
load_right "$LOAD" "after all OSDs hung"
load_stop "$LOAD"
[ "$(objects_like .)" = 0 ] || fail "left in the pool: $(objects)"
say "passed"
