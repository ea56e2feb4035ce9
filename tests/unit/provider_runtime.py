"""What the provider's parts need of a node, without one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.internet.task import Clock
from zope.interface import implementer

from katzentwist.net.owner import ILink
from katzentwist.net.turns import Turns
from katzentwist.net.workers import SynchronousWorkers
from katzentwist.sphinx import Geometry
from katzentwist.status.metrics import Metrics
from katzentwist.wire import CommandSizes, PeerCredentials

GEOMETRY = Geometry.from_user_payload(200, 5, nike="x25519")
REPLY = GEOMETRY.payload_tag_length + GEOMETRY.forward_payload_length
PERIOD = 600.0


def runtime(clock: Clock) -> Any:
    """Enough of a Runtime."""
    return SimpleNamespace(
        reactor=clock,
        clock=SimpleNamespace(monotonic=clock.seconds, wallclock=clock.seconds),
        geometry=GEOMETRY,
        metrics=Metrics(),
        epochs=SimpleNamespace(period=PERIOD),
        workers=SynchronousWorkers(),
        context=SimpleNamespace(turns=Turns(clock)),
        sizes=CommandSizes(packet_length=GEOMETRY.packet_length, payload_length=REPLY),
    )


@implementer(ILink)
class FakeLink:
    """Keeps what is sent."""

    initiator = False
    established = True
    accepts: Any = None
    remote_address = ""

    def __init__(self, name: bytes, key: bytes = b"k" * 32) -> None:
        self.peer = PeerCredentials(additional_data=name, link_key=key)
        self.sent: list[Any] = []
        self.closed = False
        self.writable = True

    def send(self, command: Any) -> bool:
        if self.closed:
            return False
        self.sent.append(command)
        return True

    def sendPackets(self, packets: Any) -> bool:
        return False

    def close(self) -> None:
        self.closed = True

    def take(self) -> list[Any]:
        """What was sent since the last call."""
        sent, self.sent = self.sent, []
        return sent
