"""Outgoing links: connect, shake hands, hand over."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import (
    ConnectError,
    ConnectingCancelledError,
    ConnectionClosed,
    DNSLookupError,
    UnknownHostError,
)
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory
from zope.interface import implementer

from katzentwist.errors import ConfigError, WireError
from katzentwist.net import tcp
from katzentwist.net.address import Address
from katzentwist.net.link import WRITE_TIMEOUT, LinkProtocol
from katzentwist.net.owner import Context, ILink, ILinkOwner
from katzentwist.wire import SessionConfig


def dial(
    context: Context,
    transports: tcp.Endpoints,
    address: Address,
    config: SessionConfig,
    owner: ILinkOwner,
    *,
    connect_timeout: float = tcp.CONNECT_TIMEOUT,
    keepalive: int = tcp.NODE_KEEPALIVE,
    write_timeout: float = WRITE_TIMEOUT,
    protocol: type[LinkProtocol] = LinkProtocol,
) -> Deferred[LinkProtocol]:
    """Connect to *address* and shake hands.

    :returns: a Deferred of the established link. It fails with Twisted's connection errors (ConnectError, also for a
        name that does not resolve; ConnectionClosed), with WireError when the handshake fails, with ConfigError for a
        scheme that can not be dialled. Cancelling it gives up, at once, with CancelledError. The owner hears all the
        same: established() comes first, closed() for every connection that was made.
    """

    async def connect() -> LinkProtocol:
        endpoint = transports.dial(address, connect_timeout)
        ended: Deferred[None] = Deferred()
        watched = _Watched(owner, ended)
        factory = _DialFactory(
            lambda: protocol(context, config, watched, initiator=True, keepalive=keepalive, write_timeout=write_timeout)
        )
        try:
            link = cast(LinkProtocol, await endpoint.connect(factory))
        except ConnectingCancelledError as cancelled:  # neither is what it seems to be: a CancelledError,
            raise CancelledError from cancelled
        except DNSLookupError as unknown:  # and a ConnectError
            raise UnknownHostError(str(unknown)) from unknown
        try:
            await ended
        except BaseException:
            link.close()
            raise
        return link

    return Deferred.fromCoroutine(connect())


def dial_in_turn(
    context: Context,
    transports: tcp.Endpoints,
    addresses: Iterable[Address],
    config: SessionConfig,
    owner: ILinkOwner,
    *,
    connect_timeout: float = tcp.CONNECT_TIMEOUT,
    keepalive: int = tcp.NODE_KEEPALIVE,
) -> Deferred[LinkProtocol]:
    """As :func:`dial`, trying one address after the other until a link is established; fails with the last error."""

    async def connect() -> LinkProtocol:
        error: Exception = ConfigError("no address to dial")
        for address in addresses:
            try:
                return await dial(
                    context, transports, address, config, owner, connect_timeout=connect_timeout, keepalive=keepalive
                )
            except (WireError, ConnectError, ConnectionClosed, ConfigError) as failed:
                error = failed
        raise error

    return Deferred.fromCoroutine(connect())


class _DialFactory(Factory):
    noisy = False

    def __init__(self, build: Callable[[], LinkProtocol]) -> None:
        self._build = build

    def buildProtocol(self, addr: IAddress | None) -> LinkProtocol:
        return self._build()


@implementer(ILinkOwner)
class _Watched:
    """Passes everything on, and fires a Deferred with the end of the handshake."""

    def __init__(self, owner: ILinkOwner, ended: Deferred[None]) -> None:
        self._owner = owner
        self._ended: Deferred[None] | None = ended
        self.authenticate = owner.authenticate
        self.packetsReceived = owner.packetsReceived
        self.commandReceived = owner.commandReceived
        self.writable = owner.writable

    def established(self, link: ILink) -> None:
        self._owner.established(link)
        ended, self._ended = self._ended, None
        if ended is not None:
            ended.callback(None)

    def closed(self, link: ILink, reason: Exception) -> None:
        self._owner.closed(link, reason)
        ended, self._ended = self._ended, None
        if ended is not None and not ended.called:
            ended.errback(reason)
