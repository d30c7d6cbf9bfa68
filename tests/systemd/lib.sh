# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
# A box with a real systemd as PID 1 and the installed tree: box_install, then, when
# $dir/stage has all that the test needs, box_boot. SDBOX_TREE names another tree than
# this machine's own to boot.
set -eu
src=$(realpath "${srcdir:-.}")
build=$(realpath "${top_builddir:-.}")
test=$(basename "$0" .sh)
name=uswap-${test#test_}-$$
say() { echo "$test: $*"; }
skip() {
	say "skipped: $*"
	exit 77
}
need_program() {
	local tool
	for tool; do
		command -v "$tool" >/dev/null || skip "$tool is not installed"
	done
}
[ "$(id -u)" = 0 ] || skip "not root"
need_program unshare nsenter findmnt jq ip
[ -x /lib/systemd/systemd ] || skip "systemd is not installed"
[ -x "$(command -v dbus-daemon)" ] || skip "dbus-daemon is not installed"
[ -n "$(findmnt -n -t cgroup2 -o TARGET | head -n 1)" ] || skip "no cgroup2 hierarchy is mounted"
[ -c /dev/userfaultfd ] || skip "no /dev/userfaultfd"
unshare --pid --fork --mount --uts --ipc --cgroup --net true 2>/dev/null ||
	skip "namespaces can't be made here"
[ -x "$build/agent/uswap-agent" ] || { say "uswap-agent is not built"; exit 1; }
reason=$("$build/tests/workloads/have_move") || skip "$reason"

dir=$(mktemp -d "${TMPDIR:-/tmp}/uswap-systemd.XXXXXX")
chmod 755 "$dir"
box() { "$src/scripts/sdbox" "$name" exec "$@"; }
cleanup() {
	local status=$?
	trap - EXIT ERR
	set +e
	if [ $status -ne 0 ] && [ $status -ne 77 ]; then
		echo "---- journal of the agent"
		box journalctl -u uswap-agent -u uswap-test --no-pager -n 60
		echo "---- status"
		box systemctl status --no-pager uswap-agent uswap-agent.socket
		box systemctl --failed --no-pager
		box uswapctl status
	fi
	"$src/scripts/sdbox" "$name" stop
	rm -rf "$dir"
	# once more behind the logs; without a word, the first command that ended the test
	[ $status -eq 0 ] || [ $status -eq 77 ] || say "status $status: ${why:-$where}" >&2
	exit $status
}
why=
where=
set -E
trap 'where=${where:-line $LINENO: $BASH_COMMAND}' ERR
trap cleanup EXIT
trap 'exit 1' INT TERM HUP
fail() {
	why="FAILED: $*"
	say "$why" >&2
	exit 1
}
wait_until() { # SECONDS WHAT COMMAND...
	local end=$((SECONDS + $1 * ${USWAP_TIME_FACTOR:-1})) what=$2
	shift 2
	until "$@"; do
		[ $SECONDS -lt $end ] || fail "still waiting: $what"
		sleep .1
	done
}

box_configure() {
	installed=$dir/build
	mkdir "$installed"
	(cd "$installed" && "$src/configure" --quiet --prefix=/usr --sysconfdir=/etc --localstatedir=/var CC="${CC:-gcc}")
}

# Places are compiled in: $installed is this build, if it is one for these, else one of
# the test's own. $dir/share is open to all.
box_install() { # MAKE-TARGET..., of $installed
	installed=$build
	if ! {
		{ [ "$(grep -cxE 'prefix = /usr|sysconfdir = /etc|localstatedir = /var' "$build/Makefile")" = 3 ] || box_configure; } &&
			make -s -C "$installed" -j "$(nproc)" "$@" &&
			make -s -C "$installed" install DESTDIR="$dir/stage"
	} >"$dir/install.log" 2>&1; then
		tail -n 40 "$dir/install.log"
		fail "make install DESTDIR="
	fi
	mkdir -p "$dir/stage/usr/lib/uswap-test" "$dir/stage/etc/uswap/uswap.conf.d" "$dir/share"
	chmod 777 "$dir/share"
	printf '%s\n' '[Policy]' StartDelaySec=0 MinResident=0 >"$dir/stage/etc/uswap/uswap.conf.d/test.conf"
}

box_boot() {
	chmod -R go+rX "$dir/stage"
	SDBOX_LAYER=$dir/stage SDBOX_BIND=$dir/share SDBOX_KEEP="dbus.service dbus.socket" \
		"$src/scripts/sdbox" "$name" start "${SDBOX_TREE:-/}" || {
		# other units of this machine may fail in a box; ours must not
		say "the box is up, but not all of its units"
		box systemctl --failed --no-pager || skip "systemd does not boot here"
	}
	say "$(box systemctl --version | head -n 1)"
	box systemd-sysusers
	box systemd-tmpfiles --create /usr/lib/tmpfiles.d/uswap.conf
}
