#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes records of users and their sessions as Redis commands, the same every
time: what a web shop keeps in memory. usage: session-records.py MIB >commands
"""
import random
import sys

FIRST = """anna bela carlos dmitri elif farid grace hiro ines jonas katya liam mei noor
olga pavel qing rosa sven tara uma viktor wei ximena yusuf zoe""".split()
LAST = """almeida bauer chen dubois eriksen ferrari garcia hansen ivanova jansen kowalski
lopez mueller nguyen okafor petrov quist rossi silva tanaka ueda varga weber xu yilmaz zhang""".split()
CITY = """Amsterdam Berlin Chennai Dublin Esbjerg Fortaleza Geneva Hanoi Izmir Jakarta Kyiv
Lagos Madrid Nairobi Oslo Porto Quito Riga Seoul Turin Utrecht Vienna Warsaw Zagreb""".split()
AGENT = [
    "Mozilla/5.0 (X11; Linux x86_64; rv:%d.0) Gecko/20100101 Firefox/%d.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/%d.0.%d.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_%d like Mac OS X) AppleWebKit/605.1.15 Version/17.%d Mobile Safari/604.1",
]
ITEM = """kettle lamp notebook umbrella backpack headphones keyboard blanket teapot bicycle-light
water-bottle desk-chair""".split()


def session(rnd, number):
    """One session: some text that repeats, some that can't be guessed."""
    bits = rnd.getrandbits
    first, last = rnd.choice(FIRST), rnd.choice(LAST)
    version = 100 + bits(5)
    cart = ",".join(
        '{"sku":"%s-%05d","qty":%d,"price":%d.%02d}'
        % (rnd.choice(ITEM), bits(16), 1 + bits(2), bits(8), bits(6))
        for _ in range(bits(2))
    )
    seen = ",".join('"/product/%d"' % bits(17) for _ in range(2 + bits(2)))
    return (
        '{"id":%d,"user":{"name":"%s %s","email":"%s.%s%d@example.org","city":"%s","since":"20%02d-%02d-%02d"},'
        '"token":"%032x","csrf":"%016x","ip":"10.%d.%d.%d","agent":"%s",'
        '"created":%d,"expires":%d,"locale":"en_GB","flags":{"newsletter":%s,"beta":%s,"consent":true},'
        '"cart":[%s],"seen":[%s]}'
        % (
            number, first.title(), last.title(), first, last, bits(10), rnd.choice(CITY),
            bits(4) + 8, 1 + bits(3), 1 + bits(4),
            bits(128), bits(64), bits(8), bits(8), bits(8),
            rnd.choice(AGENT) % (version, version),
            1700000000 + bits(24), 1720000000 + bits(24),
            "true" if bits(1) else "false", "true" if bits(3) == 0 else "false",
            cart, seen,
        )
    )


def main():
    if len(sys.argv) != 2 or not sys.argv[1].isdigit():
        sys.exit(__doc__.strip())
    wanted = int(sys.argv[1]) << 20
    rnd = random.Random(20251120)
    out = sys.stdout
    written = number = 0
    chunk = []
    while written < wanted:
        key, value = "session:%08d" % number, session(rnd, number)
        chunk.append("*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n" % (len(key), key, len(value), value))
        written += len(value)
        number += 1
        if len(chunk) == 2000:
            out.write("".join(chunk))
            chunk.clear()
    out.write("".join(chunk))


main()
