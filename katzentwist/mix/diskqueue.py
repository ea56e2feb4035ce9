"""The delay queue with its packets in a file (``SchedulerExternalMemoryQueue``; spec: provider 12, node 4.6).

Swap space, not persistence: the file is made new at every start, never synced, and deleted at the stop. All packets of
a geometry have one length, so the file is an array of slots, and memory holds (due time, serial number, slot) for each:
about 150 bytes in place of 3 kB. A freed slot is used again; when the queue is empty the file is cut to nothing.

=========  ======  =============================================
slot       size    content
=========  ======  =============================================
due        8       due time, monotonic ns, big-endian
serial     8       packet number, big-endian
length     4       of the packet
crc        4       CRC-32 of hop and packet
hop        32      id of the next hop
packet     n       the packet
=========  ======  =============================================

The earliest packet stays in memory, so that a queue of one never touches the disk. New packets are written together, at
most :data:`BATCH` of them, before anything else is asked of the queue. A read or write goes to the page cache and takes
microseconds.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from katzentwist.errors import StoreError
from katzentwist.logger import ModuleLogger
from katzentwist.mix.drops import DropReason
from katzentwist.mix.scheduler import Entry, by_hop
from katzentwist.net.senders import Left

BATCH: Final = 64
MOST: Final = 1 << 21
"""Packets: 6.6 GB of disk, 0.4 GB of memory. The spec sets no limit; a disk has one, and others live on it too."""
_HEAD: Final = struct.Struct(">QQII32s")
_NS: Final = 10**9


class DiskQueue:
    """See :class:`~katzentwist.mix.scheduler.DelayQueue`.

    :param packet_length: of every packet.
    :param slack: seconds; stored packets later than this are dropped when they are read.
    :raises StoreError: the file can not be made.
    """

    log = ModuleLogger("scheduler")

    def __init__(
        self, path: Path, packet_length: int, dropped: Callable[[DropReason, int], None], slack: float = float("inf")
    ) -> None:
        self._path, self._dropped, self._slack = path, dropped, slack
        self._slot_size = _HEAD.size + packet_length
        self._packet_length = packet_length
        self._head: Entry | None = None
        self._new: list[Entry] = []
        self._stored: list[tuple[float, int, int]] = []
        self._free: list[int] = []
        self._slots = 0
        self._serial = 0
        self._failures = 0
        try:
            path.unlink(missing_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as e:
            raise StoreError(f"can not make the external queue '{path}': {e.strerror}") from e

    def __len__(self) -> int:
        return (self._head is not None) + len(self._new) + len(self._stored)

    # In ------------------------------------------------------------------------------------------------------------

    def push(self, due: float, next_hop: bytes, packet: bytes) -> None:
        """Add a packet; a packet that is due earlier than the head takes its place.

        The newest is dropped when there are too many: to take out a random one costs a read and a search.
        """
        if len(self) >= MOST:
            self._lost(DropReason.BOLT_ENQUEUE_FAILED, 1, f"written: {MOST} wait already")
            return
        self._serial += 1
        entry = (due, self._serial, next_hop, packet)
        if self._head is None:
            self._head = entry  # nothing else is there, or take() would have left a head
            return
        if entry < self._head:
            entry, self._head = self._head, entry
        self._new.append(entry)
        if len(self._new) >= BATCH:
            self._write()

    def _write(self) -> None:
        """Store the batch; what can not be written is dropped."""
        batch, self._new = self._new, []
        failed: OSError | None = None
        lost = 0
        for due, serial, hop, packet in batch:
            slot = self._free.pop() if self._free else self._slots
            try:
                self._store(slot, due, serial, hop, packet)
            except OSError as e:
                failed, lost = e, lost + 1
                if slot < self._slots:
                    self._free.append(slot)
                continue
            self._slots = max(self._slots, slot + 1)
            heapq.heappush(self._stored, (due, serial, slot))
        if failed is not None:
            self._lost(DropReason.BOLT_ENQUEUE_FAILED, lost, f"written: {failed.strerror}")

    def _store(self, slot: int, due: float, serial: int, hop: bytes, packet: bytes) -> None:
        head = _HEAD.pack(round(due * _NS), serial, len(packet), zlib.crc32(packet, zlib.crc32(hop)), hop)
        data = head + packet
        if len(data) != self._slot_size:
            raise OSError(0, f"a packet of {len(packet)} bytes")
        if os.pwrite(self._file, data, slot * self._slot_size) != len(data):
            raise OSError(0, "only a part was taken; is the disk full?")

    def _lost(self, reason: DropReason, amount: int, how: str) -> None:
        """Count; the first failure is logged, and then each one that doubles their number."""
        self._dropped(reason, amount)
        before, self._failures = self._failures, self._failures + amount
        if before.bit_length() != self._failures.bit_length():
            self.log.error("{path}: {count} packets could not be {how}", path=self._path, count=self._failures, how=how)

    # Out -----------------------------------------------------------------------------------------------------------

    def send_due(self, now: float, most: int, oldest: float) -> Left:
        """See :class:`~katzentwist.mix.scheduler.DelayQueue`."""
        return *by_hop(self.pop_due(now, most), oldest), 0

    def pop_due(self, now: float, most: int) -> list[Entry]:
        """Remove up to *most* due entries, earliest first."""
        self._write()
        out: list[Entry] = []
        while self._head is not None and len(out) < most and self._head[0] <= now:
            out.append(self._head)
            self._head = self._next(now)
        return out

    def next_due(self) -> float | None:
        """Due time of the earliest entry."""
        if self._new:
            self._write()
        return self._head[0] if self._head is not None else None

    def _next(self, now: float) -> Entry | None:
        """Take the earliest stored entry that is readable and not too late."""
        late = 0
        found: Entry | None = None
        while self._stored and found is None:
            due, serial, slot = heapq.heappop(self._stored)
            self._free.append(slot)
            if due < now - self._slack:
                late += 1
                continue
            found = self._load(due, serial, slot)
        if late:
            self._dropped(DropReason.BOLT_POP_DEADLINE_BLOWN, late)
        if not self._stored:
            self._empty()
        return found

    def _load(self, due: float, serial: int, slot: int) -> Entry | None:
        why = "they are damaged"
        try:
            data = os.pread(self._file, self._slot_size, slot * self._slot_size)
        except OSError as e:
            data, why = b"", str(e.strerror)
        if len(data) == self._slot_size:
            when, number, length, crc, hop = _HEAD.unpack_from(data)
            packet = data[_HEAD.size :]
            intact = crc == zlib.crc32(packet, zlib.crc32(hop))
            if intact and (when, number, length) == (round(due * _NS), serial, len(packet)):
                return due, serial, hop, packet
        self._lost(DropReason.BOLT_POP_S11N_FAILURE, 1, f"read: {why}")
        return None

    def _empty(self) -> None:
        """Give the disk back."""
        self._free.clear()
        self._slots = 0
        with contextlib.suppress(OSError):
            os.ftruncate(self._file, 0)

    def close(self) -> None:
        """Drop everything and delete the file."""
        self._head = None
        self._new.clear()
        self._stored.clear()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            with contextlib.suppress(OSError):
                self._path.unlink()
