"""The client core on Twisted: dials, sends, verifies in threads, keeps one timer (spec: client 4)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, UNIXClientEndpoint
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.interfaces import IDelayedCall, IStreamClientEndpoint
from twisted.python.failure import Failure

from katzentwist.client import events
from katzentwist.client._core import NOT_CONNECTED, ClientCore, Phase, Sent
from katzentwist.client.compose import Composed, ComposeError, Outgoing, check, compose
from katzentwist.config.addresses import check_hostport
from katzentwist.config.client import Proxy
from katzentwist.crypto.copies import join
from katzentwist.errors import ConfigError, KatzentwistError, PKIError, WireError
from katzentwist.logger import ModuleLogger
from katzentwist.net import tcp
from katzentwist.net.dialling import dial_in_turn
from katzentwist.net.owner import Context, ILink, LinkOwner
from katzentwist.net.proxy import Login, Socks5
from katzentwist.net.tcp import Endpoints, Transports
from katzentwist.net.turns import Bin
from katzentwist.pki.document import GeometryMismatchError, SignedDocument, verify
from katzentwist.wire import Command, CommandSizes, PeerCredentials, SessionConfig, SessionKind
from katzentwist.wire.legal import CLIENT

READ_TIMEOUT: Final = 15.0
HANDSHAKE_TIMEOUT: Final = 60.0


class Listener:
    """What a client tells; override what you need."""

    def connected(self, gateway: str) -> None:
        """A session is up."""

    def disconnected(self, reason: str) -> None:
        """A session ended, or a dial failed."""

    def fetched(self, document: SignedDocument) -> None:
        """A document came; perhaps of the next epoch."""

    def mismatched(self) -> None:
        """The network's documents are for another Sphinx geometry: nothing can be sent (spec: client 2.3)."""

    def announced(self, document: SignedDocument) -> None:
        """The document of the current epoch is there; once per epoch."""

    def replied(self, reply: events.Replied) -> None:
        """A reply came."""

    def unanswered(self, owner: Any, tag: Any) -> None:
        """The time for a reply is over."""

    def plain(self, message: events.Plain) -> None:
        """A message for a user; acknowledge it with :meth:`Client.taken`."""


class Client(LinkOwner):
    """One client on the network.

    :ivar core: the rules.
    """

    log = ModuleLogger("client")

    def __init__(self, context: Context, transports: Endpoints, core: ClientCore, listener: Listener) -> None:
        self.core = core
        self._context, self._transports, self._listener = context, transports, listener
        self._link: ILink | None = None
        self._dialling: Deferred[Any] | None = None
        self._timer: IDelayedCall | None = None
        self._stopped: Deferred[None] | None = None
        self._refused: set[str] = set()
        self._bin = Bin(context.turns)

    # Life ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to dial."""
        self._do(self.core.start())

    def stop(self) -> Deferred[None]:
        """Close the session; fires when it is closed."""
        self._stopped = Deferred()
        stopped = self._stopped
        self._do(self.core.stop())
        self._bin.stop()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        if self._dialling is not None:
            self._dialling.cancel()
        if self._link is None and not self._stopped.called:
            self._stopped.callback(None)
        return stopped

    async def send(self, message: Outgoing, *, owner: Any = None, tag: Any = None, hold: bool = False) -> Sent:
        """Make a packet and send it. It is composed in a worker thread.

        :param owner: handed back with the reply, with *tag*.
        :param hold: wait for the reply until ``core.replies.forget``.
        :raises ComposeError: with the text of spec client 7.1.
        """
        core = self.core
        check(message, core.config.geometry)
        origin = core.origin()
        composed: Composed = await self._context.workers.run(
            partial(
                compose,
                message,
                document=core.document(),
                gateway=origin.gateway,
                queue_id=origin.queue_id,
                geometry=core.config.geometry,
                epochs=core.epochs,
                random=self._context.random,
                unix_time=core.unix_time,
            )
        )
        sent = core.sent(origin, message, composed, owner=owner, tag=tag, hold=hold)
        if self._link is None or not self._link.sendPackets([composed.packet]):
            if message.surb_id is not None:
                core.replies.forget(message.surb_id)
            raise ComposeError(NOT_CONNECTED, sent.reply_eta)
        return sent

    def taken(self, message: events.Plain) -> None:
        """Acknowledge a plain message."""
        self._do(self.core.taken(message.session, message.sequence))

    # The core's wishes ---------------------------------------------------------------------------------------------

    def _do(self, wishes: list[events.Event]) -> None:
        for event in wishes:
            match event:
                case events.Send():
                    if self._link is not None:
                        self._link.send(event.command)
                case events.Dial():
                    self._dial(event)
                case events.Close():
                    self.log.info("the session with the gateway is closed: {why}", why=event.reason)
                    if self._link is not None:
                        self._link.close()
                case events.Verify():
                    self._verify(event)
                case _:
                    self._tell(event)
        self._arm()

    def _tell(self, event: events.Event) -> None:
        match event:
            case events.Connected():
                self.log.info("connected to gateway {name}", name=event.gateway)
                self._refused.clear()
                self._listener.connected(event.gateway)
            case events.Disconnected():
                self._say_disconnected(event.reason)
                self._listener.disconnected(event.reason)
            case events.Fetched():
                self.log.info("document of epoch {epoch} fetched", epoch=event.document.document.epoch)
                self._listener.fetched(event.document)
            case events.Announced():
                self._listener.announced(event.document)
            case events.Replied():
                self._listener.replied(event)
            case events.Unanswered():
                self._listener.unanswered(event.owner, event.tag)
            case events.Plain():
                self._listener.plain(event)

    def _say_disconnected(self, reason: str) -> None:
        """Say it once per reason; the same failure again and again is for the debug level."""
        told = self.log.debug if reason in self._refused else self.log.warn
        self._refused.add(reason)
        told("not connected to a gateway: {why}", why=reason)

    def _arm(self) -> None:
        """Keep one timer. It is only ever moved forward: on a busy link each command would put it off for ever."""
        if self.core.phase is Phase.STOPPED:
            return
        delay = max(0.0, self.core.next_deadline() - self._context.clock.monotonic())
        if self._timer is None:
            self._timer = self._context.reactor.callLater(delay, self._timed)
        elif self._timer.getTime() > self._context.reactor.seconds() + delay:
            self._timer.reset(delay)

    def _timed(self) -> None:
        self._timer = None
        self._do(self.core.handle_deadline())

    def _dial(self, event: events.Dial) -> None:
        geometry = self.core.config.geometry
        config = SessionConfig(
            kem=event.kem,
            private=event.credentials.private,
            public=event.credentials.public,
            additional_data=event.credentials.additional_data,
            kind=SessionKind.MIXNET,
            sizes=CommandSizes(
                packet_length=geometry.packet_length,
                payload_length=geometry.payload_tag_length + geometry.forward_payload_length,
            ),
            accepts=CLIENT,
            handshake_timeout=HANDSHAKE_TIMEOUT,
            read_timeout=READ_TIMEOUT,
        )
        self.log.debug("dialling gateway {name}", name=event.target.name)
        if not event.target.addresses:
            self._do(self.core.failed("no suitable addresses found"))
            return
        self._dialling = dial_in_turn(
            self._context,
            self._transports,
            event.target.addresses,
            config,
            self,
            keepalive=tcp.CLIENT_KEEPALIVE,
        )
        self._dialling.addBoth(self._dialled, event.target.name)

    def _dialled(self, result: Any, name: str) -> None:
        self._dialling = None
        if not isinstance(result, Failure):
            return
        if result.check(CancelledError):
            return
        if not result.check(WireError, ConnectError, ConnectionClosed, ConfigError):
            self.log.failure("dialling failed because of an error of ours", failure=result)
        self._do(self.core.failed(f"gateway {name}: {result.getErrorMessage() or 'the connection was closed'}"))

    def _verify(self, event: events.Verify) -> None:
        core = self.core
        keys = [a.identity_key for a in core.config.authorities]
        now = core.epochs.number(core.unix_time())

        def joined() -> SignedDocument:
            geometry_hash = core.config.geometry.hash()
            return verify(join(event.pieces), keys, now, epoch=event.epoch, geometry_hash=geometry_hash)

        checked = self._context.workers.run(joined)
        checked.addErrback(self._not_verified, event.epoch)
        checked.addCallback(self._verified, event.epoch)
        checked.addErrback(lambda f: self.log.failure("taking a document failed", failure=f))

    def _verified(self, document: SignedDocument | None, epoch: int) -> None:
        before = self.core.documents.held
        self._do(self.core.verified(epoch, document))
        for old in before.keys() - self.core.documents.held.keys():
            self._bin.add(before[old].document.nodes())

    def _not_verified(self, failure: Failure, epoch: int) -> None:
        if not failure.check(PKIError, KatzentwistError):
            self.log.failure("verifying failed because of an error of ours", failure=failure)
        why = failure.getErrorMessage()
        self.log.error("the document of epoch {epoch} is refused: {why}", epoch=epoch, why=why)
        if failure.check(GeometryMismatchError):
            self._listener.mismatched()

    # The link's owner ----------------------------------------------------------------------------------------------

    def authenticate(self, link: ILink, credentials: PeerCredentials) -> bool:
        """See ILinkOwner."""
        return self.core.accepts(credentials)

    def established(self, link: ILink) -> None:
        """See ILinkOwner."""
        if self.core.phase is not Phase.DIALLING:
            link.close()
            return
        self._link = link
        self._do(self.core.established(link.peer))

    def commandReceived(self, link: ILink, command: Command) -> None:
        """See ILinkOwner."""
        if link is self._link:
            self._do(self.core.received(command))

    def closed(self, link: ILink, reason: Exception) -> None:
        """See ILinkOwner. Attempts that were never established end in :meth:`_dialled`."""
        if link is not self._link:
            return
        self._link = None
        self._do(self.core.closed(str(reason) or type(reason).__name__))
        if self._stopped is not None and not self._stopped.called:
            self._stopped.callback(None)


def proxied_transports(reactor: Any, proxy: Proxy, session_tag: str, process: bytes) -> Transports:
    """The transports of a client, behind its proxy if it has one (spec: client 2.6).

    :param session_tag: what Tor keeps apart, ``session N``.
    :param process: what tells this process from others, 16 bytes.
    """
    transports = Transports(reactor)
    if proxy.type == "none":
        return transports
    login: Login | None = None
    if proxy.type == "tor+socks5":
        login = tor_login(session_tag, process)
    elif proxy.user:
        login = Login(proxy.user.encode(), proxy.password.encode())
    socks = Socks5(_proxy_endpoint(reactor, proxy), login)
    for scheme in ("tcp", "tcp4", "tcp6", "onion"):
        transports.register(scheme, socks)
    transports.register("quic", tcp.Missing("a SOCKS proxy does not carry QUIC"))
    return transports


def tor_login(session_tag: str, process: bytes) -> Login:
    """User and password that make Tor use a circuit of its own."""

    def digest(data: bytes, size: int) -> str:
        return hashlib.new("sha512_256", data).digest()[:size].hex()

    user = f"katzenpost/client:{digest(process, 8)}:{digest(session_tag.encode(), 16)}"
    return Login(user.encode(), b"\0")


def _proxy_endpoint(reactor: Any, proxy: Proxy) -> Callable[[float], IStreamClientEndpoint]:
    def endpoint(timeout: float) -> IStreamClientEndpoint:
        if proxy.network == "unix":
            return UNIXClientEndpoint(reactor, proxy.address, timeout=timeout)
        host, port = check_hostport(proxy.address, False)
        kind = TCP6ClientEndpoint if ":" in host else TCP4ClientEndpoint
        return kind(reactor, host.strip("[]"), port, timeout=timeout)

    return endpoint
