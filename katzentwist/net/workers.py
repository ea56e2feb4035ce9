"""Threads for computation: handshake steps, and batches of packet cryptography.

Apart from the reactor's own pool, which resolves names and would make both wait. Sized to the cores, as no work ever
blocks: one thread each for packets, which need no interpreter, and half as many for handshakes: they need it, and would
take it from the reactor hundreds of times when many clients come at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, ParamSpec, TypeVar

from twisted.internet.defer import Deferred, execute
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool
from zope.interface import Interface, implementer

from katzentwist.logger import ModuleLogger

P = ParamSpec("P")
R = TypeVar("R")


class IWorkers(Interface):
    """Runs functions off the reactor."""

    def run(function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """A Deferred of the function's result or exception, fired in the reactor thread. Can not be cancelled."""

    def submit(function: Callable[..., Any], args: tuple[Any, ...], done: Callable[[Any], None]) -> None:
        """Run a batch of packets; *done* gets the result or the Failure in the reactor thread."""


Done = Callable[[Any], None]
"""Takes the result of a batch, or the Failure, in the reactor thread."""


class _Batches:
    """Threads for many small batches: one queue in, one list out, and one wake-up of the reactor for all that is done.

    A Deferred and the reactor's thread pool cost more than a batch of a few packets does.
    """

    log = ModuleLogger("crypto")

    def __init__(self, reactor: Any, size: int) -> None:
        self._reactor, self._size = reactor, size
        self._waiting: SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...], Done] | None] = SimpleQueue()
        self._finished: list[tuple[Done, Any]] = []
        self._lock = Lock()
        self._threads: list[Thread] = []

    def start(self) -> None:
        self._threads = [Thread(target=self._run, name=f"packets {i}", daemon=True) for i in range(self._size)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()
        self._threads = []

    def submit(self, function: Callable[..., Any], args: tuple[Any, ...], done: Done) -> None:
        self._waiting.put((function, args, done))

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None:
            function, args, done = item
            try:
                result = function(*args)
            except BaseException:  # the reactor thread gets it; a panic of the native core is no Exception
                result = Failure()
            with self._lock:
                # Only the one who finds the list empty wakes the reactor; the others are taken along.
                alone = not self._finished
                self._finished.append((done, result))
            if alone:
                self._reactor.callFromThread(self._deliver)

    def _deliver(self) -> None:
        with self._lock:
            finished, self._finished = self._finished, []
        for done, result in finished:
            try:
                done(result)
            except Exception:  # an error of one must not cost the others their results
                self.log.failure("the result of a batch could not be used because of an error of ours")


@implementer(IWorkers)
class ThreadWorkers:
    """A pool of threads. Start it after twistd has forked, stop it last.

    :param size: number of threads for packets; 0 means one per core.
    """

    def __init__(self, reactor: Any, size: int = 0) -> None:
        self._reactor = reactor
        cores = size or os.cpu_count() or 1
        self._pool = ThreadPool(minthreads=0, maxthreads=max(1, cores // 2), name="katzentwist")
        self._batches = _Batches(reactor, cores)

    def start(self) -> None:
        """Start taking work."""
        self._pool.start()
        self._batches.start()

    def stop(self) -> None:
        """Wait for what is running (milliseconds) and end the threads."""
        self._batches.stop()
        self._pool.stop()

    def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Deferred[R]:
        """See :class:`IWorkers`."""
        return deferToThreadPool(self._reactor, self._pool, function, *args, **kwargs)

    def submit(self, function: Callable[..., Any], args: tuple[Any, ...], done: Done) -> None:
        """See :class:`IWorkers`."""
        self._batches.submit(function, args, done)


@implementer(IWorkers)
class SynchronousWorkers:
    """Runs everything at once, in the caller's thread; for tests and for short commands."""

    def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Deferred[R]:
        """See :class:`IWorkers`; the Deferred has fired already."""
        return execute(function, *args, **kwargs)

    def submit(self, function: Callable[..., Any], args: tuple[Any, ...], done: Done) -> None:
        """See :class:`IWorkers`; *done* is called before it returns."""
        try:
            result = function(*args)
        except BaseException:  # a panic of the native core is no Exception, and whoever waits must hear of it
            result = Failure()
        done(result)
