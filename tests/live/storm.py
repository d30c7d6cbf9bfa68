#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""storm.py FLAG: a heap of Python's that checks all it has, forks children that do,
and changes it, until there is no FLAG. Says how many rounds it has come to; what is
wrong ends it with status 1."""
import hashlib, os, random, sys

def text(i):
    return ('%d ' % i) * (20 + i % 90)

def right(table, salt):
    return all(table[i] == text(i) + salt for i in range(0, len(table), 3))

flag, salt = sys.argv[1], 'a'
table = {i: text(i) + salt for i in range(6000)}
blob = bytearray(random.Random(5).randbytes(2 << 20))
digest = hashlib.sha256(blob).digest()
rounds = 0
while os.path.exists(flag):
    if not right(table, salt) or hashlib.sha256(blob).digest() != digest:
        sys.exit('wrong after %d rounds' % rounds)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if right(table, salt) and hashlib.sha256(blob).digest() == digest else 1)
    if os.waitpid(pid, 0)[1]:
        sys.exit('a child is wrong after %d rounds' % rounds)
    rounds += 1
    if rounds % 4 == 0:
        salt = chr(ord('a') + rounds // 4 % 26)
        for i in table:
            table[i] = text(i) + salt
print(rounds, 'rounds')
