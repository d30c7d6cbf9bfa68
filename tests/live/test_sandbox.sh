#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Programs that shut themselves in, memory that must stay, sizes that break
# pagers; bubblewrap, OpenSSH with its separated privileges, strace, gdb, Valgrind, and
# Chromium with its sandbox where it is installed.
# shellcheck source=tests/live/lib.sh
. "${srcdir:-.}/tests/live/lib.sh"

NOBODY=(setpriv --reuid 65534 --regid 65534 --clear-groups)

# In namespaces of its own, as root and as an ordinary user.
bubblewrap() {
	local way user before
	local box=(bwrap --unshare-all --new-session --die-with-parent --ro-bind / / --proc /proc
		--dev /dev --tmpfs /tmp --ro-bind "$DIR" "$DIR" --ro-bind "$BOXED" "$BOXED")

	if [ -z "$(type -P bwrap)" ]; then
		absent "no bubblewrap here"
		return
	fi
	for way in root nobody; do
		user=()
		[ $way = root ] || user=("${NOBODY[@]}")
		if ! bounded 20 "${user[@]}" "${box[@]}" -- true 2>/dev/null; then
			say "bubblewrap: $way may not here"
			continue
		fi
		before=$(total pages_out_total)
		evicted_command 60 "${user[@]}" env WORKLOAD_EVICT=1 "${box[@]}" -- \
			"$BOXED/fill_verify" 8 1 >"$DIR/bwrap.log" 2>&1 ||
			fail "bubblewrap as $way: status $?: $(cat "$DIR/bwrap.log")"
		say "bubblewrap as $way: ok, $(($(total pages_out_total) - before)) pages left"
	done
}

free_port() {
	local port

	for port in {22022..22200}; do
		if ! (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
			echo "$port"
			return
		fi
	done
}

sshd_listens() {
	awk -v port="$(printf ':%04X$' "$1")" '$2 ~ port && $4 == "0A" { found = 1 } END { exit !found }' /proc/net/tcp
}

# The server, its monitor, the unprivileged child and the session of a login.
openssh() {
	local port pid before sshd=/usr/sbin/sshd client

	if [ ! -x $sshd ] || [ -z "$(type -P ssh)" ]; then
		absent "no OpenSSH here"
		return
	fi
	port=$(free_port)
	mkdir -p "$DIR/ssh" /run/sshd
	ssh-keygen -q -t ed25519 -N '' -f "$DIR/ssh/host"
	ssh-keygen -q -t ed25519 -N '' -f "$DIR/ssh/user"
	cat >"$DIR/ssh/config" <<-END
		Port $port
		ListenAddress 127.0.0.1
		HostKey $DIR/ssh/host
		AuthorizedKeysFile $DIR/ssh/user.pub
		PidFile none
		UsePAM no
		StrictModes no
		PermitRootLogin yes
		PasswordAuthentication no
		ForceCommand seq 1 20000 | sha256sum; sleep 0.5; cat; exit 7
	END
	before=$(total pages_out_total)
	env "LD_PRELOAD=$LIB" $sshd -D -e -f "$DIR/ssh/config" </dev/null >"$DIR/ssh/log" 2>&1 &
	pid=$!
	wait_until 20 "sshd to listen" sshd_listens "$port"
	sleep 0.5
	client=(ssh -F none -p "$port" -i "$DIR/ssh/user" -o StrictHostKeyChecking=no
		-o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o BatchMode=yes root@127.0.0.1 anything)
	seq 1 300000 >"$DIR/ssh/in"
	(
		status=0
		timeout $((60 * FACTOR)) "${client[@]}" <"$DIR/ssh/in" >"$DIR/ssh/out" || status=$?
		[ $status -eq 7 ]
	) || fail "ssh: not the status of the command: $(tail -n 20 "$DIR/ssh/log")"
	{
		seq 1 20000 | sha256sum
		cat "$DIR/ssh/in"
	} | cmp - "$DIR/ssh/out" || fail "ssh: other bytes came back"
	kill -TERM $pid
	wait_until 20 "sshd to end" peer_gone $pid
	wait $pid || true # 255 is what it says to a signal
	grep -q 'fatal\|error' "$DIR/ssh/log" && fail "sshd: $(cat "$DIR/ssh/log")"
	say "OpenSSH: ok, $(($(total pages_out_total) - before)) pages left"
	[ "$(total pages_out_total)" -gt "$before" ] || fail "OpenSSH: vacuous, no page has left"
}

# Traced, every system call a stop; and by a debugger with a breakpoint.
tracers() {
	if [ -n "$(type -P strace)" ]; then
		bounded 60 strace -f -qq -o "$DIR/strace.log" -E "LD_PRELOAD=$LIB" -E WORKLOAD_EVICT=1 \
			"$WORKLOADS/fork_verify" 0 2 || fail "strace -f: status $?"
		say "strace -f: ok, $(wc -l <"$DIR/strace.log") lines"
	else
		absent "no strace here"
	fi
	if [ -n "$(type -P gdb)" ]; then
		bounded 60 gdb -nx -batch -iex 'set debuginfod enabled off' -ex "set environment LD_PRELOAD $LIB" \
			-ex 'set environment WORKLOAD_EVICT 1' -ex 'set startup-with-shell off' \
			-ex 'break main' -ex run -ex continue --args "$WORKLOADS/fill_verify" 4 1 \
			>"$DIR/gdb.log" 2>&1 || fail "gdb: status $?"
		grep -q 'exited normally' "$DIR/gdb.log" || fail "gdb: $(tail -n 20 "$DIR/gdb.log")"
		say "gdb: ok"
	else
		absent "no gdb here"
	fi
	if [ -n "$(type -P valgrind)" ]; then
		bounded 60 env LD_PRELOAD="$LIB" USWAP_DEBUG=1 valgrind -q --error-exitcode=9 \
			"$WORKLOADS/fill_verify" 1 1 >"$DIR/valgrind.log" 2>&1 ||
			fail "valgrind: status $?: $(head -n 5 "$DIR/valgrind.log")"
		grep -q 'not attached: Valgrind runs it' "$DIR/valgrind.log" || fail "valgrind: $(cat "$DIR/valgrind.log")"
		say "valgrind: ok"
	else
		absent "no Valgrind here"
	fi
}

chromium() {
	local browser

	browser=$(type -P chromium || type -P chromium-browser || true)
	if [ -z "$browser" ]; then
		absent "no Chromium here"
		return
	fi
	mkdir -p "$DIR/browser"
	chown 65534:65534 "$DIR/browser"
	cat >"$DIR/page.html" <<-'END'
		<html><body><p id=p></p><script>
		const kept = [];
		for (let i = 0; i < 200000; i++) kept.push({ id: i, key: (i * 7919 % 65537).toString(16) });
		let h = 7;
		for (const r of kept) h = (Math.imul(h, 31) + r.id + r.key.length * 17 + parseInt(r.key, 16)) | 0;
		document.getElementById("p").textContent = "digest " + h;
		</script></body></html>
	END
	local args=(env HOME="$DIR/browser" "$browser" --headless --disable-gpu --no-first-run
		--user-data-dir="$DIR/browser/data" --virtual-time-budget=3000 --dump-dom "file://$DIR/page.html")
	if ! bounded 60 "${NOBODY[@]}" "${args[@]}" >"$DIR/dom.plain" 2>"$DIR/browser.err"; then
		say "Chromium doesn't run here without us: $(grep -v '^$' "$DIR/browser.err" | tail -n 1)"
		return
	fi
	rm -rf "$DIR/browser/data"
	evicted_command 120 "${NOBODY[@]}" "${args[@]}" >"$DIR/dom" 2>"$DIR/browser.err" ||
		fail "Chromium: status $?: $(tail -n 20 "$DIR/browser.err")"
	cmp "$DIR/dom.plain" "$DIR/dom" || fail "Chromium: another page"
	say "Chromium: the same page; $(tail -n 1 "$DIR/browser.err")"
}

# What was read of tens of thousands of mappings, 15 MB and more, is not kept, though it is locked.
heap_is_small() {
	local worker kib

	worker=$(pgrep -P "$AGENT_PID" -x uswap-agent)
	kib=$(awk '/^RssAnon:/ { print $2 }' "/proc/$worker/status")
	! grep -q libjemalloc "/proc/$worker/maps" || [ "$kib" -lt 24576 ] || fail "the agent's heap has $kib KiB still"
}

live_begin
at_leisure
agent_start
# where an ordinary user in a sandbox can read it
BOXED=$DIR/bin
mkdir "$BOXED"
cp "$WORKLOADS/fill_verify" "$BOXED"
chmod -R a+rX "$BOXED"
cp "$LIB" "$BOXED/libuswap.so"
LIB=$BOXED/libuswap.so

if part sandboxes; then
	evicted_run sandbox_verify
	evicted_run alone_verify
	evicted_run alone_verify --lockall
fi
if part many; then
	evicted_run many_verify maps 20000
	heap_is_small
	# a container's processes may all be taken by thousands, while others need some
	evicted_run many_verify threads $((${SOAK_MINUTES:-0} ? 2000 : 400))
	evicted_run many_verify reserve 2
	evicted_run many_verify huge 4
	evicted_run many_verify grow 1500
fi
if part bubblewrap; then bubblewrap; fi
if part openssh; then openssh; fi
if part tracers; then tracers; fi
if part chromium; then chromium; fi
live_end
