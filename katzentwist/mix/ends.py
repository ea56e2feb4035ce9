"""What a mix leaves to others: packets that end here, and peers that are clients. provider/ implements both."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.defer import Deferred
from zope.interface import Interface

from katzentwist.net.owner import ILink
from katzentwist.sphinx import Kind
from katzentwist.wire import Command, PeerCredentials


@attrs.frozen(kw_only=True)
class EndedPacket:
    """A packet whose path ends at this half.

    :ivar kind: TO_USER or SURB_REPLY.
    :ivar recipient: 32 bytes.
    :ivar delay_ms: of the node delay command, 0 without one.
    :ivar arrived: monotonic seconds.
    :ivar began: when unwrapping began.
    """

    kind: Kind
    recipient: bytes = attrs.field(repr=False)
    delay_ms: int
    surb_id: bytes | None = attrs.field(repr=False)
    payload: bytes = attrs.field(repr=False)
    arrived: float
    began: float


class IReplier(Interface):
    """A half, as those see it who answer packets."""

    def reply(surb: bytes, payload: bytes, delay: float) -> None:
        """Send *payload* by *surb* after *delay* seconds; drops are counted."""


class IPacketEnd(Interface):
    """Takes the packets that end here."""

    def deliver(half: Any, packet: EndedPacket) -> None:
        """Take one packet; *half* is an :class:`IReplier`."""


class IClients(Interface):
    """Takes the peers of a gateway that are no nodes."""

    def admit(credentials: PeerCredentials) -> Deferred[bool]:
        """Whether to let the client in."""

    def opened(link: ILink) -> None:
        """A client's handshake is done."""

    def allow(link: ILink, packets: list[bytes]) -> list[bytes]:
        """Those of the client's packets that its rate allows; the others are counted."""

    def command(link: ILink, command: Command) -> None:
        """A command other than SendPacket, NoOp and Disconnect."""

    def writable(link: ILink) -> None:
        """The client's link takes data again."""

    def recheck(link: ILink) -> None:
        """The interval of reauthentication is over; close the link if the client may no longer be here."""

    def closed(link: ILink) -> None:
        """The client's link is gone."""
