# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
# What tests of several stores share; after lib.sh.

# Pages go down after MOVE_DOWN seconds.
MOVE_DOWN=0.05
agent_config() {
	cat <<-END
		[Store]
		MoveDownSec=$MOVE_DOWN
		[Policy]
		ScanSec=0.02
		GraceSec=0.02
		StallBudget=100%
		MinResident=0
		StartDelaySec=0
	END
}

tier() { # N KEY
	"$CTL" --json stats | jq -er --argjson n "$1" --arg key "$2" '.agent.tiers[$n][$key]'
}

tier_has() { # N BYTES
	[ "$(tier "$1" live_bytes)" -gt "$2" ]
}

tier_is() { # N STATE
	[ "$(tier "$1" state)" = "$2" ]
}

# refused WORDS STORE...: an agent with these stores must not start, and say so
refused() {
	local words=$1 status=0

	shift
	[ -e "$DIR/uswap.conf" ] || agent_config >"$DIR/uswap.conf"
	timeout $((20 * FACTOR)) "$AGENT" --config "$DIR/uswap.conf" --socket "$DIR/other.sock" --bus-address none \
		"${@/#/--store=}" --foreground >"$DIR/refused" 2>&1 || status=$?
	case $status in
	0 | 124) fail "started with $*: status $status" ;;
	esac
	grep -q "$words" "$DIR/refused" || fail "no word of \"$words\": $(cat "$DIR/refused")"
	say "refused: $(grep -m 1 "$words" "$DIR/refused")"
}
