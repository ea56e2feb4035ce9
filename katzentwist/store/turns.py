"""One thing at a time per name, in the order in which they were asked."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, DeferredLock

T = TypeVar("T")


def shielded(work: Coroutine[Any, Any, T]) -> Deferred[T]:
    """Fires with the result of *work*. Who cancels it only stops to wait: the work is done all the same."""
    result: Deferred[T] = Deferred()
    Deferred.fromCoroutine(work).addCallbacks(result.callback, result.errback)
    return result


class Turns:
    """A lock per name, kept only while somebody has it or waits for it."""

    def __init__(self) -> None:
        self._locks: dict[bytes, DeferredLock] = {}

    def __len__(self) -> int:
        return len(self._locks)

    def run(self, name: bytes, work: Callable[[], Coroutine[Any, Any, T]]) -> Deferred[T]:
        """Do *work* when all earlier work for *name* is done; fires with its result. See :func:`shielded`."""
        return shielded(self._run(name, work))

    async def _run(self, name: bytes, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        lock = self._locks.setdefault(name, DeferredLock())
        await lock.acquire()
        try:
            return await work()
        finally:
            lock.release()
            if not lock.locked and not lock.waiting and self._locks.get(name) is lock:
                del self._locks[name]
