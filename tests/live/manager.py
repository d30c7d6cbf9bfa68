#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A service manager with a store of descriptors, and nothing else of one: starts
the agent, again when it was killed, with all the descriptors it has given away.

usage: manager.py DIRECTORY COMMAND [OPTION...]

MANAGER_FDSTORE is how many descriptors it says to keep.
DIRECTORY/pid holds the agent's pid. While DIRECTORY/deaf is there, removals are not
heard, as those of a process that has ended since are not: DIRECTORY/unheard. SIGTERM is passed on, and the agent's end by
itself is the manager's. SIGUSR1 restarts it: it is told to stop, while
DIRECTORY/restart is there, and started again whatever it says.
"""
import array
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading

PR_SET_CHILD_SUBREAPER = 36
SYS_KCMP = 312
KCMP_FILE = 0
LIBC = ctypes.CDLL(None)


def is_same_file(one, two):
    me = os.getpid()
    return LIBC.syscall(SYS_KCMP, me, me, KCMP_FILE, one, two) == 0


class Manager:
    def __init__(self, directory, command):
        self.directory, self.command = directory, command
        self.store = {}  # name -> [descriptor]
        self.stopping = False
        self.restarting = False
        self.read = threading.Event()
        self.agent = None
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(f'{directory}/notify')

    def receive(self):
        data, ancillary, _, _ = self.notify.recvmsg(4096, socket.CMSG_SPACE(64 * 4))
        fds = array.array('i')
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(payload)
        lines = dict(line.split('=', 1) for line in data.decode().split('\n') if '=' in line)
        name = lines.get('FDNAME')
        if 'DRAINED' in lines:
            self.read.set()
        if 'FDSTORE' in lines:
            kept = self.store.setdefault(name, [])
            for fd in fds:  # a file that is there already is not kept twice
                if any(is_same_file(fd, other) for other in kept):
                    os.close(fd)
                else:
                    kept.append(fd)
            return
        for fd in fds:  # a barrier: its end is the answer
            os.close(fd)
        if 'FDSTOREREMOVE' in lines and os.path.exists(f'{self.directory}/deaf'):
            with open(f'{self.directory}/unheard', 'w', encoding='ascii'):
                pass
        elif 'FDSTOREREMOVE' in lines:
            for fd in self.store.pop(name, []):
                os.close(fd)

    def listen(self):
        while True:
            self.receive()

    def drain(self):
        """What the agent has said before its death is heard before it is started
        again, as a service manager does it."""
        self.read.clear()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
            own.sendto(b'DRAINED=1', f'{self.directory}/notify')
        self.read.wait()

    def start(self):
        self.drain()
        pairs = [(name, fd) for name, fds in self.store.items() for fd in fds]
        environment = dict(os.environ, NOTIFY_SOCKET=f'{self.directory}/notify', FDSTORE=os.environ.get('MANAGER_FDSTORE', '16384'),
                           LISTEN_FDS=str(len(pairs)),
                           LISTEN_FDNAMES=':'.join(name for name, _ in pairs))

        def in_child():
            # by way of high numbers, so that none overwrites another
            high = [os.dup2(fd, 5000 + i) for i, (_, fd) in enumerate(pairs)]
            for i, fd in enumerate(high):
                os.dup2(fd, 3 + i)
                os.close(fd)
            os.closerange(3 + len(pairs), 5000)

        self.agent = subprocess.Popen(['sh', '-c', 'LISTEN_PID=$$; export LISTEN_PID; exec "$@"',
                                       'sh', *self.command],
                                      env=environment, preexec_fn=in_child, close_fds=False)
        with open(f'{self.directory}/pid.new', 'w', encoding='ascii') as f:
            f.write(f'{self.agent.pid}\n')
        os.rename(f'{self.directory}/pid.new', f'{self.directory}/pid')

    def on_stop(self, *_):
        self.stopping = True
        self.agent.send_signal(signal.SIGTERM)

    def on_restart(self, *_):
        self.restarting = True
        self.agent.send_signal(signal.SIGTERM)

    def run(self):
        LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        signal.signal(signal.SIGTERM, self.on_stop)
        signal.signal(signal.SIGUSR1, self.on_restart)
        threading.Thread(target=self.listen, daemon=True).start()
        while True:
            self.start()
            status = self.agent.wait()
            # as a service manager does: not before the last of its processes is
            # gone, for that one may still hold the socket
            try:
                while True:
                    os.wait()
            except ChildProcessError:
                pass
            if status >= 0 and not self.restarting:
                return status
            self.restarting = False


if __name__ == '__main__':
    sys.exit(Manager(sys.argv[1], sys.argv[2:]).run())
