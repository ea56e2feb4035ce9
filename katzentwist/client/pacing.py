"""Keeping below the rate limit of a gateway (spec: node 5.5). Sans-IO."""

from __future__ import annotations

import math
from typing import Final

import attrs

BURST: Final = 256
HEADROOM: Final = 1.1
MARGIN: Final = 1.02
"""Our tokens come a little later than the gateway's, so that a clock that runs differently loses no packet."""


@attrs.define
class Pacer:
    """The gateway's token bucket, as seen from the client: one token at the start of a session.

    :ivar interval: seconds per token; 0 means no limit.
    """

    interval: float = 0.0
    _tokens: int = 0
    _last: float = 0.0

    def connected(self, now: float) -> None:
        """A new session."""
        self._tokens, self._last = 1, now

    def use_rates(self, lambda_p: float, lambda_l: float) -> None:
        """The rates of the current document, in events per ms."""
        rate = lambda_p + lambda_l
        allowed = rate > 0 and math.isfinite(rate)
        self.interval = math.ceil(1e6 / (rate * HEADROOM)) / 1e9 * MARGIN if allowed else 0.0

    def wait(self, now: float) -> float:
        """Seconds until a packet may go; at 0 its token is taken."""
        if not self.interval:
            return 0.0
        earned = max(0, int((now - self._last) / self.interval))
        self._last += earned * self.interval
        self._tokens = min(self._tokens + earned, BURST)
        if self._tokens > 0:
            self._tokens -= 1
            return 0.0
        return max(0.0, self._last + self.interval - now)

    def overdrawn(self, now: float) -> None:
        """A packet went without a token of ours; it may have cost the gateway's next one."""
        self._last = max(self._last, now)
