"""Where packets go that end at a Provider (spec: provider 4.2, 6, 11.3)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.config.halves import Kind as NodeKind
from katzentwist.mix.ends import EndedPacket
from katzentwist.provider import end
from katzentwist.provider.end import PacketEnd
from katzentwist.sphinx import Kind, build_block, recipient_id
from katzentwist.status.metrics import Metrics

from ..network.clientnet import GEOMETRY

ECHO = recipient_id("+echo")
USER = recipient_id("alice")


class Mailbox:
    """Whose database never answers."""

    async def store_message(self, recipient: bytes, payload: bytes) -> None:
        """Wait for ever."""
        await Deferred()


class EndCase(SynchronousTestCase):
    """The end of the line, with an echo service whose requests are kept."""

    def setUp(self) -> None:
        self.clock, self.metrics = Clock(), Metrics()
        self.served: list[Any] = []
        self.runtime: Any = SimpleNamespace(
            clock=SimpleNamespace(monotonic=self.clock.seconds),
            debug=SimpleNamespace(gateway_delay=300, service_delay=500),
            geometry=GEOMETRY,
            metrics=self.metrics,
        )

    def end(self, mailbox: Any) -> PacketEnd:
        """With this mailbox."""
        services: Any = SimpleNamespace(
            find=lambda r: SimpleNamespace(builtin=True, handle=self.served.append) if r == ECHO else None
        )
        return PacketEnd(self.runtime, services, mailbox)

    def packet(self, recipient: bytes, surb: bytes | None = None, **changes: Any) -> EndedPacket:
        """A message for a service or user, arrived now."""
        now = self.clock.seconds()
        values = {
            "kind": Kind.TO_USER, "recipient": recipient, "delay_ms": 0, "surb_id": None, "arrived": now, "began": now,
            "payload": build_block(bytes(GEOMETRY.user_forward_payload_length), surb, GEOMETRY),
        }  # fmt: skip
        return EndedPacket(**{**values, **changes})

    def dropped(self, reason: str) -> float:
        """How many for this reason."""
        return self.metrics.value("dropped_reason_total", reason=reason)


class DeliveryTests(EndCase):
    """What is served, kept and dropped."""

    def test_reply_keeps_the_delay_of_the_last_hop(self) -> None:
        """The reply leaves when that delay is over, whatever the service took of it; without a SURB there is none."""
        replies: list[Any] = []
        half: Any = SimpleNamespace(kind=NodeKind.SERVICE, reply=lambda *reply: replies.append(reply))
        surb = bytes(GEOMETRY.surb_length)
        end = self.end(None)
        for took, with_surb in ((0.0, surb), (0.2, surb), (0.2, None)):
            end.deliver(half, self.packet(ECHO, with_surb, delay_ms=1000))
            self.clock.advance(took)
            self.served.pop().reply(b"answer")
        self.assertEqual(
            [(r[0], r[1], round(r[2], 6)) for r in replies], [(surb, b"answer", 1.0), (surb, b"answer", 0.8)]
        )

    def test_too_late(self) -> None:
        """What waited longer than the half has patience for is dropped, and counted by the half's name."""
        end = self.end(None)
        for kind, patience, reason in (
            (NodeKind.GATEWAY, 0.3, "gateway_dwell_exceeded"),
            (NodeKind.SERVICE, 0.5, "service_dwell_exceeded"),
        ):
            half: Any = SimpleNamespace(kind=kind)
            for late, served in ((-0.01, 1), (0.01, 0)):
                packet = self.packet(ECHO)
                self.clock.advance(patience + late)
                end.deliver(half, packet)
                self.assertEqual(len(self.served), served, (kind, late))
                self.served.clear()
            self.assertEqual(self.dropped(reason), 1)

    def test_size_of_surb_replies(self) -> None:
        """Only whole ones are kept for users."""
        kept: list[bytes] = []

        async def store(recipient: bytes, surb_id: bytes, payload: bytes) -> None:
            kept.append(payload)

        end = self.end(SimpleNamespace(store_surb_reply=store))
        half: Any = SimpleNamespace(kind=NodeKind.GATEWAY)
        size = GEOMETRY.payload_tag_length + GEOMETRY.forward_payload_length
        for length in (0, size - 1, size, size + 1):
            packet = self.packet(USER, kind=Kind.SURB_REPLY, surb_id=bytes(16), payload=bytes(length))
            end.deliver(half, packet)
        self.assertEqual(kept, [bytes(size)])
        self.assertEqual(self.dropped("invalid_packet"), 3)


class DatabaseAwayTests(EndCase):
    """A database that hangs."""

    def test_services_go_on(self) -> None:
        """With as many packets waiting for it as may wait, mail is dropped and counted, requests are served."""
        self.patch(end, "QUEUE", 3)
        packets = self.end(Mailbox())
        half: Any = SimpleNamespace(kind=NodeKind.SERVICE)
        for recipient in (*[USER] * 5, ECHO):
            packets.deliver(half, self.packet(recipient))
        self.assertEqual(len(self.served), 1)
        self.assertEqual(self.dropped("service_dwell_exceeded"), 2)
