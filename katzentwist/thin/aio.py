"""The thin client for asyncio programs: the methods of :mod:`katzentwist.thin.client` as coroutines."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any, Protocol

from katzentwist.config.client import Socket
from katzentwist.errors import WireError
from katzentwist.thin import _calls, errors
from katzentwist.thin._core import Finished, Operation, Ready
from katzentwist.thin._face import Callback, Face
from katzentwist.thin.events import Event

CONNECT_TIMEOUT = 10.0
START_TIMEOUT = 60.0
CHUNK = 1 << 16


class EventSink:
    """One consumer's own stream of events: ``async for event in sink``, or :meth:`get`. Nothing is ever dropped."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue()

    def put(self, event: Event | None) -> None:
        """One more event; None is the end."""
        self._queue.put_nowait(event)

    async def get(self) -> Event:
        """The next event; StopAsyncIteration at the end."""
        event = await self._queue.get()
        if event is None:
            self._queue.put_nowait(None)
            raise StopAsyncIteration
        return event

    def __aiter__(self) -> EventSink:
        return self

    async def __anext__(self) -> Event:
        return await self.get()


class Sink(Protocol):
    """Where the events go for one consumer."""

    def put(self, event: Event | None) -> None:
        """One more event; None is the end."""


class LoopFace(Face):
    """What the faces on an asyncio loop have in common. Coroutines must run on that loop."""

    def __init__(self, config: Any, **callbacks: Callback | None) -> None:
        super().__init__(config, **callbacks)
        self._sinks: list[Sink] = []
        self._waiting: dict[Operation, asyncio.Future[Any]] = {}
        self._ready: asyncio.Future[None] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None
        self._calls_under_way: set[asyncio.Future[Any]] = set()

    # Life ----------------------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        if self._task is not None:
            return
        self._ready = asyncio.get_running_loop().create_future()
        try:
            reader = await self._connect()
            self._task = asyncio.create_task(self._run(reader))
            await asyncio.wait_for(asyncio.shield(self._ready), START_TIMEOUT)
        except (TimeoutError, OSError, errors.ThinClientError) as e:
            await self._close()
            if isinstance(e, errors.ThinClientError):
                raise
            where = f"{self.config.dial.network} {self.config.dial.address}"
            why = f"{e or type(e).__name__}; start it with twistd -n katzenclient"
            raise errors.NotSentError(f"no client daemon at {where}: {why}") from e
        finally:
            self._ready = None

    async def _connect(self) -> asyncio.StreamReader:
        reader: asyncio.StreamReader
        reader, self._writer = await asyncio.wait_for(_open(self.config.dial), CONNECT_TIMEOUT)
        self._core.opened()
        self._flush()
        return reader

    async def _stop(self) -> None:
        self._core.say_close()
        self._flush()
        await self._close()
        for sink in self._sinks:
            sink.put(None)
        self._sinks.clear()

    async def _close(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            await self._drain()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._close_writer()
        self._dispatch(self._core.closed(None, final=True))

    async def _drain(self) -> None:
        if self._writer is not None:
            try:
                await self._writer.drain()
            except OSError:
                self.log.debug("the daemon is gone already")

    async def _close_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
            try:
                await writer.wait_closed()
            except OSError:
                self.log.debug("the daemon is gone already")

    async def _run(self, first: asyncio.StreamReader) -> None:
        """Read for ever; connect again when the connection ends."""
        reader: asyncio.StreamReader | None = first
        while True:
            if reader is not None:
                error = await self._read(reader)
                await self._close_writer()
                self._dispatch(self._core.closed(error, final=False))
                if self._ready is not None and not self._ready.done():
                    self._ready.set_exception(errors.NotSentError("the daemon closed the connection"))
                    return
            await asyncio.sleep(self._core.next_pause())
            try:
                reader = await self._connect()
            except (TimeoutError, OSError):
                reader = None

    async def _read(self, reader: asyncio.StreamReader) -> Exception | None:
        try:
            while data := await reader.read(CHUNK):
                self._dispatch(self._core.receive(data))
                self._flush()
        except (OSError, WireError) as e:
            return e
        return None

    # Waiting -------------------------------------------------------------------------------------------------------

    async def _wait(self, operation: Operation, seconds: float | None) -> Any:
        waiting = self._waiting[operation] = asyncio.get_running_loop().create_future()
        self._flush()
        try:
            return await asyncio.wait_for(waiting, seconds)
        except TimeoutError:
            raise errors.OverdueError(f"no reply in {seconds:g} s") from None
        finally:
            self._waiting.pop(operation, None)
            self._core.abandon(operation)

    def _flush(self) -> None:
        data = self._core.data_to_send()
        if data and self._writer is not None:
            self._writer.write(data)

    # Events --------------------------------------------------------------------------------------------------------

    def stop_event_sink(self, sink: Sink) -> None:
        """No more of it."""
        if sink in self._sinks:
            self._sinks.remove(sink)
        sink.put(None)

    def _dispatch(self, happened: list[Event]) -> None:
        for event in happened:
            if isinstance(event, Finished):
                waiting = self._waiting.pop(event.operation, None)
                if waiting is not None and not waiting.done():
                    _settle(waiting, event)
            elif isinstance(event, Ready):
                if self._ready is not None and not self._ready.done():
                    self._ready.set_result(None)
            else:
                for sink in self._sinks:
                    sink.put(event)
                for callback, argument in self._callbacks_for(event):
                    self._call(callback, argument)

    def _call(self, callback: Callback, argument: Any) -> None:
        try:
            result = callback(argument)
        except Exception:
            self.log.failure("a callback of the application failed")
            return
        if inspect.isawaitable(result):
            task = asyncio.ensure_future(result)
            self._calls_under_way.add(task)
            task.add_done_callback(self._called)

    def _called(self, task: asyncio.Future[Any]) -> None:
        self._calls_under_way.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.log.error("a callback of the application failed: {error!r}", error=error)


class ThinClient(LoopFace):
    """A thin client on the running asyncio loop."""

    async def start(self, loop: Any = None) -> None:
        """Connect to the daemon; ends when status, document and session are there.

        :param loop: accepted as in the published package, and not used.
        :raises NotSentError: the daemon is not there.
        """
        await self._start()

    async def stop(self) -> None:
        """End the session: the daemon forgets everything of this application."""
        await self._stop()

    async def disconnect(self) -> None:
        """End the connection, keep the session and the streams: the daemon keeps replies for a while."""
        await self._close()

    send_message_without_reply = _calls.send_message_without_reply
    send_message = _calls.send_message
    blocking_send_message = _calls.blocking_send_message
    send_reliable_message = _calls.send_reliable_message
    blocking_send_reliable_message = _calls.blocking_send_reliable_message
    cancel_reliable_message = _calls.cancel_reliable_message
    get_pki_document_raw = _calls.get_pki_document_raw
    get_directory_authorities = _calls.get_directory_authorities

    def event_sink(self) -> EventSink:
        """A stream of all events from now on, for one consumer."""
        sink = EventSink()
        self._sinks.append(sink)
        return sink


def _settle(waiting: asyncio.Future[Any], event: Finished) -> None:
    if event.error is None:
        waiting.set_result(event.value)
    else:
        waiting.set_exception(event.error)


def _open(dial: Socket) -> Any:
    if dial.network == "unix":
        path = "\0" + dial.address[1:] if dial.address.startswith("@") else dial.address
        return asyncio.open_unix_connection(path)
    host, port = dial.hostport
    return asyncio.open_connection(host, port)
