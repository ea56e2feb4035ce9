"""CBOR as the PKI uses it (spec: pki 2): canonical out, a bounded and slightly tolerant reader in.

The reader is our own and not cbor2's, since every byte that comes here may be hostile: it never builds anything but
plain values, stops at the depth and the counts of the specification, and sees duplicate keys.

What it takes beyond canonical input (spec: pki 2.2): keys in any order, integers and lengths that are not minimal,
indefinite lengths, tags (dropped), ``undefined`` (read as null). What it refuses: trailing bytes, duplicate keys, keys
that are arrays or maps, text that is not UTF-8, other simple values, too much of anything.

A structure is a map with text keys. In Go a missing or null field is the zero value; here it becomes an *empty* value
that remembers that it was null (:data:`NULL_BYTES`, :data:`NULL_MAP`, :data:`NULL_LIST`), so that a reader needs no
``None`` checks and the writer still gives back the very bytes that were read.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NoReturn, TypeAlias, cast

import cbor2

from katzentwist.crypto.copies import WORTH, cut
from katzentwist.errors import PKIError

Value: TypeAlias = Any
"""What one item decodes to: int, float, bool, None, str, bytes, list of values or dict of values."""

MAX_DEPTH: Final = 32
MAX_ITEMS: Final = 131072
"""Items of one array, pairs of one map."""
MAX_TOTAL: Final = 1 << 18
"""Items of one decoding altogether, at all depths: a bound on the time that hostile bytes can take."""
_UINT64: Final = 2**64


class NullBytes(bytes):
    """An empty byte string that was, and will be, null."""

    __slots__ = ()


class NullMap(dict[Any, Any]):
    """An empty map that was, and will be, null."""

    __slots__ = ()


class NullList(tuple[Any, ...]):
    """An empty list that was, and will be, null."""

    __slots__ = ()


NULL_BYTES: Final = NullBytes()
NULL_MAP: Final = NullMap()
NULL_LIST: Final = NullList()


def is_null(value: object) -> bool:
    """Whether a field is null, in either spelling."""
    return value is None or isinstance(value, NullBytes | NullMap | NullList)


def _plain(value: Value) -> Value:
    """*value* for the encoder: the null-but-empty values as None, other mappings and sequences unchanged in kind."""
    if is_null(value):
        return None
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def encode(value: Value) -> bytes:
    """The canonical form (length-first key order, shortest integers and floats, no tags; spec: pki 2.1)."""
    return cbor2.dumps(_plain(value), canonical=True)


def decode(data: bytes, most: int = MAX_TOTAL) -> Value:
    """The one item that *data* holds.

    :param most: how many items there may be inside it.
    :raises PKIError: *data* is not exactly one CBOR item within the limits.
    """
    reader = _Reader(data, most)
    try:
        value = reader.item(MAX_DEPTH)
    except (IndexError, struct.error):
        raise PKIError("impossible to decode: the CBOR item is cut short") from None
    if value is _BREAK:
        raise PKIError("impossible to decode: a CBOR break without a beginning")
    if reader.at != len(data):
        raise PKIError("impossible to decode: bytes after the CBOR item")
    return value


_BREAK: Final = object()
_HALF: Final = struct.Struct(">e")
_SINGLE: Final = struct.Struct(">f")
_DOUBLE: Final = struct.Struct(">d")
_SIMPLE: Final[Mapping[int, object]] = {20: False, 21: True, 22: None, 23: None, 31: _BREAK}
_FLOATS: Final[Mapping[int, struct.Struct]] = {25: _HALF, 26: _SINGLE, 27: _DOUBLE}


def _refuse(why: str) -> NoReturn:
    raise PKIError(f"impossible to decode: {why}")


class _Reader:
    """A recursive reader over one byte string; IndexError means that it is cut short."""

    __slots__ = ("at", "data", "left")

    def __init__(self, data: bytes, most: int) -> None:
        self.data = data
        self.at = 0
        self.left = most

    def item(self, depth: int) -> Value:  # noqa: PLR0911
        self.left -= 1
        if self.left < 0:
            _refuse("too many items")
        initial = self.data[self.at]
        self.at += 1
        major, info = initial >> 5, initial & 31
        if major == 7:
            return self._simple(info)
        size = info if info < 24 else self._argument(major, info)
        if major == 0:
            return size
        if major == 1:
            return -1 - size
        if major == 2:
            return self._take(size) if size >= 0 else b"".join(self._chunks(2))
        if major == 3:
            return self._text(size)
        if depth <= 0:
            _refuse("nested too deep")
        if major == 4:
            return self._array(size, depth - 1)
        if major == 5:
            return self._map(size, depth - 1)
        value = self.item(depth - 1)  # a tag says nothing here
        return _refuse("a tag without an item") if value is _BREAK else value

    def _argument(self, major: int, info: int) -> int:
        """The number behind an initial byte; -1 for an indefinite length."""
        if info == 31 and 2 <= major <= 5:
            return -1
        if info > 27:
            _refuse("a reserved CBOR length")
        width = 1 << (info - 24)
        return int.from_bytes(self._take(width), "big")

    def _take(self, size: int) -> bytes:
        end = self.at + size
        if end > len(self.data):
            raise IndexError
        piece = self.data[self.at : end] if size < WORTH else cut(self.data, self.at, end)
        self.at = end
        return piece

    def _text(self, size: int) -> str:
        try:
            if size >= 0:
                return self._take(size).decode()
            return "".join([chunk.decode() for chunk in self._chunks(3)])
        except UnicodeDecodeError:
            _refuse("text that is not UTF-8")

    def _chunks(self, major: int) -> list[bytes]:
        """The pieces of a string of indefinite length; each is of the same major type and definite."""
        chunks: list[bytes] = []
        while True:
            initial = self.data[self.at]
            self.at += 1
            if initial == 0xFF:
                return chunks
            info = initial & 31
            if initial >> 5 != major or info == 31:
                _refuse("a broken string of indefinite length")
            chunks.append(self._take(info if info < 24 else self._argument(0, info)))

    def _array(self, size: int, depth: int) -> list[Value]:
        if size > MAX_ITEMS:
            _refuse("too many array items")
        values: list[Value] = []
        while size < 0 or len(values) < size:
            value = self.item(depth)
            if value is _BREAK:
                if size >= 0:
                    _refuse("a CBOR break inside an array")
                break
            if len(values) >= MAX_ITEMS:
                _refuse("too many array items")
            values.append(value)
        return values

    def _map(self, size: int, depth: int) -> dict[Value, Value]:
        if size > MAX_ITEMS:
            _refuse("too many map pairs")
        pairs: dict[Value, Value] = {}
        while size < 0 or len(pairs) < size:
            key = self.item(depth)
            if key is _BREAK:
                if size >= 0:
                    _refuse("a CBOR break inside a map")
                break
            if isinstance(key, list | dict):
                _refuse("a map key that is an array or a map")
            if key in pairs:
                _refuse("a duplicate map key")
            if len(pairs) >= MAX_ITEMS:
                _refuse("too many map pairs")
            value = self.item(depth)
            if value is _BREAK:
                _refuse("a map key without a value")
            pairs[key] = value
        return pairs

    def _simple(self, info: int) -> Value:
        floating = _FLOATS.get(info)
        if floating is not None:
            return floating.unpack(self._take(floating.size))[0]
        if info in _SIMPLE:
            return _SIMPLE[info]
        _refuse("an unassigned simple value")


class Fields:
    """A decoded structure, read field by field with the zero values and the type errors of spec: pki 2.2.

    :param what: the name of the structure, for error texts.
    :param value: the decoded item: a map, or null for the zero structure.
    :param names: all field names, exactly spelled. Unknown keys are ignored; a known name in another case is refused.
    :raises PKIError: *value* is no map, or a key is a misspelled field.
    """

    __slots__ = ("_fields", "_what")

    def __init__(self, what: str, value: Value, names: Mapping[str, str]) -> None:
        self._what = what
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise PKIError(f"impossible to decode: {what} is not a map")
        for key in value:
            if isinstance(key, str) and names.get(key.lower(), key) != key:
                raise PKIError(f"impossible to decode: {what} has a field {key[:40]!r} in the wrong case")
        self._fields = value

    def _bad(self, name: str, wanted: str) -> NoReturn:
        raise PKIError(f"impossible to decode: {name} of {self._what} is not {wanted}")

    def uint(self, name: str, limit: int = _UINT64) -> int:
        """An unsigned integer below *limit*; 0 if absent."""
        value = self._fields.get(name)
        return 0 if value is None else self._uint(name, value, limit)

    def _uint(self, name: str, value: Value, limit: int = _UINT64) -> int:
        if type(value) is not int or not 0 <= value < limit:
            self._bad(name, "an unsigned integer in range")
        return value

    def floating(self, name: str) -> float:
        """A float; an integer is taken too; 0.0 if absent."""
        value = self._fields.get(name)
        if value is None:
            return 0.0
        if type(value) not in (int, float):
            self._bad(name, "a number")
        return float(value)

    def boolean(self, name: str) -> bool:
        """A boolean; False if absent."""
        value = self._fields.get(name)
        if value is None:
            return False
        if type(value) is not bool:
            self._bad(name, "a boolean")
        return value

    def text(self, name: str) -> str:
        """A text; empty if absent."""
        value = self._fields.get(name)
        if value is None:
            return ""
        if type(value) is not str:
            self._bad(name, "text")
        return value

    def blob(self, name: str, size: int | None = None) -> bytes:
        """A byte string; :data:`NULL_BYTES` if absent or null. *size*: the only length it may have."""
        value = self._fields.get(name)
        return NULL_BYTES if value is None else self.blob_value(name, value, size)

    def blob_value(self, name: str, value: Value, size: int | None = None) -> bytes:
        """*value*, which is one of the byte strings inside the field *name*."""
        if type(value) is not bytes:
            self._bad(name, "made of byte strings")
        if size is not None and len(value) != size:
            self._bad(name, f"made of byte strings of {size} bytes")
        return value

    def text_value(self, name: str, value: Value) -> str:
        """*value*, which is one of the texts inside the field *name*."""
        if type(value) is not str:
            self._bad(name, "made of text")
        return value

    def uint_value(self, name: str, value: Value) -> int:
        """*value*, which is one of the unsigned integers inside the field *name*."""
        return self._uint(name, value)

    def array(self, name: str, each: Callable[[str, Value], Value]) -> tuple[Any, ...]:
        """A list with *each* applied to (name, item); :data:`NULL_LIST` if absent or null."""
        return self.array_value(name, self._fields.get(name), each)

    def array_value(self, name: str, value: Value, each: Callable[[str, Value], Value]) -> tuple[Any, ...]:
        """*value*, which is a list inside the field *name*."""
        if value is None:
            return NULL_LIST
        if type(value) is not list:
            self._bad(name, "a list")
        return tuple([each(name, item) for item in value])

    def mapping(
        self, name: str, key: Callable[[str, Value], Value], item: Callable[[str, Value], Value]
    ) -> dict[Any, Any]:
        """A map with both sides converted; :data:`NULL_MAP` if absent or null."""
        value = self._fields.get(name)
        if value is None:
            return NULL_MAP
        if type(value) is not dict:
            self._bad(name, "a map")
        return {key(name, k): item(name, v) for k, v in value.items()}

    def raw(self, name: str) -> Value:
        """The decoded item itself, None if absent."""
        return self._fields.get(name)


def names(fields: Iterable[str]) -> Mapping[str, str]:
    """The *names* argument of :class:`Fields`: lower-case spelling to the exact one."""
    return {name.lower(): name for name in fields}


def free_form(_name: str, value: Value) -> Value:
    """A free-form value as it is (spec: pki 5.4), for :meth:`Fields.mapping`."""
    return value


def texts(values: Sequence[str] | NullList) -> list[str] | None:
    """A list of texts for the encoder."""
    return None if is_null(values) else list(cast("Sequence[str]", values))
