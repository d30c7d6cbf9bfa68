#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Whose equal pages are stored once: the same data in programs of one user, of two,
# in two control groups, and in one that changes its user on the way, before a death
# of the worker and after, under each DedupDomain=. And in a family of forks, counted
# against what the programs' memory really holds.
# shellcheck source=tests/live/lib.sh
. "${srcdir:-.}/tests/live/lib.sh"

PAGES=3000 # some 1400 more are the interpreter's own
GROUPS_DIR=
ALONE=()

agent_config() {
	cat <<-END
		[Store]
		DedupDomain=$DOMAIN
		[Policy]
		GraceSec=0
		MinResident=0
		StartDelaySec=86400
	END
}


# The pages that a program with children shares with them don't leave.
start() { # CHILDREN [COMMAND...]
	local children=$1

	shift
	peer_start "$@" env "LD_PRELOAD=$LIB" PYTHONHASHSEED=0 "$(real_python)" "$SCRIPT" $PAGES "$children"
	[ "$children" -gt 0 ] || ALONE[PEER]=$PEER_PID
}

# An order passes over programs whose mover isn't ready yet.
have_left() {
	timeout $((100 * FACTOR)) "$CTL" evict --all >"$DIR/evicted" || fail "evict: $(cat "$DIR/evicted")"
	"$CTL" --json stats >"$DIR/stats.json" || fail "uswapctl stats: status $?"
	jq -e --argjson programs "[$PROGRAMS]" --argjson bytes $((PAGES * 4096)) \
		'$programs - [.processes[] | select(.evicted_bytes >= $bytes) | .pid] == []' "$DIR/stats.json" >/dev/null
}

evict_all() {
	PROGRAMS=$(
		IFS=,
		echo "${ALONE[*]}"
	)
	wait_until 60 "all pages of $PROGRAMS to leave" have_left
}

# How many of its pages are stored a second time by the peer that has come last:
# distinct pages now less those before.
grown() {
	evict_all
	echo $(($(total store_blobs) - BLOBS))
}

# shared WHAT, apart WHAT: the program that was started last
shared() {
	local n

	n=$(grown)
	say "$DOMAIN: $1: $n more pages"
	[ "$n" -lt $((PAGES / 2)) ] || fail "$DOMAIN: $1: stored again ($n pages)"
}

apart() {
	local n

	n=$(grown)
	say "$DOMAIN: $1: $n more pages"
	[ "$n" -ge $((PAGES * 3 / 4)) ] || fail "$DOMAIN: $1: stored together ($n pages more)"
}

first() {
	evict_all
	BLOBS=$(total store_blobs)
	[ "$BLOBS" -ge $PAGES ] || fail "vacuous: $BLOBS pages"
}

round() { # DOMAIN
	DOMAIN=$1
	rm -f "$DIR/uswap.conf"
	agent_start
	[ "$(total dedup_domain)" = "$DOMAIN" ] || fail "not in the figures"
	start 0
	first
}

restored() { # PID
	timeout $((60 * FACTOR)) "$CTL" restore "$1" >"$DIR/restored"
}

fewer() {
	[ "$(total store_blobs)" -le $((BLOBS - PAGES * 3 / 4)) ]
}

again() {
	BLOBS=$(total store_blobs)
}

finish() {
	for ((PEER = PEER; PEER > 0; PEER--)); do
		peer_stop "$PEER"
		rm -f "$DIR/peer$PEER.in" "$DIR/peer$PEER.out"
		unset "ALONE[PEER]"
	done
	live_idle
	agent_stop
}

NOBODY=(setpriv --reuid=65534 --regid=65534 --clear-groups)

group() { # NAME: a command that runs another in it
	mkdir -p "$GROUPS_DIR/$1"
	# shellcheck disable=SC2016
	IN_GROUP=(bash -c 'echo $$ >"$0/cgroup.procs"; exec "$@"' "$GROUPS_DIR/$1")
}

live_begin
need_program python3 setpriv
SCRIPT=$DIR/program.py
# A program with PAGES pages that are the same in each of its kind, which forks
# CHILDREN times (they write to some of them) and may change its user. Says "ready
# PID", obeys "user UID", answers "digest".
cat >"$SCRIPT" <<'END'
import ctypes, hashlib, mmap, os, sys
pages, children = int(sys.argv[1]), int(sys.argv[2])
area = mmap.mmap(-1, pages * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for i in range(pages):
    area[i * 4096:(i + 1) * 4096] = (hashlib.sha256(b'%d' % i).hexdigest() * 64).encode()
ends = []
written, done = os.pipe()
for c in range(children):
    ours, theirs = os.pipe()
    if os.fork() == 0:
        for i in range(c, pages, 5):
            area[i * 4096] = 65 + c
        os.close(theirs)
        os.write(done, b'.')
        os.read(ours, 1)  # till the parent ends
        os._exit(0)
    ends.append(theirs)
for c in range(children):
    os.read(written, 1)
print('ready', os.getpid(), flush=True)
for line in sys.stdin:
    word = line.split()
    if word[0] == 'user':
        os.setresuid(*[int(word[1])] * 3)
    elif word[0] == 'fill':
        for i in range(pages):
            area[i * 4096:(i + 1) * 4096] = (hashlib.sha256(b'%s %d' % (word[1].encode(), i)).hexdigest() * 64).encode()
    elif word[0] == 'quit':
        break
    print('digest', hashlib.sha256(area).hexdigest(), flush=True)
END

cleanup_groups() {
	local dir end=$((SECONDS + 10))

	[ -n "$GROUPS_DIR" ] || return 0
	for dir in "$GROUPS_DIR/one" "$GROUPS_DIR/two" "$GROUPS_DIR"; do
		# whoever was killed is in it for a moment
		until rmdir "$dir" 2>/dev/null || [ ! -d "$dir" ] || [ $SECONDS -ge $end ]; do
			sleep 0.05
		done
	done
}
for base in /sys/fs/cgroup /sys/fs/cgroup/memory; do
	if [ -z "$GROUPS_DIR" ] && mkdir "$base/uswap-test.$$" 2>/dev/null; then
		GROUPS_DIR=$base/uswap-test.$$
		[ -e "$GROUPS_DIR/cgroup.procs" ] || { rmdir "$GROUPS_DIR"; GROUPS_DIR=; }
	fi
done
AT_END=cleanup_groups

# ---- by user; and one that changes it
round user
start 0
shared "the same user"
again
start 0 "${NOBODY[@]}"
apart "another user"
again
start 0
shared "a third program of the user"
changed=$PEER
before=$(peer_ask "$changed" "fill new")
start 0
[ "$(peer_ask "$PEER" "fill new")" = "$before" ] || fail "other data"
evict_all
# back in, changed to the other user, out again: nothing is shared with either
restored "${PEER_PIDS[changed]}" || fail "restore"
again
[ "$(peer_ask "$changed" "user 65534")" = "$before" ] || fail "other data"
apart "one that was root's"
grep -q "process ${PEER_PIDS[changed]} .* has changed its user from 0 to 65534" "$DIR/agent.log" ||
	fail "not a word of the changed user"
[ "$(peer_ask "$changed" "digest")" = "$before" ] || fail "other data"
# nor after a death of the worker, beside one whose user has been that from the start
start 0 "${NOBODY[@]}"
[ "$(peer_ask "$PEER" "fill new")" = "$before" ] || fail "other data"
first
kill -KILL "$(pgrep -P "$AGENT_PID" -x uswap-agent | head -n 1)"
wait_until 20 "another worker" grep -q "programs taken over" "$DIR/agent.log"
wait_until 20 "$changed to be restored" restored "${PEER_PIDS[changed]}"
wait_until 20 "what was its own to be given up" fewer
again
apart "one that was root's, after a death"
[ "$(peer_ask "$changed" "digest")" = "$before" ] || fail "other data"
"$CTL" verify || fail "verify"
finish

# ---- the whole machine
round host
start 0 "${NOBODY[@]}"
shared "another user"
finish

# ---- by control group
if [ -n "$GROUPS_DIR" ]; then
	DOMAIN=cgroup
	rm -f "$DIR/uswap.conf"
	agent_start
	group one
	start 0 "${IN_GROUP[@]}"
	first
	start 0 "${IN_GROUP[@]}" "${NOBODY[@]}"
	shared "another user of the group"
	again
	group two
	start 0 "${IN_GROUP[@]}"
	apart "another group"
	finish
	cleanup_groups
else
	say "no control groups can be made here: two groups are not tried"
fi

# ---- a family, and programs that were started alike
DOMAIN=user
rm -f "$DIR/uswap.conf"
agent_start
for _ in 1 2 3 4 5 6 7; do
	start 0
done
start 2
all_known() { # a child has no pid before it was asked for it
	programs=$(timeout 10 "$CTL" --json stats | jq -r '.processes[].pid') &&
		[ "$(grep -cvx 0 <<<"$programs")" = 10 ]
}
wait_until 20 "ten programs" all_known
# shellcheck disable=SC2086
python3 "${srcdir:-.}/tests/live/distinct.py" "$DIR/seen" $programs || fail "distinct.py"
evict_all
blobs=$(total store_blobs)
python3 "${srcdir:-.}/tests/live/distinct.py" "$DIR/seen" >"$DIR/away" || fail "distinct.py"
read -r away distinct same <"$DIR/away"
say "$(wc -w <<<"$programs") programs: $away pages away, $distinct distinct, $same same-filled; $blobs stored," \
	"$(($(total same_filled_bytes) / 4096)) same-filled"
[ $((distinct * 2)) -lt "$away" ] || fail "vacuous: few were alike"
# Some may have been written to between the looks, or be away by themselves.
near() {
	[ $((($1 - $2) * 100)) -le $(($2 + 2000)) ] && [ $((($2 - $1) * 100)) -le $(($2 + 2000)) ]
}
near "$blobs" "$distinct" || fail "$blobs pages are stored, $distinct are distinct"
near "$(($(total same_filled_bytes) / 4096))" "$same" || fail "same-filled pages"
"$CTL" verify || fail "verify"
finish
say passed
