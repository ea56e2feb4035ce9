"""From the link to a decision: batches, keys, replays, fates (spec: node 3.2, 3.3, 4.1 to 4.5)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.config.halves import Kind as NodeKind
from katzentwist.mix import pipeline as pipeline_module
from katzentwist.mix.ends import EndedPacket
from katzentwist.mix.mixkeys import MixKeys
from katzentwist.mix.pipeline import BATCH, INBOUND_LIMIT, Pipeline
from katzentwist.net import SynchronousWorkers
from katzentwist.randomness import SeededRandom
from katzentwist.sphinx import Kind, NodeDelay, PathHop, Recipient, SurbReply, build, new_surb, reply_packet
from katzentwist.status.metrics import Metrics

from ..network.clientnet import GEOMETRY

EPOCH = 100
HERE, THERE, USER, DECOY = b"h" * 32, b"t" * 32, b"u" * 32, b"d" * 32
BLOCK = bytes(GEOMETRY.forward_payload_length)


class LateWorkers(SynchronousWorkers):
    """Threads that come back when a test says so, in the order that it says."""

    def __init__(self) -> None:
        self.ended: list[Callable[[], None]] = []

    def submit(self, function: Any, args: Any, done: Any) -> None:
        """The work is done at once, the result is held back."""
        super().submit(function, args, lambda result: self.ended.append(lambda: done(result)))


class PipelineCase(SynchronousTestCase):
    """The pipeline of one half, with its keys."""

    def setUp(self) -> None:
        self.clock, self.random, self.metrics = Clock(), SeededRandom(self.id()), Metrics()
        self.epoch = EPOCH
        self.keys = MixKeys(GEOMETRY, self.random)
        self.keys.generate(EPOCH - 1)
        self.keys.generate(EPOCH)
        self.scheduled: list[tuple[float, bytes, bytes]] = []
        self.delivered: list[EndedPacket] = []
        self.decoys: list[tuple[bytes, bytes]] = []
        self.batches = 0
        self.turns = SimpleNamespace(pending=False)
        self.pipeline = self.make()

    def make(
        self, kind: NodeKind = NodeKind.MIX, workers: Any = None, threads: int = 2, spare: float = 0.0
    ) -> Pipeline:
        """A pipeline; with *workers* these unwrap, but for what fits into *spare* seconds of the reactor."""
        if workers is not None:
            self.patch(pipeline_module, "SAVED", spare)

        def after() -> None:
            self.batches += 1

        runtime: Any = SimpleNamespace(
            reactor=self.clock,
            clock=SimpleNamespace(monotonic=self.clock.seconds),
            debug=SimpleNamespace(unwrap_delay=250, num_sphinx_workers=threads),
            epochs=SimpleNamespace(period=1200.0),
            epoch=lambda: (self.epoch, False),
            geometry=GEOMETRY,
            metrics=self.metrics,
            context=SimpleNamespace(turns=self.turns),
            workers=workers or SynchronousWorkers(),
        )
        return Pipeline(
            runtime,
            kind,
            self.keys,
            DECOY,
            schedule=lambda delay, hop, packet, now: self.scheduled.append((delay, hop, packet)),
            deliver=self.delivered.append,
            decoy=lambda surb_id, payload: self.decoys.append((surb_id, payload)),
            after_batch=after,
        )

    def public(self, epoch: int = EPOCH) -> bytes:
        return self.keys.public(EPOCH - 1)[epoch] if epoch <= EPOCH + 1 else self.keys.public(EPOCH)[epoch]

    def forward(self, delay: int = 50, epoch: int = EPOCH) -> bytes:
        """A packet that has one more hop."""
        last = PathHop(THERE, self.public(), (Recipient(USER),))
        return build([PathHop(HERE, self.public(epoch), (NodeDelay(delay),)), last], BLOCK, GEOMETRY, self.random)

    def ending(self, *commands: Any) -> bytes:
        """A packet that ends here."""
        return build([PathHop(HERE, self.public(), commands)], BLOCK, GEOMETRY, self.random)

    def reply(self, recipient: bytes) -> bytes:
        """A packet made from a SURB that ends here."""
        hop = PathHop(HERE, self.public(), (Recipient(recipient), SurbReply(b"s" * 16)))
        surb, _ = new_surb([hop], GEOMETRY, self.random)
        return reply_packet(surb, BLOCK, GEOMETRY)[0]

    def take(self, *packets: bytes, from_client: bool = False, pipeline: Pipeline | None = None) -> None:
        chosen = self.pipeline if pipeline is None else pipeline  # an empty one counts as false
        chosen.intake(list(packets), from_client)
        self.clock.advance(0)

    def drops(self) -> Counter[str]:
        return Counter(
            {labels[0][1]: n for (name, labels), n in self.metrics.counters.items() if name == "dropped_reason_total"}
        )


class ForwardTests(PipelineCase):
    """What is mixed."""

    def test_forward(self) -> None:
        """The delay counts from the arrival, time in the unwrap apart; the next hop gets a packet of the same size."""
        self.pipeline.intake([self.forward(50)], False)
        self.clock.advance(0.02)
        [(delay, hop, packet)] = self.scheduled
        self.assertAlmostEqual(delay, 0.03)
        self.assertEqual((hop, len(packet)), (THERE, GEOMETRY.packet_length))
        self.assertEqual(self.drops(), {})
        self.assertEqual(self.batches, 1)

    def test_keys(self) -> None:
        """The neighbours' keys open packets at any time of the epoch; others do not."""
        for epoch in (EPOCH - 1, EPOCH, EPOCH + 1):
            self.take(self.forward(epoch=epoch))
        self.assertEqual(len(self.scheduled), 3)
        self.take(self.forward(epoch=EPOCH + 2))
        self.assertEqual(self.drops(), {"unwrap_failed": 1})

    def test_no_key(self) -> None:
        """Without a key for now nothing is tried."""
        packet = self.forward(epoch=EPOCH + 1)
        self.epoch = EPOCH + 3
        self.take(packet)
        self.assertEqual(self.drops(), {"unwrap_failed": 1})

    def test_garbage(self) -> None:
        """Neither crashes nor passes."""
        good = self.forward()
        self.take(bytes(len(good)), good[:-1] + bytes([good[-1] ^ 1]), self.random.bytes(len(good)))
        # The body is not authenticated before the last hop: a flipped bit there goes on.
        self.assertEqual((len(self.scheduled), self.drops()["unwrap_failed"]), (1, 2))
        self.assertEqual(self.metrics.value("sphinx_unwraps_total"), 1)

    def test_waited(self) -> None:
        """Longer than UnwrapDelay for a worker: dropped before the unwrap."""
        late = self.make(workers=LateWorkers(), threads=1)
        late.intake([self.forward()], False)
        self.clock.advance(0)
        late.intake([self.forward()] * 3, False)
        self.clock.advance(0.26)
        late._runtime.workers.ended.pop()()
        self.assertEqual(self.drops(), {"unwrap_dwell_exceeded": 3})
        self.assertEqual(len(self.scheduled), 1)
        self.assertEqual(len(late), 0)

    def test_batches(self) -> None:
        """What comes in one turn is unwrapped together, up to a limit, and in order."""
        packets = [self.forward(delay) for delay in range(1, 2 * BATCH + 2)]
        pipeline = self.make(workers=SynchronousWorkers())
        for packet in packets:
            pipeline.intake([packet], False)
        self.clock.advance(0)
        self.assertEqual(self.batches, 3)
        self.assertEqual([round(d * 1000) for d, _, _ in self.scheduled], list(range(1, 2 * BATCH + 2)))

    def test_on_the_spot(self) -> None:
        """While the reactor has time it unwraps itself, a few packets in each turn; then workers take the rest."""
        self.patch(pipeline_module, "INLINE", 3)
        self.patch(pipeline_module, "AROUND", 0.001)
        workers = LateWorkers()
        pipeline = self.make(workers=workers, spare=0.004)
        self.take(*(self.forward() for _ in range(10)), pipeline=pipeline)
        # 4 of the 6 ms that two batches took were spare.
        self.assertEqual((len(self.scheduled), self.batches, len(pipeline), len(workers.ended)), (6, 2, 0, 1))
        workers.ended.pop()()
        self.assertEqual(len(self.scheduled), 10)
        self.clock.advance(1)
        self.take(self.forward(), pipeline=pipeline)
        self.assertEqual((len(self.scheduled), len(workers.ended)), (11, 0))
        self.turns.pending = True  # handshakes, for example: they need the reactor
        self.take(self.forward(), pipeline=pipeline)
        self.assertEqual((len(self.scheduled), len(workers.ended)), (11, 1))

    def test_full(self) -> None:
        """Nothing is dropped; links are told to wait, and to go on when half of the packets are gone."""
        packet, drained = self.forward(), []
        self.pipeline.drained = lambda: drained.append(len(self.pipeline))
        self.pipeline.intake([packet] * (INBOUND_LIMIT - 1), False)
        self.assertFalse(self.pipeline.full)
        self.pipeline.intake([packet] * 2, False)
        self.assertTrue(self.pipeline.full)
        self.assertEqual(len(self.pipeline), INBOUND_LIMIT + 1)
        self.clock.advance(0)
        self.assertFalse(self.pipeline.full)
        self.assertEqual(len(drained), 1)
        self.assertLessEqual(drained[0], INBOUND_LIMIT // 2)
        self.assertEqual(self.metrics.value("sphinx_unwraps_total") + self.drops()["unwrap_failed"], INBOUND_LIMIT + 1)


class ReplayTests(PipelineCase):
    """Never the same packet twice under one key."""

    def replayed(self) -> int:
        return self.metrics.value("replayed_packets_total")

    def test_replay(self) -> None:
        """In one batch, and later."""
        packet = self.forward()
        self.take(packet, packet)
        self.take(packet)
        self.assertEqual((len(self.scheduled), self.replayed()), (1, 2))
        self.assertEqual(self.drops(), {"unwrap_failed": 2})
        self.assertEqual(self.metrics.value("sphinx_unwraps_total"), 1)

    def test_in_parallel(self) -> None:
        """In two threads at the same time: whichever comes back first wins, in either order."""
        for order in (0, -1):
            workers = LateWorkers()
            pipeline = self.make(workers=workers)
            packet = self.forward()
            self.take(packet, pipeline=pipeline)
            self.take(packet, pipeline=pipeline)
            self.assertEqual(len(workers.ended), 2)
            self.scheduled.clear()
            workers.ended.pop(order)()
            workers.ended.pop()()
            self.assertEqual(len(self.scheduled), 1)
        self.assertEqual(self.replayed(), 2)

    def test_over_the_epoch(self) -> None:
        """A packet that was seen early is still known when its epoch has begun, and when it is over."""
        packet = self.forward(epoch=EPOCH + 1)
        self.take(packet)
        for self.epoch in (EPOCH + 1, EPOCH + 2):
            self.keys.generate(self.epoch)
            self.keys.prune(self.epoch)
            self.take(packet)
        self.assertEqual((len(self.scheduled), self.replayed()), (1, 2))

    def test_redundant_commands(self) -> None:
        """A packet that is dropped for its commands leaves no tag behind (4.3)."""
        packet = self.ending(NodeDelay(1), NodeDelay(2), Recipient(USER))
        self.take(packet, packet)
        self.assertEqual(self.replayed(), 0)
        self.assertEqual(self.drops(), {"unwrap_failed": 2})


class EndTests(PipelineCase):
    """What is not forwarded (4.4)."""

    def test_at_a_mix(self) -> None:
        """Only replies to its own decoys end at a mix."""
        self.take(self.ending(NodeDelay(1), Recipient(USER)), self.ending(Recipient(USER)), self.reply(USER))
        self.assertEqual(self.drops(), {"mix_received_non_forward": 3})
        self.take(self.reply(DECOY))
        self.assertEqual([surb_id for surb_id, _ in self.decoys], [b"s" * 16])

    def test_at_a_gateway(self) -> None:
        """From mixes for users; from clients nothing ends here."""
        gateway = self.make(NodeKind.GATEWAY)
        self.take(self.ending(NodeDelay(7), Recipient(USER)), self.reply(USER), self.forward(), pipeline=gateway)
        self.assertEqual(
            [(p.kind, p.recipient) for p in self.delivered], [(Kind.TO_USER, USER), (Kind.SURB_REPLY, USER)]
        )
        self.assertEqual((self.delivered[0].delay_ms, self.delivered[1].surb_id), (7, b"s" * 16))
        self.assertEqual(len(self.scheduled), 1)
        self.take(
            self.ending(NodeDelay(7), Recipient(USER)),
            self.reply(DECOY),
            self.forward(),
            from_client=True,
            pipeline=gateway,
        )
        self.assertEqual((len(self.scheduled), self.decoys), (2, []))
        self.assertEqual(self.drops(), {"client_to_local_user": 2})

    def test_at_a_service_node(self) -> None:
        """Nothing passes through."""
        service = self.make(NodeKind.SERVICE)
        self.take(
            self.forward(), self.ending(NodeDelay(7), Recipient(USER)), self.ending(Recipient(USER)), pipeline=service
        )
        self.assertEqual(self.drops(), {"provider_forward_from_mix": 1})
        self.assertEqual(
            [(p.recipient, p.delay_ms, len(p.payload)) for p in self.delivered],
            [(USER, 7, len(BLOCK)), (USER, 0, len(BLOCK))],
        )

    def test_without_recipient(self) -> None:
        """Packets that crash v0.0.99 nodes: no commands, or a delay alone."""
        for kind in (NodeKind.GATEWAY, NodeKind.SERVICE):
            self.take(self.ending(), self.ending(NodeDelay(1)), pipeline=self.make(kind))
        self.assertEqual(self.drops(), {"invalid_packet": 4})
        self.assertEqual(self.delivered, [])

    def test_end_with_an_error(self) -> None:
        """An error in who takes packets does not stop the pipeline."""
        gateway = self.make(NodeKind.GATEWAY, threads=1)

        def deliver(packet: EndedPacket) -> None:
            raise RuntimeError("a bug")

        gateway._deliver = deliver
        gateway.intake([self.ending(Recipient(USER))], False)
        self.assertRaises(RuntimeError, self.clock.advance, 0)
        self.take(self.forward(), pipeline=gateway)
        self.assertEqual(len(self.scheduled), 1)

    def test_close(self) -> None:
        """What waits or is being unwrapped at the end is counted, and goes nowhere."""
        workers = LateWorkers()
        pipeline = self.make(workers=workers, threads=1)
        self.take(self.forward(), pipeline=pipeline)
        self.take(self.forward(), self.forward(), pipeline=pipeline)
        pipeline.close()
        workers.ended.pop()()
        self.assertEqual(self.drops(), {"shutdown": 3})
        self.assertEqual((self.scheduled, self.batches, len(pipeline)), ([], 0, 0))
