"""A pool of PostgreSQL connections that survives the death of the server (spec: provider 5.1).

txpostgres polls psycopg2's asynchronous connections in the reactor. Each connection has a DeadConnectionDetector, which
connects again and again. Calls wait for a living connection while there is one, and fail at once when all are dead. A
call that breaks together with its connection is tried on another one if it may be repeated: several may have been lost.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Final

import psycopg2  # type: ignore[import-untyped]
import psycopg2.extensions  # type: ignore[import-untyped]
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.error import ConnectionClosed, ConnectionDone, ConnectionLost
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from txpostgres import retrying, txpostgres  # type: ignore[import-untyped]
from txpostgres.reconnection import (  # type: ignore[import-untyped]
    ConnectionDead,
    DeadConnectionDetector,
)

from katzentwist.errors import NoSuchUserError, StoreError, UserExistsError

CONNECT_TIMEOUT: Final = 10.0
STATEMENT_TIMEOUT: Final = 10.0
"""Seconds after which the server gives a statement up; then it is certain that it did nothing."""
CALL_TIMEOUT: Final = 15.0
"""Seconds until a server that says nothing counts as dead."""
FIRST_RETRY: Final = 0.2
LAST_RETRY: Final = 3.0
"""Seconds between attempts to connect again."""
WAITING: Final = 10_000
"""Most calls that may wait for a connection; more fail at once."""

_SESSION: Final = (
    f"SELECT set_config('statement_timeout', '{int(STATEMENT_TIMEOUT * 1000)}', false), "
    "CASE current_setting('synchronous_commit') WHEN 'off' THEN set_config('synchronous_commit', 'on', false) END"
)
"""What is stored must be on disk when the answer comes, whatever the server's default is."""

_NO_DATA_FOUND, _UNIQUE_VIOLATION = "P0002", "23505"


class SQLError(StoreError):
    """The server refused a statement.

    :ivar code: its SQLSTATE.
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class _Away(Exception):
    """No connection, or no answer; it is not known whether the statement was carried out."""


class _Broken(_Away):
    """The connection broke under the call; another one may be well."""


def _is_dead(failure: Failure) -> bool:
    """Whether the connection is of no more use: SQLSTATE classes 08 and 57P, or an error without one."""
    if failure.check(ConnectionClosed, CancelledError, ConnectionDead):
        return True
    error = failure.value
    if not isinstance(error, (psycopg2.InterfaceError, psycopg2.OperationalError)):
        return False
    code = error.pgcode or ""
    return not code or code.startswith(("08", "57P"))


def describe(error: BaseException) -> str:
    """An error in one line without the parameters of the statement, which are names of users."""
    diagnostics = getattr(error, "diag", None)
    primary = getattr(diagnostics, "message_primary", None)
    if primary:
        return str(primary)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "; ".join(lines[:3]) or type(error).__name__


class _Detector(DeadConnectionDetector):  # type: ignore[misc]
    """One that can be stopped."""

    def __init__(self, reactor: Any) -> None:
        super().__init__(deathChecker=_is_dead, reconnectionIterator=self._pauses, reactor=reactor)
        self.stopped = False
        self._retrying: Deferred[Any] | None = None

    @staticmethod
    def _pauses() -> Iterator[float]:
        pauses: Iterator[float] = retrying.simpleBackoffIterator(
            initialDelay=FIRST_RETRY, maxDelay=LAST_RETRY, factor=1.7, maxRetries=0, now=False
        )
        return pauses

    def startReconnecting(self, f: Failure) -> None:
        """As in txpostgres, but quiet and with an end."""
        if self.stopped:
            return
        call = retrying.RetryingCall(self.reconnect)
        call.reactor = self.reactor
        self._retrying = call.start(self.reconnectionIterator(), lambda failure: failure if self.stopped else None)
        self._retrying.addCallbacks(lambda _: self.connectionRecovered(), lambda _: None)

    def stop(self) -> None:
        """Never connect again. The connection must have been dropped: one that is being made ends by that.

        (txpostgres does not let itself be cancelled while it polls: the error of the connection would be nobody's.)
        """
        self.stopped = True
        if self._retrying is not None and not self.reconnectable.connecting:
            self._retrying.cancel()


class _Connection(txpostgres.Connection):  # type: ignore[misc]
    """A connection that never blocks the reactor for long, and whose loss is no unhandled error."""

    def __init__(self, reactor: Any) -> None:
        super().__init__(reactor=reactor, detector=_Detector(reactor))
        self.connecting = False

    @property
    def alive(self) -> bool:
        """Whether it can be used."""
        return self._connection is not None and not self._connection.closed and not self.detector.connectionIsDead

    def connect(self, dsn: str) -> Deferred[Any]:
        """Connect within :data:`CONNECT_TIMEOUT`."""
        self.detector.setReconnectable(self, dsn)
        return Deferred.fromCoroutine(self._connect(dsn))

    async def _connect(self, dsn: str) -> None:
        parameters = await resolved(self.reactor, dsn)
        if self.detector.stopped:
            raise ConnectionDone
        timer = self.reactor.callLater(CONNECT_TIMEOUT, self.drop)
        self.connecting = True
        try:
            self._connection = None
            await _plain_connect(self, parameters)
            await self._runQuery(_SESSION)
        except BaseException:
            self.drop()
            raise
        finally:
            self.connecting = False
            if timer.active():
                timer.cancel()

    def drop(self) -> None:
        """Close it without waiting for anything."""
        if self._connection is not None:
            with contextlib.suppress(psycopg2.Error, OSError, ValueError):
                self.close()

    def expire(self) -> None:
        """A call took too long: the server hangs, or the way to it."""
        self.drop()
        self.detector.checkForDeadConnection(Failure(ConnectionLost()))

    def doRead(self) -> None:
        """The server said something while nobody asked: as a rule that it goes away."""
        try:
            super().doRead()
        except (psycopg2.Error, OSError, ValueError):
            failure = Failure()
            self.drop()
            self.detector.checkForDeadConnection(failure)


def _plain_connect(connection: _Connection, parameters: dict[str, str]) -> Deferred[Any]:
    """What txpostgres does, without telling the detector the looked-up address."""
    detector, connection.detector = connection.detector, None
    try:
        connecting: Deferred[Any] = txpostgres.Connection.connect(connection, **parameters)
    finally:
        connection.detector = detector
    return connecting


async def resolved(reactor: Any, dsn: str) -> dict[str, str]:
    """The parameters of a URI or of key=value text, with names looked up outside of the reactor's thread.

    :raises psycopg2.Error: *dsn* is neither.
    :raises OSError: the name has no address.
    """
    parameters: dict[str, str] = psycopg2.extensions.parse_dsn(dsn)
    host = parameters.get("host", "")
    if host and "hostaddr" not in parameters and not host.startswith(("/", "@")) and "," not in host:
        try:
            ipaddress.ip_address(host)
        except ValueError:
            pool = reactor.getThreadPool()
            found = await deferToThreadPool(reactor, pool, socket.getaddrinfo, host, None, 0, socket.SOCK_STREAM)
            parameters["hostaddr"] = str(found[0][4][0])
    return parameters


class Pool:
    """*size* connections to one database."""

    def __init__(self, reactor: Any, dsn: str, size: int) -> None:
        self._reactor, self._dsn = reactor, dsn
        self._connections = [_Connection(reactor) for _ in range(size)]
        self._free = list(self._connections)
        self._waiting: deque[Deferred[_Connection]] = deque()
        self._closed = False
        for connection in self._connections:
            connection.detector.addRecoveryHandler(self._serve)

    async def open(self) -> None:
        """Connect.

        :raises StoreError: the server can not be reached or lets us not in.
        """
        try:
            for connection in self._connections:
                await connection.connect(self._dsn)
        except Exception as e:  # whatever libpq, DNS or a time-out say, the start fails with it
            self.close()
            why = "no answer in time" if isinstance(e, ConnectionClosed) else describe(e)
            raise StoreError(f"sql/pgx: can not connect to the database: {why}") from e

    def close(self) -> None:
        """Close all connections."""
        self._closed = True
        for connection in self._connections:
            connection.detector.stopped = True
            connection.drop()
            connection.detector.stop()
        self._serve()

    async def call(self, statement: str, *parameters: Any, repeatable: bool) -> list[tuple[Any, ...]]:
        """The rows that a statement gives.

        :param repeatable: carrying it out twice does no harm, so it may be tried again on another connection.
        :raises StoreError: NoSuchUserError for P0002, UserExistsError for 23505, SQLError for what else the server
            refused; else the server is away and it is not known what it did.
        """
        arguments = tuple(psycopg2.Binary(p) if isinstance(p, bytes) else p for p in parameters)
        try:
            for _ in self._connections if repeatable else ():
                with contextlib.suppress(_Broken):
                    return await self._attempt(statement, arguments)
            return await self._attempt(statement, arguments)
        except _Away as e:
            raise StoreError(f"sql/pgx: the database is away: {e}") from e
        except psycopg2.Error as e:
            raise translated(e) from e

    async def _attempt(self, statement: str, arguments: Sequence[Any]) -> list[tuple[Any, ...]]:
        connection = await self._lease()
        timer = self._reactor.callLater(CALL_TIMEOUT, connection.expire)
        try:
            rows: list[tuple[Any, ...]] = await connection.runQuery(statement, arguments)
            return rows
        except BaseException as e:
            if _is_dead(Failure(e)):
                # Many may wait, and all may fail at once: without a turn of the reactor each would call the next.
                await deferLater(self._reactor, 0)
                raise (_Broken if timer.active() else _Away)(describe(e)) from e
            raise
        finally:
            if timer.active():
                timer.cancel()
            self._free.append(connection)
            self._serve()

    async def _lease(self) -> _Connection:
        """A living connection; it must come back into ``_free``."""
        if (why := self._lost()) is not None:
            raise _Away(why)
        if (connection := self._take()) is not None:
            return connection
        if len(self._waiting) >= WAITING:
            raise _Away(f"more than {WAITING} calls wait")
        turn: Deferred[_Connection] = Deferred()
        self._waiting.append(turn)
        try:
            return await turn.addTimeout(CALL_TIMEOUT, self._reactor)
        except (DeferredTimeoutError, CancelledError) as e:
            raise _Away("all connections are busy") from e

    def _lost(self) -> str | None:
        """Why no call can be made now."""
        if self._closed:
            return "closed"
        return None if any(connection.alive for connection in self._connections) else "all connections are lost"

    def _take(self) -> _Connection | None:
        """A free connection that lives."""
        for index, connection in enumerate(self._free):
            if connection.alive:
                return self._free.pop(index)
        return None

    def _serve(self) -> None:
        """Give those who wait what has become free, or the bad news that there is nothing to wait for."""
        while self._waiting:
            why = self._lost()
            connection = self._take() if why is None else None
            if why is None and connection is None:
                return
            turn = self._waiting.popleft()
            if turn.called:  # it has waited too long
                if connection is not None:
                    self._free.append(connection)
            elif connection is not None:
                turn.callback(connection)
            else:
                turn.errback(_Away(why))


def translated(error: psycopg2.Error) -> StoreError:
    """Our error for one of the server's."""
    code = error.pgcode or ""
    if code == _NO_DATA_FOUND:
        return NoSuchUserError("no such user")
    if code == _UNIQUE_VIOLATION:
        return UserExistsError("user already exists")
    return SQLError(f"sql/pgx: {describe(error)} ({code or type(error).__name__})", code)
