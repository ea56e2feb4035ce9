"""The CBOR of frames: a small reader that is total on any bytes (spec: client 8).

It takes indefinite lengths, tags (dropped) and duplicate keys (the first counts, as in Go), and refuses trailing bytes,
keys that are neither text nor integers nor bytes, and nesting beyond :data:`MAX_DEPTH`. cbor2 would give meaning to
tags and let the last duplicate win.
"""

from __future__ import annotations

import struct
from typing import Any, Final, NoReturn

from katzentwist.errors import WireError

MAX_DEPTH: Final = 16
MAX_ITEMS: Final = 1 << 16
"""Items of one frame: what can be read in some 50 ms. A frame of 40 MiB could hold as many empty items."""
_BREAK: Final = object()
_SIMPLE: Final[dict[int, Any]] = {20: False, 21: True, 22: None, 23: None, 31: _BREAK}
_FLOATS: Final = {25: struct.Struct(">e"), 26: struct.Struct(">f"), 27: struct.Struct(">d")}


class FrameError(WireError):
    """The other side of the local socket does not keep to the protocol: the connection ends."""


def decode(data: bytes) -> Any:
    """The one item in *data*.

    :raises FrameError: anything else.
    """
    reader = _Reader(data)
    try:
        value = reader.item(MAX_DEPTH)
    except (IndexError, struct.error):
        raise FrameError("the CBOR item is cut short") from None
    if value is _BREAK:
        _refuse("a break without a beginning")
    if reader.at != len(data):
        _refuse("bytes after the CBOR item")
    return value


def _refuse(why: str) -> NoReturn:
    raise FrameError(f"not a message: {why}")


class _Reader:
    __slots__ = ("at", "data", "items")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.items = 0

    def item(self, depth: int) -> Any:
        self.items += 1
        if self.items > MAX_ITEMS:
            _refuse("too many items")
        first = self.data[self.at]
        self.at += 1
        major, info = first >> 5, first & 31
        if major == 7:
            return self._simple(info)
        size = info if info < 24 else self._argument(major, info)
        if major < 2:
            return size if major == 0 else -1 - size
        if major < 4:
            return self._string(major, size)
        if depth <= 0:
            _refuse("nested too deep")
        return self._container(major, size, depth - 1)

    def _container(self, major: int, size: int, depth: int) -> Any:
        if major == 4:
            return self._array(size, depth)
        if major == 5:
            return self._map(size, depth)
        value = self.item(depth)  # a tag says nothing here
        return _refuse("a tag without an item") if value is _BREAK else value

    def _argument(self, major: int, info: int) -> int:
        """The number behind an initial byte; -1 for an indefinite length."""
        if info == 31 and 2 <= major <= 5:
            return -1
        if info > 27:
            _refuse("a reserved length")
        return int.from_bytes(self._take(1 << (info - 24)), "big")

    def _take(self, size: int) -> bytes:
        end = self.at + size
        if end > len(self.data):
            raise IndexError
        piece = self.data[self.at : end]
        self.at = end
        return piece

    def _string(self, major: int, size: int) -> bytes | str:
        pieces = [self._take(size)] if size >= 0 else self._chunks(major)
        if major == 2:
            return b"".join(pieces)
        try:
            return "".join([piece.decode() for piece in pieces])
        except UnicodeDecodeError:
            _refuse("text that is not UTF-8")

    def _chunks(self, major: int) -> list[bytes]:
        chunks: list[bytes] = []
        while True:
            first = self.data[self.at]
            self.at += 1
            if first == 0xFF:
                return chunks
            info = first & 31
            if first >> 5 != major or info == 31:
                _refuse("a broken string of indefinite length")
            chunks.append(self._take(info if info < 24 else self._argument(0, info)))

    def _array(self, size: int, depth: int) -> list[Any]:
        values: list[Any] = []
        while size < 0 or len(values) < size:
            value = self.item(depth)
            if value is _BREAK:
                if size >= 0:
                    _refuse("a break inside an array")
                break
            values.append(value)
        return values

    def _map(self, size: int, depth: int) -> dict[Any, Any]:
        values: dict[Any, Any] = {}
        done = 0
        while size < 0 or done < size:
            key = self.item(depth)
            if key is _BREAK:
                if size >= 0:
                    _refuse("a break inside a map")
                break
            value = self.item(depth)
            if value is _BREAK:
                _refuse("a key without a value")
            if not isinstance(key, str | int | bytes):
                _refuse("a key that is no text")
            values.setdefault(key, value)
            done += 1
        return values

    def _simple(self, info: int) -> Any:
        if info in _SIMPLE:
            return _SIMPLE[info]
        packing = _FLOATS.get(info)
        if packing is None:
            _refuse("an unknown simple value")
        return packing.unpack(self._take(packing.size))[0]
