"""A process of its own that opens many links at once; load.py starts it, so that it does not disturb what it measures.

Standard input: one JSON object with the port and the keys. Standard output: the seconds that it took.
"""

from __future__ import annotations

import json
import sys
import time

from _surroundings import HOST, KEM, SIZES
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from katzentwist.clock import SystemClock
from katzentwist.config.addresses import Address
from katzentwist.crypto import kem
from katzentwist.net.dialling import dial
from katzentwist.net.owner import Context, LinkOwner
from katzentwist.net.tcp import Transports
from katzentwist.net.workers import SynchronousWorkers
from katzentwist.randomness import SystemRandom
from katzentwist.wire import SessionConfig, SessionKind
from katzentwist.wire.legal import NODE_DIALLER


async def run(port: int, nodes: list[list[str]]) -> float:
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
            accepts=NODE_DIALLER,
            handshake_timeout=30.0,
            read_timeout=None,
        )
        dials.append(dial(context, Transports(reactor), Address("tcp", HOST, port), config, LinkOwner()))
    for one in dials:
        await one
    return time.monotonic() - began


def main() -> None:
    """Wait for the word, storm, and stay connected until standard input ends."""
    request = json.loads(sys.stdin.readline())
    print("ready", flush=True)
    sys.stdin.readline()
    reactor.seconds = time.monotonic

    def start() -> None:
        done = Deferred.fromCoroutine(run(request["port"], request["nodes"]))
        done.addCallback(lambda seconds: print(f"{seconds:.2f}", flush=True))
        done.addErrback(lambda failure: print(f"failed: {failure.getErrorMessage()}", flush=True))

    reactor.callWhenRunning(start)
    reactor.callInThread(lambda: (sys.stdin.read(), reactor.callFromThread(reactor.stop)))
    reactor.run()


main()
