"""A program that works on a spool until it is killed: ``python -m tests.backends.writer BACKEND WHERE LOG FIRST``.

BACKEND is ``bolt`` (WHERE is a file) or ``sql`` (a data source name). Each line of LOG is written, with one write(2),
after the spool has confirmed it: ``stored N`` or ``acked N``; and before each acknowledgement ``acking N``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred

from katzentwist.errors import StoreError
from katzentwist.interfaces import ISpool
from katzentwist.store.embedded import EmbeddedSpool

USER = b"alice"


def opened(backend: str, where: str) -> ISpool:
    """The spool; not open yet."""
    if backend == "bolt":
        return EmbeddedSpool(Path(where), reactor.callFromThread)
    from katzentwist.store.postgres import Postgres, PostgresSpool

    return PostgresSpool(Postgres(reactor, where), own_users=False)


async def work(spool: ISpool, log: int, first: int) -> None:
    """Store two, take one out, for ever."""
    await spool.open()
    os.write(log, b"open\n")
    number = first
    entry, _ = await spool.get(USER, False)
    while True:
        stores = []
        for _ in range(2):
            stores.append((number, spool.store_message(USER, b"%09d" % number)))
            number += 1
        for stored, done in stores:
            await done
            os.write(log, b"stored %d\n" % stored)
        if entry is None:
            entry, _ = await spool.get(USER, False)
        os.write(log, b"acking %d\n" % int(entry.message))
        following, _ = await spool.advance(USER, entry)
        os.write(log, b"acked %d\n" % int(entry.message))
        entry = following


def main() -> None:
    """Run."""
    backend, where, log, first = sys.argv[1:]
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def failed(failure: Any) -> None:
        if not failure.check(StoreError):
            failure.printTraceback()
        os.write(file, b"failed\n")
        reactor.stop()

    def start() -> None:
        Deferred.fromCoroutine(work(opened(backend, where), file, int(first))).addErrback(failed)

    reactor.callWhenRunning(start)
    reactor.run()


if __name__ == "__main__":
    main()
