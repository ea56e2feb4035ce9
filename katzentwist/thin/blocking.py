"""The thin client for plain scripts: the same methods, each waits until it is done.

The work is done in a thread of its own; callbacks run there, and may not call methods that wait.
"""

from __future__ import annotations

import asyncio
import functools
import queue
import threading
from collections.abc import Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

from katzentwist.thin import _calls
from katzentwist.thin._face import Callback, Face
from katzentwist.thin.aio import LoopFace
from katzentwist.thin.errors import ThinClientOfflineError
from katzentwist.thin.events import Event

P = ParamSpec("P")
T = TypeVar("T")


class EventSink:
    """One consumer's own stream of events: iterate, or :meth:`get`."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Event | None] = queue.SimpleQueue()

    def put(self, event: Event | None) -> None:
        """One more event; None is the end."""
        self._queue.put(event)

    def get(self, timeout: float | None = None) -> Event:
        """The next event.

        :raises queue.Empty: none came in time.
        :raises StopIteration: there will be no more.
        """
        event = self._queue.get(timeout=timeout)
        if event is None:
            self._queue.put(None)
            raise StopIteration
        return event

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        return self.get()


def waiting(call: Callable[Concatenate[Face, P], Coroutine[Any, Any, T]]) -> Callable[Concatenate[ThinClient, P], T]:
    """A call as a method that returns when it is done."""

    @functools.wraps(call)
    def method(self: ThinClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._run_there(call(self, *args, **kwargs))

    return method


class ThinClient(LoopFace):
    """A thin client without a loop of its own; ``with ThinClient(path) as client`` starts and stops it."""

    def __init__(self, config: Any, **callbacks: Callback | None) -> None:
        super().__init__(config, **callbacks)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> ThinClient:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, loop: Any = None) -> None:
        """Connect to the daemon; returns when status, document and session are there.

        :param loop: accepted as in the published package, and not used.
        :raises NotSentError: the daemon is not there.
        """
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="thin client", daemon=True)
            self._thread.start()
        try:
            self._run_there(self._start())
        except BaseException:
            self._end_thread()
            raise

    def stop(self) -> None:
        """End the session: the daemon forgets everything of this application."""
        if self._loop is not None:
            self._run_there(self._stop())
            self._end_thread()

    def disconnect(self) -> None:
        """End the connection, keep the session and the streams: the daemon keeps replies for a while."""
        if self._loop is not None:
            self._run_there(self._close())

    send_message_without_reply = waiting(_calls.send_message_without_reply)
    send_message = waiting(_calls.send_message)
    blocking_send_message = waiting(_calls.blocking_send_message)
    send_reliable_message = waiting(_calls.send_reliable_message)
    blocking_send_reliable_message = waiting(_calls.blocking_send_reliable_message)
    cancel_reliable_message = waiting(_calls.cancel_reliable_message)
    get_pki_document_raw = waiting(_calls.get_pki_document_raw)
    get_directory_authorities = waiting(_calls.get_directory_authorities)

    def event_sink(self) -> EventSink:
        """A stream of all events from now on, for one consumer."""
        sink = EventSink()
        self._sinks.append(sink)
        return sink

    # The thread ----------------------------------------------------------------------------------------------------

    def _run_there(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            work.close()
            raise ThinClientOfflineError("the thin client was not started, or was stopped")
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError("a callback may not wait; use katzentwist.thin.aio, or another thread")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _end_thread(self) -> None:
        loop, self._loop = self._loop, None
        thread, self._thread = self._thread, None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()
