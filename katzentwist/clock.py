"""Time: IClock, and the arithmetic of epochs (spec: pki 1)."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping

import attrs
from zope.interface import Interface, implementer

from katzentwist.errors import ConfigError

ORIGIN = 1496275200
"""Unix time of epoch 0: 2017-06-01T00:00:00Z."""
DEFAULT_PERIOD_NS = 20 * 60 * 10**9
ENVIRONMENT_KEY = "KATZENPOST_EPOCH_DURATION"

SECOND = 10**9
_UNITS = {
    "ns": 1,
    "us": 10**3,
    "\u00b5s": 10**3,
    "\u03bcs": 10**3,
    "ms": 10**6,
    "s": SECOND,
    "m": 60 * SECOND,
    "h": 3600 * SECOND,
}
_GROUP = re.compile("([0-9]+\\.?[0-9]*|\\.[0-9]+)(ns|us|\u00b5s|\u03bcs|ms|s|m|h)")
_LONGEST = 200
"""Characters of a duration; a longer one is a mistake, and Python refuses integers of thousands of digits anyhow."""


class IClock(Interface):
    """The two clocks of a daemon."""

    def monotonic() -> float:
        """Seconds of a clock that never steps; for delays and time-outs."""

    def wallclock() -> float:
        """Unix time in seconds; for epochs."""


MARK = 0.001
"""Seconds between two marks."""


def mark(at: float) -> float:
    """The first full millisecond of the monotonic clock that is not before *at*.

    What recurs or may wait a little happens at these marks, so that a busy daemon wakes up once for all of it.
    """
    return math.ceil(at / MARK - 1e-6) * MARK  # a float close to a mark is one


@implementer(IClock)
class SystemClock:
    """The clocks of the operating system."""

    def monotonic(self) -> float:
        """CLOCK_MONOTONIC in seconds."""
        return time.monotonic()

    def wallclock(self) -> float:
        """Unix time in seconds."""
        return time.time()


def parse_duration(text: str) -> int:
    """Nanoseconds of a duration such as ``2m`` or ``1h30m`` (spec: pki 1.1).

    Zero and negative durations are valid syntax; who needs a positive one says so itself.

    :raises ConfigError: the text is not a duration, or does not fit 64 bits.
    """
    body = text[1:] if text[:1] in ("+", "-") else text
    sign = -1 if text[:1] == "-" else 1
    if body == "0":
        return 0
    total, at = 0, 0
    while at < len(body) <= _LONGEST:
        match = _GROUP.match(body, at)
        if match is None:
            break
        number, unit = match.groups()
        whole, _, fraction = number.partition(".")
        scale = _UNITS[unit]
        total += int(whole or "0") * scale + (int(fraction) * scale // 10 ** len(fraction) if fraction else 0)
        at = match.end()
    if not body or at != len(body):
        raise ConfigError(f"{text[:_LONGEST]!r} is not a duration; write for example 20m, 90s or 1h30m")
    if total >= 2**63:
        raise ConfigError(f"{text!r} is too long for a duration")
    return sign * total


@attrs.frozen
class Epochs:
    """The epoch arithmetic of one network; times in Unix seconds, *period_ns* in nanoseconds.

    :raises ConfigError: the period is not positive, or a time lies before the origin.
    """

    period_ns: int = DEFAULT_PERIOD_NS

    def __attrs_post_init__(self) -> None:
        if self.period_ns <= 0:
            raise ConfigError(f"the epoch duration must be positive, not {self.period_ns} ns")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], configured: str = "") -> Epochs:
        """The environment wins over the configured text; with neither, 20 minutes (design D8)."""
        text = environment.get(ENVIRONMENT_KEY) or configured
        return cls(parse_duration(text)) if text else cls()

    @property
    def period(self) -> float:
        """P in seconds."""
        return self.period_ns / SECOND

    def split_ns(self, unix: float) -> tuple[int, int]:
        """(epoch number, nanoseconds elapsed in it) at this time; exact when *unix* is an integer."""
        since = round(unix * SECOND) - ORIGIN * SECOND
        if since < 0:
            raise ConfigError(f"the clock says {unix:.0f}, before the origin of epochs (2017-06-01); set the clock")
        return divmod(since, self.period_ns)

    def number(self, unix: float) -> int:
        """The epoch that contains this time."""
        return self.split_ns(unix)[0]

    def start(self, epoch: int) -> float:
        """Unix time at which *epoch* starts: the first float that :meth:`number` counts into it."""
        exact = ORIGIN * SECOND + epoch * self.period_ns
        start = exact / SECOND
        return start if round(start * SECOND) >= exact else math.nextafter(start, math.inf)

    def contains(self, epoch: int, unix: float) -> bool:
        """Whether this time is in *epoch*."""
        return self.number(unix) == epoch

    def now(self, unix: float) -> tuple[int, float, float]:
        """(number, seconds elapsed, seconds till the next epoch)."""
        epoch, elapsed = self.split_ns(unix)
        return epoch, elapsed / SECOND, (self.period_ns - elapsed) / SECOND

    def fraction(self, numerator: int, denominator: int) -> float:
        """``P * numerator / denominator`` in seconds, truncated to a nanosecond."""
        return self.period_ns * numerator // denominator / SECOND
