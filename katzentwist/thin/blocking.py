"""The thin client for plain scripts: the same methods, each waits until it is done.

The work is done in a thread of its own; callbacks run there, and may not call methods that wait.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Coroutine, Iterator
from types import TracebackType
from typing import Any, TypeVar

from katzentwist.thin import aio
from katzentwist.thin._face import DEFAULT_TIMEOUT, Callback
from katzentwist.thin.errors import ThinClientOfflineError
from katzentwist.thin.events import Event

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


class ThinClient(aio.ThinClient):
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

    # The same, waiting ---------------------------------------------------------------------------------------------

    def start(self, loop: Any = None) -> None:  # type: ignore[override]
        """See :meth:`katzentwist.thin.aio.ThinClient.start`."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="thin client", daemon=True)
            self._thread.start()
        try:
            self._run_there(super().start())
        except BaseException:
            self._end_thread()
            raise

    def stop(self) -> None:  # type: ignore[override]
        """End the session."""
        if self._loop is not None:
            self._run_there(super().stop())
            self._end_thread()

    def disconnect(self) -> None:  # type: ignore[override]
        """End the connection, keep the session."""
        if self._loop is not None:
            self._run_there(super().disconnect())

    def send_message_without_reply(  # type: ignore[override]
        self, payload: bytes | str, dest_node: bytes, dest_queue: bytes
    ) -> None:
        """A message to which no reply is possible."""
        self._run_there(super().send_message_without_reply(payload, dest_node, dest_queue))

    def send_message(  # type: ignore[override]
        self, surb_id: bytes, payload: bytes | str, dest_node: bytes, dest_queue: bytes
    ) -> None:
        """A message with a SURB; its events carry *surb_id*."""
        self._run_there(super().send_message(surb_id, payload, dest_node, dest_queue))

    def blocking_send_message(  # type: ignore[override]
        self, payload: bytes | str, dest_node: bytes, dest_queue: bytes, timeout_seconds: float = DEFAULT_TIMEOUT
    ) -> bytes:
        """Send and wait for the reply; see :meth:`katzentwist.thin.aio.ThinClient.blocking_send_message`."""
        return self._run_there(super().blocking_send_message(payload, dest_node, dest_queue, timeout_seconds))

    def send_reliable_message(  # type: ignore[override]
        self, message_id: bytes, payload: bytes | str, dest_node: bytes, dest_queue: bytes
    ) -> None:
        """A message that the daemon sends again until a reply comes."""
        self._run_there(super().send_reliable_message(message_id, payload, dest_node, dest_queue))

    def blocking_send_reliable_message(  # type: ignore[override]
        self,
        message_id: bytes | None,
        payload: bytes | str,
        dest_node: bytes,
        dest_queue: bytes,
        timeout_seconds: float | None = None,
    ) -> bytes:
        """The same, waiting for the reply."""
        sending = super().blocking_send_reliable_message(message_id, payload, dest_node, dest_queue, timeout_seconds)
        return self._run_there(sending)

    def cancel_reliable_message(self, message_id: bytes) -> None:  # type: ignore[override]
        """Give a reliable message up."""
        self._run_there(super().cancel_reliable_message(message_id))

    def get_pki_document_raw(self, epoch: int = 0) -> tuple[bytes, int]:  # type: ignore[override]
        """(signed document, its epoch); 0 asks for the current one."""
        return self._run_there(super().get_pki_document_raw(epoch))

    def get_directory_authorities(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The authorities whose signatures the daemon counts."""
        return self._run_there(super().get_directory_authorities())

    def event_sink(self) -> EventSink:  # type: ignore[override]
        """A stream of all events from now on, for one consumer."""
        sink = EventSink()
        self._sinks.append(sink)  # type: ignore[arg-type]
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
