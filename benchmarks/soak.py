"""A Provider under load while things go wrong around it (issue B, "Under load").

    python benchmarks/soak.py                                  # 1000 clients, 200 senders, 5 minutes
    python benchmarks/soak.py --clients 100 --senders 20 --seconds 60

Clients are connected to one Provider whose users and spool are in PostgreSQL. Some send as fast as the rate limit lets
them; a few quiet ones measure round trips to echo, first without the load and then under it. Meanwhile users are added
and removed, a service is stopped and started, PostgreSQL is killed and started, and half of the idle clients stop to
read and never close. Mail for a user who is away is counted when its SURB-ACK came, and fetched in the end.
"""

from __future__ import annotations

import argparse
import signal
import socket
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from _program import at_least, parser, run, say, show
from _reactor import run_in_reactor, sleep
from _surroundings import Usage
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.threads import deferToThread

sys.path.insert(0, str(Path(__file__).parent.parent))
from katzentwist.client import tool
from katzentwist.client.compose import ComposeError, Outgoing
from katzentwist.crypto import kem
from katzentwist.errors import KatzentwistError
from katzentwist.net.workers import ThreadWorkers
from katzentwist.randomness import SystemRandom
from katzentwist.testnet.plan import Shape
from tests.backends.servers import Postgres
from tests.e2e.processes import LiveNetwork

AT_ONCE = 16
QUIET = 8
"""Quiet clients that measure."""
PATIENCE = 20.0


class Shared(ThreadWorkers):
    """One pool for all clients of this process."""

    def start(self) -> None:
        """Started once."""

    def stop(self) -> None:
        """Stopped at the end."""


class Soak:
    """One run."""

    def __init__(self, net: LiveNetwork, postgres: Postgres, args: argparse.Namespace) -> None:
        self._net, self._postgres, self._args = net, postgres, args
        self._config = tool.read_config(net.network.client / "client.toml")
        self._clients: list[tool.Tool] = []
        self._loaded = self._running = True
        self._random = SystemRandom()
        self.sent = self.replied = 0
        self.trips: dict[bool, list[float]] = {False: [], True: []}
        self.unanswered = {False: 0, True: 0}
        self.acknowledged: list[str] = []
        self.memory: list[tuple[float, float]] = []
        self.said: list[str] = []

    async def _connect(self, count: int) -> list[tool.Tool]:
        made = [tool.Tool(reactor, self._config) for _ in range(count)]

        async def some(part: list[tool.Tool]) -> None:
            for one in part:
                one.start()
                await one.ready(120)

        for work in [Deferred.fromCoroutine(some(made[i::AT_ONCE])) for i in range(AT_ONCE)]:
            await work
        self._clients += made
        return made

    async def _send(self, own: tool.Tool, recipient: bytes, text: bytes) -> Deferred[bytes]:
        document = await own.ready()
        reply: Deferred[bytes] = Deferred()
        message = Outgoing(
            destination=document.service_nodes[0].id,
            recipient=recipient,
            payload=text,
            surb_id=self._random.bytes(16),
        )
        await own.client.send(message, tag=reply)
        return reply.addTimeout(PATIENCE, reactor)

    async def _hurry(self, own: tool.Tool) -> None:
        """Send as fast as the rate limit lets us."""
        while self._running:
            try:
                await own.turn()
                reply = await self._send(own, b"+echo", b"load")
            except (ComposeError, KatzentwistError):
                await sleep(0.5)
                continue
            self.sent += 1
            reply.addCallbacks(self._counted, lambda _: None)

    def _counted(self, _: bytes) -> None:
        self.replied += 1

    async def _measure(self, own: tool.Tool) -> None:
        """One ping after the other."""
        while self._running:
            loaded, began = self._loaded, time.monotonic()
            try:
                await (await self._send(own, b"+echo", b"quiet"))
                self.trips[loaded].append(time.monotonic() - began)
            except (TimeoutError, ComposeError, KatzentwistError):
                self.unanswered[loaded] += 1
            await sleep(1.0)

    async def _mail(self, own: tool.Tool) -> None:
        """Messages for a user who is away; those count whose SURB-ACK came."""
        number = 0
        while self._running:
            number += 1
            text = f"mail {number}"
            try:
                await (await self._send(own, b"keeper", text.encode()))
                self.acknowledged.append(text)
            except (TimeoutError, ComposeError, KatzentwistError):
                pass
            await sleep(0.2)

    def _command(self, text: str) -> str:
        with socket.socket(socket.AF_UNIX) as talk:
            talk.settimeout(30)
            talk.connect(str(self._net.node("provider1").folder / "management_sock"))
            with talk.makefile("rwb") as lines:
                lines.readline()
                lines.write(text.encode() + b"\r\n")
                lines.flush()
                return lines.readline().decode().strip()

    async def _trouble(self, idle: list[tool.Tool]) -> None:
        """What goes wrong, spread over the time."""
        part = self._args.seconds / 8
        await sleep(part)
        for number in range(50):
            self.said.append(await deferToThread(self._command, f"ADD_USER soak{number} {number:064x}"))
        await sleep(part)
        self.said.append(await deferToThread(self._command, "STOP_KAETZCHEN keyserver"))
        for one in idle[: len(idle) // 2]:
            if one.client._link is not None:
                one.client._link.transport.pauseProducing()
        await sleep(part)
        self.said.append(await deferToThread(self._command, "START_KAETZCHEN keyserver"))
        await deferToThread(self._postgres.stop, signal.SIGKILL)
        await sleep(min(part, 10.0))
        await deferToThread(self._postgres.start)
        await sleep(part)
        for number in range(50):
            self.said.append(await deferToThread(self._command, f"REMOVE_USER soak{number}"))

    async def _watch(self, usage: Usage) -> None:
        began = time.monotonic()
        while self._running:
            self.memory.append((round(time.monotonic() - began), round(usage.memory() / 2**20, 1)))
            await sleep(max(1.0, self._args.seconds / 30))

    async def run(self) -> dict[str, Any]:
        """Everything; the figures."""
        args = self._args
        usage = Usage(self._net.child("provider1").process.pid)
        key = await deferToThread(self._command, f"ADD_USER keeper {self._keeper().hex()}")
        self.said.append(key)
        quiet = await self._connect(QUIET)
        self._loaded = False
        loops = [Deferred.fromCoroutine(self._measure(one)) for one in quiet]
        quiet_time = min(30.0, args.seconds / 4)
        say(f"{QUIET} quiet clients for {quiet_time:g} s")
        await sleep(quiet_time)
        say(f"connecting {args.clients} clients")
        idle = await self._connect(max(0, args.clients - args.senders - QUIET))
        senders = await self._connect(args.senders)
        self._loaded = True
        loops += [Deferred.fromCoroutine(self._hurry(one)) for one in senders]
        loops += [
            Deferred.fromCoroutine(work) for work in (self._mail(quiet[0]), self._trouble(idle), self._watch(usage))
        ]
        say(f"{args.senders} of them send for {args.seconds:g} s")
        cpu = usage.cpu()
        await sleep(args.seconds)
        cpu = usage.cpu() - cpu
        self._running = False
        await DeferredList(loops, consumeErrors=True)
        say("fetching the mail that was acknowledged")
        received = await self._fetch()
        for one in self._clients:
            if one.client._link is not None:
                one.client._link.transport.abortConnection()  # those that vanished would each take their time
        await DeferredList([Deferred.fromCoroutine(one.stop()) for one in self._clients], consumeErrors=True)
        return self._figures(cpu, received)

    def _keeper(self) -> bytes:
        user = tool.User("keeper", self._net.folder / "keeper.pem")
        self._keeper_credentials = tool.load_user_key(user, self._config, lambda text: None)
        return self._keeper_credentials(kem.by_name(self._config.wire_kem)).public

    async def _fetch(self) -> list[str]:
        """What waits for the user."""
        received: list[str] = []

        class Receiver(tool.Tool):
            def plain(self, message: Any) -> None:
                received.append(message.payload.rstrip(b"\0").decode())
                self.client.taken(message)

        own = Receiver(reactor, self._config, credentials=self._keeper_credentials, keep_plain=True)
        own.start()
        await own.ready(120)
        count = -1
        while count != len(received):
            count = len(received)
            await sleep(3.0)
        await own.stop()
        return received

    def _figures(self, cpu: float, received: list[str]) -> dict[str, Any]:
        def percentiles(trips: list[float]) -> dict[str, float]:
            cuts = statistics.quantiles(trips, n=20) if len(trips) > 1 else [0.0] * 19
            return {"count": len(trips), "50 %": round(cuts[9], 3), "95 %": round(cuts[18], 3)}

        curve = self.memory
        fifth = max(1, len(curve) // 5)
        second, last = (statistics.mean(m for _, m in part) for part in (curve[fifth : 2 * fifth], curve[-fifth:]))
        log = (self._net.node("provider1").folder / "output.log").read_text()
        return {
            "clients": self._args.clients,
            "senders": self._args.senders,
            "seconds": self._args.seconds,
            "packets sent by the senders": self.sent,
            "replies to them": self.replied,
            "provider cpu share": round(cpu / self._args.seconds, 2),
            "round trips without load": percentiles(self.trips[False]),
            "round trips under load": percentiles(self.trips[True]),
            "unanswered without load": self.unanswered[False],
            "unanswered under load": self.unanswered[True],
            "mail acknowledged": len(self.acknowledged),
            "of it lost": len(set(self.acknowledged) - set(received)),
            "mail delivered twice": len(received) - len(set(received)),
            "commands refused": sum(not text.startswith("250") for text in self.said),
            "memory MiB (at second)": " ".join(f"{value}({at})" for at, value in curve),
            "memory last fifth / second fifth": round(last / second, 3),
            "tracebacks in the log": log.count("Traceback"),
        }


def main() -> None:
    """The command line."""
    line = parser(__doc__)
    line.add_argument("--clients", type=at_least(1), default=1000, metavar="N", help="in all")
    line.add_argument("--senders", type=at_least(1), default=200, metavar="N", help="of them, which send all they may")
    line.add_argument("--seconds", type=at_least(1.0), default=300.0, help="of load")
    args = line.parse_args()
    reactor.seconds = time.monotonic
    shared = ThreadWorkers(reactor)
    shared.__class__ = Shared
    tool.ThreadWorkers = lambda _: shared

    async def go() -> None:
        say("starting PostgreSQL and the network")
        ThreadWorkers.start(shared)
        postgres = await deferToThread(Postgres)
        dsn = postgres.dsn(postgres.database())

        def provider(tables: dict[str, Any]) -> None:
            tables["Provider"].update(
                UserDB={"Backend": "sql"},
                SpoolDB={"Backend": "sql"},
                SQLDB={"Backend": "pgx", "DataSourceName": dsn},
            )

        try:
            with LiveNetwork(Shape(epoch="1m", wire_kem="x25519", mu=0.02)) as net:
                net.edit("provider1", provider)
                await deferToThread(net.start)
                figures = await Soak(net, postgres, args).run()
        finally:
            postgres.remove()
            ThreadWorkers.stop(shared)
        show(figures, args.json)

    run_in_reactor(go)


if __name__ == "__main__":
    run(main)
