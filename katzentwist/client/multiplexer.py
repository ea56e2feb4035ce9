"""The daemon's middle: many applications, one client (spec: client 4.6, 6.3, 9, 13, 14).

:class:`Multiplexer` answers requests, gives each P tick to the application whose turn it is, and tells each application
what concerns it. Connections are in :mod:`katzentwist.client.listener`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from katzentwist.client import answers, arq, events
from katzentwist.client._core import ClientCore
from katzentwist.client.answers import Answers
from katzentwist.client.apps import App, Apps, Connection
from katzentwist.client.arq import ID_IN_USE
from katzentwist.client.compose import ComposeError, Outgoing
from katzentwist.client.core import Client, Listener
from katzentwist.client.frames import DocumentFrames
from katzentwist.client.reliable import Reliable
from katzentwist.client.sender import DECOY, Sender
from katzentwist.logger import ModuleLogger, notice
from katzentwist.net.owner import Context
from katzentwist.net.tcp import Endpoints
from katzentwist.pki.document import SignedDocument
from katzentwist.thin.protocol import TOKEN, encode_response
from katzentwist.thin.requests import (
    CancelArq,
    GetAuthorities,
    GetDocument,
    Request,
    SendMessage,
    SessionToken,
    ThinClose,
    Unsupported,
    refuse_unsupported,
)


class Multiplexer(Listener):
    """Everything but the sockets of applications.

    :ivar apps: the applications, with and without a connection.
    :ivar reliable: what is sent again until a reply comes.
    """

    log = ModuleLogger("client")

    def __init__(
        self, context: Context, transports: Endpoints, core: ClientCore, make_client: Callable[..., Client] = Client
    ) -> None:
        self.core = core
        self.apps = Apps(context.random)
        self.frames = DocumentFrames(core, context.workers)
        self.client = make_client(context, transports, core, self)
        self.reliable = Reliable(context, core, self.client, self._tell_sent)
        self.sender = Sender(
            context.reactor,
            context.random,
            context.clock,
            self.client,
            self._serve,
            decoys_off=core.config.disable_decoys,
        )
        self.lost_decoys = 0
        self._answers = Answers(core, context.random.bytes(TOKEN))
        self._reactor = context.reactor
        self._connected = False
        self._mismatch = False
        self._expiries: dict[App, IDelayedCall] = {}

    # Life ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to look for a gateway."""
        self.client.start()

    def shut_down(self) -> None:
        """Tell the applications."""
        for app in self.apps.connected():
            app.tell(encode_response("shutdown_event"))

    async def stop(self) -> None:
        """Close the session and forget everything."""
        self.sender.link_down()
        for timer in self._expiries.values():
            timer.cancel()
        self._expiries.clear()
        self.reliable.stop()
        await self.client.stop()
        self.sender.link_down()

    # What the client tells -----------------------------------------------------------------------------------------

    def connected(self, gateway: str) -> None:
        """See Listener."""
        notice(self.log, "connected to gateway {name}", name=gateway)
        self.sender.link_up()
        self._status(not self._mismatch)

    def disconnected(self, reason: str) -> None:
        """See Listener."""
        self.sender.link_down()
        self._status(False)

    def mismatched(self) -> None:
        """As good as not connected; the log tells why."""
        self._mismatch = True
        self._status(False)

    def fetched(self, document: SignedDocument) -> None:
        """A good document: whatever was wrong is mended."""
        self._mismatch = False
        self._status(self.core.connected)
        self._prepare()

    def _status(self, connected: bool) -> None:
        if connected != self._connected:
            self._connected = connected
            self._broadcast(self.status_frame())

    def announced(self, document: SignedDocument) -> None:
        """A new epoch, and its document."""
        self.sender.use_rates(document.document)
        notice(self.log, "epoch {epoch}: new document", epoch=document.document.epoch)
        self._prepare().addCallback(lambda _: self._broadcast(self.frames.current()))

    def replied(self, reply: events.Replied) -> None:
        """To the application that asked, and to no other."""
        if reply.owner is DECOY:
            return
        app: App = reply.owner
        if not app.current.alive:
            return
        message_id = reply.tag
        if isinstance(reply.tag, arq.Entry):
            if not self.reliable.replied(reply.tag):
                return
            message_id = reply.tag.id
        app.tell(answers.reply(message_id, reply.surb_id, reply.payload))

    def unanswered(self, owner: Any, tag: Any) -> None:
        """Nothing is said to applications; lost decoys are counted."""
        if owner is DECOY:
            self.lost_decoys += 1

    def _broadcast(self, frame: bytes) -> None:
        for app in self.apps.connected():
            app.tell(frame)

    # Frames --------------------------------------------------------------------------------------------------------

    def status_frame(self) -> bytes:
        """The connection status."""
        return self._answers.status(self._connected)

    def _prepare(self) -> Deferred[None]:
        preparing = self.frames.prepare()
        preparing.addErrback(lambda failure: self.log.failure("a document could not be framed", failure))
        return preparing

    # Connections ---------------------------------------------------------------------------------------------------

    def opened(self, connection: Connection) -> App:
        """An application connected."""
        return self.apps.new(connection)

    def closed(self, connection: Connection, app: App) -> None:
        """A connection ended without ``thin_close``."""
        if app.connection is not connection:
            return  # a newer one has taken over
        app.connection = None
        if not app.tokens:
            self.forget(app)
            return
        grace = self.core.config.grace
        self._expiries[app] = self._reactor.callLater(grace, self._expire, app)
        self.log.debug("an application is away; its state is kept for {grace:g} s", grace=grace)

    def _expire(self, app: App) -> None:
        del self._expiries[app]
        self.forget(app)

    def forget(self, app: App) -> None:
        """Everything of an application."""
        timer = self._expiries.pop(app, None)
        if timer is not None:
            timer.cancel()
        self.reliable.table.forget(app)
        self.core.replies.forget_owner(app)
        if app.lost:
            self.log.warn("{count} events found no room while an application was away", count=app.lost)
        self.apps.forget(app)

    def session(self, connection: Connection, app: App, request: SessionToken) -> tuple[App, bytes, Connection | None]:
        """A session token: the application from now on, the reply, and an older connection to be closed."""
        known = self.apps.known(request.token)
        if known is None:
            self.apps.register(app, request.token)
            return app, encode_response("session_token_reply", app_id=app.id, resumed=False), None
        older = None
        if known is not app:
            older, known.connection = known.connection, connection
            timer = self._expiries.pop(known, None)
            if timer is not None:
                timer.cancel()
            if app.tokens:
                self.closed(connection, app)
            else:
                self._merge(app, known)
        return known, encode_response("session_token_reply", app_id=known.id, resumed=True), older

    def _merge(self, app: App, heir: App) -> None:
        """The token of a known session came after requests, so they were that session's: none of them is lost."""
        for entry in self.reliable.table.merge(app, heir):
            self.reliable.forget_surb(entry)
            app.fifo = deque(r for r in app.fifo if r is not entry.request)
            self._tell_sent(app, entry.request, None, 0.0, ID_IN_USE)
        self.core.replies.merge(app, heir)
        self.apps.merge(app, heir)

    # Requests ------------------------------------------------------------------------------------------------------

    def request(self, app: App, request: Request) -> None:
        """Any request but those that concern the connection itself."""
        match request:
            case SendMessage():
                self._send(app, request)
            case CancelArq():
                self._cancel(app, request)
            case GetDocument():
                self.frames.answer(app, request)
            case GetAuthorities():
                app.tell(self._answers.authorities(request))
            case Unsupported():
                answer = refuse_unsupported(request)
                if answer is not None:
                    app.tell(answer)
                else:
                    self.log.debug("{name} without a usable query id dropped", name=request.name)
            case SessionToken() | ThinClose():
                pass  # the connection's own

    def _send(self, app: App, request: SendMessage) -> None:
        if request.arq:
            try:
                self.reliable.table.add(app, request)
            except ComposeError as e:
                self._tell_sent(app, request, None, 0.0, str(e))
                return
        app.fifo.append(request)

    def _cancel(self, app: App, request: CancelArq) -> None:
        entry = self.reliable.table.find(app, request.id)
        if entry is not None:
            self.reliable.cancel(entry)

    # Ticks ---------------------------------------------------------------------------------------------------------

    async def _serve(self) -> bool:
        """Send what the next application wants; whether a packet left."""
        while (turn := self.apps.next()) is not None:
            app, item = turn
            if isinstance(item, bytes):
                entry = self.reliable.table.find(app, item)
            else:
                if app.connection is not None:
                    app.connection.resume_reading()
                if not item.arq:
                    return await self._send_once(app, item)
                entry = self.reliable.table.find(app, item.id or b"")
            if entry is not None:  # else it was cancelled while it waited
                return await self.reliable.send(entry)
        return False

    async def _send_once(self, app: App, request: SendMessage) -> bool:
        """One message, with or without SURB (spec: client 13)."""
        surb_id = request.surb_id if request.with_surb else None
        try:
            if request.with_surb and surb_id is None:
                raise ComposeError("surbid is missing")
            if surb_id is not None and surb_id in self.core.replies:
                raise ComposeError("SURB ID already in use")
            sent = await self.client.send(Outgoing.of(request, surb_id), owner=app, tag=request.id)
        except ComposeError as e:
            self._tell_sent(app, request, surb_id, e.reply_eta, str(e))
            return False
        if surb_id is not None:
            if not app.current.alive:
                self.core.replies.forget(surb_id)
            self._tell_sent(app, request, surb_id, sent.reply_eta)
        return True

    def _tell_sent(
        self, app: App, request: SendMessage, surb_id: bytes | None, reply_eta: float, error: str = ""
    ) -> None:
        """It left, or (with an error) it did not; who wants no reply is told nothing."""
        if request.with_surb or request.arq:
            app.tell(self._answers.sent(request, surb_id, reply_eta, error))
        else:
            self.log.debug("a message without reply was not sent: {why}", why=error)
