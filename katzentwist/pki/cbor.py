"""CBOR as the PKI uses it (spec: pki 2): canonical out, a bounded and slightly tolerant reader in.

What the reader takes beyond canonical input (spec: pki 2.2) is keys in any order, tags (dropped) and all that
:mod:`katzentwist.cbor` takes. What it refuses: duplicate keys, keys that are arrays or maps, too much of anything.

A structure is a map with text keys. In Go a missing or null field is the zero value; here it becomes an *empty* value
that remembers that it was null (:data:`NULL_BYTES`, :data:`NULL_MAP`, :data:`NULL_LIST`), so that a reader needs no
``None`` checks and the writer still gives back the very bytes that were read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NoReturn, cast

import cbor2

from katzentwist.cbor import Reader, Value
from katzentwist.crypto.copies import cut
from katzentwist.errors import PKIError

MAX_DEPTH: Final = 32
MAX_TOTAL: Final = 1 << 18
"""Items of one decoding altogether, at all depths. One map has fewer than 131072 pairs, then, as the spec asks."""
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
    return _Reader(data, most).whole()


class _Reader(Reader):
    """Keys are values that can be compared, and no key is there twice; tags are dropped."""

    __slots__ = ()

    ERROR = PKIError
    COMPLAINT = "impossible to decode"
    DEPTH = MAX_DEPTH
    ITEMS = MAX_TOTAL

    def mapping(self, keys: list[Value], values: list[Value]) -> dict[Value, Value]:
        try:
            pairs = dict(zip(keys, values, strict=True))
        except TypeError:
            self.refuse("a map key that is an array or a map")
        if len(pairs) != len(keys):
            self.refuse("a duplicate map key")
        return pairs

    def cut(self, data: bytes, start: int, stop: int) -> bytes:
        return cut(data, start, stop)


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
