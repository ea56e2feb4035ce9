"""The two sides of a link: what its owner may do, and what its owner is told."""

from __future__ import annotations

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import Attribute, Interface, implementer

from katzentwist.clock import IClock
from katzentwist.net.bursts import BurstReader, Sink
from katzentwist.net.turns import Turns
from katzentwist.net.workers import IWorkers
from katzentwist.randomness import IRandom
from katzentwist.wire import Command, PeerCredentials


class ILink(Interface):
    """What an owner may do with a link."""

    initiator = Attribute("Whether we dialled.")
    peer = Attribute("The PeerCredentials, once known; else None.")
    established = Attribute("Whether the handshake was finished.")
    writable = Attribute("False while the transport's buffer is full: stop sending, wait for writable().")
    accepts = Attribute("The commands that the peer may send (wire.legal); set it in authenticate().")
    stage = Attribute(
        "Where the handshake ended if it failed, by the names of the metrics (spec: node 10); else empty."
    )
    age = Attribute("Seconds since the connection was made.")
    remote_address = Attribute("The peer's IP address as text, or empty. Never log it above DEBUG.")

    sender = Attribute("The native core's PacketSender, for Senders; None where there is none.")

    def send(command: Command) -> bool:
        """Send one command; False when the link is not open (any more)."""

    def sendPackets(packets: list[bytes]) -> bool:
        """Send packets of PL bytes as SendPacket commands, in one write; False when the link is not open."""

    def passOn(sink: Sink | None) -> None:
        """Give packets to *sink* from now on, with those of other links, not to packetsReceived(); None: as before."""

    def pause() -> None:
        """Read no more from the peer until resume(); what was read already may still be delivered."""

    def resume() -> None:
        """Read on."""

    def close() -> None:
        """Send what is queued, then disconnect. closed() follows. May be called at any time and again."""


class ILinkOwner(Interface):
    """What a link tells. Nothing here is called again after closed()."""

    def authenticate(link: ILink, credentials: PeerCredentials) -> bool | Deferred[bool]:
        """Whether the peer may go on. Nothing is sent to it before, and never if not (spec: link 5.4, 10).

        The handshake's time-out goes on running. May set ``link.accepts``.
        """

    def established(link: ILink) -> None:
        """Both sides are authenticated; sending is possible."""

    def packetsReceived(link: ILink, packets: list[bytes]) -> None:
        """SendPacket commands came; each packet has exactly PL bytes. Never empty."""

    def commandReceived(link: ILink, command: Command) -> None:
        """Any other command that ``link.accepts`` allows."""

    def writable(link: ILink) -> None:
        """The transport's buffer has room again."""

    def closed(link: ILink, reason: Exception) -> None:
        """The link is gone; once for every connection, established or not.

        :param reason: a WireError when the session ended it, else Twisted's ConnectionDone, ConnectionLost, ...
        """


@implementer(ILinkOwner)
class LinkOwner:
    """An owner that lets everyone in and ignores everything; override what you need."""

    def authenticate(self, link: ILink, credentials: PeerCredentials) -> bool | Deferred[bool]:
        """See ILinkOwner."""
        return True

    def established(self, link: ILink) -> None:
        """See ILinkOwner."""

    def packetsReceived(self, link: ILink, packets: list[bytes]) -> None:
        """See ILinkOwner."""

    def commandReceived(self, link: ILink, command: Command) -> None:
        """See ILinkOwner."""

    def writable(self, link: ILink) -> None:
        """See ILinkOwner."""

    def closed(self, link: ILink, reason: Exception) -> None:
        """See ILinkOwner."""


@attrs.frozen(kw_only=True)
class Context:
    """What links need of the program around them. ``reactor.seconds`` must be monotonic (style: Time)."""

    reactor: IReactorTime
    clock: IClock
    random: IRandom
    workers: IWorkers
    bursts: BurstReader | None = attrs.field(default=attrs.Factory(lambda self: BurstReader.of(self.reactor), True))
    turns: Turns = attrs.field(default=attrs.Factory(lambda self: Turns(self.reactor, self.busy), True))

    def busy(self) -> bool:
        """Whether packets flow."""
        return self.bursts is not None and self.bursts.busy
