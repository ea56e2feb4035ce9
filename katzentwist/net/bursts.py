"""Reading from many links at once.

A node with a hundred peers reads one packet at a time, and what Twisted does around each read costs more than reading.
So the sockets of established TCP links move into an epoll set of the native core, which reads from all that have
something, and opens their records, in one call. To the reactor that set is one descriptor. Whatever is not data (an
end, an error) is left to Twisted: the link goes back to the reactor, which finds the same there.

While there is more traffic than an event per millisecond the set is not watched but read at the marks of
:func:`katzentwist.clock.mark`, at which packets leave as well (:mod:`katzentwist.mix.half`): one wake-up for both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from katzentwist.clock import MARK
from katzentwist.crypto.native import native

QUIET = 3
"""After so many marks at which nothing came the reactor watches again."""


Sink = Callable[[list[bytes]], None]
"""Takes the packets of many links."""


class Reader(Protocol):
    """A link, as its burst reader sees it."""

    def burst(self, packets: list[bytes], rest: Sequence[bytes] | str | None, now: float) -> None:
        """Packets came, then *rest*: other commands, or the text of a refusal; None: have a look yourself."""

    def failed(self, failure: Failure) -> None:
        """:meth:`burst` raised this."""


@implementer(IReadDescriptor)
class Marks:
    """Calls a function at each mark. A timer of the reactor would come up to two ms late: epoll counts whole ones.

    :raises OSError: there is no descriptor left for its timer; it is kept as long as this.
    """

    def __init__(self, reactor: Any, function: Callable[[], None]) -> None:
        self._reactor, self._function = reactor, function
        self._timer: Any = native.Marks()  # type: ignore[union-attr]

    def start(self) -> None:
        """From the next mark on."""
        self._timer.start()
        self._reactor.addReader(self)

    def stop(self) -> None:
        """Call no more."""
        self._reactor.removeReader(self)
        self._timer.stop()

    def fileno(self) -> int:
        """The timer's descriptor."""
        return int(self._timer.fileno())

    def doRead(self) -> None:
        """A mark, or several that were missed."""
        if self._timer.passed():
            self._function()

    def connectionLost(self, reason: Failure) -> None:
        """Called by a reactor that ends."""

    def logPrefix(self) -> str:
        """For Twisted's log."""
        return type(self).__name__


@implementer(IReadDescriptor)
class BurstReader:
    """The links of one reactor. Opens its epoll set and its timer with the first, closes them with the last.

    :param marks: makes what calls at each mark.
    """

    log = Logger()

    def __init__(self, reactor: Any, marks: Callable[..., Any] = Marks) -> None:
        self._reactor = reactor
        self._links: Any = None  # a LinkSet of the native core
        self._new_marks = marks
        self._marks: Any = None
        self._at_marks = False
        self._not_before = 0.0
        self._quiet = 0

    @classmethod
    def of(cls, reactor: Any, marks: Callable[..., Any] = Marks) -> BurstReader | None:
        """One for this reactor; None where there is no epoll, or when the reactor (a fake clock) watches nothing."""
        return cls(reactor, marks) if hasattr(native, "LinkSet") and IReactorFDSet.providedBy(reactor) else None

    def __len__(self) -> int:
        return 0 if self._links is None else len(self._links)

    @property
    def busy(self) -> bool:
        """Whether there is more than an event per millisecond."""
        return self._at_marks

    def add(self, fd: int, reader: Reader, opener: Any, start: bytes, size: int) -> None:
        """Read from this descriptor, and tell *reader* what came.

        :param opener: the native RecordOpener of its session.
        :param start: how a command of *size* bytes begins that carries a packet; empty: none may come.
        :raises OSError: there is no descriptor left; nothing is read.
        """
        if self._links is None:
            # The timer too: when it is needed, in the middle of traffic, there may be no descriptor left for it.
            self._marks = self._new_marks(self._reactor, self._marked)
            self._links = native.LinkSet()  # type: ignore[union-attr]
            self._reactor.addReader(self)
        self._links.add(fd, reader, opener, start, size)

    def pass_on(self, fd: int, sink: Sink | None) -> None:
        """Give the packets of a descriptor to *sink*, together with those of others; None: to its reader."""
        if self._links is not None:
            self._links.pass_on(fd, sink)

    def heard(self, fd: int) -> float:
        """When a sink last got packets of this descriptor; 0 if none did."""
        return 0.0 if self._links is None else float(self._links.heard(fd))

    def remove(self, fd: int) -> None:
        """Read from a descriptor no more. It may be closed already, but not yet used for something else."""
        if self._links is not None and self._links.remove(fd) and not self._links:
            self.connectionLost()

    # Twisted's side

    def fileno(self) -> int:
        """The set's own descriptor."""
        return -1 if self._links is None else int(self._links.fileno())

    def doRead(self) -> None:
        """Read; or leave it to the next mark if the last event is not long ago, or too much has come for once."""
        now = self._reactor.seconds()
        if now >= self._not_before:
            self._not_before = now + MARK
            self._read(now)
            if self._links is None or not self._links.waiting:
                return
        self._reactor.removeReader(self)
        self._marks.start()
        self._at_marks = True
        self._quiet = 0

    def _marked(self) -> None:
        links = self._links
        self._quiet = 0 if self._read(self._reactor.seconds()) else self._quiet + 1
        # Unless the last link has left, and perhaps another first one come.
        if self._links is links and self._quiet == QUIET:
            self._leave_marks()
            self._reactor.addReader(self)

    def _leave_marks(self) -> None:
        if self._at_marks:
            self._at_marks = False
            self._marks.stop()

    def _read(self, now: float) -> bool:
        """Let everyone read who can; whether something came."""
        if self._links is None:
            return False
        sunk, came = self._links.read(now)
        for sink, packets in sunk:
            try:
                sink(packets)
            except Exception:
                self.log.failure("Packets are lost because of an error of ours")
        for reader, packets, rest in came:
            try:
                reader.burst(packets, rest, now)
            except Exception:  # the reactor would give up reading for all
                reader.failed(Failure())
        return bool(sunk or came)

    def connectionLost(self, reason: Failure | None = None) -> None:
        """The last link is gone, or the reactor ends."""
        self._leave_marks()
        self._reactor.removeReader(self)
        self._links = self._marks = None

    def logPrefix(self) -> str:
        """For Twisted's log."""
        return type(self).__name__
