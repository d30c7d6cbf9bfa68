# SPDX-License-Identifier: GPL-2.0-or-later
"""Made-up records of a shop's users, the same for all programs of heap-images.

records.py redis|python|prefork|c|sql MIB
"""
import gc
import json
import os
import random
import signal
import sys

FIRST = "anna ben carla david elif fatima george hanna ivan julia karim lena mehmet nora omar paula".split()
LAST = "smith mueller garcia novak rossi yilmaz kowalski jansen silva petrov dubois larsen".split()
CITY = "berlin paris madrid rome vienna prague warsaw lisbon dublin oslo athens zagreb".split()
WORDS = (
    "the order was sent today and will arrive on monday please call us when you have any question "
    "about delivery price returns warranty or payment thank you for shopping with us your customer "
    "team blue large cotton shirt with long sleeves and buttons shoes leather brown size garden table"
).split()
AGENTS = [
    "Mozilla/5.0 (X11; Linux x86_64; rv:109.0) Gecko/20100101 Firefox/115.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
]


def record(rng, number):
    first, last = rng.choice(FIRST), rng.choice(LAST)
    return {
        "id": number,
        "name": first.title() + " " + last.title(),
        "mail": "%s.%s%d@example.org" % (first, last, rng.randrange(10000)),
        "city": rng.choice(CITY),
        "token": "%032x" % rng.getrandbits(128),
        "agent": rng.choice(AGENTS),
        "created": 1600000000 + rng.randrange(100000000),
        "balance": round(rng.random() * 1000, 2),
        "note": " ".join(rng.choice(WORDS) for _ in range(rng.randrange(4, 24))),
        "items": [
            {"sku": "A%06d" % rng.randrange(1000000), "count": rng.randrange(1, 9), "price": rng.randrange(100, 99999)}
            for _ in range(rng.randrange(1, 5))
        ],
        "active": rng.random() < 0.7,
    }


def command(*words):
    parts = ["*%d\r\n" % len(words)]
    for word in words:
        data = str(word)
        parts.append("$%d\r\n%s\r\n" % (len(data.encode()), data))
    return "".join(parts)


def redis(mib):
    rng = random.Random(1)
    for number in range(mib * 1100):
        r = record(rng, number)
        sys.stdout.write(command("SET", "user:%d" % number, json.dumps(r)))
        if number % 2 == 0:
            sys.stdout.write(
                command("HSET", "session:" + r["token"], "user", number, "agent", r["agent"], "seen", r["created"],
                        "cart", ",".join(i["sku"] for i in r["items"]))
            )
        if number % 8 == 0:
            sys.stdout.write(command("ZADD", "by-balance", r["balance"], number))


class User:
    def __init__(self, data):
        self.__dict__.update(data)
        self.orders = [tuple(i.values()) for i in data["items"]]


def load(mib, seed):
    rng = random.Random(seed)
    users, index = [], {}
    for number in range(mib * 300):
        user = User(json.loads(json.dumps(record(rng, number))))
        users.append(user)
        index.setdefault(user.city, []).append(user)
        index[user.mail] = user
    return users, index


def ready(text):
    path = os.environ["READY"]
    with open(path + ".new", "w") as f:
        f.write(text)
    os.rename(path + ".new", path)


def python(mib):
    kept = load(mib, 2)
    ready("")
    signal.pause()
    return kept


def work(users, index, worker):
    """A worker's day: looks at most users (which counts references), changes a few, has requests of its own."""
    rng = random.Random(100 + worker)
    kept = []
    for number in range(len(users) * 2):
        user = rng.choice(users)
        if number % 40 == 0:
            user.seen = number
        if number % 60 == 0:
            kept.append(json.dumps(record(rng, number)))
        sum(order[1] for order in user.orders)
    gc.collect()
    return kept


def prefork(mib):
    users, index = load(mib, 3)
    workers = []
    for worker in range(4):
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            kept = work(users, index, worker)
            os.write(writer, b"x")
            signal.pause()
            os._exit(len(kept) & 1)
        workers.append((pid, reader))
    for _, reader in workers:
        os.read(reader, 1)
    ready(" ".join(str(pid) for pid, _ in workers))
    signal.pause()


def c(mib):
    rng = random.Random(4)
    print("#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <math.h>\n#include <pthread.h>")
    for n in range(mib * 40):
        fields = rng.sample(WORDS, 6)
        print("struct s%d { %s };" % (n, " ".join("%s f_%s_%d;" % (rng.choice(["int", "long", "double", "char *"]), w, i) for i, w in enumerate(fields))))
        print("int f%d(int a, char *p) {\n\tint i, sum = %d;" % (n, rng.randrange(10**6)))
        for _ in range(rng.randrange(4, 16)):
            print("\tfor (i = 0; i < a + %d; i++) { if (p[i] == '%s') sum += i * %d; else p[i] ^= (char)(sum >> %d); }" % (
                rng.randrange(100), rng.choice("abcdefgh"), rng.randrange(1000), rng.randrange(1, 20)))
        print('\tprintf("%s %%d\\n", sum);\n\treturn sum;\n}' % " ".join(fields))


def sql(mib):
    rng = random.Random(5)
    print("create table user(id integer primary key, name, mail, city, token, created, balance, note);")
    print("create table item(user, sku, count, price);\nbegin;")
    for number in range(mib * 1800):
        r = record(rng, number)
        print("insert into user values(%d,'%s','%s','%s','%s',%d,%f,'%s');" % (
            number, r["name"], r["mail"], r["city"], r["token"], r["created"], r["balance"], r["note"]))
        for i in r["items"]:
            print("insert into item values(%d,'%s',%d,%d);" % (number, i["sku"], i["count"], i["price"]))
    print("commit;\ncreate index by_mail on user(mail);\ncreate index by_sku on item(sku, user);")


if __name__ == "__main__":
    globals()[sys.argv[1]](int(sys.argv[2]))
