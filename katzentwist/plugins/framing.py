"""The stream between node and plugin: CBOR items back to back, nothing between them (spec: node 7.8).

:class:`Items` finds where items end without understanding them, and :func:`decode` understands one. Both are our own
and not cbor2's: a plugin may send anything, 100 MB of it too, and neither memory nor time may follow.
"""

from __future__ import annotations

import struct
from typing import Any, Final, NoReturn, TypeAlias

import attrs

from katzentwist.errors import PluginError

MAX_ITEM: Final = 1 << 20
"""Bytes of one item. An item that announces more is refused before it has come."""
MAX_HEADS: Final = 1 << 15
"""Data items inside one item: a bound on the time that one message takes."""
MAX_DEPTH: Final = 16
_INDEFINITE: Final = -1
_BREAK: Final = 0xFF
_FLOATS: Final = {25: struct.Struct(">e"), 26: struct.Struct(">f"), 27: struct.Struct(">d")}


@attrs.frozen
class Tagged:
    """A value under a tag."""

    tag: int
    value: Any


@attrs.frozen
class Pairs:
    """A map as it came: in order, duplicates included."""

    pairs: list[tuple[Any, Any]]


Value: TypeAlias = Any
"""int, float, bool, None, str, bytes, list, :class:`Pairs` or :class:`Tagged`."""


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
    value, end = _value(item, 0)
    if end != len(item):
        _refuse("bytes after the item")
    return value


def _value(item: bytes, at: int) -> tuple[Value, int]:  # noqa: C901, PLR0911 - one branch per major type
    initial = item[at]
    major, info = initial >> 5, initial & 31
    at += 1
    argument = info
    if 24 <= info <= 27:
        size = 1 << (info - 24)
        argument = int.from_bytes(item[at : at + size], "big")
        at += size
    match major:
        case 0:
            return argument, at
        case 1:
            return -1 - argument, at
        case 2 | 3:
            raw, at = (item[at : at + argument], at + argument) if info != 31 else _chunks(item, at, major)
            return raw if major == 2 else _text(raw), at
        case 4:
            return _several(item, at, None if info == 31 else argument)
        case 5:
            flat, at = _several(item, at, None if info == 31 else 2 * argument)
            if len(flat) % 2:
                _refuse("a key without a value")
            return Pairs(list(zip(flat[::2], flat[1::2], strict=True))), at
        case 6:
            value, at = _value(item, at)
            return Tagged(argument, value), at
    if info in _FLOATS:
        return _FLOATS[info].unpack(item[at - (1 << (info - 24)) : at])[0], at
    if argument in (20, 21):
        return argument == 21, at
    if argument in (22, 23):
        return None, at
    return _refuse("an unknown simple value")


def _several(item: bytes, at: int, count: int | None) -> tuple[list[Value], int]:
    out: list[Value] = []
    while count is None or len(out) < count:
        if count is None and item[at] == _BREAK:
            return out, at + 1
        value, at = _value(item, at)
        out.append(value)
    return out, at


def _chunks(item: bytes, at: int, major: int) -> tuple[bytes, int]:
    out: list[bytes] = []
    while item[at] != _BREAK:
        if item[at] >> 5 != major or item[at] & 31 == 31:
            _refuse("a string with strange chunks")
        chunk, at = _value(item, at)
        out.append(chunk if isinstance(chunk, bytes) else chunk.encode())
    return b"".join(out), at + 1


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return _refuse("text that is not UTF-8")
