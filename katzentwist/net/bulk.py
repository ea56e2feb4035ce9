"""Links that carry commands of megabytes: documents come from an authority in one."""

from __future__ import annotations

from katzentwist.errors import WireError
from katzentwist.net.link import LinkProtocol
from katzentwist.wire import Event


class BulkLink(LinkProtocol):
    """Opens records and parses commands in a worker thread, one read after the other.

    One record of 16 MB takes 20 ms to open and to copy, which would hold up the reactor.
    """

    def dataReceived(self, data: bytes) -> None:
        """Bytes of the peer. While a thread is at work the transport is paused, and nothing else uses the session."""
        if not self.established or self._closing:
            super().dataReceived(data)
            return
        now = self._context.reactor.seconds()

        def received() -> list[Event] | WireError:
            try:
                return self._session.receive(data, now)
            except WireError as error:
                return error

        self._wait_for(self._context.workers.run(received), self._received)

    def _received(self, outcome: list[Event] | WireError) -> None:
        def turn() -> list[Event]:
            if isinstance(outcome, WireError):
                raise outcome
            return outcome

        self._feed(turn)
