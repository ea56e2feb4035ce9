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


class Mailbox:
    """Whose database never answers."""

    async def store_message(self, recipient: bytes, payload: bytes) -> None:
        """Wait for ever."""
        await Deferred()


class DatabaseAwayTests(SynchronousTestCase):
    """A database that hangs."""

    def test_services_go_on(self) -> None:
        """With as many packets waiting for it as may wait, mail is dropped and counted, requests are served."""
        self.patch(end, "QUEUE", 3)
        clock, metrics = Clock(), Metrics()
        served: list[Any] = []
        services = SimpleNamespace(
            find=lambda r: SimpleNamespace(builtin=True, handle=served.append) if r == ECHO else None
        )
        runtime: Any = SimpleNamespace(
            clock=SimpleNamespace(monotonic=clock.seconds),
            debug=SimpleNamespace(gateway_delay=500, service_delay=500),
            geometry=GEOMETRY,
            metrics=metrics,
        )
        packets = PacketEnd(runtime, services, Mailbox())  # type: ignore[arg-type]
        half: Any = SimpleNamespace(kind=NodeKind.SERVICE)
        payload = build_block(bytes(GEOMETRY.user_forward_payload_length), None, GEOMETRY)
        for recipient in (*[recipient_id("alice")] * 5, ECHO):
            packets.deliver(
                half,
                EndedPacket(
                    kind=Kind.TO_USER, recipient=recipient, delay_ms=0, surb_id=None, payload=payload,
                    arrived=0.0, began=0.0,
                ),
            )  # fmt: skip
        self.assertEqual(len(served), 1)
        self.assertEqual(metrics.value("dropped_reason_total", reason="service_dwell_exceeded"), 2)
