"""Many links at once, from a process of its own, so that opening them does not disturb what is measured.

Standard input: one JSON object with the port and the keys, then a line when it is to begin. Standard output: a line
when it is ready, then the seconds that it took.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

from _surroundings import GATEWAY, HOST, KEM, SIZES, Surroundings
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from katzentwist.clock import SystemClock
from katzentwist.config.addresses import Address
from katzentwist.crypto import kem
from katzentwist.net.dialling import dial
from katzentwist.net.owner import Context, LinkOwner
from katzentwist.net.tcp import Transports
from katzentwist.net.workers import SynchronousWorkers
from katzentwist.randomness import SystemRandom
from katzentwist.wire import SessionConfig, SessionKind
from katzentwist.wire.legal import CLIENT, NODE_DIALLER

PATIENCE = 30.0
"""Seconds for the process to begin, and for all its links to stand."""


class Storm:
    """The process, as the generator sees it: the idle neighbours of *around*."""

    def __init__(self, around: Surroundings) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        nodes = [
            [n.identity.link.private.hex(), n.identity.link.public.hex(), n.identity.id.hex()] for n in around.idle
        ]
        self._write({"port": around.port, "clients": around.role == GATEWAY, "nodes": nodes})
        self._said: Deferred[str] | None = None

    def _write(self, what: dict[str, Any] | str) -> None:
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()

    async def ready(self) -> None:
        """Wait until it is."""
        await deferToThread(self._process.stdout.readline)

    def begin(self) -> None:
        """Connect, all of them."""
        self._write("go")
        self._said = deferToThread(self._process.stdout.readline)

    async def seconds(self) -> str:
        """How long that took; or what was wrong."""
        return "not begun" if self._said is None else (await self._said).strip()

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


async def run(port: int, clients: bool, nodes: list[list[str]]) -> float:
    """Dial once for each node, all at the same time."""
    context = Context(reactor=reactor, clock=SystemClock(), random=SystemRandom(), workers=SynchronousWorkers())
    began = time.monotonic()
    dials = []
    for private, public, node in nodes:
        config = SessionConfig(
            kem=kem.by_name(KEM),
            private=bytes.fromhex(private),
            public=bytes.fromhex(public),
            additional_data=bytes.fromhex(node),
            kind=SessionKind.MIXNET,
            sizes=SIZES,
            accepts=CLIENT if clients else NODE_DIALLER,
            handshake_timeout=PATIENCE,
            read_timeout=None,
        )
        dials.append(dial(context, Transports(reactor), Address("tcp", HOST, port), config, LinkOwner()))
    for one in dials:
        await one
    return time.monotonic() - began


def main() -> None:
    """Wait for the word, storm, and stay connected until standard input ends."""
    # It stands for as many other machines, which take no processor of the node's; but it must be over within a second,
    # and took longer when it stood back as others do (_program.py).
    os.nice(19)
    request = json.loads(sys.stdin.readline())
    print("ready", flush=True)
    sys.stdin.readline()
    reactor.seconds = time.monotonic

    def start() -> None:
        done = Deferred.fromCoroutine(run(**request)).addTimeout(PATIENCE, reactor)
        done.addCallback(lambda seconds: print(f"{seconds:.2f}", flush=True))
        done.addErrback(lambda failure: print(f"failed: {failure.getErrorMessage()}", flush=True))

    reactor.callWhenRunning(start)
    reactor.callInThread(lambda: (sys.stdin.read(), reactor.callFromThread(reactor.stop)))
    reactor.run()


if __name__ == "__main__":
    main()
