"""The daemon's middle: many applications, one client (spec: client 4.6, 6.3, 9, 13, 14).

:class:`Multiplexer` answers requests, gives each P tick to the application whose turn it is, and tells each application
what concerns it. Connections are in :mod:`katzentwist.client.listener`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import IDelayedCall

from katzentwist.client import arq, events
from katzentwist.client._core import ClientCore
from katzentwist.client.apps import App, Apps, Connection
from katzentwist.client.compose import ComposeError, Outgoing, check
from katzentwist.client.core import Client, Listener
from katzentwist.client.sender import DECOY, SURB_ID, Sender
from katzentwist.config.common import Authority
from katzentwist.crypto import kem, keys, sign
from katzentwist.logger import ModuleLogger, notice
from katzentwist.net.owner import Context
from katzentwist.net.tcp import Endpoints
from katzentwist.pki.document import SignedDocument
from katzentwist.thin import protocol
from katzentwist.thin.protocol import (
    CancelArq,
    GetAuthorities,
    GetDocument,
    Request,
    SendMessage,
    SessionToken,
    ThinClose,
    Unsupported,
    encode_response,
)

TOKEN: Final = 16
DEFINITE: Final = "failed to find destination service node"
"""In the text of a compose error that trying again does not mend."""


class Multiplexer(Listener):
    """Everything but the sockets of applications.

    :ivar apps: the applications, with and without a connection.
    :ivar instance: tells applications whether the daemon was restarted.
    """

    log = ModuleLogger("client")

    def __init__(
        self, context: Context, transports: Endpoints, core: ClientCore, make_client: Callable[..., Client] = Client
    ) -> None:
        self.core = core
        self.apps = Apps(context.random)
        self.instance = context.random.bytes(TOKEN)
        self.arq = arq.ArqTable(core.config.arq_slop)
        self.client = make_client(context, transports, core, self)
        self.sender = Sender(
            context.reactor,
            context.random,
            context.clock,
            self.client,
            self._serve,
            decoys_off=core.config.disable_decoys,
        )
        self.lost_decoys = 0
        self._reactor, self._clock, self._random = context.reactor, context.clock, context.random
        self._connected = False
        self._mismatch = False
        self._expiries: dict[App, IDelayedCall] = {}
        self._arq_timer: IDelayedCall | None = None
        self._document_frame: tuple[SignedDocument, bytes] | None = None

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
        for timer in [*self._expiries.values(), *([self._arq_timer] if self._arq_timer else [])]:
            if timer.active():
                timer.cancel()
        self._expiries.clear()
        self._arq_timer = None
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

    def _status(self, connected: bool) -> None:
        if connected != self._connected:
            self._connected = connected
            self._broadcast(self.status_frame())

    def announced(self, document: SignedDocument) -> None:
        """A new epoch, and its document."""
        self.sender.use_rates(document.document)
        notice(self.log, "epoch {epoch}: new document", epoch=document.document.epoch)
        self._broadcast(self.document_frame())

    def replied(self, reply: events.Replied) -> None:
        """To the application that asked, and to no other."""
        if reply.owner is DECOY:
            return
        app: App = reply.owner
        if not app.current.alive:
            return
        message_id = reply.tag
        if isinstance(reply.tag, arq.Entry):
            entry = reply.tag
            if entry.state is arq.State.OVER or entry.surb_id != reply.surb_id:
                return
            self._discard_resend(entry)
            self.arq.over(entry, self._clock.monotonic())
            self._arm_arq()
            message_id = entry.id
        app.tell(
            encode_response(
                "message_reply_event",
                message_id=message_id,
                surbid=reply.surb_id,
                payload=reply.payload,
                error_code=0,
            )
        )

    def unanswered(self, owner: Any, tag: Any) -> None:
        """Nothing is said to applications; lost decoys are counted."""
        if owner is DECOY:
            self.lost_decoys += 1

    def _broadcast(self, frame: bytes) -> None:
        for app in self.apps.connected():
            app.tell(frame)

    # Frames --------------------------------------------------------------------------------------------------------

    def status_frame(self) -> bytes:
        """The connection status, with both geometries."""
        geometry = self.core.config.geometry
        return encode_response(
            "connection_status_event",
            is_connected=self._connected,
            instance_token=self.instance,
            sphinx_geometry=protocol.sphinx_geometry(geometry),
            pigeonhole_geometry=protocol.pigeonhole_geometry(geometry.user_forward_payload_length),
            features=list(protocol.FEATURES),
        )

    def document_frame(self) -> bytes:
        """The document in use, without signatures; null if there is none."""
        signed = self.core.signed_document()
        if signed is None:
            return encode_response("new_pki_document_event")
        if self._document_frame is None or self._document_frame[0] is not signed:
            frame = encode_response("new_pki_document_event", payload=signed.payload())
            self._document_frame = signed, frame
        return self._document_frame[1]

    @property
    def has_document(self) -> bool:
        """Whether there is a document for the initial pair."""
        return self.core.signed_document() is not None

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
        self.arq.forget(app)
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
        for entry in self.arq.merge(app, heir):
            self._drop_surb(entry)
            app.fifo = deque(r for r in app.fifo if r is not entry.request)
            self._refuse(app, entry.request, None, arq.ID_IN_USE)
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
                app.tell(self._get_document(request))
            case GetAuthorities():
                app.tell(self._get_authorities(request))
            case Unsupported():
                answer = protocol.refuse_unsupported(request)
                if answer is not None:
                    app.tell(answer)
                else:
                    self.log.debug("{name} without a usable query id dropped", name=request.name)
            case SessionToken() | ThinClose():
                pass  # the connection's own

    def _get_document(self, request: GetDocument) -> bytes:
        epoch = request.epoch
        signed = self.core.documents.held.get(epoch) if epoch else self.core.signed_document()
        if signed is not None:
            return encode_response(
                "get_pki_document_reply",
                query_id=request.query_id,
                payload=signed.raw,
                epoch=signed.document.epoch,
                error_code=0,
            )
        if not epoch:
            epoch = self.core.epochs.number(self.core.unix_time())
            self.core.documents.insist()
        return encode_response(
            "get_pki_document_reply",
            query_id=request.query_id,
            epoch=epoch,
            error_code=protocol.SERVICE_UNAVAILABLE,
        )

    def _get_authorities(self, request: GetAuthorities) -> bytes:
        known = [authority_entry(a) for a in self.core.config.authorities]
        return encode_response(
            "get_directory_authorities_reply",
            query_id=request.query_id,
            authorities=known or None,
            error_code=0 if known else protocol.SERVICE_UNAVAILABLE,
        )

    def _send(self, app: App, request: SendMessage) -> None:
        if request.arq:
            try:
                self.arq.add(app, request)
            except ComposeError as e:
                self._refuse(app, request, None, str(e))
                return
        app.fifo.append(request)

    def _cancel(self, app: App, request: CancelArq) -> None:
        """Give it up; its garbage event comes at once."""
        entry = self.arq.find(app, request.id)
        if entry is not None:
            self._discard_resend(entry)
            self._drop_surb(entry)
            self._collect(entry)

    # Ticks ---------------------------------------------------------------------------------------------------------

    async def _serve(self) -> bool:
        """Send what the next application wants; whether a packet left."""
        while (turn := self.apps.next()) is not None:
            app, item = turn
            if isinstance(item, bytes):
                entry = self.arq.find(app, item)
            else:
                if app.connection is not None:
                    app.connection.resume_reading()
                if not item.arq:
                    return await self._send_once(app, item)
                entry = self.arq.find(app, item.id or b"")
            if entry is not None:  # else it was cancelled while it waited
                return await self._send_again(entry)
        return False

    async def _send_once(self, app: App, request: SendMessage) -> bool:
        """One message, with or without SURB (spec: client 13)."""
        surb_id = request.surb_id if request.with_surb else None
        try:
            if request.with_surb and surb_id is None:
                raise ComposeError("surbid is missing")
            if surb_id is not None and surb_id in self.core.replies:
                raise ComposeError("SURB ID already in use")
            sent = await self.client.send(_outgoing(request, surb_id), owner=app, tag=request.id)
        except ComposeError as e:
            self._refuse(app, request, surb_id, str(e), e.reply_eta)
            return False
        if surb_id is not None:
            if not app.current.alive:
                self.core.replies.forget(surb_id)
            self._tell_sent(app, request, surb_id, sent.reply_eta)
        return True

    def _tell_sent(self, app: App, request: SendMessage, surb_id: bytes, reply_eta: float) -> None:
        app.tell(
            encode_response(
                "message_sent_event",
                message_id=request.id,
                surbid=surb_id,
                sent_at=math.floor(self.core.unix_time()),
                reply_eta=round(reply_eta * 1e9),
            )
        )

    def _refuse(self, app: App, request: SendMessage, surb_id: bytes | None, why: str, reply_eta: float = 0.0) -> None:
        if not request.with_surb and not request.arq:
            self.log.debug("a message without reply was not sent: {why}", why=why)
            return
        app.tell(
            encode_response(
                "message_sent_event",
                message_id=request.id,
                surbid=surb_id,
                sent_at=math.floor(self.core.unix_time()),
                reply_eta=round(reply_eta * 1e9),
                err=why,
            )
        )

    # ARQ -----------------------------------------------------------------------------------------------------------

    async def _send_again(self, entry: arq.Entry) -> bool:
        """A packet of an ARQ message, with a new SURB id."""
        surb_id = self._random.bytes(SURB_ID)
        message = _outgoing(entry.request, surb_id)
        self._drop_surb(entry)
        entry.surb_id = surb_id
        try:
            check(message, self.core.config.geometry)
        except ComposeError as e:
            self._give_up_unsent(entry, surb_id, str(e))
            return False
        try:
            sent = await self.client.send(message, owner=entry.app, tag=entry, hold=True)
        except ComposeError as e:
            if entry.packets == 0 and DEFINITE in str(e):
                self._give_up_unsent(entry, surb_id, str(e))
            elif entry.state is not arq.State.OVER:
                self.arq.later(entry, self._clock.monotonic(), arq.COMPOSE_PAUSE)
                self._arm_arq()
            return False
        if entry.state is arq.State.OVER:  # cancelled, or its application went, while the packet was being made
            self.core.replies.forget(surb_id)
            return True
        if self.arq.sent(entry, surb_id, self._clock.monotonic(), sent.reply_eta):
            self._tell_sent(entry.app, entry.request, surb_id, sent.reply_eta)
        self._arm_arq()
        return True

    def _give_up_unsent(self, entry: arq.Entry, surb_id: bytes, why: str) -> None:
        if entry.state is not arq.State.OVER:
            self.arq.remove(entry)
            self._refuse(entry.app, entry.request, surb_id, why)

    def _discard_resend(self, entry: arq.Entry) -> None:
        """A reply or a cancel came before the tick of a resend."""
        if entry.id in entry.app.resends:
            entry.app.resends.remove(entry.id)

    def _drop_surb(self, entry: arq.Entry) -> None:
        if entry.surb_id is not None:
            self.core.replies.forget(entry.surb_id)

    def _arm_arq(self) -> None:
        deadline = self.arq.next_deadline()
        if self._arq_timer is not None and self._arq_timer.active():
            self._arq_timer.cancel()
        self._arq_timer = None
        if deadline is not None:
            delay = max(0.0, deadline - self._clock.monotonic())
            self._arq_timer = self._reactor.callLater(delay, self._arq_due)

    def _arq_due(self) -> None:
        self._arq_timer = None
        now = self._clock.monotonic()
        for entry in self.arq.due(now):
            if entry.state is arq.State.OVER:
                self._collect(entry)
            elif not self.core.connected or self._busy(entry.app):
                self.arq.later(entry, now, arq.BUSY_PAUSE)
            elif self.arq.may_go_again(entry):
                self.arq.queued(entry)
                entry.app.resends.append(entry.id)
            else:
                self._fail(entry, now)
        self._arm_arq()

    @staticmethod
    def _busy(app: App) -> bool:
        return app.connection is None or app.resends_full

    def _fail(self, entry: arq.Entry, now: float) -> None:
        """All tries are used up."""
        self._drop_surb(entry)
        self.arq.over(entry, now)
        entry.app.tell(
            encode_response(
                "message_reply_event",
                message_id=entry.id,
                surbid=entry.surb_id,
                payload=b"",
                error_code=protocol.MAX_RETRIES,
            )
        )

    def _collect(self, entry: arq.Entry) -> None:
        self.arq.remove(entry)
        entry.app.tell(encode_response("message_id_garbage_collected", message_id=entry.id))


def _outgoing(request: SendMessage, surb_id: bytes | None) -> Outgoing:
    return Outgoing(
        destination=request.destination or b"",
        recipient=request.recipient or b"",
        payload=request.payload,
        surb_id=surb_id,
    )


def authority_entry(authority: Authority) -> dict[str, Any]:
    """An authority as applications see it (spec: client 11.2)."""
    link = authority.link_key
    values: dict[str, Any] = {
        "identifier": authority.identifier,
        "pki_signature_scheme": authority.signature_scheme,
        "wire_kem_scheme": authority.wire_kem,
        "addresses": [a.url for a in authority.addresses] or None,
        "identity_public_key_pem": keys.encode_public(sign.by_name(authority.signature_scheme), authority.identity_key),
        "link_public_key_pem": keys.encode_public(kem.by_name(authority.wire_kem), link) if link else "",
        "identity_key_hash": authority.id,
    }
    return {field: values[field] for field in protocol.AUTHORITY_FIELDS}
