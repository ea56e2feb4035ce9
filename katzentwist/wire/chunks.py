"""Documents as Consensus2 chunks: one gzip stream, cut into pieces of DOWN bytes (spec: link 7.3)."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

from katzentwist.errors import CommandError
from katzentwist.wire.codes import ConsensusCode
from katzentwist.wire.commands import Consensus2

MAX_DOCUMENT = 50_000_000
"""Largest decompressed document. Stops a small stream that unpacks to gigabytes."""
_GZIP = 31
_STEP = 1 << 18
"""Bytes of a document that are compressed at a time. In one, a document of megabytes would be compressed without the
interpreter lock, but its stream handed over with it, which takes milliseconds of the reactor's time."""


def split(document: bytes, chunk_size: int) -> list[Consensus2]:
    """The Consensus2 commands that carry *document*; *chunk_size* is DOWN."""
    pieces: list[bytes] = []
    rest = b""
    for part in _compressed(document):
        rest += part
        whole = len(rest) - len(rest) % chunk_size
        pieces += [rest[at : at + chunk_size] for at in range(0, whole, chunk_size)]
        rest = rest[whole:]
    if rest:
        pieces.append(rest)
    return [
        Consensus2(error_code=ConsensusCode.OK, chunk_num=i, chunk_total=len(pieces), payload=piece)
        for i, piece in enumerate(pieces)
    ]


def _compressed(document: bytes) -> Iterator[bytes]:
    stream = zlib.compressobj(6, zlib.DEFLATED, _GZIP)
    view = memoryview(document)
    for at in range(0, len(document), _STEP):
        yield stream.compress(view[at : at + _STEP])
    yield stream.flush()


def failure(code: ConsensusCode) -> Consensus2:
    """The one command that says why there is no document."""
    return Consensus2(error_code=code, chunk_num=0, chunk_total=1)


class Reassembly:
    """Collects the chunks of one reply. Make a new one for each request.

    Memory is bounded by *limit*: chunks are decompressed as they come and no compressed bytes are kept.

    :ivar code: the reply's error code; a document follows only when it is 0.
    """

    def __init__(self, limit: int = MAX_DOCUMENT) -> None:
        self.code = 0
        self._limit = limit
        self._next = 0
        self._total = 0
        self._size = 0
        self._parts: list[bytes] = []
        self._gunzip = zlib.decompressobj(_GZIP)

    def add(self, chunk: Consensus2) -> Sequence[bytes] | None:
        """The pieces of the document with the last chunk, None before; none when :attr:`code` tells that there is none.

        To join the pieces of a document of megabytes takes milliseconds, so that is left to a thread.

        :raises CommandError: a chunk out of turn, a changed total, a bad stream, or a document beyond the limit.
        """
        if chunk.error_code:
            if self._next or chunk.chunk_num != 0 or chunk.chunk_total != 1 or chunk.payload:
                raise CommandError("Consensus2 failure in the middle of a document")
            self.code, self._next, self._total = chunk.error_code, 1, 1
            return ()
        if self._next == 0:
            self._total = chunk.chunk_total
        if chunk.chunk_total != self._total or self._total < 1:
            raise CommandError("Consensus2 with a wrong chunk total")
        if chunk.chunk_num != self._next or self._next >= self._total:
            raise CommandError("Consensus2 chunk out of turn")
        self._next += 1
        last = self._next == self._total
        if not chunk.payload and not last:
            raise CommandError("empty Consensus2 chunk")
        self._unpack(chunk.payload)
        if not last:
            return None
        if not self._gunzip.eof:
            raise CommandError("Consensus2 gzip stream is cut short")
        return self._parts

    def _unpack(self, data: bytes) -> None:
        try:
            part = self._gunzip.decompress(data, self._limit - self._size + 1)
        except zlib.error as error:
            raise CommandError("Consensus2 gzip stream is damaged") from error
        self._size += len(part)
        if self._size > self._limit:
            raise CommandError(f"document of more than {self._limit} bytes")
        if self._gunzip.unused_data or self._gunzip.unconsumed_tail:
            raise CommandError("data after the Consensus2 gzip stream")
        self._parts.append(part)
