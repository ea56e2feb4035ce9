"""Requests and responses of the plugin protocol, in both shapes (spec: node 7.8 and 7.9).

==================== =========== ==================================================================
request              shape       value
==================== =========== ==================================================================
``RequestAt``        new         integer seconds since 1970, or null
``Delay``            new         integer nanoseconds
``ID``               both        unsigned 64-bit integer
``Payload``          both        byte string, or null
``SURB``             new         byte string, or null when the sender wants no reply
``HasSURB``          old         boolean
``ResponseSize``     old         most useful bytes of a response (v0.0.32 to v0.0.34)
``Is...Request``     new         ``IsParametersRequest``: true, or left out
==================== =========== ==================================================================

A response of the new shape has ``RequestAt``, ``Delay``, ``ID``, ``Payload``, ``SURB``, and may have
``IsParametersResponse`` and ``Params``; one of the old shape has ``Payload`` alone. Readers ignore unknown keys, take
names in any case, and null for zero.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

import attrs
import cbor2

from katzentwist.cbor import Value
from katzentwist.errors import PluginError
from katzentwist.plugins.framing import Pairs, Tagged, decode

_MAX_ID: Final = 2**64 - 1
_INT64: Final = range(-(2**63), 2**63)
_EPOCH_TAG, _TEXT_TAG = 1, 0


def _refuse(name: str) -> NoReturn:
    raise PluginError(f"not a message: {name} has the wrong type or range")


class Fields:
    """The fields of a message, by name in any case; the first of several wins."""

    def __init__(self, item: bytes) -> None:
        value = decode(item)
        if value is None:
            value = Pairs([])
        if not isinstance(value, Pairs):
            raise PluginError("not a message: not a map")
        self._members: dict[str, Value] = {}
        for key, member in value.pairs:
            if isinstance(key, str):
                self._members.setdefault(key.lower(), member)
            elif isinstance(key, bool) or not isinstance(key, int):
                raise PluginError("not a message: a key that is neither text nor an integer")

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._members

    def get(self, name: str) -> Value:
        """The value; None when it is not there."""
        return self._members.get(name.lower())

    def integer(self, name: str, allowed: range) -> int:
        """An integer; 0 for null."""
        value = self.get(name)
        if value is None:
            return 0
        if isinstance(value, bool) or not isinstance(value, int) or value not in allowed:
            _refuse(name)
        return value

    def blob(self, name: str) -> bytes | None:
        """A byte string, also given as an array of small integers."""
        value = self.get(name)
        if isinstance(value, list):
            if not all(type(v) is int and 0 <= v < 256 for v in value):
                _refuse(name)
            return bytes(value)
        if value is not None and not isinstance(value, bytes):
            _refuse(name)
        return value

    def flag(self, name: str) -> bool:
        """A boolean; False for null."""
        value = self.get(name)
        if value is not None and not isinstance(value, bool):
            _refuse(name)
        return bool(value)

    def moment(self, name: str) -> int | float | None:
        """A time in seconds: a number, RFC 3339 text, or either under its tag."""
        value = self.get(name)
        if isinstance(value, Tagged) and (value.tag, isinstance(value.value, str)) in (
            (_EPOCH_TAG, False),
            (_TEXT_TAG, True),
        ):
            value = value.value
        if isinstance(value, str):
            try:
                return datetime.datetime.fromisoformat(value).timestamp()
            except (ValueError, OverflowError):
                _refuse(name)
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            return value
        return _refuse(name)

    def params(self, name: str) -> dict[str, Any]:
        """A map of text to anything."""
        value = self.get(name)
        if value is None:
            return {}
        if not isinstance(value, Pairs):
            _refuse(name)
        return {key: plain(member) for key, member in value.pairs if isinstance(key, str)}


def plain(value: Value) -> Any:
    """A decoded value as ordinary Python objects."""
    if isinstance(value, Pairs):
        return {plain(k) if isinstance(k, str | int | bytes) else str(k): plain(v) for k, v in value.pairs}
    if isinstance(value, list):
        return [plain(v) for v in value]
    return plain(value.value) if isinstance(value, Tagged) else value


_dumps: Callable[[Any], bytes] = cbor2.dumps


@attrs.frozen(kw_only=True)
class PluginRequest:
    """What the node asks.

    :ivar has_surb: whether an answer reaches anybody.
    :ivar new_shape: whether the key SURB was there, so that silence is a legal answer.
    """

    id: int
    payload: bytes | None = attrs.field(repr=False)
    surb: bytes | None = attrs.field(default=None, repr=False)
    request_at: int | float | None = None
    delay: int = 0
    is_parameters_request: bool = False
    has_surb: bool = False
    new_shape: bool = True

    @classmethod
    def parse(cls, item: bytes) -> PluginRequest:
        """Read a request of either shape; one with both ``SURB`` and ``HasSURB`` counts as new.

        :raises PluginError: it is not one.
        """
        fields = Fields(item)
        surb = fields.blob("SURB")
        new = "SURB" in fields
        return cls(
            id=fields.integer("ID", range(_MAX_ID + 1)),
            payload=fields.blob("Payload"),
            surb=surb,
            request_at=fields.moment("RequestAt"),
            delay=fields.integer("Delay", _INT64),
            is_parameters_request=fields.flag("IsParametersRequest"),
            has_surb=bool(surb) if new else fields.flag("HasSURB"),
            new_shape=new,
        )

    def encode(self) -> bytes:
        """The new shape, byte for byte as v0.0.99 writes it."""
        return _dumps(self._new())

    def encode_old(self, response_size: int | None = None) -> bytes:
        """The old shape."""
        return _dumps(self._old({"ID": self.id, "Payload": self.payload}, response_size))

    def encode_both(self, response_size: int) -> bytes:
        """The superset that plugins of either shape understand."""
        return _dumps(self._old(self._new(), response_size))

    def _new(self) -> dict[str, Any]:
        out = _common(self)
        if self.is_parameters_request:
            out["IsParametersRequest"] = True
        return out

    def _old(self, out: dict[str, Any], response_size: int | None) -> dict[str, Any]:
        out["HasSURB"] = self.has_surb
        if response_size is not None:
            out["ResponseSize"] = response_size
        return out


@attrs.frozen(kw_only=True)
class PluginResponse:
    """What a plugin answers.

    :ivar new_shape: whether one of the keys ID and SURB was there.
    """

    payload: bytes | None = attrs.field(repr=False)
    id: int = 0
    surb: bytes | None = attrs.field(default=None, repr=False)
    request_at: int | float | None = None
    delay: int = 0
    is_parameters_response: bool = False
    params: Mapping[str, Any] = attrs.field(factory=dict)
    new_shape: bool = True

    @classmethod
    def parse(cls, item: bytes) -> PluginResponse:
        """Read a response of either shape.

        :raises PluginError: it is not one.
        """
        fields = Fields(item)
        return cls(
            payload=fields.blob("Payload"),
            id=fields.integer("ID", range(_MAX_ID + 1)),
            surb=fields.blob("SURB"),
            request_at=fields.moment("RequestAt"),
            delay=fields.integer("Delay", _INT64),
            is_parameters_response=fields.flag("IsParametersResponse"),
            params=fields.params("Params"),
            new_shape="ID" in fields or "SURB" in fields,
        )

    def encode(self) -> bytes:
        """The new shape; old nodes take the payload out of it."""
        out = _common(self)
        if self.is_parameters_response:
            out["IsParametersResponse"] = True
        if self.params:
            out["Params"] = dict(self.params)
        return _dumps(out)

    def encode_old(self) -> bytes:
        """The old shape."""
        return _dumps({"Payload": self.payload})


def _common(message: PluginRequest | PluginResponse) -> dict[str, Any]:
    """The keys of both messages of the new shape, in the order in which v0.0.99 writes them."""
    return {
        "RequestAt": message.request_at,
        "Delay": message.delay,
        "ID": message.id,
        "Payload": message.payload,
        "SURB": message.surb,
    }
