"""A database that is away: said once, then counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from katzentwist.logger import ModuleLogger

REMIND: Final = 60.0
"""Seconds between the lines about failures that go on."""


class Outage:
    """The failures of one database since it last worked.

    :param name: what the log calls it.
    """

    log = ModuleLogger("provider")

    def __init__(self, name: str, seconds: Callable[[], float]) -> None:
        self._name, self._seconds = name, seconds
        self._failures = 0
        self._said = 0.0

    def failed(self, why: Exception) -> None:
        """One operation failed."""
        self._failures += 1
        now = self._seconds()
        if self._failures == 1:
            self._said = now
            self.log.error("{name}: an operation failed, the work goes on without it: {why}", name=self._name, why=why)
        elif now - self._said >= REMIND:
            self._said = now
            self.log.error(
                "{name}: {count} operations failed so far: {why}", name=self._name, count=self._failures, why=why
            )

    def worked(self) -> None:
        """One operation did what it should."""
        if self._failures:
            self.log.warn("{name}: it works again after {count} failures", name=self._name, count=self._failures)
            self._failures = 0
