"""Packets for the node under test, made beforehand.

Only the node's own layer is made: one X25519 multiplication, and the header, MAC and AEZ pass that it will undo. To the
node such a packet is like every other, in its bytes and in what it costs. What comes out carries in plain what went in,
so that every byte of the payload can be checked, and would mean nothing to the next node, which is us.
"""

from __future__ import annotations

import gc
import os
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import attrs
from twisted.internet.threads import deferToThread

from katzentwist.crypto.native import native
from katzentwist.randomness import SystemRandom
from katzentwist.sphinx import Geometry, NodeDelay, sample_delay
from katzentwist.sphinx.commands import NextNodeHop
from katzentwist.sphinx.geometry import MAC_LENGTH
from katzentwist.sphinx.packet import EPHEMERAL_KEY_SIZE

NUMBER: Final = 8
"""Bytes of a packet's number, at the start of its payload; the rest is zero."""
TASK: Final = 256
"""Packets that a thread makes at once."""
PIECE: Final = 1 << 15
"""Packets after which making them can be given up: a second of work."""


@attrs.frozen
class Packets:
    """Numbered packets.

    :ivar first: number of the first one.
    :ivar ready: the packets.
    :ivar delays: of each, in ms.
    """

    first: int
    ready: list[bytes] = attrs.field(factory=list, repr=False)
    delays: array[int] = attrs.field(factory=lambda: array("I"), repr=False)

    def __len__(self) -> int:
        return len(self.ready)


@attrs.define
class Maker:
    """Makes packets for one node.

    :ivar node: (id, mix key of the current epoch).
    :ivar next_hops: ids of the nodes that are to get the packets, in turn by number.
    :ivar mu: rate of the delays, per ms.
    """

    geometry: Geometry
    node: tuple[bytes, bytes]
    next_hops: Sequence[bytes]
    mu: float

    async def make(self, first: int, count: int) -> Packets:
        """Packets from number *first* on. Takes all cores, some 25 us per packet on two."""
        if native is None:
            raise SystemExit("the native core is missing: packets would take hours")
        packets = Packets(first)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for begin in range(first, first + count, PIECE):
                await deferToThread(self._piece, pool, packets, begin, min(begin + PIECE, first + count))
        # Collections would look at millions of packets, in the middle of a measurement.
        gc.collect()
        gc.freeze()
        return packets

    def _piece(self, pool: ThreadPoolExecutor, packets: Packets, begin: int, end: int) -> None:
        tasks = [range(at, min(at + TASK, end)) for at in range(begin, end, TASK)]
        for made in pool.map(self._some, tasks):
            for packet, delay in made:
                packets.ready.append(packet)
                packets.delays.append(delay)

    def _some(self, numbers: Sequence[int]) -> list[tuple[bytes, int]]:
        random = SystemRandom()
        return [self.one(number, sample_delay(self.mu, random)) for number in numbers]

    def one(self, number: int, delay: int) -> tuple[bytes, int]:
        """(packet, delay in ms)."""
        geometry, (node, key) = self.geometry, self.node
        unused = (geometry.nr_hops - 1) * geometry.per_hop_routing_info_length
        noise = os.urandom(EPHEMERAL_KEY_SIZE + MAC_LENGTH + unused)
        ephemeral, mac, filler = noise[:32], noise[32:64], noise[64:]
        to = self.next_hops[number % len(self.next_hops)]
        commands = NodeDelay(delay).encode() + NextNodeHop(to, mac).encode()
        payload = number.to_bytes(NUMBER, "big").ljust(geometry.forward_payload_length, b"\0")
        packet = native.build(geometry.nr_hops, [(node, key, commands)], payload, ephemeral, filler)  # type: ignore[union-attr]
        return packet, delay


class Reader:
    """Reads what came out of the node.

    :param geometry: of the packets.
    """

    def __init__(self, geometry: Geometry) -> None:
        self._tag_at = geometry.header_length
        self._at = self._tag_at + geometry.payload_tag_length
        self._tag = bytes(geometry.payload_tag_length)
        self._rest = bytes(geometry.packet_length - self._at - NUMBER)

    def number(self, packet: bytes) -> int:
        """The packet's number; -1 if any byte behind the header is not as it was sent."""
        at = self._at
        if packet[self._tag_at : at] != self._tag or packet[at + NUMBER :] != self._rest:
            return -1
        return int.from_bytes(packet[at : at + NUMBER], "big")
