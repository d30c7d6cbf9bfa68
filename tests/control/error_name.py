#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The names of the errors, as they stand in the messages on control.sock.

usage: error_name.py CONTROL.sock; prints "METHOD ERROR" a line. Speaks D-Bus
itself: neither busctl nor gdbus shows the name of an error, or goes without a
bus.
       error_name.py CONTROL.sock --unread AGENT.sock PID...; users who read neither
answers nor signals: how much of PID's memory they take, and when they are dropped.
       error_name.py CONTROL.sock --many AGENT.sock; programs that come and go.
       error_name.py CONTROL.sock --long; sends a hundred MiB as one message, and
then as a handshake: succeeds when the agent hangs up each time.
       error_name.py CONTROL.sock --endless; calls from the handshake on without
a pause, reads all answers, and says so when the first have come.
"""
import fcntl
import os
import socket
import struct
import sys
import termios
import threading

METHOD_CALL, ERROR = 1, 3


def pad(data, n):
    return data + b'\0' * (-len(data) % n)


def string(text):
    raw = text.encode()
    return struct.pack('<I', len(raw)) + raw + b'\0'


def field(code, kind, value):
    body = bytes([code, 1]) + kind + b'\0'
    if kind == b'g':
        return body + bytes([len(value)]) + value.encode() + b'\0'
    return pad(body, 4) + string(value)


def call(serial, path, interface, member, signature, body):
    fields = b''
    for f in (field(1, b'o', path), field(2, b's', interface), field(3, b's', member),
              field(8, b'g', signature)):
        fields = pad(fields, 8) + f
    head = struct.pack('<4BIII', ord('l'), METHOD_CALL, 0, 1, len(body), serial, len(fields))
    return pad(head + fields, 8) + body


def read(sock, n):
    data = b''
    while len(data) < n:
        more = sock.recv(n - len(data))
        if not more:
            sys.exit('the agent hung up')
        data += more
    return data


def answer(sock):
    """Type and error name of the next message."""
    head = read(sock, 16)
    _, kind, _, _, body, _, fields = struct.unpack('<4BIII', head)
    rest = read(sock, fields + (-fields % 8) + body)
    name, at = '', 0
    while at < fields:
        at += -at % 8
        code, kind_length = rest[at], rest[at + 1]
        signature = rest[at + 2:at + 2 + kind_length]
        at += kind_length + 3
        if signature == b'g':
            at += rest[at] + 2
        else:
            at += -at % 4
            (size,) = struct.unpack_from('<I', rest, at)
            if signature in (b's', b'o'):
                if code == 4:
                    name = rest[at + 4:at + 4 + size].decode()
                at += size + 5
            else:
                at += 4
    return kind, name


def connect(path, behind=b''):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(20)
    sock.connect(path)
    sock.sendall(b'\0AUTH EXTERNAL ' + str(os.getuid()).encode().hex().encode() + b'\r\n')
    if not read(sock, 2).startswith(b'OK'):
        sys.exit('not let in')
    while read(sock, 1) != b'\n':
        pass
    sock.sendall(b'BEGIN\r\n' + behind)
    return sock


def ask(sock, member='Ping'):
    """And what has come before the answer."""
    interface = 'org.freedesktop.DBus.' + ('Peer' if member == 'Ping' else 'ObjectManager')
    sock.sendall(call(1, '/org/uswap1', interface, member, '', b''))
    while (kind := answer(sock)[0]) != 2:
        if kind == ERROR:
            sys.exit(member + ' failed')


def connect_as(uid, path, n):
    os.seteuid(uid)
    socks = [connect(path) for _ in range(n)]
    os.seteuid(0)
    return socks


def attach(path):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(path)
    return sock


def memory_kib(pids):
    return sum(int(line.split()[1]) for pid in pids for line in open(f'/proc/{pid}/status')
               if line.startswith('RssAnon:'))


def waiting_kib(sock):
    return struct.unpack('i', fcntl.ioctl(sock, termios.FIONREAD, b'\0' * 4))[0] >> 10


def check_answers(path, agent, pids):
    """Of each connection one is kept, not all: 128 of 300 KiB here."""
    programs = [attach(agent) for _ in range(250)]
    own = connect(path)
    ask(own, 'GetManagedObjects')
    socks = connect_as(65534, path, 8)
    before = memory_kib(pids)
    for sock in socks:
        sock.sendall(call(1, '/org/uswap1', 'org.freedesktop.DBus.ObjectManager', 'GetManagedObjects', '', b'') * 16)
    for sock in socks:
        sock.recv(1, socket.MSG_PEEK)
    for _ in range(20):  # one message of each is answered in turn
        ask(own)
    took = memory_kib(pids) - before + sum(map(waiting_kib, socks))
    if took > 8192:
        sys.exit(f'answers that nobody reads take {took} KiB')
    for sock in socks:
        answers = 0
        while answers < 16:
            answers += answer(sock)[0] == 2
    for program in programs:
        program.close()


def is_gone(sock):
    sock.settimeout(0.1)
    try:
        while sock.recv(1 << 20):
            pass
    except TimeoutError:
        return False
    return True


def check_signals(path, agent):
    """At eight connections a user has no more of them kept than at one."""
    own = connect(path)
    deaf = connect_as(65534, path, 8)
    (alone,) = connect_as(65533, path, 1)
    for _ in range(400):
        program = attach(agent)
        ask(own)
        program.close()
    gone = sum(map(is_gone, deaf))
    if gone < 4 or is_gone(alone):
        sys.exit(f'{gone} of 8 are hung up on that read no signals, or one that was alone')


def attach_many(path, agent):
    """Makes 48000 signals."""
    own = connect(path)
    for _ in range(60):
        programs = [attach(agent) for _ in range(200)]
        for _ in range(10):  # it takes 32 in a turn, and sees 8 of them end
            ask(own)
        for program in programs:
            program.close()
        for _ in range(30):
            ask(own)


def call_endlessly(path):
    one = call(1, '/org/uswap1', 'org.freedesktop.DBus.Introspectable', 'Introspect', '', b'')
    sock = connect(path, one * 500)

    def read_all():
        for _ in range(100):
            sock.recv(1 << 16)
        print('calling', flush=True)
        while sock.recv(1 << 20):
            pass

    threading.Thread(target=read_all, daemon=True).start()
    while True:
        sock.sendall(one * 500)


def is_hung_up_on(sock, data):
    try:
        for _ in range(100):
            sock.sendall(data)
    except (BrokenPipeError, ConnectionResetError):
        return
    sys.exit('100 MiB, and still connected')


def send_long(path):
    ping = call(1, '/org/uswap1', 'org.freedesktop.DBus.Peer', 'Ping', '', b'')
    behind = ping * 3 + ping[:4] + struct.pack('<I', 120 << 20) + ping[8:]
    is_hung_up_on(connect(path, behind), bytes(1 << 20))
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(path)
    is_hung_up_on(sock, b'\0AUTH\r\n' * (1 << 17))


def main():
    if sys.argv[2:] == ['--long']:
        send_long(sys.argv[1])
        return
    if sys.argv[2:] == ['--endless']:
        call_endlessly(sys.argv[1])
    if sys.argv[2:3] == ['--many']:
        attach_many(sys.argv[1], sys.argv[3])
        return
    if sys.argv[2:3] == ['--unread']:
        check_answers(sys.argv[1], sys.argv[3], sys.argv[4:])
        check_signals(sys.argv[1], sys.argv[3])
        return
    sock = connect(sys.argv[1])
    calls = [
        ('/org/uswap1', 'org.uswap1.Manager', 'GetProcessByPID', 'u', struct.pack('<I', 999999)),
    ]
    if len(sys.argv) > 2:  # an object that takes orders
        calls.append((sys.argv[2], 'org.uswap1.Process', 'Evict', 'ta{sv}',
                      struct.pack('<QIxxxx', 4096, 0)))
    for serial, (path, interface, member, signature, body) in enumerate(calls, 1):
        sock.sendall(call(serial, path, interface, member, signature, body))
        kind, name = answer(sock)
        while kind not in (2, ERROR):
            kind, name = answer(sock)
        print(member, name if kind == ERROR else 'no error')


main()
