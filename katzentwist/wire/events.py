"""What a session tells its owner."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from katzentwist.errors import HandshakeError
from katzentwist.wire.commands import Command


class Event:
    """Base of all events."""

    __slots__ = ()


@attrs.frozen(kw_only=True)
class Step(Event):
    """A piece of the handshake that costs KEM operations.

    The owner calls :meth:`run`, in any thread but only once, and hands the outcome to ``Session.step_done``. The
    session does not touch what the step works on in between.
    """

    work: Callable[[], bytes] = attrs.field(repr=False)

    def run(self) -> bytes | HandshakeError:
        """The outcome, for ``Session.step_done``. A refused handshake is an outcome, not an exception."""
        try:
            return self.work()
        except HandshakeError as error:
            return error


@attrs.frozen(kw_only=True)
class PeerCredentials(Event):
    """Who the peer says it is (spec: link 5.4). The owner must ``accept`` or ``refuse``; nothing is sent before."""

    additional_data: bytes = attrs.field(repr=False)
    """AD: an identity hash, a client's queue id, or empty."""
    link_key: bytes = attrs.field(repr=False)
    """The peer's static KEM public key."""
    clock_skew: int = 0
    """Initiator only: own time minus the responder's, in seconds. Never a reason to refuse."""


@attrs.frozen(kw_only=True)
class Established(Event):
    """Both sides are authenticated; commands may be sent."""

    peer: PeerCredentials


@attrs.frozen(kw_only=True)
class PacketsReceived(Event):
    """A run of SendPacket commands; each packet has exactly PL bytes."""

    packets: list[bytes] = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class CommandReceived(Event):
    """Any other command that the session accepts."""

    command: Command
