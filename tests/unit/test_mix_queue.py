"""The delay queue, replay sets and mix keys."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.crypto.native import native
from katzentwist.errors import ConfigError
from katzentwist.mix import mixkeys
from katzentwist.mix import scheduler as scheduler_module
from katzentwist.mix.drops import DropReason, drop
from katzentwist.mix.mixkeys import MixKeys
from katzentwist.mix.replay import ReplaySet
from katzentwist.mix.scheduler import Heap, MemoryQueue, Scheduler
from katzentwist.randomness import IRandom, SeededRandom
from katzentwist.sphinx import Geometry
from katzentwist.status.metrics import Metrics

GEOMETRY = Geometry.from_user_payload(2000, 5, nike="x25519")


def scheduler(limit: int = 0, burst: int = 100) -> tuple[Scheduler, Counter]:
    """A scheduler that knows the hops a and b, and its drops."""
    drops: Counter = Counter()

    def dropped(reason: DropReason, amount: int) -> None:
        drops[reason] += amount

    queue = MemoryQueue(SeededRandom(1), dropped, limit)
    made = Scheduler(
        queue=queue, max_delay=60.0, slack=0.45, burst=burst, hop={b"a": b"a", b"b": b"b"}.get, dropped=dropped
    )
    return made, drops


class SchedulerTests(SynchronousTestCase):
    """node 4.6."""

    @given(st.lists(st.floats(0, 60), max_size=50))
    def test_order(self, delays: list[float]) -> None:
        """Packets leave in the order of their due times, never early."""
        made, drops = scheduler()
        for i, delay in enumerate(delays):
            made.enqueue(delay, b"a", str(i).encode(), 0.0)
        left: list[tuple[float, int]] = []
        while (due := made.next_deadline()) is not None:
            for packet in made.dispatch(due)[0].get(b"a", []):
                left.append((due, int(packet)))
        self.assertEqual([round(due, 9) for due, _ in left], sorted(round(d, 9) for d in delays))
        self.assertTrue(all(delays[i] == due for due, i in left))
        self.assertFalse(drops)

    def test_late_is_dropped(self) -> None:
        """A packet later than the slack is dropped and counted, never sent."""
        made, drops = scheduler()
        made.enqueue(1.0, b"a", b"late", 0.0)
        made.enqueue(1.4, b"a", b"in time", 0.0)
        self.assertEqual(made.dispatch(1.5), ({b"a": [b"in time"]}, False))
        self.assertEqual(drops, {DropReason.SCHEDULER_DEADLINE_BLOWN: 1})

    def test_refusals(self) -> None:
        """Too long a delay and an unknown hop are refused."""
        made, drops = scheduler()
        made.enqueue(60.1, b"a", b"", 0.0)
        made.enqueue(1.0, b"nobody", b"", 0.0)
        self.assertEqual(drops, {DropReason.SCHEDULER_DELAY_EXCEEDS_MAX: 1, DropReason.SCHEDULER_NEXT_HOP_INVALID: 1})

    def test_overflow(self) -> None:
        """With a limit one random packet goes for each new one; the rest stays in order."""
        made, drops = scheduler(limit=5)
        for i in range(30):
            made.enqueue(30.0 - i, b"a", str(i).encode(), 0.0)
        self.assertEqual(len(made.queue), 5)
        self.assertEqual(drops, {DropReason.SCHEDULER_QUEUE_OVERFLOW: 25})
        numbers = [int(packet) for packet in made.queue.send_due(100.0, 10, 0.0)[0][b"a"]]
        self.assertEqual(numbers, sorted(numbers, reverse=True))

    def test_no_limit(self) -> None:
        """Without a limit of the operator memory is bounded all the same."""
        self.patch(scheduler_module, "MOST", 5)
        made, drops = scheduler()
        for i in range(7):
            made.enqueue(30.0 - i, b"a", b"", 0.0)
        self.assertEqual((len(made.queue), drops), (5, {DropReason.SCHEDULER_QUEUE_OVERFLOW: 2}))

    def test_burst(self) -> None:
        """At most the burst leaves per turn."""
        made, _ = scheduler(burst=16)
        for _ in range(100):
            made.enqueue(1.0, b"b", b"", 0.0)
        left, more = made.dispatch(1.0)
        self.assertEqual((len(left[b"b"]), more), (16, True))
        self.assertEqual(len(made.queue), 84)


def memory_queue(native_heap: bool, random: IRandom, dropped: Any, limit: int) -> MemoryQueue:
    """A queue over the heap of the native core, or over its twin in Python."""
    with patch.object(scheduler_module, "native", native if native_heap else None):
        return MemoryQueue(random, dropped, limit)


class HeapTests(SynchronousTestCase):
    """The heap in the native core, held to the one in Python."""

    if native is None:
        skip = "the native core is not there"

    @given(
        st.lists(
            st.tuples(st.just("push"), st.floats(0, 50) | st.integers(0, 5).map(float), st.integers(0, 3))
            | st.tuples(st.just("take"), st.floats(0, 60), st.integers(0, 9)),
            max_size=200,
        )
    )
    def test_as_twin(self, steps: list[tuple[str, float, int]]) -> None:
        """Any sequence of calls has the same results."""
        one, other = native.DelayHeap(), Heap()
        for number, (step, when, what) in enumerate(steps):
            if step == "push":
                for heap in (one, other):
                    heap.push(when, bytes([what]), str(number).encode())
            else:
                taken = one.take_due(when, what, when / 2)
                self.assertEqual(taken, other.take_due(when, what, when / 2))
                self.assertLessEqual(sum(map(len, taken[0].values())) + taken[1], what)
            self.assertEqual((len(one), one.next_due()), (len(other), other.next_due()))
        self.assertEqual(one.take_due(60.0, 1000, 0.0), other.take_due(60.0, 1000, 0.0))

    def test_no_such_place(self) -> None:
        """Only what is there can be removed."""
        for heap in (native.DelayHeap(), Heap()):
            self.assertRaises(IndexError, heap.remove, 0)
            heap.push(1.0, b"h", b"p")
            self.assertRaises(IndexError, heap.remove, 1)
            heap.clear()
            self.assertEqual((len(heap), heap.next_due()), (0, None))


class RandomDropTests(SynchronousTestCase):
    """What leaves a full queue."""

    @given(
        st.lists(st.integers(0, 50), min_size=1, max_size=80),
        st.integers(1, 20),
        st.integers(0, 1000),
        st.booleans() if native is not None else st.just(False),
    )
    def test_order(self, dues: list[int], limit: int, seed: int, fast: bool) -> None:
        """Whatever was dropped, the rest comes out in order, and all of it."""
        lost: Counter = Counter()
        queue = memory_queue(fast, SeededRandom(seed), lambda reason, amount: lost.update({reason: amount}), limit)
        for serial, due in enumerate(dues, 1):
            queue.push(float(due), b"h", b"%d %d" % (due, serial))
        packets = queue.send_due(1e9, 1000, 0.0)[0][b"h"]
        out = [(float(due), int(serial)) for due, serial in map(bytes.split, packets)]
        self.assertEqual(out, sorted(out))
        self.assertEqual(len(out) + lost[DropReason.SCHEDULER_QUEUE_OVERFLOW], len(dues))
        self.assertEqual(len(out), min(limit, len(dues)))
        self.assertLessEqual(set(out), {(float(due), serial) for serial, due in enumerate(dues, 1)})

    def test_uniform(self) -> None:
        """Every packet is as likely to go as any other, the new one included (spec: node 4.6)."""
        gone: Counter = Counter()
        random = SeededRandom("uniform")
        for _ in range(6000):
            queue = memory_queue(native is not None, random, lambda reason, amount: None, 5)
            for due in (3, 1, 5, 2, 4, 0):
                queue.push(float(due), b"h", b"%d" % due)
            kept = set(map(float, queue.send_due(9, 9, 0.0)[0][b"h"]))
            gone[next(iter({0.0, 1.0, 2.0, 3.0, 4.0, 5.0} - kept))] += 1
        for due in range(6):
            self.assertTrue(860 < gone[float(due)] < 1140, gone)


class ReplayMixin:
    """The rules of a replay set, for both implementations."""

    def new(self, key: bytes) -> ReplaySet:
        """An empty set."""
        raise NotImplementedError

    def test_second_time(self) -> None:
        """A tag is new once, also within a batch."""
        seen = self.new(bytes(16))
        a, b = bytes(32), bytes([1]) * 32
        self.assertEqual(seen.test_and_set([a, b, a]), [False, False, True])
        self.assertEqual(seen.test_and_set([b]), [True])

    def test_wrong_length(self) -> None:
        """A tag of another length counts as replayed."""
        self.assertEqual(self.new(bytes(16)).test_and_set([b"", bytes(31), bytes(33)]), [True] * 3)

    def test_restore(self) -> None:
        """What was dumped is known after a restore."""
        random = SeededRandom(3)
        tags = [random.bytes(32) for _ in range(5000)]
        seen = self.new(b"k" * 16)
        seen.test_and_set(tags)
        again = self.new(b"k" * 16)
        again.restore(b"".join(seen.dump()))
        self.assertEqual(len(again), 5000)
        self.assertTrue(all(again.test_and_set(tags)))
        self.assertFalse(any(again.test_and_set([random.bytes(32) for _ in range(5000)])))


class TwinReplayTests(ReplayMixin, SynchronousTestCase):
    """In Python."""

    def new(self, key: bytes) -> ReplaySet:
        """An empty set."""
        return ReplaySet(key)


class NativeReplayTests(ReplayMixin, SynchronousTestCase):
    """In the native core."""

    if native is None:
        skip = "the native core is not there"

    def new(self, key: bytes) -> ReplaySet:
        """An empty set."""
        return native.ReplaySet(key)

    def test_memory(self) -> None:
        """At most 12 bytes per packet, so 10 million fit into 128 MiB."""
        random = SeededRandom(9)
        seen = native.ReplaySet(bytes(16))
        for _ in range(20):
            seen.test_and_set([random.bytes(32) for _ in range(5000)])
        self.assertLess(seen.memory() / len(seen), 12.5)

    @settings(max_examples=50)
    @given(st.lists(st.sampled_from([bytes([i]) * 32 for i in range(20)] + [b"short"]), max_size=60))
    def test_equals_twin(self, tags: list[bytes]) -> None:
        """Both say the same of any sequence."""
        self.assertEqual(self.new(bytes(16)).test_and_set(tags), ReplaySet(bytes(16)).test_and_set(tags))


class MixKeyTests(SynchronousTestCase):
    """node 3."""

    def setUp(self) -> None:
        """Keys of epochs 10 to 12."""
        self.keys = MixKeys(GEOMETRY, SeededRandom(5))
        self.keys.generate(10)

    def folder(self) -> Path:
        """A fresh folder."""
        path = Path(self.mktemp())
        path.mkdir(mode=0o700, parents=True)
        return path

    def test_candidates(self) -> None:
        """The current key first, then the one before, then the next."""
        self.keys.generate(11)
        self.assertEqual([k.epoch for k in self.keys.candidates(11)], [11, 10, 12])
        self.assertEqual(self.keys.candidates(20), [])

    def test_full(self) -> None:
        """A key that has seen too many packets unwraps none; its tags stay, and other keys do their work."""
        self.patch(mixkeys, "MOST_TAGS", 3)
        (key,) = [k for k in self.keys.candidates(11) if k.epoch == 11]
        key.seen.test_and_set([bytes([number]) * 32 for number in range(3)])
        self.assertEqual([k.epoch for k in self.keys.candidates(11)], [10, 12])
        self.assertEqual(key.seen.test_and_set([bytes(32)]), [True])
        self.assertEqual(self.keys.tags(), 3)

    def test_prune(self) -> None:
        """Keys before now - 1 are forgotten."""
        self.keys.prune(12)
        self.assertEqual([e for e in range(8, 14) if e in self.keys], [11, 12])

    def test_stable(self) -> None:
        """Keys that exist are kept."""
        before = dict(self.keys.public(10))
        self.assertTrue(self.keys.generate(11))
        self.assertEqual({e: self.keys.public(10)[e] for e in before}, before)

    def test_persist(self) -> None:
        """Saved keys come back once, with what was seen under them, and leave no file."""
        tag = bytes(32)
        self.keys.candidates(10)[0].seen.test_and_set([tag])
        folder = self.folder()
        self.keys.save(folder)
        modes = {p.stat().st_mode & 0o777 for p in folder.iterdir()}
        again = MixKeys(GEOMETRY, SeededRandom(6))
        self.assertEqual(again.load(folder, 11), [11, 12])
        self.assertEqual(modes, {0o600})
        self.assertEqual(list(folder.iterdir()), [])
        again.generate(11)
        self.assertEqual(again.public(11)[12], self.keys.public(10)[12])
        fresh = MixKeys(GEOMETRY, SeededRandom(7))
        self.keys.save(folder)
        (folder / ".mixkey-10.bin.new").write_bytes(b"what a process left that was killed while it wrote")
        fresh.load(folder, 10)
        self.assertEqual(list(folder.iterdir()), [])
        self.assertEqual(fresh.candidates(10)[0].seen.test_and_set([tag]), [True])

    def test_truncated(self) -> None:
        """A damaged file ends the start with a message."""
        folder = self.folder()
        self.keys.save(folder)
        path = folder / "mixkey-11.bin"
        path.write_bytes(path.read_bytes()[:-1])
        self.assertRaises(ConfigError, MixKeys(GEOMETRY, SeededRandom(8)).load, folder, 10)


class DropTests(SynchronousTestCase):
    """node 4.11."""

    def test_every_reason_is_counted(self) -> None:
        """Each reason has its own series."""
        metrics = Metrics()
        for reason in DropReason:
            drop(metrics, reason, 2)
            self.assertEqual(metrics.value("dropped_reason_total", reason=reason.value), 2)
        text = metrics.render()
        self.assertIn('katzenpost_dropped_reason_total{reason="unwrap_failed"} 2', text)

    def test_also(self) -> None:
        """A late packet on the way out counts in three more series."""
        metrics = Metrics()
        drop(metrics, DropReason.OUTGOING_SEND_DEADLINE_BLOWN)
        for name in ("packets", "deadline_blown_packets", "outgoing_packets"):
            self.assertEqual(metrics.value(f"dropped_{name}_total"), 1)
