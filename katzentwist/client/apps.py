"""The applications of a daemon: queues, turns, sessions (spec: client 6.3, 9.4, 9.5). Sans-IO."""

from __future__ import annotations

from collections import deque
from typing import Final, Protocol

import attrs

from katzentwist.randomness import IRandom
from katzentwist.thin.protocol import APP_ID
from katzentwist.thin.requests import SendMessage

FIFO: Final = 16
"""Requests of one application that wait for a tick. A full queue stops the reading from its socket."""
RESENDS: Final = 8
KEPT: Final = 1000
"""Frames that wait for an application whose connection dropped; further ones are lost, and counted."""


class Connection(Protocol):
    """The connection of an application, as seen from here."""

    def tell(self, frame: bytes) -> None:
        """Send a frame."""

    def resume_reading(self) -> None:
        """There is room in the queue again."""


@attrs.define(eq=False)
class App:
    """One application.

    :ivar tokens: names of its session; without one it ends with its connection.
    :ivar resends: ids of ARQ messages that are due again.
    :ivar kept: frames for the time when it is back.
    :ivar lost: frames for which there was no room.
    :ivar alive: False once it is forgotten.
    :ivar heir: the application of a session that this one turned out to be; what is still under way is its.
    """

    id: bytes = attrs.field(repr=False)
    connection: Connection | None = None
    tokens: set[bytes] = attrs.field(factory=set, repr=False)
    fifo: deque[SendMessage] = attrs.field(factory=deque, repr=False)
    resends: deque[bytes] = attrs.field(factory=deque, repr=False)
    kept: deque[bytes] = attrs.field(factory=deque, repr=False)
    lost: int = 0
    alive: bool = True
    heir: App | None = attrs.field(default=None, repr=False)

    @property
    def current(self) -> App:
        """The application that has this one's connection, messages and replies now."""
        return self if self.heir is None else self.heir.current

    @property
    def full(self) -> bool:
        """Whether no further request can be taken."""
        return len(self.fifo) >= FIFO

    @property
    def resends_full(self) -> bool:
        """Whether no further resend can wait."""
        return len(self.resends) >= RESENDS

    def tell(self, frame: bytes) -> None:
        """Send a frame, now or after the application came back."""
        if self.heir is not None:
            self.heir.tell(frame)
        elif self.connection is not None:
            self.connection.tell(frame)
        elif self.alive and len(self.kept) < KEPT:
            self.kept.append(frame)
        else:
            self.lost += 1


@attrs.define
class Apps:
    """All applications, in the order in which they connected."""

    random: IRandom
    _apps: list[App] = attrs.field(factory=list)
    _by_token: dict[bytes, App] = attrs.field(factory=dict)
    _cursor: int = 0

    def __len__(self) -> int:
        return len(self._apps)

    def connected(self) -> list[App]:
        """Those with a connection."""
        return [app for app in self._apps if app.connection is not None]

    def new(self, connection: Connection) -> App:
        """A connection was opened."""
        app = App(self.random.bytes(APP_ID), connection)
        self._apps.append(app)
        return app

    def known(self, token: bytes) -> App | None:
        """The application of a session."""
        return self._by_token.get(token)

    def register(self, app: App, token: bytes) -> None:
        """Give an application one more name."""
        app.tokens.add(token)
        self._by_token[token] = app

    def merge(self, app: App, heir: App) -> None:
        """*app* was *heir* all the time: its requests are the heir's."""
        heir.fifo.extend(app.fifo)
        heir.resends.extend(app.resends)
        app.heir = heir
        self.forget(app)

    def forget(self, app: App) -> None:
        """It is gone for good."""
        if not app.alive:
            return
        app.alive = False
        app.connection = None
        for token in app.tokens:
            self._by_token.pop(token, None)
        app.fifo.clear()
        app.resends.clear()
        app.kept.clear()
        at = self._apps.index(app)
        del self._apps[at]
        if at < self._cursor:
            self._cursor -= 1

    def next(self) -> tuple[App, SendMessage | bytes] | None:
        """Whose turn it is, and with what: a request, or the id of an ARQ message that is due again."""
        count = len(self._apps)
        for step in range(count):
            at = (self._cursor + step) % count
            app = self._apps[at]
            if app.resends:
                self._cursor = (at + 1) % count
                return app, app.resends.popleft()
            if app.fifo:
                self._cursor = (at + 1) % count
                return app, app.fifo.popleft()
        self._cursor = (self._cursor + 1) % count if count else 0
        return None
