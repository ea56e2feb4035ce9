"""The rate limit of clients: a token bucket per connection (spec: node 5.5, provider 8). Sans-IO."""

from __future__ import annotations

import math
from typing import Final

import attrs

BURST: Final = 256
COMMAND_BURST: Final = 4
"""The capacity after SEND_RATE until SEND_BURST says otherwise."""
HEADROOM: Final = 1.1
NANOSECOND: Final = 1e-9


@attrs.frozen
class RateLimit:
    """The limit that all connections share.

    :ivar interval_ns: nanoseconds per token; 0 means no limit.
    :ivar capacity: most tokens.
    """

    interval_ns: int = 0
    capacity: int = 0

    @classmethod
    def from_rates(cls, lambda_p: float, lambda_l: float) -> RateLimit:
        """What the document's rates (events per ms) allow a client."""
        rate = lambda_p + lambda_l
        if rate <= 0 or not math.isfinite(rate):
            return cls()
        return cls(math.ceil(1e6 / (rate * HEADROOM)), BURST)


@attrs.define
class TokenBucket:
    """One connection's tokens; times are monotonic seconds."""

    limit: RateLimit = RateLimit()
    _tokens: int = 0
    _last: float | None = None

    def set_limit(self, limit: RateLimit, now: float) -> None:
        """Use another limit. One that switches on starts with 1 token; a changed one keeps what fits."""
        if not limit.interval_ns:
            self._last = None
        elif self._last is None:
            self._last, self._tokens = now, 1
        else:
            self._tokens = min(self._tokens, limit.capacity)
        self.limit = limit

    def allow(self, now: float) -> bool:
        """Take a token for one packet; False if there is none."""
        if not self.limit.interval_ns:
            return True
        if self._last is None:
            self._last, self._tokens = now, 1
        interval = self.limit.interval_ns * NANOSECOND
        earned = int((now - self._last) / interval)
        if earned > 0:
            self._last += earned * interval
            self._tokens = min(self._tokens + earned, self.limit.capacity)
        if self._tokens <= 0:
            return False
        self._tokens -= 1
        return True


@attrs.define
class LimitSource:
    """Where the limit of a gateway comes from: the document, until a management command says otherwise.

    :ivar disabled: ``DisableRateLimit``: never a limit, whatever the commands say.
    """

    disabled: bool = False
    _document: RateLimit = RateLimit()
    _interval_ns: int | None = None
    _burst: int | None = None

    def use_document(self, lambda_p: float, lambda_l: float) -> None:
        """Take the rates of the current document."""
        self._document = RateLimit.from_rates(lambda_p, lambda_l)

    def send_rate(self, per_minute: int) -> None:
        """SEND_RATE: so many packets per minute; 0 switches the limit off."""
        self._interval_ns = 60_000 // per_minute * 1_000_000 if per_minute else 0

    def send_burst(self, packets: int) -> None:
        """SEND_BURST: so many packets at once; 0 switches the limit off."""
        self._burst = packets

    def current(self) -> RateLimit:
        """The limit that holds now."""
        if self.disabled or self._burst == 0:
            return RateLimit()
        if self._interval_ns is None:
            if self._burst is None or not self._document.interval_ns:
                return self._document
            return RateLimit(self._document.interval_ns, self._burst)
        if not self._interval_ns:
            return RateLimit()
        return RateLimit(self._interval_ns, COMMAND_BURST if self._burst is None else self._burst)
