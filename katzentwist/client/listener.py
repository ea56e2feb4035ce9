"""The sockets of applications: frames, the dialogue's order, back-pressure both ways (spec: client 8, 9).

======== ============================================ =================================================
phase    means                                        ends
======== ============================================ =================================================
WAITING  no document is known yet; nothing was sent   when there is one, or after 30 s
HELD     status and document are out                  with the first request, or after 2 s
OPEN     anything, both ways
CLOSED   nothing any more
======== ============================================ =================================================

Thin clients insist that status, document and token reply are the first three frames, so everything else is held back
until the phase is OPEN.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import Any, Final

from twisted.internet.interfaces import IAddress, IDelayedCall, IPushProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from katzentwist.client.apps import App
from katzentwist.client.multiplexer import Multiplexer
from katzentwist.logger import ModuleLogger
from katzentwist.thin.protocol import FrameBuffer, FrameError
from katzentwist.thin.requests import Request, SessionToken, ThinClose, parse_request

PATIENCE: Final = 30.0
LOOK: Final = 0.2
HOLD: Final = 2.0
WRITE_TIMEOUT: Final = 60.0
PIECE: Final = 1 << 18
"""Bytes that are written at once."""
MAX_UNSENT: Final = 64 << 20
"""Bytes that wait for an application that does not read; beyond it, and after 60 s, its connection ends."""
CLOSE_GRACE: Final = 5.0
"""Seconds for what is left in the buffer of a closed connection."""


class Phase(enum.Enum):
    """See the module's table."""

    WAITING = "waiting"
    HELD = "held"
    OPEN = "open"
    CLOSED = "closed"


@implementer(IPushProducer)
class AppConnection(Protocol):
    """One application's connection."""

    log = ModuleLogger("client")
    transport: Any

    def __init__(self, factory: AppFactory, multiplexer: Multiplexer, reactor: Any) -> None:
        self.phase = Phase.WAITING
        self.app: App
        self._factory, self._multiplexer, self._reactor = factory, multiplexer, reactor
        self._buffer = FrameBuffer()
        self._held: list[bytes] = []
        self._unsent: deque[bytes | memoryview] = deque()
        self._unsent_size = 0
        self._congested = False
        self._reading = True
        self._processing = False
        self._timer: IDelayedCall | None = None
        self._write_timer: IDelayedCall | None = None

    # Beginning and end ---------------------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        """Send the initial pair as soon as there is a document."""
        if hasattr(self.transport, "setTcpNoDelay"):
            self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(self, True)
        self._factory.connections.add(self)
        self.app = self._multiplexer.opened(self)
        self._look(self._reactor.seconds() + PATIENCE)

    def _look(self, until: float) -> None:
        self._timer = None
        if self._multiplexer.frames.is_ready or self._reactor.seconds() >= until:
            self._begin()
        else:
            self._timer = self._reactor.callLater(LOOK, self._look, until)

    def _begin(self) -> None:
        self._held.clear()  # the pair says what is so now
        self._write(self._multiplexer.status_frame())
        self._write(self._multiplexer.frames.current())
        self.phase = Phase.HELD
        self._timer = self._reactor.callLater(HOLD, self._release)
        self._process()

    def _release(self) -> None:
        """Let go what was held back."""
        self._cancel_timer()
        if self.phase is not Phase.HELD:
            return
        self.phase = Phase.OPEN
        held, self._held = self._held, []
        for frame in held:
            self._write(frame)

    def _cancel_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The socket is gone."""
        dropped = self.phase is not Phase.CLOSED
        self._end()
        self._stop_write_timer()
        self._cancel_timer()
        self._factory.gone(self)
        if dropped:
            self._multiplexer.closed(self, self.app)

    def _end(self) -> None:
        self.phase = Phase.CLOSED
        self._cancel_timer()
        self._held.clear()

    def close(self) -> None:
        """End it when what was written is out."""
        if self.phase is Phase.CLOSED:
            return
        self._end()
        self._stop_write_timer()
        for frame in self._unsent:
            self.transport.write(bytes(frame))
        self._unsent.clear()
        self.transport.unregisterProducer()
        self.transport.loseConnection()
        self._timer = self._reactor.callLater(CLOSE_GRACE, self.transport.abortConnection)

    def _drop(self, why: str) -> None:
        """End it at once; the application may come back."""
        if self.phase is Phase.CLOSED:
            return
        self.log.info("the connection of an application is closed: {why}", why=why)
        self._end()
        self._unsent.clear()
        self._multiplexer.closed(self, self.app)
        self.transport.abortConnection()

    # Reading -------------------------------------------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        """Bytes of the application."""
        if self.phase is not Phase.CLOSED:
            self._buffer.feed(data)
            self._process()

    def _process(self) -> None:
        """Handle whole messages, unless the queue of the application is full."""
        if self._processing:
            return
        self._processing = True
        try:
            while self.phase in (Phase.HELD, Phase.OPEN) and not self.app.full:
                message = self._buffer.next()
                if message is None:
                    break
                self._message(message)
        except FrameError as e:
            self._drop(str(e))
        finally:
            self._processing = False
        self._set_reading(self.phase in (Phase.HELD, Phase.OPEN) and not self.app.full)

    def _set_reading(self, wanted: bool) -> None:
        if wanted == self._reading or self.phase is Phase.CLOSED:
            return
        self._reading = wanted
        if wanted:
            self.transport.resumeProducing()
        else:
            self.transport.pauseProducing()

    def resume_reading(self) -> None:
        """There is room in the application's queue again; not at once, since the sender is at work."""
        if not self._reading:
            self._reactor.callLater(0, self._process)

    def _message(self, message: bytes) -> None:
        request = parse_request(message)
        if request is None:
            self.log.debug("a message without a known request dropped")
            return
        if isinstance(request, SessionToken):
            self._session(request)
            return
        self._release()
        if isinstance(request, ThinClose):
            self.app.connection = None
            self._multiplexer.forget(self.app)
            self.close()
        else:
            self._other(request)

    def _other(self, request: Request) -> None:
        self._multiplexer.request(self.app, request)

    def _session(self, request: SessionToken) -> None:
        """The token reply goes first, then what waited for the application, then what was held back."""
        self.app, reply, older = self._multiplexer.session(self, self.app, request)
        if isinstance(older, AppConnection):
            older.close()
        self._write(reply)
        while self.app.kept:
            self._write(self.app.kept.popleft())
        self._release()

    # Writing -------------------------------------------------------------------------------------------------------

    def tell(self, frame: bytes) -> None:
        """A frame for the application, in its turn."""
        if self.phase is Phase.OPEN:
            self._write(frame)
        elif self.phase is not Phase.CLOSED:
            self._held.append(frame)

    def _write(self, frame: bytes) -> None:
        if self.phase is Phase.CLOSED:
            return
        self._unsent.append(frame)
        self._unsent_size += len(frame)
        self._write_on()
        if self._unsent_size > MAX_UNSENT:
            self._drop("it does not read, and too much waits for it")

    def pauseProducing(self) -> None:
        """The socket is full."""
        self._congested = True
        if self._write_timer is None:
            self._write_timer = self._reactor.callLater(WRITE_TIMEOUT, self._not_read)

    def resumeProducing(self) -> None:
        """The socket is empty again."""
        self._congested = False
        self._stop_write_timer()
        self._write_on()

    def _write_on(self) -> None:
        """Write while there is room; of a document a piece at a time, or the socket would hold a copy of it."""
        while self._unsent and not self._congested:
            frame = self._unsent.popleft()
            piece = frame[:PIECE]
            if len(frame) > PIECE:
                self._unsent.appendleft(memoryview(frame)[PIECE:])
            self._unsent_size -= len(piece)
            self.transport.write(bytes(piece))

    def stopProducing(self) -> None:
        """The transport is going away; connectionLost follows."""

    def _not_read(self) -> None:
        self._write_timer = None
        self._drop(f"it reads nothing for {WRITE_TIMEOUT:g} s")

    def _stop_write_timer(self) -> None:
        timer, self._write_timer = self._write_timer, None
        if timer is not None and timer.active():
            timer.cancel()


class AppFactory(Factory):
    """Makes a connection for each application.

    :ivar connections: those that are open.
    """

    noisy = False

    def __init__(self, multiplexer: Multiplexer, reactor: Any) -> None:
        self.connections: set[AppConnection] = set()
        self._multiplexer, self._reactor = multiplexer, reactor

    def buildProtocol(self, addr: IAddress | None) -> AppConnection:
        """One application."""
        return AppConnection(self, self._multiplexer, self._reactor)

    def gone(self, connection: AppConnection) -> None:
        """A connection ended."""
        self.connections.discard(connection)

    def close_all(self) -> None:
        """End all connections."""
        for connection in list(self.connections):
            connection.close()
