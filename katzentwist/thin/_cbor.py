"""The CBOR of frames (spec: client 8): of duplicate keys the first counts, as in Go, and tags are dropped.

cbor2 would give meaning to tags and let the last duplicate win.
"""

from __future__ import annotations

from typing import Any, Final

from katzentwist.cbor import Reader, Value
from katzentwist.errors import WireError

MAX_DEPTH: Final = 16
MAX_ITEMS: Final = 1 << 16
"""Items of one frame: what can be read in some 50 ms. A frame of 40 MiB could hold as many empty items."""


class FrameError(WireError):
    """The other side of the local socket does not keep to the protocol: the connection ends."""


def decode(data: bytes) -> Any:
    """The one item in *data*.

    :raises FrameError: anything else.
    """
    return _Reader(data).whole()


class _Reader(Reader):
    """Keys are text, integers or bytes."""

    __slots__ = ()

    ERROR = FrameError
    COMPLAINT = "not a message"
    DEPTH = MAX_DEPTH
    ITEMS = MAX_ITEMS

    def mapping(self, keys: list[Value], values: list[Value]) -> dict[Value, Value]:
        pairs: dict[Value, Value] = {}
        for key, value in zip(keys, values, strict=True):
            if not isinstance(key, str | int | bytes):
                self.refuse("a key that is no text")
            pairs.setdefault(key, value)
        return pairs
