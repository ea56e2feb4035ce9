"""What a session has for its peer, in order: sealed at once, but for large documents and what comes behind one.

To seal 16 MB takes 20 ms and as much memory again, for each peer. So a document is sealed when its bytes are asked for,
a piece each time; the owner asks for the next one when the peer has taken the one before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

LARGE: Final = 1 << 17
"""Bytes of a document from which on it goes in pieces."""
PIECE: Final = 1 << 16
"""Bytes of a piece: a tenth of a millisecond."""


class _Document:
    """A command that is sealed piece by piece, as one record."""

    def __init__(self, head: bytes, payload: bytes) -> None:
        self._head, self._payload = head, payload
        self._at = 0

    def next(self, sealer: Any) -> bytes:
        """The next piece; the first with the head."""
        sealed: bytes = b""
        if self._head:
            sealed = sealer.begin(len(self._head) + len(self._payload)) + sealer.seal_piece(self._head)
            self._head = b""
        piece = self._payload[self._at : self._at + PIECE]
        self._at += PIECE
        sealed += sealer.seal_piece(piece)
        return sealed

    @property
    def is_done(self) -> bool:
        """Whether that was the last piece."""
        return self._at >= len(self._payload)


class Outbox:
    """Commands in, bytes of the link out.

    :ivar sealer: a RecordSealer, once the handshake is done.
    """

    def __init__(self) -> None:
        self.sealer: Any = None
        self._ready: list[bytes] = []
        self._later: deque[_Document | Callable[[], bytes]] = deque()

    def add(self, data: bytes) -> None:
        """A message of the handshake."""
        self._ready.append(data)

    def add_command(self, frame: bytes) -> None:
        """A command."""
        if self._later:
            self._later.append(partial(self.sealer.seal, [frame]))
        else:
            self._ready.append(self.sealer.seal([frame]))

    def add_packets(self, packets: Sequence[bytes], pad_to: int) -> None:
        """A SendPacket for each packet, all sealed at once, padded to this size."""
        if self._later:
            self._later.append(partial(self.sealer.seal_packets, packets, pad_to))
        else:
            self._ready.append(self.sealer.seal_packets(packets, pad_to))

    def add_document(self, head: bytes, payload: bytes) -> None:
        """A command of *head* and a *payload* of :data:`LARGE` bytes or more."""
        self._later.append(_Document(head, payload))

    @property
    def has_more(self) -> bool:
        """Whether a document, or something behind one, is not sealed yet."""
        return bool(self._later)

    def take(self) -> bytes:
        """All that is sealed; if nothing is, the next piece of a document, or what is behind it."""
        if self._ready:
            data = self._ready[0] if len(self._ready) == 1 else b"".join(self._ready)
            self._ready.clear()
            return data
        if not self._later:
            return b""
        first = self._later[0]
        data = first.next(self.sealer) if isinstance(first, _Document) else first()
        if not isinstance(first, _Document) or first.is_done:
            self._later.popleft()
        return data

    def close(self) -> None:
        """Forget everything, the key above all."""
        self.sealer = None
        self._ready.clear()
        self._later.clear()
