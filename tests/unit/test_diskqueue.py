"""The delay queue on disk (provider 12): as the one in memory, and what a disk adds."""

from __future__ import annotations

import os
import stat
import time
from collections import Counter
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.errors import StoreError
from katzentwist.mix import diskqueue
from katzentwist.mix.diskqueue import BATCH, DiskQueue
from katzentwist.mix.drops import DropReason
from katzentwist.mix.scheduler import MemoryQueue
from katzentwist.randomness import SeededRandom

SIZE = 100
HOP = b"h" * 32
HOPS = [bytes([number]) * 32 for number in range(3)]


class DiskQueueTests(SynchronousTestCase):
    """One queue at a time."""

    def setUp(self) -> None:
        """A folder."""
        self.folder = Path(self.mktemp())
        self.folder.mkdir(parents=True)
        self.path = self.folder / "external_queue.db"
        self.drops: Counter[DropReason] = Counter()

    def dropped(self, reason: DropReason, amount: int) -> None:
        """Count."""
        self.drops[reason] += amount

    def queue(self, slack: float = float("inf")) -> DiskQueue:
        """A new queue; it closes with the test."""
        queue = DiskQueue(self.path, SIZE, self.dropped, slack)
        self.addCleanup(queue.close)
        return queue

    def test_full(self) -> None:
        """The newest is dropped and counted; what waits is not touched."""
        self.patch(diskqueue, "MOST", BATCH + 3)
        queue = self.queue()
        for number in range(BATCH + 5):
            queue.push(float(number), HOP, bytes([number]) * SIZE)
        self.assertEqual((len(queue), self.drops), (BATCH + 3, {DropReason.BOLT_ENQUEUE_FAILED: 2}))
        self.assertEqual([entry[3][0] for entry in queue.pop_due(1e9, 1000)], list(range(BATCH + 3)))
        queue.push(0.0, HOP, bytes(SIZE))
        self.assertEqual(len(queue), 1)

    @settings(max_examples=150, deadline=None)
    @given(
        st.lists(
            st.tuples(st.just("push"), st.floats(0, 50))
            | st.tuples(st.just("pop"), st.floats(0, 60))
            | st.tuples(st.just("due"), st.just(0.0)),
            max_size=200,
        )
    )
    def test_as_memory(self, steps: list[tuple[str, float]]) -> None:
        """Any sequence of calls has the same results as on the queue in memory."""
        disk, memory = DiskQueue(self.path, SIZE, self.dropped), MemoryQueue(SeededRandom(1), self.dropped)
        for number, (step, when) in enumerate(steps):
            if step == "push":
                for queue in (disk, memory):
                    queue.push(when, HOPS[number % 3], str(number).encode().ljust(SIZE, b"\0"))
            elif step == "pop":
                oldest = when / 2
                self.assertEqual(disk.send_due(when, 7, oldest), memory.send_due(when, 7, oldest))
            else:
                self.assertEqual(disk.next_due(), memory.next_due())
            self.assertEqual(len(disk), len(memory))
        self.assertEqual(disk.send_due(1e6, 1000, 0.0), memory.send_due(1e6, 1000, 0.0))
        self.assertFalse(self.drops)
        disk.close()

    def test_file(self) -> None:
        """Made anew over whatever is there, private, and gone after the end."""
        self.path.write_text("stale")
        queue = self.queue()
        self.assertEqual(self.path.stat().st_size, 0)
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        queue.close()
        self.assertFalse(self.path.exists())
        self.path.symlink_to("/etc/passwd")
        self.queue()
        self.assertFalse(self.path.is_symlink())

    def test_head_in_memory(self) -> None:
        """A single packet never touches the disk; the others go there, and the disk is given back."""
        queue = self.queue()
        queue.push(1.0, HOP, bytes(SIZE))
        queue.next_due()
        self.assertEqual(self.path.stat().st_size, 0)
        for _ in range(1000):
            queue.push(2.0, HOP, bytes(SIZE))
        self.assertEqual(self.path.stat().st_size // 156, 1000 // BATCH * BATCH)
        self.assertEqual(queue.next_due(), 1.0)
        self.assertEqual(self.path.stat().st_size, 1000 * 156)
        self.assertEqual(len(queue.pop_due(5.0, 5000)), 1001)
        self.assertEqual(self.path.stat().st_size, 0)

    def test_slots_are_used_again(self) -> None:
        """A queue of stable length does not make the file grow."""
        queue = self.queue()
        for i in range(5000):
            queue.push(float(i), HOP, bytes(SIZE))
            if i > 100:
                self.assertEqual(len(queue.pop_due(float(i), 1)), 1)
        self.assertLess(self.path.stat().st_size, 300 * 156)

    def test_late(self) -> None:
        """Stored packets that are later than the slack are dropped on the way."""
        queue = self.queue(slack=0.45)
        for due in (1.0, 1.1, 1.2, 9.0):
            queue.push(due, HOP, bytes(SIZE))
        self.assertEqual([e[0] for e in queue.pop_due(2.0, 16)], [1.0])  # the head, which the scheduler judges
        self.assertEqual(self.drops, {DropReason.BOLT_POP_DEADLINE_BLOWN: 2})
        self.assertEqual(queue.next_due(), 9.0)

    def test_damage(self) -> None:
        """What can not be read is dropped and counted; the rest goes on."""
        queue = self.queue()
        for i in range(5):
            queue.push(float(i), HOP, bytes(SIZE))
        queue.next_due()
        with self.path.open("r+b") as file:
            file.seek(156 + 80)
            file.write(b"damage")
        self.assertEqual([e[0] for e in queue.pop_due(10.0, 16)], [0.0, 1.0, 3.0, 4.0])
        self.assertEqual(self.drops, {DropReason.BOLT_POP_S11N_FAILURE: 1})
        for i in range(5):
            queue.push(float(i), HOP, bytes(SIZE))
        queue.next_due()
        os.truncate(self.path, 0)
        self.assertEqual([e[0] for e in queue.pop_due(10.0, 16)], [0.0])
        self.assertEqual(self.drops[DropReason.BOLT_POP_S11N_FAILURE], 5)

    def test_full_disk(self) -> None:
        """What can not be written is dropped and counted; packets in memory go on."""
        queue = self.queue()
        os.close(queue._file)
        queue._file = os.open("/dev/full", os.O_RDWR)
        for i in range(200):
            queue.push(float(i), HOP, bytes(SIZE))
        self.assertEqual([e[0] for e in queue.pop_due(1000.0, 500)], [0.0])
        self.assertEqual(self.drops, {DropReason.BOLT_ENQUEUE_FAILED: 199})
        self.assertEqual(len(queue), 0)

    def test_no_folder(self) -> None:
        """A file that can not be made is an error that names it."""
        with self.assertRaises(StoreError) as caught:
            DiskQueue(self.folder / "missing" / "q.db", SIZE, self.dropped)
        self.assertIn("missing/q.db", str(caught.exception))

    def test_speed(self) -> None:
        """The reactor is not kept waiting: a batch of 64 takes about a millisecond, a thousand times over."""
        queue = DiskQueue(self.folder / "big", 3082, self.dropped)
        worst, began = 0.0, time.monotonic()
        for i in range(200):
            start = time.monotonic()
            for j in range(BATCH):
                queue.push(float((i * 7919 + j) % 1000), HOP, bytes(3082))
            worst = max(worst, time.monotonic() - start)
        queue.pop_due(1e9, 10**6)
        print(f"worst batch {worst * 1000:.1f} ms, all {time.monotonic() - began:.2f} s")
        self.assertLess(time.monotonic() - began, 5)
        queue.close()
