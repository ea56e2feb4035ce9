"""Tests on the reactor of the process, with real sockets."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase


class RealTimeCase(TestCase):
    """Waits for what comes when it comes."""

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for a condition; it fails after 5 s."""
        for _ in range(500):
            if condition():
                return
            await deferLater(reactor, 0.01)
        self.fail("it did not come")
