"""Idle clients at a gateway: memory for each, whether heartbeats come in time, and what it costs when many come back.

python benchmarks/clients.py --clients 5000 --reconnect 500
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _program import at_least, parser, run, say, show
from _reactor import run_in_reactor, sleep
from _surroundings import GEOMETRY, HOST, KEM, SIZES, Usage
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.threads import deferToThread

sys.path.insert(0, str(Path(__file__).parent.parent))
from katzentwist.clock import SystemClock
from katzentwist.config.addresses import Address
from katzentwist.crypto import kem
from katzentwist.net.dialling import dial
from katzentwist.net.owner import Context, ILink, LinkOwner
from katzentwist.net.tcp import Transports
from katzentwist.net.workers import ThreadWorkers
from katzentwist.provider.pusher import HEARTBEAT
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
        self.link = link
        self.last = time.monotonic()

    def commandReceived(self, link: ILink, command: Command) -> None:
        """A heartbeat."""
        now = time.monotonic()
        self.longest, self.last = max(self.longest, now - self.last), now

    def silence(self) -> float:
        """The longest, in seconds; the one that lasts still is one."""
        return max(self.longest, time.monotonic() - self.last)

    def closed(self, link: ILink, reason: Exception) -> None:
        """It should not be."""
        self.gone = True


def allow_files(count: int) -> None:
    """Raise the soft limit of open files to what so many connections need.

    :raises SystemExit: the host does not allow it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 500
    if soft != resource.RLIM_INFINITY and soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            raise SystemExit(f"{count} clients need {wanted} open files, and the host allows {hard} (ulimit -Hn)")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def measure(
    net: LiveNetwork, workers: ThreadWorkers, count: int, seconds: float, reconnect: int
) -> dict[str, Any]:
    """Connect *count* clients and watch them for *seconds*; then *reconnect* of them come back in the same moment."""
    random, transports = SystemRandom(), Transports(reactor)
    context = Context(reactor=reactor, clock=SystemClock(), random=random, workers=workers)
    node = net.node("gateway1")
    address = Address("tcp", HOST, int(node.addresses[0].rsplit(":", 1)[1]))
    usage = Usage(net.child("gateway1").process.pid)
    scheme = kem.by_name(KEM)
    before, cpu = usage.memory(), usage.cpu()
    clients = [Client() for _ in range(count)]
    began = time.monotonic()

    def session() -> SessionConfig:
        private, public = scheme.generate(random)
        return SessionConfig(
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

    async def connect(some: list[Client]) -> None:
        for client in some:
            await dial(context, transports, address, session(), client)

    say(f"connecting {count} clients")
    work = [Deferred.fromCoroutine(connect(clients[i::AT_ONCE])) for i in range(AT_ONCE)]
    for one in work:
        await one
    connected = time.monotonic() - began
    spent, memory = usage.cpu() - cpu, usage.memory()
    idle_cpu = usage.cpu()
    say(f"watching them for {seconds:g} s")
    await sleep(seconds)
    idle_cpu = usage.cpu() - idle_cpu
    silence, lost = max(c.silence() for c in clients), sum(c.gone for c in clients)
    figures: dict[str, Any] = {}
    if reconnect:
        figures = await come_back(
            clients, reconnect, lambda client: dial(context, transports, address, session(), client)
        )
        figures["cpu ms per reconnection"] = round((usage.cpu() - cpu - spent - idle_cpu) / reconnect * 1e3, 2)
    return {
        "clients": count,
        "seconds to connect all": round(connected, 1),
        "gateway cpu ms per handshake": round(spent / count * 1e3, 2),
        "KiB per client": round((memory - before) / count / 1024, 1),
        "gateway memory MiB": round(usage.memory() / 2**20, 1),
        "gateway cpu share while idle": round(idle_cpu / seconds, 3),
        "longest silence s": round(silence, 2),
        "lost connections": lost,
        "packet length": GEOMETRY.packet_length,
        **figures,
    }


async def come_back(clients: list[Client], count: int, again: Callable[[Client], Deferred[Any]]) -> dict[str, Any]:
    """The first *count* clients lose their connections and dial in the same moment; the others should not notice."""
    say(f"{count} of them come back at once")
    for client in clients[:count]:
        client.link.close()
    await sleep(1)
    others = clients[count:]
    for client in others:
        client.longest = 0.0
    began = time.monotonic()
    results = await DeferredList([again(Client()) for _ in range(count)], consumeErrors=True)
    took = time.monotonic() - began
    await sleep(HEARTBEAT + 2)
    return {
        "reconnected at once": sum(good for good, _ in results),
        "seconds until all were back": round(took, 2),
        "longest silence of the others s": round(max((c.silence() for c in others), default=0.0), 2),
        "lost connections of the others": sum(c.gone for c in others),
    }


def main() -> None:
    """The command line."""
    line = parser(__doc__)
    line.add_argument("--clients", type=at_least(1), default=5000, metavar="N", help="in all")
    line.add_argument("--seconds", type=at_least(1.0), default=25.0, help="to watch them while they are idle")
    line.add_argument(
        "--reconnect", type=at_least(0), default=500, metavar="N", help="so many come back at once at the end"
    )
    args = line.parse_args()
    allow_files(args.clients)
    reactor.seconds = time.monotonic

    async def go() -> None:
        shape = Shape(providers=0, gateways=1, service_nodes=1, mixes=3, epoch="10m")
        say("starting the network")
        with LiveNetwork(shape) as net:
            await deferToThread(net.start)
            workers.start()
            figures = await measure(net, workers, args.clients, args.seconds, min(args.reconnect, args.clients))
        show(figures, args.json)

    workers = ThreadWorkers(reactor)
    run_in_reactor(go, clean_up=workers.stop)


if __name__ == "__main__":
    run(main)
