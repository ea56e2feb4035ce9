"""IRandom: where keys, delays and choices come from.

Production code uses :class:`SystemRandom` alone. Tests use :class:`SeededRandom`, whose stream is fixed by its seed.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from typing import TypeVar

from zope.interface import Interface, implementer

T = TypeVar("T")


class IRandom(Interface):
    """A source of random bytes and of the draws that the protocol needs."""

    def bytes(n: int) -> bytes:
        """*n* uniform bytes."""

    def below(n: int) -> int:
        """A uniform integer in ``range(n)``; *n* is at least 1."""

    def uniform() -> float:
        """A uniform float in the half-open interval (0, 1], with 53 bits."""

    def exponential(rate: float) -> float:
        """A draw from the exponential distribution with this *rate* (mean ``1 / rate``)."""


class _Draws:
    """The draws, from nothing but :meth:`bytes`."""

    def bytes(self, n: int) -> bytes:
        raise NotImplementedError

    def below(self, n: int) -> int:
        """A uniform integer in ``range(n)``, by rejection, so without bias."""
        if n < 1:
            raise ValueError(f"below() needs a positive bound, not {n}")
        bits = (n - 1).bit_length()
        if bits == 0:
            return 0
        size = (bits + 7) // 8
        while True:
            value = int.from_bytes(self.bytes(size), "big") >> (8 * size - bits)
            if value < n:
                return value

    def uniform(self) -> float:
        """A uniform float in (0, 1]."""
        return ((int.from_bytes(self.bytes(7), "big") >> 3) + 1) * 2.0**-53

    def exponential(self, rate: float) -> float:
        """An exponential draw by inversion; finite, since uniform() is never 0."""
        if not rate > 0 or math.isinf(rate):
            raise ValueError(f"an exponential distribution needs a positive finite rate, not {rate}")
        return -math.log(self.uniform()) / rate

    def choice(self, items: Sequence[T]) -> T:
        """A uniform choice."""
        return items[self.below(len(items))]


@implementer(IRandom)
class SystemRandom(_Draws):
    """The operating system's generator."""

    def bytes(self, n: int) -> bytes:
        """*n* bytes from os.urandom."""
        return os.urandom(n)


@implementer(IRandom)
class SeededRandom(_Draws):
    """A reproducible stream for tests: SHAKE-256 blocks in counter mode."""

    def __init__(self, seed: int | str) -> None:
        self.seed = seed
        self._key = repr(seed).encode()
        self._counter = 0
        self._buffer = b""

    def bytes(self, n: int) -> bytes:
        """The next *n* bytes of the stream."""
        while len(self._buffer) < n:
            block = hashlib.shake_256(self._key + self._counter.to_bytes(8, "big")).digest(4096)
            self._buffer += block
            self._counter += 1
        out, self._buffer = self._buffer[:n], self._buffer[n:]
        return out
