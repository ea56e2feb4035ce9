"""The back end ``extern``: an HTTP service knows the users (spec: provider 3).

Every question is one POST. A true answer is a status of 200 with a JSON object of booleans; everything else says that
the service is not well and is a StoreError, which callers take for "no": nobody new is let in and no mail is taken,
but nothing is deleted either.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore, fail, succeed
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.error import TimeoutError as ConnectTimeoutError
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import (
    Agent,
    HTTPConnectionPool,
    RequestTransmissionFailed,
    ResponseDone,
    ResponseNeverReceived,
)
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent
from zope.interface import implementer

from katzentwist.config.common import parse_key
from katzentwist.crypto import keys
from katzentwist.errors import ConfigError, NoIdentityError, StoreError
from katzentwist.interfaces import IUserDB

TIMEOUT: Final = 10.0
"""Seconds that an answer may take, from the question on."""
ANSWER_LIMIT: Final = 64 * 1024
"""Most bytes of an answer; the rest is not read."""
AT_ONCE: Final = 64
"""Most questions under way; a service that hangs does not cost us all our sockets."""
WAITING: Final = 10_000
"""Most questions that wait for their turn; more fail at once."""
X25519_SIZE: Final = 32

READ_ONLY: Final = "Not implemented: External authentication is enabled, you can not modify users"
UNSUPPORTED: Final = "Not implemented: Support not implemented yet"


class _TooLong(Exception):
    """The answer does not end."""


class _Body(Protocol):
    """The body of an answer.

    :ivar whole: fires with it; cancelling hangs up, or a service that hangs would keep the socket for ever.
    """

    def __init__(self) -> None:
        self._data = bytearray()
        self.whole: Deferred[bytes] = Deferred(lambda _: self._hang_up())

    def dataReceived(self, data: bytes) -> None:
        """A part."""
        self._data += data
        if len(self._data) > ANSWER_LIMIT and not self.whole.called:
            self.whole.errback(_TooLong(f"its answer has more than {ANSWER_LIMIT} bytes"))
            self._hang_up()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The end of the body, or of the connection."""
        if self.whole.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):
            self.whole.callback(bytes(self._data))
        else:
            self.whole.errback(reason)

    def _hang_up(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()


def encode_form(fields: Mapping[str, bytes]) -> bytes:
    """The body of a form, sorted by name."""
    return urlencode(sorted(fields.items())).encode("ascii")


def encode_key(scheme: keys.KeyScheme, key: bytes) -> bytes:
    """A link key as the service gets it: base64 if it has 32 bytes, else PEM."""
    if len(key) == X25519_SIZE:
        return base64.b64encode(key)
    return keys.encode_public(scheme, key).encode("ascii")


def decode_object(body: bytes) -> dict[str, Any]:
    """The JSON object at the start of *body*.

    :raises ValueError: there is none.
    """
    try:
        value, _ = json.JSONDecoder().raw_decode(body.decode("utf-8").lstrip(" \t\r\n"))
    except RecursionError as e:
        raise ValueError("nested too deep") from e
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


@implementer(IUserDB)
class HTTPUserDB:
    """The users of a service.

    :param url: ``ProviderURL`` without slashes at its end.
    :param scheme: of link keys.
    :param agent: stands in for the network in tests.
    """

    def __init__(self, reactor: Any, url: str, scheme: keys.KeyScheme, agent: IAgent | None = None) -> None:
        self._reactor, self._url, self._scheme = reactor, url.rstrip("/"), scheme
        self._sockets = HTTPConnectionPool(reactor)
        self._client = HTTPClient(agent or Agent(reactor, connectTimeout=TIMEOUT, pool=self._sockets))
        self._places = DeferredSemaphore(AT_ONCE)

    def open(self) -> Deferred[None]:
        """Nothing: the service may come later than we."""
        return succeed(None)

    def close(self) -> Deferred[None]:
        """Close idle connections."""
        closing: Deferred[Any] = self._sockets.closeCachedConnections()
        return closing.addCallback(lambda _: None)

    # Questions -----------------------------------------------------------------------------------------------------

    def exists(self, user: bytes) -> Deferred[bool]:
        """Whether the service knows the user.

        :raises StoreError: (in the Deferred) it gave no proper answer.
        """
        return Deferred.fromCoroutine(self._boolean("exists", {"user": user}))

    def is_valid(self, user: bytes, link_key: bytes) -> Deferred[bool]:
        """Whether the user has this key.

        :raises StoreError: (in the Deferred) the service gave no proper answer.
        """
        return Deferred.fromCoroutine(self._is_valid(user, link_key))

    async def _is_valid(self, user: bytes, link_key: bytes) -> bool:
        return await self._boolean("isvalid", {"key": encode_key(self._scheme, link_key), "user": user})

    def identity(self, user: bytes) -> Deferred[bytes]:
        """The identity key."""
        return Deferred.fromCoroutine(self._identity(user))

    async def _identity(self, user: bytes) -> bytes:
        status, body = await self._ask("getidkey", {"user": user})
        if status != 200:
            raise NoIdentityError("no identity")
        try:
            text = decode_object(body).get("getidkey")
        except ValueError as e:
            raise StoreError("the user service gave no proper answer to getidkey") from e
        if not isinstance(text, str):
            raise NoIdentityError("no identity")
        try:
            return parse_key(text, (X25519_SIZE, self._scheme.public_key_size), self._scheme)
        except ConfigError as e:
            raise NoIdentityError("no identity") from e

    async def _boolean(self, name: str, fields: Mapping[str, bytes]) -> bool:
        status, body = await self._ask(name, fields)
        if status != 200:
            raise StoreError(f"the user service answers {name} with status {status}")
        try:
            answer = decode_object(body)
        except ValueError as e:
            raise StoreError(f"the user service gave no proper answer to {name}") from e
        if name not in answer or not all(isinstance(value, bool) for value in answer.values()):
            raise StoreError(f"the user service gave no proper answer to {name}")
        return bool(answer[name])

    async def _ask(self, name: str, fields: Mapping[str, bytes]) -> tuple[int, bytes]:
        """Status and body, within :data:`TIMEOUT`."""
        if len(self._places.waiting) >= WAITING:
            raise StoreError(f"more than {WAITING} questions wait for the user service")
        asked = Deferred.fromCoroutine(self._post_in_turn(name, encode_form(fields)))
        asked.addTimeout(TIMEOUT, self._reactor)
        try:
            return await asked
        except (DeferredTimeoutError, CancelledError, ConnectingCancelledError, ConnectTimeoutError) as e:
            raise StoreError(f"the user service does not answer within {TIMEOUT:g} s") from e
        except Exception as e:  # resolver, TCP, TLS and HTTP each have their own; all mean that there is no answer
            raise StoreError(f"the user service can not be asked: {describe(e)}") from e

    async def _post_in_turn(self, name: str, form: bytes) -> tuple[int, bytes]:
        await self._places.acquire()
        try:
            try:
                return await self._post(name, form)
            except (ResponseNeverReceived, RequestTransmissionFailed) as e:
                if any(reason.check(CancelledError) for reason in e.reasons):
                    raise
                # As a rule an idle connection that the service closed just now. Questions may be asked twice.
                return await self._post(name, form)
        finally:
            self._places.release()

    async def _post(self, name: str, form: bytes) -> tuple[int, bytes]:
        response = await self._client.request(
            "POST",
            f"{self._url}/{name}",
            headers=Headers({"Content-Type": ["application/x-www-form-urlencoded"]}),
            data=form,
            allow_redirects=False,
            unbuffered=True,
            cookies={},
        )
        body = _Body()
        response.deliverBody(body)
        return response.code, await body.whole

    # What such a service does not do -------------------------------------------------------------------------------

    def add(self, user: bytes, link_key: bytes, update: bool = False, ephemeral: bool = False) -> Deferred[None]:
        """Fails."""
        return fail(StoreError(READ_ONLY))

    def remove(self, user: bytes) -> Deferred[None]:
        """Fails."""
        return fail(StoreError(READ_ONLY))

    def link(self, user: bytes) -> Deferred[bytes]:
        """Fails."""
        return fail(StoreError(UNSUPPORTED))

    def set_identity(self, user: bytes, key: bytes | None) -> Deferred[None]:
        """Fails."""
        return fail(StoreError(UNSUPPORTED))

    def ephemeral_users(self) -> Deferred[list[bytes]]:
        """None: nobody is let in without being known."""
        return succeed([])

    def users(self) -> Deferred[list[bytes]]:
        """Fails: the service has no list."""
        return fail(StoreError(UNSUPPORTED))


def describe(error: BaseException) -> str:
    """The innermost reason, in a few words."""
    reasons: list[Failure] = getattr(error, "reasons", None) or []
    if reasons and reasons[0].value is not None:
        return describe(reasons[0].value)
    return str(error) or type(error).__name__
