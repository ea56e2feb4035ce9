"""The delay queue: packets wait here until they are due (spec: node 4.6). Times are monotonic seconds."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

import attrs

from katzentwist.crypto.native import native
from katzentwist.mix.drops import DropReason
from katzentwist.net.senders import Left, Senders
from katzentwist.randomness import IRandom

Entry = tuple[float, int, bytes, bytes]
"""(due time, serial number, id of the next hop, packet)."""
Due = tuple[dict[bytes, list[bytes]], int]
"""(Packets by next hop, in order of due time; how many more were late, and are gone)."""
Dropped = Callable[[DropReason, int], None]

MOST = 1 << 18
"""Packets in memory where the configuration sets no limit, 0.9 GB: twenty seconds of what one process can forward."""


class DelayQueue(Protocol):
    """Where delayed packets are kept, in memory or on disk."""

    def push(self, due: float, next_hop: bytes, packet: bytes) -> None:
        """Add a packet."""

    def send_due(self, now: float, most: int, oldest: float) -> Left:
        """Remove up to *most* packets with due time <= *now*, earliest first; those due before *oldest* are late.

        A queue may send them itself, or leave them all.
        """

    def next_due(self) -> float | None:
        """Due time of the earliest packet."""

    def __len__(self) -> int: ...

    def close(self) -> None:
        """Let go of everything."""


def by_hop(entries: Iterable[Entry], oldest: float) -> Due:
    """Sort due packets by where they go."""
    out: dict[bytes, list[bytes]] = {}
    late = 0
    for due, _, next_hop, packet in entries:
        if due < oldest:
            late += 1
        else:
            out.setdefault(next_hop, []).append(packet)
    return out, late


class Heap:
    """Delayed packets in pure Python; the native core has the same in less time and memory."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._serial = 0

    def push(self, due: float, hop: bytes, packet: bytes) -> None:
        """Add a packet."""
        self._serial += 1
        heapq.heappush(self._entries, (due, self._serial, hop, packet))

    def take_due(self, now: float, most: int, oldest: float) -> Due:
        """Remove up to *most* packets with due time <= *now*, earliest first; those due before *oldest* are late."""
        out: list[Entry] = []
        while self._entries and len(out) < most and self._entries[0][0] <= now:
            out.append(heapq.heappop(self._entries))
        return by_hop(out, oldest)

    def next_due(self) -> float | None:
        """Due time of the earliest packet."""
        return self._entries[0][0] if self._entries else None

    def remove(self, at: int) -> None:
        """Take the packet at this place out, whichever that is.

        :raises IndexError: there are not so many.
        """
        self._entries[at] = self._entries[-1]
        self._entries.pop()
        heapq.heapify(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        """Drop everything."""
        self._entries.clear()


class MemoryQueue:
    """In memory. When there are more than *limit* packets, or :data:`MOST` if that is 0, a random one leaves.

    :param senders: due packets may leave by these at once.
    """

    def __init__(self, random: IRandom, dropped: Dropped, limit: int = 0, senders: Senders | None = None) -> None:
        self._heap = Heap() if native is None else native.DelayHeap()
        self._random, self._dropped, self._limit = random, dropped, limit or MOST
        self.send_due = partial((senders or Senders()).send_due, self._heap)
        self.next_due = self._heap.next_due

    def push(self, due: float, next_hop: bytes, packet: bytes) -> None:
        """Add a packet; may drop one as ``scheduler_queue_overflow``."""
        heap = self._heap
        heap.push(due, next_hop, packet)
        if len(heap) > self._limit:
            heap.remove(self._random.below(len(heap)))
            self._dropped(DropReason.SCHEDULER_QUEUE_OVERFLOW, 1)

    def __len__(self) -> int:
        return len(self._heap)

    def close(self) -> None:
        """Drop everything."""
        self._heap.clear()


def delay_limit(cap_ms: int, period: float) -> float:
    """Longest acceptable delay in seconds, from the cap of the document's Mu in ms (0: none)."""
    cap = cap_ms / 1000
    return cap if 0 < cap <= 3 * period else 3 * period


@attrs.define
class Scheduler:
    """Delays packets and hands the due ones on, per next hop.

    :ivar max_delay: seconds; longer ones are dropped.
    :ivar slack: seconds; packets later than this are dropped, never sent.
    :ivar burst: most packets per call of :meth:`dispatch`.
    :ivar hop: the id of a node to which a link exists, dialling or established; else None. It is the same object each
        time, since an id of its own would cost each waiting packet 80 bytes.
    """

    queue: DelayQueue
    max_delay: float
    slack: float
    burst: int
    hop: Callable[[bytes], bytes | None]
    dropped: Dropped

    def enqueue(self, delay: float, next_hop: bytes, packet: bytes, now: float) -> None:
        """Take a packet that is due in *delay* seconds, or drop it."""
        if delay > self.max_delay:
            self.dropped(DropReason.SCHEDULER_DELAY_EXCEEDS_MAX, 1)
        elif (known := self.hop(next_hop)) is None:
            self.dropped(DropReason.SCHEDULER_NEXT_HOP_INVALID, 1)
        else:
            self.queue.push(now + delay, known, packet)

    def next_deadline(self) -> float | None:
        """When :meth:`dispatch` should be called."""
        return self.queue.next_due()

    def dispatch(self, now: float) -> tuple[dict[bytes, list[bytes]], bool]:
        """The due packets that are still to be sent, by next hop, in order of due time, and whether more may be due.

        Late ones are dropped.
        """
        left, blown, sent = self.queue.send_due(now, self.burst, now - self.slack)
        if blown:
            self.dropped(DropReason.SCHEDULER_DEADLINE_BLOWN, blown)
        return left, blown + sent + sum(map(len, left.values())) >= self.burst
