"""The exponential tickers that pace all traffic of a client (spec: client 6.1). Sans-IO."""

from __future__ import annotations

import math
from typing import Final

import attrs

from katzentwist.randomness import IRandom

TAIL: Final = 27.6310211159
"""-ln(1e-12), with the digits of the page."""


@attrs.frozen
class Ticker:
    """Intervals of whole milliseconds: exponential of this mean, floored, and cut at :attr:`cap`.

    :ivar mean: in ms, at least 1.
    """

    mean: int

    @classmethod
    def from_rate(cls, rate: float) -> Ticker | None:
        """The ticker of a document's rate (events per ms); None if that rate switches it off."""
        if not rate > 0 or math.isinf(rate):
            return None
        mean = 1 / rate
        return cls(max(1, math.floor(mean))) if math.isfinite(mean) else None

    @property
    def cap(self) -> int:
        """The longest interval in ms."""
        return math.ceil(TAIL / (1 / self.mean))

    def interval(self, random: IRandom) -> float:
        """One interval in seconds."""
        return min(math.floor(random.exponential(1 / self.mean)), self.cap) / 1000
