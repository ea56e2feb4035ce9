"""Reading from many links at once.

A node with a hundred peers reads one packet at a time, and what Twisted does around each read costs more than reading.
So the sockets of established TCP links move into an epoll set of the native core, which reads from all that have
something, and opens their records, in one call. To the reactor that set is one descriptor. Whatever is not data (an
end, an error) is left to Twisted: the link goes back to the reactor, which finds the same there.

While there is more traffic than an event per millisecond the set is not watched but read at the marks of
:func:`katzentwist.clock.mark`, at which packets leave as well (:mod:`katzentwist.mix.half`): one wake-up for both.
"""

from __future__ import annotations

from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorFDSet, IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from katzentwist.clock import MARK, mark
from katzentwist.crypto.native import native

QUIET = 3
"""After so many marks at which nothing came the reactor watches again."""


class Reader(Protocol):
    """A link, as its burst reader sees it."""

    def burst(self, packets: list[bytes], rest: list[bytes] | str | None, now: float) -> None:
        """Packets came, then *rest*: other commands, or the text of a refusal; None: have a look yourself."""

    def failed(self, failure: Failure) -> None:
        """:meth:`burst` raised this."""


@implementer(IReadDescriptor)
class BurstReader:
    """The links of one reactor. Opens its epoll set with the first, closes it with the last."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._links: Any = None  # a LinkSet of the native core
        self._readers: dict[int, Reader] = {}
        self._mark = 0.0
        self._timer: IDelayedCall | None = None
        self._quiet = 0

    @classmethod
    def of(cls, reactor: Any) -> BurstReader | None:
        """One for this reactor; None where there is no epoll, or when the reactor (a fake clock) watches nothing."""
        return cls(reactor) if hasattr(native, "LinkSet") and IReactorFDSet.providedBy(reactor) else None

    def __len__(self) -> int:
        return len(self._readers)

    def add(self, fd: int, reader: Reader, opener: Any, start: bytes, size: int) -> None:
        """Read from this descriptor, and tell *reader* what came.

        :param opener: the native RecordOpener of its session.
        :param start: how a command of *size* bytes begins that carries a packet; empty: none may come.
        """
        if self._links is None:
            self._links = native.LinkSet()  # type: ignore[union-attr]
            self._reactor.addReader(self)
        self._links.add(fd, reader, opener, start, size)
        self._readers[fd] = reader

    def remove(self, fd: int) -> None:
        """Read from a descriptor no more. It may be closed already, but not yet used for something else."""
        if self._readers.pop(fd, None) is None:
            return
        self._links.remove(fd)
        if not self._readers:
            self.connectionLost()

    # Twisted's side

    def fileno(self) -> int:
        """The set's own descriptor."""
        return -1 if self._links is None else int(self._links.fileno())

    def doRead(self) -> None:
        """Read, or wait for the next mark if this one comes too early; what is too much for one read comes then too."""
        now = self._reactor.seconds()
        if now >= self._mark:
            self._read(now)
            if self._links is None or not self._links.waiting:
                return
        self._reactor.removeReader(self)
        self._quiet = 0
        self._timer = self._reactor.callLater(max(0.0, self._mark - now), self._marked)

    def _marked(self) -> None:
        self._timer = None
        now, links = self._reactor.seconds(), self._links
        self._quiet = 0 if self._read(now) else self._quiet + 1
        if self._links is not links:  # the last link has left, and perhaps another first one come
            return
        if self._quiet < QUIET:
            self._timer = self._reactor.callLater(max(0.0, self._mark - now), self._marked)
        else:
            self._reactor.addReader(self)

    def _read(self, now: float) -> bool:
        """Let everyone read who can; whether something came."""
        self._mark = mark(now + MARK / 2)
        if self._links is None:
            return False
        came = self._links.read()
        for reader, packets, rest in came:
            try:
                reader.burst(packets, rest, now)
            except Exception:  # the reactor would give up reading for all
                reader.failed(Failure())
        return bool(came)

    def connectionLost(self, reason: Failure | None = None) -> None:
        """The last link is gone, or the reactor ends."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._reactor.removeReader(self)
        self._links = None

    def logPrefix(self) -> str:
        """For Twisted's log."""
        return type(self).__name__
