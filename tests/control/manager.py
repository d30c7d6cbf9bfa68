#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Plays the service manager: passes sockets, reads notifications.

usage: manager.py DIRECTORY AGENT [OPTION...]
"""
import os
import signal
import socket
import subprocess
import sys
import time


def listening(kind, path):
    s = socket.socket(socket.AF_UNIX, kind)
    s.bind(path)
    s.listen(5)
    return s


def wait_for(notify, what):
    """Reads messages until one has the line; returns all of its lines."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        notify.settimeout(max(end - time.monotonic(), 0.01))
        try:
            lines = notify.recv(4096).decode().split('\n')
        except TimeoutError:
            break
        if what in lines:
            return lines
    sys.exit(f'no {what} within 20 s')


def main():
    directory, command = sys.argv[1], sys.argv[2:]
    os.mkdir(directory)
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(f'{directory}/notify')
    attach = listening(socket.SOCK_SEQPACKET, f'{directory}/agent.sock')
    control = listening(socket.SOCK_STREAM, f'{directory}/other.sock')

    def in_child():
        # by way of high numbers, so that neither overwrites the other
        a, c = os.dup2(attach.fileno(), 100), os.dup2(control.fileno(), 101)
        os.dup2(a, 3)
        os.dup2(c, 4)
        os.environ['LISTEN_PID'] = str(os.getpid())

    # A shell sets LISTEN_PID to what the agent's pid will be, and execs it.
    environment = dict(os.environ, NOTIFY_SOCKET=f'{directory}/notify', LISTEN_FDS='2',
                       LISTEN_FDNAMES='attach:control', WATCHDOG_USEC='1000000')
    agent = subprocess.Popen(['sh', '-c', 'LISTEN_PID=$$ WATCHDOG_PID=$$; export LISTEN_PID '
                              'WATCHDOG_PID; exec "$@"', 'sh', *command],
                             env=environment, preexec_fn=in_child, pass_fds=(3, 4))
    try:
        wait_for(notify, 'READY=1')
        wait_for(notify, 'WATCHDOG=1')
        for path, kind in ((f'{directory}/agent.sock', socket.SOCK_SEQPACKET),
                           (f'{directory}/other.sock', socket.SOCK_STREAM)):
            with socket.socket(socket.AF_UNIX, kind) as s:
                s.connect(path)
        agent.send_signal(signal.SIGHUP)
        lines = wait_for(notify, 'RELOADING=1')
        if not any(line.startswith('MONOTONIC_USEC=') for line in lines):
            sys.exit('RELOADING=1 without MONOTONIC_USEC=')
        wait_for(notify, 'READY=1')
        agent.send_signal(signal.SIGTERM)
        wait_for(notify, 'STOPPING=1')
        status = agent.wait(timeout=20)
        if status:
            sys.exit(f'the agent ended with {status}')
        for name in ('agent.sock', 'other.sock'):
            if not os.path.exists(f'{directory}/{name}'):
                sys.exit(f'the agent removed {name}, which is the manager\'s')
    finally:
        if agent.poll() is None:
            agent.kill()
            agent.wait()


main()
