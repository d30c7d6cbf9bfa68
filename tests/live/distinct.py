#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What programs' private memory holds, seen without the agent.

distinct.py FILE PID...  notes the content of each page that is there
distinct.py FILE         of those that are away now: how many, how many distinct
                         ones among them, how many that repeat one word
"""
import hashlib
import os
import pickle
import struct
import sys

PAGE = 4096


def present(pid, start, end):
    with open(f'/proc/{pid}/pagemap', 'rb', buffering=0) as pagemap:
        entries = os.pread(pagemap.fileno(), (end - start) // PAGE * 8, start // PAGE * 8)
    return [bool(entry >> 63) for entry, in struct.iter_unpack('<Q', entries)]


def look(pid):
    memory = os.open(f'/proc/{pid}/mem', os.O_RDONLY)
    for line in open(f'/proc/{pid}/maps'):
        area, rights, _, _, inode, *name = line.split()
        if rights[:4] != 'rw-p' or inode != '0' or (name and name[0].startswith(('[stack', '[v'))):
            continue
        start, end = (int(x, 16) for x in area.split('-'))
        for i, there in enumerate(present(pid, start, end)):
            if there:
                page = os.pread(memory, PAGE, start + i * PAGE)
                one_word = page == page[:4] * (PAGE // 4)
                yield start + i * PAGE, None if one_word else hashlib.sha256(page).digest()


if len(sys.argv) > 2:
    with open(sys.argv[1], 'wb') as file:
        pickle.dump({pid: dict(look(pid)) for pid in sys.argv[2:]}, file)
else:
    with open(sys.argv[1], 'rb') as file:
        seen = pickle.load(file)
    away = [content for pid, pages in seen.items() for address, content in pages.items()
            if not present(pid, address, address + PAGE)[0]]
    print(len(away), len(set(away) - {None}), away.count(None))
