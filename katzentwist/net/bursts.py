"""Reading from many links in one event of the reactor.

A node with a hundred peers reads one packet at a time, and what Twisted does around each read costs as much as reading.
So the sockets of established TCP links move into an epoll set of their own. To the reactor that set is one descriptor;
when it is readable, every link that has something reads once. Whatever is not data (an end, an error) is left to
Twisted: the link goes back to the reactor, which finds the same there.
"""

from __future__ import annotations

import contextlib
import select
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer


@implementer(IReadDescriptor)
class BurstReader:
    """One epoll set in the reactor. Opens it with the first socket, closes it with the last."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._epoll: select.epoll | None = None
        self._readers: dict[int, tuple[Callable[[], None], Callable[[Failure], None]]] = {}

    @classmethod
    def of(cls, reactor: Any) -> BurstReader | None:
        """One for this reactor; None without epoll, or when the reactor (a fake clock) watches no descriptors."""
        return cls(reactor) if hasattr(select, "epoll") and IReactorFDSet.providedBy(reactor) else None

    def add(self, fd: int, read: Callable[[], None], failed: Callable[[Failure], None]) -> None:
        """Call *read* whenever this descriptor is readable; *failed* gets what it raises."""
        if self._epoll is None:
            self._epoll = select.epoll()
            self._reactor.addReader(self)
        self._epoll.register(fd, select.EPOLLIN)
        self._readers[fd] = read, failed

    def remove(self, fd: int) -> None:
        """Watch a descriptor no more. It may be closed already, but not yet used for something else."""
        if self._readers.pop(fd, None) is None or self._epoll is None:
            return
        with contextlib.suppress(OSError):  # a closed one has left by itself
            self._epoll.unregister(fd)
        if not self._readers:
            self._reactor.removeReader(self)
            self._epoll.close()
            self._epoll = None

    # Twisted's side

    def fileno(self) -> int:
        """The set's own descriptor."""
        return -1 if self._epoll is None else self._epoll.fileno()

    def doRead(self) -> None:
        """Let everyone read who can."""
        if self._epoll is None:
            return
        for fd, _ in self._epoll.poll(0):
            if fd not in self._readers:  # who read before may have closed others
                continue
            read, failed = self._readers[fd]
            try:
                read()
            except Exception:  # the reactor would give up reading for all
                failed(Failure())

    def connectionLost(self, reason: Failure) -> None:
        """Called by a reactor that ends."""

    def logPrefix(self) -> str:
        """For Twisted's log."""
        return type(self).__name__
