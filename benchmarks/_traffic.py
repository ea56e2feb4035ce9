"""Feeds packets into the node under test, and checks what comes out."""

from __future__ import annotations

import time
from array import array
from collections.abc import Sequence
from functools import partial
from typing import Final

from _packets import Packets, Reader
from _reactor import Beat
from _surroundings import GEOMETRY, Neighbour

AT_ONCE: Final = 32
"""Packets per sender and look when they are to go as fast as they can."""


class Traffic:
    """What one lot of packets does. :meth:`load` begins anew with the next one.

    :ivar sent: packets given to links.
    :ivar held: packets that were due while their link was full: the node did not take them.
    :ivar received: packets that came as they should.
    :ivar wrong: what came and should not: changed, twice, never sent, at another neighbour.
    :ivar late: of each packet, in order of arrival, how much later it came than it was due: its delay after it was
        given to its link. So the time in the buffers of the kernel counts.
    :ivar fed: when it was given to its link, in monotonic seconds.
    """

    def __init__(self, senders: Sequence[Neighbour], receivers: Sequence[Neighbour]) -> None:
        self._senders, self._receivers = senders, receivers
        self._read = Reader(GEOMETRY).number
        for number, node in enumerate(receivers):
            node.took = partial(self._took, number)
        self.wrong = 0
        self.load(Packets(0))

    def load(self, packets: Packets) -> None:
        """Take these; their numbers follow those of the ones before."""
        self._packets = packets
        self._due = array("d", bytes(8 * len(packets)))
        self.position = 0
        self.sent = self.held = self.received = 0
        self.late, self.fed = array("d"), array("d")

    @property
    def missing(self) -> int:
        """Packets that were sent and have not come."""
        return self.sent - self.received

    def missing_of(self, begin: int, end: int) -> int:
        """How many of the packets from one position to another were sent and have not come."""
        return sum(map(bool, self._due[begin:end]))

    async def feed(self, rate: float, seconds: float) -> None:
        """Send at *rate* per second; 0: as fast as the links take them.

        What is due goes once in a ms, as from neighbours that are mixes of ours: others spread it still more.
        """
        with Beat() as beat:
            await self._feed(rate, seconds, beat)

    async def _feed(self, rate: float, seconds: float, beat: Beat) -> None:
        senders, packets, count = self._senders, self._packets, len(self._packets)
        began, first = time.monotonic(), self.position
        while self.position < count and (now := time.monotonic()) - began < seconds:
            due = int((now - began) * rate) if rate else self.position - first + AT_ONCE * len(senders)
            begin, self.position = self.position, max(self.position, min(count, first + due))
            batches: list[list[bytes]] = [[] for _ in senders]
            # A link that is full takes nothing: what waits in the generator says nothing about the node.
            full = [node.link is None or not node.link.writable for node in senders]
            for at in range(begin, self.position):
                sender = (packets.first + at) % len(senders)
                if full[sender]:
                    self.held += 1
                else:
                    self._due[at] = now + packets.delays[at] / 1000
                    batches[sender].append(packets.ready[at])
            for node, batch in zip(senders, batches, strict=True):
                if batch and node.link is not None:
                    node.link.sendPackets(batch)
                    self.sent += len(batch)
            await beat.next()
            while not rate and time.monotonic() - began < seconds and any(map(_is_full, senders)):
                await beat.next()

    def _took(self, receiver: int, _: Neighbour, packets: list[bytes]) -> None:
        now = time.monotonic()
        first, due, delays = self._packets.first, self._due, self._packets.delays
        receivers = len(self._receivers)
        for packet in packets:
            number = self._read(packet)
            at = number - first
            if not 0 <= at < len(due) or not due[at] or number % receivers != receiver:
                self.wrong += 1
                continue
            self.received += 1
            self.late.append(now - due[at])
            self.fed.append(due[at] - delays[at] / 1000)
            due[at] = 0.0


def _is_full(node: Neighbour) -> bool:
    return node.link is None or not node.link.writable
