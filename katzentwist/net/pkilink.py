"""Asking an authority: one connection, one request, one reply (spec: link 9.1, 10.1)."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.task import deferLater

from katzentwist.crypto.kem import Kem
from katzentwist.errors import AuthenticationError, ConfigError, WireError
from katzentwist.net import tcp
from katzentwist.net.address import Address
from katzentwist.net.bulk import BulkLink
from katzentwist.net.dialling import dial
from katzentwist.net.owner import Context, ILink, LinkOwner
from katzentwist.randomness import IRandom
from katzentwist.wire import Command, PeerCredentials, SessionConfig, SessionKind
from katzentwist.wire.legal import REPLY_TO

HANDSHAKE_TIMEOUT = 3.0
RESPONSE_TIMEOUT = 30.0
FETCH_ATTEMPTS = 20
"""Tries per authority while errors are transient."""
_BASE_DELAY, _MAX_DELAY, _JITTER = 0.010, 3.0, 0.2


@attrs.frozen(kw_only=True)
class Authority:
    """An authority as the configuration describes it."""

    addresses: Sequence[Address]
    identity_hash: bytes
    """H256 of its identity public key."""
    link_key: bytes | None
    """Its static KEM public key; None where the older shape leaves it unset (spec: provider 1.3)."""
    kem: Kem
    name: str = ""

    def check(self, credentials: PeerCredentials) -> bool:
        """Whether these are the authority's credentials (spec: link 10.1)."""
        known = hmac.compare_digest(credentials.additional_data, self.identity_hash)
        return known and (self.link_key is None or hmac.compare_digest(credentials.link_key, self.link_key))


@attrs.frozen(kw_only=True)
class Caller:
    """Who asks: a node with its link key and identity hash, or (:meth:`anonymous`) nobody in particular."""

    private: bytes = attrs.field(repr=False)
    public: bytes
    additional_data: bytes

    @classmethod
    def anonymous(cls, kem: Kem, random: IRandom) -> Caller:
        """A fresh link key and no AD, as everyone fetches documents (spec: link 5.5). New for each request."""
        private, public = kem.generate(random)
        return cls(private=private, public=public, additional_data=b"")


@attrs.frozen(kw_only=True)
class Timeouts:
    """In seconds (spec: link 11.2)."""

    connect: float = tcp.CONNECT_TIMEOUT
    handshake: float = HANDSHAKE_TIMEOUT
    response: float = RESPONSE_TIMEOUT


def request(
    context: Context,
    transports: tcp.Endpoints,
    authority: Authority,
    command: Command,
    *,
    caller: Caller | None = None,
    timeouts: Timeouts | None = None,
    attempts: int = 1,
    shaken: Callable[[ILink], None] = lambda link: None,
) -> Deferred[Command]:
    """Ask *authority* and give its reply. Its addresses are tried in random order.

    :param caller: None asks anonymously.
    :param attempts: how often to try again while errors are transient, with a growing delay; each tries all addresses.
    :param shaken: called at the end of each handshake, whether it succeeded or not.
    :returns: a Deferred of the reply of the type that fits the request. Cancelling it gives up, at once. It fails with
        the last error: AuthenticationError for another peer than the authority, other WireErrors and Twisted's
        connection errors (see :func:`is_transient`), ConfigError when no address can be dialled.
    """

    times = timeouts or Timeouts()

    def config() -> SessionConfig:
        who = caller or Caller.anonymous(authority.kem, context.random)
        return SessionConfig(
            kem=authority.kem,
            private=who.private,
            public=who.public,
            additional_data=who.additional_data,
            kind=SessionKind.PKI,
            accepts=REPLY_TO[type(command)],
            handshake_timeout=times.handshake,
            read_timeout=times.response,
        )

    async def ask_once(address: Address) -> Command:
        asking = _Asking(authority, command, shaken)
        link = await dial(
            context,
            transports,
            address,
            config(),
            asking,
            connect_timeout=times.connect,
            write_timeout=times.response,
            protocol=BulkLink,
        )
        try:
            return await asking.reply
        finally:
            link.close()

    async def ask() -> Command:
        error: Exception = ConfigError(f"authority {authority.name} has no address")
        for attempt in range(attempts):
            if attempt:
                await deferLater(context.reactor, retry_delay(attempt, context.random))
            left = list(authority.addresses)
            while left:
                address = left.pop(context.random.below(len(left)))
                try:
                    return await ask_once(address)
                except (WireError, ConnectError, ConnectionClosed, ConfigError) as failed:
                    error = failed
            if not is_transient(error):
                break
        raise error

    return Deferred.fromCoroutine(ask())


def retry_delay(attempt: int, random: IRandom) -> float:
    """Seconds before try number *attempt* (from 1): 10 ms doubling up to 3 s, 20 % jitter."""
    delay = min(_BASE_DELAY * 2.0 ** min(attempt, 16), _MAX_DELAY)
    return delay * (1 - _JITTER + 2 * _JITTER * random.uniform())


def is_transient(error: Exception) -> bool:
    """Whether asking again may help: refused, reset, time-out, end of stream; not a wrong peer or a wrong address."""
    return not isinstance(error, AuthenticationError | ConfigError)


class _Asking(LinkOwner):
    """Sends the request as soon as it may, and keeps the first reply."""

    def __init__(self, authority: Authority, command: Command, shaken: Callable[[ILink], None]) -> None:
        self.reply: Deferred[Command] = Deferred()
        self._shaken = shaken
        self._authority = authority
        self._command = command

    def authenticate(self, link: ILink, credentials: PeerCredentials) -> bool:
        return self._authority.check(credentials)

    def established(self, link: ILink) -> None:
        self._shaken(link)
        link.send(self._command)

    def commandReceived(self, link: ILink, command: Command) -> None:
        if not self.reply.called:
            self.reply.callback(command)

    def closed(self, link: ILink, reason: Exception) -> None:
        if not link.established:
            self._shaken(link)
        elif not self.reply.called:
            self.reply.errback(reason)
