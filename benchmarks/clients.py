"""Idle clients at a gateway: memory for each, and whether heartbeats come in time.

python benchmarks/clients.py --clients 5000
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from _surroundings import GEOMETRY, HOST, KEM, SIZES, Usage, _sleep
from twisted.internet import reactor
from twisted.internet.defer import Deferred

sys.path.insert(0, str(Path(__file__).parent.parent))
from katzentwist.clock import SystemClock
from katzentwist.config.addresses import Address
from katzentwist.crypto import kem
from katzentwist.net.dialling import dial
from katzentwist.net.owner import Context, ILink, LinkOwner
from katzentwist.net.tcp import Transports
from katzentwist.net.workers import ThreadWorkers
from katzentwist.randomness import SystemRandom
from katzentwist.testnet.plan import Shape
from katzentwist.wire import Command, SessionConfig, SessionKind
from katzentwist.wire.legal import CLIENT
from tests.e2e.processes import LiveNetwork

AT_ONCE = 64


class Client(LinkOwner):
    """Connects and listens."""

    def __init__(self) -> None:
        self.last = 0.0
        self.longest = 0.0
        self.gone = False

    def established(self, link: ILink) -> None:
        """Silence counts from here."""
        self.last = time.monotonic()

    def commandReceived(self, link: ILink, command: Command) -> None:
        """A heartbeat."""
        now = time.monotonic()
        self.longest, self.last = max(self.longest, now - self.last), now

    def closed(self, link: ILink, reason: Exception) -> None:
        """It should not be."""
        self.gone = True


async def run(net: LiveNetwork, count: int, seconds: float) -> dict[str, Any]:
    """Connect *count* clients and watch them for *seconds*."""
    random, workers = SystemRandom(), ThreadWorkers(reactor)
    workers.start()
    context = Context(reactor=reactor, clock=SystemClock(), random=random, workers=workers)
    node = net.node("gateway1")
    address = Address("tcp", HOST, int(node.addresses[0].rsplit(":", 1)[1]))
    usage = Usage(net.child("gateway1").process.pid)
    scheme = kem.by_name(KEM)
    before, cpu = usage.memory(), usage.cpu()
    clients = [Client() for _ in range(count)]
    began = time.monotonic()

    async def connect(some: list[Client]) -> None:
        for client in some:
            private, public = scheme.generate(random)
            config = SessionConfig(
                kem=scheme,
                private=private,
                public=public,
                additional_data=random.bytes(16).hex().encode(),
                kind=SessionKind.MIXNET,
                sizes=SIZES,
                accepts=CLIENT,
                handshake_timeout=60.0,
                read_timeout=None,
            )
            await dial(context, Transports(reactor), address, config, client)

    work = [Deferred.fromCoroutine(connect(clients[i::AT_ONCE])) for i in range(AT_ONCE)]
    for one in work:
        await one
    connected = time.monotonic() - began
    spent, memory = usage.cpu() - cpu, usage.memory()
    idle_cpu = usage.cpu()
    await _sleep(seconds)
    idle_cpu = usage.cpu() - idle_cpu
    workers.stop()
    return {
        "clients": count,
        "seconds to connect all": round(connected, 1),
        "gateway cpu ms per handshake": round(spent / count * 1e3, 2),
        "KiB per client": round((memory - before) / count / 1024, 1),
        "gateway memory MiB": round(usage.memory() / 2**20, 1),
        "gateway cpu share while idle": round(idle_cpu / seconds, 3),
        "longest silence s": round(max(c.longest for c in clients), 2),
        "lost connections": sum(c.gone for c in clients),
        "packet length": GEOMETRY.packet_length,
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=25)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    reactor.seconds = time.monotonic

    async def go() -> None:
        shape = Shape(providers=0, gateways=1, service_nodes=1, mixes=3, epoch="10m")
        with LiveNetwork(shape) as net:
            net.start()
            figures = await run(net, args.clients, args.seconds)
        print(json.dumps(figures, indent=2) if args.json else "\n".join(f"{k}: {v}" for k, v in figures.items()))

    def start() -> None:
        done = Deferred.fromCoroutine(go())
        done.addErrback(lambda failure: failure.printTraceback())
        done.addBoth(lambda _: reactor.stop())

    reactor.callWhenRunning(start)
    reactor.run()


if __name__ == "__main__":
    main()
