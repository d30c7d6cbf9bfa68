#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The installed unit in a container with a real systemd as PID 1, and a Ceph
# cluster on the container's loopback: with its hardening alone the unit reaches
# no network and says so; with the drop-in of contrib a program's memory goes to
# the pool and comes back; and an operator collects a host that is gone.
# shellcheck source=tests/systemd/lib.sh
. "${srcdir:-.}/tests/systemd/lib.sh"

need_program ceph-mon ceph-osd ceph rados
box_install all
mkdir -p "$dir/stage/etc/ceph"
cp "$build/tests/workloads/fill_serve" "$src/tests/ceph/mini-ceph.sh" "$src/contrib/systemd/rados.conf" \
	"$dir/stage/usr/lib/uswap-test"
cat >>"$dir/stage/etc/uswap/uswap.conf.d/test.conf" <<'END'
[Store]
Store=memory:64M rados:uswap,timeout=2
MoveDownSec=0.1
END

# ---- boot, and a cluster that only the box can reach ----
box_boot
mini_ceph() { box bash /usr/lib/uswap-test/mini-ceph.sh "$1" /run/uswap-test "${@:2}"; }
mini_ceph start memstore >"$dir/ceph.log" 2>&1 || {
	cat "$dir/ceph.log"
	fail "the cluster does not start"
}
# what an administrator has: the monitors' addresses, and one key
box sh -c 'grep -E "^(fsid|mon_host|ms_bind|\[global\])" /run/uswap-test/ceph.conf >/etc/ceph/ceph.conf
	install -o uswap -m 600 /run/uswap-test/client.uswap.keyring /etc/ceph/ceph.client.uswap.keyring'

# ---- the unit as it is ----
tier() { box uswapctl --json stats | jq -er ".agent.tiers[] | select(.name == \"rados\") | .$1"; }
reason_is() { [[ $(tier reason) == *"$1"* ]]; }
is_up() { [[ $(tier state) == @(up|degraded) ]]; } # perhaps with something to tell of the past
box systemctl start uswap-agent
wait_until 60 "the unit to find no network: $(tier reason)" reason_is "the agent may not use the network"
[ "$(tier state)" = denied ] || fail "state: $(tier state)"
say "without the drop-in: $(tier reason)"

# ---- with the drop-in ----
box install -D -m 644 /usr/lib/uswap-test/rados.conf /etc/systemd/system/uswap-agent.service.d/rados.conf
box systemctl daemon-reload
box systemctl restart uswap-agent
wait_until 60 "the pool to be reached" is_up
coproc WORK {
	box setpriv --reuid 60000 --regid 60000 --clear-groups uswapctl run -- /usr/lib/uswap-test/fill_serve 32 2>&1
}
worker=$WORK_PID
answer=
ask() { # COMMAND, the answer that must come
	[ -z "$1" ] || echo "$1" >&"${WORK[1]}"
	read -r -t $((60 * ${USWAP_TIME_FACTOR:-1})) answer <&"${WORK[0]}" || fail "$1: no answer"
	[[ $answer == "$2"* ]] || fail "$1: $answer"
}
ask "" ready
pid=${answer#ready }
in_the_pool() { [ "$(tier live_bytes)" -gt $((1 << 20)) ]; }
is_attached() { box uswapctl --json stats "$pid" >"$dir/attached" 2>&1; }
wait_until 20 "the program to be attached" is_attached
wait_until 20 "the program to be evicted once" box uswapctl evict "$pid"
wait_until 60 "pages to go to the pool" in_the_pool
ask verify right
[ "$(tier read_bytes_total)" -gt $((1 << 20)) ] || fail "nothing was read from the pool"
say "with the drop-in: $answer pages, $(tier read_bytes_total) bytes read from the pool"

# ---- restarted, the service manager keeps what says where pages are ----
wait_until 20 "the program to be evicted" box uswapctl evict "$pid"
wait_until 60 "pages to go to the pool again" in_the_pool
live=$(tier live_bytes)
box systemctl restart uswap-agent
wait_until 60 "the pool to be reached again" is_up
[ "$(tier live_bytes)" -gt $((live / 2)) ] || fail "$(tier live_bytes) bytes of $live are known after a restart"
ask verify right
say "restarted: $answer pages"

# ---- what an operator types ----
gc() { box uswapctl gc "--host=$1" >"$dir/gc" 2>&1; }
rados() { box env CEPH_CONF=/run/uswap-test/ceph.conf timeout 30 rados -p uswap "$@"; }
host=$(rados ls | sed -n 's/^h\.//p')
if gc "$host"; then fail "the living host was removed"; fi
grep -q "host $host is alive" "$dir/gc" || fail "gc: $(cat "$dir/gc")"
box sh -c 'printf "gone\naddress 127.0.0.1:0/4711\n" >/run/uswap-test/card'
rados put h.gone /run/uswap-test/card
rados put s.gone.0123456789abcdef01234567.0000000000000001 /etc/hostname
gc gone || fail "gc: $(cat "$dir/gc")"
grep -q "^host gone: 1 segments removed" "$dir/gc" || fail "gc: $(cat "$dir/gc")"
if rados ls | grep '\.gone'; then fail "left of a host"; fi
box env CEPH_CONF=/run/uswap-test/ceph.conf timeout 30 ceph osd blocklist ls 2>/dev/null |
	grep -q '^127.0.0.1:0/4711' || fail "its client is not blocklisted"
ask verify right
say "gc: $(cat "$dir/gc")"

ask quit bye
wait "$worker" || fail "the program ended with status $?"
is_empty() { ! rados ls | grep -q '^s'; }
wait_until 30 "the pool to be empty" is_empty
box systemctl stop uswap-agent
[ "$(box systemctl show -P Result uswap-agent)" = success ] || fail "the stop has failed"
[ -z "$(rados ls)" ] || fail "left in the pool: $(rados ls)"
mini_ceph stop
say passed
