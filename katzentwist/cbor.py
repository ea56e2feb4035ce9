"""A reader of CBOR that is total on any bytes, for all who read what others wrote.

It is our own and not cbor2's, since every byte that comes here may be hostile: it never builds anything but plain
values, gives no meaning to tags, and stops at a depth and at a number of items, so that neither time nor memory follows
what the bytes announce. What is read of maps and tags, where the limits are and which error is raised is the matter of
the format: a subclass says it.

It takes items in any form: integers and lengths that are not minimal, strings, arrays and maps of indefinite length,
``undefined`` (read as null). It refuses trailing bytes, text that is not UTF-8, simple values without a meaning, more
than 131072 members of one array.

Below every layer: it imports nothing of a node, since programs of services read with it too.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, ClassVar, Final, NoReturn, TypeAlias

from katzentwist.errors import KatzentwistError

Value: TypeAlias = Any
"""What one item decodes to: int, float, bool, None, str, bytes, list, and what a format makes of maps and tags."""

MAX_MEMBERS: Final = 131072
"""Items of one array, as in Go's reader."""
LARGE: Final = 1 << 18
"""Bytes of a string from which on :meth:`Reader.cut` is asked for it."""
_BREAK: Final = 0xFF
_SIMPLE: Final[Mapping[int, bool | None]] = {20: False, 21: True, 22: None, 23: None}
_FLOATS: Final = {25: struct.Struct(">e"), 26: struct.Struct(">f"), 27: struct.Struct(">d")}


class Reader:
    """A recursive reader over one byte string; IndexError inside means that it is cut short.

    :param most: how many items there may be, the outermost one among them; :attr:`ITEMS` by default.

    :cvar ERROR: what is raised.
    :cvar COMPLAINT: how its text begins.
    :cvar DEPTH: how many arrays, maps and tags may be in each other.
    :cvar ITEMS: how many items there may be at all depths together: a bound on the time that hostile bytes can take.
    """

    __slots__ = ("_at", "_data", "_left")

    ERROR: ClassVar[type[KatzentwistError]]
    COMPLAINT: ClassVar[str]
    DEPTH: ClassVar[int]
    ITEMS: ClassVar[int]

    def __init__(self, data: bytes, most: int | None = None) -> None:
        self._data = data
        self._at = 0
        self._left = self.ITEMS if most is None else most

    def whole(self) -> Value:
        """The one item that the bytes are.

        :raises ERROR: they are not exactly one item within the limits.
        """
        try:
            value = self._item(self.DEPTH)
        except IndexError:
            self.refuse("the CBOR item is cut short")
        if self._at != len(self._data):
            self.refuse("bytes after the CBOR item")
        return value

    # What a format says -----------------------------------------------------------------------------------------------

    def mapping(self, keys: list[Value], values: list[Value]) -> Value:
        """A map, whose keys may be anything, in the order in which they came and as often."""
        raise NotImplementedError

    def tagged(self, _tag: int, value: Value) -> Value:
        """A value under a tag, which says nothing here."""
        return value

    def cut(self, data: bytes, start: int, stop: int) -> bytes:
        """A large string."""
        return data[start:stop]

    def refuse(self, why: str) -> NoReturn:
        """The error."""
        raise self.ERROR(f"{self.COMPLAINT}: {why}")

    # Reading ----------------------------------------------------------------------------------------------------------

    def _item(self, depth: int) -> Value:  # noqa: PLR0911 - one branch per major type
        self._left -= 1
        if self._left < 0:
            self.refuse("too many items")
        initial = self._data[self._at]
        self._at += 1
        major, info = initial >> 5, initial & 31
        if major == 7:
            return self._simple(info)
        size = info if info < 24 else self._argument(major, info)
        if major < 2:
            return size if major == 0 else -1 - size
        if major == 2:
            return self._take(size) if size >= 0 else b"".join(self._chunks(2))
        if major == 3:
            return self._text(size)
        if depth <= 0:
            self.refuse("nested too deep")
        if major == 4:
            values = self._several(size, depth - 1)
            return values if len(values) <= MAX_MEMBERS else self.refuse("too many array items")
        if major == 5:
            flat = self._several(2 * size, depth - 1)
            return self.mapping(flat[::2], flat[1::2]) if len(flat) % 2 == 0 else self.refuse("a key without a value")
        return self.tagged(size, self._item(depth - 1))

    def _argument(self, major: int, info: int) -> int:
        """The number behind an initial byte; -1 for an indefinite length."""
        if info == 31 and 2 <= major <= 5:
            return -1
        if info > 27:
            self.refuse("a reserved CBOR length")
        return int.from_bytes(self._take(1 << (info - 24)), "big")

    def _take(self, size: int) -> bytes:
        start, stop = self._at, self._at + size
        if stop > len(self._data):
            raise IndexError
        self._at = stop
        return self._data[start:stop] if size < LARGE else self.cut(self._data, start, stop)

    def _text(self, size: int) -> str:
        try:
            if size >= 0:
                return self._take(size).decode()
            return "".join([chunk.decode() for chunk in self._chunks(3)])
        except UnicodeDecodeError:
            self.refuse("text that is not UTF-8")

    def _chunks(self, major: int) -> list[bytes]:
        """The pieces of a string of indefinite length; each is of the same major type and definite."""
        chunks: list[bytes] = []
        while True:
            initial = self._data[self._at]
            self._at += 1
            if initial == _BREAK:
                return chunks
            info = initial & 31
            if initial >> 5 != major or info == 31:
                self.refuse("a broken string of indefinite length")
            chunks.append(self._take(info if info < 24 else self._argument(0, info)))

    def _several(self, count: int, depth: int) -> list[Value]:
        """That many items; with a negative number, those up to the break."""
        if count > self._left:
            self.refuse("too many items")
        if count >= 0:
            return [self._item(depth) for _ in range(count)]
        values: list[Value] = []
        while self._data[self._at] != _BREAK:
            values.append(self._item(depth))
        self._at += 1
        return values

    def _simple(self, info: int) -> Value:
        packing = _FLOATS.get(info)
        if packing is not None:
            return packing.unpack(self._take(packing.size))[0]
        if info in _SIMPLE:
            return _SIMPLE[info]
        return self.refuse("a CBOR break at the wrong place" if info == 31 else "an unassigned simple value")
