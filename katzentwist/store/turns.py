"""One thing at a time per name, in the order in which they were asked."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

T = TypeVar("T")


def shielded(work: Coroutine[Any, Any, T]) -> Deferred[T]:
    """Fires with the result of *work*. Who cancels it only stops to wait: the work is done all the same."""
    result: Deferred[T] = Deferred()
    Deferred.fromCoroutine(work).addCallbacks(result.callback, result.errback)
    return result


class Turns:
    """A queue per name, kept only while something is in it.

    One loop does the work of a name, so that thousands who wait and fail at once do not call each other.
    """

    def __init__(self) -> None:
        self._queues: dict[bytes, deque[tuple[Callable[[], Coroutine[Any, Any, Any]], Deferred[Any]]]] = {}

    def __len__(self) -> int:
        """Names with work."""
        return len(self._queues)

    def run(self, name: bytes, work: Callable[[], Coroutine[Any, Any, T]]) -> Deferred[T]:
        """Do *work* when all earlier work for *name* is done; fires with its result.

        Who cancels it only stops to wait: the work is done all the same.
        """
        result: Deferred[T] = Deferred()
        queue = self._queues.get(name)
        if queue is not None:
            queue.append((work, result))
            return result
        queue = self._queues[name] = deque([(work, result)])
        Deferred.fromCoroutine(self._work(name, queue))
        return result

    async def _work(
        self, name: bytes, queue: deque[tuple[Callable[[], Coroutine[Any, Any, Any]], Deferred[Any]]]
    ) -> None:
        while queue:
            work, result = queue[0]
            try:
                value = await work()
            except Exception:
                queue.popleft()
                self._forget(name, queue)
                result.errback(Failure())
            else:
                queue.popleft()
                self._forget(name, queue)
                result.callback(value)

    def _forget(self, name: bytes, queue: deque[Any]) -> None:
        if not queue and self._queues.get(name) is queue:
            del self._queues[name]
