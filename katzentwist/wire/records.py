"""The record layer after the handshake (spec: link 6).

::

    record = AEAD(k, n,     "", uint32_be(L))      20 bytes
          || AEAD(k, n + 1, "", command)           L bytes, L = 16 + length of the command
    then n += 2 and k = REKEY(k)

:data:`RecordSealer` and :data:`RecordOpener` are the native core's classes where it is there, else the twins here; both
have the same interface and give the same bytes. An opener holds at most one record and what came behind it: the body is
buffered as it arrives and never allocated ahead. The native one decrypts a large body as it arrives too, and hands it
out, as always, when its tag was found right.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from katzentwist.crypto import aead
from katzentwist.crypto.native import native
from katzentwist.errors import CryptoError

SEALED_HEADER = 4 + aead.TAG_SIZE
MAX_BODY = 500_000_000
"""The protocol's limit for L; sessions set a tighter one."""


class PureRecordSealer:
    """Seals commands in one direction.

    :ivar key: the current key.
    :ivar nonce: the current counter, never reset.
    """

    def __init__(self, key: bytes, nonce: int = 0) -> None:
        self.key = key
        self.nonce = nonce
        self._begun: aead.SealingStream | None = None
        self._left = 0

    def seal(self, commands: Iterable[bytes]) -> bytes:
        """The records of these (already padded) commands, one after the other."""
        out = []
        for command in commands:
            self._check()
            length = (len(command) + aead.TAG_SIZE).to_bytes(4, "big")
            out.append(aead.seal(self.key, self.nonce, length))
            out.append(aead.seal(self.key, self.nonce + 1, command))
            self._advance()
        return b"".join(out)

    def begin(self, size: int) -> bytes:
        """The head of a record for a command of *size* bytes, which comes piece by piece."""
        self._check()
        head = aead.seal(self.key, self.nonce, (size + aead.TAG_SIZE).to_bytes(4, "big"))
        self._begun, self._left = aead.SealingStream(self.key, self.nonce + 1), size
        return head

    def seal_piece(self, piece: bytes) -> bytes:
        """The next piece of the command that was begun, sealed; the last one completes the record.

        :raises CryptoError: nothing was begun, or this is more than the command has.
        """
        if self._begun is None or len(piece) > self._left:
            raise CryptoError("more than the record was begun for")
        self._left -= len(piece)
        sealed = self._begun.update(piece)
        if self._left:
            return sealed
        sealed += self._begun.tag()
        self._begun = None
        self._advance()
        return sealed

    def _check(self) -> None:
        if self._begun is not None:
            raise CryptoError("a record is begun and not complete")

    def _advance(self) -> None:
        self.nonce += 2
        self.key = aead.rekey(self.key)

    def seal_packets(self, packets: Iterable[bytes], pad_to: int) -> bytes:
        """The records of SendPacket commands with these packets, each padded with zeros to *pad_to* bytes."""
        return self.seal((b"\x02\0" + len(p).to_bytes(4, "big") + p).ljust(pad_to, b"\0") for p in packets)


class PureRecordOpener:
    """Opens the records of one direction."""

    def __init__(self, key: bytes, max_body: int = MAX_BODY) -> None:
        self.key = key
        self.nonce = 0
        self._max_body = max_body
        self._buffer = bytearray()
        self._length = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The commands (still padded) that are complete with *data*.

        :raises CryptoError: a wrong tag or a length out of bounds; the opener is of no more use then.
        """
        self._buffer += data
        out: list[bytes] = []
        while True:
            if not self._length:
                if len(self._buffer) < SEALED_HEADER:
                    return out
                length = int.from_bytes(aead.unseal(self.key, self.nonce, bytes(self._buffer[:SEALED_HEADER])), "big")
                if not aead.TAG_SIZE <= length <= self._max_body:
                    raise CryptoError(f"record body of {length} bytes")
                del self._buffer[:SEALED_HEADER]
                self._length = length
            if len(self._buffer) < self._length:
                return out
            out.append(aead.unseal(self.key, self.nonce + 1, bytes(self._buffer[: self._length])))
            del self._buffer[: self._length]
            self._length = 0
            self.nonce += 2
            self.key = aead.rekey(self.key)


RecordSealer: Any = getattr(native, "RecordSealer", PureRecordSealer)
RecordOpener: Any = getattr(native, "RecordOpener", PureRecordOpener)
