"""Incoming links: whoever connects, and how many at once."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory

from katzentwist.net import tcp
from katzentwist.net.limits import HandshakeLimits
from katzentwist.net.link import WRITE_TIMEOUT, LinkProtocol
from katzentwist.net.owner import Context, ILinkOwner
from katzentwist.wire import SessionConfig


class LinkFactory(Factory):
    """The listener's side: one :class:`LinkProtocol` for each connection.

    :param config: of all sessions; a new one may be assigned at any time and holds for new connections.
    :param limits: share one between the listeners of a node.
    :param ready: while it says False, connections are closed at once (spec: link 9.6).
    """

    noisy = False

    def __init__(
        self,
        context: Context,
        config: SessionConfig,
        owner: ILinkOwner,
        *,
        limits: HandshakeLimits | None = None,
        ready: Callable[[], bool] = lambda: True,
        keepalive: int = tcp.NODE_KEEPALIVE,
        write_timeout: float = WRITE_TIMEOUT,
    ) -> None:
        self.config = config
        self._context = context
        self._owner = owner
        self._limits = HandshakeLimits() if limits is None else limits
        self._ready = ready
        self._keepalive = keepalive
        self._write_timeout = write_timeout

    def buildProtocol(self, addr: IAddress | None) -> LinkProtocol | None:
        """A link, or None (so that Twisted closes the connection) while the node is not ready."""
        if not self._ready():
            return None
        return LinkProtocol(
            self._context,
            self.config,
            self._owner,
            initiator=False,
            limits=self._limits,
            keepalive=self._keepalive,
            write_timeout=self._write_timeout,
        )
