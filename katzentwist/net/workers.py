"""Threads for computation: handshake steps, and batches of packet cryptography.

Apart from the reactor's own pool, which resolves names and would make both wait. Sized to the cores, since the work
holds no locks of the interpreter for long and never blocks.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from twisted.internet.defer import Deferred, execute
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool
from zope.interface import Interface, implementer

P = ParamSpec("P")
R = TypeVar("R")


class IWorkers(Interface):
    """Runs functions off the reactor."""

    def run(function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """A Deferred of the function's result or exception, fired in the reactor thread. Can not be cancelled."""


@implementer(IWorkers)
class ThreadWorkers:
    """A pool of threads. Start it after twistd has forked, stop it last.

    :param size: number of threads; 0 means one per core.
    """

    def __init__(self, reactor: Any, size: int = 0) -> None:
        self._reactor = reactor
        self._pool = ThreadPool(minthreads=0, maxthreads=size or os.cpu_count() or 1, name="katzentwist")

    def start(self) -> None:
        """Start taking work."""
        self._pool.start()

    def stop(self) -> None:
        """Wait for what is running (milliseconds) and end the threads."""
        self._pool.stop()

    def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Deferred[R]:
        """See :class:`IWorkers`."""
        return deferToThreadPool(self._reactor, self._pool, function, *args, **kwargs)


@implementer(IWorkers)
class SynchronousWorkers:
    """Runs everything at once, in the caller's thread; for tests and for short commands."""

    def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Deferred[R]:
        """See :class:`IWorkers`; the Deferred has fired already."""
        return execute(function, *args, **kwargs)
