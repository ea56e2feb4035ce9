"""What the client core tells its owner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from katzentwist.client.gateways import Credentials, Target
from katzentwist.crypto.kem import Kem
from katzentwist.pki.document import SignedDocument
from katzentwist.wire import Command


class Event:
    """Base of all events."""

    __slots__ = ()


# To be done -----------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Dial(Event):
    """Dial the addresses of *target*, one after the other, as *credentials*."""

    session: int
    target: Target
    kem: Kem
    credentials: Credentials = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class Send(Event):
    """Send this command on the session."""

    command: Command


@attrs.frozen(kw_only=True)
class Close(Event):
    """Close the session."""

    reason: str


@attrs.frozen(kw_only=True)
class Verify(Event):
    """Join and verify a fetched document, best in a thread, and call ``verified``."""

    epoch: int
    pieces: Sequence[bytes] = attrs.field(repr=False)


# To be known ----------------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Connected(Event):
    """A session is up."""

    gateway: str


@attrs.frozen(kw_only=True)
class Disconnected(Event):
    """A session ended, or a dial failed; the next follows by itself."""

    reason: str


@attrs.frozen(kw_only=True)
class Fetched(Event):
    """A document came and is good; it may be of another epoch than the current one."""

    document: SignedDocument


@attrs.frozen(kw_only=True)
class Announced(Event):
    """The document of the current epoch is there; once per epoch."""

    document: SignedDocument


@attrs.frozen(kw_only=True)
class Replied(Event):
    """A reply came.

    :ivar owner: as given to ``sent``.
    :ivar tag: as given to ``sent``.
    """

    owner: Any
    tag: Any
    surb_id: bytes = attrs.field(repr=False)
    payload: bytes = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class Unanswered(Event):
    """The time for a reply is over."""

    owner: Any
    tag: Any


@attrs.frozen(kw_only=True)
class Plain(Event):
    """A message for a user waits to be acknowledged with ``taken``."""

    session: int
    sequence: int
    payload: bytes = attrs.field(repr=False)
