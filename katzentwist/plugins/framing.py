"""The stream between node and plugin: CBOR items back to back, nothing between them (spec: node 7.8).

:class:`Items` finds where items end without understanding them, and :func:`decode` understands one. A plugin may send
anything, 100 MB of it too, and neither memory nor time may follow.
"""

from __future__ import annotations

from typing import Any, Final, NoReturn

import attrs

from katzentwist.cbor import Reader, Value
from katzentwist.errors import PluginError

MAX_ITEM: Final = 1 << 20
"""Bytes of one item. An item that announces more is refused before it has come."""
MAX_HEADS: Final = 1 << 15
"""Data items inside one item: a bound on the time that one message takes."""
MAX_DEPTH: Final = 16
_INDEFINITE: Final = -1
_BREAK: Final = 0xFF


@attrs.frozen
class Tagged:
    """A value under a tag."""

    tag: int
    value: Any


@attrs.frozen
class Pairs:
    """A map as it came: in order, duplicates included."""

    pairs: list[tuple[Any, Any]]


def _refuse(why: str) -> NoReturn:
    raise PluginError(f"not a message: {why}")


@attrs.define
class Items:
    """Cuts a stream into items.

    :ivar limit: most bytes of one item.
    """

    limit: int = MAX_ITEM
    _buffer: bytearray = attrs.field(factory=bytearray)
    _at: int = 0
    _open: list[int] = attrs.field(factory=list)
    _heads: int = 0

    def receive(self, data: bytes) -> None:
        """Add bytes; the owner stops reading while it has not taken what came before."""
        self._buffer += data

    def __len__(self) -> int:
        """Bytes that are kept."""
        return len(self._buffer)

    def take(self) -> bytes | None:
        """The next complete item, or None.

        :raises PluginError: no CBOR, or too much of it in one item. The stream is of no more use.
        """
        buffer = self._buffer
        while self._at < len(buffer):
            following = self._head(buffer, self._at)
            if following is None:
                break
            self._at = following
            if not self._open:
                item = bytes(buffer[:following])
                del buffer[:following]
                self._at = self._heads = 0
                return item
        return None

    def _head(self, buffer: bytearray, at: int) -> int | None:  # noqa: C901 - one branch per major type
        """Step over one head (and the string that belongs to it); None when more bytes are needed."""
        initial = buffer[at]
        major, info = initial >> 5, initial & 31
        if initial == _BREAK:
            if not self._open or self._open[-1] != _INDEFINITE:
                _refuse("a break without a beginning")
            self._open.pop()
            return self._ended(at + 1)
        following, argument = at + 1, info
        if 24 <= info <= 27:
            following += 1 << (info - 24)
            if following > len(buffer):
                return None
            argument = int.from_bytes(buffer[at + 1 : following], "big")
        elif info > 27 and not (info == 31 and 2 <= major <= 5):
            _refuse("a reserved head")
        self._heads += 1
        if self._heads > MAX_HEADS or following > self.limit:
            _refuse("an item of too many parts")
        if info == 31:
            return self._opened(_INDEFINITE, following)
        if major in (2, 3):
            if argument > self.limit - following:
                _refuse(f"an item of more than {self.limit} bytes")
            if following + argument > len(buffer):
                self._heads -= 1  # this head is looked at again
                return None
            return self._ended(following + argument)
        inside = {4: argument, 5: 2 * argument, 6: 1}.get(major, 0)
        if inside > self.limit:
            _refuse(f"an item of more than {self.limit} bytes")
        return self._opened(inside, following) if inside else self._ended(following)

    def _opened(self, inside: int, following: int) -> int:
        self._open.append(inside)
        if len(self._open) > MAX_DEPTH:
            _refuse("nested too deep")
        return following

    def _ended(self, following: int) -> int:
        """An item ended; so do all containers of which it was the last."""
        still = self._open
        while still and still[-1] != _INDEFINITE:
            still[-1] -= 1
            if still[-1]:
                break
            still.pop()
        return following


def decode(item: bytes) -> Value:
    """The value of one complete item, as :class:`Items` cut it.

    :raises PluginError: well framed, but still no CBOR.
    """
    return _Reader(item).whole()


class _Reader(Reader):
    """Keeps of maps and tags what came, for :mod:`katzentwist.plugins.messages` to judge."""

    __slots__ = ()

    ERROR = PluginError
    COMPLAINT = "not a message"
    DEPTH = MAX_DEPTH + 1  # Items does not count what is empty as a level
    ITEMS = MAX_HEADS

    def mapping(self, keys: list[Value], values: list[Value]) -> Pairs:
        return Pairs(list(zip(keys, values, strict=True)))

    def tagged(self, tag: int, value: Value) -> Tagged:
        return Tagged(tag, value)
