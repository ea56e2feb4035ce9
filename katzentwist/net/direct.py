"""The way around Twisted: the native core reads and writes the socket of an established link.

Reading is shared with other links (:mod:`katzentwist.net.bursts`), and so is sending (:mod:`katzentwist.net.senders`).
Twisted keeps the socket: it writes what the core could not, and meets ends and errors.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.tcp import Connection

from katzentwist.crypto.native import native
from katzentwist.net.bursts import BurstReader, Reader, Sink
from katzentwist.wire import Session


class Direct:
    """One link's socket in the hands of the native core. Use :meth:`of`.

    :ivar sender: see ILink.
    :ivar reading: whether the core reads; if not, Twisted does, or nobody.
    :ivar heard: when packets last came, in seconds of the reactor, as far as known; see :meth:`note_heard`.
    """

    def __init__(self, bursts: BurstReader, fd: int, sender: Any, session: Session, reader: Reader) -> None:
        self.sender = sender
        self.reading = False
        self.heard = 0.0
        self._bursts, self._fd, self._session, self._reader = bursts, fd, session, reader

    @classmethod
    def of(cls, bursts: BurstReader | None, transport: Any, session: Session, reader: Reader) -> Direct | None:
        """For a link whose session has just been established; None where there is no core, or something else than TCP.

        :param reader: the link, which is told what came.
        """
        if bursts is None or not isinstance(transport, Connection):
            return None
        fd = transport.fileno()
        # Twisted meets the error again if it was one that kept the core from writing.
        sender = native.PacketSender(fd, *session.sealing(), transport.write)  # type: ignore[union-attr]
        return cls(bursts, fd, sender, session, reader)

    def read(self, sink: Sink | None) -> bool:
        """Read from now on, together with other links; Twisted must not.

        :returns: False if there is no descriptor left for that: then Twisted must.
        """
        try:
            self._bursts.add(self._fd, self._reader, *self._session.opening())
        except OSError:
            return False
        self.reading = True
        self._bursts.pass_on(self._fd, sink)
        return True

    def pass_on(self, sink: Sink | None) -> None:
        """Give packets to *sink*, with those of others; None: to the reader."""
        self._bursts.pass_on(self._fd, sink)

    def stop_reading(self) -> None:
        """Read no more, if it does."""
        if self.reading:
            self.note_heard()
            self.reading = False
            self._bursts.remove(self._fd)

    def note_heard(self) -> None:
        """Bring :attr:`heard` up to date: what a sink gets does not come by the link."""
        self.heard = max(self.heard, self._bursts.heard(self._fd))

    def end(self) -> None:
        """Never touch the socket again: its descriptor may soon be another's."""
        self.stop_reading()
        self.sender.open = False
