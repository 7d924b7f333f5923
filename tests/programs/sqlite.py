"""Transactions of several processes on one database.

usage: sqlite.py JOURNAL-MODE
"""

import hashlib
import os
import signal
import sqlite3
import sys

mode = sys.argv[1]
path = f"{mode}.db"
WORKERS = 4
TRANSACTIONS = 40


def connect():
    database = sqlite3.connect(path, timeout=120, isolation_level=None)
    assert database.execute(f"pragma journal_mode={mode}").fetchone() == (mode,)
    return database


def work(worker):
    database = connect()
    for number in range(TRANSACTIONS):
        database.execute("begin immediate")
        (total,) = database.execute("select total from sums").fetchone()
        database.execute("update sums set total = ?", (total + worker * 1000 + number,))
        payload = hashlib.sha256(f"{worker} {number}".encode()).digest() * (1 + number * 8)
        database.execute("insert into rows values (?, ?, ?)", (worker, number, payload))
        database.execute("rollback" if number % 10 == 9 else "commit")
    database.close()


def be_killed():
    database = connect()
    # More pages than the cache holds, so that some are in the file already.
    database.execute("pragma cache_size=10")
    database.execute("begin immediate")
    database.execute("update sums set total = -1")
    database.execute("update rows set payload = zeroblob(50000)")
    os.kill(os.getpid(), signal.SIGKILL)


def in_processes(*jobs):
    children = []
    for job in jobs:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                job()
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


database = connect()
database.execute("create table rows (worker, number, payload, primary key (worker, number))")
database.execute("create table sums (total)")
database.execute("insert into sums values (0)")
database.close()

ended = in_processes(*[lambda worker=worker: work(worker) for worker in range(WORKERS)])
print(mode, "workers ended with", ended)
print(mode, "killed one ended with", in_processes(be_killed))
database = connect()
digest = hashlib.sha256()
count = 0
for row in database.execute("select worker, number, payload from rows order by worker, number"):
    digest.update(repr(row).encode())
    count += 1
print(mode, count, "rows", digest.hexdigest(), "total", database.execute("select total from sums").fetchone())
print(mode, "integrity", database.execute("pragma integrity_check").fetchall())
database.execute("vacuum")
print(mode, "vacuumed", database.execute("pragma integrity_check").fetchall())
database.close()
