"""The thin client for Twisted programs (spec: client 16.3)."""

from __future__ import annotations

import functools
import inspect
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint, connectProtocol
from twisted.internet.interfaces import IDelayedCall, IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from katzentwist.config.client import Socket
from katzentwist.errors import WireError
from katzentwist.thin import _calls, errors
from katzentwist.thin._core import Finished, Operation, Ready
from katzentwist.thin._face import Callback, Face
from katzentwist.thin.events import Event

P = ParamSpec("P")
T = TypeVar("T")

CONNECT_TIMEOUT: Final = 10.0
START_TIMEOUT: Final = 60.0
"""The daemon may wait 30 s for a document before it speaks."""


class EventSink:
    """One consumer's own stream of events: ``async for event in sink``, or :meth:`get`. Nothing is ever dropped."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._waiting: deque[Deferred[Event]] = deque()
        self._ended = False

    def put(self, event: Event) -> None:
        """One more event."""
        if self._waiting:
            self._waiting.popleft().callback(event)
        elif not self._ended:
            self._events.append(event)

    def end(self) -> None:
        """No more events."""
        self._ended = True
        while self._waiting:
            self._waiting.popleft().errback(StopAsyncIteration())

    def get(self) -> Deferred[Event]:
        """The next event; fails with StopAsyncIteration at the end."""
        waiting: Deferred[Event] = Deferred(self._waiting.remove)
        if self._events:
            waiting.callback(self._events.popleft())
        elif self._ended:
            waiting.errback(StopAsyncIteration())
        else:
            self._waiting.append(waiting)
        return waiting

    def __aiter__(self) -> EventSink:
        return self

    async def __anext__(self) -> Event:
        return await self.get()


def deferred(
    call: Callable[Concatenate[Face, P], Coroutine[Deferred[Any], Any, T]],
) -> Callable[Concatenate[ThinClient, P], Deferred[T]]:
    """A call as a method that returns a Deferred; errors come in it too."""

    @functools.wraps(call)
    def method(self: ThinClient, /, *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        return Deferred.fromCoroutine(call(self, *args, **kwargs))

    return method


class ThinClient(Face):
    """A thin client on the Twisted reactor. All methods that wait return Deferreds, and their errors come in them.

    :param reactor: the global one by default.
    """

    def __init__(self, config: Any, reactor: Any = None, **callbacks: Callback | None) -> None:
        super().__init__(config, **callbacks)
        if reactor is None:
            from twisted.internet import reactor  # noqa: PLC0415 - only now it is clear that this one is meant
        self._reactor: Any = reactor
        self._protocol: _DaemonProtocol | None = None
        self._sinks: list[EventSink] = []
        self._waiting: dict[Operation, Deferred[Any]] = {}
        self._ready: Deferred[None] | None = None
        self._closing: Deferred[None] | None = None
        self._reconnect: IDelayedCall | None = None
        self._wanted = False

    # Life ----------------------------------------------------------------------------------------------------------

    def start(self) -> Deferred[None]:
        """Connect to the daemon; fires when status, document and session are there.

        From then on a lost connection is made again by itself, and to call it again does nothing. After
        :meth:`disconnect` it goes on with the same session.

        :raises NotSentError: (in the Deferred) the daemon is not there.
        """
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        if self._wanted or self._protocol is not None:
            return
        self._wanted = True
        ready: Deferred[None] = Deferred()
        self._ready = ready
        try:
            await self._connect()
            ready.addTimeout(START_TIMEOUT, self._reactor)
            await ready
        except Exception as e:
            self._wanted = False
            await self._hang_up()
            if isinstance(e, errors.ThinClientError):
                raise
            where = f"{self.config.dial.network} {self.config.dial.address}"
            why = f"{str(e).rstrip('.') or type(e).__name__}; start it with twistd -n katzenclient"
            raise errors.NotSentError(f"no client daemon at {where}: {why}") from e
        finally:
            self._ready = None

    async def _connect(self) -> None:
        endpoint = endpoint_for(self._reactor, self.config.dial)
        await connectProtocol(endpoint, _DaemonProtocol(self))

    def stop(self) -> Deferred[None]:
        """End the session: the daemon forgets everything of this application."""
        self._wanted = False
        self._core.say_close()
        if self._protocol is not None:
            self._protocol.flush()
        return self._finally_closed().addCallback(self._end_sinks)

    def disconnect(self) -> Deferred[None]:
        """End the connection, keep the session and the streams: the daemon keeps replies for a while."""
        self._wanted = False
        return self._finally_closed()

    def _finally_closed(self) -> Deferred[None]:
        if self._reconnect is not None and self._reconnect.active():
            self._reconnect.cancel()
        self._reconnect = None

        async def close() -> None:
            await self._hang_up()
            self._dispatch(self._core.closed(None, final=True))

        return Deferred.fromCoroutine(close())

    def _end_sinks(self, _: None) -> None:
        for sink in self._sinks:
            sink.end()
        self._sinks.clear()

    async def _hang_up(self) -> None:
        if self._protocol is not None:
            closing: Deferred[None] = Deferred()
            self._closing = closing
            self._protocol.transport.loseConnection()
            await closing

    # Waiting -------------------------------------------------------------------------------------------------------

    send_message_without_reply = deferred(_calls.send_message_without_reply)
    send_message = deferred(_calls.send_message)
    blocking_send_message = deferred(_calls.blocking_send_message)
    send_reliable_message = deferred(_calls.send_reliable_message)
    blocking_send_reliable_message = deferred(_calls.blocking_send_reliable_message)
    cancel_reliable_message = deferred(_calls.cancel_reliable_message)
    get_pki_document_raw = deferred(_calls.get_pki_document_raw)
    get_directory_authorities = deferred(_calls.get_directory_authorities)

    async def _wait(self, operation: Operation, seconds: float | None) -> Any:
        done = self._waiting[operation] = Deferred()
        self._flush()
        if seconds is not None:
            done.addTimeout(seconds, self._reactor)
        try:
            return await done
        except DeferredTimeoutError:
            raise errors.OverdueError(f"no reply in {seconds:g} s") from None
        finally:
            self._waiting.pop(operation, None)
            self._core.abandon(operation)

    # Events --------------------------------------------------------------------------------------------------------

    def event_sink(self) -> EventSink:
        """A stream of all events from now on, for one consumer."""
        sink = EventSink()
        self._sinks.append(sink)
        return sink

    def stop_event_sink(self, sink: EventSink) -> None:
        """No more of it."""
        if sink in self._sinks:
            self._sinks.remove(sink)
        sink.end()

    def _dispatch(self, happened: list[Event]) -> None:
        for event in happened:
            if isinstance(event, Finished):
                self._finished(event)
            elif isinstance(event, Ready):
                if self._ready is not None and not self._ready.called:
                    self._ready.callback(None)
            else:
                for sink in self._sinks:
                    sink.put(event)
                for callback, argument in self._callbacks_for(event):
                    self._call(callback, argument)

    def _finished(self, event: Finished) -> None:
        waiting = self._waiting.pop(event.operation, None)
        if waiting is None or waiting.called:
            return
        if event.error is None:
            waiting.callback(event.value)
        else:
            waiting.errback(event.error)

    def _call(self, callback: Callback, argument: Any) -> None:
        def run() -> Any:
            result = callback(argument)
            return Deferred.fromCoroutine(result) if inspect.iscoroutine(result) else result

        called = maybeDeferred(run)
        called.addErrback(lambda f: self.log.failure("a callback of the application failed", failure=f))

    # The connection ------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        if self._protocol is not None:
            self._protocol.flush()

    def _opened(self, protocol: _DaemonProtocol) -> None:
        self._protocol = protocol
        self._core.opened()
        self._flush()

    def _received(self, data: bytes) -> None:
        try:
            self._dispatch(self._core.receive(data))
        except WireError as e:
            self.log.error("the daemon does not speak the thin client protocol: {why}", why=str(e))
            if self._protocol is not None:
                self._protocol.transport.loseConnection()
        self._flush()

    def _lost(self, reason: Failure) -> None:
        self._protocol = None
        error = reason.value if isinstance(reason.value, Exception) else None
        self._dispatch(self._core.closed(error, final=not self._wanted))
        if self._ready is not None and not self._ready.called:
            self._ready.errback(errors.NotSentError("the daemon closed the connection"))
        elif self._wanted:
            self._again()
        if self._closing is not None:
            closing, self._closing = self._closing, None
            closing.callback(None)

    def _again(self) -> None:
        self._reconnect = self._reactor.callLater(self._core.next_pause(), self._retry)

    def _retry(self) -> None:
        self._reconnect = None
        connecting = Deferred.fromCoroutine(self._connect())
        connecting.addErrback(lambda _: self._again() if self._wanted and self._protocol is None else None)


class _DaemonProtocol(Protocol):
    """The connection to the daemon."""

    transport: Any

    def __init__(self, client: ThinClient) -> None:
        self._client = client

    def connectionMade(self) -> None:
        if hasattr(self.transport, "setTcpNoDelay"):
            self.transport.setTcpNoDelay(True)
        self._client._opened(self)

    def dataReceived(self, data: bytes) -> None:
        self._client._received(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._client._lost(reason)

    def flush(self) -> None:
        data = self._client._core.data_to_send()
        if data:
            self.transport.write(data)


def endpoint_for(reactor: Any, dial: Socket) -> IStreamClientEndpoint:
    """How to reach the daemon."""
    if dial.network == "unix":
        path = "\0" + dial.address[1:] if dial.address.startswith("@") else dial.address
        return UNIXClientEndpoint(reactor, path, timeout=CONNECT_TIMEOUT)
    host, port = dial.hostport
    return HostnameEndpoint(reactor, host.encode(), port, timeout=CONNECT_TIMEOUT)
