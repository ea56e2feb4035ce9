"""Two session cores joined in memory, for tests of the wire and of what speaks it."""

from __future__ import annotations

import attrs

from katzentwist.crypto import kem
from katzentwist.crypto.kem import Kem
from katzentwist.randomness import IRandom, SeededRandom
from katzentwist.wire import CommandSizes, Event, PeerCredentials, Session, SessionConfig, SessionKind, Step

SMALL = CommandSizes(packet_length=904, payload_length=592)
"""The geometry ``small`` of the link vectors."""
UNIX_TIME = 1_795_000_000


def config(
    name: str,
    *,
    scheme: Kem | None = None,
    additional_data: bytes | None = None,
    kind: SessionKind = SessionKind.MIXNET,
    random: IRandom | None = None,
    read_timeout: float | None = 120.0,
    max_command: int = 0,
) -> SessionConfig:
    """A session configuration whose keys follow from *name*, and whose AD is the name unless it is given."""
    scheme = scheme or kem.by_name("x25519")
    private, public = scheme.generate(random or SeededRandom(name))
    return SessionConfig(
        kem=scheme,
        private=private,
        public=public,
        additional_data=name.encode() if additional_data is None else additional_data,
        kind=kind,
        sizes=SMALL,
        read_timeout=read_timeout,
        max_command=max_command,
    )


@attrs.define
class Side:
    """One end: its session, and all events except Steps, which are run at once."""

    session: Session
    events: list[Event] = attrs.Factory(list)
    auto_accept: bool = True
    received: int = 0

    def feed(self, data: bytes, now: float = 0.0) -> None:
        """Bytes from the other side."""
        self.received += len(data)
        self.handle(self.session.receive(data, now), now)

    def handle(self, events: list[Event], now: float = 0.0) -> None:
        """Run steps and accept the peer; keep everything else."""
        for event in events:
            if isinstance(event, Step):
                self.handle(self.session.step_done(event.run(), now), now)
                continue
            self.events.append(event)
            if isinstance(event, PeerCredentials) and self.auto_accept:
                self.handle(self.session.accept(), now)

    def take(self) -> list[Event]:
        """The events since the last call."""
        events, self.events = self.events, []
        return events


@attrs.define
class Pair:
    """Two sides. Bytes move only in :meth:`pump`."""

    initiator: Side
    responder: Side

    @classmethod
    def make(
        cls,
        initiator: SessionConfig | None = None,
        responder: SessionConfig | None = None,
        *,
        random: IRandom | None = None,
        now: float = 0.0,
    ) -> Pair:
        """A fresh pair; nothing has been sent."""
        random = random or SeededRandom("pair")

        def side(config_: SessionConfig, is_initiator: bool) -> Side:
            return Side(Session(config_, initiator=is_initiator, random=random, unix_time=lambda: UNIX_TIME, now=now))

        return cls(side(initiator or config("initiator"), True), side(responder or config("responder"), False))

    def pump(self, now: float = 0.0) -> None:
        """Move bytes both ways until there are no more."""
        while True:
            forth, back = self.initiator.session.data_to_send(), self.responder.session.data_to_send()
            if not forth and not back:
                return
            if forth:
                self.responder.feed(forth, now)
            if back:
                self.initiator.feed(back, now)

    def connect(self, now: float = 0.0) -> Pair:
        """Shake hands; the events of the handshake are dropped."""
        self.initiator.handle(self.initiator.session.start(), now)
        self.pump(now)
        self.initiator.take()
        self.responder.take()
        return self
