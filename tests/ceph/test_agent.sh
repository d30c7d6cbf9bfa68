#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# What programs and the operator see when the cluster fails: a wait, and how long
# it lasts; SIGBUS where bytes are truly lost; never wrong bytes, and no restart. The
# agent's worker is killed while memory is in the pool, on its way there and back: the
# next one finds all of it, and leaves nothing.
# shellcheck source=tests/live/crash.sh
. "${srcdir:-.}/tests/live/crash.sh"
# shellcheck source=tests/ceph/lib.sh
. "${srcdir:-.}/tests/ceph/lib.sh"

MIB=32

in_the_pool() {
	[ "$(tier rados live_bytes)" -gt $((1 << 20)) ] &&
		[ "$(tier memory live_bytes)" -lt $((256 << 10)) ]
}

# ... and not in the program: a quarter of what is not lost, which may be little
lost=0
are_away() {
	local there=$((MIB * 256 - lost))

	[ "$(tier rados live_bytes)" -gt $((there << 7)) ] && # 1 MiB of all
		[ "$(tier memory live_bytes)" -lt $((256 << 10)) ] &&
		[ "$(of_process "${PEER_PIDS[served]}" evicted_bytes)" -gt $((there << 10)) ]
}

oldest_is_beyond() { # MS
	[ "$(tier rados oldest_read_ns)" -gt $(($1 * 1000000)) ]
}

status_says() {
	"$CTL" status >"$DIR/status" || fail "uswapctl status: status $?"
	grep -qF -- "$1" "$DIR/status"
}

right() { # WHEN
	[ "$(ask "$served" verify)" = $((MIB * 256)) ] || fail "verify $1"
}

osds() { # SIGNAL
	mini_ceph signal osd.0 "$1"
	mini_ceph signal osd.1 "$1"
}

is_writing() {
	[ "$(tier rados writes_pending)" -gt 0 ]
}

# What is told of the pool is what is there
objects_are_told() {
	[ "$(tier rados segments)" = "$(objects_like '^s\.here\.')" ]
}

answer_of() { # N: to what it was told before
	local line

	read -r -t $((60 * FACTOR)) -u "${PEER_OUT[$1]}" line || fail "no answer"
	echo "${line#* }"
}

live_begin
# Two OSDs that hold the same: one alone that was stopped, or did not run for some
# seconds, can keep a placement group "laggy" for ever, since nobody answers its
# leases. Reads wait for that until a monitor tells it to start over.
cluster_start memstore 2 2
pool_below_memory
head -c 4096 /dev/zero >"$DIR/inject"
export USWAP_INJECT=$DIR/inject

# the agent comes up while the network swallows everything, serves, and what leaves goes
# to the local store below; it connects when it can
mini_ceph swallow
mkdir "$DIR/below"
AGENT_STORES+=("file:$DIR/below,size=128M")
agent_start
wait_until 60 "the cluster to be missed" status_says "away: pool uswap: no monitor answers"
below_holds() { [ "$(tier file live_bytes)" -gt $((1 << 20)) ]; }
serve_start "$MIB"
served=$SERVED
wait_until 60 "pages to go below" below_holds
right "without a cluster"
mini_ceph carry
wait_until 60 "the store to be up" tier_works rados
right "with a cluster"
serve_stop "$served"
wait_until 30 "everything to be given up" nothing_held
agent_stop
unset "AGENT_STORES[-1]"
agent_start
wait_until 60 "the store to be up" tier_works rados
say "without a cluster: ok"

WORKLOAD_KEEP=1 serve_start "$MIB" # of which it will lose some
served=$SERVED
[ "$(ask "$served" survey)" = 0 ] || fail "lost at the start"
wait_until 90 "pages to go to the pool" in_the_pool

# no monitor: nobody notices
mini_ceph signal mon.a TERM
right "without a monitor"
mini_ceph run mon.a
mini_ceph wait-osds 2

# killed at rest: not one has to wait for the lease of a dead one
wait_until 90 "pages to go to the pool again" in_the_pool
before=$(tier rados live_bytes)
kill_worker
wait_until 60 "the store to be up" tier_works rados
[ "$(tier rados live_bytes)" -gt $((before / 2)) ] || fail "the next worker knows less of the pool"
right "after a kill at rest"
# and at work
[ "$(ask "$served" change)" -gt 0 ] || fail "change"
echo verify >&"${PEER_IN[served]}"
kill_worker
[ "$(answer_of "$served")" = $((MIB * 256)) ] || fail "verify, the worker being killed"
say "killed at rest and at work: ok"

# Where much is moved at a time one change may not make three batches.
dies() {
	[ "$(ask "$served" change)" -gt 0 ] || fail "change, on the way to $point"
	inject_is_hit_within 2 "$hits"
}
# inside a batch: its place is used up, it is there, half of its blobs are in it
for point in BATCH_PLACE BATCH_WRITTEN BATCH_HALF; do
	hits=$(inject_hits)
	before=$(worker)
	inject "$point" 2
	wait_until 60 "a worker to die at $point" dies
	wait_until 30 "another worker" worker_is_new "$before"
	right "after $point"
done
# with writes under way that land when nobody waits for them any more
caught() { # one of them; they may all have been faster than we
	[ "$(ask "$served" change)" -gt 0 ] || fail "change"
	osds STOP
	for _ in $(seq 20); do
		! is_writing || return 0
		sleep 0.05
	done
	osds CONT
	return 1
}
wait_until 90 "a write to wait" caught
kill_worker
osds CONT
mini_ceph wait-osds 2
right "after writes that landed late"
[ "$(total poisoned_pages_total)" = 0 ] || fail "pages were poisoned"
wait_until 90 "pages to go to the pool" in_the_pool
wait_until 60 "what nobody needs to go: $(tier rados segments), $(objects)" objects_are_told
say "killed in a batch: ok"

# the network swallows everything: the program waits, and then has its bytes
mini_ceph swallow
echo verify >&"${PEER_IN[served]}"
wait_until 30 "a program to wait" oldest_is_beyond 3000
wait_until 30 "the store to notice" tier_is rados away
wait_until 30 "a wait to be told" status_says "reads wait for it, the oldest for"
# others are served meanwhile, out of memory
evicted_run fill_verify 4 1
mini_ceph carry
mini_ceph wait-osds 2
[ "$(answer_of "$served")" = $((MIB * 256)) ] || fail "verify, after a wait"
wait_until 60 "the store to be up" tier_works rados
[ "$(total poisoned_pages_total)" = 0 ] || fail "a wait has cost pages"
say "a wait: ok"

# one object is cut off, another one overwritten: the pages in there are lost, and no
# others
wait_until 90 "pages to go to the pool once more" are_away
name=$(objects | grep '^s' | head -n 1)
timeout $((30 * FACTOR)) rados -p uswap truncate "$name" 1234567
name=$(objects | grep '^s' | tail -n 1)
head -c 4194304 /dev/urandom | timeout $((30 * FACTOR)) rados -p uswap put "$name" -
"$CTL" --json=short verify >"$DIR/verify.json" && fail "verify finds nothing: $(cat "$DIR/verify.json")"
damaged=$(jq '.damaged_pages + .unread_pages' "$DIR/verify.json")
lost=$(ask "$served" survey)
say "$damaged pages are damaged, $lost are lost to the program"
[ "$lost" -gt 0 ] || fail "nothing is lost"
[ "$lost" -lt $((MIB * 256)) ] || fail "everything is lost"
[ "$(total poisoned_pages_total)" = "$lost" ] || fail "$(total poisoned_pages_total) are poisoned, not $lost"
# one page of nine is one of eight that the program has many times
if [ "$lost" -lt "$damaged" ] || [ "$lost" -gt $((damaged + MIB * 256 / 8)) ]; then
	fail "$damaged pages are damaged, $lost are lost"
fi
[ "$(tier rados corrupt_total)" -gt 0 ] || fail "nothing was damaged"
[ "$(ask "$served" survey)" = "$lost" ] || fail "others are lost the second time"

# all objects are gone: the tier says so; the program ends by SIGBUS
wait_until 90 "pages to go to the pool again" are_away
# (one by one: the agent may be first with some of them)
objects | grep '^s' | xargs -r -n 1 timeout $((30 * FACTOR)) rados -p uswap rm 2>/dev/null || :
echo survey >&"${PEER_IN[served]}"
wait_until 30 "the store to be degraded" tier_is rados degraded
[ "$(answer_of "$served")" -gt "$lost" ] || fail "objects are gone, and nothing is lost"
[ "$(tier rados missing_total)" -gt 0 ] || fail "nothing was missing"
pid=${PEER_PIDS[served]}
peer_tell "$served" verify
wait_until 60 "the program to end" peer_gone "$pid"
status=0
wait "$pid" || status=$?
[ $status = 135 ] || fail "it ended with $status, and not by SIGBUS"
peer_close "$served"
wait_until 30 "everything to be given up" nothing_held
say "damaged and missing objects: ok"

# the store goes on: it is tried, so it is up again though nobody reads
serve_start "$MIB"
wait_until 90 "pages to go to the pool" in_the_pool
wait_until 30 "the store to be up: $(tier rados reason)" tier_is rados up
[ "$(ask "$SERVED" verify)" = $((MIB * 256)) ] || fail "verify at the end"
serve_stop "$SERVED"
wait_until 30 "everything to be given up" nothing_held
agent_stop
[ "$(objects_like .)" = 0 ] || fail "left in the pool: $(objects)"
say "passed"
