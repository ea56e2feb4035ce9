"""The node under test among its neighbours, and one part of a measurement: so many packets per second for so long."""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Collection, Coroutine, Iterable
from pathlib import Path
from typing import Any, Final

import attrs
from _measure import best_us
from _node import Node
from _packets import Maker, Packets
from _program import say
from _reactor import run_in_reactor, sleep
from _surroundings import GEOMETRY, Surroundings
from _traffic import Traffic
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeoutError

from katzentwist.crypto import nike

DRAIN: Final = 15.0
"""Seconds until every packet must have come or been counted: the longest delays are some 5 s at the usual Mu."""
PROBE_RATE: Final = 200.0
"""Packets per second after the load: what shows that the node is well again."""
SAMPLE: Final = 0.2
"""Seconds between two looks at memory and, after the load, at the drops."""
X25519: Final = nike.by_name("x25519")


@attrs.define(kw_only=True)
class Part:
    """What one part showed. Without the warm-up where nothing else is said; times in seconds, memory in bytes.

    :ivar sent: packets given to links.
    :ivar held: packets that were due while their link was full: the node did not take them.
    :ivar received: packets that came meanwhile.
    :ivar lost: packets of those sent that never came.
    :ivar wrong: packets that came changed, twice, or where they do not belong; with the warm-up.
    :ivar unexplained: packets that neither came nor were counted as dropped; with the warm-up.
    :ivar drops: by reason; with the warm-up.
    :ivar late: of each packet, in order of arrival.
    :ivar fed: when it was given to its link, in monotonic seconds.
    :ivar half: place in *late* at half-time.
    :ivar ended: when the load ended.
    :ivar memory: of the node, in order of time.
    :ivar dropped: (seconds since the end of the load, drops until then), until all packets were accounted for.
    """

    rate: float
    wall: float
    cpu: float
    own: float
    sent: int
    held: int
    received: int
    lost: int
    wrong: int
    unexplained: int
    drops: dict[str, int]
    late: array[float] = attrs.field(repr=False)
    fed: array[float] = attrs.field(repr=False)
    half: int
    ended: float
    memory: list[int] = attrs.field(repr=False)
    dropped: list[tuple[float, int]] = attrs.field(repr=False)

    @property
    def lost_share(self) -> float:
        """Of what was due, what was not forwarded: lost on the way, or not taken."""
        return (self.lost + self.held) / max(self.sent + self.held, 1)

    @property
    def cpu_us(self) -> float:
        """CPU microseconds of the node per packet that came."""
        return self.cpu / max(self.received, 1) * 1e6

    def check(self) -> None:
        """:raises SystemExit: the node did something that it must not do."""
        if self.wrong:
            raise SystemExit(f"{self.wrong} packets came changed, twice, or at the wrong neighbour")
        if self.unexplained > 0:
            raise SystemExit(f"{self.unexplained} packets are lost, and no counter of drops says why: {self.drops}")

    def figures(self) -> dict[str, Any]:
        """As they are printed."""
        multiplication = x25519_us()
        return {
            "offered packets/s": round((self.sent + self.held) / self.wall, 1),
            "forwarded packets/s": round(self.received / self.wall, 1),
            "cpu us per forwarded packet": round(self.cpu_us, 1),
            "x25519 us": round(multiplication, 1),
            "ratio to one x25519": round(self.cpu_us / multiplication, 2),
            "ratio to two, the physical limit": round(self.cpu_us / multiplication / 2, 2),
            "cpu share of the node": round(self.cpu / self.wall, 2),
            "cpu share of the generator": round(self.own / self.wall, 2),
            "not taken, link full": self.held,
            "lost": self.lost,
            "lost or not taken, share": round(self.lost_share, 5),
            "wrong or twice": self.wrong,
            "lost without a count": self.unexplained,
            "drops": self.drops,
            **lateness(self.late),
            "memory MiB peak": mib(max(self.memory)),
        }


def lateness(late: Iterable[float], prefix: str = "") -> dict[str, float]:
    """Median, 99 % and maximum, in ms."""
    ordered = sorted(late) or [0.0]
    return {
        f"{prefix}lateness ms median": round(statistics.median(ordered) * 1e3, 2),
        f"{prefix}lateness ms 99%": round(ordered[int(len(ordered) * 0.99)] * 1e3, 2),
        f"{prefix}lateness ms max": round(ordered[-1] * 1e3, 2),
    }


def mib(size: int) -> float:
    """Bytes in MiB."""
    return round(size / 2**20, 1)


def x25519_us() -> float:
    """Microseconds of one multiplication with the fastest routine, now."""
    point = X25519.public(bytes(range(1, 33)))
    return best_us(lambda: X25519.derive(bytes(range(32)), point))


class Rig:
    """A node that runs, with its neighbours connected.

    :param own_cores: numbers of the cores for this process while it feeds; empty: all.
    """

    def __init__(self, node: Node, around: Surroundings, own_cores: Collection[int] = ()) -> None:
        self.node, self.around, self._own_cores = node, around, own_cores
        self.traffic = Traffic(around.senders, around.receivers)
        self._made = 0

    async def part(
        self,
        rate: float,
        seconds: float,
        warmup: float = 0.0,
        *,
        limit: int = 0,
        tail: float = 0.0,
        begun: Callable[[], None] = lambda: None,
        half_time: Callable[[], None] = lambda: None,
    ) -> Part:
        """Feed, and wait until every packet came or was counted.

        :param rate: packets per second; 0: as fast as they are taken, up to *limit*.
        :param tail: seconds of a few packets after the load.
        :param begun: called when the warm-up is over.
        :param half_time: called in the middle of the rest.
        """
        traffic, node = self.traffic, self.node
        count = int((rate or limit) * (warmup + seconds) + PROBE_RATE * tail)
        await self.load(count)
        before, wrong = await node.drops(), traffic.wrong
        say(f"feeding for {warmup + seconds:g} s")
        await traffic.feed(rate, warmup)
        begun()
        memory, marks, half = [node.usage.memory()], [self._mark()], 0
        feeding = Deferred.fromCoroutine(traffic.feed(rate, seconds))
        while not feeding.called:
            await sleep(SAMPLE)
            memory.append(node.usage.memory())
            if not half and time.monotonic() - marks[0].time >= seconds / 2:
                half = len(traffic.late)
                half_time()
        await feeding
        marks.append(self._mark())
        ended, dropped = marks[1].time, []
        after = Deferred.fromCoroutine(traffic.feed(PROBE_RATE, tail))
        while True:
            looked, drops = time.monotonic() - ended, await node.drops()
            dropped.append((looked, sum(drops.values()) - sum(before.values())))
            accounted = traffic.missing <= dropped[-1][1]
            if after.called and (accounted or looked > max(tail, 0.0) + DRAIN):
                break
            await sleep(SAMPLE)
        await after
        begin, end = marks
        return Part(
            rate=rate,
            wall=end.time - begin.time,
            cpu=end.cpu - begin.cpu,
            own=end.own - begin.own,
            sent=end.sent - begin.sent,
            held=end.held - begin.held,
            received=end.received - begin.received,
            lost=traffic.missing_of(begin.position, end.position),
            wrong=traffic.wrong - wrong,
            unexplained=traffic.missing - dropped[-1][1],
            drops={reason: n - before.get(reason, 0) for reason, n in drops.items() if n > before.get(reason, 0)},
            late=traffic.late[begin.received :],
            fed=traffic.fed[begin.received :],
            half=half - begin.received,
            ended=ended,
            memory=memory,
            dropped=dropped,
        )

    async def load(self, count: int) -> None:
        """Make so many packets, and forget those before."""
        say(f"making {count} packets")
        self.traffic.load(Packets(self._made))
        key = self.around.mix_key()
        if key is None:
            raise SystemExit("the node has uploaded no mix key for this epoch")
        maker = Maker(
            GEOMETRY, (self.around.node.id, key), [r.identity.id for r in self.around.receivers], self.around.mu
        )
        with self.around.quiet():
            self.traffic.load(await maker.make(self._made, count))
        self._made += count
        if self._own_cores:
            os.sched_setaffinity(0, self._own_cores)

    def _mark(self) -> _Mark:
        traffic = self.traffic
        return _Mark(
            time=time.monotonic(),
            cpu=self.node.usage.cpu(),
            own=time.process_time(),
            sent=traffic.sent,
            held=traffic.held,
            received=traffic.received,
            position=traffic.position,
        )


@attrs.frozen(kw_only=True)
class _Mark:
    """All counters at one moment."""

    time: float
    cpu: float
    own: float
    sent: int
    held: int
    received: int
    position: int


def run_rig(
    around: Callable[[Path], Surroundings],
    work: Callable[[Rig], Coroutine[Any, Any, None]],
    *,
    command: str,
    patience: float,
    node_cores: Collection[int] = (),
    own_cores: Collection[int] = (),
) -> None:
    """Start a node among its neighbours, do *work*, end everything and the program.

    The status is 1 if something failed: the node ended, was not ready after *patience* seconds, or *work* says so.
    """
    with tempfile.TemporaryDirectory(prefix="katzentwist-load-", ignore_cleanup_errors=True) as folder:
        _run(around(Path(folder)), work, command, patience, node_cores, own_cores)


def _run(
    net: Surroundings,
    work: Callable[[Rig], Coroutine[Any, Any, None]],
    command: str,
    patience: float,
    node_cores: Collection[int],
    own_cores: Collection[int],
) -> None:
    nodes: list[Node] = []

    async def started(node: Node) -> None:
        say(f"waiting for the node and its links, {patience:g} s at most")
        connecting = Deferred.fromCoroutine(net.connect()).addTimeout(patience, reactor)
        try:
            await connecting
        except DeferredTimeoutError as e:
            raise SystemExit(f"the node under test was not ready after {patience:g} s") from e
        if (pause := net.unsettled()) > 0:
            say(f"waiting {pause:.0f} s for the next epoch")
            with net.quiet():
                await sleep(pause)
        await work(Rig(node, net, own_cores))

    async def go() -> None:
        config = net.write_node()
        await net.listen()
        nodes.append(Node(command, config, net.metrics_port, node_cores))
        await nodes[0].guard(started(nodes[0]))

    def clean_up() -> None:
        for node in nodes:
            node.stop()
        net.workers.stop()

    run_in_reactor(
        go,
        explain=lambda: print("".join(node.last_words() for node in nodes), file=sys.stderr),
        clean_up=clean_up,
    )
