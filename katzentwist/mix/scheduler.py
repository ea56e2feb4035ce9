"""The delay queue: packets wait here until they are due (spec: node 4.6). Sans-IO; times are monotonic seconds."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Protocol

import attrs

from katzentwist.mix.drops import DropReason
from katzentwist.randomness import IRandom

Entry = tuple[float, int, bytes, bytes]
"""(due time, serial number, id of the next hop, packet)."""
Dropped = Callable[[DropReason, int], None]

MOST = 1 << 18
"""Packets in memory where the configuration sets no limit, 0.9 GB: twenty seconds of what one process can forward."""


class DelayQueue(Protocol):
    """Where delayed packets are kept, in memory or on disk."""

    def push(self, due: float, next_hop: bytes, packet: bytes) -> None:
        """Add a packet."""

    def pop_due(self, now: float, most: int) -> list[Entry]:
        """Remove up to *most* entries with due time <= *now*, earliest first."""

    def next_due(self) -> float | None:
        """Due time of the earliest entry."""

    def __len__(self) -> int: ...

    def close(self) -> None:
        """Let go of everything."""


def _remove(heap: list[Entry], at: int) -> None:
    """Take the entry at this place out of a heap, in logarithmic time: an overloaded node does it for each packet."""
    entry = heap.pop()
    if at == len(heap):
        return
    while at > 0 and entry < heap[(at - 1) // 2]:
        heap[at] = heap[(at - 1) // 2]
        at = (at - 1) // 2
    while (child := 2 * at + 1) < len(heap):
        if child + 1 < len(heap) and heap[child + 1] < heap[child]:
            child += 1
        if entry < heap[child]:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = entry


class MemoryQueue:
    """A heap. One random entry leaves when there are more than *limit* (the new one included); 0: than :data:`MOST`."""

    def __init__(self, random: IRandom, dropped: Dropped, limit: int = 0) -> None:
        self._heap: list[Entry] = []
        self._serial = 0
        self._random, self._dropped, self._limit = random, dropped, limit or MOST

    def push(self, due: float, next_hop: bytes, packet: bytes) -> None:
        """Add a packet; may drop one as ``scheduler_queue_overflow``."""
        self._serial += 1
        heapq.heappush(self._heap, (due, self._serial, next_hop, packet))
        if len(self._heap) > self._limit:
            _remove(self._heap, self._random.below(len(self._heap)))
            self._dropped(DropReason.SCHEDULER_QUEUE_OVERFLOW, 1)

    def pop_due(self, now: float, most: int) -> list[Entry]:
        """Remove up to *most* due entries, earliest first."""
        heap = self._heap
        out: list[Entry] = []
        while heap and len(out) < most and heap[0][0] <= now:
            out.append(heapq.heappop(heap))
        return out

    def next_due(self) -> float | None:
        """Due time of the earliest entry."""
        return self._heap[0][0] if self._heap else None

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

    def dispatch(self, now: float) -> dict[bytes, list[bytes]]:
        """The due packets by next hop, in order of due time; late ones are dropped."""
        out: dict[bytes, list[bytes]] = {}
        blown = 0
        oldest = now - self.slack
        for due, _, next_hop, packet in self.queue.pop_due(now, self.burst):
            if due < oldest:
                blown += 1
            elif next_hop in out:
                out[next_hop].append(packet)
            else:
                out[next_hop] = [packet]
        if blown:
            self.dropped(DropReason.SCHEDULER_DEADLINE_BLOWN, blown)
        return out
