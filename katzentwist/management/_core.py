"""The dialogue on the management socket, without a socket (spec: node 9, provider 7).

A line ends with LF or CR LF; white space at both ends does not count. The command is the text up to the first blank, in
any case; what follows is split at single blanks, so two blanks make an empty argument. A tab separates nothing.

======  =========================================================
code    text
======  =========================================================
220     ``<Identifier> Katzenpost Management Interface Service ready``
250     ``Requested action ok, completed``, or a value
500     ``Syntax error, command unrecognised``
501     ``Syntax error in parameters or arguments``
554     ``Transaction failed``
======  =========================================================
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import attrs

from katzentwist.errors import KatzentwistError

MAX_LINE: Final = 1 << 17
"""Bytes of a line; at least 64 KiB must be taken. It stops a client that never ends its line."""

DONE: Final = "Requested action ok, completed"


@attrs.frozen
class Reply:
    """What the server answers."""

    code: int
    text: str

    def encode(self) -> bytes:
        """The line as it is sent."""
        return f"{self.code} {self.text}\r\n".encode("utf-8", "surrogateescape")


OK: Final = Reply(250, DONE)
UNKNOWN: Final = Reply(500, "Syntax error, command unrecognised")
BAD_ARGUMENTS: Final = Reply(501, "Syntax error in parameters or arguments")
FAILED: Final = Reply(554, "Transaction failed")


def greeting(identifier: str) -> Reply:
    """The first line of a connection."""
    return Reply(220, f"{identifier} Katzenpost Management Interface Service ready")


class LineTooLongError(KatzentwistError):
    """More than :data:`MAX_LINE` bytes without an end of line: close the connection."""


class ArgumentFault(KatzentwistError):
    """The arguments of a command are wrong: answer 501."""


@attrs.frozen
class Command:
    """One line of a client.

    :ivar word: in capital letters; empty for an empty line.
    :ivar rest: what follows the first blank, None when there is none.
    """

    word: str
    rest: str | None = None

    @classmethod
    def parse(cls, line: bytes) -> Command:
        """Read a line; bytes that are not UTF-8 survive as surrogates, and make no legal argument."""
        text = line.decode("utf-8", "surrogateescape").strip()
        word, blank, rest = text.partition(" ")
        return cls(word.upper(), rest if blank else None)

    @property
    def arguments(self) -> list[str]:
        """Split at single blanks; a PEM block has blanks inside and goes on to the end of the line."""
        if self.rest is None:
            return []
        head, mark, pem = self.rest.partition("-----BEGIN")
        if not mark:
            return self.rest.split(" ")
        before = head.split(" ")
        return [*before[:-1], before[-1] + mark + pem]


@attrs.define
class Lines:
    """Cuts a stream of bytes into lines. The owner takes lines out as it has time for them."""

    _buffer: bytearray = attrs.field(factory=bytearray)
    _searched: int = 0

    def receive(self, data: bytes) -> None:
        """Add bytes of the client."""
        self._buffer += data

    def __iter__(self) -> Iterator[bytes]:
        """The complete lines, without their ends; each is gone when it was handed out.

        :raises LineTooLongError: the line that is still open is too long.
        """
        while (line := self.take()) is not None:
            yield line

    def take(self) -> bytes | None:
        """The next complete line, or None.

        :raises LineTooLongError: the next line is, or already is, too long.
        """
        end = self._buffer.find(b"\n", self._searched)
        if max(end, len(self._buffer) if end < 0 else 0) > MAX_LINE:
            raise LineTooLongError(f"a line of more than {MAX_LINE} bytes")
        if end < 0:
            self._searched = len(self._buffer)
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._searched = 0
        return line.removesuffix(b"\r")
