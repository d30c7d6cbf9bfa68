# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
# A box with a real systemd as PID 1 and the installed tree, for test_unit.sh.
# SDBOX_TREE names another tree than this machine's own to boot.
set -eu
src=$(realpath "${srcdir:-.}")
build=$(realpath "${top_builddir:-.}")
name=uswap-test-$$
say() { echo "test_unit: $*"; }
skip() {
	say "skipped: $*"
	exit 77
}
[ "$(id -u)" = 0 ] || skip "not root"
for tool in unshare nsenter findmnt jq ip; do
	command -v $tool >/dev/null || skip "$tool is not installed"
done
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
	trap - EXIT
	set +e
	if [ $status -ne 0 ] && [ $status -ne 77 ]; then
		echo "---- journal of the agent"
		box journalctl -u uswap-agent -u uswap-test --no-pager -n 60
		echo "---- status"
		box systemctl status --no-pager uswap-agent uswap-agent.socket
		box systemctl --failed --no-pager
	fi
	"$src/scripts/sdbox" "$name" stop
	rm -rf "$dir"
	exit $status
}
trap cleanup EXIT
trap 'exit 1' INT TERM HUP
fail() {
	say "FAILED: $*" >&2
	exit 1
}
wait_until() { # SECONDS WHAT COMMAND...
	local end=$((SECONDS + $1)) what=$2
	shift 2
	until "$@"; do
		[ $SECONDS -lt $end ] || fail "still waiting: $what"
		sleep .1
	done
}

# ---- install: a build of its own, since the places are compiled in ----
mkdir "$dir/build"
(
	cd "$dir/build"
	"$src/configure" --quiet --prefix=/usr --sysconfdir=/etc --localstatedir=/var \
		CC="${CC:-gcc}" && make -s -j "$(nproc)" all &&
		make -s install DESTDIR="$dir/stage" &&
		make -s tests/systemd/older_agent
) >"$dir/install.log" 2>&1 || {
	tail -n 40 "$dir/install.log"
	fail "make install DESTDIR="
}
cp "$build/tests/workloads/fill_serve" "$dir/stage/usr/bin/uswap-test-work"
mkdir "$dir/stage/usr/lib/uswap-test" "$dir/share"
for one in fork threads mremap madvise; do
	cp "$build/tests/workloads/${one}_verify" "$dir/stage/usr/lib/uswap-test"
done
cp "$dir/build/tests/systemd/older_agent" "$dir/stage/usr/sbin/uswap-agent.older"
cp "$dir/stage/usr/sbin/uswap-agent" "$dir/stage/usr/sbin/uswap-agent.newer"
mkdir -p "$dir/stage/etc/uswap/uswap.conf.d"
cat >"$dir/stage/etc/uswap/uswap.conf.d/test.conf" <<'END'
[Policy]
StartDelaySec=0
MinResident=0
END
chmod -R go+rX "$dir/stage"

# ---- boot ----
chmod 777 "$dir/share"
SDBOX_LAYER=$dir/stage SDBOX_BIND=$dir/share SDBOX_KEEP="dbus.service dbus.socket" \
	"$src/scripts/sdbox" "$name" start "${SDBOX_TREE:-/}" || {
	# other units of this machine may fail in a box; ours must not
	say "the box is up, but not all of its units"
	box systemctl --failed --no-pager || skip "systemd does not boot here"
}
say "$(box systemctl --version | head -n 1)"
box systemd-sysusers
box systemd-tmpfiles --create /usr/lib/tmpfiles.d/uswap.conf
[ "$(box stat -c '%U:%G %a' /dev/userfaultfd)" = "root:uswap 660" ] ||
	fail "/dev/userfaultfd: $(box stat -c '%U:%G %a' /dev/userfaultfd)"
box systemd-analyze verify /usr/lib/systemd/system/uswap-agent.service \
	/usr/lib/systemd/system/uswap-agent.socket 2>&1 | grep -i uswap >"$dir/verify" || :
if grep -v -E 'Unknown key|notify-reload|RestartSteps|RestartMaxDelaySec' "$dir/verify"; then
	fail "systemd-analyze verify"
fi
box systemctl daemon-reload

