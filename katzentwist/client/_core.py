"""A client without sockets, threads or timers: gateways, documents, packets, replies (spec: client 4, 5, 7).

What happened goes in by the methods, what is to be done comes out as events. The owner dials, sends, computes and keeps
one timer (:meth:`ClientCore.next_deadline`). It stands on :mod:`katzentwist.wire` sessions: commands go in and out, not
bytes.

========== ============================= ============================
phase      waits for                     then
========== ============================= ============================
STOPPED    ``start``                     WAITING
WAITING    the end of the back-off       DIALLING
DIALLING   ``established``, ``failed``   CONNECTED, WAITING
CONNECTED  commands; ``closed``          WAITING, CLOSING
CLOSING    ``closed``, after a ``Close``  WAITING
========== ============================= ============================
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from typing import Any, Final

import attrs

from katzentwist.client.compose import Composed, ComposeError, Outgoing, retention
from katzentwist.client.documents import Documents
from katzentwist.client.events import (
    Announced,
    Close,
    Connected,
    Dial,
    Disconnected,
    Event,
    Fetched,
    Plain,
    Replied,
    Send,
    Unanswered,
    Verify,
)
from katzentwist.client.gateways import Backoff, Credentials, Gateways, Target
from katzentwist.client.replies import Awaited, ReplyTable
from katzentwist.clock import ORIGIN, Epochs, IClock
from katzentwist.config.client import ClientConfig
from katzentwist.crypto import kem
from katzentwist.crypto.kem import Kem
from katzentwist.errors import CommandError
from katzentwist.pki.document import Document, SignedDocument
from katzentwist.pki.schedule import CLIENT_FETCH_LIMIT
from katzentwist.randomness import IRandom
from katzentwist.wire import Command, PeerCredentials
from katzentwist.wire.chunks import Reassembly
from katzentwist.wire.codes import ConsensusCode
from katzentwist.wire.commands import Consensus2, Disconnect, GetConsensus2, Message, MessageDelivered, NoOp

TICK: Final = 1.0
"""The clocks are looked at this often, since the wall clock may be set and the machine may sleep."""
QUIET: Final = (30.0, 60.0)
"""A client that has sent nothing for a time in this range sends a NoOp."""
NO_SURB: Final = bytes(16)
UNLISTED: Final = "current consensus no longer lists the Gateway"
NOT_CONNECTED: Final = "client/conn: not connected to the Gateway"


class Phase(enum.Enum):
    """See the module's table."""

    STOPPED = "stopped"
    WAITING = "waiting"
    DIALLING = "dialling"
    CONNECTED = "connected"
    CLOSING = "closing"


@attrs.frozen(kw_only=True)
class Origin:
    """Where packets of one session start and where its replies end."""

    session: int
    gateway: bytes
    queue_id: bytes = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class Sent:
    """A packet was handed to the link. Times: Unix seconds, seconds, monotonic seconds."""

    sent_at: float
    reply_eta: float
    forgotten_at: float


@attrs.define
class _Fetch:
    epoch: int
    deadline: float
    chunks: Reassembly = attrs.field(factory=Reassembly)


@attrs.define
class _SkewedClock:
    """The local clock, corrected by the gateway's where that is wanted (spec: client 4.5).

    It never says less than the time of epoch 0, whatever the gateway says, or a host that has lost its own time.
    """

    clock: IClock
    skew: float = 0.0

    def wallclock(self) -> float:
        return max(ORIGIN, self.clock.wallclock() - self.skew)


class ClientCore:
    """One client.

    :param credentials: makes the credentials of a session for a KEM; fresh ones by default.
    :param only: name of the one gateway to use.
    :param keep_plain: whether plain messages for a user (spec: client 4.7) become events, to be acknowledged with
        :meth:`taken`; otherwise they are acknowledged and dropped.
    """

    def __init__(
        self,
        config: ClientConfig,
        epochs: Epochs,
        clock: IClock,
        random: IRandom,
        *,
        credentials: Callable[[Kem], Credentials] | None = None,
        only: str = "",
        backoff: Backoff | None = None,
        keep_plain: bool = False,
    ) -> None:
        self.config, self.epochs = config, epochs
        self.documents = Documents(epochs, random)
        self.replies = ReplyTable(config.geometry)
        self.gateways = Gateways(pinned=config.gateways, transports=config.transports, kem=config.wire_kem, only=only)
        self.phase = Phase.STOPPED
        self.target: Target | None = None
        self.plain_dropped = 0
        self._clock, self._random = clock, random
        self._wall = _SkewedClock(clock)
        self._credentials_for = credentials or (lambda scheme: Credentials.fresh(scheme, random))
        self._backoff = backoff or Backoff()
        self._keep_plain = keep_plain
        self._credentials: Credentials | None = None
        self._peer: PeerCredentials | None = None
        self._checked: SignedDocument | None = None
        self._session = 0
        self._dial_at = 0.0
        self._quiet_until = 0.0
        self._fetch: _Fetch | None = None
        self._verifying: set[int] = set()
        self._announced = -1

    # What is known -------------------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether a gateway session is up."""
        return self.phase is Phase.CONNECTED

    def unix_time(self) -> float:
        """Wall time, corrected if it is to be."""
        return self._wall.wallclock()

    def signed_document(self) -> SignedDocument | None:
        """The document in use: that of the current epoch, else of the one before."""
        return self.documents.current(self.unix_time())

    def document(self) -> Document | None:
        """The same, without signatures."""
        signed = self.signed_document()
        return signed.document if signed is not None else None

    def origin(self) -> Origin:
        """Of packets made now.

        :raises ComposeError: no session is up.
        """
        if not self.connected or self.target is None or self._credentials is None:
            raise ComposeError(NOT_CONNECTED)
        return Origin(session=self._session, gateway=self.target.id, queue_id=self._credentials.queue_id)

    # Life ----------------------------------------------------------------------------------------------------------

    def start(self) -> list[Event]:
        """Begin to dial."""
        if self.phase is not Phase.STOPPED:
            return []
        return self._wait()

    def stop(self) -> list[Event]:
        """No more dialling; a session is closed."""
        events: list[Event] = self._close("stopped") if self.connected else []
        self.phase = Phase.STOPPED
        return events

    def _close(self, reason: str) -> list[Event]:
        self.phase = Phase.CLOSING
        return [Close(reason=reason)]

    def _wait(self) -> list[Event]:
        self.phase = Phase.WAITING
        self._dial_at = self._clock.monotonic() + self._backoff.next(self._random)
        return self.handle_deadline()

    def _dial(self) -> list[Event]:
        known = self.gateways.choose(self.document(), self._random) or self.target
        if known is None:
            self.phase = Phase.WAITING
            self._dial_at = self._clock.monotonic() + self._backoff.next(self._random)
            where = f"gateway {self.gateways.only} is not known" if self.gateways.only else "no gateway is known"
            return [Disconnected(reason=where)]
        self.target = known
        self.phase = Phase.DIALLING
        self._session += 1
        scheme = kem.by_name(known.kem)
        self._credentials = self._credentials_for(scheme)
        return [Dial(session=self._session, target=known, kem=scheme, credentials=self._credentials)]

    def accepts(self, peer: PeerCredentials) -> bool:
        """Whether the peer of the handshake is the gateway that was dialled."""
        return self.target is not None and self.target.is_peer(peer)

    def failed(self, reason: str) -> list[Event]:
        """The dial, or the handshake, failed."""
        if self.phase is not Phase.DIALLING:
            return []
        return [Disconnected(reason=reason), *self._wait()]

    def established(self, peer: PeerCredentials) -> list[Event]:
        """The session is up."""
        if self.phase is not Phase.DIALLING or self.target is None:
            return []
        self.phase = Phase.CONNECTED
        self._peer, self._checked = peer, None
        if self.config.time_sync:
            self._wall.skew = float(peer.clock_skew)
        self._sent_something()
        self.documents.retry_at_once()
        return [Connected(gateway=self.target.name), *self.handle_deadline()]

    def closed(self, reason: str) -> list[Event]:
        """The session ended."""
        self._fetch = None
        if self.phase not in (Phase.CONNECTED, Phase.CLOSING):
            return self.failed(reason)
        return [Disconnected(reason=reason), *self._wait()]

    # Commands ------------------------------------------------------------------------------------------------------

    def received(self, command: Command) -> list[Event]:
        """A command of the gateway. A mistake of the gateway closes the session."""
        if not self.connected:
            return []
        self._backoff.received()
        if not self._still_our_gateway():
            return self._close(UNLISTED)
        events: list[Event] = []
        match command:
            case Message():
                events = self._message(command)
            case Consensus2():
                try:
                    events = self._chunk(command)
                except CommandError as e:
                    events = self._close(str(e))
            case Disconnect():
                events = self._close("the gateway disconnects")
        return events

    def _still_our_gateway(self) -> bool:
        """The check of the handshake again, whenever the document changed."""
        signed = self.signed_document()
        if signed is self._checked or self.target is None or self._peer is None:
            return True
        now = self.gateways.current(self.target, signed.document if signed is not None else None)
        if now is None or not now.is_peer(self._peer):
            return False
        self._checked = signed
        return True

    def _message(self, message: Message) -> list[Event]:
        if message.surb_id == NO_SURB and message.surb_id not in self.replies:
            if self._keep_plain:
                size = self.config.geometry.user_forward_payload_length
                return [Plain(session=self._session, sequence=message.sequence, payload=message.payload[:size])]
            self.plain_dropped += 1
            return self.taken(self._session, message.sequence)
        taken = self.replies.take(message.surb_id, message.payload)
        events = self.taken(self._session, message.sequence)
        if taken is not None:
            awaited, payload = taken
            events.append(Replied(owner=awaited.owner, tag=awaited.tag, surb_id=awaited.surb_id, payload=payload))
        return events

    def taken(self, session: int, sequence: int) -> list[Event]:
        """A pushed message was taken: acknowledge it, if its session is still there."""
        if not self.connected or session != self._session:
            return []
        return [self._send(MessageDelivered(sequence=sequence))]

    def _send(self, command: Command) -> Send:
        self._sent_something()
        return Send(command=command)

    def _sent_something(self) -> None:
        low, high = QUIET
        self._quiet_until = self._clock.monotonic() + low + (high - low) * self._random.uniform()

    # Documents -----------------------------------------------------------------------------------------------------

    def _chunk(self, chunk: Consensus2) -> list[Event]:
        fetch = self._fetch
        if fetch is None:
            raise CommandError("a Consensus2 that was not asked for")
        pieces = fetch.chunks.add(chunk)
        if pieces is None:
            return []
        self._fetch = None
        if fetch.chunks.code == ConsensusCode.OK:
            self._verifying.add(fetch.epoch)
            return [Verify(epoch=fetch.epoch, pieces=pieces)]
        if fetch.chunks.code == ConsensusCode.GONE:
            self.documents.gone(fetch.epoch)
        else:
            self.documents.not_yet(fetch.epoch, self._clock.monotonic())
        return self.handle_deadline()

    def verified(self, epoch: int, document: SignedDocument | None) -> list[Event]:
        """What the verification of a fetched document gave; None if it was refused, then it counts as gone."""
        self._verifying.discard(epoch)
        if document is None:
            self.documents.gone(epoch)
            return self.handle_deadline()
        self.documents.add(document, self.unix_time())
        return [Fetched(document=document), *self.handle_deadline()]

    def _fetch_due(self, now: float) -> list[Event]:
        events: list[Event] = []
        if self._fetch is not None:
            if now < self._fetch.deadline:
                return []
            # The answer may still come and would not fit the next question, so the session can not go on.
            self.documents.not_yet(self._fetch.epoch, now)
            self._fetch = None
            return self._close("the gateway does not answer a request for a document")
        epoch = self.documents.wanted(self.unix_time(), now)
        if epoch is not None and epoch not in self._verifying:
            self._fetch = _Fetch(epoch, now + CLIENT_FETCH_LIMIT)
            events.append(self._send(GetConsensus2(epoch)))
        return events

    # Packets -------------------------------------------------------------------------------------------------------

    def sent(
        self,
        origin: Origin,
        message: Outgoing,
        composed: Composed,
        *,
        owner: Any = None,
        tag: Any = None,
        hold: bool = False,
    ) -> Sent:
        """A packet goes to the link now; wait for its reply.

        :param hold: wait until ``replies.forget``, not for the usual time.
        :raises ComposeError: the session for which it was made is gone, or the SURB id is in use.
        """
        if not self.connected or origin.session != self._session:
            raise ComposeError(NOT_CONNECTED, composed.reply_eta)
        now = self._clock.monotonic()
        forgotten = math.inf if hold else now + retention(composed.reply_eta, self.document())
        if message.surb_id is not None:
            if message.surb_id in self.replies:
                raise ComposeError("SURB ID already in use")
            if self.replies.full:
                raise ComposeError("too many replies are awaited")
            self.replies.add(
                Awaited(surb_id=message.surb_id, keys=composed.surb_keys, owner=owner, tag=tag, deadline=forgotten)
            )
        self._sent_something()
        return Sent(sent_at=self.unix_time(), reply_eta=composed.reply_eta, forgotten_at=forgotten)

    # Time ----------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float:
        """Monotonic time at which to call :meth:`handle_deadline` at the latest."""
        now = self._clock.monotonic()
        return min(now + TICK, max(now, self._dial_at)) if self.phase is Phase.WAITING else now + TICK

    def handle_deadline(self) -> list[Event]:
        """Time has passed."""
        if self.phase is Phase.STOPPED:
            return []
        now = self._clock.monotonic()
        events: list[Event] = [Unanswered(owner=a.owner, tag=a.tag) for a in self.replies.expire(now)]
        events += self._announce()
        if self.phase is Phase.WAITING and now >= self._dial_at:
            events += self._dial()
        elif self.connected and not self._still_our_gateway():
            # At once, not with the next command: until then each message would fail for want of a source.
            events += self._close(UNLISTED)
        elif self.connected:
            events += self._fetch_due(now)
            if now >= self._quiet_until:
                events.append(self._send(NoOp()))
        return events

    def _announce(self) -> list[Event]:
        """Once per epoch, as soon as its document is there and it has begun (spec: client 5, point 5)."""
        epoch = self.epochs.number(self.unix_time())
        signed = self.documents.held.get(epoch)
        if signed is None or epoch == self._announced:
            return []
        self._announced = epoch
        return [Announced(document=signed)]
