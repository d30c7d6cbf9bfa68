#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes the inputs that fuzzing starts from: seeds.py DIRECTORY SOURCES

Made and not stored, so that they follow the formats."""
import os
import random
import struct
import sys

out, src = sys.argv[1:3]


def save(target, name, data):
    os.makedirs(os.path.join(out, target), exist_ok=True)
    with open(os.path.join(out, target, name), "wb") as f:
        f.write(data)


# attach: an honest HELLO and ATTACH (common/wire.h), and a child's
head = lambda kind: struct.pack("<IHH", 0x50575355, 1, kind)
hello = head(1) + struct.pack("<IIQ", 1, 0, 0)
child = head(1) + struct.pack("<IIQ", 2, 0, 0x1234)
base = 0x7F0000000000
never = struct.pack("<QQ", base, base + 0x400000) + b"\0" * 16 * 7
attach = head(3) + struct.pack("<QQII", base + 0x1000, base + 0x200000, 1, 0) + never
packet = lambda fds, data: bytes((fds, len(data))) + data
save("attach", "honest", packet(0, hello) + packet(0x30, attach))
save("attach", "child", packet(0, child) + packet(0x21, attach))
save("attach", "hello-only", packet(0, hello))
save("attach", "with-descriptors", packet(0x43, hello) + packet(0x31, attach))
save("attach", "short", packet(0, hello[:8]))

# config: the shipped file, and each of its keys set
with open(os.path.join(src, "contrib/uswap.conf"), "rb") as f:
    conf = f.read()
save("config", "shipped", conf)
save("config", "set", b"\n".join(line.lstrip(b"#") if b"=" in line else line for line in conf.splitlines()))
save("config", "sizes", b"[Store]\nStore=memory:25%\nStore=file:/x,size=1G\n[Policy]\nLimit=1.5G\nGraceSec=2min 3s\n")

# events: random ones, always the same
rng = random.Random(1)
for i in range(8):
    save("events", f"random-{i}", bytes(rng.randrange(256) for _ in range(64 << i % 4)))

# sealed: a batch without encryption is made by the target's own format; its
# header's first bytes are enough to begin with
save("sealed", "empty", b"\0" * 128)
for i in range(4):
    save("sealed", f"random-{i}", bytes(rng.randrange(256) for _ in range(512)))
