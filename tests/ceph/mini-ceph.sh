#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# A real Ceph cluster for tests, on 127.0.0.1, cephx on, all of it in one
# directory; no systemd, no root, nothing outside of the directory.
#
#	mini-ceph.sh start DIR [memstore|bluestore [OSDS [SIZE [mgr]]]]
#	mini-ceph.sh stop DIR
#	mini-ceph.sh signal DIR DAEMON SIGNAL	(osd.0, mon.a, mgr.x; KILL waits)
#	mini-ceph.sh run DIR DAEMON		one that has ended, again
#	mini-ceph.sh swallow DIR [DAEMON...]	no packet reaches these (all, if none is
#	mini-ceph.sh carry DIR [DAEMON...]	named), and nobody is told; they do again
#	mini-ceph.sh wait-osds DIR UP		until so many OSDs are up
#	mini-ceph.sh wait-clean DIR		until nothing is on one OSD alone; all must run
#	mini-ceph.sh pool DIR NAME
#	mini-ceph.sh key DIR NAME POOL		client.NAME with the caps of uswap-rados(7)
#
# Afterwards CEPH_CONF=DIR/ceph.conf is all that a client needs.
#
# What start takes care of: OSDs must be up before the first I/O (an operation
# that finds no primary is looked at again seconds later); the mon imports all
# keys with their caps at mkfs; stop ends OSDs before the mon they report to.
# A memstore OSD is empty after a restart: bluestore where one is killed.
set -eu
PATH=$PATH:/usr/sbin:/sbin
cmd=$1
D=$(realpath -m "$2")
export CEPH_CONF=$D/ceph.conf
FACTOR=${USWAP_TIME_FACTOR:-1}

needed=(ceph-mon ceph-osd ceph rados ceph-authtool monmaptool python3)

# Not one that the kernel gives to others before the monitor has it.
free_port() {
	python3 -c 'import random, socket
while True:
    try:
        with socket.socket() as s:
            s.bind(("127.0.0.1", random.randrange(10000, 32000)))
            print(s.getsockname()[1])
            break
    except OSError:
        pass'
}

pid_of() {
	cat "$D/$1.pid" 2>/dev/null || true
}

# A zombie is dead: whoever started it may reap late.
alive() {
	case $(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null) in
	'' | Z* | X*) return 1 ;;
	esac
}

run_daemon() { # KIND.ID
	setsid "ceph-${1%%.*}" -f -i "${1#*.}" </dev/null >>"$D/$1.out" 2>&1 &
	echo $! >"$D/$1.pid"
}

send() { # DAEMON SIGNAL
	local pid

	pid=$(pid_of "$1")
	[ -n "$pid" ] || { echo "mini-ceph: no $1 runs in $D" >&2; exit 1; }
	kill -"$2" "$pid"
	[ "$2" = KILL ] || [ "$2" = TERM ] || return 0
	for _ in $(seq 200); do
		alive "$pid" || { rm -f "$D/$1.pid"; return 0; }
		sleep 0.05
	done
	kill -KILL "$pid" 2>/dev/null || true
	rm -f "$D/$1.pid"
}

# What comes for the sockets of these processes is dropped by the kernel without an
# answer, a SYN like all else: a network that has gone, which takes no rights over one.
filter_packets() { # swallow|carry PID...
	python3 - "$@" <<-'END'
		import ctypes, os, socket, struct, sys
		SO_ATTACH_FILTER, SO_DETACH_FILTER, SYS_PIDFD_OPEN, SYS_PIDFD_GETFD = 26, 27, 434, 438
		libc = ctypes.CDLL(None, use_errno=True)
		drop = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0)) # BPF_RET: of 0 bytes
		program = struct.pack("HxxxxxxQ", 1, ctypes.addressof(drop))
		for pid in sys.argv[2:]:
		    of = libc.syscall(SYS_PIDFD_OPEN, int(pid), 0)
		    n = 0
		    for fd in os.listdir(f"/proc/{pid}/fd"):
		        try:
		            if not os.readlink(f"/proc/{pid}/fd/{fd}").startswith("socket:"):
		                continue
		        except OSError:
		            continue # closed meanwhile
		        copy = libc.syscall(SYS_PIDFD_GETFD, of, int(fd), 0)
		        if copy < 0:
		            sys.exit(f"mini-ceph: pidfd_getfd of {pid}: {os.strerror(ctypes.get_errno())}")
		        with socket.socket(fileno=copy) as s:
		            if s.family != socket.AF_INET:
		                continue
		            n += 1
		            if sys.argv[1] == "swallow":
		                s.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
		                continue
		            try:
		                s.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
		            except FileNotFoundError:
		                pass # made since, or never cut off
		    if not n:
		        sys.exit(f"mini-ceph: process {pid} has no sockets")
	END
}

filter_daemons() { # swallow|carry [DAEMON...]
	local what=$1 files=("$D"/*.pid) pids

	shift
	[ $# = 0 ] || files=("${@/#/$D/}") files=("${files[@]/%/.pid}")
	mapfile -t pids < <(cat "${files[@]}")
	filter_packets "$what" "${pids[@]}"
}

# monitor STEP...: one after the other; a process with the client in it takes as long to
# start as most of them. (Of the pythons the one that the distribution made the client for.)
#	new UUID ID
#	wait-osds UP	until so many are up, and no PG is on its way to another
#	pool NAME
#	key NAME POOL FILE
monitor() {
	timeout $((300 * FACTOR)) /usr/bin/python3 - "$@" <<-'END'
		import json, os, rados, sys, time
		def mon(prefix, **arguments):
		    status, out, why = cluster.mon_command(json.dumps(dict(arguments, prefix=prefix)), b"")
		    if status:
		        sys.exit(f"mini-ceph: {prefix}: {why}")
		    return out.decode()
		def wait_osds(up):
		    while True:
		        stat = mon("osd stat")
		        if f" {up} up" in stat and "remapped" not in stat:
		            break
		        time.sleep(0.1)
		def pool(name):
		    mon("osd pool create", pool=name, pg_num=8, pgp_num=8, pool_type="replicated")
		    cluster.wait_for_latest_osdmap()
		    with cluster.open_ioctx(name) as io:
		        io.write_full(".probe", b"there")
		        io.remove_object(".probe")
		def key(name, pool, path):
		    text = mon("auth get-or-create", entity=f"client.{name}", caps=[
		        "mon", 'allow r, allow command "osd blocklist"', "osd", f"allow rwx pool={pool}"])
		    with open(path, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as f:
		        f.write(text)
		cluster = rados.Rados(conffile=os.environ["CEPH_CONF"], conf=dict(mon_client_hunt_interval="0.2"))
		cluster.connect()
		words = iter(sys.argv[1:])
		for word in words:
		    if word == "new":
		        mon("osd new", uuid=next(words), id=int(next(words)))
		    elif word == "wait-osds":
		        wait_osds(next(words))
		    elif word == "pool":
		        pool(next(words))
		    else:
		        key(next(words), next(words), next(words))
		cluster.shutdown()
	END
}

# Up is not clean: what was written while an OSD was down is on the others alone, and
# can't be read when the next one goes. By the OSDs' own sockets, for there is no mgr.
wait_clean() {
	timeout $((100 * FACTOR)) python3 - "$D" "$D"/osd.*.pid <<-'END' || {
		import json, os, socket, struct, sys, time
		def state(osd, pg):
		    with socket.socket(socket.AF_UNIX) as s:
		        s.connect(f"{sys.argv[1]}/{osd}.asok")
		        s.sendall(json.dumps(dict(prefix="pg", cmd="query", pgid=pg)).encode() + b"\0")
		        with s.makefile("rb") as f:
		            answer = f.read(*struct.unpack(">i", f.read(4)))
		    try:
		        return json.loads(answer)["state"]
		    except ValueError:
		        return None # not its primary
		osds = [os.path.basename(path)[:-len(".pid")] for path in sys.argv[2:]]
		while True:
		    try:
		        states = [state(osd, f"{pool}.{pg}") for osd in osds for pool in (1, 2, 3) for pg in range(8)]
		    except (OSError, struct.error):
		        states = [] # an OSD that is still starting
		    states = [s for s in states if s]
		    if len(states) >= 8 and set(states) == {"active+clean"}:
		        break
		    time.sleep(0.2)
	END
		echo "mini-ceph: not all is clean" >&2
		exit 1
	}
}

write_conf() { # STORE OSDS SIZE
	# A placement group of one OSD that stands still for most of this time, as on a busy
	# machine, is "laggy" from then on, for ever: there is nobody to answer its leases.
	# Where there are others, one that hangs is to be noticed soon.
	local grace=4

	[ "$2" -gt 1 ] || grace=3600
	cat >"$CEPH_CONF" <<-END
		[global]
		fsid = $(cat "$D/fsid")
		mon_host = v2:127.0.0.1:$(free_port)
		mon_initial_members = a
		public_addr = 127.0.0.1
		cluster_addr = 127.0.0.1
		ms_bind_msgr1 = false
		ms_bind_ipv6 = false
		auth_cluster_required = cephx
		auth_service_required = cephx
		auth_client_required = cephx
		auth_allow_insecure_global_id_reclaim = false
		keyring = $D/keyring
		log_file = $D/\$name.log
		pid_file =
		admin_socket = $D/\$name.asok
		run_dir = $D
		crash_dir = $D/crash
		mon_cluster_log_file = $D/cluster.log
		log_to_stderr = false
		err_to_stderr = true
		osd_pool_default_size = $3
		osd_pool_default_min_size = 1
		osd_pool_default_pg_autoscale_mode = off
		osd_crush_chooseleaf_type = 0
		mon_max_pg_per_osd = 1000
		[client]
		keyring = $D/\$name.keyring,$D/keyring
		log_file =
		admin_socket =
		[mon]
		mon_data = $D/mon
		paxos_propose_interval = 0.05
		paxos_min_wait = 0.01
		mon_tick_interval = 1
		mon_allow_pool_size_one = true
		mon_allow_pool_delete = true
		mon_warn_on_pool_no_redundancy = false
		mon_data_avail_crit = 1
		mon_data_avail_warn = 2
		mon_osd_down_out_interval = 0
		mon_osd_reporter_subtree_level = osd
		mon_osd_adjust_heartbeat_grace = false
		osd_heartbeat_grace = $grace
		[osd]
		osd_data = $D/osd.\$id
		keyring = $D/osd.\$id/keyring
		osd_objectstore = $1
		osd_heartbeat_interval = 1
		osd_heartbeat_grace = $grace
		memstore_device_bytes = 2147483648
		bluestore_block_size = 10737418240
		bluestore_block_create = true
		osd_class_load_list = *
		osd_class_default_list = *
		osd_memory_target_autotune = false
		bluestore_cache_autotune = false
		bluestore_cache_size = 67108864
		[mgr]
		mgr_data = $D/mgr.\$id
		keyring = $D/mgr.\$id/keyring
		mgr_initial_modules =
	END
}

add_key() { # NAME DIR CAPS...
	mkdir -p "$2"
	ceph-authtool --create-keyring "$2/keyring" --gen-key -n "$1" "${@:3}" >/dev/null
	ceph-authtool "$D/seed.keyring" --import-keyring "$2/keyring" >/dev/null
}

start() { # STORE OSDS SIZE MGR
	local store=$1 osds=$2 size=$3 mgr=$4 i mkfs=() uuid=() new=()

	mkdir -p "$D"
	chmod 700 "$D"
	cat /proc/sys/kernel/random/uuid >"$D/fsid"
	write_conf "$store" "$osds" "$size"
	ceph-authtool --create-keyring "$D/keyring" --gen-key -n client.admin \
		--cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *' >/dev/null
	cp "$D/keyring" "$D/seed.keyring"
	ceph-authtool "$D/seed.keyring" --gen-key -n mon. --cap mon 'allow *' >/dev/null
	for ((i = 0; i < osds; i++)); do
		uuid[i]=$(cat /proc/sys/kernel/random/uuid)
		add_key "osd.$i" "$D/osd.$i" --cap mon 'allow profile osd' --cap osd 'allow *' \
			--cap mgr 'allow profile osd'
	done
	[ "$mgr" != mgr ] ||
		add_key mgr.x "$D/mgr.x" --cap mon 'allow profile mgr' --cap osd 'allow *'
	monmaptool --create --addv a "[$(sed -n 's/^mon_host = \(.*\)/\1/p' "$CEPH_CONF")/0]" \
		--fsid "$(cat "$D/fsid")" "$D/monmap" >/dev/null
	ceph-mon --mkfs -i a --monmap "$D/monmap" --keyring "$D/seed.keyring" >/dev/null
	run_daemon mon.a
	for ((i = 0; i < osds; i++)); do
		ceph-osd -i "$i" --mkfs --osd-uuid "${uuid[i]}" --monmap "$D/monmap" \
			>"$D/mkfs.$i.out" 2>&1 &
		mkfs[i]=$!
		new+=(new "${uuid[i]}" "$i")
	done
	monitor "${new[@]}"
	for ((i = 0; i < osds; i++)); do
		wait "${mkfs[i]}"
		run_daemon "osd.$i"
	done
	[ "$mgr" != mgr ] || run_daemon mgr.x
	monitor wait-osds "$osds" pool uswap key uswap uswap "$D/client.uswap.keyring"
}

stop() {
	local file

	# OSDs that hang must run to be ended
	for file in "$D"/osd.*.pid "$D"/mgr.*.pid "$D"/mon.*.pid; do
		[ -e "$file" ] || continue
		kill -CONT "$(cat "$file")" 2>/dev/null || true
		file=${file##*/}
		send "${file%.pid}" TERM 2>/dev/null || true
	done
}

case $cmd in
start)
	for program in "${needed[@]}"; do
		command -v "$program" >/dev/null || {
			echo "$program is not installed (packages ceph-mon ceph-osd ceph-common python3)"
			exit 77
		}
	done
	[ "${6:-}" != mgr ] || command -v ceph-mgr >/dev/null || {
		echo "ceph-mgr is not installed"
		exit 77
	}
	start "${3:-memstore}" "${4:-1}" "${5:-1}" "${6:-}"
	;;
stop) stop ;;
signal) send "$3" "$4" ;;
run) run_daemon "$3" ;;
swallow | carry) filter_daemons "$cmd" "${@:3}" ;;
wait-osds) monitor wait-osds "$3" ;;
wait-clean) wait_clean ;;
pool) monitor pool "$3" ;;
key) monitor key "$3" "$4" "$D/client.$3.keyring" ;;
*)
	echo "mini-ceph: unknown command $cmd" >&2
	exit 2
	;;
esac
