#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The cluster that the other tests stand on: it stores, and it checks keys.
# shellcheck source=tests/ceph/lib.sh
. "${srcdir:-.}/tests/ceph/lib.sh"

as_uswap() {
	timeout 30 rados --id uswap -p uswap "$@"
}

live_begin
cluster_start memstore
head -c 300000 /dev/urandom >"$DIR/data"
as_uswap put thing "$DIR/data" || fail "put"
as_uswap get thing "$DIR/back" || fail "get"
cmp "$DIR/data" "$DIR/back" || fail "other data comes back"

mini_ceph pool other
if timeout 30 rados --id uswap -p other put thing "$DIR/data" 2>/dev/null; then
	fail "client.uswap writes to a pool that it has no right to"
fi
as_uswap rm thing
[ "$(objects_like .)" = 0 ] || fail "not empty: $(objects)"
say "passed"
