# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
# A redis-server, at the socket $REDIS, that is checked all the time. Who reads this has
# note(), which is told what is wrong.
cli() { timeout 120 redis-cli -s "$REDIS" "$@"; }
redis_up() { [ "$(cli ping 2>/dev/null)" = PONG ]; }

redis_fill() {
	awk 'BEGIN { srand(3); for (i = 0; i < 6000; i++) {
		printf "SET doc:%d \"%d %d %d", i, i, rand() * 1000000, i * 7
		for (k = 0; k < 40; k++) printf " field%d=%d", k, rand() * 100000
		print "\"" } }' | cli >/dev/null
}

redis_storm() { # FLAG: until it is gone; says how often it has looked
	local digest now n=0

	digest=$(cli debug digest)
	while [ -e "$1" ]; do
		cli set "extra:$n" "$(head -c 300 /dev/zero | tr '\0' x)$n" >/dev/null || note "redis: set"
		[ "$(cli get "extra:$n" | tail -c 8 | tr -d 'x\n')" = $n ] || note "redis: get $n"
		cli del "extra:$n" >/dev/null || note "redis: del"
		now=$(cli debug digest)
		[ "$now" = "$digest" ] || note "redis: digest $now instead of $digest"
		[ $((n % 5)) -ne 0 ] || cli bgsave >/dev/null || true
		n=$((n + 1))
		sleep 0.1
	done
	# Also where the machine was too slow for one look between two kills.
	now=$(cli debug digest)
	[ "$now" = "$digest" ] || note "redis: digest $now instead of $digest at the end"
	echo "$((n + 1)) looks"
}
