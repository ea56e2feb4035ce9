"""Slices and joins of byte strings that may have megabytes, as a document of thousands of nodes has.

To copy one takes several milliseconds, most of them the kernel's, who hands out the memory. Python does that with the
interpreter lock held, in whatever thread; the native core lets go of it, so that the reactor goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from katzentwist.crypto.native import native

WORTH: Final = 1 << 18
"""Bytes; less is copied in a few microseconds."""


def cut(data: bytes, start: int, stop: int | None = None) -> bytes:
    """``data[start:stop]``, for numbers that are not negative."""
    end = len(data) if stop is None else stop
    if native is None or end - start < WORTH or type(data) is not bytes:
        return data[start:end]
    piece: bytes = native.cut_bytes(data, start, end)
    return piece


def join(parts: Sequence[bytes]) -> bytes:
    """All parts, one after the other."""
    if native is None or sum(map(len, parts)) < WORTH:
        return b"".join(parts)
    whole: bytes = native.join_bytes(list(parts))
    return whole
